"""Networks of others in files that anyone may have damaged: a network is read, or a line says why not."""

from functools import partial
from pathlib import Path

import fuzz_helpers as fuzz
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fmnist_xp as fx

FILES = ("model.onnx", "model.safetensors", "model.npz", "model.pt")
PACKAGES = {"model.onnx": "onnx", "model.pt": "torch"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = fx.Sequential([fx.Dense(9, 5), fx.ReLU(), fx.Dense(5, 3)], seed=0)
    folder = tmp_path_factory.mktemp("models")
    for name in FILES:
        if name in PACKAGES:
            pytest.importorskip(PACKAGES[name], reason=f"{PACKAGES[name]}, which writes the models, is not installed")
        fx.export.save(network, folder / name)
    return folder


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")  # of PyTorch, of files that look like older ones
@fuzz.fuzzed(120)
@given(st.data())
def test_exported_models(folder: Path, name: str, data: st.DataObject) -> None:
    content = data.draw(fuzz.mutated((folder / name).read_bytes()))
    reader = fx.export.from_onnx if name.endswith(".onnx") else partial(fx.export.from_torch, activation="relu")
    with fuzz.placed({name: content}) as place:
        network = fuzz.tried(reader, place / name, len(content))
        if network is not None:
            assert network.forward(np.zeros((2, network.n_inputs), "float32")).shape == (2, network.n_classes)
