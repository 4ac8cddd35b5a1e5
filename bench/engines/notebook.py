"""The notebook's arithmetic as an engine."""

from typing import Any

from bench.engines.base import Engine, Task
from bench.notebook import NotebookNetwork, OptimizerAdam, OptimizerSGD
from fmnist_xp.experiments import Experiment


class Notebook(Engine):
    """`bench.notebook` on the CPU, whatever the device."""

    name = "notebook"
    note = "plain NumPy on the CPU, float64 weights, as in the notebook"
    gpu = False

    def __init__(self, task: Task) -> None:
        """Copy the weights, as float64."""
        self._X, self._y = task.X, task.y
        self._network = NotebookNetwork(task.state, task.experiment.l2, make_optimizer(task.experiment))

    def epoch(self) -> tuple[Any, Any]:
        """Return loss and accuracy as floats."""
        return self._network.epoch(self._X, self._y)


def make_optimizer(experiment: Experiment) -> OptimizerSGD:
    """Return the experiment's optimizer as the notebook has it."""
    if experiment.optimizer == "adam":
        return OptimizerAdam(experiment.learning_rate, experiment.decay)
    return OptimizerSGD(experiment.learning_rate, experiment.decay, experiment.momentum)
