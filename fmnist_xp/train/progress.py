"""What `fit` shows: the notebook's log lines, and on a terminal a progress bar below them."""

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fmnist_xp.train.history import History


def log_line(history: History) -> str:
    """Return the notebook's line for the last logged epoch."""
    loss = history.loss[-1]
    penalty = history.regularization_loss[-1]
    return (
        f"epoch: {history.epoch[-1]}, acc: {history.accuracy[-1]:.3f}, loss: {loss:.3f} "
        f"(data_loss: {loss - penalty:.3f}, reg_loss: {penalty:.3f}), lr: {history.learning_rate[-1]}"
    )


class ProgressDisplay:
    """A callback that prints a line for each logged epoch and keeps a bar of all `epochs` up to date."""

    overlaps = True

    def __init__(self, epochs: int, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=epochs, metrics="")
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        """Show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Take the bar away."""
        self._progress.stop()

    def on_epoch(self, history: History) -> None:
        """Show the last logged epoch."""
        done = history.epoch[-1] + 1
        rate = done / (time.perf_counter() - self._started)
        metrics = f"{rate:.1f} epochs/s  loss {history.loss[-1]:.3f}  accuracy {history.accuracy[-1]:.3f}"
        self._progress.update(self._task, completed=done, metrics=metrics)
        self._console.print(log_line(history))
