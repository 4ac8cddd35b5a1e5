"""The list of runs, and the lock on a folder that is written."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from fmnist_xp.backend import CpuBackend
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.model import Sequential
from fmnist_xp.runs import Settings, list_runs, train_run

QUICK = Settings(replace(EXPERIMENTS["sgd"], hidden=(4,), epochs=2), seed=2)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 30)


def train(folder: Path | None, data: tuple[Any, Any], settings: Settings = QUICK, **more: Any) -> Any:
    return train_run(settings, *data, CpuBackend(1), folder, source="auto", verbose=0, **more)


def test_runs_are_listed_with_their_states(
    tmp_path: Path, small_data: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finished = train(tmp_path / "a", small_data)
    train(
        tmp_path / "deep" / "b", small_data, replace(QUICK, experiment=replace(QUICK.experiment, learning_rate=1e38))
    )
    with monkeypatch.context() as patch:
        patch.setattr(Sequential, "evaluate", lambda *_arguments, **_more: 1 / 0)
        for name in ("c", "d"):
            with pytest.raises(ZeroDivisionError):
                train(tmp_path / name, small_data)
    for name in ("mine", ".hidden", "damaged"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    with FileLock(tmp_path / "d" / ".lock"):
        found = list(list_runs(tmp_path))
    assert [(str(run.folder.relative_to(tmp_path)), run.state, run.epochs) for run in found] == [
        ("a", "finished", 2), ("c", "unfinished", 2), ("d", "training", 2), ("deep/b", "diverged", 2),
    ]  # fmt: skip
    assert found[0].test_accuracy == finished.result.test_accuracy
    assert (found[0].experiment, found[0].changes) == ("sgd", {"hidden": [4], "epochs": 2})
    assert sorted(message.partition(" is left out")[0].rpartition("/")[2] for message in caplog.messages[-2:]) == [
        "damaged",
        "mine",
    ]
