import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_helpers import hide

import fmnist_xp as fx
from fmnist_xp.errors import FmnistXpError
from fmnist_xp.train.history import History
from fmnist_xp.train.tensorboard import TensorBoardWriter

TENSORBOARD = "TensorBoard, which writes and reads event files, is not installed"


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[TensorBoardWriter]:
    pytest.importorskip("tensorboard", reason=TENSORBOARD)
    with closing(TensorBoardWriter(tmp_path, "a-run", {"seed": 3})) as writer:
        yield writer


def history(epochs: range, *, validation: bool = False) -> History:
    made = History()
    for epoch in epochs:
        metrics = (0.1 + epoch / 300, 2.3 / (1 + epoch), 0.02 / (1 + epoch), 1e-3 * epoch)
        made.append(epoch, *metrics, (0.1 + epoch / 400, 2.4 / (1 + epoch)) if validation else None)
    return made


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return (step, value) of each scalar, as TensorBoard reads them from all event files of the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def as_float32(made: History, column: str) -> list[tuple[int, float]]:
    return list(zip(made.epoch, np.float32(getattr(made, column)).tolist(), strict=True))


@pytest.mark.parametrize("validation", [False, True])
def test_tensorboard_reads_the_history(writer: TensorBoardWriter, tmp_path: Path, validation: bool) -> None:
    made = history(range(0, 300, 10), validation=validation)
    shown = History()
    for row in made.rows():
        shown.append(int(row[0]), *row[1:5], validation=tuple(row[5:]) or None)  # type: ignore[arg-type]
        writer.on_epoch(shown)
    writer.close()
    columns = ["accuracy", "loss", "learning_rate", "regularization_loss"]
    columns += ["validation_accuracy", "validation_loss"] * validation
    found = read(tmp_path / "a-run")
    assert sorted(found) == sorted(columns)
    for column in columns:
        assert found[column] == as_float32(made, column)


def test_values_that_are_not_finite_stay_so(writer: TensorBoardWriter, tmp_path: Path) -> None:
    made = History()
    made.append(0, 0.1, math.nan, 0.02, math.inf)
    writer.on_epoch(made)
    writer.close()
    found = read(tmp_path / "a-run")
    assert math.isnan(found["loss"][0][1])
    assert found["regularization_loss"] == [(0, math.inf)]


def test_a_resumed_run_has_each_epoch_once(writer: TensorBoardWriter, tmp_path: Path) -> None:
    """Killed at epoch 50, resumed from a checkpoint at 30, on from there with other values."""
    killed = history(range(0, 60, 10))
    writer.on_epoch(killed)
    writer.close()
    (file,) = (tmp_path / "a-run").iterdir()
    file.rename(file.with_name("events.out.tfevents.0000000000.earlier"))  # names are in the order of seconds
    whole = history(range(0, 100, 10))
    whole.loss[4:] = [9.0] * 6
    with closing(TensorBoardWriter(tmp_path, "a-run")) as second:
        second.on_epoch(whole.until(40))
        resumed = whole.until(50)
        second.on_epoch(resumed)
        for row in list(whole.rows())[6:]:
            resumed.append(int(row[0]), *row[1:])
            second.on_epoch(resumed)
    assert len(list((tmp_path / "a-run").iterdir())) == 2
    found = read(tmp_path / "a-run")
    for column in ("accuracy", "loss", "learning_rate", "regularization_loss"):
        assert found[column] == as_float32(whole, column)


def test_training_writes_while_it_runs(writer: TensorBoardWriter, tmp_path: Path, synthetic_rows: Any) -> None:
    X, y = synthetic_rows(60)
    network = fx.Sequential([fx.Dense(20, 10)], seed=0)
    made = network.fit(X, y, epochs=21, optimizer="sgd", log_every=5, verbose=False, callbacks=writer)
    writer.close()
    assert made.epoch == [0, 5, 10, 15, 20]
    assert read(tmp_path / "a-run")["loss"] == as_float32(made, "loss")


def test_settings_are_hyperparameters(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=TENSORBOARD)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    settings = {"experiment": {"hidden": [64, 64], "decay": 1e-5}, "seed": 3, "graphs": False, "block_rows": None}
    with closing(TensorBoardWriter(tmp_path, "a-run", settings)) as writer:
        writer.on_epoch(history(range(1)))
    (content,) = EventAccumulator(str(tmp_path / "a-run")).Reload().PluginTagToContent("hparams").values()
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.WhichOneof("kind") for name, value in found.items()} == {
        "experiment.hidden": "string_value", "experiment.decay": "number_value", "seed": "number_value",
        "graphs": "bool_value",
    }  # fmt: skip
    assert found["experiment.hidden"].string_value == "[64, 64]"
    assert found["experiment.decay"].number_value == 1e-5


def test_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "tensorboard")
    with pytest.raises(FmnistXpError, match=r'need TensorBoard .*pip install "fmnist-xp\[tensorboard\]"'):
        TensorBoardWriter(tmp_path / "events", "a-run")
    assert not (tmp_path / "events").exists()


def test_a_folder_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason=TENSORBOARD)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        TensorBoardWriter(tmp_path / "file", "a-run")
