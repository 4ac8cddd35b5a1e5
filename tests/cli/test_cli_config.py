"""`fmnist-xp train --config`: of a file, and of another run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_helpers import contents, read_json

Command = Callable[..., Any]
FILE = """
base = "adam"
name = "mine"
epochs = 4
seed = 3

[network]
hidden = [9]
activation = "tanh"
dropout = 0.25

[loss]
label_smoothing = 0.125

[optimizer]
type = "sgd"
momentum = 0.5
nesterov = true

[schedule]
type = "exponential"
factor = 0.5

[augmentation]
mirror = true

[validation]
fraction = 0.25
keep_best = true
"""


@pytest.fixture
def train(command: Command, idx_folder: Path) -> Command:
    return lambda *arguments: command(
        "train", *arguments, "--data", idx_folder, "--device", "cpu", "--threads", "2", "--quiet"
    )


def test_a_run_has_the_settings_of_the_file_and_its_own_options(train: Command, workplace: Path) -> None:
    (workplace / "mine.toml").write_text(FILE)
    train("--config", "mine.toml", "--epochs", 3, "--hidden", "8,7", "--dropout", 0.5).assert_went_well()
    config = read_json(workplace / "runs" / "mine-cpu-s3-val0.25" / "config.json")
    assert config["experiment"] == {
        "name": "mine", "hidden": [8, 7], "optimizer": "sgd", "learning_rate": 1.0, "decay": 0.0, "momentum": 0.5,
        "l2": 5e-4, "epochs": 3, "activation": "tanh", "initializer": "normal", "layer_norm": False, "dropout": 0.5,
        "loss": "softmax_categorical_crossentropy", "label_smoothing": 0.125,
        "optimizer_options": {"nesterov": True}, "schedule": {"type": "exponential", "factor": 0.5}, "mirror": True,
        "shift": 0,
    }  # fmt: skip
    assert (config["seed"], config["validation"], config["keep_best"]) == (3, 0.25, True)


def test_a_run_of_the_settings_of_another_has_its_bits(train: Command, workplace: Path) -> None:
    (workplace / "mine.toml").write_text(FILE)
    train("--config", "mine.toml", "--out", "first").assert_went_well()
    train("--config", "first", "--out", "second").assert_went_well()
    train("--config", "first/config.json", "--out", "third", "--seed", 4).assert_went_well()
    for name in ("model.safetensors", "model-best.safetensors", "history.csv"):
        first, second, third = ((workplace / run / name).read_bytes() for run in ("first", "second", "third"))
        assert first == second != third
    assert read_json(workplace / "first" / "config.json") == read_json(workplace / "second" / "config.json")


def test_changed_settings_are_in_the_list_of_runs(train: Command, command: Command, workplace: Path) -> None:
    (workplace / "a.toml").write_text(
        'base = "adam"\nepochs = 2\n[optimizer]\nclip_norm = 1\n[schedule]\ntype = "step"\nfactor = 0.5\nevery = 9\n'
    )
    train("--config", "a.toml").assert_went_well()
    (folder,) = (workplace / "runs").iterdir()
    assert folder.name == "adam-cpu-s0-decay0.0-epochs2-clip_norm1-step-factor0.5-every9"
    (found,) = command("runs", "--json").document()
    assert found["changes"] == {
        "decay": 0.0, "epochs": 2, "optimizer_options": {"clip_norm": 1},
        "schedule": {"type": "step", "factor": 0.5, "every": 9},
    }  # fmt: skip


def test_a_schedule_for_its_epochs_is_not_made_longer(train: Command, workplace: Path) -> None:
    train("quick", "--hidden", "8", "--epochs", 3, "--out", "run").assert_went_well()
    before = contents(workplace)
    train("--resume", "run", "--epochs", 5).assert_failed(
        1, "run has learning rates for 3 epochs, and not for 5: leave --epochs out, or train a new run"
    )
    assert contents(workplace) == before


def test_wrong_files_are_one_line_and_exit_code_2(train: Command, workplace: Path) -> None:
    (workplace / "bad.toml").write_text('base = "adam"\n[network]\nhiden = [3]\n')
    (workplace / "empty").mkdir()
    for path, words in (
        ("bad.toml", "bad.toml: a key of [network] must be one of hidden, activation, "),
        ("nowhere.toml", "--config nowhere.toml: No such file or directory"),
        ("empty", "--config empty: No such file or directory: name a run's folder, or a file in TOML"),
    ):
        train("--config", path).assert_failed(2, words, "see fmnist-xp train --help")
    assert not (workplace / "runs").exists()
