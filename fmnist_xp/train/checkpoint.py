"""Checkpoints of a training, from which it goes on to the same bits: the last two in a folder."""

import logging
import re
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Array
from fmnist_xp.errors import RunError
from fmnist_xp.files import TEMPORARY
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.plain_json import check_form
from fmnist_xp.train.architecture import describe
from fmnist_xp.train.arrays import Kind, load_arrays, save_arrays
from fmnist_xp.train.history import COLUMNS, VALIDATION_COLUMNS, History
from fmnist_xp.train.source import Source, as_numbers

logger = logging.getLogger("fmnist_xp")

FORM = {
    "epoch": int,
    "network": {"dtype": str},
    "optimizer": {"type": str},
    "iterations": int,
    "learning_rate": float,
    "data": str,
    "arithmetic": str,
}
CHECKPOINT = Kind("checkpoint", "fmnist-xp checkpoint 1", tuple(FORM), "header")
INTERVAL = 30.0
"""Seconds from one checkpoint to the next, where writing one takes less than a hundredth of that."""
SAMPLE = 512
"""Rows that tell one data set from another."""


class State(NamedTuple):
    """Where a training is: `epoch` epochs are done, and logged in `history`; `best` are the best epoch's weights."""

    epoch: int
    history: History
    best: Array | None = None


class Checkpoints:
    """The checkpoints of one training of `network` in `folder`.

    Parameters
    ----------
    every
        Epochs from one to the next; by default about half a minute's, or a hundred times as long as writing takes.
    data
        What `fingerprint` gives for the rows that are trained on.
    """

    def __init__(self, folder: Path, network: Network, optimizer: Optimizer, data: str, every: int | None = None):
        self.folder, self._network, self._optimizer, self._every = folder, network, optimizer, every
        architecture = describe(network)  # which tells, before anything is trained, what cannot be saved
        self._settings: dict[str, Any] = {
            "network": architecture,
            "optimizer": {"type": type(optimizer).__name__, **optimizer.config()},
            "data": data,
        }
        self._good: list[Path] = []  # at most two, the newest last
        self._saved_epoch, self._saved_at, self._cost, self._failed = 0, time.monotonic(), 0.0, False

    def begin(self, resume: bool) -> State | None:
        """Return the state to go on from: with `resume` as `restore` does, else None.

        Raises `RunError` where there are checkpoints and they are not asked for: a new training would remove them.
        """
        if resume:
            return self.restore()
        if found := checkpoint_files(self.folder):
            raise RunError(f"{self.folder} holds a checkpoint ({found[-1].name}): resume it, or name another folder")
        return None

    def restore(self) -> State | None:
        """Set network and optimizer to the newest checkpoint that is not damaged, and return its state.

        None where there is no checkpoint. Raises `RunError` where all are damaged, or of another training.
        """
        found = checkpoint_files(self.folder)
        for number, path in reversed(list(enumerate(found, start=1))):
            try:
                header, arrays = read_checkpoint(path)
            except RunError as error:
                logger.warning("%s; the checkpoint before it is taken", error)
                continue
            self._check(path, header)
            state = self._set(path, header, arrays)
            self._good, self._saved_epoch = found[max(0, number - 2) : number], state.epoch
            return state
        if found:
            raise RunError(f"{self.folder} holds no checkpoint that can be read: train again")
        return None

    def due(self, epoch: int) -> bool:
        """Return whether it is time for a checkpoint, now that `epoch` epochs are done."""
        if self._every:
            return epoch // self._every > self._saved_epoch // self._every
        return time.monotonic() - self._saved_at >= max(INTERVAL, 100 * self._cost)

    def save(self, state: State) -> None:
        """Write a checkpoint and remove all but the last two; what fails is told once, and training goes on."""
        try:
            self.write(state)
        except OSError as error:
            if not self._failed:
                logger.warning("no checkpoint is written, training goes on: %s: %s", error.filename, error.strerror)
            self._failed, self._saved_at = True, time.monotonic()

    def write(self, state: State) -> None:
        """Write a checkpoint and remove all but the last two; raises `OSError` where it cannot be written."""
        path = self.folder / f"epoch-{state.epoch:09}.safetensors"
        if path in self._good[-1:]:  # nothing was done since
            self._remove_others()
            return
        started = time.monotonic()
        optimizer = self._optimizer
        header = {
            "epoch": state.epoch,
            **self._settings,
            "iterations": optimizer.iterations,
            "learning_rate": optimizer.current_learning_rate,
            "arithmetic": self._network.backend.arithmetic,
        }
        save_arrays(path, CHECKPOINT, self._arrays(state), header)
        self._good = [*self._good[-1:], path]
        self._remove_others()
        self._saved_epoch, self._saved_at, self._failed = state.epoch, time.monotonic(), False
        self._cost = self._saved_at - started

    def _remove_others(self) -> None:
        """Remove all but the last two, and what a process that was killed while it wrote has left."""
        for other in {*checkpoint_files(self.folder), *left_behind(self.folder)} - {*self._good}:
            other.unlink(missing_ok=True)

    def _arrays(self, state: State) -> dict[str, NDArray[Any]]:
        to_host, history = self._network.backend.to_host, state.history
        arrays = {"parameters": to_host(self._network.parameters)}
        arrays |= {f"moment{n}": values for n, values in enumerate(self._optimizer.state(self._network), start=1)}
        if state.best is not None:
            arrays["best"] = to_host(state.best)
        for column in (*history.columns, "epoch_seconds"):
            arrays[f"history.{column}"] = np.array(getattr(history, column), dtype="float64")
        return arrays

    def _check(self, path: Path, header: Mapping[str, Any]) -> None:
        """Raise `RunError` where a checkpoint is of another training than this; warn where the bits may differ."""
        for name, what in (("network", "layers and loss"), ("optimizer", "optimizer"), ("data", "rows")):
            found, wanted = header[name], self._settings[name]
            if name == "network":  # tf32 and float16 have float32 parameters, which train on in float32
                found, wanted = ({**dict(network), "dtype": None} for network in (found, wanted))
            if found != wanted:
                differing = f": {found} there, {wanted} here" if name == "optimizer" else ""
                raise RunError(f"{path} is of a training with other {what}{differing}: start anew, or give the same")
        before = f"{header['network']['dtype']} on {header['arithmetic']}"
        now = f"{self._network.dtype} on {self._network.backend.arithmetic}"
        if before != now:
            logger.warning("the first %d epochs were trained in %s; from here on in %s", header["epoch"], before, now)

    def _set(self, path: Path, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> State:
        network, optimizer = self._network, self._optimizer
        history = History()
        columns = COLUMNS + (VALIDATION_COLUMNS if "history.validation_loss" in arrays else ())
        try:
            for column in (*columns, "epoch_seconds"):
                setattr(history, column, arrays[f"history.{column}"].tolist())
            history.epoch = [int(epoch) for epoch in history.epoch]
            parameters = arrays["parameters"]
            if (parameters.shape, parameters.dtype) != (network.parameters.shape, network.parameters.dtype):
                raise ValueError(f"its parameters are {parameters.dtype} of the shape {parameters.shape}")
            optimizer.load_state(network, [arrays[name] for name in sorted(arrays) if name.startswith("moment")])
        except (KeyError, ValueError) as error:
            raise RunError(f"{path} does not fit this training ({error}): start anew") from error
        with network.backend.current():
            network.parameters[...] = network.backend.asarray(parameters)
            best = network.backend.asarray(arrays["best"]) if "best" in arrays else None
        optimizer.iterations, optimizer.current_learning_rate = header["iterations"], header["learning_rate"]
        return State(header["epoch"], history, best)


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, the newest last."""
    return sorted(path for path in _files(folder) if re.fullmatch(r"epoch-\d{9,}\.safetensors", path.name))


def epoch_of(path: Path) -> int:
    """Return how many epochs were done when a checkpoint was written, by its name."""
    return int(path.stem.removeprefix("epoch-"))


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return (header, arrays); raise `RunError` where it is damaged."""
    arrays, header = load_arrays(path, CHECKPOINT)
    try:
        check_form(header, FORM)
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    return header, arrays


def fingerprint(source: Source, *of_each: NDArray[Any]) -> str:
    """Return the SHA-256, in hexadecimal, of the shape of all rows, of `SAMPLE` of them, and of what is `of_each`.

    That is their labels, class indices, and their weights. All ranks call this at once, with those of all.
    """
    rows = as_numbers(source.sample(np.linspace(0, source.rows - 1, min(SAMPLE, source.rows)).astype("int64")))
    digest = sha256(repr((source.rows, rows.shape[1])).encode())
    digest.update(np.asarray(rows, dtype="<f4").tobytes())
    for values in of_each:
        digest.update(np.asarray(values, dtype="<f8" if values.dtype.kind == "f" else "<i8").tobytes())
    return digest.hexdigest()


def left_behind(folder: Path) -> list[Path]:
    """Return what a process that was killed while it wrote has left."""
    return [path for path in _files(folder) if TEMPORARY.fullmatch(path.name)]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
