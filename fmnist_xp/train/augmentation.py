"""Augmentation: in every epoch each image is another one of its own kind, mirrored or shifted by a few pixels.

A block's images are made when its rows go into a worker's buffer, so nothing is kept of them. Which one a row becomes
depends on its number, the epoch and the seed alone (`nn/draws.py`).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.arguments import whole_number
from fmnist_xp.backend import Array, Backend, elementwise
from fmnist_xp.nn.draws import Draws, row_keys, seed_of
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.registry import call_text, configuration


@elementwise
def choose(xp: Any, keys: Array, count: Any, chosen: Array) -> None:
    """Write a number from 0 to `count` − 1, all as likely, to `chosen` (rows,) for each of the `keys`."""
    chosen[...] = xp.right_shift(xp.multiply(xp.right_shift(keys, xp.uint32(16)), count), xp.uint32(16))


@dataclass(frozen=True, repr=False)
class Augmentation:
    """Images mirrored from left to right, each second one, and shifted by up to `shift` pixels both ways, by chance.

    What a shift brings in from outside repeats the edge. A network sees a row's image as one of
    (1 or 2) · (2·shift + 1)² in each epoch, all as likely, drawn with the `seed`; the metrics that `fit` logs of the
    training rows are those of what it sees. Simard, Steinkraus & Platt, *Best Practices for Convolutional Neural
    Networks*, ICDAR 2003.

    Raises `ValueError` for arguments that are none, or that change nothing.
    """

    mirror: bool = False
    shift: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.mirror, bool | np.bool_):
            raise ValueError(f"mirror must be True or False, got {self.mirror!r}")
        for name in ("shift", "seed"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), 0))
        if not (self.mirror or self.shift):
            raise ValueError("an augmentation must change something: mirror=True, or a shift of at least 1")

    def __repr__(self) -> str:
        """Return the call that makes one like it, without what is at its default."""
        return call_text(self, lambda: configuration(self))

    def sources(self, columns: int) -> NDArray[np.int64]:
        """Return, for each way to change an image of so many pixels, where each of its pixels comes from.

        (ways, columns), the first way none. Raises `ValueError` for rows that are no square images, or smaller than
        the shift.
        """
        side = math.isqrt(columns)
        if side**2 != columns:
            raise ValueError(f"augmentation is for square images, and rows of {columns} numbers are none")
        if self.shift >= side:
            raise ValueError(f"shift must be less than the {side} pixels of an image's side, got {self.shift}")
        steps = sorted(range(-self.shift, self.shift + 1), key=abs)
        places = np.arange(columns, dtype=np.int64).reshape(side, side)
        lines = [np.clip(np.arange(side) - step, 0, side - 1) for step in steps]
        shifted = [places[np.ix_(down, right)] for down in lines for right in lines]
        ways = shifted + [image[:, ::-1] for image in shifted] * self.mirror
        return np.stack(ways).reshape(len(ways), columns)


class Changes:
    """Makes the images of a block's rows in an epoch, for one worker."""

    def __init__(self, augmentation: Augmentation, backend: Backend, columns: int) -> None:
        sources = augmentation.sources(columns)
        self._backend, self._workspace = backend, Workspace(backend.xp)
        self._sources, self._count = backend.asarray(sources), backend.xp.uint32(len(sources))
        self._seed = seed_of(backend, "augmentation", augmentation.seed)

    def __call__(self, values: Array, draws: Draws) -> Array:
        """Return the changed rows of `values` (rows, columns), in an array of this worker's."""
        backend, workspace, (rows, columns) = self._backend, self._workspace, values.shape
        xp, size = backend.xp, (rows, columns)
        keys, chosen = workspace.empty("keys", (rows,), "uint32"), workspace.empty("chosen", (rows,), "int64")
        starts = workspace.made("starts", (rows, 1), "int64", lambda: columns * xp.arange(rows)[:, None])
        places, changed = workspace.empty("places", size, "int64"), workspace.empty("changed", size, values.dtype)
        backend.compute(row_keys, draws.numbers, draws.epoch, self._seed, keys)
        backend.compute(choose, keys, self._count, chosen)
        backend.compute(backend.take_each, values, self._sources, chosen, starts, places, changed)
        return changed
