"""What stands for `nvmath.bindings.cublasLt`: products with an epilogue, from descriptors, layouts and addresses."""

import enum
import itertools
import operator
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from parity.standin.cuda import COMPUTE_64F, CUDA_TYPES, PRODUCTS, CUBLASError, factor_at, stored_by_rows, values_at

if TYPE_CHECKING:
    from parity.standin.module import StandInCupy

DEFAULT_ALIGNMENT = 256
BIAS_ALIGNMENT = 16
"""Some of the library's kernels fault where biases lie otherwise; no preference tells it of their alignment."""
WORKSPACE = 4096
"""Bytes that the stand-in's algorithms ask for, where that many are allowed."""
_NUMBERS = itertools.count(5000)  # of handles, descriptors and algorithms; no one's is another's


class Epilogue(enum.IntEnum):
    """What follows the product."""

    DEFAULT = 1
    BIAS = 4
    RELU_BIAS = 6


class MatmulDescAttribute(enum.IntEnum):
    """What a product's descriptor holds besides its compute type and scale type."""

    TRANSA = 3
    TRANSB = 4
    EPILOGUE = 7
    BIAS_POINTER = 8


class MatmulPreferenceAttribute(enum.IntEnum):
    """What the search for an algorithm may take for granted."""

    MAX_WORKSPACE_BYTES = 1
    MIN_ALIGNMENT_A_BYTES = 5
    MIN_ALIGNMENT_B_BYTES = 6
    MIN_ALIGNMENT_C_BYTES = 7
    MIN_ALIGNMENT_D_BYTES = 8


DESC_DTYPES = {
    MatmulDescAttribute.TRANSA: np.int32,
    MatmulDescAttribute.TRANSB: np.int32,
    MatmulDescAttribute.EPILOGUE: np.uint32,
    MatmulDescAttribute.BIAS_POINTER: np.int64,
}
PREFERENCE_DTYPES = {
    attribute: np.uint64 if attribute == MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES else np.uint32
    for attribute in MatmulPreferenceAttribute
}


@dataclass(frozen=True)
class Handle:
    """The library, as it works with one device."""

    device: int


@dataclass
class Description:
    """A product's descriptor."""

    compute_type: int
    scale_type: int
    attributes: dict[int, int] = field(default_factory=dict)

    def get(self, attribute: MatmulDescAttribute, default: int = 0) -> int:
        return self.attributes.get(attribute, default)

    @property
    def epilogue(self) -> Epilogue:
        return Epilogue(self.get(MatmulDescAttribute.EPILOGUE, Epilogue.DEFAULT))


@dataclass(frozen=True)
class Layout:
    """A matrix stored by columns, `stride` elements apart."""

    kind: int
    rows: int
    columns: int
    stride: int


@dataclass(frozen=True)
class Algorithm:
    """What was found for a product, and what that takes for granted."""

    key: Any
    alignments: tuple[int, ...]
    workspace: int


class NvmathCublasLt:
    """Stands for `nvmath.bindings.cublasLt`, whose products can be captured.

    It works on the addresses that it is given. `unsupported` names epilogues that no algorithm has, on this device;
    what the documentation excludes has none either. Biases are of D's type, as they are by default.
    """

    cuBLASLtError = CUBLASError
    Epilogue = Epilogue
    MatmulDescAttribute = MatmulDescAttribute
    MatmulPreferenceAttribute = MatmulPreferenceAttribute
    matmul_heuristic_result_dtype = np.dtype(
        [
            ("algo", [("data_", "<u8", (8,))]),
            ("workspace_size", "<u8"),
            ("state", "<i4"),
            ("waves_count", "<f4"),
            ("reserved", "<i4", (4,)),
        ]
    )

    def __init__(self, cupy: "StandInCupy", unsupported: Collection[str] = ()) -> None:
        self._cupy = cupy
        self._unsupported = set(unsupported)
        self._live: dict[int, Any] = {}
        self._algorithms: dict[int, Algorithm] = {}

    @property
    def live(self) -> list[str]:
        """What was created and not destroyed, by its kind."""
        return sorted(type(thing).__name__ for thing in self._live.values())

    def create(self) -> int:
        return self._add(Handle(self._cupy.current.device))

    def destroy(self, light_handle: int) -> None:
        self._remove(light_handle, Handle)

    def get_version(self) -> int:
        return 130100

    def matmul_desc_create(self, compute_type: int, scale_type: int) -> int:
        return self._add(Description(compute_type, scale_type))

    def matmul_desc_destroy(self, matmul_desc: int) -> None:
        self._remove(matmul_desc, Description)

    def get_matmul_desc_attribute_dtype(self, attr: int) -> Any:
        return DESC_DTYPES[MatmulDescAttribute(attr)]

    def matmul_desc_set_attribute(self, matmul_desc: int, attr: int, buf: int, size_in_bytes: int) -> None:
        attributes = self._of(matmul_desc, Description).attributes
        attributes[attr] = self._value(DESC_DTYPES[MatmulDescAttribute(attr)], buf, size_in_bytes)

    def matrix_layout_create(self, type: int, rows: int, cols: int, ld: int) -> int:
        if ld < rows:
            raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: columns of {rows} elements, {ld} apart")
        return self._add(Layout(type, rows, cols, ld))

    def matrix_layout_destroy(self, mat_layout: int) -> None:
        self._remove(mat_layout, Layout)

    def matmul_preference_create(self) -> int:
        return self._add({})

    def matmul_preference_destroy(self, pref: int) -> None:
        self._remove(pref, dict)

    def get_matmul_preference_attribute_dtype(self, attr: int) -> Any:
        return PREFERENCE_DTYPES[MatmulPreferenceAttribute(attr)]

    def matmul_preference_set_attribute(self, pref: int, attr: int, buf: int, size_in_bytes: int) -> None:
        preference = self._of(pref, dict)
        preference[attr] = self._value(PREFERENCE_DTYPES[MatmulPreferenceAttribute(attr)], buf, size_in_bytes)

    def matmul_algo_get_heuristic(
        self,
        light_handle: int,
        operation_desc: int,
        adesc: int,
        bdesc: int,
        cdesc: int,
        ddesc: int,
        preference: int,
        requested_algo_count: int,
        heuristic_results_array: int,
        return_algo_count: int,
    ) -> None:
        """Write one algorithm; refuse what the documentation excludes and what has none on this device."""
        self._check_device(light_handle)
        key = self._checked(operation_desc, adesc, bdesc, cdesc, ddesc)
        if self._of(operation_desc, Description).epilogue.name in self._unsupported:
            raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED (15)")
        wanted = self._of(preference, dict)
        alignments = tuple(
            wanted.get(MatmulPreferenceAttribute[f"MIN_ALIGNMENT_{matrix}_BYTES"], DEFAULT_ALIGNMENT)
            for matrix in "ABCD"
        )
        workspace = min(WORKSPACE, wanted.get(MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES, 0))
        number = next(_NUMBERS)
        self._algorithms[number] = Algorithm(key, alignments, workspace)
        (result,) = values_at(heuristic_results_array, self.matmul_heuristic_result_dtype)
        result["algo"]["data_"][0] = number
        result["workspace_size"], result["state"] = workspace, 0
        values_at(return_algo_count, "int32")[0] = 1

    def matmul(
        self,
        light_handle: int,
        compute_desc: int,
        alpha: int,
        a: int,
        adesc: int,
        b: int,
        bdesc: int,
        beta: int,
        c: int,
        cdesc: int,
        d: int,
        ddesc: int,
        algo: int,
        workspace: int,
        workspace_size_in_bytes: int,
        stream: int,
    ) -> None:
        """Write epilogue(alpha · op(A) · op(B) + beta · C) to D, all stored by columns; op transposes where told."""
        cupy = self._cupy
        self._check_device(light_handle)
        if stream != cupy.stream.ptr:
            raise CUBLASError("the product runs in another stream than what comes before and after it")
        if cupy.failure is not None:
            raise cupy.failure
        key = self._checked(compute_desc, adesc, bdesc, cdesc, ddesc)
        found = self._algorithms.get(int(values_at(algo, "uint64")[0]))
        if found is None or found.key != key:
            raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE: the algorithm was not found for this product")
        if workspace_size_in_bytes < found.workspace:
            raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: less than {found.workspace} bytes of workspace")
        description = self._of(compute_desc, Description)
        epilogue = description.epilogue
        bias = description.get(MatmulDescAttribute.BIAS_POINTER)
        for address, alignment in zip((a, b, c, d, bias), (*found.alignments, BIAS_ALIGNMENT), strict=True):
            if address % alignment:
                raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: {address:#x} is not aligned to {alignment} bytes")
        accumulator = "float64" if description.compute_type == COMPUTE_64F else "float32"
        factor = factor_at(cupy, alpha, accumulator)
        if factor_at(cupy, beta, accumulator):
            raise NotImplementedError("the stand-in multiplies without C")
        layouts = [self._of(layout, Layout) for layout in (adesc, bdesc, ddesc)]
        transposed = [
            bool(description.get(attribute)) for attribute in (MatmulDescAttribute.TRANSA, MatmulDescAttribute.TRANSB)
        ]
        addresses = [a, b, d]
        if epilogue != Epilogue.DEFAULT:
            result = layouts[2]
            layouts.append(Layout(result.kind, result.rows, 1, result.rows))
            addresses.append(bias)

        def matrices() -> list[np.ndarray]:
            # A matrix stored by columns is its transpose stored by rows, and NumPy's: Dᵀ = op(B)ᵀ · op(A)ᵀ.
            return [
                stored_by_rows(cupy, address, layout.kind, layout.columns, layout.rows, layout.stride)
                for address, layout in zip(addresses, layouts, strict=True)
            ]

        def multiply() -> None:
            if cupy.device_of_memory(workspace, workspace_size_in_bytes) != cupy.current.device:
                raise CUBLASError("the workspace does not lie in live memory of the device")
            a_rows, b_rows, d_rows, *biases = matrices()
            right, left = (
                (rows.T if turned else rows).astype(accumulator, copy=False)
                for rows, turned in zip((a_rows, b_rows), transposed, strict=True)
            )
            result = np.dot(left, right)
            if factor != 1:
                np.multiply(result, factor, out=result)
            for row in biases:
                result += row
            if epilogue == Epilogue.RELU_BIAS:
                np.maximum(result, 0, out=result)
            d_rows[...] = result
            cupy.products.append(description.compute_type)

        matrices()  # refuses wrong ones now, and not when a graph is launched
        cupy.submit(multiply)

    def _check_device(self, handle: int) -> None:
        """Refuse what is no handle, and that of another device than the current one."""
        device, current = self._of(handle, Handle).device, self._cupy.current.device
        if device != current:
            raise CUBLASError(f"the handle is of cuda:{device}, but cuda:{current} is current")

    def _checked(self, description: int, *layouts: int) -> Any:
        """Return what an algorithm is found for; refuse what the documentation excludes."""
        product = self._of(description, Description)
        a, b, c, d = (self._of(layout, Layout) for layout in layouts)
        m, k = (a.columns, a.rows) if product.get(MatmulDescAttribute.TRANSA) else (a.rows, a.columns)
        k_too, n = (b.columns, b.rows) if product.get(MatmulDescAttribute.TRANSB) else (b.rows, b.columns)
        if (m, n, k) != (d.rows, d.columns, k_too) or c != d:
            raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE: the layouts do not match")
        kinds = {CUDA_TYPES[a.kind], CUDA_TYPES[b.kind]}
        scale = "float64" if product.compute_type == COMPUTE_64F else "float32"
        if (
            len(kinds) > 1
            or (product.compute_type, *kinds, CUDA_TYPES[d.kind]) not in PRODUCTS
            or CUDA_TYPES[product.scale_type] != scale
        ):
            raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED (15)")
        if product.epilogue != Epilogue.DEFAULT and not product.get(MatmulDescAttribute.BIAS_POINTER):
            raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE: the epilogue has no bias pointer")
        return product.compute_type, tuple(sorted(product.attributes.items())), a, b, c, d

    # Numbers that stand for pointers to the library's things, and what an attribute is set to.

    def _add(self, thing: Any) -> int:
        number = next(_NUMBERS)
        self._live[number] = thing
        return number

    def _of(self, number: int, kind: type) -> Any:
        thing = self._live.get(number)
        if not isinstance(thing, kind):
            raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: {number} is no live {kind.__name__}")
        return thing

    def _remove(self, number: int, kind: type) -> None:
        self._of(number, kind)
        del self._live[number]

    def _value(self, dtype: Any, address: int, size: int) -> int:
        if size != np.dtype(dtype).itemsize:
            raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: the attribute takes {np.dtype(dtype)}, not {size} bytes")
        return operator.index(values_at(address, dtype)[0])
