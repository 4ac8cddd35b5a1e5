"""A launch: all threads of the grid side by side, a register being one array of them.

Threads of a block are padded to whole warps; lanes beyond them never run. Of all threads that can go on, those at the
lowest block of instructions do, together: threads that took different ways meet again where the ways do.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ptx.control import Mask
from ptx.copies import Copies
from ptx.errors import Divergence, LaunchError, PtxError
from ptx.memory import SHARED_BASE, GenericSpace, GlobalSpace, Memory, PrivateSpace, Region, Space
from ptx.races import Accesses, Events, History
from ptx.special import SPECIAL, coordinate, lane_bits

if TYPE_CHECKING:
    from ptx.assembly import Assembler
    from ptx.program import Kernel

Array = np.ndarray
WARP = 32
TYPES = {1: np.dtype(bool), 8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}
TYPES |= {32: np.dtype(np.uint32), 64: np.dtype(np.uint64)}
"""What a register of each width is held as."""

NEVER_WRITTEN = {1: 0, 8: 0xAD, 16: 0x7FFF, 32: 0x7FFFDEAD, 64: 0x7FFFDEAD7FFFDEAD}
"""What registers hold before they are written: NaN as a number of any format, and no address."""

LONGEST = 2_000_000
"""After how many blocks of instructions a launch counts as endless."""


class Launch:
    """One launch of a kernel."""

    def __init__(
        self,
        kernel: "Kernel",
        code: "Assembler",
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        memory: Memory,
        module_regions: list[Region],
        shared_bytes: int,
    ) -> None:
        self.kernel, self.code, self.grid, self.block = kernel, code, grid, block
        self.blocks, self.threads_per_block = int(np.prod(grid)), int(np.prod(block))
        self.lanes_per_block = -(-self.threads_per_block // WARP) * WARP
        self.lanes = self.blocks * self.lanes_per_block
        self.shared_bytes = shared_bytes
        self.lane = np.arange(self.lanes)
        self.in_block = self.lane % self.lanes_per_block
        self.block_of = self.lane // self.lanes_per_block
        self.warp_start = self.lane - self.lane % WARP
        self.laneid = (self.lane % WARP).astype(np.uint32)
        self.alive = self.in_block < self.threads_per_block
        self.whole = bool(self.alive.all())
        self.history = History(self.lanes_per_block)
        size = code.shared.dynamic + shared_bytes
        stride = -(-size // 16) * 16
        self.shared = PrivateSpace("shared", SHARED_BASE, size, self.block_of * stride, stride)
        self.shared.region.accesses = Accesses()
        stride = -(-code.local_size // 16) * 16
        self.local = PrivateSpace("local", 0, code.local_size, self.lane * stride, stride)
        self.everywhere = GlobalSpace([*memory.regions, *module_regions])
        for region in self.everywhere.regions:
            region.accesses = Accesses() if region.writable else None
        self.generic = GenericSpace(self.everywhere, self.shared, self.local)
        self.copies = Copies(self.lanes)
        self.mask: Mask = None
        self._threads: Array | None = None
        self.ready: dict[int, Mask] = {0: None if self.whole else self.alive}
        self.held: dict[int, Array] = {}
        self.waiting: dict[int, dict[int, Array]] = {}  # threads at each barrier, by the block where they go on
        self.counts: dict[int, Array] = {}
        self.registers = self.first_registers()

    def first_registers(self) -> list[Array]:
        """Return the registers as they are before the first instruction."""
        code = self.code
        unwritten = {bits: np.full(self.lanes, value, TYPES[bits]) for bits, value in NEVER_WRITTEN.items()}
        registers = [unwritten[bits] for bits in code.bits]
        for (bits, value), number in code.constants.items():
            registers[number] = np.full(self.lanes, value, TYPES[bits])
        for (offset, size), number in code.parameters.items():
            value = int.from_bytes(self.kernel.parameter_block[offset : offset + size].tobytes(), "little")
            registers[number] = np.full(self.lanes, value, TYPES[8 * size])
        for name, number in code.specials.items():
            registers[number] = np.broadcast_to(SPECIAL[name](self), self.lanes).astype(np.uint32)
        return registers

    # What steps use

    @property
    def threads(self) -> Array | None:
        """The numbers of the threads that take part, None for all."""
        if self.mask is None:
            return None
        if self._threads is None:
            self._threads = np.flatnonzero(self.mask)
        return self._threads

    @property
    def active(self) -> Array:
        """The numbers of the threads that take part."""
        threads = self.threads
        return self.lane if threads is None else threads

    def space(self, name: str) -> Space:
        """Return the address space that an instruction names."""
        if name.startswith("shared"):
            return self.shared
        if name == "local":
            return self.local
        return self.generic if name == "generic" else self.everywhere

    def choose(self, mask: Mask) -> None:
        """Let the threads of a mask take part, and no others."""
        self.mask, self._threads = mask, None

    def write(self, number: int, value: Array) -> None:
        """Give a register a value for the threads that take part; the array has one element for every thread."""
        old = self.registers[number]
        if value.dtype is not old.dtype:
            value = value.view(old.dtype)
        mask = self.mask
        self.registers[number] = value if mask is None else np.where(mask, value, old)

    def put(self, number: int, value: Array) -> None:
        """Give a register a value for the threads that take part; the array has one element for each of these."""
        old = self.registers[number]
        if value.dtype is not old.dtype:
            value = value.view(old.dtype)
        if self.mask is None:
            self.registers[number] = value
        else:
            new = old.copy()
            new[self.threads] = value
            self.registers[number] = new

    # Threads

    def run(self) -> None:
        """Run all threads to their end."""
        ready = self.ready
        for turn in range(LONGEST):
            if not ready:
                self.finish()
                return
            # Where the lowest wait in a loop for what others do, these have a turn too.
            self.turn(max(ready) if turn % 1024 >= 960 else min(ready))
        raise LaunchError(f"{self.kernel.name}: endless: {LONGEST} blocks of instructions have been run")

    def turn(self, here: int) -> None:
        """Run a block of instructions for the threads that are there."""
        mask, block = self.ready.pop(here), self.code.blocks[here]
        site, step = block.sync_site, None
        try:
            if block.sync is not None:
                mask, some = self.converged(block.sync, here, mask)
                if not some:
                    return
            self.choose(mask)
            for step in block.steps:
                step(self)
            site, step = block.end_site, None
            block.end.run(self, here, mask)
        except PtxError as error:
            if step is not None:
                site = block.sites[block.steps.index(step)]
            raise error.locate(self.where(site, error.lane)) from None

    def finish(self) -> None:
        """Raise if threads still wait, or if a race is found at last."""
        if self.held or self.waiting:
            raise self.stuck()
        for region in (self.shared.region, *self.everywhere.regions):
            if region.accesses is not None:
                region.accesses.settle(self, region)

    def where(self, site: Any, lane: int | None) -> str:
        """Return where in the kernel, and in which thread, something was found."""
        text = f"{self.kernel.name}, line {site.line} ({site.text})" if site else self.kernel.name
        return text if lane is None else f"{text}, {self.thread(lane)}"

    def thread(self, lane: int) -> str:
        """Return how a message calls a thread."""
        block, thread = divmod(lane, self.lanes_per_block)
        in_block = tuple(int(coordinate(axis, thread, self.block)) for axis in range(3))
        in_grid = tuple(int(coordinate(axis, block, self.grid)) for axis in range(3))
        return f"thread {in_block} of block {in_grid}"

    def go(self, target: int, mask: Mask) -> None:
        """Let threads go on at a block."""
        ready = self.ready
        if mask is not None and target in ready:
            mask = mask | ready[target]
            if self.whole and mask.all():
                mask = None
        ready[target] = mask

    def exit(self, mask: Mask) -> None:
        """Let threads end."""
        if mask is None:
            self.alive = np.zeros(self.lanes, bool)
            return
        self.alive = self.alive & ~mask
        self.whole = False
        for here, held in self.held.items():  # they need not wait for those that are gone
            self.go(here, held)
        self.held = {}
        for number in list(self.waiting):
            self.release(number)

    def converged(self, members: int, here: int, mask: Mask) -> tuple[Mask, bool]:
        """Return the threads for which all lanes that they need are here, and if there are any; hold the others."""
        named = None
        if mask is not None or members >= 0:
            if mask is None:
                mask = np.ones(self.lanes, bool)
            if here in self.held:
                mask = mask | self.held.pop(here)
            alive, arrived = lane_bits(self.alive), lane_bits(mask)
            if members < 0:
                complete = np.repeat(alive & ~arrived == 0, WARP) & mask
            else:
                named = self.registers[members]
                complete = self.named_converged(named, alive, arrived, mask)
            left = mask & ~complete
            if left.any():
                self.held[here] = left
            if not complete.any():
                return complete, False
            mask = None if self.whole and complete.all() else complete
        self.history.tick(self.history.warps, (mask, named))
        return mask, True

    def named_converged(self, named: Array, alive: Array, arrived: Array, mask: Array) -> Array:
        """Return the threads for which the lanes that they name are here; these have to name the same ones."""
        alone = mask & ((named >> self.laneid) & np.uint32(1) == 0)
        if alone.any():
            lane = int(alone.argmax())
            raise Divergence(f"its own lane is not in its mask {named[lane]:#x}", lane)
        masks = named.reshape(-1, WARP)
        needed = masks & alive[:, None]
        complete = (needed & ~arrived[:, None] == 0).reshape(-1) & mask
        if (masks != masks[:, :1]).any():
            differs = masks[:, :, None] != masks[:, None, :]
            counts = (needed[:, :, None] >> np.arange(WARP, dtype=np.uint32)) & np.uint32(1) == 1
            wrong = (differs & counts).any(axis=2).reshape(-1) & complete
            if wrong.any():
                lane = int(wrong.argmax())
                raise Divergence(f"its mask {named[lane]:#x} names lanes that have other masks", lane)
        return complete

    def arrive(self, number: int, count: int | None, mask: Mask, onward: int) -> None:
        """Let threads wait at a barrier; where all are there that it waits for, they go on."""
        if mask is None and count is None and number not in self.waiting:
            self.passed(None)
            self.go(onward, None)
            return
        if mask is None:
            mask = np.ones(self.lanes, bool)
        places = self.waiting.setdefault(number, {})
        places[onward] = mask | places[onward] if onward in places else mask
        expected = self.counts.setdefault(number, np.zeros(self.lanes, np.int64))
        self.counts[number] = np.where(mask, 0 if count is None else self.registers[count].astype(np.int64), expected)
        self.release(number)

    def release(self, number: int) -> None:
        """Let threads of a barrier go on in the blocks where all are there."""
        places = self.waiting[number]
        shape = (self.blocks, self.lanes_per_block)
        here = np.logical_or.reduce(list(places.values()))
        counts = np.where(here, self.counts[number], 0).reshape(shape).max(axis=1)
        needed = np.where(counts > 0, counts, self.alive.reshape(shape).sum(axis=1))
        full = here.reshape(shape).sum(axis=1) >= needed
        if not full.any():
            return
        released = here & np.repeat(full, self.lanes_per_block)
        if not released.any():
            return
        self.passed(released)
        del self.waiting[number]
        for onward, mask in places.items():
            gone, left = mask & released, mask & ~released
            if gone.any():
                self.go(onward, None if self.whole and gone.all() else gone)
            if left.any():
                self.waiting.setdefault(number, {})[onward] = left

    def tick(self, events: Events, wide: bool) -> None:
        """Note what the threads which take part do to order their accesses with others', of other blocks if wide."""
        self.history.tick(events, (self.mask, wide))

    def passed(self, released: Mask) -> None:
        """Note that threads have passed a barrier together, and look at what their blocks did before it."""
        self.history.tick(self.history.barriers, released)
        region, blocks = self.shared.region, None
        if released is not None:
            shape = (self.blocks, self.lanes_per_block)
            blocks = released.reshape(shape).any(axis=1)
            if (self.alive & ~released).reshape(shape)[blocks].any():
                return  # a barrier for some threads of a block orders no more than these
        if region.accesses is not None and region.accesses.noted:
            region.accesses.settle(self, region, None if blocks is None or blocks.all() else blocks)

    def stuck(self) -> PtxError:
        """Return the error for threads that all wait."""
        for here, mask in self.held.items():
            lane, site = int(mask.argmax()), self.code.blocks[here].sync_site
            error = Divergence("waits for lanes of its warp that never come", lane)
            return error.locate(self.where(site, lane))
        onward, mask = next(item for places in self.waiting.values() for item in places.items())
        lane, site = int(mask.argmax()), self.code.blocks[onward - 1].end_site
        error = Divergence("waits at a barrier for threads of its block that never come", lane)
        return error.locate(self.where(site, lane))
