"""CUDA graphs on the stand-in: what is captured, what is refused, what is held."""

import builtins
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath

from fmnist_xp.backend import Backend, Call, CudaGraphBackend
from fmnist_xp.backend.graphs import import_nvmath
from fmnist_xp.errors import DeviceError
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, Layer, ReLU
from fmnist_xp.optim import Adam


@pytest.fixture
def cupy() -> StandInCupy:
    return StandInCupy()


@pytest.fixture
def backend(cupy: StandInCupy) -> CudaGraphBackend:
    return CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy))


def double(xp: Any, values: Any) -> None:
    xp.multiply(values, 2, out=values)


def add_one(xp: Any, values: Any) -> None:
    values[...] = xp.add(values, 1, out=values)


def column_maxima(xp: Any, values: Any, out: Any) -> None:
    xp.max(values, axis=0, out=out)


# What is captured


def test_calls_are_done_at_each_launch_and_not_before(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    values, maxima = cupy.asarray(np.array([[1.0, 2.0], [4.0, 3.0]])), cupy.zeros(2)
    backend.fuse(double)(values)  # compiles it
    calls: list[Call] = [
        (backend.fuse(double), (values,)),
        (add_one, (cupy, values)),
        (column_maxima, (cupy, values, maxima)),
    ]
    repeat = backend.repeatable(calls)
    assert values.tolist() == [[2, 4], [8, 6]]
    repeat()
    assert values.tolist() == [[5, 9], [17, 13]]
    repeat()
    assert values.tolist() == [[11, 19], [35, 27]]
    assert maxima.tolist() == [35, 27]


def test_launch_is_all_that_is_asked_of_the_device(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    values = cupy.ones((2, 2))
    backend.fuse(double)(values)
    calls: list[Call] = [
        (backend.fuse(double), (values,)),
        *backend.dot_calls(values, values, cupy.empty((2, 2)), 1.0, False),
    ]
    captured: list[Callable[[], None]] = []
    assert cupy.counted(lambda: captured.append(backend.repeatable(calls))) == {}
    assert cupy.counted(captured[0]) == {"launches": 1, "kernels": 1, "products": 1}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_are_captured_with_their_scale(backend: CudaGraphBackend, cupy: StandInCupy, dtype: str) -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(4, 3)
    left, right, out = cupy.asarray(a, dtype=dtype), cupy.asarray(b, dtype=dtype), cupy.zeros((2, 4), dtype=dtype)
    repeat = backend.repeatable(backend.dot_calls(left, right.T, out, 0.5, False))
    assert not out.get().any()
    repeat()
    np.testing.assert_array_equal(out.get(), 0.5 * a @ b.T)
    left[...] = cupy.asarray(a + 1, dtype=dtype)
    repeat()
    np.testing.assert_array_equal(out.get(), 0.5 * (a + 1) @ b.T)


def test_products_that_are_not_captured_run_in_the_current_stream(
    backend: CudaGraphBackend, cupy: StandInCupy
) -> None:
    ones, out = cupy.ones((2, 2)), cupy.empty((2, 2))
    with cupy.cuda.Stream():
        backend.dot(ones, ones, out)  # the stand-in refuses another one
    assert out.tolist() == [[2, 2], [2, 2]]


def test_graph_holds_the_arrays_of_its_calls(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    a, out = cupy.ones((2, 2)), cupy.zeros((2, 2))
    held = [weakref.ref(array._memory) for array in (a, out)]
    repeat = backend.repeatable([*backend.dot_calls(a, a, out, 1.0, False), (add_one, (cupy, out))])
    del a, out
    gc.collect()
    repeat()
    assert None not in [memory() for memory in held]
    del repeat
    gc.collect()
    assert [memory() for memory in held] == [None, None]


# What cannot be captured


def waits(xp: Any, values: Any) -> None:
    values[...] = float(values[0, 0])


def allocates(xp: Any, values: Any) -> None:
    values[...] = values + 1


def multiplies(xp: Any, values: Any) -> None:
    xp.dot(values, values, out=values)


def calls_cublas(xp: Any, values: Any) -> None:
    xp.cuda.cublas.gemmEx(xp.cuda.get_cublas_handle(), *range(18))


def fails(xp: Any, values: Any) -> None:
    raise KeyError


REFUSED: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "wait": (waits, r"cudaErrorStreamCaptureUnsupported: float\(\) while the stream is captured"),
    "allocation": (allocates, "32 bytes of memory were asked for"),
    "CuPy's product": (multiplies, "calling cuBLAS API during stream capture is currently unsupported"),
    "CuPy's cuBLAS": (calls_cublas, "calling cuBLAS API during stream capture is currently unsupported"),
    "fault": (fails, "KeyError"),
}


@pytest.mark.parametrize(("function", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_captured_is_told_in_one_line(
    backend: CudaGraphBackend, cupy: StandInCupy, function: Callable[[Any, Any], None], reason: str
) -> None:
    values = cupy.ones((2, 2))
    message = (
        r"^cuda:0 \(Stand-in GPU\) cannot capture the layers' calls as a CUDA graph "
        rf"\({reason}\): compute without CUDA graphs$"
    )
    with pytest.raises(DeviceError, match=message):
        backend.repeatable([(function, (cupy, values))])
    assert values.tolist() == [[1, 1], [1, 1]]
    # Streams and memory are as before.
    backend.repeatable([(add_one, (cupy, values))])()
    assert (values + 1).tolist() == [[3, 3], [3, 3]]


def test_interrupt_while_capturing_sets_the_stream_free(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.repeatable([(interrupt, ())])
    values = cupy.zeros((1, 1))
    backend.repeatable([(add_one, (cupy, values))])()
    assert values.tolist() == [[1]]


# What can be wrong with nvmath-python

INSTALL = r'pip install "fmnist-xp\[graphs\]"$'


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'nvmath'"), f"nvmath-python is not installed: {INSTALL}"),
        (ImportError("libcudart: not found\nmore"), rf"does not load \(libcudart: not found\): {INSTALL}"),
    ],
)
def test_nvmath_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, cupy: StandInCupy, error: Exception, message: str
) -> None:
    real_import = builtins.__import__

    def failing_import(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "nvmath":
            raise error
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", failing_import)
    for attempt in (import_nvmath, lambda: CudaGraphBackend(cupy=cupy)):
        with pytest.raises(DeviceError, match=f"^CUDA graphs were asked for, but .*{message}") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_nvmath_that_cannot_multiply(cupy: StandInCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(_cublas: Any) -> int:
        raise RuntimeError("libcublas.so: not found\nmore")

    monkeypatch.setattr(NvmathCublas, "create", create)
    message = r"^nvmath-python cannot multiply on cuda:0 \(libcublas\.so: not found\): compute without CUDA graphs$"
    with pytest.raises(DeviceError, match=message):
        CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy))


def test_faults_of_cuda_come_first() -> None:
    with pytest.raises(DeviceError, match="no NVIDIA driver answers"):
        CudaGraphBackend(cupy=StandInCupy(driver=0))


# On a GPU


@pytest.mark.cuda
@pytest.mark.parametrize("block_rows", [None, 150])
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float64", 1e-9), ("tf32", 1e-2), ("float16", 1e-2)])
def test_training_with_graphs_is_training_without(
    gpu: Backend, made_data: Any, dtype: str, rtol: float, block_rows: int | None
) -> None:
    pytest.importorskip("nvmath", reason="nvmath-python, with whose cuBLAS products are captured, is not installed")
    if dtype not in gpu.precisions:
        pytest.skip(f"{gpu.device_name} does not compute in {dtype}")
    X, y = made_data(400)
    losses = []
    for backend in (gpu, CudaGraphBackend(int(gpu.name.partition(":")[2]))):
        layers: list[Layer] = [Dense(20, 32, 0.0, 1e-4), ReLU(), Dense(32, 10)]
        model = Sequential(layers, backend=backend, seed=1, dtype=dtype)
        history = model.fit(X, y, epochs=40, optimizer=Adam(0.01), log_every=5, block_rows=block_rows, verbose=False)
        losses.append(history.loss)
    np.testing.assert_allclose(losses[1], losses[0], rtol=rtol)
    assert losses[0][-1] < 0.5 * losses[0][0]
