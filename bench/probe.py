"""Probe: what each call of an epoch takes on the device, and what asking for it costs the host; on a GPU alone.

A call is timed with device events around a row of it, behind a product that keeps the device busy until the host has
asked for all of them: so the device's time is told apart from the host's.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.measure import rounded
from bench.results import Options, save
from fmnist_xp.backend import Array, Backend
from fmnist_xp.experiments import EXPERIMENTS, N_INPUTS, Experiment
from fmnist_xp.measure import copy_rate, gemm_rate
from fmnist_xp.nn.network import Network
from fmnist_xp.train.worker import Recorder

ROWS = 60_000
NETWORKS = ("adam", "sgd")
"""One experiment of each architecture."""


class NamedRecorder(Recorder):
    """Notes with each call what it is."""

    def __init__(self, backend: Backend) -> None:
        super().__init__(backend)
        self.names: list[str] = []

    def dot(self, a: Array, b: Array, out: Array, scale: float = 1.0, tf32: bool = False) -> None:
        """See `Backend.dot`."""
        super().dot(a, b, out, scale, tf32)
        self.names.append(f"product ({a.shape[0]}, {a.shape[1]}) · ({b.shape[0]}, {b.shape[1]})")

    def fuse(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """See `Backend.fuse`."""
        call = super().fuse(formula)

        def named(*arguments: Any) -> None:
            call(*arguments)
            self.names.append(_described(formula, arguments))

        return named

    def apply(self, function: Callable[..., None], *arguments: Any) -> None:
        """See `Backend.apply`."""
        super().apply(function, *arguments)
        self.names.append(_described(function, arguments))


def _described(function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
    return f"{function.__name__} {' '.join(str(a.shape) for a in arguments if hasattr(a, 'shape'))}"


def run(options: Options) -> Path:
    """Measure and return the path of the JSON file."""
    backend = options.backend()
    rows = ROWS // 10 if options.quick else ROWS
    settings = {"rows": rows, "repeats": 20, "samples": 3}
    timer = _Timer(backend, settings["repeats"], settings["samples"])
    results: dict[str, Any] = {"copy_bytes_per_second": rounded(copy_rate(backend, repeats=10))}
    results["upload_seconds"] = _upload(backend, rows)
    results["precisions"] = {}
    for precision in backend.precisions:
        results["precisions"][precision] = {
            "gemm_flops_per_second": rounded(gemm_rate(backend, precision, size=2048 if options.quick else 8192)),
            "epochs": {name: _epoch(EXPERIMENTS[name], backend, precision, rows, timer) for name in NETWORKS},
        }
        print(precision, flush=True)
    return save("probe", options, backend, settings, results)


class _Timer:
    """Times calls on the device and on the host."""

    def __init__(self, backend: Backend, repeats: int, samples: int) -> None:
        self._backend, self._repeats, self._samples = backend, repeats, samples
        xp = backend.xp
        with backend.computing():
            self._busy = [xp.ones((8192, 8192), dtype="float32") for _ in range(3)]

    def __call__(self, call: Callable[[], Any]) -> dict[str, float]:
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


def _epoch(experiment: Experiment, backend: Backend, precision: str, rows: int, timer: _Timer) -> list[dict[str, Any]]:
    """Return the calls of an epoch without figures, in their order."""
    with backend.computing():
        network = experiment.make_network(backend, seed=0, dtype=precision)
        optimizer = experiment.make_optimizer()
        X, y = _made(backend, rows, network.precision.operands)
        recorder = NamedRecorder(backend)
        twin = network.replica(recorder)
        twin.attach_gradients(network.gradients)
        probabilities = twin.forward(X)
        twin.backward(probabilities, y, samples=1)
    calls = [partial(function, *arguments) for function, arguments in recorder.take()]
    names = recorder.names
    xp = backend.xp
    calls.append(lambda: xp.multiply(network.gradients, 1 / rows, out=network.gradients))
    names.append("mean of the gradients")
    calls.append(network.add_penalty_gradients)
    names.append("penalty gradients")
    calls.append(partial(optimizer.step, network))
    names.append("optimizer step")
    return [{"call": name, **timer(call)} for name, call in zip(names, calls, strict=True)]


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
