"""Races: two threads at one address, one of them writing, with nothing that orders the two.

What orders an access of one thread before one of another, both at their places in the launch (`clock` counts what may
order):

- a barrier of the block in between that both threads passed;
- an instruction for whole warps in between in which both threads took part. (The manual promises an order of memory
  of `bar.warp.sync` alone; that the others do as much is what hardware does.)
- a fence and then an atomic operation by the first, and after that an atomic operation, or a read that is `volatile`,
  `relaxed` or `acquire`, by the second: as in the last block, which adds up what all others have written. Others of
  the block can do it for a thread that they have met at a barrier.

Atomic operations do not race with one another, nor do stores that are `relaxed` or `release`, which count as such.
Writes of the same value race, and `volatile` ones are as any other.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx.errors import Race

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray
Mask = Array | None
WARP = 32


@dataclass
class Events:
    """What happened when, and to which threads."""

    clocks: list[int] = field(default_factory=list)
    details: list[Any] = field(default_factory=list)

    def between(self, first: int, last: int) -> Iterable[tuple[int, Any]]:
        """Return those after the first clock, up to the last."""
        start, stop = bisect_right(self.clocks, first), bisect_right(self.clocks, last)
        return zip(self.clocks[start:stop], self.details[start:stop], strict=True)


class History:
    """All that orders the accesses of a launch. A mask None stands for all threads."""

    def __init__(self, lanes_per_block: int) -> None:
        self.clock = 0
        self.lanes_per_block = lanes_per_block
        self.barriers = Events()  # masks
        self.warps = Events()  # masks, and which lanes each thread named (None: all)
        self.fences, self.atomics, self.polls = Events(), Events(), Events()  # masks, and if for other blocks too

    def tick(self, events: Events, detail: Any) -> None:
        """Enter an event."""
        self.clock += 1
        events.clocks.append(self.clock)
        events.details.append(detail)

    def ordered(self, a: int, at: int, b: int, then: int) -> bool:
        """Return whether what thread a did at one clock is ordered before what b did at the other."""
        if self.block(a) == self.block(b):
            if any(has(mask, a) and has(mask, b) for _clock, mask in self.barriers.between(at, then)):
                return True
            if a // WARP == b // WARP:
                for _clock, (mask, named) in self.warps.between(at, then):
                    if has(mask, a) and has(mask, b) and (named is None or int(named[a]) >> b % WARP & 1):
                        return True
        return self.handed_over(a, at, b, then)

    def handed_over(self, a: int, at: int, b: int, then: int) -> bool:
        """Return whether thread a, or others of its block for it, have fenced and told b's block."""
        giver, taker = self.block(a), self.block(b)
        inside = giver == taker
        for fenced, (fence, wide) in self.fences.between(at, then):
            if not (wide or inside) or not self.for_thread(a, fence, at, fenced):
                continue
            for told, (mask, wide) in self.atomics.between(fenced - 1, then):
                same = self.in_block(giver, mask) & self.in_block(giver, fence)
                if not (wide or inside) or not (same.any() or self.for_thread(a, mask, fenced, told)):
                    continue
                # At one clock, threads have their turns in the order of their numbers.
                for events in (self.atomics, self.polls):
                    for heard, (mask, wide) in events.between(told - 1, then):
                        if (wide or inside) and (heard > told or a < b) and self.for_thread(b, mask, heard, then):
                            return True
        return False

    def block(self, thread: int) -> int:
        """Return the number of a thread's block."""
        return thread // self.lanes_per_block

    def in_block(self, block: int, mask: Mask) -> Array:
        """Return a mask's part for the threads of a block."""
        if mask is None:
            return np.ones(self.lanes_per_block, bool)
        return mask[block * self.lanes_per_block : (block + 1) * self.lanes_per_block]

    def for_thread(self, thread: int, mask: Mask, first: int, last: int) -> bool:
        """Return whether it is the thread that takes part, or others of its block, with whom it met in between."""
        if has(mask, thread):
            return True
        if not self.in_block(self.block(thread), mask).any():
            return False
        return any(has(other, thread) for _clock, other in self.barriers.between(first, last)) or any(
            has(other, thread) for _clock, (other, _named) in self.warps.between(first, last)
        )


def has(mask: Mask, thread: int) -> bool:
    """Return whether a thread takes part."""
    return mask is None or bool(mask[thread])


@dataclass(slots=True)
class Access:
    """One instruction's access: kind is read, write, atomic, or poll (a read that is meant to meet writes)."""

    kind: str
    offsets: Array
    size: int
    threads: Array
    clock: int
    site: Any


class Accesses:
    """Who touched what in a region since it was last looked at."""

    def __init__(self) -> None:
        self.noted: list[Access] = []

    def note(self, kind: str, offsets: Array, size: int, threads: Mask, launch: "Launch", site: Any) -> None:
        """Remember an access."""
        threads = launch.lane if threads is None else threads
        self.noted.append(Access(kind, offsets, size, threads, launch.history.clock, site))

    def settle(self, launch: "Launch", region: Any, blocks: Mask = None) -> None:
        """Raise for a race among what was noted (of some blocks alone, one bool each); then forget that."""
        accesses, self.noted = self.noted, []
        if blocks is not None:
            accesses = list(self._divide(accesses, blocks[launch.block_of]))
        if any(access.kind in ("write", "atomic") for access in accesses):
            Search(launch, region, accesses).run()

    def _divide(self, accesses: list[Access], chosen: Array) -> Iterable[Access]:
        """Return what the chosen threads did, and keep the rest."""
        for access in accesses:
            inside = chosen[access.threads]
            if inside.all():
                yield access
                continue
            for which, part in ((inside, True), (~inside, False)):
                if which.any():
                    offsets, threads = access.offsets[which], access.threads[which]
                    one = Access(access.kind, offsets, access.size, threads, access.clock, access.site)
                    if part:
                        yield one
                    else:
                        self.noted.append(one)


class Search:
    """Looks for a race: first at which cells more than one thread was, and then at these alone in their order.

    A cell is as many bytes as the smallest access has.
    """

    def __init__(self, launch: "Launch", region: Any, accesses: list[Access]) -> None:
        self.launch, self.region, self.accesses = launch, region, accesses
        self.cell = min(access.size for access in accesses)
        lowest = min(int(access.offsets.min()) for access in accesses)
        highest = max(int(access.offsets.max()) + access.size for access in accesses)
        self.first = (region.base + lowest) // self.cell
        self.cells = -(-(region.base + highest) // self.cell) - self.first

    def places(self, access: Access) -> Iterable[Array]:
        """Return the cells of an access, one array for each part of its words."""
        lowest = (access.offsets + self.region.base) // self.cell - self.first
        for part in range(access.size // self.cell):
            yield lowest + part if part else lowest

    def run(self) -> None:
        """Raise if there is one."""
        plain, atomic = (self.last(kind) for kind in ("write", "atomic"))
        suspects = np.zeros(self.cells, bool)
        for access in self.accesses:
            # Of the writers that matter to this kind of access, the last one is there; others will find it too.
            for writers in (plain, atomic if access.kind in ("read", "write") else None):
                if writers is not None:
                    for places in self.places(access):
                        found = writers[places]
                        strange = (found != access.threads) & (found >= 0)
                        if strange.any():
                            suspects[places[strange]] = True
        if suspects.any():
            self.examine(suspects)

    def last(self, kind: str) -> Array | None:
        """Return which thread was the last that wrote each cell, -1 for none."""
        accesses = [access for access in self.accesses if access.kind == kind]
        if not accesses:
            return None
        writers = np.full(self.cells, -1, np.int32)
        for access in accesses:
            for places in self.places(access):
                writers[places] = access.threads
        return writers

    def examine(self, suspects: Array) -> None:
        """Raise if two accesses of a suspect cell have no order."""
        cells, threads, numbers = list[Array](), list[Array](), list[Array]()
        for number, access in enumerate(self.accesses):
            for places in self.places(access):
                chosen = suspects[places]
                if chosen.any():
                    cells.append(places[chosen])
                    threads.append(access.threads[chosen])
                    numbers.append(np.full(len(cells[-1]), number))
        joined = [np.concatenate(parts) for parts in (cells, numbers, threads)]
        order = np.lexsort((joined[2], joined[1], joined[0]))
        cell, before = -1, dict[tuple[int, str], Access]()
        for place, number, thread in zip(*(part[order].tolist() for part in joined), strict=True):
            if place != cell:
                cell, before = place, {}
            access = self.accesses[number]
            self.compare(place, thread, access, before)
            before[thread, access.kind] = access

    def compare(self, cell: int, thread: int, access: Access, before: dict[tuple[int, str], Access]) -> None:
        """Raise if an access is in no order with one of those before it, of which each thread's latest are given."""
        history = self.launch.history
        for (other, kind), earlier in before.items():
            if other == thread or not conflict(kind, access.kind):
                continue
            if not history.ordered(other, earlier.clock, thread, access.clock):
                verbs = {"read": "reads", "poll": "reads", "write": "writes", "atomic": "changes"}
                place = self.region.place((cell + self.first) * self.cell - self.region.base)
                race = Race(
                    f"{verbs[access.kind]} {place}, which {self.launch.thread(other)} {verbs[kind]} in line"
                    f" {earlier.site.line} ({earlier.site.text}), in no order",
                    thread,
                )
                raise race.locate(self.launch.where(access.site, thread))


def conflict(a: str, b: str) -> bool:
    """Return whether two kinds of access need an order."""
    kinds = {a, b}
    if "write" in kinds:
        return True
    return kinds == {"atomic", "read"}
