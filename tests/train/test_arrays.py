import errno
import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from fmnist_xp.errors import RunError
from fmnist_xp.train import arrays
from fmnist_xp.train.arrays import MODEL, arrays_sha256, load_arrays, save_arrays

STATE = {"dense1.weights": np.arange(6, dtype="float32").reshape(2, 3), "dense1.biases": np.full((1, 3), np.pi)}
ARCHITECTURE = {"layers": [{"type": "Dense", "n_inputs": 2, "n_neurons": 3}], "loss": "Ü", "dtype": "float32"}
SHA256 = "cca8e350b0b8f9412cc4a58c5ccf9ba44e383783e6e78f89e358a119cf16bb87"


def test_round_trip_keeps_every_bit(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "model.safetensors"
    save_arrays(path, MODEL, STATE, ARCHITECTURE)
    state, architecture = load_arrays(path, MODEL)
    assert architecture == ARCHITECTURE
    assert state.keys() == STATE.keys()
    for name, values in STATE.items():
        np.testing.assert_array_equal(state[name], values, strict=True)
    assert list(path.parent.iterdir()) == [path]


def test_file_is_plain_safetensors(tmp_path: Path) -> None:
    save_arrays(tmp_path / "model.safetensors", MODEL, STATE, ARCHITECTURE)
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as file:
        (text,) = (text for name, text in file.metadata().items() if name == MODEL.format)
        assert len(file.metadata()) == 1
        assert json.loads(text) == {**ARCHITECTURE, "sha256": SHA256}
        assert set(file.keys()) == set(STATE)


def test_checksum_is_of_everything(tmp_path: Path) -> None:
    """Written out: the architecture, then each array behind its name, dtype and shape, in alphabetic order."""
    content = b'{"dtype": "float32", "layers": [{"n_inputs": 2, "n_neurons": 3, "type": "Dense"}], "loss": "\\u00dc"}'
    content += b'["dense1.biases", "float64", [1, 3]]' + struct.pack("<3d", np.pi, np.pi, np.pi)
    content += b'["dense1.weights", "float32", [2, 3]]' + struct.pack("<6f", 0, 1, 2, 3, 4, 5)
    assert hashlib.sha256(content).hexdigest() == SHA256
    assert arrays_sha256(STATE, ARCHITECTURE) == SHA256
    other = {
        name: values.astype(values.dtype.newbyteorder(">"), order="F") for name, values in reversed(STATE.items())
    }
    assert arrays_sha256(other, dict(reversed(ARCHITECTURE.items()))) == SHA256


def test_no_flipped_bit_is_loaded(tmp_path: Path) -> None:
    """In header, metadata and data: each byte once."""
    path = tmp_path / "model.safetensors"
    save_arrays(path, MODEL, STATE, ARCHITECTURE)
    good = path.read_bytes()
    assert len(good) == 440
    passed = []
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << place % 8]) + good[place + 1 :])
        try:
            state, architecture = load_arrays(path, MODEL)
        except RunError:
            continue
        passed.append(place)
        assert architecture == ARCHITECTURE
        for name, values in STATE.items():
            np.testing.assert_array_equal(state[name], values, strict=True)
    assert len(passed) <= 2  # a space before the data that has become another blank


def test_flipped_bit_of_a_weight_is_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_arrays(path, MODEL, STATE, ARCHITECTURE)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"model\.safetensors is damaged: it has not the SHA-256 it was written with"):
        load_arrays(path, MODEL)


def test_file_of_an_older_version_is_loaded_with_a_note(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "model.safetensors"
    save_file(STATE, path, metadata={MODEL.format: json.dumps(ARCHITECTURE)})
    state, architecture = load_arrays(path, MODEL)
    assert architecture == ARCHITECTURE
    np.testing.assert_array_equal(state["dense1.weights"], STATE["dense1.weights"], strict=True)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage() == f"{path} has no checksum, since an older version wrote it: saved again, it has one"
    caplog.clear()
    save_arrays(path, MODEL, state, architecture)
    load_arrays(path, MODEL)
    assert not caplog.records


def test_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no model file .*none\.safetensors: train one with fmnist-xp train"):
        load_arrays(tmp_path / "none.safetensors", MODEL)


def test_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no model file"):
        load_arrays(tmp_path, MODEL)


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
    save_arrays(path, MODEL, STATE, ARCHITECTURE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RunError, match=r"model\.safetensors is damaged or not a safetensors file \(.+\)") as caught:
        load_arrays(path, MODEL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}, {"format": "fmnist-xp model 2"}])
def test_file_of_another_program_is_named(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(STATE, path, metadata=metadata)
    with pytest.raises(RunError, match=r"foreign\.safetensors is not a model of this package: its format is .*, not"):
        load_arrays(path, MODEL)


def test_file_of_another_program_in_a_dtype_numpy_lacks_is_named(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},"__metadata__":{"format":"pt"}}'
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f")
    with pytest.raises(
        RunError, match=r"foreign\.safetensors is not a model of this package: its format is 'pt', not"
    ):
        load_arrays(path, MODEL)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "I32", "BOOL", "C64", "F8_E4M3"])
def test_dtype_that_no_parameter_has_is_named(tmp_path: Path, dtype: str) -> None:
    size = {"BF16": 2, "F16": 2, "I32": 4, "BOOL": 1, "C64": 8, "F8_E4M3": 1}[dtype]
    tensor = {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": {MODEL.format: "{}"}, "w": tensor}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(size))
    with pytest.raises(
        RunError, match=rf"model\.safetensors is not a model of this package: 'w' is {dtype}, not F32"
    ):
        load_arrays(path, MODEL)


NO_ARCHITECTURES = {
    "empty": ("", "Expecting value"),
    "not JSON": ("{not JSON", "Expecting property name"),
    "a list": ("[]", "it must be an object, got a list"),
    "nested": ("[" * 100_000, "it is nested too deeply"),
    "NaN": ('{"dtype": NaN}', '"NaN" is no finite number'),
    "1e400": ('{"dtype": 1e400}', '"1e400" is no finite number'),
    "twice": ('{"dtype": 1, "dtype": 1}', '"dtype" is given twice'),
    "unknown field": ('{"layers": [], "loss": "", "dtype": "", "sha257": "0"}', "it has an unknown field 'sha257'"),
    "long": (" " * 2**20 + "{}", "it has 1,048,578 characters, and 1,048,576 are the most read"),
}


@pytest.mark.parametrize(("text", "message"), NO_ARCHITECTURES.values(), ids=NO_ARCHITECTURES)
def test_file_without_an_architecture_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(STATE, path, metadata={MODEL.format: text})
    with pytest.raises(
        RunError, match=rf"model\.safetensors does not tell its architecture \({message}.*\): train again"
    ):
        load_arrays(path, MODEL)


def test_longest_architecture_is_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors", metadata={MODEL.format: " " * (2**20 - 2) + "{}"})
    assert load_arrays(tmp_path / "model.safetensors", MODEL)[1] == {}


def test_what_is_no_file_is_named_and_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    os.mkfifo(path)
    with pytest.raises(
        RunError, match=r"cannot read the model .*model\.safetensors: it is no file, but a named pipe"
    ):
        load_arrays(path, MODEL)


def test_file_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, _limit: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    save_arrays(tmp_path / "model.safetensors", MODEL, STATE, ARCHITECTURE)
    monkeypatch.setattr(arrays, "check_file", refuse)
    with pytest.raises(RunError, match=r"^cannot read the model .*model\.safetensors: Permission denied$"):
        load_arrays(tmp_path / "model.safetensors", MODEL)


def test_file_beyond_all_bounds_is_named(tmp_path: Path) -> None:
    """Whole by its header: 50,000,000,000 float32, of which none has a place on the disk."""
    size = 200 * 10**9
    header = json.dumps({"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)
    with pytest.raises(RunError, match=r"it has 200,000,000,\d\d\d bytes, and 4,294,967,296 are the most read"):
        load_arrays(path, MODEL)


@pytest.mark.parametrize(("bound", "what"), [("MAX_BYTES", "model"), ("MAX_HEADER", "architecture")])
def test_what_would_not_be_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, what: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_arrays(path, MODEL, STATE, ARCHITECTURE)
    with safe_open(path, framework="numpy") as file:
        size = {"MAX_BYTES": path.stat().st_size, "MAX_HEADER": len(file.metadata()[MODEL.format])}[bound]
    monkeypatch.setattr(arrays, bound, size)
    save_arrays(path, MODEL, STATE, ARCHITECTURE)
    load_arrays(path, MODEL)
    monkeypatch.setattr(arrays, bound, size - 1)
    message = rf"the {what} takes {size} bytes, and {size - 1} are the most that is read again"
    with pytest.raises(ValueError, match=message):
        save_arrays(tmp_path / "another.safetensors", MODEL, STATE, ARCHITECTURE)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_file_is_as_readable_as_the_mask_says(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        save_arrays(tmp_path / "model.safetensors", MODEL, STATE, ARCHITECTURE)
    finally:
        os.umask(before)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == mode


def test_disk_that_fills_up_is_an_os_error(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this system has no bound on the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_arrays(tmp_path / "model.safetensors", MODEL, STATE, ARCHITECTURE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_arrays(path, MODEL, STATE, ARCHITECTURE)
    held = path.read_bytes()
    with pytest.raises(TypeError):
        save_arrays(path, MODEL, STATE, {"layers": object()})
    assert path.read_bytes() == held
    assert list(tmp_path.iterdir()) == [path]
