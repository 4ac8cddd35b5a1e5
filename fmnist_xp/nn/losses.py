"""Losses: categorical cross-entropy, alone and joined with softmax.

Labels are class indices (rows,) of any integer dtype, or one-hot rows (rows, classes). `ValueError` where they are
neither, or out of range.
"""

import inspect
from typing import Any

from fmnist_xp.backend import Array, Backend, Formula, Step, elementwise
from fmnist_xp.nn.activations import Softmax, softmax_bound
from fmnist_xp.nn.labels import class_indices, index_dtype
from fmnist_xp.nn.layers import Layer
from fmnist_xp.nn.module import Bounded, Module
from fmnist_xp.registry import register, warn_renamed

# Predictions are clipped to [CLIP, 1 − CLIP] before the logarithm, so that no sample's loss is infinite.
CLIP = 1e-7


@elementwise
def crossentropy(xp: Any, predictions: Array, clip: float, losses: Array) -> None:
    """Write −log of `predictions`, clipped to [clip, 1 − clip], to `losses`."""
    xp.negative(xp.log(xp.minimum(xp.maximum(predictions, clip), 1 - clip)), out=losses)


@elementwise
def crossentropy_gradient(
    xp: Any, predictions: Array, classes: Array, labels: Array, clip: float, weight: float, dinputs: Array
) -> None:
    """Write −y/ŷ · weight to `dinputs`; ŷ is held above `clip`, as in the loss."""
    xp.divide((classes == labels) * -weight, xp.maximum(predictions, clip), out=dinputs)


@elementwise
def softmax_crossentropy_gradient(
    xp: Any, probabilities: Array, classes: Array, labels: Array, dinputs: Array
) -> None:
    """Write ŷ − y, the gradient of the samples' summed loss, to `dinputs`."""
    xp.subtract(probabilities, classes == labels, out=dinputs)


@elementwise
def scale_values(xp: Any, values: Array, factor: float) -> None:
    """Multiply `values` by `factor`, in place."""
    xp.multiply(values, factor, out=values)


def add_places(xp: Any, starts: Array, labels: Array, places: Array) -> None:
    """Write starts + labels, all (rows,), to `places`: where each row's true class stands in the flat predictions."""
    xp.add(starts, labels, out=places)


def pick_places(xp: Any, predictions: Array, places: Array, output: Array) -> None:
    """Write the element of the flat `predictions` at each of `places` to `output`, both (rows,)."""
    xp.take(predictions.reshape(-1), places, out=output)


def row_starts(xp: Any, rows: int, classes: int) -> Array:
    """Return where each row of (rows, classes) starts in flat form, (rows,)."""
    return xp.arange(0, rows * classes, classes, dtype="int64")


def class_row(xp: Any, classes: int, dtype: Any) -> Array:
    """Return the class indices as a row (1, classes) of the labels' `dtype`, or of one that holds them."""
    # The dtype that came with the data may not hold them: class 256 would be 0 in uint8.
    return xp.arange(classes, dtype=xp.promote_types(dtype, index_dtype(classes)))[None, :]


def true_probability_steps(
    predictions: Array, labels: Array, output: Array, starts: Array, places: Array
) -> list[Step]:
    """Return what writes each row's probability of its true class to `output` (rows,).

    `labels` (rows,) are class indices, `starts` are `row_starts`, and `places` (rows,) of int64 is workspace.
    """
    return [Formula(add_places, (starts, labels, places)), Formula(pick_places, (predictions, places, output))]


def crossentropy_bound(predictions: Bounded, labels: Any) -> Bounded:
    """Return −log of the true classes' probabilities, clipped to [CLIP, 1 − CLIP], (rows,)."""
    true = predictions.moved(lambda rows: rows[range(len(labels)), labels])
    return -true.clip(CLIP, 1 - CLIP).log(least=CLIP / 2)  # an end of the range may be rounded, not to half of it


@register("categorical_crossentropy")
class CategoricalCrossentropy(Module):
    """−log of the probability given to the true class, averaged over the samples.

    `predictions` are probabilities (rows, classes). Goodfellow, Bengio & Courville, *Deep Learning* (2016), 6.2.2.
    """

    dinputs: Array
    checks_labels = True
    """Whether labels are looked at on the host; the engine's, checked once for all epochs, are not."""

    def activate(self, outputs: Array) -> Array:
        """Return the class probabilities, given the output of a network's last layer: here the output itself."""
        return outputs

    def true_probabilities(self, predictions: Array, labels: Array, out: Array | None = None) -> Array:
        """Return the probability given to the true class of each sample, (rows,), in `out` if given."""
        predictions, labels = self._checked(predictions, labels)
        xp, (rows, classes) = self.backend.xp, predictions.shape
        out = xp.empty(rows, predictions.dtype) if out is None else out
        workspace = row_starts(xp, rows, classes), xp.empty(rows, "int64")
        self.backend.run(*true_probability_steps(predictions, labels, out, *workspace))
        return out

    def losses(self, true_probabilities: Array, out: Array | None = None) -> Array:
        """Return the loss of each sample, (rows,), from what `true_probabilities` gave; in `out` if given."""
        losses = self.backend.xp.empty_like(true_probabilities) if out is None else out
        self.backend.compute(crossentropy, true_probabilities, CLIP, losses)
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

    def backward(
        self, dvalues: Array, labels: Array, reduction: str = "mean", *, samples: int | None = None
    ) -> Array:
        """Set and return `dinputs` (rows, classes): −y/ŷ / rows, given ŷ as `dvalues`.

        With the `reduction` "sum" in place of "mean" it is not divided by the rows. `samples` is its old form: the
        number to divide by.
        """
        predictions, labels = self._checked(dvalues, labels)
        self.dinputs = self._empty_gradient(predictions)
        classes = class_row(self.backend.xp, predictions.shape[1], labels.dtype)
        weight = 1 / divisor(len(labels), reduction, samples)
        self.backend.compute(
            crossentropy_gradient, predictions, classes, labels[:, None], CLIP, weight, self.dinputs
        )
        return self.dinputs

    def bound_pass(self, outputs: Bounded, labels: Any, samples: int) -> tuple[Bounded, Bounded, Bounded]:
        """Return the bounds of what `activate` gives, of the losses of the samples, and of `dinputs` as if alone.

        `labels` are class indices (rows,) of the host, and `samples` what the gradient is divided by.
        """
        dinputs = -outputs.one_hot(labels) * (1 / samples) / outputs.maximum(CLIP)
        return outputs, crossentropy_bound(outputs, labels), dinputs

    def _empty_gradient(self, predictions: Array) -> Array:
        """Return an array for `dinputs`: of the dtype that enters the products of the network, if there is one."""
        dtype = self.precision.operands if self.precision else predictions.dtype
        return self.backend.xp.empty(predictions.shape, dtype)

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


@register("softmax_categorical_crossentropy")
class SoftmaxCategoricalCrossentropy(CategoricalCrossentropy):
    """Softmax and categorical cross-entropy in one: the gradient of both together is (ŷ − y) / rows."""

    output: Array

    def activate(self, outputs: Array) -> Array:
        """Set and return `output`, the class probabilities of the logits `outputs`, both (rows, classes)."""
        self.output = Softmax(self.backend).forward(outputs)
        return self.output

    def forward(self, inputs: Array, labels: Array) -> Array:
        """Set `output` to the probabilities of the logits `inputs` and return the mean loss of the samples."""
        return self.calculate(self.activate(inputs), labels)

    def backward(
        self, dvalues: Array, labels: Array, reduction: str = "mean", *, samples: int | None = None
    ) -> Array:
        """Set and return `dinputs` (rows, classes) = (ŷ − y) / rows, given ŷ (`output`) as `dvalues`.

        `reduction` and `samples` are as in `CategoricalCrossentropy.backward`.
        """
        probabilities, labels = self._checked(dvalues, labels)
        self.dinputs = self._empty_gradient(probabilities)
        classes = class_row(self.backend.xp, probabilities.shape[1], labels.dtype)
        self.backend.compute(softmax_crossentropy_gradient, probabilities, classes, labels[:, None], self.dinputs)
        if (rows := divisor(len(labels), reduction, samples)) != 1:
            self.backend.compute(scale_values, self.dinputs, 1 / rows)
        return self.dinputs

    def bound_pass(self, outputs: Bounded, labels: Any, samples: int) -> tuple[Bounded, Bounded, Bounded]:
        """See `CategoricalCrossentropy.bound_pass`."""
        output = softmax_bound(outputs)
        return output, crossentropy_bound(output, labels), (output - output.one_hot(labels)) * (1 / samples)


def divisor(rows: int, reduction: Any, samples: int | None = None) -> int:
    """Return what the summed gradient of `rows` samples is divided by: `rows` for "mean", 1 for "sum".

    The old forms, `samples` by name or a number in the place of `reduction`, are warned of. Raises `ValueError` for
    anything else.
    """
    if samples is None and (reduction is None or isinstance(reduction, int)):
        samples = reduction or rows
    if samples is not None:
        warn_renamed("samples", 'reduction ("mean" or "sum")')
        return samples
    if reduction not in ("mean", "sum"):
        raise ValueError(f'reduction must be "mean" or "sum", got {reduction!r}')
    return rows if reduction == "mean" else 1


def summed_gradient(loss: CategoricalCrossentropy, predictions: Array, labels: Array) -> Array:
    """Return `loss.backward` with the reduction "sum", also of a class that knows it as `samples=1` alone."""
    if "reduction" in inspect.signature(loss.backward).parameters:
        return loss.backward(predictions, labels, reduction="sum")
    warn_renamed(f"{type(loss).__name__}.backward(…, samples)", 'backward(…, reduction="mean" or "sum")')
    return loss.backward(predictions, labels, samples=1)
