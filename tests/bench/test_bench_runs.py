"""Each benchmark, from the command or its `run`, on a data set of a few hundred made images."""

import json
import platform
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import child, peers, scaling
from bench.__main__ import app
from bench.engines import ENGINES, Engine, Notebook, NotHereError, Ours, OursWithoutFigures, Task
from bench.engines.pytorch import PyTorchCompiled
from bench.engines.scikit_learn import ScikitLearn
from bench.results import Options, load
from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import Dataset, export

# The frameworks are not ours to keep free of warnings.
pytestmark = pytest.mark.filterwarnings("default")

PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)

    def made(rows: int) -> Dataset:
        labels = np.arange(rows, dtype=np.uint8) % 10
        return Dataset(generator.integers(0, 256, (rows, 28, 28), np.uint8), labels, "made", "made here")

    path = tmp_path_factory.mktemp("bench") / "idx"
    export(made(200), made(50), path, "idx")
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "cache"))


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def checked(path: Path, *private: Path) -> dict[str, Any]:
    """Return the record at `path`, which must hold what every record holds and nobody's paths or host."""
    text = path.read_text()
    record: dict[str, Any] = load(path)
    assert record["benchmark"] in record["command"]
    assert record["quick"]
    assert record["machine"]["cpu"]
    assert record["machine"]["numpy"] == np.__version__
    for secret in (*map(str, private), str(Path.cwd()), str(Path.home()) + "/"):
        assert secret not in text
    assert platform.node() not in json.dumps(record["machine"])
    return record


def test_throughput(folder: Path, tmp_path: Path) -> None:
    run("throughput", "--device", "cpu", "--quick", "--data", str(folder), "--out", str(tmp_path))
    record = checked(tmp_path / "throughput-cpu.json", folder, tmp_path)
    assert (tmp_path / "throughput-cpu.png").read_bytes().startswith(PNG)
    experiments = record["results"]["experiments"]
    assert list(experiments) == ["sgd", "momentum", "adam"]
    assert experiments["sgd"]["flops_per_epoch"] == 30_443_520_000 // 300
    assert len(experiments["adam"]["epoch_seconds"]["samples"]) == 4
    assert record["settings"]["data"]["rows"] == 200


def test_throughput_in_float64_has_a_file_of_its_own(folder: Path, tmp_path: Path) -> None:
    run(
        "throughput",
        "--device",
        "cpu",
        "--quick",
        "--data",
        str(folder),
        "--out",
        str(tmp_path),
        "--precision",
        "float64",
    )
    assert checked(tmp_path / "throughput-cpu-float64.json")["precision"] == "float64"


def test_loading_and_report(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    run("loading", "--quick", "--data", str(folder), "--out", str(out))
    record = checked(out / "loading-cpu.json", folder, tmp_path)
    assert (out / "loading-cpu.png").read_bytes().startswith(PNG)
    assert len(record["results"]["readers"]) == 7
    run("report", "--out", str(out))
    assert "notebook's loop" in (tmp_path / "README.md").read_text()


def test_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "QUICK_ROWS", (50, 150))
    monkeypatch.setattr(scaling, "QUICK_WIDTHS", (4, 8))
    monkeypatch.setattr(scaling, "in_fresh_process", lambda point: child.measure(**point))
    run("scaling", "--device", "cpu", "--quick", "--out", str(tmp_path))
    results = checked(tmp_path / "scaling-cpu.json", tmp_path)["results"]
    assert (tmp_path / "scaling-cpu.png").read_bytes().startswith(PNG)
    assert [point["rows"] for point in results["rows"]["adam"]["points"]] == [50, 150]
    assert [point["width"] for point in results["width"]["sgd"]["points"]] == [4, 8]
    assert results["threads"]["sgd"]["points"][0]["threads"] == 1


def test_a_point_is_measured_in_a_fresh_process() -> None:
    found = scaling.in_fresh_process(
        {"device": "cpu", "threads": 1, "sweep": "rows", "experiment": "adam", "rows": 20, "epochs": 2}
    )
    assert len(found["epoch_seconds"]) == 2
    with pytest.raises(RuntimeError, match="unheard"):
        scaling.in_fresh_process({"device": "unheard", "threads": 1, "experiment": "adam", "rows": 20, "epochs": 2})


def test_peers_that_are_here_agree_and_the_others_are_named(folder: Path, tmp_path: Path) -> None:
    # Compiling takes a minute, and the command does it; it is left to that.
    engines = [engine for engine in ENGINES if engine is not PyTorchCompiled]
    path = peers.run(Options("cpu", True, str(folder), tmp_path), [*engines, _Absent])
    record = checked(path, folder, tmp_path)
    for result in record["results"].values():
        assert result["left_out"]["absent"] == "absent is not installed"
        assert {*result["engines"], *result["left_out"]} == {engine.name for engine in engines} | {"absent"}
        assert {"fmnist_xp", "fmnist_xp, no figures", "notebook"} <= result["engines"].keys()
        assert result["ratios"]["fmnist_xp"]["ours"] == 1
        assert result["ratios"]["notebook"]["notebook"] == 1
        for name, engine in result["engines"].items():
            assert len(engine["losses"]) == (0 if name == OursWithoutFigures.name else 3)
    peers.draw(record)


def test_a_peer_that_computes_something_else_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"wrong does not compute what fmnist_xp computes: sgd after 0 updates"):
        peers.run(Options("cpu", True, str(folder), tmp_path), [Ours, _Wrong])
    assert not list(tmp_path.glob("*.json"))


def test_what_a_gpu_adds_under_a_stand_in(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Options, "backend", lambda _self: _StandIn())
    run("throughput", "--quick", "--data", str(folder), "--out", str(tmp_path))
    record = checked(tmp_path / "throughput-cuda.json", folder, tmp_path)
    assert record["machine"]["gpu"] == "a stand-in"
    assert record["machine"]["cuda"] == "12.4"
    assert record["results"]["copy_bytes_per_second"]["median"] > 0
    for experiment in record["results"]["experiments"].values():
        assert experiment["fraction_of_bandwidth"] > 0
        assert experiment["peak_memory_bytes"] == 5_000_000
        assert experiment["joules_per_epoch"] is None
    path = peers.run(Options("cuda", True, str(folder), tmp_path), [Ours, OursWithoutFigures, Notebook, ScikitLearn])
    assert checked(path)["results"]["sgd"]["left_out"] == {"scikit-learn": "scikit-learn's MLPClassifier has no GPU"}
    run("report", "--out", str(tmp_path))
    assert "`python -m bench throughput --device cuda" in (tmp_path.parent / "README.md").read_text()


def test_a_device_that_is_not_there_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["throughput", "--device", "tpu", "--quick", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith("error: device must be")


class _StandIn(CpuBackend):
    """NumPy that calls itself a GPU and has what the benchmarks ask CuPy for besides arrays."""

    name = "cuda:0"

    def __init__(self) -> None:
        super().__init__(1)
        self.device_name = "a stand-in"
        xp = ModuleType("stand_in")
        xp.__dict__.update(vars(np))
        runtime = SimpleNamespace(runtimeGetVersion=lambda: 12040, deviceGetPCIBusId=lambda _index: "0000:00:00.0")
        vars(xp)["cuda"] = SimpleNamespace(runtime=runtime)
        vars(xp)["get_default_memory_pool"] = lambda: SimpleNamespace(free_all_blocks=lambda: None)
        self.xp = xp

    def peak_memory(self) -> int | None:
        return 5_000_000


class _Absent(Engine):
    name = "absent"

    def __init__(self, task: Task) -> None:
        raise NotHereError("absent is not installed")

    def epoch(self) -> tuple[Any, Any]:
        return None, None


class _Wrong(Notebook):
    name = "wrong"

    def epoch(self) -> tuple[Any, Any]:
        loss, accuracy = super().epoch()
        return 1.001 * loss, accuracy
