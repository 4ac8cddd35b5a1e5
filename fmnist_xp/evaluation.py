"""Evaluating finished runs: metrics on the test images, predictions, pictures."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend
from fmnist_xp.data import CLASS_NAMES, Dataset, Pixels, load_fashion_mnist, pixels, prepare_photograph
from fmnist_xp.errors import RunError
from fmnist_xp.model import Metrics, Sequential
from fmnist_xp.report import plots
from fmnist_xp.report.drawing import save_figure, save_figures
from fmnist_xp.report.notebook import notebook_history
from fmnist_xp.report.tables import ClassScore, averages, class_report, confusion_matrix
from fmnist_xp.runs import CONFUSION, Run, dataset_sha256, load_run
from fmnist_xp.runs.folder import MODEL_BEST


@dataclass(frozen=True)
class Evaluation:
    """The metrics of a run on test images.

    `matrix` counts true classes (rows) and predicted ones (columns). `averages` are the means of `scores`, as of
    `tables.averages`. `best_epoch` is the run's, None where it held no rows out.
    """

    dataset: str
    rows: int
    metrics: Metrics
    matrix: NDArray[np.int64]
    scores: Sequence[ClassScore]
    averages: tuple[ClassScore, ClassScore]
    best_epoch: int | None
    picture: Path


def evaluate_run(
    folder: Path, source: str | None, backend: Backend, *, allow_synthetic: bool = True, best: bool = False
) -> Evaluation:
    """Evaluate the run in `folder`, or with `best` its best epoch, on the test images of `source`.

    By default these are the run's own. The confusion matrix is drawn to `CONFUSION` in the run's folder. Raises
    `RunError` where no source is named and the run's own is no longer what it was trained on, or where the model is
    missing or not finite; `DataError` where only synthetic images are at hand and `allow_synthetic` is False.
    """
    run = load_run(folder)
    network = _load_network(run, backend, best)
    trained_on = run.result.dataset
    own = "synthetic" if trained_on.name == "synthetic" else run.config["data"]["source"]
    train, test = load_fashion_mnist(own if source is None else source, allow_synthetic=allow_synthetic)
    if source is None and (test.name, dataset_sha256(train, test)) != (trained_on.name, trained_on.sha256):
        raise RunError(
            f"{folder} was trained on {trained_on.name}, but its source {own} now gives other images "
            f"({test.name}): name the images to test on with --data"
        )
    X, y = pixels(test)
    matrix = confusion_matrix(y, network.predict(X))
    best_epoch = run.history.best_epoch
    epoch = f", epoch {best_epoch}" if best else ""
    title = f"{run.title}{epoch}, tested on {len(test):,} {test.name} images"
    picture = save_figure(plots.confusion_figure(matrix, class_names=CLASS_NAMES, title=title), folder / CONFUSION)
    scores, metrics = class_report(matrix), network.evaluate(X, y)
    return Evaluation(test.name, len(test), metrics, matrix, scores, averages(scores), best_epoch, picture)


def predict_images(
    folder: Path, images: Sequence[Path], backend: Backend, *, best: bool = False
) -> Iterator[tuple[Path, list[tuple[str, float]]]]:
    """Yield for each photograph the class names with their probabilities, most likely first.

    With `best` they are those of the run's best epoch. Raises `RunError` where the model is missing or not finite.
    """
    network = _load_network(load_run(folder), backend, best)
    rows = Pixels(np.stack([prepare_photograph(image) for image in images]))
    probabilities_of_all = network.predict_proba(rows)
    if not np.isfinite(probabilities_of_all).all():
        raise RunError(
            f"the model in {folder} gives probabilities that are not finite: its weights are too large, as of a "
            "training that diverged; train again with a lower learning rate"
        )
    for image, probabilities in zip(images, probabilities_of_all.tolist(), strict=True):
        ranking = sorted(zip(CLASS_NAMES, probabilities, strict=True), key=lambda pair: pair[1], reverse=True)
        yield image, ranking


def plot_runs(folders: Sequence[Path], out: Path, *, notebook: bool = False) -> list[Path]:
    """Draw the notebook's pictures of each run into `out`/<run>, and a comparison of several runs into `out`."""
    runs = [load_run(folder) for folder in folders]
    names = _distinct_names(folders)
    pictures: list[Path] = []
    for name, run in zip(names, runs, strict=True):
        experiment = run.result.experiment
        beside = notebook_history(experiment) if notebook else None
        figures = plots.run_figures(run.history, title=run.title, experiment=experiment, notebook=beside)
        pictures += save_figures(figures, out / name)
    if len(runs) > 1:
        datasets = sorted({run.result.dataset.name for run in runs})
        histories = dict(zip(names, (run.history for run in runs), strict=True))
        figures = plots.comparison_figures(histories, title=f"{len(runs)} runs on {', '.join(datasets)}")
        pictures += save_figures(figures, out)
    return pictures


def plot_dataset(dataset: Dataset, folder: Path) -> list[Path]:
    """Draw a grid of samples and the first image with its pixel values, as the notebook does to check its data."""
    name, images, labels = dataset.name, dataset.images, dataset.labels
    title = f"{name}, training images"
    grey_title = f"{name}, training image 0: {CLASS_NAMES[labels[0]]}"
    figures = {
        f"{name}-samples.png": plots.samples_figure(images, labels, class_names=CLASS_NAMES, title=title),
        f"{name}-grey-values.png": plots.grey_values_figure(images[0], title=grey_title),
    }
    return save_figures(figures, folder)


def _load_network(run: Run, backend: Backend, best: bool) -> Sequential:
    """Return the network of `run`; raise `RunError`, naming the epoch, where it is not finite."""
    network = run.load_network(backend, best)
    if not np.isfinite(backend.to_host(network.parameters)).all():
        history = run.history
        diverged = (epoch for epoch, loss in zip(history.epoch, history.loss, strict=True) if not math.isfinite(loss))
        epoch = next(diverged, None)
        when = f"after epoch {history.epoch[-1]}" if epoch is None else f"at epoch {epoch}"
        other = ", or take that of the best epoch with --best" if (run.folder / MODEL_BEST).exists() else ""
        raise RunError(
            f"the model in {run.folder} holds numbers that are not finite: its training diverged {when}; train again "
            f"with a lower learning rate{other * (not best)}"
        )
    return network


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, or where two are alike their whole paths with dashes."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = ["-".join(folder.resolve().parts[1:]) for folder in folders]
    if len(set(names)) < len(names):
        raise RunError("the same run folder is named twice: name each once")
    return names
