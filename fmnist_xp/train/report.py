"""What becomes of the epochs that ran: metrics into the history, callbacks told, and reasons to end the training."""

import inspect
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fmnist_xp.nn.network import Network
from fmnist_xp.train.history import History
from fmnist_xp.train.validation import HeldOut

logger = logging.getLogger("fmnist_xp")

_NONE = inspect.Parameter.empty


class Stretch(NamedTuple):
    """Epochs that ran at once, from `epoch` to `done`; what is fetched is waited for when it is asked for.

    `weights` is the sum of all weights after them, if it was asked for, `totals` the metrics of the first where it is
    logged, and `held_out` its (accuracy, loss) on rows held out.
    """

    epoch: int
    done: int
    learning_rate: float
    weights: Callable[[], Any] | None
    totals: Callable[[], Any] | None
    held_out: Callable[[], tuple[float, float]] | None


class Report:
    """Puts the metrics of logged epochs into the history and calls the callbacks, once the metrics have arrived."""

    def __init__(
        self,
        network: Network,
        history: History,
        callbacks: Iterable[Any],
        held_out: HeldOut | None,
        patience: int | None,
        keep_going: bool,
    ) -> None:
        self._history, self._held_out, self._patience, self._keep_going = history, held_out, patience, keep_going
        self._notify = [_notifier(callback, network) for callback in callbacks]
        self._stretch: Stretch | None = None
        best = history.best_place
        self._best = None if best is None else (history.score(best), history.epoch[best])

    def add(self, stretch: Stretch) -> None:
        """Take note of a stretch, after the one before it is reported."""
        self.finish()
        self._stretch = stretch

    def finish(self) -> None:
        """Report the stretch added last, if it is not yet."""
        if self._stretch is None:
            return
        stretch, self._stretch = self._stretch, None
        if stretch.totals is not None:
            loss, accuracy, penalty = stretch.totals().tolist()
            held_out = stretch.held_out and stretch.held_out()
            self._history.append(
                stretch.epoch, accuracy, loss + penalty, stretch.learning_rate, penalty, held_out or None
            )
            self._compare(stretch.epoch)
            if not math.isfinite(loss + penalty):
                self._diverged(f"the loss is {loss + penalty} at epoch {stretch.epoch}")
            for notify in self._notify:
                notify(self._history)
        if stretch.weights is not None:
            self.check(stretch.done, float(stretch.weights()))

    def check(self, done: int, weights: float) -> None:
        """Tell where the sum of all `weights` after `done` epochs is not finite: at least one of them is not."""
        if not math.isfinite(weights):
            self._diverged(f"the weights are no longer finite after epoch {done - 1}")

    def _compare(self, epoch: int) -> None:
        """Keep the weights where the validation metrics are the best so far, and stop where they long were not."""
        history = self._history
        if self._held_out is None:
            return
        score = history.score(-1)
        if self._best is None or score > self._best[0]:
            self._best = score, epoch
            self._held_out.keep()
        if self._patience and epoch - self._best[1] >= self._patience:
            history.stop(f"no better validation accuracy in {self._patience} epochs")

    def _diverged(self, found: str) -> None:
        """Tell once that training has diverged, and stop it."""
        history = self._history
        if history.diverged:
            return
        history.diverged = True
        logger.warning("%s: training has diverged; a lower learning rate may help", found)
        if not self._keep_going:
            history.stop(found)


def _notifier(callback: Any, network: Network) -> Callable[[History], Any]:
    """Return what tells a callback of a logged epoch: with the network where it takes two arguments."""
    function: Callable[..., Any] = getattr(callback, "on_epoch", callback)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some of those written in C
        return function
    needed = [
        p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    return (lambda history: function(history, network)) if len(needed) > 1 else function
