"""Decoders of `atom` and `red`: operations on memory that no other thread's can come between.

The threads take their turns in the order of their numbers.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx import floats, halves
from ptx.decode import DTYPES, Decoding, Step, instruction
from ptx.memory import select
from ptx.syntax import Name
from ptx.transfer import HINTS, SCOPES

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray
INTEGER_TYPES = ("u32", "s32", "u64", "s64")
ADDED = ("f32", "f64", "f16", "f16x2", "bf16", "bf16x2")


def increment(old: Array, limit: Array) -> Array:
    """Return one more, and 0 from the limit on."""
    return np.where(old >= limit, np.uint32(0), old + np.uint32(1))


def decrement(old: Array, limit: Array) -> Array:
    """Return one less, and the limit for 0 and above the limit."""
    return np.where((old == 0) | (old > limit), limit, old - np.uint32(1))


def operation(at: Decoding) -> tuple[Callable[..., Array], str, int]:
    """Return what is computed from the old value and the operands, their type, and how many operands there are."""
    name = at.needed("add", "min", "max", "exch", "cas", "and", "or", "xor", "inc", "dec")
    if name in ("exch", "cas"):
        kind = at.type("b16", "b32", "b64") if name == "cas" else at.type("b32", "b64")
        if name == "exch":
            return (lambda old, new: new), kind, 1
        return (lambda old, expected, new: np.where(old == expected, new, old)), kind, 2
    if name in ("and", "or", "xor"):
        functions = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}
        return functions[name], at.type("b32", "b64"), 1
    if name in ("inc", "dec"):
        return (increment if name == "inc" else decrement), at.type("u32"), 1
    if name in ("min", "max"):
        return (np.minimum if name == "min" else np.maximum), at.type(*INTEGER_TYPES), 1
    kind = at.type("u32", "s32", "u64", *ADDED)
    if kind in ("f16", "f16x2", "bf16", "bf16x2"):
        at.needed("noftz")
        function = halves.operation("add", kind)
        if kind.startswith("bf16"):
            at.needs(90)
        return function, kind, 1
    return np.add, kind, 1


@instruction("atom", "red")
def atom(at: Decoding) -> Step:
    """`atom` and `red`, which is `atom` without a result."""
    space = at.option("global", "shared", "shared::cta") or "generic"
    releases = at.option("relaxed", "acquire", "release", "acq_rel") in ("release", "acq_rel")
    wide = at.option(*SCOPES) != "cta" and not space.startswith("shared")
    at.option(*HINTS)
    function, kind, count = operation(at)
    gives = at.head == "atom"
    at.done(1 + gives + count)
    dtype, size, site = DTYPES[kind], DTYPES[kind].itemsize, at.instruction
    target = None
    if gives and not (isinstance(at.operands[0], Name) and at.operands[0].text == "_"):
        target = at.result(kind)
    get, space = at.address(at.operands[gives], space)
    sources = [at.read(1 + gives + place, kind) for place in range(count)]

    def step(launch: "Launch") -> None:
        addresses, threads = get(launch), launch.threads
        operands = [launch.registers[source].view(dtype) for source in sources]
        if threads is not None:
            operands = [operand[threads] for operand in operands]
        if releases:
            launch.tick(launch.history.fences, wide)
        launch.tick(launch.history.atomics, wide)
        old = np.empty(len(addresses), dtype)
        memory = launch.space(space)
        for region, offsets, chosen in memory.pieces(launch, addresses, threads, size):
            own = select(threads, chosen)
            memory.writable(region, offsets, own)
            mine = operands if chosen is None else [operand[chosen] for operand in operands]
            flushes = kind == "f32" and function is np.add and region is not launch.shared.region
            first = in_turns(region, offsets, mine, dtype, flushed(function) if flushes else function, own)
            if region.accesses is not None:
                region.accesses.note("atomic", offsets, size, own, launch, site)
            old[slice(None) if chosen is None else chosen] = first
        if target is not None:
            launch.put(target, old)

    return step


def flushed(function: Callable[..., Array]) -> Callable[..., Array]:
    """Return a function of f32 that takes and gives zeros for subnormals, as `add` does in global memory alone."""
    return lambda *operands: floats.flush(function(*[floats.flush(operand) for operand in operands]))


def in_turns(
    region: Any, offsets: Array, operands: list[Array], dtype: np.dtype, function: Callable[..., Array], threads: Any
) -> Array:
    """Do each thread's operation after those of the threads before it; return what each one found."""
    size, word = dtype.itemsize, np.dtype(f"u{dtype.itemsize}")
    order = np.argsort(offsets, kind="stable")
    places = offsets[order]
    starts = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
    lengths = np.diff(np.append(starts, len(places)))
    old = np.empty(len(offsets), dtype)
    for turn in range(int(lengths.max())):
        lanes = order[starts[lengths > turn] + turn]
        [found] = region.load_for(select(threads, lanes), offsets[lanes], size, 1)
        found = found.view(dtype)
        new = function(found, *[operand[lanes] for operand in operands])
        region.store(offsets[lanes], [np.ascontiguousarray(new).view(word)], size)
        old[lanes] = found
    return old
