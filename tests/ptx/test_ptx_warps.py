"""Shuffles, votes, matches and reductions of a warp, against the pseudocode of NVIDIA's PTX ISA manual."""

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest

from ptx import Divergence, UnknownInstruction
from ptx.instruction_helpers import run

LANES = np.arange(64, dtype="u4")
FULL = 0xFFFFFFFF


def source(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane that is read and the predicate: the manual's pseudocode of `shfl.sync`."""
    bval, cval, mask = b & 31, c & 31, c >> 8 & 31
    max_lane = (lane & mask) | (cval & ~mask)
    min_lane = lane & mask
    j, inside = {
        "up": (lane - bval, lane - bval >= max_lane),
        "down": (lane + bval, lane + bval <= max_lane),
        "bfly": (lane ^ bval, lane ^ bval <= max_lane),
        "idx": (min_lane | (bval & ~mask), (min_lane | (bval & ~mask)) <= max_lane),
    }[mode]
    return (j, True) if inside else (lane, False)


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 16, 8, 2])
def test_shuffle(mode: str, width: int) -> None:
    """As CUDA's __shfl functions of a width use it: c has the segments' mask, and where lanes end."""
    c = (32 - width) << 8 | (0 if mode == "up" else 31)
    for b in (0, 1, 2, 5, 16, 31, 33):
        body = f"shfl.sync.{mode}.b32 %x|%p, %a, {b}, {c}, -1; selp.u32 %y, 1, 0, %p;"
        found = run(body, [LANES * np.uint32(10)], ["u4", "u4"])
        wanted = [source(mode, lane % 32, b, c) for lane in range(64)]
        assert found[0].tolist() == [10 * (lane // 32 * 32 + j) for lane, (j, _) in enumerate(wanted)]
        assert found[1].tolist() == [int(inside) for _, inside in wanted]


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
def test_shuffle_with_operands_of_each_lane_s_own(mode: str) -> None:
    chance = random.Random(mode)
    b = [chance.randrange(32) for _ in range(64)]
    c = [chance.randrange(32) << 8 | chance.randrange(32) for _ in range(64)]
    body = f"shfl.sync.{mode}.b32 %x, %a, %b, %c, {FULL};"
    [found] = run(body, [LANES, np.array(b, "u4"), np.array(c, "u4")])
    assert found.tolist() == [lane // 32 * 32 + source(mode, lane % 32, b[lane], c[lane])[0] for lane in range(64)]


class TestWhoTakesPart:
    def test_lanes_of_the_mask_alone(self) -> None:
        body = """setp.lt.u32 %p, %a, 8; mov.u32 %x, 99; @!%p bra done;
            shfl.sync.bfly.b32 %x, %a, 1, 31, 0xFF; done:"""
        [found] = run(body, [LANES[:32]])
        assert found.tolist() == [lane ^ 1 for lane in range(8)] + [99] * 24

    def test_guard(self) -> None:
        body = "setp.lt.u32 %p, %a, 8; mov.u32 %x, 99; @%p shfl.sync.bfly.b32 %x, %a, 1, 31, 0xFF;"
        assert run(body, [LANES[:32]])[0].tolist() == [lane ^ 1 for lane in range(8)] + [99] * 24

    def test_masks_apart_are_instructions_apart(self) -> None:
        """Each half of a warp names its own lanes."""
        body = """setp.lt.u32 %p, %a, 16; selp.b32 %t0, 0xFFFF, 0xFFFF0000, %p;
            shfl.sync.idx.b32 %x, %a, %b, 31, %t0;"""
        wanted = np.where(LANES[:32] < 16, 3, 20).astype("u4")
        assert run(body, [LANES[:32], wanted])[0].tolist() == wanted.tolist()

    def test_lanes_that_come_later_are_waited_for(self) -> None:
        """Some come to the instruction straight, others after a loop that lies behind it."""
        body = """mov.u32 %t0, 0; setp.lt.u32 %p, %a, 16; @!%p bra work;
            meet: shfl.sync.idx.b32 %x, %t0, 20, 31, -1; bra done;
            work: add.u32 %t0, %t0, 1; setp.lt.u32 %q, %t0, 5; @%q bra work; bra meet; done:"""
        assert run(body, [LANES[:32]])[0].tolist() == [5] * 32

    def test_lanes_that_never_come(self) -> None:
        body = "setp.lt.u32 %p, %a, 8; mov.u32 %x, 0; @!%p bra done; {}; bar.warp.sync 0xFF; done: bar.warp.sync -1;"
        for instruction in (
            "shfl.sync.idx.b32 %x, %a, 0, 31, -1",
            "vote.sync.any.pred %q, %p, 0x1FF",
            "match.any.sync.b32 %x, %a, -1",
            "redux.sync.add.u32 %x, %a, -1",
            "bar.warp.sync 0x10F",
        ):
            with pytest.raises(Divergence) as error:
                run(body.format(instruction), [LANES[:32]])
            assert f"({instruction}), thread (" in str(error.value)
            with pytest.raises(Divergence) as error:  # also where it is not alone in its block of instructions
                run(f"{body.split('@!%p')[0]} @!%p bra done; {instruction}; done: bar.warp.sync -1;", [LANES[:32]])
            assert f"({instruction}), thread (" in str(error.value)

    def test_lanes_that_have_gone_are_not_waited_for(self) -> None:
        body = "setp.lt.u32 %p, %a, 8; @!%p exit; shfl.sync.bfly.b32 %x, %a, 1, 31, -1;"
        assert run(body, [LANES[:32]])[0].tolist()[:8] == [lane ^ 1 for lane in range(8)]

    def test_lane_that_has_gone_is_not_read(self) -> None:
        body = "setp.lt.u32 %p, %a, 8; @!%p exit; shfl.sync.bfly.b32 %x, %a, 8, 31, -1;"
        with pytest.raises(Divergence, match=r"thread \(0, 0, 0\).*reads lane 8, which does not take part"):
            run(body, [LANES[:32]])

    def test_lane_outside_of_the_mask_is_not_read(self) -> None:
        body = "setp.lt.u32 %p, %a, 8; selp.b32 %t0, 0xFF, 0xFFFFFF00, %p; shfl.sync.idx.b32 %x, %a, 9, 31, %t0;"
        with pytest.raises(Divergence, match="reads lane 9"):
            run(body, [LANES[:32]])

    def test_lane_that_is_not_in_its_own_mask(self) -> None:
        with pytest.raises(Divergence, match=r"thread \(8, 0, 0\).*its own lane is not in its mask 0xff"):
            run("shfl.sync.idx.b32 %x, %a, 0, 31, 0xFF;", [LANES[:32]])

    def test_masks_that_do_not_agree(self) -> None:
        body = "setp.eq.u32 %p, %a, 1; selp.b32 %t0, 0x3, -1, %p; shfl.sync.idx.b32 %x, %a, 0, 31, %t0;"
        with pytest.raises(Divergence, match="names lanes that have other masks"):
            run(body, [LANES[:32]])

    @pytest.mark.parametrize(
        "instruction",
        [
            "shfl.idx.b32 %x, %a, 0, 31",
            "shfl.sync.rotate.b32 %x, %a, 0, 31, -1",
            "vote.all.pred %p, %q",
            "vote.sync.none.pred %p, %q, -1",
            "match.any.sync.b32 %x|%p, %a, -1",
            "redux.sync.mul.u32 %x, %a, -1",
            "redux.sync.and.u32 %x, %a, -1",
            "elect.sync %x|%p, -1",
            "activemask.b64 %l0",
        ],
    )
    def test_unknown_ones_are_named(self, instruction: str) -> None:
        with pytest.raises(UnknownInstruction) as error:
            run(f"{instruction};", [LANES])
        assert f"({instruction}): unknown instruction {instruction.split()[0]}" in str(error.value)


GIVEN = {  # predicates of two warps
    "none and all": [0] * 32 + [1] * 32,
    "one": [0] * 5 + [1] + [0] * 26 + [1] * 31 + [0],
    "mixed": [i % 3 == 0 for i in range(64)],
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("negated", [False, True])
def test_votes(given: list[int], negated: bool) -> None:
    body = "setp.ne.u32 %p, %a, 0;"
    for name, mode in zip("xyz", ("all", "any", "uni"), strict=True):
        body += f"vote.sync.{mode}.pred %q, {'!' * negated}%p, -1; selp.u32 %{name}, 1, 0, %q;"
    body += f"vote.sync.ballot.b32 %w, {'!' * negated}%p, -1;"
    found = run(body, [np.array(given, "u4")], ["u4"] * 4)
    for warp in range(2):
        holds = [bool(value) != negated for value in given[32 * warp : 32 * warp + 32]]
        wanted = [all(holds), any(holds), len(set(holds)) == 1, sum(1 << lane for lane in range(32) if holds[lane])]
        assert [set(values[32 * warp : 32 * warp + 32].tolist()) for values in found] == [{value} for value in wanted]


def test_vote_is_of_the_mask_s_lanes() -> None:
    body = """setp.lt.u32 %p, %a, 4; setp.lt.u32 %q, %a, 8; mov.u32 %x, 0; mov.u32 %y, 0; @!%q bra done;
        vote.sync.ballot.b32 %x, %p, 0xFF; vote.sync.ballot.b32 %y, !%p, 0xFF; done:"""
    found = run(body, [LANES[:32]], ["u4", "u4"])
    assert [values.tolist() for values in found] == [[0x0F] * 8 + [0] * 24, [0xF0] * 8 + [0] * 24]


def test_active_lanes() -> None:
    body = "mov.u32 %x, 0; and.b32 %t0, %a, 3; setp.eq.u32 %p, %t0, 1; @!%p bra done; activemask.b32 %x; done:"
    wanted = [0x22222222 if lane % 4 == 1 else 0 for lane in range(64)]
    assert run(body, [LANES])[0].tolist() == wanted


@pytest.mark.parametrize("kind", ["b32", "b64"])
def test_lanes_with_the_same_value(kind: str) -> None:
    values = np.array([1, 5, 1, 2**31, 5, 5, 0, 1] * 8, f"u{int(kind[1:]) // 8}")
    if kind == "b64":
        values[::2] += np.uint64(2**32)
    [found] = run(f"match.any.sync.{kind} %x, %a, -1;", [values])
    for lane, mask in enumerate(found.tolist()):
        warp = values[lane // 32 * 32 :][:32]
        assert mask == sum(1 << other for other in range(32) if warp[other] == values[lane])


def test_whether_all_have_the_same_value() -> None:
    values = np.array([7] * 32 + [7] * 31 + [8], "u4")
    body = "match.all.sync.b32 %x|%p, %a, -1; selp.u32 %y, 1, 0, %p;"
    found = run(body, [values], ["u4", "u4"])
    assert [part.tolist() for part in found] == [[FULL] * 32 + [0] * 32, [1] * 32 + [0] * 32]


REDUCTIONS: dict[str, Callable[[int, int], int]] = {
    "add.u32": lambda a, b: (a + b) % 2**32,
    "add.s32": lambda a, b: (a + b + 2**31) % 2**32 - 2**31,
    "min.u32": min,
    "min.s32": min,
    "max.u32": max,
    "max.s32": max,
    "and.b32": lambda a, b: a & b,
    "or.b32": lambda a, b: a | b,
    "xor.b32": lambda a, b: a ^ b,
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name: str) -> None:
    """Of the lanes that a mask names: here each half of a warp for itself, and all of the other warp."""
    values = np.random.default_rng(3).integers(-(2**31), 2**31, 64).astype("i4")
    given = values if ".s" in name else values.view("u4")
    body = f"""setp.lt.u32 %p, %b, 8; selp.b32 %t0, 0xFF, 0xFFFFFF00, %p; setp.ge.u32 %p, %b, 32;
        selp.b32 %t0, -1, %t0, %p; redux.sync.{name} %x, %a, %t0;"""
    [found] = run(body, [given, LANES], [given.dtype])
    for first, last in itertools.pairwise((0, 8, 32, 64)):
        part = given[first:last].tolist()
        wanted = part[0]
        for value in part[1:]:
            wanted = REDUCTIONS[name](wanted, value)
        assert set(found[first:last].tolist()) == {wanted}
