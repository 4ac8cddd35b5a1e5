"""A process that has computed, and forks: multiprocessing, joblib, a server that forks its workers."""

import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from fork_helpers import PATIENCE, in_child
from parity.standin import CUDARuntimeError, StandInCupy
from threadpoolctl import threadpool_info

from fmnist_xp import blas
from fmnist_xp.backend import Backend, CpuBackend, CudaBackend, get_backend
from fmnist_xp.blas import single_threaded_blas
from fmnist_xp.errors import DeviceError
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, ReLU
from fmnist_xp.optim import Adam

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")


def trained(backend: Backend, data: tuple[np.ndarray, np.ndarray]) -> bytes:
    """Return the bits of a network after a training of several blocks."""
    network = Sequential([Dense(20, 16, seed=1), ReLU(), Dense(16, 10, seed=2)], backend=backend)
    network.fit(*data, epochs=4, optimizer=Adam(), block_rows=40, verbose=False)
    return network.parameters.tobytes() + network.predict_proba(data[0]).tobytes()


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@contextmanager
def training_on_a_thread(backend: Backend, data: tuple[np.ndarray, np.ndarray]) -> Iterator[None]:
    """Train on another thread until the block ends."""
    network = Sequential([Dense(20, 16, seed=1), ReLU(), Dense(16, 10, seed=2)], backend=backend)
    begun, enough = threading.Event(), threading.Event()

    class Enough(Exception):
        pass

    def on_epoch(_history: Any) -> None:
        begun.set()
        if enough.is_set():
            raise Enough

    def train() -> None:
        with pytest.raises(Enough):
            network.fit(*data, epochs=10**9, callbacks=[on_epoch], block_rows=40, log_every=1, verbose=False)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        assert begun.wait(PATIENCE)
        yield
    finally:
        enough.set()
        thread.join()


@pytest.mark.parametrize("threads", [1, 3])
def test_child_computes_what_its_parent_did_which_goes_on(synthetic_rows: Callable[..., Any], threads: int) -> None:
    data = synthetic_rows(200)
    backend = CpuBackend(threads)
    expected = trained(backend, data)
    assert in_child(lambda: trained(backend, data)) == expected
    assert in_child(lambda: trained(get_backend("cpu", threads=2), data)) == expected
    assert trained(backend, data) == expected


def test_child_of_a_child_computes_too(synthetic_rows: Callable[..., Any]) -> None:
    data = synthetic_rows(200)
    backend = CpuBackend(2)
    expected = trained(backend, data)
    assert in_child(lambda: (trained(backend, data), in_child(lambda: trained(backend, data)))) == (expected,) * 2


def test_layers_used_alone_compute_in_a_child() -> None:
    dense = Dense(20, 3, seed=0)
    expected = dense.forward(np.ones((4, 20), "float32")).tobytes()
    assert in_child(lambda: dense.forward(np.ones((4, 20), "float32")).tobytes()) == expected


def test_processes_of_multiprocessing_compute(synthetic_rows: Callable[..., Any]) -> None:
    data = synthetic_rows(200)
    backend = CpuBackend(2)
    expected = trained(backend, data)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        pool = multiprocessing.get_context("fork").Pool(2, initializer=_remember, initargs=(backend, data))
    with pool:
        assert pool.map_async(_trained_here, range(3)).get(PATIENCE) == [expected] * 3


_held: Any = None


def _remember(*held: Any) -> None:
    global _held
    _held = held


def _trained_here(_number: int) -> bytes:
    return trained(*_held)


def test_fork_in_the_midst_of_a_training_on_another_thread(synthetic_rows: Callable[..., Any]) -> None:
    data = synthetic_rows(200)
    backend = CpuBackend(2)
    expected, free = trained(backend, data), blas_threads()
    with training_on_a_thread(backend, data):
        for _ in range(5):
            assert in_child(lambda: (blas_threads(), trained(backend, data), blas_threads())) == (
                free,
                expected,
                free,
            )
        assert blas_threads() <= {1}  # the parent's training goes on
    assert blas_threads() == free
    assert trained(backend, data) == expected


def test_fork_while_another_thread_limits_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, real = threading.Event(), blas.threadpool_limits

    def slow_limits(*arguments: Any, **options: Any) -> Any:
        limits = real(*arguments, **options)
        inside.set()
        threading.Event().wait(0.3)
        return limits

    def hold() -> None:
        with single_threaded_blas():
            pass

    def counts() -> tuple[set[int], set[int]]:
        with single_threaded_blas():
            within = blas_threads()
        return within, blas_threads()

    free = blas_threads()
    monkeypatch.setattr(blas, "threadpool_limits", slow_limits)
    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(PATIENCE)
    within, after = in_child(counts)
    thread.join()
    assert within <= {1}
    assert after == free == blas_threads()


def test_fork_by_who_holds_blas_to_one_thread_goes_on_holding_it() -> None:
    free = blas_threads()

    def counts() -> list[set[int]]:
        found = [blas_threads()]
        with single_threaded_blas():
            found.append(blas_threads())
        found.append(blas_threads())
        held.__exit__(None, None, None)
        return [*found, blas_threads()]

    with single_threaded_blas():
        held = single_threaded_blas()
        held.__enter__()
        try:
            assert all(count <= {1} for count in in_child(counts))
        finally:
            held.__exit__(None, None, None)
    held = single_threaded_blas()
    held.__enter__()
    try:
        *within, after = in_child(counts)
    finally:
        held.__exit__(None, None, None)
    assert all(count <= {1} for count in within)
    assert after == free == blas_threads()


def test_cuda_in_a_child_is_refused_with_what_to_do() -> None:
    backend = CudaBackend(cupy=StandInCupy())
    array = backend.asarray(np.ones(3))

    def messages() -> list[str]:
        found = []
        for attempt in (lambda: backend.asarray(np.ones(3)), lambda: backend.to_host(array), backend.mark):
            with pytest.raises(DeviceError) as caught:
                attempt()
            found.append(str(caught.value))
        return found

    for message in in_child(messages):
        assert message == (
            "cuda:0 was opened by another process, and a process that is forked from one that has used CUDA cannot "
            'use it: start it with multiprocessing\'s method "spawn" or "forkserver", use CUDA in the forked '
            "processes alone, or use --device cpu"
        )
    assert backend.to_host(array).tolist() == [1, 1, 1]


@pytest.mark.parametrize("fault", ["devices", "failure", "late_failure"])
def test_cuda_that_does_not_start_after_a_fork_is_told_so(fault: str) -> None:
    error = CUDARuntimeError("cudaErrorInitializationError: initialization error", 3)
    message = (
        r"^a CUDA device was asked for, but CUDA does not start "
        r"\(cudaErrorInitializationError: initialization error\): a process that is forked from one "
        r"that has used CUDA cannot use it: start it with multiprocessing's method "
    )
    with pytest.raises(DeviceError, match=message):
        CudaBackend(cupy=StandInCupy(**{fault: error}))
