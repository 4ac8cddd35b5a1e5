"""The notebook's arithmetic as its owner runs it: with NumPy alone, in a fresh process each round.

It allocates arrays of 31 and 61 MB in every step. Whether the allocator has that memory or asks the system for it
depends on what else the process has allocated: in the process of the other sides, its time would depend on them.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from bench.notebook import Array, make_network
from bench.processes import in_fresh_process

WARM_UP = 2
"""Epochs that take up to three times as long as those that follow: the system has to hand out memory first."""


def write_rows(folder: Path, X: ArrayLike, y: Array) -> None:
    """Write what every round reads: the rows, as float32, and the labels."""
    np.save(folder / "X.npy", np.asarray(X, np.float32))
    np.save(folder / "y.npy", y)


class Rounds:
    """The notebook's side of a comparison: a call is one round and returns the seconds of its epochs after warm-up.

    Each round's process trains on the rows in `folder` from the weights `state`: `WARM_UP` epochs, then `epochs` that
    count, with as many threads as NumPy's BLAS takes by itself; `pause` seconds pass after it. `experiment` has the
    fields of an `Experiment`. `first` has the seconds of each process's first epoch.
    """

    def __init__(
        self, folder: Path, experiment: Mapping[str, Any], state: Mapping[str, Any], epochs: int, pause: float
    ) -> None:
        np.savez(folder / f"{experiment['name']}.npz", **state)
        self._arguments = {"folder": str(folder), "experiment": experiment, "epochs": WARM_UP + epochs}
        self._pause = pause
        self.first: list[float] = []

    def __call__(self) -> list[float]:
        seconds: list[float] = in_fresh_process(time_notebook, self._arguments, self._pause)["seconds"]
        self.first.append(seconds[0])
        return seconds[WARM_UP:]


def time_notebook(*, folder: str, experiment: Mapping[str, Any], epochs: int) -> dict[str, list[float]]:
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
