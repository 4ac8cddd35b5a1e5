"""This machine: its cores, its processor and its memory, and the memory that the process has used."""

import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""Variables that limit the threads of a BLAS library; our threads replace BLAS's, so they limit ours too."""


def host_name() -> str:
    """Return the name of this machine among those of a cluster."""
    return platform.node()


def place_on_host(hosts: Sequence[str], rank: int) -> int:
    """Return how many ranks before `rank` are on its host, where `hosts` has the host of each."""
    return hosts[:rank].count(hosts[rank])


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1.

    Its affinity, the quotas of its control groups and the environment's `THREAD_VARIABLES` all have to allow them.
    """
    return cores_among(affinity(), [affinity()])


def affinity() -> set[int]:
    """Return the numbers of the cores that the process may run on."""
    known = getattr(os, "sched_getaffinity", None)
    return known(0) if known else set(range(os.cpu_count() or 1))


def cores_among(own: set[int], sharers: Sequence[set[int]]) -> int:
    """Return how many cores this process may use, at least 1, where several processes share them.

    `own` is its `affinity`, and `sharers` are those of all processes on this machine, of which it is one. A core is
    divided among those that may run on it, a quota of the control group among all.
    """
    share = sum(1 / sum(core in other for other in sharers) for core in own)
    quota = cgroup_cores()
    limits = [share + 1e-9, *thread_limits().values()] + ([] if quota is None else [quota / len(sharers)])
    return max(1, int(min(limits)))


def thread_limits() -> dict[str, int]:
    """Return the number of threads that each of `THREAD_VARIABLES` allows, of those that hold one."""
    limits = {}
    for name in THREAD_VARIABLES:
        # OpenMP takes a list, by level of nesting; the first is for the outermost.
        with suppress(KeyError, ValueError):
            limits[name] = int(os.environ[name].split(",")[0])
    return {name: limit for name, limit in limits.items() if limit > 0}


def cgroup_cores(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of the process in cores, or None where it has none.

    It is the least of the quotas of its control group and of all groups above, in either version of cgroups; files
    that cannot be read limit nothing. `root` is the file system's.
    """
    quotas = [quota for group in _control_groups(root) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the process's control groups, each and those above it, that may have a CPU quota.

    Those of the same name under version 1's other controllers are among them: they have no such files.
    """
    paths: dict[str, PurePosixPath] = {}  # by the file system's name
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            paths["cgroup2"] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            paths["cgroup"] = PurePosixPath(path)
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, system = line.partition(" - ")
        fields, kind = mount.split(), system.partition(" ")[0]
        if len(fields) < 5 or kind not in paths:
            continue
        # In a container the mount may be a group itself, and the process in one outside of it.
        group, mounted, point = paths[kind], *map(_unescaped, fields[3:5])
        inside = group.relative_to(mounted) if group.is_relative_to(mounted) else PurePosixPath()
        top = root / point.lstrip("/")
        yield from (top / part for part in (inside, *inside.parents))


def _quota(group: Path) -> float | None:
    """Return the quota that a control group itself has, in cores."""
    # Version 2 has both numbers in one file, version 1 in two.
    files = ("cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        quota, period = map(int, " ".join(line for name in files for line in _lines(group / name)).split())
        return quota / period if quota > 0 and period > 0 else None
    except (ValueError, OverflowError):  # "max" where there is none
        return None


def _unescaped(path: str) -> str:
    """Return a path of mountinfo with its octal escapes of blanks and backslashes decoded."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _lines(path: Path) -> list[str]:
    """Return the lines of a small file of the system; none where it cannot be read."""
    try:
        return os.fsdecode(path.read_bytes()).splitlines()
    except (OSError, ValueError):  # a path that contains NUL
        return []


def cpu_name() -> str:
    """Return the processor's name as the operating system has it, with the numbers of its model.

    Very different processors are called "AMD EPYC" in virtual machines.
    """
    fields = cpuinfo()
    name = fields.get("model name") or platform.processor() or platform.machine()
    for first, second in (("cpu family", "model"), ("CPU implementer", "CPU part")):  # of x86 and of ARM
        if first in fields and second in fields:
            return f"{name} ({first.split()[-1]} {fields[first]}, {second.split()[-1]} {fields[second]})"
    return name


def cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor, by name; empty where the system has no such file."""
    fields: dict[str, str] = {}
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def memory_bytes() -> int | None:
    """Return how much memory the machine has, in bytes, or None where that is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def reset_peak_resident_bytes() -> int | None:
    """Make the peak resident size the present one and return it in bytes; None where that cannot be done."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux
    except OSError:
        return None
    return peak_resident_bytes()


def peak_resident_bytes() -> int | None:
    """Return the peak resident size of this process in bytes, or None where that is unknown."""
    # Not ru_maxrss, which on Linux starts at the size of the parent process.
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    if platform.system() != "Darwin":
        return None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
