import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

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
    monkeypatch.setattr("fmnist_xp.devices.survey", lambda: iter([("CPU", "an abacus"), ("threads", "2")]))
    answer = command("devices")
    answer.assert_went_well()
    assert (
        answer.out
        == "┌─────────┬───────────┐\n│ CPU     │ an abacus │\n│ threads │ 2         │\n└─────────┴───────────┘\n"
    )
