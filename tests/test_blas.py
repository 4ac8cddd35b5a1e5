"""NumPy's BLAS: its name, its kernels, and who holds it to one thread.

With the real library, the last is tested with the CPU's backend, and with real forks beside it.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fork_helpers import PATIENCE, in_thread

from fmnist_xp import blas


def test_blas_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries: list[dict[str, Any]] = [
        {"user_api": "openmp", "filepath": "/x/numpy.libs/libgomp.so", "internal_api": "openmp", "version": None},
        {"user_api": "blas", "filepath": "/x/scipy.libs/b.so", "internal_api": "mkl", "version": "1"},
        {"user_api": "blas", "filepath": "/x/NumPy.libs/b.so", "internal_api": "openblas", "version": "0.3"},
    ]
    monkeypatch.setattr(blas, "threadpool_info", lambda: libraries)
    assert blas.blas_name() == "openblas 0.3"
    libraries[2]["architecture"] = "Haswell"
    assert blas.blas_name() == "openblas 0.3 (Haswell kernels)"
    libraries[2]["threading_layer"] = "pthreads"
    assert blas.blas_name() == "openblas 0.3 (Haswell kernels, pthreads)"
    libraries[2]["architecture"] = None
    assert blas.blas_name() == "openblas 0.3 (pthreads)"
    monkeypatch.setattr(blas, "threadpool_info", lambda: libraries[:2])
    assert blas.blas_name() == "mkl 1"
    monkeypatch.setattr(blas, "threadpool_info", lambda: libraries[:1])
    assert blas.blas_name() == "unknown"


AVX2, AVX512 = "sse2 avx avx2", "sse2 avx avx2 avx512f avx512vl avx512_bf16"
# A processor's flags, a BLAS library, its kernels as threadpoolctl has them, the environment, what is said.
KERNELS: dict[str, tuple[str, str, str | None, dict[str, str], str | None]] = {
    "as it should be": (AVX512, "openblas", "SkylakeX", {}, None),
    "older by itself": (AVX512, "openblas", "Haswell", {}, None),
    "older": (AVX512, "openblas", "Haswell", {"OPENBLAS_CORETYPE": "Haswell"}, "AVX2, .* AVX-512: .* up to 2 times"),
    "Zen": (AVX512, "openblas", "Zen", {"OPENBLAS_CORETYPE": "ZEN"}, "AVX2, .* AVX-512: .* up to 2 times"),
    "much older": (AVX512, "openblas", "Nehalem", {"OPENBLAS_CORETYPE": "nehalem"}, "SSE, .* AVX-512: .* 8 times"),
    "older of the old": (AVX2, "openblas", "Sandybridge", {"OPENBLAS_CORETYPE": "x"}, "AVX, .* AVX2: .* 2 times"),
    "the newest": (AVX512, "openblas", "SkylakeX", {"OPENBLAS_CORETYPE": "SkylakeX"}, None),
    "its own": (AVX2, "openblas", "Haswell", {"OPENBLAS_CORETYPE": "Haswell"}, None),
    "of no effect": (AVX512, "openblas", "SkylakeX", {"OPENBLAS_CORETYPE": "Haswel"}, None),
    "empty": (AVX512, "openblas", "Haswell", {"OPENBLAS_CORETYPE": ""}, None),
    "of another library": (AVX512, "openblas", "Haswell", {"MKL_CBWR": "AVX2", "BLIS_ARCH_TYPE": "haswell"}, None),
    "BLIS": (AVX512, "blis", "haswell", {"BLIS_ARCH_TYPE": "5"}, "AVX2, .* AVX-512: .* 2 times"),
    "MKL": (AVX512, "mkl", None, {"MKL_CBWR": "AVX2,STRICT"}, "AVX2, .* AVX-512: .* 2 times"),
    "MKL, compatible": (AVX2, "mkl", None, {"MKL_CBWR": "COMPATIBLE"}, "SSE, .* AVX2: .* 4 times"),
    "MKL, the second": (AVX2, "mkl", None, {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}, "SSE, .* AVX2: .* 4 times"),
    "MKL, automatic": (AVX512, "mkl", None, {"MKL_CBWR": "AUTO"}, None),
    "unknown kernels": (AVX512, "openblas", "Newest", {"OPENBLAS_CORETYPE": "Newest"}, None),
    "no known flag": ("", "openblas", "generic", {"OPENBLAS_CORETYPE": "generic"}, None),
    "no x86": ("", "openblas", "neoversen1", {"OPENBLAS_CORETYPE": "neoversen1"}, None),
}


@pytest.mark.parametrize(("flags", "library", "kernels", "environment", "said"), KERNELS.values(), ids=KERNELS)
def test_older_kernels_chosen_by_the_environment_are_reported_with_their_cost(
    monkeypatch: pytest.MonkeyPatch,
    flags: str,
    library: str,
    kernels: str | None,
    environment: dict[str, str],
    said: str | None,
) -> None:
    for names in blas.KERNEL_VARIABLES.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(blas, "cpuinfo", lambda: {"flags": f"fpu {flags}"})
    found = {"user_api": "blas", "filepath": "", "internal_api": library, "version": "1", "architecture": kernels}
    monkeypatch.setattr(blas, "threadpool_info", lambda: [found])
    sentence = blas.older_kernels()
    if said is None:
        assert sentence is None
    else:
        ((name, value),) = environment.items()
        assert sentence is not None
        assert re.fullmatch(rf"{name}={value} holds BLAS to {said} as long", sentence)


def test_older_kernels_are_not_reported_without_cpu_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "generic")
    monkeypatch.setattr(blas, "cpuinfo", dict)
    found = {"user_api": "blas", "filepath": "", "internal_api": "openblas", "architecture": "generic"}
    monkeypatch.setattr(blas, "threadpool_info", lambda: [found])
    assert blas.older_kernels() is None


def test_older_kernels_are_not_reported_without_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "threadpool_info", list)
    assert blas.older_kernels() is None


class Process:
    """A process as threadpoolctl sees it, with 4 threads for BLAS and 6 for OpenMP, and its hooks for forks."""

    def __init__(self) -> None:
        self.threads = {"blas": 4, "openmp": 6}
        self.hooks: dict[str, Callable[[], object]] = {}
        self.limits_set = 0

    def limit(self, limits: int | None = None, user_api: str | None = None) -> Any:
        """Do as `threadpool_limits` does."""
        before, process = dict(self.threads), self
        self.limits_set += 1
        for api in self.threads:
            if limits is not None and user_api in (None, api):
                self.threads[api] = limits

        class Limits:
            def restore_original_limits(self) -> None:
                process.threads.update(before)

        return Limits()


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    """A process in which BLAS has not been held to one thread yet."""
    made = Process()
    monkeypatch.setattr(blas, "threadpool_limits", made.limit)
    monkeypatch.setattr(os, "register_at_fork", lambda **hooks: made.hooks.update(hooks), raising=False)
    monkeypatch.setattr(blas, "_blas", blas._Blas())
    monkeypatch.setattr(blas, "_here", threading.local())
    return made


def is_free() -> bool:
    """Return whether another thread could now begin or end to hold BLAS to one thread."""

    def attempt() -> bool:
        if taken := blas._blas.lock.acquire(blocking=False):
            blas._blas.lock.release()
        return taken

    return bool(in_thread(attempt))


@contextmanager
def held_by_another_thread() -> Iterator[None]:
    begun, enough = threading.Event(), threading.Event()

    def hold() -> None:
        with blas.single_threaded_blas():
            begun.set()
            enough.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(PATIENCE)
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_each_thread_that_computes_is_limited_once_while_somebody_holds_blas(process: Process) -> None:
    def compute_twice() -> None:
        for _ in range(2):
            blas.keep_blas_single_threaded_here()

    compute_twice()
    assert process.limits_set == 0
    with blas.single_threaded_blas():
        assert process.limits_set == 1
        compute_twice()
        assert process.limits_set == 2
        in_thread(compute_twice)
        assert process.limits_set == 3
        assert process.threads == {"blas": 1, "openmp": 6}
    assert process.threads == {"blas": 4, "openmp": 6}


def test_fork_waits_for_a_holder_that_enters_or_leaves_and_keeps_the_parents_state(process: Process) -> None:
    with blas.single_threaded_blas():
        assert is_free()
        process.hooks["before"]()
        assert not is_free()
        process.hooks["after_in_parent"]()
        assert is_free()
        assert process.threads["blas"] == 1
    assert process.threads["blas"] == 4


def test_child_of_a_process_without_holders_has_all_threads(process: Process) -> None:
    process.hooks["before"]()
    process.hooks["after_in_child"]()
    assert process.threads["blas"] == 4
    assert is_free()


def test_blas_alone_is_held_to_one_thread_until_the_last_holder_ends(process: Process) -> None:
    with held_by_another_thread():
        with blas.single_threaded_blas(), blas.single_threaded_blas():
            assert process.threads == {"blas": 1, "openmp": 6}
        assert process.threads == {"blas": 1, "openmp": 6}
    assert process.threads == {"blas": 4, "openmp": 6}
    assert process.limits_set == 1


def test_child_forgets_the_holder_that_stayed_in_the_parent(process: Process) -> None:
    with held_by_another_thread():
        process.hooks["before"]()
        process.hooks["after_in_child"]()
        assert process.threads["blas"] == 4
        assert is_free()
        with blas.single_threaded_blas():
            assert process.threads["blas"] == 1
        assert process.threads["blas"] == 4


def test_child_of_a_holder_is_a_holder(process: Process) -> None:
    with held_by_another_thread(), blas.single_threaded_blas():
        process.hooks["before"]()
        process.hooks["after_in_child"]()
        assert process.threads["blas"] == 1
        with blas.single_threaded_blas():
            assert process.threads["blas"] == 1
        assert process.threads["blas"] == 1
        assert is_free()
    assert process.threads["blas"] == 4
