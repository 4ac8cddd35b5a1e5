"""CuPy on a CUDA GPU: the only file that imports CuPy."""

import functools
import importlib
import importlib.metadata
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

from fmnist_xp.backend.base import Array, Backend, Call, Product, elementwise, is_elementwise
from fmnist_xp.backend.channel import Channel, NcclChannel
from fmnist_xp.errors import DeviceError
from fmnist_xp.machine import host_name

logger = logging.getLogger("fmnist_xp")

MOST_COLUMNS = 32
"""As many as a kernel is given one by one: its arguments have room for more, its compiler takes longer."""

CUDA_INSTALL = 'pip install "fmnist-xp[cuda]" for CUDA 12, "fmnist-xp[cuda13]" for CUDA 13'

# Of these no two can be installed at once: those that CuPy knows, for the Pythons that we do.
CUPY_PACKAGES = (
    *("cupy", "cupy-cuda102", "cupy-cuda110", "cupy-cuda111", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"),
    *("cupy-rocm-4-3", "cupy-rocm-5-0", "cupy-rocm-7-0", "cupy-rocm-7-1", "cupy-rocm-7-14", "amd-cupy"),
)

FORKED = (
    "a process that is forked from one that has used CUDA cannot use it: start it with multiprocessing's method "
    '"spawn" or "forkserver", use CUDA in the forked processes alone, or use --device cpu'
)

# The `status` for full memory in the errors of CuPy's cuBLAS, nvmath-python's cuBLAS, the runtime and the driver, by
# their names: to ask CuPy for the class would load a library that may be missing.
MEMORY_FULL = {"CUBLASError": 3, "cuBLASError": 3, "CUDARuntimeError": 2, "CUDADriverError": 2}
# The same for CUDA that does not start, as after a fork.
NOT_STARTED = {"CUDARuntimeError": 3, "CUDADriverError": 3}


@elementwise
def largest(xp: Any, *arrays: Array) -> None:
    """Write the largest of the first arrays' elements to the last array."""
    first, *others, output = arrays
    for other in others:
        first = xp.maximum(first, other)
    output[...] = first


class CudaBackend(Backend):
    """CuPy on one CUDA GPU."""

    # Share of the free memory that a block's buffers may take: the products need workspace besides.
    memory_share = 0.7
    own_memory = True
    asynchronous = True

    def __init__(self, index: int = 0, *, cupy: ModuleType | None = None) -> None:
        """Open device `index`.

        `cupy` is the module to compute with, by default the installed one. Raises `DeviceError` where CuPy, the
        driver or the device is missing, or where a first computation fails.
        """
        super().__init__()
        self._process = os.getpid()
        self.xp = cupy or import_cupy()
        self.name, self.cuda_index = f"cuda:{index}", index
        count = cuda_device_count(self.xp)
        if index >= count:
            raise DeviceError(
                f"device cuda:{index} was asked for, but there {'is' if count == 1 else 'are'} only {count} CUDA "
                f"device{'s' if count > 1 else ''}: use cuda:0{f' to cuda:{count - 1}' if count > 1 else ''}"
            )
        self._device = self.xp.cuda.Device(index)
        try:
            properties = self.xp.cuda.runtime.getDeviceProperties(index)
            name = properties["name"]
            self.device_name = name.decode() if isinstance(name, bytes) else name
            with warnings.catch_warnings(action="ignore"), self.computing():
                # The first kernel and the first product load NVRTC and cuBLAS: better to miss them here.
                ones = self.xp.ones((2, 2), dtype="float32")
                self.xp.dot(ones + ones, ones)
                self._device.synchronize()  # a kernel may fail once it runs
        except DeviceError:
            raise
        except Exception as error:
            if _has_status(error, NOT_STARTED):
                raise _not_started(error) from error
            raise DeviceError(
                f"CuPy {self.xp.__version__} found {self.name} but cannot compute on it ({first_line(error)}): "
                f"{CUDA_INSTALL}, or use --device cpu"
            ) from error
        # Tensor cores multiply halves since Volta (7.0) and TF32 since Ampere (8.0).
        if properties["major"] >= 7:
            self.precisions += ("float16",)
        if properties["major"] >= 8:
            self.precisions += ("tf32",)
            self.multiprocessors = int(properties["multiProcessorCount"])
            self.shared_bytes = int(properties["sharedMemPerBlockOptin"])
        self._factors: dict[tuple[float, str], np.ndarray[Any, Any]] = {}
        self._told: set[str] = set()  # of which there has been a warning

    def manner(self, threads: int | None = None) -> str:
        """Return whether training runs as CUDA graphs."""
        return f"{'with' if self.captures else 'without'} CUDA graphs"

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """Copy `array` to the device, unless it is there."""
        with self.computing():
            return super().asarray(array, dtype)

    def check(self, array: Array, name: str) -> Array:
        """Return `array` (a list becomes one), or raise `ValueError` where it does not live on this GPU."""
        array = super().check(array, name)
        if array.data.device_id != self._device.id:
            raise ValueError(
                f"{name} is an array of cuda:{array.data.device_id}, but this object computes on {self.name}: "
                f"pass backend.asarray({name})"
            )
        return array

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Copy `array` to the host, which waits for the device."""
        with self.computing():  # else the copy would be made in another device's stream, and wait for nothing
            host: np.ndarray[Any, Any] = self.xp.asnumpy(array)
        return host

    def send(self, values: np.ndarray[Any, Any], out: Array) -> None:
        """Copy `values` in the current stream; they are CUDA's before this returns, and may be changed."""
        out.set(values, stream=self.xp.cuda.get_current_stream())

    def fetch(self, array: Array) -> Callable[[], np.ndarray[Any, Any]]:
        """Copy `array` to pinned memory in the current stream, and mark when it is there."""
        pinned = self.xp.cuda.alloc_pinned_memory(array.nbytes)  # by CuPy's pool
        copy = np.frombuffer(pinned, array.dtype, array.size).reshape(array.shape)
        array.get(out=copy, blocking=False)
        there = self.mark()

        def wait() -> np.ndarray[Any, Any]:
            there.synchronize()
            return copy

        return wait

    def synchronize(self) -> None:
        """Wait for all streams of the device."""
        with self.computing():
            self._device.synchronize()

    def dot_calls(self, product: Product) -> list[Call]:
        """Return one call of cuBLAS, which `cupy.dot` makes for equal dtypes and without a scale."""
        a, b, out, scale, tf32 = product
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
        arguments = (
            transpose_b,
            transpose_a,
            *(out.shape[1], out.shape[0], a.shape[1]),
            alpha,
            *(b.data.ptr, cuda_type(self.xp, b), stride_b),
            *(a.data.ptr, cuda_type(self.xp, a), stride_a),
            alpha + factors.itemsize,
            *(out.data.ptr, cuda_type(self.xp, out), out.shape[1]),
            compute,
            cublas.CUBLAS_GEMM_DEFAULT,
        )
        return [(_multiply, (self._gemm(), arguments, a, b, out))]

    def kernel(self, source: str, name: str, shared_bytes: int = 0) -> Callable[..., None]:
        """Return the kernel, compiled with its first call."""
        kernel = self.xp.RawKernel(source, name)
        if shared_bytes:  # 48 KB, less what its source has, need no asking; this compiles it at once
            with self.computing():
                kernel.max_dynamic_shared_size_bytes = shared_bytes
        return functools.partial(kernel, shared_mem=shared_bytes)

    def row_maxima(self, xp: Any, values: Array, by_class: Array, row: Array) -> None:
        """See `Backend.row_maxima`; for a few classes one kernel, in which a thread has a row."""
        classes = values.shape[1]
        if 1 < classes <= MOST_COLUMNS:
            self.compute(largest, *(values[:, column] for column in range(classes)), row[:, 0])
        else:
            super().row_maxima(xp, values, by_class, row)

    def scratch(self, make: Callable[[], Array]) -> tuple[Array, ...]:
        """Return nothing: a kernel has it in registers."""
        return ()

    def _gemm(self) -> Callable[..., None]:
        """Return cublasGemmEx, which takes what follows the handle."""
        cuda = self.xp.cuda
        return functools.partial(cuda.cublas.gemmEx, cuda.get_cublas_handle())

    def _operand(self, matrix: Array) -> tuple[Array, int, int]:
        """Return a matrix, whether cuBLAS must transpose it back, and the stride of its rows or columns."""
        if matrix.flags.f_contiguous and not matrix.flags.c_contiguous:
            return matrix, 1, matrix.shape[0]
        return self.xp.ascontiguousarray(matrix), 0, matrix.shape[1]

    def _compile(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        bound = super()._compile(formula)
        return self.xp.fuse(kernel_name=formula.__name__)(bound) if is_elementwise(formula) else bound

    def block_rows(self, rows: int, row_bytes: int, shared: bool = False) -> int:
        """Take all rows where the free memory allows, else as few equal blocks as fit.

        Of those that are shared, a power of two of blocks, at least 8, of 32,768 rows at most: as many for any number
        of devices, which 2, 4 or 8 of them share evenly.
        """
        free, _total = self._device.mem_info
        with self._device:
            free += self.xp.get_default_memory_pool().free_bytes()
        room = int(self.memory_share * free)
        blocks = -(-rows * row_bytes // max(1, room))
        if shared:
            blocks = 1 << (max(blocks, 8, -(-rows // 32_768)) - 1).bit_length()
        return max(1, -(-rows // max(1, blocks)))

    def channel(self, comm: Any) -> Channel:
        """Take NCCL where it is there in every process, and each has a device of its own; else the host."""
        nccl = import_nccl(self.xp)
        runtime = self.xp.cuda.runtime
        device = host_name(), runtime.deviceGetPCIBusId(self._device.id)
        found = comm.allgather((bool(nccl.available), device))
        missing = [rank for rank, (there, _device) in enumerate(found) if not there]
        devices = [device for _there, device in found]
        if missing:
            reason = f"rank {missing[0]} has no NCCL (pip install nvidia-nccl-cu12, for CUDA 13 nvidia-nccl-cu13)"
        elif len(set(devices)) < len(devices):
            reason = "several ranks share a GPU, which NCCL refuses"
        else:
            return NcclChannel(self, comm, nccl)
        if comm.rank == 0 and reason not in self._told:
            self._told.add(reason)
            logger.warning("gradients go through the host's memory, since %s", reason)
        return Channel(self, comm)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Make the device current and say plainly when its memory is full, or the process a fork of this one's."""
        if os.getpid() != self._process:
            raise DeviceError(f"{self.name} was opened by another process, and {FORKED}")
        with self._device:
            try:
                yield
            except Exception as error:
                # In the words of CuPy or of a library below it.
                if not (isinstance(error, self.xp.cuda.memory.OutOfMemoryError) or _has_status(error, MEMORY_FULL)):
                    raise
                try:
                    free, total = (bytes_ / 2**30 for bytes_ in self._device.mem_info)
                    left = f", {free:.1f} of {total:.1f} GiB free"
                except Exception:  # a device in trouble may not tell
                    left = ""
                raise DeviceError(
                    f"{self.name} ({self.device_name}) is out of memory{left}: use fewer rows, narrower layers or "
                    f"float32 ({first_line(error)})"
                ) from error

    def current(self) -> Any:
        """Return what `computing` returns, which costs a microsecond here."""
        return self.computing()

    def mark(self) -> Any:
        """Record an event in the device's current stream."""
        with self.computing():
            event = self.xp.cuda.Event()
            event.record()
        return event

    def seconds_between(self, marks: Sequence[Any]) -> list[float]:
        """Wait for the last event and read the device's clock at each."""
        if marks:
            marks[-1].synchronize()
        elapsed = self.xp.cuda.get_elapsed_time
        return [elapsed(start, end) / 1000 for start, end in itertools.pairwise(marks)]

    def reset_peak_memory(self) -> int | None:
        """Give back what the memory pool holds for later, and return what is left."""
        with self.computing():
            self.xp.get_default_memory_pool().free_all_blocks()
        return self.peak_memory()

    def peak_memory(self) -> int | None:
        """Return what CuPy's memory pool holds; it gives nothing back while a training runs."""
        with self._device:
            return int(self.xp.get_default_memory_pool().total_bytes())


def cuda_type(cupy: ModuleType, matrix: Array) -> int:
    """Return the number by which CUDA's libraries know the dtype of `matrix`: float16, float32 or float64."""
    runtime = cupy.cuda.runtime
    types = {"e": runtime.CUDA_R_16F, "f": runtime.CUDA_R_32F, "d": runtime.CUDA_R_64F}
    return int(types[matrix.dtype.char])


def _multiply(function: Callable[..., None], arguments: tuple[Any, ...], *_held: Array) -> None:
    """Call cuBLAS with addresses, of arrays that are held for as long as this can be called again."""
    function(*arguments)


def import_cupy() -> ModuleType:
    """Return the installed CuPy; raise `DeviceError` where there is none, more than one, or it does not load."""
    packages = [name for name in CUPY_PACKAGES if any(importlib.metadata.distributions(name=name))]
    if len(packages) > 1:
        raise _unusable(
            f"{' and '.join(packages)} are installed, each a whole CuPy in the same folder: "
            f"pip uninstall {' '.join(packages)}, then {CUDA_INSTALL}"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # what CuPy warns of and cannot do becomes an error of ours
            import cupy
    except Exception as error:  # in a broken installation it can be any
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise _unusable(f"CuPy is not installed: {CUDA_INSTALL}") from error
        raise _unusable(f"CuPy does not load ({_reason(error)}): {CUDA_INSTALL}") from error
    if not hasattr(cupy, "ndarray"):  # a folder without __init__.py is a module too
        place = cupy.__file__ or next(iter(cupy.__path__))
        raise _unusable(f"{place} is no CuPy: remove it, then {CUDA_INSTALL}")
    return cupy  # type: ignore[no-any-return, unused-ignore]


def import_nccl(cupy: ModuleType) -> Any:
    """Return CuPy's module of NCCL, which says in `available` whether there is such a library."""
    with warnings.catch_warnings(action="ignore"):  # of what `available` says
        # CuPy 14 does not import it with the rest.
        return getattr(cupy.cuda, "nccl", None) or importlib.import_module("cupy.cuda.nccl")


def _has_status(error: Exception, statuses: Mapping[str, int]) -> bool:
    """Return whether `error` has the status that `statuses` names for its type."""
    status = statuses.get(type(error).__name__)
    return status is not None and status == getattr(error, "status", None)


def _not_started(error: Exception) -> DeviceError:
    return DeviceError(f"a CUDA device was asked for, but CUDA does not start ({first_line(error)}): {FORKED}")


def _unusable(fault: str) -> DeviceError:
    return DeviceError(f"a CUDA device was asked for, but {fault}, or use --device cpu")


def _reason(error: Exception) -> str:
    """Return the line of an import's error that names what is missing."""
    # CuPy puts advice around the original error, its cause; where that names no library, on Windows, it lists them.
    lines = [line for line in str(error).splitlines() if line.endswith("-> not found")]
    lines += str(error.__cause__ or error).splitlines()
    named = next((line.strip() for line in lines if line.strip(" =")), "no reason given")
    return named if isinstance(error, ImportError) else f"{type(error).__name__}: {named}"


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
        if _has_status(error, NOT_STARTED):
            raise _not_started(error) from error
        raise _unusable(
            f"the NVIDIA driver (CUDA {cuda_version(driver)}) offers none to CuPy {cupy.__version__} ({error}): "
            "check nvidia-smi, CUDA_VISIBLE_DEVICES and that CuPy's CUDA version is not newer than the driver's"
        ) from error
    if count == 0:
        raise _unusable(
            f"the NVIDIA driver (CUDA {cuda_version(driver)}) finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    return count


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def cuda_version(number: int) -> str:
    """Return CUDA's version number, such as 12040, as 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"
