"""The folder of a run: its files, its name, whether it is free, and the lock on it while it is written."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any

from fmnist_xp.backend import Backend
from fmnist_xp.errors import RunError
from fmnist_xp.files import read_text, write_text
from fmnist_xp.plain_json import check_form, parse_json, to_json
from fmnist_xp.runs.settings import CONFIG_FORM, Settings, changes, words
from fmnist_xp.train.checkpoint import checkpoint_files, epoch_of, left_behind

CONFIG = "config.json"
HISTORY = "history.csv"
MODEL = "model.safetensors"
MODEL_BEST = "model-best.safetensors"  # of the best epoch by validation
METRICS = "metrics.png"
RESULT = "result.json"
CONFUSION = "confusion.png"  # drawn later, by an evaluation
MISTAKES = "mistakes.png"
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
REPLACED = ".replaced"  # the run before, until the one that replaces it is whole

OURS = (RESULT, CONFIG, HISTORY, MODEL, MODEL_BEST, METRICS, CONFUSION, MISTAKES, CHECKPOINTS)
"""What belongs to a run, the file first that makes it a finished one."""

MAX_BYTES = 2**20  # of a JSON file; they have some 2,000

SHORT = {"learning_rate": "lr", "hidden": "hidden", "l2": "l2_", "validation": "val", "precision": ""}
SHORT |= {"engine": "", "schedule": "", "optimizer_options": ""}
"""Settings in the name of a folder; others go by their own."""

MOST_LETTERS = 120
"""Of the name of a new folder, however many settings are changed."""


class Holds(Enum):
    """What a folder holds."""

    NOTHING = "nothing"
    FINISHED = "a finished run"
    UNFINISHED = "an unfinished run"
    STARTED = "a run that learned nothing"
    OTHER = "something that is no run"


def what_holds(folder: Path) -> Holds:
    """Return what `folder`, which need not exist, holds."""
    replaces = (folder / REPLACED).is_dir()
    if not folder.is_dir() or not (replaces or any(not path.name.startswith(".") for path in folder.iterdir())):
        return Holds.NOTHING
    if (folder / RESULT).is_file():
        return Holds.FINISHED
    try:
        read_json(folder / CONFIG, CONFIG_FORM)
    except RunError:
        return Holds.STARTED if replaces else Holds.OTHER  # killed while it set the other aside
    return Holds.UNFINISHED if epochs_done(folder) or (folder / MODEL).exists() else Holds.STARTED


def epochs_done(folder: Path) -> int:
    """Return how many epochs the newest checkpoint of a run has, 0 where there is none."""
    return max(map(epoch_of, checkpoint_files(folder / CHECKPOINTS)), default=0)


def has_checkpoint(folder: Path) -> bool:
    """Return whether a run has a checkpoint, be it of its first weights."""
    return bool(checkpoint_files(folder / CHECKPOINTS))


def check_folder(folder: Path, force: bool = False) -> None:
    """Raise `RunError` where a run must not be written to `folder`: it is a file, or holds something to lose."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: name another folder with --out")
    holds = what_holds(folder)
    cure = "name another folder with --out"
    if holds is not Holds.OTHER:
        if force or holds in (Holds.NOTHING, Holds.STARTED):
            return
        cure += ", or replace it with --force"
    if holds is Holds.UNFINISHED:
        cure = f"go on with fmnist-xp train --resume {folder}, {cure}"
    raise RunError(f"{folder} holds {holds.value}: {cure}")


def default_folder(settings: Settings, backend: Backend, config: Mapping[str, Any]) -> Path:
    """Make and return runs/<experiment>-<device>-s<seed>, with changed settings, and a number where it is taken."""
    parts = [settings.experiment.name, backend.name.replace(":", ""), f"s{settings.seed}"]
    parts += [f"{SHORT.get(name, name)}{words(value)}" for name, value in changes(config).items()]
    name, number = "-".join(parts).replace(", ", "-").replace(" ", "")[:MOST_LETTERS].rstrip("-"), 1
    while True:
        folder = Path("runs") / (f"{name}-{number}" if number > 1 else name)
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
        if what_holds(folder) in (Holds.NOTHING, Holds.STARTED) and not is_locked(folder):
            return folder
        number += 1


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock on `folder`, which is made if it is missing.

    Raises `RunError` where another process, or thread, holds it. A process that dies lets it go.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0, thread_local=False):
            yield
    except Timeout:
        raise RunError(
            f"{folder} is being written by another process: wait for it, or name another folder with --out"
        ) from None


def is_locked(folder: Path) -> bool:
    """Return whether a process writes to `folder`."""
    if not (folder / LOCK).exists():
        return False
    try:
        with locked(folder):
            return False
    except (RunError, OSError):
        return True


@contextmanager
def new_run(folder: Path, config: Mapping[str, Any], force: bool) -> Iterator[None]:
    """Lock `folder` for a new run, set aside what it held of a run before, and write config.json.

    Where the block raises before anything was learned, all of it is undone; else the folder is left as by a process
    that was killed, to be resumed. Raises `RunError` as `check_folder` does.
    """
    check_folder(folder, force)
    with locked(folder):
        check_folder(folder, force)  # again: another run may have ended meanwhile
        try:
            _set_aside(folder)
            write_text(folder / CONFIG, to_json(config))
            yield
        except BaseException:
            if not epochs_done(folder):
                _undo(folder)
            raise
        shutil.rmtree(folder / REPLACED, ignore_errors=True)


def read_json(path: Path, form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object in a JSON file; raise `RunError` where it is missing or damaged, or not of this form."""
    try:
        values: dict[str, Any] = parse_json(read_text(path, MAX_BYTES))
        check_form(values, form)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    return values


def _set_aside(folder: Path) -> None:
    """Move a finished run into `REPLACED`; remove an unfinished one, and what hides there stays."""
    replaced = folder / REPLACED
    if what_holds(folder) is Holds.FINISHED and not replaced.exists():
        replaced.mkdir()
        for name in OURS:
            if (folder / name).exists():
                (folder / name).replace(replaced / name)
    else:
        _remove_run(folder)


def _undo(folder: Path) -> None:
    """Remove the run in `folder` and put back what it was to replace; a folder that is then empty goes too."""
    _remove_run(folder)
    replaced = folder / REPLACED
    if replaced.is_dir():
        for name in reversed(OURS):  # the result last
            if (replaced / name).exists():
                (replaced / name).replace(folder / name)
        replaced.rmdir()
    if what_holds(folder) is Holds.NOTHING and folder.is_dir():
        with suppress(OSError):  # on some systems a lock cannot be removed while it is held
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()


def _remove_run(folder: Path) -> None:
    """Remove what belongs to a run, and what a process that was killed while it wrote has left."""
    for path in left_behind(folder):
        path.unlink(missing_ok=True)
    for name in OURS:
        if name == CHECKPOINTS:
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            (folder / name).unlink(missing_ok=True)
