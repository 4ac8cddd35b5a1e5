import errno
import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fmnist_xp.files import TEMPORARY, check_file, other_kind, read_text, replacing, write_text


@pytest.fixture
def umask() -> Iterator[int]:
    """Set an unusual umask, and restore the previous one afterwards."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.fixture
def slow_umask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other threads run whenever the process's umask is set."""
    set_umask = os.umask

    def set_and_wait(mask: int) -> int:
        before = set_umask(mask)
        time.sleep(0.001)
        return before

    monkeypatch.setattr(os, "umask", set_and_wait)


def test_text_is_written_as_utf8_into_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "θ ← θ − lr·g\n")
    assert path.read_bytes().decode("utf-8") == "θ ← θ − lr·g\n"
    assert list(path.parent.iterdir()) == [path]


def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "model.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the new")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("named", [False, True])
def test_a_full_disk_names_the_destination(tmp_path: Path, named: bool) -> None:
    """`write` does not know the file's name, and the temporary file is gone."""
    path = tmp_path / "model.txt"
    with pytest.raises(OSError, match="No space") as raised, replacing(path) as temporary:
        raise OSError(errno.ENOSPC, "No space left on device", *([str(temporary)] if named else []))
    assert raised.value.filename == str(path)
    with pytest.raises(OSError, match="of another") as raised, replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device", "of another")
    assert raised.value.filename == "of another"


def test_failure_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "new.txt", "\ud800")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["pipe", "link"])
def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    """A pipe stands for /dev/null, which a faulty program that root runs would replace."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(OSError, match="it is no regular file, and is not replaced") as caught:
        write_text(tmp_path / name, "text")
    assert caught.value.filename == str(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_temporary_is_beside_the_file_with_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        assert temporary != path
        temporary.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert not temporary.exists()


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has file modes")
def test_mode_follows_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "text.txt"
    write_text(path, "text")
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has file modes")
def test_mode_follows_the_umask_even_if_the_writer_replaces_the_file(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "model.safetensors"
    with replacing(path) as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_names_of_temporary_files_are_known(tmp_path: Path) -> None:
    for name in ("model.safetensors", "train-images-idx3-ubyte.gz", "README"):
        with replacing(tmp_path / name) as temporary:
            assert TEMPORARY.fullmatch(temporary.name)
        assert not TEMPORARY.fullmatch(name)


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has file modes")
@pytest.mark.usefixtures("slow_umask")
def test_concurrent_writers_leave_whole_files_and_the_umask(tmp_path: Path, umask: int) -> None:
    texts = [f"{number}\n" * 1000 for number in range(200)]
    paths = [tmp_path / f"{number % 4}.txt" for number in range(200)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_text, paths, texts))
    assert sorted(tmp_path.iterdir()) == sorted(set(paths))
    assert {path.read_text() for path in paths} <= set(texts)
    assert {oct(path.stat().st_mode & 0o777) for path in paths} == {oct(0o666 & ~umask)}
    after = os.umask(umask)
    assert oct(after) == oct(umask)


def test_a_file_within_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "five").write_bytes(b"5\xc3\xbc\r\n")
    check_file(tmp_path / "five", 5)
    assert read_text(tmp_path / "five", 5) == "5ü\r\n"
    with pytest.raises(OSError, match="it has 5 bytes, and 4 are the most read") as caught:
        read_text(tmp_path / "five", 4)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(tmp_path / "five"))


def test_pipe_device_and_folder_are_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    kinds = {"": "a folder", "pipe": "a named pipe", "link": "a named pipe", "/dev/zero": "a device"}
    for path, kind in ((tmp_path / name, kind) for name, kind in kinds.items()):
        with pytest.raises(OSError, match=f"it is no file, but {kind}") as caught:
            read_text(path, 10**6)
        assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(path))
    with pytest.raises(FileNotFoundError):
        check_file(tmp_path / "nowhere", 1)


def test_text_that_is_not_utf8_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match="can't decode byte 0xe9"):
        read_text(tmp_path / "file", 100)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(stat.S_IFREG, None), (stat.S_IFDIR, "a folder"), (stat.S_IFIFO, "a named pipe"), (0o160000, "something else")],
)
def test_kinds_of_paths_are_named(mode: int, kind: str | None) -> None:
    assert other_kind(mode | 0o644) == kind
