"""The whole comparison of a device with its reference, kept as one record of plain values."""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.arguments import one_of
from fmnist_xp.backend import PRECISIONS, Backend, CpuBackend, default_backend
from fmnist_xp.data import CLASS_NAMES, Dataset, preprocess
from fmnist_xp.errors import DataError, DeviceError
from fmnist_xp.experiments import N_INPUTS, NOTEBOOK_EXPERIMENTS, Experiment
from fmnist_xp.files import write_text
from fmnist_xp.parity.bounds import Bounded
from fmnist_xp.parity.comparison import Comparison, compare, worst_cases
from fmnist_xp.parity.curves import TWINS, Curves, compare_curves, drift_of_twins, train_curve
from fmnist_xp.parity.fused import fused_operations
from fmnist_xp.parity.operations import operations
from fmnist_xp.parity.passes import Operation
from fmnist_xp.parity.step import (
    ROWS,
    UPDATED,
    bound_epoch,
    bound_step,
    compute_epoch,
    compute_step,
    start_network,
)
from fmnist_xp.parity.tolerances import FUSED, ROUNDOFF, Roundoff
from fmnist_xp.report.parity import parity_markdown, plot_parity
from fmnist_xp.runs import versions
from fmnist_xp.train.history import History

RECORD, REPORT = "parity.json", "parity.md"
THREAD_EPOCHS = 3

Rows = tuple[NDArray[np.float32], NDArray[np.uint8]]


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a backend, in a precision that it has, and an engine."""

    backend: Backend
    precision: str
    engine: str = "plain"

    def __str__(self) -> str:
        """Return the name of the backend, the precision, and the engine unless it is the plain one."""
        return f"{self.backend.name} {self.precision}{'' if self.engine == 'plain' else f', {self.engine} engine'}"

    @property
    def roundoff(self) -> Roundoff:
        """How it rounds."""
        return (FUSED if self.engine == "fused" else ROUNDOFF)[self.precision]


def choose_sides(backend: Backend, precision: str | None = None, engine: str = "plain") -> list[tuple[Side, Side]]:
    """Return what is compared, in `precision` or in all that `backend` has: pairs of the device and its reference.

    A GPU is held against the CPU in the same precision, or in float32 where the CPU lacks it; the CPU's float32
    against its float64. With the `engine` "fused" a GPU's epochs by that are. Raises `DeviceError` for a precision or
    an engine that the device lacks, and `ValueError` for a precision that the engine lacks and for the CPU's float64,
    which has nothing to be held against.
    """
    if engine == "fused":
        if not backend.multiprocessors:
            raise DeviceError(f"{backend.name} ({backend.device_name}) has no fused engine: it needs --device cuda")
        names = [one_of("precision", precision, FUSED)] if precision else list(FUSED)
        return [(Side(backend, name, engine), Side(default_backend(), "float32")) for name in names]
    if precision is not None and PRECISIONS[precision].fused:
        raise ValueError(f"{precision} is for the fused engine alone: add --engine fused")
    if precision is not None:
        backend.precision(precision)
    if isinstance(backend, CpuBackend):
        if precision == "float64":
            raise ValueError("on the CPU, float32 is compared with float64: leave --precision out, or name a GPU")
        return [(Side(backend, "float32"), Side(backend, "float64"))]
    cpu = default_backend()
    return [
        (Side(backend, name), Side(cpu, name if name in cpu.precisions else "float32"))
        for name in ([precision] if precision else backend.precisions)
    ]


def compare_operation(operation: Operation, device: Side, reference: Side) -> list[Comparison]:
    """Compare every tensor of one operation."""
    tensors = []
    for side in (device, reference):
        with side.backend.computing():
            computed = operation.compute(side.backend, side.precision)
        tensors.append({name: side.backend.to_host(array) for name, array in computed.items()})
    bounds = [operation.bound(side.roundoff) for side in (device, reference)]
    return _compare_all(operation.name, operation.case, tensors, bounds, device.precision)


def compare_step(experiment: Experiment, device: Side, reference: Side, rows: Rows) -> list[Comparison]:
    """Compare every tensor of one whole step."""
    sides = device, reference
    if device.engine == "fused":
        tensors = [_epoch(experiment, side, rows) for side in sides]
        start, optimizer = start_network(experiment, CpuBackend(1), "float64"), experiment.make_optimizer()
        bounds = [bound_epoch(start, optimizer, side.roundoff, *rows) for side in sides]
    else:
        tensors = [compute_step(experiment, side.backend, side.precision, *rows) for side in sides]
        bounds = [bound_step(experiment, side.precision, *rows) for side in sides]
    widths = "-".join(map(str, (N_INPUTS, *experiment.hidden, len(CLASS_NAMES))))
    lines = _compare_all(widths, f"{len(rows[0]):,} images", tensors, bounds, device.precision)
    # The update is the experiment's; all before it is the network's, which more than one experiment may have.
    return [replace(line, operation=experiment.name) if line.tensor.endswith(UPDATED) else line for line in lines]


def _epoch(experiment: Experiment, side: Side, rows: Rows) -> dict[str, NDArray[Any]]:
    network = start_network(experiment, side.backend, side.precision)
    return compute_epoch(network, experiment.make_optimizer(), side.engine, *rows)


def compare_threads(experiment: Experiment, backend: Backend, rows: Rows) -> Comparison:
    """Compare the parameters that a few epochs give on one thread and on several: in every bit."""
    results = []
    several = max(2, backend.threads)
    for threads in (several, 1):
        network = start_network(experiment, CpuBackend(threads), "float32")
        network.fit(*rows, epochs=THREAD_EPOCHS, optimizer=experiment.make_optimizer(), verbose=False)
        results.append(network.parameters)
    name = experiment.name, "parameters", f"{several} threads and 1, {THREAD_EPOCHS} epochs"
    return compare(name, results[0], results[1], 0.0)


def run_parity(
    pairs: Sequence[tuple[Side, Side]],
    train: Dataset,
    folder: Path,
    *,
    epochs: int,
    note: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Compare a device with its reference in the pairs of `choose_sides`; return the record.

    It is written to `folder`: as JSON (`RECORD`), as tables (`REPORT`), and its curves as a picture for each pair.
    `note` is called with a line on what is under way. Raises `DataError` for images of more than ten classes, which
    the experiments' networks do not have.
    """
    if len(train.class_names) > len(CLASS_NAMES):
        raise DataError(
            f"{train.source}: {len(train.class_names)} classes found; parity compares networks of {len(CLASS_NAMES)}"
        )
    backend, reference = (side.backend for side in pairs[0])
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    rows = preprocess(train, shuffle_seed=0)
    trainings = Trainings(rows, epochs, note)
    threads = []
    if isinstance(backend, CpuBackend):
        note("one thread and several")
        threads = [
            compare_threads(experiment, backend, rows).record() for experiment in NOTEBOOK_EXPERIMENTS.values()
        ]
    record: dict[str, Any] = {
        "device": {"name": backend.name, "hardware": backend.device_name, "threads": backend.threads},
        "reference": {"name": reference.name, "hardware": reference.device_name, "threads": reference.threads},
        "dataset": {"name": train.name, "rows": len(train)},
        "epochs": epochs,
        "versions": versions(),
        "threads": threads,
        "pairs": [_compare_pair(*pair, rows, trainings, note) for pair in pairs],
    }
    record |= {"passed": not any(failures(record)), "seconds": time.perf_counter() - started}
    record = _finite(record)
    write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    plot_parity(record, folder)
    write_text(folder / REPORT, parity_markdown(record))
    return record


class Trainings:
    """Curves that more than one comparison needs, each trained once."""

    def __init__(self, rows: Rows, epochs: int, note: Callable[[str], None]) -> None:
        self.rows, self.epochs, self.note = rows, epochs, note
        self._kept: dict[tuple[str, str, float, int], History] = {}

    def get(self, experiment: Experiment, side: Side, disturbance: float = 0.0, twin: int = 0) -> History:
        """Return the curve of `experiment` on `side`, or of one of its twins."""
        key = experiment.name, str(side), disturbance, twin
        if key not in self._kept:
            self.note(f"{experiment.name}: {self.epochs} epochs on {side}{f', twin {twin}' if disturbance else ''}")
            self._kept[key] = train_curve(
                *(experiment, side.backend, side.precision, *self.rows, self.epochs),
                disturbance=disturbance,
                twin=twin,
                engine=side.engine,
            )
        return self._kept[key]

    def compare(self, experiment: Experiment, device: Side, reference: Side) -> Curves:
        """Return the curves of both sides, with a tolerance from twins on the CPU."""
        original = device if device.backend is reference.backend else reference
        disturbance = device.roundoff.disturbance
        twins = [self.get(experiment, original, disturbance, number + 1) for number in range(TWINS)]
        drift = drift_of_twins(self.get(experiment, original), twins)
        expected, actual = (self.get(experiment, side) for side in (reference, device))
        roundoffs = reference.roundoff, device.roundoff
        return compare_curves(experiment.name, expected, actual, drift, roundoffs, len(self.rows[0]))


def _compare_pair(
    device: Side, reference: Side, rows: Rows, trainings: Trainings, note: Callable[[str], None]
) -> dict[str, Any]:
    note(f"operations and steps: {device} and {reference}")
    first = rows[0][:ROWS], rows[1][:ROWS]
    every = fused_operations() if device.engine == "fused" else operations()
    singles = (line for operation in every for line in compare_operation(operation, device, reference))
    steps = (
        line
        for experiment in NOTEBOOK_EXPERIMENTS.values()
        for line in compare_step(experiment, device, reference, first)
    )
    return {
        "device": str(device),
        "reference": str(reference),
        "precision": device.precision,
        "operations": [line.record() for line in worst_cases(singles)],
        "steps": [line.record() for line in worst_cases(steps)],
        "curves": [
            trainings.compare(experiment, device, reference).record() for experiment in NOTEBOOK_EXPERIMENTS.values()
        ],
    }


def _compare_all(
    name: str,
    case: str,
    tensors: Sequence[Mapping[str, NDArray[Any]]],
    bounds: Sequence[Mapping[str, Bounded]],
    precision: str,
) -> list[Comparison]:
    """Compare the tensors of the device with those of the reference, each within the bounds of both together."""
    (actual, expected), (actual_bounds, expected_bounds) = tensors, bounds
    dtype = PRECISIONS[precision].parameters
    return [
        compare(
            (name, tensor, case),
            array,
            expected[tensor],
            actual_bounds[tensor].tolerance + expected_bounds[tensor].tolerance,
            dtype,
        )
        for tensor, array in actual.items()
    ]


def failures(record: Mapping[str, Any]) -> Iterable[str]:
    """Yield a few words on each comparison of `record` that failed."""
    for line in record["threads"]:
        if not line["passed"]:
            yield f"{line['operation']} on {line['case']}"
    for pair in record["pairs"]:
        for line in (*pair["operations"], *pair["steps"]):
            if not line["passed"]:
                yield f"{line['operation']} {line['tensor']} ({line['case']}) in {pair['precision']}"
        for curve in pair["curves"]:
            if not curve["passed"]:
                yield f"{curve['experiment']} from epoch {curve['exceeds']} in {pair['precision']}"


def _finite(value: Any) -> Any:
    """Return plain values with None in the place of what JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list) else value
