"""Checkpoints: what they hold, which are kept and taken, and that training goes on from them to the same bits."""

import json
import logging
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fmnist_xp import LBFGS, SGD, Adam, AdamW, Cosine, Dense, History, ReLU, RunError, Sequential, Tanh
from fmnist_xp.backend import PRECISIONS, Backend, CpuBackend, get_backend
from fmnist_xp.data.pixels import Pixels

GENERATOR = np.random.default_rng(1)
X = GENERATOR.standard_normal((60, 6))
Y = GENERATOR.integers(0, 4, 60)
OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": lambda: SGD(0.3, decay=0.01),
    "momentum": lambda: SGD(0.3, momentum=0.5),
    "adam": lambda: Adam(0.02, decay=1e-3),
    "averaged": lambda: AdamW(Cosine(0.05, 22, warmup=3), clip_norm=0.1, ema=0.8),
    "lbfgs": lambda: LBFGS(history_size=3),
}


def make(threads: int = 1, dtype: str = "float32", hidden: int = 5, activation: Any = ReLU) -> Sequential:
    layers = [Dense(6, hidden, weight_regularizer_l2=0.01), activation(), Dense(hidden, 4)]
    return Sequential(layers, backend=CpuBackend(threads), seed=1, dtype=dtype)


def fit(network: Sequential, epochs: int, optimizer: Any = None, **more: Any) -> History:
    more = {"log_every": 4, "verbose": 0, **more}
    return network.fit(more.pop("X", X), more.pop("y", Y), epochs=epochs, optimizer=optimizer or Adam(0.02), **more)


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stops", [(1,), (7,), (8, 9), (3, 8, 15)], ids=str)
def test_stopped_training_goes_on_to_the_same_bits(
    tmp_path: Path, optimizer: Callable[[], Any], dtype: str, stops: tuple[int, ...]
) -> None:
    whole = make(dtype=dtype)
    expected = fit(whole, 22, optimizer(), validation_fraction=0.25, keep_best=True)
    for epochs in (*stops, 22):
        network = make(threads=1 + epochs % 3, dtype=dtype)
        network.parameters[...] = 7  # what a checkpoint takes the place of
        if epochs == stops[0]:
            network = make(dtype=dtype)
        found = fit(
            network, epochs, optimizer(), checkpoint=tmp_path, resume=True, validation_fraction=0.25, keep_best=True
        )
    np.testing.assert_array_equal(network.parameters, whole.parameters)
    assert found.to_csv() == expected.to_csv()
    assert len(found.epoch_seconds) == 22
    assert found.best_state is not None
    assert expected.best_state is not None
    for name, values in expected.best_state.items():
        np.testing.assert_array_equal(found.best_state[name], values)


@pytest.mark.cuda
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_a_gpu_goes_on_to_the_same_bits(gpu: Backend, tmp_path: Path, dtype: str, graphs: bool) -> None:
    if graphs:
        pytest.importorskip("nvmath", reason="nvmath-python, which CUDA graphs need, is not installed")
    backend = get_backend(gpu.name, graphs=graphs)
    if dtype not in backend.precisions:
        pytest.skip(f"{gpu.device_name} does not compute in {dtype}")

    def train(epochs: int, **more: Any) -> tuple[Sequential, History]:
        layers = [Dense(6, 64, weight_regularizer_l2=0.01), ReLU(), Dense(64, 4)]
        network = Sequential(layers, backend=backend, seed=1, dtype=dtype)
        more |= {"validation_fraction": 0.25, "keep_best": True}
        return network, fit(network, epochs, X=X.astype("float32"), **more)

    whole, expected = train(42)
    for epochs in (3, 8, 25, 42):
        network, found = train(epochs, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(backend.to_host(network.parameters), backend.to_host(whole.parameters))
    assert found.to_csv() == expected.to_csv()


def test_training_on_pixels_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    pixels = Pixels(GENERATOR.integers(0, 256, (60, 6), dtype="uint8"))
    whole, resumed = make(), make()
    fit(whole, 20, X=pixels)
    fit(make(2), 9, X=pixels, checkpoint=tmp_path)
    fit(resumed, 20, X=pixels, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)


def test_patience_counts_on_after_resuming(tmp_path: Path) -> None:
    options: dict[str, Any] = {"validation_fraction": 0.3, "patience": 12, "log_every": 1}
    expected = fit(make(), 500, SGD(0.05), **options)
    assert expected.stopped == "no better validation accuracy in 12 epochs"
    middle = expected.epoch[-1] - 5
    fit(make(), middle, SGD(0.05), checkpoint=tmp_path, **options)
    found = fit(make(), 500, SGD(0.05), checkpoint=tmp_path, resume=True, **options)
    assert (found.to_csv(), found.stopped) == (expected.to_csv(), expected.stopped)


def test_checkpoint_is_plain_safetensors_and_json(tmp_path: Path) -> None:
    network, optimizer = make(), Adam(0.02)
    history = fit(network, 9, optimizer, checkpoint=tmp_path)
    path = tmp_path / "epoch-000000009.safetensors"
    arrays = load_file(path)
    assert set(arrays) == {
        "parameters", "moment1", "moment2", "history.epoch", "history.accuracy", "history.loss",
        "history.learning_rate", "history.regularization_loss", "history.epoch_seconds",
    }  # fmt: skip
    np.testing.assert_array_equal(arrays["parameters"], network.parameters)
    for number, moment in enumerate(optimizer.state(network), start=1):
        np.testing.assert_array_equal(arrays[f"moment{number}"], moment)
    assert arrays["history.loss"].tolist() == history.loss
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["fmnist-xp checkpoint 1"])
    assert (header["epoch"], header["iterations"]) == (9, 9)
    assert header["learning_rate"] == optimizer.current_learning_rate
    assert header["optimizer"]["type"] == "Adam"
    assert [layer["type"] for layer in header["network"]["layers"]] == ["Dense", "ReLU", "Dense"]
    assert len(header["sha256"]) == 64


def test_the_last_two_are_kept_and_nothing_is_left_of_killed_writers(tmp_path: Path) -> None:
    (tmp_path / f".epoch-000000004-{'a' * 16}.safetensors").write_bytes(b"half")
    (tmp_path / "mine.txt").write_text("stays")
    fit(make(), 17, checkpoint=tmp_path, checkpoint_every=4)
    names = ["epoch-000000016.safetensors", "epoch-000000017.safetensors", "mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(place: int) -> Callable[[Path], None]:
    def flipped(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 4
        path.write_bytes(content)

    return flipped


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "a flipped bit in the header": flip(200),
    "a flipped bit in the parameters": flip(-2000),
    "a flipped bit at the end": flip(-1),
    "another file": lambda path: save_file({"a": np.zeros(3)}, path),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(print)),
    "a folder": as_folder,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, damage: Callable[[Path], Any], caplog: pytest.LogCaptureFixture
) -> None:
    whole, resumed = make(), make()
    fit(whole, 20)
    fit(make(), 15, checkpoint=tmp_path, checkpoint_every=4)
    damage(tmp_path / "epoch-000000015.safetensors")
    with caplog.at_level(logging.WARNING, logger="fmnist_xp"):
        fit(resumed, 20, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)
    if damage is not as_folder:  # which is no file, and so no checkpoint
        assert "epoch-000000015.safetensors" in caplog.text
        assert "the checkpoint before it is taken" in caplog.text


def test_no_checkpoint_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    fit(make(), 15, checkpoint=tmp_path, checkpoint_every=4)
    for path in tmp_path.iterdir():
        cut(path)
    with pytest.raises(RunError, match="no checkpoint that can be read"):
        fit(make(), 20, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": lambda: make(hidden=6)}, "other layers and loss"),
        ({"network": lambda: make(activation=Tanh)}, "other layers and loss"),
        ({"network": lambda: make(dtype="float64")}, "does not fit this training .its parameters are float32"),
        ({"optimizer": lambda: Adam(0.01)}, "other optimizer: .*0.02.* there, .*0.01.* here"),
        ({"optimizer": lambda: SGD(0.02)}, "other optimizer"),
        ({"X": X + 1e-3}, "other rows"),
        ({"X": X[:59], "y": Y[:59]}, "other rows"),
        ({"y": Y[::-1].copy()}, "other rows"),
    ],
)
def test_another_training_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    fit(make(), 5, checkpoint=tmp_path)
    more = dict(change)
    network, optimizer = more.pop("network", make)(), more.pop("optimizer", lambda: Adam(0.02))()
    before = network.parameters.copy()
    with pytest.raises(RunError, match=message):
        fit(network, 9, optimizer, checkpoint=tmp_path, resume=True, **more)
    np.testing.assert_array_equal(network.parameters, before)


def test_checkpoints_of_another_training_are_not_written_over(tmp_path: Path) -> None:
    fit(make(), 5, checkpoint=tmp_path)
    with pytest.raises(RunError, match=r"holds a checkpoint \(epoch-000000005.safetensors\): resume it"):
        fit(make(), 9, checkpoint=tmp_path)


def test_resuming_where_there_is_nothing_starts(tmp_path: Path) -> None:
    whole, network = make(), make()
    fit(whole, 9)
    fit(network, 9, checkpoint=tmp_path / "new", resume=True)
    np.testing.assert_array_equal(network.parameters, whole.parameters)
    history = fit(network, 9, checkpoint=tmp_path / "new", resume=True)  # nothing is left to do
    assert len(history.epoch_seconds) == 9


@pytest.mark.parametrize("more", [{"resume": True}, {"checkpoint_every": 3}])
def test_arguments_without_a_folder_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs a folder: checkpoint="):
        fit(make(), 3, **more)


def test_other_arithmetic_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(make(), 5, checkpoint=tmp_path)
    other = property(lambda _backend: "cuda:0 (a GPU)")
    monkeypatch.setattr(CpuBackend, "arithmetic", other)
    with caplog.at_level(logging.WARNING, logger="fmnist_xp"):
        fit(make(), 9, checkpoint=tmp_path, resume=True)
    (message,) = caplog.messages
    assert message.startswith("the first 5 epochs were trained in float32 on cpu (")
    assert message.endswith("; from here on in float32 on cuda:0 (a GPU)")


def test_a_checkpoint_that_cannot_be_written_is_told_of_once_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, network = make(), make()
    fit(whole, 20)

    def full(path: Path, *_arguments: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    def at_epoch_6(history: History) -> None:
        if history.epoch[-1] == 4:
            monkeypatch.setattr("fmnist_xp.train.checkpoint.save_arrays", full)

    with caplog.at_level(logging.WARNING, logger="fmnist_xp"):
        fit(network, 20, checkpoint=tmp_path, checkpoint_every=2, callbacks=at_epoch_6)
    np.testing.assert_array_equal(network.parameters, whole.parameters)
    (message,) = caplog.messages
    assert message.startswith("no checkpoint is written, training goes on: ")
    assert message.endswith("epoch-000000006.safetensors: No space left on device")
    assert sorted(path.name for path in tmp_path.iterdir())[-1] == "epoch-000000004.safetensors"


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path) -> None:
    def remove(history: History) -> None:
        if history.epoch[-1] == 8:
            shutil.rmtree(tmp_path / "folder")

    fit(make(), 20, checkpoint=tmp_path / "folder", checkpoint_every=5, callbacks=remove)
    assert [path.name for path in sorted((tmp_path / "folder").iterdir())][-1] == "epoch-000000020.safetensors"


def test_by_default_one_is_due_after_half_a_minute_or_a_hundred_times_its_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmnist_xp.train import checkpoint

    now = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    network, optimizer = make(), Adam(0.02)
    checkpoints = checkpoint.Checkpoints(tmp_path, network, optimizer, "data")
    save_arrays = checkpoint.save_arrays

    def slow(*arguments: Any) -> None:
        now[0] += cost
        save_arrays(*arguments)

    monkeypatch.setattr(checkpoint, "save_arrays", slow)
    for cost, interval in ((0.0, 30), (0.25, 30), (2.0, 200)):  # noqa: B007
        checkpoints.write(checkpoint.State(int(now[0] * 100) + 1, History()))
        now[0] += interval - 0.5
        assert not checkpoints.due(1000)
        now[0] += 0.5
        assert checkpoints.due(1000)
