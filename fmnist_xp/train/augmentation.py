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

MOST_PIXELS = 7
"""A larger shift would have more numbers to draw from than the bits that are drawn tell apart."""


@elementwise
def draw(xp: Any, keys: Array, count: Any, drawn: Array) -> None:
    """Write a number from 0 to `count` − 1, all as likely, to `drawn` (rows,) for each of the `keys`.

    They are as likely as 2¹⁶ values allow, which is as long as `count` is far below that.
    """
    drawn[...] = xp.right_shift(xp.multiply(xp.right_shift(keys, xp.uint32(16)), count), xp.uint32(16))


@dataclass(frozen=True, repr=False)
class Augmentation:
    """Images mirrored from left to right, each second one, and shifted by up to `shift` pixels both ways, by chance.

    A network sees a row's image as one of (1 or 2) · (2·shift + 1)² in each epoch, drawn with the `seed`. Vertically
    and horizontally, a step of s pixels has the probability (shift + 1 − |s|) / (shift + 1)²: small ones come more
    often. What a shift brings in from outside repeats the edge. The metrics that `fit` logs of the training rows are
    those of what the network sees. Simard, Steinkraus & Platt, *Best Practices for Convolutional Neural Networks*,
    ICDAR 2003.

    Raises `ValueError` for arguments that are none, or that change nothing, and for a shift above 7.
    """

    mirror: bool = False
    shift: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.mirror, bool | np.bool_):
            raise ValueError(f"mirror must be True or False, got {self.mirror!r}")
        object.__setattr__(self, "shift", whole_number("shift", self.shift, 0, MOST_PIXELS))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, 0))
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
        places = np.arange(columns, dtype=np.int64).reshape(side, side)
        lines = [np.clip(np.arange(side) - step, 0, side - 1) for step in self._steps]
        shifted = [places[np.ix_(down, right)] for down in lines for right in lines]
        ways = shifted + [image[:, ::-1] for image in shifted] * self.mirror
        return np.stack(ways).reshape(len(ways), columns)

    def draws(self) -> NDArray[np.int64]:
        """Return the way that each number drawn stands for, each way as many times as it is likely.

        ((1 or 2) · (shift + 1)⁴,) indices of `sources`.
        """
        steps = self._steps
        likely = np.repeat(np.arange(len(steps)), self.shift + 1 - np.abs(steps))
        shifted = np.add.outer(len(steps) * likely, likely).reshape(-1)
        return np.concatenate([shifted, shifted + len(steps) ** 2][: 1 + self.mirror])

    @property
    def _steps(self) -> list[int]:
        """The pixels that an image may be moved by in one direction, 0 first."""
        return sorted(range(-self.shift, self.shift + 1), key=abs)


class Changes:
    """Makes the images of a block's rows in an epoch, for one worker."""

    def __init__(self, augmentation: Augmentation, backend: Backend, columns: int) -> None:
        ways = augmentation.draws()
        self._backend, self._workspace = backend, Workspace(backend.xp)
        self._sources, self._ways = backend.asarray(augmentation.sources(columns)), backend.asarray(ways)
        self._count = backend.xp.uint32(len(ways))
        self._seed = seed_of(backend, "augmentation", augmentation.seed)

    def __call__(self, values: Array, draws: Draws) -> Array:
        """Return the changed rows of `values` (rows, columns), in an array of this worker's."""
        backend, workspace, (rows, columns) = self._backend, self._workspace, values.shape
        xp, size = backend.xp, (rows, columns)
        keys = workspace.empty("keys", (rows,), "uint32")
        drawn, chosen = (workspace.empty(name, (rows,), "int64") for name in ("drawn", "chosen"))
        starts = workspace.made("starts", (rows, 1), "int64", lambda: columns * xp.arange(rows)[:, None])
        places, changed = workspace.empty("places", size, "int64"), workspace.empty("changed", size, values.dtype)
        backend.compute(row_keys, draws.numbers, draws.epoch, self._seed, keys)
        backend.compute(draw, keys, self._count, drawn)
        backend.compute(backend.take_rows, self._ways, drawn, chosen)
        backend.compute(backend.take_each, values, self._sources, chosen, starts, places, changed)
        return changed
