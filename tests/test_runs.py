import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from run_helpers import CLASSES, RUN_FILES, contents, read_history, read_idx, read_json, reference_metrics

from fmnist_xp import runs
from fmnist_xp.backend import CpuBackend
from fmnist_xp.blas import blas_name
from fmnist_xp.data import make_synthetic
from fmnist_xp.errors import RunError
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.files import write_text
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense
from fmnist_xp.plain_json import to_json
from fmnist_xp.runs import Result, Run, Settings, default_folder, load_run, resume_run, train_run
from fmnist_xp.train import history as history_module
from fmnist_xp.train.checkpoint import save_arrays

CPU = CpuBackend(1)
QUICK = Settings(replace(EXPERIMENTS["adam"], hidden=(8,), epochs=3), seed=2, log_every=2)


@pytest.fixture(scope="session")
def tiny() -> tuple[Any, Any]:
    return make_synthetic(30, 20)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 50)


def train(folder: Path, tiny: tuple[Any, Any], settings: Settings = QUICK, **more: Any) -> Run:
    return train_run(settings, *tiny, CPU, folder, source="somewhere", verbose=False, **more)


def test_returned_run_equals_written_files(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    run = train(tmp_path / "run", tiny)
    assert {path.name for path in run.folder.iterdir()} == RUN_FILES
    assert run.result.to_json() == read_json(run.folder / "result.json")
    assert json.loads(json.dumps(run.config)) == read_json(run.folder / "config.json")
    assert run.history.epoch == read_history(run.folder / "history.csv")["epoch"] == [0, 2]
    assert len(run.history.epoch_seconds) == run.result.epochs == 3


def test_loaded_run_equals_trained_run(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    trained = train(tmp_path / "run", tiny)
    loaded = load_run(tmp_path / "run")
    assert loaded.result == trained.result
    assert loaded.config == json.loads(json.dumps(trained.config))
    assert loaded.history.to_csv() == trained.history.to_csv()
    assert loaded.title == trained.title
    network = loaded.load_network(CPU)
    X = tiny[1].images.reshape(20, 784) / np.float32(127.5) - 1
    accuracy, loss = reference_metrics(tmp_path / "run" / "model.safetensors", tiny[1].images, tiny[1].labels)
    metrics = network.evaluate(X, tiny[1].labels)
    assert metrics.accuracy == pytest.approx(accuracy)
    assert metrics.loss == pytest.approx(loss, rel=1e-5)


def test_training_time_is_taken_after_synchronizing(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An asynchronous device, whose queue takes an hour.
    backend, now = CpuBackend(1), [100.0]
    monkeypatch.setattr(backend, "synchronize", lambda: now.append(3700.0))
    monkeypatch.setattr(runs.training, "time", SimpleNamespace(perf_counter=lambda: now[-1]))
    run = train_run(QUICK, *tiny, backend, tmp_path / "run", source="tiny", verbose=False)
    assert run.result.total_seconds == 3600


def test_title_names_experiment_device_seed_and_data(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    title = train(tmp_path / "run", tiny).title
    assert title == "adam · hidden 8 · epochs 3 · cpu · seed 2 · synthetic (30 images)"


def test_config_records_data_source_as_absolute_path(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Absolute, so that it is valid in any working directory."""
    monkeypatch.chdir(tmp_path)
    data = train(tmp_path / "run", tiny).config["data"]
    assert (data["name"], data["train_rows"], data["test_rows"]) == ("synthetic", 30, 20)
    assert data["read_from"] == tiny[0].source
    assert Path(data["source"]) == tmp_path.resolve() / "somewhere"


def test_checksum_covers_both_splits_training_first(tiny: tuple[Any, Any]) -> None:
    train, test = tiny
    sums = [hashlib.sha256(split.images.tobytes() + split.labels.tobytes()).digest() for split in tiny]
    assert runs.dataset_sha256(train, test) == hashlib.sha256(b"".join(sums)).hexdigest()
    assert runs.dataset_sha256(test, train) != runs.dataset_sha256(train, test)


def test_images_are_trained_on_as_bytes_in_their_own_order(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[Any, Any]] = []
    fit = Sequential.fit

    def noting(self: Any, X: Any, y: Any, **more: Any) -> Any:
        given.append((X, y))
        return fit(self, X, y, **more)

    monkeypatch.setattr(Sequential, "fit", noting)
    train(tmp_path / "run", tiny)
    ((X, y),) = given
    assert np.shares_memory(X.bytes(slice(None)), tiny[0].images)
    np.testing.assert_array_equal(y, tiny[0].labels)


def test_weights_are_initialized_with_the_seed(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    still = Settings(replace(QUICK.experiment, epochs=1, learning_rate=1e-30), seed=7)  # too little to change any
    generator = np.random.default_rng(7)
    for layer in train(tmp_path / "run", tiny, still).load_network(CPU).dense:
        expected = (0.01 * generator.standard_normal(layer.weights.shape)).astype("float32")
        np.testing.assert_allclose(layer.weights, expected, rtol=1e-6)


def test_failure_is_raised_unchanged_when_the_folder_was_emptied_meanwhile(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_more: Any) -> None:
        (tmp_path / "run" / "config.json").unlink()
        raise LookupError("in training")

    monkeypatch.setattr(Sequential, "fit", fail)
    with pytest.raises(LookupError, match="in training"):
        train(tmp_path / "run", tiny)
    assert not (tmp_path / "run").exists()


def test_versions_list_all_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package in ("numpy", "opencv-python"):
            raise PackageNotFoundError(package)
        return f"of {package}"

    monkeypatch.setattr(runs.settings, "version", version)
    there = ("fmnist-xp", "opencv-python-headless", "cupy-cuda12x", "cupy-cuda13x")
    assert runs.versions() == {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "blas": blas_name(),
        **{package: f"of {package}" for package in there},
    }


def test_json_never_holds_nan_or_infinity(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    result = train(tmp_path / "run", tiny).result
    diverged = replace(result, test_loss=math.nan, train_loss=-math.inf)
    assert diverged.to_json() == {**result.to_json(), "test_loss": None, "train_loss": None}
    read = Result.from_json(diverged.to_json())
    assert math.isnan(read.test_loss)
    assert math.isnan(read.train_loss)
    assert replace(read, test_loss=result.test_loss, train_loss=result.train_loss) == result
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"seconds": {"median": math.nan}})


def test_class_names_are_the_datas(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    names = [f"class {label}" for label in range(12)]
    splits = [split.renamed("custom", names) for split in tiny]
    run = train_run(QUICK, *splits, CPU, tmp_path / "run", source="somewhere", verbose=False)
    assert run.class_names == load_run(tmp_path / "run").class_names == tuple(names)
    assert run.load_network(CPU).n_classes == 12


@pytest.mark.parametrize(
    ("name", "names"), [("synthetic", CLASSES), ("fashion-mnist", CLASSES), ("custom", tuple("0123456789"))]
)
def test_older_runs_have_no_class_names(
    tmp_path: Path, tiny: tuple[Any, Any], name: str, names: tuple[str, ...]
) -> None:
    folder = train(tmp_path / "run", tiny).folder
    for file, key in (("result.json", "dataset"), ("config.json", "data")):
        values = read_json(folder / file)
        del values[key]["class_names"]
        values[key]["name"] = name
        write_text(folder / file, json.dumps(values))
    run = load_run(folder)
    assert run.class_names == names
    assert run.load_network(CPU).n_classes == 10
    # It goes on, whatever the classes are called in its data.
    settings, splits = replace(QUICK.experiment, epochs=5), [split.renamed(name, "abcdefghij") for split in tiny]
    again = resume_run(folder, *splits, CPU, epochs=settings.epochs, verbose=False)
    assert again.class_names == names
    assert read_json(folder / "config.json")["data"]["class_names"] == list(names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("ten", 'class_names must be a list, got "ten"'),
        (["a", 2], r"class_names\[1\] must be text, got 2"),
        (["a", "a"], "class name 'a' found twice"),
        ([], "0 class names found"),
        (["a\n"], "is no class name"),
    ],
)
def test_damaged_class_names_are_named(tmp_path: Path, tiny: tuple[Any, Any], names: Any, message: str) -> None:
    folder = train(tmp_path / "run", tiny).folder
    values = read_json(folder / "result.json")
    values["dataset"]["class_names"] = names
    write_text(folder / "result.json", json.dumps(values))
    with pytest.raises(RunError, match=rf"result\.json is damaged: .*{message}"):
        load_run(folder)
    config = read_json(folder / "config.json")
    config["data"]["class_names"] = names
    write_text(folder / "config.json", json.dumps(config))
    with pytest.raises(RunError, match=rf"config\.json does not tell the run's settings: .*{message}"):
        resume_run(folder, *tiny, CPU, epochs=5, verbose=False)


def test_a_model_of_another_number_of_classes_is_refused(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    folder = train(tmp_path / "run", tiny).folder
    values = read_json(folder / "result.json")
    values["dataset"]["class_names"] = ["a", "b", "c"]
    write_text(folder / "result.json", json.dumps(values))
    with pytest.raises(RunError, match="takes 784 numbers and tells 10 classes, not 784 and 3: it is of another run"):
        load_run(folder).load_network(CPU)


def test_data_of_other_classes_cannot_be_gone_on_with(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    folder = train(tmp_path / "run", tiny).folder
    more = [split.renamed("synthetic", "abcdefghijk") for split in tiny]
    with pytest.raises(RunError, match=r"was trained on other classes: .* 11 classes found .* 10 class names, of "):
        resume_run(folder, *more, CPU, epochs=5, verbose=False)


def test_saving_a_network_is_deterministic(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
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
def test_default_folder_is_a_new_one(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, name: str, device: str, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = CpuBackend(1)
    monkeypatch.setattr(backend, "name", device)
    settings = Settings(EXPERIMENTS[name], seed=2)
    config = settings.config(*tiny, backend, "auto")
    assert default_folder(settings, backend, config) == Path("runs", folder)
    assert default_folder(settings, backend, config) == Path("runs", folder)  # nothing is in it yet
    (tmp_path / "runs" / folder / "result.json").touch()
    assert default_folder(settings, backend, config) == Path("runs", f"{folder}-2")
    (tmp_path / "runs" / f"{folder}-2" / "mine.txt").touch()
    assert default_folder(settings, backend, config) == Path("runs", f"{folder}-3")


def test_default_folder_names_changed_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for changed, run, folder in (
        ({"epochs": 30}, {}, "sgd-cpu-s0-epochs30"),
        ({"hidden": (64, 32), "l2": 0.0}, {"seed": 3}, "sgd-cpu-s3-hidden64-32-l2_0.0"),
        ({"learning_rate": 0.5, "momentum": 0.9}, {}, "sgd-cpu-s0-lr0.5-momentum0.9"),
        ({}, {"precision": "float64", "validation": 0.1, "patience": 50}, "sgd-cpu-s0-float64-val0.1-patience50"),
        ({}, {"precision": "bfloat16", "engine": "fused"}, "sgd-cpu-s0-bfloat16-fused"),
    ):
        settings = Settings(replace(EXPERIMENTS["sgd"], **changed), **run)
        found = default_folder(settings, CPU, settings.config(*tiny, CPU, "auto"))
        assert found == Path("runs", folder)


def test_occupied_folder_is_refused_before_training(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "run", tiny)
    before = contents(tmp_path)
    monkeypatch.setattr(Sequential, "fit", None)
    with pytest.raises(RunError, match="holds a finished run"):
        train(tmp_path / "run", tiny)
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(RunError, match=r"holds an unfinished run: go on with fmnist-xp train --resume .*run, name"):
        train(tmp_path / "run", tiny)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is a file"):
        train(tmp_path / "file", tiny)
    del before["run/result.json"]
    assert contents(tmp_path) == before | {"file": b""}


def test_folder_is_reserved_during_training(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run that is started meanwhile is refused."""
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


def test_what_is_no_run_is_never_written_to(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    for name, text in (("config.json", "{}"), ("notes.txt", "mine")):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(text)
        for force in (False, True):
            with pytest.raises(RunError, match=r"something that is no run: name another folder with --out$"):
                train(tmp_path / name, tiny, force=force)
        assert contents(tmp_path / name) == {name: text.encode()}


def test_model_of_before_does_not_pass_for_one_of_a_run_that_diverged(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "run", tiny)
    fit = Sequential.fit

    def diverging(*arguments: Any, **more: Any) -> Any:
        history = fit(*arguments, **more)
        history.diverged, history.stopped = True, "the weights are no longer finite after epoch 4"
        return history

    monkeypatch.setattr(Sequential, "fit", diverging)
    run = resume_run(tmp_path / "run", *tiny, CPU, epochs=6, verbose=0)
    assert run.result.to_json()["test_accuracy"] is None
    with pytest.raises(RunError, match="has no model, since its training has diverged"):
        load_run(tmp_path / "run").load_network(CPU)


def test_run_of_the_fused_engine_is_the_plain_ones_where_that_is_not_taken(
    tmp_path: Path, tiny: tuple[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """From its first weights, and after it was trained in a precision of GPUs."""
    whole = train(tmp_path / "whole", tiny)
    found = train(tmp_path / "run", tiny, replace(QUICK, engine="fused"))
    assert found.config["engine"] == read_json(tmp_path / "run" / "config.json")["engine"] == "fused"
    why = f"cpu ({CPU.device_name}): it needs compute capability 8.0"
    why = f"the fused engine does not take {why}; the plain one trains"
    assert caplog.messages == [why]
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps(read_json(path) | {"precision": "bfloat16"}))
    again = resume_run(tmp_path / "run", *tiny, CPU, epochs=4, verbose=0)
    assert caplog.messages[1:] == ["cpu has no bfloat16: it goes on in float32", why]
    assert (again.config["precision"], again.config["engine"], again.result.epochs) == ("float32", "fused", 4)
    resume_run(tmp_path / "whole", *tiny, CPU, epochs=4, verbose=0)
    for name in ("model.safetensors", "history.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine": "fuse"}, "engine must be one of plain, fused, got 'fuse'; did you mean fused?"),
        (
            {"precision": "bfloat16"},
            'bfloat16 is for the fused engine alone, ask for it: engine="fused", or --engine',
        ),
    ],
)
def test_engine_is_checked_before_any_data_is_read(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
        replace(QUICK, **settings).check()
    replace(QUICK, engine="fused").check()
    replace(QUICK, engine="fused", precision="bfloat16").check()


def test_run_that_learned_nothing_is_taken_over(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    """As an older version, or a kill in the first seconds, leaves it: its config.json alone."""
    train(tmp_path / "run", tiny)
    for path in (tmp_path / "run").iterdir():
        if path.name != "config.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert train(tmp_path / "run", tiny).result.epochs == 3


def failing_writes(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let writing the `number`-th file of a run, and all after it, fail as on a full disk."""
    count = 0

    def counted(write: Any) -> Any:
        def writing(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            if count >= number:
                raise OSError(28, "No space left on device", "run")
            return write(*arguments, **more)

        return writing

    for module in (runs.folder, runs.training, history_module):
        monkeypatch.setattr(module, "write_text", counted(write_text))
    monkeypatch.setattr("fmnist_xp.train.checkpoint.save_arrays", counted(save_arrays))
    monkeypatch.setattr(Sequential, "save", counted(Sequential.save))
    monkeypatch.setattr(runs.training, "save_figure", counted(runs.training.save_figure))


# config.json, the checkpoint of the first weights, history.csv as it begins to grow, the checkpoint at the end,
# history.csv, the model, config.json, result.json, the picture.
@pytest.mark.parametrize("number", range(1, 10))
def test_full_disk_loses_no_more_than_it_must(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nothing is left where nothing was learned; else the run is resumed to what it would have been."""
    with monkeypatch.context() as patch:
        failing_writes(patch, number)
        if number < 9:
            with pytest.raises(OSError, match="No space left"):
                train(tmp_path / "run", tiny)
        else:
            train(tmp_path / "run", tiny)  # a picture costs a warning
    whole = train(tmp_path / "whole", tiny)
    if number <= 4:  # the checkpoint at the end is missing: as if it had been killed before
        assert contents(tmp_path / "run") == {}
        train(tmp_path / "run", tiny)
    else:
        resume_run(tmp_path / "run", *tiny, CPU, verbose=0)
    for name in ("model.safetensors", "history.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (whole.folder / name).read_bytes()
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES


@pytest.mark.parametrize("number", range(1, 9))
def test_full_disk_does_not_mix_two_runs(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """With `force`, the folder afterwards holds the previous run, or no finished one and the previous one aside."""
    train(tmp_path / "run", tiny)
    before = contents(tmp_path / "run")
    with monkeypatch.context() as patch:
        failing_writes(patch, number)
        with pytest.raises(OSError, match="No space left"):
            train(tmp_path / "run", tiny, replace(QUICK, seed=3), force=True)
    if number <= 4:
        assert contents(tmp_path / "run") == before
        return
    with pytest.raises(RunError, match="--resume"):
        load_run(tmp_path / "run")
    del before[".lock"]
    assert contents(tmp_path / "run" / ".replaced") == before
    resume_run(tmp_path / "run", *tiny, CPU, verbose=0)
    train(tmp_path / "whole", tiny, replace(QUICK, seed=3))
    for name in ("model.safetensors", "history.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "run" / ".replaced").exists()


def test_failing_picture_does_not_cost_the_run(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(_figure: Any, path: Path) -> None:
        path.write_bytes(b"half a picture")
        raise RuntimeError("no fonts")

    monkeypatch.setattr(runs.training, "save_figure", failing)
    run = train(tmp_path / "run", tiny)
    assert {path.name for path in run.folder.iterdir()} == RUN_FILES - {"metrics.png"}
    assert load_run(tmp_path / "run").result == run.result
    assert caplog.messages == [f"metrics.png was not drawn (no fonts); fmnist-xp plot {run.folder} draws it"]


def test_model_and_history_are_there_before_anything_is_evaluated_and_the_result_before_it_is_drawn(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def noting(function: Any) -> Any:
        def noted(*arguments: Any, **more: Any) -> Any:
            seen.append({path.name for path in (tmp_path / "run").iterdir()})
            return function(*arguments, **more)

        return noted

    monkeypatch.setattr(Sequential, "evaluate", noting(Sequential.evaluate))
    monkeypatch.setattr(runs.training, "metrics_figure", noting(runs.training.metrics_figure))
    train(tmp_path / "run", tiny)
    trained = RUN_FILES - {"result.json", "metrics.png"}
    assert seen == [trained, trained, trained | {"result.json"}]


def test_network_is_loaded_onto_the_given_backend(run_folder: Path) -> None:
    backend = CpuBackend(3)
    assert load_run(run_folder).load_network(backend).backend is backend


def test_force_replaces(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    train(tmp_path / "run", tiny)
    train(tmp_path / "run", tiny, replace(QUICK, seed=3), force=True)
    assert load_run(tmp_path / "run").result.seed == 3
    assert load_run(tmp_path / "run").config["seed"] == 3


def test_force_without_a_previous_run(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    train(tmp_path / "deep" / "run", tiny, force=True)
    assert load_run(tmp_path / "deep" / "run").result.seed == 2


def test_interrupted_run_is_kept(tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_nan_loss_is_null_in_json(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    experiment = replace(EXPERIMENTS["sgd"], epochs=12, learning_rate=1e30)
    train(tmp_path / "run", tiny, Settings(experiment), keep_going=True)
    assert b"NaN" not in (tmp_path / "run" / "result.json").read_bytes()
    run = load_run(tmp_path / "run")
    assert math.isnan(run.result.test_loss)
    assert read_json(tmp_path / "run" / "result.json")["test_loss"] is None
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
def test_damaged_run_error_names_the_file(run_folder: Path, file: str, text: str | None, message: str) -> None:
    if text is None:
        (run_folder / file).unlink()
    else:
        (run_folder / file).write_text(text)
    with pytest.raises(RunError, match=message) as raised:
        load_run(run_folder)
    assert str(run_folder) in str(raised.value)
    assert "\n" not in str(raised.value)


FIELDS = {
    "result.json": (
        ("experiment", "text"), ("device", "text"), ("device_name", "text"), ("precision", "text"),
        ("seed", "a whole number"), ("epochs", "a whole number"), ("dataset", "an object"), ("dataset.name", "text"),
        ("dataset.sha256", "text"), ("dataset.train_rows", "a whole number"), ("dataset.test_rows", "a whole number"),
        ("test_accuracy", "a number or null"), ("test_loss", "a number or null"),
    ),
    "config.json": (
        ("experiment", "an object"), ("seed", "a whole number"), ("precision", "text"),
        ("log_every", "a whole number"), ("data", "an object"), ("data.source", "text"),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("file", "field", "kind"), [(file, *row) for file, rows in FIELDS.items() for row in rows])
def test_error_names_missing_or_mistyped_field(run_folder: Path, file: str, field: str, kind: str) -> None:
    whole = read_json(run_folder / file)
    *parents, last = field.split(".")
    holder = whole
    for parent in parents:
        holder = holder[parent]
    for wrong, shown in ((True, "true"), ([1], "a list"), (2.5, "2.5")):
        if wrong == 2.5 and kind == "a number or null":
            continue
        holder[last] = wrong
        (run_folder / file).write_text(json.dumps(whole))
        with pytest.raises(RunError, match=rf"{file} is damaged: {field} must be {kind}, got {shown}$"):
            load_run(run_folder)
    del holder[last]
    (run_folder / file).write_text(json.dumps(whole))
    with pytest.raises(RunError, match=rf"{file} is damaged: {field} is missing$"):
        load_run(run_folder)


@pytest.mark.parametrize("file", FIELDS)
def test_unused_fields_may_be_missing_or_invalid(run_folder: Path, file: str) -> None:
    """As in runs of older and newer versions."""
    whole = read_json(run_folder / file)
    used = {name.split(".")[0] for name, _kind in FIELDS[file]}
    for unused in ({}, {key: ["junk"] for key in (*whole, "new")}):
        (run_folder / file).write_text(json.dumps({**unused, **{name: whole[name] for name in used}}))
        run = load_run(run_folder)
        assert run.title.startswith("adam · ")
        assert " · cpu · seed 1 · custom (400 images)" in run.title
        assert run.result.test_loss == read_json(run_folder / "result.json")["test_loss"]


@pytest.mark.parametrize("file", ["result.json", "config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"seed": 1, "seed": 1}', 'is damaged: "seed" is given twice'),
        (b'{"test_loss": 1e400}', 'is damaged: "1e400" is no finite number'),
        (b'{"test_loss": NaN}', 'is damaged: "NaN" is no finite number'),
        (b"[" * 100_000, "is damaged: it is nested too deeply"),
        (b'{"device": "caf\xe9"}', "is damaged: .*can't decode byte 0xe9"),
        (b"\0", "is damaged: Expecting value"),
        (b"", "is damaged: Expecting value"),
        (b" " * 2**20 + b"{}", "it has 1,048,578 bytes, and 1,048,576 are the most read"),
    ],
    ids=["twice", "1e400", "NaN", "nested", "not UTF-8", "NUL", "empty", "long"],
)
def test_invalid_json_error_names_the_file(run_folder: Path, file: str, content: bytes, message: str) -> None:
    (run_folder / file).write_bytes(content)
    with pytest.raises(RunError, match=rf"{file}:? {message}") as caught:
        load_run(run_folder)
    assert str(run_folder) in str(caught.value)


@pytest.mark.parametrize("file", ["result.json", "config.json", "history.csv", "model.safetensors"])
def test_pipe_or_device_instead_of_file_is_not_opened(run_folder: Path, file: str) -> None:
    path = run_folder / file
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RunError, match=rf"{file}.*it is no file, but a named pipe"):
        load_run(run_folder).load_network(CPU)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(RunError, match=rf"{file}.*it is no file, but a device"):
        load_run(run_folder).load_network(CPU)


@pytest.mark.parametrize("file", ["result.json", "config.json", "history.csv", "model.safetensors"])
def test_file_of_200_gigabytes_is_not_read(run_folder: Path, file: str) -> None:
    os.truncate(run_folder / file, 200 * 10**9)
    with pytest.raises(RunError, match=rf"{file}.*it has 200,000,000,000 bytes"):
        load_run(run_folder).load_network(CPU)


def test_empty_history_is_an_error(run_folder: Path) -> None:
    header = (run_folder / "history.csv").read_text().splitlines()[0]
    (run_folder / "history.csv").write_text(header + "\n")
    with pytest.raises(RunError, match=r"history\.csv has nothing logged: train again"):
        load_run(run_folder)


@pytest.mark.parametrize(("inputs", "classes"), [(783, 10), (784, 9)])
def test_model_of_other_shape_is_an_error(run_folder: Path, inputs: int, classes: int) -> None:
    Sequential([Dense(inputs, classes)]).save(run_folder / "model.safetensors")
    message = rf"the model in .*a-run takes {inputs} numbers and tells {classes} classes, not 784 and 10"
    with pytest.raises(RunError, match=message):
        load_run(run_folder).load_network(CPU)


def test_non_utf8_source_is_kept(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    """Bytes caf\\xe9 in Latin-1, which Python escapes as a surrogate."""
    train_run(QUICK, *tiny, CPU, tmp_path / "run", source="/old/caf\udce9", verbose=False)
    assert load_run(tmp_path / "run").config["data"]["source"] == "/old/caf\udce9"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o077, 0o700)])
def test_file_modes_follow_the_umask(tmp_path: Path, tiny: tuple[Any, Any], mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        folder = train(tmp_path / "run", tiny).folder
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == mode
    for name in RUN_FILES - {"checkpoints", ".lock"}:
        assert (folder / name).stat().st_mode & 0o777 == mode & 0o666, name


def test_missing_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run folder"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match="not a finished run"):
        load_run(tmp_path)


def test_versions_match_the_imported_packages() -> None:
    found = runs.versions()
    assert found["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["blas"]
    assert all(isinstance(value, str) for value in found.values())


def test_finished_run_beats_guessing(finished_run: Path, idx_folder: Path) -> None:
    """Ten classes: guessing gives 0.1."""
    result = read_json(finished_run / "result.json")
    assert result["test_accuracy"] == pytest.approx(
        reference_metrics(finished_run / "model.safetensors", *read_idx(idx_folder, "t10k"))[0], abs=0.006
    )
    assert result["test_accuracy"] > 0.5


def test_settings_and_results_in_full(tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    backend, fit = CpuBackend(2), Sequential.fit
    asked: list[Any] = []

    def timed(network: Sequential, X: Any, y: Any, **more: Any) -> Any:
        asked.append(more)
        history = fit(network, X, y, **more)
        history.epoch_seconds[:] = [0.5, 0.25, 4.0]
        history.column_share = 0.75
        return history

    monkeypatch.setattr(Sequential, "fit", timed)
    monkeypatch.setattr(backend, "peak_memory", lambda: 77)
    settings = replace(QUICK, precision="float64", block_rows=13, dense_rows=True)
    run = train_run(settings, *tiny, backend, tmp_path / "run", source="auto", verbose=False)
    dataset = {
        "name": "synthetic", "sha256": runs.dataset_sha256(*tiny), "train_rows": 30, "test_rows": 20,
        "class_names": list(CLASSES),
    }  # fmt: skip
    there = [[np.flatnonzero((image > 16).any(axis)) for axis in (0, 1)] for image in tiny[0].images]
    edge = int(np.median([max(np.ptp(places) + 1 for places in both) for both in there]))
    assert run.config == {
        "experiment": {
            "name": "adam", "hidden": [8], "optimizer": "adam", "learning_rate": 0.02, "decay": 1e-5,
            "momentum": 0.0, "l2": 5e-4, "epochs": 3,
            "activation": "relu", "initializer": "normal", "layer_norm": False, "dropout": 0.0,
            "loss": "softmax_categorical_crossentropy", "label_smoothing": 0.0, "optimizer_options": {},
            "schedule": None, "mirror": False, "shift": 0,
        },
        "optimizer": {
            "type": "Adam", "learning_rate": 0.02, "decay": 1e-5, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7
        },
        "seed": 2, "precision": "float64", "engine": "plain", "log_every": 2, "block_rows": 13, "dense_rows": True,
        "validation": None, "keep_best": False, "patience": None, "device": "cpu",
        "device_name": backend.device_name, "threads": 2, "graphs": False,
        "data": {"source": "auto", "read_from": tiny[0].source, **dataset, "longest_edge": edge},
        "versions": runs.versions(),
    }  # fmt: skip
    (arguments,) = asked
    assert type(arguments.pop("optimizer")).__name__ == "Adam"
    assert len(arguments.pop("callbacks")) == 1
    assert arguments == {
        "epochs": 3, "log_every": 2, "verbose": False, "block_rows": 13, "dense": True, "validation_fraction": None,
        "validation_seed": 2, "keep_best": False, "patience": None, "checkpoint": tmp_path / "run" / "checkpoints",
        "checkpoint_every": None, "resume": True, "keep_going": False, "comm": None, "augmentation": None,
        "engine": "plain",
    }  # fmt: skip
    result = run.result.to_json()
    accuracy, loss = reference_metrics(tmp_path / "run" / "model.safetensors", tiny[1].images, tiny[1].labels)
    assert (result.pop("test_accuracy"), result.pop("test_loss")) == (accuracy, pytest.approx(loss, rel=1e-9))
    accuracy, loss = reference_metrics(tmp_path / "run" / "model.safetensors", tiny[0].images, tiny[0].labels)
    assert (result.pop("train_accuracy"), result.pop("train_loss")) == (accuracy, pytest.approx(loss, rel=1e-9))
    assert result.pop("total_seconds") > 0
    assert result == {
        "experiment": "adam", "device": "cpu", "device_name": backend.device_name, "precision": "float64",
        "seed": 2, "dataset": dataset, "epochs": 3, "interrupted": False, "stopped": "", "diverged": False,
        "validation_rows": 0, "validation_accuracy": None, "validation_loss": None, "best_epoch": None,
        "epoch_seconds": {"median": 0.5, "min": 0.25, "max": 4.0}, "samples_per_second": 60.0,
        "peak_memory_bytes": 77, "column_share": 0.75, "blas": blas_name(), "ranks": 1, "hosts": None, "threads": 2,
        "message_share": None,
    }  # fmt: skip


@pytest.mark.parametrize("source", ["auto", "synthetic"])
def test_source_keywords_are_kept(tmp_path: Path, tiny: tuple[Any, Any], source: str) -> None:
    run = train_run(QUICK, *tiny, CPU, tmp_path / "run", source=source, verbose=False)
    assert run.config["data"]["source"] == source


def test_home_in_a_source_is_expanded(tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    run = train_run(QUICK, *tiny, CPU, tmp_path / "run", source="~/images", verbose=False)
    assert Path(run.config["data"]["source"]) == tmp_path.resolve() / "images"


def test_verbose_training_prints(tmp_path: Path, tiny: tuple[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    train_run(QUICK, *tiny, CPU, tmp_path / "run", source="auto")
    assert capsys.readouterr().out.startswith("epoch: 0, acc: ")


def test_json_fields_keep_their_order(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    folder = train(tmp_path / "run", tiny).folder
    assert list(read_json(folder / "config.json")) == [
        "experiment", "optimizer", "seed", "precision", "engine", "log_every", "block_rows", "dense_rows",
        "validation", "keep_best", "patience", "device", "device_name", "threads", "graphs", "data", "versions",
    ]  # fmt: skip
    assert list(read_json(folder / "result.json")) == [
        "experiment", "device", "device_name", "blas", "precision", "seed", "dataset", "epochs", "interrupted",
        "stopped", "diverged", "test_accuracy", "test_loss", "train_accuracy", "train_loss", "epoch_seconds",
        "samples_per_second", "total_seconds", "peak_memory_bytes", "column_share", "validation_rows",
        "validation_accuracy", "validation_loss", "best_epoch", "ranks", "hosts", "threads", "message_share",
    ]  # fmt: skip


def test_json_is_indented_ascii(tmp_path: Path, tiny: tuple[Any, Any]) -> None:
    train(tmp_path / "run", tiny)
    text = (tmp_path / "run" / "result.json").read_text(encoding="ascii")
    assert text.startswith('{\n  "experiment": "adam",\n')
    assert text.endswith("\n}\n")


def test_force_removes_outdated_pictures(
    tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of the previous run would pass for one of this run; other files stay."""
    folder = train(tmp_path / "run", tiny).folder
    for name in ("confusion.png", "notes.txt"):
        (folder / name).write_text("before")
    monkeypatch.setattr(runs.training, "metrics_figure", lambda *_arguments, **_more: 1 / 0)
    train(folder, tiny, force=True)
    assert {path.name for path in folder.iterdir()} == RUN_FILES - {"metrics.png"} | {"notes.txt"}


def test_failed_run_leaves_no_folder(tmp_path: Path, tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sequential, "fit", lambda *_arguments, **_more: 1 / 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "empty", tiny)
    assert not (tmp_path / "empty").exists()
