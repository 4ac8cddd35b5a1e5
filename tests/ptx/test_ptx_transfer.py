"""Moves between registers, loads and stores in all address spaces, conversions of addresses."""

import itertools
import struct

import numpy as np
import pytest

from ptx import Memory, Program, UnknownInstruction, pack
from ptx.instruction_helpers import kernel, run

BUFFER = ".shared .align 16 .b8 buffer[512];"
WORDS = np.array([0x01234567, 0x89ABCDEF, 0, 0xFFFFFFFF], "u4")


class TestMoves:
    def test_pack_puts_the_first_lowest(self) -> None:
        body = "mov.b32 {%h0, %h1}, %a; mov.b64 %l0, {%a, %b}; cvt.u32.u16 %x, %h1; mov.b64 {%z, %y}, %l0;"
        found = run(body, [WORDS, WORDS + np.uint32(1)], ["u4"] * 3)
        assert found[0].tolist() == [0x0123, 0x89AB, 0, 0xFFFF]
        assert found[1].tolist() == [0x01234568, 0x89ABCDF0, 1, 0]
        assert found[2].tolist() == WORDS.tolist()

    def test_four_parts(self) -> None:
        body = "mov.b64 {%h0, %h1, %h2, %h3}, %a; mov.b64 %x, {%h3, %h2, %h1, %h0};"
        [found] = run(body, [np.array([0x0001000200030004], "u8")], ["u8"])
        assert found.tolist() == [0x0004000300020001]

    def test_part_that_nobody_wants(self) -> None:
        body = "mov.b32 {%h0, _}, %a; mov.b32 {_, %h1}, %a; mov.b32 %x, {%h1, %h0};"
        assert run(body, [WORDS])[0].tolist() == [0x45670123, 0xCDEF89AB, 0, 0xFFFFFFFF]

    def test_numbers(self) -> None:
        body = "mov.f32 %x, 0f3FC00000; mov.f64 %y, 0d3FF8000000000000; mov.b32 %z, -2; mov.u32 %w, WARP_SZ;"
        found = run(body, [], ["f4", "f8", "i4", "u4"], threads=1)
        assert [values[0] for values in found] == [1.5, 1.5, -2, 32]

    def test_predicates(self) -> None:
        body = "setp.ne.u32 %p, %a, 0; mov.pred %q, %p; mov.pred %p, 1; selp.b32 %x, 7, 8, %q; selp.b32 %y, 7, 8, %p;"
        found = run(body, [WORDS], ["u4", "u4"])
        assert [values.tolist() for values in found] == [[7, 7, 8, 7], [7] * 4]

    def test_value_stays_when_its_source_is_written_again(self) -> None:
        body = "mov.b32 %t0, %a; mov.b32 %x, %t0; mov.b32 %t0, 5; add.u32 %t0, %t0, 1;"
        assert run(body, [WORDS])[0].tolist() == WORDS.tolist()

    def test_register_that_was_never_written_is_no_number(self) -> None:
        found = run("mov.b32 %x, %t9; mov.b64 %y, %l9; mov.b16 %z, %h7;", [], ["f4", "f8", "f2"])
        assert all(np.isnan(values).all() for values in found)


class TestSpecialRegisters:
    def test_numbers_of_threads_and_blocks(self) -> None:
        """x runs fastest, then y, then z."""
        text = """
            mov.u32 %t0, %tid.x; mov.u32 %t1, %tid.y; mov.u32 %t2, %tid.z; mov.u32 %t3, %ctaid.x;
            mov.u32 %t4, %ctaid.y; mov.u32 %t5, %ctaid.z; mov.u32 %t6, %ntid.x; mov.u32 %t7, %ntid.y;
            mov.u32 %t8, %ntid.z; mov.u32 %t9, %nctaid.x; mov.u32 %t10, %nctaid.y; mov.u32 %t11, %nctaid.z;
            mad.lo.u32 %t12, %t5, %t10, %t4; mad.lo.u32 %t12, %t12, %t9, %t3;
            mad.lo.u32 %t12, %t12, %t8, %t2; mad.lo.u32 %t12, %t12, %t7, %t1; mad.lo.u32 %t12, %t12, %t6, %t0;
            mad.wide.u32 %l0, %t12, 4, %p0; st.global.u32 [%l0], %t12; ret;"""
        grid, block = (2, 3, 2), (5, 3, 2)
        found = np.full(360, 999, "u4")
        memory = Memory()
        memory.add(found)
        kernel(text, [], ["u4"]).launch(grid, block, [pack(found)], memory)
        assert found.tolist() == list(range(360))

    def test_coordinates(self) -> None:
        found = [np.zeros(24, "u4") for _ in range(4)]
        memory = Memory()
        for array in found:
            memory.add(array)
        body = """mov.u32 %x, %tid.x; mov.u32 %y, %tid.y; mov.u32 %z, %tid.z; mov.u32 %w, %ntid.y;
            mad.lo.u32 %index, %z, 3, %y; mad.lo.u32 %index, %index, 4, %x;"""
        kernel(body, [], ["u4"] * 4).launch((1,), (4, 3, 2), [pack(array) for array in found], memory)
        places = list(itertools.product(range(2), range(3), range(4)))
        assert list(zip(*[array.tolist() for array in found], strict=True)) == [(x, y, z, 3) for z, y, x in places]

    def test_lanes_and_warps(self) -> None:
        body = "mov.u32 %x, %laneid; mov.u32 %y, %warpid; mov.u32 %z, %nwarpid;"
        lanes, warps, count = run(body, [], ["u4"] * 3, threads=70)
        assert lanes.tolist() == [i % 32 for i in range(70)]
        assert warps.tolist() == [i // 32 for i in range(70)]
        assert set(count.tolist()) == {3}

    @pytest.mark.parametrize(
        ("name", "holds"),
        [
            ("eq", lambda other, lane: other == lane),
            ("lt", lambda other, lane: other < lane),
            ("le", lambda other, lane: other <= lane),
            ("gt", lambda other, lane: other > lane),
            ("ge", lambda other, lane: other >= lane),
        ],
    )
    def test_masks_of_lanes(self, name: str, holds: object) -> None:
        [found] = run(f"mov.u32 %x, %lanemask_{name};", threads=64)
        assert callable(holds)
        wanted = [sum(1 << other for other in range(32) if holds(other, lane % 32)) for lane in range(64)]
        assert found.tolist() == wanted

    def test_sizes_of_shared_memory(self) -> None:
        body = "mov.u32 %x, %dynamic_smem_size; mov.u32 %y, %total_smem_size; mov.b64 %l0, buffer;"
        found = run(body, [], ["u4", "u4"], module=BUFFER, shared_bytes=100)
        assert [set(values.tolist()) for values in found] == [{100}, {612}]

    def test_unknown_one_is_named(self) -> None:
        with pytest.raises(UnknownInstruction, match=r"mov\.u32 %x, %clock\): unknown special register %clock"):
            run("mov.u32 %x, %clock;")


class TestLoadsAndStores:
    @pytest.mark.parametrize("space", ["shared", "local"])
    @pytest.mark.parametrize(
        "kind", ["u8", "s8", "b8", "u16", "s16", "u32", "s32", "f32", "u64", "s64", "f64", "b64"]
    )
    def test_each_type_keeps_its_bytes(self, space: str, kind: str) -> None:
        """Written with a type and read as bytes: little endian, the lower bits of a register that is wider."""
        size = int(kind[1:]) // 8
        reads = " ".join(f"ld.{space}.u8 %t{i}, [%l0+{i}];" for i in range(size))
        parts = " ".join(
            f"cvt.u64.u32 %l1, %t{i}; shl.b64 %l1, %l1, {8 * i}; or.b64 %x, %x, %l1;" for i in range(size)
        )
        body = f"""mov.b64 %l0, place; mov.u32 %t15, %tid.x; mad.wide.u32 %l0, %t15, 8, %l0;
            st.{space}.{kind} [%l0], %a; mov.b64 %x, 0; {reads} {parts}"""
        given = np.array([0x8899AABBCCDDEEFF, 0x0102030405060708, 1], "u8")
        variable = f".{space} .align 8 .b8 place[64];"
        body, module = (body, variable) if space == "shared" else (variable + body, "")
        [found] = run(body, [given], ["u8"], module=module)
        assert found.tolist() == [int(value) % (1 << 8 * size) for value in given]

    @pytest.mark.parametrize(
        ("kind", "bits"),
        [
            *itertools.product(["u8", "s8", "b8", "u16", "s16", "b16"], [16, 32, 64]),
            *itertools.product(["u32", "s32"], [32, 64]),
        ],
    )
    def test_what_is_read_is_extended(self, kind: str, bits: int) -> None:
        size = int(kind[1:]) // 8
        given = np.array([0x8182838485868788, 0x0102030405060708], "u8")
        body = f"mad.wide.u32 %place, %index, 8, %p0; ld.global.{kind} %x, [%place];"
        [found] = run(body, [given], [f"u{bits // 8}"])
        signed = kind[0] == "s"
        wanted = [
            int.from_bytes(struct.pack("<Q", value)[:size], "little", signed=signed) for value in given.tolist()
        ]
        assert found.tolist() == [value % (1 << bits) for value in wanted]

    @pytest.mark.parametrize(
        ("kind", "count"),
        [("b32", 2), ("b32", 4), ("f32", 4), ("b64", 2), ("u16", 2), ("u16", 4), ("u8", 4), ("s8", 2)],
    )
    def test_vectors(self, kind: str, count: int) -> None:
        """Elements lie behind one another; written in the reverse order."""
        size = int(kind[1:]) // 8
        given = np.frombuffer(np.random.default_rng(0).bytes(16 * 8), "u1").reshape(8, 16).copy()
        found = np.zeros_like(given)
        names = [f"%{'l' if size == 8 else 't' if size == 4 else 'h'}{i}" for i in range(count)]
        body = f"""mad.wide.u32 %l8, %index, 16, %p0; mad.wide.u32 %l9, %index, 16, %p1;
            ld.global.v{count}.{kind} {{{", ".join(names)}}}, [%l8];
            st.global.v{count}.{kind} [%l9], {{{", ".join(reversed(names))}}}; ret;"""
        memory = Memory()
        memory.add(given)
        memory.add(found)
        kernel(body, ["u1"], ["u1"]).launch((1,), (8,), [pack(given), pack(found)], memory)
        parts = given[:, : size * count].reshape(8, count, size)[:, ::-1].reshape(8, -1)
        assert found[:, : size * count].tolist() == parts.tolist()
        assert not found[:, size * count :].any()

    @pytest.mark.parametrize(
        "modifiers",
        ["", ".weak", ".volatile", ".relaxed.gpu", ".acquire.sys", ".L1::evict_last", ".L2::128B"],
    )
    def test_modifiers_that_change_no_value(self, modifiers: str) -> None:
        where = "" if modifiers.startswith(".L") else ".global"
        middle = f"{modifiers}{where}" if where else f".global{modifiers}"
        body = f"mad.wide.u32 %place, %index, 4, %p0; ld{middle}.u32 %x, [%place];"
        assert run(body, [WORDS])[0].tolist() == WORDS.tolist()

    @pytest.mark.parametrize("cache", ["nc", "ca", "cg", "cs", "lu", "cv", "nc.L1::no_allocate"])
    def test_caches_of_loads(self, cache: str) -> None:
        body = f"mad.wide.u32 %place, %index, 4, %p0; ld.global.{cache}.u32 %x, [%place];"
        assert run(body, [WORDS])[0].tolist() == WORDS.tolist()

    @pytest.mark.parametrize(
        "modifiers", [".global.wb", ".global.cg", ".relaxed.cta.global", ".release.gpu.global", ""]
    )
    def test_modifiers_of_stores(self, modifiers: str) -> None:
        body = f"mad.wide.u32 %place, %index, 4, %p1; st{modifiers}.u32 [%place], %a; mov.b32 %x, %a;"
        assert run(body, [WORDS])[0].tolist() == WORDS.tolist()

    @pytest.mark.parametrize(
        "instruction",
        [
            "ld.global.u128 %x, [%p0]",
            "ld.global.relaxed.u32 %x, [%p0]",
            "ld.release.gpu.global.u32 %x, [%p0]",
            "st.acquire.gpu.global.u32 [%p0], %x",
            "ld.global.v8.u32 {%x}, [%p0]",
            "ld.global.v2.u32 {%x}, [%p0]",
            "ld.global.v4.u64 {%l0, %l1, %l2, %l3}, [%p0]",
            "ld.surface.u32 %x, [%p0]",
            "ld.global.L2::cache_hint.u32 %x, [%p0], %l0",
            "ld.global.u64 %x, [%p0]",
            "ld.global.u32 %x, %p0",
            "ld.shared.u32 %x, [variable]",
            "st.global.u32 [%p0], %h0",
            "ldmatrix.u32 %x, [%p0]",
        ],
    )
    def test_unknown_ones_are_named(self, instruction: str) -> None:
        with pytest.raises(UnknownInstruction) as error:
            run(f"{instruction};", [WORDS], module=".global .u32 variable;")
        assert instruction in str(error.value)


class TestAddresses:
    def test_generic_address_of_each_space(self) -> None:
        """`cvta` makes it, loads without a space follow it, and `cvta.to` leads back."""
        body = """.local .align 4 .b8 own[4];
            mov.u64 %l0, own; mov.u64 %l1, buffer; mov.u64 %l2, constant; mov.u64 %l3, variable;
            cvta.local.u64 %l4, %l0; cvta.shared.u64 %l5, %l1; cvta.const.u64 %l6, %l2; cvta.global.u64 %l7, %l3;
            st.local.u32 [%l0], 1; st.shared.u32 [%l1], 2;
            ld.u32 %x, [%l4]; ld.u32 %y, [%l5]; ld.u32 %z, [%l6]; ld.u32 %w, [%l7];
            cvta.to.local.u64 %l8, %l4; cvta.to.shared.u64 %l9, %l5; cvta.to.global.u64 %l10, %l7;
            ld.local.u32 %t0, [%l8]; ld.shared.u32 %t1, [%l9]; ld.global.u32 %t2, [%l10];
            ld.const.u32 %t3, [constant];
            add.u32 %x, %x, %t0; add.u32 %y, %y, %t1; add.u32 %w, %w, %t2; add.u32 %z, %z, %t3;"""
        module = f"{BUFFER} .const .u32 constant = 3; .global .u32 variable = 4;"
        found = run(body, [], ["u4"] * 4, threads=1, module=module)
        assert [values.tolist() for values in found] == [[2], [4], [6], [8]]

    def test_spaces_of_one_instruction_may_differ(self) -> None:
        body = """mov.u64 %l1, buffer; cvta.shared.u64 %l1, %l1; mad.wide.u32 %l1, %index, 4, %l1;
            mad.wide.u32 %l0, %index, 4, %p0; and.b32 %t0, %index, 1; setp.ne.u32 %p, %t0, 0;
            add.u32 %t1, %a, 100; st.u32 [%l1], %t1; selp.b64 %l0, %l1, %l0, %p; ld.u32 %x, [%l0];"""
        given = np.arange(8, dtype="u4")
        assert run(body, [given], module=BUFFER)[0].tolist() == [0, 101, 2, 103, 4, 105, 6, 107]

    def test_which_space_an_address_is_in(self) -> None:
        body = """.local .align 4 .b8 own[4]; mov.u64 %l0, own; cvta.local.u64 %l0, %l0; mov.u64 %l1, buffer;
            cvta.shared.u64 %l1, %l1; mov.u32 %x, 0; mov.u32 %t0, 1;"""
        for bit, (space, address) in enumerate(
            itertools.product(("global", "shared", "local"), ("%p0", "%l1", "%l0"))
        ):
            body += f"isspacep.{space} %p, {address}; @%p or.b32 %x, %x, {1 << bit};"
        wanted = 1 << 0 | 1 << 4 | 1 << 8  # each in its own
        assert set(run(body, [], module=BUFFER)[0].tolist()) == {wanted}

    def test_shared_addresses_of_32_bits(self) -> None:
        body = """mov.u32 %t0, buffer; mad.lo.u32 %t0, %index, 4, %t0; st.shared.u32 [%t0+16], %a;
            ld.shared.u32 %x, [%t0+16]; mov.u64 %l0, buffer; cvt.u32.u64 %y, %l0; sub.u32 %y, %y, %t0;"""
        found = run(body, [WORDS], ["u4", "i4"], module=BUFFER)
        assert [values.tolist() for values in found] == [WORDS.tolist(), [0, -4, -8, -12]]

    def test_variables_have_their_alignment(self) -> None:
        module = ".shared .align 1 .b8 one[3]; .shared .align 8 .b8 two[8]; .shared .align 64 .b8 three[4];"
        body = "mov.u32 %x, one; mov.u32 %y, two; mov.u32 %z, three;"
        found = [values.tolist()[0] for values in run(body, [], ["u4"] * 3, threads=1, module=module)]
        assert [found[1] % 8, found[2] % 64] == [0, 0]
        assert found[0] + 3 <= found[1]
        assert found[1] + 8 <= found[2]
        assert kernel(body, [], ["u4"] * 3, module=module).shared_bytes == 68

    def test_dynamic_shared_memory_begins_behind_the_static(self) -> None:
        module = f"{BUFFER} .extern .shared .align 16 .b8 dynamic[]; .extern .shared .align 4 .b8 also[];"
        body = "mov.u32 %x, buffer; mov.u32 %y, dynamic; mov.u32 %z, also; sub.u32 %y, %y, %x; sub.u32 %z, %z, %x;"
        found = run(body, [], ["u4"] * 3, threads=1, module=module, shared_bytes=32)
        assert [values.tolist()[0] for values in found[1:]] == [512, 512]

    def test_parameter_that_is_a_struct(self) -> None:
        """Loaded by parts, as a vector, and through its address; smaller parts are extended."""
        text = """
            .version 8.0 .target sm_80 .address_size 64
            .visible .entry f(.param .u64 out, .param .align 16 .b8 s[32]) {
                .reg .b32 %r<9>; .reg .b64 %d<9>;
                ld.param.u64 %d0, [out]; ld.param.s8 %r0, [s+3]; ld.param.v2.u32 {%r1, %r2}, [s+8];
                mov.b64 %d1, s; ld.param.u16 %r3, [%d1+16]; cvta.param.u64 %d2, %d1; ld.u32 %r4, [%d2+28];
                st.global.u32 [%d0], %r0; st.global.u32 [%d0+4], %r1; st.global.u32 [%d0+8], %r2;
                st.global.u32 [%d0+12], %r3; st.global.u32 [%d0+16], %r4; ret; }"""
        found = np.zeros(5, "i4")
        memory = Memory()
        memory.add(found)
        struct_bytes = bytes(range(0xF0, 0x100)) + bytes(range(0x80, 0x90))
        program = Program(text)
        assert program.kernels["f"].parameters == [("out", 8, 8), ("s", 32, 16)]
        program.kernels["f"].launch((1,), (1,), [pack(found), struct_bytes], memory)
        wanted = [
            *struct.unpack("<b", struct_bytes[3:4]),
            *struct.unpack("<ii", struct_bytes[8:16]),
            *struct.unpack("<H", struct_bytes[16:18]),
            *struct.unpack("<i", struct_bytes[28:32]),
        ]
        assert found.tolist() == wanted

    def test_hints_have_no_effect(self) -> None:
        body = """prefetch.global.L2 [%p0]; prefetch.L1 [%p0]; nanosleep.u32 20; membar.cta; membar.gl; membar.sys;
            fence.sc.gpu; fence.acq_rel.cta; mov.b32 %x, %a;"""
        assert run(body, [WORDS])[0].tolist() == WORDS.tolist()
