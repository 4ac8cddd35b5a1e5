"""The logistic function as an activation, and the activation that weighs its inputs by it."""

import math
from typing import Any

from fmnist_xp.backend import Array, elementwise
from fmnist_xp.nn.activations import Activation
from fmnist_xp.nn.module import Bounded, Counterpart
from fmnist_xp.registry import register

LINEAR, CUBIC = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715
"""GELU is x · σ(LINEAR · x + CUBIC · x³)."""
FAR = 22.0
"""Where that σ is 0 or 1 in every precision; a number beyond could overflow in its cube."""


def powers_of(xp: Any, values: Array) -> tuple[Array, Array, Array]:
    """Return (e, n, 1 + e) with σ(values) = n / (1 + e), for e = exp(−|values|), in which nothing overflows.

    n is 1 where `values` are not negative, and e elsewhere.
    """
    powers = xp.exp(-xp.abs(values))
    return powers, xp.maximum(powers, values >= 0), 1 + powers


def powers_bound(values: Bounded) -> tuple[Bounded, Bounded, Bounded]:
    """Return the same three, each stored."""
    powers = (-values.moved(abs)).exp().stored()
    return powers, powers.where_positive(-values, values.exactly(1.0)), (values.exactly(1.0) + powers).stored()


@elementwise
def sigmoid(xp: Any, inputs: Array, output: Array) -> None:
    """Write 1 / (1 + exp(−inputs)) to `output`."""
    _powers, numerators, denominators = powers_of(xp, inputs)
    xp.divide(numerators, denominators, out=output)


@elementwise
def sigmoid_gradient(xp: Any, dvalues: Array, output: Array, dinputs: Array) -> None:
    """Write dvalues · output · (1 − output), the derivative at the inputs that gave `output`, to `dinputs`."""
    xp.multiply(dvalues, output * (1 - output), out=dinputs)


def sigmoid_bound(inputs: Bounded) -> Bounded:
    """Return 1 / (1 + exp(−inputs))."""
    _powers, numerators, denominators = powers_bound(inputs)
    return (numerators / denominators).stored()


def sigmoid_gradient_bound(dvalues: Bounded, _inputs: Bounded, output: Bounded) -> Bounded:
    """Return dvalues · output · (1 − output), where each of three results is stored."""
    slope = (output * (output.exactly(1.0) - output).stored()).stored()
    return (dvalues * slope).stored()


@elementwise
def gelu(xp: Any, inputs: Array, output: Array) -> None:
    """Write inputs · σ(LINEAR · inputs + CUBIC · inputs³) to `output`."""
    held = xp.clip(inputs, -FAR, FAR)
    _powers, numerators, denominators = powers_of(xp, held * (LINEAR + CUBIC * (held * held)))
    # The least input, −∞ · 0, would be no number.
    xp.multiply(xp.clip(inputs, -FAR, xp.inf), numerators / denominators, out=output)


@elementwise
def gelu_gradient(xp: Any, dvalues: Array, inputs: Array, dinputs: Array) -> None:
    """Write dvalues · (σ + inputs · σ · (1 − σ) · (LINEAR + 3 · CUBIC · inputs²)), with gelu's σ, to `dinputs`."""
    held = xp.clip(inputs, -FAR, FAR)
    squares = held * held
    powers, numerators, denominators = powers_of(xp, held * (LINEAR + CUBIC * squares))
    steepness = powers / (denominators * denominators)  # σ · (1 − σ)
    slope = numerators / denominators + held * (LINEAR + 3 * CUBIC * squares) * steepness
    xp.multiply(dvalues, slope, out=dinputs)


def gelu_bound(inputs: Bounded) -> Bounded:
    """Return inputs · σ(LINEAR · inputs + CUBIC · inputs³)."""
    held = inputs.clip(-FAR, FAR)
    _powers, numerators, denominators = powers_bound(_polynomial(held, (held * held).stored(), CUBIC))
    return (inputs.clip(-FAR, math.inf) * (numerators / denominators).stored()).stored()


def gelu_gradient_bound(dvalues: Bounded, inputs: Bounded, _output: Bounded) -> Bounded:
    """Return dvalues · (σ + inputs · σ · (1 − σ) · (LINEAR + 3 · CUBIC · inputs²))."""
    held = inputs.clip(-FAR, FAR)
    squares = (held * held).stored()
    powers, numerators, denominators = powers_bound(_polynomial(held, squares, CUBIC))
    steepness = (powers / (denominators * denominators).stored()).stored()
    inner = (_polynomial(held, squares, 3 * CUBIC) * steepness).stored()
    return (dvalues * ((numerators / denominators).stored() + inner).stored()).stored()


def _polynomial(held: Bounded, squares: Bounded, cubic: float) -> Bounded:
    """Return held · (LINEAR + cubic · squares); a constant is stored too."""
    factors = ((squares * cubic).stored().stored() + LINEAR).stored().stored()
    return (held * factors).stored()


@register("sigmoid")
class Sigmoid(Activation):
    """The logistic function σ(x) = 1 / (1 + e⁻ˣ); its gradient is σ · (1 − σ).

    Rumelhart, Hinton & Williams, *Learning Representations by Back-Propagating Errors*, Nature 323 (1986).
    """

    formula, gradient = staticmethod(sigmoid), staticmethod(sigmoid_gradient)
    bound, gradient_bound = staticmethod(sigmoid_bound), staticmethod(sigmoid_gradient_bound)
    onnx_operator, torch_class = "Sigmoid", "Sigmoid"


@register("gelu")
class GELU(Activation):
    """Gaussian error linear unit, x · ½(1 + tanh(√(2/π)(x + 0.044715 x³))): the tanh form of x · Φ(x).

    ½(1 + tanh u) is computed as σ(2u), which keeps its digits where it is small.
    Hendrycks & Gimpel, *Gaussian Error Linear Units (GELUs)*, arXiv:1606.08415 (2016).
    """

    needs_inputs, needs_output, takes_biases = True, False, False
    onnx_operator = Counterpart("Gelu", fixed={"approximate": "tanh"}, opset=20)
    torch_class = Counterpart("GELU", fixed={"approximate": "tanh"})
    formula, gradient = staticmethod(gelu), staticmethod(gelu_gradient)
    bound, gradient_bound = staticmethod(gelu_bound), staticmethod(gelu_gradient_bound)
