"""The notebook's arithmetic as its owner runs it: with NumPy alone, in a fresh process each round.

It makes arrays of 31 and 61 MB anew in every step. Whether the allocator has that memory or asks the system for it
depends on what else the process has allocated: in a process with the other sides, its time would tell of them.
`python -m bench.baseline JSON` is one round.
"""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.notebook import Array, make_network
from bench.processes import in_fresh_process

WARM_UP = 2
"""Epochs that take up to three times as long as those that follow: the system has to hand out memory first."""


def write_rows(folder: Path, X: Array, y: Array) -> None:
    """Write what every round reads: the rows, as float32, and the labels."""
    np.save(folder / "X.npy", X.astype(np.float32, copy=False))
    np.save(folder / "y.npy", y)


class Rounds:
    """The notebook's turns: called, it starts a process and returns the seconds of its epochs once they have settled.

    A process trains on the rows in `folder` from the weights `state`: `WARM_UP` epochs, then the `epochs` that count,
    with as many threads as NumPy's BLAS takes by itself. `experiment` has the fields of an `Experiment`. After it,
    `pause` seconds pass. `first` has the seconds of each process's first epoch.
    """

    def __init__(
        self, folder: Path, experiment: Mapping[str, Any], state: Mapping[str, Any], epochs: int, pause: float
    ) -> None:
        np.savez(folder / f"{experiment['name']}.npz", **state)
        self._arguments = {"folder": str(folder), "experiment": experiment, "epochs": WARM_UP + epochs}
        self._pause = pause
        self.first: list[float] = []

    def __call__(self) -> list[float]:
        seconds: list[float] = in_fresh_process("bench.baseline", self._arguments)["seconds"]
        time.sleep(self._pause)
        self.first.append(seconds[0])
        return seconds[WARM_UP:]


def measure(*, folder: str, experiment: Mapping[str, Any], epochs: int) -> dict[str, list[float]]:
    """Return the seconds and the losses of `epochs` epochs."""
    X, y = np.load(Path(folder, "X.npy")), np.load(Path(folder, "y.npy"))
    with np.load(Path(folder, f"{experiment['name']}.npz")) as state:
        network = make_network(dict(state), experiment)
    seconds, losses = [], []
    for _ in range(epochs):
        started = time.perf_counter()
        loss, _accuracy = network.epoch(X, y)
        seconds.append(time.perf_counter() - started)
        losses.append(loss)
    return {"seconds": seconds, "losses": losses}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
