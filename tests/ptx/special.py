"""Special registers that a launch can fill, all of them 32 bits."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ptx.machine import Launch

ONE = np.uint32(1)


def coordinate(axis: int, numbers: Any, sizes: tuple[int, int, int]) -> Any:
    """Return one coordinate of threads or blocks with these numbers."""
    return numbers // int(np.prod(sizes[:axis])) % sizes[axis]


def lane_bits(holds: np.ndarray) -> np.ndarray:
    """Return, for each warp, a bit for each of its lanes."""
    return np.packbits(holds.reshape(-1, 32), axis=1, bitorder="little").view(np.uint32).reshape(-1)


def below(launch: "Launch") -> Any:
    """Return a bit for each lower lane of the warp."""
    return (ONE << launch.laneid) - ONE


def own(launch: "Launch") -> Any:
    """Return the lane's own bit."""
    return ONE << launch.laneid


SPECIAL: dict[str, Callable[["Launch"], Any]] = {
    "%laneid": lambda launch: launch.laneid,
    "%warpid": lambda launch: launch.in_block // 32,
    "%nwarpid": lambda launch: launch.lanes_per_block // 32,
    "%lanemask_eq": own,
    "%lanemask_lt": below,
    "%lanemask_le": lambda launch: below(launch) | own(launch),
    "%lanemask_gt": lambda launch: ~(below(launch) | own(launch)),
    "%lanemask_ge": lambda launch: ~below(launch),
    "%dynamic_smem_size": lambda launch: launch.shared_bytes,
    "%total_smem_size": lambda launch: launch.shared.size,
}
"""What gives the value, for each lane or for all, by the register's name."""

for place, letter in enumerate("xyz"):
    SPECIAL |= {
        f"%tid.{letter}": lambda launch, axis=place: coordinate(axis, launch.in_block, launch.block),
        f"%ctaid.{letter}": lambda launch, axis=place: coordinate(axis, launch.block_of, launch.grid),
        f"%ntid.{letter}": lambda launch, axis=place: launch.block[axis],
        f"%nctaid.{letter}": lambda launch, axis=place: launch.grid[axis],
    }
