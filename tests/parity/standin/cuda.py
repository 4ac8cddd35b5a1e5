"""What stands for `cupy.cuda`: devices, events, streams, graphs, errors and cuBLAS."""

import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from parity.standin.module import StandInCupy

# The numbers of CUDA's and cuBLAS' headers.
CUDA_TYPES = {2: "float16", 0: "float32", 1: "float64"}
COMPUTE_32F, COMPUTE_64F, COMPUTE_TF32 = 68, 70, 77
GEMM_DEFAULT = -1
# What cublasGemmEx multiplies: (compute type, type of the operands, type of the result).
PRODUCTS = {
    (COMPUTE_32F, "float16", "float16"),
    (COMPUTE_32F, "float16", "float32"),
    (COMPUTE_32F, "float32", "float32"),
    (COMPUTE_TF32, "float32", "float32"),
    (COMPUTE_64F, "float64", "float64"),
}
_HANDLES = itertools.count(1000)  # no library's is another's


class OutOfMemoryError(MemoryError):
    """Stands for `cupy.cuda.memory.OutOfMemoryError`."""


class StatusError(RuntimeError):
    """An error with the number that a library gave, of which CuPy makes the message."""

    def __init__(self, message: str, status: int = 999) -> None:
        super().__init__(message)
        self.status = status


class CUDARuntimeError(StatusError):
    """Stands for `cupy.cuda.runtime.CUDARuntimeError`."""


class CUDADriverError(StatusError):
    """Stands for `cupy.cuda.driver.CUDADriverError`."""


class CUBLASError(StatusError):
    """Stands for `cupy.cuda.cublas.CUBLASError`."""


class Current(threading.local):
    """The number of the device that is current on a thread, and of those that were and will be again."""

    def __init__(self) -> None:
        self.device = 0
        self.before: list[int] = []


class Device:
    """A device, by default the current one, that notes how often it was waited for."""

    def __init__(self, cupy: "StandInCupy", index: int | None, memory: "Bytes") -> None:
        self._cupy, self._memory = cupy, memory
        self.id = cupy.current.device if index is None else index
        self.waits = 0

    @property
    def mem_info(self) -> tuple[int, int]:
        return of_device(self._memory, self.id)

    def __enter__(self) -> "Device":
        if not 0 <= self.id < self._cupy.cuda.runtime.getDeviceCount():
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._cupy.current.before.append(self._cupy.current.device)
        self._cupy.current.device = self.id
        return self

    def __exit__(self, *_error: object) -> None:
        self._cupy.current.device = self._cupy.current.before.pop()

    def synchronize(self) -> None:
        self.waits += 1
        self._cupy.note_wait("Device.synchronize()")


class Event:
    """An event of the device that was current, whose time is the number of events recorded before it, in seconds."""

    def __init__(self, cupy: "StandInCupy") -> None:
        self._cupy = cupy
        self.device = cupy.current.device
        self.waits = 0

    def record(self) -> None:
        if self.device != self._cupy.current.device:
            raise CUDARuntimeError("cudaErrorInvalidResourceHandle: the event is of another device than the stream")
        self.milliseconds = 1000.0 * self._cupy.events
        self._cupy.events += 1

    def synchronize(self) -> None:
        self.waits += 1
        self._cupy.note_wait("Event.synchronize()")


class Stream:
    """A stream. While it is captured, what is asked of the device is noted, and done when the graph is launched."""

    def __init__(self, cupy: "StandInCupy", null: bool = False, non_blocking: bool = False) -> None:
        self._cupy = cupy
        self.ptr = 0 if null else id(self)
        self.device_id = -1 if null else cupy.current.device  # each device has a null stream
        self.captured: list[Callable[[], None]] | None = None
        self.invalid = False

    def __enter__(self) -> "Stream":
        current = self._cupy.current.device
        if self.device_id not in (-1, current):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with the current device "
                f"({current})"
            )
        self._cupy.streams.append(self)
        return self

    def __exit__(self, *_error: object) -> None:
        self._cupy.streams.pop()

    def synchronize(self) -> None:
        self._cupy.note_wait("Stream.synchronize()")

    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.captured is not None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is captured already")
        self.captured, self.invalid = [], False

    def end_capture(self) -> "Graph":
        captured, self.captured = self.captured, None
        if captured is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream is not captured")
        if self.invalid:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
        return Graph(self._cupy, captured, self.device_id)


class Graph:
    """The work of a captured stream; it holds none of the memory that the work is done on."""

    def __init__(self, cupy: "StandInCupy", captured: Sequence[Callable[[], None]], device: int) -> None:
        self._cupy, self._captured, self._device = cupy, captured, device

    def launch(self, stream: Stream | None = None) -> None:
        current = self._cupy.current.device
        if self._device != current:  # CUDA would do it, in no order with what the graph's own device does
            raise RuntimeError(f"a graph of cuda:{self._device} is launched while cuda:{current} is current")
        self._cupy.note(self._cupy.launches, "Graph.launch()")
        for work in self._captured:
            work()


class Cublas:
    """CuPy's cuBLAS, as far as matrix products go; it is not captured."""

    CUBLASError = CUBLASError
    CUBLAS_COMPUTE_32F = COMPUTE_32F
    CUBLAS_COMPUTE_64F = COMPUTE_64F
    CUBLAS_COMPUTE_32F_FAST_TF32 = COMPUTE_TF32
    CUBLAS_GEMM_DEFAULT = GEMM_DEFAULT
    CUBLAS_OP_N, CUBLAS_OP_T = 0, 1

    def __init__(self, cupy: "StandInCupy") -> None:
        self._cupy = cupy
        self._bindings = NvmathCublas(cupy)
        self._handles: dict[int, int] = {}  # by device

    def _handle(self) -> int:
        """Return the handle of the current device."""
        current = self._cupy.current.device
        if current not in self._handles:
            self._handles[current] = self._bindings.create()
        return self._handles[current]

    def gemmEx(
        self,
        handle: int,
        transa: int,
        transb: int,
        m: int,
        n: int,
        k: int,
        alpha: int,
        A: int,
        Atype: int,
        lda: int,
        B: int,
        Btype: int,
        ldb: int,
        beta: int,
        C: int,
        Ctype: int,
        ldc: int,
        computeType: int,
        algo: int,
    ) -> None:
        """See `NvmathCublas.gemm_ex`: the same function of the library, in the current stream."""
        if self._cupy.stream.captured is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        if handle in self._handles.values():
            self._bindings.set_stream(handle, self._cupy.stream.ptr)
        self._bindings.gemm_ex(
            handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc,
            computeType, algo,
        )  # fmt: skip


class NvmathCublas:
    """Stands for `nvmath.bindings.cublas`, whose calls can be captured.

    It works on the addresses and strides that it is given.
    """

    def __init__(self, cupy: "StandInCupy") -> None:
        self._cupy = cupy
        self._streams: dict[int, int] = {}  # by handle
        self._devices: dict[int, int] = {}
        self._workspaces: dict[int, tuple[int, int]] = {}

    def create(self) -> int:
        handle = next(_HANDLES)
        self._streams[handle] = 0
        self._devices[handle] = self._cupy.current.device
        return handle

    def set_stream(self, handle: int, stream_id: int) -> None:
        self._streams[handle] = stream_id
        self._workspaces.pop(handle, None)  # "unconditionally resets the workspace", says cuBLAS' documentation

    def set_workspace(self, handle: int, workspace: int, workspace_size_in_bytes: int) -> None:
        self._workspaces[handle] = workspace, workspace_size_in_bytes

    def gemm_ex(
        self,
        handle: int,
        transa: int,
        transb: int,
        m: int,
        n: int,
        k: int,
        alpha: int,
        a: int,
        atype: int,
        lda: int,
        b: int,
        btype: int,
        ldb: int,
        beta: int,
        c: int,
        ctype: int,
        ldc: int,
        compute_type: int,
        algo: int,
    ) -> None:
        """Write alpha · op(A) · op(B) + beta · C to C (m, n), all stored by columns; op transposes where told."""
        cupy = self._cupy
        if handle not in self._streams:
            raise CUBLASError("CUBLAS_STATUS_NOT_INITIALIZED")
        if self._devices[handle] != cupy.current.device:
            raise CUBLASError(
                f"the handle is of cuda:{self._devices[handle]}, but cuda:{cupy.current.device} is current"
            )
        if self._streams[handle] != cupy.stream.ptr:
            raise CUBLASError("the product runs in another stream than what comes before and after it")
        workspace = self._workspaces.get(handle)
        if workspace is None and cupy.stream.captured is not None:
            raise CUBLASError("a workspace would be allocated while the stream is captured")
        if cupy.failure is not None:
            raise cupy.failure
        types = {CUDA_TYPES[atype], CUDA_TYPES[btype]}
        if algo != GEMM_DEFAULT or len(types) > 1 or (compute_type, *types, CUDA_TYPES[ctype]) not in PRODUCTS:
            raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
        accumulator = "float64" if compute_type == COMPUTE_64F else "float32"
        factor, old = factor_at(cupy, alpha, accumulator), factor_at(cupy, beta, accumulator)

        def matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            # A matrix stored by columns is its transpose stored by rows, and NumPy's: Cᵀ = op(B)ᵀ · op(A)ᵀ. This
            # gives BLAS the operands in the order, and so the sums in the bits, that `numpy.dot` of those has.
            a_rows = stored_by_rows(cupy, a, atype, *((m, k) if transa else (k, m)), lda)
            b_rows = stored_by_rows(cupy, b, btype, *((k, n) if transb else (n, k)), ldb)
            return (
                (b_rows.T if transb else b_rows),
                (a_rows.T if transa else a_rows),
                stored_by_rows(cupy, c, ctype, n, m, ldc),
            )

        def multiply() -> None:
            if workspace is not None and cupy.device_of_memory(*workspace) != cupy.current.device:
                raise CUBLASError("the workspace does not lie in live memory of the device")
            left, right, c_rows = matrices()
            before = old * c_rows.astype(accumulator) if old else None
            result = np.dot(left.astype(accumulator, copy=False), right.astype(accumulator, copy=False))
            if factor != 1:
                np.multiply(result, factor, out=result)
            c_rows[...] = result if before is None else result + before
            cupy.products.append(compute_type)

        matrices()  # refuses wrong ones now, and not when a graph is launched
        cupy.submit(multiply)


def stored_by_rows(cupy: "StandInCupy", address: int, kind: int, rows: int, columns: int, stride: int) -> np.ndarray:
    """Return the matrix (rows, columns) at an address of the device, its rows `stride` elements apart."""
    dtype = np.dtype(CUDA_TYPES[kind])
    if stride < max(1, columns):
        raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: rows of {columns} elements, {stride} apart")
    size = dtype.itemsize * (stride * (rows - 1) + columns)
    if cupy.device_of_memory(address, size) != cupy.current.device:
        raise CUBLASError(f"a matrix of {size} bytes at {address:#x} does not lie in live memory of the device")
    flat = values_at(address, dtype, size // dtype.itemsize)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (stride * dtype.itemsize, dtype.itemsize))


def factor_at(cupy: "StandInCupy", address: int, dtype: str) -> Any:
    """Return the number at an address of the host."""
    size = np.dtype(dtype).itemsize
    if cupy.device_of_memory(address, size) is not None:
        raise CUBLASError(f"the factor at {address:#x} lies in the device's memory, but is read on the host")
    return values_at(address, dtype)[0].copy()


def values_at(address: int, dtype: Any, count: int = 1) -> np.ndarray:
    """Return the memory at an address, which nothing checks, as a vector of `count` values."""
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype)


def make_cuda(
    cupy: "StandInCupy",
    driver: int | Exception,
    devices: int | Exception,
    memory: "Bytes",
    name: str | bytes,
    major: int,
) -> SimpleNamespace:
    """Return what stands for `cupy.cuda`."""
    cublas = Cublas(cupy)
    properties = {"name": name, "major": major, "multiProcessorCount": 4, "sharedMemPerBlockOptin": 227 * 1024}
    return SimpleNamespace(
        Device=lambda device=None: Device(cupy, device, memory),
        Event=lambda: Event(cupy),
        Stream=lambda null=False, non_blocking=False: Stream(cupy, null, non_blocking),
        get_current_stream=lambda: cupy.stream,
        using_allocator=lambda allocator: _using_allocator(cupy, allocator),
        get_elapsed_time=_elapsed_time,
        alloc_pinned_memory=lambda size: bytearray(-(-size // 512) * 512),  # its pool has no smaller pieces
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        driver=SimpleNamespace(CUDADriverError=CUDADriverError),
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            driverGetVersion=lambda: _answer(driver),
            runtimeGetVersion=lambda: 12080,
            deviceGetPCIBusId=lambda device: f"0000:{device:02x}:00.0",
            getDeviceCount=lambda: _answer(devices),
            getDeviceProperties=lambda index: properties if index >= 0 else {},
            CUDA_R_16F=2,
            CUDA_R_32F=0,
            CUDA_R_64F=1,
        ),
        get_cublas_handle=cublas._handle,
        cublas=cublas,
        nccl=SimpleNamespace(available=False),
    )


@contextmanager
def _using_allocator(cupy: "StandInCupy", allocator: Callable[[int], Any]) -> Iterator[None]:
    before, cupy.allocator = cupy.allocator, allocator
    try:
        yield
    finally:
        cupy.allocator = before


def _elapsed_time(start: Event, end: Event) -> float:
    if start.device != end.device:
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle: the events are of two devices")
    return end.milliseconds - start.milliseconds


Bytes = tuple[int, int] | list[tuple[int, int]] | Exception
"""Free and total bytes, the same for every device or one pair for each, or what asking for them raises."""


def of_device(memory: Bytes, device: int) -> tuple[int, int]:
    """Return the free and total bytes of one device."""
    answer = _answer(memory)
    return answer[device] if isinstance(answer, list) else answer


def _answer(value: Any) -> Any:
    """Return `value`, or raise it."""
    if isinstance(value, Exception):
        raise value
    return value
