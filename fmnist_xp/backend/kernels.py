"""A CUDA kernel of our own: an element-wise formula and, in the same pass, the sums of its result over the rows.

On a GPU such a formula takes the time that its memory takes, and sums of their own would read its result once more.
The kernel's expression comes from the formula itself, which is written once, as an expression of `xp`.
"""

import inspect
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from fmnist_xp.backend.base import Array, Call

BLOCKS, THREADS = 528, 256
VECTOR_BYTES = 16
"""What a thread reads at once."""

TYPES = {"e": ("__half", "float"), "f": ("float", "float"), "d": ("double", "double")}
"""How numbers are kept, and what is computed and summed in, by the dtype's letter."""

SOURCE = """
#include <cuda_fp16.h>

struct alignas({vector_bytes}) Vector {{ {kept} values[{vector}]; }};

// A block takes every gridDim.x-th group of rows, a thread {vector} neighbouring columns of a row of each group.
extern "C" __global__ void {name}({parameters}, {wide}* partial, const int rows) {{
  __shared__ {wide} sums[{threads}][{vector}];
  const int lanes = {columns} / {vector}, lane = threadIdx.x % lanes, group = {threads} / lanes;
  {wide} total[{vector}] = {{}};
  for (int row = blockIdx.x * group + threadIdx.x / lanes; row < rows; row += gridDim.x * group) {{
    const size_t place = (size_t)row * lanes + lane;
    {loads}
    Vector result;
    for (int i = 0; i < {vector}; i++) {{
      {reads}
      const {wide} value = {expression};
      result.values[i] = ({kept})value;
      total[i] += ({wide})result.values[i];
    }}
    ((Vector*){output})[place] = result;
  }}
  for (int i = 0; i < {vector}; i++) sums[threadIdx.x][i] = total[i];
  __syncthreads();
  if (threadIdx.x < lanes)
    for (int i = 0; i < {vector}; i++) {{
      {wide} sum = 0;
      for (int other = threadIdx.x; other < {threads}; other += lanes) sum += sums[other][i];
      partial[blockIdx.x * {columns} + lane * {vector} + i] = sum;
    }}
}}

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
        """Return the comparison."""
        return Term(f"({self.text} > {other})")


def expression(formula: Callable[..., Any]) -> tuple[list[str], str] | None:
    """Return the parameters of an element-wise formula, the last of them its output, and what it writes there.

    None where it computes more than products and comparisons, which is all that is asked of it.
    """
    names = list(inspect.signature(formula).parameters)[1:]
    written: list[tuple[str, str]] = []

    def multiply(a: Term, b: Term, out: Term) -> None:
        written.append((out.text, f"{a.text} * {b.text}"))

    try:
        formula(SimpleNamespace(multiply=multiply), *map(Term, names))
    except (AttributeError, TypeError, ValueError):
        return None
    return (names, written[0][1]) if len(written) == 1 and written[0][0] == names[-1] else None


def with_row_sums(
    cupy: ModuleType, formula: Callable[..., Any], arrays: tuple[Array, ...], total: Array
) -> list[Call] | None:
    """Return the calls that compute `formula` on `arrays` and the sums of its result over the rows, (1, columns).

    All arrays are (rows, columns) of one dtype and C-contiguous, the last is the result, which may be one of the
    others. The sums are added in an order that depends on the shape alone. None where a kernel does not fit: another
    kind of formula or of arrays.
    """
    found = expression(formula)
    output = arrays[-1]
    kept, wide = TYPES.get(output.dtype.char, ("", ""))
    rows, columns = output.shape if output.ndim == 2 else (0, 0)
    vector = VECTOR_BYTES // output.dtype.itemsize
    lanes = columns // vector
    if found is None or not kept or not lanes or columns % vector or THREADS % lanes:
        return None
    alike = all((a.shape, a.dtype) == (output.shape, output.dtype) and a.flags.c_contiguous for a in arrays)
    if not alike or any(a.data.ptr % VECTOR_BYTES for a in arrays):
        return None
    if total.dtype != {"e": "f"}.get(output.dtype.char, output.dtype):
        return None
    names, text = found
    inputs = names[:-1]
    name = f"{formula.__name__}_with_row_sums"
    source = SOURCE.format(
        name=name,
        kept=kept,
        wide=wide,
        vector=vector,
        vector_bytes=VECTOR_BYTES,
        threads=THREADS,
        blocks=BLOCKS,
        columns=columns,
        parameters=", ".join([*(f"const {kept}* in_{name}" for name in inputs), f"{kept}* {names[-1]}"]),
        loads=" ".join(f"const Vector read_{name} = ((const Vector*)in_{name})[place];" for name in inputs),
        reads=" ".join(f"const {wide} {name} = ({wide})read_{name}.values[i];" for name in inputs),
        expression=text,
        output=names[-1],
    )
    partial = cupy.empty((BLOCKS, columns), dtype=total.dtype)
    compute = cupy.RawKernel(source, name)
    add = cupy.RawKernel(source, f"{name}_total")
    grid = -(-columns // 32)
    return [
        (compute, ((BLOCKS,), (THREADS,), (*arrays, partial, cupy.int32(rows)))),
        (add, ((grid,), (32, 32), (partial, total))),
    ]
