"""What stands for `nvmath.bindings.cublasLt`: products with an epilogue, from descriptors, layouts and addresses."""

import ctypes
import enum
import itertools
import operator
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from parity.standin.cuda import COMPUTE_64F, CUDA_TYPES, PRODUCTS, CUBLASError, _factor, _stored_by_rows

if TYPE_CHECKING:
    from parity.standin.module import StandInCupy

AUX_BITS = 128
"""What the rows of a bit mask, and the strides between them, must be a multiple of."""
DEFAULT_ALIGNMENT = 256
WORKSPACE = 4096
"""Bytes that the stand-in's algorithms ask for, where that many are allowed."""
_NUMBERS = itertools.count(5000)  # of handles, descriptors and algorithms; no one's is another's


class Epilogue(enum.IntEnum):
    """What follows the product; the bits are NVIDIA's."""

    DEFAULT = 1
    RELU = 2
    RELU_AUX = 130
    BIAS = 4
    RELU_BIAS = 6
    RELU_AUX_BIAS = 134
    DRELU = 136
    DRELU_BGRAD = 152
    BGRADA = 256
    BGRADB = 512


class MatmulDescAttribute(enum.IntEnum):
    """What a product's descriptor holds besides its compute type and scale type."""

    TRANSA = 3
    TRANSB = 4
    EPILOGUE = 7
    BIAS_POINTER = 8
    EPILOGUE_AUX_POINTER = 11
    EPILOGUE_AUX_LD = 12
    BIAS_DATA_TYPE = 26


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
    MatmulDescAttribute.EPILOGUE_AUX_POINTER: np.int64,
    MatmulDescAttribute.EPILOGUE_AUX_LD: np.int64,
    MatmulDescAttribute.BIAS_DATA_TYPE: np.int32,
}
PREFERENCE_DTYPES = {
    attribute: np.uint64 if attribute == MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES else np.uint32
    for attribute in MatmulPreferenceAttribute
}


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
    what the documentation excludes has none either. A bias vector is of D's type, as the documentation has it.
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
        return self._add("handle")

    def destroy(self, light_handle: int) -> None:
        self._remove(light_handle, str)

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
        """Write up to two algorithms; refuse what the documentation excludes and what has none on this device."""
        self._of(light_handle, str)
        key = self._checked(operation_desc, adesc, bdesc, cdesc, ddesc)
        if self._of(operation_desc, Description).epilogue.name in self._unsupported:
            raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED (15)")
        wanted = self._of(preference, dict)
        alignments = tuple(
            wanted.get(MatmulPreferenceAttribute[f"MIN_ALIGNMENT_{matrix}_BYTES"], DEFAULT_ALIGNMENT)
            for matrix in "ABCD"
        )
        workspace = min(WORKSPACE, wanted.get(MatmulPreferenceAttribute.MAX_WORKSPACE_BYTES, 0))
        count = min(2, requested_algo_count)
        results = self._array(heuristic_results_array, self.matmul_heuristic_result_dtype, count)
        for result in results:
            number = next(_NUMBERS)
            self._algorithms[number] = Algorithm(key, alignments, workspace)
            result["algo"]["data_"][0] = number
            result["workspace_size"], result["state"] = workspace, 0
        self._array(return_algo_count, np.dtype("int32"), 1)[0] = count

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
        self._of(light_handle, str)
        if stream != cupy.stream.ptr:
            raise CUBLASError("the product runs in another stream than what comes before and after it")
        if cupy.failure is not None:
            raise cupy.failure
        key = self._checked(compute_desc, adesc, bdesc, cdesc, ddesc)
        found = self._algorithms.get(int(self._array(algo, np.dtype("uint64"), 1)[0]))
        if found is None or found.key != key:
            raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE: the algorithm was not found for this product")
        if workspace_size_in_bytes < found.workspace:
            raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: less than {found.workspace} bytes of workspace")
        for address, alignment in zip((a, b, c, d), found.alignments, strict=True):
            if address % alignment:
                raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: {address:#x} is not aligned to {alignment} bytes")
        description = self._of(compute_desc, Description)
        accumulator = "float64" if description.compute_type == COMPUTE_64F else "float32"
        factor = _factor(cupy, alpha, accumulator)
        if _factor(cupy, beta, accumulator):
            raise NotImplementedError("the stand-in multiplies without C")
        layouts = [self._of(layout, Layout) for layout in (adesc, bdesc, ddesc)]
        transposed = [
            bool(description.get(attribute)) for attribute in (MatmulDescAttribute.TRANSA, MatmulDescAttribute.TRANSB)
        ]
        epilogue, vector, mask = self._epilogue(description, layouts[2])

        def matrices() -> list[np.ndarray]:
            # A matrix stored by columns is its transpose stored by rows, and NumPy's: Dᵀ = op(B)ᵀ · op(A)ᵀ.
            return [
                _stored_by_rows(cupy, address, layout.kind, layout.columns, layout.rows, layout.stride)
                for address, layout in zip((a, b, d), layouts, strict=True)
            ]

        def multiply() -> None:
            if not cupy.is_device_memory(workspace, workspace_size_in_bytes):
                raise CUBLASError("the workspace does not lie in live memory of the device")
            a_rows, b_rows, d_rows = matrices()
            right, left = (
                (rows.T if turned else rows).astype(accumulator, copy=False)
                for rows, turned in zip((a_rows, b_rows), transposed, strict=True)
            )
            result = np.dot(left, right)
            if factor != 1:
                np.multiply(result, factor, out=result)
            if epilogue & Epilogue.BIAS:
                result += vector()
            if epilogue & Epilogue.RELU:
                np.maximum(result, 0, out=result)
            if epilogue in (Epilogue.RELU_AUX, Epilogue.RELU_AUX_BIAS):
                bits = np.packbits(result > 0, axis=1, bitorder="little")
                mask()[:, : bits.shape[1]] = bits
            if epilogue in (Epilogue.DRELU, Epilogue.DRELU_BGRAD):
                bits = np.unpackbits(mask(), axis=1, bitorder="little", count=result.shape[1])
                result[bits == 0] = 0
            d_rows[...] = result
            if epilogue == Epilogue.DRELU_BGRAD:
                vector()[...] = result.sum(axis=0)
            elif epilogue == Epilogue.BGRADA:
                vector()[...] = right.sum(axis=0)
            elif epilogue == Epilogue.BGRADB:
                vector()[...] = left.sum(axis=1)
            cupy.products.append(description.compute_type)

        matrices()  # refuses wrong ones now, and not when a graph is launched
        vector(), mask()
        cupy.submit(multiply)

    def _epilogue(self, description: Description, result: Layout) -> tuple[Epilogue, Any, Any]:
        """Return the epilogue and what gives its vector and its mask, None where it has none."""
        cupy, epilogue = self._cupy, description.epilogue
        bias = description.get(MatmulDescAttribute.BIAS_POINTER)
        aux, bits = (
            description.get(attribute)
            for attribute in (MatmulDescAttribute.EPILOGUE_AUX_POINTER, MatmulDescAttribute.EPILOGUE_AUX_LD)
        )
        length = result.columns if epilogue == Epilogue.BGRADB else result.rows

        def vector() -> np.ndarray | None:
            if not _has_vector(epilogue):
                return None
            return _stored_by_rows(cupy, bias, result.kind, 1, length, length)[0]

        def mask() -> np.ndarray | None:
            if not _has_mask(epilogue):
                return None
            size = bits // 8 * result.columns
            if not cupy.is_device_memory(aux, size):
                raise CUBLASError(f"a mask of {size} bytes at {aux:#x} does not lie in live memory of the device")
            return self._array(aux, np.dtype("uint8"), size).reshape(result.columns, bits // 8)

        return epilogue, vector, mask

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
        epilogue = product.epilogue
        if _has_vector(epilogue):
            if not product.get(MatmulDescAttribute.BIAS_POINTER):
                raise CUBLASError("CUBLAS_STATUS_INVALID_VALUE: the epilogue has no bias pointer")
            if product.get(MatmulDescAttribute.BIAS_DATA_TYPE, d.kind) != d.kind:
                raise CUBLASError("CUBLAS_STATUS_NOT_SUPPORTED (15)")
        if _has_mask(epilogue):
            bits = product.get(MatmulDescAttribute.EPILOGUE_AUX_LD)
            if not product.get(MatmulDescAttribute.EPILOGUE_AUX_POINTER) or bits < d.rows or bits % AUX_BITS:
                raise CUBLASError(f"CUBLAS_STATUS_INVALID_VALUE: a mask of {d.rows} rows, {bits} bits apart")
        return product.compute_type, tuple(sorted(product.attributes.items())), a, b, c, d

    # Numbers that stand for pointers to the library's things, and what lies at addresses of the host.

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
        return operator.index(self._array(address, np.dtype(dtype), 1)[0])

    def _array(self, address: int, dtype: np.dtype, count: int) -> np.ndarray:
        return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype)


def _has_vector(epilogue: Epilogue) -> bool:
    return "BIAS" in epilogue.name or "BGRAD" in epilogue.name


def _has_mask(epilogue: Epilogue) -> bool:
    return "AUX" in epilogue.name or "DRELU" in epilogue.name
