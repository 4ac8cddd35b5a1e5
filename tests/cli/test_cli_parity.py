import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parity.standin import StandInCupy
from run_helpers import contents, read_json, read_picture

from fmnist_xp.cli.console import out
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.parity.fused import fused_operations
from fmnist_xp.parity.operations import operations
from fmnist_xp.report.parity import parity_tables

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal with room for all columns, each with its name in one line."""
    monkeypatch.setattr(out, "width", 200)


@pytest.fixture(autouse=True)
def one_case_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare every operation on its first inputs: tests/parity has them all."""
    first = list({operation.name: operation for operation in reversed(list(operations()))}.values())
    monkeypatch.setattr("fmnist_xp.parity.suite.operations", lambda: reversed(first))


def cells(answer: Any) -> list[list[str]]:
    """Return the rows of all tables, cell by cell."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in answer.lines if line.startswith("│")]


def test_cpu_in_two_precisions(command: Command, workplace: Path, idx_folder: Path) -> None:
    answer = command("parity", "--device", "cpu", "--threads", 2, "--data", idx_folder, "--epochs", 3)
    answer.assert_went_well()
    folder = workplace / "parity-cpu"
    assert {path.name for path in folder.iterdir()} == {"parity.json", "parity.md", "curves-float32.png"}
    read_picture(folder / "curves-float32.png")
    record = read_json(folder / "parity.json")
    assert record["passed"]
    assert (record["dataset"]["rows"], record["epochs"], record["device"]["threads"]) == (400, 3, 2)

    told = answer.lines[: next(number for number, line in enumerate(answer.lines) if line.startswith("One thread"))]
    assert told[:2] == ["one thread and several", "operations and steps: cpu float32 and cpu float64"]
    assert "sgd: 3 epochs on cpu float32" in told

    rows = cells(answer)
    named = {(row[0], row[1]) for row in rows}
    assert {("Dense", "dweights"), ("Adam", "after update 3"), ("784-64-64-10", "dense2.output")} <= named
    assert all(row[-1] == "agrees" for row in rows if len(row) > 6)
    for name in ("sgd", "momentum", "adam"):
        assert (name, "parameters") in named  # on one thread and on several
        assert f"Training loss of {name}: cpu float32 and cpu float64" in answer.out
    assert answer.lines[-1].startswith("cpu float32 and cpu float64, on ")
    assert answer.lines[-1].endswith("All agree within their tolerances. Written to parity-cpu")


def test_tables_match_the_report_with_a_line_for_each_comparison(
    command: Command, workplace: Path, small_synthetic: Any
) -> None:
    answer = command("parity", "--device", "cpu", "--data", "synthetic", "--epochs", 1, "--out", "made/here")
    assert "400 images of synthetic" in answer.lines[-1]
    report = (workplace / "made" / "here" / "parity.md").read_text(encoding="utf-8")
    in_report = [line.strip("| ").split(" | ") for line in report.splitlines() if re.match(r"\| (?!---)", line)]
    in_report = [row for row in in_report if row[0] not in ("operation", "experiment", "epoch")]
    assert cells(answer) == in_report
    assert contents(workplace).keys() == {
        f"made/here/{name}" for name in ("parity.json", "parity.md", "curves-float32.png")
    }


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> StandInCupy:
    """The stand-in, where the command looks for CuPy."""
    module = StandInCupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


@pytest.mark.usefixtures("cupy")
def test_device_in_one_precision(command: Command, workplace: Path, idx_folder: Path) -> None:
    arguments = ("--device", "cuda", "--precision", "tf32", "--data", idx_folder, "--epochs", 2)
    answer = command("parity", *arguments)
    answer.assert_went_well()
    record = read_json(workplace / "parity-cuda0" / "parity.json")
    assert [(pair["device"], pair["reference"]) for pair in record["pairs"]] == [("cuda:0 tf32", "cpu float32")]
    assert "Stand-in GPU beside " in answer.lines[-1]


@pytest.mark.usefixtures("nvrtc")
def test_fused_engine(command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.backend.cuda.import_cupy", lambda: StandInCupy(kernels="ptx"))
    monkeypatch.setattr("fmnist_xp.parity.suite.fused_operations", lambda: list(fused_operations())[:2])
    monkeypatch.setattr("fmnist_xp.parity.suite.NOTEBOOK_EXPERIMENTS", {"adam": NOTEBOOK_EXPERIMENTS["adam"]})
    arguments = ("--device", "cuda", "--no-graphs", "--engine", "fused", "--precision", "bfloat16")
    answer = command("parity", *arguments, "--data", idx_folder, "--epochs", 1)
    answer.assert_went_well()
    record = read_json(workplace / "parity-cuda0" / "parity.json")
    [pair] = record["pairs"]
    assert (pair["device"], pair["reference"]) == ("cuda:0 bfloat16, fused engine", "cpu float32")
    assert {line["operation"] for line in pair["operations"]} == {"Fused epoch"}
    tensors = {line["tensor"] for line in pair["steps"]}
    assert {"engine.loss", "dense1.dweights", "dense3.biases after the update"} <= tensors
    read_picture(workplace / "parity-cuda0" / "curves-bfloat16.png")


def test_wrong_device_fails_with_the_place_named(
    command: Command, workplace: Path, idx_folder: Path, cupy: StandInCupy
) -> None:
    exp = cupy.exp
    cupy.exp = lambda x, out=None: exp(x * (1 + 1e-5), out=out)
    arguments = ("--device", "cuda", "--precision", "float32", "--data", idx_folder, "--epochs", 1)
    answer = command("parity", *arguments)
    answer.assert_failed(1, "Softmax output (", "in float32", "parity-cuda0/parity.md")
    verdicts = {(row[0], row[1]): row[-1] for row in cells(answer) if len(row) == 10}
    assert verdicts["Softmax", "output"] == verdicts["Softmax and cross-entropy", "output"] == "DIFFERS"
    assert {verdict for (name, _), verdict in verdicts.items() if name in ("Dense", "ReLU", "Adam")} == {"agrees"}
    assert read_json(workplace / "parity-cuda0" / "parity.json")["passed"] is False
    assert answer.lines[-1].endswith("Not all agree: see the verdicts. Written to parity-cuda0")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--epochs", 0), "--epochs"),
        (("--precision", "float8"), "--precision"),
        (("--device", "tpu"), "tpu"),
        (("--device", "cpu", "--precision", "float64"), "float32 is compared with float64"),
        (("--engine", "other"), "--engine"),
    ],
)
def test_wrong_usage_is_one_line(command: Command, workplace: Path, arguments: tuple[object, ...], word: str) -> None:
    command("parity", *arguments).assert_failed(2, word, "--help")
    assert contents(workplace) == {}


def test_unsupported_precision_is_one_line(command: Command) -> None:
    command("parity", "--device", "cpu", "--precision", "tf32").assert_failed(1, "does not compute in tf32")
    command("parity", "--device", "cpu", "--engine", "fused").assert_failed(
        1, "has no fused engine: it needs --device"
    )


def test_unwritable_folder_fails_before_computing(command: Command, workplace: Path, idx_folder: Path) -> None:
    (workplace / "taken").write_text("a file")
    answer = command("parity", "--device", "cpu", "--data", idx_folder, "--out", "taken")
    answer.assert_failed(1, "taken")
    assert answer.out == ""


KEPT = sorted((Path(__file__).parents[2] / "docs" / "parity").glob("*/parity.json"))[0]


@pytest.mark.usefixtures("small_synthetic")
@pytest.mark.parametrize("count", [1, 3, 4, 6])
def test_first_failures_are_named_and_the_others_counted(
    command: Command, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    record = read_json(KEPT)
    monkeypatch.setattr("fmnist_xp.parity.suite.run_parity", lambda *_arguments, **_more: record)
    monkeypatch.setattr(
        "fmnist_xp.parity.suite.failures", lambda _record: (f"part {number}" for number in range(count))
    )
    answer = command("parity", "--device", "cpu", "--data", "synthetic")
    assert answer.code == 1
    told = {
        1: "part 0",
        3: "part 0, part 1, part 2",
        4: "part 0, part 1, part 2 and 1 more",
        6: "part 0, part 1, part 2 and 3 more",
    }
    assert answer.err == f"fmnist-xp: differs by more than rounding: {told[count]}; see parity-cpu/parity.md\n"


@pytest.mark.usefixtures("small_synthetic")
def test_tables_have_their_titles_at_the_left_and_name_their_columns(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = read_json(KEPT)
    monkeypatch.setattr("fmnist_xp.parity.suite.run_parity", lambda *_arguments, **_more: record)
    answer = command("parity", "--device", "cpu", "--data", "synthetic")
    answer.assert_went_well()
    titles = [table.title for table in parity_tables(record)]
    assert [line.rstrip() for line in answer.lines if line.rstrip() in titles] == titles
    headers = [[cell.strip() for cell in line.split("┃")[1:-1]] for line in answer.lines if line.startswith("┃")]
    assert headers == [list(table.header) for table in parity_tables(record)]
    monkeypatch.setattr(out, "width", 80)
    answer = command("parity", "--device", "cpu", "--data", "synthetic")
    assert max(len(line.rstrip()) for line in answer.lines[:-1]) <= 80
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in answer.lines if line.startswith("│")]
    operations = [row for row in rows if row[0] == "Dense"]
    assert operations
    assert all(row[-1] == "agrees" and len(row) >= 4 for row in operations)
    assert "…" not in answer.out
    quiet = command("parity", "--device", "cpu", "--data", "synthetic", "--quiet")
    assert quiet.lines == answer.lines[-1:]
