"""Decoders of what moves: between registers, and between registers and memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx.decode import DTYPES, INTEGERS, WIDTHS, Decoding, Step, instruction
from ptx.memory import LOCAL_WINDOW, SHARED_WINDOW
from ptx.syntax import Address, Vector

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray
SPACES = ("global", "shared", "shared::cta", "local", "param", "param::entry", "param::func", "const")
SCOPES = ("cta", "cluster", "gpu", "sys")
CACHES = ("ca", "cg", "cs", "cv", "lu", "wb", "wt", "nc")
HINTS = ("L1::evict_normal", "L1::evict_unchanged", "L1::evict_first", "L1::evict_last", "L1::no_allocate")
HINTS += ("L2::evict_normal", "L2::evict_first", "L2::evict_last", "L2::64B", "L2::128B", "L2::256B")


@dataclass
class Access:
    """What the modifiers of `ld` and `st` say; `wide` if the order concerns threads of other blocks too."""

    type: str
    space: str
    count: int
    order: str
    wide: bool

    @property
    def word(self) -> np.dtype:
        """The elements' type, as bits."""
        return np.dtype(f"u{DTYPES[self.type].itemsize}")


def access(at: Decoding, *orders: str) -> Access:
    """Take the modifiers off."""
    kind = at.type(*INTEGERS, "b8", "b16", "b32", "b64", "f32", "f64")
    space = at.option(*SPACES) or "generic"
    order = at.option("weak", "volatile", *orders) or "weak"
    scope = at.needed(*SCOPES) if order in orders else ""
    for hints in (CACHES, *[[hint for hint in HINTS if hint.startswith(level)] for level in ("L1", "L2")]):
        at.option(*hints)
    count = int((at.option("v2", "v4") or "v1")[1])
    at.done(2)
    found = Access(kind, space, count, order, scope != "cta" and not space.startswith("shared"))
    if count * found.word.itemsize > 16:
        raise at.unknown("more than 16 bytes")
    return found


@instruction("ld")
def load(at: Decoding) -> Step:
    """`ld`: results wider than the type are extended, with copies of the sign where it is signed."""
    what = access(at, "relaxed", "acquire")
    count, size, site, operand = what.count, what.word.itemsize, at.instruction, at.operands[1]
    targets = [at.target(item, size * 8, wider=True) for item in at.items(at.operands[0])]
    if len(targets) != count:
        raise at.unknown("the number of registers")
    extend = [extension(what.type, at.assembler.bits[target]) for target in targets]
    offsets = at.assembler.parameter_offsets
    if isinstance(operand, Address) and operand.base in offsets and what.space.startswith("param"):
        first = offsets[operand.base] + operand.offset
        sources = [at.assembler.parameter(first + place * size, size) for place in range(count)]

        def from_parameters(launch: "Launch") -> None:
            for target, source, wider in zip(targets, sources, extend, strict=True):
                launch.write(target, wider(launch.registers[source]))

        return from_parameters
    get, space = at.address(operand, what.space)
    polls, wide = what.order != "weak", what.wide
    kind = "poll" if polls else "read"

    def step(launch: "Launch") -> None:
        if polls:
            launch.tick(launch.history.polls, wide)
        values = launch.space(space).load(launch, get(launch), launch.threads, size, count, site, kind)
        for target, wider, value in zip(targets, extend, values, strict=True):
            launch.put(target, wider(value))

    return step


def extension(kind: str, bits: int) -> Callable[[Array], Array]:
    """Return what makes the bits of a type as many as a register has."""
    dtype = DTYPES[kind]
    if dtype.itemsize * 8 == bits:
        return lambda value: value
    wider = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{bits // 8}")
    return lambda value: value.view(dtype).astype(wider)


@instruction("st")
def store(at: Decoding) -> Step:
    """`st`: of registers wider than the type the lower bits are stored."""
    what = access(at, "relaxed", "release")
    word, site, order, wide = what.word, at.instruction, what.order, what.wide
    size = word.itemsize
    sources = [at.source(item, size * 8, wider=True) for item in at.items(at.operands[1])]
    if len(sources) != what.count:
        raise at.unknown("the number of registers")
    get, space = at.address(at.operands[0], what.space)
    kind = "atomic" if order in ("relaxed", "release") else "write"

    def step(launch: "Launch") -> None:
        if order == "release":
            launch.tick(launch.history.fences, wide)
        if kind == "atomic":
            launch.tick(launch.history.atomics, wide)
        addresses, threads, values = get(launch), launch.threads, []
        for source in sources:
            value = launch.registers[source]
            if threads is not None:
                value = value[threads]
            values.append(value if value.dtype == word else value.astype(word))
        launch.space(space).store(launch, addresses, threads, values, size, site, kind)

    return step


@instruction("mov")
def mov(at: Decoding) -> Step:
    """`mov`, of one register, or packing and unpacking a vector."""
    kind = at.type("pred", "b16", "b32", "b64", "u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64")
    at.done(2)
    to, source = at.operands
    if isinstance(source, Vector):
        return pack(at, kind)
    if isinstance(to, Vector):
        return unpack(at, kind)
    target, register = at.result(kind), at.read(1, kind)

    def step(launch: "Launch") -> None:
        launch.write(target, launch.registers[register])

    return step


def parts_of(at: Decoding, place: int, kind: str) -> tuple[Any, int, int]:
    """Return the operands of a vector that make up one of a type, and the bits of the whole and of each."""
    items = at.items(at.operands[place])
    total = DTYPES[kind].itemsize * 8
    width = total // len(items)
    if width * len(items) != total or f"b{width}" not in WIDTHS:
        raise at.unknown()
    return items, total, width


def pack(at: Decoding, kind: str) -> Step:
    """Return the step that puts registers behind one another, the first one lowest."""
    items, total, width = parts_of(at, 1, kind)
    target, sources = at.result(kind), [at.source(item, width) for item in items]

    def step(launch: "Launch") -> None:
        words = np.stack([launch.registers[source] for source in sources], axis=1)
        launch.write(target, words.view(WIDTHS[f"b{total}"]).reshape(-1))

    return step


def unpack(at: Decoding, kind: str) -> Step:
    """Return the step that divides a register, the lowest part first."""
    items, _total, width = parts_of(at, 0, kind)
    targets, source = [at.target(item, width) for item in items], at.read(1, kind)

    def step(launch: "Launch") -> None:
        words = launch.registers[source].view(WIDTHS[f"b{width}"]).reshape(-1, len(targets))
        for place, target in enumerate(targets):
            launch.write(target, np.ascontiguousarray(words[:, place]))

    return step


@instruction("cvta")
def cvta(at: Decoding) -> Step:
    """`cvta` between an address of a space and the generic one."""
    kind = at.type("u64", "u32")
    back = at.flag("to")
    space = at.needed("global", "shared", "shared::cta", "local", "const", "param", "param::entry")
    window = {"s": SHARED_WINDOW, "l": LOCAL_WINDOW}.get(space[0], 0)
    target, source = at.result(kind), at.read(1, kind)
    at.done(2)
    if kind == "u32":
        raise at.unknown("addresses have 64 bits")
    change = np.uint64(-window % 2**64 if back else window)

    def step(launch: "Launch") -> None:
        value = launch.registers[source]
        launch.write(target, value + change if window else value)

    return step


@instruction("isspacep")
def isspacep(at: Decoding) -> Step:
    """`isspacep`."""
    space = at.needed("global", "shared", "shared::cta", "local")
    at.done(2)
    low, high = {"s": (SHARED_WINDOW, LOCAL_WINDOW), "l": (LOCAL_WINDOW, 2**63)}.get(space[0], (0, SHARED_WINDOW))
    target, source = at.target(at.operands[0], 1), at.read(1, "u64")

    def step(launch: "Launch") -> None:
        value = launch.registers[source]
        launch.write(target, (value >= np.uint64(low)) & (value < np.uint64(high)))

    return step


@instruction("membar", "fence")
def fence(at: Decoding) -> Step:
    """Fences: they order what `ptx.races` looks at."""
    if at.head == "fence":
        at.option("sc", "acq_rel")
    scope = at.needed(*(("cta", "gl", "sys") if at.head == "membar" else SCOPES))
    at.done(0)
    return lambda launch: launch.tick(launch.history.fences, scope != "cta")


@instruction("nanosleep", "prefetch")
def hints(at: Decoding) -> Step:
    """What has no effect on any value: `nanosleep` and `prefetch`."""
    if at.head == "nanosleep":
        at.type("u32")
    else:
        at.option("global", "local")
        at.needed("L1", "L2")
    at.done(1)
    return nothing


def nothing(launch: "Launch") -> None:
    """Do nothing."""
