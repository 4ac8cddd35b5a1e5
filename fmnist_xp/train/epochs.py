"""Epochs in a row: one by one or, where the backend captures, with one launch for all.

A launch repeats the addresses and numbers that it was captured with. What differs from epoch to epoch, the learning
rate and Adam's corrections, is computed on the host as ever and sent into a table on the device, from which the
captured updates read.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fmnist_xp.backend import Array
from fmnist_xp.optim import Optimizer
from fmnist_xp.registry import is_registered
from fmnist_xp.train.engines import Batch


class Epochs:
    """Epochs of `batch.network` under `optimizer`; hold `backend.computing()` around the calls."""

    def __init__(self, batch: Batch, optimizer: Optimizer, longest: int) -> None:
        """Run at most `longest` epochs at once."""
        self._batch, self._optimizer = batch, optimizer
        self._backend = batch.network.backend
        usual = type(optimizer).update_params is Optimizer.update_params
        self.captures = batch.captures and is_registered(optimizer) and usual and not optimizer.needs_loss
        self._has_table = self.captures or batch.needs_table
        self._works: dict[tuple[int, bool], Callable[[], None]] = {}
        self._launches: dict[tuple[int, bool], Callable[[], None]] = {}
        if self._has_table:
            shape = longest, len(optimizer.coefficients())
            self._table = self._backend.xp.empty(shape, dtype=batch.network.parameters.dtype)

    def run(self, count: int, log: bool) -> None:
        """Run `count` epochs; with `log`, the batch's metrics become those of the first."""
        if not self._has_table:
            return _run(self._batch, self._optimizer, [None] * count, log)
        numbers = [self._optimizer.next_coefficients() for _ in range(count)]
        self._backend.send(np.array(numbers, dtype=self._table.dtype), self._table[:count])
        kind = count, log
        if kind not in self._works:  # the first time compiles the kernels and makes the buffers
            places = [[self._table[i, j : j + 1] for j in range(self._table.shape[1])] for i in range(count)]
            # Bound to nothing that holds it: NCCL waits until the graphs of a training are gone, which must not be a
            # matter of when Python looks for cycles.
            self._works[kind] = partial(_run, self._batch, self._optimizer, places, log)
            return self._works[kind]()
        if kind not in self._launches:
            self._launches[kind] = self._backend.captured(self._works[kind])
        return self._launches[kind]()


def _run(batch: Batch, optimizer: Optimizer, coefficients: Sequence[Sequence[Array] | None], log: bool) -> None:
    """Run an epoch with each of `coefficients`, or with the optimizer's own."""
    for number, places in enumerate(coefficients):
        batch.epoch(optimizer, places, log and number == 0)
