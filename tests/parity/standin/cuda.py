"""What stands for `cupy.cuda`: devices, events, errors and cuBLAS."""

import ctypes
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


class OutOfMemoryError(MemoryError):
    """Stands for `cupy.cuda.memory.OutOfMemoryError`."""


class CUDARuntimeError(RuntimeError):
    """Stands for `cupy.cuda.runtime.CUDARuntimeError`."""


class CUBLASError(RuntimeError):
    """Stands for `cupy.cuda.cublas.CUBLASError`."""


class Device:
    """A device that notes how often it was made current and not left, and how often it was waited for."""

    def __init__(self, cupy: "StandInCupy", index: int, memory: tuple[int, int]) -> None:
        self._cupy = cupy
        self.id, self.mem_info = index, memory
        self.entered = self.waits = 0

    def __enter__(self) -> "Device":
        self.entered += 1
        return self

    def __exit__(self, *_error: object) -> None:
        self.entered -= 1

    def synchronize(self) -> None:
        self.waits += 1
        self._cupy.note_wait("Device.synchronize()")


class Event:
    """An event whose time is the number of events recorded before it, in seconds."""

    def __init__(self, cupy: "StandInCupy") -> None:
        self._cupy = cupy
        self.waits = 0

    def record(self) -> None:
        self.milliseconds = 1000.0 * self._cupy.events
        self._cupy.events += 1

    def synchronize(self) -> None:
        self.waits += 1
        self._cupy.note_wait("Event.synchronize()")


class Cublas:
    """cuBLAS, as far as matrix products go: it works on the addresses and strides that it is given."""

    CUBLASError = CUBLASError
    CUBLAS_COMPUTE_32F = COMPUTE_32F
    CUBLAS_COMPUTE_64F = COMPUTE_64F
    CUBLAS_COMPUTE_32F_FAST_TF32 = COMPUTE_TF32
    CUBLAS_GEMM_DEFAULT = GEMM_DEFAULT
    CUBLAS_OP_N, CUBLAS_OP_T = 0, 1

    def __init__(self, cupy: "StandInCupy") -> None:
        self._cupy = cupy

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
        """Write alpha · op(A) · op(B) + beta · C to C (m, n), all stored by columns; op transposes where told."""
        if self._cupy.failure is not None:
            raise self._cupy.failure
        types = {CUDA_TYPES[Atype], CUDA_TYPES[Btype]}
        if handle != self._cupy.cuda.get_cublas_handle() or algo != GEMM_DEFAULT:
            raise CUBLASError("CUBLAS_STATUS_NOT_INITIALIZED")
        if len(types) > 1 or (computeType, *types, CUDA_TYPES[Ctype]) not in PRODUCTS:
            raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED")
        # A matrix stored by columns is its transpose stored by rows, and NumPy's: Cᵀ = op(B)ᵀ · op(A)ᵀ. This gives
        # BLAS the operands in the order, and so the sums in the bits, that `numpy.dot` of those has.
        a_rows = self._stored_by_rows(A, Atype, *((m, k) if transa else (k, m)), lda)
        b_rows = self._stored_by_rows(B, Btype, *((k, n) if transb else (n, k)), ldb)
        c_rows = self._stored_by_rows(C, Ctype, n, m, ldc)
        accumulator = "float64" if computeType == COMPUTE_64F else "float32"
        factor, old = self._factor(alpha, accumulator), self._factor(beta, accumulator)
        before = old * c_rows.astype(accumulator) if old else None
        left, right = (b_rows.T if transb else b_rows), (a_rows.T if transa else a_rows)
        product = np.dot(left.astype(accumulator, copy=False), right.astype(accumulator, copy=False))
        if factor != 1:
            np.multiply(product, factor, out=product)
        c_rows[...] = product if before is None else product + before
        self._cupy.products.append(computeType)

    def _stored_by_rows(self, address: int, kind: int, rows: int, columns: int, stride: int) -> np.ndarray:
        """Return the matrix (rows, columns) at an address of the device, its rows `stride` elements apart."""
        dtype = np.dtype(CUDA_TYPES[kind])
        if stride < max(1, columns):
            raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: rows of {columns} elements, {stride} apart")
        size = dtype.itemsize * (stride * (rows - 1) + columns)
        if not self._cupy.is_device_memory(address, size):
            raise CUBLASError(f"a matrix of {size} bytes at {address:#x} does not lie in live memory of the device")
        flat = np.frombuffer((ctypes.c_char * size).from_address(address), dtype)
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), (stride * dtype.itemsize, dtype.itemsize))

    def _factor(self, address: int, dtype: str) -> Any:
        """Return the number at an address of the host."""
        size = np.dtype(dtype).itemsize
        if self._cupy.is_device_memory(address, size):
            raise CUBLASError(f"the factor at {address:#x} lies in the device's memory, but is read on the host")
        return np.frombuffer((ctypes.c_char * size).from_address(address), dtype)[0]


def make_cuda(
    cupy: "StandInCupy",
    driver: int | Exception,
    devices: int | Exception,
    memory: tuple[int, int],
    name: str | bytes,
    major: int,
) -> SimpleNamespace:
    """Return what stands for `cupy.cuda`."""
    return SimpleNamespace(
        Device=lambda index=0: Device(cupy, index, memory),
        Event=lambda: Event(cupy),
        get_elapsed_time=lambda start, end: end.milliseconds - start.milliseconds,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            driverGetVersion=lambda: _answer(driver),
            getDeviceCount=lambda: _answer(devices),
            getDeviceProperties=lambda _index: {"name": name, "major": major},
            CUDA_R_16F=2,
            CUDA_R_32F=0,
            CUDA_R_64F=1,
        ),
        get_cublas_handle=lambda: 1,
        cublas=Cublas(cupy),
    )


def _answer(value: Any) -> Any:
    """Return `value`, or raise it."""
    if isinstance(value, Exception):
        raise value
    return value
