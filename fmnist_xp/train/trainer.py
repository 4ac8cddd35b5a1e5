"""The epoch loop: one update an epoch, figures fetched only where they are logged."""

import logging
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from fmnist_xp.backend import Array
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.history import History

logger = logging.getLogger("fmnist_xp")


class Callback(Protocol):
    """An object that wants to know of each logged epoch."""

    def on_epoch(self, history: History) -> None:
        """Take note of a logged epoch, the last entry of `history`, once its update is made."""


def train(
    network: Network,
    inputs: Array,
    labels: Array,
    *,
    epochs: int,
    optimizer: Optimizer,
    log_every: int = 10,
    callbacks: Iterable[Callback | Callable[[History], None]] = (),
    block_rows: int | None = None,
) -> History:
    """Train `network` full batch for `epochs` epochs on arrays of its backend, and return what was logged.

    Every `log_every`th epoch, from epoch 0 on, is logged: its figures are those before its update. Nothing else
    waits for the device. An interrupt (Ctrl-C) lets the epoch under way end and keeps what was learned, with
    `history.interrupted` set; a second one breaks off at once.
    """
    backend = network.backend
    history = History()
    notify: list[Any] = [getattr(callback, "on_epoch", callback) for callback in callbacks]
    with backend.computing(), _interrupt_noted() as interrupted:
        batch = FullBatch(network, inputs, labels, block_rows)
        marks = [backend.mark()]
        for epoch in range(epochs):
            figures = batch.compute_gradients(figures=epoch % log_every == 0)
            learning_rate = optimizer.current_learning_rate
            optimizer.step(network)
            marks.append(backend.mark())
            if figures is not None:
                loss, accuracy, penalty = backend.to_host(figures).tolist()
                history.append(epoch, accuracy, loss + penalty, learning_rate, penalty)
                _warn_once_diverged(history)
                for on_epoch in notify:
                    on_epoch(history)
            if interrupted.is_set():
                history.interrupted = True
                break
        history.epoch_seconds = backend.seconds_between(marks)
    return history


def _warn_once_diverged(history: History) -> None:
    if not math.isfinite(history.loss[-1]) and all(map(math.isfinite, history.loss[:-1])):
        logger.warning(
            "the loss is %s at epoch %d: training has diverged; a lower learning rate may help",
            history.loss[-1],
            history.epoch[-1],
        )


@contextmanager
def _interrupt_noted() -> Iterator[threading.Event]:
    """Turn the first SIGINT into an event; the second does what it did before."""
    noted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    # Only the main thread receives signals. One that is ignored (nohup) stays so, and a handler that was not set
    # from Python could not be put back.
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield noted
        return

    def note(_signal: int, _frame: FrameType | None) -> None:
        noted.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)
