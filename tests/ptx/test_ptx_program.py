"""Programs and their kernels; launches that CUDA would refuse."""

import re
from pathlib import Path

import numpy as np
import pytest

from ptx import LaunchError, Memory, Program, pack
from ptx.decode import DECODERS

TEXT = """.version 8.0 .target {target} .address_size 64 .shared .align 4 .b8 module_s[100]; .shared .b8 unused[999];
.extern .shared .align 16 .b8 dynamic[];
.visible .entry f(.param .u64 x, .param .u8 y, .param .align 8 .b8 z[12]) {limits} {{
    .reg .b32 %r<3>; .reg .b64 %d<3>; .shared .align 16 .b8 own[32];
    ld.param.u64 %d0, [x]; ld.param.u8 %r0, [y]; ld.param.u32 %r1, [z+8]; add.u32 %r0, %r0, %r1;
    mov.u32 %r1, own; mov.u32 %r1, module_s; mov.u32 %r1, dynamic; st.global.u32 [%d0], %r0; ret; }}
.entry g() {{ ret; }} .func h() {{ ret; }}"""


def program(target: str = "sm_80", limits: str = "") -> Program:
    return Program(TEXT.format(target=target, limits=limits))


def launch(one: Program, grid: tuple[int, ...] = (1,), block: tuple[int, ...] = (1,), shared_bytes: int = 0) -> None:
    one.kernels["g"].launch(grid, block, [], Memory(), shared_bytes)


class TestProgram:
    def test_kernels(self) -> None:
        one = program("sm_90a")
        assert (one.target, one.architecture) == ("sm_90a", "90")
        assert list(one.kernels) == ["f", "g"]
        kernel = one.kernels["f"]
        assert kernel.name == "f"
        assert kernel.parameters == [("x", 8, 8), ("y", 1, 1), ("z", 12, 8)]
        assert kernel.shared_bytes == 132  # own at 0, the module's at 32; what others use does not count
        assert one.kernels["g"].shared_bytes == 0

    def test_arguments(self) -> None:
        x = np.zeros(1, "u4")
        memory = Memory()
        memory.add(x)
        kernel = program().kernels["f"]
        structure = pack(np.uint64(5)) + pack(7, "i4")
        kernel.launch((1,), (1,), [pack(x), pack(np.uint8(200)), structure], memory)
        assert x.tolist() == [207]
        with pytest.raises(LaunchError, match="f takes 3 arguments, not 2"):
            kernel.launch((1,), (1,), [pack(x), b"1"], memory)
        with pytest.raises(LaunchError, match="f: y has 1 bytes, not 4"):
            kernel.launch((1,), (1,), [pack(x), bytes(4), structure], memory)

    def test_pack(self) -> None:
        x = np.zeros(3)
        assert int.from_bytes(pack(x), "little") == x.ctypes.data
        assert pack(np.float32(1)) == b"\0\0\x80\x3f"
        assert pack(-1, "i2") == b"\xff\xff"
        assert pack(1.5, np.float64) == b"\0\0\0\0\0\0\xf8\x3f"
        with pytest.raises(TypeError, match="an argument of type int needs a dtype"):
            pack(3)


class TestLimits:
    """Those of NVIDIA's CUDA C++ programming guide, "Compute Capabilities", for 8.0 and 9.0."""

    @pytest.mark.parametrize(
        ("grid", "block"),
        [
            ((1,), (1024,)),
            ((1,), (32, 32)),
            ((1,), (4, 4, 64)),
            ((1, 65535), (1,)),
            ((1, 1, 65535), (1,)),
            ((70000,), (1,)),
        ],
    )
    def test_largest_sizes(self, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        launch(program(), grid, block)

    @pytest.mark.parametrize(
        ("grid", "block"),
        [
            ((1,), (1025,)),
            ((1,), (33, 32)),
            ((1,), (1, 1, 65)),
            ((1,), (0,)),
            ((0,), (1,)),
            ((1, 65536), (1,)),
            ((1, 1, 65536), (1,)),
            ((2**31,), (1,)),
        ],
    )
    def test_larger_sizes(self, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        with pytest.raises(LaunchError, match=r"g: (a grid|blocks) of"):
            launch(program(), grid, block)

    @pytest.mark.parametrize(("registers", "threads"), [(64, 1024), (65, 896), (72, 896), (255, 256), (33, 1024)])
    def test_registers_that_a_block_has(self, registers: int, threads: int) -> None:
        """65,536, given to warps in units of 256."""
        one = program()
        one.kernels["g"].registers = registers
        launch(one, (1,), (threads,))

    @pytest.mark.parametrize(("registers", "threads"), [(65, 1024), (73, 896), (255, 257), (128, 513)])
    def test_registers_that_a_block_has_not(self, registers: int, threads: int) -> None:
        one = program()
        one.kernels["g"].registers = registers
        with pytest.raises(
            LaunchError, match=rf"warps of {registers} registers a thread need \d+, a block has 65536"
        ):
            launch(one, (1,), (threads,))

    def test_shared_memory_without_asking(self) -> None:
        launch(program(), shared_bytes=48 * 1024)
        with pytest.raises(LaunchError, match="49153 bytes of dynamic shared memory, where 49152 may be used"):
            launch(program(), shared_bytes=48 * 1024 + 1)

    def test_static_shared_memory_counts(self) -> None:
        x = np.zeros(1, "u4")
        memory = Memory()
        memory.add(x)
        arguments = [pack(x), bytes(1), bytes(12)]
        kernel = program().kernels["f"]
        kernel.launch((1,), (1,), arguments, memory, 48 * 1024 - 132)
        with pytest.raises(LaunchError, match="49021 bytes of dynamic"):
            kernel.launch((1,), (1,), arguments, memory, 48 * 1024 - 131)
        kernel.max_dynamic_shared_size_bytes = 1 << 20
        with pytest.raises(LaunchError, match="bytes of shared memory, where a block has 166912 at most"):
            kernel.launch((1,), (1,), arguments, memory, 163 * 1024 - 131)

    @pytest.mark.parametrize(
        ("target", "kilobytes"), [("sm_80", 163), ("sm_90", 227), ("sm_90a", 227), ("sm_86", 99)]
    )
    def test_shared_memory_that_was_asked_for(self, target: str, kilobytes: int) -> None:
        one = program(target)
        one.kernels["g"].max_dynamic_shared_size_bytes = kilobytes * 1024
        launch(one, shared_bytes=kilobytes * 1024)
        one.kernels["g"].max_dynamic_shared_size_bytes += 1
        with pytest.raises(LaunchError, match=f"where a block has {kilobytes * 1024} at most"):
            launch(one, shared_bytes=kilobytes * 1024 + 1)

    def test_what_the_kernel_was_compiled_for(self) -> None:
        x = np.zeros(1, "u4")
        memory = Memory()
        memory.add(x)
        arguments = [pack(x), bytes(1), bytes(12)]
        most = program(limits=".maxntid 2, 1, 1").kernels["f"]
        with pytest.raises(LaunchError, match="f: blocks of 3 threads, where the kernel was compiled for"):
            most.launch((1,), (3,), arguments, memory)
        exact = program(limits=".reqntid 1").kernels["f"]
        exact.launch((1,), (1,), arguments, memory)
        with pytest.raises(LaunchError, match="where the kernel requires"):
            exact.launch((1,), (2,), arguments, memory)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_every_instruction_stands_in_the_text_of_a_test(name: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("test_ptx_*.py"))]
    assert any(re.search(rf"\b{name}\b", text) for text in texts)
