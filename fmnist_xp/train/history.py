"""What a training run logged, as lists with one entry a logged epoch."""

import csv
import io
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fmnist_xp.errors import RunError
from fmnist_xp.files import read_text, write_text

COLUMNS = ("epoch", "accuracy", "loss", "learning_rate", "regularization_loss")
VALIDATION_COLUMNS = ("validation_accuracy", "validation_loss")
"""Those that a run with rows held out has too."""
DIP = 0.02
"""How far below its best training accuracy a run ends that ends in a dip."""
MAX_BYTES = 64 * 2**20  # about 800,000 logged epochs


@dataclass(repr=False)
class History:
    """The metrics of each logged epoch, taken before that epoch's update.

    `loss` is data loss plus regularization loss. `learning_rate` is that of the update before, as the
    notebook printed it. `validation_accuracy` and `validation_loss`, the data loss, are those of rows held out, taken
    with the same weights, and empty where there are none. `epoch_seconds` has an entry for every epoch run, logged or
    not. `column_share` is the share of the columns that the first layer's products were computed with: less than 1
    where background was left out. `stopped` says why training ended before its last epoch, if it did: by a callback,
    an interrupt (`interrupted`, with the number of the `signal`), or a loss that is not finite (`diverged`).
    `best_state` are the weights of the best epoch by validation, as of `Network.state_dict`, where they were kept.
    `message_seconds` is how long this rank of several spent on messages and waiting for others, if that was measured.
    """

    epoch: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    regularization_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    interrupted: bool = False
    column_share: float = 1.0
    stopped: str = ""
    diverged: bool = False
    signal: int = 0
    best_state: dict[str, Any] | None = None
    message_seconds: float | None = None

    def __len__(self) -> int:
        """Return the number of logged epochs."""
        return len(self.epoch)

    def __repr__(self) -> str:
        """Return how many epochs ran and were logged, and the last metrics."""
        if not self:
            return "<History: nothing logged>"
        metrics = [f"accuracy {self.accuracy[-1]:.4f}", f"loss {self.loss[-1]:.4f}"]
        if self.validation_accuracy:
            metrics += [f"validation accuracy {self.validation_accuracy[-1]:.4f}, best at epoch {self.best_epoch}"]
        return f"<History: {len(self):,} epochs logged, the last {self.epoch[-1]:,}: {', '.join(metrics)}>"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the lists that have an entry for each logged epoch."""
        return COLUMNS + (VALIDATION_COLUMNS if self.validation_accuracy else ())

    @property
    def best_epoch(self) -> int | None:
        """The logged epoch of the best validation accuracy, among equals of the lowest loss; None without validation.

        Its metrics, and so the weights they are of, are those before its update.
        """
        return None if self.best_place is None else self.epoch[self.best_place]

    @property
    def best_place(self) -> int | None:
        """Where `best_epoch` stands in the lists."""
        return max(range(len(self.validation_accuracy)), key=self.score, default=None)

    def score(self, place: int) -> tuple[float, float]:
        """Return (validation accuracy, −loss) of a logged epoch by its place: higher where it is better."""
        accuracy, loss = self.validation_accuracy[place], self.validation_loss[place]
        return (accuracy, -loss) if math.isfinite(loss) else (-1.0, 0.0)

    def stop(self, reason: str) -> None:
        """End the training that this is the history of, after the epoch under way; for callbacks."""
        self.stopped = self.stopped or reason

    def append(
        self,
        epoch: int,
        accuracy: float,
        loss: float,
        learning_rate: float,
        regularization_loss: float,
        validation: tuple[float, float] | None = None,
    ) -> None:
        """Add one logged epoch; `validation` is (accuracy, loss), in every epoch or in none."""
        values = (epoch, accuracy, loss, learning_rate, regularization_loss, *(validation or ()))
        for column, value in zip(COLUMNS + VALIDATION_COLUMNS, values, strict=False):
            getattr(self, column).append(value)

    def since(self, epoch: int) -> "History":
        """Return the part logged at `epoch` or later (an empty history where there is none)."""
        return self._part(slice(bisect_left(self.epoch, epoch), None))

    def until(self, epoch: int) -> "History":
        """Return the part logged at `epoch` or earlier."""
        return self._part(slice(bisect_right(self.epoch, epoch)))

    def _part(self, logged: slice) -> "History":
        return History(**{column: getattr(self, column)[logged] for column in self.columns})

    def rows(self) -> Iterator[tuple[float, ...]]:
        """Yield the values of each logged epoch, in the order of `columns`."""
        yield from zip(*(getattr(self, column) for column in self.columns), strict=True)

    def to_csv(self) -> str:
        """Return the table as CSV text, with enough digits to read the same floats back."""
        return _csv_text([self.columns, *self.rows()])

    def last_csv_row(self) -> str:
        """Return the last line of `to_csv()`."""
        return _csv_text([tuple(getattr(self, column)[-1] for column in self.columns)])

    def save(self, path: Path) -> None:
        """Write `to_csv()` to `path`."""
        write_text(path, self.to_csv())

    @classmethod
    def load(cls, path: Path) -> "History":
        """Read a CSV file written by `save`.

        Raises `RunError` where the file is missing or is not such a table.
        """
        history = cls()
        try:
            rows = csv.reader(io.StringIO(read_text(path, MAX_BYTES)))
            header = next(rows, [])
            if tuple(header) not in (COLUMNS, COLUMNS + VALIDATION_COLUMNS):
                found = ascii(",".join(header))
                raise ValueError(f"its columns are {found:.80}, not {','.join(COLUMNS)}")
            for row in rows:
                history._read(header, row, f"line {rows.line_num}")
        except OSError as error:
            raise RunError(f"cannot read the history {path}: {error.strerror}") from error
        except (ValueError, csv.Error) as error:
            raise RunError(f"{path} is not a history: {error}") from error
        return history

    def _read(self, header: list[str], row: list[str], place: str) -> None:
        """Add the logged epoch of a CSV row; raise `ValueError`, naming `place` and column, where it is none."""
        if len(row) != len(header):
            raise ValueError(f"{place} has {len(row)} values, not {len(header)}")
        last = self.epoch[-1] if self else -1
        # Of 15 digits at most: a float, which pictures are made of, holds all of these.
        epoch = int(row[0]) if re.fullmatch("[0-9]{1,15}", row[0]) else -1
        if epoch <= last:
            raise ValueError(f"{place}: epoch must be a whole number above {last}, got {row[0]!a:.40}")
        numbers = []
        for column, text in zip(header[1:], row[1:], strict=True):
            try:
                numbers.append(_number(text))
            except ValueError:
                raise ValueError(f"{place}: {column} must be a number, got {text!a:.40}") from None
        for column, value in zip(header, [epoch, *numbers], strict=True):
            getattr(self, column).append(value)


def ended_in_dip(history: History, final_accuracy: float) -> int | None:
    """Return the logged epoch of the best training accuracy where the final one is more than `DIP` below it.

    `final_accuracy` is that on the training images after the last update. None where it is not, where nothing is
    logged, and where training diverged, which is another matter.
    """
    if history.diverged or not history.loss or not math.isfinite(history.loss[-1]):
        return None
    finite = [place for place, accuracy in enumerate(history.accuracy) if math.isfinite(accuracy)]
    best = max(finite, key=history.accuracy.__getitem__, default=None)
    if best is None or not history.accuracy[best] - final_accuracy > DIP:
        return None
    return history.epoch[best]


def _csv_text(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _number(text: str) -> float:
    """Return the float of `text`; a loss may be infinite, but not because its number is too large for a float."""
    value = float(text)
    if math.isinf(value) and text not in ("inf", "-inf"):
        raise ValueError
    return value
