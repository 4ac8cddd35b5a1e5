"""The one idea: a full-batch gradient is a sum over blocks of rows.

Blocks are worked on by as many workers as the backend has threads, each in a replica of the network that stays in
cache. What the blocks give is added up in the order of the blocks, whichever worker was done first: the same bits
on any number of threads.
"""

import threading
from collections.abc import Callable
from typing import Any

from fmnist_xp.backend import Array
from fmnist_xp.nn.network import Network


class FullBatch:
    """The gradient, the figures and the predictions of `network` over all rows of `inputs`, block by block.

    Parameters
    ----------
    network
        The network; its `parameters` are read, its `gradients` written.
    inputs, labels
        Arrays of the network's backend: `inputs` (rows, n_inputs) of the network's dtype, `labels` (rows,) of an
        integer dtype, or None for predictions alone.
    block_rows
        Rows in a block; by default what suits the backend and the network's widths.

    Hold `network.backend.computing()` around the calls.
    """

    def __init__(
        self, network: Network, inputs: Array, labels: Array | None = None, block_rows: int | None = None
    ) -> None:
        self.network = network
        self.inputs = inputs
        self.labels: Array = labels
        self.rows = len(inputs)
        backend = network.backend
        # Each Dense layer has an output and the gradient of it.
        row_bytes = 2 * sum(network.widths[1:]) * network.parameters.dtype.itemsize
        if block_rows is not None and block_rows < 1:
            raise ValueError(f"block_rows must be at least 1, got {block_rows}")
        self.block_rows = block_rows or backend.block_rows(self.rows, row_bytes)
        self.blocks = [slice(i, min(i + self.block_rows, self.rows)) for i in range(0, self.rows, self.block_rows)]
        self.workers = min(backend.threads, len(self.blocks))
        # Twice as many replicas as workers, so that nobody waits while a slower neighbour's block is still due.
        self._replicas = [network.replica() for _ in range(self.workers if self.workers == 1 else 2 * self.workers)]

    def compute_gradients(self, figures: bool = False) -> Array:
        """Set the network's `gradients` to those of data loss plus regularization loss over all rows.

        With `figures`, return [data loss, accuracy, regularization loss] as an array (3,) of float64 that stays on
        the device; else None, and neither logarithm nor argmax is computed.
        """
        network = self.network
        xp = network.backend.xp
        totals: Array = xp.zeros(3, dtype="float64") if figures else None

        def work(replica: Network, block: slice) -> Array | None:
            labels = self.labels[block]
            probabilities = replica.forward(self.inputs[block])
            # The gradient is written over the probabilities, so the figures come first.
            sums = self._figures(replica, probabilities, labels) if figures else None
            replica.backward(probabilities, labels, samples=1)
            return sums

        def finish(replica: Network, sums: Array | None, first: bool) -> None:
            if first:
                network.gradients[...] = replica.gradients
            else:
                xp.add(network.gradients, replica.gradients, out=network.gradients)
            if totals is not None:
                totals[:2] += sums

        self._run(work, finish)
        if totals is not None:
            totals[:2] /= self.rows
            totals[2] = network.regularization_loss()
        # The mean is taken here and not in each block: sums of halves would vanish, divided by many rows.
        xp.multiply(network.gradients, 1 / self.rows, out=network.gradients)
        network.add_penalty_gradients()
        return totals

    def compute_figures(self) -> Array:
        """Return [data loss, accuracy] over all rows as an array (2,) of float64 that stays on the device."""
        totals = self.network.backend.xp.zeros(2, dtype="float64")

        def work(replica: Network, block: slice) -> Array:
            return self._figures(replica, replica.forward(self.inputs[block]), self.labels[block])

        def finish(_replica: Network, sums: Array, _first: bool) -> None:
            totals[...] += sums

        self._run(work, finish)
        return totals / self.rows

    def compute_probabilities(self) -> Array:
        """Return the class probabilities of all rows, (rows, classes)."""
        network = self.network
        probabilities = network.backend.xp.empty((self.rows, network.n_classes), dtype=network.parameters.dtype)

        def work(replica: Network, block: slice) -> None:
            probabilities[block] = replica.forward(self.inputs[block])

        self._run(work, lambda _replica, _result, _first: None)
        return probabilities

    @staticmethod
    def _figures(replica: Network, probabilities: Array, labels: Array) -> Array:
        """Return [sum of the losses, number of correct predictions] of a block as an array (2,) of float64."""
        xp = replica.backend.xp
        losses = replica.loss.sample_losses(probabilities, labels)
        correct = replica.loss.correct(probabilities, labels)
        return xp.stack([xp.sum(losses, dtype="float64"), xp.sum(correct, dtype="float64")])

    def _run(self, work: Callable[[Network, slice], Any], finish: Callable[[Network, Any, bool], None]) -> None:
        """Call `work(replica, block)` for every block on the workers, and `finish(replica, result, first)` in order.

        A replica is not used again before its block is finished. `finish` is never called twice at once.
        """
        indices = iter(range(len(self.blocks)))
        free = list(self._replicas)
        done: dict[int, tuple[Network, Any]] = {}
        due = 0
        failed = False
        changed = threading.Condition()

        def worker(_number: int) -> None:
            nonlocal due, failed
            try:
                while True:
                    with changed:
                        changed.wait_for(lambda: free or failed)
                        index = None if failed else next(indices, None)
                        if index is None:
                            return
                        replica = free.pop()
                    result = work(replica, self.blocks[index])
                    with changed:
                        done[index] = replica, result
                        while due in done:
                            finished, figures = done.pop(due)
                            finish(finished, figures, due == 0)
                            free.append(finished)
                            due += 1
                        changed.notify_all()
            except BaseException:
                with changed:
                    failed = True
                    changed.notify_all()
                raise

        self.network.backend.map(worker, self.workers)
