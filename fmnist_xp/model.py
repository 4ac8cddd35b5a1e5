"""The model people use: a network that trains, predicts, saves and loads itself."""

import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp import nn
from fmnist_xp.arguments import whole_number
from fmnist_xp.backend import PRECISIONS, Array, Backend, get_backend
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.errors import RunError
from fmnist_xp.nn.module import Module
from fmnist_xp.optim import Optimizer, make_optimizer
from fmnist_xp.train.architecture import build, describe
from fmnist_xp.train.checkpoint import load_model, save_model
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.history import History
from fmnist_xp.train.progress import ProgressDisplay
from fmnist_xp.train.trainer import Callback, train

logger = logging.getLogger("fmnist_xp")

OneCallback: TypeAlias = Callback | Callable[[History], None]
Callbacks: TypeAlias = OneCallback | Iterable[OneCallback]

UNSCALED = 100
"""Inputs of this size are more likely pixels that nobody has scaled than anything that a network learns from."""


@dataclass(frozen=True)
class Metrics:
    """Accuracy (0 to 1) and mean data loss over a data set."""

    accuracy: float
    loss: float


class Sequential(nn.Network):
    """A network with the methods to use it whole; see `Network` for the parameters.

    Data goes in and out as NumPy arrays, whatever the backend; arrays of the backend are taken as they are.
    `X` is numbers (n, n_inputs), or pixels as `preprocess` takes them: `Pixels`, or bytes (uint8) of the shape
    (n, n_inputs) or of images, (n, 28, 28). Bytes are always pixels, 0 to 255; numbers of another kind are floats.
    `y` is class indices (n,) or (n, 1), or one-hot rows (n, classes).
    """

    _told_unscaled = False

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int,
        optimizer: Optimizer | type[Optimizer] | str | None = None,
        log_every: int = 10,
        callbacks: Callbacks = (),
        verbose: bool = True,
        block_rows: int | None = None,
        dense: bool | None = None,
    ) -> History:
        """Train full batch: every epoch is one update from the gradient over all rows.

        Parameters
        ----------
        epochs
            Number of updates.
        optimizer
            An optimizer, its class, or its name ("sgd", "adam") for one with its own defaults; by default `SGD()`.
            An optimizer used before goes on with its moments and its learning rate.
        log_every
            Log epochs 0, log_every, 2·log_every, …
        callbacks
            Called with the history after each logged epoch: functions, or objects with `on_epoch(history)`, or one
            of these alone.
        verbose
            Print a line for each logged epoch, and on a terminal a progress bar.
        block_rows
            Rows worked on at once by a thread; the result does not depend on it but for rounding.
        dense
            Whether the first layer's products take every column of every row. By default a CPU leaves out columns
            that are background in a whole block of rows, and sorts the rows so that these are many: the same result
            but for rounding, sooner. A GPU leaves out nothing unless this is False.

        Returns the `History`. Ctrl-C ends training after the epoch under way and keeps what was learned.
        Raises `ValueError` for data or arguments that do not fit, `DeviceError` where memory runs out.
        """
        epochs, log_every = whole_number("epochs", epochs, 0), whole_number("log_every", log_every, 1)
        chosen, called = make_optimizer(optimizer), _callbacks(callbacks)
        display = ProgressDisplay(epochs) if verbose else None
        with self.backend.computing(), display or nullcontext():
            inputs = self._inputs(X)
            return train(
                self,
                inputs,
                self._labels(y, len(inputs)),
                epochs=epochs,
                optimizer=chosen,
                log_every=log_every,
                callbacks=[*([display] if display else []), *called],
                block_rows=block_rows,
                dense=dense,
            )

    def evaluate(self, X: Any, y: Any) -> Metrics:
        """Return accuracy and data loss on `X` and `y`."""
        with self.backend.computing():
            inputs = self._inputs(X)
            batch = FullBatch(self, inputs, self._labels(y, len(inputs)), dense=True)
            loss, accuracy, _penalty = self.backend.to_host(batch.compute_metrics()).tolist()
        return Metrics(accuracy=accuracy, loss=loss)

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the class probabilities of `X` as a NumPy array (n, classes)."""
        with self.backend.computing():
            return self.backend.to_host(FullBatch(self, self._inputs(X)).compute_probabilities())

    def predict(self, X: Any) -> NDArray[np.integer[Any]]:
        """Return the class of the highest probability for each row of `X`, as a NumPy array (n,).

        Raises `RunError` where probabilities are not finite: none is the highest.
        """
        probabilities = self.predict_proba(X)
        if lacking := int((~np.isfinite(probabilities).all(axis=1)).sum()):
            raise RunError(
                f"the network gives {lacking} of {len(probabilities)} rows probabilities that are not finite: its "
                "training has diverged; train it again with a lower learning rate"
            )
        classes: NDArray[np.integer[Any]] = probabilities.argmax(axis=1)
        return classes

    def save(self, path: str | Path) -> None:
        """Write weights, biases and architecture to `path`, a safetensors file with a checksum.

        Of a user's own layer or loss the name of the class is kept and what its `config()` returns, the arguments of
        its constructor; `load` is told the class. Raises `ValueError`, naming the layer and the cure, where `load`
        could not make the network again, and `OSError` where the file cannot be written.
        """
        save_model(Path(path), self.state_dict(), describe(self))

    @classmethod
    def load(
        cls,
        path: str | Path,
        backend: Backend | str = "cpu",
        custom_objects: Iterable[type[Module]] | type[Module] = (),
    ) -> Self:
        """Return the network that `save` wrote, on `backend`; in float32 where that lacks tf32 or float16.

        `custom_objects` are the user's own classes of layers and losses that it may have: `[Scale, Focal]`, or one.
        Raises `RunError` where the file is missing, damaged, or not a model of this package; `TypeError` where
        `custom_objects` are no such classes.
        """
        backend = get_backend(backend)
        state, architecture = load_model(Path(path))
        try:
            shapes = {name: values.shape for name, values in state.items()}
            layers, loss, dtype = build(architecture, shapes, custom_objects)
            parameters = PRECISIONS[dtype].parameters
            if other := [name for name, values in state.items() if values.dtype != parameters]:
                raise ValueError(f"{other[0]} is {state[other[0]].dtype}, not {parameters}")
            if dtype not in backend.precisions:  # trained in a precision of GPUs, which has float32 parameters
                dtype = parameters
            network = cls(layers, loss=loss, backend=backend, dtype=dtype)
            network.load_state_dict(state)
        except ValueError as error:
            raise RunError(f"the architecture and the weights in {path} do not fit each other: {error}") from error
        return network

    def _inputs(self, X: Any) -> Pixels | Array:
        """Return `X` as `Pixels` where it is bytes, else on the backend in the dtype of the parameters."""
        if getattr(X, "dtype", None) == np.uint8 and len(np.shape(X)) >= 2:
            X = Pixels(self.backend.to_host(X))
        shape = np.shape(X)
        if len(shape) != 2 or shape[1] != self.n_inputs or shape[0] == 0:
            raise ValueError(f"X must have the shape (n, {self.n_inputs}) with n ≥ 1, got {shape}")
        if isinstance(X, Pixels):
            return X
        xp = self.backend.xp
        with np.errstate(over="ignore"):  # what overflows is refused in the next line
            inputs = self.backend.numbers(X, "X", self.parameters.dtype)
        # NaN and infinity show in the bounds; two numbers leave the device, and no mask of all rows is made.
        low, high = float(xp.min(inputs)), float(xp.max(inputs))
        if not np.isfinite([low, high]).all():
            raise ValueError(f"X has values that are not finite in {inputs.dtype} (NaN or infinity)")
        if max(-low, high) >= UNSCALED and not self._told_unscaled:
            self._told_unscaled = True
            logger.warning(
                "X has values from %g to %g: networks learn from values of about -1 to 1; scale pixels as preprocess "
                "does, (X - 127.5) / 127.5",
                low,
                high,
            )
        return inputs

    def _labels(self, y: Any, rows: int) -> Array:
        """Return `y` as class indices on the backend, checked on the host."""
        labels = nn.class_indices(self.backend.to_host(y), self.n_classes, "y")
        if len(labels) != rows:
            raise ValueError(f"X has {rows} rows, but y has {len(labels)}")
        return self.backend.asarray(labels)


load = Sequential.load


def _callbacks(callbacks: Callbacks) -> list[OneCallback]:
    """Return `callbacks`, or the only one, as a list; raise `ValueError` for what cannot be called."""
    alone = callable(callbacks) or hasattr(callbacks, "on_epoch") or not isinstance(callbacks, Iterable)
    called: list[Any] = [callbacks] if alone else list(callbacks)  # type: ignore[arg-type]
    for callback in called:
        if isinstance(callback, type) or not (callable(callback) or hasattr(callback, "on_epoch")):
            raise ValueError(
                f"callbacks must be functions of the history, or objects with on_epoch(history), got {callback!r}"
            )
    return called
