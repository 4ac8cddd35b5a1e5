"""Losses: categorical cross-entropy, alone and joined with softmax.

Labels are class indices (rows,) of any integer dtype, or one-hot rows (rows, classes). `ValueError` where they are
neither, or out of range.
"""

from typing import Any, Self

from fmnist_xp.backend import Array, Backend
from fmnist_xp.nn.activations import Softmax
from fmnist_xp.nn.labels import class_indices, index_dtype
from fmnist_xp.nn.layers import Layer
from fmnist_xp.nn.module import Module

# Predictions are clipped to [CLIP, 1 − CLIP] before the logarithm, so that no sample's loss is infinite.
CLIP = 1e-7


def crossentropy(xp: Any, predictions: Array, clip: float, losses: Array) -> None:
    """Write −log of `predictions`, clipped to [clip, 1 − clip], to `losses`."""
    xp.negative(xp.log(xp.minimum(xp.maximum(predictions, clip), 1 - clip)), out=losses)


def crossentropy_gradient(
    xp: Any, predictions: Array, classes: Array, labels: Array, clip: float, weight: float, dinputs: Array
) -> None:
    """Write −y/ŷ · weight to `dinputs`; ŷ is held above `clip`, as in the loss."""
    xp.divide((classes == labels) * -weight, xp.maximum(predictions, clip), out=dinputs)


def softmax_crossentropy_gradient(
    xp: Any, probabilities: Array, classes: Array, labels: Array, dinputs: Array
) -> None:
    """Write ŷ − y, the gradient of the samples' summed loss, to `dinputs`."""
    xp.subtract(probabilities, classes == labels, out=dinputs)


def scale_values(xp: Any, values: Array, factor: float) -> None:
    """Multiply `values` by `factor`, in place."""
    xp.multiply(values, factor, out=values)


class CategoricalCrossentropy(Module):
    """−log of the probability given to the true class, averaged over the samples.

    `predictions` are probabilities (rows, classes). Goodfellow, Bengio & Courville, *Deep Learning* (2016), 6.2.2.
    """

    replayable = True
    dinputs: Array

    def __init__(self, backend: Backend | None = None) -> None:
        """Compute on `backend`."""
        super().__init__(backend)
        self.gradient_dtype: Any = None  # of dinputs; None for that of the predictions
        self.checks_labels = True
        self._class_rows: dict[tuple[int, Any], Array] = {}

    def bind(self, backend: Backend, network: Any = None) -> None:
        """Compute on `backend` from now on, as a part of `network` if one is given."""
        super().bind(backend, network)
        self._class_rows = {}

    def replica(self, backend: Backend | None = None) -> Self:
        """Return a copy for the engine, whose labels are class indices in range: nothing is read on the host."""
        twin = super().replica(backend)
        twin.checks_labels = False
        return twin

    def activate(self, outputs: Array) -> Array:
        """Return the class probabilities, given the output of a network's last layer: here the output itself."""
        return outputs

    def true_probabilities(self, predictions: Array, labels: Array, out: Array | None = None) -> Array:
        """Return the probability given to the true class of each sample, (rows,), in `out` if given."""
        predictions, labels = self._checked(predictions, labels)
        rows, classes = predictions.shape
        xp = self.backend.xp

        def row_starts(shape: tuple[int], dtype: str) -> Array:
            return xp.arange(0, shape[0] * classes, classes, dtype=dtype)

        starts = self._buffer(f"starts of {classes}", (rows,), "int64", row_starts)
        places = xp.add(starts, labels, out=self._buffer("places", (rows,), "int64"))
        return xp.take(predictions.reshape(-1), places, out=out)

    def losses(self, true_probabilities: Array, out: Array | None = None) -> Array:
        """Return the loss of each sample, (rows,), from what `true_probabilities` gave; in `out` if given."""
        losses = self.backend.xp.empty_like(true_probabilities) if out is None else out
        self.backend.fuse(crossentropy)(true_probabilities, CLIP, losses)
        return losses

    def sample_losses(self, predictions: Array, labels: Array) -> Array:
        """Return the loss of each sample, (rows,)."""
        return self.losses(self.true_probabilities(predictions, labels))

    def forward(self, predictions: Array, labels: Array) -> Array:
        """Return the loss of each sample, (rows,)."""
        return self.sample_losses(predictions, labels)

    def calculate(self, predictions: Array, labels: Array) -> Array:
        """Return the data loss, the mean over the samples, as a scalar that stays on the device."""
        return self.backend.xp.mean(self.sample_losses(predictions, labels))

    def regularization_loss(self, *layers: Layer) -> Array:
        """Return the sum of the regularization losses of `layers`, as a scalar that stays on the device."""
        return sum((layer.regularization_loss() for layer in layers), start=0.0)

    def backward(self, dvalues: Array, labels: Array, samples: int | None = None) -> Array:
        """Set and return `dinputs` (rows, classes) = −y/ŷ / samples, given ŷ as `dvalues`.

        `samples` is the number that the mean is over; by default the rows given.
        """
        predictions, labels = self._checked(dvalues, labels)
        self.dinputs = self._buffer("dinputs", predictions.shape, self.gradient_dtype or predictions.dtype)
        weight = 1 / (samples or len(labels))
        self.backend.fuse(crossentropy_gradient)(
            predictions, self._classes(predictions, labels), labels[:, None], CLIP, weight, self.dinputs
        )
        return self.dinputs

    def _classes(self, predictions: Array, labels: Array) -> Array:
        """Return the class indices as a row (1, classes) of the labels' dtype, or one that holds them; made once."""
        key = classes, dtype = predictions.shape[1], labels.dtype
        if key not in self._class_rows:
            xp = self.backend.xp
            # The dtype that came with the data may not hold them: class 256 would be 0 in uint8.
            wide = xp.promote_types(dtype, index_dtype(classes))
            self._class_rows[key] = xp.arange(classes, dtype=wide)[None, :]
        return self._class_rows[key]

    def _checked(self, predictions: Array, labels: Array) -> tuple[Array, Array]:
        """Return both where they belong, the labels as class indices."""
        predictions = self.backend.check(predictions, "predictions")
        labels = self.backend.check(labels, "labels")
        if predictions.ndim != 2 or labels.shape not in (
            predictions.shape,
            predictions.shape[:1],
            (len(predictions), 1),
        ):
            raise ValueError(
                f"labels must be (rows,) or (rows, classes) for predictions (rows, classes), "
                f"got labels {labels.shape} for predictions {predictions.shape}"
            )
        if self.checks_labels:
            labels = class_indices(labels, predictions.shape[1])
        return predictions, labels


class SoftmaxCategoricalCrossentropy(CategoricalCrossentropy):
    """Softmax and categorical cross-entropy in one: the gradient of both together is (ŷ − y) / samples."""

    replayable = True
    output: Array

    def __init__(self, backend: Backend | None = None) -> None:
        """Compute on `backend`."""
        super().__init__(backend)
        self._softmax = Softmax(backend)

    def bind(self, backend: Backend, network: Any = None) -> None:
        """Compute on `backend` from now on, as a part of `network` if one is given."""
        super().bind(backend, network)
        self._softmax.bind(backend)

    def replica(self, backend: Backend | None = None) -> Self:
        """Return a copy with buffers of its own that it makes once."""
        twin = super().replica(backend)
        twin._softmax = self._softmax.replica(backend)
        twin._softmax.reuse_buffers = twin.reuse_buffers
        return twin

    def activate(self, outputs: Array) -> Array:
        """Set and return `output`, the class probabilities of the logits `outputs`, both (rows, classes)."""
        self._softmax.overwrite_inputs = self.overwrite_inputs
        self.output = self._softmax.forward(outputs)
        return self.output

    def forward(self, inputs: Array, labels: Array) -> Array:
        """Set `output` to the probabilities of the logits `inputs` and return the mean loss of the samples."""
        return self.calculate(self.activate(inputs), labels)

    def backward(self, dvalues: Array, labels: Array, samples: int | None = None) -> Array:
        """Set and return `dinputs` (rows, classes) = (ŷ − y) / samples, given ŷ (`output`) as `dvalues`."""
        probabilities, labels = self._checked(dvalues, labels)
        dtype = self.gradient_dtype or probabilities.dtype
        in_place = self.reuse_buffers and dtype == probabilities.dtype
        self.dinputs = probabilities if in_place else self._buffer("dinputs", probabilities.shape, dtype)
        classes = self._classes(probabilities, labels)
        self.backend.fuse(softmax_crossentropy_gradient)(probabilities, classes, labels[:, None], self.dinputs)
        samples = samples or len(labels)
        if samples != 1:
            self.backend.fuse(scale_values)(self.dinputs, 1 / samples)
        return self.dinputs
