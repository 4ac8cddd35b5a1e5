"""The folder of a run: its files, whether it is free, and reading and writing it whole."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fmnist_xp.backend import Backend
from fmnist_xp.data import CLASS_NAMES
from fmnist_xp.errors import RunError
from fmnist_xp.experiments import N_INPUTS
from fmnist_xp.files import read_text, write_text
from fmnist_xp.model import Sequential
from fmnist_xp.plain_json import check_form, parse_json
from fmnist_xp.report.drawing import save_figure
from fmnist_xp.report.plots import metrics_figure
from fmnist_xp.runs.settings import CONFIG_FORM, RESULT_FORM, Result, Settings
from fmnist_xp.train.history import History

logger = logging.getLogger("fmnist_xp")

CONFIG = "config.json"
HISTORY = "history.csv"
MODEL = "model.safetensors"
METRICS = "metrics.png"
RESULT = "result.json"
CONFUSION = "confusion.png"  # drawn later, by an evaluation

MAX_BYTES = 2**20  # of a JSON file; they have some 2,000


@dataclass(frozen=True)
class Run:
    """A finished run in its folder; `config` is what config.json holds."""

    folder: Path
    config: Mapping[str, Any]
    result: Result
    history: History

    @cached_property
    def title(self) -> str:
        """What was trained on what, for the titles of pictures."""
        result, data = self.result, self.result.dataset
        run = f"{result.experiment} · {result.device} · seed {result.seed}"
        return f"{run} · {data.name} ({data.train_rows:,} images)"

    def load_network(self, backend: Backend) -> Sequential:
        """Return the trained network on `backend`.

        Raises `RunError` where its file is missing or damaged, or the network is not one for these images.
        """
        network = Sequential.load(self.folder / MODEL, backend)
        if (found := (network.n_inputs, network.n_classes)) != (N_INPUTS, len(CLASS_NAMES)):
            raise RunError(
                f"the model in {self.folder} takes {found[0]} numbers and tells {found[1]} classes, "
                f"not {N_INPUTS} and {len(CLASS_NAMES)}: it is of another run"
            )
        return network


def default_folder(settings: Settings, backend: Backend) -> Path:
    """Return runs/<experiment>-<device>-s<seed>."""
    return Path("runs") / f"{settings.experiment.name}-{backend.name.replace(':', '')}-s{settings.seed}"


def check_folder(folder: Path, force: bool) -> None:
    """Raise `RunError` where a run must not be written to `folder`: it is a file, or holds something to lose."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: name another folder with --out")
    if not force and _holds_files(folder):
        kind = "a finished run" if (folder / RESULT).is_file() else "something already"
        raise RunError(f"{folder} holds {kind}: name another folder with --out, or replace it with --force")


@contextmanager
def reserved(folder: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Reserve an empty or missing `folder` with its config.json, and remove both again where the block raises.

    A folder with files is left alone: they stay whole until there is something to replace them.
    """
    if _holds_files(folder):
        yield
        return
    try:
        write_text(folder / CONFIG, _json(config))
        yield
    except BaseException:
        if folder.is_dir():
            (folder / CONFIG).unlink(missing_ok=True)
            if not _holds_files(folder):
                folder.rmdir()
        raise


def write_run(run: Run, network: Sequential) -> None:
    """Write all files of `run` to a temporary folder inside its own, then move them into place, the result last.

    So a folder with a result is a whole run, and a full disk leaves an earlier run as it was.
    """
    with TemporaryDirectory(prefix=".unfinished-", dir=run.folder) as temporary:
        staged = Path(temporary)
        write_text(staged / CONFIG, _json(run.config))
        run.history.save(staged / HISTORY)
        network.save(staged / MODEL)
        if run.history:
            _draw(run, staged / METRICS)
        write_text(staged / RESULT, _json(run.result.to_json()))
        for stale in (RESULT, METRICS, CONFUSION):
            (run.folder / stale).unlink(missing_ok=True)
        for name in (CONFIG, HISTORY, MODEL, METRICS, RESULT):
            if (staged / name).exists():
                (staged / name).replace(run.folder / name)


def load_run(folder: Path) -> Run:
    """Return the run in `folder`; raise `RunError` where there is none, or a file of it is missing or damaged."""
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}: make one with fmnist-xp train")
    if not (folder / RESULT).exists():
        raise RunError(f"{folder} is not a finished run: it has no {RESULT}")
    config = _read_json(folder / CONFIG, CONFIG_FORM)
    result = Result.from_json(_read_json(folder / RESULT, RESULT_FORM))
    history = History.load(folder / HISTORY)
    if not history:
        raise RunError(f"{folder / HISTORY} has nothing logged: train again")
    return Run(folder, config, result, history)


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _draw(run: Run, path: Path) -> None:
    """Draw the metrics; a picture that fails must not cost the training run, and can be drawn later."""
    try:
        figure = metrics_figure(run.history, title=run.title, experiment=run.result.experiment)
        save_figure(figure, path)
    except OSError:
        raise  # a full disk: the other files do not fit either
    except Exception as error:
        path.unlink(missing_ok=True)
        logger.warning("%s was not drawn (%s); fmnist-xp plot %s draws it", METRICS, error, run.folder)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, allow_nan=False) + "\n"  # in ASCII: a path may be no valid UTF-8


def _read_json(path: Path, form: Mapping[str, Any]) -> dict[str, Any]:
    try:
        values: dict[str, Any] = parse_json(read_text(path, MAX_BYTES))
        check_form(values, form)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    return values
