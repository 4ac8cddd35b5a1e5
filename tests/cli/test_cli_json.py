"""What train and evaluate give other programs: `--json`, one document on stdout, and event files for TensorBoard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_helpers import hide
from run_helpers import (
    CLASSES,
    contents,
    parse_json,
    probabilities,
    read_history,
    read_idx,
    read_json,
    reference_metrics,
)

from fmnist_xp.cli.console import print_json
from fmnist_xp.model import Metrics

Command = Callable[..., Any]


def test_values_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {
            "nan": float("nan"), "infinity": [float("inf"), np.float32("-inf")], "array": np.array([[1, 2], [3, 4]]),
            "numbers": (np.int64(3), np.float32(0.5), True, None), "path": Path("größe"), 7: Metrics(0.5, np.nan),
        }
    )  # fmt: skip
    assert capsys.readouterr().out == (
        '{\n  "nan": null,\n  "infinity": [\n    null,\n    null\n  ],\n  "array": [\n    [\n      1,\n      2\n'
        '    ],\n    [\n      3,\n      4\n    ]\n  ],\n  "numbers": [\n    3,\n    0.5,\n    true,\n    null\n  ],\n'
        '  "path": "gr\\u00f6\\u00dfe",\n  "7": {\n    "accuracy": 0.5,\n    "loss": null\n  }\n}\n'
    )


def test_train_prints_what_result_json_has(command: Command, workplace: Path, idx_folder: Path) -> None:
    arguments = (
        "adam",
        "--epochs",
        20,
        "--data",
        idx_folder,
        "--device",
        "cpu",
        "--validation",
        0.1,
        "--log-every",
        4,
    )
    found = command("train", *arguments, "--out", "run", "--json").document()
    assert found.pop("run") == "run"
    assert found.pop("best_epoch_before_dip") is None
    assert found == read_json(workplace / "run" / "result.json")
    accuracies = read_history(workplace / "run" / "history.csv")["validation_accuracy"]
    assert found["best_epoch"] == 4 * int(np.argmax(accuracies))
    assert (found["validation_rows"], found["dataset"]["train_rows"]) == (40, 400)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_train_that_diverges_prints_null(command: Command, workplace: Path, idx_folder: Path) -> None:
    arguments = ("sgd", "--learning-rate", 1e30, "--epochs", 20, "--data", idx_folder, "--device", "cpu")
    answer = command("train", *arguments, "--out", "run", "--json")
    assert answer.code == 1
    assert all(line.startswith("fmnist-xp: ") for line in answer.err.splitlines())
    found = parse_json(answer.out)
    assert (found["diverged"], found["test_accuracy"], found["test_loss"]) == (True, None, None)
    assert {name: found[name] for name in found if name not in ("run", "best_epoch_before_dip")} == read_json(
        workplace / "run" / "result.json"
    )


@pytest.mark.parametrize("more", [(), ("--quiet",)])
def test_evaluate(command: Command, run_folder: Path, idx_folder: Path, more: tuple[str, ...]) -> None:
    images, labels = read_idx(idx_folder, "t10k")
    found = command("evaluate", run_folder, "--device", "cpu", "--json", *more).document()
    predicted = probabilities(run_folder / "model.safetensors", images).argmax(axis=1)
    matrix = np.zeros((10, 10), int)
    np.add.at(matrix, (labels, predicted), 1)
    assert found["confusion_matrix"] == matrix.tolist()
    accuracy, loss = reference_metrics(run_folder / "model.safetensors", images, labels)
    assert (found["test_accuracy"], found["test_loss"]) == (pytest.approx(accuracy), pytest.approx(loss, rel=1e-5))
    assert found["test_accuracy"] == read_json(run_folder / "result.json")["test_accuracy"]
    assert found["dataset"] == {"name": "custom", "test_rows": 200}
    assert (found["run"], found["best"], found["best_epoch"]) == (str(run_folder), False, None)
    assert found["pictures"] == [str(run_folder / "confusion.png"), str(run_folder / "mistakes.png")]
    assert [score["name"] for score in found["classes"]] == list(CLASSES)
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, the oracle of this test, is not installed")
    expected = metrics.classification_report(
        labels, predicted, labels=range(10), target_names=CLASSES, output_dict=True, zero_division=0
    )
    for score in (*found["classes"], found["macro_avg"], found["weighted_avg"]):
        one = expected[score["name"]]
        assert score == {
            "name": score["name"],
            "precision": pytest.approx(one["precision"]), "recall": pytest.approx(one["recall"]),
            "f1": pytest.approx(one["f1-score"]), "support": one["support"],
        }  # fmt: skip


def test_tensorboard_reads_what_history_csv_has(command: Command, workplace: Path, idx_folder: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard, which writes and reads event files, is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = (
        "adam",
        "--epochs",
        21,
        "--data",
        idx_folder,
        "--device",
        "cpu",
        "--quiet",
        "--tensorboard",
        "events",
    )
    command("train", *arguments, "--out", "some/run").assert_went_well()
    events = EventAccumulator(str(workplace / "events" / "run"), size_guidance={"scalars": 0}).Reload()
    history = read_history(workplace / "some" / "run" / "history.csv")
    steps = history.pop("epoch")
    assert set(events.Tags()["scalars"]) == set(history)
    for name, values in history.items():
        found = events.Scalars(name)
        assert [event.step for event in found] == steps
        assert [event.value for event in found] == pytest.approx(values, rel=1e-6)


def test_without_tensorboard_it_says_what_to_install(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "tensorboard")
    arguments = ("adam", "--epochs", 2, "--data", idx_folder, "--device", "cpu", "--quiet", "--tensorboard", "events")
    answer = command("train", *arguments, "--out", "run")
    answer.assert_failed(1, 'pip install "fmnist-xp[tensorboard]"')
    assert contents(workplace) == {}
