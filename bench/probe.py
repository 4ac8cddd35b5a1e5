"""Probe: the time of each call of an epoch on a GPU, what queueing it costs the host, and alternatives to it.

Device events time a series of the same call, behind a product that keeps the device busy until the host has queued
all of them: this tells the device's time from the host's.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import markdown
from bench.markdown import Record
from bench.measure import rounded
from bench.results import Options, save
from fmnist_xp.backend import Array, Backend, Call, Product, RowSum, Step
from fmnist_xp.errors import DeviceError
from fmnist_xp.experiments import N_INPUTS, NOTEBOOK_EXPERIMENTS, Experiment
from fmnist_xp.measure import copy_rate, gemm_sampler, time_epochs
from fmnist_xp.train.plan import Plan

ROWS = 60_000
NETWORKS = ("adam", "sgd")
"""One experiment of each architecture."""
WIDTHS = (10, 64, 128)
"""Of the arrays whose rows are summed."""

LONGEST = 5
"""Calls of an epoch that the table shows."""

Calls = Callable[[], Any]


def run(options: Options) -> Path:
    """Measure and return the path of the JSON file; raise `DeviceError` on a CPU."""
    backend = options.backend()
    if not backend.asynchronous:
        raise DeviceError("the probe times single calls of a GPU, and --device is cpu: name cuda")
    rows = ROWS // 10 if options.quick else ROWS
    settings = {"rows": rows, "repeats": 20, "samples": 3, "epochs": 30 if options.quick else 200}
    timed = _Timer(backend, settings["repeats"], settings["samples"], 512 if options.quick else 8192)
    results: dict[str, Any] = {
        "copy_bytes_per_second": rounded(copy_rate(backend, repeats=10)),
        "upload_seconds": _upload(backend, rows),
        "precisions": {},
    }
    for precision in backend.precisions:
        gemm = gemm_sampler(backend, precision, size=512 if options.quick else 8192, repeats=5)
        results["precisions"][precision] = {
            "gemm_flops_per_second": rounded(gemm()),
            "epochs": {
                name: _epoch(NOTEBOOK_EXPERIMENTS[name], backend, precision, rows, timed, settings["epochs"])
                for name in NETWORKS
            },
            "sums_over_rows": dict(_sums(backend, precision, rows, timed)),
        }
        print(precision, flush=True)
    return save("probe", options, backend, settings, results)


class _Timer:
    """Times calls on the device and on the host."""

    def __init__(self, backend: Backend, repeats: int, samples: int, busy: int) -> None:
        self._backend, self._repeats, self._samples = backend, repeats, samples
        with backend.computing():
            self._busy = [backend.xp.ones((busy, busy), dtype="float32") for _ in range(3)]

    def __call__(self, call: Calls) -> dict[str, float]:
        """Return the medians of the device's and of the host's microseconds for one `call`."""
        backend = self._backend
        device, host = [], []
        with backend.computing():
            call()
            for _ in range(self._samples):
                backend.synchronize()
                backend.dot(*self._busy)  # some 20 ms, in which the host queues what follows
                marks = [backend.mark()]
                started = time.perf_counter()
                for _ in range(self._repeats):
                    call()
                host.append((time.perf_counter() - started) / self._repeats)
                marks.append(backend.mark())
                device.append(backend.seconds_between(marks)[0] / self._repeats)
        return {"device_us": rounded(1e6 * median(device)), "host_us": rounded(1e6 * median(host))}


def _epoch(
    experiment: Experiment, backend: Backend, precision: str, rows: int, timed: _Timer, epochs: int
) -> dict[str, Any]:
    """Return the microseconds of an epoch as training runs it, and of each of its calls in their order."""
    with backend.computing():
        network = experiment.make_network(backend, seed=0, dtype=precision)
        optimizer = experiment.make_optimizer()
        X, y = _made(backend, rows, network.precision.operands)
        plan = Plan(network)
        forward = plan.forward(X, training=True)
        steps = [*forward.calls.steps, *plan.backward(forward, y, network.gradients).steps]
        calls = [(describe(step), repeated(backend, [step])) for step in steps]
        for index, step in enumerate(steps):
            several = steps[index : index + (2 if isinstance(step, Product) else 3)]
            if joined(backend, several) and not joined(backend, several[1:]):  # else by these alone
                calls.append((f"taken together: {'; '.join(map(describe, several))}", repeated(backend, several)))
        xp = backend.xp
        calls.append(("mean", partial(xp.multiply, network.gradients, 1 / rows, out=network.gradients)))
        calls.append(("penalty gradients", network.add_penalty_gradients))
        calls.append(("optimizer step", partial(optimizer.step, network)))
    seconds = time_epochs(network, X, y, experiment.make_optimizer(), epochs).seconds
    return {
        "epoch_us": rounded(1e6 * median(seconds)),
        "calls": [{"call": name} | timed(call) for name, call in calls],
    }


def describe(step: Step) -> str:
    """Return a step in words, with the shapes of what it works on."""
    if isinstance(step, Product):
        return f"product {step.a.shape} · {step.b.shape}"
    if isinstance(step, RowSum):
        return f"sum over the rows of {step.values.shape}"
    arrays = (argument for argument in step.arguments if hasattr(argument, "shape"))
    return f"{step.function.__name__} {' '.join(str(array.shape) for array in arrays)}"


def joined(backend: Backend, steps: Sequence[Step]) -> bool:
    """Return whether the backend takes `steps` in other calls together than one by one."""
    apart = [named(call) for step in steps for call in backend.calls([step])]
    return [named(call) for call in backend.calls(steps)] != apart and len(apart) == len(steps)


def named(call: Call) -> Any:
    """Return a call's function, or the name of its kernel, of which each call has an object of its own."""
    return getattr(call[0], "name", call[0])


def repeated(backend: Backend, steps: Sequence[Step]) -> Calls:
    """Return what computes `steps` again."""
    calls = backend.calls(steps)

    def repeat() -> None:
        for function, arguments in calls:
            function(*arguments)

    return repeat


def _sums(backend: Backend, precision: str, rows: int, timed: _Timer) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the time of a sum over the rows, as for bias gradients, by each of the ways to compute it."""
    xp, kind = backend.xp, backend.precision(precision)
    for width in WIDTHS:
        with backend.computing():
            values = backend.asarray(backend.generator(0).standard_normal((rows, width)), dtype=kind.operands)
            total = xp.empty((1, width), dtype=kind.parameters)
            groups = values.reshape(240 if rows % 240 == 0 else 1, -1, width)
            partial_sums = xp.empty((len(groups), width), dtype=kind.parameters)
            for ones in (1, 8):
                out = xp.empty((ones, width), dtype=kind.parameters)
                product = Product(xp.ones((ones, rows), dtype=kind.operands), values, out, 1.0, kind.tf32)
                yield f"{width} columns: product with {ones} x ones", timed(repeated(backend, [product]))

            def in_two_steps(groups: Array = groups, sums: Array = partial_sums, total: Array = total) -> None:
                xp.sum(groups, axis=1, dtype=kind.parameters, out=sums)
                xp.sum(sums, axis=0, out=total[0])

            yield f"{width} columns: sums of groups of rows, and of these", timed(in_two_steps)


def _made(backend: Backend, rows: int, dtype: str) -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    X = generator.integers(-127, 128, (rows, N_INPUTS)).astype("float32") / 128
    return backend.asarray(X, dtype=dtype), backend.asarray(generator.integers(0, 10, rows, dtype="uint8"))


def _upload(backend: Backend, rows: int) -> dict[str, float]:
    """Return the seconds of copying the rows from the host to the device, as float32 and as uint8."""
    found = {}
    for dtype in ("float32", "uint8"):
        host = np.ones((rows, N_INPUTS), dtype=dtype)
        seconds = []
        for _ in range(3):
            backend.synchronize()
            started = time.perf_counter()
            backend.asarray(host)
            backend.synchronize()
            seconds.append(time.perf_counter() - started)
        found[dtype] = rounded(median(seconds))
    return found


def tables(record: Record) -> list[str]:
    """Return the tables of a probe file: the sum and the longest calls of each epoch, and the sums over the rows."""
    results = record["results"]
    copy, upload = results["copy_bytes_per_second"], results["upload_seconds"]
    uploads = " and ".join(f"{markdown.seconds(seconds)} as {dtype}" for dtype, seconds in upload.items())
    summed, longest = [], []
    for precision, found in results["precisions"].items():
        rate = f"{found['gemm_flops_per_second'] / 1e9:,.0f}"
        for name, epoch in found["epochs"].items():
            calls = calls_of_epoch(epoch["calls"])
            device, host = (sum(call[key] for call in calls) for key in ("device_us", "host_us"))
            side = f"{name}, {precision}"
            summed.append([side, *map(_microseconds, (epoch["epoch_us"], device, host)), rate])
            for call in sorted(calls, key=lambda call: -float(call["device_us"]))[:LONGEST]:
                times = (_microseconds(call[key]) for key in ("device_us", "host_us"))
                longest.append([call["call"], side, *times, f"{call['device_us'] / device:.0%}"])
    sums = {precision: found["sums_over_rows"] for precision, found in results["precisions"].items()}
    ways = dict.fromkeys(way for found in sums.values() for way in found)
    rows = [
        [way, *(_microseconds(found[way]["device_us"]) if way in found else "–" for found in sums.values())]
        for way in ways
    ]
    head = ["epoch", "as training runs it", "sum of its calls", "asking for them", "GFLOP/s of large products"]
    return [
        "All times are in µs. Steps that training takes together are one call here too.\n",
        markdown.table(head, summed),
        f"The {LONGEST} calls of each that take longest:\n",
        markdown.table(["call", "epoch", "the device", "asking for it", "of the sum"], longest),
        f"Sums over the {record['settings']['rows']:,} rows, by the ways that there are:\n",
        markdown.table(["sum over rows", *sums], rows),
        f"Copy: {copy / 1e9:,.0f} GB/s. The rows go to the device in {uploads}.\n",
    ]


def calls_of_epoch(calls: Sequence[Record]) -> list[Record]:
    """Return the calls that an epoch makes: the probe's, with one that takes several steps in place of those of each.

    The name of such a call has its steps after a colon.
    """
    together = {steps: call for call in calls if (steps := call["call"].partition(": ")[2])}
    left = [call for call in calls if ": " not in call["call"]]
    made: list[Record] = []
    while left:
        several = {"; ".join(call["call"] for call in left[:size]): size for size in (2, 3)}
        steps = max(several.keys() & together.keys(), key=len, default="")
        made.append(together.get(steps, left[0]))
        del left[: several.get(steps, 1)]
    return made


def _microseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
