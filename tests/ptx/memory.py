"""Address spaces: which bytes there are, which of them have been written, and who touched them.

A `Region` is one piece of memory: a host array, or the shared memory of all blocks behind one another. A space turns
the addresses of threads into offsets in regions. Every access is checked against the region's ends, and each read
against what was written; what threads of a block must not do to one another is `ptx.races`.
"""

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx.errors import Misaligned, OutOfBounds, PtxError, Uninitialised
from ptx.races import Accesses

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray
UNWRITTEN, WRITTEN, PENDING = 0, 1, 2
"""States of a byte; pending is what `cp.async` will write."""

WORDS = {**{size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}, 16: np.dtype(np.complex128)}
"""What moves words of each size: a complex number stands for 16 bytes of any kind."""

ALL_WRITTEN = {size: np.frombuffer(bytes([WRITTEN] * size), word)[0] for size, word in WORDS.items()}

SHARED_BASE = 1024
"""The first address of shared memory: below it lies nothing, so that a null pointer is found."""

SHARED_WINDOW, LOCAL_WINDOW = 1 << 56, 1 << 57
"""Where generic addresses of shared and of local memory begin: above every address of the host."""


class Region:
    """Bytes from one address on; `state` says of each what is known of it, None where all are written."""

    def __init__(
        self, name: str, base: int, data: Array, state: Array | None, writable: bool = True, stride: int = 0
    ) -> None:
        self.name, self.base, self.data, self.state, self.writable = name, base, data, state, writable
        self.end = base + len(data)
        self.stride = stride  # of parts with the same addresses, one for each block or thread
        self.accesses: Accesses | None = None
        self._views: dict[int, tuple[int, int, Array, Array | None]] = {}

    def view(self, total: int) -> tuple[int, int, Array, Array | None]:
        """Return where words of a size lie: the offset of the first, the shift to their numbers, they, their states.

        Addresses are multiples of a word's size, offsets need not be.
        """
        found = self._views.get(total)
        if found is None:
            start = -self.base % total
            stop = start + (len(self.data) - start) // total * total
            words, state = (
                None if data is None else data[start:stop].view(WORDS[total]) for data in (self.data, self.state)
            )
            found = self._views[total] = (start, total.bit_length() - 1, words, state)
        return found

    def load(self, offsets: Array, size: int, count: int) -> list[Array]:
        """Return the elements of each thread's word; what was not written is an error."""
        total = size * count
        start, shift, words, state = self.view(total)
        index = (offsets - start) >> shift if start else offsets >> shift
        if state is not None:
            states = state.take(index).view(WORDS[min(total, 8)])
            written = ALL_WRITTEN[min(total, 8)]
            if np.bitwise_and.reduce(states) & written != written:
                self._complain(offsets, total)
        found = words.take(index)
        return [found] if count == 1 else list(np.ascontiguousarray(found.view(WORDS[size]).reshape(-1, count).T))

    def load_for(self, threads: Array | None, offsets: Array, size: int, count: int) -> list[Array]:
        """Return what `load` does for these threads, one of which an error then names."""
        try:
            return self.load(offsets, size, count)
        except PtxError as error:
            error.lane = lane_of(threads, error.lane or 0)
            raise

    def store(self, offsets: Array, values: list[Array], size: int) -> None:
        """Write the elements of each thread's word; of several threads at one address the last one's stay."""
        total = size * len(values)
        start, shift, words, state = self.view(total)
        index = (offsets - start) >> shift if start else offsets >> shift
        joined = values[0] if len(values) == 1 else np.stack(values, axis=1).view(WORDS[total]).reshape(-1)
        words[index] = joined
        if state is not None:
            state[index] = ALL_WRITTEN[total]

    def bytes_at(self, offsets: Array, size: int) -> tuple[Array, Array | None]:
        """Return bytes and states as (threads, size) arrays, for sizes that are no word's."""
        places = offsets[:, None] + np.arange(size)
        return self.data[places], None if self.state is None else self.state[places]

    def _complain(self, offsets: Array, total: int) -> None:
        """Raise for the first of the words that has a byte which is not written."""
        _data, states = self.bytes_at(offsets, total)
        lane = int((states != WRITTEN).any(axis=1).argmax())
        raise self.unwritten(int(offsets[lane]), total, lane)

    def unwritten(self, offset: int, total: int, lane: int) -> Uninitialised:
        """Return the error for bytes of which one is not written."""
        assert self.state is not None
        pending = (self.state[offset : offset + total] == PENDING).any()
        what = "cp.async has not been waited for" if pending else "nothing has written"
        return Uninitialised(f"reads {total} bytes at {self.place(offset)}, which {what}", lane)

    def place(self, offset: int) -> str:
        """Return how a message calls an offset."""
        return f"{self.name}+{offset % self.stride if self.stride else offset}"


Piece = tuple[Region, Array, Array | None]
"""A region, offsets in it, and which of the threads that take part these are for (None: for all)."""


class Memory:
    """Global memory: arrays of the host, at their own addresses."""

    def __init__(self) -> None:
        self.regions: list[Region] = []  # by address
        self._ends: list[int] = []

    def add(self, array: Array, initialised: bool | Array = True, name: str = "array", writable: bool = True) -> None:
        """Let kernels use an array, whose bytes they then write themselves.

        `initialised` says whether its bytes count as written: all of them or none, or one bool a byte, kept up to
        date. To add an array once more replaces what was said of it.
        """
        if not array.nbytes:
            return
        if not array.flags.forc:
            raise ValueError(f"{name} is not contiguous")
        data = np.ndarray((array.nbytes,), np.uint8, buffer=array if array.flags.c_contiguous else array.T)
        if initialised is True:
            state = None
        elif initialised is False:
            state = np.zeros(array.nbytes, np.uint8)
        else:
            if initialised.shape != (array.nbytes,) or initialised.dtype != bool:
                raise ValueError(f"{name} has {array.nbytes} bytes, and as many bools have to say which are written")
            state = initialised.view(np.uint8)
        region = Region(name, array.ctypes.data, data, state, writable and array.flags.writeable)
        place = bisect_left(self._ends, region.base + 1)  # of the first that does not end below this one
        if place < len(self.regions) and self.regions[place].base < region.end:
            other = self.regions[place]
            if (other.base, other.end) != (region.base, region.end):
                raise ValueError(f"{name} overlaps {other.name}")
            self.regions[place] = region
        else:
            self.regions.insert(place, region)
            self._ends.insert(place, region.end)


class Space:
    """What turns addresses into regions; subclasses say how."""

    name = ""

    def resolve(self, launch: "Launch", addresses: Array, threads: Array | None, total: int) -> list[Piece]:
        """Return where the threads' words lie, or raise `OutOfBounds`."""
        raise NotImplementedError

    def pieces(self, launch: "Launch", addresses: Array, threads: Array | None, total: int) -> list[Piece]:
        """Return what `resolve` does, for addresses that are multiples of a word's size."""
        check_alignment(addresses, threads, total)
        return self.resolve(launch, addresses, threads, total)

    def load(
        self,
        launch: "Launch",
        addresses: Array,
        threads: Array | None,
        size: int,
        count: int,
        site: Any,
        kind: str = "read",
    ) -> list[Array]:
        """Return what the threads read, element by element of their words."""
        results: list[Array] = []
        for region, offsets, chosen in self.pieces(launch, addresses, threads, size * count):
            own = select(threads, chosen)
            values = region.load_for(own, offsets, size, count)
            if region.accesses is not None:
                region.accesses.note(kind, offsets, size * count, own, launch, site)
            if chosen is None:
                return values
            if not results:
                results = [np.zeros(len(addresses), value.dtype) for value in values]
            for result, value in zip(results, values, strict=True):
                result[chosen] = value
        return results

    def load_bytes(
        self, launch: "Launch", addresses: Array, threads: Array, size: int, count: int, site: Any
    ) -> Array:
        """Return the first `count` bytes of words of `size` bytes, (threads, count)."""
        data = np.empty((len(addresses), count), np.uint8)
        check_alignment(addresses, threads, size)
        for region, offsets, chosen in self.resolve(launch, addresses, threads, count):
            own = select(threads, chosen)
            found, states = region.bytes_at(offsets, count)
            if states is not None and (states != WRITTEN).any():
                place = int((states != WRITTEN).any(axis=1).argmax())
                raise region.unwritten(int(offsets[place]), count, lane_of(own, place))
            if region.accesses is not None:
                region.accesses.note("read", offsets, count, own, launch, site)
            data[slice(None) if chosen is None else chosen] = found
        return data

    def store(
        self,
        launch: "Launch",
        addresses: Array,
        threads: Array | None,
        values: list[Array],
        size: int,
        site: Any,
        kind: str = "write",
    ) -> None:
        """Write the threads' words."""
        for region, offsets, chosen in self.pieces(launch, addresses, threads, size * len(values)):
            own = select(threads, chosen)
            self.writable(region, offsets, own)
            if launch.copies.pending:
                launch.copies.check_store(region, offsets, size * len(values), own)
            region.store(offsets, values if chosen is None else [value[chosen] for value in values], size)
            if region.accesses is not None:
                region.accesses.note(kind, offsets, size * len(values), own, launch, site)

    def writable(self, region: Region, offsets: Array, threads: Array | None) -> None:
        """Raise where a region may not be written."""
        if not region.writable:
            raise OutOfBounds(f"writes at {region.place(int(offsets[0]))}, which is read-only", lane_of(threads, 0))


class GlobalSpace(Space):
    """Regions at addresses of their own."""

    name = "global"

    def __init__(self, regions: list[Region]) -> None:
        self.regions = sorted(regions, key=lambda region: region.base)
        self.bases = [region.base for region in self.regions]

    def find(self, address: int) -> Region | None:
        """Return the last region that begins at or below an address."""
        place = bisect_right(self.bases, address)
        return self.regions[place - 1] if place else None

    def resolve(self, launch: "Launch", addresses: Array, threads: Array | None, total: int) -> list[Piece]:
        """See `Space.resolve`."""
        region = self.find(int(addresses[0]))
        if region is not None:
            offsets = addresses - region.base
            if highest(offsets) + total <= len(region.data):
                return [(region, offsets, None)]
        numbers = np.searchsorted(np.array(self.bases, np.int64), addresses, side="right") - 1
        ends = np.array([region.end for region in self.regions] + [0], np.int64)[numbers]
        outside = (numbers < 0) | (addresses + total > ends)
        if outside.any():
            place = int(outside.argmax())
            raise self.outside(int(addresses[place]), total, lane_of(threads, place))
        found = []
        for number in np.unique(numbers):
            chosen = np.flatnonzero(numbers == number)
            region = self.regions[number]
            found.append((region, addresses[chosen] - region.base, chosen))
        return found

    def outside(self, address: int, total: int, lane: int) -> OutOfBounds:
        """Return the error for an address that lies in no region."""
        below = self.find(address)
        near = f"{address - below.base - len(below.data)} bytes behind {below.name}" if below else "below all arrays"
        return OutOfBounds(f"{total} bytes at {address:#x} in {self.name} memory: {near}", lane)


class PrivateSpace(Space):
    """One region, of which each thread sees a part: shared memory of its block, or local memory of its own."""

    def __init__(self, name: str, base: int, size: int, starts: Array, stride: int) -> None:
        self.name, self.base, self.size, self.starts = name, base, size, starts
        length = (int(starts[-1]) + stride) if len(starts) else 0
        self.region = Region(name, 0, np.zeros(length, np.uint8), np.zeros(length, np.uint8), stride=stride)

    def resolve(self, launch: "Launch", addresses: Array, threads: Array | None, total: int) -> list[Piece]:
        """See `Space.resolve`."""
        offsets = addresses - self.base
        if highest(offsets) + total > self.size:
            place = int(((offsets < 0) | (offsets + total > self.size)).argmax())
            raise OutOfBounds(
                f"{total} bytes at {int(addresses[place]):#x} in {self.name} memory, which has {self.size} bytes"
                f" from {self.base:#x} on",
                lane_of(threads, place),
            )
        return [(self.region, offsets + (self.starts if threads is None else self.starts[threads]), None)]


class GenericSpace(Space):
    """All spaces in one: addresses in the windows are shared and local memory, all others global memory."""

    name = "generic"

    def __init__(self, everywhere: GlobalSpace, shared: PrivateSpace, local: PrivateSpace) -> None:
        self.windows = ((LOCAL_WINDOW, local), (SHARED_WINDOW, shared))
        self.everywhere = everywhere

    def resolve(self, launch: "Launch", addresses: Array, threads: Array | None, total: int) -> list[Piece]:
        """See `Space.resolve`."""
        if int(addresses.max()) < SHARED_WINDOW:
            return self.everywhere.resolve(launch, addresses, threads, total)
        found, left = [], np.ones(len(addresses), bool)
        for window, space in (*self.windows, (0, self.everywhere)):
            inside = left & (addresses >= window)
            left &= ~inside
            chosen = np.flatnonzero(inside if window else inside | left)
            if len(chosen) == len(addresses):
                return space.resolve(launch, addresses - window, threads, total)
            if len(chosen):
                own = chosen if threads is None else threads[chosen]
                for region, offsets, part in space.resolve(launch, addresses[chosen] - window, own, total):
                    found.append((region, offsets, chosen if part is None else chosen[part]))
        return found


def highest(offsets: Array) -> int:
    """Return the highest offset, where what is below zero counts as higher than all."""
    return int(offsets.view(np.uint64).max())


def check_alignment(addresses: Array, threads: Array | None, total: int) -> None:
    """Raise if an address is no multiple of a word's size."""
    if int(np.bitwise_or.reduce(addresses)) & (total - 1):
        place = int((addresses & (total - 1)).argmax())
        raise Misaligned(f"{int(addresses[place]):#x} is not a multiple of {total}", lane_of(threads, place))


def lane_of(threads: Array | None, place: int) -> int:
    """Return the thread at a place among those that take part."""
    return place if threads is None else int(threads[place])


def select(threads: Array | None, chosen: Array | None) -> Array | None:
    """Return which threads a part of those that take part are."""
    if chosen is None:
        return threads
    return chosen if threads is None else threads[chosen]
