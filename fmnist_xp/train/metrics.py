"""Loss, accuracy and penalty over all rows, from what each block leaves; nothing is allocated to compute them.

A block leaves two numbers a row: what the row's loss is made from, as a rule the probability of the true class, and
the class predicted. Once an epoch they become the metrics, by sums that are products with a vector of ones: one
kernel that is there already on a GPU. The sums of each group of blocks come first, which may be another rank's, then
that of all groups.
"""

from collections.abc import Callable, Sequence
from typing import Any

from fmnist_xp.backend import Array, elementwise
from fmnist_xp.nn.labels import index_dtype
from fmnist_xp.nn.loss import weigh
from fmnist_xp.nn.network import Network

PIECE = 1 << 20
"""Rows whose losses are added up at once."""


@elementwise
def matches(xp: Any, predicted: Array, labels: Array, left: Array, output: Array) -> None:
    """Write 1 where `predicted` equals `labels` and `left` is finite, and 0 elsewhere, to `output`."""
    # Where a row's outputs are no numbers, argmax says class 0, but nothing is predicted.
    xp.multiply((predicted == labels) & xp.isfinite(left), 1.0, out=output)


class BatchMetrics:
    """The metrics of `network` over rows with `labels`, class indices (rows,) on its backend.

    `parts` are the rows whose losses are added up at once. Of several ranks each has rows and parts of its own, of
    which the first is the `first` of `count`; `collect(sums)` writes what every rank has of an array (count, 2) to
    those of the others. `weights` are those of the rows, (rows,), by default 1, and `total` is the sum of all ranks'.
    `totals` are [data loss, accuracy, regularization loss], (3,) of float64, as the last `reduce` left them.
    """

    def __init__(
        self,
        network: Network,
        labels: Array,
        parts: Sequence[slice] | None = None,
        first: int = 0,
        count: int | None = None,
        total: float | None = None,
        weights: Array | None = None,
        collect: Callable[[Array], None] = lambda _sums: None,
    ) -> None:
        self._network, self._labels, self._weights, self._collect = network, labels, weights, collect
        xp, rows, size = network.backend.xp, len(labels), network.parameters.size
        self._total = rows if total is None else total
        self._left = xp.empty(rows, dtype=network.parameters.dtype)
        self._predicted = xp.empty(rows, dtype=index_dtype(network.n_classes))
        self._parts = [slice(0, rows)] if parts is None else parts
        count = len(self._parts) if count is None else count
        most = max((min(part.stop - part.start, PIECE) for part in self._parts), default=0)
        self._terms = xp.empty((most, 2), dtype="float64")  # loss, and whether the prediction is right
        self._sums = xp.zeros((count, 2), dtype="float64")
        self._own_sums = [self._sums[number : number + 1] for number in range(first, first + len(self._parts))]
        self._piece = xp.empty((1, 2), dtype="float64")
        self._penalties = xp.empty((size, 1), dtype="float64")
        self._ones = xp.ones((1, max(most, size, count)), dtype="float64")
        self.totals = xp.empty(3, dtype="float64")

    def note(self, block: slice, left: Array, predicted: Array) -> None:
        """Keep of a block of rows the loss's `outcomes` and the classes predicted, both (rows,)."""
        self._left[block] = left
        self._predicted[block] = predicted

    def classes(self) -> tuple[int, int]:
        """Return the lowest and the highest class predicted for the rows noted, of this rank; waits for them."""
        if not len(self._predicted):
            return self._network.n_classes, -1
        return int(self._predicted.min()), int(self._predicted.max())

    def reduce(self) -> Array:
        """Compute `totals` from the rows noted and the network's parameters, and return them."""
        network, backend = self._network, self._network.backend
        for part, sums in zip(self._parts, self._own_sums, strict=True):
            self._add_up(part, sums)
        self._collect(self._sums)
        means, size, count = self.totals[:2], len(self._penalties), len(self._sums)
        backend.dot(self._ones[:, :count], self._sums, means.reshape(1, 2))
        backend.xp.divide(means, self._total, out=means)
        network.write_penalties(self._penalties[:, 0])
        backend.dot(self._ones[:, :size], self._penalties, self.totals[2:].reshape(1, 1))
        return self.totals

    def _add_up(self, part: slice, sums: Array) -> None:
        """Write the sum of the losses of some rows, and of the predictions that are right, to `sums` (1, 2)."""
        network, backend = self._network, self._network.backend
        for start in range(part.start, part.stop, PIECE):
            piece = slice(start, min(start + PIECE, part.stop))
            terms = self._terms[: piece.stop - piece.start]
            network.loss.losses(self._left[piece], out=terms[:, 0])
            backend.compute(matches, self._predicted[piece], self._labels[piece], self._left[piece], terms[:, 1])
            if self._weights is not None:
                backend.compute(weigh, terms, self._weights[piece, None])
            into = sums if start == part.start else self._piece
            backend.dot(self._ones[:, : len(terms)], terms, into)
            if into is not sums:
                backend.xp.add(sums, into, out=sums)
