"""What the instructions of PTX compute on f32 and f64, correctly rounded.

Definitions: NVIDIA's PTX ISA manual, "Floating Point Instructions". A NaN that the manual leaves unspecified is some
NaN here. Arrays have one element per thread; a NumPy scalar stands for the same value in all of them.

The approximate instructions are in `ptx.approximate`, f16 and bf16 in `ptx.halves`, cvt in `ptx.conversions`; their
functions can be had from here too. Call all of them inside `np.errstate(all="ignore")` (see `ptx.rounding`).
"""

from fractions import Fraction

import numpy as np

from ptx.approximate import (
    cos32,
    divide_approx32,
    divide_full32,
    ex2_32,
    lg2_32,
    rcp_approx32,
    rcp_approx_ftz64,
    rsqrt32,
    rsqrt64,
    rsqrt_approx_ftz64,
    sin32,
    sqrt_approx32,
    tanh32,
)
from ptx.conversions import convert, convert_pair
from ptx.rounding import NAN32, direct64, flush, narrow, odd, saturate_unit, two_sum, zero_down

__all__ = [
    "NAN32",
    "abs32",
    "abs64",
    "add32",
    "add64",
    "compare",
    "convert",
    "convert_pair",
    "copysign",
    "cos32",
    "div32",
    "div64",
    "ex2_32",
    "flush",
    "fma32",
    "fma64",
    "lg2_32",
    "max32",
    "max64",
    "min32",
    "min64",
    "mul32",
    "mul64",
    "neg32",
    "neg64",
    "rcp32",
    "rcp64",
    "rcp_approx_ftz64",
    "rsqrt32",
    "rsqrt64",
    "rsqrt_approx_ftz64",
    "sin32",
    "sqrt32",
    "sqrt64",
    "sub32",
    "sub64",
    "tanh32",
    "testp",
]


def _finish32(result: np.ndarray, ftz: bool, saturate: bool) -> np.ndarray:
    if ftz:
        result = flush(result)
    return saturate_unit(result) if saturate else result


def add32(
    a: np.ndarray, b: np.ndarray, rounding: str = "rn", ftz: bool = False, saturate: bool = False
) -> np.ndarray:
    if ftz:
        a, b = flush(a), flush(b)
    if rounding == "rn":
        result = a + b
    else:
        result = narrow(odd(*two_sum(a.astype(np.float64), b.astype(np.float64))), "f32", rounding)
        if rounding == "rm":
            result = zero_down(result == 0, a, b, otherwise=result)
    return _finish32(result, ftz, saturate)


def sub32(
    a: np.ndarray, b: np.ndarray, rounding: str = "rn", ftz: bool = False, saturate: bool = False
) -> np.ndarray:
    return add32(a, -b, rounding, ftz, saturate)


def mul32(
    a: np.ndarray, b: np.ndarray, rounding: str = "rn", ftz: bool = False, saturate: bool = False
) -> np.ndarray:
    if ftz:
        a, b = flush(a), flush(b)
    result = a * b if rounding == "rn" else narrow(a.astype(np.float64) * b, "f32", rounding)
    return _finish32(result, ftz, saturate)


def fma32(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, rounding: str = "rn", ftz: bool = False, saturate: bool = False
) -> np.ndarray:
    """a * b + c, rounded once. float64 holds the product exactly, and most sums well enough."""
    if ftz:
        a, b, c = flush(a), flush(b), flush(c)
    product, addend = a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64)
    total = product + addend
    if rounding == "rn":
        result = total.astype(np.float32)
        # Two roundings differ from one only where the first makes a tie: its last 28 bits are zero.
        perhaps = (total.view(np.int64) & 0xFFFFFFF) == 0
        if perhaps.any():
            _, tail = two_sum(product, addend)
            twice = (perhaps & (tail != 0)).nonzero()
            if twice[0].size:
                result[twice] = odd(total[twice], tail[twice]).astype(np.float32)
    else:
        result = narrow(odd(*two_sum(product, addend)), "f32", rounding)
        if rounding == "rm":
            result = zero_down(total == 0, product, addend, otherwise=result)
    return _finish32(result, ftz, saturate)


def div32(a: np.ndarray, b: np.ndarray, kind: str = "rn", ftz: bool = False) -> np.ndarray:
    """kind: a rounding mode, "full" or "approx"."""
    if kind == "full":
        return divide_full32(a, b, ftz)
    if kind == "approx":
        return divide_approx32(a, b, ftz)
    if ftz:
        a, b = flush(a), flush(b)
    # No quotient of 24 bits by 24 bits is so near a number of 25 bits that float64 takes it for that number.
    result = a / b if kind == "rn" else narrow(a.astype(np.float64) / b, "f32", kind)
    return _finish32(result, ftz, False)


def rcp32(a: np.ndarray, kind: str = "rn", ftz: bool = False) -> np.ndarray:
    """kind: a rounding mode or "approx"."""
    return rcp_approx32(a, ftz) if kind == "approx" else div32(np.float32(1), a, kind, ftz)


def sqrt32(a: np.ndarray, kind: str = "rn", ftz: bool = False) -> np.ndarray:
    """kind: a rounding mode or "approx"."""
    if kind == "approx":
        return sqrt_approx32(a, ftz)
    if ftz:
        a = flush(a)
    return np.sqrt(a) if kind == "rn" else narrow(np.sqrt(a.astype(np.float64)), "f32", kind)


def neg32(a: np.ndarray, ftz: bool = False) -> np.ndarray:
    return -flush(a) if ftz else -a


def abs32(a: np.ndarray, ftz: bool = False) -> np.ndarray:
    return np.abs(flush(a)) if ftz else np.abs(a)


def neg64(a: np.ndarray) -> np.ndarray:
    return -a


def abs64(a: np.ndarray) -> np.ndarray:
    return np.abs(a)


def smaller_or_larger(
    a: np.ndarray, b: np.ndarray, larger: bool, nan: bool, xorsign_abs: bool, canonical: np.floating
) -> np.ndarray:
    """min or max of any float type: -0 is less than +0; one NaN gives the other operand, or a NaN with .NaN."""
    if xorsign_abs:
        sign = np.signbit(a) ^ np.signbit(b)
        a, b = np.abs(a), np.abs(b)
    result = (np.fmax if larger else np.fmin)(a, b)
    zero = result == 0
    if zero.any():  # fmin and fmax leave open which zero
        negative = (np.logical_and if larger else np.logical_or)(np.signbit(a) & (a == 0), np.signbit(b) & (b == 0))
        result = np.where(
            zero & (a == b), np.where(negative, -canonical.dtype.type(0), canonical.dtype.type(0)), result
        )
    undefined = np.isnan(a) | np.isnan(b) if nan else np.isnan(result)
    if xorsign_abs:
        result = np.where(sign, -result, result)
    return np.where(undefined, canonical, result) if undefined.any() else result


def min32(
    a: np.ndarray, b: np.ndarray, ftz: bool = False, nan: bool = False, xorsign_abs: bool = False
) -> np.ndarray:
    if ftz:
        a, b = flush(a), flush(b)
    return smaller_or_larger(a, b, False, nan, xorsign_abs, NAN32)


def max32(
    a: np.ndarray, b: np.ndarray, ftz: bool = False, nan: bool = False, xorsign_abs: bool = False
) -> np.ndarray:
    if ftz:
        a, b = flush(a), flush(b)
    return smaller_or_larger(a, b, True, nan, xorsign_abs, NAN32)


def min64(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return smaller_or_larger(a, b, False, False, False, np.float64(np.nan))


def max64(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return smaller_or_larger(a, b, True, False, False, np.float64(np.nan))


def copysign(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The sign of a on the value of b."""
    return np.copysign(b, a)


def testp(a: np.ndarray, what: str) -> np.ndarray:
    """testp of f32 or f64: zero counts as normal."""
    smallest = np.finfo(a.dtype).smallest_normal
    match what:
        case "finite":
            return np.isfinite(a)
        case "infinite":
            return np.isinf(a)
        case "number":
            return ~np.isnan(a)
        case "notanumber":
            return np.isnan(a)
        case "normal":
            return np.isfinite(a) & ((np.abs(a) >= smallest) | (a == 0))
        case "subnormal":
            return (np.abs(a) < smallest) & (a != 0)
    raise ValueError(f"no such property: {what}")


def compare(a: np.ndarray, b: np.ndarray, operation: str, ftz: bool = False) -> np.ndarray:
    """set, setp and their like for f32, f64 and f16: with a NaN, eq … ge are false and equ … geu true."""
    if ftz:
        a, b = flush(a), flush(b)
    match operation:
        case "eq":
            return a == b
        case "ne":
            return (a < b) | (a > b)
        case "lt":
            return a < b
        case "le":
            return a <= b
        case "gt":
            return a > b
        case "ge":
            return a >= b
        case "equ":
            return ~((a < b) | (a > b))
        case "neu":
            return a != b
        case "ltu":
            return ~(a >= b)
        case "leu":
            return ~(a > b)
        case "gtu":
            return ~(a <= b)
        case "geu":
            return ~(a < b)
        case "num":
            return ~(np.isnan(a) | np.isnan(b))
        case "nan":
            return np.isnan(a) | np.isnan(b)
    raise ValueError(f"no such comparison: {operation}")


def add64(a: np.ndarray, b: np.ndarray, rounding: str = "rn") -> np.ndarray:
    total = a + b
    return total if rounding == "rn" else direct64(total, rounding, lambda r, x, y: x + y - r, (a, b), addends=(a, b))


def sub64(a: np.ndarray, b: np.ndarray, rounding: str = "rn") -> np.ndarray:
    return add64(a, -b, rounding)


def mul64(a: np.ndarray, b: np.ndarray, rounding: str = "rn") -> np.ndarray:
    product = a * b
    return product if rounding == "rn" else direct64(product, rounding, lambda r, x, y: x * y - r, (a, b))


def div64(a: np.ndarray, b: np.ndarray, rounding: str = "rn") -> np.ndarray:
    quotient = a / b
    if rounding == "rn":
        return quotient
    divisor = np.where(b == 0, np.nan, b)  # a pole is no overflow
    return direct64(quotient, rounding, lambda r, x, y: x / y - r, (a, divisor))


def rcp64(a: np.ndarray, rounding: str = "rn") -> np.ndarray:
    return div64(np.float64(1), a, rounding)


def sqrt64(a: np.ndarray, rounding: str = "rn") -> np.ndarray:
    root = np.sqrt(a)
    return root if rounding == "rn" else direct64(root, rounding, lambda r, x: x - r * r, (a,))


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rounded product and what it lacks (Dekker), far from overflow and underflow."""
    product = a * b
    scaled = a * 134217729.0  # 2**27 + 1
    a_head = scaled - (scaled - a)
    scaled = b * 134217729.0
    b_head = scaled - (scaled - b)
    a_tail, b_tail = a - a_head, b - b_head
    return product, a_tail * b_tail - (((product - a_head * b_head) - a_tail * b_head) - a_head * b_tail)


def _fma_fraction(a: float, b: float, c: float) -> float:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    try:
        return float(exact)  # the quotient of two integers, which Python rounds correctly
    except OverflowError:
        return np.inf if exact > 0 else -np.inf


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray, rounding: str = "rn") -> np.ndarray:
    """a * b + c, rounded once (Boldo & Melquiond, "Emulation of FMA and correctly rounded sums", 2008)."""
    a, b, c = np.broadcast_arrays(a, b, c)
    product, lacking = _two_product(a, b)
    addend, lost = two_sum(c, lacking)
    head, tail = two_sum(product, addend)
    result = head + odd(*two_sum(tail, lost))
    magnitude = np.abs(product)
    split = (np.abs(a) < 2.0**990) & (np.abs(b) < 2.0**990)
    safe = split & (magnitude > 2.0**-900) & (magnitude < 2.0**1000) & (np.abs(c) < 2.0**1000)
    unsafe = (~safe).nonzero()
    if unsafe[0].size:
        simple = ~(np.isfinite(a) & np.isfinite(b) & np.isfinite(c)) | (a == 0) | (b == 0)
        result = np.where(simple, product + c, result)  # exact but for the sum, or not finite
        for i in zip(*(~safe & ~simple).nonzero(), strict=True):
            result[i] = _fma_fraction(float(a[i]), float(b[i]), float(c[i]))
    if rounding == "rn":
        return result
    addends = np.copysign(1.0, a) * np.copysign(1.0, b), c
    return direct64(result, rounding, lambda r, x, y, z: x * y + z - r, (a, b, c), addends)
