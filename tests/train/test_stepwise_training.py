"""Trainings of networks with every kind of layer that is made of steps: the same bits however they are computed."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath
from threadpoolctl import threadpool_limits

import fmnist_xp as fx
from fmnist_xp.backend import Backend, CpuBackend, CudaBackend, CudaGraphBackend
from fmnist_xp.nn import Layer
from fmnist_xp.train.plan import is_planned

GENERATOR = np.random.default_rng(0)
ROWS, SIDE, CLASSES = 60, 6, 4
LABELS = GENERATOR.integers(0, CLASSES, ROWS)
IMAGES = GENERATOR.integers(0, 256, (ROWS, SIDE, SIDE), dtype="uint8")
IMAGES[:, 0] = IMAGES[::2, 1:3] = IMAGES[:, 5] = 0
IMAGES = IMAGES.reshape(ROWS, -1)
X = IMAGES / 127.5 - 1


@pytest.fixture(autouse=True)
def one_blas_thread() -> Iterator[None]:
    with threadpool_limits(1, user_api="blas"):
        yield


def make(backend: Backend, dtype: str = "float32") -> fx.Sequential:
    layers: list[Layer] = [
        *(fx.Dense(SIDE**2, 9, weight_regularizer_l2=1e-3, initializer="he_normal"), fx.LayerNorm(9), fx.GELU()),
        *(fx.Dense(9, 8, initializer="lecun_uniform"), fx.LeakyReLU(0.1), fx.LayerNorm(8), fx.Sigmoid()),
        *(fx.Dense(8, 7, initializer="glorot_normal"), fx.Softmax(), fx.Tanh(), fx.Dense(7, CLASSES)),
    ]
    network = fx.Sequential(layers, backend=backend, seed=1, dtype=dtype)
    assert is_planned(network)
    return network


def eager() -> CudaBackend:
    return CudaBackend(1, cupy=StandInCupy(devices=2))


def with_graphs() -> CudaGraphBackend:
    cupy = StandInCupy(devices=2)
    return CudaGraphBackend(1, cupy=cupy, nvmath=make_nvmath(cupy))


def trained(backend: Backend, rows: Any = X, dtype: str = "float32", **options: Any) -> Any:
    """Return the losses and the parameters, on the host, of a training."""
    network = make(backend, dtype)
    given = {"epochs": 12, "optimizer": fx.Adam(0.02), "log_every": 3, "verbose": 0, **options}
    history = network.fit(rows, LABELS, **given)
    assert history.loss[-1] < history.loss[0]
    return history.loss, backend.to_host(network.parameters).copy()


def test_threads_do_not_matter() -> None:
    results = [trained(CpuBackend(threads), block_rows=7) for threads in (1, 2, 3)]
    for losses, parameters in results[1:]:
        assert losses == results[0][0]
        np.testing.assert_array_equal(parameters, results[0][1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("block_rows", [ROWS, 16])
def test_a_gpu_has_the_bits_of_the_cpu_with_graphs_and_without(dtype: str, block_rows: int) -> None:
    losses, parameters = trained(CpuBackend(1), dtype=dtype, block_rows=block_rows, dense=True)
    for backend in (eager(), with_graphs()):
        found, there = trained(backend, dtype=dtype, block_rows=block_rows, dense=True)
        assert found == losses
        np.testing.assert_array_equal(there, parameters)


@pytest.mark.parametrize("dtype", ["tf32", "float16"])
def test_precisions_of_a_gpu_train_as_float32_does(dtype: str) -> None:
    losses, _parameters = trained(CpuBackend(1), epochs=10, log_every=1)
    for backend in (eager(), with_graphs()):
        np.testing.assert_allclose(trained(backend, dtype=dtype, epochs=10, log_every=1)[0], losses, rtol=1e-2)


def test_rows_without_background_train_as_dense_ones_do() -> None:
    (dense, _), (left_out, _) = (
        trained(CpuBackend(2), IMAGES, dtype="float64", block_rows=16, dense=whether) for whether in (True, False)
    )
    np.testing.assert_allclose(left_out, dense, rtol=1e-9)


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    losses, parameters = trained(CpuBackend(2), block_rows=16)
    network = make(CpuBackend(2))
    options: dict[str, Any] = {"log_every": 3, "verbose": 0, "checkpoint": tmp_path, "block_rows": 16}
    network.fit(X, LABELS, epochs=5, optimizer=fx.Adam(0.02), **options)
    resumed = make(CpuBackend(2))
    history = resumed.fit(X, LABELS, epochs=12, optimizer=fx.Adam(0.02), resume=True, **options)
    assert history.loss == losses
    np.testing.assert_array_equal(resumed.parameters, parameters)


def test_files_and_pickles_keep_it(tmp_path: Path) -> None:
    network, optimizer = make(CpuBackend(1)), fx.Adam(0.02)
    network.fit(X, LABELS, epochs=5, optimizer=optimizer, verbose=0)
    network.save(tmp_path / "model.safetensors")
    again = fx.load(tmp_path / "model.safetensors")
    other, its_optimizer = pickle.loads(pickle.dumps((network, optimizer)))
    assert repr(again.layers) == repr(other.layers) == repr(network.layers)
    for model in (again, other):
        np.testing.assert_array_equal(model.predict_proba(X), network.predict_proba(X))
    for model, its in ((network, optimizer), (other, its_optimizer)):
        model.fit(X, LABELS, epochs=5, optimizer=its, verbose=0)
    np.testing.assert_array_equal(other.parameters, network.parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32", "float16"])
def test_an_epoch_allocates_nothing_and_does_not_wait(dtype: str) -> None:
    backend = eager()
    network, costs = make(backend, dtype), []
    for epochs in (2, 4):
        options: dict[str, Any] = {"optimizer": fx.Adam(0.02), "log_every": 1000, "verbose": 0, "block_rows": 16}
        costs.append(backend.xp.counted(lambda: network.fit(X, LABELS, epochs=epochs, **options)))  # noqa: B023
    assert {name for name in costs[1] if costs[1][name] != costs[0][name]} == {"kernels", "products"}
