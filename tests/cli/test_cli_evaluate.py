import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_helpers import CLASSES, contents, probabilities, read_idx, read_picture, reference_metrics

from fmnist_xp.data import export, make_synthetic

Command = Callable[..., Any]


def table(out: str) -> dict[str, list[float]]:
    """Return the numbers of each class's row."""
    rows = [[cell.strip() for cell in line.strip("│|").split("│")] for line in out.splitlines() if "│" in line]
    return {row[0]: [float(cell) for cell in row[1:]] for row in rows}


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
    assert table(answer.out) == expected
    header = next(line for line in answer.lines if line.startswith("┃"))
    assert [cell.strip() for cell in header.split("┃")[1:-1]] == ["class", "precision", "recall", "F1", "support"]


def test_confusion_matrix_lies_in_the_run_folder(command: Command, run_folder: Path) -> None:
    answer = command("evaluate", run_folder, "--device", "cpu")
    assert str(run_folder / "confusion.png") in answer.lines[-1]
    assert min(read_picture(run_folder / "confusion.png").shape[:2]) > 150


def test_evaluating_changes_no_other_file(command: Command, run_folder: Path, finished_run: Path) -> None:
    command("evaluate", run_folder, "--device", "cpu").assert_went_well()
    after = contents(run_folder)
    assert after.pop("confusion.png")
    assert after == contents(finished_run)


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
    answer = command("train", "--url", "http://127.0.0.1:9/", "--epochs", 20, "--device", "cpu", "--out", "run")
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
    command("train", "--epochs", 1, "--device", "cpu", "--out", "run").assert_went_well()
    monkeypatch.setenv("FMNIST_XP_DATA", {"synthetic": "synthetic", "custom": "others"}[name])
    answer = command("evaluate", "run", "--device", "cpu")
    answer.assert_failed(1, "--data", "run")
    assert answer.out == ""
    assert not (workplace / "run" / "confusion.png").exists()


def test_a_run_is_evaluated_from_another_folder(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(idx_folder, workplace / "images")
    arguments = ("--epochs", 1, "--device", "cpu", "--data", "images", "--out", "run")
    command("train", *arguments).assert_went_well()
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    command("evaluate", workplace / "run", "--device", "cpu").assert_went_well()


def test_missing_images_are_one_line(command: Command, run_folder: Path) -> None:
    command("evaluate", run_folder, "--data", "nowhere", "--device", "cpu").assert_failed(1, "nowhere")
    assert not (run_folder / "confusion.png").exists()
