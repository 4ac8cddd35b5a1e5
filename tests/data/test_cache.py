import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_helpers import made

from fmnist_xp.data import Dataset, export, load_fashion_mnist
from fmnist_xp.data.cache import cache_folder, cached


class Build:
    """Makes a data set and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[Dataset, Dataset]:
        self.calls += 1
        return made(20), made(10, 1)


def assert_made(splits: tuple[Dataset, Dataset]) -> None:
    for read, expected in zip(splits, (made(20), made(10, 1)), strict=True):
        assert np.array_equal(read.images, expected.images)
        assert np.array_equal(read.labels, expected.labels)
        assert read.name == "custom"


def test_a_key_is_built_once(cache: Path) -> None:
    build = Build()
    assert_made(cached("a", "here", build))
    again = cached("a", "there", build)
    assert_made(again)
    assert build.calls == 1
    assert again[0].source == "there"
    assert_made(cached("b", "here", build))
    assert build.calls == 2
    assert len(list(cache.iterdir())) == 2


def flip_a_pixel(content: bytes) -> bytes:
    return content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:]


def test_what_is_kept_for_a_place_lasts_as_long_as_its_state(cache: Path) -> None:
    build = Build()
    for state in ("first", "first", "second", "second"):
        assert_made(cached("a", "here", build, partial(str, state)))
    assert build.calls == 2
    assert len(list(cache.iterdir())) == 1


def test_a_state_is_not_asked_for_before_something_is_kept() -> None:
    calls = []

    def build() -> tuple[Dataset, Dataset]:
        calls.append("build")
        return made(20), made(10, 1)

    def state() -> str:
        calls.append("state")
        return "state"

    for _ in range(2):
        cached("a", "here", build, state)
    assert calls == ["build", "state", "state"]


DAMAGE = {
    "a pixel": flip_a_pixel,
    "cut short": lambda content: content[:-1],
    "empty": lambda content: b"",
    "something else": lambda content: b"not a cache at all",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_is_built_again(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    build = Build()
    cached("a", "here", build)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):  # built again, and then it is whole
        assert_made(cached("a", "here", build))
    assert build.calls == 2


def test_a_cache_that_cannot_be_written_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "fmnist_xp"):
        assert_made(cached("a", "here", Build()))
    (record,) = caplog.records
    assert "cannot be written" in record.getMessage()


@pytest.mark.usefixtures("downloads")
def test_the_platforms_folder_is_used_where_none_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FMNIST_XP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = cache_folder()
    assert folder is not None
    assert folder.name == "fmnist-xp"


def test_a_chosen_folder_needs_no_pooch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert cache_folder() == cache
    build = Build()
    for _ in range(2):
        assert_made(cached("a", "here", build))
    assert build.calls == 1


def test_without_pooch_there_is_no_cache_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("FMNIST_XP_CACHE")
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert cache_folder() is None
    with caplog.at_level(logging.INFO, "fmnist_xp"):
        assert_made(cached("a", "here", Build()))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for words in ("no cache", "pip install pooch", "FMNIST_XP_CACHE"):
        assert words in record.getMessage()


@pytest.mark.skipif(sys.platform == "win32", reason="homes are POSIX's here")
@pytest.mark.usefixtures("downloads")
def test_a_user_without_a_home_has_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a container whose user is a number alone."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("FMNIST_XP_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() is None
    assert_made(cached("a", "here", Build()))
    assert "no cache" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_changed_image_is_noticed(image_folder: Path) -> None:
    first = load_fashion_mnist(image_folder)[0]
    path = image_folder / "train" / "0" / "0000.png"
    before = path.stat()
    path.write_bytes((image_folder / "train" / "1" / "0000.png").read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    second = load_fashion_mnist(image_folder)[0]
    assert not np.array_equal(first.images[0], second.images[0])
    assert np.array_equal(second.images[0], first.images[2])  # two images a class


def test_a_folder_that_changes_is_kept_once(image_folder: Path, cache: Path) -> None:
    load_fashion_mnist(image_folder)
    (image_folder / "train" / "0" / "more.png").write_bytes((image_folder / "train" / "1" / "0000.png").read_bytes())
    assert len(load_fashion_mnist(image_folder)[0]) == 21
    assert len(list(cache.iterdir())) == 1


def test_changed_idx_files_are_noticed(tmp_path: Path) -> None:
    export(made(20), made(10, 1), tmp_path / "idx", "idx")
    first = load_fashion_mnist(tmp_path / "idx")[0]
    export(made(20, 5), made(10, 1), tmp_path / "other", "idx")
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / "other" / name).replace(tmp_path / "idx" / name)
    assert np.array_equal(first.images, made(20).images)
    assert np.array_equal(load_fashion_mnist(tmp_path / "idx")[0].images, made(20, 5).images)
