import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from run_helpers import CLASSES, contents, probabilities, read_idx, read_picture, reference_metrics

from fmnist_xp.data import export, make_synthetic

Command = Callable[..., Any]


def table(out: str) -> dict[str, list[float]]:
    """Return the numbers of each class's row."""
    rows = [[cell.strip() for cell in line.strip("│|").split("│")] for line in out.splitlines() if "│" in line]
    return {row[0]: [float(cell) for cell in row[1:] if cell] for row in rows}


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
    expected["accuracy"] = [float(f"{np.mean(predicted == labels):.3f}"), 200.0]
    shown = table(answer.out)
    assert {name: row for name, row in shown.items() if not name.endswith("avg")} == expected
    header = next(line for line in answer.lines if line.startswith("┃"))
    assert [cell.strip() for cell in header.split("┃")[1:-1]] == ["class", "precision", "recall", "F1", "support"]


def test_table_is_scikit_learns_report(command: Command, run_folder: Path, idx_folder: Path) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn, the oracle of this test, is not installed")
    images, labels = read_idx(idx_folder, "t10k")
    predicted = probabilities(run_folder / "model.safetensors", images).argmax(axis=1)
    report = sklearn.classification_report(
        labels, predicted, labels=range(10), target_names=CLASSES, output_dict=True, zero_division=0
    )
    accuracy = report.pop("accuracy")
    found = json.loads(command("evaluate", run_folder, "--device", "cpu", "--json").out)
    assert found["test_accuracy"] == pytest.approx(accuracy)
    scores = [*found["classes"], found["macro_avg"], found["weighted_avg"]]
    assert [score["name"] for score in scores] == list(report)
    shown = table(command("evaluate", run_folder, "--device", "cpu").out)
    for score, expected in zip(scores, report.values(), strict=True):
        values = [score["precision"], score["recall"], score["f1"], score["support"]]
        assert values == pytest.approx(list(expected.values()))
        assert shown[score["name"]] == pytest.approx(values, abs=0.00051)


def test_json_has_the_fields_of_the_result(command: Command, run_folder: Path, idx_folder: Path) -> None:
    answer = command("evaluate", run_folder, "--device", "cpu", "--json")
    answer.assert_went_well()
    found = json.loads(answer.out)
    images, labels = read_idx(idx_folder, "t10k")
    accuracy, loss = reference_metrics(run_folder / "model.safetensors", images, labels)
    assert (found["test_accuracy"], found["test_loss"]) == (pytest.approx(accuracy), pytest.approx(loss, rel=1e-5))
    assert (found["run"], found["best"], found["best_epoch"]) == (str(run_folder), False, None)
    assert found["dataset"] == {"name": "custom", "test_rows": 200}
    matrix = np.array(found["confusion_matrix"])
    assert matrix.sum(axis=1).tolist() == np.bincount(labels).tolist()
    assert np.trace(matrix) / 200 == pytest.approx(accuracy)
    assert found["pictures"] == [str(run_folder / "confusion.png")]


def test_quiet_is_the_result_alone(command: Command, run_folder: Path) -> None:
    answer = command("evaluate", run_folder, "--device", "cpu")
    assert command("evaluate", run_folder, "--device", "cpu", "--quiet").lines == answer.lines[:1]


def test_best_epoch(command: Command, workplace: Path, idx_folder: Path) -> None:
    """Its model, not the last one; a run without one says how to keep it."""
    arguments = ("--epochs", 31, "--device", "cpu", "--data", idx_folder, "--validation", 0.1)
    command("train", *arguments, "--keep-best", "--out", "run").assert_went_well()
    command("train", *arguments, "--out", "another").assert_went_well()
    images, labels = read_idx(idx_folder, "t10k")
    accuracy, loss = reference_metrics(Path("run", "model-best.safetensors"), images, labels)
    found = json.loads(command("evaluate", "run", "--best", "--device", "cpu", "--json").out)
    assert (found["test_accuracy"], found["test_loss"]) == (pytest.approx(accuracy), pytest.approx(loss, rel=1e-5))
    epoch = found["best_epoch"]
    assert epoch in (0, 10, 20, 30)
    answer = command("evaluate", "run", "--best", "--device", "cpu")
    assert answer.lines[0].endswith(f"on 200 test images, epoch {epoch}")
    for command_line in (("evaluate", "another"), ("predict", "another", "image.png")):
        answer = command(*command_line, "--best", "--device", "cpu")
        answer.assert_failed(1, "another has no model-best.safetensors", "--keep-best")
    assert cv2.imwrite("image.png", images[0])
    expected = probabilities(Path("run", "model-best.safetensors"), images[:1])[0]
    (found,) = json.loads(command("predict", "run", "image.png", "--best", "--device", "cpu", "--json").out)[
        "predictions"
    ]
    assert found["classes"][0]["probability"] == pytest.approx(expected.max(), abs=0.02)


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
