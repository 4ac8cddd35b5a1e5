"""Kernels as the compiler makes them, in the place of NumPy's functions: `StandInCupy(kernels="ptx")`.

NVRTC compiles what CuPy would load, and the interpreter in `tests/ptx` runs it on the stand-in's memory: slowly, so
at small sizes. It takes CuPy, NVRTC and CUDA's headers, all without a device. Products, copies and reductions, which
are libraries' and not compiled here, stay NumPy's.
"""

import functools
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from parity.cuda_source import fused_source
from parity.standin.arrays import DeviceArray
from parity.standin.cuda import values_at
from ptx import Kernel, Memory, pack
from ptx.compiler import compile_ptx

if TYPE_CHECKING:
    from parity.standin.module import StandInCupy

UNWRITTEN = np.uint32(0x7FA5C369)
"""What memory without values holds, word by word, so that a kernel that reads it is found: as float32 it is NaN."""
BLOCK = 128
"""Threads in a block of CuPy's element-wise kernels."""


class CompiledKernel:
    """Stands for `cupy.RawKernel`."""

    def __init__(self, cupy: "StandInCupy", code: str, name: str) -> None:
        self._cupy, self.name = cupy, name
        self._kernel = _program(code, cupy.architecture, headers=False)[name]

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._kernel.max_dynamic_shared_size_bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self._kernel.max_dynamic_shared_size_bytes = size

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        cupy = self._cupy
        cupy.check_current(*args)
        packed = [pack(array._values if isinstance(array, DeviceArray) else array) for array in args]

        def launch() -> None:
            cupy.kernels.append(self.name)
            self._kernel.launch(grid, block, packed, live_memory(cupy), shared_bytes=shared_mem)

        cupy.submit(launch, *args)


def run_fused(
    cupy: "StandInCupy", name: str, function: Callable[..., Any], arguments: tuple[Any, ...], report: bool = False
) -> None:
    """Run a fused function, a partial one whose formula is given the stand-in, as the kernel CuPy makes of it.

    With a `report` it is made into machine code, too, whose registers then limit the launch.
    """
    if not isinstance(function, functools.partial) or function.args[:1] != (cupy,):
        raise TypeError(f"{name} is not functools.partial(formula, cupy, …), which could be given the real CuPy")
    formula = functools.partial(function.func, *function.args[1:]) if function.args[1:] else function.func
    given = [
        argument._values if isinstance(argument, DeviceArray) else np.asarray(argument) for argument in arguments
    ]
    is_array = [isinstance(argument, DeviceArray) for argument in arguments]
    arrays = [values for values, array in zip(given, is_array, strict=True) if array]
    shape = np.broadcast_shapes(*(values.shape for values in arrays))
    arrays = [np.broadcast_to(values, shape) for values in arrays]
    if all(values.flags.c_contiguous for values in arrays):  # then CuPy's kernels see one dimension
        shape = (int(np.prod(shape)),)
        arrays = [values.reshape(shape) for values in arrays]
    packed, types, rest = [], [], iter(arrays)
    for values, array in zip(given, is_array, strict=True):
        if not array:
            types.append((values.dtype, None, True))
            packed.append(values.tobytes())
            continue
        values = next(rest)
        types.append((values.dtype, values.ndim, values.flags.c_contiguous))
        numbers = values.ctypes.data, values.size, *values.shape, *values.strides  # CArray of cupy/carray.cuh
        packed.append(struct.pack(f"<{len(numbers)}q", *numbers))
    size = int(np.prod(shape))
    indexer = size, *shape, *(0 for _ in shape)  # CIndexer
    packed.append(struct.pack(f"<{len(indexer)}q", *indexer))
    kernel = _elementwise(formula, name, tuple(types), cupy.architecture, report)
    if size:
        kernel.launch((-(-size // BLOCK),), (min(BLOCK, size),), packed, live_memory(cupy))


def live_memory(cupy: "StandInCupy") -> Memory:
    """Return what arrays of the current device live in."""
    memory = Memory()
    for block in list(cupy._memory):
        if block.device == cupy.current.device and block.end > block.start:
            data = values_at(block.start, np.uint8, block.end - block.start)
            written = np.ones(len(data), bool)
            words = data[: len(data) // 4 * 4].view(np.uint32)
            written[: 4 * len(words)] = np.repeat(words != UNWRITTEN, 4)
            memory.add(data, initialised=True if written.all() else written)
    return memory


def mark_unwritten(values: np.ndarray) -> None:
    """Fill a new array with what stands for no value."""
    data = values.reshape(-1).view(np.uint8)
    data[: len(data) // 4 * 4].view(np.uint32)[...] = UNWRITTEN


@functools.cache
def _elementwise(
    formula: Callable[..., Any], name: str, types: tuple[Any, ...], architecture: str, report: bool
) -> Kernel:
    import cupy

    source, _operation = fused_source(cupy, formula, types, name)
    return _program(source, architecture, headers=True, report=report)[name]


@functools.cache
def _program(source: str, architecture: str, headers: bool, report: bool = False) -> dict[str, Kernel]:
    return compile_ptx(source, architecture, headers=headers, report=report).program().kernels
