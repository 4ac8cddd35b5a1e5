"""What losses have in common: the passes of one used alone, and the steps that the engine takes it apart into.

Labels are class indices (rows,) of any integer dtype, or one-hot rows (rows, classes). `ValueError` where they are
neither, or out of range.
"""

import functools
import inspect
from typing import Any, ClassVar

from fmnist_xp.backend import Array, Step, elementwise
from fmnist_xp.nn.labels import class_indices, index_dtype
from fmnist_xp.nn.layers import Layer, copy_values
from fmnist_xp.nn.module import Bounded, Module
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.registry import is_registered, warn_renamed

# Predictions are clipped to [CLIP, 1 − CLIP] before the logarithm, so that no sample's loss is infinite.
CLIP = 1e-7


def clipped_log(xp: Any, predictions: Array, clip: float) -> Array:
    """Return log of `predictions`, clipped to [clip, 1 − clip]: a part of a formula."""
    return xp.log(xp.minimum(xp.maximum(predictions, clip), 1 - clip))


def clipped_log_bound(predictions: Bounded) -> Bounded:
    """Return `clipped_log` with the bound on its error."""
    return predictions.clip(CLIP, 1 - CLIP).log(least=CLIP / 2)  # an end of the range may be rounded, not to half


@elementwise
def scale_values(xp: Any, values: Array, factor: float) -> None:
    """Multiply `values` by `factor`, in place."""
    xp.multiply(values, factor, out=values)


@elementwise
def weigh(xp: Any, values: Array, weights: Array) -> None:
    """Multiply each row of `values` (rows, columns) by its weight, (rows, 1), in place."""
    xp.multiply(values, weights, out=values)


class Loss(Module):
    """How far the outputs of a network are from its labels, row by row; it is the mean over the rows that is trained.

    A loss of your own inherits from a registered one, or from this class and then defines `outcomes` and `backward`.
    A registered one defines `outcome_steps`, `gradient_steps` and `bound_pass` instead, and where it makes the
    predictions from a network's output, `activate` and `activate_steps`.
    """

    dinputs: Array
    ends_with: ClassVar[type[Layer] | None] = None
    """The class of the layer that a network must end with, where it takes no other output."""
    checks_labels = True
    """Whether labels are looked at on the host; the engine's, checked once for all epochs, are not."""
    gradient_in_place = False
    """Whether `gradient_steps` may write over the predictions, to what the last Dense layer's products take."""

    def activate(self, outputs: Array) -> Array:
        """Return the predictions, given the output of a network's last layer: here the output itself."""
        return outputs

    def activate_steps(self, outputs: Array, free: bool, workspace: Workspace) -> tuple[Array, list[Step]]:
        """Return where the predictions will be and what does the work of `activate`.

        With `free` it may write over the `outputs`.
        """
        return outputs, []

    def outcomes(self, predictions: Array, labels: Array, out: Array | None = None) -> Array:
        """Return the number that each row leaves, (rows,), in `out` if given: all that `losses` needs of it later."""
        predictions, labels = self._checked(predictions, labels)
        out = self.backend.xp.empty(len(predictions), predictions.dtype) if out is None else out
        self.backend.run(*self.outcome_steps(predictions, labels, out, Workspace(self.backend.xp)))
        return out

    def outcome_steps(self, predictions: Array, labels: Array, out: Array, workspace: Workspace) -> list[Step]:
        """Return what does the work of `outcomes` for checked `labels`."""
        raise TypeError(f"{type(self).__name__} does not define outcomes")

    def losses(self, outcomes: Array, out: Array | None = None) -> Array:
        """Return the loss of each sample, (rows,), from what `outcomes` gave: here the same; in `out` if given."""
        if out is None:
            return outcomes
        self.backend.compute(copy_values, outcomes, out)
        return out

    def sample_losses(self, predictions: Array, labels: Array) -> Array:
        """Return the loss of each sample, (rows,)."""
        return self.losses(self.outcomes(predictions, labels))

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
        """Set and return `dinputs` (rows, outputs), the gradient of the mean loss, given the predictions `dvalues`.

        It is the gradient in the output of a network's last layer. With the `reduction` "sum" in place of "mean" it
        is not divided by the rows. `samples` is its old form: the number to divide by.
        """
        predictions, labels = self._checked(dvalues, labels)
        xp = self.backend.xp
        self.dinputs = xp.empty(predictions.shape, self.gradient_dtype(predictions))
        weight = 1 / divisor(len(labels), reduction, samples)
        self.backend.run(*self.gradient_steps(predictions, labels, self.dinputs, weight, Workspace(xp)))
        return self.dinputs

    def gradient_steps(
        self, predictions: Array, labels: Array, dinputs: Array, weight: float, workspace: Workspace
    ) -> list[Step]:
        """Return what writes the gradient of the losses' sum times `weight` to `dinputs`, for checked `labels`."""
        raise TypeError(f"{type(self).__name__} does not define backward")

    def gradient_dtype(self, predictions: Array) -> Any:
        """Return the dtype of `dinputs`: that of the predictions, or one of the network's precision.

        An activation at the end is given it in the dtype of the parameters: half precision does not hold 1/ŷ.
        """
        if self.precision is None:
            return predictions.dtype
        return self.precision.operands if self.gradient_in_place else self.precision.parameters

    def bound_pass(self, outputs: Bounded, labels: Any, samples: int) -> tuple[Bounded, Bounded, Bounded]:
        """Return the bounds of what `activate` gives, of the losses of the samples, and of `dinputs` as if alone.

        `labels` are of the host, checked, and `samples` what the gradient is divided by.
        """
        raise TypeError(f"{type(self).__name__} does not define bound_pass")

    def _class_row(self, predictions: Array, labels: Array, workspace: Workspace) -> Array:
        """Return the class indices as a row (1, classes) of the labels' dtype, or of one that holds them."""
        xp, classes = self.backend.xp, predictions.shape[1]
        # The dtype that came with the data may not hold them: class 256 would be 0 in uint8.
        dtype = xp.promote_types(labels.dtype, index_dtype(classes))
        make = functools.partial(xp.arange, classes, dtype=dtype)
        return workspace.made(f"classes for {labels.dtype}", (classes,), dtype, make)[None, :]

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


def loss_is_taken_apart(loss: Loss) -> bool:
    """Return whether `loss` is of a registered class that computes its steps and no more."""
    return is_registered(loss) and type(loss).backward is Loss.backward


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


def summed_gradient(loss: Loss, predictions: Array, labels: Array) -> Array:
    """Return `loss.backward` with the reduction "sum", also of a class that knows it as `samples=1` alone."""
    if "reduction" in inspect.signature(loss.backward).parameters:
        return loss.backward(predictions, labels, reduction="sum")
    warn_renamed(f"{type(loss).__name__}.backward(…, samples)", 'backward(…, reduction="mean" or "sum")')
    return loss.backward(predictions, labels, samples=1)
