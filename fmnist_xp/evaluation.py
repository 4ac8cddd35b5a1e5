"""Evaluating finished runs: metrics on the test images, pictures."""

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend, get_backend
from fmnist_xp.data import Dataset, is_numbered, load_fashion_mnist, pixels
from fmnist_xp.data.classes import few
from fmnist_xp.errors import RunError
from fmnist_xp.model import Metrics, Sequential
from fmnist_xp.report import plots
from fmnist_xp.report.drawing import save_figure, save_figures
from fmnist_xp.report.images import grey_values_figure, mistakes_figure, samples_figure, weights_figure
from fmnist_xp.report.notebook import data_differences, notebook_history, settings_differences
from fmnist_xp.report.tables import ClassScore, averages, class_report, confusion_matrix
from fmnist_xp.runs import CONFUSION, Run, dataset_sha256, load_run, own_classes
from fmnist_xp.runs.folder import MISTAKES, MODEL_BEST
from fmnist_xp.train.history import History

logger = logging.getLogger("fmnist_xp")


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
    pictures: Sequence[Path]


def evaluate_run(
    folder: Path,
    source: str | None,
    backend: Backend,
    *,
    allow_synthetic: bool = True,
    best: bool = False,
    classes: str | Sequence[str] | None = None,
) -> Evaluation:
    """Evaluate the run in `folder`, or with `best` its best epoch, on the test images of `source`.

    By default these are the run's own. The classes of others are matched with the run's by their names, or, with a
    warning, by label where either has none; `classes` are names for those of `source`, as in `load_fashion_mnist`.

    The confusion matrix is drawn to `CONFUSION` in the run's folder, the most confident mistakes to `MISTAKES`.
    Raises `RunError` where no source is named and the run's own is no longer what it was trained on, where the source
    has classes that the run does not know, or where the model is missing or not finite; `DataError` where only
    synthetic images are at hand and `allow_synthetic` is False.
    """
    run = load_run(folder)
    network = load_network(run, backend, best)
    if source is None:
        test = own_images(run, allow_synthetic=allow_synthetic)[1]
    else:
        splits = load_fashion_mnist(source, allow_synthetic=allow_synthetic, classes=classes)
        test = _matched(run, *splits, source)[1]
    X, y = pixels(test)
    names = run.class_names
    matrix = confusion_matrix(y, network.predict(X), len(names))
    best_epoch = run.history.best_epoch
    epoch = f"epoch {best_epoch}, " if best else ""
    title = f"{run.title}\n{epoch}tested on {len(test):,} {test.name} images"
    picture = save_figure(plots.confusion_figure(matrix, class_names=names, title=title), folder / CONFUSION)
    mistakes = mistakes_figure(test.images, test.labels, network.predict_proba(X), names, title)
    pictures = [picture, save_figure(mistakes, folder / MISTAKES)]
    scores, metrics = class_report(matrix, names), network.evaluate(X, y)
    return Evaluation(test.name, len(test), metrics, matrix, scores, averages(scores), best_epoch, pictures)


def own_images(run: Run, source: str | None = None, *, allow_synthetic: bool = True) -> tuple[Dataset, Dataset]:
    """Return (train, test), the images that `run` was trained on, from `source` or by default from its own.

    Raises `RunError` where there are other images now, `DataError` where there are none.
    """
    trained_on = run.result.dataset
    own = "synthetic" if trained_on.name == "synthetic" else run.config["data"]["source"]
    splits = load_fashion_mnist(own if source is None else source, allow_synthetic=allow_synthetic)
    train, test = own_classes(run.folder, run.class_names, *splits)
    if (test.name, dataset_sha256(train, test)) != (trained_on.name, trained_on.sha256):
        found = f"its source {own} now gives other images" if source is None else f"{source} has other images"
        raise RunError(
            f"{run.folder} was trained on {trained_on.name}, but {found} ({test.name}): "
            "name the images to test on with --data"
        )
    return train, test


def _matched(run: Run, train: Dataset, test: Dataset, source: str) -> tuple[Dataset, Dataset]:
    """Return the splits of `source` with the labels that the classes have in `run`; `RunError` for other classes."""
    own, found = run.class_names, test.class_names
    if is_numbered(own) != is_numbered(found):
        logger.warning("classes are matched by label: the run has %s, %s has %s", few(own), source, few(found))
    elif not is_numbered(own) and (unknown := [name for name in found if name not in own]):
        raise RunError(
            f"{run.folder} tells {len(own)} classes apart ({few(own)}), and {source} has others ({few(unknown)}): "
            "name data of the same classes, or, should they only be called otherwise, name them with --classes"
        )
    return own_classes(run.folder, own, train, test)


def plot_runs(folders: Sequence[Path], out: Path, *, notebook: bool = False) -> list[Path]:
    """Draw each run's curves and first-layer weights into `out`/<run>, and a comparison of several into `out`.

    With `notebook` the notebook's curve is drawn beside those of runs with its settings and data; for others a
    warning says what differs. Returns the pictures' paths.
    """
    runs = [load_run(folder) for folder in folders]
    names = distinct_names(folders)
    pictures: list[Path] = []
    for name, run in zip(names, runs, strict=True):
        beside = _notebook_beside(run) if notebook else None
        figures = plots.run_figures(run.history, title=run.title, experiment=run.result.experiment, notebook=beside)
        try:
            network = run.load_network(get_backend("cpu"))
            figures["weights.png"] = weights_figure(network.dense[0].weights, title=run.title)
        except RunError as error:  # the curves need no model
            logger.warning("the weights are not drawn: %s", error)
        pictures += save_figures(figures, out / name)
    if len(runs) > 1:
        compared = [_compared(name, run) for name, run in zip(names, runs, strict=True)]
        datasets = sorted({run.result.dataset.name for run in runs})
        figures = plots.comparison_figures(compared, title=f"{len(runs)} runs on {', '.join(datasets)}")
        pictures += save_figures(figures, out)
    return pictures


def plot_dataset(dataset: Dataset, folder: Path) -> list[Path]:
    """Draw a grid of samples and the first image with its pixel values, as the notebook does to check its data."""
    name, images, labels, class_names = dataset.name, dataset.images, dataset.labels, dataset.class_names
    title = f"{name}, training images"
    grey_title = f"{name}, training image 0: {class_names[labels[0]]}"
    figures = {
        f"{name}-samples.png": samples_figure(images, labels, class_names=class_names, title=title),
        f"{name}-grey-values.png": grey_values_figure(images[0], title=grey_title),
    }
    return save_figures(figures, folder)


def _notebook_beside(run: Run) -> History | None:
    """Return the notebook's history of a run's experiment; None, with a warning, if the run is not comparable."""
    experiment = run.result.experiment
    differences = [*settings_differences(experiment, run.config), *data_differences(asdict(run.result.dataset))]
    if differences:
        logger.warning("the notebook's curve is left out of %s: %s", run.folder, "; ".join(differences))
        return None
    return notebook_history(experiment)


def _compared(name: str, run: Run) -> plots.ComparedRun:
    """Return what a comparison shows of a run; its validation accuracy is the last that was logged."""
    result, history = run.result, run.history
    validation = history.validation_accuracy[-1] if history.validation_accuracy else math.nan
    return plots.ComparedRun(
        name, result.experiment, history, result.train_accuracy, validation, result.test_accuracy
    )


def load_network(run: Run, backend: Backend, best: bool) -> Sequential:
    """Return the network of `run`, or that of its best epoch; raise `RunError`, naming the epoch, if not finite."""
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


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """Return the folders' names, with dashes behind as many of the folders above as tell all of them apart."""
    paths = [folder.resolve().parts[1:] for folder in folders]
    if len(set(paths)) < len(paths):
        raise RunError("the same run folder is named twice: name each once")
    for count in range(1, max(map(len, paths)) + 1):
        names = ["-".join(path[-count:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{number}-{name}" for number, name in enumerate(names, start=1)]  # such as a/b-c and a-b/c
