"""Matrix products with what follows them, in one call of cuBLASLt.

A product can add biases, take the ReLU and note where it passed its input on, take the ReLU's gradient, and sum the
rows of its result or of its right operand: NVIDIA calls that the product's epilogue.
"""

import functools
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from types import ModuleType
from typing import Any

import numpy as np

from fmnist_xp.backend.base import Array

MASK_BITS = 128
"""A row of a mask takes a multiple of this many bits, says cuBLASLt's documentation."""


class Unsupported(Exception):
    """cuBLASLt has no algorithm for a product with its epilogue."""


EPILOGUES: dict[str | None, tuple[str, set[str]]] = {
    None: ("DEFAULT", set()),
    "bias": ("BIAS", {"biases"}),
    "relu_bias": ("RELU_BIAS", {"biases"}),
    "relu_bias_aux": ("RELU_AUX_BIAS", {"biases", "mask"}),
    "drelu": ("DRELU", {"mask"}),
    "drelu_bgrad": ("DRELU_BGRAD", {"mask", "bias_gradient"}),
    # cuBLASLt stores by columns and computes outᵀ = bᵀ · aᵀ: its A is our b.
    "bgrad": ("BGRADA", {"bias_gradient"}),
}
"""For each epilogue cuBLASLt's name of it, and the arguments of `Products.plan` that it reads or writes."""


def mask_shape(rows: int, columns: int) -> tuple[int, int]:
    """Return the shape of the uint8 array that holds a mask of (rows, columns) values."""
    return rows, -(-columns // MASK_BITS) * MASK_BITS // 8


class Products:
    """Plans products of one device."""

    def __init__(self, cupy: ModuleType, cublaslt: ModuleType, workspace: Array) -> None:
        """Plan with `cublaslt`, nvmath-python's bindings.

        `workspace` is memory of the device, aligned to 256 bytes, that all planned products write to: one product at
        a time may run. cuBLAS recommends 32 MiB for Hopper and Blackwell.
        """
        self._cupy, self._lt, self._workspace = cupy, cublaslt, workspace
        self._handle = cublaslt.create()
        # Not at exit, when the process gives everything back, and a device that failed would have the last word.
        weakref.finalize(self, cublaslt.destroy, self._handle).atexit = False
        cublas, runtime = cupy.cuda.cublas, cupy.cuda.runtime
        self._compute_types = {
            "float32": cublas.CUBLAS_COMPUTE_32F,
            "tf32": cublas.CUBLAS_COMPUTE_32F_FAST_TF32,
            "float64": cublas.CUBLAS_COMPUTE_64F,
        }
        self._types = {"e": runtime.CUDA_R_16F, "f": runtime.CUDA_R_32F, "d": runtime.CUDA_R_64F}

    def plan(
        self,
        a: Array,
        b: Array,
        out: Array,
        *,
        scale: float = 1.0,
        compute: str = "float32",
        epilogue: str | None = None,
        biases: Array | None = None,
        mask: Array | None = None,
        bias_gradient: Array | None = None,
    ) -> Callable[[], None]:
        """Return the call, in CuPy's then current stream, of out = scale · a · b and of its epilogue.

        a (m, k) and b (k, n) are float16, float32 or float64 and each C-contiguous or the transpose of that; out
        (m, n) is C-contiguous and of their dtype, or float32 for float16. `compute` names what the sums are taken
        in: "float32", "tf32" or "float64". The epilogues, and what each takes besides, all of it contiguous:

        - None: out is the product.
        - "bias": the `biases`, n values, are added to each row of it.
        - "relu_bias": and of the sum is taken max(sum, 0).
        - "relu_bias_aux": and `mask`, uint8 of the shape `mask_shape(m, n)`, gets a set bit where the sum is above 0.
        - "drelu": out is the product where the bit of `mask` is set, else 0.
        - "drelu_bgrad": and `bias_gradient`, n values, gets the sums over out's rows.
        - "bgrad": out is the product, and `bias_gradient`, n values, gets the sums over b's rows, without the scale.

        By its documentation, cuBLASLt has biases and their gradient in out's dtype alone.

        The call makes the one call of cuBLASLt, allocates nothing, waits for nothing and can be captured; arrays and
        descriptors live for as long as it does. Raises `Unsupported` where cuBLASLt has no algorithm for that on
        this device, and ValueError for arrays that it cannot address.
        """
        given = {"biases": biases, "mask": mask, "bias_gradient": bias_gradient}
        _check(a, b, out, epilogue, given)
        lt, attribute = self._lt, self._lt.MatmulDescAttribute
        vector = biases if biases is not None else bias_gradient
        rows, columns = out.shape
        factors = np.array([scale, 0], dtype="float64" if compute == "float64" else "float32")
        with ExitStack() as stack:
            description = lt.matmul_desc_create(self._compute_types[compute], self._types[factors.dtype.char])
            stack.callback(lt.matmul_desc_destroy, description)
            b_layout, transposed = self._layout(stack, b)
            self._describe(description, attribute.TRANSA, transposed)
            a_layout, transposed = self._layout(stack, a)
            self._describe(description, attribute.TRANSB, transposed)
            out_layout, _ = self._layout(stack, out)
            self._describe(description, attribute.EPILOGUE, lt.Epilogue[EPILOGUES[epilogue][0]])
            if vector is not None:
                self._describe(description, attribute.BIAS_POINTER, vector.data.ptr)
                self._describe(description, attribute.BIAS_DATA_TYPE, self._types[vector.dtype.char])
            if mask is not None:
                self._describe(description, attribute.EPILOGUE_AUX_POINTER, mask.data.ptr)
                self._describe(description, attribute.EPILOGUE_AUX_LD, 8 * mask_shape(rows, columns)[1])
            layouts = b_layout, a_layout, out_layout, out_layout
            algorithms = self._algorithms(description, layouts, [array.data.ptr for array in (b, a, out, out)])
            if not len(algorithms):
                raise Unsupported(
                    f"cuBLASLt {lt.get_version()} has no algorithm for ({a.shape[0]}, {a.shape[1]}) · "
                    f"({b.shape[0]}, {b.shape[1]}) of {a.dtype} to {out.dtype} in {compute} with epilogue {epilogue}"
                )
            alpha = factors.ctypes.data
            arguments = (
                *(self._handle, description, alpha),
                *(b.data.ptr, b_layout),
                *(a.data.ptr, a_layout),
                alpha + factors.itemsize,
                *(out.data.ptr, out_layout) * 2,
                *(algorithms.ctypes.data, self._workspace.data.ptr, self._workspace.nbytes),
            )
            held = self, a, b, out, vector, mask, factors, algorithms
            call = functools.partial(_multiply, lt.matmul, self._cupy.cuda.get_current_stream, arguments, held)
            weakref.finalize(call, stack.pop_all().close).atexit = False
        return call

    def _layout(self, stack: ExitStack, matrix: Array) -> tuple[int, bool]:
        """Return the layout of a matrix as cuBLASLt sees it, and whether that must be transposed."""
        rows, columns = matrix.shape
        transposed = not matrix.flags.c_contiguous
        if transposed:
            rows, columns = columns, rows
        layout = self._lt.matrix_layout_create(self._types[matrix.dtype.char], columns, rows, columns)
        stack.callback(self._lt.matrix_layout_destroy, layout)
        return layout, transposed

    def _algorithms(
        self, description: int, layouts: tuple[int, ...], addresses: list[int], count: int = 1
    ) -> np.ndarray[Any, Any]:
        """Return the up to `count` algorithms that cuBLASLt takes to be the fastest, best first."""
        lt = self._lt
        attribute = lt.MatmulPreferenceAttribute
        results = np.zeros(count, dtype=lt.matmul_heuristic_result_dtype)
        found = np.zeros(1, dtype="int32")
        preference = lt.matmul_preference_create()
        try:
            self._prefer(preference, attribute.MAX_WORKSPACE_BYTES, self._workspace.nbytes)
            for matrix, address in zip("ABCD", addresses, strict=True):
                # By default it takes 256 bytes for granted, which slices of a vector need not have.
                alignment = min(256, address & -address)
                self._prefer(preference, attribute[f"MIN_ALIGNMENT_{matrix}_BYTES"], alignment)
            lt.matmul_algo_get_heuristic(
                self._handle, description, *layouts, preference, count, results.ctypes.data, found.ctypes.data
            )
        except lt.cuBLASLtError as error:
            raise Unsupported(f"cuBLASLt {lt.get_version()} answers {error}") from error
        finally:
            lt.matmul_preference_destroy(preference)
        results = results[: found[0]]
        usable: np.ndarray[Any, Any] = results[results["state"] == 0]
        return usable

    def _describe(self, description: int, attribute: int, value: int) -> None:
        buffer = np.array([value], dtype=self._lt.get_matmul_desc_attribute_dtype(attribute))
        self._lt.matmul_desc_set_attribute(description, attribute, buffer.ctypes.data, buffer.nbytes)

    def _prefer(self, preference: int, attribute: int, value: int) -> None:
        buffer = np.array([value], dtype=self._lt.get_matmul_preference_attribute_dtype(attribute))
        self._lt.matmul_preference_set_attribute(preference, attribute, buffer.ctypes.data, buffer.nbytes)


def _check(a: Array, b: Array, out: Array, epilogue: str | None, given: dict[str, Array | None]) -> None:
    """Raise ValueError where cuBLASLt, which sees addresses alone, would read or write elsewhere."""
    names, takes = {name for name, array in given.items() if array is not None}, EPILOGUES[epilogue][1]
    if names != takes:
        raise ValueError(f"epilogue {epilogue} takes {sorted(takes)}, not {sorted(names)}")
    rows, columns = out.shape
    if a.shape != (rows, b.shape[0]) or b.shape[1] != columns:
        raise ValueError(f"{a.shape} · {b.shape} is not of shape {out.shape}")
    if not all(matrix.flags.c_contiguous or matrix.flags.f_contiguous for matrix in (a, b)):
        raise ValueError("an operand is neither C-contiguous nor the transpose of that")
    if not all(array.flags.c_contiguous for array in (out, *given.values()) if array is not None):
        raise ValueError("what a product writes to and its biases must be C-contiguous")
    for name in ("biases", "bias_gradient"):
        vector = given[name]
        if vector is not None and vector.size != columns:
            raise ValueError(f"{name} must have {columns} values, not {vector.size}")
    mask, shape = given["mask"], mask_shape(rows, columns)
    if mask is not None and (mask.dtype != "uint8" or mask.shape != shape):
        raise ValueError(f"the mask must be uint8 of shape {shape}, not {mask.dtype} of {mask.shape}")


def _multiply(
    matmul: Callable[..., None], stream: Callable[[], Any], arguments: tuple[int, ...], _held: tuple[Any, ...]
) -> None:
    """Call cuBLASLt with addresses, of what is held for as long as this can be called again."""
    matmul(*arguments, stream().ptr)
