"""What this machine is: its cores, its processor, its BLAS library, and how much memory the process has used."""

import os
import platform
from pathlib import Path

from threadpoolctl import threadpool_info


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
    for library in threadpool_info():
        if library["user_api"] == "blas" and "numpy" in library["filepath"].lower():
            return f"{library['internal_api']} {library['version']} ({library.get('architecture', 'unknown')})"
    return "unknown"


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
