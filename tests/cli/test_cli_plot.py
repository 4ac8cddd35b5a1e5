import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import contents, read_json, read_picture

Command = Callable[..., Any]
PICTURES = {"accuracy.png", "loss.png", "weights.png"}
LATER = {"accuracy-from-300.png", "loss-from-300.png"}
COMPARISONS = {"comparison-results.png", "comparison-accuracy.png"}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """Note each picture's title and the labels and colours of its curves, in their order, as it is saved."""
    from matplotlib.figure import Figure

    found: dict[str, dict[str, Any]] = {}
    save = Figure.savefig
    names = iter(range(1000))

    def savefig(figure: Figure, *arguments: Any, **more: Any) -> None:
        labels = [line.get_label() for axes in figure.axes for line in axes.lines]
        colours = [line.get_color() for axes in figure.axes for line in axes.lines]
        found[str(next(names))] = {"title": figure.get_suptitle(), "labels": labels, "colours": colours}
        save(figure, *arguments, **more)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return found


def lengthen(folder: Path, epochs: int) -> None:
    """Write a history of more epochs than a test has time to train."""
    rows = [f"{e},{0.9 - 1 / (e + 2)},{1 / (e + 1)},0.02,0.01" for e in range(0, epochs, 10)]
    text = "\n".join(["epoch,accuracy,loss,learning_rate,regularization_loss", *rows, ""])
    (folder / "history.csv").write_text(text)


def test_pictures_of_one_run(
    command: Command, run_folder: Path, workplace: Path, drawn: dict[str, Any], finished_run: Path
) -> None:
    answer = command("plot", run_folder)
    answer.assert_went_well()
    folder = workplace / "plots" / "a-run"
    assert {path.name for path in folder.iterdir()} == PICTURES
    assert {Path(line) for line in answer.lines} == {Path("plots", "a-run", name) for name in PICTURES}
    pictures = [read_picture(folder / name) for name in sorted(PICTURES)]
    assert not np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])
    titles = [figure["title"] for figure in drawn.values()]
    assert len(titles) == 3
    for title in titles:
        for words in ("adam", "cpu", "seed 1", "custom", "400 images"):
            assert words in title
    assert contents(run_folder) == contents(finished_run)


def test_long_runs_are_drawn_again_from_epoch_300_on(command: Command, run_folder: Path, workplace: Path) -> None:
    lengthen(run_folder, 400)
    command("plot", run_folder).assert_went_well()
    assert {path.name for path in (workplace / "plots" / "a-run").iterdir()} == PICTURES | LATER
    assert not (workplace / "plots" / "comparison-accuracy.png").exists()


def test_several_runs_are_compared(
    command: Command, run_folder: Path, workplace: Path, tmp_path: Path, drawn: dict[str, Any]
) -> None:
    other = shutil.copytree(run_folder, tmp_path / "other-run")
    for folder in (run_folder, other):
        lengthen(folder, 800)
    answer = command("plot", run_folder, other, "--out", "pictures")
    answer.assert_went_well()
    files = {str(path.relative_to(workplace)) for path in workplace.rglob("*.png")}
    assert files == {f"pictures/{run}/{name}" for run in ("a-run", "other-run") for name in PICTURES | LATER} | {
        *(f"pictures/{name}" for name in COMPARISONS),
        "pictures/comparison-accuracy-from-700.png",
    }
    assert {Path(line) for line in answer.lines} == {Path(name) for name in files}
    compared = [figure for figure in drawn.values() if "2 runs" in figure["title"]]
    assert len(compared) == 3
    for figure in compared:
        assert "custom" in figure["title"]
    for figure in compared[1:]:
        assert figure["labels"] == ["a-run", "other-run"]
        assert len(set(figure["colours"])) == 2


def test_runs_with_equal_names_get_their_paths(
    command: Command, run_folder: Path, workplace: Path, tmp_path: Path, drawn: dict[str, Any]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    other = shutil.copytree(run_folder, tmp_path / "elsewhere" / run_folder.name)
    command("plot", run_folder, other).assert_went_well()
    folders = [path for path in (workplace / "plots").iterdir() if path.is_dir()]
    assert len(folders) == 2
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == PICTURES
    labels = [figure["labels"] for figure in drawn.values() if "2 runs" in figure["title"]][-1]
    assert len(set(labels)) == 2
    assert any("elsewhere" in label for label in labels)


def test_the_same_run_twice_is_an_error(command: Command, run_folder: Path, workplace: Path) -> None:
    for again in (run_folder, run_folder / ".." / run_folder.name):
        command("plot", run_folder, again).assert_failed(1, "twice")
    assert contents(workplace) == {}


def test_notebook_curve_is_added(command: Command, run_folder: Path, drawn: dict[str, Any]) -> None:
    result = read_json(run_folder / "result.json")
    real = {**result["dataset"], "name": "fashion-mnist", "train_rows": 60_000, "test_rows": 10_000}
    (run_folder / "result.json").write_text(json.dumps({**result, "dataset": real}))
    for option, labels in (((), {"training"}), (("--notebook",), {"training", "notebook"})):
        command("plot", run_folder, *option).assert_went_well()
        curves = [figure["labels"] for figure in drawn.values() if figure["labels"]]
        assert len(curves) == 2
        assert all(set(found) - {"training, without penalty"} == labels for found in curves)
        drawn.clear()


def test_notebook_curve_is_left_out_of_a_run_on_other_images(
    command: Command, run_folder: Path, drawn: dict[str, Any]
) -> None:
    answer = command("plot", run_folder, "--notebook")
    assert (answer.code, len(answer.lines)) == (0, 3)
    assert answer.err.count("\n") == 1
    assert f"the notebook's curve is left out of {run_folder}: custom data" in answer.err
    assert not any("notebook" in figure["labels"] for figure in drawn.values())


def test_a_run_without_a_model_has_curves(command: Command, run_folder: Path, workplace: Path) -> None:
    (run_folder / "model.safetensors").unlink()
    answer = command("plot", run_folder)
    assert answer.code == 0
    assert "the weights are not drawn" in answer.err
    assert {path.name for path in (workplace / "plots" / "a-run").iterdir()} == PICTURES - {"weights.png"}


def test_a_synthetic_run_says_so_in_every_title(
    command: Command, workplace: Path, small_synthetic: Any, drawn: dict[str, Any]
) -> None:
    for name, data in (("one", "synthetic"), ("two", "synthetic")):
        command("train", "adam", "--data", data, "--device", "cpu", "--epochs", 2, "--out", name).assert_went_well()
    command("plot", "one", "two").assert_went_well()
    command("evaluate", "one", "--device", "cpu").assert_went_well()
    assert read_json(workplace / "one" / "result.json")["dataset"]["name"] == "synthetic"
    assert len(drawn) == 2 + 3 + 3 + 2 + 2  # metrics, of each run, comparisons, of the evaluation
    for figure in drawn.values():
        assert "synthetic" in figure["title"]


def test_plotting_again_replaces_the_pictures(command: Command, run_folder: Path, workplace: Path) -> None:
    command("plot", run_folder).assert_went_well()
    first = contents(workplace)
    command("plot", run_folder).assert_went_well()
    assert contents(workplace) == first
    lengthen(run_folder, 90)
    command("plot", run_folder).assert_went_well()
    assert set(contents(workplace)) == set(first)
    assert contents(workplace) != first


def test_an_unwritable_folder_is_one_line(command: Command, run_folder: Path, workplace: Path) -> None:
    (workplace / "plots").write_text("a file")
    command("plot", run_folder).assert_failed(1, "plots")
