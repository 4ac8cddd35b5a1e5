import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fmnist_xp.errors import RunError
from fmnist_xp.train.checkpoint import FORMAT, load_model, save_model

STATE = {"dense1.weights": np.arange(6, dtype="float32").reshape(2, 3), "dense1.biases": np.full((1, 3), np.pi)}
ARCHITECTURE = {"layers": [{"type": "Dense", "n_inputs": 2, "n_neurons": 3}], "loss": "Ü", "dtype": "float32"}


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "model.safetensors"
    save_model(path, STATE, ARCHITECTURE)
    state, architecture = load_model(path)
    assert architecture == ARCHITECTURE
    assert state.keys() == STATE.keys()
    for name, values in STATE.items():
        np.testing.assert_array_equal(state[name], values, strict=True)
    assert list(path.parent.iterdir()) == [path]


def test_file_is_plain_safetensors(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", STATE, ARCHITECTURE)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        assert {name: json.loads(text) for name, text in file.metadata().items()} == {FORMAT: ARCHITECTURE}
        assert set(file.keys()) == set(STATE)


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no model file .*none\.safetensors: train one with fmnist-xp train"):
        load_model(tmp_path / "none.safetensors")


def test_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no model file"):
        load_model(tmp_path)


def damaged_contents() -> dict[str, Any]:
    """Return functions from a good file's bytes to a damaged file's."""
    return {
        "empty": lambda _good: b"",
        "not safetensors": lambda _good: b"PK\x03\x04 a zip, say, of some length",
        "cut in the header": lambda good: good[:40],
        "cut in the data": lambda good: good[:-1],
        "longer": lambda good: good + b"\0",
        "header length": lambda good: b"\xff" * 8 + good[8:],
    }


@pytest.mark.parametrize("damage", damaged_contents().values(), ids=damaged_contents())
def test_damaged_file_is_named(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, STATE, ARCHITECTURE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"model\.safetensors is damaged or not a safetensors file \(.+\)") as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"format": "fmnist-xp model 2"}])
def test_file_of_another_program_is_named(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(STATE, path, metadata=metadata)
    with pytest.raises(RunError, match=r"foreign\.safetensors is not a model of this package: its format is .*, not"):
        load_model(path)


def test_file_of_another_program_in_a_dtype_numpy_lacks_is_named(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},"__metadata__":{"format":"pt"}}'
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f")
    with pytest.raises(
        RunError, match=r"foreign\.safetensors is not a model of this package: its format is 'pt', not"
    ):
        load_model(path)


@pytest.mark.parametrize("architecture", ["", "{not JSON"])
def test_file_without_an_architecture_is_named(tmp_path: Path, architecture: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(STATE, path, metadata={FORMAT: architecture})
    with pytest.raises(RunError, match=r"model\.safetensors"):
        load_model(path)


def test_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(path, STATE, ARCHITECTURE)
    held = path.read_bytes()
    with pytest.raises(TypeError):
        save_model(path, STATE, {"layers": object()})
    assert path.read_bytes() == held
    assert list(tmp_path.iterdir()) == [path]
