"""Each benchmark, from the command or its `run`, on a data set of a few hundred synthetic images."""

import json
import platform
import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import baseline, loading, made, peers, processes, scaling, throughput
from bench.agreement import DisagreementError, check, references
from bench.commands import app
from bench.engines import ENGINES, Engine, Notebook, NotHereError, Ours, OursWithoutMetrics, Task
from bench.engines.pytorch import PyTorchCompiled
from bench.engines.scikit_learn import ScikitLearn
from bench.point import measure_disk_point, measure_point
from bench.results import Options, load
from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import Dataset, Pixels, export
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.train.fullbatch import FullBatch

# The frameworks' own warnings are no failures.
pytestmark = pytest.mark.filterwarnings("default")

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n"
FORMS = ("image folder", "zip", "IDX, gzip")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)

    def synthetic(rows: int) -> Dataset:
        labels = np.arange(rows, dtype=np.uint8) % 10
        return Dataset(generator.integers(0, 256, (rows, 28, 28), np.uint8), labels, "random", "made here")

    path = tmp_path_factory.mktemp("bench") / "idx"
    export(synthetic(200), synthetic(50), path, "idx")
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the garbage: to look for it among what frameworks allocate takes longer than what is timed here."""
    monkeypatch.setattr("bench.measure.gc.collect", lambda: 0)


@pytest.fixture(autouse=True)
def notebook_rounds(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Run the notebook's rounds in this process, and return the arguments that their processes would get."""
    asked: list[dict[str, Any]] = []

    def measured(function: Callable[..., Any], arguments: dict[str, Any], _pause: float) -> Any:
        asked.append(json.loads(json.dumps(arguments)))
        return function(**asked[-1])

    monkeypatch.setattr(baseline, "in_fresh_process", measured)
    return asked


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def checked(path: Path, *private: Path) -> dict[str, Any]:
    """Return the record at `path`, after checks of what every record holds, and of no paths or host names in it."""
    text = path.read_text()
    record: dict[str, Any] = load(path)
    assert record["benchmark"] in record["command"]
    assert record["quick"]
    assert record["machine"]["cpu"]
    assert record["machine"]["numpy"] == np.__version__
    secrets = [*map(str, private), str(Path.cwd())]
    with suppress(RuntimeError):  # a user without a home
        secrets.append(f"{Path.home()}/")
    assert not [secret for secret in secrets if secret in text]
    assert platform.node() not in json.dumps(record["machine"])
    return record


def test_throughput(folder: Path, tmp_path: Path, notebook_rounds: list[dict[str, Any]]) -> None:
    run("throughput", "--device", "cpu", "--quick", "--data", str(folder), "--out", str(tmp_path))
    record = checked(tmp_path / "throughput-cpu.json", folder, tmp_path)
    assert (tmp_path / "throughput-cpu.png").read_bytes().startswith(PNG)
    experiments = record["results"]["experiments"]
    assert list(experiments) == ["sgd", "momentum", "adam"]
    assert experiments["sgd"]["flops_per_epoch"] == 30_443_520_000 // 300
    assert len(experiments["adam"]["epoch_seconds"]["samples"]) == 4
    assert record["settings"]["data"]["rows"] == 200
    assert {experiment["column_share"] for experiment in experiments.values()} == {1}  # of noise nothing is left out
    assert [asked["experiment"]["name"] for asked in notebook_rounds] == ["sgd", "momentum", "adam"] * 2
    for summary in record["results"]["notebook"].values():
        assert len(summary["samples"]) == 2
        assert summary["min"] > 0
        assert len(summary["first_epoch"]["samples"]) == 2
    # Whole training runs are measured on a GPU alone, where they take seconds.
    assert all(experiment["training"] is None for experiment in experiments.values())


def test_throughput_in_float64_has_a_file_of_its_own(folder: Path, tmp_path: Path) -> None:
    options = "throughput --device cpu --quick --precision float64 --label here"
    run(*options.split(), "--data", str(folder), "--out", str(tmp_path))
    record = checked(tmp_path / "throughput-cpu-float64-here.json")
    assert record["precision"] == "float64"
    assert " --precision float64 --data FOLDER --label here --quick" in record["command"]


@pytest.mark.parametrize("label", ["a/b", "-x", "A", "tf32"])
def test_invalid_label_is_refused(tmp_path: Path, label: str) -> None:
    result = CliRunner().invoke(app, ["loading", "--quick", "--out", str(tmp_path), f"--label={label}"])
    assert result.exit_code == 2
    assert "a label has small letters and digits alone" in result.output
    assert not list(tmp_path.iterdir())


def test_loading_and_report(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "results"
    run("loading", "--quick", "--data", str(folder), "--out", str(out))
    record = checked(out / "loading-cpu.json", folder, tmp_path)
    assert (out / "loading-cpu.png").read_bytes().startswith(PNG)
    warm = ["notebook's loop", *(f"{form}, {when}" for form in FORMS for when in ("first time", "from the cache"))]
    cold = [f"cold: {name}" for name in (warm[0], "image folder, first time", "zip, first time")]
    readers, how = record["results"]["readers"], record["settings"]["cold_disk_cache"]
    assert list(readers) == (warm + cold if how else warm)
    times = record["results"]["times_faster_than_notebook"]
    for name in readers:
        loop = readers[cold[0] if name in cold else warm[0]]["median"]
        assert times[name] == pytest.approx(loop / readers[name]["median"], rel=1e-2)
    run("report", "--out", str(out))
    page = (tmp_path / "README.md").read_text()
    assert "notebook's loop" in page
    assert (f"Cold: {how} before each sample" if how else "Left out, since the disk cache") in page


def test_quick_keeps_committed_results(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report of quick results does not overwrite the page of the committed ones either."""
    monkeypatch.chdir(tmp_path)
    committed = {tmp_path / "bench" / name: name for name in ("README.md", "results/loading-cpu.json")}
    for path, text in committed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    said = run("loading", "--quick", "--data", str(folder))
    assert said.splitlines() == [f"bench/quick/results/loading-cpu.{suffix}" for suffix in ("json", "png")]
    assert all(Path(line).is_file() for line in said.splitlines())
    run("report", "--out", "bench/quick/results")
    assert "not a result" in (tmp_path / "bench" / "quick" / "README.md").read_text()
    assert {path: path.read_text() for path in committed} == committed
    assert "/bench/quick/" in (ROOT / ".gitignore").read_text().splitlines()


def test_loading_without_a_cold_disk_cache_leaves_it_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "make_cold", lambda _folder, *, whole: None)
    out = tmp_path / "results"
    run("loading", "--quick", "--data", str(folder), "--out", str(out))
    assert not any(name.startswith("cold") for name in load(out / "loading-cpu.json")["results"]["readers"])
    run("report", "--out", str(out))
    left_out = "cold: notebook's loop; cold: image folder, first time; cold: zip, first time"
    assert f"cannot be emptied here: {left_out}." in (tmp_path / "README.md").read_text()


def test_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "QUICK_ROWS", (50, 150))
    monkeypatch.setattr(scaling, "QUICK_WIDTHS", (4, 8))
    monkeypatch.setattr(scaling, "in_fresh_process", lambda function, point, _pause: function(**point))
    run("scaling", "--device", "cpu", "--quick", "--out", str(tmp_path))
    results = checked(tmp_path / "scaling-cpu.json", tmp_path)["results"]
    assert (tmp_path / "scaling-cpu.png").read_bytes().startswith(PNG)
    assert [point["rows"] for point in results["rows"]["adam"]["points"]] == [50, 150]
    assert [point["width"] for point in results["width"]["sgd"]["points"]] == [4, 8]
    assert results["threads"]["sgd"]["points"][0]["threads"] == 1
    assert list(results["disk"]) == ["sgd", "adam"]
    for found in results["disk"].values():
        assert [point["rows"] for point in found["points"]] == [50, 150]
        for point in found["points"]:
            assert "folder" not in point
            assert len(point["epoch_seconds"]["samples"]) == point["epochs"] == 3
            assert point["seconds_per_row"] == pytest.approx(
                point["epoch_seconds"]["median"] / point["rows"], rel=1e-4
            )
            assert point["first_epoch_seconds"] > point["epoch_seconds"]["min"]
            assert point["column_share"] == 1  # of so few rows, some has something in every column
    assert not list((tmp_path / "cache").glob("bench-*"))
    for sweep in ("rows", "width", "threads"):
        for point in results[sweep]["sgd"]["points"]:
            rate = point["flops_per_epoch"] / point["epoch_seconds"]["median"]
            assert point["fraction_of_gemm"] == pytest.approx(rate / point["gemm_flops_per_second"], rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_scaling_is_in_the_precision_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    asked: list[dict[str, Any]] = []

    def measured(_function: Callable[..., Any], point: dict[str, Any], _pause: float) -> dict[str, Any]:
        asked.append(point)
        if point["sweep"] == "disk":
            return {
                "flops_per_epoch": 10,
                "first_epoch_seconds": 7.0,
                "epoch_seconds": [0.01 * point["rows"]],
                "peak_memory_bytes": 9 * point["rows"] ** 2,
                "column_share": 0.75,
            }
        return {
            "flops_per_epoch": 10,
            "epoch_seconds": [4.0, 2.0, 6.0],
            "gemm_flops_per_second": 5.0,
            "memory_added_bytes": 8 * point["rows"],
        }

    monkeypatch.setattr(scaling, "in_fresh_process", measured)
    path = scaling.run(Options("cpu", True, out=tmp_path, precision=precision))
    assert path.name == {"float32": "scaling-cpu.json", "float64": "scaling-cpu-float64.json"}[precision]
    assert {point["precision"] for point in asked} == {precision}
    rows = load(path)["results"]["rows"]["sgd"]
    assert rows["points"][0]["fraction_of_gemm"] == 10 / 4 / 5
    text = " ".join(scaling.tables(load(path)))
    assert "time: sgd ∝ rows^0.00, adam ∝ rows^0.00; memory: sgd ∝ rows^1.00, adam ∝ rows^1.00." in text
    assert "time: sgd ∝ rows^1.00, adam ∝ rows^1.00; memory: sgd ∝ rows^2.00, adam ∝ rows^2.00." in text
    disk = load(path)["results"]["disk"]["adam"]
    assert {(point["seconds_per_row"], point["column_share"]) for point in disk["points"]} == {(0.01, 0.75)}


def test_sizes_on_disk_can_be_chosen_and_those_without_room_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, int]] = []
    written: list[Path] = []

    def measured(_function: Callable[..., Any], point: dict[str, Any], pause: float) -> dict[str, Any]:
        assert pause == processes.PAUSE
        written.append(Path(point["folder"]))
        assert (written[-1] / "train-images-idx3-ubyte").stat().st_size == 16 + 784 * point["rows"]
        asked.append((point["experiment"], point["rows"], point["epochs"]))
        found = {"flops_per_epoch": 1, "first_epoch_seconds": 1.0, "epoch_seconds": [1.0]}
        return {**found, "peak_memory_bytes": 1, "column_share": 1.0}

    monkeypatch.setattr(scaling, "DISK_EPOCH_ROWS", 1_000)
    monkeypatch.setattr(scaling, "in_fresh_process", measured)
    monkeypatch.setattr(scaling, "plan", lambda *_arguments: ([], []))
    # Room for the images of 250 rows twice, and not for those of 251.
    monkeypatch.setattr(scaling.shutil, "disk_usage", lambda _path: SimpleNamespace(free=2 * 784 * 250 + 1))
    run(
        "scaling",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
        *["--disk-rows", "40", "--disk-rows", "250", "--disk-rows", "251"],
    )
    record = load(tmp_path / "scaling-cpu.json")
    # 1,000 rows are gone through, in 3 to 20 epochs.
    assert asked == [("sgd", 40, 20), ("adam", 40, 20), ("sgd", 250, 4), ("adam", 250, 4)]
    assert record["results"]["left_out"] == [
        "251 rows on disk: no room there for their images twice, as they are and sorted"
    ]
    assert " --disk-rows 40 --disk-rows 250 --disk-rows 251" in record["command"]
    assert not any(folder.exists() for folder in written)


def test_a_gpu_has_no_rows_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Options, "backend", lambda _self: _StandIn())
    monkeypatch.setattr(scaling, "plan", lambda *_arguments: ([], []))
    assert load(scaling.run(Options("cuda", True, out=tmp_path)))["results"]["disk"] == {}


def test_rows_on_disk_are_measured_in_a_fresh_process(tmp_path: Path) -> None:
    """Of images whose upper half is background, 400 of 784 columns are multiplied: a multiple of 16."""
    images = np.random.default_rng(0).integers(1, 256, (60, 28, 28), np.uint8)
    images[:, :14] = 0
    labels = np.arange(60, dtype=np.uint8) % 10
    for name in ("train", "t10k"):
        made._write(tmp_path, name, 60, [(images, labels)])
    point = {"device": "cpu", "threads": 1, "experiment": "adam", "epochs": 2, "precision": "float32"}
    found = processes.in_fresh_process(measure_disk_point, {**point, "folder": str(tmp_path)})
    assert found["column_share"] == pytest.approx(400 / 784)
    assert found["flops_per_epoch"] == 2 * 60 * (2 * 784 * 64 + 3 * 64 * 64 + 3 * 64 * 10)
    assert len(found["epoch_seconds"]) == 2
    assert found["first_epoch_seconds"] > 0
    assert found["peak_memory_bytes"] is None or 10e6 < found["peak_memory_bytes"] < 500e6


def test_widest_network_of_the_scaling_is_784_2048_2048_10() -> None:
    points, _left_out = scaling.plan(CpuBackend(1), quick=False)
    widest = max((point for point in points if point["sweep"] == "width"), key=lambda point: point["width"])
    assert (widest["width"], widest["rows"]) == (2048, 60_000)


def test_a_point_is_measured_in_a_fresh_process() -> None:
    point = {
        "device": "cpu", "threads": 1, "sweep": "rows", "experiment": "adam", "rows": 20, "epochs": 2,
        "precision": "float64", "peak": {"size": 16, "repeats": 1},
    }  # fmt: skip
    found = processes.in_fresh_process(measure_point, point)
    assert len(found["epoch_seconds"]) == 2
    assert found["gemm_flops_per_second"] > 0
    with pytest.raises(RuntimeError, match="unheard"):
        processes.in_fresh_process(measure_point, point | {"device": "unheard"})


def test_installed_peers_agree_and_the_others_are_named(folder: Path, tmp_path: Path) -> None:
    # Compiling takes a minute: it is left to the command.
    engines = [engine for engine in ENGINES if engine is not PyTorchCompiled]
    path = peers.run(Options("cpu", True, str(folder), tmp_path), [*engines, _Absent])
    record = checked(path, folder, tmp_path)
    for result in record["results"].values():
        assert result["left_out"]["absent"] == "absent is not installed"
        assert {*result["engines"], *result["left_out"]} == {engine.name for engine in engines} | {"absent"}
        assert {"fmnist_xp", "fmnist_xp, dense rows", "fmnist_xp, no figures", "notebook"} <= result["engines"].keys()
        assert result["ratios"]["fmnist_xp"]["ours"] == 1
        assert result["ratios"]["notebook"]["notebook"] == 1
        assert {engine["column_share"] for engine in result["engines"].values()} == {1}
        for name, engine in result["engines"].items():
            calls = engine["epochs_a_call"]
            assert len(engine["losses"]) == (0 if name == OursWithoutMetrics.name else 3 if calls == 1 else 2)
    peers.draw(record)


def test_float64_peers_must_agree_to_more_digits(folder: Path, tmp_path: Path) -> None:
    path = peers.run(Options("cpu", True, str(folder), tmp_path, "float64"), [Ours, Notebook])
    assert path.name == "peers-cpu-float64.json"
    record = checked(path, folder, tmp_path)
    assert (record["precision"], record["settings"]["tolerance"]) == ("float64", 1e-9)
    assert record["settings"]["drift"] == 0
    for result in record["results"].values():
        assert result["engines"]["fmnist_xp"]["losses"] == result["engines"]["notebook"]["losses"]
    for precision, disagreed in (("float64", ["slightly wrong"]), ("float32", [])):
        path = peers.run(Options("cpu", True, str(folder), tmp_path, precision), [Ours, _SlightlyWrong])
        assert load(path)["results"]["sgd"]["disagreed"] == disagreed


@pytest.mark.parametrize("benchmark", ["throughput", "peers", "scaling"])
@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_unsupported_precision_is_a_one_line_error(tmp_path: Path, benchmark: str, precision: str) -> None:
    arguments = [benchmark, "--device", "cpu", "--precision", precision, "--data", "nowhere", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.output.startswith("error: cpu (")
    assert result.output.endswith(f"does not compute in {precision}: use float32 or float64\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("benchmark", ["peers", "scaling", "ranks"])
def test_precision_of_the_fused_engine_is_for_throughput_alone(tmp_path: Path, benchmark: str) -> None:
    result = CliRunner().invoke(app, [benchmark, "--precision", "bfloat16", "--out", str(tmp_path)])
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert "bfloat16 is for the fused engine alone, which throughput --engine fused measures" in said
    assert not list(tmp_path.iterdir())


def test_precision_of_the_fused_engine_needs_that(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["throughput", "--precision", "bfloat16", "--out", str(tmp_path)])
    assert result.exit_code == 2
    said = " ".join(result.output.replace("│", " ").split())
    assert "bfloat16 is for the fused engine alone, ask for it" in said
    assert not list(tmp_path.iterdir())


def test_fused_engine_that_would_not_train_is_not_measured(folder: Path, tmp_path: Path) -> None:
    arguments = ["throughput", "--device", "cpu", "--engine", "fused", "--data", str(folder), "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    name = CpuBackend(1).device_name
    expected = f"error: the fused engine does not take cpu ({name}): it needs compute capability 8.0\n"
    assert (result.exit_code, result.output) == (1, expected)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize(("precision", "terms", "gemm"), [("bfloat16", 1, "float16"), ("float32", 3, "float32")])
def test_throughput_of_the_fused_engine_has_a_file_of_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, terms: int, gemm: str
) -> None:
    """On a stand-in that says to have the precision, with the plain engine's epochs in its place."""
    engines, rates = set[str](), set[str]()

    def batch(engine: str, network: Any, _optimizer: Any, inputs: Any, labels: Any, *_more: Any) -> FullBatch:
        engines.add(engine)
        return FullBatch(network, inputs, labels)

    def rate(_backend: Any, precision: str, **_how: Any) -> Callable[[], float]:
        rates.add(precision)
        return lambda: 1e12

    class Gpu(_StandIn):
        precisions = ("float32", "bfloat16")

    monkeypatch.setattr(Options, "backend", lambda _self: Gpu())
    short = {"adam": replace(NOTEBOOK_EXPERIMENTS["adam"], epochs=2)}
    monkeypatch.setattr(throughput, "NOTEBOOK_EXPERIMENTS", short)
    monkeypatch.setattr(throughput, "unfit", lambda *_: "")
    monkeypatch.setattr(throughput, "gemm_sampler", rate)
    monkeypatch.setattr("fmnist_xp.train.trainer.make_batch", batch)
    options = "throughput --quick --no-graphs --engine fused --rounds 1 --precision"
    run(*options.split(), precision, "--data", str(folder), "--out", str(tmp_path))
    suffix = "" if precision == "float32" else f"-{precision}"
    record = checked(tmp_path / f"throughput-cuda{suffix}-eager-fused.json", folder, tmp_path)
    assert (record["precision"], record["engine"]) == (precision, "fused")
    assert " --rounds 1 --no-graphs --engine fused --quick" in record["command"]
    assert (engines, rates) == ({"fused"}, {gemm})
    (found,) = record["results"]["experiments"].values()
    assert found["bytes_per_epoch"] == 200 * (2 * 784 + 4 * terms * 64)


@pytest.mark.parametrize(
    ("precision", "error", "passes"),
    [
        ("tf32", (0, 0, 0.05), True),
        ("tf32", (0, 0, 0.2), False),
        ("tf32", (0, -0.2, 0), False),
        ("float32", (0, 0, 0.05), False),
    ],
)
def test_losses_of_low_precision_may_drift_after_updates(
    precision: str, error: tuple[float, ...], passes: bool
) -> None:
    """By a share of how far the loss has moved; the first loss has not."""
    experiment = NOTEBOOK_EXPERIMENTS["adam"]
    generator = np.random.default_rng(0)
    X, y = Pixels(generator.integers(0, 256, (50, 784), np.uint8)), np.arange(50, dtype=np.uint8) % 10
    backend = _StandIn()
    task = Task(experiment, experiment.make_network(backend, seed=0).state_dict(), X, y, backend, precision)

    class Drifting(Ours):
        name = "drifting"
        found: ClassVar[list[float]] = []

        def epoch(self) -> tuple[Any, Any]:
            loss = float(super().epoch()[0])
            self.found.append(loss)
            return loss + error[len(self.found) - 1] * (loss - self.found[0]), None

    with nullcontext() if passes else pytest.raises(DisagreementError, match="does not compute what fmnist_xp"):
        check(task, Drifting(task), references(task, [Drifting]))
    assert abs(Drifting.found[2] / Drifting.found[0] - 1) > 0.01  # else nothing could drift


@pytest.mark.parametrize(("backend", "epochs"), [("cpu", 3), ("cuda", 1)])
def test_peers_time_the_notebook_in_processes_of_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, epochs: int
) -> None:
    asked: list[dict[str, Any]] = []

    def measured(_function: Callable[..., Any], arguments: dict[str, Any], pause: float) -> Any:
        assert pause == processes.PAUSE
        assert np.load(Path(arguments["folder"]) / "X.npy").shape == (200, 784)
        asked.append(arguments)
        return {"seconds": [9.0, 9.0, 1.0, 2.0, 6.0][: arguments["epochs"]]}

    monkeypatch.setattr(baseline, "in_fresh_process", measured)
    monkeypatch.setattr(peers, "peak_settings", lambda *_: {"size": 64, "repeats": 1})
    if backend == "cuda":
        monkeypatch.setattr(Options, "backend", lambda _self: _StandIn())
    results = load(peers.run(Options(backend, False, str(folder), tmp_path), [Notebook]))["results"]
    assert {arguments["epochs"] for arguments in asked} == {baseline.WARM_UP + epochs}
    for result in results.values():
        samples = result["engines"]["notebook"]["samples"]
        # A sample is the mean of a round, as for the other engines.
        assert samples == [sum([1.0, 2.0, 6.0][:epochs]) / epochs] * (12 if backend == "cpu" else 8)
    assert not any(Path(arguments["folder"]).exists() for arguments in asked)


def test_peer_that_computes_something_else_is_left_out_and_the_exit_code_is_1(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers.run, "__defaults__", ([Ours, _Wrong, Notebook],))
    arguments = ["peers", "--device", "cpu", "--quick", "--data", str(folder), "--out", str(tmp_path / "results")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: wrong: it does not compute what fmnist_xp computes: sgd after 0 updates ")
    assert result.stderr.count("\n") == 1
    record = checked(tmp_path / "results" / "peers-cpu.json")
    for name, found in record["results"].items():
        loss = found["engines"]["fmnist_xp"]["losses"][0]
        reason = found["left_out"]["wrong"]
        assert found["disagreed"] == ["wrong"]
        assert [*found["engines"]] == ["fmnist_xp", "notebook"]
        numbers = re.fullmatch(rf".*: {name} after 0 updates has the loss ([\d.]+), not ([\d.]+)", reason)
        assert numbers
        assert [float(number) for number in numbers.groups()] == pytest.approx([1.001 * loss, loss], rel=1e-5)
    run("report", "--out", str(tmp_path / "results"))
    assert "- wrong (adam): left out, it does not compute" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("stage", ["constructor", "first epochs", "rounds"])
def test_failing_peer_is_left_out_with_the_first_line_of_its_error(folder: Path, tmp_path: Path, stage: str) -> None:
    class Failing(Notebook):
        name = "failing"

        def __init__(self, task: Task) -> None:
            super().__init__(task)
            self.left = {"constructor": 0, "first epochs": 1, "rounds": 5}[stage]
            self._spend(0 if self.left else 1)

        def epoch(self) -> tuple[Any, Any]:
            self._spend(1)
            return super().epoch()

        def _spend(self, epochs: int) -> None:
            self.left -= epochs
            if self.left < 0:
                raise RuntimeError("CUDA error: out of something\nmore of it")

    path = peers.run(Options("cpu", True, str(folder), tmp_path), [Ours, Failing, Notebook])
    for found in load(path)["results"].values():
        assert found["left_out"] == {"failing": "failed: RuntimeError: CUDA error: out of something"}
        assert [*found["engines"]] == ["fmnist_xp", "notebook"]
        assert len(found["engines"]["fmnist_xp"]["samples"]) == 2
        assert found["disagreed"] == []


def test_several_epochs_a_call_are_timed_and_checked_as_such(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Four(Ours):
        name = "four"
        epochs_a_call = 4

        def __init__(self, task: Task) -> None:
            super().__init__(task)
            self.calls = 0
            made.append(self)

        def epoch(self) -> tuple[Any, Any]:
            self.calls += 1
            first, *_ = [super(Four, self).epoch() for _ in range(4)]
            return first

    class Three(Four):
        name = "three"

        def epoch(self) -> tuple[Any, Any]:
            first, *_ = [super(Four, self).epoch() for _ in range(3)]
            return first

    path = peers.run(Options("cpu", True, str(folder), tmp_path), [Four, Three])
    for found in load(path)["results"].values():
        assert (found["engines"]["four"]["epochs_a_call"], len(found["engines"]["four"]["losses"])) == (4, 2)
    assert found["disagreed"] == ["three"]  # with Adam; an update of the others changes little on these images
    assert "adam after 4 updates" in found["left_out"]["three"]
    # Two to be checked, and in each of two rounds one to warm up and one for the single epoch asked for.
    assert {engine.calls for engine in made if type(engine) is Four} == {6}
    clock = iter([100.0, 124.0])
    monkeypatch.setattr(peers.time, "perf_counter", lambda: next(clock))
    assert peers.time_round(made[0], 21) == 1  # of 24


def test_rounds_and_sides_can_be_chosen(folder: Path, tmp_path: Path, notebook_rounds: list[Any]) -> None:
    options = Options("cpu", True, str(folder), tmp_path, rounds=3, without=("NOTE", "fmnist_xp"))
    record = checked(peers.run(options, [Ours, OursWithoutMetrics, Notebook, _Absent]))
    assert " --rounds 3 --without NOTE --without fmnist_xp --quick" in record["command"]
    for result in record["results"].values():
        assert [*result["engines"]] == [
            "fmnist_xp, no figures"
        ]  # the whole name of one side does not match the others
        assert len(result["engines"]["fmnist_xp, no figures"]["samples"]) == 3
        assert len(result["gemm_flops_per_second"]["samples"]) == 3
    assert notebook_rounds == []
    arguments = ["throughput", "--device", "cpu", "--quick", "--data", str(folder), "--out", str(tmp_path)]
    run(*arguments, "--rounds", "1")
    record = checked(tmp_path / "throughput-cpu.json")
    assert " --rounds 1 --quick" in record["command"]
    assert len(record["results"]["gemm_flops_per_second"]["samples"]) == 1


def test_no_rows_are_written_where_the_notebook_is_left_out(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "write_rows", lambda *_arguments: pytest.fail("rows were written"))
    peers.run(Options("cpu", True, str(folder), tmp_path, without=("notebook",)), [Ours, Notebook])


@pytest.mark.parametrize("arguments", [("--without", "nobody"), ("--without", ""), ("--rounds", "0")])
def test_unknown_side_and_zero_rounds_are_usage_errors(tmp_path: Path, arguments: tuple[str, str]) -> None:
    result = CliRunner().invoke(app, ["peers", "--out", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_records_of_a_gpu_stand_in(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Options, "backend", lambda _self: _StandIn())
    short = {name: replace(experiment, epochs=23) for name, experiment in throughput.NOTEBOOK_EXPERIMENTS.items()}
    monkeypatch.setattr(throughput, "NOTEBOOK_EXPERIMENTS", short)
    for benchmark in (throughput, peers):
        monkeypatch.setattr(benchmark, "peak_settings", lambda *_: {"size": 64, "repeats": 1})
    run("throughput", "--quick", "--data", str(folder), "--out", str(tmp_path))
    record = checked(tmp_path / "throughput-cuda.json", folder, tmp_path)
    assert record["machine"]["gpu"] == "a stand-in"
    assert record["machine"]["cuda"] == "12.4"
    assert record["results"]["copy_bytes_per_second"]["median"] > 0
    for experiment in record["results"]["experiments"].values():
        assert experiment["fraction_of_bandwidth"] > 0
        assert experiment["peak_memory_bytes"] == 5_000_000
        assert experiment["joules_per_epoch"] is None
        training = experiment["training"]
        assert (training["epochs"], len(training["seconds"]["samples"])) == (23, 1)
        assert training["seconds"]["median"] > 0
        assert 0 <= training["accuracy"] <= 1
    path = peers.run(Options("cuda", True, str(folder), tmp_path), [Ours, OursWithoutMetrics, Notebook, ScikitLearn])
    assert checked(path)["results"]["sgd"]["left_out"] == {"scikit-learn": "scikit-learn's MLPClassifier has no GPU"}
    run("throughput", "--quick", "--precision", "tf32", "--data", str(folder), "--out", str(tmp_path))
    assert checked(tmp_path / "throughput-cuda-tf32.json")["results"]["experiments"]["sgd"]["training"]
    run("report", "--out", str(tmp_path))
    text = (tmp_path.parent / "README.md").read_text()
    assert "`python -m bench throughput --device cuda" in text
    assert "| sgd, CUDA, float32 | 23 | " in text
    assert "| sgd, CUDA, tf32 | 23 | " in text


def test_whole_training_run_starts_from_the_initial_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing epochs before does not change it: it ends where `fit` ends."""
    generator = np.random.default_rng(0)
    X, y = Pixels(generator.integers(0, 256, (60, 784), np.uint8)), np.arange(60, dtype=np.uint8) % 10
    experiment = replace(NOTEBOOK_EXPERIMENTS["adam"], hidden=(6,), epochs=31)
    measured = throughput._Run(experiment, CpuBackend(1), X, y, "float32")
    measured.timed(3)()
    training = measured.training(measured.train())
    history = experiment.make_network(CpuBackend(1), seed=0).fit(
        X, y, epochs=31, optimizer=experiment.make_optimizer(), verbose=False
    )
    assert training["epochs"] == 31
    assert training["loss"] == pytest.approx(history.loss[-1], rel=1e-5)
    assert training["accuracy"] == pytest.approx(history.accuracy[-1], rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_diverged_training_has_no_metrics() -> None:
    X, y = Pixels(np.full((10, 784), 255, np.uint8)), np.arange(10, dtype=np.uint8)
    experiment = replace(NOTEBOOK_EXPERIMENTS["sgd"], hidden=(4,), epochs=21, learning_rate=1e30)
    measured = throughput._Run(experiment, CpuBackend(1), X, y, "float32")
    assert measured.training(measured.train())["loss"] is None


def test_float16_moves_half_the_bytes() -> None:
    class Backend(CpuBackend):
        precisions = ("float32", "float16")

    one, half = (
        NOTEBOOK_EXPERIMENTS["adam"].make_network(Backend(1), seed=0, dtype=dtype) for dtype in Backend.precisions
    )
    found = [throughput.metrics(network, 100, [2.0], [1e9], [1e6]) for network in (one, half)]
    # Rows twice, and each of the layers' 138 outputs six times.
    assert [metrics["bytes_per_epoch"] for metrics in found] == [size * 100 * (2 * 784 + 6 * 138) for size in (4, 2)]
    assert [metrics["floor_seconds"] for metrics in found] == pytest.approx([0.9584, 0.4792])


def test_unknown_device_is_a_one_line_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["throughput", "--device", "tpu", "--quick", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert result.output.startswith("error: device must be")


class _StandIn(CpuBackend):
    """NumPy with a GPU's capabilities, and what the benchmarks ask CuPy for besides arrays."""

    name = "cuda:0"
    own_memory = True
    asynchronous = True
    cuda_index = 0
    precisions = ("float32", "float64", "tf32")

    def __init__(self) -> None:
        super().__init__(1)
        self.device_name = "a stand-in"
        xp = ModuleType("stand_in")
        xp.__dict__.update(vars(np))
        runtime = SimpleNamespace(runtimeGetVersion=lambda: 12040, deviceGetPCIBusId=lambda _index: "0000:00:00.0")
        vars(xp)["cuda"] = SimpleNamespace(runtime=runtime)
        self.xp = xp

    def peak_memory(self) -> int | None:
        return 5_000_000


class _Absent(Engine):
    name = "absent"

    def __init__(self, task: Task) -> None:
        raise NotHereError("absent is not installed")

    def epoch(self) -> tuple[Any, Any]:
        return None, None


class _SlightlyWrong(Notebook):
    name = "slightly wrong"

    def epoch(self) -> tuple[Any, Any]:
        loss, accuracy = super().epoch()
        return (1 + 1e-7) * loss, accuracy


class _Wrong(Notebook):
    name = "wrong"

    def epoch(self) -> tuple[Any, Any]:
        loss, accuracy = super().epoch()
        return 1.001 * loss, accuracy
