"""Runs that are killed at any moment, while they write too, and go on to what they would have been."""

import io
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_helpers import RUN_FILES

from fmnist_xp.backend import CpuBackend
from fmnist_xp.errors import RunError
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.model import Sequential
from fmnist_xp.runs import Settings, load_run, resume_run, train_run
from fmnist_xp.train.epochs import Epochs

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that are forked")

ROOT = Path(__file__).parents[1]
EPOCHS = 30
SETTINGS = Settings(
    replace(EXPERIMENTS["adam"], hidden=(8,), epochs=EPOCHS), seed=3, log_every=4, validation=0.2, keep_best=True
)
COMPARED = ("model.safetensors", "model-best.safetensors", "history.csv")


def in_killed_child(work: Callable[[], Any], moment: int) -> int:
    """Call `work` in a fork that is killed at a numbered moment; return the number of moments that it came to.

    A moment is an epoch's end, half of a file's bytes written, a file about to be renamed, or just renamed, a network
    about to be evaluated.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()
    if child == 0:
        count = 0

        def pass_moment() -> None:
            nonlocal count
            count += 1
            if count == moment:
                os.write(writing, str(count).encode())
                os.kill(os.getpid(), signal.SIGKILL)

        def around(function: Any, before: bool = False, after: bool = False) -> Any:
            def called(*arguments: Any, **more: Any) -> Any:
                if before:
                    pass_moment()
                result = function(*arguments, **more)
                if after:
                    pass_moment()
                return result

            return called

        def in_halves(path: Path, content: bytes) -> None:
            with io.FileIO(path, "w") as file:
                file.write(content[: len(content) // 2])
                pass_moment()
                file.write(content[len(content) // 2 :])

        Epochs.run = around(Epochs.run, after=True)  # type: ignore[method-assign]
        Path.replace = around(Path.replace, before=True, after=True)  # type: ignore[method-assign]
        Path.write_bytes = in_halves  # type: ignore[assignment, method-assign]
        Path.write_text = lambda path, text, **_more: in_halves(path, text.encode())  # type: ignore
        Sequential.evaluate = around(Sequential.evaluate, before=True)  # type: ignore[method-assign]
        try:
            work()
            os.write(writing, str(count).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said, "the child failed"
    return int(said)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small_data: tuple[Any, Any]) -> Path:
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_run(SETTINGS, *small_data, CpuBackend(2), folder, source="auto", verbose=0)
    return folder


def start(folder: Path, data: tuple[Any, Any], threads: int) -> None:
    train_run(SETTINGS, *data, CpuBackend(threads), folder, source="auto", verbose=0, checkpoint_every=3)


def go_on(folder: Path, data: tuple[Any, Any], threads: int) -> None:
    """Resume a run, or start it again where it was killed before it was one."""
    try:
        resume_run(folder, *data, CpuBackend(threads), verbose=0, checkpoint_every=5)
    except RunError:  # there is none yet
        start(folder, data, threads)


def assert_equal(folder: Path, whole: Path) -> None:
    for name in COMPARED:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert visible | {"metrics.png", ".lock"} == RUN_FILES | {"model-best.safetensors"}  # the picture comes last
    assert len(list((folder / "checkpoints").iterdir())) == 2
    run, other = load_run(folder).result, load_run(whole).result
    assert (run.test_accuracy, run.test_loss, run.epochs) == (other.test_accuracy, other.test_loss, EPOCHS)


def test_run_killed_at_any_moment_goes_on_to_the_same_bits(
    tmp_path: Path, small_data: tuple[Any, Any], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 30)
    chosen = random.Random(14)
    moments = in_killed_child(lambda: start(tmp_path / "counted", small_data, 1), 0)
    assert moments > 80  # 30 epochs, and three for each of some 20 files
    assert_equal(tmp_path / "counted", whole)
    for number in range(12):
        folder = tmp_path / f"run-{number}"
        moment = chosen.randint(1, moments)
        assert in_killed_child(lambda: start(folder, small_data, 1), moment) == moment  # noqa: B023
        for _ in range(number % 3):  # and killed again while it goes on
            in_killed_child(lambda: go_on(folder, small_data, 2), chosen.randint(1, 40))  # noqa: B023
        if not (folder / "result.json").exists():
            go_on(folder, small_data, 1 + number % 2)
        assert_equal(folder, whole)


def test_run_with_force_killed_at_any_moment_mixes_nothing(
    tmp_path: Path, small_data: tuple[Any, Any], whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 30)
    old = replace(SETTINGS, seed=9, experiment=replace(SETTINGS.experiment, epochs=2))
    chosen = random.Random(15)
    for number in range(4):
        folder = tmp_path / f"run-{number}"
        train_run(old, *small_data, CpuBackend(1), folder, source="auto", verbose=0)

        def replacing(folder: Path = folder) -> None:
            train_run(
                SETTINGS, *small_data, CpuBackend(1), folder, source="auto", verbose=0, force=True, checkpoint_every=3
            )

        in_killed_child(replacing, chosen.randint(1, 80))
        aside = folder / ".replaced"
        if (folder / "result.json").exists():
            assert load_run(folder).result.seed in (3, 9)
        elif aside.exists():
            assert (aside / "result.json").exists()
        replacing()
        assert_equal(folder, whole)


def train_process(folder: Path, *arguments: object) -> dict[str, Any]:
    """Return the arguments of `subprocess.run` or `Popen` for `fmnist-xp train` in a folder."""
    words = [sys.executable, "-m", "fmnist_xp", "train", *map(str, arguments)]
    return {"args": words, "cwd": folder, "env": {**os.environ, "PYTHONPATH": str(ROOT)}}


@pytest.fixture(scope="module")
def arguments(idx_folder: Path) -> list[object]:
    return ["--data", idx_folder, "--device", "cpu", "--epochs", 400, "--quiet", "--seed", 5]


@pytest.fixture(scope="module")
def whole_of_command(tmp_path_factory: pytest.TempPathFactory, arguments: list[object]) -> Path:
    """The folder of the run of a command that was never ended."""
    folder = tmp_path_factory.mktemp("command")
    subprocess.run(**train_process(folder, *arguments, "--out", "whole"), check=True)
    return folder / "whole"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGHUP", "SIGINT"])
def test_command_that_is_ended_goes_on_to_the_same_bits(
    tmp_path: Path, arguments: list[object], whole_of_command: Path, name: str
) -> None:
    begun = train_process(tmp_path, *arguments, "--out", "run", "--checkpoint-every", 50)
    process = subprocess.Popen(**begun, stderr=subprocess.PIPE)
    history = tmp_path / "run" / "history.csv"
    while process.poll() is None and not (history.exists() and history.read_text().count("\n") > 5):
        time.sleep(0.01)
    process.send_signal(getattr(signal, name))
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    code = process.wait()
    if name == "SIGKILL":
        assert (code, said) == (-signal.SIGKILL, "")
        assert not (tmp_path / "run" / "result.json").exists()
    else:
        assert code == 128 + getattr(signal, name)
        assert "interrupted: what was learned is kept in run; fmnist-xp train --resume run goes on" in said
        assert load_run(tmp_path / "run").result.interrupted
    subprocess.run(**train_process(tmp_path, "--resume", "run", "--quiet"), check=True)
    for file in ("model.safetensors", "history.csv"):
        assert (tmp_path / "run" / file).read_bytes() == (whole_of_command / file).read_bytes()
