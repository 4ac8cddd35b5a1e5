"""CUDA kernels of our own: an element-wise formula on several numbers a thread, and sums of its result over the rows.

On a GPU such a formula takes the time that its memory takes, and sums of their own would read its result once more.
A kernel of CuPy's takes one number a thread, which costs several times as much where numbers are short. A kernel's
expression comes from the formula itself, which is written once, as an expression of `xp`.
"""

import functools
import inspect
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from fmnist_xp.backend.base import Array, Call

BLOCKS, THREADS = 528, 256
VECTOR_BYTES = 16
"""What a thread reads at once."""

TYPES = {"e": ("__half", "float"), "f": ("float", "float"), "d": ("double", "double")}
"""How numbers are kept, and what is computed and summed in, by the dtype's letter."""

SOURCE = """
#include <cuda_fp16.h>

struct alignas({vector_bytes}) Vector {{ {kept} values[{vector}]; }};

// What is read back of a value that was written.
static __device__ {wide} stored(const {wide} value) {{ return ({wide})({kept})value; }}

static __device__ {wide} at_least_0(const {wide} value) {{ return value < 0 ? ({wide})0 : value; }}  // NaN stays

// A block takes every gridDim.x-th group of rows, a thread {vector} neighbouring columns of a row of each group.
extern "C" __global__ void {name}({parameters}, const int rows) {{
  const int lanes = {columns} / {vector}, lane = threadIdx.x % lanes, group = {threads} / lanes;{before}
  for (int row = blockIdx.x * group + threadIdx.x / lanes; row < rows; row += gridDim.x * group) {{
    const size_t place = (size_t)row * lanes + lane;
    {loads}
    Vector result;
    for (int i = 0; i < {vector}; i++) {{
      {reads}
      const {wide} value = {expression};
      result.values[i] = ({kept})value;{each}
    }}
    ((Vector*){output})[place] = result;
  }}{after}
}}
{behind}"""

SUMS_BEFORE = """
  __shared__ {wide} sums[{threads}][{vector}];
  {wide} total[{vector}] = {{}};"""

SUMS_EACH = """
      total[i] += value;"""

SUMS_AFTER = """
  for (int i = 0; i < {vector}; i++) sums[threadIdx.x][i] = total[i];
  __syncthreads();
  if (threadIdx.x < lanes)
    for (int i = 0; i < {vector}; i++) {{
      {wide} sum = 0;
      for (int other = threadIdx.x; other < {threads}; other += lanes) sum += sums[other][i];
      partial[blockIdx.x * {columns} + lane * {vector} + i] = sum;
    }}"""

SUMS_TOTAL = """
// The blocks' sums in their order, 32 columns a block of 32 x 32 threads.
extern "C" __global__ void {name}_total(const {wide}* partial, {wide}* total) {{
  __shared__ {wide} sums[32][32];
  const int column = blockIdx.x * 32 + threadIdx.x;
  {wide} sum = 0;
  if (column < {columns})
    for (int block = threadIdx.y; block < {blocks}; block += 32) sum += partial[block * {columns} + column];
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < {columns}) {{
    for (int other = 1; other < 32; other++) sum += sums[other][threadIdx.x];
    total[column] = sum;
  }}
}}
"""


class Term:
    """A piece of an expression that means the same in C and in Python."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __gt__(self, other: float) -> "Term":
        """Return the comparison with a number."""
        if not isinstance(other, int | float):
            return NotImplemented
        return Term(f"({self.text} > {other})")


class Operations:
    """Stands for `xp` while a formula is read: what it writes to an array becomes the array's text."""

    inf = math.inf

    def add(self, a: Term, b: Term, out: Term) -> Term:
        """Return the sum, in `out`."""
        return self._written(f"{a.text} + {b.text}", out)

    def multiply(self, a: Term, b: Term, out: Term) -> Term:
        """Return the product, in `out`."""
        return self._written(f"{a.text} * {b.text}", out)

    def clip(self, values: Term, low: float, high: float, out: Term) -> Term:
        """Return max(values, 0), in `out`; raise `ValueError` for other limits."""
        if (low, high) != (0, self.inf):
            raise ValueError(f"from {low} to {high}")
        return self._written(f"at_least_0({values.text})", out)

    def _written(self, text: str, out: Term) -> Term:
        out.text = f"stored({text})"
        return out


def expression(formula: Callable[..., Any]) -> tuple[list[str], str] | None:
    """Return the parameters of an element-wise formula, the last of them its output, and what it writes there.

    None where it computes more than `Operations` has, or writes elsewhere.
    """
    names = list(inspect.signature(formula).parameters)[1:]
    terms = [Term(name) for name in names]
    try:
        formula(Operations(), *terms)
    except (AttributeError, TypeError, ValueError):
        return None
    *inputs, output = (term.text for term in terms)
    return (names, output) if inputs == names[:-1] and output != names[-1] else None


@functools.cache
def kernel_source(formula: Callable[..., Any], kinds: tuple[str, ...], columns: int, sums: bool) -> str | None:
    """Return the source of a kernel named as the formula is, or None where the formula or the columns do not fit.

    `kinds` are the letters of the dtypes of the formula's arrays, of which those with an "r" are rows (1, columns).
    """
    found = expression(formula)
    kept, wide = TYPES[kinds[-1]]
    vector = VECTOR_BYTES // np.dtype(kinds[-1]).itemsize
    lanes = columns // vector
    if found is None or not lanes or columns % vector or THREADS % lanes:
        return None
    (*names, output), value = found
    parameters, loads, reads = list[str](), list[str](), list[str]()
    for name, kind in zip(names, kinds, strict=False):
        if kind.endswith("r"):
            parameters.append(f"const {TYPES[kind[0]][0]}* __restrict__ in_{name}")
            reads.append(f"const {wide} {name} = ({wide})in_{name}[lane * {vector} + i];")
        else:
            parameters.append(f"const {kept}* in_{name}")
            loads.append(f"const Vector read_{name} = ((const Vector*)in_{name})[place];")
            reads.append(f"const {wide} {name} = ({wide})read_{name}.values[i];")
    parameters += [f"{kept}* {output}", *[f"{wide}* partial"] * sums]
    words: dict[str, Any] = {"kept": kept, "wide": wide, "vector": vector, "columns": columns}
    words |= {"name": formula.__name__, "threads": THREADS, "blocks": BLOCKS}
    parts = {"before": SUMS_BEFORE, "each": SUMS_EACH, "after": SUMS_AFTER, "behind": SUMS_TOTAL}
    return SOURCE.format(
        **words,
        vector_bytes=VECTOR_BYTES,
        parameters=", ".join(parameters),
        loads=" ".join(loads),
        reads=" ".join(reads),
        expression=value,
        output=output,
        **{place: text.format(**words) if sums else "" for place, text in parts.items()},
    )


def vectorized(
    cupy: ModuleType, formula: Callable[..., Any], arrays: tuple[Array, ...], total: Array | None = None
) -> list[Call] | None:
    """Return the calls that compute `formula` on `arrays` and, in `total` (1, columns), its result's sums over rows.

    The last of `arrays` is the result (rows, columns), and may be one of the others. These are of its shape and
    dtype, or rows (1, columns), which may be float32 beside float16; all are C-contiguous. The sums are added in an
    order that depends on the shape alone. None where a kernel does not fit: another kind of formula or of arrays.
    """
    if not all(isinstance(a, cupy.ndarray) and a.dtype.char in TYPES and a.flags.c_contiguous for a in arrays):
        return None
    output = arrays[-1]
    computed = np.promote_types(output.dtype, "float32")
    if output.ndim != 2 or (total is not None and total.dtype != computed):
        return None
    rows, columns = output.shape
    kinds = list[str]()
    for array in arrays:
        if (array.shape, array.dtype) == (output.shape, output.dtype) and not array.data.ptr % VECTOR_BYTES:
            kinds.append(array.dtype.char)
        elif array.shape == (1, columns) and array is not output and array.dtype <= computed:
            kinds.append(array.dtype.char + "r")
        else:
            return None
    source, name = kernel_source(formula, tuple(kinds), columns, total is not None), formula.__name__
    if source is None:
        return None
    compute, grid = cupy.RawKernel(source, name), ((BLOCKS,), (THREADS,))
    if total is None:
        return [(compute, (*grid, (*arrays, cupy.int32(rows))))]
    partial = cupy.empty((BLOCKS, columns), dtype=total.dtype)
    return [
        (compute, (*grid, (*arrays, partial, cupy.int32(rows)))),
        (cupy.RawKernel(source, f"{name}_total"), ((-(-columns // 32),), (32, 32), (partial, total))),
    ]
