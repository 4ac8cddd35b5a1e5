"""Races: two threads at one address, one of them writing, with nothing that orders the two.

What orders an access of one thread before one of another, both at their places in the launch (`clock` counts what may
order):

- a barrier of the block in between that both threads passed;
- an instruction for whole warps in between in which both threads took part. (The manual promises an order of memory
  of `bar.warp.sync` alone; that the others do as much is what hardware does.)
- a fence and an atomic operation by the block of the first, and then an atomic operation, or a read that is
  `volatile`, `relaxed` or `acquire`, by the block of the second: as in the last block, which adds up what all others
  have written.

Atomic operations do not race with one another. Writes of the same value race.
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
    """What happened when, and to which threads (None: to all)."""

    clocks: list[int] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)

    def add(self, clock: int, mask: Any) -> None:
        """Enter the newest one."""
        self.clocks.append(clock)
        self.masks.append(mask)

    def between(self, first: int, last: int) -> Iterable[tuple[int, Any]]:
        """Return those after the first clock, up to the last."""
        start, stop = bisect_right(self.clocks, first), bisect_right(self.clocks, last)
        return zip(self.clocks[start:stop], self.masks[start:stop], strict=True)


class History:
    """All that orders the accesses of a launch."""

    def __init__(self, lanes_per_block: int) -> None:
        self.clock = 0
        self.lanes_per_block = lanes_per_block
        self.barriers, self.warps = Events(), Events()  # of warps, the masks and what lanes each thread named
        self.fences, self.atomics, self.observed = Events(), Events(), Events()

    def tick(self, events: Events, mask: Any) -> None:
        """Enter an event."""
        self.clock += 1
        events.add(self.clock, mask)

    def ordered(self, a: int, at: int, b: int, then: int) -> bool:
        """Return whether what thread a did at one clock is ordered before what b did at the other."""
        if a // self.lanes_per_block == b // self.lanes_per_block:
            if any(mask is None or (mask[a] and mask[b]) for _clock, mask in self.barriers.between(at, then)):
                return True
            if a // WARP == b // WARP and any(
                together(a, b, *masks) for _clock, masks in self.warps.between(at, then)
            ):
                return True
        return self.handed_over(a // self.lanes_per_block, at, b // self.lanes_per_block, then)

    def handed_over(self, giver: int, at: int, taker: int, then: int) -> bool:
        """Return whether one block has let another know, by a fence and by atomic operations of both."""
        fence = next((c for c, mask in self.fences.between(at, then) if self.takes_part(giver, mask)), None)
        if fence is None:
            return False
        told = next((c for c, mask in self.atomics.between(fence - 1, then) if self.takes_part(giver, mask)), None)
        if told is None:
            return False
        for events in (self.atomics, self.observed):
            for clock, mask in events.between(told - 1, then):
                if (clock > told or giver < taker) and self.takes_part(taker, mask):
                    return True  # at one clock, blocks have their turns in the order of their numbers
        return False

    def takes_part(self, block: int, mask: Mask) -> bool:
        """Return whether a thread of the block does."""
        return mask is None or bool(mask[block * self.lanes_per_block : (block + 1) * self.lanes_per_block].any())


def together(a: int, b: int, mask: Mask, named: Mask) -> bool:
    """Return whether two threads of a warp took part in one of its instructions."""
    if mask is not None and not (mask[a] and mask[b]):
        return False
    return named is None or bool(int(named[a]) >> b % WARP & 1)


@dataclass(frozen=True, slots=True)
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
