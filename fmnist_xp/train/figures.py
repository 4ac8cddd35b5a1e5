"""Loss, accuracy and penalty over all rows, from what each block leaves; nothing is allocated to compute them.

A block leaves two numbers a row: the probability of the true class, and the class predicted. Once an epoch they
become the figures, by sums that are products with a vector of ones: one kernel that is there already on a GPU.
"""

from typing import Any

from fmnist_xp.backend import Array
from fmnist_xp.nn.losses import CategoricalCrossentropy
from fmnist_xp.nn.network import Network


def matches(xp: Any, predicted: Array, labels: Array, true: Array, output: Array) -> None:
    """Write 1 where `predicted` equals `labels` and `true` is finite, and 0 elsewhere, to `output`."""
    # Where a row's probabilities are no numbers, argmax says class 0, but nothing is predicted.
    xp.multiply((predicted == labels) & xp.isfinite(true), 1.0, out=output)


class Figures:
    """The figures of `network` over rows with `labels`, class indices (rows,) on its backend."""

    def __init__(self, network: Network, labels: Array) -> None:
        self._network, self._labels = network, labels
        xp, rows = network.backend.xp, len(labels)
        self._true = xp.empty(rows, dtype=network.parameters.dtype)
        self._predicted = xp.empty(rows, dtype="int64")
        self._terms = xp.empty((rows, 2), dtype="float64")  # loss, and whether the prediction is right
        self._penalties = xp.empty((network.parameters.size, 1), dtype="float64")
        self._ones = xp.ones((1, max(rows, network.parameters.size)), dtype="float64")
        self._totals = xp.empty(3, dtype="float64")

    def note(self, loss: CategoricalCrossentropy, probabilities: Array, block: slice) -> None:
        """Keep what the figures need of the probabilities of a block of rows; `loss` is the worker's."""
        loss.true_probabilities(probabilities, self._labels[block], out=self._true[block])
        probabilities.argmax(axis=1, out=self._predicted[block])

    def means(self) -> Array:
        """Return [data loss, accuracy] of the rows noted, (2,) of float64; the next call writes to the same place."""
        backend, rows = self._network.backend, len(self._labels)
        self._network.loss.losses(self._true, out=self._terms[:, 0])
        backend.fuse(matches)(self._predicted, self._labels, self._true, self._terms[:, 1])
        means = self._totals[:2]
        backend.dot(self._ones[:, :rows], self._terms, means.reshape(1, 2))
        backend.xp.divide(means, rows, out=means)
        return means

    def totals(self) -> Array:
        """Return [data loss, accuracy, regularization loss] as `means` does, (3,)."""
        self.means()
        size = len(self._penalties)
        self._network.write_penalties(self._penalties[:, 0])
        self._network.backend.dot(self._ones[:, :size], self._penalties, self._totals[2:].reshape(1, 1))
        return self._totals
