"""Losses of each output and its target: binary cross-entropy and mean squared error.

Labels are targets (rows, outputs), or class indices (rows,) of an integer dtype, whose one-hot rows are the targets;
`fit` gives class indices. `ValueError` where they are neither.
"""

from abc import abstractmethod
from typing import Any

from fmnist_xp.backend import Array, Formula, Product, Step, elementwise
from fmnist_xp.nn.loss import CLIP, Loss, clipped_log, clipped_log_bound
from fmnist_xp.nn.module import Bounded
from fmnist_xp.nn.sigmoids import Sigmoid
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.registry import register


@elementwise
def one_hot(xp: Any, classes: Array, labels: Array, targets: Array) -> None:
    """Write 1 where `classes` (1, n) are `labels` (rows, 1), and 0 elsewhere, to `targets` (rows, n)."""
    xp.equal(classes, labels, out=targets)


@elementwise
def binary_crossentropy(xp: Any, predictions: Array, targets: Array, clip: float, losses: Array) -> None:
    """Write −(y·log ŷ + (1 − y)·log(1 − ŷ)) to `losses`; ŷ and 1 − ŷ are clipped to [clip, 1 − clip]."""
    # Each is clipped by itself: the difference of 1 and a clipped ŷ would have few digits left.
    one, zero = clipped_log(xp, predictions, clip), clipped_log(xp, 1 - predictions, clip)
    xp.negative(targets * one + (1 - targets) * zero, out=losses)


@elementwise
def binary_crossentropy_gradient(
    xp: Any, predictions: Array, targets: Array, clip: float, factor: float, dinputs: Array
) -> None:
    """Write −(y/ŷ − (1 − y)/(1 − ŷ)) · factor to `dinputs`; ŷ and 1 − ŷ are held above `clip`, as in the loss."""
    one, zero = targets / xp.maximum(predictions, clip), (1 - targets) / xp.maximum(1 - predictions, clip)
    xp.multiply(zero - one, factor, out=dinputs)


@elementwise
def squared_error(xp: Any, predictions: Array, targets: Array, losses: Array) -> None:
    """Write (ŷ − y)² to `losses`."""
    xp.square(predictions - targets, out=losses)


@elementwise
def squared_error_gradient(xp: Any, predictions: Array, targets: Array, factor: float, dinputs: Array) -> None:
    """Write (ŷ − y) · factor to `dinputs`."""
    xp.multiply(predictions - targets, factor, out=dinputs)


class TargetLoss(Loss):
    """The mean, over the outputs of a row, of a loss of each output and its target."""

    @abstractmethod
    def _loss(self, predictions: Array, targets: Array, losses: Array) -> Formula:
        """Return what writes the loss of each output to `losses`, all (rows, outputs)."""

    @abstractmethod
    def _gradient(self, predictions: Array, targets: Array, factor: float, dinputs: Array) -> Formula:
        """Return what writes the gradient of each output's loss times `factor` to `dinputs`, all (rows, outputs)."""

    @abstractmethod
    def _bounds(self, predictions: Bounded, targets: Bounded) -> tuple[Bounded, Bounded]:
        """Return the bounds of each output's loss and of its gradient."""

    def outcome_steps(self, predictions: Array, labels: Array, out: Array, workspace: Workspace) -> list[Step]:
        """See `Loss.outcome_steps`: the loss of each row."""
        outputs = predictions.shape[1]
        terms = workspace.empty("loss terms", predictions.shape, predictions.dtype)
        targets, steps = self._targets(predictions, labels, workspace)
        mean = Product(terms, workspace.ones(outputs, terms.dtype), out.reshape(-1, 1), 1 / outputs)
        return [*steps, self._loss(predictions, targets, terms), mean]

    def gradient_steps(
        self, predictions: Array, labels: Array, dinputs: Array, weight: float, workspace: Workspace
    ) -> list[Step]:
        """See `Loss.gradient_steps`."""
        targets, steps = self._targets(predictions, labels, workspace)
        return [*steps, self._gradient(predictions, targets, weight / predictions.shape[1], dinputs)]

    def bound_pass(self, outputs: Bounded, labels: Any, samples: int) -> tuple[Bounded, Bounded, Bounded]:
        """See `Loss.bound_pass`; `labels` are class indices (rows,) or targets (rows, outputs)."""
        targets = outputs.one_hot(labels) if labels.ndim == 1 else outputs.exactly(labels)
        losses, gradient = self._bounds(outputs, targets)
        count = outputs.value.shape[1]
        return outputs, losses.sum(axis=1) * (1 / count), gradient * (1 / count / samples)

    def _targets(self, predictions: Array, labels: Array, workspace: Workspace) -> tuple[Array, list[Step]]:
        """Return where the targets of checked labels will be, and what writes them there."""
        if labels.ndim == 2:
            return labels, []
        targets = workspace.empty("targets", predictions.shape, predictions.dtype)
        return targets, [
            Formula(one_hot, (self._class_row(predictions, labels, workspace), labels[:, None], targets))
        ]

    def _checked(self, predictions: Array, labels: Array) -> tuple[Array, Array]:
        """Return both where they belong, the labels as class indices or as targets in the predictions' dtype."""
        predictions = self.backend.check(predictions, "predictions")
        labels = self.backend.check(labels, "labels")
        if predictions.ndim == 2 and labels.shape == predictions.shape:
            return predictions, self.backend.numbers(labels, "labels", predictions.dtype)
        if predictions.shape == (*labels.shape, 1):
            raise ValueError(
                f"labels {labels.shape} are class indices, and there is one output: give targets {predictions.shape}"
            )
        return super()._checked(predictions, labels)


@register("binary_crossentropy")
class BinaryCrossentropy(TargetLoss):
    """−(y·log ŷ + (1 − y)·log(1 − ŷ)), averaged over the outputs of a sample and over the samples.

    `predictions` ŷ are probabilities (rows, outputs), each output's its own as a Sigmoid makes them, and targets y
    are from 0 to 1. Kinsley & Kukieła, *Neural Networks from Scratch in Python* (2020), chapter 16.
    """

    ends_with = Sigmoid
    onnx_operator, torch_class = "", ""

    def _loss(self, predictions: Array, targets: Array, losses: Array) -> Formula:
        return Formula(binary_crossentropy, (predictions, targets, CLIP, losses))

    def _gradient(self, predictions: Array, targets: Array, factor: float, dinputs: Array) -> Formula:
        return Formula(binary_crossentropy_gradient, (predictions, targets, CLIP, factor, dinputs))

    def _bounds(self, predictions: Bounded, targets: Bounded) -> tuple[Bounded, Bounded]:
        no_prediction, no_target = (values.exactly(1.0) - values for values in (predictions, targets))
        losses = targets * clipped_log_bound(predictions) + no_target * clipped_log_bound(no_prediction)
        gradient = no_target / no_prediction.maximum(CLIP) - targets / predictions.maximum(CLIP)
        return -losses, gradient

    def _checked(self, predictions: Array, labels: Array) -> tuple[Array, Array]:
        predictions, labels = super()._checked(predictions, labels)
        if self.checks_labels and labels.ndim == 2 and not ((labels >= 0) & (labels <= 1)).all():
            raise ValueError("labels that are targets must be from 0 to 1, as the predictions are")
        return predictions, labels


@register("mean_squared_error")
class MeanSquaredError(TargetLoss):
    """(ŷ − y)², averaged over the outputs of a sample and over the samples.

    `predictions` ŷ and targets y are numbers (rows, outputs), of the output of any layer. Kinsley & Kukieła, *Neural
    Networks from Scratch in Python* (2020), chapter 17.
    """

    onnx_operator, torch_class = "", ""

    def _loss(self, predictions: Array, targets: Array, losses: Array) -> Formula:
        return Formula(squared_error, (predictions, targets, losses))

    def _gradient(self, predictions: Array, targets: Array, factor: float, dinputs: Array) -> Formula:
        return Formula(squared_error_gradient, (predictions, targets, 2 * factor, dinputs))

    def _bounds(self, predictions: Bounded, targets: Bounded) -> tuple[Bounded, Bounded]:
        error = predictions - targets
        return error * error, error * 2.0
