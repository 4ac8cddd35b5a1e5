"""The search for the experiment `best`: one setting after another, each of the values that does best.

A setting is chosen by the accuracy on 10,000 of the 60,000 training images, which are held out; the test images are
not read. It costs many short trainings and a few long ones, some two hours on two cores, and goes on where it was
stopped.
"""

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fmnist_xp.backend import Backend, get_backend
from fmnist_xp.data import Dataset, load_fashion_mnist, pixels
from fmnist_xp.experiments import Experiment
from fmnist_xp.files import write_text
from fmnist_xp.train.validation import held_out_rows

HELD_OUT = 1 / 6
START = Experiment(
    "best",
    (256, 128),
    "adamw",
    learning_rate=0.005,
    l2=0.0,
    epochs=300,
    initializer="he_normal",
    label_smoothing=0.05,
    optimizer_options={"weight_decay": 0.05, "ema": 0.98},
    schedule={"type": "cosine", "warmup": 20},
)


class Round(NamedTuple):
    """A setting in words, and the values that are tried, each as the fields of an `Experiment` that it changes.

    A mapping among the fields changes those of its own entries.
    """

    setting: str
    values: Mapping[str, Mapping[str, Any]]


ROUNDS = (
    Round("learning rate", {f"{rate:g}": {"learning_rate": rate} for rate in (0.005, 0.01, 0.02)}),
    Round(
        "images",
        {
            "as they are": {},
            "mirrored": {"mirror": True},
            "mirrored and shifted by up to 1": {"mirror": True, "shift": 1},
        },
    ),
    Round("dropout", {f"{rate:g}": {"dropout": rate} for rate in (0.0, 0.1, 0.2)}),
    Round("label smoothing", {f"{share:g}": {"label_smoothing": share} for share in (0.0, 0.05, 0.1)}),
    Round("weight decay", {f"{rate:g}": {"optimizer_options": {"weight_decay": rate}} for rate in (0.05, 0.5, 2.0)}),
    Round("activation", {name: {"activation": name} for name in ("relu", "gelu")}),
    Round("Adam's β₂", {"0.999": {}, "0.99": {"optimizer_options": {"beta_2": 0.99}}}),
    Round(
        "largest norm of the gradient",
        {"any": {}} | {f"{norm:g}": {"optimizer_options": {"clip_norm": norm}} for norm in (1.0, 0.3, 0.1)},
    ),
    Round("learning rate, once more", {f"{rate:g}": {"learning_rate": rate} for rate in (0.01, 0.015)}),
    # A long training of a wider network learns the images by heart: what keeps it from that is looked for once more.
    Round(
        "600 epochs of 512, 256: images",
        {
            "mirrored": {"hidden": (512, 256), "epochs": 600},
            "mirrored and shifted by up to 1": {"hidden": (512, 256), "epochs": 600, "shift": 1},
        },
    ),
    Round("label smoothing, then", {f"{share:g}": {"label_smoothing": share} for share in (0.0, 0.1)}),
    Round(
        "weight decay, then",
        {f"{rate:g}": {"optimizer_options": {"weight_decay": rate}} for rate in (0.05, 0.3, 1.0)},
    ),
    Round("dropout, then", {f"{rate:g}": {"dropout": rate} for rate in (0.1, 0.2)}),
    Round("shifts", {f"by up to {pixels}": {"shift": pixels} for pixels in (1, 2)}),
    Round("widths", {", ".join(map(str, widths)): {"hidden": widths} for widths in ((512, 256), (400, 128))}),
)
TRIALS, REPORT = "trials.csv", "README.md"
HEAD = """# The search for the experiment `best`

`scripts/search-best` has written this table. It looks for one setting after another, and goes on with the value that
has the highest accuracy on 10,000 of the 60,000 training images, which are held out; the test images are not read.
All trainings are full batch, of seed 0, on the other 50,000; losses are those of the smoothed labels where labels are
smoothed. [trials.csv](trials.csv) has all settings of each.

| setting | value | accuracy, held out | loss, held out | accuracy, trained on | epochs |
| --- | --- | ---: | ---: | ---: | ---: |"""


class Trial(NamedTuple):
    """What came of a value of a setting; `experiment` is all of its fields, as JSON."""

    setting: str
    value: str
    held_out_accuracy: float
    held_out_loss: float
    train_accuracy: float
    experiment: str


def main() -> None:
    """Search, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("docs/best"), help="Where the table is written.")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    train, _test = load_fashion_mnist(allow_synthetic=False)
    best = search(ROUNDS, START, train, get_backend(given.device), given.folder)
    print(f"the best: {best}")


def search(rounds: Sequence[Round], start: Experiment, train: Dataset, backend: Backend, folder: Path) -> Experiment:
    """Try the values of each round on the best experiment before it, and return the best one after the last.

    Each trial is written to the folder's table once it is made; one that is there is not made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = {trial.experiment: trial for trial in read_trials(folder / TRIALS)}
    best, trials = start, list[Trial]()
    for setting, values in rounds:
        tried: list[tuple[float, Experiment]] = []
        for value, fields in values.items():
            experiment = changed(best, fields)
            text = json.dumps(asdict(experiment))
            if text not in known:
                known[text] = measured(experiment, text, train, backend)
            trials.append(known[text]._replace(setting=setting, value=value))
            tried.append((trials[-1].held_out_accuracy, experiment))
            print(f"{setting}: {value}: {trials[-1].held_out_accuracy:.4f}", flush=True)
            write_trials(trials, folder)
        best = max(tried, key=lambda pair: pair[0])[1]
    return best


def changed(experiment: Experiment, fields: Mapping[str, Any]) -> Experiment:
    """Return the experiment with other `fields`."""
    whole = {
        name: {**getattr(experiment, name), **value} if isinstance(value, Mapping) else value
        for name, value in fields.items()
    }
    return replace(experiment, **whole)


def measured(experiment: Experiment, text: str, train: Dataset, backend: Backend) -> Trial:
    """Train `experiment` with seed 0 on the rows that are not held out."""
    X, y = pixels(train)
    held_out = held_out_rows(y, HELD_OUT, seed=0)
    own, others = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    network = experiment.make_network(backend, seed=0)
    network.fit(
        X[own],
        y[own],
        epochs=experiment.epochs,
        optimizer=experiment.make_optimizer(),
        augmentation=experiment.make_augmentation(seed=0),
        log_every=50,
        verbose=0,
    )
    known, new = network.evaluate(X[own], y[own]), network.evaluate(X[others], y[others])
    return Trial("", "", new.accuracy, new.loss, known.accuracy, text)


def read_trials(path: Path) -> list[Trial]:
    """Return the trials in a table, none where there is no table."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return [Trial(row[0], row[1], *map(float, row[2:5]), row[5]) for row in rows]  # type: ignore[call-arg]


def write_trials(trials: Sequence[Trial], folder: Path) -> None:
    """Write the trials as CSV, and as a table in Markdown in which the best of each setting is bold."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Trial._fields)
    writer.writerows(trials)
    write_text(folder / TRIALS, text.getvalue())
    lines = [HEAD]
    for setting in dict.fromkeys(trial.setting for trial in trials):
        of_setting = [trial for trial in trials if trial.setting == setting]
        best = max(of_setting, key=lambda trial: trial.held_out_accuracy)
        for trial in of_setting:
            accuracy = f"{trial.held_out_accuracy:.4f}"
            cells = (
                setting if trial is of_setting[0] else "",
                f"**{trial.value}**" if trial is best else trial.value,
                f"**{accuracy}**" if trial is best else accuracy,
                f"{trial.held_out_loss:.4f}",
                f"{trial.train_accuracy:.4f}",
                str(json.loads(trial.experiment)["epochs"]),
            )
            lines.append(f"| {' | '.join(cells)} |")
    write_text(folder / REPORT, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
