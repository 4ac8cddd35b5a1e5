"""NumPy's BLAS library: its name, what slows it down, and its number of threads."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import OpenBLASController, threadpool_info, threadpool_limits

from fmnist_xp.machine import cpuinfo

# Vector instructions, each with twice the arithmetic of those before; the flag of a processor that has them, and the
# kernels of OpenBLAS and BLIS and the settings of MKL that use these at most.
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


def blas_name() -> str:
    """Return NumPy's BLAS library with its version, its kernels and its threading layer, as far as known."""
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


def older_kernels() -> str | None:
    """Return a sentence where an environment variable has BLAS use older instructions than the processor has."""
    library, flags = _numpys_blas(), cpuinfo().get("flags", "").split()
    if not library:
        return None
    there = max((level for level, (_, flag, _) in enumerate(INSTRUCTIONS) if flag in flags), default=0)
    for variable in KERNEL_VARIABLES.get(library["internal_api"], ()):
        setting = os.environ.get(variable, "")
        kernels = library.get("architecture") or setting.partition(",")[0]  # MKL reports none
        for level, (name, _, known) in enumerate(INSTRUCTIONS[:there]):
            if setting and kernels.lower() in known.split():
                return (
                    f"{variable}={setting} holds BLAS to {name}, and the processor has {INSTRUCTIONS[there][0]}: "
                    f"products may take up to {2 ** (there - level)} times as long"
                )
    return None


class _Blas:
    """The holders of BLAS at one thread, which is a setting of the whole process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.holders: Counter[int] = Counter()  # by thread: a fork keeps one thread alone
        self.limits: threadpool_limits
        if hasattr(os, "register_at_fork"):  # no fork while a holder enters or leaves
            os.register_at_fork(
                before=self.lock.acquire, after_in_parent=self.lock.release, after_in_child=self.after_fork
            )

    def limit(self) -> threadpool_limits:
        """Limit BLAS to one thread; return the object that restores the number before."""
        with self.obeyed():
            return threadpool_limits(1, user_api="blas")

    def release(self) -> None:
        """Restore the number of threads that BLAS had before the first holder."""
        with self.obeyed():
            self.limits.restore_original_limits()

    @contextmanager
    def obeyed(self) -> Iterator[None]:
        """Let this thread set limits, and any other later: threadpoolctl, since 3.8, obeys the first one alone."""
        clear = getattr(OpenBLASController, "clear_controlling_thread", lambda force: None)
        clear(force=True)
        yield
        clear(force=True)

    def after_fork(self) -> None:
        """Forget, in the child, the holders that stayed in the parent."""
        try:
            held, thread = bool(self.holders), threading.get_ident()
            self.holders = +Counter({thread: self.holders[thread]})
            if held and not self.holders:
                self.release()
        finally:
            self.lock.release()


_blas = _Blas()
_here = threading.local()  # `limited` once this thread has limited BLAS


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Hold BLAS to one thread until the last holder, on whatever thread, is done."""
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
            _blas.holders = +_blas.holders  # without zeros
            if not _blas.holders:
                _blas.release()


def keep_blas_single_threaded_here() -> None:
    """Hold BLAS to one thread on this thread from now on: MKL and OpenMP have a number for each thread.

    For threads that compute nothing else, while somebody holds `single_threaded_blas`.
    """
    if not hasattr(_here, "limited"):
        with _blas.lock:
            if _blas.holders:  # else nobody would restore the number
                _blas.limit()
                _here.limited = True
