"""What tensor cores compute: the sums of products of mma.sync and wmma.mma, cut off as the hardware cuts them off.

NVIDIA documents neither the order of summation nor its rounding. The model is what two papers found on the hardware:

- M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science
  7:e330, 2021 (V100, T4, A100);
- F. A. Khattak, M. Mikaitis, "Accurate Models of NVIDIA Tensor Cores", arXiv:2512.07004, 2025 (A100, H100, more).

Products are exact. A block of them and the accumulator are aligned to the largest exponent among them (a product's
being the sum of its factors' exponents, not normalised), and what lies below the last bit kept is cut off, toward
zero. The sum of these is exact; it is cut off to f32, or rounded to nearest f16, and is the accumulator of the next
block. The bits kept below the leading one are f32's 23 and one more on the A100 (sm_80), two more on the H100
(sm_90); a block is 8 products of f16 or bf16 and 4 of tf32 on the A100, 16 and 8 on the H100. Subnormals are kept. A
sum of zero is +0, a sum beyond f32 is infinite, and infinities and NaN go the ways of IEEE 754.

The second paper's authors publish inputs and results of the hardware (github.com, north-numerical-computing,
MATLAB-tensor-core, model_validation): of all 5,000 each for f16, bf16 and tf32 on the A100 and the H100, this gives
the same bits.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ptx.fragments import ldmatrix_sources, movmatrix, places, positions, wmma_places
from ptx.rounding import NAN16, NAN32, narrow, widen

__all__ = ["ldmatrix_sources", "mma", "movmatrix", "wmma_mma", "wmma_places"]


@dataclass(frozen=True)
class Core:
    """A tensor core: bits kept below the leading one; products added at once; the least exponent of alignment."""

    kept: int
    block: dict[str, int]
    least: dict[str, int]  # by the type of the result


CORES = {
    "80": Core(kept=24, block={"f16": 8, "bf16": 8, "tf32": 4}, least={"f32": -132, "f16": -20}),
    "90": Core(kept=25, block={"f16": 16, "bf16": 16, "tf32": 8}, least={"f32": -133, "f16": -21}),
}

# k, factors, accumulator and result of the instructions of shape m16n8, and of wmma's shapes m16n16
_MMA = {
    (k, of, result, result)
    for of, sizes, results in (
        ("f16", (8, 16), ("f16", "f32")),
        ("bf16", (8, 16), ("f32",)),
        ("tf32", (4, 8), ("f32",)),
    )
    for k in sizes
    for result in results
}
_WMMA = {(16, "f16", c, d) for c in ("f16", "f32") for d in ("f16", "f32")}
_WMMA |= {(16, "bf16", "f32", "f32"), (8, "tf32", "f32", "f32")}

_AT_ONCE = 512  # threads, so that the processor's caches hold what is computed
_ZERO = -10_000  # the exponent of zero: no other is below it
_LEAST_EXPONENT = {"f16": -14, "bf16": -126, "tf32": -126, "f32": -126}


def mma(
    shape: str,
    a_type: str,
    b_type: str,
    c_type: str,
    d_type: str,
    a: list[np.ndarray],
    b: list[np.ndarray],
    c: list[np.ndarray],
    architecture: str,
) -> list[np.ndarray]:
    """mma.sync.aligned.m16n8k….row.col: the registers of d, float32 or pairs of f16 in uint32."""
    k = int(shape.removeprefix("m16n8k")) if shape.startswith("m16n8k") else 0
    if a_type != b_type or (k, a_type, c_type, d_type) not in _MMA:
        raise ValueError(f"no mma.{shape}.{d_type}.{a_type}.{b_type}.{c_type}")
    return _mma(False, k, a_type, c_type, d_type, a, b, c, architecture)


def wmma_mma(
    shape: str,
    a_type: str,
    c_type: str,
    d_type: str,
    a: list[np.ndarray],
    b: list[np.ndarray],
    c: list[np.ndarray],
    architecture: str,
) -> list[np.ndarray]:
    """wmma.mma.sync.aligned of fragments as in `wmma_places`, loaded as rows or as columns."""
    k = int(shape.removeprefix("m16n16k")) if shape.startswith("m16n16k") else 0
    if (k, a_type, c_type, d_type) not in _WMMA:
        raise ValueError(f"no wmma.mma.{shape}.{d_type}.{a_type}.{c_type}")
    return _mma(True, k, a_type, c_type, d_type, a, b, c, architecture)


@cache
def _order(operand: str, of: str, k: int, wmma: bool, threads: int) -> np.ndarray:
    """Where the elements of all warps' matrices are in a fragment's registers, in the order of the computation.

    A: (k, warp and row); B: (k, column, warp); C: (column, warp and row).
    """
    rows, columns = wmma_places(operand, of) if wmma else places(operand, of, k)
    warps = threads // 32
    held = positions(len(rows), threads, of).reshape(len(rows), warps, 32)
    where = np.empty((warps, rows.max() + 1, columns.max() + 1), np.intp)
    for warp in range(warps):
        where[warp, rows, columns] = held[:, warp]
    match operand:
        case "a":
            return where.transpose(2, 0, 1).reshape(k, -1)
        case "b":
            return np.ascontiguousarray(where.transpose(1, 2, 0))
    return where.transpose(2, 0, 1).reshape(where.shape[2], -1)


@cache
def _back(of: str, k: int, wmma: bool, threads: int) -> np.ndarray:
    """Where each element of d's registers is in the result (column, warp and row)."""
    order = _order("c", of, k, wmma, threads)
    back = np.empty(order.size, np.intp)
    back[order.reshape(-1)] = np.arange(order.size)
    return back


@cache
def _workspace(k: int, columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Memory that stays: that the system hands out anew costs more than what is computed in it."""
    return np.empty((k, columns, rows)), np.empty((k, columns, rows))


def _values(registers: list[np.ndarray], operand: str, of: str, k: int, wmma: bool) -> np.ndarray:
    held = np.concatenate(registers)
    threads = len(registers[0])
    held = held.view({"f16": np.float16, "bf16": np.uint16, "tf32": np.uint32, "f32": np.float32}[of])
    return widen(held.take(_order(operand, of, k, wmma, threads)), of)


def _exponents(values: np.ndarray, of: str) -> np.ndarray:
    exponents = (values.view(np.int32) >> 23 & 0xFF) - 127
    return np.where(values == 0, _ZERO, np.maximum(exponents, _LEAST_EXPONENT[of])).astype(np.int16)


def _power_of_two(exponents: np.ndarray) -> np.ndarray:
    return ((exponents.astype(np.int64) + 1023) << 52).view(np.float64)


def _cut32(x: np.ndarray) -> np.ndarray:
    """Toward zero to the numbers of f32, but to infinity from 2^128 on."""
    cut = (x.view(np.int64) & -(1 << 29)).view(np.float64)
    subnormal = np.abs(x) < 2.0**-126
    if subnormal.any():
        cut = np.where(subnormal, np.trunc(x * 2.0**149) * 2.0**-149, cut)
    result = cut.astype(np.float32)
    invalid = np.isnan(x)
    return np.where(invalid, NAN32, result) if invalid.any() else result


def _mma(
    wmma: bool,
    k: int,
    of: str,
    c_type: str,
    d_type: str,
    a: list[np.ndarray],
    b: list[np.ndarray],
    c: list[np.ndarray],
    architecture: str,
) -> list[np.ndarray]:
    threads = len(a[0])
    if threads > _AT_ONCE:
        slices = [slice(first, first + _AT_ONCE) for first in range(0, threads, _AT_ONCE)]
        parts = [
            _mma(wmma, k, of, c_type, d_type, *([x[part] for x in y] for y in (a, b, c)), architecture)
            for part in slices
        ]
        return [np.concatenate(registers) for registers in zip(*parts, strict=True)]
    core = CORES[architecture]
    left, right = _values(a, "a", of, k, wmma), _values(b, "b", of, k, wmma)
    left_exponents, right_exponents = _exponents(left, of), _exponents(right, of)
    products, aligned = _workspace(k, right.shape[1], left.shape[1])
    # (k, column, warp and row): long runs of neighbours, which is what NumPy is fast at
    np.copyto(products.reshape(*right.shape, 16), right[..., None])
    np.multiply(products, left[:, None].astype(np.float64), out=products)
    exponents = left_exponents[:, None] + np.repeat(right_exponents, 16, axis=-1)
    total = _values(c, "c", c_type, k, wmma)
    for first in range(0, k, core.block[of]):
        block = slice(first, first + core.block[of])
        largest = np.maximum(exponents[block].max(axis=0), _exponents(total, "f32"))
        largest = np.maximum(largest, core.least[d_type])
        scale = _power_of_two(core.kept - largest)  # makes integers of the bits kept
        whole = np.multiply(products[block], scale, out=aligned[block])
        whole = np.trunc(whole, out=whole).sum(axis=0) + np.trunc(total * scale)
        exact = whole * _power_of_two(largest - core.kept)
        result = _cut32(exact) if d_type == "f32" else narrow(exact, "f16")
        total = widen(result, d_type)
    if d_type == "f16":
        result = np.where(np.isnan(result), NAN16, result)
    flat = result.reshape(-1).take(_back(d_type, k, wmma, threads))
    if d_type == "f16":
        flat = flat.view(np.uint32)
    return list(flat.reshape(-1, threads))
