"""What a training run logged, as lists with one entry a logged epoch."""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from fmnist_xp.errors import RunError
from fmnist_xp.files import write_text

COLUMNS = ("epoch", "accuracy", "loss", "learning_rate", "regularization_loss")


@dataclass
class History:
    """The figures of each logged epoch, taken before that epoch's update.

    `loss` is data loss plus regularization loss. `learning_rate` is that of the update before, as the
    notebook printed it. `epoch_seconds` has one entry for every epoch run, logged or not.
    """

    epoch: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    regularization_loss: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    interrupted: bool = False

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
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
            if tuple(header) != COLUMNS:
                raise ValueError(f"its columns are {', '.join(header)}, not {', '.join(COLUMNS)}")
            history = cls()
            for epoch, *figures in rows:
                history.append(int(epoch), *(float(figure) for figure in figures))
        except OSError as error:
            raise RunError(f"cannot read the history {path}: {error.strerror}") from error
        except (ValueError, TypeError, csv.Error) as error:
            raise RunError(f"{path} is not a history: {error}") from error
        return history
