"""Decoders of what a warp does with matrices: `mma`, `ldmatrix`, `movmatrix` and `wmma`."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx import tensor
from ptx.decode import Decoding, Step, instruction
from ptx.errors import Divergence
from ptx.memory import lane_of
from ptx.syntax import Vector

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray
WARP = 32


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


Product = Callable[[list[Array], list[Array], list[Array]], list[Array]]


@cache
def product(mma: Callable[..., list[Array]], *types: str) -> Product:
    """Return a function of fragments; of the shape and types, the last one is the architecture."""
    *first, architecture = types
    return lambda a, b, c: mma(*first, a, b, c, architecture)


@cache
def results_of(function: Product, sizes: tuple[int, ...]) -> int | str:
    """Return how many registers a product of fragments of these sizes has, or what is wrong with them."""
    sample = [np.zeros(WARP, np.uint32)]
    try:
        with np.errstate(all="ignore"):
            return len(function(*(sample * size for size in sizes)))
    except (ValueError, KeyError, IndexError) as error:
        return str(error)


def multiply(at: Decoding, function: Product) -> Step:
    """Return the step of a product of matrices."""
    at.done(4)
    d, a, b, c = of_items(at, 0, write=True), *(of_items(at, place) for place in (1, 2, 3))
    results = results_of(function, (len(a), len(b), len(c)))
    if results != len(d):
        raise at.unknown(results if isinstance(results, str) else f"{len(d)} registers for the result, not {results}")

    def step(launch: "Launch") -> None:
        registers, threads = launch.registers, whole_warps(launch)
        operands = [[taken(registers[number], threads) for number in numbers] for numbers in (a, b, c)]
        for target, value in zip(d, function(*operands), strict=True):
            launch.put(target, value)

    return step


@instruction("mma")
def mma(at: Decoding) -> Step:
    """`mma.sync.aligned.m16n8k….row.col`."""
    at.needed("sync"), at.needed("aligned"), at.needed("row"), at.needed("col")
    if len(at.modifiers) != 5:
        raise at.unknown()
    shape, d_type, a_type, b_type, c_type = at.modifiers
    at.modifiers = []
    counts = fragment_sizes(at, shape, a_type, b_type, c_type)
    if [len(at.items(operand)) for operand in at.operands[1:]] != counts:
        raise at.unknown(f"fragments of other sizes than {counts}")
    return multiply(at, product(tensor.mma, shape, a_type, b_type, c_type, d_type, at.architecture))


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
        memory = launch.space(space)
        halves = np.stack(memory.load(launch, addresses, rows, 8, 2, site), axis=1).view(np.uint16)
        elements = halves.reshape(-1, 64 * count)
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


def wmma_elements(
    at: Decoding, operand: str, by_row: bool, kind: str, address: Any, stride: Any
) -> Callable[["Launch", Array | None], Array]:
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
            raise Divergence("another address than other lanes of the warp", lane_of(threads, lane))
        return (warps + (major[:, None] * apart + minor[:, None]) * size).reshape(len(rows), -1)

    return get


@instruction("wmma")
def wmma(at: Decoding) -> Step:
    """`wmma.load`, `wmma.store` and `wmma.mma`."""
    what = at.needed("load", "store", "mma")
    if what == "mma":
        return wmma_mma(at)
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
        threads, memory = whole_warps(launch), launch.space(space)
        loaded = [
            memory.load(launch, addresses, threads, size, 1, site)[0] for addresses in elements(launch, threads)
        ]
        for place, number in enumerate(numbers):
            words = loaded[place * halves : (place + 1) * halves]
            launch.put(number, np.stack(words, axis=1).reshape(-1).view(np.uint32))

    def store(launch: "Launch") -> None:
        threads, memory = whole_warps(launch), launch.space(space)
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
    return multiply(at, product(tensor.wmma_mma, shape, a_type, c_type, d_type, at.architecture))
