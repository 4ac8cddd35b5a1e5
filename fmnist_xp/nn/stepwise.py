"""Layers that are made of steps: computed one after another in a lesson, laid out once by a plan in training."""

from typing import Any, ClassVar, TypeGuard

from fmnist_xp.backend import Array, Step
from fmnist_xp.nn.draws import Draws
from fmnist_xp.nn.layers import Layer
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.registry import is_registered


class StepwiseLayer(Layer):
    """A layer whose output is as wide as its input, and which says of itself what it computes and may write over.

    A subclass defines `forward_steps` and `backward_steps`, and `bound_pass`. Once it is registered, a network takes
    it apart: the steps work on buffers that are used again for every block of rows, and on a GPU are part of a graph.
    Where a subclass has a `forward` or `backward` of its own, or is not registered, these are called.
    """

    needs_inputs: ClassVar[bool] = False
    """Whether `backward_steps` read the inputs; else the output may be written over them."""
    needs_output: ClassVar[bool] = False
    """Whether `backward_steps` read the output; else what follows may write over it."""
    takes_biases: ClassVar[bool] = False
    """Whether `forward_steps` can add biases to the inputs in the same kernel."""
    gates: ClassVar[bool] = False
    """Whether its gradient is `dvalues` where the output is above 0, and 0 elsewhere: no more is needed of it."""
    only_scales: ClassVar[bool] = False
    """Whether its output is the inputs times factors of at least 0, and may lie where that of one that gates lay."""
    gated = False
    """Whether that was done: where a factor is 0, the layer before makes a gradient of 0."""
    draws: Draws | None = None
    """For a layer that `is_random`: the rows that it is given, and the epoch; None in a lesson."""
    n_features: int | None = None
    """Number of columns that it takes; None for any."""
    _workspace: Workspace

    def forward_steps(
        self, inputs: Array, output: Array, workspace: Workspace, name: str, biases: Array | None = None
    ) -> list[Step]:
        """Return what writes the output of `inputs` (rows, columns) to `output`, of the same shape and dtype.

        `output` may be `inputs`, unless the class `needs_inputs`. What `backward_steps` need besides stays in the
        `workspace`; `name` sets the arrays there apart from those of other layers. `biases` (1, columns), given to a
        class that `takes_biases` alone, are added to the inputs. `training` says what the output is for.
        """
        raise TypeError(f"{type(self).__name__} does not define forward_steps")

    def backward_steps(
        self, dvalues: Array, inputs: Array, output: Array, dinputs: Array, workspace: Workspace, name: str
    ) -> list[Step]:
        """Return what writes the gradient of the inputs to `dinputs`, and those of parameters, sums over the rows.

        `dinputs` is of the shape and dtype of `dvalues`, and may be the same array. The others are those of
        `forward_steps`; `inputs` and `output` may have other values by now, but for what the class needs.
        """
        raise TypeError(f"{type(self).__name__} does not define backward_steps")

    def forward(self, inputs: Array) -> Array:
        """Set and return `output`, of the shape and dtype of `inputs`; whole numbers become float64."""
        self.inputs, xp = self.checked_inputs(self._floats(inputs)), self.backend.xp
        self.output, self._workspace = xp.empty(self.inputs.shape, self.inputs.dtype), Workspace(xp)
        self.backend.run(*self.forward_steps(self.inputs, self.output, self._workspace, ""))
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Set and return `dinputs`, of the shape and dtype of `dvalues`, and set the gradients."""
        dvalues = self._gradient(dvalues)
        self.dinputs = self.backend.xp.empty_like(dvalues)
        # A subclass with a forward of its own may have kept no more than the output.
        inputs = self.inputs if self.needs_inputs else vars(self).get("inputs")
        workspace = vars(self).get("_workspace") or Workspace(self.backend.xp)
        self.backend.run(*self.backward_steps(dvalues, inputs, self.output, self.dinputs, workspace, ""))
        return self.dinputs

    def checked_inputs(self, inputs: Array) -> Array:
        """Return `inputs`; raise `ValueError` where they are not (rows, `n_features`)."""
        if self.n_features is not None and (inputs.ndim != 2 or inputs.shape[1] != self.n_features):
            raise ValueError(f"inputs must have the shape (rows, {self.n_features}), got {inputs.shape}")
        return inputs

    def _left_out(self) -> set[str]:
        return {*super()._left_out(), "_workspace"}


def is_taken_apart(layer: Any) -> TypeGuard[StepwiseLayer]:
    """Return whether `layer`, or None, is of a registered class that computes its steps and no more."""
    kind = type(layer)
    stepwise = isinstance(layer, StepwiseLayer) and is_registered(layer)
    return stepwise and (kind.forward, kind.backward) == (StepwiseLayer.forward, StepwiseLayer.backward)


def keeps_width(layer: Layer) -> TypeGuard[StepwiseLayer]:
    """Return whether it is known of `layer` that its output has as many columns as its input."""
    return is_registered(layer) and isinstance(layer, StepwiseLayer)
