import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import CLASSES, contents, probabilities, read_idx, read_json, read_picture, reference_metrics

from fmnist_xp.data import export, make_synthetic

Command = Callable[..., Any]


def table(out: str) -> dict[str, list[float]]:
    """Return the numbers of each row, without blank cells."""
    rows = [[cell.strip() for cell in line.strip("│|").split("│")] for line in out.splitlines() if "│" in line]
    return {row[0]: [float(cell.replace(",", "")) for cell in row[1:] if cell] for row in rows}


def test_metrics_match_an_independent_computation(command: Command, run_folder: Path, idx_folder: Path) -> None:
    answer = command("evaluate", run_folder, "--device", "cpu", "--threads", 2)
    answer.assert_went_well()
    images, labels = read_idx(idx_folder, "t10k")
    accuracy, loss = reference_metrics(run_folder / "model.safetensors", images, labels)
    for words in (f"accuracy {accuracy:.4f}", f"loss {loss:.4f}", "200 test images", "custom"):
        assert words in answer.lines[0]

    predicted = probabilities(run_folder / "model.safetensors", images).argmax(axis=1)
    expected = {}
    for label, name in enumerate(CLASSES):
        hits = np.sum((predicted == label) & (labels == label))
        taken, support = np.sum(predicted == label), np.sum(labels == label)
        precision, recall = hits / taken if taken else 0.0, hits / support
        f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
        expected[name] = [float(f"{figure:.3f}") for figure in (precision, recall, f1)] + [float(support)]
    found = table(answer.out)
    assert {name: found[name] for name in CLASSES} == expected
    assert found["accuracy"] == [float(f"{accuracy:.3f}"), 200]
    numbers = np.array([expected[name] for name in CLASSES])
    assert found["macro avg"] == pytest.approx([*numbers[:, :3].mean(axis=0), 200], abs=0.001)
    weighted = np.average(numbers[:, :3], axis=0, weights=numbers[:, 3])
    assert found["weighted avg"] == pytest.approx([*weighted, 200], abs=0.001)
    assert list(found) == [*CLASSES, "accuracy", "macro avg", "weighted avg"]
    header = next(line for line in answer.lines if line.startswith("┃"))
    assert [cell.strip() for cell in header.split("┃")[1:-1]] == ["class", "precision", "recall", "F1", "support"]


def test_pictures_lie_in_the_run_folder(command: Command, run_folder: Path) -> None:
    answer = command("evaluate", run_folder, "--device", "cpu")
    pictures = [run_folder / "confusion.png", run_folder / "mistakes.png"]
    assert answer.out.replace("\n", "").endswith("confusion matrix and mistakes: " + ", ".join(map(str, pictures)))
    for picture in pictures:
        assert min(read_picture(picture).shape[:2]) > 150


def test_evaluating_changes_no_other_file(command: Command, run_folder: Path, finished_run: Path) -> None:
    command("evaluate", run_folder, "--device", "cpu").assert_went_well()
    after = contents(run_folder)
    assert after.pop("confusion.png")
    assert after.pop("mistakes.png")
    assert after == contents(finished_run)


def test_quiet_prints_one_line(command: Command, run_folder: Path) -> None:
    answer = command("evaluate", run_folder, "--device", "cpu", "--quiet")
    answer.assert_went_well()
    (line,) = answer.lines
    assert line.endswith("on 200 test images")
    assert (run_folder / "confusion.png").exists()


def test_json_holds_all_of_it(command: Command, run_folder: Path, idx_folder: Path) -> None:
    answer = command("evaluate", run_folder, "--device", "cpu", "--json")
    answer.assert_went_well()
    found = json.loads(answer.out)
    images, labels = read_idx(idx_folder, "t10k")
    accuracy, loss = reference_metrics(run_folder / "model.safetensors", images, labels)
    predicted = probabilities(run_folder / "model.safetensors", images).argmax(axis=1)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (labels, predicted), 1)
    assert found["confusion_matrix"] == matrix.tolist()
    assert found["test_accuracy"] == pytest.approx(accuracy)
    assert found["test_loss"] == pytest.approx(loss, rel=1e-5)
    assert [score["name"] for score in found["classes"]] == list(CLASSES)
    assert [score["support"] for score in found["classes"]] == np.bincount(labels).tolist()
    assert found["weighted_avg"]["recall"] == pytest.approx(accuracy)
    recalls = [score["recall"] for score in found["classes"]]
    assert found["macro_avg"]["recall"] == pytest.approx(np.mean(recalls))
    assert found["dataset"] == {"name": "custom", "test_rows": 200}
    assert (found["run"], found["best"], found["best_epoch"]) == (str(run_folder), False, None)
    assert found["pictures"] == [str(run_folder / name) for name in ("confusion.png", "mistakes.png")]


def test_the_best_epoch(command: Command, run_folder: Path, workplace: Path, idx_folder: Path) -> None:
    command("evaluate", run_folder, "--best").assert_failed(1, "model-best.safetensors", "--keep-best")
    arguments = ("--epochs", 21, "--validation", 0.2, "--keep-best", "--device", "cpu", "--data", idx_folder)
    command("train", "adam", *arguments, "--out", "run").assert_went_well()
    answer = command("evaluate", "run", "--best", "--device", "cpu")
    answer.assert_went_well()
    best = read_json(workplace / "run" / "result.json")["best_epoch"]
    accuracy, loss = reference_metrics(workplace / "run" / "model-best.safetensors", *read_idx(idx_folder, "t10k"))
    for words in (f"accuracy {accuracy:.4f}", f"loss {loss:.4f}", f"test images, epoch {best}"):
        assert words in answer.lines[0]


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_a_diverged_run_is_one_line(command: Command, workplace: Path, idx_folder: Path) -> None:
    arguments = ("--learning-rate", 1e30, "--epochs", 5, "--device", "cpu", "--data", idx_folder, "--quiet")
    command("train", "sgd", *arguments, "--out", "run")
    command("evaluate", "run", "--device", "cpu").assert_failed(1, "diverged", "lower learning rate")
    assert not (workplace / "run" / "confusion.png").exists()


def test_other_images(command: Command, run_folder: Path, workplace: Path) -> None:
    export(*make_synthetic(20, 30, seed=9), Path("other"), "idx")
    answer = command("evaluate", run_folder, "--data", "other", "--device", "cpu")
    answer.assert_went_well()
    accuracy, loss = reference_metrics(run_folder / "model.safetensors", *read_idx(workplace / "other", "t10k"))
    for words in (f"accuracy {accuracy:.4f}", f"loss {loss:.4f}", "30 test images"):
        assert words in answer.lines[0]


def test_a_synthetic_run_is_evaluated_on_synthetic_images_and_says_so(
    command: Command, workplace: Path, small_synthetic: Any, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where `auto` gave synthetic images then and would give others now."""
    answer = command(
        "train", "adam", "--url", "http://127.0.0.1:9/", "--epochs", 20, "--device", "cpu", "--out", "run"
    )
    assert answer.code == 0
    monkeypatch.setenv("FMNIST_XP_DATA", str(idx_folder))
    answer = command("evaluate", "run", "--device", "cpu")
    answer.assert_went_well()
    accuracy, loss = reference_metrics(
        workplace / "run" / "model.safetensors", small_synthetic[1].images, small_synthetic[1].labels
    )
    for words in ("synthetic", f"accuracy {accuracy:.4f}", f"loss {loss:.4f}"):
        assert words in answer.lines[0]


@pytest.mark.parametrize("name", ["custom", "synthetic"])
def test_changed_source_is_not_used_silently(
    command: Command, workplace: Path, small_synthetic: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """`auto` gave the images in $FMNIST_XP_DATA; now it gives others, of another name or of the same."""
    export(*make_synthetic(30, 40, seed=1), Path("images"), "idx")
    export(*make_synthetic(30, 40, seed=2), Path("others"), "idx")
    monkeypatch.setenv("FMNIST_XP_DATA", "images")
    command("train", "adam", "--epochs", 1, "--device", "cpu", "--out", "run").assert_went_well()
    monkeypatch.setenv("FMNIST_XP_DATA", {"synthetic": "synthetic", "custom": "others"}[name])
    answer = command("evaluate", "run", "--device", "cpu")
    answer.assert_failed(1, "--data", "run")
    assert answer.out == ""
    assert not (workplace / "run" / "confusion.png").exists()


def test_a_run_is_evaluated_from_another_folder(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(idx_folder, workplace / "images")
    arguments = ("adam", "--epochs", 1, "--device", "cpu", "--data", "images", "--out", "run")
    command("train", *arguments).assert_went_well()
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    command("evaluate", workplace / "run", "--device", "cpu").assert_went_well()


def test_missing_images_are_one_line(command: Command, run_folder: Path) -> None:
    command("evaluate", run_folder, "--data", "nowhere", "--device", "cpu").assert_failed(1, "nowhere")
    assert not (run_folder / "confusion.png").exists()
