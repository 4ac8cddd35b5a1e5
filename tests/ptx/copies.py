"""`cp.async`: copies from global to shared memory that arrive when they are waited for."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx.decode import Decoding, Step, instruction
from ptx.errors import Race
from ptx.memory import PENDING, WRITTEN, Region, lane_of, select
from ptx.syntax import Immediate
from ptx.transfer import HINTS

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray


@dataclass
class Copy:
    """What threads have started with one instruction: bytes, (threads, size), and where they go; each one's group."""

    region: Region
    offsets: Array
    data: Array
    threads: Array
    groups: Array
    site: Any

    @property
    def places(self) -> Array:
        """Which bytes of the region are written, (threads, size)."""
        return self.offsets[:, None] + np.arange(self.data.shape[1])

    def part(self, chosen: Array) -> "Copy":
        """Return what some of the threads have started."""
        offsets, data = self.offsets[chosen], self.data[chosen]
        return Copy(self.region, offsets, data, self.threads[chosen], self.groups[chosen], self.site)


class Copies:
    """Copies on their way to shared memory."""

    def __init__(self, lanes: int) -> None:
        self.committed = np.zeros(lanes, np.int64)  # groups of each thread
        self.pending: list[Copy] = []

    def start(self, region: Region, offsets: Array, data: Array, threads: Array, site: Any) -> None:
        """Note bytes that will be there when they have been waited for."""
        copy = Copy(region, offsets, data, threads, self.committed[threads], site)
        assert region.state is not None
        region.state[copy.places] = PENDING
        self.pending.append(copy)

    def commit(self, threads: Array) -> None:
        """Put what the threads have started into a group."""
        self.committed[threads] += 1

    def wait(self, launch: "Launch", threads: Array, left: int | None) -> None:
        """Finish the threads' copies but for the last `left` groups; for None, also what is in no group."""
        waiting = np.zeros(len(self.committed), bool)
        waiting[threads] = True
        pending, self.pending = self.pending, []
        for copy in pending:
            done = waiting[copy.threads]
            if left is not None:
                done = done & (copy.groups < self.committed[copy.threads] - left)
            if done.any():
                self.finish(launch, copy.part(done))
            if not done.all():
                self.pending.append(copy.part(~done))

    def finish(self, launch: "Launch", copy: Copy) -> None:
        """Write what was copied."""
        region, places = copy.region, copy.places
        assert region.state is not None
        region.data[places], region.state[places] = copy.data, WRITTEN
        if region.accesses is not None:
            region.accesses.note("write", copy.offsets, copy.data.shape[1], copy.threads, launch, copy.site)

    def check_store(self, region: Region, offsets: Array, total: int, threads: Array | None) -> None:
        """Raise where a store meets bytes that a copy will write."""
        if region.state is None:
            return
        bad = (region.state[offsets[:, None] + np.arange(total)] == PENDING).any(axis=1)
        if bad.any():
            place = int(bad.argmax())
            where = region.place(int(offsets[place]))
            raise Race(f"writes at {where}, where a cp.async is on its way", lane_of(threads, place))


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
        memory = launch.space(source)
        for count in np.unique(counts):
            if count == 0:
                continue
            chosen = np.flatnonzero(counts == count)
            data[chosen, :count] = memory.load_bytes(launch, here[chosen], lanes[chosen], size, int(count), site)
        shared = launch.space(to)
        for region, offsets, part in shared.pieces(launch, there, threads, size):
            own = lanes if part is None else select(threads, part)
            region.accesses.note("write", offsets, size, own, launch, site)
            launch.copies.start(region, offsets, data if part is None else data[part], own, site)

    return step
