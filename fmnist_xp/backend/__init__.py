"""The array backend: NumPy on the CPU or CuPy on a CUDA GPU, and everything that differs between the two.

Code above it takes `xp` from a backend, writes each formula once as an `xp` expression, and never asks which
device it is on.
"""

import functools
import logging
from typing import Any

from fmnist_xp.arguments import whole_number
from fmnist_xp.backend.base import (
    PRECISIONS,
    Array,
    Backend,
    Call,
    Formula,
    Precision,
    Product,
    RowSum,
    Step,
    elementwise,
    epilogue,
    precision_name,
)
from fmnist_xp.backend.cpu import CpuBackend
from fmnist_xp.backend.cuda import CudaBackend, cuda_device_count, cuda_version, import_cupy
from fmnist_xp.backend.graphs import CudaGraphBackend
from fmnist_xp.errors import DeviceError
from fmnist_xp.machine import host_name, place_on_host

logger = logging.getLogger("fmnist_xp")

__all__ = [
    "PRECISIONS",
    "Array",
    "Backend",
    "Call",
    "CpuBackend",
    "CudaBackend",
    "CudaGraphBackend",
    "Formula",
    "Precision",
    "Product",
    "RowSum",
    "Step",
    "cuda_device_count",
    "cuda_version",
    "default_backend",
    "elementwise",
    "epilogue",
    "get_backend",
    "import_cupy",
    "precision_name",
]


def get_backend(
    device: str | Backend = "auto", *, threads: int | None = None, graphs: bool | None = None, comm: Any = None
) -> Backend:
    """Return the backend of `device`: "cpu", "cuda", "cuda:<index>", or "auto" for CUDA where it answers, else CPU.

    `threads` is for the CPU; by default all cores the process may use. `graphs` is for CUDA: whether training runs as
    CUDA graphs; by default where nvmath-python is installed. `comm`, a communicator of mpi4py, is for several
    processes that call this at once: those on one host take its CUDA devices in turn, unless an index is given. A
    `Backend` is returned as it is.
    Raises `DeviceError` where a CUDA device or its graphs are asked for and cannot be used (there is no fallback),
    and `ValueError` for any other name, for what is no number of threads, and for graphs on the CPU.
    """
    # First of all: the others wait for it.
    place = 0 if comm is None else place_on_host(comm.allgather(host_name()), comm.rank)
    if threads is not None:
        whole_number("threads", threads, 1)  # on every device alike
    if isinstance(device, Backend):
        return device
    if not isinstance(device, str):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<index>, or a Backend, got {device!r}")
    kind, colon, index = device.partition(":")
    if device == "cpu":
        if graphs:
            raise ValueError("CUDA graphs need a CUDA device, got cpu: leave graphs out, or take cuda")
        return CpuBackend(threads)
    if kind == "cuda" and (not colon or index.isdecimal()):
        return _cuda_backend(int(index) if index else place, graphs, wrap=not index)
    if device != "auto":
        raise ValueError(f"device must be auto, cpu, cuda or cuda:<index>, got {device!r}")
    try:
        return _cuda_backend(place, graphs, wrap=True)
    except DeviceError as error:
        if graphs:
            raise
        logger.debug("auto: %s", error)
        return CpuBackend(threads)


def _cuda_backend(index: int, graphs: bool | None, wrap: bool) -> CudaBackend:
    if wrap and index:
        index %= max(1, cuda_device_count(import_cupy()))
    if graphs is None:
        try:
            return CudaGraphBackend(index)
        except DeviceError as error:
            logger.debug("without CUDA graphs: %s", error)
    return CudaGraphBackend(index) if graphs else CudaBackend(index)


@functools.cache
def default_backend() -> Backend:
    """Return the CPU backend that a layer, loss or optimizer used alone computes with."""
    return CpuBackend()
