"""What the command `devices` prints: the hardware and libraries that were found, and what is missing for CUDA."""

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fmnist_xp.backend import cuda_device_count, cuda_version, get_backend, import_cupy
from fmnist_xp.blas import blas_name, older_kernels
from fmnist_xp.errors import DeviceError
from fmnist_xp.machine import cpu_name, thread_limits, usable_cores


@dataclass(frozen=True)
class Gpu:
    """A GPU that CuPy has found; `device` is its name for `--device`."""

    device: str
    name: str
    memory_bytes: int
    compute_capability: str


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found, field by field as in the JSON of `devices`.

    `blas_advice` is a sentence on slow BLAS kernels. `cupy` and `cuda_version` are None without a CuPy that loads.
    `cuda_missing` says why CUDA is not usable, and where it is, `graphs_missing` why CUDA graphs are not used; None
    where nothing is missing. `auto` is the device that `--device auto` takes.
    """

    cpu: str
    threads: int
    thread_limits: Mapping[str, int]
    numpy: str
    blas: str | None
    blas_advice: str | None
    driver: str
    cupy: str | None = None
    cuda_version: str | None = None
    gpus: Sequence[Gpu] = ()
    cuda_missing: str | None = None
    graphs_missing: str | None = None
    auto: str

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield (what, what was found) for a table, in words."""
        limits = ", ".join(f"{name}={limit}" for name, limit in self.thread_limits.items())
        yield "CPU", self.cpu
        yield "threads", f"{self.threads} usable" + f" ({limits})" * bool(limits)
        yield "NumPy", self.numpy
        yield "BLAS", "; ".join(filter(None, (self.blas, self.blas_advice)))
        yield "NVIDIA driver", self.driver
        if self.cupy is not None:
            yield "CuPy", f"{self.cupy} (CUDA {self.cuda_version})"
        for gpu in self.gpus:
            memory = f"{gpu.memory_bytes / 2**30:.0f} GiB"
            yield gpu.device, f"{gpu.name}, {memory}, compute {gpu.compute_capability}"
        if self.cuda_missing is not None:
            yield "CUDA", f"not usable: {self.cuda_missing}"
        else:
            yield "CUDA", "ready"
            yield "CUDA graphs", "ready" if self.graphs_missing is None else f"not used: {self.graphs_missing}"
        yield "--device auto", self.auto


def survey() -> Survey:
    """Return what is found now: CPU, BLAS, threads, driver, CuPy, each GPU, and what is missing."""
    found: dict[str, Any] = {}
    try:
        cupy = import_cupy()
        found["cupy"] = cupy.__version__
        found["cuda_version"] = cuda_version(cupy.cuda.runtime.runtimeGetVersion())
        gpus = found["gpus"] = []
        for index in range(cuda_device_count(cupy)):
            properties = cupy.cuda.runtime.getDeviceProperties(index)
            capability = f"{properties['major']}.{properties['minor']}"
            gpus.append(Gpu(f"cuda:{index}", _text(properties["name"]), properties["totalGlobalMem"], capability))
        get_backend("cuda", graphs=False)
        found["graphs_missing"] = _graphs_missing()
    except DeviceError as error:
        found["cuda_missing"] = re.sub("^a CUDA device was asked for, (and|but) ", "", str(error))
    return Survey(
        cpu=cpu_name(),
        threads=usable_cores(),
        thread_limits=thread_limits(),
        numpy=np.__version__,
        blas=blas_name(),
        blas_advice=older_kernels(),
        driver=_driver(),
        **found,
        auto=get_backend("auto").name,
    )


def _graphs_missing() -> str | None:
    """Return why training does not run as CUDA graphs, None where it does."""
    try:
        get_backend("cuda", graphs=True)
    except DeviceError as error:
        return str(error).removeprefix("CUDA graphs were asked for, but ")
    return None


def _driver() -> str:
    """Return the driver's version and the GPU's name from nvidia-smi, which needs no CuPy."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none found (there is no nvidia-smi)"
    command = [tool, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "nvidia-smi is there, but does not answer"
    return "; ".join(answer.split("\n")[:-1]) or "no GPU found"


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
