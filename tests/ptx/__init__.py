"""A small interpreter of PTX: it runs CUDA kernels on NumPy, where there is no GPU.

    compiled = compile_ptx(source, "80")            # by NVRTC, as CuPy compiles
    kernel = compiled.program().kernels["saxpy"]    # or Program(text).kernels["saxpy"]
    memory = Memory()
    memory.add(x, name="x")                         # NumPy arrays are global memory, at their own addresses
    memory.add(y, initialised=False, name="y")
    kernel.launch((blocks,), (threads,), [pack(x), pack(y), pack(np.int32(n))], memory)

Kernels write into the arrays. A register is an array with one element for each thread of the whole grid; branches
that threads take apart are masks.

**Modelled**: what the PTX ISA manual says of each instruction that is known; warps, divergence and convergence, named
barriers, shuffles and votes; global, shared, local, constant and parameter memory, generic addresses; `cp.async`;
atomic operations, in the order of the threads; f16, bf16, tf32, roundings, flushing to zero; tensor cores, whose sums
are cut off as papers found them (`ptx.tensor`); approximate instructions, as wrong as the manual allows
(`ptx.approximate`); the limits of launches.

**Refused**, with a `PtxError` that names kernel, line, instruction, thread and block:

- instructions, modifiers, types and special registers that are not known (`UnknownInstruction`), before any runs;
- accesses outside of memory, to what is read-only, or misaligned (`OutOfBounds`, `Misaligned`);
- reads of bytes that nothing wrote, or that `cp.async` has not brought yet (`Uninitialised`);
- two threads at one address without an order between them, one of them writing (`Race`; see `ptx.races`);
- threads that wait for others which never come, or take part in what they must not (`Divergence`);
- launches that CUDA would refuse, kernels that trap or do not end (`LaunchError`);
- results that the manual leaves open (`Undefined`): an integer divided by zero.

**Not modelled**: time, caches and their hints, the order in which warps run (races are found instead), clusters,
textures, `printf`, indirect calls and recursion. A register that was never written holds a NaN. Memory of functions'
parameters and local memory are found uninitialised as any other, but nothing races there.
"""

from ptx.compiler import Compiled, compile_ptx
from ptx.errors import (
    Divergence,
    LaunchError,
    Misaligned,
    OutOfBounds,
    PtxError,
    Race,
    Undefined,
    Uninitialised,
    UnknownInstruction,
)
from ptx.memory import Memory
from ptx.program import Kernel, Program, pack

__all__ = [
    "Compiled",
    "Divergence",
    "Kernel",
    "LaunchError",
    "Memory",
    "Misaligned",
    "OutOfBounds",
    "Program",
    "PtxError",
    "Race",
    "Undefined",
    "Uninitialised",
    "UnknownInstruction",
    "compile_ptx",
    "pack",
]
