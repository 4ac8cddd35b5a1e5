import builtins
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from fmnist_xp.backend import (
    Backend,
    CpuBackend,
    CudaBackend,
    cuda_version,
    default_backend,
    get_backend,
    import_cupy,
)
from fmnist_xp.errors import DeviceError
from fmnist_xp.model import Sequential, load
from fmnist_xp.nn import Dense, Layer, ReLU, Softmax
from fmnist_xp.optim import SGD, Adam, Optimizer

GIB = 2**30


class DeviceArray(np.ndarray):
    """A NumPy array that stands for one on the device: a plain one is not taken for it."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class OutOfMemoryError(MemoryError):
    """Stands for CuPy's."""


class CUDARuntimeError(RuntimeError):
    """Stands for CuPy's."""


class Device:
    """A device that notes when it is current and how often it was waited for."""

    def __init__(self, index: int, memory: tuple[int, int]) -> None:
        self.index, self.mem_info = index, memory
        self.entered = self.waits = 0

    def __enter__(self) -> None:
        self.entered += 1

    def __exit__(self, *_error: object) -> None:
        self.entered -= 1

    def synchronize(self) -> None:
        self.waits += 1


class Event:
    """An event whose time is the number of events recorded before it, in seconds."""

    recorded = 0

    def __init__(self) -> None:
        self.waits = 0

    def record(self) -> None:
        self.milliseconds = 1000.0 * Event.recorded
        Event.recorded += 1

    def synchronize(self) -> None:
        self.waits += 1


CUDA_DTYPES = {2: "float16", 0: "float32", 1: "float64"}
COMPUTE_32F, COMPUTE_64F, COMPUTE_TF32 = 68, 70, 77


def stored_by_columns(pointer: int, dtype: str, rows: int, columns: int, stride: int) -> np.ndarray:
    """Return the matrix at an address, as cuBLAS sees it."""
    assert stride >= rows
    size = np.dtype(dtype).itemsize
    memory = (ctypes.c_char * (size * (stride * (columns - 1) + rows))).from_address(pointer)
    flat = np.frombuffer(memory, dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (size, stride * size))


class StandIn(ModuleType):
    """CuPy as far as the package uses it, computing with NumPy."""

    __version__ = "14.2.0"
    ndarray = DeviceArray

    def __init__(
        self,
        driver: int | Exception = 12040,
        devices: int | Exception = 1,
        memory: tuple[int, int] = (8 * GIB, 10 * GIB),
        name: str | bytes = b"Stand-in GPU",
        major: int = 9,
        failure: Exception | None = None,
    ) -> None:
        super().__init__("cupy")
        self.failure = failure
        self.fused: list[str] = []
        self.products: list[int] = []
        self.pool = SimpleNamespace(free_bytes=lambda: 2 * GIB, total_bytes=lambda: 3 * GIB)
        self.cuda = SimpleNamespace(
            Device=lambda index: Device(index, memory),
            Event=Event,
            get_elapsed_time=lambda start, end: end.milliseconds - start.milliseconds,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError,
                driverGetVersion=lambda: answer(driver),
                getDeviceCount=lambda: answer(devices),
                getDeviceProperties=lambda _index: {"name": name, "major": major},
                CUDA_R_16F=2,
                CUDA_R_32F=0,
                CUDA_R_64F=1,
            ),
            get_cublas_handle=lambda: 1,
            cublas=SimpleNamespace(
                CUBLAS_COMPUTE_32F=COMPUTE_32F,
                CUBLAS_COMPUTE_64F=COMPUTE_64F,
                CUBLAS_COMPUTE_32F_FAST_TF32=COMPUTE_TF32,
                CUBLAS_GEMM_DEFAULT=-1,
                gemmEx=self.gemm,
            ),
        )

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if name in ("empty", "zeros", "ones", "asarray", "ascontiguousarray", "arange", "empty_like", "zeros_like"):
            return lambda *args, **kwargs: function(*args, **kwargs).view(DeviceArray)
        return function

    def dot(self, *args: Any, **kwargs: Any) -> Any:
        if self.failure is not None:
            raise self.failure
        return np.dot(*args, **kwargs)

    def gemm(self, *arguments: int) -> None:
        """Write alpha · op(a) · op(b) + beta · c to c, each matrix an address, a type and a stride."""
        if self.failure is not None:
            raise self.failure
        _, turn_a, turn_b, m, n, k, alpha, *ab, beta, c, c_type, c_stride, compute, _ = arguments
        accumulator = "float64" if compute == COMPUTE_64F else "float32"
        factor, old = (stored_by_columns(address, accumulator, 1, 1, 1)[0, 0] for address in (alpha, beta))
        a, b = (
            stored_by_columns(address, CUDA_DTYPES[kind], *(shape[::-1] if turned else shape), stride)
            for (address, kind, stride), shape, turned in ((ab[:3], (m, k), turn_a), (ab[3:], (k, n), turn_b))
        )
        a, b = (matrix.T if turned else matrix for matrix, turned in ((a, turn_a), (b, turn_b)))
        out = stored_by_columns(c, CUDA_DTYPES[c_type], m, n, c_stride)
        assert old == 0
        out[...] = factor * np.dot(a.astype(accumulator), b.astype(accumulator))
        self.products.append(compute)

    def fuse(self, *, kernel_name: str) -> Callable[[Any], Any]:
        self.fused.append(kernel_name)
        return lambda formula: formula

    def get_default_memory_pool(self) -> Any:
        return self.pool

    def asnumpy(self, array: Any) -> np.ndarray:
        return np.array(array, subok=False)


def answer(value: Any) -> Any:
    """Return `value`, or raise it."""
    if isinstance(value, Exception):
        raise value
    return value


def shift(xp: Any, values: Any, by: Any, output: Any) -> None:
    """Write values + by to `output`."""
    xp.add(values, by, out=output)


@pytest.fixture
def cuda() -> CudaBackend:
    return CudaBackend(cupy=StandIn())


# get_backend


def test_cpu_by_name() -> None:
    backend = get_backend("cpu", threads=3)
    assert isinstance(backend, CpuBackend)
    assert (backend.name, backend.threads, backend.xp) == ("cpu", 3, np)
    assert backend.device_name
    assert repr(backend) == f"<CpuBackend cpu: {backend.device_name}>"


def test_backend_is_returned_as_it_is() -> None:
    backend = CpuBackend(1)
    assert get_backend(backend) is backend


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_cuda_by_name(monkeypatch: pytest.MonkeyPatch, device: str, index: int) -> None:
    monkeypatch.setitem(sys.modules, "cupy", StandIn(devices=2))
    backend = get_backend(device)
    assert isinstance(backend, CudaBackend)
    assert backend.name == f"cuda:{index}"


def test_auto_is_cuda_where_it_answers_else_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", StandIn())
    assert get_backend("auto").name == "cuda:0"
    monkeypatch.setitem(sys.modules, "cupy", StandIn(devices=0))
    backend = get_backend("auto", threads=2)
    assert (backend.name, backend.threads) == ("cpu", 2)


@pytest.mark.parametrize("device", ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:one", "cuda0", "auto:1"])
def test_other_names_are_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"^device must be auto, cpu, cuda or cuda:<index>, got '{device}'$"):
        get_backend(device)


def test_default_backend_is_one_cpu_backend() -> None:
    assert default_backend() is default_backend()
    assert isinstance(default_backend(), CpuBackend)


def test_installed_cupy_without_a_driver_is_refused_and_auto_is_the_cpu() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if cupy.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(DeviceError, match=r"^a CUDA device was asked for, .* use --device cpu$"):
        get_backend("cuda")
    assert get_backend("auto").name == "cpu"


# What can be wrong with CUDA


def import_failing_with(error: Exception) -> Callable[..., Any]:
    real_import = builtins.__import__

    def failing_import(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cupy":
            raise error
        return real_import(name, *args, **kwargs)

    return failing_import


INSTALL = r'pip install "fmnist-xp\[cuda\]" for CUDA 12, "fmnist-xp\[cuda13\]" for CUDA 13'


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'cupy'"), f"CuPy is not installed: {INSTALL}, or use --device cpu"),
        (ImportError("\n=====\nlibcuda: not found\n====="), rf"CuPy does not load \(libcuda: not found\): {INSTALL}"),
        (ImportError(), rf"CuPy does not load \(no reason given\): {INSTALL}"),
    ],
)
def test_cupy_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    monkeypatch.setattr(builtins, "__import__", import_failing_with(error))
    with pytest.raises(DeviceError, match=f"^a CUDA device was asked for, but {message}") as caught:
        import_cupy()
    assert "\n" not in str(caught.value)


FAULTS: dict[str, tuple[int, dict[str, Any], str]] = {
    "no driver": (0, {"driver": 0}, "but no NVIDIA driver answers: install the driver .* or use --device cpu"),
    "driver that fails": (
        0,
        {"driver": CUDARuntimeError("boom")},
        "but no NVIDIA driver answers: install the driver",
    ),
    "no device": (
        0,
        {"devices": 0},
        r"driver \(CUDA 12\.4\) finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES",
    ),
    "devices that fail": (
        0,
        {"devices": CUDARuntimeError("cudaErrorNoDevice: none")},
        r"driver \(CUDA 12\.4\) offers none to CuPy 14\.2\.0 \(cudaErrorNoDevice: none\): check nvidia-smi",
    ),
    "index, one device": (1, {}, "device cuda:1 was asked for, but there is only 1 CUDA device: use cuda:0$"),
    "index, two devices": (2, {"devices": 2}, "but there are only 2 CUDA devices: use cuda:0 to cuda:1$"),
    "cannot compute": (
        0,
        {"failure": RuntimeError("  no NVRTC\nmore")},
        rf"CuPy 14\.2\.0 found cuda:0 but cannot compute on it \(no NVRTC\): {INSTALL}, or use --device cpu$",
    ),
    "cannot compute, no reason": (0, {"failure": KeyError()}, r"cannot compute on it \(KeyError\)"),
}


@pytest.mark.parametrize(("index", "stand_in", "message"), FAULTS.values(), ids=FAULTS)
def test_fault_of_cuda_is_told_in_one_line_with_what_to_do(
    index: int, stand_in: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeviceError, match=message) as caught:
        CudaBackend(index, cupy=StandIn(**stand_in))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("number", "version"), [(12040, "12.4"), (13000, "13.0"), (11080, "11.8")])
def test_cuda_version_in_words(number: int, version: str) -> None:
    assert cuda_version(number) == version


# Arrays


@pytest.mark.parametrize("make", [lambda: CpuBackend(1), lambda: CudaBackend(cupy=StandIn())], ids=["cpu", "cuda"])
def test_arrays_come_and_go_unchanged(make: Callable[[], Backend]) -> None:
    backend = make()
    values = np.arange(6, dtype="float64").reshape(2, 3)
    array = backend.asarray(values.T, dtype="float32")
    assert isinstance(array, backend.xp.ndarray)
    assert array.flags.c_contiguous
    assert array.dtype == np.float32
    back = backend.to_host(array)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, values.T)
    assert backend.asarray(array) is array or np.shares_memory(backend.asarray(array), array)
    backend.synchronize()


def test_check_takes_arrays_of_the_device_and_lists(cuda: CudaBackend) -> None:
    array = cuda.asarray([1.0])
    assert cuda.check(array, "x") is array
    assert isinstance(cuda.check([1, 2], "x"), DeviceArray)
    np.testing.assert_array_equal(CpuBackend(1).check(((1, 2), (3, 4)), "x"), [[1, 2], [3, 4]])


def test_check_refuses_an_array_of_another_device_with_the_cure(cuda: CudaBackend) -> None:
    message = (
        r"^inputs is a numpy\.ndarray, but this object computes on cuda:0 with cupy arrays: "
        r"pass backend\.asarray\(inputs\)$"
    )
    with pytest.raises(ValueError, match=message):
        ReLU(cuda).forward(np.ones((1, 1)))


def test_generator_is_numpys_on_every_device(cuda: CudaBackend) -> None:
    expected = np.random.default_rng(5).standard_normal(4)
    for backend in (cuda, CpuBackend(1)):
        np.testing.assert_array_equal(backend.generator(5).standard_normal(4), expected)


@pytest.mark.parametrize("make", [lambda: CpuBackend(1), lambda: CudaBackend(cupy=StandIn())], ids=["cpu", "cuda"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_formula_takes_python_floats_in_the_arrays_dtype(make: Callable[[], Backend], dtype: str) -> None:
    backend, seen = make(), []

    def formula(xp: Any, values: Any, by: Any, count: int, output: Any) -> None:
        seen.append((xp, type(by), type(count)))
        shift(xp, values, by, output)

    values = backend.asarray([1, 2], dtype=dtype)
    output = backend.xp.empty_like(values)
    backend.fuse(formula)(values, 0.1, 2, output)
    assert seen == [(backend.xp, np.dtype(dtype).type, int)]
    np.testing.assert_array_equal(output, values + np.dtype(dtype).type(0.1))


def test_formula_is_compiled_once_under_its_name(cuda: CudaBackend) -> None:
    assert cuda.fuse(shift) is cuda.fuse(shift)
    assert cuda.xp.fused == ["shift"]
    assert cuda.fuse(shift).__name__ == "shift"


# Products and precisions


@pytest.mark.parametrize("make", [lambda: CpuBackend(1), lambda: CudaBackend(cupy=StandIn())], ids=["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3, 4), (2, 1, 4), (2, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1.0), ("float64", 1.0), ("float64", 0.3)])
def test_dot_is_the_product(
    make: Callable[[], Backend], shape: tuple[int, int, int], turned: tuple[bool, bool], dtype: str, scale: float
) -> None:
    backend, generator = make(), np.random.default_rng(0)
    m, k, n = shape
    a, b = (generator.standard_normal(size).astype(dtype) for size in ((m, k), (k, n)))
    operands = [
        backend.asarray(matrix.T).T if turn else backend.asarray(matrix)
        for matrix, turn in zip((a, b), turned, strict=True)
    ]
    out = backend.xp.empty((m, n), dtype=dtype)
    backend.dot(*operands, out, scale=scale)
    np.testing.assert_allclose(out, scale * (a @ b), rtol=1e-5 if dtype == "float32" else 1e-13)


def test_halves_are_summed_in_float32(cuda: CudaBackend) -> None:
    # In half precision 2048 + 1 is 2048.
    ones = cuda.asarray(np.ones((1, 3000)), dtype="float16")
    out = cuda.xp.empty((1, 1), dtype="float32")
    cuda.dot(ones, ones.T, out)
    np.testing.assert_array_equal(out, [[3000]])


@pytest.mark.parametrize(
    ("dtype", "tf32", "compute"),
    [
        ("float32", False, COMPUTE_32F),
        ("float32", True, COMPUTE_TF32),
        ("float64", False, COMPUTE_64F),
        ("float64", True, COMPUTE_64F),
    ],
)
def test_tf32_is_used_only_where_asked_for(cuda: CudaBackend, dtype: str, tf32: bool, compute: int) -> None:
    ones = cuda.asarray(np.ones((2, 2)), dtype=dtype)
    cuda.dot(ones, ones, cuda.xp.empty_like(ones), tf32=tf32)
    assert cuda.xp.products == [compute]


@pytest.mark.parametrize("dtype", ["float32", "tf32"])
def test_model_multiplies_in_its_precision(cuda: CudaBackend, dtype: str) -> None:
    model = Sequential([Dense(6, 5), ReLU(), Dense(5, 4)], backend=cuda, seed=1, dtype=dtype)
    model.predict_proba(np.ones((3, 6)))
    assert model.parameters.dtype == np.float32
    assert (COMPUTE_TF32 in cuda.xp.products) == (dtype == "tf32")


@pytest.mark.parametrize(
    ("major", "lacking"), [(6, ["tf32", "float16"]), (7, ["tf32"]), (8, [])], ids=["Pascal", "Volta", "Ampere"]
)
def test_precisions_are_those_of_the_gpu(major: int, lacking: list[str]) -> None:
    backend = CudaBackend(cupy=StandIn(major=major))
    assert {"float32", "float64", "tf32", "float16"} - set(backend.precisions) == set(lacking)
    for name in backend.precisions:
        assert backend.precision(name).parameters == ("float64" if name == "float64" else "float32")
    for name in lacking:
        with pytest.raises(
            DeviceError, match=rf"^cuda:0 \(Stand-in GPU\) does not compute in {name}: use float32 or"
        ):
            backend.precision(name)


def test_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^dtype must be one of float32, float64, tf32, float16, got 'int8'$"):
        CpuBackend(1).precision("int8")


@pytest.mark.parametrize("dtype", ["tf32", "float16"])
def test_cpu_says_which_precisions_it_has(dtype: str) -> None:
    message = rf"^cpu \(.+\) does not compute in {dtype}: use float32 or float64$"
    with pytest.raises(DeviceError, match=message):
        Sequential([Dense(6, 4)], backend=CpuBackend(1), dtype=dtype)
    with pytest.raises(DeviceError, match=message):
        Dense(6, 4, dtype=dtype, backend=CpuBackend(1))


def make_half(cuda: CudaBackend, dtype: str = "float16") -> Sequential:
    layers: list[Layer] = [Dense(20, 16, 0.0, 1e-4), ReLU(), Dense(16, 8), ReLU(), Dense(8, 4)]
    model = Sequential(layers, backend=cuda, dtype=dtype)
    model.parameters[...] = 0.3 * np.random.default_rng(0).standard_normal(model.parameters.shape)
    return model


def make_rows(pixels: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    values = generator.integers(0, 256, (200, 20)) if pixels else generator.uniform(0, 255, (200, 20))
    rows = ((values - 127.5) / 127.5).astype("float32")
    return rows, rows[:, :4].argmax(axis=1)


@pytest.mark.parametrize("pixels", [True, False], ids=["pixels", "other rows"])
def test_training_in_half_precision_follows_float32(cuda: CudaBackend, pixels: bool) -> None:
    X, y = make_rows(pixels)
    half, single = make_half(cuda), make_half(cuda, "float32")
    losses = [m.fit(X, y, epochs=21, optimizer=SGD(0.3), verbose=False).loss for m in (half, single)]
    np.testing.assert_allclose(*losses, rtol=5e-3)
    assert losses[0][-1] < 0.9 * losses[0][0]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(half.predict_proba(X), single.predict_proba(X), atol=0.01)


def test_pixels_are_exact_in_half_precision(cuda: CudaBackend) -> None:
    # One Dense whose weights are exact in half precision: with exact inputs only float32's own rounding is left.
    X, _ = make_rows(pixels=True)
    models = [Sequential([Dense(20, 4)], backend=cuda, dtype=dtype) for dtype in ("float16", "float32")]
    for model in models:
        model.parameters[...] = np.random.default_rng(0).integers(-8, 9, model.parameters.shape) / 16
    half, single = (model.predict_proba(X) for model in models)
    np.testing.assert_allclose(half, single, rtol=1e-5)


def test_layers_by_hand_see_the_rows_as_they_are_after_a_prediction(cuda: CudaBackend) -> None:
    X, _ = make_rows(pixels=True)
    model = make_half(cuda)
    predicted = model.predict_proba(X)
    np.testing.assert_allclose(model.forward(cuda.asarray(X)), predicted, atol=0.01)


@pytest.mark.parametrize("dtype", ["tf32", "float16"])
def test_model_trained_in_a_gpus_precision_is_loaded_on_the_cpu(
    cuda: CudaBackend, dtype: str, tmp_path: Path
) -> None:
    model = make_half(cuda, dtype)
    model.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", backend=CpuBackend(1))
    np.testing.assert_array_equal(loaded.parameters, model.parameters)


# The CPU


def test_threads_are_the_usable_cores_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.backend.cpu.usable_cores", lambda: 7)
    assert CpuBackend().threads == 7
    assert CpuBackend(2).threads == 2


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_threads_than_one_are_refused(threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be at least 1, got {threads}"):
        CpuBackend(threads)


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"),
    [(60_000, 1000, 1000), (60_000, 2128, 469), (60_000, 100_000, 256), (100, 1000, 100), (5, 0, 5), (0, 8, 1)],
)
def test_cpu_block_fills_a_megabyte(rows: int, row_bytes: int, expected: int) -> None:
    assert CpuBackend(1).block_rows(rows, row_bytes) == expected


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


def test_full_memory_of_the_cpu_is_told() -> None:
    with (
        pytest.raises(DeviceError, match=r"^the CPU's memory is full \(no room\): use fewer rows"),
        CpuBackend(1).computing(),
    ):
        raise MemoryError("no room")


def test_other_errors_pass_through_computing(cuda: CudaBackend) -> None:
    for backend in (CpuBackend(1), cuda):
        with pytest.raises(ArithmeticError, match="mine"), backend.computing():
            raise ArithmeticError("mine")


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


# The GPU, computing with NumPy


@pytest.mark.parametrize("name", [b"Stand-in GPU", "Stand-in GPU"])
def test_cuda_names_its_hardware(name: str | bytes) -> None:
    backend = CudaBackend(1, cupy=StandIn(devices=2, name=name))
    assert repr(backend) == "<CudaBackend cuda:1: Stand-in GPU>"
    assert backend.threads == 1


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"),
    [
        (1000, 1024, 1000),  # 0.7 · (8 + 2) GiB hold them all
        (1000, 7 * 2**20, 1000),  # 7000 MiB just do
        (1000, 15 * 2**19, 500),  # 7500 MiB of 7168: two blocks
        (1000, 10 * 2**20, 500),
        (1001, 10 * 2**20, 501),
        (10, 100 * GIB, 1),
        (0, 1024, 1),
    ],
)
def test_cuda_takes_all_rows_or_as_few_equal_blocks_as_fit(
    cuda: CudaBackend, rows: int, row_bytes: int, expected: int
) -> None:
    assert cuda.block_rows(rows, row_bytes) == expected


def test_full_memory_of_the_gpu_is_told_with_figures() -> None:
    backend = CudaBackend(cupy=StandIn(memory=(GIB // 2, 10 * GIB)))
    message = (
        r"^cuda:0 \(Stand-in GPU\) is out of memory, 0\.5 of 10\.0 GiB free: "
        r"use fewer rows, narrower layers or float32 \(allocating 8 bytes\)$"
    )
    with pytest.raises(DeviceError, match=message), backend.computing():
        raise OutOfMemoryError("allocating 8 bytes\nat length")


def test_device_is_current_while_computing(cuda: CudaBackend) -> None:
    device = cuda._device
    with cuda.computing():
        assert device.entered == 1
    assert device.entered == 0


def test_waiting_is_for_the_device(cuda: CudaBackend) -> None:
    before = cuda._device.waits
    cuda.synchronize()
    assert cuda._device.waits == before + 1


def test_cuda_marks_are_events_and_only_the_last_is_waited_for(cuda: CudaBackend) -> None:
    marks = [cuda.mark() for _ in range(3)]
    assert cuda.seconds_between(marks) == [1.0, 1.0]
    assert [mark.waits for mark in marks] == [0, 0, 1]
    assert cuda.seconds_between(marks[:1]) == []
    assert cuda.seconds_between([]) == []


def test_peak_memory_of_the_gpu_is_its_pools(cuda: CudaBackend) -> None:
    assert cuda.peak_memory() == 3 * GIB


def test_cuda_has_one_worker_after_another(cuda: CudaBackend) -> None:
    called: list[int] = []
    cuda.map(called.append, 3)
    assert called == [0, 1, 2]


@pytest.mark.parametrize(
    "make_optimizer",
    [lambda: SGD(0.1), lambda: SGD(0.1, momentum=0.5), lambda: Adam(0.02)],
    ids=["sgd", "momentum", "adam"],
)
def test_training_on_the_stand_in_equals_the_cpu(cuda: CudaBackend, make_optimizer: Callable[[], Optimizer]) -> None:
    X = np.random.default_rng(0).standard_normal((40, 6))
    y = np.random.default_rng(1).integers(0, 4, 40)
    results = []
    for backend in (CpuBackend(2), cuda):
        layers: list[Layer] = [Dense(6, 5, 1e-3, 1e-3, 1e-3, 1e-3), ReLU(), Dense(5, 4)]
        model = Sequential(layers, backend=backend, seed=1, dtype="float64")
        history = model.fit(X, y, epochs=20, optimizer=make_optimizer(), verbose=False)
        assert len(history.epoch_seconds) == 20
        results.append((model, history.loss, model.evaluate(X, np.eye(4)[y]), model.predict_proba(X)))
    (_, losses, metrics, probabilities), (model, cuda_losses, cuda_metrics, cuda_probabilities) = results
    assert isinstance(model.parameters, DeviceArray)
    assert cuda_losses == pytest.approx(losses, rel=1e-12)
    assert cuda_metrics.loss == pytest.approx(metrics.loss, rel=1e-12)
    assert type(cuda_probabilities) is np.ndarray
    np.testing.assert_allclose(cuda_probabilities, probabilities, rtol=1e-10)
    assert type(model.state_dict()["dense1.weights"]) is np.ndarray


def test_memory_that_runs_out_in_training_is_told(cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Sequential([Dense(6, 4)], backend=cuda, seed=1)
    monkeypatch.setattr(cuda.xp, "failure", OutOfMemoryError("allocating 8 bytes"))
    with pytest.raises(DeviceError, match=r"out of memory, 8\.0 of 10\.0 GiB free"):
        model.fit(np.ones((5, 6)), np.zeros(5, dtype=int), epochs=1, verbose=False)


def test_softmax_alone_computes_on_the_stand_in(cuda: CudaBackend) -> None:
    softmax = Softmax(cuda)
    output = softmax.forward(cuda.asarray(np.log([[1.0, 3.0]])))
    np.testing.assert_allclose(output, [[0.25, 0.75]])
    assert isinstance(output, DeviceArray)
