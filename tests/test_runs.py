import hashlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from run_helpers import RUN_FILES, contents, figures, read_history, read_idx, read_json

from fmnist_xp import runs
from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import make_synthetic
from fmnist_xp.errors import RunError
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.files import write_text
from fmnist_xp.model import Sequential
from fmnist_xp.runs import Run, Settings, default_folder, load_run, train_run

CPU = CpuBackend(1)
QUICK = Settings(replace(EXPERIMENTS["adam"], hidden=(8,), epochs=3), seed=2, log_every=2)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    return make_synthetic(30, 20)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 50)


def train(folder: Path, tiny: tuple[Any, Any], settings: Settings = QUICK, **more: Any) -> Run:
    return train_run(settings, *tiny, CPU, folder, source="somewhere", verbose=False, **more)


def test_what_is_returned_is_what_is_written(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    run = train(tmp_path / "run", tiny)
    assert {path.name for path in run.folder.iterdir()} == RUN_FILES
    assert json.loads(json.dumps(run.result)) == read_json(run.folder / "result.json")
    assert json.loads(json.dumps(run.config)) == read_json(run.folder / "config.json")
    assert run.history.epoch == read_history(run.folder / "history.csv")["epoch"] == [0, 2]
    assert len(run.history.epoch_seconds) == run.result["epochs"] == 3


def test_loading_gives_back_what_was_trained(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    trained = train(tmp_path / "run", tiny)
    loaded = load_run(tmp_path / "run")
    assert loaded.result == trained.result
    assert loaded.config == json.loads(json.dumps(trained.config))
    assert loaded.history.to_csv() == trained.history.to_csv()
    assert loaded.title == trained.title
    network = loaded.load_network(CPU)
    X = tiny[1].images.reshape(20, 784) / np.float32(127.5) - 1
    accuracy, loss = figures(tmp_path / "run" / "model.safetensors", tiny[1].images, tiny[1].labels)
    metrics = network.evaluate(X, tiny[1].labels)
    assert metrics.accuracy == pytest.approx(accuracy)
    assert metrics.loss == pytest.approx(loss, rel=1e-5)


def test_time_of_the_training_is_taken_when_the_device_is_done(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A device that was asked for everything at once, and is an hour at it from there.
    backend, now = CpuBackend(1), [0.0]
    monkeypatch.setattr(backend, "synchronize", lambda: now.append(3600.0))
    monkeypatch.setattr(runs, "time", SimpleNamespace(perf_counter=lambda: now[-1]))
    run = train_run(QUICK, *tiny, backend, tmp_path / "run", source="tiny", verbose=False)
    assert run.result["total_seconds"] == 3600


def test_title_names_what_was_trained_on_what(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    title = train(tmp_path / "run", tiny).title
    for words in ("adam", "cpu", "seed 2", "synthetic", "30 images"):
        assert words in title


def test_config_says_where_the_data_came_from(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path as it can be found from any folder."""
    monkeypatch.chdir(tmp_path)
    data = train(tmp_path / "run", tiny).config["data"]
    assert (data["name"], data["train_rows"], data["test_rows"]) == ("synthetic", 30, 20)
    assert data["read_from"] == tiny[0].source
    assert Path(data["source"]) == tmp_path.resolve() / "somewhere"


def test_checksum_is_of_both_splits_training_first(tiny: tuple[Any, Any]) -> None:
    train, test = tiny
    sums = [hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).digest() for split in tiny]
    assert runs.dataset_sha256(train, test) == hashlib.sha256(b"".join(sums)).hexdigest()
    assert runs.dataset_sha256(test, train) != runs.dataset_sha256(train, test)


def test_seed_decides_weights_and_order(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = []
    prepare = runs.preprocess

    def preprocess(dataset: Any, shuffle_seed: int | None = None) -> Any:
        orders.append(shuffle_seed)
        return prepare(dataset, shuffle_seed)

    monkeypatch.setattr(runs, "preprocess", preprocess)
    train(tmp_path / "run", tiny)
    assert orders == [2, None]  # the training images are shuffled, the test images are not


def test_model_file_of_one_network_has_one_content(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    network = train(tmp_path / "run", tiny).load_network(CPU)
    saved = set()
    for number in range(10):
        network.save(tmp_path / f"{number}.safetensors")
        saved.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(saved) == 1


@pytest.mark.parametrize(
    ("name", "device", "folder"),
    [("adam", "cpu", "adam-cpu-s2"), ("sgd", "cuda:1", "sgd-cuda1-s2"), ("momentum", "cuda:0", "momentum-cuda0-s2")],
)
def test_default_folder(monkeypatch: pytest.MonkeyPatch, name: str, device: str, folder: str) -> None:
    backend = CpuBackend(1)
    monkeypatch.setattr(backend, "name", device)
    assert default_folder(Settings(EXPERIMENTS[name], seed=2), backend) == Path("runs", folder)


def test_taken_folder_is_refused_before_training(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "run", tiny)
    before = contents(tmp_path)
    monkeypatch.setattr(Sequential, "fit", None)
    with pytest.raises(RunError, match="holds a finished run"):
        train(tmp_path / "run", tiny)
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(RunError, match="holds something already"):
        train(tmp_path / "run", tiny)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is a file"):
        train(tmp_path / "file", tiny)
    del before["run/result.json"]
    assert contents(tmp_path) == before | {"file": b""}


def test_folder_is_taken_while_it_trains(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second training that is started meanwhile is refused."""
    fit = Sequential.fit
    refused = []

    def slow(network: Sequential, *arguments: Any, **more: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Sequential, "fit", fit)
            with pytest.raises(RunError, match="--out"):
                train(tmp_path / "run", tiny)
            refused.append(True)
        return fit(network, *arguments, **more)

    monkeypatch.setattr(Sequential, "fit", slow)
    train(tmp_path / "run", tiny)
    assert refused == [True]
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES


def failing_writes(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the `number`-th file of a run, and all after it, meet a full disk."""
    count = 0

    def counted(write: Any) -> Any:
        def writing(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count >= number:
                raise OSError(28, "No space left on device", "run")
            return write(*arguments, **more)

        return writing

    monkeypatch.setattr(runs, "write_text", counted(write_text))
    monkeypatch.setattr("fmnist_xp.train.history.write_text", counted(write_text))
    monkeypatch.setattr(Sequential, "save", counted(Sequential.save))
    monkeypatch.setattr(runs, "plot_metrics", counted(runs.plot_metrics))


# A run without one before it writes its settings twice: to take the folder, and at the end.
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6])
def test_full_disk_leaves_no_half_folder(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        failing_writes(patch, number)
        with pytest.raises(OSError, match="No space left"):
            train(tmp_path / "run", tiny)
    assert contents(tmp_path) == {}
    assert train(tmp_path / "run", tiny).result["epochs"] == 3


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_full_disk_does_not_mix_two_runs(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """With `force`, what is in the folder afterwards is the run before, or none that passes for finished."""
    train(tmp_path / "run", tiny)
    before = contents(tmp_path / "run")
    with monkeypatch.context() as patch:
        failing_writes(patch, number)
        with pytest.raises(OSError, match="No space left"):
            train(tmp_path / "run", tiny, replace(QUICK, seed=3), force=True)
    if contents(tmp_path / "run") != before:
        with pytest.raises(RunError):
            load_run(tmp_path / "run")


def test_picture_that_fails_does_not_cost_the_training(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_history: Any, path: Path, **_options: Any) -> None:
        path.write_bytes(b"half a picture")
        raise RuntimeError("no fonts")

    monkeypatch.setattr(runs, "plot_metrics", failing)
    run = train(tmp_path / "run", tiny)
    assert {path.name for path in run.folder.iterdir()} == RUN_FILES - {"metrics.png"}
    assert load_run(tmp_path / "run").result == json.loads(json.dumps(run.result))
    assert f"metrics.png was not drawn (no fonts); fmnist-xp plot {run.folder} draws it" in caplog.text


def test_force_replaces(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    train(tmp_path / "run", tiny)
    train(tmp_path / "run", tiny, replace(QUICK, seed=3), force=True)
    assert load_run(tmp_path / "run").result["seed"] == 3
    assert load_run(tmp_path / "run").config["seed"] == 3


def test_force_without_a_run_is_a_run(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    train(tmp_path / "deep" / "run", tiny, force=True)
    assert load_run(tmp_path / "deep" / "run").result["seed"] == 2


def test_interrupted_training_is_kept_as_far_as_it_came(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = Sequential.fit

    def interrupted(network: Sequential, *arguments: Any, epochs: int, **more: Any) -> Any:
        history = fit(network, *arguments, epochs=2, **more)
        history.interrupted = True
        return history

    monkeypatch.setattr(Sequential, "fit", interrupted)
    run = train(tmp_path / "run", tiny)
    result = read_json(tmp_path / "run" / "result.json")
    assert (result["interrupted"], result["epochs"]) == (True, 2)
    assert run.config["experiment"]["epochs"] == 3
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
def test_losses_that_are_no_numbers_are_null(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    experiment = replace(EXPERIMENTS["sgd"], epochs=12, learning_rate=1e30)
    train(tmp_path / "run", tiny, Settings(experiment))
    assert b"NaN" not in (tmp_path / "run" / "result.json").read_bytes()
    run = load_run(tmp_path / "run")
    assert run.result["test_loss"] is None
    assert math.isnan(run.history.loss[-1])
    assert run.history.epoch == [0, 10]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("result.json", None, "no result.json"),
        ("config.json", None, "config.json"),
        ("history.csv", None, "history.csv"),
        ("result.json", "{", "result.json is damaged"),
        ("config.json", "[]", "config.json is damaged"),
        ("history.csv", "", "history.csv"),
    ],
)
def test_damaged_run_is_an_error_that_names_the_file(
    run_folder: Path, file: str, text: str | None, message: str
) -> None:
    if text is None:
        (run_folder / file).unlink()
    else:
        (run_folder / file).write_text(text)
    with pytest.raises(RunError, match=message) as raised:
        load_run(run_folder)
    assert str(run_folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a finished run"):
        load_run(tmp_path)


def test_versions_are_those_that_compute() -> None:
    found = runs.versions()
    assert found["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["blas"]
    assert all(isinstance(value, str) for value in found.values())


def test_run_of_the_data_set_learned(finished_run: Path, idx_folder: Path) -> None:
    """Ten classes: guessing gives 0.1."""
    result = read_json(finished_run / "result.json")
    assert result["test_accuracy"] == pytest.approx(
        figures(finished_run / "model.safetensors", *read_idx(idx_folder, "t10k"))[0], abs=0.006
    )
    assert result["test_accuracy"] > 0.5
