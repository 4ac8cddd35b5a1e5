import errno
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from data_helpers import noise
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fmnist_xp.data import Dataset, export, load_fashion_mnist
from fmnist_xp.data.cache import FETCHED, cache_files, cache_folder, cache_size, cached, clear_cache
from fmnist_xp.errors import DataError


class Build:
    """Builds a data set and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> tuple[Dataset, Dataset]:
        self.calls += 1
        return noise(20), noise(10, 1)


def assert_is_noise(splits: tuple[Dataset, Dataset]) -> None:
    for read, expected in zip(splits, (noise(20), noise(10, 1)), strict=True):
        assert np.array_equal(read.images, expected.images)
        assert np.array_equal(read.labels, expected.labels)
        assert read.name == "custom"


def test_a_key_is_built_once(cache: Path) -> None:
    build = Build()
    assert_is_noise(cached("a", "here", build))
    again = cached("a", "there", build)
    assert_is_noise(again)
    assert build.calls == 1
    assert again[0].source == "there"
    assert_is_noise(cached("b", "here", build))
    assert build.calls == 2
    assert len(list(cache.iterdir())) == 2


def flip_a_pixel(content: bytes) -> bytes:
    return content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:]


def test_a_read_only_cache_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    build = Build()
    cached("a", "here", build)
    monkeypatch.setattr(os, "utime", refuse)
    assert_is_noise(cached("a", "here", build))
    assert build.calls == 1


def test_an_entry_is_valid_as_long_as_its_state(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fmnist_xp")
    build = Build()
    for state in ("first", "first", "second", "second"):
        assert_is_noise(cached("a", "here", build, partial(str, state)))
    assert build.calls == 2
    (path,) = cache.iterdir()
    assert caplog.messages == [f"{path}: not used (made from something that has changed since); building it again"]


def test_state_is_called_before_build_only_if_there_is_an_entry() -> None:
    calls = []

    def build() -> tuple[Dataset, Dataset]:
        calls.append("build")
        return noise(20), noise(10, 1)

    def state() -> str:
        calls.append("state")
        return "state"

    for _ in range(2):
        cached("a", "here", build, state)
    assert calls == ["build", "state", "state"]


def test_a_changed_pixel_is_reported(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fmnist_xp")
    cached("a", "here", Build())
    (path,) = cache.iterdir()
    path.write_bytes(flip_a_pixel(path.read_bytes()))
    assert_is_noise(cached("a", "here", Build()))
    assert caplog.messages == [
        f"{path}: not used (it does not have the checksum it was written with); building it again"
    ]


DAMAGE = {
    "a pixel": flip_a_pixel,
    "cut short": lambda content: content[:-1],
    "empty": lambda content: b"",
    "something else": lambda content: b"not a cache at all",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_rebuilt(cache: Path, damage: Callable[[bytes], bytes]) -> None:
    build = Build()
    cached("a", "here", build)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):  # rebuilt, then read
        assert_is_noise(cached("a", "here", build))
    assert build.calls == 2


def test_a_cache_that_cannot_be_written_gives_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING, "fmnist_xp"):
        assert_is_noise(cached("a", "here", Build()))
    (record,) = caplog.records
    assert "cannot be written" in record.getMessage()


@pytest.mark.usefixtures("downloads")
def test_the_platforms_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FMNIST_XP_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = cache_folder()
    assert folder is not None
    assert folder.name == "fmnist-xp"


@pytest.mark.usefixtures("downloads")
def test_a_folder_below_an_unknown_home_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As returned by older versions of pooch's dependency."""
    monkeypatch.delenv("FMNIST_XP_CACHE")
    monkeypatch.setattr("pooch.os_cache", lambda name: f"~/.cache/{name}")
    assert cache_folder() is None


def test_a_chosen_folder_needs_no_pooch(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert cache_folder() == cache
    build = Build()
    for _ in range(2):
        assert_is_noise(cached("a", "here", build))
    assert build.calls == 1


def test_without_pooch_there_is_no_cache_and_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("FMNIST_XP_CACHE")
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert cache_folder() is None
    with caplog.at_level(logging.INFO, "fmnist_xp"):
        assert_is_noise(cached("a", "here", Build()))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "no cache (its folder is unknown without pooch and a home: pip install pooch, or set FMNIST_XP_CACHE); "
        "the data set is decoded at each start"
    )
    assert cache_files() == clear_cache() == []


@pytest.mark.skipif(sys.platform == "win32", reason="only for POSIX homes")
@pytest.mark.usefixtures("downloads")
def test_a_user_without_a_home_has_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container whose user is only a number."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("FMNIST_XP_CACHE", "HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() is None
    assert_is_noise(cached("a", "here", Build()))
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
    export(noise(20), noise(10, 1), tmp_path / "idx", "idx")
    first = load_fashion_mnist(tmp_path / "idx")[0]
    export(noise(20, 5), noise(10, 1), tmp_path / "other", "idx")
    name = "train-images-idx3-ubyte.gz"
    (tmp_path / "other" / name).replace(tmp_path / "idx" / name)
    assert np.array_equal(first.images, noise(20).images)
    assert np.array_equal(load_fashion_mnist(tmp_path / "idx")[0].images, noise(20, 5).images)


def test_no_flipped_bit_of_a_cached_file_changes_what_is_read(cache: Path) -> None:
    """Flips a bit in each byte of the header, with shapes, dtypes and names; the arrays have their checksum."""
    build = Build()
    cached("a", "here", build)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for position in range(header):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        assert_is_noise(cached("a", "here", build))
    assert build.calls > 100


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_a_fifo_or_a_folder_instead_of_a_cached_file(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached("a", "here", Build())
    (path,) = cache.iterdir()
    path.unlink()
    os.mkfifo(path)
    assert_is_noise(cached("a", "here", Build()))
    assert path.is_file()
    assert not caplog.records
    path.unlink()
    path.mkdir()
    assert_is_noise(cached("a", "here", Build()))
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(28, "No space left on device")])
def test_a_file_that_cannot_be_created_gives_one_warning(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: OSError
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("fmnist_xp.files.os.open", fail)
    assert_is_noise(cached("a", "here", Build()))
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith(f"{cache / 'decoded-'}")
    assert re.search(rf"\.safetensors: cannot be written \(.*{error.strerror}.*\); the data set is decoded at", said)
    assert said.endswith("at each start")


def test_a_full_disk_gives_one_warning(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("fmnist_xp.data.cache.save_file", fail)
    assert_is_noise(cached("a", "here", Build()))
    (said,) = caplog.messages
    assert said.endswith(": cannot be written (No space left on device); the data set is decoded at each start")
    assert not names(cache)


def test_an_unknown_home_is_an_error_that_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_XP_CACHE", "~no-such-user-here/cache")
    with pytest.raises(DataError, match="FMNIST_XP_CACHE=~no-such-user-here/cache: there is no such home"):
        load_fashion_mnist("synthetic")


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has file modes")
def test_cached_files_have_the_mode_of_the_umask(cache: Path) -> None:
    before = os.umask(0o027)
    try:
        cached("a", "here", Build())
    finally:
        os.umask(before)
    (path,) = cache.iterdir()
    assert oct(path.stat().st_mode & 0o777) == "0o640"


def names(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*") if not path.is_dir()}


@pytest.fixture
def filled(cache: Path) -> dict[str, Path]:
    """Three decoded sets by key, "a" written first."""
    paths: dict[str, Path] = {}
    for hour, key in enumerate("abc"):
        cached(key, f"source {key}", lambda key=key: (replace(noise(20), source=f"source {key}"), noise(10, 1)))
        (paths[key],) = (path for path in cache.iterdir() if path not in paths.values())
        os.utime(paths[key], (1e9 + 3600 * hour, 1e9 + 3600 * hour))
    return paths


def test_a_full_cache_drops_the_least_recently_used(
    filled: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached("a", "here", Build())  # now the most recently used
    size = filled["a"].stat().st_size
    monkeypatch.setattr("fmnist_xp.data.cache.cache_size", lambda: 3 * size + size // 2)
    cached("d", "here", Build())
    kept = names(cache)
    assert len(kept) == 3
    assert filled["b"].name not in kept
    assert {filled["a"].name, filled["c"].name} <= kept


def test_a_cache_of_size_0_stores_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FMNIST_XP_CACHE_SIZE", "0")
    monkeypatch.setattr("fmnist_xp.data.cache._save", lambda *_given: pytest.fail("written to be deleted"))
    caplog.set_level(logging.INFO, "fmnist_xp")
    assert_is_noise(cached("a", "here", Build()))
    assert not names(cache)
    (said,) = caplog.messages
    assert said.startswith(f"{cache / 'decoded-'}")
    assert said.endswith(".safetensors: not written, FMNIST_XP_CACHE_SIZE is less than it takes")


def test_the_cache_is_filled_to_its_limit(
    filled: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fmnist_xp")
    sizes = {key: path.stat().st_size for key, path in filled.items()}
    for path in filled.values():
        path.unlink()
    monkeypatch.setattr("fmnist_xp.data.cache.cache_size", lambda: sizes["a"] + sizes["b"])
    for key in "ab":
        cached(key, f"source {key}", lambda key=key: (replace(noise(20), source=f"source {key}"), noise(10, 1)))
    assert names(cache) == {filled["a"].name, filled["b"].name}
    monkeypatch.setattr("fmnist_xp.data.cache.cache_size", lambda: 30 * 784)  # the images alone
    cached("c", "here", Build())
    assert not names(cache)
    assert not caplog.records


def test_a_full_cache_drops_litter_first(
    filled: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = litter(cache, 2 * 3600)
    left[0].write_bytes(bytes(1_000_000))
    os.utime(left[0], (time.time() - 2 * 3600,) * 2)
    room = 5 * filled["a"].stat().st_size
    monkeypatch.setattr("fmnist_xp.data.cache.cache_size", lambda: room)
    cached("d", "here", Build())
    assert len(names(cache)) == 4
    assert {path.name for path in filled.values()} < names(cache)


def test_litter_is_more_than_an_hour_old(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = litter(cache, 0)
    for path in left:
        os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(time, "time", lambda: 1e9 + 3600)
    assert clear_cache() == []
    monkeypatch.setattr(time, "time", lambda: 1e9 + 3601)
    assert {file.path for file in clear_cache()} == set(left)
    assert not list(cache.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_link_to_a_pipe_in_the_cache_does_not_block(cache: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    cache.mkdir(exist_ok=True)
    link = cache / f"decoded-{'0' * 32}.safetensors"
    link.symlink_to(tmp_path / "pipe")
    assert [file.source for file in cache_files()] == ["unknown (damaged, or of another version)"]
    assert_is_noise(cached("a", "here", Build()))
    assert {file.path for file in clear_cache()} >= {link}
    assert (tmp_path / "pipe").exists()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_folder_in_the_cache_does_not_prevent_writing(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fetched = cache / "fashion-mnist"
    fetched.mkdir(parents=True)
    fetched.chmod(0)
    try:
        assert_is_noise(cached("a", "here", Build()))
    finally:
        fetched.chmod(0o700)
    assert not caplog.records
    assert len(names(cache)) == 1


def test_the_size_is_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FMNIST_XP_CACHE_SIZE", raising=False)
    assert cache_size() == 1_000_000_000
    monkeypatch.setenv("FMNIST_XP_CACHE_SIZE", "60")
    assert cache_size() == 60_000_000
    for wrong in ("much", "-1", "1.5", "1e3", "\u0665"):
        monkeypatch.setenv("FMNIST_XP_CACHE_SIZE", wrong)
        said = rf"^FMNIST_XP_CACHE_SIZE={wrong}: not a whole number of megabytes, such as 1000$"
        with pytest.raises(DataError, match=said):
            cached("a", "here", Build())


FOREIGN = (
    "letter.txt", "decoded-mine.safetensors", ".decoded-mine-0123456789abcdef.safetensors",
    "fashion-mnist/letter.txt", "fashion-mnist/train-images-idx3-ubyte", "train-images-idx3-ubyte.gz",
    ".letter-0123456789abcdef.txt",
)  # fmt: skip


def litter(cache: Path, age: float) -> list[Path]:
    """Create what killed processes leave behind, `age` seconds old."""
    (cache / "fashion-mnist").mkdir(exist_ok=True)
    left = [
        cache / f".decoded-{'0' * 32}-0123456789abcdef.safetensors",
        cache / "fashion-mnist" / ".train-images-idx3-ubyte-0123456789abcdef.gz",
    ]
    for path in left:
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    return left


def test_leftovers_of_killed_processes_are_removed(cache: Path) -> None:
    left = litter(cache, 2 * 3600)
    cached("a", "here", Build())
    assert not any(path.exists() for path in left)
    left = litter(cache, 600)  # another process may be writing
    cached("b", "here", Build())
    assert all(path.exists() for path in left)
    clear_cache()
    assert all(path.exists() for path in left)


def test_own_files_are_listed(filled: dict[str, Path], cache: Path) -> None:
    for name in FOREIGN:
        (cache / name).parent.mkdir(exist_ok=True)
        (cache / name).write_bytes(b"mine")
    (cache / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"labels")
    left = litter(cache, 600)
    filled["c"].write_bytes(b"damaged")
    os.utime(filled["c"], (1e9 + 7200, 1e9 + 7200))
    files = {file.path: file for file in cache_files()}
    assert [path for path in files if path in filled.values()] == list(filled.values())
    assert files[filled["a"]].source == "source a"
    assert files[filled["a"]].size == filled["a"].stat().st_size
    assert files[filled["a"]].used == 1e9
    assert files[filled["c"]].source == "unknown (damaged, or of another version)"
    assert [files[path].source for path in left] == ["", "Fashion-MNIST"]
    assert files[cache / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz"].source == "Fashion-MNIST"
    kinds = {path.name: files.pop(path).kind for path in (*filled.values(), *left)}
    assert set(kinds.values()) == {"decoded data set", "unfinished"}
    assert [(path.name, file.kind) for path, file in files.items()] == [
        ("t10k-labels-idx1-ubyte.gz", "file as fetched")
    ]


def test_only_own_files_are_removed(filled: dict[str, Path], cache: Path) -> None:
    for name in FOREIGN:
        (cache / name).parent.mkdir(exist_ok=True)
        (cache / name).write_bytes(b"mine")
    fetched = cache / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz"
    fetched.write_bytes(b"labels")
    size = sum(path.stat().st_size for path in filled.values()) + len(b"labels")
    removed = clear_cache()
    assert {file.path for file in removed} == {*filled.values(), fetched}
    assert sum(file.size for file in removed) == size
    assert {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()} == set(FOREIGN)
    assert clear_cache() == []


def test_a_file_removed_while_listing_is_left_out(
    filled: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(iter(cache.iterdir()))

    def gone(path: Path, framework: str) -> object:
        if path == first:
            path.unlink()
        return safe_open(path, framework)

    monkeypatch.setattr("fmnist_xp.data.cache.safe_open", gone)
    assert [file.path for file in cache_files()] == [path for path in filled.values() if path != first]


def test_a_file_that_cannot_be_removed_stays_when_trimming(
    filled: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path in filled.values():
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    room = filled["a"].stat().st_size
    monkeypatch.setattr("fmnist_xp.data.cache.cache_size", lambda: room)
    assert_is_noise(cached("d", "here", Build()))
    assert names(cache) == {path.name for path in filled.values()}


def test_a_file_removed_by_another_process_is_no_error(
    filled: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = cache_files()
    monkeypatch.setattr("fmnist_xp.data.cache.cache_files", lambda: files)
    filled["b"].unlink()
    assert clear_cache() == files
    assert not names(cache)


def test_a_file_that_cannot_be_removed_is_named(filled: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(DataError) as raised:
        clear_cache()
    assert str(raised.value) == f"{filled['a']}: cannot be removed (Permission denied)"


def test_a_link_is_removed_and_not_what_it_points_to(filled: dict[str, Path], tmp_path: Path) -> None:
    mine = filled["a"].rename(tmp_path / "mine")
    filled["a"].symlink_to(mine)
    clear_cache()
    assert mine.is_file()
    assert not filled["a"].is_symlink()


def test_a_missing_cache_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "nowhere"))
    assert cache_files() == clear_cache() == []
    assert not (tmp_path / "nowhere").exists()


def test_a_cache_that_is_a_file_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "file"))
    for start in (cache_files, clear_cache):
        with pytest.raises(DataError) as raised:
            start()
        words = os.strerror(errno.ENOTDIR)
        assert str(raised.value) == f"{tmp_path / 'file'}: cannot be read ({words}); set FMNIST_XP_CACHE"


def test_a_file_instead_of_the_fetched_folder_does_not_stop_a_start(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.mkdir(exist_ok=True)
    (cache / FETCHED).write_text("mine")
    build = Build()
    for _ in range(2):
        assert_is_noise(cached("a", "here", build))
    assert (build.calls, caplog.messages) == (1, [])


def test_a_decoded_set_without_a_source_is_of_another_version(cache: Path) -> None:
    save_file({"train": np.zeros(1)}, cache / f"decoded-{'0' * 32}.safetensors")
    assert [file.source for file in cache_files()] == ["unknown (damaged, or of another version)"]
