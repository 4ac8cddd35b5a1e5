"""Decoders of what the threads of a warp do together: shuffles, votes, matches, reductions, and matrices.

That all lanes are there that take part is `ptx.machine`'s business; `MEMBERS` tells it which do.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx import tensor
from ptx.decode import DTYPES, Decoding, Step, instruction
from ptx.errors import Divergence, UnknownInstruction
from ptx.parser import Instruction, Vector

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
    return np.repeat(np.packbits(holds.reshape(-1, WARP), axis=1, bitorder="little").view(np.uint32), WARP)


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


# Matrices


def whole_warps(launch: "Launch") -> Array | None:
    """Return the threads that take part, which are those of whole warps; None for all."""
    threads = launch.threads
    if threads is not None and len(threads) % WARP:
        raise Divergence("not all 32 lanes of the warp are there", int(threads[0]))
    return threads


def taken(value: Array, threads: Array | None) -> Array:
    """Return a register's elements for the threads that take part."""
    return value if threads is None else value[threads]


def of_items(at: Decoding, place: int, write: bool = False) -> list[int]:
    """Return the registers of a vector operand, 32 bits each."""
    operand = at.operands[place]
    if not isinstance(operand, Vector):
        raise at.unknown("an operand that is no vector")
    return [at.target(item, 32) if write else at.source(item, 32) for item in operand.items]


def multiply(at: Decoding, function: Callable[[list[Array], list[Array], list[Array]], list[Array]]) -> Step:
    """Return the step of a product of matrices."""
    at.done(4)
    d, a, b, c = of_items(at, 0, write=True), *(of_items(at, place) for place in (1, 2, 3))
    sample = [np.zeros(WARP, np.uint32)]
    try:
        with np.errstate(all="ignore"):
            results = function(*(sample * len(operand) for operand in (a, b, c)))
    except (ValueError, KeyError, IndexError) as error:
        raise at.unknown(str(error)) from None
    if len(results) != len(d):
        raise at.unknown(f"{len(d)} registers for the result and not {len(results)}")

    def step(launch: "Launch") -> None:
        registers, threads = launch.registers, whole_warps(launch)
        operands = [[taken(registers[number], threads) for number in numbers] for numbers in (a, b, c)]
        for target, value in zip(d, function(*operands), strict=True):
            launch.put(target, value)

    return step


@instruction("mma")
def mma(at: Decoding) -> Step:
    """`mma.sync.aligned.m16n8k….row.col`."""
    at.needed("sync"), at.needed("aligned")
    if at.option("row") is None or at.option("col") is None or len(at.modifiers) != 5:
        raise at.unknown()
    shape, d_type, a_type, b_type, c_type = at.modifiers
    at.modifiers = []
    counts = fragment_sizes(at, shape, a_type, b_type, c_type)
    if [len(at.items(operand)) for operand in at.operands[1:]] != counts:
        raise at.unknown(f"fragments of other sizes than {counts}")
    architecture = at.architecture

    def function(a: list[Array], b: list[Array], c: list[Array]) -> list[Array]:
        return tensor.mma(shape, a_type, b_type, c_type, d_type, a, b, c, architecture)

    return multiply(at, function)


def fragment_sizes(at: Decoding, shape: str, a_type: str, b_type: str, c_type: str) -> list[int]:
    """Return how many registers a, b and c have."""
    if not shape.startswith("m16n8k") or a_type not in ("f16", "bf16", "tf32") or c_type not in ("f16", "f32"):
        raise at.unknown()
    k, bits = int(shape.removeprefix("m16n8k")), 32 if a_type == "tf32" else 16
    return [16 * k * bits // 1024, 8 * k * bits // 1024, 4 if c_type == "f32" else 2]


@instruction("movmatrix")
def movmatrix(at: Decoding) -> Step:
    """`movmatrix.sync.aligned.m8n8.trans.b16`."""
    for word in ("sync", "aligned", "m8n8", "trans", "b16"):
        at.needed(word)
    at.done(2)
    target, source = at.result("b32"), at.read(1, "b32")

    def step(launch: "Launch") -> None:
        launch.put(target, tensor.movmatrix(taken(launch.registers[source], whole_warps(launch))))

    return step


@instruction("ldmatrix")
def ldmatrix(at: Decoding) -> Step:
    """`ldmatrix.sync.aligned.m8n8.x….b16`: the first lanes of a warp have the addresses of the rows."""
    for word in ("sync", "aligned", "m8n8", "b16"):
        at.needed(word)
    count = int(at.needed("x1", "x2", "x4")[1])
    transposed = at.flag("trans")
    space = at.option("shared", "shared::cta") or "generic"
    at.done(2)
    targets = of_items(at, 0, write=True)
    if len(targets) != count:
        raise at.unknown("the number of registers")
    get, space = at.address(at.operands[1], space)
    site = at.instruction
    lanes, offsets = tensor.ldmatrix_sources(count, transposed)
    places = (lanes * 8 + offsets // 2).transpose(0, 2, 1).reshape(count, -1)  # (register, lane and half)

    def step(launch: "Launch") -> None:
        threads = launch.active if whole_warps(launch) is not None else launch.lane
        rows = threads.reshape(-1, WARP)[:, : 8 * count].reshape(-1)
        addresses = get(launch).reshape(-1, WARP)[:, : 8 * count].reshape(-1)
        memory = launch.shared if space != "generic" else launch.generic
        elements = np.stack(memory.load(launch, addresses, rows, 2, 8, site), axis=1).reshape(-1, 64 * count)
        for target, place in zip(targets, places, strict=True):
            launch.put(target, elements[:, place].reshape(-1).view(np.uint32))

    return step


WMMA_TYPES = {"f16": 2, "bf16": 2, "tf32": 4, "f32": 4}


def wmma_memory(at: Decoding, operand: str) -> tuple[str, str, bool, str]:
    """Take off what `wmma.load` and `wmma.store` have in common: shape, space, row by row or not, type."""
    at.needed("sync"), at.needed("aligned")
    by_row = at.needed("row", "col") == "row"
    shape = at.needed("m16n16k16", "m16n16k8")
    space = at.option("global", "shared", "shared::cta") or "generic"
    kind = at.type("f16", "f32") if operand in "cd" else at.type("f16", "bf16", "tf32")
    if (shape == "m16n16k8") != (kind == "tf32") and operand in "ab":
        raise at.unknown()
    return shape, space, by_row, kind


def wmma_elements(at: Decoding, operand: str, by_row: bool, kind: str, address: Any, stride: Any) -> Callable[..., Array]:
    """Return what gives the addresses of a fragment's elements, (element, thread)."""
    rows, columns = tensor.wmma_places("c" if operand == "d" else operand, kind)
    major, minor = (rows, columns) if by_row else (columns, rows)
    size = WMMA_TYPES[kind]
    step_ = None if stride is None else at.source(stride, 32)
    width = 16 if operand in "cd" or kind != "tf32" or (operand == "a") != by_row else 8

    def get(launch: "Launch", threads: Array | None) -> Array:
        bases = address(launch)
        apart = width if step_ is None else taken(launch.registers[step_], threads).astype(np.int64).reshape(-1, WARP)
        warps = bases.reshape(-1, WARP)
        if (warps != warps[:, :1]).any():
            lane = int((warps != warps[:, :1]).reshape(-1).argmax())
            raise Divergence("another address than other lanes of the warp", lane_number(threads, lane))
        return (warps + (major[:, None] * apart + minor[:, None]) * size).reshape(len(rows), -1)

    return get


def lane_number(threads: Array | None, place: int) -> int:
    """Return the thread at a place among those that take part."""
    return place if threads is None else int(threads[place])


@instruction("wmma")
def wmma(at: Decoding) -> Step:
    """`wmma.load`, `wmma.store` and `wmma.mma`."""
    what = at.needed("load", "store", "mma")
    if what == "mma":
        return wmma_mma(at)
    from ptx.transfer import space_of

    operand = at.needed(*("a", "b", "c") if what == "load" else ("d",))
    _shape, space, by_row, kind = wmma_memory(at, operand)
    at.done(2, 3)
    fragment, address = (0, 1) if what == "load" else (1, 0)
    numbers = of_items(at, fragment, write=what == "load")
    get, space = at.address(at.operands[address], space)
    elements = wmma_elements(at, operand, by_row, kind, get, at.operands[2] if len(at.operands) == 3 else None)
    size, site = WMMA_TYPES[kind], at.instruction
    halves = 4 // size
    if len(numbers) * halves != len(tensor.wmma_places("c" if operand == "d" else operand, kind)[0]):
        raise at.unknown("the number of registers")

    def load(launch: "Launch") -> None:
        threads, memory = whole_warps(launch), space_of(launch, space)
        loaded = [
            memory.load(launch, addresses, threads, size, 1, site)[0] for addresses in elements(launch, threads)
        ]
        for place, number in enumerate(numbers):
            words = loaded[place * halves : (place + 1) * halves]
            launch.put(number, np.stack(words, axis=1).reshape(-1).view(np.uint32))

    def store(launch: "Launch") -> None:
        threads, memory = whole_warps(launch), space_of(launch, space)
        words = [taken(launch.registers[number], threads).view(f"u{size}").reshape(-1, halves) for number in numbers]
        for place, addresses in enumerate(elements(launch, threads)):
            value = np.ascontiguousarray(words[place // halves][:, place % halves])
            memory.store(launch, addresses, threads, [value], size, site)

    return load if what == "load" else store


def wmma_mma(at: Decoding) -> Step:
    """`wmma.mma`."""
    at.needed("sync"), at.needed("aligned")
    at.needed("row", "col"), at.needed("row", "col")
    shape, *types = at.modifiers
    at.modifiers = []
    if len(types) == 2:
        (d_type, c_type), a_type = types, "f16"
    elif len(types) == 4 and types[1] == types[2] != "f16":
        d_type, a_type, _b_type, c_type = types
    else:
        raise at.unknown()
    architecture = at.architecture

    def function(a: list[Array], b: list[Array], c: list[Array]) -> list[Array]:
        return tensor.wmma_mma(shape, a_type, c_type, d_type, a, b, c, architecture)

    return multiply(at, function)
