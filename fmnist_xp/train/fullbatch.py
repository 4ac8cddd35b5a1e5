"""The one idea: a full-batch gradient is a sum over blocks of rows.

Blocks are shared out among as many workers as the backend has threads, each with buffers that stay in its cache.
Their gradients are added in the order of the blocks, whichever worker was done first: the same bits on any number of
threads.
"""

import threading
from collections.abc import Callable
from typing import Any

from fmnist_xp.arguments import whole_number
from fmnist_xp.backend import Array
from fmnist_xp.nn.network import Network
from fmnist_xp.train.metrics import BatchMetrics
from fmnist_xp.train.ordered import OrderedSum
from fmnist_xp.train.plan import is_planned
from fmnist_xp.train.worker import Worker


class FullBatch:
    """The gradient, the metrics and the predictions of `network` over all rows of `inputs`, block by block.

    Parameters
    ----------
    network
        The network; its `parameters` are read, its `gradients` written.
    inputs, labels
        Arrays of the network's backend: `inputs` (rows, n_inputs) of the network's dtype, `labels` (rows,) of an
        integer dtype, or None for predictions alone.
    block_rows
        Rows in a block; by default what suits the backend and the network's widths.
    input_scale
        A factor on the inputs.

    `metrics` are those of the rows, where there are labels. Hold `network.backend.computing()` around the calls.
    """

    def __init__(
        self,
        network: Network,
        inputs: Array,
        labels: Array | None = None,
        block_rows: int | None = None,
        input_scale: float = 1.0,
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
        self.metrics: Any = None if labels is None else BatchMetrics(network, labels)
        self.workers = min(backend.threads, len(self.blocks))
        given = network, inputs, labels, self.block_rows, input_scale
        self._workers = [Worker(*given) for _ in range(self.workers)]
        if len(self.blocks) == 1:
            self._workers[0].gradients = network.gradients  # nothing to add up
        spare = [backend.xp.empty_like(network.gradients) for _ in range(self.workers if self.workers > 1 else 0)]
        self._sum = OrderedSum(backend, network.gradients, spare)
        self.captures = backend.captures and is_planned(network)
        """Whether an epoch is the same calls on the same buffers each time, which the backend can capture."""

    def compute_gradients(self, log: bool = False) -> None:
        """Set the network's `gradients` to those of data loss plus regularization loss over all rows.

        With `log`, the totals of `metrics` too; else neither logarithm nor argmax is computed.
        """
        network, metrics = self.network, self.metrics if log else None
        self._sum.start()
        self._for_each_block(self._add_gradients, metrics)
        if metrics is not None:
            metrics.reduce()
        # The mean is taken here and not in each block: sums of halves would vanish, divided by many rows.
        network.backend.xp.multiply(network.gradients, 1 / self.rows, out=network.gradients)
        network.add_penalty_gradients()

    def compute_metrics(self) -> Array:
        """Return the totals of `metrics` over all rows, (3,) of float64 on the device."""
        self._for_each_block(self._forward, self.metrics)
        totals: Array = self.metrics.reduce()
        return totals

    def compute_probabilities(self) -> Array:
        """Return the class probabilities of all rows, (rows, classes)."""
        network = self.network
        probabilities = network.backend.xp.empty((self.rows, network.n_classes), dtype=network.parameters.dtype)
        self._for_each_block(self._keep_probabilities, probabilities)
        return probabilities

    def _add_gradients(self, worker: Worker, number: int, metrics: BatchMetrics | None) -> None:
        worker.compute_gradients(self.blocks[number], metrics)
        worker.gradients = self._sum.add(number, worker.gradients)

    def _forward(self, worker: Worker, number: int, metrics: BatchMetrics) -> None:
        worker.forward(self.blocks[number], metrics)

    def _keep_probabilities(self, worker: Worker, number: int, probabilities: Array) -> None:
        probabilities[self.blocks[number]] = worker.forward(self.blocks[number])

    def _for_each_block(self, work: Callable[..., None], argument: Any) -> None:
        """Call `work(worker, number, argument)` for every block, each worker on a thread where there are threads."""
        numbers = iter(range(len(self.blocks)))
        lock = threading.Lock()
        failed = threading.Event()

        def take_turns(index: int) -> None:
            try:
                while not failed.is_set():
                    with lock:
                        number = next(numbers, None)
                    if number is None:
                        return
                    work(self._workers[index], number, argument)
            except BaseException:
                failed.set()
                self._sum.abandon()
                raise

        self.network.backend.map(take_turns, self.workers)
