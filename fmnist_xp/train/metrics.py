"""Loss, accuracy and penalty over all rows, from what each block leaves; nothing is allocated to compute them.

A block leaves two numbers a row: the probability of the true class, and the class predicted. Once an epoch they
become the metrics, by sums that are products with a vector of ones: one kernel that is there already on a GPU.
"""

from typing import Any

from fmnist_xp.backend import Array, elementwise
from fmnist_xp.nn.labels import index_dtype
from fmnist_xp.nn.network import Network

PIECE = 1 << 20
"""Rows whose losses are added up at once."""


@elementwise
def matches(xp: Any, predicted: Array, labels: Array, true: Array, output: Array) -> None:
    """Write 1 where `predicted` equals `labels` and `true` is finite, and 0 elsewhere, to `output`."""
    # Where a row's probabilities are no numbers, argmax says class 0, but nothing is predicted.
    xp.multiply((predicted == labels) & xp.isfinite(true), 1.0, out=output)


class BatchMetrics:
    """The metrics of `network` over rows with `labels`, class indices (rows,) on its backend.

    `totals` are [data loss, accuracy, regularization loss], (3,) of float64, as the last `reduce` left them.
    """

    def __init__(self, network: Network, labels: Array) -> None:
        self._network, self._labels = network, labels
        xp, rows, size = network.backend.xp, len(labels), network.parameters.size
        self._true = xp.empty(rows, dtype=network.parameters.dtype)
        self._predicted = xp.empty(rows, dtype=index_dtype(network.n_classes))
        most = min(rows, PIECE)
        self._terms = xp.empty((most, 2), dtype="float64")  # loss, and whether the prediction is right
        self._sums = xp.empty((1, 2), dtype="float64")
        self._penalties = xp.empty((size, 1), dtype="float64")
        self._ones = xp.ones((1, max(most, size)), dtype="float64")
        self.totals = xp.empty(3, dtype="float64")

    def note(self, block: slice, true: Array, predicted: Array) -> None:
        """Keep of a block of rows the probabilities of the true classes and the classes predicted, both (rows,)."""
        self._true[block] = true
        self._predicted[block] = predicted

    def only_class(self) -> int | None:
        """Return the class that was predicted for all rows noted, None where there are several; waits for them."""
        lowest, highest = int(self._predicted.min()), int(self._predicted.max())
        return lowest if lowest == highest else None

    def reduce(self) -> Array:
        """Compute `totals` from the rows noted and the network's parameters, and return them."""
        network, backend, rows = self._network, self._network.backend, len(self._labels)
        means, size = self.totals[:2], len(self._penalties)
        for start in range(0, rows, PIECE):
            part = slice(start, min(start + PIECE, rows))
            terms = self._terms[: part.stop - start]
            network.loss.losses(self._true[part], out=terms[:, 0])
            backend.compute(matches, self._predicted[part], self._labels[part], self._true[part], terms[:, 1])
            sums = self._sums if start else means.reshape(1, 2)
            backend.dot(self._ones[:, : len(terms)], terms, sums)
            if start:
                backend.xp.add(means, sums[0], out=means)
        backend.xp.divide(means, rows, out=means)
        network.write_penalties(self._penalties[:, 0])
        backend.dot(self._ones[:, :size], self._penalties, self.totals[2:].reshape(1, 1))
        return self.totals
