"""The one idea: a full-batch gradient is a sum over blocks of rows.

Blocks are worked on by as many workers as the backend has threads, each in a replica of the network that stays in
cache. What the blocks give is added up in the order of the blocks, whichever worker was done first: the same bits
on any number of threads.
"""

import threading
from collections.abc import Callable
from typing import Any

from fmnist_xp.arguments import whole_number
from fmnist_xp.backend import Array
from fmnist_xp.nn.network import Network
from fmnist_xp.train.figures import Figures
from fmnist_xp.train.ordered import OrderedSum
from fmnist_xp.train.worker import Worker


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
        self.rows = len(inputs)
        backend = network.backend
        # Each Dense layer has an output and the gradient of it.
        row_bytes = 2 * sum(network.widths[1:]) * network.parameters.dtype.itemsize
        if block_rows is not None:
            block_rows = min(self.rows, whole_number("block_rows", block_rows, 1))
        self.block_rows = block_rows or backend.block_rows(self.rows, row_bytes)
        self.blocks = [slice(i, min(i + self.block_rows, self.rows)) for i in range(0, self.rows, self.block_rows)]
        self._figures: Any = None if labels is None else Figures(network, labels)
        self.workers = min(backend.threads, len(self.blocks))
        self._workers = [Worker(network, inputs, labels, self.block_rows) for _ in range(self.workers)]
        if len(self.blocks) == 1:
            self._workers[0].gradients = network.gradients  # nothing to add up
        spare = [backend.xp.empty_like(network.gradients) for _ in range(self.workers if self.workers > 1 else 0)]
        self._sum = OrderedSum(backend, network.gradients, spare)

    def compute_gradients(self, figures: bool = False) -> Array:
        """Set the network's `gradients` to those of data loss plus regularization loss over all rows.

        With `figures`, return [data loss, accuracy, regularization loss] as an array (3,) of float64 that stays on
        the device, where the next figures are written too; else None, and neither logarithm nor argmax is computed.
        """
        network = self.network

        def work(worker: Worker, number: int) -> None:
            worker.compute_gradients(self.blocks[number], self._figures.note if figures else None)
            worker.gradients = self._sum.add(number, worker.gradients)

        self._sum.start()
        self._run(work)
        totals = self._figures.totals() if figures else None
        # The mean is taken here and not in each block: sums of halves would vanish, divided by many rows.
        network.backend.xp.multiply(network.gradients, 1 / self.rows, out=network.gradients)
        network.add_penalty_gradients()
        return totals

    @property
    def replays(self) -> bool:
        """Whether an epoch is the same calls on the same buffers each time, so that it can be captured."""
        return all(worker.replays for worker in self._workers)

    def compute_figures(self) -> Array:
        """Return [data loss, accuracy] over all rows as an array (2,) of float64, as `compute_gradients` does."""

        def work(worker: Worker, number: int) -> None:
            block = self.blocks[number]
            self._figures.note(worker.loss, worker.forward(block), block)

        self._run(work)
        means: Array = self._figures.means()
        return means

    def compute_probabilities(self) -> Array:
        """Return the class probabilities of all rows, (rows, classes)."""
        network = self.network
        probabilities = network.backend.xp.empty((self.rows, network.n_classes), dtype=network.parameters.dtype)

        def work(worker: Worker, number: int) -> None:
            block = self.blocks[number]
            probabilities[block] = worker.forward(block)

        self._run(work)
        return probabilities

    def _run(self, work: Callable[[Worker, int], None]) -> None:
        """Call `work(worker, number)` for every block, each worker on a thread of its own where there are threads."""
        numbers = iter(range(len(self.blocks)))
        lock = threading.Lock()
        failed = False

        def run(index: int) -> None:
            nonlocal failed
            try:
                while not failed:
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    work(self._workers[index], number)
            except BaseException:
                failed = True
                self._sum.abandon()
                raise

        self.network.backend.map(run, self.workers)
