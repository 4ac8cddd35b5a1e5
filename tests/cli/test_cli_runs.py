"""`fmnist-xp runs`: every state of a run, in words and as JSON."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from run_helpers import read_json

from fmnist_xp.cli.console import out

Command = Callable[..., Any]


def change(path: Path, **values: Any) -> None:
    """Change what a JSON file of a run says."""
    path.write_text(json.dumps(read_json(path) | values))


@pytest.fixture
def folder(workplace: Path, finished_run: Path) -> Path:
    """A folder of runs in every state, and of what is none."""
    folder = workplace / "runs"
    for name in ("finished", "interrupted", "diverged", "stopped", "unfinished", "nested/far", "damaged"):
        shutil.copytree(finished_run, folder / name)
    change(folder / "interrupted" / "result.json", interrupted=True, epochs=25)
    nothing = {"test_accuracy": None, "test_loss": None, "train_accuracy": None, "train_loss": None}
    change(folder / "diverged" / "result.json", diverged=True, stopped="not finite", epochs=2, **nothing)
    change(folder / "stopped" / "result.json", stopped="no better", epochs=1234)
    for name, values in (("unfinished", {"epochs": 1500}), ("stopped", {"epochs": 100_000, "hidden": [32, 16]})):
        config = read_json(folder / name / "config.json")
        change(folder / name / "config.json", experiment=config["experiment"] | values)
    change(folder / "nested" / "far" / "config.json", validation=0.1, precision="float64", seed=7)
    (folder / "unfinished" / "result.json").unlink()
    (folder / "damaged" / "result.json").write_text("{")
    shutil.copytree(folder / "finished", folder / "finished" / ".replaced")  # as of a train --force
    (folder / "foreign").mkdir()
    (folder / "foreign" / "letter.txt").write_text("dear")
    (folder / "other").mkdir()
    (folder / "other" / "config.json").write_text('{"another": "program"}')
    return folder


def table(lines: list[str]) -> list[list[str]]:
    """Return the cells of a table; those of several lines are joined again."""
    found: list[list[str]] = []
    for line in lines:
        if line[0] in "│┃":
            cells = [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
            if cells[3]:
                found.append(cells)
            else:
                found[-1] = [f"{whole} {cell}".strip() for whole, cell in zip(found[-1], cells, strict=True)]
    return found


def test_every_state(command: Command, folder: Path, finished_run: Path) -> None:
    answer = command("runs")
    assert answer.code == 0
    warnings = answer.err.splitlines()
    assert [line.partition(":")[2].partition(" is left out: ")[0] for line in warnings] == [
        " runs/damaged", " runs/other",
    ]  # fmt: skip
    accuracy = f"{read_json(finished_run / 'result.json')['test_accuracy']:.4f}"
    assert table(answer.lines) == [
        ["run", "settings", "epochs", "state", "test"],
        ["runs/diverged", "adam, cpu, seed 1", "2 of 40", "diverged", ""],
        ["runs/finished", "adam, cpu, seed 1", "40", "finished", accuracy],
        ["runs/interrupted", "adam, cpu, seed 1", "25 of 40", "interrupted", accuracy],
        ["runs/nested/far", "adam, cpu, seed 7, precision float64, validation 0.1", "40", "finished", accuracy],
        ["runs/stopped", "adam, cpu, seed 1, hidden 32-16", "1,234 of 100,000", "stopped", accuracy],
        ["runs/unfinished", "adam, cpu, seed 1", "40 of 1,500", "unfinished", ""],
    ]  # fmt: skip
    assert max(map(len, answer.lines)) <= 80
    # Numbers stand at the right.
    rows = [re.split("[│┃]", line)[1:-1] for line in answer.lines if line.startswith("│ runs/finished")]
    assert re.fullmatch(" +40 ", rows[0][2])
    assert rows[0][4] == f" {accuracy} "


def test_run_that_is_being_written(command: Command, folder: Path) -> None:
    with FileLock(folder / "unfinished" / ".lock"):
        states = [row[3] for row in table(command("runs", folder).lines)[1:]]
    assert states[-1] == "training"
    assert table(command("runs", folder).lines)[-1][3] == "unfinished"  # the lock's file is still there


def test_json_has_the_files_values(command: Command, folder: Path, finished_run: Path) -> None:
    for name in ("damaged", "other"):
        shutil.rmtree(folder / name)
    found = command("runs", "--json").document()
    assert [Path(run["folder"]).name for run in found] == [
        "diverged", "finished", "interrupted", "far", "stopped", "unfinished",
    ]  # fmt: skip
    config, result = (read_json(finished_run / name) for name in ("config.json", "result.json"))
    assert found[1] == {
        "folder": "runs/finished", "experiment": "adam", "changes": {"epochs": 40}, "device": config["device"],
        "seed": config["seed"], "data": config["data"]["name"], "epochs": result["epochs"], "of_epochs": 40,
        "state": "finished", "test_accuracy": result["test_accuracy"],
    }  # fmt: skip
    assert found[3]["changes"] == {"epochs": 40, "validation": 0.1, "precision": "float64"}
    assert found[4]["changes"] == {"epochs": 100_000, "hidden": [32, 16]}
    assert [run["test_accuracy"] for run in (found[0], found[5])] == [None, None]
    assert (found[5]["epochs"], found[5]["of_epochs"], found[5]["state"]) == (40, 1500, "unfinished")


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_runs_as_train_leaves_them(command: Command, idx_folder: Path) -> None:
    arguments = ("--data", idx_folder, "--device", "cpu", "--quiet")
    command("train", "adam", "--epochs", 3, *arguments).assert_went_well()
    assert command("train", "sgd", "--epochs", 30, "--learning-rate", 1e30, *arguments).code == 1
    found = command("runs", "--json").document()
    assert [(run["folder"], run["state"], run["changes"]) for run in found] == [
        ("runs/adam-cpu-s0-epochs3", "finished", {"epochs": 3}),
        ("runs/sgd-cpu-s0-lr1e+30-epochs30", "diverged", {"epochs": 30, "learning_rate": 1e30}),
    ]


@pytest.mark.parametrize("width", [80, 60, 40])
def test_nothing_is_cut_off(command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    name = "a-very-long-name-of-a-run-" * 5
    (folder / "finished").rename(folder / name)
    monkeypatch.setattr(out, "width", width)
    answer = command("runs")
    assert "…" not in answer.out
    assert max(map(len, answer.lines)) <= width
    first = [re.split("[│┃]", line)[1].strip() for line in answer.lines if line[0] in "│┃"]
    assert f"runs/{name}" in "".join(first)


def test_folder_without_runs(command: Command, workplace: Path) -> None:
    command("runs").assert_failed(1, "there is no folder runs", "fmnist-xp train")
    (workplace / "empty").mkdir()
    answer = command("runs", "empty")
    answer.assert_went_well()
    assert answer.out == "no runs in empty\n"
    assert command("runs", "empty", "--json").document() == []
    (workplace / "file").write_text("mine")
    command("runs", "file").assert_failed(1, "there is no folder file")
