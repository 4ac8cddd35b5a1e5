"""A run on disk: what is read of it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fmnist_xp.backend import Backend
from fmnist_xp.data import Dataset, name_classes
from fmnist_xp.errors import DataError, RunError
from fmnist_xp.experiments import N_INPUTS
from fmnist_xp.model import Sequential
from fmnist_xp.runs.folder import CONFIG, HISTORY, MODEL, MODEL_BEST, RESULT, Holds, read_json, what_holds
from fmnist_xp.runs.settings import CONFIG_FORM, RESULT_FORM, Result, changes, words
from fmnist_xp.train.history import History


@dataclass(frozen=True)
class Run:
    """A finished run in its folder; `config` is what config.json holds."""

    folder: Path
    config: Mapping[str, Any]
    result: Result
    history: History

    @cached_property
    def changes(self) -> dict[str, Any]:
        """The settings that are not the experiment's own."""
        return changes(self.config)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by label."""
        return self.result.dataset.class_names

    @property
    def longest_edge(self) -> int:
        """How many pixels the longest edge of things on the training images has; 28, as garments, in older runs.

        Raises `RunError` where config.json holds something else.
        """
        edge = self.config["data"].get("longest_edge", 28)
        if type(edge) is not int or not 1 <= edge <= 28:
            raise RunError(f"{self.folder / CONFIG} is damaged: longest_edge is {edge!r}, not 1 to 28")
        return edge

    @cached_property
    def title(self) -> str:
        """What was trained on what, with which settings changed, for the titles of pictures."""
        result, data = self.result, self.result.dataset
        changed = [f"{name.replace('_', ' ')} {words(value)}" for name, value in self.changes.items()]
        parts = [result.experiment, *changed, result.device, f"seed {result.seed}"]
        parts.append(f"{data.name} ({data.train_rows:,} images)")
        if result.diverged or result.interrupted or result.stopped:
            end = "diverged" if result.diverged else "interrupted" if result.interrupted else "stopped"
            parts.append(f"{end} after {result.epochs:,} epochs")
        return " · ".join(parts)

    def load_network(self, backend: Backend, best: bool = False) -> Sequential:
        """Return the trained network on `backend`, as it was in the end or, with `best`, in its best epoch.

        Raises `RunError` where its file is missing or damaged, or the network is not one for these images.
        """
        path = self.folder / (MODEL_BEST if best else MODEL)
        if best and not path.exists():
            raise RunError(f"{self.folder} has no {MODEL_BEST}: train with --validation 0.1 --keep-best")
        if self.result.diverged and not path.exists():
            raise RunError(
                f"{self.folder} has no model, since its training has diverged ({self.result.stopped}): train again "
                "with a lower learning rate"
            )
        network = Sequential.load(path, backend)
        if (found := (network.n_inputs, network.n_classes)) != (N_INPUTS, len(self.class_names)):
            raise RunError(
                f"the model in {self.folder} takes {found[0]} numbers and tells {found[1]} classes, "
                f"not {N_INPUTS} and {len(self.class_names)}: it is of another run"
            )
        return network


def own_classes(folder: Path, names: tuple[str, ...], train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Return the two splits with the class `names` of the run in `folder`; `RunError` where theirs are others."""
    try:
        return name_classes(train, test, names, by=f"of {folder}")
    except DataError as error:
        raise RunError(f"{folder} was trained on other classes: name its own data with --data ({error})") from error


def load_run(folder: Path) -> Run:
    """Return the run in `folder`; raise `RunError` where there is none, or a file of it is missing or damaged."""
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}: make one with fmnist-xp train")
    if not (folder / RESULT).exists():
        cure = f": fmnist-xp train --resume {folder} goes on with it" * (what_holds(folder) is Holds.UNFINISHED)
        raise RunError(f"{folder} is not a finished run: it has no {RESULT}{cure}")
    config = read_json(folder / CONFIG, CONFIG_FORM)
    values = read_json(folder / RESULT, RESULT_FORM)
    try:
        result = Result.from_json(values)
    except ValueError as error:
        raise RunError(f"{folder / RESULT} is damaged: {error}") from error
    history = History.load(folder / HISTORY)
    if not history:
        raise RunError(f"{folder / HISTORY} has nothing logged: train again")
    return Run(folder, config, result, history)
