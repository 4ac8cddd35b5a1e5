"""What a training run logged, as lists with one entry a logged epoch."""

import csv
import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from fmnist_xp.errors import RunError
from fmnist_xp.files import read_text, write_text

COLUMNS = ("epoch", "accuracy", "loss", "learning_rate", "regularization_loss")
MAX_BYTES = 64 * 2**20  # about 800,000 logged epochs


@dataclass
class History:
    """The metrics of each logged epoch, taken before that epoch's update.

    `loss` is data loss plus regularization loss. `learning_rate` is that of the update before, as the
    notebook printed it. `epoch_seconds` has one entry for every epoch run, logged or not. `column_share` is the share
    of the columns that the first layer's products were computed with: less than 1 where background was left out.
    """

    epoch: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    regularization_loss: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    interrupted: bool = False
    column_share: float = 1.0

    def __len__(self) -> int:
        """Return the number of logged epochs."""
        return len(self.epoch)

    def append(
        self, epoch: int, accuracy: float, loss: float, learning_rate: float, regularization_loss: float
    ) -> None:
        """Add one logged epoch."""
        self.epoch.append(epoch)
        self.accuracy.append(accuracy)
        self.loss.append(loss)
        self.learning_rate.append(learning_rate)
        self.regularization_loss.append(regularization_loss)

    def since(self, epoch: int) -> "History":
        """Return the part logged at `epoch` or later (an empty history where there is none)."""
        first = next((i for i, logged in enumerate(self.epoch) if logged >= epoch), len(self.epoch))
        return History(*(getattr(self, column)[first:] for column in COLUMNS))

    def to_csv(self) -> str:
        """Return the table as CSV text, with enough digits to read the same floats back."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(zip(*(getattr(self, column) for column in COLUMNS), strict=True))
        return text.getvalue()

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
            if tuple(header) != COLUMNS:
                found = ascii(",".join(header))
                raise ValueError(f"its columns are {found:.80}, not {','.join(COLUMNS)}")
            for row in rows:
                history._read(row, f"line {rows.line_num}")
        except OSError as error:
            raise RunError(f"cannot read the history {path}: {error.strerror}") from error
        except (ValueError, csv.Error) as error:
            raise RunError(f"{path} is not a history: {error}") from error
        return history

    def _read(self, row: list[str], place: str) -> None:
        """Add the logged epoch of a CSV row; raise `ValueError`, naming `place` and column, where it is none."""
        if len(row) != len(COLUMNS):
            raise ValueError(f"{place} has {len(row)} values, not {len(COLUMNS)}")
        last = self.epoch[-1] if self else -1
        # Of 15 digits at most: a float, which pictures are made of, holds all of these.
        epoch = int(row[0]) if re.fullmatch("[0-9]{1,15}", row[0]) else -1
        if epoch <= last:
            raise ValueError(f"{place}: epoch must be a whole number above {last}, got {row[0]!a:.40}")
        numbers = []
        for column, text in zip(COLUMNS[1:], row[1:], strict=True):
            try:
                numbers.append(_number(text))
            except ValueError:
                raise ValueError(f"{place}: {column} must be a number, got {text!a:.40}") from None
        self.append(epoch, *numbers)


def _number(text: str) -> float:
    """Return the float of `text`; a loss may be infinite, but not because its number is too large for a float."""
    value = float(text)
    if math.isinf(value) and text not in ("inf", "-inf"):
        raise ValueError
    return value
