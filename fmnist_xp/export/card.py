"""A model card: Markdown with the front matter that model hubs read, filled from a run.

Mitchell et al., *Model Cards for Model Reporting* (FAT* 2019, arXiv:1810.03993), for what one says.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp import __version__
from fmnist_xp.errors import one_line
from fmnist_xp.export.states import torch_layers
from fmnist_xp.export.usage import usage
from fmnist_xp.model import Metrics, Sequential
from fmnist_xp.report.tables import averages, class_report, markdown_table
from fmnist_xp.runs import Run
from fmnist_xp.runs.settings import words

HUB_NAMES = {"fashion-mnist": "zalando-datasets/fashion_mnist"}
"""What hubs call our data sets."""
SIDE = 28
_LIBRARIES = {"onnx": "onnx", "safetensors": "pytorch", "npz": "pytorch", "pytorch": "pytorch"}


@dataclass(frozen=True)
class Figures:
    """How the weights did on the run's test images; `matrix` counts true classes (rows) and predicted ones."""

    metrics: Metrics
    matrix: NDArray[np.int64]


@dataclass(frozen=True)
class Exported:
    """What a card is about: a run's network in a file of this name and format.

    `tested` is None where the test images were not at hand, for which `missing` then has the reason.
    """

    run: Run
    name: str
    network: Sequential
    best: bool
    file: str
    form: str
    takes: str
    tested: Figures | None
    missing: str = ""

    @property
    def accuracy(self) -> float:
        """The test accuracy of these weights; NaN where it is not known."""
        if self.tested:
            return self.tested.metrics.accuracy
        return math.nan if self.best else self.run.result.test_accuracy


def card_text(exported: Exported) -> str:
    """Return the card, whose sections are use, data, training, results and limits."""
    run, network = exported.run, exported.network
    layers = torch_layers(network)
    between = ", ".join(dict.fromkeys(layer.partition("(")[0] for layer in layers[1:-1] if "Linear" not in layer))
    epoch = f"the weights of epoch {run.history.best_epoch}, the best by validation" if exported.best else ""
    sections = {
        "Use": usage(network, exported.file, exported.form, exported.takes),
        "Data": _data(run),
        "Training": _training(exported),
        "Results": _results(exported),
        "Limits": "".join(f"- {limit}\n" for limit in _limits(exported)),
    }
    head = (
        f"---\n{_front_matter(exported)}---\n\n# {one_line(exported.name)}\n\n"
        f"A perceptron, {'-'.join(map(str, network.widths))}{f' with {between}' * bool(between)}, that tells "
        f"{len(run.class_names)} classes on images of {SIDE} × {SIDE} grey pixels, trained full batch: "
        f"{one_line(run.title)}{f'; {epoch}' * bool(epoch)}. Exported by fmnist-xp {__version__}.\n"
    )
    return head + "".join(f"\n## {title}\n\n{text}" for title, text in sections.items())


def facts(exported: Exported) -> dict[str, str]:
    """Return the metadata of the model's file: classes and settings as JSON, the rest as words."""
    data = exported.run.result.dataset
    known = {} if math.isnan(exported.accuracy) else {"test_accuracy": f"{exported.accuracy:.6g}"}
    return {
        "classes": json.dumps(exported.run.class_names),
        "scaling": "(pixel - 127.5) / 127.5",
        "dataset": data.name,
        "dataset_sha256": data.sha256,
        "dataset_rows": f"{data.train_rows} training, {data.test_rows} test",
        **known,
        "settings": json.dumps(_settings(exported.run.config)),
    }


def _front_matter(exported: Exported) -> str:
    """Return the YAML; every value of a run's is quoted as JSON has it, which YAML reads."""
    data = exported.run.result.dataset.name
    hub = HUB_NAMES.get(data, data)
    tags = [exported.form, "multilayer-perceptron", "fmnist-xp", data]
    lines = [
        "license: unknown  # of the weights: whoever shares them says it here",
        f"library_name: {_LIBRARIES[exported.form]}",
        "pipeline_tag: image-classification",
        f"tags: {_quoted(tags)}",
        *([f"datasets: {_quoted([hub])}"] if data in HUB_NAMES else []),
        "metrics: [accuracy]",
    ]
    if not math.isnan(exported.accuracy):
        lines += [
            "model-index:",
            f"- name: {_quoted(exported.name)}",
            "  results:",
            "  - task: {type: image-classification, name: Image classification}",
            f"    dataset: {{type: {_quoted(hub)}, name: {_quoted(data)}, split: test}}",
            "    metrics:",
            f"    - {{type: accuracy, name: Test accuracy, value: {round(exported.accuracy, 6)}}}",
        ]
    return "".join(f"{line}\n" for line in lines)


def _quoted(value: Any) -> str:
    """Return a text, or a list of them, in the form that JSON and YAML share."""
    if isinstance(value, list):
        return f"[{', '.join(map(_quoted, value))}]"
    return json.dumps(one_line(str(value)), ensure_ascii=False)  # escaped, it would be surrogates in YAML


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of config.json is no path and no machine: what was trained, and how."""
    machine = ("data", "device_name", "threads", "graphs", "versions")
    return {name: value for name, value in config.items() if name not in machine and value is not None}


def _rows(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the names and values of nested settings, as words."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _rows(value, f"{prefix}{name} ")
        else:
            yield one_line(f"{prefix}{name}".replace("_", " ")), one_line(words(value))


def _data(run: Run) -> str:
    data = run.result.dataset
    rows = {
        "data set": data.name,
        "SHA-256 of images and labels": data.sha256,
        "training images": f"{data.train_rows:,}",
        "of these held out for validation": f"{run.result.validation_rows:,}",
        "test images": f"{data.test_rows:,}",
    }
    classes = ", ".join(f"{label} {one_line(name)}" for label, name in enumerate(run.class_names))
    return f"{markdown_table(('', ''), list(_rows(rows)))}\nThe classes by label: {classes}.\n"


def _training(exported: Exported) -> str:
    result = exported.run.result
    ended = result.stopped or ("interrupted" if result.interrupted else "all epochs were trained")
    rows = [
        *_rows(_settings(exported.run.config)),
        ("epochs trained", f"{result.epochs:,}"),
        ("ended", one_line(ended)),
        ("trained on", one_line(result.device_name)),
    ]
    return markdown_table(("setting", "value"), rows)


def _results(exported: Exported) -> str:
    result, history, tested = exported.run.result, exported.run.history, exported.tested
    figures: dict[str, float] = {}
    if tested:
        figures |= {"test accuracy": tested.metrics.accuracy, "test loss": tested.metrics.loss}
    elif not exported.best:
        figures |= {"test accuracy": result.test_accuracy, "test loss": result.test_loss}
    if exported.best and history.best_epoch in history.epoch:
        place = history.epoch.index(history.best_epoch)
        figures |= {"validation accuracy": history.validation_accuracy[place]}
        figures |= {"validation loss": history.validation_loss[place]}
    elif not exported.best:
        figures |= {"training accuracy": result.train_accuracy, "training loss": result.train_loss}
        figures |= {"validation accuracy, last": result.validation_accuracy}
    rows = [(name, f"{value:.4f}") for name, value in figures.items() if math.isfinite(value)]
    parts = [markdown_table(("", ""), rows, ("---", "---:"))] if rows else []
    if tested is None:
        lacking = "are no figures of these weights" if exported.best else "is no confusion matrix"
        parts.append(f"There {lacking} on test images, which were not at hand: {one_line(exported.missing)}\n")
        return "\n".join(parts)
    names = [one_line(name) for name in exported.run.class_names]
    scores = class_report(tested.matrix, names)
    table = [
        (score.name, *(f"{value:.3f}" for value in score[1:4]), f"{score.support:,}")
        for score in (*scores, *averages(scores))
    ]
    numbers = ("precision", "recall", "F1", "test images")
    parts.append(markdown_table(("class", *numbers), table, ("---", *["---:"] * len(numbers))))
    counts = [(name, *map(str, row)) for name, row in zip(names, tested.matrix.tolist(), strict=True)]
    parts.append("Confusion: test images of a class (rows) by what they were taken for (columns).\n")
    parts.append(markdown_table(("", *names), counts, ("---", *["---:"] * len(names))))
    return "\n".join(parts)


def _limits(exported: Exported) -> Iterator[str]:
    """Yield what the model is not good for, a sentence or two each."""
    run, names = exported.run, exported.run.class_names
    yield (
        f"It knows these {len(names)} classes alone and names one of them whatever it is given. Its probabilities "
        "have not been calibrated."
    )
    yield (
        f"It takes images of {SIDE} × {SIDE} grey pixels that look like its training images: those of "
        f"{run.result.dataset.name} in size, place and background. A photograph must be prepared so first, and a "
        "perceptron, which does not know which pixels are neighbours, takes a shifted or turned image for another."
    )
    if run.result.dataset.name == "synthetic":
        yield "Its images were drawn by a program: its figures say nothing about photographs of anything."
    if run.result.diverged:
        yield "Its training diverged: do not use it."
    matrix = exported.tested.matrix if exported.tested else np.zeros((0, 0))
    if (matrix.sum() - np.trace(matrix)) > 0:
        recall = np.diagonal(matrix) / np.maximum(matrix.sum(axis=1), 1)
        recall[matrix.sum(axis=1) == 0] = 1
        worst = int(recall.argmin())
        others = matrix[worst].copy()
        others[worst] = 0
        yield (
            f"{one_line(names[worst])} is the class that it finds least often: {matrix[worst, worst]:,} of "
            f"{matrix[worst].sum():,} test images; it takes {others.max():,} of them for "
            f"{one_line(names[int(others.argmax())])}."
        )
