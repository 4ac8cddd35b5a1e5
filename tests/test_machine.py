import os
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmnist_xp import machine


def write_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({V1[0]: "-1\n", V1[1]: "100000\n"}, None),
        ({V1[0]: "300000\n", V1[1]: "100000\n"}, 3),
        ({"cpu.max": "garbled", V1[0]: "50000\n", V1[1]: "100000\n"}, 0.5),
        ({V1[0]: "300000\n"}, None),
    ],
    ids=["none", "v2 max", "v2", "v2 fraction", "v1 unlimited", "v1", "v2 garbled", "v1 half there"],
)
def test_quota_of_the_control_group(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    assert machine.cgroup_cores(write_files(tmp_path, files)) == cores


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [({0, 1, 2, 5}, None, 4), ({0, 1, 2, 5}, 2.0, 2), ({0}, 8.0, 1), ({0, 1}, 0.5, 1), ({0, 1, 2}, 2.9, 2)],
)
def test_usable_cores_are_those_of_the_affinity_and_the_quota(
    monkeypatch: pytest.MonkeyPatch, affinity: set[int], quota: float | None, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: affinity, raising=False)
    monkeypatch.setattr(machine, "cgroup_cores", lambda: quota)
    assert machine.usable_cores() == cores


@pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
def test_usable_cores_without_affinity_are_the_systems(
    monkeypatch: pytest.MonkeyPatch, count: int | None, cores: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    monkeypatch.setattr(machine, "cgroup_cores", lambda: None)
    assert machine.usable_cores() == cores


def set_file(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """Let every file the module reads hold `text`, or be missing."""

    def read_text(path: Path) -> str:
        if text is None:
            raise FileNotFoundError(path)
        return text

    monkeypatch.setattr(machine.Path, "read_text", read_text)


def test_cpu_name_is_the_model_name(monkeypatch: pytest.MonkeyPatch) -> None:
    set_file(monkeypatch, "processor\t: 0\nmodel name\t: Some CPU @ 2.5: GHz \nmodel name\t: other\n")
    assert machine.cpu_name() == "Some CPU @ 2.5: GHz"


@pytest.mark.parametrize("text", [None, "processor\t: 0\n"], ids=["no file", "no model name"])
@pytest.mark.parametrize(("processor", "name"), [("arm", "arm"), ("", "aarch64")])
def test_cpu_name_without_a_model_name_is_the_platforms(
    monkeypatch: pytest.MonkeyPatch, text: str | None, processor: str, name: str
) -> None:
    set_file(monkeypatch, text)
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine.cpu_name() == name


def test_blas_is_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries: list[dict[str, Any]] = [
        {"user_api": "openmp", "filepath": "/x/numpy.libs/libgomp.so", "internal_api": "openmp", "version": None},
        {"user_api": "blas", "filepath": "/x/scipy.libs/b.so", "internal_api": "mkl", "version": "1"},
        {"user_api": "blas", "filepath": "/x/NumPy.libs/b.so", "internal_api": "openblas", "version": "0.3"},
    ]
    monkeypatch.setattr(machine, "threadpool_info", lambda: libraries)
    assert machine.blas_name() == "openblas 0.3 (unknown)"
    libraries[2]["architecture"] = "Haswell"
    assert machine.blas_name() == "openblas 0.3 (Haswell)"
    monkeypatch.setattr(machine, "threadpool_info", lambda: libraries[:1])
    assert machine.blas_name() == "unknown"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_resident_size_is_between_todays_and_the_kernels_largest() -> None:
    import resource

    held = np.ones(64 * 2**20, dtype="uint8")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    peak = machine.peak_resident_bytes()
    assert peak is not None
    assert held.all()
    # The kernel counts pages in batches, and ru_maxrss may go back to the process that started this one.
    assert max(held.nbytes, 0.95 * pages * resource.getpagesize()) <= peak
    assert peak <= 1.05 * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("text", [None, "Name:\tpython\n"], ids=["no file", "no line"])
def test_peak_resident_size_is_none_where_the_system_does_not_tell(
    monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    set_file(monkeypatch, text)
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    assert machine.peak_resident_bytes() is None


def test_peak_resident_size_in_the_status_is_kib(monkeypatch: pytest.MonkeyPatch) -> None:
    set_file(monkeypatch, "Name:\tpython\nVmHWM:\t  1234 kB\n")
    assert machine.peak_resident_bytes() == 1234 * 1024


def test_peak_resident_size_on_macos_is_ru_maxrss(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="the resource module is of POSIX systems")
    set_file(monkeypatch, None)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert machine.peak_resident_bytes() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
