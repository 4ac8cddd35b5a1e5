"""The notebook's arithmetic as an engine whose losses check the others; `bench.baseline` times it."""

from dataclasses import asdict
from typing import Any

from bench.engines.base import Engine, Task
from bench.notebook import make_network


class Notebook(Engine):
    """`bench.notebook` on the CPU, whatever the device."""

    name = "notebook"
    note = (
        "plain NumPy on the CPU, float64 weights, as in the notebook; each round in a fresh process that imports "
        "NumPy alone, because what else has allocated memory in a process changes its time"
    )
    gpu = False

    def __init__(self, task: Task) -> None:
        """Copy the weights, as float64."""
        self._X, self._y = task.X, task.y
        self._network = make_network(task.state, asdict(task.experiment))

    def epoch(self) -> tuple[Any, Any]:
        """Return loss and accuracy as floats."""
        return self._network.epoch(self._X, self._y)
