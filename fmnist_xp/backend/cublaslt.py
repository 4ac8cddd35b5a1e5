"""Matrix products that add biases and take the ReLU in the same call, which is cuBLASLt's.

NVIDIA calls what follows a product in its call the product's epilogue.
"""

import functools
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy as np

from fmnist_xp.backend.base import Array, Product
from fmnist_xp.backend.cuda import cuda_type

EPILOGUES = {"bias": "BIAS", "relu_bias": "RELU_BIAS"}
"""cuBLASLt's name of each epilogue."""

BIAS_ALIGNMENT = 16
"""Bytes. cuBLASLt may choose a kernel that reads biases in such pieces; of less it can be told for matrices alone."""


class Unsupported(Exception):
    """cuBLASLt cannot take a product together with its epilogue."""


class Products:
    """Plans products of one device."""

    def __init__(self, cupy: ModuleType, cublaslt: ModuleType, workspace: Array) -> None:
        """Plan with `cublaslt`, nvmath-python's bindings.

        `workspace` is memory of the device, aligned to 256 bytes, that all planned products write to: one product at
        a time may run.
        """
        self._cupy, self._lt, self._workspace = cupy, cublaslt, workspace
        self._handle = cublaslt.create()
        # Not at exit, when the process gives everything back, and a device that failed would have the last word.
        weakref.finalize(self, cublaslt.destroy, self._handle).atexit = False

    def plan(self, product: Product, epilogue: str, biases: Array) -> Callable[[], None]:
        """Return the call, in CuPy's then current stream, of `product` and of its epilogue.

        Its a (m, k) and b (k, n) are float16 or float32 and each C-contiguous or the transpose of that; out (m, n) is
        C-contiguous float32. `biases`, n contiguous values of out's dtype aligned to `BIAS_ALIGNMENT`, are added to
        each row of out; with the epilogue "relu_bias" instead of "bias", max(sum, 0) is taken of that.

        The call makes the one call of cuBLASLt, allocates nothing, waits for nothing and can be captured; arrays and
        descriptors live for as long as it does. Raises `Unsupported` where cuBLASLt has no algorithm for that on
        this device, or the biases are of another dtype, and ValueError for arrays that it cannot address.
        """
        a, b, out, scale, tf32 = product
        _check(a, b, out, biases)
        lt, attribute, cublas = self._lt, self._lt.MatmulDescAttribute, self._cupy.cuda.cublas
        compute = cublas.CUBLAS_COMPUTE_32F_FAST_TF32 if tf32 else cublas.CUBLAS_COMPUTE_32F
        factors = np.array([scale, 0], dtype="float32")
        with ExitStack() as stack:
            description = lt.matmul_desc_create(compute, self._cupy.cuda.runtime.CUDA_R_32F)
            stack.callback(lt.matmul_desc_destroy, description)
            b_layout, transposed = self._layout(stack, b)
            self._describe(description, attribute.TRANSA, transposed)
            a_layout, transposed = self._layout(stack, a)
            self._describe(description, attribute.TRANSB, transposed)
            out_layout, _ = self._layout(stack, out)
            self._describe(description, attribute.EPILOGUE, lt.Epilogue[EPILOGUES[epilogue]])
            self._describe(description, attribute.BIAS_POINTER, biases.data.ptr)
            layouts = b_layout, a_layout, out_layout, out_layout
            algorithm = self._algorithm(description, layouts, [array.data.ptr for array in (b, a, out, out)])
            alpha = factors.ctypes.data
            arguments = (
                *(self._handle, description, alpha),
                *(b.data.ptr, b_layout),
                *(a.data.ptr, a_layout),
                alpha + factors.itemsize,
                *(out.data.ptr, out_layout) * 2,
                *(algorithm.ctypes.data, self._workspace.data.ptr, self._workspace.nbytes),
            )
            held = self, a, b, out, biases, factors, algorithm
            call = functools.partial(_multiply, lt.matmul, self._cupy.cuda.get_current_stream, arguments, held)
            weakref.finalize(call, stack.pop_all().close).atexit = False
        return call

    def _layout(self, stack: ExitStack, matrix: Array) -> tuple[int, bool]:
        """Return the layout of a matrix as cuBLASLt sees it, and whether that must be transposed."""
        rows, columns = matrix.shape
        transposed = not matrix.flags.c_contiguous
        if transposed:
            rows, columns = columns, rows
        layout = self._lt.matrix_layout_create(cuda_type(self._cupy, matrix), columns, rows, columns)
        stack.callback(self._lt.matrix_layout_destroy, layout)
        return layout, transposed

    def _algorithm(self, description: int, layouts: tuple[int, ...], addresses: list[int]) -> np.ndarray[Any, Any]:
        """Return the algorithm that cuBLASLt takes to be the fastest."""
        lt, attribute = self._lt, self._lt.MatmulPreferenceAttribute
        result, found = np.zeros(1, dtype=lt.matmul_heuristic_result_dtype), np.zeros(1, dtype="int32")
        preference = lt.matmul_preference_create()
        try:
            self._prefer(preference, attribute.MAX_WORKSPACE_BYTES, self._workspace.nbytes)
            for matrix, address in zip("ABCD", addresses, strict=True):
                # By default it takes 256 bytes for granted, which slices of a vector need not have.
                alignment = min(256, address & -address)
                self._prefer(preference, attribute[f"MIN_ALIGNMENT_{matrix}_BYTES"], alignment)
            lt.matmul_algo_get_heuristic(
                self._handle, description, *layouts, preference, 1, result.ctypes.data, found.ctypes.data
            )
        except lt.cuBLASLtError as error:
            raise Unsupported(f"cuBLASLt {lt.get_version()} answers {error}") from error
        finally:
            lt.matmul_preference_destroy(preference)
        if not found[0] or result[0]["state"]:
            raise Unsupported(f"cuBLASLt {lt.get_version()} has no algorithm")
        return result

    def _describe(self, description: int, attribute: int, value: int) -> None:
        buffer = np.array([value], dtype=self._lt.get_matmul_desc_attribute_dtype(attribute))
        self._lt.matmul_desc_set_attribute(description, attribute, buffer.ctypes.data, buffer.nbytes)

    def _prefer(self, preference: int, attribute: int, value: int) -> None:
        buffer = np.array([value], dtype=self._lt.get_matmul_preference_attribute_dtype(attribute))
        self._lt.matmul_preference_set_attribute(preference, attribute, buffer.ctypes.data, buffer.nbytes)


def _check(a: Array, b: Array, out: Array, biases: Array) -> None:
    """Raise ValueError where cuBLASLt, which sees addresses alone, would read or write elsewhere.

    Raises `Unsupported` for biases that it would read wrongly or refuse.
    """
    rows, columns = out.shape
    if a.shape != (rows, b.shape[0]) or b.shape[1] != columns:
        raise ValueError(f"{a.shape} · {b.shape} is not of shape {out.shape}")
    if not all(matrix.flags.c_contiguous or matrix.flags.f_contiguous for matrix in (a, b)):
        raise ValueError("an operand is neither C-contiguous nor the transpose of that")
    if not (out.flags.c_contiguous and biases.flags.c_contiguous):
        raise ValueError("what a product writes to and its biases must be C-contiguous")
    if biases.size != columns:
        raise ValueError(f"there must be {columns} biases, not {biases.size}")
    if biases.dtype != out.dtype:
        raise Unsupported(f"cuBLASLt adds no {biases.dtype} biases to {out.dtype}")


def _multiply(
    matmul: Callable[..., None], stream: Callable[[], Any], arguments: tuple[int, ...], _held: tuple[Any, ...]
) -> None:
    """Call cuBLASLt with addresses, of what is held for as long as this can be called again."""
    matmul(*arguments, stream().ptr)
