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


class Logged(NamedTuple):
    """A logged epoch: `totals` waits for its metrics, `held_out` for its (accuracy, loss) on rows held out.

    `trial` says that its weights are a trial of the optimizer's, whose loss need not be finite.
    """

    epoch: int
    learning_rate: float
    totals: Callable[[], Any]
    held_out: Callable[[], tuple[float, float]] | None
    trial: bool = False


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
        self._network = network
        self._logged: Logged | None = None
        best = history.best_place
        self._best = None if best is None else (history.score(best), history.epoch[best])

    def add(self, logged: Logged) -> None:
        """Take note of a logged epoch, after the one before it is reported."""
        self.finish()
        self._logged = logged

    def finish(self) -> None:
        """Report the epoch added last, if it is not yet."""
        if self._logged is None:
            return
        logged, self._logged = self._logged, None
        loss, accuracy, penalty = logged.totals().tolist()
        held_out = logged.held_out and logged.held_out()
        self._history.append(logged.epoch, accuracy, loss + penalty, logged.learning_rate, penalty, held_out)
        self._compare(logged.epoch)
        if not math.isfinite(loss + penalty) and not logged.trial:
            self._diverged(f"the loss is {loss + penalty} at epoch {logged.epoch}")
        for notify in self._notify:
            notify(self._history)

    def check_weights(self, done: int) -> None:
        """Tell where a weight is not finite after `done` epochs: their sum is not finite then; waits for it."""
        network = self._network
        if not math.isfinite(float(network.backend.xp.sum(network.parameters))):
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
