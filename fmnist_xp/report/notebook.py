"""The figures the notebook printed, to compare with and never to train on."""

from importlib.resources import as_file, files
from typing import NamedTuple

from fmnist_xp.errors import RunError
from fmnist_xp.train.history import History


class FinalFigures(NamedTuple):
    """How a run ended: training figures of the last logged epoch, test figures after the last update.

    `train_loss` is data loss plus regularization loss, `test_loss` the data loss alone.
    """

    train_accuracy: float
    train_loss: float
    test_accuracy: float
    test_loss: float


NOTEBOOK_EPOCHS = 1100
NOTEBOOK_ROWS = (60_000, 10_000)  # training and test images

# The training figures are those of epoch 1090: the notebook logged every 10th epoch, before its update.
NOTEBOOK_TEST: dict[str, FinalFigures] = {
    "sgd": FinalFigures(0.853, 0.455, 0.837, 0.449),
    "momentum": FinalFigures(0.829, 0.690, 0.812, 0.527),
    "adam": FinalFigures(0.879, 0.404, 0.864, 0.387),
}


def notebook_history(experiment: str) -> History:
    """Return what the notebook printed while it trained: every 10th of 1,100 epochs.

    Raises `RunError` where `experiment` is not one of the notebook's ("sgd", "momentum", "adam").
    """
    if experiment not in NOTEBOOK_TEST:
        raise RunError(f"the notebook has no experiment {experiment!r}: it has {', '.join(NOTEBOOK_TEST)}")
    with as_file(files("fmnist_xp.report") / "notebook_figures" / f"{experiment}.csv") as path:
        return History.load(path)
