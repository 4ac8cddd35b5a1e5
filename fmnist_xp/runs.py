"""A run: one experiment trained on one data set, and the folder that keeps all of it."""

import json
import logging
import math
import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fmnist_xp.backend import Backend
from fmnist_xp.blas import blas_name
from fmnist_xp.data import CLASS_NAMES, Dataset, preprocess
from fmnist_xp.errors import RunError
from fmnist_xp.experiments import N_INPUTS, Experiment
from fmnist_xp.files import read_text, write_text
from fmnist_xp.model import Sequential
from fmnist_xp.plain_json import check_form, parse_json
from fmnist_xp.report.plots import plot_metrics
from fmnist_xp.train.history import History

logger = logging.getLogger("fmnist_xp")

CONFIG = "config.json"
HISTORY = "history.csv"
MODEL = "model.safetensors"
METRICS = "metrics.png"
RESULT = "result.json"
CONFUSION = "confusion.png"  # drawn later, by an evaluation

MAX_BYTES = 2**20  # of a JSON file; they have some 2,000
CONFIG_FORM = {"experiment": {}, "seed": int, "precision": str, "log_every": int, "data": {"source": str}}
RESULT_FORM = {
    "experiment": str,
    "device": str,
    "device_name": str,
    "precision": str,
    "seed": int,
    "dataset": {"name": str, "sha256": str, "train_rows": int, "test_rows": int},
    "epochs": int,
    "test_accuracy": float | None,
    "test_loss": float | None,
}
"""What is used of a run's two JSON files, in the forms of `check_form`."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run computes, besides the data and the device.

    `block_rows` None leaves the choice to the backend, which knows its cache or memory.
    """

    experiment: Experiment
    seed: int = 0
    precision: str = "float32"
    log_every: int = 10
    block_rows: int | None = None


@dataclass(frozen=True)
class Run:
    """A finished run in its folder."""

    folder: Path
    config: Mapping[str, Any]
    result: Mapping[str, Any]
    history: History

    @cached_property
    def title(self) -> str:
        """What was trained on what, for the titles of pictures."""
        result = self.result
        return (
            f"{result['experiment']} · {result['device']} · seed {result['seed']} · {result['dataset']['name']} "
            f"({result['dataset']['train_rows']:,} images)"
        )

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


def check_folder(folder: Path, force: bool) -> None:
    """Raise `RunError` where a run must not be written to `folder`: it is a file, or holds something to lose."""
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder} is a file: name another folder with --out")
    if not force and folder.is_dir() and any(folder.iterdir()):
        kind = "a finished run" if (folder / RESULT).is_file() else "something already"
        raise RunError(f"{folder} holds {kind}: name another folder with --out, or replace it with --force")


def default_folder(settings: Settings, backend: Backend) -> Path:
    """Return runs/<experiment>-<device>-s<seed>."""
    return Path("runs") / f"{settings.experiment.name}-{backend.name.replace(':', '')}-s{settings.seed}"


def train_run(
    settings: Settings,
    train: Dataset,
    test: Dataset,
    backend: Backend,
    folder: Path,
    *,
    source: str,
    force: bool = False,
    verbose: bool = True,
) -> Run:
    """Train, evaluate and write the run to `folder`; an interrupted training is kept as far as it came.

    `source` is how the data was asked for. Raises `RunError`, before anything is trained, where `folder` holds
    something already and `force` is off.
    """
    experiment = settings.experiment
    network = experiment.make_network(backend, settings.seed, settings.precision)
    optimizer = experiment.make_optimizer()
    dataset = {
        "name": train.name,
        "sha256": dataset_sha256(train, test),
        "train_rows": len(train),
        "test_rows": len(test),
    }
    config = {
        "experiment": asdict(experiment),
        "optimizer": {"type": type(optimizer).__name__, **optimizer.config()},
        "seed": settings.seed,
        "precision": settings.precision,
        "log_every": settings.log_every,
        "block_rows": settings.block_rows,
        "device": backend.name,
        "device_name": backend.device_name,
        "threads": backend.threads,
        "graphs": backend.captures,
        "data": {"source": _absolute(source), "read_from": train.source, **dataset},
        "versions": versions(),
    }
    check_folder(folder, force)
    # What is there stays whole until there is something to replace it.
    reserved = not (folder.is_dir() and any(folder.iterdir()))
    try:
        if reserved:
            write_text(folder / CONFIG, _json(config))
        X, y = preprocess(train, shuffle_seed=settings.seed)
        started = time.perf_counter()
        history = network.fit(
            X,
            y,
            epochs=experiment.epochs,
            optimizer=optimizer,
            log_every=settings.log_every,
            verbose=verbose,
            block_rows=settings.block_rows,
        )
        backend.synchronize()
        total_seconds = time.perf_counter() - started
        trained = network.evaluate(X, y)
        del X
        tested = network.evaluate(*preprocess(test))
        seconds = history.epoch_seconds
        result = {
            "experiment": experiment.name,
            "device": backend.name,
            "device_name": backend.device_name,
            "blas": blas_name(),  # whose kernels decide the last bits on the CPU
            "precision": settings.precision,
            "seed": settings.seed,
            "dataset": dataset,
            "epochs": len(history.epoch_seconds),
            "interrupted": history.interrupted,
            "test_accuracy": tested.accuracy,
            "test_loss": tested.loss,
            "train_accuracy": trained.accuracy,
            "train_loss": trained.loss,
            "epoch_seconds": {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)},
            "samples_per_second": len(train) / statistics.median(seconds),
            "total_seconds": total_seconds,
            "peak_memory_bytes": backend.peak_memory(),
        }
        run = Run(folder, config, result, history)
        _write(run, network)
    except BaseException:
        if reserved and folder.is_dir():
            (folder / CONFIG).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
        raise
    return run


def load_run(folder: Path) -> Run:
    """Return the run in `folder`; raise `RunError` where there is none, or a file of it is missing or damaged."""
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}: make one with fmnist-xp train")
    if not (folder / RESULT).exists():
        raise RunError(f"{folder} is not a finished run: it has no {RESULT}")
    config = _read_json(folder / CONFIG, CONFIG_FORM)
    result = _read_json(folder / RESULT, RESULT_FORM)
    history = History.load(folder / HISTORY)
    if not history:
        raise RunError(f"{folder / HISTORY} has nothing logged: train again")
    return Run(folder, config, result, history)


def dataset_sha256(train: Dataset, test: Dataset) -> str:
    """Return the SHA-256 of the two splits' own SHA-256 digests, training first, in hexadecimal."""
    return sha256(bytes.fromhex(train.sha256) + bytes.fromhex(test.sha256)).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of everything that takes part in the arithmetic."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "blas": blas_name()}
    packages = ("fmnist-xp", "numpy", "opencv-python-headless", "opencv-python", "cupy-cuda12x", "cupy-cuda13x")
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _write(run: Run, network: Sequential) -> None:
    """Write all files of `run` to one side in its folder, then move them to their places, the result last.

    So a folder with a result is a whole run, and a disk that fills up leaves a run that was there as it was.
    """
    with TemporaryDirectory(prefix=".unfinished-", dir=run.folder) as temporary:
        staged = Path(temporary)
        write_text(staged / CONFIG, _json(run.config))
        run.history.save(staged / HISTORY)
        network.save(staged / MODEL)
        if run.history:
            _draw(run, staged / METRICS)
        write_text(staged / RESULT, _json(run.result))
        for stale in (RESULT, METRICS, CONFUSION):
            (run.folder / stale).unlink(missing_ok=True)
        for name in (CONFIG, HISTORY, MODEL, METRICS, RESULT):
            if (staged / name).exists():
                (staged / name).replace(run.folder / name)


def _draw(run: Run, path: Path) -> None:
    """Draw the metrics; a picture that fails must not cost the training, and can be drawn later."""
    try:
        plot_metrics(run.history, path, title=run.title, experiment=run.result["experiment"])
    except OSError:
        raise  # a full disk: the other files do not fit either
    except Exception as error:
        path.unlink(missing_ok=True)
        logger.warning("%s was not drawn (%s); fmnist-xp plot %s draws it", METRICS, error, run.folder)


def _absolute(source: str) -> str:
    """Return a source that means the same in another working directory."""
    return source if source in ("auto", "synthetic") else str(Path(source).expanduser().resolve())


def _json(values: Mapping[str, Any]) -> str:
    # JSON has no NaN: the loss of a run that diverged is null. In ASCII, since a path may be no valid UTF-8.
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    return json.dumps(finite, indent=2, allow_nan=False) + "\n"


def _read_json(path: Path, form: Mapping[str, Any]) -> dict[str, Any]:
    try:
        values: dict[str, Any] = parse_json(read_text(path, MAX_BYTES))
        check_form(values, form)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    return values
