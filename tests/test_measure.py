from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import Pixels
from fmnist_xp.measure import copy_rate, epoch_flops, gemm_sampler, time_epochs
from fmnist_xp.nn import Dense, Network, ReLU
from fmnist_xp.optim import SGD


class Timed(CpuBackend):
    """A backend on which the n-th call of `map` takes the n-th of `seconds`."""

    def __init__(self, threads: int, seconds: Sequence[float]) -> None:
        super().__init__(threads)
        self.clock, self.left = 0.0, list(seconds)

    def mark(self) -> float:
        return self.clock

    def map(self, work: Callable[[int], None], workers: int) -> None:
        assert workers == self.threads
        super().map(work, workers)
        self.clock += self.left.pop(0)

    def dot(self, a: Any, b: Any, out: Any, *, scale: float = 1, tf32: bool = False) -> None:
        assert scale == 1
        assert tf32 is False


def test_flops_of_the_notebooks_networks_are_those_counted_by_hand() -> None:
    # 2·60,000 · (784·128·2 + 128·128·3 + 128·10·3) and 2·60,000 · (784·64·2 + 64·64·3 + 64·10·3)
    assert epoch_flops([784, 128, 128, 10], 60_000) == 30_443_520_000
    assert epoch_flops([784, 64, 64, 10], 60_000) == 13_747_200_000


def test_flops_of_a_single_layer_count_two_products() -> None:
    assert epoch_flops([3, 5], 7) == 2 * (2 * 7 * 3 * 5)


@pytest.mark.parametrize("threads", [1, 2])
def test_gemm_rate_is_that_of_the_fastest_product_after_the_warm_up(threads: int) -> None:
    backend = Timed(threads, [1, 2, 4, 3, 0.25, 5, 0.5, 4])
    sample = gemm_sampler(backend, size=3, repeats=3)
    assert sample() == 54 / 2 * threads  # 3³ products and as many sums, in 2 s, on each thread
    assert sample() == 54 / 0.5 * threads
    assert backend.left == []


def test_gemm_rate_by_default_is_of_five_products_of_2048_square_matrices_of_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend, dtypes = Timed(1, [1, 4, 4, 4, 4, 2]), set()
    monkeypatch.setattr(backend, "dot", lambda *matrices, tf32: dtypes.update(matrix.dtype for matrix in matrices))
    assert gemm_sampler(backend)() == 2**34 / 2  # 2 · (2¹¹)³ in 2 s
    assert dtypes == {np.dtype("float32")}
    assert backend.left == []


def test_gemm_operands_are_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    backend, factors = Timed(1, [1, 1]), []
    monkeypatch.setattr(
        backend, "dot", lambda *matrices, tf32: factors.append([float(m[0, 0]) for m in matrices[:2]])
    )
    gemm_sampler(backend, size=1, repeats=1)()
    first, second, third, fourth = np.random.default_rng(0).random(4, "float32")
    assert factors == [[(first + second) % 1, (third + fourth) % 1]] * 2


@pytest.mark.parametrize("threads", [1, 3])
def test_copy_rate_is_that_of_the_fastest_copy_after_the_warm_up(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Timed(threads, [1, 2, 4, 3])
    sources: list[Any] = []
    targets: list[Any] = []

    def noted(arrays: list[Any], make: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: arrays.append(make(*arguments, **options)) or arrays[-1]

    xp = SimpleNamespace(ones=noted(sources, np.ones), empty=noted(targets, np.zeros))
    monkeypatch.setattr(backend, "xp", xp)
    # 3 million bytes, read and written, in 2 s
    assert copy_rate(backend, megabytes=3, repeats=3) == 6_000_000 / 2
    assert backend.left == []
    for arrays in (sources, targets):
        assert [array.nbytes for array in arrays] == [3_000_000 // threads] * threads
        assert all(array.all() for array in arrays)


def test_copy_rate_by_default_is_of_five_copies_of_256_million_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Timed(1, [1, 4, 4, 4, 4, 2])
    one = np.ones(1, dtype="uint8")
    views = SimpleNamespace(ones=lambda size, dtype: np.broadcast_to(one, size), empty=np.empty)
    monkeypatch.setattr(backend, "xp", views)
    monkeypatch.setattr(CpuBackend, "map", lambda *_asked: None)  # without a copy, no memory is used
    assert copy_rate(backend) == 512_000_000 / 2
    assert backend.left == []


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rates_are_positive_and_finite(threads: int, dtype: str) -> None:
    backend = CpuBackend(threads)
    for rate in (gemm_sampler(backend, dtype, size=32, repeats=2)(), copy_rate(backend, megabytes=1, repeats=2)):
        assert 0 < rate < float("inf")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gemm_samples_multiply_the_same_random_matrices(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CpuBackend(2)
    products: list[tuple[np.ndarray, ...]] = []

    def noted(*matrices: np.ndarray, tf32: bool) -> None:
        assert not tf32
        products.append(matrices)
        CpuBackend.dot(backend, *matrices)

    monkeypatch.setattr(backend, "dot", noted)
    sample = gemm_sampler(backend, dtype, size=40, repeats=3)
    assert products == []
    for _ in range(2):
        sample()
    assert len(products) == 2 * 2 * (1 + 3)  # samples, threads, repeats and one to warm up
    assert {tuple(map(id, matrices[:2])) for matrices in products} == {tuple(map(id, products[0][:2]))}
    assert len({id(matrices[2]) for matrices in products}) == 2
    left, right, result = products[-1]
    np.testing.assert_allclose(result, left @ right, rtol=1e-5)
    for matrix in (left, right):
        assert matrix.dtype == dtype
        assert matrix.flags.c_contiguous
        assert matrix.min() >= 0
        assert matrix.max() <= 1
        assert len(np.unique(matrix)) > 0.9 * matrix.size
        assert matrix.std() == pytest.approx(12**-0.5, rel=0.1)  # of the uniform distribution over [0, 1)
    assert not np.array_equal(left, right)


def test_time_epochs_gives_each_epoch_but_the_first_and_trains() -> None:
    generator = np.random.default_rng(0)
    X = generator.standard_normal((50, 6)).astype("float32")
    y = generator.integers(0, 3, 50).astype("uint8")
    network = Network([Dense(6, 4), ReLU(), Dense(4, 3)], seed=0)
    before = network.parameters.copy()
    optimizer = SGD()
    seconds = time_epochs(network, X, y, optimizer, 3).seconds
    assert len(seconds) == 3
    assert all(second > 0 for second in seconds)
    assert optimizer.iterations == 4
    assert not np.array_equal(before, network.parameters)


@pytest.mark.parametrize(("dense", "share"), [(None, 32 / 36), (False, 32 / 36), (True, 1)])
def test_time_epochs_tells_the_share_of_the_columns(dense: bool | None, share: float) -> None:
    """Of 36 columns 24 are never background: with others, 32 are multiplied, a multiple of 16."""
    generator = np.random.default_rng(0)
    images = generator.integers(1, 256, (40, 36), "uint8")
    images[:, 24:] = 0
    network = Network([Dense(36, 4), ReLU(), Dense(4, 3)], seed=0)
    timed = time_epochs(network, Pixels(images), np.zeros(40, "uint8"), SGD(), 2, dense=dense)
    assert timed.column_share == pytest.approx(share)
    assert len(timed.seconds) == 2


class Noting(CpuBackend):
    """A backend whose nth epoch takes n + 1 seconds, and that counts what is fetched."""

    def __init__(self, captures: bool) -> None:
        super().__init__(1)
        self.captures, self.marks, self.fetched = captures, 0, 0

    def mark(self) -> float:
        self.marks += 1
        return self.marks * (self.marks - 1) / 2  # 0, 1, 1 + 2, 1 + 2 + 3, …

    def fetch(self, array: Any) -> Callable[[], Any]:
        self.fetched += 1
        return super().fetch(array)


def timed(backend: Noting, epochs: int, **options: Any) -> tuple[list[float], int]:
    """Return the seconds of the epochs of a small training run, and the number of epochs."""
    network, optimizer = Network([Dense(2, 3)], backend=backend, seed=0), SGD()
    timed = time_epochs(network, np.ones((4, 2), "float32"), np.zeros(4, "uint8"), optimizer, epochs, **options)
    return timed.seconds, optimizer.iterations


# 21 epochs: the logged ones are 0, 10 and 20, or 0, 4, 8, 12, 16 and 20.
@pytest.mark.parametrize(("options", "logged"), [({}, 3), ({"log_every": 4}, 6)])
def test_time_epochs_warms_up_with_one_epoch_and_logs_as_often_as_asked(options: dict[str, int], logged: int) -> None:
    backend = Noting(captures=False)
    assert timed(backend, 20, **options) == ([float(second) for second in range(2, 22)], 21)
    assert backend.fetched == logged


def test_time_epochs_warms_up_with_two_launches_of_graphs() -> None:
    # Two launches of 4 epochs, one that compiles and one that captures, then those of 4 in 3 s and 2 in 4 s.
    assert timed(Noting(captures=True), 6, log_every=4) == ([3 / 4] * 4 + [4 / 2] * 2, 8 + 6)
