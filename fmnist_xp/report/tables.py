"""The tables of finished runs: class scores from a confusion matrix, and a comparison with the notebook."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmnist_xp.data.dataset import CLASS_NAMES
from fmnist_xp.report.notebook import NOTEBOOK_EPOCHS, NOTEBOOK_ROWS, NOTEBOOK_TEST, FinalMetrics
from fmnist_xp.train.history import History


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, ending in a newline; a `|` inside a cell is escaped.

    Raises `ValueError` if a row and the header differ in length.
    """
    lines = [header, ["---"] * len(header), *rows]
    for row in lines:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells and the header {len(header)}: {row}")
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in lines)


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int = 10) -> NDArray[np.int64]:
    """Count each pair of true class (row) and predicted class (column).

    `labels` and `predictions` are integers of shape (n,) in 0 … `classes` − 1; the matrix is int64 of shape
    (`classes`, `classes`). Raises `ValueError` if shapes differ, or a class is not an integer or out of range.
    """
    true, predicted = np.asarray(labels), np.asarray(predictions)
    for name, values in (("labels", true), ("predictions", predicted)):
        if values.size and values.dtype.kind not in "iu":
            raise ValueError(f"{name} of dtype {values.dtype}: classes are integers")
    # Wide integers: the index of a cell, below, would overflow uint8, the usual dtype of labels.
    true, predicted = true.astype(np.int64), predicted.astype(np.int64)
    if true.ndim != 1 or true.shape != predicted.shape:
        raise ValueError(f"labels of shape {true.shape} and predictions of shape {predicted.shape}")
    for name, values in (("label", true), ("prediction", predicted)):
        outside = values[(values < 0) | (values >= classes)]
        if outside.size:
            raise ValueError(f"a {name} is {outside[0]}: classes are 0 to {classes - 1}")
    cells = np.bincount(true * classes + predicted, minlength=classes**2)
    return cells.astype(np.int64).reshape(classes, classes)


class ClassScore(NamedTuple):
    """How well one class was told apart from the others; `support` is the number of its samples."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def class_report(matrix: NDArray[np.int64], class_names: Sequence[str] = CLASS_NAMES) -> list[ClassScore]:
    """Return the scores of each class from a confusion matrix (rows true, columns predicted).

    A score whose denominator is 0 (a class never predicted, or without samples) is 0.0. Raises `ValueError`
    unless `matrix` is square with one row per name.
    """
    if matrix.shape != (len(class_names), len(class_names)):
        raise ValueError(f"a matrix of shape {matrix.shape} for {len(class_names)} class names")
    hits, support, predicted = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    # Where a denominator is 0, so is the numerator: dividing by 1 instead gives 0.0.
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    columns = (precision.tolist(), recall.tolist(), f1.tolist(), support.tolist())
    return [ClassScore(*row) for row in zip(class_names, *columns, strict=True)]


def averages(scores: Sequence[ClassScore]) -> tuple[ClassScore, ClassScore]:
    """Return "macro avg" and "weighted avg", the means over classes, the second weighted by their support.

    They are those of scikit-learn's `classification_report` with all classes as `labels`, and 0 for a score whose
    denominator is 0. Raises `ValueError` if there are no scores.
    """
    if not scores:
        raise ValueError("no scores: a mean needs at least one")
    values = np.array([(score.precision, score.recall, score.f1) for score in scores])
    support = [score.support for score in scores]

    def mean(name: str, weights: Sequence[int]) -> ClassScore:
        precision, recall, f1 = (np.array(weights) @ values / max(sum(weights), 1)).tolist()
        return ClassScore(name, precision, recall, f1, sum(support))

    return mean("macro avg", [1] * len(scores)), mean("weighted avg", support)


def mean_and_spread(values: Sequence[float]) -> str:
    """Return "mean ± standard deviation (lowest–highest)" with 3 decimals, or just the value if there is only one.

    The deviation is that of a sample (n − 1). Raises `ValueError` if there is no value.
    """
    if len(values) == 0:
        raise ValueError("no values: a mean needs at least one")
    if len(values) == 1:
        return f"{values[0]:.3f}"
    with np.errstate(invalid="ignore"):  # a diverged run may have an infinite loss
        mean, deviation = np.mean(values), np.std(values, ddof=1)
    return f"{mean:.3f} ± {deviation:.3f} ({min(values):.3f}–{max(values):.3f})"


def reproduce_table(
    results: Mapping[str, Sequence[Mapping[str, Any]]], histories: Mapping[str, Sequence[History]]
) -> str:
    """Return a Markdown table that compares runs with the notebook, with notes below it.

    `results` maps an experiment to the contents of its runs' `result.json`, one per seed, and `histories` to
    the histories of the same runs in the same order. Test metrics come from the results. Training metrics are the
    last of the histories: the notebook printed none after the last update, so the results' `train_accuracy` and
    `train_loss` are not comparable. For runs with the notebook's number of epochs and images of Fashion-MNIST, the
    table says whether the notebook's value lies in the range of the seeds; for others, what makes them incomparable.
    An experiment that the notebook lacks gets "—".

    Raises `ValueError` if the two do not have the same runs, an experiment has none, or a history is empty.
    """
    rows: list[tuple[str, ...]] = []
    for experiment, runs in results.items():
        ours = [_final_metrics(*run) for run in zip(runs, histories.get(experiment, ()), strict=True)]
        data = _joined(run["dataset"]["name"] for run in runs)
        seeds = _joined(run["seed"] for run in runs)
        differences = _joined(difference for run in runs for difference in _differences(run))
        for name, label in _METRICS.items():
            values = [getattr(metrics, name) for metrics in ours]
            spread = mean_and_spread(values)
            if experiment not in NOTEBOOK_TEST:
                notebook, verdict = "—", "—"
            else:
                notebook = f"{getattr(NOTEBOOK_TEST[experiment], name):.3f}"
                verdict = f"not comparable: {differences}" if differences else _inside(float(notebook), values)
            rows.append((experiment, data, seeds, label, spread, notebook, verdict))
    header = ("experiment", "data", "seeds", "figure", "ours", "notebook", "notebook inside our range")
    table = f"{markdown_table(header, rows)}\n{_LEGEND}\n"
    synthetic = any(run["dataset"]["name"] == "synthetic" for runs in results.values() for run in runs)
    return f"{table}\n{_SYNTHETIC}\n" if synthetic else table


_LEGEND = (
    "Ours: mean ± sample standard deviation (lowest–highest) over the seeds. Training figures are those of "
    "the last logged epoch, before its update; test figures follow the last update."
)
_SYNTHETIC = (
    "**Synthetic data.** Rows marked synthetic were trained and tested on synthetic images, not on "
    "Fashion-MNIST: their figures say nothing about the notebook's."
)
_METRICS = {
    "test_accuracy": "test accuracy",
    "test_loss": "test data loss",
    "train_accuracy": "training accuracy",
    "train_loss": "training loss",
}


def _final_metrics(result: Mapping[str, Any], history: History) -> FinalMetrics:
    if not history:
        raise ValueError(f"the history of {result['experiment']}, seed {result['seed']}, has nothing logged")
    return FinalMetrics(
        history.accuracy[-1], history.loss[-1], float(result["test_accuracy"]), float(result["test_loss"])
    )


def _inside(metric: float, values: Sequence[float]) -> str:
    """Say whether `metric`, printed with 3 decimals, lies in the range of `values` rounded alike."""
    if len(values) == 1:
        return "one seed: no range"
    return "yes" if round(min(values), 3) <= metric <= round(max(values), 3) else "no"


def _differences(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences from the notebook that make a run's metrics incomparable."""
    dataset = result["dataset"]
    if dataset["name"] == "synthetic":
        yield "synthetic data"
    elif (dataset["train_rows"], dataset["test_rows"]) != NOTEBOOK_ROWS:
        yield f"{dataset['train_rows']:,} + {dataset['test_rows']:,} images"
    if result["epochs"] != NOTEBOOK_EPOCHS:
        yield f"{result['epochs']:,} epochs"


def _joined(values: Iterable[Any]) -> str:
    """Return the distinct values in ascending order, as "0, 1, 2"."""
    return ", ".join(str(value) for value in sorted(set(values)))
