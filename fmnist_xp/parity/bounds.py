"""Running error analysis: the exact value of each tensor, and how far a correct computation of it may be off.

Values and bounds are float64 arrays of the host. The formulas are those of the layers, losses and optimizers, written
out a second time on purpose: what is computed on a device is held against this, not against itself. Bounds are of
first order in the roundoff, in the way of Higham, *Accuracy and Stability of Numerical Algorithms* (2002), 3.3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.nn.losses import CLIP
from fmnist_xp.parity.tolerances import FUNCTION_ULPS, LAMBDA, Roundoff

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
WORST, BIAS, SPREAD = range(3)


@dataclass(frozen=True, eq=False)
class Bounded:
    """Exact values, bounds on the errors of the computed ones, and the roundoff of the computation.

    `errors` has a leading axis of three: the worst case (WORST), where all roundings add up; and the same errors in
    two parts, what they may have in common (BIAS) and what has no common sign (SPREAD). The spreads of a long sum add
    up as the root of their squares, all else in full. Operators give the bounded result of one rounded operation; a
    Python number among the operands is rounded too.
    """

    value: Floats
    errors: Floats
    roundoff: Roundoff

    @classmethod
    def exact(cls, value: Any, roundoff: Roundoff) -> "Bounded":
        """Return `value`, which every device starts from in the same bits."""
        values = np.asarray(value, dtype=np.float64)
        return cls(values, np.zeros((3, *values.shape)), roundoff)

    @property
    def tolerance(self) -> Floats:
        """The bound: the worst case, or λ spreads where that is less."""
        bound: Floats = np.minimum(self.errors[WORST], self.errors[BIAS] + LAMBDA * self.errors[SPREAD])
        return bound

    def __add__(self, other: "Operand") -> "Bounded":
        """Return self + other."""
        b = self._operand(other)
        return self.rounded(self.value + b.value, self.errors + b.errors)

    def __sub__(self, other: "Operand") -> "Bounded":
        """Return self − other."""
        b = self._operand(other)
        return self.rounded(self.value - b.value, self.errors + b.errors)

    def __mul__(self, other: "Operand") -> "Bounded":
        """Return self · other."""
        b = self._operand(other)
        errors = np.abs(self.value) * b.errors + np.abs(b.value) * self.errors + self.errors * b.errors
        return self.rounded(self.value * b.value, errors)

    def __truediv__(self, other: "Operand") -> "Bounded":
        """Return self / other, unbounded where `other` may be 0."""
        b = self._operand(other)
        quotient = self.value / b.value
        room = np.abs(b.value) - b.tolerance
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.where(room > 0, (self.errors + np.abs(quotient) * b.errors) / room, np.inf)
        return self.rounded(quotient, errors)

    def exp(self) -> "Bounded":
        """Return e to the power of self."""
        value = np.exp(self.value)
        return self.from_function(value, value * np.expm1(self.errors))

    def sqrt(self) -> "Bounded":
        """Return the square root."""
        root = np.sqrt(self.value)
        below = root - np.sqrt(np.maximum(self.value - self.errors, 0))
        return self.rounded(root, np.maximum(below, np.sqrt(self.value + self.errors) - root))

    def moved(self, view: Callable[[Floats], Floats]) -> "Bounded":
        """Return what `view`, which only picks or moves elements, makes of values and errors."""
        return Bounded(view(self.value), np.stack([view(kind) for kind in self.errors]), self.roundoff)

    def rounded(self, value: Floats, errors: Floats) -> "Bounded":
        """Return `value`, with `errors` and one rounding to nearest."""
        r = self.roundoff
        largest = np.abs(value) + errors
        return Bounded(value, errors + _shares(largest, r.unit, 0, r.unit) + r.underflow, r)

    def from_function(self, value: Floats, errors: Floats) -> "Bounded":
        """Return `value`, with `errors` and the error of exp or log, which is the same for the same argument."""
        r = self.roundoff
        largest, share = np.abs(value) + errors, 2 * FUNCTION_ULPS * r.unit
        return Bounded(value, errors + _shares(largest, share, share, 0) + r.underflow, r)

    def stored(self) -> "Bounded":
        """Return self as an activation between layers."""
        r = self.roundoff
        rounding = _shares(np.abs(self.value) + self.errors, r.stored, 0, r.stored)
        return Bounded(self.value, self.errors + rounding + r.stored_underflow, r)

    def sum(self, axis: int | None = None, keepdims: bool = False) -> "Bounded":
        """Return the sum along `axis` of element-wise results, whose errors may have a cause in common."""
        axes = tuple(range(self.value.ndim)) if axis is None else (axis,)
        terms = int(np.prod([self.value.shape[axis] for axis in axes]))
        value = np.sum(self.value, axis=axes, keepdims=keepdims)
        errors = np.sum(self.errors, axis=tuple(axis + 1 for axis in axes), keepdims=keepdims)
        size = np.sum(np.abs(self.value), axis=axes, keepdims=keepdims) + errors
        r = self.roundoff
        errors = errors + _additions(size, terms, r.unit, cut=False) + terms * r.underflow
        return Bounded(np.asarray(value), errors, r)

    def operand_errors(self) -> Floats:
        """Return the errors with which self goes into a product."""
        r = self.roundoff
        if not r.operand:
            return self.errors
        # What all devices have in the same bits, and in few enough of them, goes in as it is.
        with np.errstate(over="ignore"):
            fits = (self.errors[WORST] == 0) & (self.value.astype(np.float16) == self.value)
        size = np.abs(self.value) + self.errors
        errors = self.errors + _shares(size, r.operand + r.operand_bias, 0, r.operand)
        return np.where(fits, 0.0, errors + r.stored_underflow)

    def _operand(self, other: "Operand") -> "Bounded":
        if isinstance(other, Bounded):
            return other
        value = np.full((1,) * self.value.ndim, float(other))
        return Bounded(value, np.broadcast_to(self.roundoff.unit * np.abs(value), (3, *value.shape)), self.roundoff)


Operand = Bounded | float


def _shares(size: Floats, worst: float, bias: float, spread: float) -> Floats:
    """Return errors that are shares of `size`, whose leading axis is that of the three kinds."""
    shares = np.zeros_like(size)
    for kind, share in ((WORST, worst), (BIAS, bias), (SPREAD, spread)):
        if share:  # a share of nothing is nothing, also of a size without bound
            shares[kind] = share * size[kind]
    return shares


def _additions(size: Floats, terms: int, unit: float, *, cut: bool) -> Floats:
    """Return the errors of summing `terms` numbers whose absolute values sum up to `size`, in whatever order."""
    worst = terms * unit / (1 - terms * unit)
    return _shares(size, worst, worst, 0) if cut else _shares(size, worst, 0, np.sqrt(terms) * unit)


def product(a: Bounded, b: Bounded, *, over_rows: bool = False) -> Bounded:
    """Return a · b; the errors of its sums are shares of Σ|a||b|, however much of that cancels.

    Over the rows of a batch, which have seen the same weights rounded alike, spreads add up in full.
    """
    r, terms = a.roundoff, a.value.shape[1]
    a_errors, b_errors = a.operand_errors(), b.operand_errors()
    a_size, b_size = np.abs(a.value), np.abs(b.value)
    errors = a_errors @ (b_size + b_errors) + a_size @ b_errors
    if not (over_rows and r.operand):
        a_spread, b_spread = a_errors[SPREAD], b_errors[SPREAD]
        errors[SPREAD] = np.sqrt(a_spread**2 @ (b_size + b_spread) ** 2 + a_size**2 @ b_spread**2)
    value = a.value @ b.value
    # What all operands of one side lose alike, the product loses too.
    errors[BIAS] += r.operand_bias * np.abs(value) * 2
    errors += _additions((a_size + a_errors) @ (b_size + b_errors), terms, r.addition, cut=r.cut)
    return Bounded(value, errors + terms * r.underflow, r)


def dense(inputs: Bounded, weights: Bounded, biases: Bounded, wide_output: bool = False) -> Bounded:
    """Return inputs · weights + biases; a hidden layer's is stored, before and after the bias."""
    if wide_output:
        return product(inputs, weights) + biases
    return (product(inputs, weights).stored() + biases).stored()


def dense_gradients(inputs: Bounded, weights: Bounded, dvalues: Bounded) -> tuple[Bounded, Bounded, Bounded]:
    """Return dinputs, dweights and dbiases, without penalties."""
    ones = Bounded.exact(np.ones((1, len(dvalues.value))), dvalues.roundoff)
    dinputs = product(dvalues, weights.moved(np.transpose)).stored()
    return (
        dinputs,
        product(inputs.moved(np.transpose), dvalues, over_rows=True),
        product(ones, dvalues, over_rows=True),
    )


def penalty_gradient(values: Bounded, l1: float, l2: float) -> Bounded:
    """Return the gradient of l1·Σ|v| + l2·Σv² for exact `values`; the slope of |v| at 0 is +1."""
    sign = Bounded.exact(np.where(values.value < 0, -1.0, 1.0), values.roundoff)
    return sign * l1 + values * (2 * l2)


def penalty(values: Bounded, l1: float, l2: float) -> Bounded:
    """Return l1·Σ|v| + l2·Σv²."""
    return values.moved(np.abs).sum() * l1 + (values * values).sum() * l2


def relu(inputs: Bounded) -> Bounded:
    """Return max(inputs, 0), which rounds nothing."""
    return Bounded(np.maximum(inputs.value, 0), inputs.errors, inputs.roundoff)


def relu_gradient(dvalues: Bounded, inputs: Bounded) -> Bounded:
    """Return `dvalues` where `inputs` are above 0; where an input may lie on either side, either is right."""
    above = inputs.value > 0
    either = (inputs.tolerance > 0) & (np.abs(inputs.value) <= inputs.tolerance)
    errors = np.where(above | either, dvalues.errors, 0.0)
    errors[:SPREAD] += np.where(either, np.abs(dvalues.value), 0.0)
    return Bounded(np.where(above, dvalues.value, 0.0), errors, dvalues.roundoff)


def softmax(inputs: Bounded) -> Bounded:
    """Return exp(x − max) over its row sum; a probability is never off by more than 1."""
    largest = inputs.moved(lambda array: array.max(axis=1, keepdims=True))
    powers = (inputs - largest).exp()
    output = powers / powers.sum(axis=1, keepdims=True)
    return Bounded(output.value, np.minimum(output.errors, 1.0), output.roundoff)


def softmax_gradient(dvalues: Bounded, output: Bounded) -> Bounded:
    """Return output · (dvalues − Σ dvalues·output)."""
    return output * (dvalues - (dvalues * output).sum(axis=1, keepdims=True))


def sample_losses(predictions: Bounded, labels: Labels) -> Bounded:
    """Return −log of the true class's probability, clipped to [CLIP, 1 − CLIP]."""
    true = predictions.moved(lambda array: array[np.arange(len(labels)), labels])
    clipped = np.clip(true.value, CLIP, 1 - CLIP)
    errors = true.errors + predictions.roundoff.unit * clipped  # the ends of the range are rounded too
    lowest = np.maximum(clipped - errors, CLIP / 2)
    return true.from_function(-np.log(clipped), np.maximum(np.log(clipped / lowest), np.log1p(errors / clipped)))


def correct(predictions: Bounded, labels: Labels) -> Bounded:
    """Return 1 where the true class has the highest probability, else 0; either is right where two may be highest."""
    best = predictions.value.argmax(axis=1)
    rows = np.arange(len(labels))
    highest = predictions.value + predictions.tolerance
    lowest_of_best = predictions.value[rows, best] - predictions.tolerance[rows, best]
    highest[rows, best] = -np.inf
    either = (predictions.tolerance.max(axis=1) > 0) & (highest.max(axis=1) >= lowest_of_best)
    errors = np.stack([either, either, np.zeros_like(either)]).astype(np.float64)
    return Bounded((best == labels).astype(np.float64), errors, predictions.roundoff)


def crossentropy_gradient(predictions: Bounded, one_hot: Floats, samples: int) -> Bounded:
    """Return −y/ŷ / samples for exact predictions."""
    held = predictions.rounded(np.maximum(predictions.value, CLIP), predictions.errors)
    return Bounded.exact(-one_hot, predictions.roundoff) * (1 / samples) / held


def softmax_crossentropy_gradient(probabilities: Bounded, one_hot: Floats, samples: int) -> Bounded:
    """Return (ŷ − y) / samples."""
    return (probabilities - Bounded.exact(one_hot, probabilities.roundoff)) * (1 / samples)


class Update:
    """An optimizer's updates of one vector, written out: `config` is that of the optimizer, with its `moments`."""

    def __init__(self, config: dict[str, float], parameters: Bounded) -> None:
        self.config = config
        self.parameters = parameters
        zeros = Bounded.exact(np.zeros_like(parameters.value), parameters.roundoff)
        self.velocity = self.mean = self.square = zeros
        self.iterations = 0

    def step(self, gradients: Bounded) -> Bounded:
        """Make one update and return the parameters."""
        config, t = self.config, self.iterations
        rate = config["learning_rate"] / (1 + config["decay"] * t)
        if "beta_1" in config:
            step = self._adam(gradients, config["beta_1"], config["beta_2"], config["epsilon"], t + 1) * rate
            self.parameters = self.parameters - step
        elif config["momentum"]:
            self.velocity = self.velocity * config["momentum"] - gradients * rate
            self.parameters = self.parameters + self.velocity
        else:
            self.parameters = self.parameters - gradients * rate
        self.iterations += 1
        return self.parameters

    def _adam(self, g: Bounded, beta_1: float, beta_2: float, epsilon: float, t: int) -> Bounded:
        self.mean = self.mean + (g - self.mean) * (1 - beta_1)
        self.square = self.square + (g * g - self.square) * (1 - beta_2)
        root = (self.square / (1 - beta_2**t)).sqrt()
        step = self.mean / (1 - beta_1**t) / (root + epsilon)
        # |m̂| ≤ √ĉ in the first update, so there the quotient lies in [−1, 1], however unsure its parts are.
        return Bounded(step.value, np.minimum(step.errors, 2.0), step.roundoff) if t == 1 else step
