"""What a program must do to be compared: one or ten epochs at a time, from given weights."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fmnist_xp.backend import PRECISIONS, Backend
from fmnist_xp.data.pixels import HALF, Pixels, scale_pixels
from fmnist_xp.experiments import Experiment
from fmnist_xp.machine import usable_cores

LOSS_SCALE = 4096.0
"""Constant loss scale of the frameworks in float16.

The gradient of a mean over 60,000 rows is some 1e-5 a logit and smaller behind it, and float16 underflows at 6e-8;
gradients of weights overflow at 65504. This leaves a factor of thousands on both sides. A power of 2 rounds nothing.
"""
SCALED = f"the loss is scaled by {LOSS_SCALE:g}, which the update divides out"

LOG_EVERY = 10
"""Epochs from one with loss and accuracy to the next, as in training, of programs that do not always compute them."""


class NotHereError(Exception):
    """The program is not installed, or does not run on the device; the message says which."""


@dataclass(frozen=True)
class Task:
    """What every program starts from: the experiment, the weights, all rows, the device and the precision.

    `state` has the weights and biases as `Network.state_dict` names them, in the precision's dtype of parameters.
    `pixels` are the rows as bytes, which our engine takes as training does; the others take `rows()`, in the same
    order.
    """

    experiment: Experiment
    state: Mapping[str, NDArray[np.floating[Any]]]
    pixels: Pixels
    y: NDArray[np.uint8]
    backend: Backend
    precision: str = "float32"

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.backend.cuda_index is not None

    @property
    def device_index(self) -> int:
        """Number of the GPU; 0 on the CPU."""
        return self.backend.cuda_index or 0

    @property
    def half(self) -> bool:
        """Whether products are of float16 operands, with float32 parameters."""
        return self.precision == "float16"

    @property
    def loss_scale(self) -> float:
        """The factor on the loss before backward, divided out in the update: `LOSS_SCALE` for float16, else 1."""
        return LOSS_SCALE if self.half else 1.0

    @cached_property
    def X(self) -> NDArray[np.floating[Any]]:
        """The rows as numbers of the parameters' dtype, made once for all programs."""
        X = np.empty(self.pixels.shape, PRECISIONS[self.precision].parameters)
        scale_pixels(np, X, self.pixels.bytes(slice(None)), X.dtype.type(HALF))
        return X

    def rows(self) -> NDArray[np.floating[Any]]:
        """Return the rows in the dtype of a product's operands, in which the device holds them."""
        return self.X.astype(PRECISIONS[self.precision].operands, copy=False)

    def dense(self) -> list[tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]]:
        """Return (weights (inputs, neurons), biases (neurons,)) of each Dense layer."""
        count = len(self.state) // 2
        return [(self.state[f"dense{i}.weights"], self.state[f"dense{i}.biases"][0]) for i in range(1, count + 1)]


class Engine(ABC):
    """A program with the task's network in it.

    `name` is what tables call it, `note` how it differs from the others, `l2` whether it regularizes the
    first layer as the experiment says, `gpu` whether it runs on a GPU, `epochs_a_call` how many epochs `epoch` makes,
    and `column_share` the share of the rows' columns that it multiplies. The constructor raises `NotHereError` where
    the program cannot run.
    """

    name: ClassVar[str]
    note: str = ""
    l2: ClassVar[bool] = True
    gpu: ClassVar[bool] = True
    epochs_a_call: ClassVar[int] = 1
    column_share: float = 1.0

    @abstractmethod
    def __init__(self, task: Task) -> None:
        """Take the rows, the labels and the weights."""

    @abstractmethod
    def epoch(self) -> tuple[Any, Any]:
        """Train for `epochs_a_call` epochs, one update each.

        Returns (loss, accuracy) before the first of them, as the program has them, without waiting for them.
        """

    def synchronize(self) -> None:
        """Wait until the device has done all it was asked to do."""
        return

    def session(self) -> AbstractContextManager[Any]:
        """Return the context to run epochs in: here all usable cores for BLAS and OpenMP."""
        limits: AbstractContextManager[Any] = threadpool_limits(usable_cores())
        return limits


class Schedule:
    """The learning rate lr₀ / (1 + decay · t) and Adam's corrections, one update after the other."""

    beta_1 = 0.9
    beta_2 = 0.999
    epsilon = 1e-7

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._updates = 0

    def next(self) -> tuple[float, float, float]:
        """Return the learning rate and the corrections 1 − βᵗ⁺¹ of the coming update, and count it."""
        rate = self._experiment.learning_rate / (1 + self._experiment.decay * self._updates)
        self._updates += 1
        return rate, 1 - self.beta_1**self._updates, 1 - self.beta_2**self._updates


def imported(name: str, package: str) -> ModuleType:
    """Return the module `name`; raise `NotHereError` where `package` is not installed or does not load."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise NotHereError(f"{package} is not installed") from error
    except (ImportError, RuntimeError, OSError) as error:
        raise NotHereError(f"{package} does not load: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its name."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
