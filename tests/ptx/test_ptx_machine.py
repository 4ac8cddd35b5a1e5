"""Threads: how they part and meet, wait for one another, call functions and end."""

import numpy as np
import pytest

import ptx.machine
from ptx import Divergence, LaunchError, Memory, OutOfBounds, Program, UnknownInstruction, pack
from ptx.instruction_helpers import kernel, run

BUFFER = ".shared .align 16 .b8 buffer[1024];"


class TestBranches:
    def test_both_ways(self) -> None:
        body = """setp.lt.u32 %p, %a, 10; @%p bra small; mov.u32 %x, 2; bra.uni done;
            small: mov.u32 %x, 1; done: add.u32 %x, %x, 10;"""
        assert run(body, [np.array([3, 30, 9, 10], "u4")])[0].tolist() == [11, 12, 11, 12]

    def test_negated_and_uniform(self) -> None:
        body = "setp.lt.u32 %p, %a, 10; mov.u32 %x, 1; @!%p bra big; mov.u32 %x, 2; big:"
        for given, wanted in (([1, 2], [2, 2]), ([11, 12], [1, 1]), ([1, 12], [2, 1])):
            assert run(body, [np.array(given, "u4")])[0].tolist() == wanted

    def test_loop_with_a_count_of_each_thread_s_own(self) -> None:
        """The sum of 1 to n."""
        body = """mov.u32 %x, 0; mov.u32 %t0, %a;
            loop: setp.eq.u32 %p, %t0, 0; @%p bra done; add.u32 %x, %x, %t0; sub.u32 %t0, %t0, 1; bra loop; done:"""
        counts = np.array([0, 1, 5, 100, 3], "u4")
        assert run(body, [counts])[0].tolist() == [n * (n + 1) // 2 for n in counts.tolist()]

    def test_loops_inside_loops(self) -> None:
        """Collatz's steps down to 1 of every number below n, added up."""
        body = """mov.u32 %x, 0; mov.u32 %t0, 1;
            outer: setp.ge.u32 %p, %t0, %a; @%p bra done; mov.u32 %t1, %t0;
            inner: setp.le.u32 %p, %t1, 1; @%p bra next; add.u32 %x, %x, 1; and.b32 %t2, %t1, 1;
            setp.eq.u32 %q, %t2, 0; @%q bra even; mad.lo.u32 %t1, %t1, 3, 1; bra inner;
            even: shr.u32 %t1, %t1, 1; bra inner;
            next: add.u32 %t0, %t0, 1; bra outer; done:"""

        def steps(n: int) -> int:
            return 0 if n <= 1 else 1 + steps(3 * n + 1 if n % 2 else n // 2)

        limits = np.arange(20, dtype="u4")
        assert run(body, [limits])[0].tolist() == [sum(steps(i) for i in range(1, limit)) for limit in range(20)]

    def test_targets_in_a_table(self) -> None:
        body = """targets: .branchtargets zero, one, two; brx.idx %a, targets;
            two: mov.u32 %x, 22; bra done; one: mov.u32 %x, 11; bra done; zero: mov.u32 %x, 5; done:"""
        given = np.array([2, 0, 1, 2, 1], "u4")
        assert run(body, [given])[0].tolist() == [22, 5, 11, 22, 11]
        assert run(body, [given[:1]])[0].tolist() == [22]
        with pytest.raises(LaunchError, match=r"thread \(1, 0, 0\).*index 3 of 3 branch targets"):
            run(body, [np.array([0, 3], "u4")])

    def test_guards(self) -> None:
        body = """setp.lt.u32 %p, %a, 2; mov.u32 %x, 0; @%p add.u32 %x, %x, 1; @!%p add.u32 %x, %x, 10;
            @%p setp.eq.u32 %p, %a, 0; @%p add.u32 %x, %x, 100;"""
        assert run(body, [np.arange(4, dtype="u4")])[0].tolist() == [101, 1, 10, 10]

    def test_guard_inside_of_a_branch(self) -> None:
        """It concerns none of the threads that went the other way."""
        body = """mov.u32 %x, 0; setp.lt.u32 %p, %a, 2; @!%p bra done; setp.ne.u32 %q, %a, 9; @%q mov.u32 %x, 1;
            @!%q mov.u32 %x, 2; done:"""
        assert run(body, [np.arange(4, dtype="u4")])[0].tolist() == [1, 1, 0, 0]

    def test_early_exit(self) -> None:
        body = """mov.u32 %x, 7; mad.wide.u32 %l0, %index, 4, %p1; st.global.u32 [%l0], %x;
            setp.eq.u32 %p, %a, 1; @%p exit; setp.eq.u32 %p, %a, 2; @%p ret; mov.u32 %x, 8;"""
        assert run(body, [np.arange(5, dtype="u4")])[0].tolist() == [8, 7, 7, 8, 8]

    def test_threads_meet_again_where_their_ways_do(self) -> None:
        body = """setp.lt.u32 %p, %a, 16; @%p bra other; mov.u32 %t0, 1; bra done; other: mov.u32 %t0, 2;
            done: activemask.b32 %x;"""
        assert set(run(body, [np.arange(32, dtype="u4")])[0].tolist()) == {0xFFFFFFFF}

    def test_block_that_is_no_multiple_of_a_warp(self) -> None:
        found = run("activemask.b32 %x; mov.u32 %y, %tid.x;", [], ["u4", "u4"], threads=37, blocks=2)
        assert found[0].tolist() == ([0xFFFFFFFF] * 32 + [0b11111] * 5) * 2
        assert found[1].tolist() == [*range(37)] * 2

    def test_endless_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ptx.machine, "LONGEST", 1000)
        with pytest.raises(LaunchError, match="test: endless"):
            run("mov.u32 %x, 0; loop: bra loop;")

    def test_threads_that_others_wait_for_in_a_loop_have_a_turn(self) -> None:
        """A lock: of a warp's threads one is behind it, at a higher place, while the others try again and again."""
        body = """mov.u32 %x, 0; mov.u64 %l0, lock;
            again: atom.global.cas.b32 %t0, [%l0], 0, 1; setp.ne.u32 %p, %t0, 0; @%p bra again;
            ld.volatile.global.u32 %x, [%l0+4]; add.u32 %t1, %x, 1; st.relaxed.gpu.global.u32 [%l0+4], %t1;
            membar.gl; atom.global.exch.b32 %t0, [%l0], 0;"""
        [found] = run(body, module=".global .align 4 .u32 lock[2];")
        assert sorted(found.tolist()) == list(range(32))


class TestBarriers:
    body = """mov.u32 %t0, buffer; mad.lo.u32 %t0, %a, 4, %t0; st.shared.u32 [%t0], %a; {}
        mov.u32 %t1, %ntid.x; add.u32 %t2, %a, 1; rem.u32 %t2, %t2, %t1; mov.u32 %t0, buffer;
        mad.lo.u32 %t0, %t2, 4, %t0; ld.shared.u32 %x, [%t0];"""

    @pytest.mark.parametrize(
        "barrier",
        ["bar.sync 0;", "bar.cta.sync 15;", "barrier.sync 1;", "barrier.sync.aligned 0;", "bar.sync 0, 64;"],
    )
    def test_all_threads_of_a_block(self, barrier: str) -> None:
        found = run(self.body.format(barrier), [np.tile(np.arange(64, dtype="u4"), 3)], blocks=3, module=BUFFER)
        assert found[0].tolist() == [(i + 1) % 64 for i in range(64)] * 3

    def test_warps_on_different_ways(self) -> None:
        """Barriers count threads, not places in the text: each warp may come to another one."""
        body = """setp.lt.u32 %p, %a, 32; mov.u32 %t0, buffer; mad.lo.u32 %t0, %a, 4, %t0; st.shared.u32 [%t0], %a;
            @%p bra first; bar.sync 0; ld.shared.u32 %x, [buffer]; bra done;
            first: bar.sync 0; ld.shared.u32 %x, [buffer+252]; done:"""
        assert run(body, [np.arange(64, dtype="u4")], module=BUFFER)[0].tolist() == [63] * 32 + [0] * 32

    def test_exited_threads_are_not_waited_for(self) -> None:
        body = "setp.ge.u32 %p, %a, 20; @%p exit; bar.sync 0; mov.u32 %x, 5;"
        assert run(body, [np.arange(64, dtype="u4")])[0].tolist() == [5] * 20 + [0] * 44

    def test_threads_that_exit_later_are_not_waited_for_then(self) -> None:
        body = """setp.lt.u32 %p, %a, 32; @%p bra waits; mov.u32 %t0, 0;
            loop: add.u32 %t0, %t0, 1; setp.lt.u32 %q, %t0, 10; @%q bra loop; exit;
            waits: bar.sync 0; mov.u32 %x, 5;"""
        assert run(body, [np.arange(64, dtype="u4")])[0].tolist() == [5] * 32 + [0] * 32

    def test_blocks_do_not_wait_for_one_another(self) -> None:
        body = """mov.u32 %t0, %ctaid.x; mov.u32 %x, 0;
            loop: bar.sync 0; add.u32 %x, %x, 1; setp.le.u32 %p, %x, %t0; @%p bra loop;"""
        assert run(body, blocks=3)[0].tolist() == [1] * 32 + [2] * 32 + [3] * 32

    def test_number_of_threads_that_a_barrier_is_for(self) -> None:
        """Two warps meet at one barrier, the two others at another."""
        body = """mov.u32 %t0, buffer; mad.lo.u32 %t0, %a, 4, %t0; st.shared.u32 [%t0], %a; setp.lt.u32 %p, %a, 64;
            mov.u32 %t1, 64; @%p bra lower; bar.sync 2, %t1; ld.shared.u32 %x, [buffer+508]; bra done;
            lower: bar.sync 1, 64; ld.shared.u32 %x, [buffer+4]; done:"""
        assert run(body, [np.arange(128, dtype="u4")], module=BUFFER)[0].tolist() == [1] * 64 + [127] * 64

    def test_half_a_warp_at_a_barrier(self) -> None:
        """`bar.sync` is aligned: all threads of a warp have to come to the same one. `barrier.sync` is not."""
        body = """setp.lt.u32 %p, %a, 16; mov.u32 %x, 1; @%p bra other; {0} 0; mov.u32 %x, 2; bra done;
            other: {0} 0; done:"""
        lanes = np.arange(32, dtype="u4")
        with pytest.raises(Divergence, match=r"\(bar\.sync 0\).*waits for lanes of its warp that never come"):
            run(body.format("bar.sync"), [lanes])
        assert run(body.format("barrier.sync"), [lanes])[0].tolist() == [1] * 16 + [2] * 16

    def test_guard_of_a_barrier(self) -> None:
        lanes = np.arange(64, dtype="u4")
        body = "setp.lt.u32 %p, %a, {}; @%p bar.sync 0; bar.sync 1; mov.u32 %x, 1;"
        with pytest.raises(Divergence, match=r"bar\.sync [01]\), thread"):
            run(body.format(5), [lanes])
        assert set(run(body.format(64), [lanes])[0].tolist()) == {1}

    def test_others_wait_elsewhere(self) -> None:
        body = "setp.lt.u32 %p, %a, 32; mov.u32 %x, 1; @%p bra other; bar.sync 1; bra done; other: bar.sync 2; done:"
        with pytest.raises(Divergence, match=r"\(bar\.sync [12]\), thread .*waits at a barrier for threads"):
            run(body, [np.arange(64, dtype="u4")])

    def test_more_threads_than_there_are(self) -> None:
        with pytest.raises(Divergence, match="waits at a barrier"):
            run("bar.sync 0, 128; mov.u32 %x, 0;", threads=64)

    def test_predicates_are_counted_and_joined(self) -> None:
        body = """setp.ne.u32 %p, %a, 0; bar.red.popc.u32 %x, 0, %p; bar.red.popc.u32 %y, 0, !%p;
            bar.red.and.pred %q, 0, %p; selp.u32 %z, 1, 0, %q; barrier.red.or.pred %q, 0, 64, %p;
            selp.u32 %w, 1, 0, %q;"""
        given = np.array([[1] * 64, [0] * 60 + [1] * 4, [0] * 64], "u4").reshape(-1)
        found = [values.reshape(3, 64) for values in run(body, [given], ["u4"] * 4, blocks=3)]
        assert all((values == values[:, :1]).all() for values in found)
        assert [values[:, 0].tolist() for values in found] == [[64, 4, 0], [0, 60, 64], [1, 0, 0], [1, 1, 0]]

    def test_reduction_is_of_threads_that_are_there(self) -> None:
        body = "setp.lt.u32 %p, %a, 40; @!%p exit; bar.red.and.pred %q, 0, %p; selp.u32 %x, 1, 0, %q;"
        assert run(body, [np.arange(64, dtype="u4")])[0].tolist() == [1] * 40 + [0] * 24

    @pytest.mark.parametrize(
        "instruction",
        ["bar.arrive 0, 64", "bar.sync 16", "bar.sync %t0", "barrier.cluster.arrive", "bar.red.xor.pred %p, 0, %q"],
    )
    def test_unknown_ones_are_named(self, instruction: str) -> None:
        with pytest.raises(UnknownInstruction) as error:
            run(f"{instruction}; mov.u32 %x, 0;")
        assert f"({instruction}): unknown instruction {instruction.split()[0]}" in str(error.value)


class TestCalls:
    module = """
        .func (.param .b32 out) twice(.param .b32 in) {
            .reg .b32 %r<3>; ld.param.b32 %r1, [in]; add.u32 %r1, %r1, %r1; st.param.b32 [out], %r1; ret; }
        .func (.param .b32 out) power(.param .b32 base, .param .b32 exponent) {
            .reg .b32 %r<9>; .reg .pred %p; .local .align 4 .b8 kept[8]; .reg .b64 %d;
            ld.param.b32 %r1, [base]; ld.param.b32 %r2, [exponent]; mov.u64 %d, kept; st.local.u32 [%d], 1;
            loop: setp.eq.u32 %p, %r2, 0; @%p bra done; ld.local.u32 %r3, [%d]; mul.lo.u32 %r3, %r3, %r1;
            st.local.u32 [%d], %r3; sub.u32 %r2, %r2, 1; bra loop;
            done: ld.local.u32 %r3, [%d];
            { .param .b32 a; .param .b32 b; st.param.b32 [a], %r3; call.uni (b), twice, (a);
              ld.param.b32 %r3, [b]; }
            st.param.b32 [out], %r3; ret; }
        .func (.param .b32 out) sign(.param .b32 in) {
            .reg .b32 %r<3>; .reg .pred %p; ld.param.b32 %r1, [in]; setp.lt.s32 %p, %r1, 0; @!%p bra next;
            st.param.b32 [out], -1; ret;
            next: setp.eq.s32 %p, %r1, 0; selp.u32 %r1, 0, 1, %p; st.param.b32 [out], %r1; ret; }
        .func quit() { exit; }"""
    call = "{{ .param .b32 u; .param .b32 v; st.param.b32 [u], {1}; call (v), {0}, (u); ld.param.b32 {2}, [v]; }}"

    def test_parameters_and_results(self) -> None:
        body = self.call.format("twice", "%a", "%x") + self.call.format("twice", "%x", "%y")
        found = run(body, [np.arange(4, dtype="u4")], ["u4", "u4"], module=self.module)
        assert [values.tolist() for values in found] == [[0, 2, 4, 6], [0, 4, 8, 12]]

    def test_function_with_a_loop_memory_and_a_call_of_its_own(self) -> None:
        body = """{ .param .b32 u; .param .b32 v; .param .b32 w; st.param.b32 [u], %a; st.param.b32 [v], %b;
            call (w), power, (u, v); ld.param.b32 %x, [w]; }"""
        base, exponent = np.array([2, 3, 10, 7], "u4"), np.array([5, 0, 3, 1], "u4")
        found = run(body, [base, exponent], module=self.module)[0].tolist()
        assert found == [2 * b**e for b, e in zip(base.tolist(), exponent.tolist(), strict=True)]

    def test_returns_in_more_than_one_place(self) -> None:
        body = self.call.format("sign", "%a", "%x") + "activemask.b32 %y;"
        found = run(body, [np.array([5, -5, 0, 9], "i4")], ["i4", "u4"], module=self.module)
        assert [values.tolist() for values in found] == [[1, -1, 0, 1], [0b1111] * 4]

    def test_call_by_some_threads_alone(self) -> None:
        body = f"mov.u32 %x, 0; setp.gt.u32 %p, %a, 1; @!%p bra done; {self.call.format('twice', '%a', '%x')} done:"
        assert run(body, [np.arange(4, dtype="u4")], module=self.module)[0].tolist() == [0, 0, 4, 6]

    def test_guarded_call_and_exit_inside_of_a_function(self) -> None:
        body = """mov.u32 %x, 1; mad.wide.u32 %l0, %index, 4, %p1; st.global.u32 [%l0], 9;
            setp.eq.u32 %p, %a, 2; @%p call quit;"""
        assert run(body, [np.arange(4, dtype="u4")], module=self.module)[0].tolist() == [1, 1, 9, 1]

    def test_vector_parameters(self) -> None:
        module = """.func (.param .align 8 .b8 out[8]) swap(.param .align 8 .b8 in[8]) { .reg .b32 %r<3>;
            ld.param.v2.b32 {%r1, %r2}, [in]; st.param.v2.b32 [out], {%r2, %r1}; ret; }"""
        body = """{ .param .align 8 .b8 u[8]; .param .align 8 .b8 v[8]; st.param.b32 [u+4], %a; st.param.b32 [u], 7;
            call (v), swap, (u); ld.param.b32 %x, [v]; ld.param.b32 %y, [v+4]; }"""
        found = run(body, [np.arange(3, dtype="u4")], ["u4", "u4"], module=module)
        assert [values.tolist() for values in found] == [[0, 1, 2], [7, 7, 7]]

    @pytest.mark.parametrize(
        ("call", "module"),
        [
            ("call missing", ""),
            ("call outside", ".extern .func outside();"),
            ("call (v), f, (u)", ".func (.param .b64 r) f(.param .b32 x) { ret; }"),
            ("call f, (%t0)", ".func f(.param .b32 x) { ret; }"),
            ("call %l0, prototype", ""),
        ],
    )
    def test_unknown_ones_are_named(self, call: str, module: str) -> None:
        with pytest.raises(UnknownInstruction) as error:
            run(f".param .b32 u; .param .b32 v; {call}; mov.u32 %x, 0;", module=module)
        assert f"({call}): unknown instruction call" in str(error.value)

    def test_recursion(self) -> None:
        module = ".func g(); .func f() { call g; ret; } .func g() { call f; ret; }"
        with pytest.raises(UnknownInstruction, match="recursion of f"):
            run("call f; mov.u32 %x, 0;", module=module)


class TestEnds:
    def test_trap(self) -> None:
        with pytest.raises(LaunchError, match=r"\(@%p trap\), thread \(3, 0, 0\) of block \(0, 0, 0\): trap"):
            run("mov.u32 %x, 0; setp.eq.u32 %p, %a, 3; @%p trap;", [np.arange(5, dtype="u4")])

    def test_assertion(self) -> None:
        module = ".extern .func __assertfail(.param .b64 a);"
        with pytest.raises(LaunchError, match="an assertion failed"):
            run("{ .param .b64 u; st.param.b64 [u], 0; call __assertfail, (u); } mov.u32 %x, 0;", module=module)

    def test_what_is_not_reached_is_decoded_too(self) -> None:
        with pytest.raises(UnknownInstruction, match=r"test, line \d+ \(frobnicate %x\): unknown instruction frob"):
            kernel("ret; frobnicate %x;", [], ["u4"]).launch((1,), (1,), [bytes(8)], Memory())

    def test_kernels_of_a_text_are_apart(self) -> None:
        text = """.version 8.0 .target sm_80 .address_size 64
            .entry good(.param .u64 x) { .reg .b64 %d; ld.param.u64 %d, [x]; st.global.u32 [%d], 3; ret; }
            .entry bad() { frobnicate; }"""
        program, x = Program(text), np.zeros(1, "u4")
        memory = Memory()
        memory.add(x)
        program.kernels["good"].launch((1,), (1,), [pack(x)], memory)
        assert x.tolist() == [3]
        with pytest.raises(UnknownInstruction):
            program.kernels["bad"].launch((1,), (1,), [], memory)

    def test_message_tells_where(self) -> None:
        """Kernel, line, instruction, thread and block, in coordinates."""
        text = """.version 8.0
.target sm_80
.address_size 64
.entry f() {
    .reg .b64 %d; .reg .b32 %r<9>; .reg .pred %p;
    mov.b64 %d, 64; mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %ctaid.y; mov.u32 %r3, %ctaid.x;
    and.b32 %r0, %r0, %r1; and.b32 %r0, %r0, %r2; sub.u32 %r0, %r0, %r3; setp.eq.u32 %p, %r0, 1;
    @%p st.global.u32 [%d], 3;
    ret; }"""
        with pytest.raises(OutOfBounds) as error:
            Program(text).kernels["f"].launch((2, 2), (2, 2), [], Memory())
        where = "f, line 8 (@%p st.global.u32 [%d], 3), thread (1, 1, 0) of block (0, 1, 0)"
        assert str(error.value) == f"{where}: 4 bytes at 0x40 in global memory: below all arrays"
