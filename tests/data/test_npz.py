import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import noise
from table_helpers import npy_file, npz_arrays, same, zip_to

from fmnist_xp.data import load_fashion_mnist, npz
from fmnist_xp.data.stored import in_archive
from fmnist_xp.errors import DataError

SPLITS = noise(20), noise(10, 1)
ARRAYS = npz_arrays(*SPLITS)
IMAGES, LABELS = SPLITS[0].images, SPLITS[0].labels

ACCEPTED: dict[str, dict[str, Any]] = {
    "as Keras has it": {},
    "as rows": {"x_train": IMAGES.reshape(20, 784)},
    "with a channel": {"x_train": IMAGES[..., None]},
    "labels in a column": {"y_train": LABELS[:, None]},
    "wide numbers": {"x_train": IMAGES.astype(np.int64), "y_train": LABELS.astype(np.uint64)},
    "big-endian numbers": {"x_train": IMAGES.astype(">i4"), "y_train": LABELS.astype(">i2")},
    "by columns": {"x_train": np.asfortranarray(IMAGES), "x_test": np.asfortranarray(ARRAYS["x_test"], np.int16)},
    "another array besides": {"allow": np.array(["x"])},
}  # fmt: skip


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("changes", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted_files_are_read(tmp_path: Path, changes: dict[str, Any], save: Any) -> None:
    save(tmp_path / "mnist.npz", **ARRAYS | changes)
    assert same(load_fashion_mnist(tmp_path / "mnist.npz"), SPLITS)


class Trap:
    """An object that fails the test when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "objects": ({"y_train": np.array([Trap()] * 20)}, "y_train.npy: values of type object found"),
    "text": ({"y_train": np.array(["1"] * 20)}, "y_train.npy: values of type <U1 found; whole numbers"),
    "complex": ({"x_train": IMAGES + 1j}, "x_train.npy: values of type complex128 found"),
    "scaled": ({"x_train": IMAGES / 255}, "x_train.npy: values of type float64 found; .*pixels must not be scaled"),
    "floats as labels": ({"y_train": LABELS + 0.7}, "y_train.npy: values of type float64 found"),
    "below 0": ({"x_train": IMAGES.astype(np.int16) - 255}, r"x_train.npy: -\d+ found; values from 0 to 255"),
    "beyond a byte": (
        {"y_train": LABELS + np.int64(256)},
        "265 found; values from 0 to 255 are needed, of at most 256 classes",
    ),
    "other images": (
        {"x_train": np.zeros((20, 32, 32, 3), np.uint8)},
        r"shape \(20, 32, 32, 3\) found; \(n, 28, 28\)",
    ),
    "a scalar": ({"x_train": np.uint8(3)}, r"an array of shape \(\) found"),
    "one-hot labels": ({"y_train": np.eye(10, dtype=np.uint8)[LABELS]}, r"shape \(20, 10\) found; \(n,\) is"),
    "empty": ({"x_train": IMAGES[:0], "y_train": LABELS[:0]}, "promises 0 rows"),
    "counts": ({"y_train": LABELS[:-1]}, "y_train.npy: 19 labels found for the 20 images of x_train.npy"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_files_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, **ARRAYS | changes)
    with pytest.raises(DataError, match=message) as raised:
        load_fashion_mnist(path)
    assert str(path) in str(raised.value)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", **{name: array for name, array in ARRAYS.items() if name != "x_test"})
    with pytest.raises(DataError, match=r"member x_test\.npy: missing; all 4 NumPy arrays are needed"):
        load_fashion_mnist(tmp_path / "mnist.npz")


def npy(header: bytes, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


HEADERS = {
    "promises more than it holds": npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (9000000, 28, 28)}\n"),
    "of another version": npy(b"{}\n", version=b"\3\0"),
    "that is code": npy(b"__import__('os').abort()\n"),
    "that is deep": npy(b"(" * 9000 + b"\n"),
    "with a negative shape": npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 28, 28)}\n"),
    "with an odd type": npy(b"{'descr': [('a', '<u2', (3,))], 'fortran_order': False, 'shape': (2, 28, 28)}\n"),
    "that is missing": b"",
    "that is cut": npy(b"{'descr'")[:9],
    "of a pickle": b"\x80\x04N.",
}  # fmt: skip


@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_a_wrong_header_is_refused_before_memory_is_allocated(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{name}.npy": npy_file(array) for name, array in ARRAYS.items()}
    path = zip_to(tmp_path / "mnist.npz", files | {"x_train.npy": content}, zipfile.ZIP_STORED)
    monkeypatch.setattr("numpy.empty", None)
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(path)
    assert str(raised.value).startswith(f"{path}: member x_train.npy: ")
    assert "\n" not in str(raised.value)


def check(path: Path) -> None:
    """Check only headers and sizes."""
    with in_archive(path) as files:
        npz.FORM.check(npz.FORM.find(files)[0].files)


def test_both_splits_are_uint8_with_their_source(tmp_path: Path) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, **ARRAYS | {"x_train": IMAGES.astype(np.int64), "y_test": ARRAYS["y_test"].astype(np.int16)})
    with in_archive(path) as files:
        splits = npz.FORM.read(npz.FORM.find(files)[0].files, "here")
    for split in splits:
        assert (split.images.dtype, split.labels.dtype, split.source) == (np.uint8, np.uint8, "here")


MESSAGES: dict[str, tuple[dict[str, Any], str]] = {
    "0 and beyond a byte": (
        {"x_train": np.where(IMAGES > 200, 300, 0)},
        "x_train.npy: 300 found; values from 0 to 255 are needed",
    ),
    "256": ({"x_train": IMAGES.astype(int) % 200 + 57}, "x_train.npy: 256 found; values from 0 to 255 are needed"),
    "below 0": ({"x_test": np.full((10, 784), -7)}, "x_test.npy: -7 found; values from 0 to 255 are needed"),
    "a long type": (
        {"x_train": np.zeros((20, 28, 28), [("a" * 50, "u1")])},
        f"x_train.npy: values of type {str(np.dtype([('a' * 50, 'u1')]))[:40]} found; "
        "whole numbers from 0 to 255 are needed",
    ),
    "labels between two": (
        {"y_train": LABELS + 0.5},
        "y_train.npy: values of type float64 found; whole numbers from 0 to 255 are needed",
    ),
    "scaled": (
        {"x_train": IMAGES / 255},
        "x_train.npy: values of type float64 found; whole numbers from 0 to 255 are needed; "
        "pixels must not be scaled",
    ),
    "complex": (
        {"x_train": IMAGES * 1j},
        "x_train.npy: values of type complex128 found; whole numbers from 0 to 255 are needed",
    ),
    "rows of another length": (
        {"x_train": np.zeros((20, 783), np.uint8)},
        "x_train.npy: an array of shape (20, 783) found; (n, 28, 28) or (n, 784) is needed",
    ),
    "empty": (
        {"x_train": IMAGES[:0], "y_train": LABELS[:0]},
        "x_train.npy: its header promises 0 rows; is it the right file?",
    ),
}


@pytest.mark.parametrize(("changes", "message"), MESSAGES.values(), ids=MESSAGES)
def test_messages_are_exact(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, **ARRAYS | changes)
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(path)
    assert str(raised.value) == f"{path}: member {message}"


def test_no_more_than_the_most_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mnist.npz"
    np.savez(path, **ARRAYS | {"x_test": ARRAYS["x_test"][:1], "y_test": ARRAYS["y_test"][:1]})
    monkeypatch.setattr(npz, "MOST_IMAGES", 20)
    assert [len(split) for split in load_fashion_mnist(path)] == [20, 1]
    monkeypatch.setattr(npz, "MOST_IMAGES", 19)
    with pytest.raises(DataError, match=r"x_train\.npy: its header promises 20 rows; is it the right file\?$"):
        check(path)


def test_both_versions_of_the_header_are_read_and_no_other(tmp_path: Path) -> None:
    files = {f"{name}.npy": npy_file(array) for name, array in ARRAYS.items()}
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (20, 28, 28)}\n"
    second = b"\x93NUMPY\2\0" + len(header).to_bytes(4, "little") + header + IMAGES.tobytes()
    assert same(load_fashion_mnist(zip_to(tmp_path / "a.npz", files | {"x_train.npy": second})), SPLITS)
    for version in ((1, 1), (2, 1), (3, 0)):
        other = b"\x93NUMPY" + bytes(version) + len(header).to_bytes(4, "little") + header + IMAGES.tobytes()
        with pytest.raises(DataError) as raised:
            load_fashion_mnist(zip_to(tmp_path / "b.npz", files | {"x_train.npy": other}))
        assert str(raised.value) == (
            f"{tmp_path / 'b.npz'}: member x_train.npy: version {version} of NumPy's format found; "
            "save the array by numpy.savez again"
        )


@pytest.mark.parametrize("kind", ["<u1", "<u8"])
@pytest.mark.parametrize("missing", [1, 100])
def test_a_short_member_is_detected_by_its_header(tmp_path: Path, kind: str, missing: int) -> None:
    files = {f"{name}.npy": npy_file(array) for name, array in ARRAYS.items()}
    whole = npy_file(IMAGES.astype(kind))
    promised = IMAGES.size * np.dtype(kind).itemsize
    path = zip_to(tmp_path / "mnist.npz", files | {"x_train.npy": whole[:-missing]})
    with pytest.raises(DataError) as raised:
        check(path)
    assert str(raised.value) == (
        f"{path}: member x_train.npy: at most {promised - missing} bytes of values found, "
        f"its header promises {promised}; copy or fetch it again"
    )


def test_a_header_too_deep_for_pythons_parser_is_refused(tmp_path: Path) -> None:
    files = {f"{name}.npy": npy_file(array) for name, array in ARRAYS.items()}
    path = zip_to(tmp_path / "mnist.npz", files | {"x_train.npy": HEADERS["that is deep"]})
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(path)
    assert "(its header cannot be parsed)" in str(raised.value)
