"""The epoch loop: one update an epoch, metrics fetched only where they are logged."""

import logging
import math
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from fmnist_xp.backend import Array
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.train.epochs import Epochs
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.history import History

logger = logging.getLogger("fmnist_xp")


class Callback(Protocol):
    """An object that wants to know of each logged epoch.

    One with an attribute `overlaps` that is true looks at the history alone, and may be called while the next epochs
    run; for any other the network is as its update left it.
    """

    def on_epoch(self, history: History) -> None:
        """Take note of a logged epoch, the last entry of `history`, once its update is made."""


def train(
    network: Network,
    inputs: Pixels | Array,
    labels: Array,
    *,
    epochs: int,
    optimizer: Optimizer,
    log_every: int = 10,
    callbacks: Iterable[Callback | Callable[[History], None]] = (),
    block_rows: int | None = None,
    dense: bool | None = None,
) -> History:
    """Train `network` full batch for `epochs` epochs on rows as `rows.lay_out` takes them; return what was logged.

    Every `log_every`th epoch, from epoch 0 on, is logged: its metrics are those before its update. Nothing else
    waits for the device. An interrupt (Ctrl-C) lets the epoch under way end and keeps what was learned, with
    `history.interrupted` set; a second one breaks off at once.

    A backend that captures runs all epochs from one logged to the next at once: an interrupt then lets these end,
    `epoch_seconds` has their mean, and a callback that overlaps is called while the next ones run.
    """
    backend = network.backend
    history = History()
    callbacks = list(callbacks)
    report = _Report(history, callbacks)
    overlapping = all(getattr(callback, "overlaps", False) for callback in callbacks)
    with backend.computing(), _interrupt_noted() as interrupted:
        batch = FullBatch(network, inputs, labels, block_rows, dense)
        history.column_share = batch.rows.column_share
        runner = Epochs(batch, optimizer, min(log_every, max(1, epochs)))
        marks, counts = [backend.mark()], []
        for epoch, count in _stretches(epochs, log_every, runner.captures, overlapping):
            learning_rate = optimizer.current_learning_rate
            log = epoch % log_every == 0
            runner.run(count, log)
            marks.append(backend.mark())
            counts.append(count)
            if log:
                fetched = backend.fetch(batch.metrics.totals)
                report.finish()
                report.begin(epoch, fetched, learning_rate)
                if not (runner.captures and overlapping):
                    report.finish()
            if interrupted.is_set():
                history.interrupted = True
                break
        report.finish()
        seconds = backend.seconds_between(marks)
        history.epoch_seconds = [
            one / count for one, count in zip(seconds, counts, strict=True) for _ in range(count)
        ]
    return history


def _stretches(epochs: int, log_every: int, captures: bool, overlapping: bool) -> Iterator[tuple[int, int]]:
    """Yield (first epoch, number of epochs) of each stretch that runs at once; a logged epoch is the first of one.

    Callbacks that look at more than the history are called right after their epoch, which then runs alone.
    """
    epoch = 0
    while epoch < epochs:
        last = min(epochs, epoch - epoch % log_every + log_every)
        alone = not captures or (not overlapping and epoch % log_every == 0)
        count = 1 if alone else last - epoch
        yield epoch, count
        epoch += count


class _Report:
    """Puts the metrics of logged epochs into the history and calls the callbacks, once the metrics have arrived."""

    def __init__(self, history: History, callbacks: Iterable[Callback | Callable[[History], None]]) -> None:
        self._history = history
        self._notify: list[Any] = [getattr(callback, "on_epoch", callback) for callback in callbacks]
        self._begun: tuple[int, Callable[[], Any], float] | None = None

    def begin(self, epoch: int, fetched: Callable[[], Any], learning_rate: float) -> None:
        """Take note of an epoch whose metrics `fetched` waits for."""
        self._begun = epoch, fetched, learning_rate

    def finish(self) -> None:
        """Report the epoch begun, if there is one."""
        if self._begun is None:
            return
        (epoch, fetched, learning_rate), self._begun = self._begun, None
        loss, accuracy, penalty = fetched().tolist()
        self._history.append(epoch, accuracy, loss + penalty, learning_rate, penalty)
        *before, now = self._history.loss
        if not math.isfinite(now) and all(map(math.isfinite, before)):
            told = "the loss is %s at epoch %d: training has diverged; a lower learning rate may help"
            logger.warning(told, now, epoch)
        for on_epoch in self._notify:
            on_epoch(self._history)


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
