"""A point of the scaling benchmark, measured in a process of its own, which draws nothing and so imports less."""

from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from bench.measure import Peak, reset_peak
from fmnist_xp.backend import get_backend
from fmnist_xp.data import load_fashion_mnist, pixels
from fmnist_xp.experiments import N_INPUTS, NOTEBOOK_EXPERIMENTS
from fmnist_xp.measure import epoch_flops, gemm_sampler

GEMM_SAMPLES = 3


def measure_point(
    *,
    device: str,
    threads: int,
    experiment: str,
    rows: int,
    epochs: int,
    precision: str,
    peak: Peak,
    width: int | None = None,
    **_sweep: Any,
) -> dict[str, Any]:
    """Return the seconds of each of `epochs` epochs, the bytes that `fit` added to what was there, and the GEMM rate.

    The rate is measured after the rest, so that its matrices are not in the memory of `fit`.
    """
    backend = get_backend(device, threads=threads)
    chosen = NOTEBOOK_EXPERIMENTS[experiment]
    if width is not None:
        chosen = replace(chosen, hidden=(width, width))
    generator = np.random.default_rng(0)
    images = np.empty((rows, N_INPUTS), np.float32)
    for start in range(0, rows, 1000):  # in place, so that nothing else was ever resident
        images[start : start + 1000] = 2 * generator.random((min(1000, rows - start), N_INPUTS), np.float32) - 1
    labels = generator.integers(0, 10, rows, dtype=np.uint8)
    with backend.computing():
        X, y = backend.asarray(images, dtype=backend.precision(precision).parameters), backend.asarray(labels)
    del images, labels
    network = chosen.make_network(backend, seed=0, dtype=precision)
    optimizer = chosen.make_optimizer()
    before = reset_peak(backend)
    history = network.fit(X, y, epochs=epochs + 1, optimizer=optimizer, verbose=False)
    after = backend.peak_memory()
    gemm_rate = gemm_sampler(backend, precision, **peak)
    return {
        "flops_per_epoch": epoch_flops(network.widths, rows),
        "gemm_flops_per_second": median(gemm_rate() for _ in range(GEMM_SAMPLES)),
        "epoch_seconds": history.epoch_seconds[1:],
        "memory_added_bytes": None if before is None or after is None else after - before,
    }


def measure_disk_point(
    *, device: str, threads: int, experiment: str, folder: str, epochs: int, precision: str, **_sweep: Any
) -> dict[str, Any]:
    """Return what it takes to train on the IDX files in `folder`, with only as much of them in memory as is needed.

    That is the seconds from before the files are opened until the first epoch is over, those of each of `epochs`
    epochs after it, the most bytes that the process held, and the share of the columns that were multiplied.
    """
    backend = get_backend(device, threads=threads)
    network = NOTEBOOK_EXPERIMENTS[experiment].make_network(backend, seed=0, dtype=precision)
    optimizer = NOTEBOOK_EXPERIMENTS[experiment].make_optimizer()
    first: list[float] = []
    started = perf_counter()
    train, _test = load_fashion_mnist(Path(folder))
    X, y = pixels(train)
    history = network.fit(
        X,
        y,
        epochs=epochs + 1,
        optimizer=optimizer,
        log_every=epochs + 1,
        callbacks=lambda _history: first.append(perf_counter() - started),
        verbose=False,
    )
    return {
        "flops_per_epoch": epoch_flops(network.widths, len(X)),
        "first_epoch_seconds": first[0],
        "epoch_seconds": history.epoch_seconds[1:],
        "peak_memory_bytes": backend.peak_memory(),
        "column_share": history.column_share,
    }
