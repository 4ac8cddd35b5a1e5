"""Property tests: any content of a run's files or of a model is used, or refused with a one-line `RunError`."""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_helpers import read_json
from safetensors.numpy import save_file

from fmnist_xp.backend import CpuBackend
from fmnist_xp.errors import RunError
from fmnist_xp.model import load
from fmnist_xp.report.plots import run_figures
from fmnist_xp.report.tables import reproduce_table
from fmnist_xp.reproduce import _finished, _title
from fmnist_xp.runs import load_run
from fmnist_xp.runs.folder import CONFIG, HISTORY, RESULT
from fmnist_xp.train.arrays import MODEL
from fmnist_xp.train.history import COLUMNS, History

CPU = CpuBackend(1)
QUICK = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -1, 0, 2**63, 5e-324, 1.7e308])
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(["", "\0", "\ud800", "$\\foo$", "../..", "synthetic", "Dense", "float32", "a\nb"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=5
)
NUMBERS = st.sampled_from(
    ["0", "10", "-1", "1e400", "inf", "-inf", "nan", "1_0", " 1", "", "\0", "9" * 5000, '"', "é"]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value inside a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from places(inner, (*path, key))


def disturbed(data: st.DataObject, whole: Any) -> str:
    """Return the JSON text of `whole` with a field changed or removed, the text cut or a bit flipped."""
    whole = json.loads(json.dumps(whole))
    *parents, last = data.draw(st.sampled_from(list(places(whole))), label="field")
    holder = whole
    for parent in parents:
        holder = holder[parent]
    what = data.draw(st.sampled_from(["change", "change", "change", "take", "cut", "flip"]))
    if what == "change":
        holder[last] = data.draw(VALUES, label="value")
    elif what == "take":
        del holder[last]
    text = json.dumps(whole)
    place = data.draw(st.integers(0, len(text) - 1))
    if what == "cut":
        return text[:place]
    if what == "flip":
        return text[:place] + chr(ord(text[place]) ^ 1 << data.draw(st.integers(0, 6))) + text[place + 1 :]
    return text


def use(folder: Path) -> None:
    """Use the run in `folder` as plot, evaluate and reproduce do, without the computations."""
    run = load_run(folder)
    assert Path(run.config["data"]["source"])
    run_figures(run.history, title=run.title, experiment=run.result.experiment)
    reproduce_table({"one": [asdict(run.result)]}, {"one": [run.history]})
    assert f"{run.result.epochs:,}{run.result.dataset.train_rows:,}{_title('', {'one': [run]})}"


def refused(folder: Path) -> None:
    """Use the run, or check the error that refuses it."""
    try:
        use(folder)
    except RunError as error:
        assert str(folder) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < len(str(folder)) + 300  # noqa: PT017


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> Path:
    """A copy of `finished_run`; each test restores what it changes."""
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("disturbed") / "run"))


@pytest.mark.parametrize("file", [CONFIG, RESULT])
@QUICK
@given(data=st.data())
def test_json_of_a_run(folder: Path, file: str, data: st.DataObject) -> None:
    held = (folder / file).read_bytes()
    try:
        (folder / file).write_text(disturbed(data, read_json(folder / file)), encoding="utf-8")
        refused(folder)
        from fmnist_xp.experiments import EXPERIMENTS
        from fmnist_xp.runs import Settings

        assert _finished(folder, Settings(EXPERIMENTS["sgd"]), "0", CPU) is None
    finally:
        (folder / file).write_bytes(held)


@QUICK
@given(rows=st.lists(st.lists(NUMBERS | st.text(max_size=5), min_size=4, max_size=6), max_size=4), tail=st.binary())
def test_history_of_a_run(folder: Path, rows: list[list[str]], tail: bytes) -> None:
    held = (folder / HISTORY).read_bytes()
    lines = [",".join(COLUMNS), *(",".join(row) for row in rows)]
    try:
        (folder / HISTORY).write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + tail)
        refused(folder)
    finally:
        (folder / HISTORY).write_bytes(held)


@QUICK
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 5e-324, 1e300, float("inf"), float("-inf"), float("nan")])] * 4)))
def test_metrics_of_any_size_are_plotted(rows: list[tuple[float, float, float, float]]) -> None:
    history = History()
    for number, row in enumerate(rows):
        history.append(10**14 * number, *row)
    run_figures(history, title="any", experiment="any")


DENSE = {"type": "Dense", "n_inputs": 3, "n_neurons": 2, "weight_regularizer_l1": 0.0, "weight_regularizer_l2": 0.5}
NETWORK = {
    "layers": [DENSE, {"type": "ReLU"}, {**DENSE, "n_inputs": 2}],
    "loss": "SoftmaxCategoricalCrossentropy",
    "dtype": "float32",
}
STATE = {
    "dense1.weights": np.ones((3, 2), "float32"),
    "dense1.biases": np.ones((1, 2), "float32"),
    "dense2.weights": np.ones((2, 2), "float32"),
    "dense2.biases": np.ones((1, 2), "float32"),
}


@QUICK
@given(data=st.data())
def test_architecture_of_a_model(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "model.safetensors"
    save_file(STATE, path, metadata={MODEL.format: disturbed(data, NETWORK)})
    logging.getLogger("fmnist_xp").disabled = True  # of files without a checksum, it says so each time
    try:
        assert load(path).widths == [3, 2, 2]
    except RunError as error:
        assert str(path) in str(error)  # noqa: PT017
        assert len(str(error)) < len(str(path)) + 400  # noqa: PT017
    finally:
        logging.getLogger("fmnist_xp").disabled = False


@QUICK
@given(data=st.data())
def test_tensors_of_a_model(tmp_path: Path, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from([*STATE, "dense3.weights", "é"]), unique=True))
    dtypes, sizes = st.sampled_from(["float32", "float64", "int8", "bool"]), st.integers(0, 3)
    state = {name: np.ones(data.draw(st.lists(sizes, max_size=3)), data.draw(dtypes)) for name in names}
    path = tmp_path / "model.safetensors"
    if data.draw(st.booleans()):
        state = {**STATE, **state}
    save_file(state, path, metadata={MODEL.format: json.dumps(NETWORK)})
    try:
        loaded = load(path)
    except RunError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert {name: values.shape for name, values in state.items()} == {k: v.shape for k, v in STATE.items()}
        assert loaded.widths == [3, 2, 2]
