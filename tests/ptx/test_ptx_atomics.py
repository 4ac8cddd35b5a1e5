"""Atomic operations: what each one computes, and that the threads take turns in the order of their numbers."""

from collections.abc import Callable
from functools import reduce

import numpy as np
import pytest

from ptx import Memory, UnknownInstruction, pack
from ptx.instruction_helpers import kernel, run

Operation = Callable[[int, int], int]


def signed(value: int, bits: int) -> int:
    value %= 1 << bits
    return value - (1 << bits) if value >> bits - 1 else value


OPERATIONS: dict[str, Operation] = {
    "add.u32": lambda old, b: old + b,
    "add.s32": lambda old, b: old + b,
    "add.u64": lambda old, b: old + b,
    "exch.b32": lambda old, b: b,
    "exch.b64": lambda old, b: b,
    "and.b32": lambda old, b: old & b,
    "or.b32": lambda old, b: old | b,
    "xor.b64": lambda old, b: old ^ b,
    "min.u32": min,
    "max.u32": max,
    "min.s32": lambda old, b: min(signed(old, 32), signed(b, 32)),
    "max.s32": lambda old, b: max(signed(old, 32), signed(b, 32)),
    "min.s64": lambda old, b: min(signed(old, 64), signed(b, 64)),
    "max.u64": max,
    "inc.u32": lambda old, b: 0 if old >= b else old + 1,  # the manual's table of operations
    "dec.u32": lambda old, b: b if old == 0 or old > b else old - 1,
}


def on_memory(
    body: str, values: np.ndarray, memory: np.ndarray, blocks: int = 1, target: str = "sm_80"
) -> np.ndarray:
    """Run a body in which %l0 is the memory's address; return the threads' %x."""
    found = np.zeros_like(values)
    bits = 8 * values.itemsize
    keep = f"mad.wide.u32 %l9, %index, {values.itemsize}, %p1; st.global.b{bits} [%l9], %x; ret;"
    text = f"mov.b64 %l0, %p2; {body} {keep}"
    one = kernel(text, [values.dtype], [values.dtype, memory.dtype], target=target)
    arrays, given = Memory(), (values, found, memory)
    for array in given:
        arrays.add(array)
    one.launch((blocks,), (len(values) // blocks,), [pack(array) for array in given], arrays)
    return found


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("blocks", [1, 2])
def test_threads_take_turns_in_their_order(name: str, blocks: int) -> None:
    bits, operation = int(name[-2:]), OPERATIONS[name]
    dtype = np.dtype(f"u{bits // 8}")
    values = np.random.default_rng(1).integers(0, 1 << bits, 64, dtype, endpoint=False)
    if name[:3] in ("inc", "dec"):
        values = values % dtype.type(5)
    room = np.full(64, 3, dtype)  # as many as there are threads: what the helper reads besides
    found = on_memory(f"atom.global.{name} %x, [%l0], %a;", values, room, blocks)
    now, seen = 3, []
    for value in values.tolist():
        seen.append(now)
        now = operation(now, value) % (1 << bits)
    assert found.tolist() == seen
    assert room.tolist() == [now] + [3] * 63


@pytest.mark.parametrize("name", [name for name in OPERATIONS if not name.startswith("exch")])
def test_reduction_gives_nothing_back(name: str) -> None:
    dtype = np.dtype(f"u{int(name[-2:]) // 8}")
    values, rooms = np.arange(64, dtype=dtype), np.full((2, 64), 3, dtype)
    on_memory(f"atom.global.{name} %x, [%l0], %a;", values, rooms[0])
    found = on_memory(f"red.global.{name} [%l0], %a; mov.b{name[-2:]} %x, 1;", values, rooms[1])
    assert set(found.tolist()) == {1}
    assert rooms[0].tolist() == rooms[1].tolist()


def test_compare_and_swap() -> None:
    """Each thread in its turn finds what the one before it has left."""
    room = np.zeros(64, "u4")
    found = on_memory("add.u32 %t0, %a, 1; atom.global.cas.b32 %x, [%l0], %a, %t0;", np.arange(64, dtype="u4"), room)
    assert found.tolist() == list(range(64))
    assert room[0] == 64
    backwards = np.arange(63, -1, -1, dtype="u4")
    room[0] = 0
    found = on_memory("add.u32 %t0, %a, 1; atom.global.cas.b32 %x, [%l0], %a, %t0;", backwards, room)
    assert found.tolist() == [0] * 64
    assert room[0] == 1
    wide = np.array([5, 6, 7, 8], "u8")
    assert on_memory("atom.cas.b64 %x, [%l0], 7, 9;", np.zeros(4, "u8"), wide).tolist() == [5] * 4
    assert on_memory("atom.cas.b64 %x, [%l0+16], 7, 9;", np.zeros(4, "u8"), wide).tolist() == [7, 9, 9, 9]
    halves = np.array([1, 2, 3, 4], "u2")
    assert on_memory("atom.global.cas.b16 %x, [%l0+2], 2, 9;", np.zeros(4, "u2"), halves).tolist() == [2, 9, 9, 9]
    assert halves.tolist() == [1, 9, 3, 4]


def test_each_address_has_its_own_order() -> None:
    values = np.array([3, 1, 4, 1, 5, 9, 2, 6], "u4")
    room = np.zeros(8, "u4")
    body = "and.b32 %t0, %index, 1; mad.wide.u32 %l0, %t0, 4, %l0; atom.global.add.u32 %x, [%l0], %a;"
    assert on_memory(body, values, room).tolist() == [0, 0, 3, 1, 7, 2, 12, 11]
    assert room.tolist() == [14, 17] + [0] * 6


def test_threads_that_do_not_take_part() -> None:
    values = np.arange(8, dtype="u4")
    room = np.zeros(8, "u4")
    body = "mov.u32 %x, 99; setp.lt.u32 %p, %a, 3; @%p atom.global.add.u32 %x, [%l0], 10;"
    assert on_memory(body, values, room).tolist() == [0, 10, 20] + [99] * 5
    assert room[0] == 30


class TestFloats:
    def test_sums_are_rounded_one_after_the_other(self) -> None:
        values = np.random.default_rng(2).standard_normal(64).astype("f4")
        room = np.zeros(64, "f4")
        seen = on_memory("atom.global.add.f32 %x, [%l0], %a;", values, room)
        partial = [reduce(lambda a, b: np.float32(a + b), values[:count], np.float32(0)) for count in range(65)]
        assert seen.tolist() == partial[:-1]
        assert room[0] == partial[-1]

    def test_doubles(self) -> None:
        values = np.random.default_rng(2).standard_normal(64)
        room = np.zeros(64)
        on_memory("red.global.add.f64 [%l0], %a; mov.f64 %x, %a;", values, room)
        assert room[0] == reduce(lambda a, b: a + b, values.tolist(), 0.0)

    def test_subnormals_are_flushed_in_global_memory_alone(self) -> None:
        """The manual, `atom`: "atom.add.f32 on global memory flushes subnormal inputs and results to sign-preserving
        zero; whereas atom.add.f32 on shared memory supports subnormal inputs and results"."""
        tiny = np.array([1e-40], "f4")
        room = np.array([1e-39], "f4")
        assert on_memory("atom.global.add.f32 %x, [%l0], %a;", tiny, room).tolist() == np.float32([1e-39]).tolist()
        assert room.tolist() == [0]
        body = """st.shared.f32 [buffer], %a; atom.shared.add.f32 %x, [buffer], %a; ld.shared.f32 %x, [buffer];"""
        found = run(body, [tiny], ["f4"], module=".shared .f32 buffer;")[0]
        assert found.tolist() == [np.float32(1e-40) + np.float32(1e-40)]

    @pytest.mark.parametrize(("kind", "dtype"), [("f16", "f2"), ("f16x2", "u4")])
    def test_halves(self, kind: str, dtype: str) -> None:
        halves = np.array([1, 2048, 1, 1, 0.5, 3, -7, 2**-14], "f2")
        values = halves if kind == "f16" else halves.view("u4")
        room = np.zeros(len(values), dtype)
        on_memory(f"atom.global.add.noftz.{kind} %x, [%l0], %a;", values, room)
        for place, part in enumerate((halves,) if kind == "f16" else (halves[::2], halves[1::2])):
            assert room.view("f2")[place] == reduce(lambda a, b: np.float16(a + b), part, np.float16(0))

    def test_bfloats(self) -> None:
        room = np.array([0x3F80], "u2")  # 1
        one = np.array([0x3B80], "u2")  # 2^-8: half a unit of the last place
        assert on_memory("atom.global.add.noftz.bf16 %x, [%l0], %a;", one, room, target="sm_90").tolist() == [0x3F80]
        assert room.tolist() == [0x3F80]  # to even
        with pytest.raises(UnknownInstruction, match="it needs sm_90"):
            on_memory("atom.global.add.noftz.bf16 %x, [%l0], %a;", one, room)


@pytest.mark.parametrize("space", ["shared", ""])
def test_shared_memory(space: str) -> None:
    """Of each block its own; without a space, at a generic address."""
    body = """mov.u64 %l0, buffer; setp.eq.u32 %p, %a, 0; @%p st.shared.u32 [%l0], 5; bar.sync 0;
        {} atom{}.add.u32 %x, [%l0], 1;"""
    text = body.format("cvta.shared.u64 %l0, %l0;" * (not space), f".{space}" * bool(space))
    lanes = np.tile(np.arange(32, dtype="u4"), 2)
    found = run(text, [lanes], module=".shared .align 8 .u32 buffer;", blocks=2)[0]
    assert found.tolist() == [*range(5, 37)] * 2


@pytest.mark.parametrize("modifiers", ["relaxed.gpu.global", "acquire.cta.global", "acq_rel.sys", "global.cta"])
def test_modifiers_that_change_no_value(modifiers: str) -> None:
    room = np.zeros(4, "u4")
    assert on_memory(f"atom.{modifiers}.add.u32 %x, [%l0], 1;", np.zeros(4, "u4"), room).tolist() == [0, 1, 2, 3]
    on_memory("red.release.gpu.global.add.u32 [%l0], 1; mov.u32 %x, 0;", np.zeros(4, "u4"), room)
    on_memory("atom.global.add.u32 _, [%l0], 1; mov.u32 %x, 0;", np.zeros(4, "u4"), room)
    assert room[0] == 12


@pytest.mark.parametrize(
    "instruction",
    [
        "atom.global.mul.u32 %x, [%l0], 1",
        "atom.global.add.u16 %x, [%l0], 1",
        "atom.global.add.s64 %x, [%l0], 1",
        "atom.global.and.u32 %x, [%l0], 1",
        "atom.global.inc.s32 %x, [%l0], 1",
        "atom.global.add.f16 %h0, [%l0], %h1",
        "atom.global.min.f32 %x, [%l0], %t0",
        "atom.global.add.v2.f32 {%x, %t0}, [%l0], {%x, %t0}",
        "atom.global.add.u32 %x, [%l0], 1, %l1",
        "red.global.add.u32 %x, [%l0], 1",
        "red.async.relaxed.cluster.add.u32 [%l0], %x, [%l1]",
    ],
)
def test_unknown_ones_are_named(instruction: str) -> None:
    with pytest.raises(UnknownInstruction) as error:
        on_memory(f"{instruction};", np.zeros(4, "u4"), np.zeros(4, "u4"))
    assert f"({instruction}): unknown instruction {instruction.split()[0]}" in str(error.value)
