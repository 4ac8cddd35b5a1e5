"""What this machine is: its cores, its processor, its BLAS library, and how much memory the process has used."""

import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from threadpoolctl import threadpool_info, threadpool_limits


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity and its cgroup's quota, at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cgroup_cores()
    return max(1, min(cores, int(quota))) if quota else cores


def cgroup_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the CPU quota of the control group in cores (versions 2 and 1), or None where there is none."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def cpu_name() -> str:
    """Return the processor's name as the operating system has it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def blas_name() -> str:
    """Return NumPy's BLAS library with its version, as threadpoolctl finds it."""
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    # Other packages bring their own; where none lies in NumPy's folder, NumPy uses the system's.
    for library in sorted(libraries, key=lambda library: "numpy" not in library["filepath"].lower()):
        return f"{library['internal_api']} {library['version']} ({library.get('architecture', 'unknown')})"
    return "unknown"


class _Blas:
    """How many hold BLAS to one thread: a setting of the whole process, whoever asks for it."""

    lock = threading.Lock()
    holders = 0
    limits: threadpool_limits


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS to one thread until the last of those who ask for it, on whatever thread, is done."""
    with _Blas.lock:
        if _Blas.holders == 0:
            _Blas.limits = threadpool_limits(1, user_api="blas")
        _Blas.holders += 1
    try:
        yield
    finally:
        with _Blas.lock:
            _Blas.holders -= 1
            if _Blas.holders == 0:
                _Blas.limits.restore_original_limits()


def peak_resident_bytes() -> int | None:
    """Return the peak resident size of this process in bytes, or None where the system does not tell."""
    try:
        # Not ru_maxrss, which on Linux starts from the size of the process that started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if platform.system() != "Darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
