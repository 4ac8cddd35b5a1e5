"""Probe: what each call of an epoch takes on a GPU, what asking for it costs the host, and what else could do it.

A call is timed with device events around a row of it, behind a product that keeps the device busy until the host has
asked for all of them: so the device's time is told apart from the host's.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.measure import rounded
from bench.results import Options, save
from fmnist_xp.backend import Array, Backend, Product, RowSum, Step
from fmnist_xp.errors import DeviceError
from fmnist_xp.experiments import EXPERIMENTS, N_INPUTS, Experiment
from fmnist_xp.measure import copy_rate, gemm_sampler, time_epochs
from fmnist_xp.train.plan import Plan

ROWS = 60_000
NETWORKS = ("adam", "sgd")
"""One experiment of each architecture."""
WIDTHS = (10, 64, 128)
"""Of what is summed over the rows in them."""

Calls = Callable[[], Any]


def run(options: Options) -> Path:
    """Measure and return the path of the JSON file; raise `DeviceError` on a CPU."""
    backend = options.backend()
    if backend.name == "cpu":
        raise DeviceError("the probe times single calls of a GPU, and --device is cpu: name cuda")
    rows = ROWS // 10 if options.quick else ROWS
    settings = {"rows": rows, "repeats": 20, "samples": 3, "epochs": 200}
    timed = _Timer(backend, settings["repeats"], settings["samples"], 2048 if options.quick else 8192)
    results: dict[str, Any] = {
        "copy_bytes_per_second": rounded(copy_rate(backend, repeats=10)),
        "upload_seconds": _upload(backend, rows),
        "precisions": {},
    }
    for precision in backend.precisions:
        gemm = gemm_sampler(backend, precision, size=2048 if options.quick else 8192, repeats=5)
        results["precisions"][precision] = {
            "gemm_flops_per_second": rounded(gemm()),
            "epochs": {
                name: _epoch(EXPERIMENTS[name], backend, precision, rows, timed, settings["epochs"])
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
                backend.dot(*self._busy)  # some 20 ms, in which the host asks for what follows
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
    seconds = time_epochs(network, X, y, experiment.make_optimizer(), epochs)
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
    apart = [function for step in steps for function, _ in backend.calls([step])]
    return [function for function, _ in backend.calls(steps)] != apart and len(apart) == len(steps)


def repeated(backend: Backend, steps: Sequence[Step]) -> Calls:
    """Return what computes `steps` again."""
    calls = backend.calls(steps)

    def repeat() -> None:
        for function, arguments in calls:
            function(*arguments)

    return repeat


def _sums(backend: Backend, precision: str, rows: int, timed: _Timer) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield how long a sum over the rows takes by each of the ways that there are, bias gradients' work."""
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
    """Return the seconds that the rows take from the host to the device, as float32 and as bytes."""
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
