"""Races: what is one, and what orders two threads."""

import itertools

import numpy as np
import pytest

from ptx import Memory, Race, pack
from ptx.instruction_helpers import kernel, run

BUFFER = ".shared .align 16 .b8 buffer[1024];"
AT = "mov.u32 %t0, buffer; mad.lo.u32 %t0, %a, 4, %t0;"
OTHER = "xor.b32 %t2, %a, {0}; mov.u32 %t1, buffer; mad.lo.u32 %t1, %t2, 4, %t1;"


def shared(body: str, threads: int = 64, blocks: int = 1) -> list[int]:
    """Run a body in which %t0 is the address of the thread's own word of shared memory, and %x is what it gives."""
    lanes = np.tile(np.arange(threads, dtype="u4"), blocks)
    return run(f"mov.u32 %x, 0; {AT} {body}", [lanes], blocks=blocks, module=BUFFER)[0].tolist()


class TestSharedMemory:
    def test_write_and_read(self) -> None:
        body = f"st.shared.u32 [%t0], %a; {{}} {OTHER.format(33)} ld.shared.u32 %x, [%t1];"
        assert shared(body.format("bar.sync 0;")) == [i ^ 33 for i in range(64)]
        with pytest.raises(Race) as error:
            shared(body.format(""))
        text = str(error.value)
        assert "(ld.shared.u32 %x, [%t1]), thread (33, 0, 0) of block (0, 0, 0): reads shared+0, which " in text
        assert "which thread (0, 0, 0) of block (0, 0, 0) writes in line" in text
        assert "(st.shared.u32 [%t0], %a), in no order" in text

    def test_read_and_write(self) -> None:
        """The missing second barrier of a loop: some still read what others write anew."""
        body = f"""st.shared.u32 [%t0], %a; bar.sync 0; {OTHER.format(33)} ld.shared.u32 %x, [%t1]; {{}}
            st.shared.u32 [%t0], %x;"""
        assert shared(body.format("bar.sync 0;")) == [i ^ 33 for i in range(64)]
        with pytest.raises(
            Race, match=r"\(st\.shared\.u32 \[%t0\], %x\), .*writes shared\+\d+, which .* reads in line"
        ):
            shared(body.format(""))

    @pytest.mark.parametrize("value", ["%a", "7"])
    def test_two_writes(self, value: str) -> None:
        """Also of the same value, and in one instruction."""
        with pytest.raises(Race, match=r"thread \(1, 0, 0\).*writes shared\+0, which thread \(0, 0, 0\).*writes"):
            shared(f"st.shared.u32 [buffer], {value};")
        with pytest.raises(Race):
            shared(
                f"setp.lt.u32 %p, %a, 32; @%p st.shared.u32 [%t0], {value}; @!%p st.shared.u32 [%t0+-128], {value};"
            )

    def test_reads_do_not_race(self) -> None:
        body = "setp.eq.u32 %p, %a, 5; @%p st.shared.u32 [buffer], 3; bar.sync 0; ld.shared.u32 %x, [buffer];"
        assert shared(body) == [3] * 64

    def test_thread_does_not_race_with_itself(self) -> None:
        assert shared("st.shared.u32 [%t0], 1; ld.shared.u32 %x, [%t0]; st.shared.u32 [%t0], %x;") == [1] * 64

    def test_blocks_have_memory_of_their_own(self) -> None:
        body = "setp.eq.u32 %p, %a, 0; @%p st.shared.u32 [buffer], 4; bar.sync 0; ld.shared.u32 %x, [buffer];"
        assert shared(body, blocks=3) == [4] * 192

    def test_bytes_of_a_word_are_apart(self) -> None:
        """Threads that write neighbouring bytes or halves do not race; a word that spans them does."""
        body = "mov.u32 %t1, buffer; add.u32 %t1, %t1, %a; st.shared.u8 [%t1], 1; {} ld.shared.u8 %x, [%t1];"
        assert shared(body.format("")) == [1] * 64
        with pytest.raises(Race):
            shared(body.format("setp.eq.u32 %p, %a, 0; @%p ld.shared.u32 %x, [buffer+4];"))
        halves = "mov.u32 %t1, buffer; mad.lo.u32 %t1, %a, 2, %t1; st.shared.u16 [%t1], 1; ld.shared.u16 %x, [%t1];"
        assert shared(halves) == [1] * 64

    def test_vector_that_overlaps(self) -> None:
        body = "st.shared.u32 [%t0], %a; setp.eq.u32 %p, %a, 4; @%p ld.shared.v4.u32 {%t3, %t4, %t5, %t6}, [%t0];"
        with pytest.raises(Race, match=r"reads shared\+20, which thread \(5, 0, 0\)"):
            shared(body)

    def test_barrier_of_other_threads_orders_nothing(self) -> None:
        """Two warps pass a barrier of their own; a third has written what they read."""
        body = """st.shared.u32 [%t0], 1; bar.sync 0; setp.ge.u32 %p, %a, 64; @%p bra writes; {0}
            ld.shared.u32 %x, [%t0+{1}]; bra done;
            writes: st.shared.u32 [%t0], %a; {2} done:"""
        own = "mov.u32 %t0, buffer; and.b32 %t1, %a, 31; mad.lo.u32 %t0, %t1, 4, %t0;"
        together = body.format(f"bar.sync 1, 96; {own}", 256, "bar.sync 1, 96;")
        assert shared(together, threads=96)[:64] == [*range(64, 96)] * 2
        with pytest.raises(Race):
            shared(body.format(f"bar.sync 1, 64; {own}", 256, "bar.sync 2, 32;"), threads=96)

    def test_barrier_of_some_threads_orders_these(self) -> None:
        body = f"""st.shared.u32 [%t0], %a; setp.ge.u32 %p, %a, 64; @%p bra done; {{}} {OTHER.format(32)}
            ld.shared.u32 %x, [%t1]; done:"""
        assert shared(body.format("bar.sync 1, 64;"), threads=128)[:64] == [i ^ 32 for i in range(64)]
        with pytest.raises(Race):
            shared(body.format(""), threads=128)

    def test_blocks_that_come_to_their_barriers_at_different_times(self) -> None:
        body = f"""mov.u32 %t3, %ctaid.x; mov.u32 %t4, 0;
            loop: st.shared.u32 [%t0], %t4; bar.sync 0; {OTHER.format(33)} ld.shared.u32 %x, [%t1]; {{}}
            add.u32 %t4, %t4, 1; setp.le.u32 %p, %t4, %t3; @%p bra loop;"""
        assert shared(body.format("bar.sync 0;"), blocks=3) == [0] * 64 + [1] * 64 + [2] * 64
        with pytest.raises(Race):
            shared(body.format(""), blocks=3)


class TestWarps:
    body = f"st.shared.u32 [%t0], %a; {{}} {OTHER.format(1)} ld.shared.u32 %x, [%t1];"

    @pytest.mark.parametrize(
        ("instruction", "lanes"),
        [
            ("bar.warp.sync -1;", 32),
            ("bar.warp.sync -1;", 20),
            ("shfl.sync.idx.b32 %t5, %a, 0, 31, -1;", 32),
            ("vote.sync.any.pred %q, 1, -1;", 32),
            ("bar.warp.sync 0xFF;", 8),
            ("bar.warp.sync 0x3;", 2),
        ],
    )
    def test_lanes_that_were_together(self, instruction: str, lanes: int) -> None:
        assert shared(self.body.format(instruction), threads=lanes) == [i ^ 1 for i in range(lanes)]
        with pytest.raises(Race):
            shared(self.body.format(""), threads=lanes)

    def test_other_lanes(self) -> None:
        """Pairs of lanes have met; then each reads what one of another pair has written."""
        body = f"""st.shared.u32 [%t0], %a; and.b32 %t3, %a, 30; mov.u32 %t4, 3; shl.b32 %t4, %t4, %t3;
            bar.warp.sync %t4; {OTHER} ld.shared.u32 %x, [%t1];"""
        assert shared(body.format(1), threads=32) == [i ^ 1 for i in range(32)]
        with pytest.raises(Race):
            shared(body.format(2), threads=32)

    def test_other_warps(self) -> None:
        body = self.body.replace("%a, 1;", "%a, 32;").format("bar.warp.sync -1;")
        with pytest.raises(Race):
            shared(body)


class TestAtomics:
    def test_flag_inside_of_a_block(self) -> None:
        """One warp writes, fences and raises a flag; another one polls it, and reads."""
        body = """setp.eq.u32 %p, %a, 0; @%p st.shared.u32 [buffer+4], 0; bar.sync 0; setp.lt.u32 %q, %a, 32;
            @%q bra writes; poll: {poll} %t1, [buffer+4]; setp.eq.u32 %q, %t1, 0; @%q bra poll;
            ld.shared.u32 %x, [buffer]; bra done;
            writes: @%p st.shared.u32 [buffer], 7; {fence} @%p atom.shared.exch.b32 %t1, [buffer+4], 1; done:"""
        poll = "ld.volatile.shared.u32"
        assert shared(body.format(poll=poll, fence="membar.cta;"))[32:] == [7] * 32
        for words in ({"poll": poll, "fence": ""}, {"poll": "ld.shared.u32", "fence": "membar.cta;"}):
            with pytest.raises(Race):
                shared(body.format(**words))

    def test_they_do_not_race_with_one_another(self) -> None:
        body = """setp.eq.u32 %p, %a, 0; @%p st.shared.u32 [buffer], 0; bar.sync 0;
            atom.shared.add.u32 %x, [buffer], 1; red.shared.max.u32 [buffer], 1; {} ld.shared.u32 %x, [buffer];"""
        assert shared(body.format("bar.sync 0;")) == [64] * 64
        with pytest.raises(Race, match=r"reads shared\+0, which thread .* changes"):
            shared(body.format(""))

    def test_with_plain_writes_they_do(self) -> None:
        body = """st.shared.u32 [%t0], 0; bar.sync 0; setp.eq.u32 %p, %a, 40; @%p st.shared.u32 [buffer+160], 1;
            @!%p atom.shared.add.u32 %x, [buffer+{}], 1;"""
        assert max(shared(body.format(164))) == 62
        with pytest.raises(Race):
            shared(body.format(160))

    @pytest.mark.parametrize("read", ["ld.volatile.shared.u32", "ld.relaxed.cta.shared.u32", "ld.acquire.gpu.u32"])
    def test_reads_that_are_meant_to_meet_them(self, read: str) -> None:
        body = f"""st.shared.u32 [%t0], 0; bar.sync 0; setp.lt.u32 %p, %a, 32; @%p atom.shared.or.b32 %x, [buffer], 1;
            mov.u64 %l0, buffer; {"" if "shared" in read else "cvta.shared.u64 %l0, %l0;"}
            @!%p {read} %x, [%l0]; and.b32 %x, %x, 1;"""
        assert set(shared(body)) <= {0, 1}
        with pytest.raises(Race):  # but not plain writes
            shared(body.replace("atom.shared.or.b32 %x, [buffer], 1", "st.shared.u32 [%t0], 1"))


def on_global(body: str, size: int = 64, threads: int = 64, blocks: int = 1) -> np.ndarray:
    """Run a body in which %l0 is the address of the thread's own word; all words are 0 before."""
    words = np.zeros(size, "u4")
    memory = Memory()
    memory.add(words, name="words")
    text = f"mad.wide.u32 %l0, %index, 4, %p0; mov.u32 %t9, %ctaid.x; mov.u32 %t8, %tid.x; {body} ret;"
    kernel(text, [], ["u4"]).launch((blocks,), (threads,), [pack(words)], memory)
    return words


class TestGlobalMemory:
    swap = """st.global.u32 [%l0], %index; {} xor.b32 %t0, %index, {}; mad.wide.u32 %l1, %t0, 4, %p0;
        ld.global.u32 %t1, [%l1]; {} st.global.u32 [%l0], %t1;"""

    def test_threads_of_a_block(self) -> None:
        assert on_global(self.swap.format("bar.sync 0;", 33, "bar.sync 0;")).tolist() == [i ^ 33 for i in range(64)]
        for first, second in (("", "bar.sync 0;"), ("bar.sync 0;", "")):
            with pytest.raises(Race, match=r"words\+\d+"):
                on_global(self.swap.format(first, 33, second))

    def test_lanes_of_a_warp(self) -> None:
        together = "bar.warp.sync -1;"
        assert on_global(self.swap.format(together, 1, together)).tolist() == [i ^ 1 for i in range(64)]

    def test_blocks_pass_no_barrier_together(self) -> None:
        with pytest.raises(Race, match=r"of block \(\d, 0, 0\) \w+ in line"):
            on_global(self.swap.format("bar.sync 0;", 32, "bar.sync 0;"), threads=32, blocks=2)

    def test_what_blocks_only_read(self) -> None:
        on_global("ld.global.u32 %t0, [%p0]; ld.global.u32 %t0, [%l0];", threads=32, blocks=2)

    def test_write_of_one_block_and_read_of_another(self) -> None:
        body = "setp.eq.u32 %p, %t9, {}; @%p st.global.u32 [%p0+128], 1; @!%p ld.global.u32 %t0, [%p0+{}];"
        for writer in (0, 1):
            on_global(body.format(writer, 124), threads=1, blocks=2)
            with pytest.raises(Race):
                on_global(body.format(writer, 128), threads=1, blocks=2)

    @pytest.mark.parametrize("blocks", [2, 5])
    def test_last_block_reads_what_all_have_written(self, blocks: int) -> None:
        """Write, fence, count; whoever is the last adds up. Thread 0 counts, and tells its block in shared memory."""
        body = """add.u32 %t0, %index, 1; st.global.u32 [%l0], %t0; {fence} bar.sync 0; setp.ne.u32 %p, %t8, 0;
            @%p bra wait; mov.u32 %t1, %nctaid.x; sub.u32 %t1, %t1, 1; {count} setp.eq.u32 %q, %t2, %t1;
            selp.u32 %t3, 1, 0, %q; st.shared.u32 [buffer], %t3;
            wait: bar.sync 0; ld.shared.u32 %t3, [buffer]; setp.eq.u32 %q, %t3, 0; @%q exit; @%p exit;
            mov.u32 %t4, 0; mov.u32 %t5, 0; mov.u32 %t7, %ntid.x; mad.lo.u32 %t7, %t1, %t7, %t7;
            loop: mad.wide.u32 %l1, %t5, 4, %p0; ld.global.u32 %t6, [%l1]; add.u32 %t4, %t4, %t6;
            add.u32 %t5, %t5, 1; setp.lt.u32 %p, %t5, %t7; @%p bra loop; st.global.u32 [%p0], %t4; ret;"""
        count = "mov.u64 %l2, counter; atom.global.inc.u32 %t2, [%l2], %t1;"
        module = ".global .u32 counter; .shared .u32 buffer;"

        def add_up(**parts: str) -> int:
            words, memory = np.zeros(64 * blocks, "u4"), Memory()
            memory.add(words, name="words")
            text = f"mad.wide.u32 %l0, %index, 4, %p0; mov.u32 %t8, %tid.x; {body.format(**parts)}"
            one = kernel(text, [], ["u4"], module)
            one.launch((blocks,), (64,), [pack(words)], memory)
            return int(words[0])

        total = sum(range(1, 64 * blocks + 1))
        assert add_up(fence="membar.gl;", count=count) == total
        assert add_up(fence="", count=f"fence.acq_rel.gpu; {count}") == total
        assert add_up(fence="", count=count.replace("atom.global", "atom.acq_rel.gpu.global")) == total
        for fence in ("", "membar.cta;"):
            with pytest.raises(Race, match=r"reads words\+\d+"):
                add_up(fence=fence, count=count)

    def test_flag_that_is_waited_for(self) -> None:
        """One block writes, fences and raises a flag with an atomic; the other polls it, and reads."""
        body = """setp.eq.u32 %p, %t9, 0; @%p bra writes;
            poll: {poll} %t0, [%p0+4]; setp.eq.u32 %q, %t0, 0; @%q bra poll; ld.global.u32 %t1, [%p0];
            st.global.u32 [%p0+8], %t1; ret;
            writes: st.global.u32 [%p0], 7; {fence} {tell}"""
        usual = {"poll": "ld.acquire.gpu.global.u32", "fence": "membar.gl;"}
        usual["tell"] = "atom.global.exch.b32 %t0, [%p0+4], 1;"
        release = {"fence": "", "tell": "st.release.gpu.global.u32 [%p0+4], 1;"}
        relaxed = {"tell": "st.relaxed.gpu.global.u32 [%p0+4], 1;"}
        for words in ({}, {"poll": "ld.volatile.global.u32"}, release, relaxed):
            assert on_global(body.format(**usual | words), threads=1, blocks=2)[2] == 7
        plain = {"tell": "st.global.u32 [%p0+4], 1;"}
        alone = {"poll": "ld.acquire.cta.global.u32"}
        for words in ({"fence": ""}, {"poll": "ld.global.u32"}, relaxed | {"fence": ""}, plain, alone):
            with pytest.raises(Race):
                on_global(body.format(**usual | words), threads=1, blocks=2)

    def test_who_fences_and_who_tells(self) -> None:
        """The thread itself, or another of its block after a barrier; not one that it has not met."""
        body = """setp.ne.u32 %p, %t9, 0; @%p bra reads; setp.eq.u32 %p, %t8, 0; setp.eq.u32 %q, %t8, 32;
            @%p st.global.u32 [%p0], 7; {first} {second} bra done;
            reads: setp.ne.u32 %p, %t8, 0; @%p bra done;
            poll: ld.acquire.gpu.global.u32 %t0, [%p0+4]; setp.eq.u32 %q, %t0, 0; @%q bra poll;
            ld.global.u32 %t1, [%p0]; st.global.u32 [%p0+8], %t1; done:"""
        tell = "atom.global.exch.b32 %t0, [%p0+4], 1;"

        def words(first: str, second: str) -> int:
            return int(on_global(body.format(first=first, second=second), blocks=2)[2])

        assert words("@%p membar.gl;", f"@%p {tell}") == 7
        assert words("@%p membar.gl; bar.sync 0;", f"@%q {tell}") == 7
        assert words("bar.sync 0; @%q membar.gl;", f"@%q {tell}") == 7
        for first, second in (
            ("@%q membar.gl;", f"@%q {tell}"),
            ("@%p membar.gl;", f"@%q {tell}"),
            ("@%q membar.gl; bar.sync 0;", f"@%q {tell}"),
            ("bar.sync 0;", f"@%q {tell}"),
            ("@%p membar.cta;", f"@%p {tell}"),
            ("@%p membar.gl;", f"@%p {tell.replace('atom', 'atom.cta')}"),
        ):
            with pytest.raises(Race):
                words(first, second)

    def test_launches_are_in_order(self) -> None:
        words, memory = np.zeros(64, "u4"), Memory()
        memory.add(words)
        for body in ("st.global.u32 [%p0], 1;", "st.global.u32 [%p0], 2;", "ld.global.u32 %t0, [%p0];"):
            for threads in (1, 32)[: 1 + body.startswith("ld")]:
                kernel(f"{body} ret;", [], ["u4"]).launch((1,), (threads,), [pack(words)], memory)
        assert words[0] == 2

    def test_variable_of_the_module(self) -> None:
        with pytest.raises(Race, match=r"variable\+0"):
            run("st.global.u32 [variable], 1; mov.u32 %x, 0;", module=".global .u32 variable;")


def test_every_pair_of_accesses() -> None:
    """Of all kinds of access by two threads of different warps, in both orders: which of them race."""
    kinds = {
        "read": "ld.shared.u32 %x, [buffer];",
        "write": "st.shared.u32 [buffer], 1;",
        "atomic": "atom.shared.add.u32 %x, [buffer], 1;",
        "poll": "ld.volatile.shared.u32 %x, [buffer];",
        "strong write": "st.relaxed.cta.shared.u32 [buffer], 1;",
    }
    allowed = {
        frozenset(pair)
        for pair in (
            *itertools.combinations_with_replacement(["read", "poll"], 2),
            *itertools.combinations_with_replacement(["atomic", "poll", "strong write"], 2),
        )
    }
    for first, second in itertools.product(kinds, repeat=2):
        body = f"""setp.eq.u32 %p, %a, 0; setp.eq.u32 %q, %a, 32; @%p st.shared.u32 [buffer], 1; bar.sync 0;
            @%p {kinds[first]} @%q {kinds[second]}"""
        if frozenset({first, second}) in allowed:
            shared(body)
        else:
            with pytest.raises(Race):
                shared(body)
