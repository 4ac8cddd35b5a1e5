"""Programs and kernels: what a text holds, and how it is launched."""

from typing import Any

import numpy as np

# These enter their decoders into the table.
from ptx import arithmetic, atomics, comparisons, copies, floating, matrices, transfer, warps  # noqa: F401
from ptx.assembly import Assembler
from ptx.decode import decode
from ptx.errors import LaunchError
from ptx.layout import SharedLayout, parameter_offsets
from ptx.machine import Launch
from ptx.memory import Memory, Region
from ptx.parser import Parser
from ptx.syntax import Function, Module, Variable
from ptx.warps import MEMBERS

SHARED_BYTES = 48 * 1024
"""Shared memory that a block may have without asking for more."""

MORE_SHARED_BYTES = {"80": 163 * 1024, "86": 99 * 1024, "87": 163 * 1024, "89": 99 * 1024, "90": 227 * 1024}
"""Shared memory that a block may ask for, by architecture."""

REGISTERS = 65536
"""Registers that a block may have in all."""


class Program:
    """A PTX text: its kernels by name."""

    def __init__(self, text: str) -> None:
        self.module = Parser(text).parse()
        self.target = self.module.target
        self.architecture = self.target.removeprefix("sm_").rstrip("af")
        self.regions: list[Region] = []
        self.addresses: dict[Variable, int] = {}
        variables = list(self.module.variables)
        for function in self.module.functions.values():
            variables += function.variables
        for variable in variables:
            if variable.space in ("global", "const"):
                self._place(variable)
        functions = self.module.functions.values()
        self.kernels = {
            function.name: Kernel(self, self.module, function) for function in functions if function.entry
        }

    def _place(self, variable: Variable) -> None:
        """Give a variable of the module memory, with its initial value; bytes without one are zero."""
        room = np.zeros(variable.size + variable.alignment, np.uint8)
        start = -room.ctypes.data % variable.alignment
        data = room[start : start + variable.size]
        data[: len(variable.initial)] = np.frombuffer(variable.initial, np.uint8)
        self.addresses[variable] = data.ctypes.data
        writable = variable.space == "global"
        self.regions.append(Region(variable.name, data.ctypes.data, data, None, writable))


class Kernel:
    """One kernel.

    `registers` per thread are what the compiler reports, where it is known, and limit the threads of a block.
    `max_dynamic_shared_size_bytes` is as in CuPy: to have more shared memory than 48 KB, one has to ask for it.
    """

    def __init__(self, program: Program, module: Module, function: Function) -> None:
        self.program, self.module, self.function, self.name = program, module, function, function.name
        self.parameters = [(p.name, p.size, p.alignment) for p in function.parameters]
        self.shared_bytes = SharedLayout(module, function).static
        self.registers: int | None = None
        self.max_dynamic_shared_size_bytes = SHARED_BYTES - self.shared_bytes
        size = max((o + v.size for v, o in parameter_offsets(function).items()), default=0)
        room = np.zeros(size + 64, np.uint8)
        self.parameter_block = room[-room.ctypes.data % 64 :][:size]
        self._code: Assembler | None = None

    @property
    def code(self) -> Assembler:
        """The decoded kernel; what is not known in it raises `UnknownInstruction`."""
        if self._code is None:
            self._code = Assembler(
                self.module,
                self.function,
                self.program.architecture,
                self.program.addresses,
                self.parameter_block.ctypes.data,
                decode,
                MEMBERS,
            )
        return self._code

    def launch(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: list[bytes] | tuple[bytes, ...],
        memory: Memory,
        shared_bytes: int = 0,
    ) -> None:
        """Run the kernel; `arguments` are the bytes of each parameter."""
        grid, block = ((*sizes, 1, 1)[:3] for sizes in (grid, block))
        self._check(grid, block, shared_bytes)
        if len(arguments) != len(self.parameters):
            raise LaunchError(f"{self.name} takes {len(self.parameters)} arguments, not {len(arguments)}")
        offsets = parameter_offsets(self.function).values()
        for (name, size, _alignment), offset, argument in zip(self.parameters, offsets, arguments, strict=True):
            if len(argument) != size:
                raise LaunchError(f"{self.name}: {name} has {size} bytes, not {len(argument)}")
            self.parameter_block[offset : offset + size] = np.frombuffer(argument, np.uint8)
        block_address = self.parameter_block.ctypes.data
        regions = [*self.program.regions, Region("parameters", block_address, self.parameter_block, None, False)]
        with np.errstate(all="ignore"):
            Launch(self, self.code, grid, block, memory, regions, shared_bytes).run()

    def _check(self, grid: tuple[int, ...], block: tuple[int, ...], shared_bytes: int) -> None:
        """Raise what CUDA would refuse."""

        def refuse(why: str) -> None:
            raise LaunchError(f"{self.name}: {why}")

        threads, limits = int(np.prod(block)), self.function.limits
        if any(not 1 <= size <= limit for size, limit in zip(grid, (2**31 - 1, 65535, 65535), strict=True)):
            refuse(f"a grid of {grid} blocks")
        if any(not 1 <= size <= limit for size, limit in zip(block, (1024, 1024, 64), strict=True)) or threads > 1024:
            refuse(f"blocks of {block} threads, where 1024 is the most")
        if "reqntid" in limits and (*limits["reqntid"], 1, 1)[:3] != tuple(block):
            refuse(f"blocks of {block} threads, where the kernel requires {limits['reqntid']}")
        if "maxntid" in limits and threads > np.prod(limits["maxntid"]):
            refuse(f"blocks of {threads} threads, where the kernel was compiled for {limits['maxntid']} at most")
        if self.registers is not None:
            warps = -(-threads // 32)
            needed = warps * -(-self.registers * 32 // 256) * 256
            if needed > REGISTERS:
                refuse(f"{warps} warps of {self.registers} registers a thread need {needed}, a block has {REGISTERS}")
        allowed = self.max_dynamic_shared_size_bytes
        if shared_bytes > allowed:
            refuse(f"{shared_bytes} bytes of dynamic shared memory, where {allowed} may be used")
        most = MORE_SHARED_BYTES.get(self.program.architecture, SHARED_BYTES)
        if self.shared_bytes + shared_bytes > most:
            refuse(f"{self.shared_bytes + shared_bytes} bytes of shared memory, where a block has {most} at most")


def pack(value: Any, dtype: Any = None) -> bytes:
    """Return the bytes of an argument: of an array its address, of a NumPy scalar, or of a number given a dtype."""
    if isinstance(value, np.ndarray):
        return int(value.ctypes.data).to_bytes(8, "little")
    if dtype is not None:
        return np.dtype(dtype).type(value).tobytes()
    if isinstance(value, np.generic):
        return value.tobytes()
    raise TypeError(f"an argument of type {type(value).__name__} needs a dtype")
