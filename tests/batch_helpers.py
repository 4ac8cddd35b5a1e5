"""The engine as tests ask it."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from fmnist_xp.backend import CpuBackend
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.rows import Shares
from fmnist_xp.train.tree import Tree

TIMEOUT = 60
"""Seconds until a thread that should have ended counts as hung."""


def logged(batch: FullBatch) -> Any:
    """Compute the gradients and return [data loss, accuracy, regularization loss]."""
    batch.compute_gradients(log=True)
    return batch.metrics.totals


def undivided(blocks: Sequence[slice]) -> Shares:
    """Return the shares of one rank that has all `blocks`, each a group of its own."""
    every = range(len(blocks))
    groups = [range(number, number + 1) for number in every]
    return Shares(Tree([1] * len(blocks)), [every], every, groups, every, 0, max(block.stop for block in blocks))


def held_to_time(work: Callable[[], Any]) -> Any:
    """Call `work` in a thread, return or raise what it does, and fail where it hangs."""
    results: list[tuple[Any, BaseException | None]] = []

    def note() -> None:
        try:
            results.append((work(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=note, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    assert not thread.is_alive(), "the work hangs"
    ((result, error),) = results
    if error is not None:
        raise error
    return result


class NotingFailure(CpuBackend):
    """A CPU that notes when a thread is back because it failed."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.failed = threading.Event()

    def map(self, work: Callable[[int], None], workers: int) -> None:
        """See `Backend.map`."""

        def noted(worker: int) -> None:
            try:
                work(worker)
            except BaseException:
                self.failed.set()
                raise

        super().map(noted, workers)
