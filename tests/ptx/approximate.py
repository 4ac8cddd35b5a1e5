"""The approximate instructions: as wrong as the PTX ISA manual allows, and always in the same way.

The manual states a largest error for each; hardware stays below it, and differs from chip to chip. A value here lies
as far from the exact one as the manual permits, above or below it by a hash of the input's bits, so that what passes
with it passes with whatever the hardware may do. Inputs of the manual's tables (zeros, infinities, NaN) have exactly
the results that they have there.
"""

import numpy as np

from ptx.rounding import NAN16, NAN32, NAN_BF16, flush, narrow, widen

_NAN = {"f16": NAN16, "bf16": NAN_BF16, "f32": NAN32}
_TWO_PI, _HUNDRED_PI = 2 * np.pi, 100 * np.pi


def side(x: np.ndarray) -> np.ndarray:
    """+1 or -1 for each element, by a hash (Knuth's multiplicative one) of its bits."""
    bits = x.view(np.uint16).astype(np.uint32) if x.dtype.itemsize == 2 else x.view(np.uint32)
    return ((bits * np.uint32(2654435769)).view(np.int32) >> 31) | 1


def _within(limit: np.ndarray, sides: np.ndarray, to: str) -> np.ndarray:
    """limit, rounded against the sides."""
    if to == "bf16":
        return np.where(sides > 0, narrow(limit, to, "rm"), narrow(limit, to, "rp"))
    found = narrow(limit, to)
    infinity = found.dtype.type(np.inf)
    back = np.where(sides > 0, -infinity, infinity)
    return np.where(sides * (found - limit) > 0, np.nextafter(found, back), found)


def farthest(exact: np.ndarray, error: np.ndarray | float, sides: np.ndarray, to: str = "f32") -> np.ndarray:
    """Of the format's numbers within error of exact, the farthest on that side; where there is none, the nearest."""
    found = _within(exact + sides * error, sides, to)
    allowed = (np.abs(widen(found, to) - exact) <= error) & (error > 0)  # and neither is infinite or NaN
    if allowed.all():
        return found
    return np.where(allowed, found, np.where(np.isnan(exact), _NAN[to], narrow(exact, to)))


def _ulp32(exact: np.ndarray) -> np.ndarray:
    """Of f32, at a result; zero at zero, which is exact."""
    return np.where(exact == 0, 0, np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64))


def rcp_approx32(a: np.ndarray, ftz: bool = False) -> np.ndarray:
    """rcp.approx: 1 ulp."""
    a = flush(a) if ftz else a
    exact = 1 / a.astype(np.float64)
    result = farthest(exact, _ulp32(exact), side(a))
    return flush(result) if ftz else result


def divide_full32(a: np.ndarray, b: np.ndarray, ftz: bool = False) -> np.ndarray:
    """div.full: 2 ulp."""
    if ftz:
        a, b = flush(a), flush(b)
    exact = a.astype(np.float64) / b
    result = farthest(exact, 2 * _ulp32(exact), side(a) * side(b))
    return flush(result) if ftz else result


def divide_approx32(a: np.ndarray, b: np.ndarray, ftz: bool = False) -> np.ndarray:
    """div.approx: 2 ulp for 2^-126 <= |b| <= 2^126; above, zero (NaN for an infinite a); below, a * (1/b)."""
    if ftz:
        a, b = flush(a), flush(b)
    result = divide_full32(a, b, ftz)
    huge = (np.abs(b) > 2.0**126) & np.isfinite(b)
    result = np.where(huge, np.where(np.isinf(a), NAN32, np.copysign(a * np.float32(0), a * np.sign(b))), result)
    tiny = (np.abs(b) < 2.0**-126) & (b != 0)
    return np.where(tiny, a * rcp_approx32(b), result) if tiny.any() else result


def sqrt_approx32(a: np.ndarray, ftz: bool = False) -> np.ndarray:
    """sqrt.approx: relative error 2^-23."""
    a = flush(a) if ftz else a
    exact = np.sqrt(a.astype(np.float64))
    return farthest(exact, exact * 2.0**-23, side(a))


def rsqrt32(a: np.ndarray, ftz: bool = False) -> np.ndarray:
    """rsqrt.approx: relative error 2^-22.9."""
    a = flush(a) if ftz else a
    exact = 1 / np.sqrt(a.astype(np.float64))
    return farthest(exact, exact * 2.0**-22.9, side(a))


def ex2_32(a: np.ndarray, ftz: bool = False) -> np.ndarray:
    """ex2.approx: 2 ulp from the correctly rounded result; exact for whole numbers, as CUDA's own tanh relies on."""
    a = flush(a) if ftz else a
    nearest = np.exp2(a.astype(np.float64)).astype(np.float32)
    bits = nearest.view(np.int32)
    moved = np.maximum(bits + 2 * side(a), 0).view(np.float32)
    exact = (a == np.rint(a)) | (nearest == 0) | ~(nearest < np.inf)
    result = np.where(exact, nearest, moved)
    return flush(result) if ftz else result


def lg2_32(a: np.ndarray, ftz: bool = False) -> np.ndarray:
    """lg2.approx: absolute error 2^-22 between 0.5 and 2, else relative error 2^-22."""
    a = flush(a) if ftz else a
    exact = np.log2(a.astype(np.float64))
    error = np.where((a > 0.5) & (a < 2), 1, np.abs(exact)) * 2.0**-22
    result = farthest(exact, error, side(a))
    return flush(result) if ftz else result


def _trigonometric(a: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Absolute error 2^-20.5 within 2 pi, 2^-14.7 within 100 pi; beyond, the manual promises nothing: NaN."""
    far = np.abs(a)
    error = np.where(far <= _TWO_PI, 2.0**-20.5, 2.0**-14.7)
    return np.where(far <= _HUNDRED_PI, farthest(exact, error, side(a)), NAN32)


def sin32(a: np.ndarray, ftz: bool = False) -> np.ndarray:
    a = flush(a) if ftz else a
    result = np.where(a == 0, a, _trigonometric(a, np.sin(a.astype(np.float64))))
    return flush(result) if ftz else result


def cos32(a: np.ndarray, ftz: bool = False) -> np.ndarray:
    a = flush(a) if ftz else a
    result = np.where(a == 0, np.float32(1), _trigonometric(a, np.cos(a.astype(np.float64))))
    return flush(result) if ftz else result


def tanh32(a: np.ndarray) -> np.ndarray:
    """tanh.approx: relative error 2^-11; subnormal inputs pass through; infinities give 1."""
    exact = np.tanh(a.astype(np.float64))
    result = farthest(exact, np.abs(exact) * 2.0**-11, side(a))
    result = np.where(np.isinf(a), np.copysign(np.float32(1), a), result)
    return np.where(np.abs(a) < 2.0**-126, a, result)


def _upper_word(a: np.ndarray) -> np.ndarray:
    """The 1.11.20 format: the low half of a float64 is left out, and what is subnormal is zero."""
    upper = (a.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
    return np.where(np.abs(upper) < 2.0**-1022, np.copysign(0.0, upper), upper)


def _near_upper_word(exact: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """One unit of the 20 bits away from the nearest; the manual states no error ("gross approximation")."""
    unit = np.int64(1 << 32)
    bits = ((exact.view(np.int64) + (unit >> 1)) & -unit) + unit * sides
    moved = _upper_word(np.where(np.isfinite(exact) & (exact != 0), bits, exact.view(np.int64)).view(np.float64))
    return np.where(np.isnan(exact), np.array(0x7FFFFFFF00000000).view(np.float64), moved)


def rcp_approx_ftz64(a: np.ndarray) -> np.ndarray:
    upper = _upper_word(a)
    return _near_upper_word(1 / upper, side((upper.view(np.uint64) >> np.uint64(32)).astype(np.uint32)))


def rsqrt_approx_ftz64(a: np.ndarray) -> np.ndarray:
    upper = _upper_word(a)
    return _near_upper_word(1 / np.sqrt(upper), side((upper.view(np.uint64) >> np.uint64(32)).astype(np.uint32)))


def rsqrt64(a: np.ndarray) -> np.ndarray:
    """rsqrt.approx.f64, for which the manual states no error: correct to about one ulp."""
    return 1 / np.sqrt(a)


def ex2_half(a: np.ndarray, of: str) -> np.ndarray:
    """ex2.approx.f16 (relative error 2^-9.9), ex2.approx.ftz.bf16 (2^-7)."""
    if of == "bf16":
        value = flush(widen(a, of))
        exact = np.exp2(value.astype(np.float64))
        result = farthest(exact, exact * 2.0**-7, side(a), of)
        result = np.where(widen(result, of) < 2.0**-126, np.uint16(0), result)
        return np.where(value == 0, np.uint16(0x3F80), result)
    exact = np.exp2(a.astype(np.float64))
    return np.where(a == 0, np.float16(1), farthest(exact, exact * 2.0**-9.9, side(a), of))


def tanh_half(a: np.ndarray, of: str) -> np.ndarray:
    """tanh.approx.f16 (absolute error 2^-10.987), tanh.approx.bf16 (2^-8)."""
    value = widen(a, of)
    result = farthest(np.tanh(value.astype(np.float64)), 2.0**-10.987 if of == "f16" else 2.0**-8, side(a), of)
    one = narrow(np.copysign(np.float32(1), value), of)
    return np.where(value == 0, a, np.where(np.isinf(value), one, result))
