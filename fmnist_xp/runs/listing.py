"""The runs in a folder: what each is, how far it came, and how good it is."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmnist_xp.errors import RunError
from fmnist_xp.runs.folder import CONFIG, Holds, epochs_done, is_locked, read_json, what_holds
from fmnist_xp.runs.run import load_run
from fmnist_xp.runs.settings import CONFIG_FORM, changes

logger = logging.getLogger("fmnist_xp")


@dataclass(frozen=True)
class Listed:
    """A run in a list; `test_accuracy` is NaN where it was not evaluated.

    `state` is "finished", "stopped", "interrupted" or "diverged", or of a run without a result "training" where a
    process writes to it, else "unfinished".
    """

    folder: Path
    experiment: str
    changes: dict[str, Any]
    device: str
    seed: int
    data: str
    epochs: int
    of_epochs: int
    state: str
    test_accuracy: float


def list_runs(folder: Path) -> Iterator[Listed]:
    """Yield the runs in `folder` and in its sub folders, by name; warn of one that cannot be read."""
    if not folder.is_dir():
        raise RunError(f"there is no folder {folder}: fmnist-xp train makes runs")
    for path in sorted({config.parent for config in folder.rglob(CONFIG)}):
        if path.name.startswith("."):
            continue
        try:
            yield _listed(path)
        except (RunError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s is left out: %s", path, error)


def _listed(folder: Path) -> Listed:
    config = read_json(folder / CONFIG, CONFIG_FORM)
    epochs, accuracy = epochs_done(folder), math.nan
    if what_holds(folder) is Holds.FINISHED:
        result = load_run(folder).result
        epochs, accuracy = result.epochs, result.test_accuracy
        state = "diverged" if result.diverged else "interrupted" if result.interrupted else "finished"
        state = "stopped" if state == "finished" and result.stopped else state
    else:
        state = "training" if is_locked(folder) else "unfinished"
    return Listed(
        folder,
        str(config["experiment"].get("name", "")),
        changes(config),
        str(config.get("device", "")),
        config["seed"],
        str(config["data"].get("name", "")),
        epochs,
        int(config["experiment"].get("epochs", 0)),
        state,
        accuracy,
    )
