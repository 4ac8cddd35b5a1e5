"""The one table that every tolerance comes from: how each precision rounds, and how roundings add up.

Nothing here is fitted to what was measured. docs/parity.md has the same table in words, with its sources.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

LAMBDA = 8.0
"""How many times their own size roundings may add up to, beyond what they have in common.

Roundings to nearest have no common sign. A sum of such errors, the i-th at most eᵢ, exceeds λ·√Σeᵢ² with a
probability of at most 2·exp(−λ²/2) (Hoeffding's inequality); so a sum of n terms is off by more than λ·√n·u·Σ|terms|
with one of at most 2n·exp(−λ²/2) (Higham & Mary, *A New Approach to Probabilistic Rounding Error Analysis*, SIAM J.
Sci. Comput. 41, 2019). With 8, one of 10⁶ sums of 784 terms fails with a probability of 2·10⁻⁵.
"""

FUNCTION_ULPS = 4.0
"""Error of exp, log, tanh in units of the last place: NumPy's SIMD code has up to 3.8 in float32, CUDA's up to 2."""

LOSS_ROUNDINGS = 20.0
"""Roundings in one sample's loss: exp and log with 8·u each, subtraction, sum, division, mean.

Samples with the same probability have the same error, so the mean over all samples does not average it away. What
their sum, which is of float64 in every precision, loses comes on top: see `sum_error`.
"""

LOSS_OPERANDS = 6.0
"""Operands rounded on the way to one sample's loss: two in each of three products."""

DRIFT = 10.0
"""How many times as far as twins drift from their original a device may drift from the reference.

The drift is a random number times how much a disturbance grows. Of three draws from one normal distribution, the
first is 10 times as large as both others in less than 1 % of cases, and the growth along all epochs so far counts.
"""

HALF_BITS = 11
"""Significant bits of a number in half precision."""

PARTED = 0.01
"""Share of the loss by which two curves differ where they part: what a picture shows."""


def sum_error(terms: int, unit: float) -> float:
    """Return the bound on the error of a sum of `terms` in any order, as a share of the sum of their sizes."""
    return min(terms, LAMBDA * math.sqrt(terms)) * unit


class Roundoff(NamedTuple):
    """How a precision rounds, as bounds on relative errors.

    `unit` is that of each element-wise result. `operand` is that of a number on its way into a product (0: it goes in
    as it is), and `operand_bias` what all operands lose besides. `addition` is that of each addition in a product,
    to nearest or, where `cut` is set, towards 0. `stored` is that of an activation between layers, beyond `unit`.
    `underflow` is the absolute error of a result too small for the dtype of `unit`, `stored_underflow` of an operand
    or activation. An operand of up to `operand_bits` significant bits goes into a product as it is.
    """

    unit: float
    operand: float
    operand_bias: float
    addition: float
    cut: bool
    stored: float
    underflow: float
    stored_underflow: float
    operand_bits: int = HALF_BITS

    @property
    def disturbance(self) -> float:
        """The relative error of the coarsest rounding: of a result, or of an operand."""
        return max(self.unit, self.operand + self.operand_bias)

    @property
    def loss(self) -> float:
        """The bound on the error of a loss, as a share of loss + 1."""
        return LOSS_ROUNDINGS * self.unit + LOSS_OPERANDS * (self.operand + self.operand_bias)


# Results below the smallest normal number: gradual underflow errs by less, but a device may flush them to zero.
_UNDERFLOW_32, _UNDERFLOW_64 = 2.0**-126, 2.0**-1022

ROUNDOFF: Mapping[str, Roundoff] = MappingProxyType(
    {
        # IEEE 754, round to nearest: u = 2^-p for p bits of precision. BLAS and cuBLAS sum in orders of their own.
        "float64": Roundoff(2.0**-53, 0.0, 0.0, 2.0**-53, False, 0.0, _UNDERFLOW_64, 0.0),
        "float32": Roundoff(2.0**-24, 0.0, 0.0, 2.0**-24, False, 0.0, _UNDERFLOW_32, 0.0),
        # Tensor cores read the first 10 bits of the mantissa: what is cut off is between 0 and 2^-10, so 2^-11 for
        # all and at most 2^-11 more or less. In their float32 sums they cut off too (Fasi, Higham, Mikaitis and
        # Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330, 2021).
        "tf32": Roundoff(2.0**-24, 2.0**-11, 2.0**-11, 2.0**-23, True, 0.0, _UNDERFLOW_32, 0.0),
        # Halves are made by a conversion of their own, to nearest, also below the smallest normal one.
        "float16": Roundoff(2.0**-24, 2.0**-11, 0.0, 2.0**-23, True, 2.0**-11, _UNDERFLOW_32, 2.0**-25),
    }
)

FUSED: Mapping[str, Roundoff] = MappingProxyType(
    {
        # An activation is rounded once, and enters a product as it is stored.
        "float16": ROUNDOFF["float16"],
        "bfloat16": Roundoff(2.0**-24, 2.0**-8, 0.0, 2.0**-23, True, 2.0**-8, _UNDERFLOW_32, _UNDERFLOW_32, 8),
        # Three bfloat16 have all 24 bits of a float32, of which the second and the third are at most 2^-8 and 2^-16.
        # Of a product the three smallest terms are left out: at most 2 · 2^-24 + 2^-32. Six products are cut off
        # where there was one, each at most 2^-24 of the largest for itself, and 2^-23 of the sum for eight of them.
        "float32": Roundoff(
            *(2.0**-24, 2.0**-24 + 2.0**-32, 0.0, 6 * 1.25 * 2.0**-24, True),
            *(0.0, _UNDERFLOW_32, _UNDERFLOW_32),
        ),
    }
)
"""Those of an epoch by the fused engine."""
