"""What the benchmarks measure with: sides that take turns, medians and spread, peak memory, energy, and the floor.

`fmnist_xp.measure` has what the package needs too: `gemm_sampler`, `copy_rate`, `epoch_flops`, `time_epochs`.
"""

import gc
import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, TypedDict

import numpy as np

from fmnist_xp.backend import Backend

POWER_LAW = 0.1
"""How far a value may be off a power law, above as a share of the fitted value."""


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
    return Summary(
        median=rounded(median(samples)),
        min=rounded(min(samples)),
        max=rounded(max(samples)),
        iqr=rounded(float(high - low)),
        samples=[rounded(sample) for sample in samples],
    )


def rounded(value: float, digits: int = 6) -> float:
    """Return `value` with as many significant digits: 6 are what a clock resolves, and keep files readable."""
    return float(f"{value:.{digits}g}")


def alternate(sides: Mapping[str, Callable[[], Sequence[float]]], rounds: int) -> dict[str, list[float]]:
    """Return the samples of each side, which take turns: A B C A B C …, so that a slow minute slows all.

    A side warms itself up and returns its samples. Garbage is collected before each turn, of what was allocated
    since the first one.
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
    """Options of `gemm_sampler`."""

    size: int
    repeats: int


def peak_settings(backend: Backend, quick: bool) -> Peak:
    """Return the size of the square matrices, and of how many products in a row the fastest counts.

    A GPU needs several: its clock rate has dropped while it waited for the host.
    """
    size, repeats = (8192, 10) if backend.asynchronous else (2048, 1)
    return Peak(size=size // 4 if quick else size, repeats=repeats)


def fitted_exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """Return b of values ≈ a · sizesᵇ by least squares on logarithms; None where that is no power law.

    It is one if it has three sizes or more, all values are positive, and none is off the fitted a · sizesᵇ by more
    than `POWER_LAW`: through two points goes a power law whatever they are.
    """
    if len(set(sizes)) < 3 or min(values) <= 0:
        return None
    x, y = np.log(sizes), np.log(values)
    slope, height = np.polyfit(x, y, 1)
    fits = np.abs(y - (slope * x + height)).max() <= math.log1p(POWER_LAW)
    return round(float(slope), 3) + 0.0 if fits else None  # no -0.0


def epoch_bytes(widths: Sequence[int], rows: int, itemsize: int) -> int:
    """Return the fewest bytes an epoch moves through a device's memory when each product reads its operands once.

    The rows are read twice (forward, gradient of the weights). Each output of a Dense layer is written, read by
    the next product and by the gradient of the next weights; its gradient is written and read by both products of
    the layer behind. All element-wise work counts as fused into these.
    """
    return itemsize * rows * (2 * widths[0] + 6 * sum(widths[1:]))


def fused_epoch_bytes(widths: Sequence[int], rows: int, terms: int) -> int:
    """The same for the fused engine, whose other values stay in registers.

    The bytes of the rows are read twice, and the gradient of the first layer's output is written and read, each
    number as so many operands of 16 bits.
    """
    return rows * (2 * widths[0] + 2 * 2 * terms * widths[1])


def floor_seconds(flops: int, moved: int, gemm: float, copy: float | None) -> float:
    """Return the shortest time of an epoch: `flops` at the rate `gemm` or, with a `copy` rate, the `moved` bytes."""
    return max(flops / gemm, moved / copy if copy else 0.0)


def reset_peak(backend: Backend) -> int | None:
    """Free what nothing refers to and make the peak memory what is left; return that as the backend does."""
    gc.collect()
    return backend.reset_peak_memory()


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
    if backend.cuda_index is None:
        return None, None
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None, None
    try:
        nvml.nvmlInit()
        bus = backend.xp.cuda.runtime.deviceGetPCIBusId(backend.cuda_index)
        return nvml, nvml.nvmlDeviceGetHandleByPciBusId(bus.encode() if isinstance(bus, str) else bus)
    except nvml.NVMLError:
        return None, None
