"""What the command `devices` prints: the hardware and libraries that were found, and what is missing for CUDA."""

import re
import shutil
import subprocess

import numpy as np

from fmnist_xp.backend import cuda_device_count, cuda_version, get_backend, import_cupy
from fmnist_xp.blas import blas_name, older_kernels
from fmnist_xp.errors import DeviceError
from fmnist_xp.machine import cpu_name, thread_limits, usable_cores


def survey() -> list[tuple[str, str]]:
    """Return (what, what was found) for the CPU, BLAS, threads, driver, CuPy, each GPU, and the advice to follow."""
    limits = ", ".join(f"{name}={limit}" for name, limit in thread_limits().items())
    rows = [
        ("CPU", cpu_name()),
        ("threads", f"{usable_cores()} usable" + f" ({limits})" * bool(limits)),
        ("NumPy", np.__version__),
        ("BLAS", "; ".join(filter(None, (blas_name(), older_kernels())))),
        ("NVIDIA driver", _driver()),
    ]
    try:
        cupy = import_cupy()
        rows.append(("CuPy", f"{cupy.__version__} (CUDA {cuda_version(cupy.cuda.runtime.runtimeGetVersion())})"))
        for index in range(cuda_device_count(cupy)):
            properties = cupy.cuda.runtime.getDeviceProperties(index)
            capability = f"{properties['major']}.{properties['minor']}"
            memory = properties["totalGlobalMem"] / 2**30
            rows.append((f"cuda:{index}", f"{_text(properties['name'])}, {memory:.0f} GiB, compute {capability}"))
        get_backend("cuda", graphs=False)
        rows.append(("CUDA", "ready"))
        rows.append(("CUDA graphs", _graphs()))
    except DeviceError as error:
        reason = re.sub("^a CUDA device was asked for, (and|but) ", "", str(error))
        rows.append(("CUDA", f"not usable: {reason}"))
    rows.append(("--device auto", get_backend("auto").name))
    return rows


def _graphs() -> str:
    """Return whether training runs as CUDA graphs, and what is missing where it does not."""
    try:
        get_backend("cuda", graphs=True)
    except DeviceError as error:
        return f"not used: {str(error).removeprefix('CUDA graphs were asked for, but ')}"
    return "ready"


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
