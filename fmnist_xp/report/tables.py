"""The tables of finished runs: class scores from a confusion matrix, and a comparison with the notebook."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmnist_xp.report.notebook import NOTEBOOK_TEST, FinalMetrics, result_differences
from fmnist_xp.train.history import DIP, History, ended_in_dip

ENOUGH_FOR_QUARTILES = 4
"""Quartiles of fewer seeds would say no more than their range."""


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], rule: Sequence[str] = ()) -> str:
    """Return a Markdown table, ending in a newline; a `|` inside a cell is escaped.

    `rule` is the line below the header, such as ("---", "---:") for a second column that is aligned right.
    Raises `ValueError` if a row and the header differ in length.
    """
    lines = [header, rule or ["---"] * len(header), *rows]
    for row in lines:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells and the header {len(header)}: {row}")
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in lines)


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int) -> NDArray[np.int64]:
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


def class_report(matrix: NDArray[np.int64], class_names: Sequence[str]) -> list[ClassScore]:
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


def reproduce_table(
    results: Mapping[str, Sequence[Mapping[str, Any]]], histories: Mapping[str, Sequence[History]]
) -> str:
    """Return Markdown that compares several seeds with the notebook: a short table, one of all metrics, and notes.

    `results` maps an experiment to the contents of its runs' `result.json`, one per seed, and `histories` to
    the histories of the same runs in the same order. Test metrics come from the results. Training metrics are the
    last of the histories: the notebook printed none after the last update, so the results' `train_accuracy` and
    `train_loss` are not comparable, and only say whether a run ended in a dip. The notebook's values are there for
    runs with its number of epochs and images of Fashion-MNIST, else a note says what differs.

    Raises `ValueError` if the two do not have the same runs, an experiment has none, or a history is empty.
    """
    head = ("median", "quartiles", "range", "notebook", "seeds below it")
    brief: list[tuple[str, ...]] = []
    full: list[tuple[str, ...]] = []
    notes: dict[str, None] = {}
    for experiment, runs in results.items():
        pairs = list(zip(runs, histories.get(experiment, ()), strict=True))
        if not pairs:
            raise ValueError(f"{experiment} has no runs: its table needs at least one")
        ours = [_final_metrics(*pair) for pair in pairs]
        dips = sum(ended_in_dip(history, float(run["train_accuracy"])) is not None for run, history in pairs)
        theirs = NOTEBOOK_TEST.get(experiment)
        if theirs:
            differences = dict.fromkeys(difference for run in runs for difference in result_differences(run))
            notes |= differences
            theirs = None if differences else theirs
        for name, label in _METRICS.items():
            cells = _spread([getattr(metrics, name) for metrics in ours], theirs and getattr(theirs, name))
            if name == "test_accuracy":
                brief.append((experiment, *cells, f"{dips} of {len(runs)}"))
            else:
                full.append((experiment, label, *cells))
    numbers = len(head)
    parts = [
        markdown_table(("test accuracy", *head, "ended in a dip"), brief, ["---", *["---:"] * (numbers + 1)]),
        markdown_table(("", "metric", *head), full, ["---", "---", *["---:"] * numbers]),
        f"{_LEGEND}\n",
    ]
    if notes:
        parts.append(f"Not comparable with the notebook: {', '.join(notes)}.\n")
    if any(run["dataset"]["name"] == "synthetic" for runs in results.values() for run in runs):
        parts.append(f"{_SYNTHETIC}\n")
    return "\n".join(parts)


_LEGEND = (
    "Training metrics are those of the last logged epoch, before its update, as the notebook printed them; test "
    "metrics follow the last update. A run ended in a dip if its accuracy on the training images after the last "
    f"update is more than {DIP} below the best that it logged."
)
_SYNTHETIC = (
    "**Synthetic data.** These runs were trained and tested on synthetic images, not on Fashion-MNIST: their metrics "
    "say nothing about the notebook's."
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


def _spread(values: Sequence[float], notebook: float | None) -> Iterator[str]:
    """Yield median, quartiles, range, the notebook's value, and how many of `values` are below that.

    Values that are not finite are counted, and take no other part. The notebook printed 3 decimals, so `values` are
    rounded alike to be compared with it: "3–5 of 10" are below it if 3 are less and 2 are equal.
    """
    numbers = np.array(values, dtype=np.float64)
    finite = numbers[np.isfinite(numbers)]
    lost = f"{len(numbers) - len(finite)} not finite" if len(finite) < len(numbers) else ""
    yield " ".join(filter(None, [f"{np.median(finite):.3f}" if finite.size else "", lost]))
    yield "{:.3f}–{:.3f}".format(*np.quantile(finite, [0.25, 0.75])) if len(finite) >= ENOUGH_FOR_QUARTILES else "—"
    yield f"{finite.min():.3f}–{finite.max():.3f}" if len(finite) > 1 else "—"
    if notebook is None:
        yield from ("—", "—")
        return
    yield f"{notebook:.3f}"
    rounded = np.round(numbers, 3)
    below, equal = int((rounded < notebook).sum()), int((rounded == notebook).sum())
    yield f"{below}–{below + equal} of {len(numbers)}" if equal else f"{below} of {len(numbers)}"
