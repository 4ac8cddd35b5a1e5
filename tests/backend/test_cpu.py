"""NumPy on the CPU: threads, blocks, precisions."""

import re
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fork_helpers import in_thread
from parity.standin import StandInCupy
from threadpoolctl import threadpool_info, threadpool_limits

from fmnist_xp import blas
from fmnist_xp.backend import CpuBackend, CudaBackend, get_backend
from fmnist_xp.errors import DeviceError
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense
from fmnist_xp.optim import SGD


@pytest.mark.parametrize("dtype", ["tf32", "float16"])
def test_cpu_says_which_precisions_it_has(dtype: str) -> None:
    message = rf"^cpu \(.+\) does not compute in {dtype}: use float32 or float64$"
    with pytest.raises(DeviceError, match=message):
        Sequential([Dense(6, 4)], backend=CpuBackend(1), dtype=dtype)
    with pytest.raises(DeviceError, match=message):
        Dense(6, 4, dtype=dtype, backend=CpuBackend(1))


def test_threads_are_the_usable_cores_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.backend.cpu.usable_cores", lambda: 7)
    found, chosen = CpuBackend(), CpuBackend(2)
    assert (found.threads, found.threads_given) == (7, False)
    assert (chosen.threads, chosen.threads_given) == (2, True)


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_threads_than_one_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be at least 1, got {threads}"):
        CpuBackend(threads)


@pytest.mark.parametrize("threads", [1.5, 2.0, "2", True, np.True_, [2]])
@pytest.mark.parametrize("make", [CpuBackend, lambda threads: get_backend("auto", threads=threads)])
def test_what_is_no_whole_number_of_threads_is_refused(make: Callable[..., Any], threads: Any) -> None:
    with pytest.raises(ValueError, match=rf"^threads must be a whole number, got {re.escape(repr(threads))}$"):
        make(threads)


def test_numpys_whole_numbers_are_numbers_of_threads() -> None:
    backend = CpuBackend(np.int64(3))  # type: ignore[arg-type]
    assert (backend.threads, type(backend.threads)) == (3, int)


def test_arrays_of_cupy_are_taken_to_the_host(synthetic_rows: Callable[..., Any]) -> None:
    # NumPy refuses them, and so does CuPy NumPy's: `asarray` is the way from either to the other.
    X, y = synthetic_rows(60)
    cuda = CudaBackend(cupy=StandInCupy())
    cpu = CpuBackend(1)
    copy = cpu.asarray(cuda.asarray(X), dtype="float32")
    assert (type(copy), copy.dtype) == (np.ndarray, np.float32)
    np.testing.assert_array_equal(copy, X.astype("float32"))
    np.testing.assert_array_equal(cpu.to_host(cuda.asarray(y)), y)

    def trained(X: Any, y: Any) -> np.ndarray:
        network = Sequential([Dense(20, 10, seed=1)], backend=cpu)
        network.fit(X, y, epochs=2, optimizer=SGD(), verbose=False)
        assert network.evaluate(X, y).loss > 0
        return network.predict_proba(X)

    np.testing.assert_array_equal(trained(cuda.asarray(X), cuda.asarray(y)), trained(X, y))


def test_what_has_a_method_get_is_no_array_of_cupy_for_that() -> None:
    class Array:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.array([1.0, 2.0], dtype=dtype)

    class Series(Array):  # of pandas
        def get(self, _key: Any) -> None:
            raise AssertionError

    class Elsewhere(Array):  # on a GPU, but no other library's arrays have CuPy's `get`
        __cuda_array_interface__ = ()

    for values in (Series(), Elsewhere()):
        assert CpuBackend(1).asarray(values).tolist() == [1, 2]


@pytest.mark.parametrize("threads", [1, 2])
def test_overflow_is_the_trainers_to_tell(threads: int) -> None:
    backend, big, infinite = CpuBackend(threads), np.array([1e38], "float32"), np.array([np.inf])
    results = []

    def work(_worker: int) -> None:
        results.append([*(big * np.float32(10)), *(infinite - infinite), *(1 / np.zeros(1))])

    with warnings.catch_warnings(action="error"):
        with backend.computing():
            work(0)
        with backend.computing():  # in threads of its own, which have none of this one's settings
            backend.map(work, 2)
    np.testing.assert_array_equal(results, [[np.inf, np.nan, np.inf]] * 3)


@pytest.mark.parametrize(("threads", "workers", "own"), [(1, 3, True), (3, 1, True), (3, 3, False)])
def test_one_thread_is_the_callers(threads: int, workers: int, own: bool) -> None:
    seen = set()
    CpuBackend(threads).map(lambda _worker: seen.add(threading.current_thread()), workers)
    assert (seen == {threading.current_thread()}) is own


def test_layer_on_the_cpu_says_how_an_array_of_cupy_gets_there() -> None:
    inputs = CudaBackend(cupy=StandInCupy()).asarray(np.ones((2, 3), "float32"))
    dense = Dense(3, 2, seed=0)
    message = r"^inputs is a .*, but this object computes on cpu with numpy arrays: pass backend\.asarray\(inputs\)$"
    with pytest.raises(ValueError, match=message):
        dense.forward(inputs)
    assert dense.forward(dense.backend.asarray(inputs)).shape == (2, 2)


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"),
    [
        (60_000, 1104, 1024),
        (60_000, 2128, 768),
        (60_000, 1960, 832),
        (60_000, 3000, 512),
        (60_000, 100_000, 256),
        (100, 1000, 100),
        (5, 0, 5),
    ],
)
def test_cpu_block_fills_the_cache_in_multiples_of_64_rows(rows: int, row_bytes: int, expected: int) -> None:
    found = CpuBackend(1).block_rows(rows, row_bytes)
    assert (found, type(found)) == (expected, int)


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_blas_has_one_thread_while_computing() -> None:
    before = blas_threads()
    with CpuBackend(2).computing():
        assert blas_threads() <= {1}
    assert blas_threads() == before


def test_blas_is_held_to_one_thread_until_the_last_of_two_trainings_ends() -> None:
    before = blas_threads()
    if before <= {1}:
        pytest.skip("BLAS has one thread here anyway")
    first, second = CpuBackend(1).computing(), CpuBackend(1).computing()
    try:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_threads() <= {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before
    finally:
        threadpool_limits(max(before), user_api="blas")


def test_blas_has_one_thread_on_whichever_thread_computes() -> None:
    # threadpoolctl obeys the thread that asked first for as long as that lives.
    before = blas_threads()
    if before <= {1}:
        pytest.skip("BLAS has one thread here anyway")

    def count() -> set[int]:
        with CpuBackend(1).computing():
            return blas_threads()

    assert count() <= {1}
    assert in_thread(count) <= {1}
    assert count() <= {1}
    assert blas_threads() == before
    with threadpool_limits(max(before), user_api="blas"):
        assert in_thread(count) <= {1}
        assert blas_threads() == before


def test_who_leaves_last_gives_blas_its_threads_back() -> None:
    before = blas_threads()
    first, last = blas.single_threaded_blas(), blas.single_threaded_blas()
    first.__enter__()
    in_thread(last.__enter__)
    first.__exit__(None, None, None)
    assert blas_threads() <= {1}
    in_thread(lambda: last.__exit__(None, None, None))
    assert blas_threads() == before


def test_each_thread_of_the_pool_limits_blas_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    # As MKL and OpenMP need it, where the number of threads is that of the thread that asks.
    limited: list[str] = []
    real = blas.threadpool_limits

    def limits(*arguments: Any, **options: Any) -> Any:
        limited.append(threading.current_thread().name)
        return real(*arguments, **options)

    monkeypatch.setattr(blas, "threadpool_limits", limits)
    backend, together = CpuBackend(2), threading.Barrier(2, timeout=60)
    backend.map(lambda _worker: together.wait(), 2)
    assert limited == []  # nobody holds BLAS: the whole process would keep what is set here
    for _ in range(2):
        with backend.computing():
            backend.map(lambda _worker: together.wait(), 2)
    main = threading.current_thread().name
    assert sorted(limited) == sorted([main, "fmnist-xp_0", "fmnist-xp_1", main])


def test_full_memory_of_the_cpu_is_told() -> None:
    with (
        pytest.raises(DeviceError, match=r"^the CPU's memory is full \(no room\): use fewer rows"),
        CpuBackend(1).computing(),
    ):
        raise MemoryError("no room")


def test_cpu_marks_are_seconds_of_a_clock() -> None:
    backend = CpuBackend(1)
    assert backend.seconds_between([1.0, 1.5, 4.0]) == [0.5, 2.5]
    assert backend.seconds_between([1.0]) == []
    first, second = backend.mark(), backend.mark()
    assert second >= first


def test_peak_memory_of_the_cpu_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.backend.cpu.peak_resident_bytes", lambda: 12345)
    assert CpuBackend(1).peak_memory() == 12345


@pytest.mark.parametrize(("threads", "workers"), [(1, 1), (1, 3), (3, 1), (3, 3), (2, 5)])
def test_map_calls_every_worker_once(threads: int, workers: int) -> None:
    called: list[int] = []
    CpuBackend(threads).map(called.append, workers)
    assert sorted(called) == list(range(workers))


def test_map_runs_workers_at_once() -> None:
    together = threading.Barrier(3, timeout=60)
    passed: list[int] = []

    def work(number: int) -> None:
        together.wait()
        passed.append(number)

    CpuBackend(3).map(work, 3)
    assert sorted(passed) == [0, 1, 2]


def test_map_takes_as_many_threads_as_the_backend_has_and_keeps_them() -> None:
    backend, together = CpuBackend(2), threading.Barrier(2, timeout=60)
    names: set[str] = set()

    def work(_number: int) -> None:
        together.wait()
        names.add(threading.current_thread().name)

    for _ in range(2):
        backend.map(work, 12)
    assert names == {"fmnist-xp_0", "fmnist-xp_1"}


@pytest.mark.parametrize("threads", [1, 2])
def test_map_raises_what_a_worker_raises(threads: int) -> None:
    def work(number: int) -> None:
        if number == 1:
            raise ArithmeticError("worker 1")

    with pytest.raises(ArithmeticError, match="worker 1"):
        CpuBackend(threads).map(work, 2)


def test_map_waits_for_all_workers_also_where_one_fails() -> None:
    done: list[int] = []
    failed = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            failed.set()
            raise ArithmeticError("worker 0")
        assert failed.wait(60)
        time.sleep(0.1)
        done.append(number)

    with pytest.raises(ArithmeticError):
        CpuBackend(2).map(work, 2)
    assert done == [1]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends a signal to one thread, as POSIX can")
@pytest.mark.usefixtures("sigint")
def test_map_waits_for_all_workers_also_where_the_caller_is_interrupted() -> None:
    # Else a second Ctrl-C would leave threads writing to the network that the user has in hand.
    done: list[int] = []
    started = threading.Event()

    def work(number: int) -> None:
        if number == 1:
            started.set()
        else:
            assert started.wait(60)
            time.sleep(0.1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(0.2)
        done.append(number)

    with pytest.raises(KeyboardInterrupt):
        CpuBackend(2).map(work, 2)
    assert sorted(done) == [0, 1]
