"""A description of the machine, without names of hosts and paths."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench import kernels
from bench.measure import nvml_device
from fmnist_xp.backend import Backend, cuda_version
from fmnist_xp.blas import blas_name
from fmnist_xp.machine import cpu_name, memory_bytes, usable_cores

PACKAGES = {
    "numpy": ("numpy",),
    "cupy": ("cupy-cuda12x", "cupy-cuda13x", "cupy"),
    "torch": ("torch",),
    "jax": ("jax",),
    "scikit-learn": ("scikit-learn",),
    "opencv": ("opencv-python-headless", "opencv-python"),
}


def describe(backend: Backend) -> dict[str, Any]:
    """Return the hardware, the versions and what `kernels` has unset; None for what is missing or unknown."""
    return {
        "cpu": cpu_name(),
        "cores_usable": usable_cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "blas": blas_name(),
        "blas_variables_unset": kernels.unset,
        "python": platform.python_version(),
        **{name: _version(*distributions) for name, distributions in PACKAGES.items()},
        **_gpu(backend),
    }


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def _gpu(backend: Backend) -> dict[str, str | bool | None]:
    if backend.cuda_index is None:
        return {"gpu": None, "cuda_graphs": None, "cuda": None, "driver": None}
    nvml, _handle = nvml_device(backend)
    driver = nvml.nvmlSystemGetDriverVersion() if nvml else None
    return {
        "gpu": backend.device_name,
        "cuda_graphs": backend.captures,
        "cuda": cuda_version(backend.xp.cuda.runtime.runtimeGetVersion()),
        "driver": driver.decode() if isinstance(driver, bytes) else driver,
    }
