from pathlib import Path

import pytest
from page_helpers import hide

import fmnist_xp as fx
from fmnist_xp.errors import FmnistXpError
from fmnist_xp.export import FORMATS, from_onnx, from_torch, save
from fmnist_xp.export.files import format_of


@pytest.fixture
def small() -> fx.Sequential:
    return fx.Sequential([fx.Dense(4, 3), fx.ReLU(), fx.Dense(3, 2)], seed=0)


def test_the_suffix_tells_the_format() -> None:
    for name, form in {
        "a.onnx": "onnx", "b.safetensors": "safetensors", "c.npz": "npz", "d.pt": "pytorch", "e.e.PTH": "pytorch",
    }.items():  # fmt: skip
        assert format_of(Path(name)) == form
    for name in ("model", "model.h5", ".onnx"):
        with pytest.raises(ValueError, match=r"none of the suffixes .onnx, .*one of onnx, safetensors, npz, pytorch"):
            format_of(Path(name))


@pytest.mark.usefixtures("onnx", "torch")
@pytest.mark.parametrize("form", FORMATS)
def test_a_format_is_chosen_whatever_the_suffix_and_a_file_is_replaced_whole(
    small: fx.Sequential, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "new" / "model.bin"
    path.parent.mkdir()
    path.write_text("old")
    save(small, path, form)
    first = path.read_bytes()
    assert {"onnx": b"\x08\x07", "npz": b"PK", "pytorch": b"PK"}.get(form, first[:2]) == first[:2]
    save(small, path, form)
    assert path.read_bytes() == first  # one model has one content
    assert [entry.name for entry in path.parent.iterdir()] == ["model.bin"]


def test_unknown_formats_are_refused(small: fx.Sequential, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format must be one of onnx, safetensors, npz, pytorch, got 'keras'"):
        save(small, tmp_path / "model.onnx", "keras")
    with pytest.raises(ValueError, match="none of the suffixes"):
        save(small, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(small: fx.Sequential, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnx", "torch"):
        hide(monkeypatch, package)
    for path in (tmp_path / "model.onnx", tmp_path / "model.pt"):
        cure = r'pip install "fmnist-xp\[onnx\]"' if path.suffix == ".onnx" else "pip install torch"
        with pytest.raises(FmnistXpError, match=cure):
            save(small, path)
        assert not path.exists()
        path.write_bytes(b"something")
        with pytest.raises(FmnistXpError, match=cure):
            (from_onnx if path.suffix == ".onnx" else from_torch)(path)
    for name in ("model.npz", "model.safetensors"):
        save(small, tmp_path / name)
        assert from_torch(tmp_path / name, activation="relu").widths == [4, 3, 2]
