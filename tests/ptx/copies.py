"""Decoders of `cp.async`: copies from global to shared memory that arrive when they are waited for."""

from typing import TYPE_CHECKING

import numpy as np

from ptx.decode import Decoding, Step, instruction
from ptx.memory import select
from ptx.parser import Immediate
from ptx.transfer import HINTS, space_of

if TYPE_CHECKING:
    from ptx.machine import Launch


@instruction("cp")
def cp(at: Decoding) -> Step:
    """`cp.async` of 4, 8 or 16 bytes, `cp.async.commit_group`, `cp.async.wait_group` and `cp.async.wait_all`."""
    at.needed("async")
    what = at.option("commit_group", "wait_group", "wait_all")
    if what == "commit_group":
        at.done(0)
        return lambda launch: launch.copies.commit(launch.active)
    if what is not None:
        at.done(1 if what == "wait_group" else 0)
        left = None
        if what == "wait_group":
            if not isinstance(at.operands[0], Immediate):
                raise at.unknown("a number of groups that is not in the text")
            left = at.operands[0].value
        return lambda launch: launch.copies.wait(launch, launch.active, left)
    cache = at.needed("ca", "cg")
    at.option(*HINTS)
    to = at.needed("shared", "shared::cta")
    at.needed("global")
    at.done(3, 4)
    size = at.operands[2].value if isinstance(at.operands[2], Immediate) else 0
    if size not in ((4, 8, 16) if cache == "ca" else (16,)):
        raise at.unknown("its size")
    get_to, to = at.address(at.operands[0], to)
    get_from, source = at.address(at.operands[1], "global")
    filled = at.read(3, "u32") if len(at.operands) == 4 else None
    site = at.instruction

    def step(launch: "Launch") -> None:
        there, here, threads = get_to(launch), get_from(launch), launch.threads
        lanes = launch.active
        data = np.zeros((len(lanes), size), np.uint8)
        counts = np.full(len(lanes), size) if filled is None else launch.registers[filled][lanes].astype(np.int64)
        memory = space_of(launch, source)
        for count in np.unique(counts):
            if count == 0:
                continue
            chosen = np.flatnonzero(counts == count)
            data[chosen, :count] = memory.load_bytes(launch, here[chosen], lanes[chosen], size, int(count), site)
        shared = space_of(launch, to)
        for region, offsets, part in shared.pieces(launch, there, threads, size):
            own = lanes if part is None else select(threads, part)
            region.accesses.note("write", offsets, size, own, launch, site)
            launch.copies.start(region, offsets, data if part is None else data[part], own, site)

    return step
