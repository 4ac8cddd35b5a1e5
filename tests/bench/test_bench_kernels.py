"""What `python -m bench` does to variables that choose BLAS's kernels, in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import kernels
from fmnist_xp.data import Dataset, export

ROOT = Path(kernels.__file__).parents[1]
OLD = {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_L2_SIZE": "512"}


def python(*arguments: str, **chosen: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in OLD}
    environment = {**clean, "PYTHONPATH": str(ROOT), **chosen}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, env=environment)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({}, ""),
        ({"OPENBLAS_L2_SIZE": "512"}, "OPENBLAS_L2_SIZE=512 "),
        (OLD, "OPENBLAS_CORETYPE=Prescott and OPENBLAS_L2_SIZE=512 "),
    ],
)
def test_command_says_in_a_line_what_it_unsets(chosen: dict[str, str], said: str) -> None:
    done = python("-m", "bench", "--help", **chosen)
    line = f"{said}unset for the measurements: OpenBLAS chooses its kernels itself\n"
    assert done.stderr == (line if said else "")
    assert "throughput" in done.stdout


def test_record_is_of_the_kernels_that_blas_chooses_itself(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    dataset = Dataset(images, np.arange(20, dtype=np.uint8) % 10, "random", "made here")
    export(dataset, dataset, tmp_path / "data", "idx")
    arguments = ["-m", "bench", "loading", "--quick", "--data", str(tmp_path / "data"), "--out", str(tmp_path)]
    python(*arguments, FMNIST_XP_CACHE=str(tmp_path / "cache"), **OLD)
    machine = json.loads((tmp_path / "loading-cpu.json").read_text())["machine"]
    assert machine["blas_variables_unset"] == OLD
    assert (
        machine["blas"]
        == python("-c", "import numpy; from fmnist_xp.blas import blas_name; print(blas_name())").stdout.strip()
    )


def test_importing_the_modules_unsets_nothing() -> None:
    code = "import os, bench.__main__, bench.commands, bench.kernels; print(os.environ['OPENBLAS_CORETYPE'])"
    done = python("-c", code, **OLD)
    assert (done.stdout, done.stderr) == ("Prescott\n", "")
