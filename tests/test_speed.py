from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmnist_xp import speed
from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import Pixels, make_synthetic
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.measure import Timed
from fmnist_xp.speed import Speed, measure_speed

ROWS = 200
PEAKS = [3e9, 5e9, 4e9, 1e9]  # before the first experiment, after it, …
Asked = list[dict[str, Any]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Record the arguments of `time_epochs`, whose epochs take 1, 6 and 2 s; large products have the rates PEAKS."""
    found: Asked = []
    peaks = iter(PEAKS)

    def gemm_sampler(backend: Any, precision: Any) -> Callable[[], float]:
        assert isinstance(backend, CpuBackend)
        assert precision in backend.precisions
        return lambda: next(peaks)

    def time_epochs(network: Any, X: Any, y: Any, optimizer: Any, epochs: int, **how: Any) -> Timed:
        other = (epochs, how.pop("block_rows"), how.pop("dense"), how.pop("engine"))
        assert not how
        found.append({"network": network, "X": X, "y": y, "optimizer": optimizer, "other": other})
        return Timed([1.0, 6.0, 2.0], 0.75)

    monkeypatch.setattr(speed, "gemm_sampler", gemm_sampler)
    monkeypatch.setattr(speed, "time_epochs", time_epochs)
    return found


def test_speeds_are_of_the_median_epoch_and_the_higher_peak(asked: Asked) -> None:
    # 2·200 · (784·128·2 + 128·128·3 + 128·10·3) and 2·200 · (784·64·2 + 64·64·3 + 64·10·3), in 2 s
    wide, narrow = 101_478_400 / 2, 45_824_000 / 2
    assert list(measure_speed(CpuBackend(1), "float32", 3, ROWS)) == [
        Speed("sgd", (784, 128, 128, 10), 2.0, 0.75, wide, 5e9),
        Speed("momentum", (784, 64, 64, 10), 2.0, 0.75, narrow, 5e9),
        Speed("adam", (784, 64, 64, 10), 2.0, 0.75, narrow, 4e9),
    ]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_training_is_that_of_the_experiments_in_the_precision_asked_for(asked: Asked, precision: str) -> None:
    backend = CpuBackend(1)
    list(measure_speed(backend, precision, 3, ROWS, block_rows=70, dense=True, engine="fused"))
    for experiment, one in zip(NOTEBOOK_EXPERIMENTS.values(), asked, strict=True):
        network = experiment.make_network(backend, seed=0, dtype=precision)
        assert one["network"].parameters.dtype == precision
        assert one["network"].parameters.tobytes() == network.parameters.tobytes()
        assert vars(one["optimizer"]) == vars(experiment.make_optimizer())
        assert one["other"] == (3, 70, True, "fused")
        assert one["y"].dtype == "uint8"


def test_images_are_different_garments_with_a_background(asked: Asked) -> None:
    list(measure_speed(CpuBackend(1), "float32", 1, ROWS))
    X, y = asked[0]["X"], asked[0]["y"]
    garments, _ = make_synthetic(ROWS, 1)
    assert isinstance(X, Pixels)
    assert np.array_equal(X.images, garments.images.reshape(ROWS, 784))
    assert y.tolist() == garments.labels.tolist()
    assert len(np.unique(X.images, axis=0)) == ROWS
    # Fashion-MNIST's corners are background in all of its images but a few; half of its pixels are.
    assert (X.images.reshape(-1, 28, 28)[:, :2, :2] == 0).mean() > 0.95
    assert 0.3 < (X.images == 0).mean() < 0.7


def test_rows_are_laid_out_by_default_as_in_training(asked: Asked) -> None:
    list(measure_speed(CpuBackend(1), "float32", 1, ROWS))
    assert asked[0]["other"] == (1, None, None, "plain")
