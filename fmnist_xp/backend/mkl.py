"""Matrix products of NumPy arrays by oneMKL, where the package `mkl` is installed and the processor is Intel's.

The BLAS that comes with NumPy's wheels, OpenBLAS, is slower there on matrices as narrow as a layer. oneMKL is called
by address and for products alone; everything else stays NumPy's.
"""

import ctypes
import functools
import importlib.metadata
import logging
from typing import Any

import numpy as np

from fmnist_xp import machine
from fmnist_xp.backend.base import Array, Call

logger = logging.getLogger("fmnist_xp")

# Numbers of mkl_cblas.h, mkl_service.h and mkl_types.h.
ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112
INTERFACE_LP64, THREADING_SEQUENTIAL, CBWR_AUTO = 0, 1, 2


class Mkl:
    """The products of the library at `path`."""

    def __init__(self, path: str, version: str) -> None:
        """Load it; raise `OSError` where it does not load, `AttributeError` where it lacks a function."""
        self.name = f"oneMKL {version}"
        library = ctypes.CDLL(path)
        # Before its first product: 32-bit sizes, no threads of its own, and sums whose order does not depend on where
        # in memory a matrix begins, which differs between the engine's workers.
        library.MKL_Set_Interface_Layer(INTERFACE_LP64)
        library.MKL_Set_Threading_Layer(THREADING_SEQUENTIAL)
        library.MKL_CBWR_Set(CBWR_AUTO)
        self._products = {
            np.dtype("float32"): (library.cblas_sgemm, ctypes.c_float),
            np.dtype("float64"): (library.cblas_dgemm, ctypes.c_double),
        }
        for product, _scalar in self._products.values():
            product.restype = None

    def dot_calls(self, a: Array, b: Array, out: Array, scale: float) -> list[Call] | None:
        """Return the call that writes scale · a · b to `out`, or None where it is not for this library."""
        found = self._products.get(out.dtype)
        left, right, result = (_stored(matrix) if matrix.dtype == out.dtype else None for matrix in (a, b, out))
        fit = a.shape[1:] == b.shape[:1] and out.shape == a.shape[:1] + b.shape[1:] and out.flags.writeable
        if not (found and left and right and result and result[0] == NO_TRANS and fit):
            return None
        product, scalar = found
        size, address = ctypes.c_int, ctypes.c_void_p
        # As C has them, so that nothing is converted when the call is made again. An address keeps its array alive.
        arguments = (
            *(size(ROW_MAJOR), size(left[0]), size(right[0])),
            *(size(out.shape[0]), size(out.shape[1]), size(a.shape[1])),
            *(scalar(scale), a.ctypes.data_as(address), size(left[1])),
            *(b.ctypes.data_as(address), size(right[1])),
            *(scalar(0), out.ctypes.data_as(address), size(result[1])),
        )
        return [(product, arguments)]


def _stored(matrix: Array) -> tuple[int, int] | None:
    """Return how a matrix is stored and the stride of its rows or columns; None where it is none, or has gaps."""
    if matrix.ndim != 2 or not matrix.size or not matrix.flags.aligned:
        return None
    if matrix.flags.c_contiguous:
        return NO_TRANS, matrix.shape[1]
    return (TRANS, matrix.shape[0]) if matrix.flags.f_contiguous else None


@functools.cache
def find_mkl() -> Mkl | None:
    """Return oneMKL where it is installed and the processor is Intel's, else None: on others no gain was measured."""
    if "intel" not in machine.cpu_name().lower():
        return None
    try:
        distribution = importlib.metadata.distribution("mkl")
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [file for file in distribution.files or () if file.name.startswith(("libmkl_rt.", "mkl_rt."))]
    libraries: list[Any] = [path.locate() for path in paths if ".so" in path.name or path.suffix == ".dll"]
    try:
        return Mkl(str(libraries[0].resolve()), distribution.version)
    except (IndexError, OSError, AttributeError) as error:
        reason = "it has no library mkl_rt" if isinstance(error, IndexError) else error
        logger.warning("the package mkl is installed but not usable (%s): products stay with NumPy's BLAS", reason)
        return None


def blas_names() -> str:
    """Return the BLAS library, or the libraries, that a CPU multiplies with."""
    mkl, numpy = find_mkl(), machine.blas_name()
    return f"{mkl.name} for products, {numpy} for the rest" if mkl else numpy
