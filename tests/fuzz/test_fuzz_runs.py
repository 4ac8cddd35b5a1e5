"""Models and run folders that anyone may have damaged: what is read is what was written, or refused in a line."""

from pathlib import Path

import fuzz_helpers as fuzz
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_helpers import csv_file

import fmnist_xp as fx
from fmnist_xp.runs import Run, load_run


@pytest.fixture(scope="module")
def network() -> fx.Sequential:
    return fx.Sequential(
        [fx.Dense(6, 5, weight_regularizer_l2=1e-3), fx.ReLU(), fx.Dense(5, 3)],
        loss=fx.SoftmaxCategoricalCrossentropy(),
        seed=0,
    )


@pytest.fixture(scope="module")
def model(network: fx.Sequential, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network.save(path)
    return path.read_bytes()


@fuzz.fuzzed(300)
@given(st.data())
def test_models(model: bytes, network: fx.Sequential, data: st.DataObject) -> None:
    content = data.draw(st.one_of(fuzz.mutated(model), fuzz.safetensors_odd(model)))
    with fuzz.placed({"model.safetensors": content}) as folder:
        read = fuzz.tried(fx.load, folder / "model.safetensors", len(content))
        if read is not None:
            expected, found = network.state_dict(), read.state_dict()
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[name], values) for name, values in expected.items())


def load_and_use(folder: Path) -> tuple[Run, str]:
    """Return a run and what is said of it, which takes what its files hold."""
    run = load_run(folder)
    return run, run.title


TABLES = {"history.csv", "config.json", "result.json"}


@pytest.mark.parametrize("name", sorted(TABLES))
@fuzz.fuzzed(100)
@given(st.data())
def test_files_of_a_run(finished_run: Path, name: str, data: st.DataObject) -> None:
    files = {other: (finished_run / other).read_bytes() for other in TABLES}
    content = files[name]
    odd = fuzz.mutated(content)
    if name.endswith(".json"):
        odd = st.one_of(fuzz.json_odd(content.decode()), fuzz.json_odd(content.decode()), odd)
    else:
        lines = [line.split(",") for line in content.decode().splitlines()]
        odd = st.one_of(table_odd(lines), odd)
    with fuzz.placed(files | {name: data.draw(odd)}) as folder:
        found = fuzz.tried(load_and_use, folder, sum(map(len, files.values())))
        if found is not None:
            run, title = found
            assert isinstance(title, str)
            assert len({len(column) for column in (run.history.epoch, run.history.loss, run.history.accuracy)}) == 1


@st.composite
def table_odd(draw: st.DrawFn, lines: list[list[str]]) -> bytes:
    """Return a CSV table with one field replaced."""
    at = draw(st.integers(0, len(lines) - 1))
    column = draw(st.integers(0, len(lines[at]) - 1))
    changed = [list(line) for line in lines]
    changed[at][column] = draw(st.sampled_from(fuzz.TOKENS))
    return fuzz.Content(csv_file(changed))
