"""Epochs in a row: asked for one by one or, where the backend captures, with one launch for all.

A launch repeats the addresses and numbers that it was captured with. What differs from epoch to epoch, the learning
rate and Adam's corrections, is computed on the host as ever and sent into a table on the device, from which the
captured updates read; the figures of a stretch stay in one place on the device until they are fetched.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from fmnist_xp.backend import Array
from fmnist_xp.optim import Optimizer
from fmnist_xp.train.fullbatch import FullBatch


class Epochs:
    """Epochs of `batch.network` under `optimizer`; hold `backend.computing()` around the calls."""

    def __init__(self, batch: FullBatch, optimizer: Optimizer, longest: int) -> None:
        """Make at most `longest` epochs at once."""
        self._batch, self._optimizer = batch, optimizer
        self._backend = batch.network.backend
        replays = batch.replays and vars(type(optimizer)).get("replayable", False)
        self.captures = self._backend.captures and replays
        self._works: dict[tuple[int, bool], Callable[[], Any]] = {}
        self._launches: dict[tuple[int, bool], Callable[[], None]] = {}
        self._figures: dict[tuple[int, bool], Array | None] = {}
        if self.captures:
            shape = longest, len(optimizer.coefficients())
            self._table = self._backend.xp.empty(shape, dtype=batch.network.parameters.dtype)

    def run(self, count: int, figures: bool) -> Array | None:
        """Make `count` epochs; with `figures` return those of the first, as `FullBatch.compute_gradients` does."""
        if not self.captures:
            return self._make([None] * count, figures)
        numbers = [self._optimizer.next_coefficients() for _ in range(count)]
        self._backend.send(np.array(numbers, dtype=self._table.dtype), self._table[:count])
        kind = count, figures
        if kind not in self._works:  # the first time compiles the kernels and makes the buffers
            places = [[self._table[i, j : j + 1] for j in range(self._table.shape[1])] for i in range(count)]
            self._works[kind] = partial(self._make, places, figures)
            self._figures[kind] = self._works[kind]()
            return self._figures[kind]
        if kind not in self._launches:
            self._launches[kind] = self._backend.captured(self._works[kind])
        self._launches[kind]()
        return self._figures[kind]

    def _make(self, coefficients: Sequence[Sequence[Array] | None], figures: bool) -> Array | None:
        """Make an epoch with each of `coefficients`, or the optimizer's own; return the figures of the first."""
        first = None
        for number, places in enumerate(coefficients):
            computed = self._batch.compute_gradients(figures=figures and number == 0)
            first = first if number else computed
            if places is None:
                self._optimizer.step(self._batch.network)
            else:
                self._optimizer.update_params(self._batch.network, places)
        return first
