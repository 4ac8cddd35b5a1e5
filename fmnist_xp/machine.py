"""What this machine is: its cores, its processor, its BLAS library, and how much memory the process has used."""

import os
import platform
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from threadpoolctl import OpenBLASController, threadpool_info, threadpool_limits

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What sets the number of threads of a BLAS library; our threads take BLAS's place, so it bounds theirs."""


def usable_cores() -> int:
    """Return how many cores this process may use, at least 1.

    Its affinity, the quotas of its control groups and the environment's `THREAD_VARIABLES` all have to allow them.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cgroup_cores()
    limits = [cores, *thread_limits().values()] + ([] if quota is None else [int(quota)])
    return max(1, min(limits))


def thread_limits() -> dict[str, int]:
    """Return the number of threads that each of `THREAD_VARIABLES` allows, of those that hold one."""
    limits = {}
    for name in THREAD_VARIABLES:
        # OpenMP takes a list, of which the first is for threads that are not made by threads.
        with suppress(ValueError):
            limits[name] = int(os.environ.get(name, "").split(",")[0])
    return {name: limit for name, limit in limits.items() if limit > 0}


def cgroup_cores(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of the process in cores, or None where it has none.

    It is the least of the quotas of its control group and of all groups above, in whichever of the two versions;
    what cannot be read limits nothing. `root` is the file system's.
    """
    quotas = [quota for group in _control_groups(root) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of the process's control groups, each and those above it, that may have a CPU quota."""
    paths: dict[str, PurePosixPath] = {}  # by the file system's name
    for line in _lines(root / "proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths["cgroup2"] = PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            paths["cgroup"] = PurePosixPath(path)
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, system = line.partition(" - ")
        fields, kind, options = mount.split(), system.partition(" ")[0], re.split("[ ,]", system)
        if len(fields) < 5 or kind not in paths or (kind == "cgroup" and "cpu" not in options):
            continue
        # What is mounted may be a group itself, as in a container, and the process in one outside of it.
        group, mounted, point = paths[kind], *map(_unescaped, fields[3:5])
        inside = group.relative_to(mounted) if group.is_relative_to(mounted) else PurePosixPath()
        top = root / point.lstrip("/")
        yield from (top / part for part in (inside, *inside.parents))


def _quota(group: Path) -> float | None:
    """Return the quota that a control group itself has, in cores."""
    text = " ".join(_lines(group / "cpu.max")) or " ".join(
        line for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for line in _lines(group / name)
    )
    try:
        quota, period = map(int, text.split())
        return quota / period if quota > 0 and period > 0 else None
    except (ValueError, OverflowError):  # "max" where there is none
        return None


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, in which blanks and backslashes are octal numbers, as it is."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _lines(path: Path) -> list[str]:
    """Return the lines of a small file of the system; none where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except (OSError, ValueError):  # a path with a NUL in it is no path
        return []


def cpu_name() -> str:
    """Return the processor's name as the operating system has it, with the numbers that tell it from its kin.

    Virtual machines call very different processors "AMD EPYC".
    """
    fields = _cpuinfo()
    name = fields.get("model name") or platform.processor() or platform.machine()
    for first, second in (("cpu family", "model"), ("CPU implementer", "CPU part")):  # of x86 and of ARM
        if first in fields and second in fields:
            return f"{name} ({first.split()[-1]} {fields[first]}, {second.split()[-1]} {fields[second]})"
    return name


def _cpuinfo() -> dict[str, str]:
    """Return the fields of the first processor, by name; empty where the system has no such file."""
    fields: dict[str, str] = {}
    for line in _lines(Path("/proc/cpuinfo")):
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def blas_name() -> str:
    """Return NumPy's BLAS library with its version, its kernels and what makes its threads, as far as it tells."""
    library = _numpys_blas()
    if not library:
        return "unknown"
    kernels = f"{library['architecture']} kernels" if library.get("architecture") else ""
    details = ", ".join(filter(None, (kernels, library.get("threading_layer"))))
    return f"{library['internal_api']} {library['version']}" + f" ({details})" * bool(details)


def _numpys_blas() -> dict[str, Any]:
    """Return what threadpoolctl says of NumPy's BLAS library; empty where it finds none."""
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    # Other packages bring their own; where none lies in NumPy's folder, NumPy uses the system's.
    return min(libraries, key=lambda library: "numpy" not in library["filepath"].lower(), default={})


# Vector instructions, each with twice the arithmetic of those before; the flag of a processor that has them, and the
# kernels of OpenBLAS and BLIS and the settings of MKL that go no further.
INSTRUCTIONS = (
    ("SSE", "sse2", "core2 penryn dunnington prescott nehalem generic compatible sse2 ssse3 sse4_1 sse4_2"),
    ("AVX", "avx", "sandybridge avx"),
    ("AVX2", "avx2", "haswell zen zen2 zen3 avx2"),
    ("AVX-512", "avx512vl", "skylakex cooperlake sapphirerapids skx knl zen4 zen5 avx512 avx512_e1"),
)
KERNEL_VARIABLES = {
    "openblas": ("OPENBLAS_CORETYPE",),
    "blis": ("BLIS_ARCH_TYPE",),
    "mkl": ("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
}


def older_kernels() -> str | None:
    """Return a sentence where an environment variable has BLAS use older instructions than the processor has."""
    library, flags = _numpys_blas(), _cpuinfo().get("flags", "").split()
    there = max((level for level, (_, flag, _) in enumerate(INSTRUCTIONS) if flag in flags), default=0)
    for variable in KERNEL_VARIABLES.get(library.get("internal_api", ""), ()):
        setting = os.environ.get(variable, "")
        kernels = library.get("architecture") or setting.partition(",")[0]  # MKL does not tell
        for level, (name, _, known) in enumerate(INSTRUCTIONS[:there]):
            if setting and kernels.lower() in known.split():
                return (
                    f"{variable}={setting} holds BLAS to {name}, and the processor has {INSTRUCTIONS[there][0]}: "
                    f"products may take up to {2 ** (there - level)} times as long"
                )
    return None


class _Blas:
    """Who holds BLAS to one thread: a setting of the whole process, whoever asks for it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.holders: Counter[int] = Counter()  # by thread: after a fork, only one of them is left
        self.limits: threadpool_limits
        if hasattr(os, "register_at_fork"):  # nobody is half way in or out when the process is copied
            os.register_at_fork(
                before=self.lock.acquire, after_in_parent=self.lock.release, after_in_child=self.after_fork
            )

    def limit(self) -> threadpool_limits:
        """Hold BLAS to one thread; return what puts the number back that was."""
        limits = threadpool_limits(1, user_api="blas")
        self.clear()
        return limits

    def release(self) -> None:
        """Put back the number of threads that BLAS had before the first holder."""
        self.limits.restore_original_limits()
        self.clear()

    def clear(self) -> None:
        """Let any thread set limits: since threadpoolctl 3.8 the first to set one is else the only one obeyed."""
        clear = getattr(OpenBLASController, "clear_controlling_thread", None)
        if clear is not None:
            clear(force=True)

    def after_fork(self) -> None:
        """Forget, in the child, the holders that stayed in the parent."""
        held, thread = bool(self.holders), threading.get_ident()
        self.holders = +Counter({thread: self.holders[thread]})
        if held and not self.holders:
            self.release()
        self.lock.release()


_blas = _Blas()
_limited = threading.local()


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS to one thread until the last of those who ask for it, on whatever thread, is done."""
    thread = threading.get_ident()
    with _blas.lock:
        if not _blas.holders:
            _blas.limits = _blas.limit()
        _blas.holders[thread] += 1
    try:
        yield
    finally:
        with _blas.lock:
            _blas.holders[thread] -= 1
            _blas.holders = +_blas.holders  # those left
            if not _blas.holders:
                _blas.release()


def keep_blas_single_threaded_here() -> None:
    """Hold BLAS to one thread on this thread from now on: for MKL and OpenMP, the number is each thread's own.

    For threads that compute nothing else, while somebody holds `single_threaded_blas`.
    """
    if not hasattr(_limited, "here"):
        with _blas.lock:
            if _blas.holders:  # else the process would keep what we set
                _blas.limit()
                _limited.here = True


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
