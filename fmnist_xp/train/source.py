"""The rows of all ranks, one rank's after another's, of which each has some, and may ask the others for theirs."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Array, Backend
from fmnist_xp.data.mapped import forget, is_mapped
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.ranks import Ranks

Values: TypeAlias = NDArray[Any]


class Source:
    """The rows that the ranks hand in, as the bytes or floats that they are kept as.

    `inputs` are this rank's, the same kind on every rank. What is `own` is asked for at any time; `bring`, `part` and
    `sample` are called by all ranks at once.
    """

    def __init__(self, inputs: Pixels | Array, backend: Backend, ranks: Ranks) -> None:
        self._ranks, self._inputs, self._backend = ranks, inputs, backend
        counts = np.array(ranks.gather(len(inputs)))
        self._stops = np.cumsum(counts)
        self.start = int(self._stops[ranks.rank] - len(inputs))
        """How many rows the ranks before this one have."""
        self.rows = int(self._stops[-1])
        """How many rows all ranks have."""

    @cached_property
    def values(self) -> Values:
        """What this rank keeps its rows in, on the host; bytes in the order of the images."""
        inputs = self._inputs
        return inputs.images if isinstance(inputs, Pixels) else self._backend.to_host(inputs)

    def own(self, part: slice) -> Values:
        """Return those of these rows that are this rank's, in their order."""
        last = len(self._inputs)
        here = slice(*(min(max(place - self.start, 0), last) for place in (part.start, part.stop)))
        return self._inputs.bytes(here) if isinstance(self._inputs, Pixels) else self.values[here]

    def bring(self, places: NDArray[np.integer]) -> Callable[[slice], Values]:
        """Bring the rows at `places` here; return what returns those of a slice of `places`, in that order."""
        if self._ranks.size == 1:
            return lambda part: self._picked(places[part])
        owners = np.searchsorted(self._stops, places, side="right")
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=self._ranks.size)
        asked, askers = self._ranks.swapped(places[order].astype(np.int64), counts)
        came, _counts = self._ranks.swapped(self._picked(asked - self.start), askers)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return lambda part: came[back[part]]

    def part(self, start: int, stop: int) -> Pixels | Array:
        """Return the rows from `start` to `stop` − 1 as they were handed in, on the backend."""
        here = self.start <= start and stop <= self.start + len(self._inputs)
        if all(self._ranks.gather(here)):
            return self._inputs[start - self.start : stop - self.start]
        rows = self.bring(np.arange(start, stop))(slice(None))
        return Pixels(rows) if isinstance(self._inputs, Pixels) else self._backend.asarray(rows)

    def sample(self, places: NDArray[np.integer]) -> Values:
        """Return the rows at these ascending `places`, which are few, on every rank."""
        own = places[(places >= self.start) & (places < self.start + len(self._inputs))] - self.start
        few = max(1, len(own) if self._backend.own_memory or not is_mapped(self.values) else 16)
        sample = []
        for first in range(0, max(1, len(own)), few):  # with each row of a file come some MB around it
            sample.append(self._picked(own[first : first + few]))
            self.forget()
        return self._ranks.concatenated(np.concatenate(sample))

    def forget(self) -> None:
        """Give the memory of a mapped file back: what was read of it is not needed any more."""
        if not self._backend.own_memory:
            forget(self.values)

    def _picked(self, places: Any) -> Values:
        """Return own rows by their places among these."""
        inputs = self._inputs
        if isinstance(inputs, Pixels):
            picked: Values = inputs.images[places if inputs.order is None else inputs.order[places]]
        else:
            picked = self._backend.to_host(inputs[self._backend.asarray(places)])
        return picked


def as_numbers(rows: Values) -> Values:
    """Return rows of a source as the numbers that they stand for."""
    return np.asarray(Pixels(rows)) if rows.dtype == np.uint8 else rows
