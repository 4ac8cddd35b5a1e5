"""Kinds of operations: how a device computes each, and the bound on its error."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp import nn
from fmnist_xp.backend import Array, Backend, default_backend
from fmnist_xp.nn.draws import Draws, seed_of
from fmnist_xp.nn.target_losses import TargetLoss
from fmnist_xp.optim import Optimizer
from fmnist_xp.parity.bounds import Bounded, Floats
from fmnist_xp.parity.tolerances import Roundoff
from fmnist_xp.train.augmentation import Augmentation, Changes


@dataclass(frozen=True, eq=False)
class Operation(ABC):
    """One operation on one set of inputs."""

    name: str
    case: str

    def __str__(self) -> str:
        """Return the name and the case."""
        return f"{self.name}, {self.case}"

    @abstractmethod
    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Return the tensors, by name, as `backend` computes them in `precision`."""

    @abstractmethod
    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return the exact tensors, by the same names, with the bounds on their errors."""


@dataclass(frozen=True, eq=False)
class LayerPass(Operation):
    """Forward and backward of one layer, made with `arguments`, and its penalties where it has parameters.

    It computes in the dtype of activations, or where `wide` in that of the parameters, as a network's last layer.
    Inputs of integers are given as they are.
    """

    kind: type[nn.Layer]
    inputs: NDArray[Any]
    parameters: Mapping[str, Floats]
    dvalues: Floats
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wide: bool = False
    strided: bool = False

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute with a layer of its own."""

        def given(values: NDArray[Any], dtype: Any) -> Array:
            return _strided(backend, values, dtype) if self.strided else backend.asarray(values, dtype)

        layer = self.kind(**self.arguments, **({"dtype": precision} if self.parameters else {}), backend=backend)
        layer.training = True
        for name, values in self.parameters.items():
            setattr(layer, name, values)
        held = backend.precision(precision)
        dtype = held.parameters if self.wide else held.operands
        output = layer.forward(given(self.inputs, dtype if self.inputs.dtype.kind == "f" else None))
        tensors = {"output": output, "dinputs": layer.backward(given(self.dvalues, output.dtype))}
        tensors |= {f"d{name}": getattr(layer, f"d{name}") for name in self.parameters}
        return {**tensors, "penalty": layer.regularization_loss()} if self.parameters else tensors

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return what the layer has written out."""
        layer = self.kind(**self.arguments)
        layer.training = True
        parameters = {name: Bounded.exact(values, roundoff) for name, values in self.parameters.items()}
        output, backward = layer.bound_pass(Bounded.exact(self.inputs, roundoff), parameters)
        dinputs, gradients = backward(Bounded.exact(self.dvalues, roundoff))
        penalties = layer.bound_penalties(parameters)
        tensors = {"output": output, "dinputs": dinputs}
        tensors |= {f"d{name}": gradient + penalties[name][1] for name, gradient in gradients.items()}
        totals = [total for total, _gradient in penalties.values()]
        return {**tensors, "penalty": reduce(add, totals)} if self.parameters else tensors


@dataclass(frozen=True, eq=False)
class LossPass(Operation):
    """A loss, made with `arguments`, of the output of a network, forward and backward in the parameters' dtype."""

    kind: type[nn.Loss]
    inputs: Floats
    labels: NDArray[Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute with a loss of its own."""
        loss, labels = self.kind(backend, **self.arguments), backend.asarray(self.labels)
        output = loss.activate(backend.asarray(self.inputs, backend.precision(precision).parameters))
        losses, mean = loss.sample_losses(output, labels), loss.calculate(output, labels)
        return self._named(losses, mean, output, loss.backward(output, labels))

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return what the loss has written out."""
        one_hot = self.labels.ndim == 2 and not issubclass(self.kind, TargetLoss)
        labels = self.labels.argmax(axis=1) if one_hot else self.labels
        loss, inputs = self.kind(**self.arguments), Bounded.exact(self.inputs, roundoff)
        output, losses, dinputs = loss.bound_pass(inputs, labels, len(labels))
        return self._named(losses, losses.sum() / len(labels), output, dinputs)

    def _named(self, losses: Any, mean: Any, output: Any, dinputs: Any) -> dict[str, Any]:
        if self.kind.activate is not nn.Loss.activate:
            return {"loss": mean, "output": output, "dinputs": dinputs}
        return {"sample losses": losses, "loss": mean, "dinputs": dinputs}


@dataclass(frozen=True, eq=False)
class OptimizerPass(Operation):
    """Several updates of one vector: the parameters, and what the moments do to them; the average where there is one.

    The loss, for an optimizer that needs it, falls by 1 with each.
    """

    kind: type[Optimizer]
    arguments: Mapping[str, Any]
    start: Floats
    gradients: tuple[Floats, ...]

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute on the parameters of a Dense layer."""
        layer = nn.Dense(len(self.start) - 1, 1, dtype=precision, backend=backend)
        layer.parameters[...] = backend.asarray(self.start)
        optimizer = self.kind(**self.arguments)
        tensors = {}
        for number, gradients in enumerate(self.gradients, start=1):
            layer.gradients[...] = backend.asarray(gradients)
            optimizer.step(layer, -float(number))
            tensors[f"after update {number}"] = layer.parameters.copy()
        return tensors if optimizer.ema is None else {**tensors, "average": optimizer.result(layer)}

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return what the optimizer has written out."""
        start, *gradients = (Bounded.exact(array, roundoff) for array in (self.start, *self.gradients))
        optimizer = self.kind(**self.arguments)
        updates = list(optimizer.bound_updates(start, gradients))
        tensors = {f"after update {number}": parameters for number, parameters in enumerate(updates, start=1)}
        return tensors if optimizer.ema is None else {**tensors, "average": optimizer.bound_average(start, updates)}


@dataclass(frozen=True, eq=False)
class ChangedImages(Operation):
    """Images mirrored and shifted as they are in the given epoch, in the dtype of the parameters."""

    images: Floats
    augmentation: Augmentation
    epoch: int

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute as a worker does."""
        rows, columns = self.images.shape
        draws = Draws(backend.xp.arange(rows, dtype="uint32"), backend.xp.full(1, self.epoch, "uint32"))
        values = backend.asarray(self.images, backend.precision(precision).parameters)
        return {"images": Changes(self.augmentation, backend, columns)(values, draws)}

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Draw with Python's integers, and cut each image out of a larger one."""
        shift, side = self.augmentation.shift, math.isqrt(self.images.shape[1])
        steps = [step for step in sorted(range(-shift, shift + 1), key=abs) for _ in range(shift + 1 - abs(step))]
        ways = [
            (down, right, step)
            for step in (1, -1)[: 1 + self.augmentation.mirror]
            for down in steps
            for right in steps
        ]
        seed = int(seed_of(default_backend(), "augmentation", self.augmentation.seed))
        changed = np.empty_like(self.images)
        for number, row in enumerate(self.images):
            drawn = _murmur(number ^ _murmur(self.epoch ^ seed))
            down, right, step = ways[(drawn >> 16) * len(ways) >> 16]
            wide = np.pad(row.reshape(side, side), shift, mode="edge")
            cut = wide[shift - down :][:side, shift - right :][:, :side]
            changed[number] = cut[:, ::step].reshape(-1)
        return {"images": Bounded.exact(changed, roundoff)}


def _murmur(bits: int) -> int:
    """Return the finalizer of MurmurHash3 of 32 bits."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = (bits ^ bits >> shift) * factor % 2**32
    return bits ^ bits >> 16


def _strided(backend: Backend, values: Floats, dtype: str) -> Array:
    """Return `values` on the device as every second column of a wider array."""
    wide = backend.xp.zeros((len(values), 2 * values.shape[1]), dtype=dtype)
    wide[:, ::2] = backend.asarray(values)
    return wide[:, ::2]
