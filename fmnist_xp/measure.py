"""Rates of the machine and times of the engine: matrix products, copies, epochs, and an epoch's operations.

What `python -m bench` and `fmnist-xp bench` both measure with. Each function returns plain numbers.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from fmnist_xp.backend import Array, Backend
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.train.trainer import train


def epoch_flops(widths: Sequence[int], rows: int) -> int:
    """Return the floating-point operations of an epoch's matrix products, Σ 2·rows·dᵢ₋₁·dᵢ · (3, but 2 for i = 1).

    `widths` are d₀ … d_L, the columns of the input and of each Dense layer's output (`Network.widths`). A layer
    has three products (forward, gradient of the weights, gradient of its input); the first needs no gradient of
    its input.
    """
    pairs = pairwise(widths)
    return sum(2 * rows * before * after * (3 if i else 2) for i, (before, after) in enumerate(pairs))


def gemm_sampler(
    backend: Backend, precision: str = "float32", *, size: int = 2048, repeats: int = 5
) -> Callable[[], float]:
    """Prepare large matrix products, and return a function that measures a sample of their rate in flop/s.

    A sample is the best of `repeats`, after one to warm up. As many products of `size` × `size` run at once as the
    backend has threads, each on one, as the engine's blocks do; on a GPU it is one. The matrices are held for as
    long as the function is.
    """
    kind, xp = backend.precision(precision), backend.xp
    with backend.computing():
        # Not constants: with those a GPU draws less power, and clocks higher than in training. Computed on the device
        # from two vectors of the host: the fractional parts of sums are as uniform over [0, 1) as the summands.
        vectors = backend.generator(0).random((2, 2, size), "float32")
        left, right = (
            backend.asarray(xp.remainder(xp.add(rows[:, None], columns), 1), kind.operands)
            for rows, columns in backend.asarray(vectors)
        )
        results = [xp.empty_like(left) for _ in range(backend.threads)]

    def work(worker: int) -> None:
        backend.dot(left, right, results[worker], tf32=kind.tf32)

    def sample() -> float:
        with backend.computing():
            return 2 * size**3 * backend.threads / _least_seconds(backend, work, repeats)

    return sample


def copy_rate(backend: Backend, *, megabytes: int = 256, repeats: int = 5) -> float:
    """Return the highest rate of a copy within the device's memory in bytes/s, read and written bytes both counted.

    Each of the backend's threads copies its part of `megabytes`; the best of `repeats`, after one to warm up.
    """
    xp = backend.xp
    with backend.computing():
        part = megabytes * 1_000_000 // backend.threads
        pairs = [(xp.ones(part, dtype="uint8"), xp.empty(part, dtype="uint8")) for _ in range(backend.threads)]

        def work(worker: int) -> None:
            source, target = pairs[worker]
            target[...] = source

        return 2 * part * backend.threads / _least_seconds(backend, work, repeats)


def _least_seconds(backend: Backend, work: Callable[[int], None], repeats: int) -> float:
    """Return the seconds of the fastest of `repeats` calls of `work` on all threads, after one to warm up."""
    marks = [backend.mark()]
    for _ in range(repeats + 1):
        backend.map(work, backend.threads)
        marks.append(backend.mark())
    return min(backend.seconds_between(marks)[1:])


class Timed(NamedTuple):
    """Seconds of each epoch, and the share of the columns that the first layer's products took."""

    seconds: list[float]
    column_share: float


def time_epochs(
    network: Network,
    X: Pixels | Array,
    y: Array,
    optimizer: Optimizer,
    epochs: int,
    *,
    log_every: int = 10,
    block_rows: int | None = None,
    dense: bool | None = None,
    engine: str = "plain",
) -> Timed:
    """Train for `epochs` more epochs and time each, after one to warm up, or those of two launches.

    `X` is `Pixels` or an array, and `y` an array, of the network's backend. This is the training loop itself, so loss
    and accuracy are computed and fetched every `log_every`th epoch, as `fit` does, and rows are laid out as there,
    which is not in the seconds.
    """
    warm_up = 2 * log_every if network.backend.captures else 1
    history = train(
        network,
        X,
        y,
        epochs=warm_up + epochs,
        optimizer=optimizer,
        log_every=log_every,
        block_rows=block_rows,
        dense=dense,
        engine=engine,
        keep_going=True,  # as many epochs as asked for, whatever becomes of the loss
    )
    return Timed(history.epoch_seconds[warm_up:], history.column_share)
