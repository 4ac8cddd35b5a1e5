"""Runs: one experiment trained on one data set, and the folder that keeps all of it."""

import time
from pathlib import Path

from fmnist_xp.backend import Backend
from fmnist_xp.data import Dataset, pixels
from fmnist_xp.runs.folder import CONFUSION, Run, check_folder, default_folder, load_run, reserved, write_run
from fmnist_xp.runs.settings import Result, Settings, dataset_sha256, versions

__all__ = ["CONFUSION", "Result", "Run", "Settings", "check_folder", "dataset_sha256", "default_folder", "load_run"]
__all__ += ["train_run", "versions"]


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
    """Train, evaluate and write the run to `folder`; an interrupted training run is kept as far as it came.

    `source` is how the data was asked for. Raises `RunError`, before anything is trained, where `folder` holds
    something already and `force` is off.
    """
    experiment = settings.experiment
    network = experiment.make_network(backend, settings.seed, settings.precision)
    config = settings.config(train, test, backend, source)
    check_folder(folder, force)
    with reserved(folder, config):
        X, y = pixels(train)  # as they come: the order of the rows of a full batch is free
        started = time.perf_counter()
        history = network.fit(
            X,
            y,
            epochs=experiment.epochs,
            optimizer=experiment.make_optimizer(),
            log_every=settings.log_every,
            verbose=verbose,
            block_rows=settings.block_rows,
            dense=settings.dense_rows,
        )
        backend.synchronize()
        seconds = time.perf_counter() - started
        trained = network.evaluate(X, y)
        tested = network.evaluate(*pixels(test))
        result = Result.of(settings, train, test, backend, history, trained, tested, seconds)
        run = Run(folder, config, result, history)
        write_run(run, network)
    return run
