"""What only downloads or only CI need is not needed to train, evaluate, compare, measure or test."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MISSING = ("pooch", "platformdirs", "requests")
EXTRAS = ("onnx", "onnxruntime", "torch")
Done = subprocess.CompletedProcess[str]


@pytest.fixture
def bare(tmp_path: Path, idx_folder: Path) -> Callable[..., Done]:
    """Return a function that runs `python -m` with the images at hand, but no package of `MISSING` or `EXTRAS`."""
    absent = tmp_path / "absent"
    absent.mkdir()
    for name in (*MISSING, *EXTRAS):
        text = f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')\n"
        (absent / f"{name}.py").write_text(text)

    def run(*arguments: object, folder: Path = tmp_path, **variables: str) -> Done:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FMNIST_XP_")}
        environment |= {"PYTHONPATH": os.pathsep.join([str(absent), str(ROOT)]), "FMNIST_XP_DATA": str(idx_folder)}
        return subprocess.run(
            [sys.executable, "-m", *map(str, arguments)],
            cwd=folder,
            env=environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def assert_went_well_without_a_cache(done: Done) -> None:
    assert done.returncode == 0, done
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("fmnist-xp: "))
    assert "no cache" in line
    assert "pip install pooch" in line


def test_a_run_is_trained_evaluated_and_plotted(bare: Callable[..., Done], tmp_path: Path) -> None:
    trained = bare("fmnist_xp", "train", "--device", "cpu", "--epochs", 2, "--out", "run")
    assert_went_well_without_a_cache(trained)
    assert (tmp_path / "run" / "result.json").is_file()
    assert_went_well_without_a_cache(bare("fmnist_xp", "evaluate", "run", "--device", "cpu"))
    again = bare("fmnist_xp", "evaluate", "run", "--device", "cpu", FMNIST_XP_CACHE=str(tmp_path / "cache"))
    assert (again.returncode, again.stderr) == (0, "")
    assert list((tmp_path / "cache").iterdir())


def test_a_run_is_exported_where_its_format_needs_no_package(
    bare: Callable[..., Done], finished_run: Path, tmp_path: Path
) -> None:
    for name, cure in (("model.onnx", 'pip install "fmnist-xp[onnx]"'), ("model.pt", "pip install torch")):
        done = bare("fmnist_xp", "export", finished_run, name)
        assert done.returncode == 1, done
        assert done.stderr.endswith(f"{cure}\n")
        assert done.stderr.count("\n") == 1
    for name in ("model.safetensors", "model.npz"):
        done = bare("fmnist_xp", "export", finished_run, name, FMNIST_XP_CACHE=str(tmp_path / "cache"))
        assert (done.returncode, done.stderr) == (0, "")
    made = {path.name for path in tmp_path.glob("model*")}
    assert made == {"model.safetensors", "model.safetensors.md", "model.npz", "model.npz.md"}


def test_devices_are_compared(bare: Callable[..., Done], tmp_path: Path) -> None:
    assert_went_well_without_a_cache(bare("fmnist_xp", "parity", "--device", "cpu", "--epochs", 1, "--out", "parity"))
    assert (tmp_path / "parity" / "parity.json").is_file()


@pytest.mark.parametrize("benchmark", ["throughput", "loading"])
def test_benchmarks_are_measured(bare: Callable[..., Done], tmp_path: Path, benchmark: str) -> None:
    done = bare("bench", benchmark, "--quick", "--device", "cpu", "--out", "results")
    assert done.returncode == 0, done
    assert list((tmp_path / "results").glob(f"{benchmark}-*.json"))


def test_tests_of_downloads_are_skipped_by_name(bare: Callable[..., Done]) -> None:
    """The other tests of the data and of the command's pass there, like all others."""
    files = [f"tests/{name}" for name in ("data/test_cache.py", "data/test_download.py", "cli/test_cli_data.py")]
    longer = "not into_the_current_folder and not any_folder_name"  # these say nothing of downloads
    arguments = ("pytest", "-q", "-p", "no:cacheprovider", "-k", longer, *files)
    done = bare(*arguments, folder=ROOT, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")  # pytest-randomly among them
    assert done.returncode == 0, done.stdout
    assert "tests/data/test_download.py" in done.stdout
    skipped = [
        line for line in done.stdout.splitlines() if line.startswith("SKIPPED") and "root may read" not in line
    ]
    assert skipped
    assert all(", which only downloads need, is not installed" in line for line in skipped), skipped
    assert " passed" in done.stdout
