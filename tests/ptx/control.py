"""How a basic block ends: where its threads go from there."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ptx.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ptx.machine import Launch

Mask = np.ndarray | None
"""Which threads: one bool each, or None for all that there are."""


class End(Protocol):
    """What comes after the last step of a block."""

    def run(self, launch: "Launch", here: int, mask: Mask) -> None:
        """Send the threads of the mask on from block `here`."""


@dataclass
class Block:
    """Instructions that are run one after the other: `steps` do it, `sites` are the instructions themselves.

    With `sync`, the block begins with one for whole warps, at `sync_site`: `sync` is the register with the mask of
    their lanes, or -1 for all lanes. The number of the block is its place in the program.
    """

    steps: "list[Callable[[Launch], None]]" = field(default_factory=list)
    sites: list[Any] = field(default_factory=list)
    sync: int | None = None
    sync_site: Any = None
    end: Any = None
    end_site: Any = None


@dataclass
class Jump:
    """To a block; `target` is a label until all are placed, None for the next block."""

    target: Any = None

    def run(self, launch: "Launch", here: int, mask: Mask) -> None:
        """See `End`."""
        launch.go(here + 1 if self.target is None else self.target, mask)


@dataclass
class Branch:
    """To a block where the predicate holds (or, negated, does not), else to the next."""

    predicate: int
    negated: bool
    target: Any

    def run(self, launch: "Launch", here: int, mask: Mask) -> None:
        """See `End`."""
        taken = launch.registers[self.predicate]
        if self.negated:
            taken = ~taken
        if mask is None:
            count = np.count_nonzero(taken)
            if count == launch.lanes:
                launch.go(self.target, None)
            elif count == 0:
                launch.go(here + 1, None)
            else:
                launch.go(self.target, taken)
                launch.go(here + 1, ~taken)
            return
        taken = taken & mask
        left = mask & ~taken
        if taken.any():
            launch.go(self.target, taken)
        if left.any():
            launch.go(here + 1, left)


@dataclass
class Switch:
    """To the block that a register picks from a list."""

    index: int
    targets: list[Any]

    def run(self, launch: "Launch", here: int, mask: Mask) -> None:
        """See `End`."""
        index = launch.registers[self.index]
        wrong = index >= len(self.targets) if mask is None else mask & (index >= len(self.targets))
        if wrong.any():
            lane = int(wrong.argmax())
            raise LaunchError(f"index {index[lane]} of {len(self.targets)} branch targets", lane)
        for number, target in enumerate(self.targets):
            chosen = index == number if mask is None else mask & (index == number)
            if chosen.any():
                launch.go(target, chosen)


@dataclass
class Exit:
    """Out of the kernel."""

    def run(self, launch: "Launch", here: int, mask: Mask) -> None:
        """See `End`."""
        launch.exit(mask)


@dataclass
class Barrier:
    """To the next block when enough threads of the block are here; `count` is the register with their number."""

    number: int
    count: int | None

    def run(self, launch: "Launch", here: int, mask: Mask) -> None:
        """See `End`."""
        launch.arrive(self.number, self.count, mask, here + 1)


@dataclass
class Trap:
    """The kernel gives up."""

    reason: str

    def run(self, launch: "Launch", here: int, mask: Mask) -> None:
        """See `End`."""
        raise LaunchError(self.reason, 0 if mask is None else int(mask.argmax()))
