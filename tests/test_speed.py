from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmnist_xp import speed
from fmnist_xp.backend import CpuBackend
from fmnist_xp.experiments import EXPERIMENTS
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

    def time_epochs(
        network: Any, X: Any, y: Any, optimizer: Any, epochs: int, *, block_rows: int | None
    ) -> list[float]:
        found.append({"network": network, "X": X, "y": y, "optimizer": optimizer, "other": (epochs, block_rows)})
        return [1.0, 6.0, 2.0]

    monkeypatch.setattr(speed, "gemm_sampler", gemm_sampler)
    monkeypatch.setattr(speed, "time_epochs", time_epochs)
    return found


def test_speeds_are_of_the_median_epoch_and_the_higher_peak(asked: Asked) -> None:
    # 2·200 · (784·128·2 + 128·128·3 + 128·10·3) and 2·200 · (784·64·2 + 64·64·3 + 64·10·3), in 2 s
    wide, narrow = 101_478_400 / 2, 45_824_000 / 2
    assert list(measure_speed(CpuBackend(1), "float32", 3, ROWS)) == [
        Speed("sgd", (784, 128, 128, 10), 2.0, wide, 5e9),
        Speed("momentum", (784, 64, 64, 10), 2.0, narrow, 5e9),
        Speed("adam", (784, 64, 64, 10), 2.0, narrow, 4e9),
    ]


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_training_is_that_of_the_experiments_in_the_precision_asked_for(asked: Asked, precision: str) -> None:
    backend = CpuBackend(1)
    list(measure_speed(backend, precision, 3, ROWS, block_rows=70))
    for experiment, one in zip(EXPERIMENTS.values(), asked, strict=True):
        network = experiment.make_network(backend, seed=0, dtype=precision)
        assert one["network"].parameters.dtype == precision
        assert one["network"].parameters.tobytes() == network.parameters.tobytes()
        assert vars(one["optimizer"]) == vars(experiment.make_optimizer())
        assert one["other"] == (3, 70)
        assert one["X"].dtype == precision
        assert one["y"].dtype == "uint8"


def test_images_are_uniform_noise_and_labels_cover_all_classes(asked: Asked) -> None:
    list(measure_speed(CpuBackend(1), "float32", 1, ROWS))
    X, y = asked[0]["X"], asked[0]["y"]
    assert X.shape == (ROWS, 784)
    assert -1 <= X.min() < -0.999
    assert 0.999 < X.max() <= 1
    assert abs(X.mean()) < 0.01
    assert X.std() == pytest.approx(3**-0.5, rel=0.01)  # of the uniform distribution over [−1, 1]
    assert set(y.tolist()) == set(range(10))


def test_images_are_deterministic(asked: Asked) -> None:
    list(measure_speed(CpuBackend(1), "float32", 1, ROWS))
    first = np.random.default_rng(0).random(3, "float32")
    assert asked[0]["X"][0, :3].tolist() == (2 * first - 1).tolist()
