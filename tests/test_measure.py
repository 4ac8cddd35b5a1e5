import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.measure import copy_rate, epoch_flops, gemm_sampler, time_epochs
from fmnist_xp.nn import Dense, Network, ReLU
from fmnist_xp.optim import SGD


def test_flops_of_the_notebooks_networks_are_those_counted_by_hand() -> None:
    # 2·60,000 · (784·128·2 + 128·128·3 + 128·10·3) and 2·60,000 · (784·64·2 + 64·64·3 + 64·10·3)
    assert epoch_flops([784, 128, 128, 10], 60_000) == 30_443_520_000
    assert epoch_flops([784, 64, 64, 10], 60_000) == 13_747_200_000


def test_flops_of_a_single_layer_count_two_products() -> None:
    assert epoch_flops([3, 5], 7) == 2 * (2 * 7 * 3 * 5)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rates_are_positive_and_finite(threads: int, dtype: str) -> None:
    backend = CpuBackend(threads)
    for rate in (gemm_sampler(backend, dtype, size=32, repeats=2)(), copy_rate(backend, megabytes=1, repeats=2)):
        assert 0 < rate < float("inf")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_samples_of_the_gemm_rate_are_products_of_the_same_uneven_matrices(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        assert matrix.std() == pytest.approx(12**-0.5, rel=0.1)  # that of an even spread over [0, 1)
    assert not np.array_equal(left, right)


def test_time_epochs_gives_each_epoch_but_the_first_and_trains() -> None:
    generator = np.random.default_rng(0)
    X = generator.standard_normal((50, 6)).astype("float32")
    y = generator.integers(0, 3, 50).astype("uint8")
    network = Network([Dense(6, 4), ReLU(), Dense(4, 3)], seed=0)
    before = network.parameters.copy()
    optimizer = SGD()
    seconds = time_epochs(network, X, y, optimizer, 3)
    assert len(seconds) == 3
    assert all(second > 0 for second in seconds)
    assert optimizer.iterations == 4
    assert not np.array_equal(before, network.parameters)
