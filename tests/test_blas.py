"""NumPy's BLAS: its name, its kernels. That it is held to one thread is tested with the CPU's backend."""

import re
from typing import Any

import pytest

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
    "kernels nobody knows": (AVX512, "openblas", "Newest", {"OPENBLAS_CORETYPE": "Newest"}, None),
    "no x86": ("", "openblas", "neoversen1", {"OPENBLAS_CORETYPE": "neoversen1"}, None),
}


@pytest.mark.parametrize(("flags", "library", "kernels", "environment", "said"), KERNELS.values(), ids=KERNELS)
def test_older_kernels_that_the_environment_chose_are_told_with_their_cost(
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


def test_without_blas_nothing_is_said_of_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "threadpool_info", list)
    assert blas.older_kernels() is None
