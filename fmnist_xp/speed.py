"""The short benchmark behind `fmnist-xp bench`: how fast each experiment trains on this machine."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fmnist_xp.backend import Backend
from fmnist_xp.data import CLASS_NAMES
from fmnist_xp.experiments import EXPERIMENTS, N_INPUTS
from fmnist_xp.measure import epoch_flops, gemm_sampler, time_epochs

ROWS = 60_000


@dataclass(frozen=True)
class Speed:
    """The speed of one experiment.

    `epoch_seconds` is the median; `flops` the rate of the epoch's matrix products in flop/s, and `gemm_flops` that of
    large matrix products in the same process, the higher of the rates before and after.
    """

    experiment: str
    widths: tuple[int, ...]
    epoch_seconds: float
    flops: float
    gemm_flops: float


def measure_speed(
    backend: Backend, precision: str, epochs: int, rows: int = ROWS, block_rows: int | None = None
) -> Iterator[Speed]:
    """Yield the speed of each experiment over `epochs` epochs of `rows` synthetic images, in blocks of `block_rows`.

    The images are noise in [−1, 1]: arithmetic takes the same time on any finite numbers that are not mostly zeros.
    """
    generator = np.random.default_rng(0)
    X = generator.random((rows, N_INPUTS), dtype=np.float32)
    X *= 2
    X -= 1
    inputs = backend.asarray(X, dtype=backend.precision(precision).operands)
    labels = backend.asarray(generator.integers(0, len(CLASS_NAMES), rows, dtype=np.uint8))
    gemm_rate = gemm_sampler(backend, precision)
    peak = gemm_rate()
    for experiment in EXPERIMENTS.values():
        network = experiment.make_network(backend, seed=0, dtype=precision)
        optimizer = experiment.make_optimizer()
        seconds = statistics.median(time_epochs(network, inputs, labels, optimizer, epochs, block_rows=block_rows))
        before, peak = peak, gemm_rate()
        yield Speed(
            experiment.name,
            tuple(network.widths),
            seconds,
            epoch_flops(network.widths, rows) / seconds,
            max(before, peak),
        )
