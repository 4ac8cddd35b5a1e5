"""Rounding to the formats of PTX.

Values are held as NumPy arrays: f64 as float64, f32 as float32, f16 as float16; bf16 as the bits in uint16 and tf32
as the bits in uint32. A sum that float64 cannot hold is its head and its tail (what the head lacks): rounded to odd,
they are one float64 that every narrower format rounds as it would round the exact sum, for float64 has the two bits
more that this takes.

Modes: "rn" to nearest, ties to even; "rna" to nearest, ties away from zero; "rz" toward zero; "rm" down; "rp" up.

NumPy's warnings of overflow and invalid operations are not silenced here, as that would cost each instruction a
microsecond: call these functions inside `np.errstate(all="ignore")`.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np

F32_MIN_NORMAL = np.float32(2.0**-126)
F16_MIN_NORMAL = np.float16(2.0**-14)
NAN32 = np.array(0x7FFFFFFF, np.uint32).view(np.float32)[()]  # the canonical NaNs
NAN16 = np.array(0x7FFF, np.uint16).view(np.float16)[()]
NAN_BF16 = np.uint16(0x7FFF)
NAN_TF32 = np.uint32(0x7FFFFFFF)

_BOUND = {"rz": 0.0, "rm": -np.inf, "rp": np.inf}  # where a directed rounding steps to
_NATIVE = {"f16": np.float16, "f32": np.float32}
_DROPPED = {"bf16": 16, "tf32": 13}  # bits that the format has less than float32


def two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded sum and what it lacks (Knuth)."""
    head = a + b
    shadow = head - a
    return head, (a - (head - shadow)) + (b - shadow)


def odd(head: np.ndarray, tail: np.ndarray) -> np.ndarray:
    """head + tail, rounded to odd: where it is inexact, of the two neighbours the one with an odd last bit."""
    if not np.any(tail):
        return head
    bits = head.view(np.int64)
    inexact = (tail != 0) & np.isfinite(head) & ((bits & 1) == 0)
    toward = np.where(np.signbit(head) == np.signbit(tail), 1, -1)  # bits grow with the magnitude
    return (bits + toward * inexact).view(np.float64)


def round_bits(bits: np.ndarray, dropped: int, rounding: str) -> np.ndarray:
    """float32 bits (no NaN), rounded to the multiples of 2**dropped; a carry runs into the exponent, as it should."""
    below = np.uint32((1 << dropped) - 1)
    match rounding:
        case "rn":
            bits = bits + (below >> np.uint32(1)) + ((bits >> np.uint32(dropped)) & np.uint32(1))
        case "rna":
            bits = bits + np.uint32(1 << (dropped - 1))
        case "rm":
            bits = bits + below * (bits >> np.uint32(31))
        case "rp":
            bits = bits + below * (bits >> np.uint32(31) ^ np.uint32(1))
        case "rz":
            pass
        case _:
            raise ValueError(f"no such rounding: {rounding}")
    return bits & ~below


def narrow(x: np.ndarray, to: str, rounding: str = "rn") -> np.ndarray:
    """float64 (or float32), rounded once to f32, f16, bf16 or tf32; NaN becomes canonical in bf16 and tf32."""
    if to in _NATIVE:
        rounded = x.astype(_NATIVE[to])
        if rounding == "rn":
            return rounded
        bound = _BOUND[rounding]
        match rounding:
            case "rz":
                beyond = np.abs(rounded) > np.abs(x)
            case "rm":
                beyond = rounded > x
            case "rp":
                beyond = rounded < x
        return np.where(beyond, np.nextafter(rounded, _NATIVE[to](bound)), rounded)
    bits = round_bits((_odd32(x) if x.dtype == np.float64 else x).view(np.uint32), _DROPPED[to], rounding)
    if to == "bf16":
        return np.where(np.isnan(x), NAN_BF16, (bits >> np.uint32(16)).astype(np.uint16))
    return np.where(np.isnan(x), NAN_TF32, bits)


def _odd32(x: np.ndarray) -> np.ndarray:
    """float64 to float32, rounded to odd."""
    magnitude = np.abs(x)
    if (((magnitude < F32_MIN_NORMAL) & (x != 0)) | (magnitude >= 2.0**128)).any():
        cut = narrow(x, "f32", "rz")
        return (cut.view(np.uint32) | ((cut != x) & np.isfinite(x))).view(np.float32)
    bits = x.view(np.int64)
    beyond = (1 << 29) - 1  # the bits that float32 has not; any of them carries into its last
    return ((bits | (bits & beyond) + beyond) & ~beyond).view(np.float64).astype(np.float32)


def widen(x: np.ndarray, of: str) -> np.ndarray:
    """A value of f16, bf16, tf32 or f32 as float32, exactly; float64 stays."""
    match of:
        case "bf16":
            return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
        case "tf32":
            return (x & np.uint32(0xFFFFE000)).view(np.float32)
        case "f16":
            return x.astype(np.float32)
    return x


def flush(x: np.ndarray) -> np.ndarray:
    """Subnormal f32 (or f16) to zero of the same sign."""
    smallest = F32_MIN_NORMAL if x.dtype == np.float32 else F16_MIN_NORMAL
    return x * (np.abs(x) >= smallest)


def saturate_unit(x: np.ndarray) -> np.ndarray:
    """Clamp to [0, 1], NaN to +0."""
    return np.fmin(np.fmax(x, x.dtype.type(0)), x.dtype.type(1)) + x.dtype.type(0)  # -0 + 0 is +0


def zero_down(zero: np.ndarray, a: np.ndarray, b: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """A sum rounded down: where it is exactly zero, it is -0, but for +0 + +0."""
    return np.where(zero, np.where(np.signbit(a) | np.signbit(b), -otherwise.dtype.type(0), 0), otherwise)


def direct64(
    nearest: np.ndarray,
    rounding: str,
    error: Callable[..., Fraction],
    operands: tuple[np.ndarray, ...],
    addends: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Results of float64 rounded to nearest, rounded in another direction, one by one in rational numbers.

    error(nearest, *operands) gives what the exact result has more than the rounded one, or any number of its sign; it
    is asked for finite operands only. Of a sum, addends have the signs of its terms. These modes are rare, and may be
    slow.
    """
    operands = np.broadcast_arrays(*operands)
    directed = nearest.copy()
    exact = np.zeros(nearest.shape, bool)
    finite = np.logical_and.reduce([np.isfinite(x) for x in operands]) & ~np.isnan(nearest)
    for i in zip(*finite.nonzero(), strict=True):
        value = float(nearest[i])
        if np.isinf(value):
            beyond = 1 if value > 0 else -1
        else:
            more = error(Fraction(value), *(Fraction(float(x[i])) for x in operands))
            beyond = (more < 0) - (more > 0)  # where the rounded value lies, seen from the exact one
        exact[i] = beyond == 0
        match rounding:
            case "rm" if beyond > 0:
                directed[i] = np.nextafter(value, -np.inf)
            case "rp" if beyond < 0:
                directed[i] = np.nextafter(value, np.inf)
            case "rz" if beyond * np.copysign(1, value) > 0:
                directed[i] = np.nextafter(value, 0)
    if rounding == "rm" and addends is not None:
        return zero_down(exact & (nearest == 0), *addends, otherwise=directed)
    return directed
