"""What the instructions of PTX compute on f16 and bf16, alone and in pairs.

f16 is float16, bf16 its bits in uint16; a pair (f16x2, bf16x2) is 32 bits in uint32, the first element low. What is
computed in float64 is then rounded to the format as if once: products are exact, sums of two such short numbers exact
or no tie, and the sum of a product and a number is rounded to odd.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from ptx.approximate import ex2_half, tanh_half
from ptx.floats import smaller_or_larger
from ptx.rounding import NAN16, NAN32, NAN_BF16, flush, narrow, odd, saturate_unit, two_sum, widen


def _finish(exact: np.ndarray, of: str, ftz: bool, saturate: bool, relu: bool) -> np.ndarray:
    result = narrow(exact, of)
    if ftz:
        result = flush(result)
    if saturate:
        result = saturate_unit(result)
    if relu:
        value = widen(result, of)
        result = np.where(np.signbit(value), result.dtype.type(0), result)
        result = np.where(np.isnan(value), NAN16 if of == "f16" else NAN_BF16, result)
    return result


def _values(of: str, ftz: bool, *operands: np.ndarray) -> list[np.ndarray]:
    if ftz:
        operands = tuple(flush(x) for x in operands)
    return [(x if of == "f16" else widen(x, of)).astype(np.float64) for x in operands]


def add(a: np.ndarray, b: np.ndarray, of: str, ftz: bool = False, saturate: bool = False) -> np.ndarray:
    x, y = _values(of, ftz, a, b)
    return _finish(x + y, of, ftz, saturate, False)


def sub(a: np.ndarray, b: np.ndarray, of: str, ftz: bool = False, saturate: bool = False) -> np.ndarray:
    x, y = _values(of, ftz, a, b)
    return _finish(x - y, of, ftz, saturate, False)


def mul(a: np.ndarray, b: np.ndarray, of: str, ftz: bool = False, saturate: bool = False) -> np.ndarray:
    x, y = _values(of, ftz, a, b)
    return _finish(x * y, of, ftz, saturate, False)


def fma(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray,
    of: str,
    ftz: bool = False,
    saturate: bool = False,
    relu: bool = False,
) -> np.ndarray:
    x, y, z = _values(of, ftz, a, b, c)
    return _finish(odd(*two_sum(x * y, z)), of, ftz, saturate, relu)


def neg(a: np.ndarray, of: str, ftz: bool = False) -> np.ndarray:
    if of == "bf16":
        return a ^ np.uint16(0x8000)
    return -flush(a) if ftz else -a


def absolute(a: np.ndarray, of: str, ftz: bool = False) -> np.ndarray:
    if of == "bf16":
        return a & np.uint16(0x7FFF)
    return np.abs(flush(a) if ftz else a)


def _extreme(
    a: np.ndarray,
    b: np.ndarray,
    of: str,
    larger: bool,
    ftz: bool = False,
    nan: bool = False,
    xorsign_abs: bool = False,
) -> np.ndarray:
    if ftz:
        a, b = flush(a), flush(b)
    return narrow(smaller_or_larger(widen(a, of), widen(b, of), larger, nan, xorsign_abs, NAN32), of)


smallest = partial(_extreme, larger=False)
largest = partial(_extreme, larger=True)

_OPERATIONS = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "fma": fma,
    "neg": neg,
    "abs": absolute,
    "min": smallest,
    "max": largest,
    "ex2": ex2_half,
    "tanh": tanh_half,
}


def operation(name: str, of: str) -> Callable[..., np.ndarray]:
    """The function of operands that the instruction computes, of f16, bf16, f16x2 or bf16x2."""
    function = partial(_OPERATIONS[name], of=of.removesuffix("x2"))
    if not of.endswith("x2"):
        return function
    element = np.float16 if of == "f16x2" else np.uint16

    def pairwise(*operands: np.ndarray, **modifiers: bool) -> np.ndarray:
        # The halves of neighbouring pairs are neighbours in memory.
        halves = (np.ascontiguousarray(x).view(element) for x in np.broadcast_arrays(*operands))
        return function(*halves, **modifiers).view(np.uint32)

    return pairwise
