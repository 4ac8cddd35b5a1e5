"""Rows held out of training: which they are, their metrics, and the weights that do best on them."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Array
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.train.fullbatch import FullBatch


def held_out_rows(labels: NDArray[np.integer], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return which rows to hold out, (n,): of each class about `fraction`, drawn with `seed`; `labels` are (n,).

    Over all classes, as many as `fraction` of all rows is, rounded. Raises `ValueError` where that leaves none to
    hold out, or none to train on.
    """
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise ValueError(f"a validation fraction of {fraction:g} of {len(labels)} rows holds out {total} of them")
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * (total / len(labels))
    wanted = np.floor(exact).astype(int)
    largest_rest = np.argsort(-(exact - wanted), kind="stable")[: total - wanted.sum()]
    wanted[largest_rest] += 1
    generator, held_out = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for kind, count in zip(classes, wanted, strict=True):
        held_out[generator.permutation(np.flatnonzero(labels == kind))[:count]] = True
    return held_out


class HeldOut:
    """The metrics of `network` on rows held out, and, with `keep_best`, its parameters of the best epoch by them.

    Both are those of the parameters that training with `optimizer` would end with. `best` are the best, a vector like
    `network.parameters`, or None. `weights` are what the rows count.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        inputs: Pixels | Array,
        labels: Array,
        weights: Array | None = None,
        *,
        keep_best: bool,
        best: Array | None,
        block_rows: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        xp = network.backend.xp
        self._network, self._optimizer = network, optimizer
        self._batch = FullBatch(network, inputs, labels, block_rows, dense=True, ranks=ranks, weights=weights)
        self._noted = xp.empty_like(network.parameters) if keep_best else None
        self.best: Array = xp.empty_like(network.parameters) if keep_best and best is None else best

    def note(self) -> None:
        """Take note of the network as it is: compute its metrics."""
        with self._optimizer.result_in(self._network):
            if self._noted is not None:
                self._noted[...] = self._network.parameters
            self._batch.compute_metrics()

    def fetch(self) -> Callable[[], tuple[float, float]]:
        """Begin to fetch (accuracy, data loss) of the network noted; the function returned waits for them."""
        fetched = self._network.backend.fetch(self._batch.metrics.totals)

        def wait() -> tuple[float, float]:
            loss, accuracy, _penalty = fetched().tolist()
            return accuracy, loss

        return wait

    def keep(self) -> None:
        """Make the weights noted the best ones."""
        if self._noted is not None:
            self.best[...] = self._noted
