"""The notebook's arithmetic as its owner runs it: with NumPy alone, in a fresh process each round.

It makes arrays of 31 and 61 MB anew in every step. Whether the allocator has that memory or asks the system for it
depends on what else the process has allocated: in a process with the other sides, its time would tell of them.
`python -m bench.baseline JSON` is one round.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.notebook import Array, make_network
from bench.processes import in_fresh_process


PAUSE = 4.0
"""Seconds from the end of a process to the next side. The kernel is at work on the memory that came back, and where
the machine is a virtual one it hands that to its host after two seconds: epochs of 0.1 s then took up to 0.5 s."""


def write_rows(folder: Path, X: Array, y: Array) -> None:
    """Write what every round reads: the rows, as float32, and the labels."""
    np.save(folder / "X.npy", X.astype(np.float32, copy=False))
    np.save(folder / "y.npy", y)


def timed(
    folder: Path, experiment: Mapping[str, Any], state: Mapping[str, Any], epochs: int, pause: float
) -> Callable[[], list[float]]:
    """Return a function that starts a process and returns the seconds of each of its epochs.

    A process trains on the rows in `folder` from the weights `state`: one epoch to warm up, then the `epochs` that
    count, with as many threads as NumPy's BLAS takes by itself. `experiment` has the fields of an `Experiment`. After
    it, `pause` seconds pass.
    """
    np.savez(folder / f"{experiment['name']}.npz", **state)
    arguments = {"folder": str(folder), "experiment": experiment, "epochs": epochs}

    def sample() -> list[float]:
        seconds: list[float] = in_fresh_process("bench.baseline", arguments)["seconds"]
        time.sleep(pause)
        return seconds

    return sample


def measure(*, folder: str, experiment: Mapping[str, Any], epochs: int) -> dict[str, list[float]]:
    """Return the seconds and the losses of `epochs` epochs, after one to warm up."""
    X, y = np.load(Path(folder, "X.npy")), np.load(Path(folder, "y.npy"))
    with np.load(Path(folder, f"{experiment['name']}.npz")) as state:
        network = make_network(dict(state), experiment)
    network.epoch(X, y)
    seconds, losses = [], []
    for _ in range(epochs):
        started = time.perf_counter()
        loss, _accuracy = network.epoch(X, y)
        seconds.append(time.perf_counter() - started)
        losses.append(loss)
    return {"seconds": seconds, "losses": losses}


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
