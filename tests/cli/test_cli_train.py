import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from run_helpers import (
    RUN_FILES,
    contents,
    read_history,
    read_idx,
    read_json,
    read_picture,
    reference_metrics,
)
from safetensors.numpy import load_file

from fmnist_xp.backend import CpuBackend, get_backend
from fmnist_xp.blas import blas_name
from fmnist_xp.cli import train as train_command
from fmnist_xp.data import export, make_synthetic
from fmnist_xp.model import Sequential
from fmnist_xp.train.history import History

Command = Callable[..., Any]
ROOT = Path(__file__).parents[2]
LOG_LINE = re.compile(
    r"epoch: (\d+), acc: (\d\.\d{3}), loss: (\d\.\d{3}) \(data: (\d\.\d{3}), reg: (\d\.\d{3})\), lr: (\S+)"
)


@pytest.fixture
def train(command: Command, idx_folder: Path) -> Command:
    """Return a function that trains on the small data with two threads of the CPU."""
    return lambda *arguments: command("train", *arguments, "--data", idx_folder, "--device", "cpu", "--threads", "2")


def test_every_setting_reaches_the_run_folder(train: Command, workplace: Path, idx_folder: Path) -> None:
    answer = train(
        "sgd", "--epochs", 25, "--seed", 3, "--precision", "float64", "--log-every", 4, "--hidden", "32,16",
        "--learning-rate", 0.5, "--decay", 0.02, "--momentum", 0.25, "--l2", 0.001, "--block-rows", 150,
        "--out", "some/run",
    )  # fmt: skip
    answer.assert_went_well()
    folder = workplace / "some" / "run"
    assert {path.name for path in folder.iterdir()} == RUN_FILES

    config = read_json(folder / "config.json")
    assert config["experiment"] == {
        "name": "sgd", "hidden": [32, 16], "optimizer": "sgd", "learning_rate": 0.5, "decay": 0.02,
        "momentum": 0.25, "l2": 0.001, "epochs": 25,
        "activation": "relu", "initializer": "normal", "layer_norm": False, "dropout": 0.0,
        "loss": "softmax_categorical_crossentropy", "label_smoothing": 0.0, "optimizer_options": {}, "schedule": None,
        "mirror": False, "shift": 0,
    }  # fmt: skip
    assert config["optimizer"] == {"type": "SGD", "learning_rate": 0.5, "decay": 0.02, "momentum": 0.25}
    assert {key: config[key] for key in ("seed", "precision", "log_every", "block_rows", "device", "threads")} == {
        "seed": 3, "precision": "float64", "log_every": 4, "block_rows": 150, "device": "cpu", "threads": 2,
    }  # fmt: skip
    assert config["data"]["source"] == str(idx_folder)
    assert config["versions"]["numpy"] == np.__version__
    assert config["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))

    state = load_file(folder / "model.safetensors")
    assert {name: (values.shape, str(values.dtype)) for name, values in state.items()} == {
        "dense1.weights": ((784, 32), "float64"), "dense1.biases": ((1, 32), "float64"),
        "dense2.weights": ((32, 16), "float64"), "dense2.biases": ((1, 16), "float64"),
        "dense3.weights": ((16, 10), "float64"), "dense3.biases": ((1, 10), "float64"),
    }  # fmt: skip

    history = read_history(folder / "history.csv")
    first_line = (folder / "history.csv").read_text().splitlines()[0]
    assert first_line == "epoch,accuracy,loss,learning_rate,regularization_loss"
    assert history["epoch"] == [0, 4, 8, 12, 16, 20, 24]
    # The notebook prints the rate of the update before.
    assert history["learning_rate"] == pytest.approx([0.5, *(0.5 / (1 + 0.02 * e) for e in (3, 7, 11, 15, 19, 23))])
    # At the start: ten classes alike, and l2 · Σw² of 784 · 32 weights that spread by 0.01.
    assert history["regularization_loss"][0] == pytest.approx(0.001 * 784 * 32 * 1e-4, rel=0.05)
    assert history["loss"][0] == pytest.approx(math.log(10) + history["regularization_loss"][0], rel=1e-3)
    read_picture(folder / "metrics.png")


def test_result_has_every_field(train: Command, workplace: Path, idx_folder: Path) -> None:
    train("momentum", "--epochs", 12, "--seed", 2, "--out", "run").assert_went_well()
    folder = workplace / "run"
    result = read_json(folder / "result.json")
    types = {
        "experiment": str, "device": str, "device_name": str, "precision": str, "seed": int, "dataset": dict,
        "epochs": int, "interrupted": bool, "test_accuracy": float, "test_loss": float, "train_accuracy": float,
        "train_loss": float, "epoch_seconds": dict, "samples_per_second": float, "total_seconds": float,
        "peak_memory_bytes": int, "blas": str,
    }  # fmt: skip
    assert {key: type(value) for key, value in result.items() if key in types} == types
    assert (result["experiment"], result["device"], result["precision"]) == ("momentum", "cpu", "float32")
    assert (result["seed"], result["epochs"], result["interrupted"]) == (2, 12, False)
    assert result["device_name"]
    assert result["blas"] == blas_name() == read_json(folder / "config.json")["versions"]["blas"]
    assert set(result["dataset"]) >= {"name", "sha256", "train_rows", "test_rows"}
    assert (result["dataset"]["train_rows"], result["dataset"]["test_rows"]) == (400, 200)
    assert re.fullmatch("[0-9a-f]{64}", result["dataset"]["sha256"])
    seconds = result["epoch_seconds"]
    assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"] < result["total_seconds"]
    assert result["samples_per_second"] == pytest.approx(400 / seconds["median"])
    # More than NumPy alone needs, less than any machine that runs this has.
    assert 20e6 < result["peak_memory_bytes"] < 20e9

    for split, prefix in (("train", "train"), ("test", "t10k")):
        accuracy, loss = reference_metrics(folder / "model.safetensors", *read_idx(idx_folder, prefix))
        # One row whose two best classes round alike may fall either way in float32.
        assert result[f"{split}_accuracy"] == pytest.approx(accuracy, abs=0.006)
        assert result[f"{split}_loss"] == pytest.approx(loss, rel=1e-5)


def test_data_sets_differ_in_their_checksums(command: Command, workplace: Path) -> None:
    one, other = (make_synthetic(20, 20, seed=seed) for seed in (5, 6))
    for name, splits in (("one", one), ("again", one), ("other", other)):
        export(*splits, Path(name), "idx")
        command(
            "train", "adam", "--epochs", 1, "--device", "cpu", "--data", name, "--out", f"of-{name}"
        ).assert_went_well()
    sums = [read_json(workplace / f"of-{n}" / "result.json")["dataset"]["sha256"] for n in ("one", "again", "other")]
    assert sums[0] == sums[1] != sums[2]


def test_loss_falls_and_accuracy_rises(train: Command, workplace: Path) -> None:
    train("adam", "--epochs", 60, "--out", "run").assert_went_well()
    result, history = read_json(workplace / "run" / "result.json"), read_history(workplace / "run" / "history.csv")
    # Ten balanced classes: guessing gives 0.1.
    assert result["test_accuracy"] > 0.5
    assert history["loss"][-1] < history["loss"][0] / 2
    assert history["epoch"] == [0, 10, 20, 30, 40, 50]
    assert result["train_accuracy"] > history["accuracy"][0] + 0.4


def test_log_lines_have_the_notebooks_format(train: Command, workplace: Path) -> None:
    answer = train("adam", "--epochs", 21, "--out", "run")
    answer.assert_went_well()
    history = read_history(workplace / "run" / "history.csv")
    logged = [match.groups() for line in answer.lines if (match := LOG_LINE.fullmatch(line))]
    assert logged == [
        (f"{epoch:.0f}", f"{accuracy:.3f}", f"{loss:.3f}", f"{loss - penalty:.3f}", f"{penalty:.3f}", f"{rate:.6g}")
        for epoch, accuracy, loss, rate, penalty in zip(*history.values(), strict=True)
    ]
    assert [epoch for epoch, *_figures in logged] == ["0", "10", "20"]


def test_block_rows_beyond_the_data(train: Command) -> None:
    """No memory is allocated for the missing rows."""
    train("adam", "--epochs", 1, "--block-rows", 10**12, "--out", "run").assert_went_well()


def test_result_goes_to_stdout(train: Command, workplace: Path) -> None:
    answer = train("adam", "--epochs", 3, "--out", "run")
    result = read_json(workplace / "run" / "result.json")
    assert answer.err == ""
    for words in (
        f"test accuracy {result['test_accuracy']:.4f}", f"test loss {result['test_loss']:.4f}", "3 epochs", "run",
    ):  # fmt: skip
        assert words in answer.lines[-1]
    assert "400 + 200 images" in answer.out
    backend = get_backend("cpu", threads=2)
    assert f"cpu: {backend.device_name}, {backend.manner()}" in answer.lines


def test_l2_of_0_switches_it_off(train: Command, workplace: Path) -> None:
    train("adam", "--epochs", 2, "--l2", 0, "--out", "run").assert_went_well()
    assert read_history(workplace / "run" / "history.csv")["regularization_loss"] == [0]


def test_quiet_prints_the_result_alone(train: Command) -> None:
    answer = train("adam", "--epochs", 3, "--quiet", "--out", "run")
    answer.assert_went_well()
    assert len(answer.lines) == 1
    assert "test accuracy" in answer.out


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        ((), "quick-cpu-s0-epochs1"),
        (("sgd", "--seed", 7), "sgd-cpu-s7-epochs1"),
        (("momentum", "--hidden", "5,4", "--l2", 0), "momentum-cpu-s0-hidden5-4-l2_0.0-epochs1"),
    ],
)
def test_default_folder(train: Command, workplace: Path, arguments: tuple[object, ...], folder: str) -> None:
    for number in range(3):
        train(*arguments, "--epochs", 1).assert_went_well()
        assert (workplace / "runs" / (f"{folder}-{number + 1}" if number else folder) / "result.json").is_file()
    assert len(list((workplace / "runs").iterdir())) == 3
    assert read_json(workplace / "runs" / folder / "result.json")["experiment"] == folder.split("-")[0]


def test_same_seed_gives_the_same_bits(train: Command, workplace: Path) -> None:
    for name, seed in (("first", 4), ("again", 4), ("other", 5)):
        train("adam", "--epochs", 5, "--seed", seed, "--out", name).assert_went_well()
    first, again, other = (load_file(workplace / n / "model.safetensors") for n in ("first", "again", "other"))
    assert {name: values.tobytes() for name, values in first.items()} == {
        name: values.tobytes() for name, values in again.items()
    }
    assert not np.array_equal(first["dense1.weights"], other["dense1.weights"])
    histories = [(workplace / name / "history.csv").read_bytes() for name in ("first", "again", "other")]
    assert histories[0] == histories[1] != histories[2]


def test_number_of_threads_does_not_change_a_bit(command: Command, workplace: Path, small_synthetic: Any) -> None:
    for threads in (1, 3):
        arguments = ("--epochs", 4, "--data", "synthetic", "--device", "cpu", "--threads", threads)
        command("train", *arguments, "--out", f"t{threads}").assert_went_well()
        assert read_json(workplace / f"t{threads}" / "config.json")["threads"] == threads
    one, three = (load_file(workplace / f"t{threads}" / "model.safetensors") for threads in (1, 3))
    assert {name: values.tobytes() for name, values in one.items()} == {
        name: values.tobytes() for name, values in three.items()
    }


def test_block_rows_change_the_result_only_by_rounding(train: Command, workplace: Path) -> None:
    for rows in (7, 64, 400):
        train(
            "adam", "--epochs", 5, "--block-rows", rows, "--precision", "float64", "--out", f"b{rows}"
        ).assert_went_well()
        assert read_json(workplace / f"b{rows}" / "config.json")["block_rows"] == rows
    train("adam", "--epochs", 5, "--precision", "float64", "--out", "chosen").assert_went_well()
    assert read_json(workplace / "chosen" / "config.json")["block_rows"] is None
    chosen, *others = (load_file(workplace / n / "model.safetensors") for n in ("chosen", "b7", "b64", "b400"))
    for state in others:
        for name, values in chosen.items():
            np.testing.assert_allclose(state[name], values, rtol=1e-9, atol=1e-12)
    assert any(not np.array_equal(others[0][name], values) for name, values in chosen.items())


def test_fused_engine_leaves_to_the_plain_one_what_it_does_not_take(train: Command, workplace: Path) -> None:
    train("adam", "--epochs", 5, "--out", "plain").assert_went_well()
    answer = train("adam", "--epochs", 5, "--engine", "fused")
    reason = f"cpu ({CpuBackend(1).device_name}): it needs compute capability 8.0"
    assert answer.code == 0
    assert answer.err == f"fmnist-xp: the fused engine does not take {reason}; the plain one trains\n"
    folders = workplace / "plain", workplace / "runs" / "adam-cpu-s0-epochs5-fused"
    assert [read_json(folder / "config.json")["engine"] for folder in folders] == ["plain", "fused"]
    for name in ("model.safetensors", "history.csv"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_run_is_not_overwritten(train: Command, workplace: Path) -> None:
    train("adam", "--epochs", 2, "--out", "run").assert_went_well()
    before = contents(workplace)
    train("adam", "--epochs", 3, "--seed", 9, "--out", "run", "--quiet").assert_failed(
        1, "run holds", "--out", "--force"
    )
    assert contents(workplace) == before


def test_other_files_are_not_overwritten(train: Command, workplace: Path) -> None:
    (workplace / "run").mkdir()
    (workplace / "run" / "letter.txt").write_text("dear")
    for force in ((), ("--force",)):
        train("adam", "--epochs", 1, "--out", "run", *force).assert_failed(
            1, "run holds something that is no run", "--out"
        )
    assert contents(workplace) == {"run/letter.txt": b"dear"}


def test_force_replaces_a_run(train: Command, command: Command, workplace: Path) -> None:
    train("adam", "--epochs", 2, "--out", "run").assert_went_well()
    train("sgd", "--epochs", 3, "--seed", 9, "--out", "run", "--force").assert_went_well()
    train("sgd", "--epochs", 3, "--seed", 9, "--out", "fresh").assert_went_well()
    for name in ("history.csv", "metrics.png"):
        assert (workplace / "run" / name).read_bytes() == (workplace / "fresh" / name).read_bytes()
    weights = [load_file(workplace / name / "model.safetensors")["dense3.weights"] for name in ("run", "fresh")]
    np.testing.assert_array_equal(*weights)
    result = read_json(workplace / "run" / "result.json")
    assert (result["experiment"], result["seed"], result["epochs"]) == ("sgd", 9, 3)
    assert read_json(workplace / "run" / "config.json")["experiment"]["name"] == "sgd"


def test_force_removes_the_previous_confusion_matrix(train: Command, command: Command, workplace: Path) -> None:
    train("adam", "--epochs", 2, "--out", "run").assert_went_well()
    command("evaluate", "run", "--device", "cpu").assert_went_well()
    assert (workplace / "run" / "confusion.png").is_file()
    train("adam", "--epochs", 3, "--out", "run", "--force").assert_went_well()
    assert {path.name for path in (workplace / "run").iterdir()} == RUN_FILES


def test_an_empty_folder_is_used(train: Command, workplace: Path) -> None:
    (workplace / "run").mkdir()
    train("adam", "--epochs", 1, "--out", "run").assert_went_well()
    assert {path.name for path in (workplace / "run").iterdir()} == RUN_FILES


def test_a_file_in_the_place_of_the_folder(train: Command, workplace: Path) -> None:
    (workplace / "run").write_text("mine")
    train("adam", "--epochs", 1, "--out", "run").assert_failed(1, "run", "is a file")
    train("adam", "--epochs", 1, "--out", "run/below").assert_failed(1, "run/below")
    assert contents(workplace) == {"run": b"mine"}


def fail(monkeypatch: pytest.MonkeyPatch, method: str, error: BaseException) -> None:
    def failing(*_arguments: object, **_more: object) -> None:
        raise error

    monkeypatch.setattr(Sequential, method, failing)


def test_a_run_that_fails_before_it_learned_anything_leaves_nothing(
    train: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "fit", RuntimeError("boom\nand more"))
    train("adam", "--epochs", 2, "--out", "run", "--quiet").assert_failed(1, "RuntimeError: boom and more", "--debug")
    assert contents(workplace) == {}


@pytest.mark.parametrize("method", ["evaluate", "save"])
def test_a_run_that_fails_after_its_training_is_finished_by_resuming(
    train: Command, command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    train("adam", "--epochs", 2, "--out", "whole", "--quiet").assert_went_well()
    with monkeypatch.context() as patch:
        fail(patch, method, RuntimeError("boom"))
        train("adam", "--epochs", 2, "--out", "run", "--quiet").assert_failed(1, "RuntimeError: boom")
    command("evaluate", "run").assert_failed(1, "run is not a finished run", "fmnist-xp train --resume run")
    train("adam", "--epochs", 2, "--out", "run").assert_failed(
        1, "run holds an unfinished run", "--resume run", "--force"
    )
    train("--resume", "run", "--quiet").assert_went_well()
    for name in ("model.safetensors", "history.csv"):
        assert (workplace / "run" / name).read_bytes() == (workplace / "whole" / name).read_bytes()


def test_a_run_with_force_that_learns_nothing_keeps_the_previous_run(
    train: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("adam", "--epochs", 2, "--out", "run").assert_went_well()
    before = contents(workplace)
    fail(monkeypatch, "fit", OSError(28, "No space left on device", "run/checkpoints/epoch-0"))
    answer = train("adam", "--epochs", 3, "--seed", 1, "--out", "run", "--force", "--quiet")
    answer.assert_failed(1, "run/checkpoints/epoch-0: No space left on device")
    assert contents(workplace) == before


def test_a_second_interrupt_leaves_nothing(train: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the second Ctrl-C does."""
    fail(monkeypatch, "fit", KeyboardInterrupt())
    answer = train("adam", "--epochs", 2, "--out", "run", "--quiet")
    assert (answer.code, answer.err.strip()) == (130, "fmnist-xp: interrupted")
    assert contents(workplace) == {}


def test_synthetic_data_is_named_everywhere(
    command: Command, workplace: Path, small_synthetic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    titles: list[str] = []
    write_title = Figure.suptitle

    def suptitle(figure: Figure, text: str, **more: Any) -> Any:
        titles.append(text)
        return write_title(figure, text, **more)

    monkeypatch.setattr(Figure, "suptitle", suptitle)
    answer = command("train", "adam", "--data", "synthetic", "--device", "cpu", "--epochs", 2, "--out", "run")
    answer.assert_went_well()
    assert "synthetic" in answer.lines[0]
    assert "synthetic" in answer.lines[-1]
    assert read_json(workplace / "run" / "result.json")["dataset"]["name"] == "synthetic"
    assert len(titles) == 1
    assert "synthetic" in titles[0]


@pytest.mark.usefixtures("downloads")
def test_without_a_network_the_images_are_synthetic(command: Command, workplace: Path, small_synthetic: Any) -> None:
    """Nothing listens on port 9, discard, of this machine."""
    answer = command(
        "train", "adam", "--url", "http://127.0.0.1:9/", "--epochs", 1, "--device", "cpu", "--out", "run"
    )
    assert (answer.code, answer.err.count("\n")) == (0, 1)
    assert "synthetic" in answer.err
    assert "127.0.0.1:9" in answer.err
    assert read_json(workplace / "run" / "result.json")["dataset"]["name"] == "synthetic"


def test_without_requests_the_images_are_synthetic(
    command: Command, workplace: Path, small_synthetic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "requests", None)
    answer = command("train", "adam", "--epochs", 1, "--device", "cpu", "--out", "run")
    assert (answer.code, answer.err.count("\n")) == (0, 1)
    assert "pip install requests" in answer.err
    assert "synthetic" in answer.err
    assert read_json(workplace / "run" / "result.json")["dataset"]["name"] == "synthetic"


def test_data_in_the_environment(
    command: Command, workplace: Path, idx_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMNIST_XP_DATA", str(idx_folder))
    command("train", "adam", "--epochs", 1, "--device", "cpu", "--out", "run").assert_went_well()
    assert read_json(workplace / "run" / "result.json")["dataset"]["train_rows"] == 400
    assert read_json(workplace / "run" / "config.json")["data"]["source"] == "auto"


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_a_run_that_diverged_can_be_read(train: Command, command: Command, workplace: Path) -> None:
    answer = train("sgd", "--learning-rate", 1e30, "--epochs", 25, "--out", "run", "--keep-going")
    assert answer.code == 0
    assert answer.err.count("diverged") == 1
    assert "Traceback" not in answer.err
    result = read_json(workplace / "run" / "result.json")
    assert (result["diverged"], result["stopped"], result["epochs"]) == (True, "", 25)
    assert result["test_loss"] is None
    assert result["train_loss"] is None
    assert result["test_accuracy"] == 0  # nothing is predicted
    read_json(workplace / "run" / "config.json")
    assert math.isnan(read_history(workplace / "run" / "history.csv")["loss"][-1])
    command("plot", "run").assert_went_well()
    read_picture(workplace / "plots" / "run" / "loss.png")
    command("evaluate", "run", "--device", "cpu").assert_failed(1, "not finite", "its training diverged")
    assert not (workplace / "run" / "confusion.png").exists()


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_divergence_ends_the_run_and_the_last_good_checkpoint_stays(
    train: Command, command: Command, workplace: Path
) -> None:
    arguments = "--learning-rate", 1e30, "--epochs", 25, "--checkpoint-every", 1, "--out", "run", "--quiet"
    answer = train("sgd", *arguments)
    assert answer.code == 1
    assert "--keep-going" in answer.err
    assert "lower --learning-rate" in answer.err
    result = read_json(workplace / "run" / "result.json")
    assert result["diverged"]
    assert result["epochs"] < 10
    assert (result["test_accuracy"], result["test_loss"]) == (None, None)
    assert not (workplace / "run" / "model.safetensors").exists()
    checkpoints = sorted((workplace / "run" / "checkpoints").iterdir())
    assert checkpoints
    for path in checkpoints:
        assert all(np.isfinite(values).all() for values in load_file(path).values())
    command("evaluate", "run", "--device", "cpu").assert_failed(1, "has diverged", "lower learning rate")
    assert train("--resume", "run", "--quiet").code == 1  # it comes to the same
    train("--resume", "run", "--quiet", "--keep-going")
    assert read_json(workplace / "run" / "result.json")["epochs"] == 25


def test_a_path_with_brackets_is_a_path(command: Command, workplace: Path, idx_folder: Path) -> None:
    """Rich would take them for markup."""
    shutil.copytree(idx_folder, workplace / "my [bold]data[/x]")
    arguments = ("--epochs", 1, "--device", "cpu", "--data", "my [bold]data[/x]", "--out", "run [red]1[/y]")
    answer = command("train", *arguments)
    answer.assert_went_well()
    assert "my [bold]data[/x]" in answer.out
    assert "run [red]1[/y]" in answer.out
    answer = command("evaluate", "run [red]1[/y]", "--device", "cpu")
    answer.assert_went_well()
    assert str(Path("run [red]1[/y]") / "confusion.png") in answer.out


def test_an_ascii_output_is_no_failure(workplace: Path, idx_folder: Path) -> None:
    """As of a pipe in a locale whose letters are ASCII's; tables have "±" and "×"."""
    done = subprocess.run(
        [sys.executable, "-m", "fmnist_xp", "train", "adam", "--epochs", "1", "--device", "cpu", "--out", "größe"],
        cwd=workplace,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "FMNIST_XP_DATA": str(idx_folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("written to gr\\xf6\\xdfe\n")
    assert (workplace / "größe" / "result.json").is_file()


def child(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start the command as a process of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "-m", "fmnist_xp", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_interrupt_ends_cleanly_and_keeps_what_was_learned(workplace: Path, idx_folder: Path) -> None:
    arguments = ("--epochs", 10**7, "--data", idx_folder, "--device", "cpu", "--threads", 2, "--out", "run")
    with child(workplace, "train", "adam", *arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch: 20,"):
                break
        process.send_signal(signal.SIGINT)
        rest, err = process.communicate()
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert "interrupted" in err
    assert "Traceback" not in rest + err
    folder = workplace / "run"
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    result, history = read_json(folder / "result.json"), read_history(folder / "history.csv")
    assert result["interrupted"] is True
    assert 21 <= result["epochs"] < 10**7
    assert history["epoch"] == list(range(0, result["epochs"], 10))
    accuracy, loss = reference_metrics(folder / "model.safetensors", *read_idx(idx_folder, "t10k"))
    assert result["test_accuracy"] == pytest.approx(accuracy, abs=0.006)
    assert result["test_loss"] == pytest.approx(loss, rel=1e-3)
    read_picture(folder / "metrics.png")


@pytest.mark.skipif(sys.platform == "win32", reason="a broken pipe is a POSIX matter")
def test_a_broken_pipe_does_not_stop_the_training(workplace: Path, idx_folder: Path) -> None:
    """As in `fmnist-xp train | head -1`."""
    arguments = ("--epochs", 600, "--data", idx_folder, "--device", "cpu", "--out", "run")
    with child(workplace, "train", *arguments) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 0
    assert read_json(workplace / "run" / "result.json")["epochs"] == 600


def test_interrupt_between_epochs_is_one_line(
    train: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, sigint: None
) -> None:
    """In this process: SIGINT while an epoch is logged."""
    append = History.append

    def interrupt(history: History, epoch: int, *metrics: float) -> None:
        append(history, epoch, *metrics)
        if epoch == 10:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(History, "append", interrupt)
    answer = train("adam", "--epochs", 500, "--out", "run")
    answer.assert_failed(130, "interrupted", "run")
    assert read_json(workplace / "run" / "result.json")["epochs"] == 11


def test_ranks_and_their_devices_are_named(capsys: pytest.CaptureFixture[str], small_data: Any) -> None:
    devices = ["cpu: A", "cuda:0: B", "cpu: A"]
    ranks: Any = SimpleNamespace(
        size=3, is_first=True, gather=lambda _own: devices, on_hosts=lambda: {"one": 2, "two": 1},
        threads=lambda _backend: 2, channel=lambda _backend: "MPI",
    )  # fmt: skip
    train_command._print_beginning(small_data, CpuBackend(4), ranks, 1)
    _data, first, of_ranks, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("cpu: A, 2 threads, ")
    assert (of_ranks, others) == ("3 ranks: 2 on one, 1 on two; gradients by MPI", ["rank 1: cuda:0: B"])
