"""Starting several processes at once, as `mpiexec` does; the tests' own process never starts MPI."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Container
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from gpu_ranks import OPEN_MPI

ROOT = Path(__file__).parents[1]
# Beside this Python first: mpi4py needs the mpiexec of its own MPI.
MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")

needs_mpi = pytest.mark.skipif(
    MPIEXEC is None or find_spec("mpi4py") is None,
    reason=(
        'mpi4py, which trains on several processes, is not installed: pip install "fmnist-xp[mpi]"'
        if find_spec("mpi4py") is None
        else "mpiexec, which starts several processes, is not installed: pip install mpich"
    ),
)


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a process that finds this package and the tests' modules, with one thread for BLAS."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "mpi")))
    return {**os.environ, **OPEN_MPI, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **variables}


def mpiexec(ranks: int, *arguments: object) -> list[str]:
    """Return the command that starts `ranks` processes of Python with these `arguments`."""
    return [str(MPIEXEC), "-n", str(ranks), sys.executable, *map(str, arguments)]


def run_ranks(ranks: int, *arguments: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run what `mpiexec` returns to its end; `more` is what `subprocess.run` takes."""
    more = {"env": environment(), "stdin": subprocess.DEVNULL, **more}
    return subprocess.run(mpiexec(ranks, *arguments), capture_output=True, text=True, check=False, **more)


def passed_on(code: int) -> Container[int]:
    """Return the exit codes that mpiexec may have where each process has `code`: MPICH's has that too."""
    version = subprocess.run([str(MPIEXEC), "--version"], capture_output=True, text=True, check=True).stdout
    return [code] if "HYDRA" in version else range(1, 256)


def made_once(factory: pytest.TempPathFactory, name: str, fill: Callable[[Path], None]) -> Path:
    """Return a folder that `fill` has filled, once for all workers of pytest-xdist."""
    base = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder = base / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            begun = factory.mktemp(name)
            fill(begun)
            begun.rename(folder)
    return folder
