"""NVRTC: CUDA C++ to the PTX that CuPy's machine code comes from, and what that code needs, without a GPU.

CuPy compiles for the device that is there, with `-ftz=true` in any case (`cupy.cuda.compiler`): a `RawKernel` or a
`RawModule` as it is, an element-wise kernel with CuPy's headers before it. How the source and its options are had
from CuPy 14 is its own business and may need a change here with another CuPy.
"""

import hashlib
import io
import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from ptx.program import Program


@dataclass(frozen=True)
class Usage:
    """What one thread of a kernel needs, and one block: as `ptxas -v` reports it."""

    registers: int
    shared: int
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass
class Compiled:
    """PTX, and the usage of each kernel in the machine code made of it."""

    ptx: str
    log: str
    usage: dict[str, Usage] = field(default_factory=dict)
    _program: Program | None = None

    def program(self) -> Program:
        """Return the program, whose kernels know how many registers they use: one and the same each time."""
        if self._program is None:
            self._program = Program(self.ptx)
            for name, usage in self.usage.items():
                self._program.kernels[name].registers = usage.registers
        return self._program


def compile_ptx(
    source: str, architecture: str = "80", options: tuple[str, ...] = (), headers: bool = False, report: bool = True
) -> Compiled:
    """Compile as CuPy would for an architecture, such as "80" for sm_80; `headers`: as an element-wise kernel.

    Without a `report` the PTX is not made into machine code, which takes longer than all else, and `usage` is empty.
    What was compiled once is not compiled again, in this process or, without a report, in others that have the same
    folder in the environment's `PTX_CACHE`. Raises CuPy's `CompileException`.
    """
    return _compile(source, architecture, tuple(options), headers, report)


@cache
def _compile(source: str, architecture: str, options: tuple[str, ...], headers: bool, report: bool) -> Compiled:
    import cupy
    from cupy_backends.cuda.libs import nvrtc

    compiler = cupy.cuda.compiler
    given: list[tuple[str, tuple[str, ...]]] = []

    def keep(source: str, options: tuple[str, ...] = (), **_others: Any) -> None:
        given.append((source, options))

    with mock.patch.object(compiler, "_compile_module_with_cache", keep):
        cupy._core.core.compile_with_cache(source, options, prepend_cupy_headers=headers)
    [(source, options)] = given
    real = "sm" if report else "compute"
    options += ("-ftz=true", f"-arch={real}_{architecture}", "--device-as-default-execution-space")
    folder = None if report else os.environ.get("PTX_CACHE")
    kept = Path(folder or "", hashlib.sha256(repr((source, options, nvrtc.getVersion())).encode()).hexdigest())
    if folder and kept.exists():
        return Compiled(kept.read_text(encoding="utf-8"), "")
    program, log = compiler._NVRTCProgram(source, "kernel.cu", method="cubin" if report else "ptx"), io.StringIO()
    program.compile((*options, *(["--ptxas-options=-v"] if report else [])), log)
    ptx = nvrtc.getPTX(program.ptr)
    text = ptx if isinstance(ptx, str) else ptx.decode()
    if folder:
        own = kept.with_name(f"{kept.name}.{os.getpid()}")
        own.write_text(text, encoding="utf-8")
        own.replace(kept)
    return Compiled(text, log.getvalue(), usage(log.getvalue()))


def usage(log: str) -> dict[str, Usage]:
    """Return what `ptxas -v` says of each kernel."""
    found = {}
    for part in re.split(r"Compiling entry function ", log)[1:]:
        name = re.match(r"'(\w+)'", part)
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        if name is None or stack is None or registers is None:
            raise ValueError(f"no report of registers and stack in {part!r}")
        shared = re.search(r"(\d+) bytes smem", part)
        found[name[1]] = Usage(int(registers[1]), int(shared[1]) if shared else 0, *map(int, stack.groups()))
    return found
