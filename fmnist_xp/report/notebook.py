"""The metrics that the notebook printed, for comparison only: nothing is trained on them."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.resources import as_file, files
from typing import Any, NamedTuple

from fmnist_xp.errors import RunError
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.train.history import History


class FinalMetrics(NamedTuple):
    """A run's training metrics in the last logged epoch, and its test metrics after the last update.

    `train_loss` is data loss plus regularization loss, `test_loss` only the data loss.
    """

    train_accuracy: float
    train_loss: float
    test_accuracy: float
    test_loss: float


NOTEBOOK_EPOCHS = 1100
NOTEBOOK_ROWS = (60_000, 10_000)  # training and test images

# The training metrics are those of epoch 1090: the notebook logged every 10th epoch, before its update.
NOTEBOOK_TEST: dict[str, FinalMetrics] = {
    "sgd": FinalMetrics(0.853, 0.455, 0.837, 0.449),
    "momentum": FinalMetrics(0.829, 0.690, 0.812, 0.527),
    "adam": FinalMetrics(0.879, 0.404, 0.864, 0.387),
}


def data_differences(dataset: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words what tells the data of a run from the notebook's; `dataset` is as in result.json."""
    if dataset["name"] != "fashion-mnist":
        yield f"{dataset['name']} data"
    elif (dataset["train_rows"], dataset["test_rows"]) != NOTEBOOK_ROWS:
        yield f"{dataset['train_rows']:,} + {dataset['test_rows']:,} images"


def result_differences(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words why the metrics of a run, as in result.json, cannot be compared with the notebook's."""
    yield from data_differences(result["dataset"])
    if result["epochs"] != NOTEBOOK_EPOCHS:
        yield f"{result['epochs']:,} {'epoch' if result['epochs'] == 1 else 'epochs'}"


def settings_differences(experiment: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield in words what tells the settings of a run, as in config.json, from those of the notebook's `experiment`.

    Epochs, seed and device may differ, and what decides no more than how sums are rounded.
    """
    if experiment not in NOTEBOOK_TEST:
        yield f"the notebook has no experiment {experiment}"
        return
    theirs = asdict(NOTEBOOK_EXPERIMENTS[experiment])
    ours = theirs | config["experiment"]  # older runs lack the settings that the notebook has not
    for name, expected in theirs.items():
        expected = list(expected) if isinstance(expected, tuple) else expected
        if name not in ("name", "epochs") and (found := ours[name]) != expected:
            yield f"{name.replace('_', ' ')} {found} instead of {expected}"
    if config.get("validation"):
        yield "rows held out for validation"


def notebook_history(experiment: str) -> History:
    """Return the training history that the notebook printed: every 10th of 1,100 epochs.

    Raises `RunError` unless `experiment` is one of the notebook's ("sgd", "momentum", "adam").
    """
    if experiment not in NOTEBOOK_TEST:
        raise RunError(f"the notebook has no experiment {experiment!r}: it has {', '.join(NOTEBOOK_TEST)}")
    with as_file(files("fmnist_xp.report") / "notebook_figures" / f"{experiment}.csv") as path:
        return History.load(path)
