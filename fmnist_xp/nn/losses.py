"""Categorical cross-entropy, alone and joined with softmax; labels are class indices or one-hot rows, see `loss`."""

from typing import Any, ClassVar

from fmnist_xp.arguments import real_number
from fmnist_xp.backend import Array, Backend, Formula, Product, Step, elementwise
from fmnist_xp.nn.activations import Softmax, softmax_bound, softmax_steps
from fmnist_xp.nn.layers import Layer
from fmnist_xp.nn.loss import CLIP, Loss, clipped_log, clipped_log_bound, scale_values
from fmnist_xp.nn.module import Bounded
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.registry import register


@elementwise
def crossentropy(xp: Any, predictions: Array, clip: float, losses: Array) -> None:
    """Write −log of `predictions`, clipped to [clip, 1 − clip], to `losses`."""
    xp.negative(clipped_log(xp, predictions, clip), out=losses)


@elementwise
def smoothed_crossentropy(
    xp: Any,
    predictions: Array,
    classes: Array,
    labels: Array,
    true: float,
    every: float,
    clip: float,
    terms: Array,
) -> None:
    """Write −y·log ŷ of each class to `terms`; y is `every`, and `true` more for the true one."""
    xp.multiply((classes == labels) * -true - every, clipped_log(xp, predictions, clip), out=terms)


@elementwise
def crossentropy_gradient(
    xp: Any, predictions: Array, classes: Array, labels: Array, clip: float, weight: float, dinputs: Array
) -> None:
    """Write −y/ŷ · weight to `dinputs`; ŷ is held above `clip`, as in the loss."""
    xp.divide((classes == labels) * -weight, xp.maximum(predictions, clip), out=dinputs)


@elementwise
def smoothed_crossentropy_gradient(
    xp: Any,
    predictions: Array,
    classes: Array,
    labels: Array,
    true: float,
    every: float,
    clip: float,
    dinputs: Array,
) -> None:
    """Write −y/ŷ to `dinputs`, y times the gradient's weight as in `smoothed_crossentropy`."""
    xp.divide((classes == labels) * -true - every, xp.maximum(predictions, clip), out=dinputs)


@elementwise
def softmax_crossentropy_gradient(
    xp: Any, probabilities: Array, classes: Array, labels: Array, dinputs: Array
) -> None:
    """Write ŷ − y, the gradient of the samples' summed loss, to `dinputs`."""
    xp.subtract(probabilities, classes == labels, out=dinputs)


@elementwise
def smoothed_softmax_crossentropy_gradient(
    xp: Any, probabilities: Array, classes: Array, labels: Array, true: float, every: float, dinputs: Array
) -> None:
    """Write ŷ − y to `dinputs`, y as in `smoothed_crossentropy`."""
    xp.subtract(probabilities, (classes == labels) * true + every, out=dinputs)


def pick_true(xp: Any, predictions: Array, starts: Array, labels: Array, places: Array, output: Array) -> None:
    """Write each row's prediction for its true class to `output`, by its place, starts + labels, in flat form."""
    xp.take(predictions.reshape(-1), xp.add(starts, labels, out=places), out=output)


@register("categorical_crossentropy")
class CategoricalCrossentropy(Loss):
    """−Σ y·log ŷ over the classes, averaged over the samples; without smoothing −log ŷ of the true class.

    `predictions` ŷ are probabilities (rows, classes). Goodfellow, Bengio & Courville, *Deep Learning* (2016), 6.2.2.

    Parameters
    ----------
    backend
        Where to compute; by default the CPU, or that of the network.
    label_smoothing
        The share ε, from 0 to below 1, of each label that is spread over all classes: y is (1 − ε) + ε/classes for
        the true one and ε/classes for any other. Szegedy et al., *Rethinking the Inception Architecture for Computer
        Vision*, CVPR 2016, 7.

    Raises
    ------
    ValueError
        For other values.
    """

    ends_with: ClassVar[type[Layer] | None] = Softmax
    onnx_operator, torch_class = "", ""
    label_smoothing = 0.0  # of a class of one's own, or a pickle, that knows of none

    def __init__(self, backend: Backend | None = None, *, label_smoothing: float = 0.0) -> None:
        if isinstance(backend, int | float):
            raise ValueError(f"backend must be a Backend, got {backend!r}: write label_smoothing={backend!r}")
        super().__init__(backend)
        self.label_smoothing = real_number("label_smoothing", label_smoothing, 0, 1)

    def config(self) -> dict[str, Any]:
        """See `Module.config`; without smoothing it is as it was before there was any, and so are the files."""
        return {name: value for name, value in super().config().items() if name != "label_smoothing" or value}

    def _smoothed(self, classes: int) -> tuple[float, float]:
        """Return what the true class has of a label beyond the others, and what every class has."""
        return 1 - self.label_smoothing, self.label_smoothing / classes

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

    def outcomes(self, predictions: Array, labels: Array, out: Array | None = None) -> Array:
        """Return `true_probabilities`, or with smoothing the losses."""
        if self.label_smoothing:
            return super().outcomes(predictions, labels, out)
        return self.true_probabilities(predictions, labels, out)

    def outcome_steps(self, predictions: Array, labels: Array, out: Array, workspace: Workspace) -> list[Step]:
        """Return what does the work of `outcomes` for class indices `labels` (rows,)."""
        if not self.label_smoothing:
            return self.true_probability_steps(predictions, labels, out, workspace)
        classes, dtype = predictions.shape[1], predictions.dtype
        terms = workspace.empty("loss terms", predictions.shape, dtype)
        labelled = self._class_row(predictions, labels, workspace), labels[:, None], *self._smoothed(classes)
        return [
            Formula(smoothed_crossentropy, (predictions, *labelled, CLIP, terms)),
            Product(terms, workspace.ones(classes, dtype), out.reshape(-1, 1)),
        ]

    def losses(self, true_probabilities: Array, out: Array | None = None) -> Array:
        """Return the loss of each sample, (rows,), from what `outcomes` gave; in `out` if given."""
        if self.label_smoothing:
            return super().losses(true_probabilities, out)
        losses = self.backend.xp.empty_like(true_probabilities) if out is None else out
        self.backend.compute(crossentropy, true_probabilities, CLIP, losses)
        return losses

    def gradient_steps(
        self, predictions: Array, labels: Array, dinputs: Array, weight: float, workspace: Workspace
    ) -> list[Step]:
        """Return what writes −y/ŷ · weight to `dinputs`, for class indices `labels` (rows,)."""
        labelled = self._class_row(predictions, labels, workspace), labels[:, None]
        if not self.label_smoothing:
            return [Formula(crossentropy_gradient, (predictions, *labelled, CLIP, weight, dinputs))]
        shares = (share * weight for share in self._smoothed(predictions.shape[1]))
        return [Formula(smoothed_crossentropy_gradient, (predictions, *labelled, *shares, CLIP, dinputs))]

    def bound_pass(self, outputs: Bounded, labels: Any, samples: int) -> tuple[Bounded, Bounded, Bounded]:
        """See `Loss.bound_pass`; `labels` are class indices (rows,)."""
        dinputs = -self._targets_bound(outputs, labels) * (1 / samples) / outputs.maximum(CLIP)
        return outputs, self._losses_bound(outputs, labels), dinputs

    def _losses_bound(self, predictions: Bounded, labels: Any) -> Bounded:
        """Return the bounds of the losses of the samples, (rows,)."""
        if self.label_smoothing:
            return -(self._targets_bound(predictions, labels) * clipped_log_bound(predictions)).sum(axis=1)
        return -clipped_log_bound(predictions.moved(lambda rows: rows[range(len(labels)), labels]))

    def _targets_bound(self, predictions: Bounded, labels: Any) -> Bounded:
        """Return the bounds of y, (rows, classes)."""
        one_hot = predictions.one_hot(labels)
        if not self.label_smoothing:
            return one_hot
        true, every = self._smoothed(one_hot.value.shape[1])
        return one_hot * true + every


@register("softmax_categorical_crossentropy")
class SoftmaxCategoricalCrossentropy(CategoricalCrossentropy):
    """Softmax and categorical cross-entropy in one: the gradient of both together is (ŷ − y) / rows."""

    output: Array
    ends_with = None
    gradient_in_place = True
    onnx_operator, torch_class = "Softmax", "Softmax"

    def activate(self, outputs: Array) -> Array:
        """Set and return `output`, the class probabilities of the logits `outputs`, both (rows, classes)."""
        self.output = Softmax(self.backend).forward(outputs)
        return self.output

    def activate_steps(self, outputs: Array, free: bool, workspace: Workspace) -> tuple[Array, list[Step]]:
        """See `Loss.activate_steps`."""
        output = outputs if free else workspace.empty("loss output", outputs.shape, outputs.dtype)
        return output, softmax_steps(self.backend, outputs, output, workspace, "loss")

    def forward(self, inputs: Array, labels: Array) -> Array:
        """Set `output` to the probabilities of the logits `inputs` and return the mean loss of the samples."""
        return self.calculate(self.activate(inputs), labels)

    def gradient_steps(
        self, predictions: Array, labels: Array, dinputs: Array, weight: float, workspace: Workspace
    ) -> list[Step]:
        """Return what writes (ŷ − y) · weight, the gradient in the logits, to `dinputs`."""
        labelled = self._class_row(predictions, labels, workspace), labels[:, None]
        steps: list[Step] = [Formula(softmax_crossentropy_gradient, (predictions, *labelled, dinputs))]
        if self.label_smoothing:
            shares = self._smoothed(predictions.shape[1])
            steps = [Formula(smoothed_softmax_crossentropy_gradient, (predictions, *labelled, *shares, dinputs))]
        return steps if weight == 1 else [*steps, Formula(scale_values, (dinputs, weight))]

    def bound_pass(self, outputs: Bounded, labels: Any, samples: int) -> tuple[Bounded, Bounded, Bounded]:
        """See `CategoricalCrossentropy.bound_pass`."""
        output = softmax_bound(outputs)
        dinputs = (output - self._targets_bound(output, labels)) * (1 / samples)
        return output, self._losses_bound(output, labels), dinputs
