"""Memory: its bounds, what of it was written, and copies by `cp.async`."""

from typing import Any

import numpy as np
import pytest

from ptx import Memory, Misaligned, OutOfBounds, Program, Race, Uninitialised, UnknownInstruction, pack
from ptx.instruction_helpers import kernel, run

BUFFER = ".shared .align 16 .b8 buffer[256];"


def launch(body: str, arrays: list[np.ndarray], memory: Memory, threads: int = 4, **options: Any) -> None:
    """Launch a kernel with the arrays' addresses as %p0, %p1, …."""
    one = kernel(body + " ret;", [], [array.dtype for array in arrays], **options)
    one.launch((1,), (threads,), [pack(array) for array in arrays], memory)


def memory_of(*arrays: np.ndarray, **options: Any) -> Memory:
    memory = Memory()
    for array in arrays:
        memory.add(array, name="x", **options)
    return memory


class TestBounds:
    @pytest.mark.parametrize(
        ("access", "wrong"),
        [
            ("ld.global.u32 %t0, [%l0+16]", 0),
            ("ld.global.u32 %t0, [%l0+4]", 3),
            ("ld.global.u32 %t0, [%l0+-4]", 0),
            ("st.global.u32 [%l0+8], %t0", 2),
            ("ld.global.v2.u32 {%t0, %t1}, [%l1+8]", 1),
            ("ld.global.u64 %l2, [%l1+16]", 0),
            ("atom.global.add.u32 %t0, [%l0+4], 1", 3),
            ("red.global.add.u32 [%l0+12], 1", 1),
            ("ld.u32 %t0, [%l0+4]", 3),
        ],
    )
    def test_outside_of_an_array(self, access: str, wrong: int) -> None:
        """Thread i is at the array's byte 4 i (%l0), or 8 i (%l1); the array has 16."""
        room = np.zeros(16, "u4")
        x = room[-room.ctypes.data // 4 % 4 :][:4]  # at a multiple of 16
        body = f"mad.wide.u32 %l0, %index, 4, %p0; mad.wide.u32 %l1, %index, 8, %p0; {access};"
        with pytest.raises(OutOfBounds) as error:
            launch(body, [x], memory_of(x))
        text = str(error.value)
        assert f"({access}), thread ({wrong}, 0, 0) of block (0, 0, 0): " in text
        assert text.startswith("test, line ")

    def test_threads_that_do_not_take_part_are_not_checked(self) -> None:
        x = np.arange(3, dtype="u4")
        body = """mad.wide.u32 %l0, %index, 4, %p0; setp.lt.u32 %p, %index, 3;
            @%p ld.global.u32 %t0, [%l0]; @%p add.u32 %t0, %t0, 10; @%p st.global.u32 [%l0], %t0;"""
        launch(body, [x], memory_of(x), threads=8)
        assert x.tolist() == [10, 11, 12]

    def test_arrays_beside_one_another(self) -> None:
        """One instruction may reach several; what lies between them belongs to none."""
        room = np.arange(12, dtype="u4")
        first, second = room[:4], room[8:]
        body = "mad.wide.u32 %l0, %index, 32, %p0; ld.global.u32 %t0, [%l0+{}]; st.global.u32 [%l0], %t0;"
        launch(body.format(4), [first], memory_of(first, second), threads=2)
        assert room[[0, 8]].tolist() == [1, 9]
        with pytest.raises(OutOfBounds, match=r"thread \(0, 0, 0\).*0 bytes behind x"):
            launch(body.format(16), [first], memory_of(first, second), threads=2)

    @pytest.mark.parametrize("access", ["ld.shared.u32 %t0, [%t1+253]", "st.shared.u32 [%t1+256], 1"])
    def test_outside_of_shared_memory(self, access: str) -> None:
        error = Misaligned if "253" in access else OutOfBounds
        with pytest.raises(error):
            run(f"mov.u32 %t1, buffer; {access}; mov.b32 %x, 0;", module=BUFFER)

    def test_shared_memory_has_no_null_address(self) -> None:
        with pytest.raises(OutOfBounds, match="in shared memory, which has 256 bytes"):
            run("mov.u32 %t1, 0; mov.u32 %t2, buffer; st.shared.u32 [%t1], 1; mov.b32 %x, 0;", module=BUFFER)

    def test_dynamic_shared_memory_ends_where_the_launch_says(self) -> None:
        module = ".extern .shared .align 16 .b8 dynamic[];"
        body = "mad.wide.u32 %l0, %index, 4, %p0; mov.u32 %t1, dynamic; st.shared.u32 [%t1+28], 1; mov.b32 %x, 3;"
        assert run(body, threads=1, module=module, shared_bytes=32)[0].tolist() == [3]
        with pytest.raises(OutOfBounds):
            run(body, threads=1, module=module, shared_bytes=28)

    def test_local_memory_is_each_thread_s_own(self) -> None:
        body = """.local .align 8 .b8 own[8]; mov.u64 %l0, own; st.local.u32 [%l0], %index; st.local.u32 [%l0+4], 7;
            ld.local.u32 %x, [%l0]; ld.local.u32 %y, [%l0+4];"""
        found = run(body, [], ["u4", "u4"], threads=40)
        assert [values.tolist() for values in found] == [list(range(40)), [7] * 40]
        with pytest.raises(OutOfBounds, match="8 bytes at 0x8 in local memory"):
            run(body.replace("ld.local.u32 %x, [%l0]", "ld.local.u64 %l1, [%l0+8]"), [], ["u4", "u4"])

    @pytest.mark.parametrize(("kind", "offset"), [("u16", 1), ("u32", 2), ("u64", 4), ("v4.u32", 8), ("v2.u64", 8)])
    def test_misaligned(self, kind: str, offset: int) -> None:
        names = {"u16": "%h0", "u64": "%l1", "v4.u32": "{%t0, %t1, %t2, %t3}", "v2.u64": "{%l1, %l2}"}
        body = f"mov.u32 %t5, buffer; ld.shared.{kind} {names.get(kind, '%t0')}, [%t5+{offset}]; mov.b32 %x, 0;"
        with pytest.raises(Misaligned, match="is not a multiple of"):
            run(body, module=BUFFER)

    def test_elements_of_an_array_at_an_odd_address(self) -> None:
        """Addresses count, not places in the array."""
        room = np.zeros(40, "u1")
        x = room[-room.ctypes.data % 8 + 2 :][:14]
        x[:] = range(14)
        body = "ld.global.u32 %t0, [%p0+{}]; st.global.u32 [%p0+10], %t0;"
        launch(body.format(2), [x], memory_of(x), threads=1)
        assert x.tolist() == [*range(10), 2, 3, 4, 5]
        with pytest.raises(Misaligned):
            launch(body.format(4), [x], memory_of(x), threads=1)
        with pytest.raises(OutOfBounds):
            launch(body.format(-2), [x], memory_of(x), threads=1)

    def test_what_is_read_only(self) -> None:
        x = np.zeros(4, "u4")
        x.flags.writeable = False
        launch("ld.global.u32 %t0, [%p0];", [x], memory_of(x))
        with pytest.raises(OutOfBounds, match="x\\+0, which is read-only"):
            launch("st.global.u32 [%p0], 1;", [x], memory_of(x), threads=1)
        y = np.zeros(4, "u4")
        with pytest.raises(OutOfBounds, match="read-only"):
            launch("atom.global.add.u32 %t0, [%p0], 1;", [y], memory_of(y, writable=False), threads=1)
        with pytest.raises(OutOfBounds, match="constant\\+0, which is read-only"):
            run("mov.u64 %l0, constant; st.global.u32 [%l0], 1; mov.b32 %x, 0;", module=".const .u32 constant = 3;")


class TestHostArrays:
    @pytest.mark.parametrize("dtype", ["u1", "i2", "f2", "f4", "f8", "?"])
    def test_kernels_write_into_them(self, dtype: str) -> None:
        x = np.zeros((2, 3), dtype)
        body = f"mad.wide.u32 %l0, %index, {x.itemsize}, %p0; mov.u16 %h0, 1; st.global.u8 [%l0], %h0;"
        launch(body, [x], memory_of(x), threads=6)
        assert x.view(f"u{x.itemsize}").tolist() == [[1] * 3] * 2

    def test_columns_first(self) -> None:
        x = np.asfortranarray(np.zeros((2, 3), "u4"))
        launch("mad.wide.u32 %l0, %index, 4, %p0; st.global.u32 [%l0], %index;", [x], memory_of(x), threads=6)
        assert x.tolist() == [[0, 2, 4], [1, 3, 5]]

    def test_refused(self) -> None:
        x = np.zeros(8, "u4")
        memory = memory_of(x[:4])
        with pytest.raises(ValueError, match="y overlaps x"):
            memory.add(x[3:], name="y")
        with pytest.raises(ValueError, match="y is not contiguous"):
            memory.add(x[::2], name="y")
        with pytest.raises(ValueError, match="y has 32 bytes"):
            Memory().add(x, initialised=np.ones(8, bool), name="y")

    def test_empty_array_is_nothing(self) -> None:
        x, none = np.zeros(1, "u4"), np.zeros(0, "u4")
        memory = memory_of(x, none)
        with pytest.raises(OutOfBounds):
            launch("ld.global.u32 %t0, [%p0];", [none], memory)

    def test_added_again(self) -> None:
        x = np.zeros(4, "u4")
        memory = memory_of(x, initialised=False)
        memory.add(x)
        launch("ld.global.u32 %t0, [%p0];", [x], memory)
        assert len(memory.regions) == 1

    def test_variables_of_the_module_keep_their_values(self) -> None:
        text = """.version 8.0 .target sm_80 .address_size 64 .global .u32 count = 5;
            .entry f(.param .u64 x) { .reg .b32 %r<3>; .reg .b64 %d<3>; ld.param.u64 %d0, [x];
            ld.global.u32 %r0, [count]; add.u32 %r0, %r0, 1; st.global.u32 [count], %r0; st.global.u32 [%d0], %r0;
            ret; }"""
        program, x = Program(text), np.zeros(1, "u4")
        for wanted in (6, 7):
            program.kernels["f"].launch((1,), (1,), [pack(x)], memory_of(x))
            assert x.tolist() == [wanted]

    def test_variables_are_initialised(self) -> None:
        module = ".const .align 4 .b8 table[8] = {1, 2, 3}; .global .align 4 .u16 more[4] = {7, 8};"
        body = """mov.u64 %l0, table; mov.u64 %l1, more; cvt.u64.u32 %l2, %index; add.u64 %l0, %l0, %l2;
            ld.const.u8 %x, [%l0]; add.u64 %l1, %l1, %l2; add.u64 %l1, %l1, %l2; ld.global.u16 %y, [%l1];"""
        found = run(body, [], ["u4", "u4"], threads=4, module=module)
        assert [values.tolist() for values in found] == [[1, 2, 3, 0], [7, 8, 0, 0]]


class TestUninitialised:
    def test_global(self) -> None:
        x = np.zeros(4, "u4")
        body = "mad.wide.u32 %l0, %index, 4, %p0; {} ld.global.u32 %t0, [%l0];"
        with pytest.raises(Uninitialised, match=r"\), thread \(0, 0, 0\).*reads 4 bytes at x\+0, which nothing has"):
            launch(body.format(""), [x], memory_of(x, initialised=False))
        launch(body.format("st.global.u32 [%l0], 1;"), [x], memory_of(x, initialised=False))
        assert x.tolist() == [1] * 4

    def test_byte_by_byte(self) -> None:
        """Which bytes are written is told, checked and kept."""
        x = np.zeros(4, "u4")
        written = np.ones(16, bool)
        written[9] = False
        memory = memory_of(x, initialised=written)
        body = "mad.wide.u32 %l0, %index, 4, %p0; ld.global.u32 %t0, [%l0];"
        with pytest.raises(Uninitialised, match=r"thread \(2, 0, 0\).*x\+8"):
            launch(body, [x], memory)
        launch("ld.global.u8 %t0, [%p0+8]; ld.global.u8 %t0, [%p0+10];", [x], memory)
        launch("mov.u16 %h0, 1; st.global.u8 [%p0+9], %h0;", [x], memory, threads=1)
        assert written.all()
        launch(body, [x], memory)

    @pytest.mark.parametrize("count", [2, 4])
    def test_vectors(self, count: int) -> None:
        x = np.zeros(4, "u4")
        written = np.ones(16, bool)
        written[4 * count - 1] = False
        names = ", ".join(f"%t{i}" for i in range(count))
        with pytest.raises(Uninitialised):
            launch(f"ld.global.v{count}.u32 {{{names}}}, [%p0];", [x], memory_of(x, initialised=written))

    def test_shared_memory_of_each_block(self) -> None:
        """That one block has written its own is nothing to the others."""
        body = """mov.u32 %t0, buffer; mov.u32 %t1, %ctaid.x; setp.eq.u32 %p, %t1, {};
            @%p st.shared.u32 [%t0], 5; bar.sync 0; ld.shared.u32 %x, [%t0];"""
        with pytest.raises(Uninitialised, match=r"of block \(1, 0, 0\): reads 4 bytes at shared\+0"):
            run(body.format(0), threads=1, blocks=2, module=BUFFER)
        with pytest.raises(Uninitialised, match=r"of block \(0, 0, 0\)"):
            run(body.format(1), threads=1, blocks=2, module=BUFFER)

    def test_shared_memory_is_forgotten_between_launches(self) -> None:
        x = np.zeros(1, "u4")
        launch("st.shared.u32 [buffer], 1;", [x], memory_of(x), threads=1, module=BUFFER)
        with pytest.raises(Uninitialised):
            launch("ld.shared.u32 %t0, [buffer];", [x], memory_of(x), threads=1, module=BUFFER)

    def test_local_memory(self) -> None:
        with pytest.raises(Uninitialised, match="local"):
            run(".local .b32 own; mov.u64 %l0, own; ld.local.u32 %x, [%l0];")

    def test_atomic_operation_reads(self) -> None:
        x = np.zeros(1, "u4")
        with pytest.raises(Uninitialised, match=r"thread \(0, 0, 0\)"):
            launch("red.global.add.u32 [%p0], 1;", [x], memory_of(x, initialised=False))


COPY = """mov.u32 %t0, buffer; mad.lo.u32 %t0, %index, 16, %t0; mad.wide.u32 %l0, %index, 16, %p0;
    cp.async.ca.shared.global [%t0], [%l0], {size};"""


class TestCopies:
    """`cp.async`: data are there once the thread has waited for them."""

    def run(self, after: str, size: int = 16, threads: int = 4, before: str = "") -> list[int]:
        rows, found = np.arange(4 * threads, dtype="u4"), np.zeros(threads, "u4")
        body = (
            f"{before} {COPY.format(size=size)} {after} mad.wide.u32 %l1, %index, 4, %p1; st.global.u32 [%l1], %t1;"
        )
        launch(body, [rows, found], memory_of(rows, found), threads, module=BUFFER)
        return found.tolist()

    @pytest.mark.parametrize("size", [4, 8, 16])
    def test_wait_for_all(self, size: int) -> None:
        after = f"cp.async.wait_all; ld.shared.u32 %t1, [%t0+{size - 4}];"
        assert self.run(after, size) == [4 * i + size // 4 - 1 for i in range(4)]

    def test_wait_for_a_group(self) -> None:
        after = "cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %t1, [%t0];"
        assert self.run(after) == [0, 4, 8, 12]

    @pytest.mark.parametrize(
        "after",
        ["", "cp.async.commit_group;", "cp.async.commit_group; cp.async.wait_group 1;", "cp.async.wait_group 0;"],
    )
    def test_read_too_early(self, after: str) -> None:
        """Also where the group was not committed, or is among those that may be left."""
        with pytest.raises(Uninitialised, match=r"shared\+0, which cp\.async has not been waited for"):
            self.run(f"{after} ld.shared.u32 %t1, [%t0];")

    def test_bytes_that_were_written_before_wait_too(self) -> None:
        before = "mov.u32 %t0, buffer; mad.lo.u32 %t0, %index, 16, %t0; st.shared.u32 [%t0], 7;"
        with pytest.raises(Uninitialised, match=r"cp\.async"):
            self.run("ld.shared.u32 %t1, [%t0];", before=before)
        assert self.run("cp.async.wait_all; ld.shared.u32 %t1, [%t0];", before=before) == [0, 4, 8, 12]

    def test_groups_are_finished_in_their_order(self) -> None:
        """Of two groups, wait_group 1 finishes the first."""
        after = """cp.async.commit_group; cp.async.cg.shared.global [%t0+64], [%l0], 16; cp.async.commit_group;
            cp.async.wait_group 1; ld.shared.u32 %t1, [%t0{}];"""
        assert self.run(after.format("")) == [0, 4, 8, 12]
        with pytest.raises(Uninitialised):
            self.run(after.format("+64"))

    def test_bytes_that_are_filled_up(self) -> None:
        """Of a fourth operand's number of bytes are copied, the others become zero."""
        after = """cp.async.cg.shared.global [%t0+64], [%l0], 16, 8; cp.async.wait_all;
            ld.shared.v4.u32 {%t1, %t2, %t3, %t4}, [%t0+64]; add.u32 %t1, %t1, %t2; add.u32 %t1, %t1, %t3;
            add.u32 %t1, %t1, %t4;"""
        assert self.run(after) == [1, 9, 17, 25]

    def test_nothing_is_read_where_all_is_filled_up(self) -> None:
        after = """mov.u64 %l2, 0; mov.u32 %t5, 0; cp.async.ca.shared.global [%t0+64], [%l2], 4, %t5;
            cp.async.wait_all; ld.shared.u32 %t1, [%t0+64];"""
        assert self.run(after) == [0] * 4

    def test_other_threads_need_a_barrier_after_the_wait(self) -> None:
        other = "xor.b32 %t2, %index, 1; mov.u32 %t3, buffer; mad.lo.u32 %t3, %t2, 16, %t3; ld.shared.u32 %t1, [%t3];"
        assert self.run(f"cp.async.wait_all; bar.sync 0; {other}") == [4, 0, 12, 8]
        with pytest.raises(Race):
            self.run(f"cp.async.wait_all; {other}")

    def test_copy_into_what_others_still_read_races(self) -> None:
        read = "mov.u32 %t3, buffer; xor.b32 %t2, %index, 1; mad.lo.u32 %t3, %t2, 16, %t3;"
        before = f"{read} mad.lo.u32 %t0, %index, 16, 0; mov.u32 %t4, buffer; add.u32 %t0, %t0, %t4;"
        before += "st.shared.u32 [%t0], 1; bar.sync 0; ld.shared.u32 %t1, [%t3]; {}"
        after = "cp.async.wait_all;"
        with pytest.raises(Race):
            self.run(after, before=before.format(""))
        assert self.run(after, before=before.format("bar.sync 0;")) == [1] * 4

    def test_store_into_bytes_on_their_way(self) -> None:
        with pytest.raises(Race, match=r"where a cp\.async is on its way"):
            self.run("st.shared.u32 [%t0+4], 1;")

    def test_bounds_of_both_ends(self) -> None:
        with pytest.raises(OutOfBounds):
            self.run("cp.async.ca.shared.global [%t0+256], [%l0], 16;")
        with pytest.raises(OutOfBounds):
            self.run("cp.async.ca.shared.global [%t0], [%l0+64], 16;")
        with pytest.raises(Misaligned):
            self.run("cp.async.ca.shared.global [%t0], [%l0+4], 8;")
        with pytest.raises(Misaligned):
            self.run("cp.async.ca.shared.global [%t0+4], [%l0], 16;")

    @pytest.mark.parametrize(
        "instruction",
        [
            "cp.async.cg.shared.global [%t0], [%l0], 8",
            "cp.async.ca.shared.global [%t0], [%l0], 32",
            "cp.async.ca.shared.global [%t0], [%l0], %t1",
            "cp.async.wait_group %t1",
            "cp.async.mbarrier.arrive.shared.b64 [%t0]",
            "cp.async.bulk.commit_group",
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%l0], [%t0], 16",
        ],
    )
    def test_unknown_ones_are_named(self, instruction: str) -> None:
        with pytest.raises(UnknownInstruction) as error:
            self.run(f"{instruction};")
        assert f"({instruction}): unknown instruction" in str(error.value)
