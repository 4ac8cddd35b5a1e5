"""The model people use: a network that trains, predicts, saves and loads itself."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmnist_xp import nn
from fmnist_xp.backend import PRECISIONS, Array, Backend, get_backend
from fmnist_xp.errors import RunError
from fmnist_xp.optim import SGD, Optimizer
from fmnist_xp.train.checkpoint import load_model, save_model
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.history import History
from fmnist_xp.train.progress import ProgressDisplay
from fmnist_xp.train.trainer import Callback, train


@dataclass(frozen=True)
class Metrics:
    """Accuracy (0 to 1) and mean data loss over a data set."""

    accuracy: float
    loss: float


class Sequential(nn.Network):
    """A network with the methods to use it whole; see `Network` for the parameters.

    Data goes in and out as NumPy arrays, whatever the backend; arrays of the backend are taken as they are.
    `X` is (n, n_inputs), `y` class indices (n,) or one-hot rows (n, classes).
    """

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        epochs: int,
        optimizer: Optimizer | None = None,
        log_every: int = 10,
        callbacks: Iterable[Callback | Callable[[History], None]] = (),
        verbose: bool = True,
        block_rows: int | None = None,
    ) -> History:
        """Train full batch: every epoch is one update from the gradient over all rows.

        Parameters
        ----------
        epochs
            Number of updates.
        optimizer
            By default `SGD()`. An optimizer used before goes on with its moments and its learning rate.
        log_every
            Log epochs 0, log_every, 2·log_every, …
        callbacks
            Called with the history after each logged epoch: functions, or objects with `on_epoch(history)`.
        verbose
            Print a line for each logged epoch, and on a terminal a progress bar.
        block_rows
            Rows worked on at once by a thread; the result does not depend on it but for rounding.

        Returns the `History`. Ctrl-C ends training after the epoch under way and keeps what was learned.
        Raises `ValueError` for data that does not fit, `DeviceError` where memory runs out.
        """
        for name, value, least in (("epochs", epochs, 0), ("log_every", log_every, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        display = ProgressDisplay(epochs) if verbose else None
        with self._prepared(X) as inputs, display or nullcontext():
            return train(
                self,
                inputs,
                self._labels(y, len(inputs)),
                epochs=epochs,
                optimizer=optimizer or SGD(),
                log_every=log_every,
                callbacks=[*([display] if display else []), *callbacks],
                block_rows=block_rows,
            )

    def evaluate(self, X: Any, y: Any) -> Metrics:
        """Return accuracy and data loss on `X` and `y`."""
        with self._prepared(X) as inputs:
            batch = FullBatch(self, inputs, self._labels(y, len(inputs)))
            loss, accuracy = self.backend.to_host(batch.compute_figures()).tolist()
        return Metrics(accuracy=accuracy, loss=loss)

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return the class probabilities of `X` as a NumPy array (n, classes)."""
        with self._prepared(X) as inputs:
            return self.backend.to_host(FullBatch(self, inputs).compute_probabilities())

    def predict(self, X: Any) -> NDArray[np.integer[Any]]:
        """Return the class of the highest probability for each row of `X`, as a NumPy array (n,)."""
        classes: NDArray[np.integer[Any]] = self.predict_proba(X).argmax(axis=1)
        return classes

    def save(self, path: str | Path) -> None:
        """Write weights, biases and architecture to `path`, a safetensors file."""
        architecture = {
            "layers": [{"type": type(layer).__name__, **layer.config()} for layer in self.layers],
            "loss": type(self.loss).__name__,
            "dtype": self.dtype,
        }
        save_model(Path(path), self.state_dict(), architecture)

    @classmethod
    def load(cls, path: str | Path, backend: Backend | str = "cpu") -> Self:
        """Return the network that `save` wrote, on `backend`; in float32 where that lacks tf32 or float16.

        Raises `RunError` where the file is missing, damaged, or not a model of this package.
        """
        state, architecture = load_model(Path(path))
        kinds = {kind.__name__: kind for kind in (nn.Dense, nn.ReLU, nn.Softmax)}
        losses = {loss.__name__: loss for loss in (nn.CategoricalCrossentropy, nn.SoftmaxCategoricalCrossentropy)}
        try:
            layers = [
                kinds[config["type"]](**{key: value for key, value in config.items() if key != "type"})
                for config in architecture["layers"]
            ]
            loss = losses[architecture["loss"]]()
            backend, dtype = get_backend(backend), architecture["dtype"]
            if dtype not in backend.precisions:  # trained in a precision of GPUs, which has float32 parameters
                dtype = PRECISIONS[dtype].parameters
            network = cls(layers, loss=loss, backend=backend, dtype=dtype)
            network.load_state_dict(state)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"the architecture and the weights in {path} do not fit each other: {error}") from error
        return network

    @contextmanager
    def _prepared(self, X: Any) -> Iterator[Array]:
        """Compute, with `X` on the backend in the dtype of the products, and in the scale of the first layer."""
        with self.backend.computing():
            inputs = self._inputs(X)
            if self.precision.operands == "float16":
                inputs, self.dense[0].input_scale = self._halves(inputs)
            try:
                yield inputs
            finally:
                self.dense[0].input_scale = 1.0

    def _inputs(self, X: Any) -> Array:
        """Return `X` on the backend, in the dtype of the parameters."""
        shape = np.shape(X)
        if len(shape) != 2 or shape[1] != self.n_inputs or shape[0] == 0:
            raise ValueError(f"X must have the shape (n, {self.n_inputs}) with n ≥ 1, got {shape}")
        xp = self.backend.xp
        with np.errstate(over="ignore"):  # what overflows is refused in the next line
            inputs = self.backend.asarray(X, dtype=self.parameters.dtype)
        # NaN and infinity show in the bounds; two numbers leave the device, and no mask of all rows is made.
        if not np.isfinite([float(xp.min(inputs)), float(xp.max(inputs))]).all():
            raise ValueError(f"X has values that are not finite in {inputs.dtype} (NaN or infinity)")
        return inputs

    def _halves(self, inputs: Array) -> tuple[Array, float]:
        """Return `inputs` in half precision and their scale: exactly, where they are pixels scaled to [−1, 1].

        (pixel − 127.5) / 127.5 is (2·pixel − 255) / 255: the odd integer is exact in 11 bits, and the first
        layer's product takes the factor up.
        """
        xp = self.backend.xp
        integers = xp.rint(inputs * 255)
        pixels = float(xp.max(xp.abs(inputs * 255 - integers))) < 1e-3 and float(xp.max(xp.abs(integers))) <= 2048
        if pixels:
            return integers.astype("float16"), 1 / 255
        if (largest := float(xp.max(xp.abs(inputs)))) > 65504:
            raise ValueError(f"X has values up to {largest:g}, and float16 ends at 65504: scale X, or use float32")
        return inputs.astype("float16"), 1.0

    def _labels(self, y: Any, rows: int) -> Array:
        """Return `y` as class indices on the backend, checked on the host."""
        labels = _class_indices(self.backend.to_host(y), self.n_classes)
        if len(labels) != rows:
            raise ValueError(f"X has {rows} rows, but y has {len(labels)}")
        return self.backend.asarray(labels)


def load(path: str | Path, *, backend: Backend | str = "cpu") -> Sequential:
    """Return the network saved at `path`, on `backend`; see `Sequential.load`."""
    return Sequential.load(path, backend)


def _class_indices(y: ArrayLike, classes: int) -> NDArray[np.integer[Any]]:
    """Return `y` (n,) or one-hot (n, classes) as class indices (n,); raise `ValueError` where it is neither."""
    labels = np.asarray(y)
    if labels.ndim == 2:
        if labels.shape[1] != classes or not ((labels == 0) | (labels == 1)).all() or (labels.sum(axis=1) != 1).any():
            raise ValueError(f"y of two dimensions must be one-hot rows (n, {classes}), got the shape {labels.shape}")
        labels = labels.argmax(axis=1)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"y must be class indices (n,) of an integer dtype or one-hot rows (n, {classes}), "
            f"got the shape {labels.shape} of dtype {labels.dtype}"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"y must be from 0 to {classes - 1}, got {labels.min()} to {labels.max()}")
    return labels
