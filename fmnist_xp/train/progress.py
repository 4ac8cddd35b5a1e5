"""What `fit` shows: a live display on a terminal or in a notebook, or a line for each logged epoch."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any, Self

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.jupyter import JupyterMixin
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fmnist_xp.train.history import History

LINE_WIDTH = 79
"""Most columns of a log line."""
REFRESH_SECONDS = 0.1
"""Least time from one refresh of the live display to the next."""
BAR_WIDTHS = 8, 40
"""Least and most columns of the bar."""

_terminal_taken = threading.Lock()  # it has room for one display: a second training beside it prints lines


def checked_verbose(value: Any) -> int:
    """Return `value` as 0, 1 or 2, where True is 1 and False 0; raise `ValueError` for anything else."""
    if isinstance(value, bool | int | np.bool | np.integer) and value in (0, 1, 2):
        return int(value)
    raise ValueError(f"verbose must be 0 (silent), 1 (live display) or 2 (line per logged epoch), got {value!r}")


def log_line(history: History) -> str:
    """Return the line for the last logged epoch: the notebook's, and of rows held out "val: accuracy/loss".

    It has at most `LINE_WIDTH` columns: where there is more, the parts of the loss are left out, then the learning
    rate.
    """
    loss, penalty = history.loss[-1], history.regularization_loss[-1]
    metrics = f"epoch: {history.epoch[-1]}, acc: {history.accuracy[-1]:.3f}, loss: {_short(loss)}"
    parts = f" (data: {_short(loss - penalty)}, reg: {_short(penalty)})"
    rate, held_out = f", lr: {history.learning_rate[-1]:.6g}", ""
    if history.validation_accuracy:
        held_out = f", val: {history.validation_accuracy[-1]:.3f}/{_short(history.validation_loss[-1])}"
    lines = metrics + parts + rate + held_out, metrics + rate + held_out
    return next((line for line in lines if len(line) <= LINE_WIDTH), metrics + held_out)


class ProgressDisplay:
    """A callback that shows how far training is, how fast it runs, and the metrics of the last logged epoch.

    `verbose` 1 is a live display on a terminal or in a notebook, and where there is neither a line for each logged
    epoch; 2 is these lines, on a terminal with the display below them; 0 is nothing. `rows` is the number of samples
    of an epoch, and `first_epoch` the first that is trained now, of a resumed run. Of two displays at once, only the
    first has the terminal.
    """

    overlaps = True

    def __init__(
        self, epochs: int, rows: int = 0, verbose: int = 1, first_epoch: int = 0, console: Console | None = None
    ) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._verbose = verbose
        self._prints_lines = False
        self._view = _View(epochs, rows, first_epoch)
        self._history = History()
        self._places = ExitStack()
        self._refresh: Callable[[], None] | None = None
        self._refreshed = 0.0

    def __enter__(self) -> Self:
        """Show the display."""
        if place := self._place() if self._verbose else None:
            self._refresh = self._places.enter_context(place)
        self._prints_lines = self._verbose == 2 or (self._verbose == 1 and place is None)
        return self

    def __exit__(self, error: object, *_more: object) -> None:
        """Leave the display at the last epoch, or at the one reached, and then say why it is not the last."""
        reached = f"after {self._view.done:,} of {self._view.epochs:,} epochs"
        if error is not None:
            note = f"broken off {reached}"
        elif self._history.interrupted:
            note = f"interrupted {reached}"
        elif self._history.stopped:
            note = f"stopped {reached}: {self._history.stopped}"
        else:
            note = ""
            self._view.progress(self._view.epochs)
        self._view.ended = True
        self._places.close()
        if note and self._verbose:
            self._print(note)

    def on_progress(self, done: int) -> None:
        """Show that `done` epochs are done, with those before a run was resumed."""
        self._view.progress(done)
        now = time.perf_counter()
        if self._refresh is not None and now - self._refreshed >= REFRESH_SECONDS:
            self._refreshed = now
            self._refresh()

    def on_epoch(self, history: History) -> None:
        """Show the last logged epoch."""
        self._history = self._view.history = history
        if self._prints_lines:
            self._print(log_line(history))
        self.on_progress(history.epoch[-1] + 1)

    def _place(self) -> AbstractContextManager[Callable[[], None]] | None:
        """Return a place for the display, which gives the function that refreshes it; None where there is none."""
        if self._console.is_jupyter:
            return _notebook(self._view) if self._verbose == 1 else None
        # With a display of rich on the terminal, which may be the caller's own, stdout is its proxy.
        if not self._console.is_interactive or hasattr(sys.stdout, "rich_proxied_file"):
            return None
        return _terminal(self._view, self._console) if _terminal_taken.acquire(blocking=False) else None

    def _print(self, line: str) -> None:
        if self._console.is_jupyter:  # rich would make an HTML element of each line
            print(line, flush=True)
        else:
            self._console.print(line)


@contextmanager
def _terminal(view: "_View", console: Console) -> Iterator[Callable[[], None]]:
    """Show `view` as the last lines of the terminal, below all that is printed; `_terminal_taken` is held."""
    try:
        live = Live(
            view,
            console=console,
            auto_refresh=False,  # else a thread refreshes it, and training has all cores
            redirect_stdout=_is_terminal(sys.stdout),  # what goes to a file stays in the file
            redirect_stderr=_is_terminal(sys.stderr),
        )
        with live:
            yield live.refresh
    finally:
        _terminal_taken.release()


@contextmanager
def _notebook(view: "_View") -> Iterator[Callable[[], None]]:
    """Show `view` below the cell, and in place from then on."""
    handle = import_module("IPython.display").display(view, display_id=True)
    try:
        yield lambda: handle.update(view)
    finally:
        handle.update(view)


class _View(JupyterMixin):
    """The two lines of the display: how far and how fast, and the metrics; what a narrow terminal has no room for
    is left out from the right.
    """

    def __init__(self, epochs: int, rows: int, first_epoch: int) -> None:
        self.epochs, self.done = epochs, first_epoch
        self.history = History()
        self.ended = False
        self._rows = rows
        self._begun = self._now = time.perf_counter()
        self._first: tuple[float, int] | None = None  # when the first report came: what is before it is preparation

    def progress(self, done: int) -> None:
        """Take note that `done` epochs are done."""
        if done > self.done:
            self.done, self._now = done, time.perf_counter()
            self._first = self._first or (self._now, done)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the lines for the width of the terminal."""
        share = self.done / self.epochs if self.epochs else 1
        percent = f"{int(100 * share):3}%"
        text = _fitting([percent, f"{self.done:,}/{self.epochs:,}", *self._speed()], options.max_width)
        least, most = BAR_WIDTHS
        room = options.max_width - len(text) - 2
        if room >= least:
            line = Table.grid(padding=(0, 2, 0, 0))
            line.add_row(percent, ProgressBar(1, share, width=min(room, most)), text.removeprefix(percent).strip())
            yield line
        else:
            yield Text(text, no_wrap=True, overflow="crop")
        if self.history:
            yield Text(_fitting(self._metrics(), options.max_width), no_wrap=True, overflow="crop")

    def _speed(self) -> Iterator[str]:
        """Yield the time left, or at the end the time taken, and rates, the most important first."""
        first_time, first_done = self._first or (self._now, self.done)
        seconds = self._now - first_time
        rate = (self.done - first_done) / seconds if seconds > 0 else 0
        if self.ended:
            yield f"in {_duration(time.perf_counter() - self._begun)}"
        elif rate:
            yield f"{_duration((self.epochs - self.done) / rate)} left"
        if rate:
            yield f"{_three_digits(rate)} epochs/s" if rate >= 1 else f"{_three_digits(1 / rate)} s/epoch"
            if self._rows:
                yield f"{_three_digits(rate * self._rows)} samples/s"

    def _metrics(self) -> Iterator[str]:
        history = self.history
        yield f"loss {_short(history.loss[-1])}"
        yield f"accuracy {history.accuracy[-1]:.3f}"
        if history.validation_accuracy:
            yield f"val accuracy {history.validation_accuracy[-1]:.3f}"
        yield f"lr {history.learning_rate[-1]:.6g}"


def _fitting(words: Iterator[str] | Sequence[str], width: int) -> str:
    """Return as many of `words` as fit into `width` columns, two spaces apart, and the first in any case."""
    text, *more = words
    for word in more:
        if len(text) + 2 + len(word) > width:
            break
        text += f"  {word}"
    return text


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()  # None, where the shell has closed it


def _short(value: float) -> str:
    """Return a loss with 3 decimals, or a large one, of a training that diverges, with 3 digits."""
    return f"{value:.3g}" if abs(value) >= 1000 else f"{value:.3f}"


def _three_digits(value: float) -> str:
    """Return a positive rate with 3 digits, such as 28.3, 340 or 1.70M."""
    for unit in ("", "k", "M", "G"):
        if value < 999.5 or unit == "G":
            break
        value /= 1000
    return f"{value:#.3g}".rstrip(".") + unit if value < 999.5 else f"{value:,.0f}{unit}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
