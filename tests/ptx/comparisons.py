"""Decoders of comparisons, and of selections by what these give."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx import floats
from ptx.decode import DTYPES, INTEGERS, Decoding, Step, instruction
from ptx.rounding import flush, widen

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray
WIDE = ("u16", "s16", "u32", "s32", "u64", "s64")
BITS = ("b16", "b32", "b64")
HALVES, PAIRS = ("f16", "bf16"), ("f16x2", "bf16x2")
UNSIGNED = {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
ORDERED = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal}
ORDERED |= {"gt": np.greater, "ge": np.greater_equal}
UNORDERED = ("equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
COMBINED = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(at: Decoding, kind: str) -> Callable[[Array, Array], Array]:
    """Return the function that a comparison of this type is; of a pair, that of its elements."""
    if kind in INTEGERS or kind in BITS:
        names: Any = ORDERED | UNSIGNED
        if kind in BITS:
            names = {"eq": np.equal, "ne": np.not_equal}
        elif kind[0] == "s":
            names = ORDERED
        return names[at.needed(*names)]
    name = at.needed(*ORDERED, *UNORDERED)
    ftz = kind in ("f32", "f16", "f16x2") and at.flag("ftz")
    if kind in ("f32", "f64"):
        return lambda a, b: floats.compare(a, b, name, ftz)
    at.needs(90 if kind.startswith("bf16") else 53)
    of = kind.removesuffix("x2")

    def half(a: Array, b: Array) -> Array:
        if ftz:
            a, b = flush(a), flush(b)
        return floats.compare(widen(a, of), widen(b, of), name)

    return half


def elements(pairs: Array, kind: str) -> Array:
    """Return the elements of pairs, neighbours behind one another."""
    return np.ascontiguousarray(pairs).view(DTYPES[kind.removesuffix("x2")])


@instruction("setp")
def setp(at: Decoding) -> Step:
    """`setp`, with one result or two, alone or combined with a predicate."""
    kind = at.type(*BITS, *WIDE, *HALVES, *PAIRS, "f32", "f64")
    if kind in PAIRS:
        return setp_pair(at, kind)
    compare = comparison(at, kind)
    combine = at.option(*COMBINED)
    at.done(3 if combine is None else 4)
    first, second = at.pair(at.operands[0])
    target = at.target(first, 1)
    other = None if second is None else at.target(second, 1)
    a, b, dtype = at.read(1, kind), at.read(2, kind), DTYPES[kind]
    if combine is None and other is None:
        return at_once(compare, target, a, b, dtype)
    with_predicate = None if combine is None else (COMBINED[combine], *at.predicate(at.operands[3]))

    def step(launch: "Launch") -> None:
        registers = launch.registers
        holds = compare(registers[a].view(dtype), registers[b].view(dtype))
        fails = ~holds
        if with_predicate is not None:
            join, number, negated = with_predicate
            predicate = ~registers[number] if negated else registers[number]
            holds, fails = join(holds, predicate), join(fails, predicate)
        launch.write(target, holds)
        if other is not None:
            launch.write(other, fails)

    return step


def at_once(compare: Callable[[Array, Array], Array], target: int, a: int, b: int, dtype: np.dtype) -> Step:
    """Return the step of a plain comparison."""

    def step(launch: "Launch") -> None:
        registers = launch.registers
        launch.write(target, compare(registers[a].view(dtype), registers[b].view(dtype)))

    return step


def setp_pair(at: Decoding, kind: str) -> Step:
    """Return the step of `setp` of pairs: a predicate for each of the elements, the lower one first."""
    compare = comparison(at, kind)
    at.done(3)
    first, second = at.pair(at.operands[0])
    targets = [at.target(first, 1), at.target(second, 1)]
    a, b = at.read(1, kind), at.read(2, kind)

    def step(launch: "Launch") -> None:
        holds = compare(elements(launch.registers[a], kind), elements(launch.registers[b], kind))
        for place, target in enumerate(targets):
            launch.write(target, np.ascontiguousarray(holds[place::2]))

    return step


TRUE = {"u16": 0xFFFF, "s16": 0xFFFF, "u32": 0xFFFFFFFF, "s32": 0xFFFFFFFF, "f32": 0x3F800000}
TRUE |= {"f16": 0x3C00, "bf16": 0x3F80, "f16x2": 0x3C00, "bf16x2": 0x3F80}
"""What `set` writes where a comparison holds, by the result's type: all ones, or 1.0; of pairs, for an element."""


@instruction("set")
def set_(at: Decoding) -> Step:
    """`set`, not combined with a predicate."""
    kind = at.type(*BITS, *WIDE, "f32", "f64", *HALVES, *PAIRS)
    if kind in PAIRS:
        result = at.type(kind, "u32", "s32")
    else:
        result = at.type(*(("u16", "s16", "u32", "s32") if kind in HALVES else ("u32", "s32", "f32")), *HALVES)
        if result == "bf16":
            at.needs(90)
    compare = comparison(at, kind)
    if kind in PAIRS:
        one = np.uint16(TRUE[result] & 0xFFFF)

        def pairwise(a: Array, b: Array) -> Array:
            holds = compare(elements(a, kind), elements(b, kind))
            return np.where(holds, one, np.uint16(0)).view(np.uint32)

        return at.compute(pairwise, "b32", kind, kind)
    word = "b16" if result.endswith("16") else "b32"
    true = DTYPES[word].type(TRUE[result])
    return at.compute(lambda a, b: np.where(compare(a, b), true, DTYPES[word].type(0)), word, kind, kind)


@instruction("selp")
def selp(at: Decoding) -> Step:
    """`selp`."""
    kind = at.type(*BITS, *WIDE, "f32", "f64")
    target, a, b = at.result(kind), at.read(1, kind), at.read(2, kind)
    predicate, negated = at.predicate(at.operands[3])
    at.done(4)
    if negated:
        a, b = b, a

    def step(launch: "Launch") -> None:
        registers = launch.registers
        launch.write(target, np.where(registers[predicate], registers[a], registers[b]))

    return step


@instruction("slct")
def slct(at: Decoding) -> Step:
    """`slct`."""
    by = at.type("s32", "f32")
    kind = at.type(*BITS, *WIDE, "f32", "f64")
    ftz = by == "f32" and at.flag("ftz")

    def function(a: Array, b: Array, c: Array) -> Array:
        return np.where((floats.flush(c) if ftz else c) >= 0, a, b)

    return at.compute(function, kind, kind, kind, by)
