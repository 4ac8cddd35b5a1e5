"""Dropout: in every epoch other units, drawn by chance, are left out."""

from collections.abc import Mapping
from typing import Any

from fmnist_xp.arguments import real_number, whole_number
from fmnist_xp.backend import Array, Backend, Formula, Step, elementwise
from fmnist_xp.nn.draws import Draws, column_codes, mixed, row_keys, seed_of
from fmnist_xp.nn.layers import copy_values
from fmnist_xp.nn.loss import scale_values
from fmnist_xp.nn.module import Bounded, BoundedBackward, Counterpart
from fmnist_xp.nn.stepwise import StepwiseLayer
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.registry import register


@elementwise
def drop(
    xp: Any,
    values: Array,
    keys: Array,
    codes: Array,
    least: Any,
    scale: float,
    output: Array,
    bits: Array | None = None,
) -> None:
    """Write scale · values where a unit's draw is at least `least`, and 0 elsewhere, to `output`.

    `keys` (rows, 1) and `codes` (1, units) set the draws of rows and units apart; `bits` is workspace.
    """
    drawn = mixed(xp, xp.bitwise_xor(keys, codes, out=bits), bits)
    xp.multiply(values, (drawn >= least) * scale, out=output)


@register("dropout")
class Dropout(StepwiseLayer):
    """Sets a share of about `rate` of its inputs to 0 in training, and multiplies the others by 1 / (1 − rate).

    So the expectation of the output is the input, as which it is handed on where no gradient will follow (Srivastava,
    Hinton, Krizhevsky, Sutskever & Salakhutdinov, *Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting*, JMLR 15, 2014, in the inverted form).

    Which ones depends on the row's number, the epoch, the unit, the `seed` and the layer's place in the network
    alone: the gradient draws them once more, and no mask is kept. In a lesson rows are counted from 0, and each
    forward pass is an epoch; set `training = True` for it to drop any.

    Raises `ValueError` where `rate` is not at least 0 and below 1, or `seed` no whole number.
    """

    only_scales = is_random = True
    onnx_operator, torch_class = "", Counterpart("Dropout", {"p": "rate"})

    def __init__(self, rate: float, seed: int = 0, *, backend: Backend | None = None) -> None:
        super().__init__(backend)
        self.rate = real_number("rate", rate, 0, 1)
        self.seed = whole_number("seed", seed, 0)
        self._passes = 0

    def forward_steps(
        self, inputs: Array, output: Array, workspace: Workspace, name: str, biases: Array | None = None
    ) -> list[Step]:
        """See `StepwiseLayer.forward_steps`."""
        if self.training and self.rate:
            return self._drop(inputs, output, workspace, name, draw=True)
        return [] if output is inputs else [Formula(copy_values, (inputs, output))]

    def backward_steps(
        self, dvalues: Array, inputs: Array, output: Array, dinputs: Array, workspace: Workspace, name: str
    ) -> list[Step]:
        """See `StepwiseLayer.backward_steps`."""
        if not self.rate:
            return [] if dinputs is dvalues else [Formula(copy_values, (dvalues, dinputs))]
        if self.gated and dinputs is dvalues:  # the layer before sees to the zeros
            return [Formula(scale_values, (dvalues, 1 / (1 - self.rate)))]
        return self._drop(dvalues, dinputs, workspace, name, draw=False)

    def _drop(self, values: Array, output: Array, workspace: Workspace, name: str, draw: bool) -> list[Step]:
        """Return what drops of `values` what was drawn in this epoch, or is drawn now."""
        backend, (rows, units) = self.backend, values.shape
        xp, least = backend.xp, round(self.rate * 2**32)
        keys = workspace.empty(f"{name} keys", (rows,), "uint32")
        codes = workspace.made(f"codes of {units}", (1, units), "uint32", lambda: column_codes(backend, units))
        bits = backend.scratch(lambda: workspace.empty(f"bits of {units}", (rows, units), "uint32"))
        seed = seed_of(backend, "dropout", self.seed, name)
        scale = 1 / (1 - self.rate)
        steps: list[Step] = [Formula(row_keys, (*(self.draws or self._of_lesson(rows)), seed, keys))] if draw else []
        return [*steps, Formula(drop, (values, keys[:, None], codes, xp.uint32(least), scale, output, *bits))]

    def _of_lesson(self, rows: int) -> Draws:
        """Return the draws of a pass outside of training."""
        xp, self._passes = self.backend.xp, self._passes + 1
        return Draws(xp.arange(rows, dtype="uint32"), xp.full(1, self._passes - 1, "uint32"))

    def bound_pass(self, inputs: Bounded, parameters: Mapping[str, Bounded]) -> tuple[Bounded, BoundedBackward]:
        """See `Layer.bound_pass`; the factors, 0 or 1 / (1 − rate), are those of a lesson's first pass on the CPU."""
        lesson = Dropout(self.rate, self.seed)
        lesson.training = self.training
        kept = lesson.forward(lesson.backend.xp.ones(inputs.value.shape)) > 0
        factors = (inputs.exactly(kept) * (1 / (1 - self.rate))).stored()
        return (inputs * factors).stored(), lambda dvalues: ((dvalues * factors).stored(), {})
