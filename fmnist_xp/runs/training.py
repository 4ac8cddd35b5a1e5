"""Training a run, and going on with one: whatever ends it, what was learned is in its folder."""

import logging
import math
import shutil
import time
from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from fmnist_xp.backend import Backend
from fmnist_xp.data import Dataset, Pixels, pixels
from fmnist_xp.errors import RunError
from fmnist_xp.files import write_text
from fmnist_xp.model import Metrics
from fmnist_xp.plain_json import to_json
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.report.drawing import save_figure
from fmnist_xp.report.plots import metrics_figure
from fmnist_xp.runs import folder as files
from fmnist_xp.runs.run import Run, own_classes
from fmnist_xp.runs.settings import CONFIG_FORM, DataSummary, Result, Settings, class_names, dataset_sha256
from fmnist_xp.train.architecture import describe
from fmnist_xp.train.arrays import MODEL, save_arrays
from fmnist_xp.train.checkpoint import left_behind
from fmnist_xp.train.history import History
from fmnist_xp.train.tensorboard import TensorBoardWriter

logger = logging.getLogger("fmnist_xp")


def train_run(
    settings: Settings,
    train: Dataset,
    test: Dataset,
    backend: Backend,
    folder: Path | None,
    *,
    source: str,
    classes: str | None = None,
    force: bool = False,
    ranks: Ranks = ALONE,
    **how: Any,
) -> Run:
    """Train, evaluate and write the run to `folder`, by default a new one; return it.

    `source` is how the data was asked for, `classes` how the names of its classes, `how` what `_train` takes. Model
    and history are written before anything is evaluated or drawn. Of several `ranks`, all of which call this with the
    whole data, the first alone writes, and each trains on its share. Raises `RunError`, before anything is trained,
    where `folder` holds something to lose and `force` is off, or another process writes to it.
    """

    def begin() -> tuple[dict[str, Any], Path]:
        config = settings.config(train, test, backend, source, classes)
        place = folder or files.default_folder(settings, backend, config)
        held.enter_context(files.new_run(place, config, force))
        return config, place

    ranks.compare(_identity(settings, train, test))
    with ExitStack() as held:
        config, place = ranks.by_first(begin)
        return _train(settings, config, train, test, backend, place, ranks, **how)


def resume_run(
    folder: Path,
    train: Dataset,
    test: Dataset,
    backend: Backend,
    *,
    epochs: int | None = None,
    ranks: Ranks = ALONE,
    **how: Any,
) -> Run:
    """Go on with the run in `folder`, up to `epochs` if that is given; return it.

    It comes to the bits of a run that was never stopped, on any number of `ranks`. `how` is what `_train` takes.
    Raises `RunError` where there is no run to go on with, its data are not these, or it has more epochs already.
    Classes have the names that they have in the run, whatever they are called in the data.
    """

    def begin() -> tuple[dict[str, Any], Settings]:
        settings_to_resume(folder, epochs)  # before a lock is made where there is no run
        held.enter_context(files.locked(folder))
        config, settings = settings_to_resume(folder, epochs)
        own = own_classes(folder, class_names(config["data"]), train, test)
        if (found := dataset_sha256(*own)) != config["data"].get("sha256"):
            raise RunError(
                f"{folder} is trained on other images than {train.name} from {train.source} (SHA-256 {found[:12]}…): "
                "name its own with --data"
            )
        if not backend.has_precision(settings.precision):
            logger.warning("%s has no %s: it goes on in float32", backend.name, settings.precision)
            settings = replace(settings, precision="float32")
        config = config | settings.config(*own, backend, config["data"]["source"], config["data"].get("classes"))
        write_text(folder / files.CONFIG, to_json(config))
        stale = [folder / name for name in (files.RESULT, files.METRICS, files.CONFUSION, files.MISTAKES)]
        for path in [*stale, *left_behind(folder)]:
            path.unlink(missing_ok=True)
        return config, settings

    ranks.compare(_identity(None, train, test))
    with ExitStack() as held:
        config, settings = ranks.by_first(begin)
        train, test = own_classes(folder, class_names(config["data"]), train, test)
        run = _train(settings, config, train, test, backend, folder, ranks, **how)
        if ranks.is_first:
            shutil.rmtree(folder / files.REPLACED, ignore_errors=True)
        return run


def _identity(settings: Settings | None, train: Dataset, test: Dataset) -> dict[str, Any]:
    """Return what must be the same on all ranks: the settings of a run to begin, and a few of the images."""
    found: dict[str, Any] = {"as its task": "to go on with a run" if settings is None else "to train a run"}
    if settings is not None:
        experiment = settings.experiment
        values = {**vars(settings), **vars(experiment), "experiment": experiment.name}
        found |= {name: value for name, value in values.items() if name != "name"}
    for split, dataset in (("training", train), ("test", test)):
        digest = sha256(np.ascontiguousarray(dataset.labels).data)
        for place in range(0, len(dataset), -(-len(dataset) // 100)):
            digest.update(np.ascontiguousarray(dataset.images[place]).data)
        digest.update("\n".join(dataset.class_names).encode())
        found[f"{split} images of the SHA-256"] = f"{digest.hexdigest()} ({len(dataset):,} of {dataset.name})"
    return found


def settings_to_resume(folder: Path, epochs: int | None = None) -> tuple[dict[str, Any], Settings]:
    """Return config.json of the run in `folder`, and its settings to be trained up to `epochs`.

    Raises `RunError` where there is no run, or it has more epochs already.
    """
    if (holds := files.what_holds(folder)) in (files.Holds.NOTHING, files.Holds.OTHER):
        raise RunError(f"{folder} holds {holds.value}: there is no run to go on with")
    config = files.read_json(folder / files.CONFIG, CONFIG_FORM)
    try:
        settings = Settings.from_config(config)
        class_names(config["data"])
        experiment = replace(settings.experiment, epochs=epochs or settings.experiment.epochs)
        same_rates = experiment.make_optimizer().config() == settings.experiment.make_optimizer().config()
    except (ValueError, TypeError) as error:
        raise RunError(f"{folder / files.CONFIG} does not tell the run's settings: {error}") from error
    wanted, done = experiment.epochs, files.epochs_done(folder)
    if wanted < done:
        raise RunError(f"{folder} has {done:,} epochs already: --epochs may be that or more, got {wanted:,}")
    if not files.has_checkpoint(folder) and files.what_holds(folder) is files.Holds.FINISHED:
        raise RunError(f"{folder} has no checkpoint to go on from, since an older version wrote it: train anew")
    if not same_rates:
        raise RunError(
            f"{folder} has learning rates for {settings.experiment.epochs:,} epochs, and not for {wanted:,}: leave "
            "--epochs out, or train a new run"
        )
    return config, replace(settings, experiment=experiment)


def _train(
    settings: Settings,
    config: dict[str, Any],
    train: Dataset,
    test: Dataset,
    backend: Backend,
    folder: Path,
    ranks: Ranks,
    *,
    verbose: int = 1,
    checkpoint_every: int | None = None,
    keep_going: bool = False,
    tensorboard: Path | None = None,
) -> Run:
    """Train from the newest checkpoint in `folder`, or from the start, and write what comes of it.

    The arguments by name are those of `Sequential.fit`, and the folder of TensorBoard's event files.
    """
    experiment = settings.experiment
    network = experiment.make_network(backend, settings.seed, settings.precision, len(train.class_names))
    X, y = _share(train, ranks)  # as they come: the order of the rows of a full batch is free
    before, started = ranks.from_first(files.epochs_done(folder)), time.perf_counter()
    with ExitStack() as open_files:
        callbacks: list[Any] = []
        if ranks.is_first:
            callbacks.append(open_files.enter_context(HistoryFile(folder / files.HISTORY)))
        if ranks.is_first and tensorboard is not None:
            callbacks.append(TensorBoardWriter(tensorboard, folder.resolve().name, config))
            open_files.callback(callbacks[-1].close)
        history = network.fit(
            X,
            y,
            epochs=experiment.epochs,
            optimizer=experiment.make_optimizer(),
            log_every=settings.log_every,
            verbose=verbose,
            block_rows=settings.block_rows,
            dense=settings.dense_rows,
            validation_fraction=settings.validation,
            validation_seed=settings.seed,
            keep_best=settings.keep_best,
            patience=settings.patience,
            augmentation=experiment.make_augmentation(settings.seed),
            engine=settings.engine,
            checkpoint=folder / files.CHECKPOINTS,
            checkpoint_every=checkpoint_every,
            resume=True,
            keep_going=keep_going,
            callbacks=callbacks,
            comm=ranks.comm,
        )
    backend.synchronize()
    seconds = time.perf_counter() - started + sum(history.epoch_seconds[:before])
    without_model = history.diverged and not keep_going
    if ranks.is_first:
        history.save(folder / files.HISTORY)
        if without_model:  # should it have been trained further, that of before is not this run's
            for name in (files.MODEL, files.MODEL_BEST):
                (folder / name).unlink(missing_ok=True)
        else:
            network.save(folder / files.MODEL)
            if history.best_state is not None:
                save_arrays(folder / files.MODEL_BEST, MODEL, history.best_state, describe(network))
    trained = tested = Metrics(math.nan, math.nan)
    if not without_model:
        trained = network.evaluate(X, y, comm=ranks.comm)
        tested = network.evaluate(*_share(test, ranks), comm=ranks.comm)
    data = DataSummary.from_json(config["data"])
    result = Result.of(settings, data, backend, history, trained, tested, seconds, ranks, before)
    run = Run(folder, config, result, history)
    if ranks.is_first:
        write_text(folder / files.CONFIG, to_json(config))  # should someone have emptied the folder meanwhile
        write_text(folder / files.RESULT, to_json(result.to_json()))
        if history:
            _draw(run)
    return run


def _share(dataset: Dataset, ranks: Ranks) -> tuple[Pixels, Any]:
    """Return this rank's inputs and labels."""
    X, y = pixels(dataset)
    own = ranks.share(len(dataset))
    return X[own], y[own]


class HistoryFile:
    """A callback that writes each logged epoch to history.csv at once, so that one can watch it.

    A row that cannot be written is told of once, and training goes on: the whole file is written at the end.
    """

    overlaps = True

    def __init__(self, path: Path) -> None:
        self._path, self._failed = path, False
        self._file: TextIO | None = None

    def __enter__(self) -> "HistoryFile":
        """Return this."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def on_epoch(self, history: History) -> None:
        """Append the last row; at first write all there are, in place of what an earlier process may have added."""
        if self._failed:
            return
        try:
            if self._file is None:
                history.save(self._path)
                self._file = self._path.open("a", encoding="utf-8", newline="")
            else:
                self._file.write(history.last_csv_row())
                self._file.flush()
        except OSError as error:
            self._failed = True
            logger.warning("%s does not grow, training goes on: %s", self._path, error.strerror)


def _draw(run: Run) -> None:
    """Draw the metrics; a picture that fails costs a warning, and can be drawn later."""
    path = run.folder / files.METRICS
    try:
        save_figure(metrics_figure(run.history, title=run.title, experiment=run.result.experiment), path)
    except Exception as error:
        path.unlink(missing_ok=True)
        logger.warning("%s was not drawn (%s); fmnist-xp plot %s draws it", path.name, error, run.folder)
