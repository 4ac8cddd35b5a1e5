"""Running error analysis: the exact value of each tensor, and how far a correct computation of it may be off.

Values and bounds are float64 arrays of the host. Here is the arithmetic alone. Beside their formulas, layers, losses
and optimizers have those written out a second time on purpose, in this arithmetic: what is computed on a device is
held against that, not against itself. Bounds are of first order in the roundoff, in the way of Higham, *Accuracy and
Stability of Numerical Algorithms* (2002), 3.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.parity.tolerances import FUNCTION_ULPS, HALF_BITS, LAMBDA, Roundoff

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

    def exactly(self, value: Any) -> "Bounded":
        """Return `value`, a number or an array of the shape of self, as `exact` does."""
        return self.exact(np.broadcast_to(value, self.value.shape), self.roundoff)

    def one_hot(self, labels: Labels) -> "Bounded":
        """Return the one-hot rows of `labels`, class indices (rows,), of the shape of self."""
        return self.exactly(np.eye(self.value.shape[1])[labels])

    @property
    def tolerance(self) -> Floats:
        """The bound: the worst case, or λ spreads where that is less; 0 where a value is not finite."""
        bound = np.minimum(self.errors[WORST], self.errors[BIAS] + LAMBDA * self.errors[SPREAD])
        return np.where(np.isfinite(self.value), bound, 0.0)

    def __neg__(self) -> "Bounded":
        """Return −self, which rounds nothing."""
        return Bounded(-self.value, self.errors, self.roundoff)

    def __add__(self, other: "Operand") -> "Bounded":
        """Return self + other."""
        b = self._operand(other)
        return self.rounded(self.value + b.value, self.errors + b.errors)

    def __sub__(self, other: "Operand") -> "Bounded":
        """Return self − other."""
        return self + -other

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

    def __matmul__(self, other: "Bounded") -> "Bounded":
        """Return the matrix product."""
        return product(self, other)

    def over_rows(self, other: "Bounded") -> "Bounded":
        """Return selfᵀ · other: for each column of both a sum over the rows of a batch."""
        return product(self.moved(np.transpose), other, over_rows=True)

    def sum_rows(self) -> "Bounded":
        """Return the sums over the rows of a batch, (1, n), taken as a product with ones."""
        return self.exact(np.ones((len(self.value), 1)), self.roundoff).over_rows(self)

    def exp(self) -> "Bounded":
        """Return e to the power of self."""
        value = np.exp(self.value)
        return self.from_function(value, value * np.expm1(self.errors))

    def sqrt(self) -> "Bounded":
        """Return the square root."""
        root = np.sqrt(self.value)
        below = root - np.sqrt(np.maximum(self.value - self.errors, 0))
        return self.rounded(root, np.maximum(below, np.sqrt(self.value + self.errors) - root))

    def log(self, least: float) -> "Bounded":
        """Return the natural logarithm of what is known to be `least` or more, however unsure it is."""
        lowest = np.maximum(self.value - self.errors, least)
        errors = np.maximum(np.log(self.value / lowest), np.log1p(self.errors / self.value))
        return self.from_function(np.log(self.value), errors)

    def tanh(self) -> "Bounded":
        """Return the hyperbolic tangent, which is steepest where self may be closest to 0."""
        steepest = 1 - np.tanh(np.maximum(np.abs(self.value) - self.tolerance, 0)) ** 2
        return self.from_function(np.tanh(self.value), steepest * self.errors)

    def maximum(self, low: float) -> "Bounded":
        """Return max(self, low)."""
        value = np.maximum(self.value, low)
        return self.rounded(value, self.errors) if low else Bounded(value, self.errors, self.roundoff)

    def clip(self, low: float, high: float) -> "Bounded":
        """Return self held between `low` and `high`, which are rounded alike for all elements."""
        value = np.clip(self.value, low, high)
        return Bounded(value, self.errors + self.roundoff.unit * np.abs(value), self.roundoff)

    def where_positive(self, gate: "Bounded", other: "Bounded | None" = None) -> "Bounded":
        """Return self where `gate` is above 0, else `other`, by default 0; where it may be both, either is right."""
        other = self.exactly(0.0) if other is None else other
        above = gate.value > 0
        either = (gate.tolerance > 0) & (np.abs(gate.value) <= gate.tolerance)
        errors = np.where(above, self.errors, other.errors)
        errors = np.where(either, np.maximum(self.errors, other.errors), errors)
        errors[:SPREAD] += np.abs(np.subtract(self.value, other.value, where=either, out=np.zeros(either.shape)))
        return Bounded(np.where(above, self.value, other.value), errors, self.roundoff)

    def argmax_is(self, labels: Labels) -> "Bounded":
        """Return 1 where a row is highest at its label, else 0; where two may be highest, either is right."""
        best, rows = self.value.argmax(axis=1), np.arange(len(labels))
        highest = self.value + self.tolerance
        lowest_of_best = self.value[rows, best] - self.tolerance[rows, best]
        highest[rows, best] = -np.inf
        either = (self.tolerance.max(axis=1) > 0) & (highest.max(axis=1) >= lowest_of_best)
        errors = np.stack([either, either, np.zeros_like(either)]).astype(np.float64)
        return Bounded((best == labels).astype(np.float64), errors, self.roundoff)

    def off_by_at_most(self, most: float) -> "Bounded":
        """Return self, of which it is known that it is off by no more than that."""
        return Bounded(self.value, np.minimum(self.errors, most), self.roundoff)

    def moved(self, view: Callable[[Floats], Floats]) -> "Bounded":
        """Return what `view`, which only picks or moves elements, makes of values and errors."""
        return Bounded(view(self.value), np.stack([view(kind) for kind in self.errors]), self.roundoff)

    @staticmethod
    def joined(parts: Sequence["Bounded"]) -> "Bounded":
        """Return all elements of `parts`, of one roundoff, as one vector."""
        values = np.concatenate([part.value.ravel() for part in parts])
        errors = np.concatenate([part.errors.reshape(3, -1) for part in parts], axis=1)
        return Bounded(values, errors, parts[0].roundoff)

    def rounded(self, value: Floats, errors: Floats) -> "Bounded":
        """Return `value`, with `errors` and one rounding to nearest."""
        r = self.roundoff
        largest = np.abs(value) + errors
        return Bounded(value, errors + _shares(largest, r.unit, 0, r.unit) + r.underflow, r)

    def from_function(self, value: Floats, errors: Floats) -> "Bounded":
        """Return `value`, with `errors` and the error of exp, log or tanh, the same for the same argument."""
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
        if r.operand_bits < HALF_BITS:
            fits &= np.ldexp(np.frexp(self.value)[0], r.operand_bits) % 1 == 0
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
