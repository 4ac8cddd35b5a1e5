"""The logistic function as an activation, and the activation that weighs its input by a sigmoid of it.

The formulas work in place where they can: on a CPU more arrays than its cache holds cost more than what is computed.
"""

import math
from typing import Any

from fmnist_xp.backend import Array, elementwise
from fmnist_xp.nn.activations import Activation
from fmnist_xp.nn.module import Bounded, Counterpart
from fmnist_xp.registry import register

LINEAR, CUBIC = math.sqrt(2 / math.pi), math.sqrt(2 / math.pi) * 0.044715
"""GELU is ½x(1 + tanh(LINEAR · x + CUBIC · x³))."""
FAR = 8.0
"""Where that tanh is 1 or −1 in every precision; a number beyond could overflow in its cube."""


@elementwise
def sigmoid(xp: Any, inputs: Array, output: Array) -> None:
    """Write 1 / (1 + exp(−inputs)) to `output`, from e = exp(−|inputs|), which cannot overflow."""
    powers = xp.abs(inputs)
    xp.exp(xp.negative(powers, out=powers), out=powers)
    xp.maximum(powers, inputs >= 0, out=output)  # 1, or e below 0
    xp.divide(output, xp.add(powers, 1, out=powers), out=output)


@elementwise
def sigmoid_gradient(xp: Any, dvalues: Array, output: Array, dinputs: Array) -> None:
    """Write dvalues · output · (1 − output), the derivative at the inputs that gave `output`, to `dinputs`."""
    xp.multiply(dvalues, output * (1 - output), out=dinputs)


def sigmoid_bound(inputs: Bounded) -> Bounded:
    """Return 1 / (1 + exp(−inputs)), from e = exp(−|inputs|)."""
    powers, one = (-inputs.moved(abs)).exp().stored(), inputs.exactly(1.0)
    return (powers.where_positive(-inputs, one) / (one + powers).stored()).stored()


def sigmoid_gradient_bound(dvalues: Bounded, _inputs: Bounded, output: Bounded) -> Bounded:
    """Return dvalues · output · (1 − output), where each of three results is stored."""
    slope = (output * (output.exactly(1.0) - output).stored()).stored()
    return (dvalues * slope).stored()


def gelu_arguments(xp: Any, inputs: Array) -> tuple[Array, Array]:
    """Return x, `inputs` held between −FAR and FAR, and LINEAR · x + CUBIC · x³, in new arrays."""
    held = xp.clip(inputs, -FAR, FAR)
    values = held * held
    xp.add(xp.multiply(values, CUBIC, out=values), LINEAR, out=values)
    return held, xp.multiply(values, held, out=values)


@elementwise
def gelu(xp: Any, inputs: Array, output: Array) -> None:
    """Write ½ · inputs · (1 + tanh(LINEAR · inputs + CUBIC · inputs³)) to `output`."""
    held, values = gelu_arguments(xp, inputs)
    xp.add(xp.tanh(values, out=values), 1, out=values)
    xp.multiply(values, 0.5, out=values)
    xp.clip(inputs, -FAR, xp.inf, out=held)  # else the least input, −∞ · 0, would be no number
    xp.multiply(held, values, out=output)


@elementwise
def gelu_gradient(xp: Any, dvalues: Array, inputs: Array, dinputs: Array) -> None:
    """Write dvalues · ½(1 + t + x · (1 − t²) · v′), where t is the tanh in gelu and v′ = LINEAR + 3 · CUBIC · x²."""
    held, values = gelu_arguments(xp, inputs)
    tanh = xp.tanh(values)
    xp.multiply(values, 3, out=values)
    xp.subtract(values, xp.multiply(held, 2 * LINEAR, out=held), out=values)  # x · v′ = 3v − 2 · LINEAR · x
    xp.subtract(1, xp.multiply(tanh, tanh, out=held), out=held)
    xp.add(xp.multiply(values, held, out=values), tanh, out=values)
    xp.multiply(xp.add(values, 1, out=values), 0.5, out=values)
    xp.multiply(dvalues, values, out=dinputs)


def gelu_bound(inputs: Bounded) -> Bounded:
    """Return ½ · inputs · (1 + tanh(LINEAR · inputs + CUBIC · inputs³)); constants are stored too."""
    tanh = _gelu_values(inputs).tanh().stored()
    halves = (tanh + tanh.exactly(1.0)).stored() * 0.5
    return (inputs.clip(-FAR, math.inf) * halves.stored()).stored()


def gelu_gradient_bound(dvalues: Bounded, inputs: Bounded, _output: Bounded) -> Bounded:
    """Return dvalues · ½(1 + t + x · (1 − t²) · v′), where t is the tanh in gelu and v′ = LINEAR + 3 · CUBIC · x²."""
    held, values = inputs.clip(-FAR, FAR), _gelu_values(inputs)
    tanh, one = values.tanh().stored(), values.exactly(1.0)
    slopes = ((values * 3.0).stored() - (held * (2 * LINEAR)).stored().stored()).stored()
    inner = (slopes * (one - (tanh * tanh).stored()).stored()).stored()
    halves = (((inner + tanh).stored() + one).stored() * 0.5).stored()
    return (dvalues * halves).stored()


def _gelu_values(inputs: Bounded) -> Bounded:
    held = inputs.clip(-FAR, FAR)
    factors = (((held * held).stored() * CUBIC).stored().stored() + LINEAR).stored().stored()
    return (factors * held).stored()


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
    """Gaussian error linear unit, ½x(1 + tanh(√(2/π)(x + 0.044715 x³))): the tanh form of x · Φ(x).

    Hendrycks & Gimpel, *Gaussian Error Linear Units (GELUs)*, arXiv:1606.08415 (2016).
    """

    needs_inputs, needs_output, takes_biases = True, False, False
    onnx_operator = Counterpart("Gelu", fixed={"approximate": "tanh"}, opset=20)
    torch_class = Counterpart("GELU", fixed={"approximate": "tanh"})
    formula, gradient = staticmethod(gelu), staticmethod(gelu_gradient)
    bound, gradient_bound = staticmethod(gelu_bound), staticmethod(gelu_gradient_bound)
