"""The one idea: a full-batch gradient is a sum over blocks of rows.

Blocks are shared out among as many workers as the backend has threads, each with buffers that stay in its cache, in
groups of neighbours. The gradients of a group are added in the order of its blocks, those of the groups in a tree
(`tree.py`). Groups and tree depend on the rows alone: the same bits on any number of threads, and of ranks, among
which the groups are shared out (`reduction.py`).
"""

from collections.abc import Callable, Sequence
from typing import Any

from fmnist_xp.backend import Array
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.nn.draws import Draws
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.train.augmentation import Augmentation, Changes
from fmnist_xp.train.metrics import BatchMetrics
from fmnist_xp.train.plan import is_planned
from fmnist_xp.train.reduction import Reduction
from fmnist_xp.train.rows import lay_out
from fmnist_xp.train.sharing import share_out
from fmnist_xp.train.tree import TreeSum
from fmnist_xp.train.worker import Worker


class FullBatch:
    """The gradient, the metrics and the predictions of `network` over all rows of `inputs`, block by block.

    Parameters
    ----------
    network
        The network; its `parameters` are read, its `gradients` written.
    inputs, labels, block_rows, dense, ranks, weights
        What `rows.lay_out` takes; `rows` has what it returns. All ranks make one, and call the same methods, at once.
    augmentation
        Changes the rows in every epoch, if given.
    epoch
        How many epochs there were before: what is drawn by chance depends on their number.

    `metrics` are those of the rows, where there are labels. Hold `network.backend.computing()` around the calls.
    """

    needs_table = False
    """Whether an epoch takes the optimizer's coefficients from the device's memory alone."""

    def __init__(
        self,
        network: Network,
        inputs: Pixels | Array,
        labels: Array | None = None,
        block_rows: int | None = None,
        dense: bool | None = None,
        ranks: Ranks = ALONE,
        weights: Array | None = None,
        augmentation: Augmentation | None = None,
        epoch: int = 0,
    ) -> None:
        self.network = network
        changed = augmentation is not None
        self.rows = lay_out(network, inputs, labels, block_rows, dense, ranks, weights, changed)
        self._draws: Draws | None = None
        if changed or any(layer.is_random for layer in network.layers):
            self._draws = Draws(self.rows.numbers(network.backend), network.backend.xp.full(1, epoch, "uint32"))
        self.column_share = self.rows.column_share
        backend, shares = network.backend, self.rows.shares
        self._groups, self._first = shares.groups, shares.numbers.start
        self._sum = TreeSum(backend, network.gradients, shares.tree, shares.numbers)
        self.reduction: Reduction | None = None
        if ranks.size > 1:
            channel = ranks.channel(backend)
            self.reduction = Reduction(backend, channel, ranks.rank, shares.tree, shares.of_ranks)
        self.metrics: Any = None
        if labels is not None:
            self.metrics = BatchMetrics(
                network,
                self.rows.labels,
                [
                    slice(self.rows.blocks[group.start].start, self.rows.blocks[group.stop - 1].stop)
                    for group in self._groups
                ],
                self._first,
                shares.of_ranks[-1].stop,
                self.rows.total,
                self.rows.weights and self.rows.weights.values,
                *([self.reduction.collect] if self.reduction else []),
            )
        self.workers = min(ranks.threads(backend), len(self._groups))
        alone = len(self.rows.blocks) == 1  # then there is nothing to add up here
        self._workers = [
            Worker(
                network,
                self.rows,
                network.gradients if alone else backend.xp.empty_like(network.gradients),
                self._draws,
                Changes(augmentation, backend, network.n_inputs) if augmentation else None,
            )
            for _ in range(self.workers)
        ]
        self.captures = backend.captures and is_planned(network) and (ranks.size == 1 or channel.captures)
        """Whether an epoch is the same calls on the same buffers each time, which the backend can capture."""

    def epoch(self, optimizer: Optimizer, coefficients: Sequence[Array] | None, log: bool) -> None:
        """Update the network from the gradient over all rows, by `coefficients` or the optimizer's own.

        With `log`, the `metrics` are of before the update.
        """
        self.compute_gradients(log or optimizer.needs_loss)
        if optimizer.needs_loss:
            loss, _accuracy, penalty = self.network.backend.to_host(self.metrics.totals).tolist()
            optimizer.step(self.network, loss + penalty)
        elif coefficients is None:
            optimizer.step(self.network)
        else:
            optimizer.update_params(self.network, coefficients)

    def compute_gradients(self, log: bool = False) -> None:
        """Set the network's `gradients` to those of data loss plus regularization loss over all rows.

        With `log`, the totals of `metrics` too; else neither logarithm nor argmax is computed.
        """
        network, shift = self.network, self.rows.shift
        metrics = self.metrics if log else None

        def add_group(worker: int, number: int) -> None:
            self._add_group(self._workers[worker], number, metrics)

        if shift is not None:
            shift.update()
        self._sum.start()
        share_out(network.backend, self.workers, len(self._groups), add_group)
        if self.reduction is not None:
            self.reduction.add(self._sum.sums, network.gradients)
        if shift is not None:
            shift.unshift()
        if metrics is not None:
            metrics.reduce()
        # The mean is taken here and not in each block: sums of halves would vanish, divided by many rows.
        network.backend.xp.multiply(network.gradients, 1 / self.rows.total, out=network.gradients)
        network.add_penalty_gradients()
        if self._draws is not None:
            network.backend.xp.add(self._draws.epoch, 1, out=self._draws.epoch)

    def take_over(self) -> None:
        """Take the network's parameters as they are now: they are read anew in every epoch."""

    def compute_metrics(self) -> Array:
        """Return the totals of `metrics` over all rows, (3,) of float64 on the device."""
        self._for_each_block(lambda worker, number: worker.forward(number, self.metrics))
        totals: Array = self.metrics.reduce()
        return totals

    def compute_probabilities(self) -> Array:
        """Return the class probabilities of all rows, (rows, classes), in the order in which they were given.

        For one rank alone.
        """
        network, rows = self.network, self.rows
        shape = rows.shares.rows, network.n_classes
        probabilities = network.backend.xp.empty(shape, dtype=network.parameters.dtype)

        def keep(worker: Worker, number: int) -> None:
            block = rows.blocks[number]
            probabilities[block if rows.order is None else rows.order[block]] = worker.forward(number)

        self._for_each_block(keep)
        return probabilities

    def _add_group(self, worker: Worker, number: int, metrics: BatchMetrics | None) -> None:
        """Add the gradients of a group of blocks, of this rank's groups the `number`th, to the sum."""
        xp, total = self.network.backend.xp, self._sum.vector(self._first + number)
        for block in self._groups[number]:
            worker.compute_gradients(block, metrics)
            if worker.gradients is total:
                continue
            if block == self._groups[number].start:
                total[...] = worker.gradients
            else:
                xp.add(total, worker.gradients, out=total)
        self._sum.add(self._first + number, total)

    def _for_each_block(self, work: Callable[[Worker, int], None]) -> None:
        if self.rows.shift is not None:
            self.rows.shift.update()

        def on_block(worker: int, number: int) -> None:
            work(self._workers[worker], number)

        share_out(self.network.backend, self.workers, len(self.rows.blocks), on_block)
