"""Trainings on stand-ins of GPUs, with NCCL between the ranks or without, and of one process; see `test_nccl.py`.

`python -m mpi4py nccl_worker.py FILE`, by mpiexec, writes what each rank has come to in every case.
"""

import json
import logging
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from parity.standin import StandInCupy, make_nccl, make_nvmath
from threadpoolctl import threadpool_limits

from fmnist_xp.backend import CudaBackend, CudaGraphBackend
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, ReLU
from fmnist_xp.optim import Adam
from fmnist_xp.train.history import History

ROWS, EPOCHS = 60, 9
PENALTIES = (1e-4, 1e-3, 2e-4, 2e-3)


class Case(NamedTuple):
    """What is trained on which kind of device."""

    graphs: bool = False
    dtype: str = "float32"
    layout: str = "floats"
    options: dict[str, Any] = {}  # noqa: RUF012 (read alone)
    watched: bool = False
    nccl: Callable[[int], bool] = lambda _rank: True
    """Whether a rank has NCCL."""
    devices: Callable[[int], int] = lambda rank: rank
    """Which of the host's GPUs a rank takes."""
    counted: bool = False
    """Whether the cost of an epoch is asked for, which takes two more trainings."""


def make_cases() -> dict[str, Case]:
    held_out = Case(options={"validation_fraction": 0.3, "keep_best": True, "patience": 5})
    some_without = Case(nccl=lambda rank: rank == 0, counted=True)
    cases = {f"eager, {layout}": Case(layout=layout, counted=True) for layout in LAYOUTS}
    cases |= {"eager, watched": Case(watched=True)}
    cases |= {"eager, held out": held_out, "eager, NCCL on the first rank alone": some_without}
    graphs = {
        f"{dtype}, {layout}": Case(dtype=dtype, layout=layout, counted=dtype == "float16")
        for dtype in ("float32", "float64", "tf32", "float16")
        for layout in LAYOUTS
    }
    graphs |= {
        "one block": Case(options={"block_rows": ROWS}),
        "a row a block": Case(options={"block_rows": 1}),
        "held out": held_out,
        "watched": Case(watched=True),
        "NCCL on the first rank alone": some_without,
        "one GPU for all": Case(devices=lambda _rank: 1),
    }
    return cases | {f"graphs, {name}": case._replace(graphs=True) for name, case in graphs.items()}


# How the bytes (rows, 36) are handed in, and `dense`.
LAYOUTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], bool | None]] = {
    "bytes": (lambda images: images, None),
    "bytes without background": (lambda images: images, False),
    "floats": (lambda images: images / 127.5 - 1, None),
}
CASES = make_cases()


def make_images() -> tuple[np.ndarray, np.ndarray]:
    """Return bytes (ROWS, 36) of images with a margin, half of them with a wider one, and labels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (ROWS, 6, 6), dtype="uint8")
    images[:, 0] = images[::2, 1:3] = images[:, 5] = 0
    return images.reshape(ROWS, 36), generator.integers(0, 4, ROWS)


def share(rank: int, size: int) -> slice:
    """Return which rows a rank hands in: the first has most, the second none where there are more than two."""
    stops = {1: [60], 2: [45, 60], 3: [45, 45, 60], 4: [45, 45, 50, 60]}[size]
    return slice(stops[rank - 1] if rank else 0, stops[rank])


def make_backend(case: Case, rank: int, wire: Any) -> CudaBackend:
    cupy = StandInCupy(devices=4)
    if wire is not None and case.nccl(rank):
        cupy.cuda.nccl = make_nccl(cupy, wire)
    device = case.devices(rank)
    return (
        CudaGraphBackend(device, cupy=cupy, nvmath=make_nvmath(cupy))
        if case.graphs
        else CudaBackend(device, cupy=cupy)
    )


def make_model(case: Case, backend: CudaBackend) -> Sequential:
    model = Sequential([Dense(36, 9, *PENALTIES), ReLU(), Dense(9, 4)], backend=backend, seed=1, dtype=case.dtype)
    with backend.current():
        model.parameters *= 20  # else the weights start so small that little happens in a few epochs
    return model


def run(case: Case, comm: Any = None, wire: Any = None) -> dict[str, Any]:
    """Return what one rank comes to, or one process without MPI."""
    rank, size = (0, 1) if comm is None else (comm.rank, comm.size)
    convert, dense = LAYOUTS[case.layout]
    images, labels = make_images()
    rows = share(rank, size)
    X, y = convert(images)[rows], labels[rows]
    backend = make_backend(case, rank, wire)
    model, seen, said = make_model(case, backend), [], Said()
    options = {"log_every": 4, "verbose": 0, "block_rows": 16, "dense": dense} | case.options

    optimizer = Adam(0.02)

    def watch(history: History) -> None:
        seen.append(history.loss[-1])
        optimizer.learning_rate /= 2

    callbacks = [watch] if case.watched else []
    with threadpool_limits(1, user_api="blas"), said:
        history = model.fit(X, y, epochs=EPOCHS, optimizer=optimizer, callbacks=callbacks, comm=comm, **options)
        launches = len(backend.xp.launches)
        metrics = model.evaluate(X, y, comm=comm)
        cost = cost_of_an_epoch(case, backend, X, y, comm, options) if case.counted else {}
    best = history.best_state or {}
    return {
        "parameters": backend.to_host(model.parameters).tolist(),
        "columns": [history.epoch, history.loss, history.accuracy, history.learning_rate],
        "validation": [history.validation_accuracy, history.validation_loss],
        "best": {name: values.tolist() for name, values in best.items()},
        "metrics": [metrics.loss, metrics.accuracy],
        "seen": seen,
        "launches": launches,
        "cost": cost,
        "said": said.lines,
        "destroyed": [one.destroyed for one in getattr(backend.xp.cuda.nccl, "communicators", [])],
    }


def cost_of_an_epoch(
    case: Case, backend: CudaBackend, X: Any, y: Any, comm: Any, options: dict[str, Any]
) -> dict[str, int]:
    """Return what five more epochs add to the counts: none of them is logged or, with graphs, the first."""
    options = options | {"log_every": 5 if case.graphs else 1000, "comm": comm}
    model, optimizer, counts = make_model(case, backend), Adam(0.02), Counter[str]()
    for epochs, sign in ((1, 0), (10, -1), (15, 1)):  # the first makes the moments
        added = backend.xp.counted(partial(model.fit, X, y, epochs=epochs, optimizer=optimizer, **options))
        counts.update({name: sign * count for name, count in added.items()})
    return {name: count for name, count in counts.items() if count}


class Said(logging.Handler):
    """Keeps what the package warns of, while it is held."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> None:
        logging.getLogger("fmnist_xp").addHandler(self)

    def __exit__(self, *_error: object) -> None:
        logging.getLogger("fmnist_xp").removeHandler(self)


def main() -> None:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    wire = comm.Dup()
    of_ranks = {name: comm.gather(run(case, comm, wire)) for name, case in CASES.items()}
    if comm.rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(of_ranks))


if __name__ == "__main__":
    main()
