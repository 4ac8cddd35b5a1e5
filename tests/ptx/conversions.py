"""cvt: between the integer types, f16, bf16, tf32, f32 and f64.

Integers are held in the NumPy type of their name, floats as in `ptx.rounding`.
"""

import numpy as np

from ptx.rounding import NAN16, NAN_BF16, NAN_TF32, flush, narrow, odd, saturate_unit, two_sum, widen

INTEGERS = {
    f"{kind}{bits}": np.dtype(f"{'uint' if kind == 'u' else 'int'}{bits}")
    for kind in "us"
    for bits in (8, 16, 32, 64)
}
_PRECISION = {"bf16": 8, "f16": 11, "tf32": 11, "f32": 24, "f64": 53}
_TO_INTEGER = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def convert(
    x: np.ndarray,
    to: str,
    from_: str,
    rounding: str | None = None,
    ftz: bool = False,
    saturate: bool = False,
    relu: bool = False,
) -> np.ndarray:
    """cvt of one value; rounding is the modifier (rni … rpi to an integer or an integral value, rn … to a float)."""
    if from_ in INTEGERS:
        return _between_integers(x, to, saturate) if to in INTEGERS else _from_integer(x, to, rounding, saturate)
    if ftz and from_ == "f32":
        x = flush(x)
    if to in INTEGERS:
        return _to_integer(x, to, from_, rounding)
    result = _between_floats(x, to, from_, rounding)
    if ftz and to == "f32":
        result = flush(result)
    if saturate:
        if to not in ("f16", "f32", "f64"):
            raise ValueError(f"cvt.sat to {to}")
        result = saturate_unit(result)
    return _relu(result, to) if relu else result


def convert_pair(a: np.ndarray, b: np.ndarray, to: str, rounding: str, relu: bool = False) -> np.ndarray:
    """cvt.….f16x2.f32 and bf16x2: a becomes the upper half of the result, b the lower."""
    upper, lower = (convert(x, to.removesuffix("x2"), "f32", rounding, relu=relu).view(np.uint16) for x in (a, b))
    return upper.astype(np.uint32) << np.uint32(16) | lower


def _between_integers(x: np.ndarray, to: str, saturate: bool) -> np.ndarray:
    if saturate:
        ours, theirs = np.iinfo(x.dtype), np.iinfo(INTEGERS[to])
        x = np.clip(x, max(ours.min, theirs.min), min(ours.max, theirs.max))
    return x.astype(INTEGERS[to])


def _from_integer(x: np.ndarray, to: str, rounding: str | None, saturate: bool) -> np.ndarray:
    if rounding not in ("rn", "rz", "rm", "rp"):
        raise ValueError(f"cvt.{rounding}.{to} of an integer")
    if x.dtype.itemsize < 8:
        head, tail = x.astype(np.float64), np.float64(0)
    else:  # in two halves, which float64 can hold
        half = x.dtype.type(32)
        head, tail = two_sum(
            (x >> half).astype(np.float64) * 2.0**32, (x & x.dtype.type(0xFFFFFFFF)).astype(np.float64)
        )
    if to == "f64":
        result = head if rounding == "rn" else _step64(head, tail, rounding)
    else:
        result = narrow(odd(head, tail), to, rounding)
    return saturate_unit(result) if saturate else result


def _step64(head: np.ndarray, tail: np.ndarray, rounding: str) -> np.ndarray:
    """A sum rounded to nearest, rounded in another direction instead."""
    match rounding:
        case "rm":
            return np.where(tail < 0, np.nextafter(head, -np.inf), head)
        case "rp":
            return np.where(tail > 0, np.nextafter(head, np.inf), head)
    return np.where(tail * np.sign(head) < 0, np.nextafter(head, 0), head)


def _to_integer(x: np.ndarray, to: str, from_: str, rounding: str | None) -> np.ndarray:
    """Clamped; NaN is 0, but 1 << (bits - 1) from f64 and to 64 bits."""
    if rounding not in _TO_INTEGER:
        raise ValueError(f"cvt.{rounding}.{to} of a float")
    whole = _TO_INTEGER[rounding](widen(x, from_).astype(np.float64))
    limits = np.iinfo(INTEGERS[to])
    top = float(limits.max)  # of 64 bits, this is one more than the largest
    above, below = whole >= top, whole <= limits.min
    result = np.where(above | below | np.isnan(whole), 0, whole).astype(INTEGERS[to])
    result = np.where(above, limits.max, np.where(below, limits.min, result)).astype(INTEGERS[to])
    invalid = 1 << (limits.bits - 1) if from_ == "f64" or limits.bits == 64 else 0
    return np.where(np.isnan(whole), np.array(invalid, np.uint64).astype(INTEGERS[to]), result)


def _between_floats(x: np.ndarray, to: str, from_: str, rounding: str | None) -> np.ndarray:
    if rounding in _TO_INTEGER:
        if to != from_:
            raise ValueError(f"cvt.{rounding}.{to}.{from_}: the sizes differ")
        whole = _TO_INTEGER[rounding](widen(x, from_))
        return narrow(whole, to) if to in ("bf16", "f16") else whole
    if to == from_:
        return x.copy()
    value = widen(x, from_)
    if rounding is None:
        if _PRECISION[to] < _PRECISION[from_] or (from_, to) == ("bf16", "f16"):
            raise ValueError(f"cvt.{to}.{from_} without a rounding")
        rounding = "rn"  # exact
    if rounding == "rna" and to != "tf32":
        raise ValueError(f"cvt.rna.{to}")
    return value.astype(np.float64) if to == "f64" else narrow(value, to, rounding)


def _relu(x: np.ndarray, of: str) -> np.ndarray:
    """Negative to +0, NaN to the canonical one."""
    match of:
        case "f16":
            return np.where(np.isnan(x), NAN16, np.where(np.signbit(x), np.float16(0), x))
        case "bf16":
            return np.where(x & np.uint16(0x7FFF) > 0x7F80, NAN_BF16, np.where(x >> np.uint16(15), np.uint16(0), x))
        case "tf32":
            nan = x & np.uint32(0x7FFFFFFF) > 0x7F800000
            return np.where(nan, NAN_TF32, np.where(x >> np.uint32(31), np.uint32(0), x))
    raise ValueError(f"cvt.relu to {of}")
