"""Calls that one rank makes otherwise than the others, and what each rank raises; see `test_refusals.py`.

`python -m mpi4py refusals_worker.py FILE.json`, by mpiexec, writes that of every case. With "callback" or "layer" in
place of the file, a training is begun in which one rank raises.
"""

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from fmnist_xp.backend import CpuBackend
from fmnist_xp.model import Sequential
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, ReLU, Softmax
from fmnist_xp.optim import SGD, Adam

RANKS = 3
FAULTY = 1
"""The rank that does otherwise."""

ROWS, COLUMNS, CLASSES = 12, 5, 3
BYTES = np.random.default_rng(0).integers(0, 256, (ROWS, COLUMNS), dtype="uint8")
X, Y = BYTES / 127.5 - 1, np.arange(ROWS) % CLASSES


class OtherBackend(CpuBackend):
    """A backend of another kind."""


class Passing(Layer):
    """A layer of the user's own, which fails in its sixth call where it is told to."""

    fails, calls = False, 0

    def forward(self, inputs: Any) -> Any:
        type(self).calls += 1
        if self.fails and type(self).calls == 6:
            raise OSError("the disk is gone")
        return inputs

    def backward(self, dvalues: Any) -> Any:
        return dvalues


def network(width: int = 4, loss: Any = None, end: Any = (), **options: Any) -> Sequential:
    layers = [Dense(COLUMNS, width), ReLU(), Dense(width, CLASSES), *end]
    return Sequential(layers, loss=loss, **{"backend": CpuBackend(1), "seed": 1} | options)


def used(optimizer: Any) -> Any:
    """Return an optimizer after two updates."""
    network().fit(X, Y, epochs=2, optimizer=optimizer, verbose=0)
    return optimizer


def with_nan(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[2, 3] = np.nan
    return rows


OPTIONS: dict[str, Any] = {"epochs": 3, "verbose": 0}
OTHER_OPTIONS: dict[str, dict[str, Any]] = {
    "epochs": {"epochs": 4},
    "log_every": {"log_every": 7},
    "block_rows": {"block_rows": 2},
    "dense": {"dense": True},
    "validation_fraction": {"validation_fraction": 0.25},
    "validation_seed": {"validation_seed": 4},
    "validation_data": {"validation_data": (X, Y)},
    "keep_going": {"keep_going": True},
    "learning rate": {"optimizer": Adam(0.5)},
    "kind of optimizer": {"optimizer": SGD(0.02)},
    "updates made": {"optimizer": lambda: used(Adam(0.02))},
    "checkpoint": {"checkpoint": "checkpoints"},
    # Refused wherever they are given.
    "negative epochs": {"epochs": -1},
    "unknown optimizer": {"optimizer": "adams"},
    "patience alone": {"patience": 2},
    "resume alone": {"resume": True},
    "no callback": {"callbacks": [3]},
}
OTHER_NETWORKS: dict[str, Callable[[], Sequential]] = {
    "width": lambda: network(5),
    "loss": lambda: network(end=[Softmax()], loss=CategoricalCrossentropy()),
    "precision": lambda: network(dtype="float64"),
    "seed": lambda: network(seed=2),
    "backend": lambda: network(backend=OtherBackend(1)),
}
OTHER_ROWS: dict[str, tuple[Any, Any]] = {
    "label out of range": (X, np.where(Y == 2, 7, Y)),
    "labels of text": (X, [str(label) for label in Y]),
    "fewer labels": (X, Y[:-1]),
    "NaN": (with_nan(X), Y),
    "other columns": (X[:, 1:], Y),
    "bytes": (BYTES, Y),
}
OTHER_VERSIONS = {"fmnist-xp": "0.0.1", "numpy": "1.0"}


@contextmanager
def version_of(package: str, version: str) -> Any:
    """Let a package have another version."""
    from fmnist_xp.train.together import version as usual

    with patch("fmnist_xp.train.together.version", lambda name: version if name == package else usual(name)):
        yield


def attempts(comm: Any, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what each case calls on this rank."""
    at_fault = comm.rank == FAULTY
    share = slice(ROWS * comm.rank // comm.size, ROWS * (comm.rank + 1) // comm.size)

    def fit(other: dict[str, Any] | None = None, rows: Any = None, model: Any = None) -> None:
        options = {"optimizer": Adam(0.02)} | OPTIONS | (other or {})
        if callable(options["optimizer"]) and not isinstance(options["optimizer"], type):
            options["optimizer"] = options["optimizer"]()
        if "checkpoint" in options:
            options["checkpoint"] = folder / options["checkpoint"]
        model = model or network()
        before = model.parameters.copy()
        try:
            model.fit(*(rows or (X[share], Y[share])), comm=comm, **options)
        except Exception:
            assert (model.parameters == before).all(), "it was trained"
            raise

    def with_other_version(package: str) -> None:
        if not at_fault:
            return fit()
        with version_of(package, OTHER_VERSIONS[package]):
            return fit()

    def after_another_training() -> None:
        """Rank 0 alone looks at the folder, in which there is a checkpoint of other rows."""
        fit({"checkpoint": "others"})
        fit({"checkpoint": "others", "resume": True}, (X[share] * 0.5, Y[share]))

    def evaluate(model: Sequential, rows: tuple[Any, Any]) -> None:
        model.evaluate(*rows, comm=comm)

    mine = X[share], Y[share]
    cases: dict[str, Callable[[], Any]] = {}
    for name, options in OTHER_OPTIONS.items():
        cases[f"option: {name}"] = lambda options=options: fit(options if at_fault else {})
    for name, make in OTHER_NETWORKS.items():
        cases[f"network: {name}"] = lambda make=make: fit(model=make() if at_fault else None)
    for name, rows in OTHER_ROWS.items():
        cases[f"rows: {name}"] = lambda rows=rows: fit(rows=rows if at_fault else None)
    for package in OTHER_VERSIONS:
        cases[f"version: {package}"] = lambda package=package: with_other_version(package)
    none = X[:0], Y[:0]
    cases |= {
        "no rows": lambda: fit(rows=none),
        "another training's checkpoint": after_another_training,
        "validation: NaN": lambda: fit({"validation_data": (with_nan(X), Y) if at_fault else (X, Y)}),
        "evaluate: weights": lambda: evaluate(network(seed=2 if at_fault else 1), mine),
        "evaluate: NaN": lambda: evaluate(network(), (with_nan(X), Y) if at_fault else mine),
        "evaluate: no rows": lambda: evaluate(network(), none),
    }
    return cases


def not_communicators(mpi: Any) -> dict[str, Any]:
    """Return what `fit` takes for no communicator, on every rank."""
    halves = mpi.COMM_WORLD.Split(mpi.COMM_WORLD.rank == 0)
    between = halves.Create_intercomm(0, mpi.COMM_WORLD, 1 if mpi.COMM_WORLD.rank == 0 else 0)
    return {"a number": 3, "True": True, "no communicator": mpi.COMM_NULL, "one between two groups": between}


def raised(attempt: Callable[[], Any]) -> list[str] | None:
    """Return the kind and the message of what `attempt` raises, and whether all ranks were told."""
    try:
        attempt()
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "told_to_all", False)]
    return None


def break_off(fault: str, comm: Any) -> None:
    """Train; the first rank's callback raises, or a layer of the last rank."""

    def callback(history: Any) -> None:
        if fault == "callback" and len(history.epoch) == 3:
            raise OSError("the disk is gone")

    Passing.fails = fault == "layer" and comm.rank == comm.size - 1
    model = Sequential([Dense(COLUMNS, CLASSES), Passing()], backend=CpuBackend(1), seed=1)
    options = {"log_every": 1, "block_rows": 4, "verbose": 0}  # a block for every rank, and more
    model.fit(X, Y, epochs=1000, callbacks=callback, comm=comm, **options)
    print("trained to the end")


def main() -> None:
    from mpi4py import MPI

    comm, target = MPI.COMM_WORLD, sys.argv[1]
    if not target.endswith(".json"):
        return break_off(target, comm)
    file = Path(target)
    of_ranks = {name: comm.gather(raised(call)) for name, call in attempts(comm, file.parent).items()}
    for name, given in not_communicators(MPI).items():
        call = lambda given=given: network().fit(X, Y, comm=given, **OPTIONS)  # noqa: E731
        of_ranks[f"comm: {name}"] = comm.gather(raised(call))
    of_ranks["nothing"] = comm.gather(raised(lambda: network().fit(X, Y, comm=comm, **OPTIONS)))
    if comm.rank == 0:
        file.write_text(json.dumps(of_ranks))
    return None


if __name__ == "__main__":
    main()
