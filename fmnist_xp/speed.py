"""The short benchmark behind `fmnist-xp bench`: how fast each experiment trains on this machine."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from fmnist_xp.backend import Backend
from fmnist_xp.data import make_synthetic
from fmnist_xp.data.pixels import pixels
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.measure import epoch_flops, gemm_sampler, time_epochs

ROWS = 60_000


@dataclass(frozen=True)
class Speed:
    """The speed of one experiment.

    `epoch_seconds` is the median, and `column_share` the share of the columns that its first layer's products took.
    `flops` is the rate in flop/s at which it would have made the products of all columns, and `gemm_flops` that of
    large matrix products in the same process, the higher of the rates before and after.
    """

    experiment: str
    widths: tuple[int, ...]
    epoch_seconds: float
    column_share: float
    flops: float
    gemm_flops: float


def measure_speed(
    backend: Backend,
    precision: str,
    epochs: int,
    rows: int = ROWS,
    block_rows: int | None = None,
    dense: bool | None = None,
    engine: str = "plain",
) -> Iterator[Speed]:
    """Yield the speed of each experiment over `epochs` epochs, as `fit` trains.

    The `rows` images are synthetic garments, all different, with a background as wide as the real ones have: how many
    columns can be left out depends on the images. `block_rows`, `dense` and `engine` are those of `fit`.
    """
    garments, _ = make_synthetic(rows, 1)
    X, y = pixels(garments)
    labels = backend.asarray(y)
    gemm_rate = gemm_sampler(backend, precision)
    peak = gemm_rate()
    for experiment in NOTEBOOK_EXPERIMENTS.values():
        network = experiment.make_network(backend, seed=0, dtype=precision)
        optimizer = experiment.make_optimizer()
        timed = time_epochs(
            *(network, X, labels, optimizer, epochs), block_rows=block_rows, dense=dense, engine=engine
        )
        seconds = statistics.median(timed.seconds)
        before, peak = peak, gemm_rate()
        yield Speed(
            experiment.name,
            tuple(network.widths),
            seconds,
            timed.column_share,
            epoch_flops(network.widths, rows) / seconds,
            max(before, peak),
        )
