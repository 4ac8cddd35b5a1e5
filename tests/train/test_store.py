import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.standin import DeviceArray, StandInCupy

from fmnist_xp.backend import CpuBackend, CudaBackend
from fmnist_xp.data.mapped import is_mapped
from fmnist_xp.errors import DataError
from fmnist_xp.train import store
from fmnist_xp.train.store import Store

DTYPES = ["uint8", "float32", "float64"]
SHAPES = [(5, 16), (5, 3), (1, 7)]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, which is made when it is needed."""
    folder = tmp_path / "made" / "cache"
    monkeypatch.setenv("FMNIST_XP_CACHE", str(folder))
    return folder


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A source that counts as mapped from a file, and as one that does not fit into memory."""
    source = np.zeros((11, 16), np.uint8)
    monkeypatch.setattr(store, "is_mapped", lambda array: array is source)
    monkeypatch.setattr(store, "IN_MEMORY", source.nbytes - 1)
    return source


def made(dtype: str) -> list[np.ndarray]:
    """Return blocks, one of which does not lie evenly in memory."""
    generator = np.random.default_rng(0)
    first, second, third = ((255 * generator.random(shape)).astype(dtype) for shape in SHAPES)
    return [first, np.asfortranarray(second), third]


def kept(one: Store, blocks: list[np.ndarray]) -> list[Any]:
    for values in blocks:
        one.keep(values)
    return one.blocks()


def check(found: list[np.ndarray], blocks: list[np.ndarray]) -> None:
    assert [values.dtype for values in found] == [values.dtype for values in blocks]
    for values, expected in zip(found, blocks, strict=True):
        np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_rows_in_memory_stay_there(cache: Path, dtype: str) -> None:
    blocks = made(dtype)
    check(kept(Store(CpuBackend(1), np.zeros((11, 16))), blocks), blocks)
    assert not cache.exists()


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_rows_on_disk_lie_in_a_file_without_a_name(cache: Path, on_disk: np.ndarray, dtype: str) -> None:
    blocks, one = made(dtype), Store(CpuBackend(1), on_disk)
    found = kept(one, blocks)
    assert list(cache.iterdir()) == []
    check(found, blocks)
    assert all(is_mapped(values) for values in found)
    del one  # the blocks outlive it
    check(found, blocks)


def test_few_rows_on_disk_are_kept_in_memory(
    cache: Path, on_disk: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "IN_MEMORY", on_disk.nbytes)
    blocks = made("uint8")
    check(kept(Store(CpuBackend(1), on_disk), blocks), blocks)
    assert not cache.exists()


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_for_a_device_lie_there(cache: Path, on_disk: np.ndarray, dtype: str) -> None:
    backend, blocks = CudaBackend(1, cupy=StandInCupy(devices=2)), made(dtype)
    found = kept(Store(backend, on_disk), blocks)
    assert all(isinstance(values, DeviceArray) and values.data.device_id == 1 for values in found)
    check([backend.to_host(values) for values in found], blocks)
    assert not cache.exists()


def test_without_a_cache_the_file_lies_with_temporary_ones(
    tmp_path: Path, on_disk: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "cache_folder", lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[Any] = []
    make = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: seen.append(dir) or make(dir=dir))
    blocks = made("uint8")
    check(kept(Store(CpuBackend(1), on_disk), blocks), blocks)
    assert seen == [tmp_path]


def test_folder_that_cannot_be_made_is_named_with_the_cure(
    tmp_path: Path, on_disk: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "cache"
    monkeypatch.setenv("FMNIST_XP_CACHE", str(folder))
    with pytest.raises(DataError) as caught:
        kept(Store(CpuBackend(1), on_disk), made("uint8"))
    assert str(caught.value) == (
        f"{folder}: the sorted rows cannot be written (Not a directory); make room, set FMNIST_XP_CACHE to another "
        "folder, or train on dense rows (--dense-rows)"
    )


class Full:
    """A file on a disk that is full: `write` says so, or, where that has a buffer, `flush`."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> "Full":
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def tell(self) -> int:
        return 0

    def write(self, _data: Any) -> None:
        self._fail("write")

    def flush(self) -> None:
        self._fail("flush")

    def _fail(self, where: str) -> None:
        if where == self._where:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["write", "flush"])
def test_disk_that_is_full_is_named_with_the_cure(
    cache: Path, on_disk: np.ndarray, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full(where))
    said = r"cache: the sorted rows cannot be written \(No space left on device\); make room.*\(--dense-rows\)"
    with pytest.raises(DataError, match=said):
        kept(Store(CpuBackend(1), on_disk), made("uint8"))
