"""The benchmark of ranks: with mpiexec on a few rows, and with processes that are stood in for."""

import json
import re
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gpu_ranks import OPEN_MPI
from mpi_helpers import needs_mpi
from typer.testing import CliRunner

from bench import made, rank_point, rank_report, ranks
from bench.commands import app
from bench.processes import in_fresh_process
from bench.rank_point import experiment, measure_alone
from bench.results import load
from fmnist_xp.data import Dataset, export, load_fashion_mnist, pixels

PNG = b"\x89PNG\r\n"
DATA_ROWS, MADE_ROWS = 200, 1_700
"""One block, which one rank has, and three."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (DATA_ROWS, 28, 28), np.uint8)
    dataset = Dataset(images, np.arange(DATA_ROWS, dtype=np.uint8) % 10, "random", "made here")
    export(dataset, dataset, tmp_path / "idx", "idx")
    return tmp_path / "idx"


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FMNIST_XP_CACHE": str(tmp_path / "cache"), **OPEN_MPI}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "QUICK_ROWS", (DATA_ROWS, MADE_ROWS))
    monkeypatch.setattr(ranks, "EXPERIMENTS", ("adam",))
    monkeypatch.setattr(ranks, "usable_cores", lambda: 2)


class StandIn:
    """Answers as the processes would, which take 0.25 s for an epoch on one rank; `weights` are those of more."""

    def __init__(self, weights: str) -> None:
        self._weights = weights
        self.asked: list[tuple[str, list[str], dict[str, Any]]] = []

    def __call__(
        self, function: Callable[..., Any], arguments: dict[str, Any], _pause: float, python: list[str]
    ) -> dict[str, Any]:
        self.asked.append((function.__name__, python, json.loads(json.dumps(arguments))))
        if function is rank_point.measure_alone:
            return {
                "widths": [784, 128, 128, 10],
                "flops_per_row": 507_392,
                "block_rows": 768,
                "parameters": 118_282,
                "vector_bytes": 473_128,
                "replicated_seconds": [0.002],
                "add_seconds": [2e-5],
            }
        if function is rank_point.measure_messages:
            sides = {"tree": [3e-4], "allreduce": [2e-4], "short": [1e-6], "vector": [4.83128e-5]}
            return {"seconds": sides, "mpi": "Some MPI 1.2.3"}
        count = int(python[2])
        return {
            "epoch_seconds": [0.25 / count, 0.3 / count, 0.2 / count],
            "message_seconds": 0.01,
            "message_share": 0.05,
            "column_share": 0.75,
            "weights": ["0123456789abcdef"] if count == 1 else ["0123456789abcdef", self._weights],
        }


def run(folder: Path, out: Path) -> Any:
    return CliRunner().invoke(app, ["ranks", "--quick", "--data", str(folder), "--out", str(out)])


@needs_mpi
def test_ranks_are_measured_with_mpiexec(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "ranks-cpu.png").read_bytes().startswith(PNG)
    record = load(tmp_path / "out" / "ranks-cpu.json")
    assert record["settings"]["data"]["rows"] == DATA_ROWS
    assert re.fullmatch(r"\S.* [\d.]+, mpi4py [\d.]+\S*", record["settings"]["mpi"])
    points = record["results"]["points"]
    assert [(point["rows"], point["ranks"]) for point in points] == [
        (DATA_ROWS, 1), (DATA_ROWS, 2), (MADE_ROWS, 1), (MADE_ROWS, 2),
    ]  # fmt: skip
    for one, two in (points[:2], points[2:]):
        assert (one["speedup"], one["message_seconds"], one["message_share"]) == (1, 0, 0)
        for point in (one, two):
            ratio = one["epoch_seconds"]["median"] / point["epoch_seconds"]["median"]
            assert len(point["epoch_seconds"]["samples"]) == 2
            assert point["speedup"] == pytest.approx(ratio, rel=1e-4)
            assert point["efficiency"] == pytest.approx(ratio / point["ranks"], rel=1e-4)
        assert 0 < two["message_share"] < 1
        assert two["weights"] == one["weights"]
    link = record["results"]["link"]
    assert link["vector_bytes"] == 4 * (784 * 128 + 128 + 128 * 128 + 128 + 128 * 10 + 10)
    assert 0 < link["latency"] == link["short_seconds"]["median"]
    (sums,) = record["results"]["sums"]
    assert sums["ranks"] == 2
    assert min(sums["tree"]["min"], sums["allreduce"]["min"]) > 0
    assert not list((tmp_path / "cache").glob("bench-*"))
    assert not [secret for secret in (folder, tmp_path, Path.cwd()) if str(secret) in json.dumps(record)]


@needs_mpi
def test_weights_are_those_of_training_without_mpi(folder: Path, tmp_path: Path) -> None:
    made.write_images(tmp_path, MADE_ROWS)
    start = ranks._Start(ranks.find_mpiexec(), "float32", 0)
    for source, rows in ((folder, 150), (tmp_path, MADE_ROWS)):
        X, y = pixels(load_fashion_mnist(source)[0])
        network = experiment("adam").make_network("cpu", seed=0)
        network.fit(X[:rows], y[:rows], epochs=3, optimizer=experiment("adam").make_optimizer(), verbose=False)
        found = start(rank_point.measure_training, 2, name="adam", source=str(source), rows=rows, epochs=2)
        assert found["weights"] == [sha256(network.parameters.data).hexdigest()] * 2


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_what_one_rank_needs(precision: str) -> None:
    found = measure_alone(name="sgd", epochs=3, precision=precision)
    assert found["widths"] == [784, 128, 128, 10]
    assert found["flops_per_row"] == 2 * (2 * 784 * 128 + 3 * 128 * 128 + 3 * 128 * 10)
    assert found["parameters"] == 118_282
    assert found["vector_bytes"] == 118_282 * np.dtype(precision).itemsize
    assert 256 <= found["block_rows"] <= 1024
    assert len(found["replicated_seconds"]) == 3
    assert min(*found["replicated_seconds"], *found["add_seconds"]) > 0


def test_sides_take_turns_and_what_they_took_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = StandIn("0123456789abcdef")
    monkeypatch.setattr(ranks, "find_mpiexec", lambda: "mpiexec")
    monkeypatch.setattr(ranks, "in_fresh_process", stand_in)
    monkeypatch.setattr(ranks, "EXPERIMENTS", ("sgd", "adam"))
    monkeypatch.setattr(ranks, "version", lambda _package: "4.5")
    arguments = ["ranks", "--quick", "--rounds", "2", "--data", str(folder), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    record = load(tmp_path / "ranks-cpu.json")
    assert " --rounds 2 --quick" in record["command"]
    trained = [(python, asked) for name, python, asked in stand_in.asked if name == "measure_training"]
    assert [(asked["name"], asked["rows"], int(python[2])) for python, asked in trained] == [
        (name, rows, count)
        for rows in (DATA_ROWS, MADE_ROWS)
        for _round in range(2)
        for name in ("sgd", "adam")
        for count in (1, 2)
    ]
    assert {tuple(python) for python, _asked in trained} == {
        ("mpiexec", "-n", str(count), sys.executable, "-m", "mpi4py") for count in (1, 2)
    }
    assert record["settings"]["mpi"] == "Some MPI 1.2.3, mpi4py 4.5"
    assert record["results"]["link"]["bandwidth"] == pytest.approx(473_128 / 4.73128e-5)
    assert [point["speedup"] for point in record["results"]["points"]] == [1, 2] * 4


def test_different_weights_are_a_failure(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "find_mpiexec", lambda: "mpiexec")
    monkeypatch.setattr(ranks, "in_fresh_process", StandIn("fedcba9876543210"))
    result = run(folder, tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: adam on {DATA_ROWS} rows: rank 1 of 2 has weights of the SHA-256 fedcba987654…, and rank 0 of 1 of "
        "0123456789ab…\n"
    )
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("missing", ["mpi4py", "mpiexec"])
def test_what_is_missing_is_named_in_a_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    found = {"mpi4py": SimpleNamespace(), "mpiexec": "mpiexec"} | {missing: None}
    monkeypatch.setattr(ranks.importlib.util, "find_spec", lambda _name: found["mpi4py"])
    monkeypatch.setattr(ranks.shutil, "which", lambda _name, path=None: found["mpiexec"])
    result = run(folder, tmp_path / "out")
    assert result.exit_code == 1
    assert result.stderr == (
        f'error: ranks are processes of MPI, and {missing} is not installed: pip install "fmnist-xp[mpi]"\n'
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="programs have other names there")
def test_mpiexec_of_the_environment_comes_before_that_of_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mpiexec").touch(0o755)
    monkeypatch.setattr(ranks.importlib.util, "find_spec", lambda _name: SimpleNamespace())
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(ranks.sys, "executable", str(tmp_path / "here" / "python"))
    assert ranks.find_mpiexec() == str(tmp_path / "here" / "mpiexec")
    (tmp_path / "here" / "mpiexec").unlink()
    assert ranks.find_mpiexec() == str(tmp_path / "elsewhere" / "mpiexec")


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1, 2]), (2, [1, 2]), (3, [1, 2]), (4, [1, 2, 4]), (12, [1, 2, 4, 8])]
)
def test_there_are_as_many_ranks_as_cores_and_at_least_two(
    monkeypatch: pytest.MonkeyPatch, cores: int, counts: list[int]
) -> None:
    monkeypatch.setattr(ranks, "usable_cores", lambda: cores)
    assert ranks.rank_counts() == counts


def test_a_wrong_sum_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two ranks, whose vectors are of ones and of twos, the sum is of threes."""
    monkeypatch.setattr(rank_point, "import_mpi", lambda: SimpleNamespace(IN_PLACE=None, MAX=None))
    comm = SimpleNamespace(Barrier=lambda: None, Allreduce=lambda *_arguments: None)
    first, vector = SimpleNamespace(rank=0, size=2, comm=comm), np.zeros(3)
    assert len(rank_point._summed(first, vector, lambda: np.add(vector, 2, out=vector))) == rank_point.CALLS
    with pytest.raises(RuntimeError, match=r"rank 0: \[1. 1. 1.\] is not the sum"):
        rank_point._summed(first, vector, lambda: None)


def test_error_of_a_rank_is_found_before_the_words_of_mpiexec() -> None:
    code = (
        'import sys; sys.exit(\'Traceback (most recent call last):\\n  File "x"\\nValueError: no rows\\n'
        "Abort(1) on node 0 (rank 0 in comm 0): application called MPI_Abort')"
    )
    with pytest.raises(RuntimeError, match=r"failed with exit code 1: ValueError: no rows; it was given"):
        in_fresh_process(measure_alone, {}, python=[sys.executable, "-c", code])


def test_rows_that_are_made_have_a_bar() -> None:
    assert rank_report.SPEEDUP_BARS[ranks.MADE_ROWS] == 1.85
