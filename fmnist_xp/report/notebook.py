"""The metrics that the notebook printed, for comparison only: nothing is trained on them."""

from importlib.resources import as_file, files
from typing import NamedTuple

from fmnist_xp.errors import RunError
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


def notebook_history(experiment: str) -> History:
    """Return the training history that the notebook printed: every 10th of 1,100 epochs.

    Raises `RunError` unless `experiment` is one of the notebook's ("sgd", "momentum", "adam").
    """
    if experiment not in NOTEBOOK_TEST:
        raise RunError(f"the notebook has no experiment {experiment!r}: it has {', '.join(NOTEBOOK_TEST)}")
    with as_file(files("fmnist_xp.report") / "notebook_figures" / f"{experiment}.csv") as path:
        return History.load(path)
