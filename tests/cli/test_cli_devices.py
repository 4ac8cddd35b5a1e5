import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from fmnist_xp.devices import Gpu, Survey

Command = Callable[..., Any]


def rows(out: str) -> dict[str, str]:
    """Return the table's cells by the first; a cell of several lines is joined again."""
    found: dict[str, str] = {}
    name = ""
    for line in out.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("│|").split("│")]
        if len(cells) != 2:
            continue
        name = cells[0] or name
        found[name] = f"{found.get(name, '')} {cells[1]}".strip()
    return found


def test_devices_table(command: Command) -> None:
    answer = command("devices")
    answer.assert_went_well()
    found = rows(answer.out)
    assert list(found)[:5] == ["CPU", "threads", "NumPy", "BLAS", "NVIDIA driver"]
    assert found["CPU"]
    assert int(found["threads"].split()[0]) >= 1
    assert found["NumPy"] == np.__version__
    numpys = [
        info["version"] for info in threadpool_info() if info["user_api"] == "blas" and "numpy" in info["filepath"]
    ]
    assert any(version in found["BLAS"] for version in numpys)
    assert found["--device auto"].partition(":")[0] in ("cpu", "cuda")
    assert "CUDA" in found


def test_without_cupy_it_says_what_to_install(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    answer = command("devices")
    answer.assert_went_well()
    found = rows(answer.out)
    assert "CuPy is not installed" in found["CUDA"]
    # To be copied as it stands, with what stands in brackets.
    assert 'pip install "fmnist-xp[cuda]"' in found["CUDA"]
    assert '"fmnist-xp[cuda13]"' in found["CUDA"]
    assert found["--device auto"] == "cpu"


def test_table_has_no_header(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(rows=lambda: iter([("CPU", "an abacus"), ("threads", "2")]))
    monkeypatch.setattr("fmnist_xp.devices.survey", lambda: known)
    answer = command("devices")
    answer.assert_went_well()
    assert (
        answer.out
        == "┌─────────┬───────────┐\n│ CPU     │ an abacus │\n│ threads │ 2         │\n└─────────┴───────────┘\n"
    )


KNOWN = Survey(
    cpu="an abacus", threads=2, thread_limits={"OMP_NUM_THREADS": 2}, numpy="2.4.6", blas="a BLAS",
    blas_advice="a faster one is at hand", driver="580.1, NVIDIA L4; 580.1, NVIDIA L4", cupy="14.2.0",
    cuda_version="13.0",
    gpus=[Gpu("cuda:0", "NVIDIA L4", 24 * 2**30, "8.9"), Gpu("cuda:1", "a [b]", 2**30, "7.5")], auto="cuda:0",
)  # fmt: skip


def test_json_has_what_was_found(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.devices.survey", lambda: KNOWN)
    assert command("devices", "--json").document() == {
        "cpu": "an abacus", "threads": 2, "thread_limits": {"OMP_NUM_THREADS": 2}, "numpy": "2.4.6",
        "blas": "a BLAS", "blas_advice": "a faster one is at hand", "driver": "580.1, NVIDIA L4; 580.1, NVIDIA L4",
        "cupy": "14.2.0", "cuda_version": "13.0", "cuda_missing": None, "graphs_missing": None, "auto": "cuda:0",
        "gpus": [
            {"device": "cuda:0", "name": "NVIDIA L4", "memory_bytes": 24 * 2**30, "compute_capability": "8.9"},
            {"device": "cuda:1", "name": "a [b]", "memory_bytes": 2**30, "compute_capability": "7.5"},
        ],
    }  # fmt: skip


def test_json_of_this_machine(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    found = command("devices", "--json").document()
    table = rows(command("devices").out)
    assert (found["cpu"], found["numpy"], found["auto"]) == (table["CPU"], np.__version__, "cpu")
    assert (found["cupy"], found["cuda_version"], found["gpus"]) == (None, None, [])
    assert 'pip install "fmnist-xp[cuda]"' in found["cuda_missing"]
