import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from run_helpers import read_json, read_picture

from fmnist_xp.backend import CpuBackend, CudaBackend
from fmnist_xp.data import Dataset
from fmnist_xp.errors import DeviceError
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.model import Sequential
from fmnist_xp.parity import suite
from fmnist_xp.parity.bounds import Bounded
from fmnist_xp.parity.comparison import Comparison
from fmnist_xp.parity.suite import choose_sides, compare_threads, failures, run_parity
from fmnist_xp.parity.tolerances import ROUNDOFF
from fmnist_xp.report.parity import parity_markdown, parity_tables
from fmnist_xp.runs import versions
from fmnist_xp.train.history import History

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def images(small_data: tuple[Dataset, Dataset]) -> Dataset:
    return small_data[0]


@pytest.fixture
def few_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of each operation, and steps of few rows: the others are compared elsewhere."""
    first = {operation.name: operation for operation in reversed(list(suite.operations()))}
    monkeypatch.setattr(suite, "operations", lambda: iter(first.values()))
    monkeypatch.setattr(suite, "ROWS", 30)
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 50)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are looked at where everything agrees."""
    monkeypatch.setattr(suite, "plot_parity", lambda _record, _folder: None)


def described(backend: Any, precision: str | None = None) -> list[tuple[str, str]]:
    return [(str(device), str(reference)) for device, reference in choose_sides(backend, precision)]


def test_cpu_is_compared_in_two_precisions() -> None:
    cpu = CpuBackend(3)
    assert described(cpu) == described(cpu, "float32") == [("cpu float32", "cpu float64")]
    assert {side.backend for pair in choose_sides(cpu) for side in pair} == {cpu}


def test_gpu_is_compared_with_the_cpu_in_every_precision_that_it_has(standin: CudaBackend) -> None:
    assert described(standin) == [
        ("cuda:1 float32", "cpu float32"),
        ("cuda:1 float64", "cpu float64"),
        ("cuda:1 float16", "cpu float32"),
        ("cuda:1 tf32", "cpu float32"),
    ]
    assert described(standin, "tf32") == [("cuda:1 tf32", "cpu float32")]


def test_float64_of_the_cpu_has_nothing_to_be_compared_with() -> None:
    with pytest.raises(
        ValueError, match=r"^on the CPU, float32 is compared with float64: leave --precision out, or name a GPU$"
    ):
        choose_sides(CpuBackend(1), "float64")


@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_precision_that_the_device_lacks_is_refused(precision: str) -> None:
    with pytest.raises(DeviceError, match=f"does not compute in {precision}"):
        choose_sides(CpuBackend(1), precision)


def test_threads_are_held_to_the_same_bits(small_rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    line = compare_threads(NOTEBOOK_EXPERIMENTS["adam"], CpuBackend(3), small_rows)
    assert line.passed
    assert (line.operation, line.tensor, line.case) == ("adam", "parameters", "3 threads and 1, 3 epochs")
    assert line.tolerance == 0
    # A backend whose blocks hang on the number of threads adds up in another order.
    monkeypatch.setattr(CpuBackend, "block_rows", lambda self, rows, _bytes, shared: rows // self.threads)
    assert not compare_threads(NOTEBOOK_EXPERIMENTS["adam"], CpuBackend(3), small_rows).passed


@pytest.mark.parametrize("name", NOTEBOOK_EXPERIMENTS)
def test_each_experiment_is_trained_on_threads_and_on_one(
    name: str, small_rows: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = []
    fit = Sequential.fit

    def note(network: Any, X: Any, y: Any, **settings: Any) -> Any:
        trained.append((network.backend.threads, settings["optimizer"].config(), settings["epochs"]))
        return fit(network, X, y, **settings)

    monkeypatch.setattr(Sequential, "fit", note)
    compare_threads(NOTEBOOK_EXPERIMENTS[name], CpuBackend(1), small_rows)
    optimizer = NOTEBOOK_EXPERIMENTS[name].make_optimizer().config()
    assert trained == [(2, optimizer, 3), (1, optimizer, 3)]
    assert capsys.readouterr() == ("", "")


def test_record_as_it_is_written(images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared is given here, so that all that is written is known."""
    seen: list[Any] = []
    pair: dict[str, Any] = {"operations": [], "steps": [], "curves": [{"passed": True, "used": [0.5, math.nan]}]}

    def compare_pair(device: Any, reference: Any, rows: Any, trainings: Any, _note: Any) -> Any:
        seen.extend([(str(device), str(reference)), *rows, trainings.epochs])
        return pair

    line = Comparison("sgd", "parameters", "3 threads", 0.0, 0.0, 0.0, 0.0, 0.0)
    monkeypatch.setattr(suite, "_compare_pair", compare_pair)
    monkeypatch.setattr(suite, "compare_threads", lambda *_given: line)
    monkeypatch.setattr(suite, "plot_parity", lambda record, folder: seen.append((record, folder)))
    monkeypatch.setattr(suite, "parity_markdown", lambda record: f"{record['epochs']} epochs\n")
    monkeypatch.setattr(suite, "time", SimpleNamespace(perf_counter=iter([100.0, 102.5]).__next__))
    cpu, folder, notes = CpuBackend(3), tmp_path / "made" / "here", []
    named = replace(images, name="Größen")
    record = run_parity(choose_sides(cpu), named, folder, epochs=7, note=notes.append)
    machine = {"name": "cpu", "hardware": cpu.device_name, "threads": 3}
    assert record == {
        "device": machine,
        "reference": machine,
        "dataset": {"name": "Größen", "rows": 400},
        "epochs": 7,
        "versions": versions(),
        "threads": [line.record()] * 3,
        "pairs": [{**pair, "curves": [{"passed": True, "used": [0.5, None]}]}],
        "passed": True,
        "seconds": 2.5,
    }
    assert notes == ["one thread and several"]
    sides, X, y, epochs, drawn = seen
    order = np.random.default_rng(0).permutation(400)
    assert sides == ("cpu float32", "cpu float64")
    np.testing.assert_allclose(X, (images.images.reshape(400, 784)[order] - 127.5) / 127.5, rtol=1e-6)
    np.testing.assert_array_equal(y, images.labels[order])
    assert (epochs, drawn) == (7, (record, folder))
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    assert (folder / "parity.json").read_text(encoding="utf-8") == text
    assert (folder / "parity.md").read_text(encoding="utf-8") == "7 epochs\n"
    # A folder that is there already is written to again.
    monkeypatch.setattr(suite, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    assert run_parity(choose_sides(cpu), named, folder, epochs=7)["seconds"] == 0


def test_units_of_the_last_place_are_those_of_the_devices_precision() -> None:
    bound = Bounded(np.array([1.0]), np.full((3, 1), 2.0**-20), ROUNDOFF["float32"])
    wide = [{"loss": np.array([1 + 2.0**-23])}, {"loss": np.array([1.0])}]  # a figure kept as a double
    for precision, ulps in (("float32", 1), ("float16", 1), ("tf32", 1), ("float64", 2.0**29)):
        (line,) = suite._compare_all("step", "rows", wide, [{"loss": bound}] * 2, precision)
        assert (line.operation, line.tensor, line.case, line.ulps) == ("step", "loss", "rows", ulps)
        assert line.tolerance == 2 * 2.0**-20


def test_pair_names_its_sides(monkeypatch: pytest.MonkeyPatch, standin: CudaBackend) -> None:
    monkeypatch.setattr(suite, "operations", lambda: iter([]))
    monkeypatch.setattr(suite, "NOTEBOOK_EXPERIMENTS", {})
    notes: list[str] = []
    (pair,) = choose_sides(standin, "tf32")
    rows: Any = np.zeros((3, 784)), np.zeros(3)
    assert suite._compare_pair(*pair, rows, suite.Trainings(rows, 1, notes.append), notes.append) == {
        "device": "cuda:1 tf32",
        "reference": "cpu float32",
        "precision": "tf32",
        "operations": [],
        "steps": [],
        "curves": [],
    }
    assert notes == ["operations and steps: cuda:1 tf32 and cpu float32"]


def test_each_curve_is_trained_once_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def train_curve(experiment: Any, *given: Any, **twin: Any) -> History:
        asked.append((experiment.name, *given, twin))
        return History()

    monkeypatch.setattr(suite, "train_curve", train_curve)
    notes: list[str] = []
    cpu = CpuBackend(1)
    ((side, other),) = choose_sides(cpu)
    rows: Any = np.zeros((3, 784)), np.zeros(3)
    trainings, sgd = suite.Trainings(rows, 7, notes.append), NOTEBOOK_EXPERIMENTS["sgd"]
    kept = [trainings.get(sgd, side), trainings.get(sgd, side, 0.5, 2), trainings.get(sgd, other)]
    assert [trainings.get(sgd, side), trainings.get(sgd, side, 0.5, 2), trainings.get(sgd, other)] == kept
    assert notes == [f"sgd: 7 epochs on cpu {what}" for what in ("float32", "float32, twin 2", "float64")]
    assert asked == [
        ("sgd", cpu, "float32", *rows, 7, {"disturbance": 0.0, "twin": 0, "engine": "plain"}),
        ("sgd", cpu, "float32", *rows, 7, {"disturbance": 0.5, "twin": 2, "engine": "plain"}),
        ("sgd", cpu, "float64", *rows, 7, {"disturbance": 0.0, "twin": 0, "engine": "plain"}),
    ]


@pytest.mark.parametrize(
    ("value", "finite"),
    [
        (1.5, 1.5),
        (math.nan, None),
        (-math.inf, None),
        (7, 7),
        ("nan", "nan"),
        ({"a": [1.0, math.inf, {"b": math.nan}], "c": True}, {"a": [1.0, None, {"b": None}], "c": True}),
    ],
)
def test_json_has_no_word_for_what_is_not_finite(value: Any, finite: Any) -> None:
    assert suite._finite(value) == finite


@pytest.mark.usefixtures("few_operations")
def test_record_of_the_cpu(images: Dataset, tmp_path: Path) -> None:
    notes: list[str] = []
    record = run_parity(choose_sides(CpuBackend(2)), images, tmp_path / "made", epochs=3, note=notes.append)
    assert record["passed"]
    assert list(failures(record)) == []
    assert record["device"]["name"] == record["reference"]["name"] == "cpu"
    assert (record["dataset"], record["epochs"]) == ({"name": "synthetic", "rows": 400}, 3)
    assert record["versions"]["numpy"] == np.__version__
    assert [line["operation"] for line in record["threads"]] == ["sgd", "momentum", "adam"]
    (pair,) = record["pairs"]
    assert (pair["device"], pair["reference"], pair["precision"]) == ("cpu float32", "cpu float64", "float32")
    assert {line["operation"] for line in pair["operations"]} == {
        "Dense", "Dense with penalties", "ReLU", "LeakyReLU", "Tanh", "Sigmoid", "GELU", "LayerNorm", "Dropout",
        "Softmax", "Cross-entropy", "Softmax and cross-entropy", "Cross-entropy, smoothed",
        "Softmax and cross-entropy, smoothed", "Binary cross-entropy", "Mean squared error", "Images changed",
        "SGD", "SGD with momentum", "SGD with Nesterov momentum", "SGD, clipped and averaged",
        "Adam", "Adam with a schedule", "AdamW", "RMSProp", "AdaGrad", "LBFGS",
    }  # fmt: skip
    assert {line["operation"] for line in pair["steps"]} == {
        "784-128-128-10",
        "784-64-64-10",
        "sgd",
        "momentum",
        "adam",
    }
    assert [curve["experiment"] for curve in pair["curves"]] == ["sgd", "momentum", "adam"]
    assert all(curve["epoch"] == [0, 1, 2] for curve in pair["curves"])
    assert all(type(share) is float for curve in pair["curves"] for share in curve["used"])
    # Each curve is trained once: in both precisions, and two twins.
    assert notes == ["one thread and several", "operations and steps: cpu float32 and cpu float64"] + [
        f"{name}: 3 epochs on cpu {side}"
        for name in ("sgd", "momentum", "adam")
        for side in ("float32, twin 1", "float32, twin 2", "float32", "float64")
    ]

    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        "parity.json", "parity.md", "curves-float32.png"
    }  # fmt: skip
    assert read_json(tmp_path / "made" / "parity.json") == record
    assert (tmp_path / "made" / "parity.md").read_text(encoding="utf-8") == parity_markdown(record)
    read_picture(tmp_path / "made" / "curves-float32.png")


@pytest.mark.usefixtures("few_operations")
def test_record_of_a_device_in_all_its_precisions(images: Dataset, tmp_path: Path, standin: CudaBackend) -> None:
    notes: list[str] = []
    record = run_parity(choose_sides(standin), images, tmp_path, epochs=2, note=notes.append)
    assert record["passed"], list(failures(record))
    assert record["threads"] == []
    assert [pair["precision"] for pair in record["pairs"]] == ["float32", "float64", "float16", "tf32"]
    assert record["reference"]["name"] == "cpu"
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"curves-{precision}.png" for precision in standin.precisions
    }
    # On the CPU float32 and float64, each with two twins, and twins of float32 for halves and for tf32.
    trained = [note for note in notes if "epochs on cpu" in note]
    assert len(trained) == len({*trained}) + 3 * 4 == 3 * (2 * 3 + 2 + 2)


@pytest.mark.usefixtures("few_operations", "no_pictures")
def test_failure_is_named_in_all_forms(images: Dataset, tmp_path: Path, standin: CudaBackend) -> None:
    log = standin.xp.log
    standin.xp.log = lambda x, out=None: standin.xp.multiply(log(x), 1.01, out=out)
    record = run_parity(choose_sides(standin, "float32"), images, tmp_path, epochs=2)
    assert not record["passed"]
    assert read_json(tmp_path / "parity.json")["passed"] is False
    failed = list(failures(record))
    assert "Cross-entropy sample losses (uint8 labels) in float32" in failed
    assert "sgd from epoch 0 in float32" in failed
    assert not any("Dense" in words for words in failed)
    verdicts = {(row[0], row[1]): row[-1] for table in parity_tables(record) for row in table.rows if len(row) == 10}
    assert verdicts["Cross-entropy", "loss"] == "DIFFERS"
    assert verdicts["Dense", "output"] == "agrees"
    assert "Not all agree" in parity_markdown(record)


@pytest.mark.usefixtures("few_operations", "no_pictures")
@pytest.mark.parametrize("which", ["sgd", "adam"])  # the first, and the last
def test_curve_that_differs_alone_is_a_failure(
    which: str, images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = suite.compare_curves

    def compare_one_beyond(name: str, reference: History, device: History, *more: Any) -> Any:
        if name == which:
            device = replace(device, loss=[device.loss[0], device.loss[1] + 1.0])
        return compare(name, reference, device, *more)

    monkeypatch.setattr(suite, "compare_curves", compare_one_beyond)
    record = run_parity(choose_sides(CpuBackend(2)), images, tmp_path, epochs=2)
    assert not record["passed"]
    assert list(failures(record)) == [f"{which} from epoch 1 in float32"]
    assert "Not all agree" in parity_markdown(record)


@pytest.mark.usefixtures("few_operations", "no_pictures")
@pytest.mark.parametrize("which", ["sgd", "adam"])
def test_thread_that_differs_alone_is_a_failure(
    which: str, images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = suite.compare_threads

    def compare_one_beyond(experiment: Any, *more: Any) -> Any:
        line = compare(experiment, *more)
        return replace(line, used=2.0) if experiment.name == which else line

    monkeypatch.setattr(suite, "compare_threads", compare_one_beyond)
    record = run_parity(choose_sides(CpuBackend(2)), images, tmp_path, epochs=1)
    assert not record["passed"]
    assert list(failures(record)) == [f"{which} on 2 threads and 1, 3 epochs"]


@pytest.mark.usefixtures("few_operations", "no_pictures")
@pytest.mark.parametrize("kind", ["operation", "step"])
@pytest.mark.parametrize("last", [False, True])
def test_line_that_differs_alone_is_a_failure(
    kind: str, last: bool, images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"compare_{kind}"
    compare, seen = getattr(suite, name), []

    def compare_one_beyond(what: Any, *more: Any) -> Any:
        seen.append(what.name)
        lines = compare(what, *more)
        if what.name == (("Adam" if kind == "operation" else "adam") if last else seen[0]):
            lines[-1] = replace(lines[-1], used=1.5)
        return lines

    monkeypatch.setattr(suite, name, compare_one_beyond)
    record = run_parity(choose_sides(CpuBackend(2)), images, tmp_path, epochs=1)
    assert not record["passed"]
    (words,) = failures(record)
    assert words.endswith("in float32")


@pytest.mark.usefixtures("few_operations", "no_pictures")
def test_nan_on_one_side_is_a_failure_and_no_number_in_json(
    images: Dataset, tmp_path: Path, standin: CudaBackend
) -> None:
    log = standin.xp.log
    standin.xp.log = lambda x, out=None: log(x * math.nan, out=out)
    record = run_parity(choose_sides(standin, "float32"), images, tmp_path, epochs=1)
    lines = {(line["operation"], line["tensor"]): line for line in record["pairs"][0]["operations"]}
    loss = lines["Cross-entropy", "loss"]
    assert (loss["absolute"], loss["used"], loss["passed"]) == (None, None, False)
    assert read_json(tmp_path / "parity.json") == record
    assert "∞" in parity_markdown(record)
    assert {curve["exceeds"] for curve in record["pairs"][0]["curves"]} == {0}


@pytest.mark.usefixtures("few_operations", "no_pictures")
def test_interrupt_writes_nothing(images: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = Sequential.fit

    def interrupted(*arguments: Any, **more: Any) -> Any:
        history = fit(*arguments, **more)
        history.interrupted = True
        return history

    monkeypatch.setattr(Sequential, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_parity(choose_sides(CpuBackend(1)), images, tmp_path, epochs=1)
    assert list(tmp_path.iterdir()) == []


KEPT = sorted((ROOT / "docs" / "parity").glob("*/parity.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parent.name)
def test_tables_of_the_page_are_those_of_the_kept_records(path: Path) -> None:
    page = (ROOT / "docs" / "parity.md").read_text(encoding="utf-8")
    record = read_json(path)
    assert record["dataset"]["name"] == "fashion-mnist"
    assert parity_markdown(record).strip() in page
    for pair in record["pairs"]:
        picture = path.parent / f"curves-{pair['precision']}.png"
        read_picture(picture)
        assert f"(parity/{path.parent.name}/{picture.name})" in page
