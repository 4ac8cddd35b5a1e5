"""The page of finished runs, gathered from their folders."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend
from fmnist_xp.data import Dataset, pixels
from fmnist_xp.errors import FmnistXpError
from fmnist_xp.evaluation import distinct_names, own_images
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.files import write_text
from fmnist_xp.report.page import Judgement, Mistake, RunOnPage, page_template, render_page
from fmnist_xp.report.tables import confusion_matrix
from fmnist_xp.runs import Run, load_run

MOST_MISTAKES = 24
# Options of `train` that have the names of settings: the experiment's, and others with their defaults.
OF_EXPERIMENT = {"hidden", "learning_rate", "decay", "momentum", "l2", "epochs"}
OF_EXPERIMENT |= {"activation", "dropout", "label_smoothing"}
OTHERS = {"precision": "float32", "engine": "plain", "log_every": 10, "block_rows": None}
OTHERS |= {"validation": None, "keep_best": False, "patience": None}


def report_runs(folders: Sequence[Path], page: Path, source: str | None, backend: Backend) -> list[str]:
    """Write the page of the runs in `folders` to `page`, and return what it says is missing.

    The test images are those of `source`, or of each run's own. Where there are none or others, or a model is missing
    or damaged, the page says so and has the rest. Raises `RunError` where a folder has no finished run or is named
    twice, `FmnistXpError` where what draws the page is not installed, `OSError` where it cannot be written.
    """
    template = page_template()
    names = distinct_names(folders)
    runs = [gather(load_run(folder), name, source, backend) for folder, name in zip(folders, names, strict=True)]
    write_text(page, render_page(template, runs))
    return [f"{run.name}: {note}" for run in runs for note in run.notes]


def gather(run: Run, name: str, source: str | None, backend: Backend) -> RunOnPage:
    """Return what the page shows of a run, on which it is called `name`."""
    weights, judgement, notes = None, None, []
    try:
        network = run.load_network(backend)
        if not np.isfinite(backend.to_host(network.parameters)).all():
            raise FmnistXpError(f"the model in {run.folder} holds numbers that are not finite: its training diverged")
        weights = backend.to_host(network.dense[0].weights)
        synthetic = run.result.dataset.name == "synthetic"  # else such images need not be made: they are others
        test = own_images(run, source, allow_synthetic=synthetic or source is not None)[1]
        judgement = judge(test, network.predict_proba(pixels(test)[0]))
    except FmnistXpError as error:
        missing = "confusion matrix and mistakes" if weights is not None else "confusion matrix, mistakes and weights"
        notes.append(f"No {missing}: {error}")
    return RunOnPage(
        name=name,
        title=run.title,
        config=run.config,
        result=run.result.to_json(),
        history=run.history,
        class_names=run.class_names,
        command=command_line(run.config, run.result.dataset.name, run.folder),
        weights=weights,
        judgement=judgement,
        notes=notes,
    )


def judge(test: Dataset, probabilities: NDArray[np.floating[Any]]) -> Judgement:
    """Return the confusion matrix and the most confident mistakes of `probabilities`, (n, classes), for `test`."""
    predicted = probabilities.argmax(axis=1)
    confidences = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    chosen = wrong[np.argsort(-confidences[wrong], kind="stable")][:MOST_MISTAKES]
    mistakes = [
        Mistake(int(i), test.images[i], int(test.labels[i]), int(predicted[i]), float(confidences[i])) for i in chosen
    ]
    return Judgement(confusion_matrix(test.labels, predicted, probabilities.shape[1]), mistakes)


def command_line(config: Mapping[str, Any], dataset: str, folder: Path | None = None) -> str:
    """Return the command that trains the run of a config.json again.

    `dataset` is the name of the images that it was trained on. Settings for which the command has no experiment and
    no options come from the run's `folder`; without one, the command is "".
    """
    wanted = config["experiment"]
    name, device = str(wanted.get("name")), str(config.get("device", "auto"))
    options = {"device": device, "data": "synthetic" if dataset == "synthetic" else config["data"]["source"]}
    options |= {"classes": config["data"]["classes"]} if config["data"].get("classes") else {}
    own = json.loads(json.dumps(asdict(EXPERIMENTS[name]))) if name in EXPERIMENTS else {}  # with lists for tuples
    changed = {key: wanted[key] for key in own if key in wanted and wanted[key] != own[key]}
    if own and changed.keys() <= OF_EXPERIMENT:
        words = ["fmnist-xp", "train", name]
        options |= changed | {"seed": config["seed"]}
        options |= {key: config[key] for key, usual in OTHERS.items() if config.get(key, usual) != usual}
        rows = {None: "", True: "--dense-rows", False: "--sorted-rows"}[config.get("dense_rows")]
    elif folder is not None:
        words, rows = ["fmnist-xp", "train", "--config", str(folder)], ""
    else:
        return ""
    for key, value in options.items():
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words.append(",".join(map(str, value)) if isinstance(value, list) else str(value))
    words += [rows] if rows else []
    if device.startswith("cuda") and config.get("graphs") is False:
        words.append("--no-graphs")
    return shlex.join(words)
