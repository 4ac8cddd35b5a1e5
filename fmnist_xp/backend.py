"""The array backend: NumPy on the CPU or CuPy on a CUDA GPU, and everything that differs between the two.

This is the only file that imports CuPy. Code above it takes `xp` from a backend, writes each formula once
as an `xp` expression, and never asks which device it is on.
"""

import functools
import itertools
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fmnist_xp.errors import DeviceError
from fmnist_xp.machine import cpu_name, peak_resident_bytes, single_threaded_blas, usable_cores

logger = logging.getLogger("fmnist_xp")

# An array of either module. NumPy's and CuPy's types share no base class, so the checker cannot say more.
Array: TypeAlias = Any


class Precision(NamedTuple):
    """How numbers are kept and multiplied.

    `parameters` is the dtype of parameters, gradients and moments, `operands` that of what enters a matrix product
    (inputs, weights, hidden activations). `tf32` lets products round float32 operands to 10 bits of mantissa.
    """

    parameters: str
    operands: str
    tf32: bool = False


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "float32": Precision("float32", "float32"),
        "float64": Precision("float64", "float64"),
        "tf32": Precision("float32", "float32", tf32=True),
        "float16": Precision("float32", "float16"),
    }
)


class Backend(ABC):
    """What the layers, losses, optimizers and the engine ask of a device.

    `name` is "cpu" or "cuda:<index>", `xp` the array module, `device_name` the hardware in words, `precisions` the
    names of those of `PRECISIONS` that it has, and `threads` how many blocks of rows are worked on at once.
    """

    name: str
    xp: ModuleType
    device_name: str
    precisions: tuple[str, ...] = ("float32", "float64")
    threads: int = 1

    def __init__(self) -> None:
        """Start with nothing compiled."""
        self._fused: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __repr__(self) -> str:
        """Return the name and the hardware."""
        return f"<{type(self).__name__} {self.name}: {self.device_name}>"

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """Return `array` (of the host or of this device) as a C-contiguous array of this device."""
        return self.xp.ascontiguousarray(self.xp.asarray(array, dtype=dtype))

    def check(self, array: Array, name: str) -> Array:
        """Return `array` (a list becomes one), or raise `ValueError` where it does not live on this backend."""
        if isinstance(array, list | tuple):
            return self.asarray(array)
        if not isinstance(array, self.xp.ndarray):
            kind = type(array)
            raise ValueError(
                f"{name} is a {kind.__module__}.{kind.__qualname__}, but this object computes on {self.name} with "
                f"{self.xp.__name__} arrays: pass backend.asarray({name})"
            )
        return array

    def precision(self, name: str) -> Precision:
        """Return the precision `name`.

        Raises `ValueError` where there is no such precision and `DeviceError` where this device lacks it.
        """
        if name not in PRECISIONS:
            raise ValueError(f"dtype must be one of {', '.join(PRECISIONS)}, got {name!r}")
        if name not in self.precisions:
            raise DeviceError(
                f"{self.name} ({self.device_name}) does not compute in {name}: use {' or '.join(self.precisions)}"
            )
        return PRECISIONS[name]

    @abstractmethod
    def dot(self, a: Array, b: Array, out: Array, *, scale: float = 1.0, tf32: bool = False) -> None:
        """Write scale · a · b to `out`: a (m, k), b (k, n), out (m, n) C-contiguous.

        `a` and `b` are of one dtype, C-contiguous or the transpose of that; `out` may be of a wider dtype on a GPU.
        Sums are kept in at least float32.
        """

    def generator(self, seed: int | None) -> np.random.Generator:
        """Return a random generator of the host: both devices start from the same bits."""
        return np.random.default_rng(seed)

    @abstractmethod
    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Return `array` as a NumPy array, waiting for the device where it must."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has done all it was asked to do."""

    def fuse(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """Return `formula(xp, *arrays_and_scalars)` with `xp` bound, as one kernel where the device has kernels.

        A formula is element-wise, takes positional arguments and writes its results with `out=`. Python floats
        reach it as scalars of the first array's dtype, so that both modules round them alike.
        """
        if formula not in self._fused:
            compiled = self._compile(formula)
            array_type = self.xp.ndarray

            @functools.wraps(formula)
            def fused(*arguments: Any) -> Any:
                if float in map(type, arguments):
                    scalar = next(a.dtype.type for a in arguments if isinstance(a, array_type))
                    arguments = tuple(scalar(a) if type(a) is float else a for a in arguments)
                return compiled(*arguments)

            self._fused[formula] = fused
        return self._fused[formula]

    @abstractmethod
    def _compile(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """Return `formula` with `xp` bound."""

    @abstractmethod
    def block_rows(self, rows: int, row_bytes: int) -> int:
        """Return how many of `rows` rows to compute in one block, where each needs `row_bytes` of buffers."""

    @abstractmethod
    def computing(self) -> Any:
        """Return a context manager to hold while computing: thread limits, current device, out of memory."""

    @abstractmethod
    def mark(self) -> Any:
        """Return a mark in the device's stream of work, without waiting for it."""

    @abstractmethod
    def seconds_between(self, marks: Sequence[Any]) -> list[float]:
        """Return the seconds from each mark to the next, once the device has passed the last one."""

    @abstractmethod
    def peak_memory(self) -> int | None:
        """Return the most memory held so far in bytes: resident on the CPU, the memory pool on a GPU."""

    def map(self, work: Callable[[int], None], workers: int) -> None:
        """Call `work(0)` to `work(workers - 1)`, at once where the device has threads; raise what they raise."""
        for worker in range(workers):
            work(worker)


class CpuBackend(Backend):
    """NumPy, with blocks of rows on `threads` threads and BLAS held to one thread in each."""

    name = "cpu"
    xp = np

    def __init__(self, threads: int | None = None) -> None:
        """Use `threads` threads, by default all cores the process may use."""
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        super().__init__()
        self.threads = threads or usable_cores()
        self.device_name = cpu_name()
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fmnist-xp") if self.threads > 1 else None

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Return `array` itself."""
        return np.asarray(array)

    def synchronize(self) -> None:
        """Do nothing: NumPy computes at once."""

    def dot(self, a: Array, b: Array, out: Array, *, scale: float = 1.0, tf32: bool = False) -> None:
        """Call BLAS; `tf32` is for GPUs and without effect."""
        np.dot(a, b, out=out)
        if scale != 1:
            np.multiply(out, scale, out=out)

    def _compile(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        return functools.partial(formula, np)

    def block_rows(self, rows: int, row_bytes: int) -> int:
        """Fill about the level-2 cache of one core, so that a block's activations stay close by."""
        # Measured on cores with 1 MiB of level-2 cache: flat from 250 to 2,000 rows of 2 KiB. Narrower blocks
        # cost the matrix products their rate, wider ones cost the element-wise work its cache.
        return max(1, min(rows, max(256, 1_000_000 // max(1, row_bytes))))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold BLAS to one thread: the blocks are the parallelism, and one thread's sums have one order."""
        with single_threaded_blas(), _quiet():
            try:
                yield
            except MemoryError as error:
                raise DeviceError(f"the CPU's memory is full ({error}): use fewer rows or narrower layers") from error

    def mark(self) -> float:
        """Return the clock."""
        return time.perf_counter()

    def seconds_between(self, marks: Sequence[float]) -> list[float]:
        """Return the differences."""
        return [end - start for start, end in itertools.pairwise(marks)]

    def peak_memory(self) -> int | None:
        """Return the process's peak resident size."""
        return peak_resident_bytes()

    def map(self, work: Callable[[int], None], workers: int) -> None:
        """Call `work` on the pool's threads."""
        if self._pool is None or workers == 1:
            return super().map(work, workers)

        def quiet(worker: int) -> None:
            with _quiet():  # each thread has its own
                work(worker)

        futures = [self._pool.submit(quiet, worker) for worker in range(workers)]
        try:
            # Every worker must be back before the buffers are touched again, also when one of them failed.
            errors = [future.exception() for future in futures]
        except BaseException:
            wait(futures)
            raise
        for error in errors:
            if error is not None:
                raise error
        return None


def _quiet() -> np.errstate:
    """Return a context in which NumPy, like CuPy, says nothing of overflow: the trainer tells of divergence, once."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


class CudaBackend(Backend):
    """CuPy on one CUDA GPU."""

    # Share of the free memory that a block's buffers may take: the products need workspace besides.
    memory_share = 0.7

    def __init__(self, index: int = 0, *, cupy: ModuleType | None = None) -> None:
        """Open device `index`.

        `cupy` is the module to compute with, by default the installed one. Raises `DeviceError` where CuPy, the
        driver or the device is missing, or where a first computation fails.
        """
        super().__init__()
        self.xp = cupy or import_cupy()
        self.name = f"cuda:{index}"
        count = cuda_device_count(self.xp)
        if index >= count:
            raise DeviceError(
                f"device cuda:{index} was asked for, but there {'is' if count == 1 else 'are'} only {count} CUDA "
                f"device{'s' if count > 1 else ''}: use cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}"
            )
        self._device = self.xp.cuda.Device(index)
        try:
            with self._device:
                properties = self.xp.cuda.runtime.getDeviceProperties(index)
                # The first kernel and the first product load NVRTC and cuBLAS: better to miss them here.
                ones = self.xp.ones((2, 2), dtype="float32")
                self.xp.dot(ones + ones, ones)
                self._device.synchronize()
        except Exception as error:
            raise DeviceError(
                f"CuPy {self.xp.__version__} found {self.name} but cannot compute on it ({first_line(error)}): "
                f"{CUDA_INSTALL}, or use --device cpu"
            ) from error
        name = properties["name"]
        self.device_name = name.decode() if isinstance(name, bytes) else name
        # Tensor cores multiply halves since Volta (7.0) and TF32 since Ampere (8.0).
        if properties["major"] >= 7:
            self.precisions += ("float16",)
        if properties["major"] >= 8:
            self.precisions += ("tf32",)
        self._factors: dict[tuple[float, str], np.ndarray[Any, Any]] = {}

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """Copy `array` to the device, unless it is there."""
        with self._device:
            return super().asarray(array, dtype)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy `array` to the host, which waits for the device."""
        host: np.ndarray[Any, Any] = self.xp.asnumpy(array)
        return host

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        self._device.synchronize()

    def dot(self, a: Array, b: Array, out: Array, *, scale: float = 1.0, tf32: bool = False) -> None:
        """Call cuBLAS, which `cupy.dot` does for equal dtypes and without a scale."""
        cublas = self.xp.cuda.cublas
        double = out.dtype == "float64"
        if double:
            compute = cublas.CUBLAS_COMPUTE_64F
        else:
            compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if tf32 else cublas.CUBLAS_COMPUTE_32F
        key = scale, "float64" if double else "float32"
        factors = self._factors.get(key)  # kept, since cuBLAS is given its address
        if factors is None:
            factors = self._factors[key] = np.array([scale, 0], dtype=key[1])
        alpha = factors.ctypes.data
        # cuBLAS stores by columns, so a C-contiguous matrix is its own transpose there: outᵀ = bᵀ · aᵀ.
        b, transpose_b, stride_b = self._operand(b)
        a, transpose_a, stride_a = self._operand(a)
        cublas.gemmEx(
            self.xp.cuda.get_cublas_handle(),
            transpose_b,
            transpose_a,
            *(out.shape[1], out.shape[0], a.shape[1]),
            alpha,
            *(b.data.ptr, self._cuda_type(b), stride_b),
            *(a.data.ptr, self._cuda_type(a), stride_a),
            alpha + factors.itemsize,
            *(out.data.ptr, self._cuda_type(out), out.shape[1]),
            compute,
            cublas.CUBLAS_GEMM_DEFAULT,
        )

    def _operand(self, matrix: Array) -> tuple[Array, int, int]:
        """Return a matrix, whether cuBLAS must transpose it back, and the stride of its rows or columns."""
        if matrix.flags.f_contiguous and not matrix.flags.c_contiguous:
            return matrix, 1, matrix.shape[0]
        return self.xp.ascontiguousarray(matrix), 0, matrix.shape[1]

    def _cuda_type(self, matrix: Array) -> int:
        runtime = self.xp.cuda.runtime
        types = {"e": runtime.CUDA_R_16F, "f": runtime.CUDA_R_32F, "d": runtime.CUDA_R_64F}
        return int(types[matrix.dtype.char])

    def _compile(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        compiled: Callable[..., Any] = self.xp.fuse(kernel_name=formula.__name__)(functools.partial(formula, self.xp))
        return compiled

    def block_rows(self, rows: int, row_bytes: int) -> int:
        """Take all rows where the free memory allows, else as few equal blocks as fit."""
        free, _total = self._device.mem_info
        pool = self.xp.get_default_memory_pool()
        room = int(self.memory_share * (free + pool.free_bytes()))
        blocks = -(-rows * row_bytes // max(1, room))
        return max(1, -(-rows // max(1, blocks)))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Make the device current and say plainly when its memory is full."""
        with self._device:
            try:
                yield
            except self.xp.cuda.memory.OutOfMemoryError as error:
                free, total = self._device.mem_info
                raise DeviceError(
                    f"{self.name} ({self.device_name}) is out of memory, {free / 2**30:.1f} of {total / 2**30:.1f} "
                    f"GiB free: use fewer rows, narrower layers or float32 ({first_line(error)})"
                ) from error

    def mark(self) -> Any:
        """Record an event in the current stream."""
        event = self.xp.cuda.Event()
        event.record()
        return event

    def seconds_between(self, marks: Sequence[Any]) -> list[float]:
        """Wait for the last event and read the device's clock at each."""
        if marks:
            marks[-1].synchronize()
        elapsed = self.xp.cuda.get_elapsed_time
        return [elapsed(start, end) / 1000 for start, end in itertools.pairwise(marks)]

    def peak_memory(self) -> int | None:
        """Return what CuPy's memory pool holds; it gives nothing back while a training runs."""
        with self._device:
            return int(self.xp.get_default_memory_pool().total_bytes())


CUDA_INSTALL = 'pip install "fmnist-xp[cuda]" for CUDA 12, "fmnist-xp[cuda13]" for CUDA 13'


def get_backend(device: str | Backend = "auto", *, threads: int | None = None) -> Backend:
    """Return the backend of `device`: "cpu", "cuda", "cuda:<index>", or "auto" for CUDA where it answers, else CPU.

    `threads` is for the CPU; by default all cores the process may use. A `Backend` is returned as it is.
    Raises `DeviceError` where a CUDA device is asked for and cannot be used (there is no fallback), and
    `ValueError` for any other name.
    """
    if isinstance(device, Backend):
        return device
    kind, colon, index = device.partition(":")
    if device == "cpu":
        return CpuBackend(threads)
    if kind == "cuda" and (not colon or index.isdecimal()):
        return CudaBackend(int(index or 0))
    if device != "auto":
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<index>, got {device!r}")
    try:
        return CudaBackend()
    except DeviceError as error:
        logger.debug("auto: %s", error)
        return CpuBackend(threads)


@functools.cache
def default_backend() -> Backend:
    """Return the CPU backend that a layer, loss or optimizer used alone computes with."""
    return CpuBackend()


def import_cupy() -> ModuleType:
    """Return the installed CuPy; raise `DeviceError` where there is none or it does not load."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        raise DeviceError(
            f"a CUDA device was asked for, but CuPy is not installed: {CUDA_INSTALL}, or use --device cpu"
        ) from error
    except ImportError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip(" =")), "no reason given")
        raise DeviceError(
            f"a CUDA device was asked for, but CuPy does not load ({reason}): {CUDA_INSTALL}"
        ) from error
    return cupy  # type: ignore[no-any-return, unused-ignore]


def cuda_device_count(cupy: ModuleType) -> int:
    """Return the number of CUDA devices; raise `DeviceError` where there is no driver or no device."""
    runtime = cupy.cuda.runtime
    try:
        driver = runtime.driverGetVersion()
    except runtime.CUDARuntimeError:
        driver = 0
    if driver == 0:
        raise DeviceError(
            f"a CUDA device was asked for, and CuPy {cupy.__version__} is installed, but no NVIDIA driver answers: "
            "install the driver of your GPU, or use --device cpu"
        )
    try:
        count = int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"a CUDA device was asked for, but the NVIDIA driver (CUDA {cuda_version(driver)}) offers none to CuPy "
            f"{cupy.__version__} ({error}): check nvidia-smi, CUDA_VISIBLE_DEVICES and that CuPy's CUDA version is "
            "not newer than the driver's, or use --device cpu"
        ) from error
    if count == 0:
        raise DeviceError(
            f"a CUDA device was asked for, but the NVIDIA driver (CUDA {cuda_version(driver)}) finds no GPU: "
            "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use --device cpu"
        )
    return count


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def cuda_version(number: int) -> str:
    """Return CUDA's version number, such as 12040, as 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"
