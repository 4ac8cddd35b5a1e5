"""Timing that can be trusted: sides take turns, medians and spread, memory and energy beside the clock.

What the package itself measures with (`gemm_sampler`, `copy_rate`, `epoch_flops`, `time_epochs`) is in
`fmnist_xp.measure`.
"""

import gc
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

import numpy as np

from fmnist_xp.backend import Backend


class Summary(TypedDict):
    """Median and spread of samples, and the samples themselves in the order they were taken."""

    median: float
    min: float
    max: float
    iqr: float
    samples: list[float]


def summarize(samples: Sequence[float]) -> Summary:
    """Return median, minimum, maximum and interquartile range of `samples`, rounded to 6 digits."""
    if not samples:
        raise ValueError("there are no samples to summarize")
    low, high = np.quantile(samples, [0.25, 0.75])
    figures = (median(samples), min(samples), max(samples), float(high - low))
    return Summary(
        median=rounded(figures[0]),
        min=rounded(figures[1]),
        max=rounded(figures[2]),
        iqr=rounded(figures[3]),
        samples=[rounded(sample) for sample in samples],
    )


def rounded(value: float) -> float:
    """Return `value` with 6 significant digits: what a clock can tell, and files that can be read."""
    return float(f"{value:.6g}")


def alternate(sides: Mapping[str, Callable[[], Sequence[float]]], rounds: int) -> dict[str, list[float]]:
    """Return the samples of each side, which take turns: A B C A B C …, so that a slow minute slows all.

    A side warms itself up and returns the samples of what it timed. Garbage is collected before each, and what
    was there before is not looked through again.
    """
    samples: dict[str, list[float]] = {name: [] for name in sides}
    gc.collect()
    gc.freeze()
    try:
        for _ in range(rounds):
            for name, side in sides.items():
                gc.collect()
                samples[name] += side()
    finally:
        gc.unfreeze()
    return samples


class Peak(TypedDict):
    """How `gemm_sampler` takes one sample of the device's best."""

    size: int
    repeats: int


def peak_settings(backend: Backend, quick: bool) -> Peak:
    """Return the size of the square products, and of how many in a row the fastest is taken.

    A GPU needs several: its clock has fallen while the host did something else.
    """
    size, repeats = (2048, 1) if backend.name == "cpu" else (8192, 10)
    return Peak(size=size // 4 if quick else size, repeats=repeats)


def fitted_exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Return b of values ≈ a · sizesᵇ by least squares on logarithms, or None with fewer than two positive points."""
    points = [(math.log(size), math.log(value)) for size, value in zip(sizes, values, strict=True) if value > 0]
    if len({size for size, _ in points}) < 2:
        return None
    slope, _ = np.polyfit([size for size, _ in points], [value for _, value in points], 1)
    return float(f"{slope:.3f}")


def epoch_bytes(widths: Sequence[int], rows: int, itemsize: int) -> int:
    """Return the fewest bytes an epoch moves through a device's memory when each array is read once a product.

    The rows are read twice (forward, gradient of the weights). Each output of a Dense layer is written, read by
    the next product and by the gradient of the next weights; its gradient is written and read by both products of
    the layer behind. Everything element-wise is taken to ride along.
    """
    return itemsize * rows * (2 * widths[0] + 6 * sum(widths[1:]))


def floor_seconds(
    widths: Sequence[int], rows: int, itemsize: int, flops: int, gemm: float, copy: float | None
) -> float:
    """Return the shortest an epoch can take: `flops` at the rate `gemm` or, where `copy` is known, bytes at that."""
    memory = epoch_bytes(widths, rows, itemsize) / copy if copy else 0.0
    return max(flops / gemm, memory)


def resident_bytes(backend: Backend) -> int | None:
    """Return what is held now: resident memory on the CPU, the memory pool on a GPU; None where nobody tells."""
    return _status("VmRSS") if backend.name == "cpu" else backend.peak_memory()


def peak_bytes(backend: Backend) -> int | None:
    """Return the most held since `reset_peak`, where the system lets it be reset, else since the start."""
    return backend.peak_memory()


def reset_peak(backend: Backend) -> None:
    """Forget the peak so far, where the system allows it."""
    gc.collect()
    if backend.name == "cpu":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak becomes what is resident now
    else:
        with backend.computing():
            backend.xp.get_default_memory_pool().free_all_blocks()


def _status(field: str) -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


class Energy:
    """The joules a GPU used, from NVML's counter; None on a CPU and where NVML or the counter is missing."""

    def __init__(self, backend: Backend) -> None:
        self._nvml, self._handle = nvml_device(backend)

    def read(self) -> float | None:
        """Return the joules used since the driver was loaded."""
        if self._nvml is None:
            return None
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1000
        except self._nvml.NVMLError:
            return None


def nvml_device(backend: Backend) -> tuple[Any, Any]:
    """Return the module pynvml and the handle of the backend's GPU, or (None, None)."""
    if backend.name == "cpu":
        return None, None
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None, None
    index = int(backend.name.partition(":")[2] or 0)
    try:
        nvml.nvmlInit()
        bus = backend.xp.cuda.runtime.deviceGetPCIBusId(index)
        return nvml, nvml.nvmlDeviceGetHandleByPciBusId(bus.encode() if isinstance(bus, str) else bus)
    except nvml.NVMLError:
        return None, None
