import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fmnist_xp import devices
from fmnist_xp.backend import CpuBackend
from fmnist_xp.devices import survey
from fmnist_xp.errors import DeviceError
from fmnist_xp.machine import THREAD_VARIABLES, usable_cores


def gpu(name: str | bytes, gib: int) -> dict[str, Any]:
    return {"name": name, "major": 9, "minor": 0, "totalGlobalMem": gib * 2**30}


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CuPy with two GPUs; newer versions give their names as bytes."""
    properties = [gpu(b"NVIDIA H100", 80), gpu("NVIDIA L4", 24)]
    runtime = SimpleNamespace(
        CUDARuntimeError=RuntimeError,
        runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 13000,
        getDeviceCount=lambda: 2,
        getDeviceProperties=properties.__getitem__,
    )
    cupy = SimpleNamespace(__version__="14.2.0", cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(devices, "import_cupy", lambda: cupy)


def backend_named(name: str) -> CpuBackend:
    backend = CpuBackend(1)
    backend.name = name  # type: ignore[misc]
    return backend


def test_each_gpu_has_a_row(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "get_backend", lambda _device, **_options: backend_named("cuda:0"))
    found = dict(survey().rows())
    assert found["CuPy"] == "14.2.0 (CUDA 12.9)"
    assert found["CUDA graphs"] == "ready"
    assert found["cuda:0"] == "NVIDIA H100, 80 GiB, compute 9.0"
    assert found["cuda:1"] == "NVIDIA L4, 24 GiB, compute 9.0"
    assert found["CUDA"] == "ready"
    assert found["--device auto"] == "cuda:0"
    assert found["NumPy"] == np.__version__


def test_what_is_found_field_by_field(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "get_backend", lambda _device, **_options: backend_named("cuda:0"))
    found = survey()
    assert (found.cupy, found.cuda_version, found.auto) == ("14.2.0", "12.9", "cuda:0")
    assert (found.cuda_missing, found.graphs_missing) == (None, None)
    assert [tuple(vars(gpu).values()) for gpu in found.gpus] == [
        ("cuda:0", "NVIDIA H100", 80 * 2**30, "9.0"),
        ("cuda:1", "NVIDIA L4", 24 * 2**30, "9.0"),
    ]
    assert (found.numpy, found.threads) == (np.__version__, usable_cores())


def test_cuda_is_tried_without_graphs_and_then_with_them(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get_backend(device: str, **options: bool) -> CpuBackend:
        asked.append((device, options))
        return backend_named("cuda:0")

    monkeypatch.setattr(devices, "get_backend", get_backend)
    survey()
    assert asked == [("cuda", {"graphs": False}), ("cuda", {"graphs": True}), ("auto", {})]


def test_thread_limits_and_slow_blas_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(devices, "blas_name", lambda: "a BLAS")
    monkeypatch.setattr(devices, "older_kernels", lambda: None)
    found = dict(survey().rows())
    assert found["threads"] == f"{usable_cores()} usable"
    assert found["BLAS"] == "a BLAS"
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    monkeypatch.setenv("MKL_NUM_THREADS", "64")
    monkeypatch.setattr(devices, "older_kernels", lambda: "an old one")
    found = dict(survey().rows())
    assert found["threads"] == "1 usable (OMP_NUM_THREADS=1, MKL_NUM_THREADS=64)"
    assert found["BLAS"] == "a BLAS; an old one"
    assert survey().thread_limits == {"OMP_NUM_THREADS": 1, "MKL_NUM_THREADS": 64}
    assert (survey().blas, survey().blas_advice) == ("a BLAS", "an old one")
    monkeypatch.setattr(devices, "blas_name", lambda: None)
    monkeypatch.setattr(devices, "older_kernels", lambda: None)
    assert dict(survey().rows())["BLAS"] == ""


def test_two_cupy_packages_are_both_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.metadata.distributions", lambda name: [1] * (name in ("cupy-cuda12x", "cupy-rocm-7-1"))
    )
    found = dict(survey().rows())
    assert found["CUDA"].startswith("not usable: cupy-cuda12x and cupy-rocm-7-1 are installed, each a whole CuPy")
    assert found["--device auto"] == "cpu"


def test_what_graphs_lack_is_shown(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_backend(_device: str, graphs: bool | None = None) -> CpuBackend:
        if graphs:
            raise DeviceError("CUDA graphs were asked for, but nvmath-python is not installed: pip install it")
        return backend_named("cuda:0")

    monkeypatch.setattr(devices, "get_backend", get_backend)
    found = dict(survey().rows())
    assert found["CUDA"] == "ready"
    assert found["CUDA graphs"] == "not used: nvmath-python is not installed: pip install it"


def test_gpu_that_cannot_compute_is_listed_with_the_reason(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def get_backend(device: str, **_options: Any) -> CpuBackend:
        if device == "cuda":
            raise DeviceError("cannot compute on it (libnvrtc.so.12 is missing)")
        return backend_named("cpu")

    monkeypatch.setattr(devices, "get_backend", get_backend)
    found = dict(survey().rows())
    assert "libnvrtc.so.12 is missing" in found["CUDA"]
    assert "NVIDIA H100" in found["cuda:0"]
    assert found["--device auto"] == "cpu"


def test_rest_is_shown_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = dict(survey().rows())
    assert "CuPy" not in found
    assert (survey().cupy, survey().cuda_version, survey().gpus) == (None, None, ())
    assert survey().cuda_missing == found["CUDA"].removeprefix("not usable: ")
    assert found["CUDA"].startswith("not usable: CuPy is not installed")
    assert "fmnist-xp[cuda]" in found["CUDA"]
    assert found["--device auto"] == "cpu"
    assert {"CPU", "threads", "NumPy", "BLAS", "NVIDIA driver"} < set(found)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise KeyError('CUDA_PATH')", "CuPy does not load (KeyError: 'CUDA_PATH'): pip install"),
        ("raise RuntimeError('no core')", "CuPy does not load (RuntimeError: no core): pip install"),
        ("raise OSError('no file')", "CuPy does not load (OSError: no file): pip install"),
        ("import sys; sys.nothing", "CuPy does not load (AttributeError: module 'sys' has no attribute 'nothing')"),
        ("raise ImportError('libcudart.so.12: cannot open')", "CuPy does not load (libcudart.so.12: cannot open)"),
        (None, "is no CuPy: remove it, then pip install"),
    ],
    ids=["KeyError", "RuntimeError", "OSError", "AttributeError", "ImportError", "folder"],
)
def test_cupy_that_does_not_load_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | None, reason: str
) -> None:
    if source is None:
        (tmp_path / "cupy").mkdir()
    else:
        (tmp_path / "cupy.py").write_text(source)
    for name in ["cupy", *(name for name in sys.modules if name.startswith("cupy."))]:
        monkeypatch.setitem(sys.modules, name, None)  # restores the module, or its absence
        del sys.modules[name]
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    found = dict(survey().rows())
    assert found["CUDA"].startswith("not usable: ")
    assert reason in found["CUDA"]
    assert "\n" not in found["CUDA"]
    assert found["--device auto"] == "cpu"


@pytest.mark.skipif(sys.platform == "win32", reason="the fake nvidia-smi is a shell script")
@pytest.mark.parametrize(
    ("script", "driver"),
    [
        ("echo '550.54.15, NVIDIA H100 80GB HBM3'", "550.54.15, NVIDIA H100 80GB HBM3"),
        ("echo '580.1, NVIDIA L4'; echo '580.1, NVIDIA T4'", "580.1, NVIDIA L4; 580.1, NVIDIA T4"),
        ("echo 'NVIDIA-SMI has failed' >&2; exit 9", "nvidia-smi is there, but does not answer"),
        ("exit 0", "no GPU found"),
        (None, "none found (there is no nvidia-smi)"),
    ],
    ids=["one", "two", "fails", "no GPU", "none"],
)
def test_driver_is_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, driver: str
) -> None:
    if script is not None:
        asked = "--query-gpu=driver_version,name --format=csv,noheader"
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n[ \"$*\" = '{asked}' ] || exit 6\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert dict(survey().rows())["NVIDIA driver"] == driver


@pytest.mark.skipif(sys.platform == "win32", reason="the fake nvidia-smi is a shell script")
def test_nvidia_smi_that_cannot_be_run_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_bytes(b"\x00not a program")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert dict(survey().rows())["NVIDIA driver"] == "nvidia-smi is there, but does not answer"


@pytest.mark.parametrize(
    ("seconds", "driver"), [(20, "580.1, NVIDIA L4"), (20.5, "nvidia-smi is there, but does not answer")]
)
def test_nvidia_smi_has_20_seconds_to_answer(monkeypatch: pytest.MonkeyPatch, seconds: float, driver: str) -> None:
    def run(command: list[str], *, timeout: float = float("inf"), **_options: Any) -> Any:
        if timeout < seconds:
            raise subprocess.TimeoutExpired(command, timeout)
        return SimpleNamespace(stdout="580.1, NVIDIA L4\n")

    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(devices.subprocess, "run", run)
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert dict(survey().rows())["NVIDIA driver"] == driver
