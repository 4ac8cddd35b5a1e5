"""Event files for TensorBoard, written while a network trains."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fmnist_xp.errors import FmnistXpError
from fmnist_xp.train.history import History


class TensorBoardWriter:
    """A callback that writes the metrics of each logged epoch to an event file in `folder`/`run`.

    The scalars have the names of the history's columns, their step is the epoch, and values are float32: TensorBoard
    has no other. `settings`, nested or not, are the run's hyperparameters there. A history that begins with earlier
    epochs, as a resumed one does, is written whole, and TensorBoard is told to forget what the folder's older files
    have: no epoch is there twice.

    Raises `FmnistXpError` where TensorBoard is not installed, `OSError` where the folder cannot be written.
    """

    overlaps = True

    def __init__(self, folder: Path, run: str, settings: Mapping[str, Any] | None = None) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            message = f'event files need TensorBoard ({error}): pip install "fmnist-xp[tensorboard]"'
            raise FmnistXpError(message) from error
        self._events, self._summaries = event_pb2, summary_pb2
        self._settings = hparams_pb(_flat(settings or {}))
        try:
            str(folder).encode()
        except UnicodeEncodeError:
            raise FmnistXpError(
                f"{folder} is no name in UTF-8, which TensorBoard needs: name another folder"
            ) from None
        (folder / run).mkdir(parents=True, exist_ok=True)  # TensorBoard recurses into a path that is too long
        self._file = EventFileWriter(str(folder / run), flush_secs=5)
        self._history: History | None = None
        self._written = 0

    def on_epoch(self, history: History) -> None:
        """Write what was logged since the last call."""
        if history is not self._history:
            self._history, self._written = history, 0
            log = self._events.SessionLog(status=self._events.SessionLog.START)
            self._add(step=0, session_log=log)  # TensorBoard forgets all from this step on
            self._add(step=0, summary=self._settings)
        columns = history.columns
        for number in range(self._written, len(history)):
            values = [
                self._summaries.Summary.Value(tag=column, simple_value=getattr(history, column)[number])
                for column in columns[1:]
            ]
            self._add(step=history.epoch[number], summary=self._summaries.Summary(value=values))
        self._written = len(history)

    def close(self) -> None:
        """Write what is still in memory, and close the file."""
        self._file.close()

    def _add(self, **content: Any) -> None:
        self._file.add_event(self._events.Event(wall_time=time.time(), **content))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """Return nested settings as one level, with names such as "experiment.decay", and without those that are None."""
    flat: dict[str, bool | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[prefix + name] = value if isinstance(value, bool | int | float) else str(value)
    return flat
