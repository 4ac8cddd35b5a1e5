"""How the threads of a warp hold the elements of matrices.

A fragment is a list of registers of 32 bits, each an array with one element per thread, 32 neighbours being a warp;
two elements of 16 bits share a register, the first of them low. The layouts of mma, ldmatrix and movmatrix are those
of NVIDIA's PTX ISA manual ("Matrix Fragments for mma.m16n8k…"). It leaves the layouts of wmma open: any will do that
load, mma and store agree upon (see `wmma_places`).
"""

from functools import cache

import numpy as np

_LANES = np.arange(32)
_GROUP, _MEMBER = _LANES >> 2, _LANES & 3  # the manual's groupID and threadID_in_group


def _place(operand: str, of: str, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of element i, for all lanes."""
    match operand, of:
        case "a", "tf32":
            return _GROUP + 8 * (i & 1), _MEMBER + 4 * (i >> 1)
        case "b", "tf32":
            return _MEMBER + 4 * i, _GROUP
        case "a", "f16" | "bf16":
            return _GROUP + 8 * (i >> 1 & 1), 2 * _MEMBER + (i & 1) + 8 * (i >> 2)
        case "b", "f16" | "bf16":
            return 2 * _MEMBER + (i & 1) + 8 * (i >> 1), _GROUP
        case "c", "f16" | "f32":
            return _GROUP + 8 * (i >> 1), 2 * _MEMBER + (i & 1)
    raise ValueError(f"no fragment of {operand} in {of}")


@cache
def places(operand: str, of: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a fragment of mma.m16n8k…, two arrays (element, lane); operand: a, b or c (d's is c's)."""
    count = {"a": 16 * k, "b": 8 * k, "c": 16 * 8}[operand] // 32
    rows, columns = zip(*(_place(operand, of, i) for i in range(count)), strict=True)
    return np.array(rows), np.array(columns)


@cache
def wmma_places(operand: str, of: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of a fragment of wmma.m16n16k16 (f16, bf16) or m16n16k8 (tf32), for load, mma and store.

    Here: of A, mma's fragment; of B and of C and D, mma's fragments of the left and of the right eight columns, one
    after the other. The manual gives A and B of f16 eight registers where four hold 256 elements: there the second
    four repeat the first.
    """
    rows, columns = places(operand, of, 8 if of == "tf32" else 16)
    if operand != "a":
        rows, columns = np.concatenate([rows, rows]), np.concatenate([columns, columns + 8])
    if of == "f16" and operand != "c":
        rows, columns = np.concatenate([rows, rows]), np.concatenate([columns, columns])
    return rows, columns


def positions(count: int, threads: int, of: str) -> np.ndarray:
    """Of a fragment's elements (element, thread), the index in its registers when these lie one after the other."""
    element, thread = np.arange(count)[:, None], np.arange(threads)
    if of in ("f16", "bf16"):
        return ((element >> 1) * threads + thread) * 2 + (element & 1)
    return element * threads + thread


# ldmatrix and movmatrix: 8 by 8 elements of 16 bits, of which a thread holds two neighbours in a row.


@cache
def ldmatrix_sources(count: int, transposed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where each lane's elements come from: (register, half, lane) -> the lane with the row's address; bytes from it.

    The low half of a register (half 0) and the high one are 16 bits each.
    """
    lanes, offsets = np.empty((2, count, 2, 32), np.intp)
    for half in (0, 1):
        row, column = (2 * _MEMBER + half, _GROUP) if transposed else (_GROUP, 2 * _MEMBER + half)
        lanes[:, half] = 8 * np.arange(count)[:, None] + row
        offsets[:, half] = 2 * column
    return lanes, offsets


# The element (row 2 * member + half, column group) is in lane 4 * row + column // 2, in its half column % 2.
_TRANSPOSED = np.stack([2 * (4 * (2 * _MEMBER + half) + _GROUP // 2) + _GROUP % 2 for half in (0, 1)], axis=-1)


def movmatrix(a: np.ndarray) -> np.ndarray:
    """movmatrix.sync.aligned.m8n8.trans.b16."""
    halves = np.ascontiguousarray(a).view(np.uint16).reshape(-1, 64)
    return halves[:, _TRANSPOSED].reshape(-1).view(np.uint32)
