"""Losses: categorical cross-entropy, alone and joined with softmax.

Labels are class indices (rows,) of any integer dtype, or one-hot rows (rows, classes). `ValueError` where they are
neither, or out of range.
"""

import functools
import inspect
from typing import Any

from fmnist_xp.backend import Array, Formula, Step, elementwise
from fmnist_xp.nn.activations import Softmax, softmax_bound
from fmnist_xp.nn.labels import class_indices, index_dtype
from fmnist_xp.nn.layers import Layer
from fmnist_xp.nn.module import Bounded, Module
from fmnist_xp.nn.workspace import Workspace
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


@elementwise
def weigh(xp: Any, values: Array, weights: Array) -> None:
    """Multiply each row of `values` (rows, columns) by its weight, (rows, 1), in place."""
    xp.multiply(values, weights, out=values)


def pick_true(xp: Any, predictions: Array, starts: Array, labels: Array, places: Array, output: Array) -> None:
    """Write each row's prediction for its true class to `output`, by its place, starts + labels, in flat form."""
    xp.take(predictions.reshape(-1), xp.add(starts, labels, out=places), out=output)


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
    gradient_in_place = False
    """Whether `gradient_steps` may write over the predictions."""
    onnx_operator, torch_class = "", ""

    def activate(self, outputs: Array) -> Array:
        """Return the class probabilities, given the output of a network's last layer: here the output itself."""
        return outputs

    def true_probabilities(self, predictions: Array, labels: Array, out: Array | None = None) -> Array:
        """Return the probability given to the true class of each sample, (rows,), in `out` if given."""
        predictions, labels = self._checked(predictions, labels)
        out = self.backend.xp.empty(len(predictions), predictions.dtype) if out is None else out
        self.backend.run(*self.true_probability_steps(predictions, labels, out, Workspace(self.backend.xp)))
        return out

    def true_probability_steps(
        self, predictions: Array, labels: Array, out: Array, workspace: Workspace
    ) -> list[Step]:
        """Return what does the work of `true_probabilities` for class indices `labels` (rows,)."""
        xp, (rows, classes) = self.backend.xp, predictions.shape
        starts = workspace.made(
            f"starts of {classes}", (rows,), "int64", lambda: xp.arange(0, rows * classes, classes, dtype="int64")
        )
        places = workspace.empty("places", (rows,), "int64")
        return [Formula(pick_true, (predictions, starts, labels, places, out))]

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

    def backward(self, dvalues: Array, labels: Array, reduction: str = "mean", *, samples: Any = None) -> Array:
        """Set and return `dinputs` (rows, classes), −y/ŷ / rows or, joined with softmax, (ŷ − y) / rows, given ŷ.

        With the `reduction` "sum" in place of "mean" it is not divided by the rows. `samples` is its old form: the
        number to divide by.
        """
        predictions, labels = self._checked(dvalues, labels)
        xp, dtype = self.backend.xp, self.precision.operands if self.precision else predictions.dtype
        self.dinputs = xp.empty(predictions.shape, dtype)
        weight = 1 / divisor(len(labels), reduction, samples)
        self.backend.run(*self.gradient_steps(predictions, labels, self.dinputs, weight, Workspace(xp)))
        return self.dinputs

    def gradient_steps(
        self, predictions: Array, labels: Array, dinputs: Array, weight: float, workspace: Workspace
    ) -> list[Step]:
        """Return what writes the gradient of the losses' sum times `weight` to `dinputs`."""
        classes = self._class_row(predictions, labels, workspace)
        return [Formula(crossentropy_gradient, (predictions, classes, labels[:, None], CLIP, weight, dinputs))]

    def _class_row(self, predictions: Array, labels: Array, workspace: Workspace) -> Array:
        """Return the class indices as a row (1, classes) of the labels' dtype, or of one that holds them."""
        xp, classes = self.backend.xp, predictions.shape[1]
        # The dtype that came with the data may not hold them: class 256 would be 0 in uint8.
        dtype = xp.promote_types(labels.dtype, index_dtype(classes))
        make = functools.partial(xp.arange, classes, dtype=dtype)
        return workspace.made(f"classes for {labels.dtype}", (classes,), dtype, make)[None, :]

    def bound_pass(self, outputs: Bounded, labels: Any, samples: int) -> tuple[Bounded, Bounded, Bounded]:
        """Return the bounds of what `activate` gives, of the losses of the samples, and of `dinputs` as if alone.

        `labels` are class indices (rows,) of the host, and `samples` what the gradient is divided by.
        """
        dinputs = -outputs.one_hot(labels) * (1 / samples) / outputs.maximum(CLIP)
        return outputs, crossentropy_bound(outputs, labels), dinputs

    def _checked(self, predictions: Array, labels: Array) -> tuple[Array, Array]:
        """Return both where they belong, the labels as class indices."""
        predictions = self.backend.check(predictions, "predictions")
        labels = self.backend.check(labels, "labels")
        fitting = predictions.shape, predictions.shape[:1], (len(predictions), 1)
        if predictions.ndim != 2 or labels.shape not in fitting:
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
    gradient_in_place = True
    onnx_operator, torch_class = "Softmax", "Softmax"

    def activate(self, outputs: Array) -> Array:
        """Set and return `output`, the class probabilities of the logits `outputs`, both (rows, classes)."""
        self.output = Softmax(self.backend).forward(outputs)
        return self.output

    def forward(self, inputs: Array, labels: Array) -> Array:
        """Set `output` to the probabilities of the logits `inputs` and return the mean loss of the samples."""
        return self.calculate(self.activate(inputs), labels)

    def gradient_steps(
        self, predictions: Array, labels: Array, dinputs: Array, weight: float, workspace: Workspace
    ) -> list[Step]:
        """Return what writes (ŷ − y) · weight, the gradient in the logits, to `dinputs`."""
        classes = self._class_row(predictions, labels, workspace)
        steps: list[Step] = [Formula(softmax_crossentropy_gradient, (predictions, classes, labels[:, None], dinputs))]
        return steps if weight == 1 else [*steps, Formula(scale_values, (dinputs, weight))]

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
