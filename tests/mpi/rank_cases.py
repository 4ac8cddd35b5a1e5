"""Trainings of which every rank must come to the same bits, on any number of ranks and without MPI.

`python -m mpi4py rank_cases.py FOLDER`, by mpiexec, writes what each rank has come to.
"""

import io
import json
import logging
import math
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from image_helpers import CLASSES, images, labels_of, make_network, noise, scaled

from fmnist_xp import LBFGS, Adam, AdamW, Augmentation, Cosine, Dense, Dropout, History, ReLU, Sequential, Tanh
from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import Pixels
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS

Outcome: TypeAlias = dict[str, Any]
Case: TypeAlias = Callable[[Any, Path], Outcome]
"""What one rank of a communicator comes to, with a folder for files; of None, one process without MPI."""

ROWS, EPOCHS = 300, 5
GARMENTS, LABELS = images(ROWS, 28, 28), labels_of(ROWS)  # with background, so that they are sorted
SMALL = images(ROWS)  # of 12 x 12

SHARES: dict[str, Callable[[float], float]] = {
    "equal": lambda before: before,
    "unequal": lambda before: before**2,
    "all on the first rank": lambda before: float(before > 0),
    "all on the last rank": lambda before: float(before == 1),
    "none on every other rank": lambda before: math.ceil(4 * before) / 4,  # of eight
}
"""What share of the rows is handed in by the ranks before one, of the share that these are of all ranks."""


FEW = ("unequal", "none on every other rank")


def rank_and_size(comm: Any) -> tuple[int, int]:
    return (0, 1) if comm is None else (comm.rank, comm.size)


def share(comm: Any, rows: Any, how: str) -> Any:
    """Return the rows that this rank hands in."""
    rank, size = rank_and_size(comm)
    start, stop = (round(len(rows) * SHARES[how](ranks / size)) for ranks in (rank, rank + 1))
    return rows[start:stop]


def backend(comm: Any) -> CpuBackend:
    """Return one thread for a rank, two for a process without MPI."""
    return CpuBackend(2 if comm is None else 1)


def digest(values: Any) -> str:
    return sha256(np.ascontiguousarray(values).data).hexdigest()


def outcome(network: Sequential, history: History) -> Outcome:
    """Return all that must be the same, the bits of the weights by their digest."""
    best = history.best_state
    return {
        "parameters": digest(network.parameters),
        "history": history.to_csv(),
        "epochs": len(history.epoch_seconds),
        "best": None if best is None else {name: digest(values) for name, values in best.items()},
        "column_share": history.column_share,
        "stopped": history.stopped,
        "diverged": history.diverged,
    }


def fit(network: Sequential, comm: Any, X: Any, y: Any, shares: str = "equal", **options: Any) -> History:
    options = {"epochs": EPOCHS, "log_every": 2, "verbose": 0, "block_rows": 32, **options}
    if "validation_data" in options:
        options["validation_data"] = tuple(share(comm, rows, "unequal") for rows in options["validation_data"])
    return network.fit(share(comm, X, shares), share(comm, y, shares), comm=comm, **options)


def experiment(name: str, X: Any, dtype: str = "float32", **options: Any) -> Case:
    """Return the training of one of the notebook's experiments."""

    def train(comm: Any, _folder: Path) -> Outcome:
        network = NOTEBOOK_EXPERIMENTS[name].make_network(backend(comm), 1, dtype)
        return outcome(
            network, fit(network, comm, X, LABELS, optimizer=NOTEBOOK_EXPERIMENTS[name].make_optimizer(), **options)
        )

    return train


def small(X: Any = SMALL, y: Any = None, dtype: str = "float32", **options: Any) -> Case:
    """Return the training of a small network with every penalty."""

    def train(comm: Any, _folder: Path) -> Outcome:
        network = make_network(np.shape(X)[1], backend(comm), dtype)
        labels = labels_of(len(X)) if y is None else y
        return outcome(network, fit(network, comm, X, labels, **{"optimizer": Adam(0.02), **options}))

    return train


def mapped(comm: Any, folder: Path) -> Outcome:
    """Train on rows mapped from a file, in an order of their own."""
    rank, _size = rank_and_size(comm)
    np.save(folder / f"mapped-{rank}.npy", GARMENTS)
    rows = np.load(folder / f"mapped-{rank}.npy", mmap_mode="r")
    return experiment("adam", Pixels(rows, np.arange(ROWS)[::-1]))(comm, folder)


def many_classes(comm: Any, _folder: Path) -> Outcome:
    """Train on more classes than a byte can tell, with a layer that is no ReLU."""
    network = Sequential([Dense(144, 9), Tanh(), Dense(9, 300)], backend=backend(comm), seed=2, dtype="float64")
    labels = np.random.default_rng(1).integers(0, 300, ROWS)
    return outcome(network, fit(network, comm, scaled(SMALL), labels, optimizer="sgd"))


def dropping(how: str, comm: Any, _folder: Path) -> Outcome:
    """Train on rows whose order is not that in which they lie, with dropout behind ReLU and behind another layer."""
    layers = [Dense(784, 9), ReLU(), Dropout(0.3), Dense(9, 8), Tanh(), Dropout(0.2), Dense(8, CLASSES)]
    network = Sequential(layers, backend=backend(comm), seed=2)
    return outcome(network, fit(network, comm, GARMENTS, LABELS, how, optimizer=Adam(0.02)))


def weighted(comm: Any, folder: Path) -> Outcome:
    """Train on rows with weights, of which some are 0."""
    weights = np.arange(ROWS) % 5 * 0.37
    options: dict[str, Any] = {"sample_weight": share(comm, weights, "equal"), "validation_fraction": 0.2}
    return small(**options)(comm, folder)


def trained_twice(comm: Any, _folder: Path) -> Outcome:
    """Train on with the moments of an earlier training."""
    network, optimizer = make_network(144, backend(comm), "float32"), Adam(0.02)
    fit(network, comm, SMALL, LABELS, optimizer=optimizer)
    return outcome(network, fit(network, comm, SMALL, LABELS, "unequal", optimizer=optimizer))


def ranks_backwards(comm: Any, folder: Path) -> Outcome:
    """Train by a communicator of which the last process is rank 0."""
    return small()(comm if comm is None else comm.Split(0, -comm.rank), folder)


def evaluated(how: str) -> Case:
    """Return the evaluation of a network that is trained on its own."""

    def evaluate(comm: Any, _folder: Path) -> Outcome:
        network = make_network(144, backend(comm), "float32")
        found = {}
        for kind, rows in (("bytes", SMALL), ("floats", scaled(SMALL, "float32"))):
            metrics = network.evaluate(share(comm, rows, how), share(comm, LABELS, how), comm=comm)
            found |= {f"accuracy of {kind}": metrics.accuracy, f"loss of {kind}": metrics.loss}
        return found

    return evaluate


KEPT: dict[str, Any] = {"validation_fraction": 0.2, "keep_best": True, "epochs": 12, "checkpoint_every": 3}


def kept(comm: Any, folder: Path, epochs: int = 12) -> Outcome:
    """Train up to an epoch, from a checkpoint if there is one."""
    return small(**KEPT | {"epochs": epochs, "checkpoint": folder / "kept", "resume": True})(comm, folder)


def of_one_then_all(comm: Any, folder: Path) -> Outcome:
    """Go on, on all ranks, with a training begun without MPI."""
    if rank_and_size(comm)[0] == 0:
        kept(None, folder, 5)
    if comm is not None:
        comm.Barrier()
    return kept(comm, folder)


def of_all_then_halves(comm: Any, folder: Path) -> Outcome:
    """Go on with a training of all ranks on each half of them, at once."""
    kept(comm, folder, 5)
    rank, _size = rank_and_size(comm)
    half = comm if comm is None else comm.Split(rank % 2)
    own = folder / f"half-{rank % 2}"
    if half is None or half.rank == 0:
        shutil.copytree(folder / "kept", own / "kept")
    if half is not None:
        half.Barrier()
    return kept(half, own)


def two_networks(comm: Any, folder: Path) -> Outcome:
    """Train one network on every second rank, and another at the same time on the others."""
    rank, size = rank_and_size(comm)
    trainings = [experiment("momentum", GARMENTS), small(SMALL, shares="unequal")]
    if size == 1:
        return {str(number): train(comm, folder) for number, train in enumerate(trainings)}
    half = comm.Split(rank % 2)
    found = {str(rank % 2): trainings[rank % 2](half, folder)}
    return {name: of_rank[name] for of_rank in comm.allgather(found) for name in of_rank}


FLOATS = scaled(GARMENTS, "float32")
LAYOUTS: dict[str, dict[str, Any]] = {
    "sorted bytes": {"X": GARMENTS},
    "dense bytes": {"X": GARMENTS, "dense": True},
    "sorted floats": {"X": FLOATS},
    "dense floats": {"X": FLOATS, "dense": True},
    "float64": {"X": FLOATS, "dtype": "float64"},
}
WINDOWS = np.tile(images(1000, 4, 4), (140, 1))  # more than are sorted at once
HELD_OUT: dict[str, Any] = {"validation_fraction": 0.2, "epochs": 12, "log_every": 1}

CASES: dict[str, Case] = {
    **{
        f"{name}, {layout}": experiment(name, **given)
        for name in NOTEBOOK_EXPERIMENTS
        for layout, given in LAYOUTS.items()
    },
    **{f"shares {how}": small(shares=how) for how in SHARES},
    **{f"floats, {how}": small(scaled(SMALL, "float32"), shares=how) for how in FEW},
    **{f"evaluated, {how}": evaluated(how) for how in FEW},
    "blocks of the usual size": small(np.tile(SMALL, (6, 1)), block_rows=None),
    "other blocks": small(block_rows=50),
    "one block": small(block_rows=ROWS),
    "two groups": small(SMALL[:60]),
    "two rows": small(SMALL[:2]),
    "blocks of one row": small(images(1100, 4, 4), block_rows=1, epochs=2),  # two in a group
    "no background": small(noise(ROWS)),
    "two windows": small(WINDOWS, block_rows=4096, epochs=2),
    "one-hot labels": small(y=np.eye(CLASSES)[LABELS]),
    "averaged": small(optimizer=AdamW(Cosine(0.02, 12), clip_norm=0.1, ema=0.8), **HELD_OUT, keep_best=True),
    "L-BFGS": small(optimizer=LBFGS(), **HELD_OUT | {"epochs": 20}),
    "L-BFGS in doubles": small(dtype="float64", optimizer=LBFGS(), **HELD_OUT | {"epochs": 20}),
    "weighted": weighted,
    "mapped": mapped,
    "many classes": many_classes,
    "images changed": small(augmentation=Augmentation(mirror=True, shift=2)),
    **{f"units dropped, {how}": partial(dropping, how) for how in FEW},
    "trained twice": trained_twice,
    "held out": small(**HELD_OUT, validation_seed=3),
    "kept": small(**HELD_OUT, keep_best=True, patience=4, optimizer="sgd"),
    "other rows held out": small(SMALL[:200], y=LABELS[:200], validation_data=(SMALL[200:], LABELS[200:])),
    "diverged": small(optimizer=Adam(1e30), epochs=40),
    "diverged, going on": small(optimizer=Adam(1e30), keep_going=True, epochs=4),
    "ranks backwards": ranks_backwards,
    "two networks at once": two_networks,
    "never stopped": small(**{name: value for name, value in KEPT.items() if name != "checkpoint_every"}),
    "begun by one": of_one_then_all,
    "ended by halves": of_all_then_halves,
}
"""Those that come to the same on every rank of any number, and without MPI."""


# What is not the same on every rank


def called(comm: Any, _folder: Path) -> Outcome:
    """Train with callbacks, of which one ends the training, and with all that is printed and logged."""
    network, calls = make_network(144, backend(comm), "float32"), list[int]()

    def stop(history: History) -> None:
        calls.append(history.epoch[-1])
        if len(calls) == 3:
            history.stop("seen enough")

    log, printed = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(log)
    logger = logging.getLogger("fmnist_xp")
    logger.addHandler(handler)
    with redirect_stdout(printed):
        history = fit(network, comm, 200 * scaled(SMALL), LABELS, "unequal", epochs=50, verbose=1, callbacks=stop)
    logger.removeHandler(handler)
    return outcome(network, history) | {"calls": calls, "printed": printed.getvalue(), "logged": log.getvalue()}


@contextmanager
def counted() -> Iterator[tuple[Any, Counter[str]]]:
    """Yield a communicator of all processes, and how often each method of it and of its duplicates is called."""
    from mpi4py import MPI

    calls: Counter[str] = Counter()
    size = make_network(144, CpuBackend(1), "float32").parameters.nbytes

    class Counting(MPI.Intracomm):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            if name.startswith(("_", "Get_")) or not callable(value):
                return value

            def call(*arguments: Any, **more: Any) -> Any:
                vector = len(arguments) > 0 and getattr(arguments[0], "nbytes", 0) == size
                calls[f"{name} of parameters" if vector else name] += 1
                return value(*arguments, **more)

            return call

    yield Counting(MPI.COMM_WORLD), calls


def messages(comm: Any, _folder: Path) -> Outcome:
    """Count the calls of an epoch, logged or not: what a training that is ten epochs longer has more of."""

    def fitted(epochs: int, log_every: int) -> tuple[Counter[str], History]:
        with counted() as (counting, calls):
            network = make_network(144, backend(comm), "float32")
            return calls, fit(network, counting, SMALL, LABELS, epochs=epochs, log_every=log_every)

    found: Outcome = {}
    for kind, log_every in (("not logged", 1000), ("logged", 1)):
        (short, _history), (long, history) = fitted(10, log_every), fitted(20, log_every)
        found[kind] = {name: (long[name] - short[name]) / 10 for name in long | short if long[name] != short[name]}
    return found | {"seconds": history.message_seconds, "all seconds": sum(history.epoch_seconds)}


def run_cases(comm: Any, folder: Path) -> dict[str, Outcome]:
    """Return what this rank comes to in each case."""
    rank, _size = rank_and_size(comm)
    outcomes = {}
    others = {"called": called} | ({} if comm is None else {"messages": messages})
    for number, (name, case) in enumerate((CASES | others).items()):
        own = folder / str(number)
        if rank == 0:
            own.mkdir()
        if comm is not None:
            comm.Barrier()
        outcomes[name] = case(comm, own)
    return outcomes


def main(folder: Path) -> None:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    (folder / f"rank-{comm.rank}.json").write_text(json.dumps(run_cases(comm, folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
