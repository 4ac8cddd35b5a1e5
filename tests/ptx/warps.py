"""Decoders of what the threads of a warp do together: shuffles, votes, matches and reductions.

That all lanes are there that take part is `ptx.machine`'s business; `MEMBERS` tells it which do.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx.decode import DTYPES, Decoding, Step, instruction
from ptx.errors import Divergence, UnknownInstruction
from ptx.special import lane_bits
from ptx.syntax import Instruction

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray
WARP = 32


def last_operand(instruction: Instruction) -> Any:
    """Return the mask of the lanes that take part, where it is the last operand; None for all lanes."""
    if "sync" not in instruction.opcode:
        raise UnknownInstruction(f"unknown instruction {'.'.join(instruction.opcode)}: without .sync")
    return instruction.operands[-1]


def all_lanes(instruction: Instruction) -> None:
    """Return None: all lanes take part."""


MEMBERS: dict[str, Callable[[Instruction], Any]] = {
    **dict.fromkeys(("shfl", "vote", "match", "redux"), last_operand),
    **dict.fromkeys(("mma", "ldmatrix", "movmatrix", "wmma"), all_lanes),
}
"""By first word, what gives the operand with the lanes that take part in an instruction for whole warps."""


def lanes_here(launch: "Launch") -> Array:
    """Return, for each lane, the mask of the lanes of its warp that take part."""
    if launch.mask is None:
        return np.full(launch.lanes, 0xFFFFFFFF, np.uint32)
    return per_warp(launch.mask)


def per_warp(holds: Array) -> Array:
    """Return, for each lane, a bit for each lane of its warp."""
    return np.repeat(lane_bits(holds), WARP)


@instruction("shfl")
def shfl(at: Decoding) -> Step:
    """`shfl.sync`."""
    at.type("b32")
    at.needed("sync")
    mode = at.needed("up", "down", "bfly", "idx")
    at.done(5)
    first, second = at.pair(at.operands[0])
    target = at.target(first, 32)
    inside = None if second is None else at.target(second, 1)
    a, b, c, members = (at.read(place, "b32") for place in (1, 2, 3, 4))

    def step(launch: "Launch") -> None:
        registers, lane = launch.registers, launch.laneid
        bval, cval = registers[b] & np.uint32(31), registers[c]
        segment = (cval >> np.uint32(8)) & np.uint32(31)
        clamp = cval & np.uint32(31)
        lowest = lane & segment
        highest = lowest | (clamp & ~segment)
        signed, amount = lane.astype(np.int64), bval.astype(np.int64)
        if mode == "up":
            source = signed - amount
            holds = source >= highest
        elif mode == "down":
            source = signed + amount
            holds = source <= highest
        elif mode == "bfly":
            source = signed ^ amount
            holds = source <= highest
        else:
            source = (lowest | (bval & ~segment)).astype(np.int64)
            holds = source <= highest
        source = np.where(holds, source, signed)
        named = (registers[members] >> source.astype(np.uint32)) & np.uint32(1) == 1
        here = named if launch.mask is None else named & launch.mask[launch.warp_start + source]
        if not here.all():
            wrong = ~here if launch.mask is None else ~here & launch.mask
            if wrong.any():
                lane_ = int(wrong.argmax())
                raise Divergence(f"reads lane {int(source[lane_])}, which does not take part", lane_)
        launch.write(target, registers[a].take(launch.warp_start + source))
        if inside is not None:
            launch.write(inside, holds)

    return step


@instruction("vote")
def vote(at: Decoding) -> Step:
    """`vote.sync`."""
    at.needed("sync")
    mode = at.needed("all", "any", "uni", "ballot")
    kind = at.type("b32" if mode == "ballot" else "pred")
    at.done(3)
    target, members = at.result(kind), at.read(2, "b32")
    predicate, negated = at.predicate(at.operands[1])

    def step(launch: "Launch") -> None:
        holds = launch.registers[predicate]
        if negated:
            holds = ~holds
        if launch.mask is not None:
            holds = holds & launch.mask
        named = launch.registers[members] & lanes_here(launch)
        ballot = per_warp(holds) & named
        if mode == "ballot":
            launch.write(target, ballot)
        elif mode == "any":
            launch.write(target, ballot != 0)
        else:
            launch.write(target, (ballot == named) if mode == "all" else (ballot == named) | (ballot == 0))

    return step


@instruction("activemask")
def activemask(at: Decoding) -> Step:
    """`activemask`."""
    at.type("b32")
    target = at.result("b32")
    at.done(1)

    def step(launch: "Launch") -> None:
        launch.write(target, lanes_here(launch))

    return step


@instruction("match")
def match(at: Decoding) -> Step:
    """`match.any` and `match.all`."""
    kind = at.type("b32", "b64")
    at.needed("sync")
    mode = at.needed("any", "all")
    at.done(3)
    first, second = at.pair(at.operands[0])
    target, a, members = at.target(first, 32), at.read(1, kind), at.read(2, "b32")
    same = None if second is None else at.target(second, 1)
    if mode == "any" and same is not None:
        raise at.unknown()

    def step(launch: "Launch") -> None:
        values = launch.registers[a].reshape(-1, WARP)
        equal = values[:, :, None] == values[:, None, :]
        bits = np.packbits(equal, axis=2, bitorder="little").view(np.uint32).reshape(-1)
        named = launch.registers[members] & lanes_here(launch)
        if mode == "any":
            launch.write(target, bits & named)
            return
        alike = bits & named == named
        launch.write(target, np.where(alike, named, np.uint32(0)))
        if same is not None:
            launch.write(same, alike)

    return step


@instruction("redux")
def redux(at: Decoding) -> Step:
    """`redux.sync` of integers."""
    kind = at.type("u32", "s32", "b32")
    at.needed("sync")
    names = ("and", "or", "xor") if kind == "b32" else ("add", "min", "max")
    name = at.needed(*names)
    at.done(3)
    target, a, members, dtype = at.result(kind), at.read(1, kind), at.read(2, "b32"), DTYPES[kind]
    operation = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "add": np.add}
    operation |= {"min": np.minimum, "max": np.maximum}
    limits = np.iinfo(dtype)
    neutral = dtype.type({"and": limits.max, "min": limits.max, "max": limits.min}.get(name, 0))

    def step(launch: "Launch") -> None:
        values = launch.registers[a].view(dtype).reshape(-1, 1, WARP)
        named = (launch.registers[members] & lanes_here(launch)).reshape(-1, WARP, 1)
        chosen = (named >> np.arange(WARP, dtype=np.uint32)) & np.uint32(1) == 1
        reduced = operation[name].reduce(np.where(chosen, values, neutral), axis=2, dtype=dtype)
        launch.write(target, reduced.reshape(-1))

    return step
