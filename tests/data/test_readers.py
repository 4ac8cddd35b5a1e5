import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import chunk, filtered, made, opened, png

from fmnist_xp.data import images, load_fashion_mnist, readers
from fmnist_xp.data.png import Unfilter
from fmnist_xp.errors import DataError


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes started in the test; small folders are worth it here, with a few files to a request."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(*args, **options))
        return processes[-1]

    monkeypatch.setattr(readers, "Popen", start)
    monkeypatch.setattr(readers, "WORTHWHILE", 1)
    monkeypatch.setattr(readers, "_CHUNK", 3)
    monkeypatch.setattr(readers, "thread_count", lambda: 2)
    return processes


def assert_ended(processes: list[subprocess.Popen[bytes]]) -> None:
    assert processes
    for process in processes:
        assert process.returncode is not None
        assert process.stdin is not None
        assert process.stdin.closed
        assert process.stdout is not None
        assert process.stdout.closed


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def filled(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zipped(folder: Path, path: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names_in(folder):
            archive.write(folder / name, name)
    return path


def test_plain_files_are_read_with_size_and_time(image_folder: Path, started: list[subprocess.Popen[bytes]]) -> None:
    names = names_in(image_folder)
    read = readers.read(image_folder, names)
    assert read.done.all()
    assert np.array_equal(read.images, [opened(image_folder / name) for name in names])
    stats = [(image_folder / name).stat() for name in names]
    assert read.stats.tolist() == [[stat.st_size, stat.st_mtime_ns] for stat in stats]
    assert len(started) == 2
    assert_ended(started)


def test_a_few_files_start_no_process(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]]
) -> None:
    monkeypatch.setattr(readers, "WORTHWHILE", 31)
    assert not readers.read(image_folder, names_in(image_folder)).done.any()
    assert not started


@pytest.mark.parametrize("name", ["shoe and\nboot.png", "größe.png", "靴.PNG", "-I.png", "%s.png"])
def test_names_may_have_any_characters(tmp_path: Path, name: str) -> None:
    try:
        (tmp_path / name).write_bytes(png(filtered(made(1).images[0], [4] * 28)))
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take this name")
    read = readers.read(tmp_path, [name])
    assert read.done.all()
    assert np.array_equal(read.images, made(1).images)


def test_a_folder_relative_to_the_working_folder_is_read(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image_folder.parent)
    assert readers.read(Path(image_folder.name), names_in(image_folder)).done.all()


def interlaced(image: np.ndarray) -> bytes:
    """Return a PNG in Adam7 order: W3C PNG, section 8."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b""
    for row, column, rows, columns in passes:
        part = image[row::rows, column::columns]
        lines += filtered(part, [0] * len(part))
    return png(lines, interlace=1)


LINES = filtered(made(1).images[0], [row % 5 for row in range(28)])
RIGHT = {
    "plain": png(LINES),
    "three IDAT chunks": png(LINES, parts=3),
    "a title": png(LINES, before=chunk(b"tEXt", b"Title\0shoe")),
    "a comment behind": png(LINES)[:-12] + chunk(b"tEXt", b"Comment\0boot") + png(LINES)[-12:],
    "bytes behind": png(LINES) + b"more",
    "bytes behind the scanlines": png(LINES)[:33] + chunk(b"IDAT", zlib.compress(LINES) + b"more") + png(LINES)[-12:],
    "interlaced": interlaced(made(1).images[0]),
}


@pytest.mark.parametrize("content", RIGHT.values(), ids=RIGHT)
@pytest.mark.parametrize("form", ["folder", "deflated", "stored"])
def test_a_right_image_is_read_in_whatever_form_it_is(
    image_folder: Path, tmp_path: Path, content: bytes, form: str
) -> None:
    (image_folder / "train" / "6" / "0001.png").write_bytes(content)
    source = image_folder
    if form != "folder":
        method = zipfile.ZIP_STORED if form == "stored" else zipfile.ZIP_DEFLATED
        source = zipped(image_folder, tmp_path / "images.zip", method)
    train, test = load_fashion_mnist(source)
    expected = [opened(image_folder / name) for name in names_in(image_folder)]
    assert np.array_equal(np.concatenate([test.images, train.images]), expected)
    assert np.array_equal(train.images[13], made(1).images[0])


WRONG = {
    "cut short": png(LINES)[:-40],
    "without its end": png(LINES)[:-12],
    "damaged": png(LINES)[:200] + bytes(8) + png(LINES)[208:],
    "a wrong checksum": png(LINES)[:-13] + bytes([png(LINES)[-13] ^ 1]) + png(LINES)[-12:],
    "no such filter": png(b"\5" + LINES[1:]),
    "too few scanlines": png(LINES[:-29]),
    "too many scanlines": png(LINES + LINES[-29:]),
    "16 bits": png(filtered(np.zeros((28, 56), np.uint8), [0] * 28), depth=16),
    "palette": png(LINES.replace(b"\xff", b"\0"), colour=3, before=chunk(b"PLTE", bytes(range(256)) * 3)),
    "30 columns": png(filtered(np.zeros((28, 30), np.uint8), [0] * 28), width=30),
    "27 rows": png(LINES[:-29], height=27),
    "nothing": b"",
    "no image": b"<html>not found</html>",
}


def outcome(source: Path) -> object:
    """Return what loading gives: the images, or the error's words."""
    try:
        return [split.images.tobytes() for split in load_fashion_mnist(source)]
    except DataError as error:
        return str(error)


@pytest.mark.parametrize("content", WRONG.values(), ids=WRONG)
def test_what_is_wrong_ends_as_it_does_with_opencv_alone(
    image_folder: Path,
    tmp_path: Path,
    content: bytes,
    monkeypatch: pytest.MonkeyPatch,
    cache: Path,
    started: list[subprocess.Popen[bytes]],
) -> None:
    (image_folder / "train" / "6" / "0001.png").write_bytes(content)
    for source in (image_folder, zipped(image_folder, tmp_path / "images.zip")):
        monkeypatch.setattr(readers, "WORTHWHILE", 1)
        found = outcome(source)
        for path in cache.iterdir():
            path.unlink()
        monkeypatch.setattr(readers, "WORTHWHILE", 1000)
        assert found == outcome(source)
    assert len(started) == 4
    assert_ended(started)


def test_a_locked_zip_is_named(image_folder: Path, tmp_path: Path) -> None:
    path = zipped(image_folder, tmp_path / "images.zip")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("train/6/0001.png")
        start = archive.start_dir
    content = bytearray(path.read_bytes())
    content[info.header_offset + 6] |= 1  # the flag "encrypted", in both headers
    content[content.index(b"train/6/0001.png", start) - 46 + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"member train/6/0001\.png is damaged or locked"):
        load_fashion_mnist(path)


SLOW = """
import itertools, sys
sys.path.insert(0, {folder!r})
import reader
reader.times_waited = itertools.count(0, 1000).__next__
reader.main(sys.argv[1])
"""


def test_a_disk_that_has_to_be_waited_for_changes_nothing(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for label, content in enumerate(WRONG.values()):
        (image_folder / "train" / str(label % 10) / f"{label}.png").write_bytes(content)
    names = [*names_in(image_folder), "train/0/gone.png"]
    plain = readers.read(image_folder, names)
    assert 0 < plain.done.sum() < len(names)
    path = tmp_path / "program.py"
    path.write_text(SLOW.format(folder=str(Path(readers.PROGRAM).parent)))
    monkeypatch.setattr(readers, "PROGRAM", str(path))
    slow = readers.read(image_folder, names)
    assert np.array_equal(slow.done, plain.done)
    assert np.array_equal(slow.images[plain.done], plain.images[plain.done])
    assert np.array_equal(slow.stats, plain.stats)


PROGRAMS = {
    "ends at once": "",
    "fails": "raise SystemExit(1)",
    "answers by half": "import sys; sys.stdout.write('x' * 1000)",
    "answers nonsense": "import sys; sys.stdin.close(); sys.stdout.write('x' * 1_000_000)",
    "answers once": """
import io, marshal, sys
sys.path.insert(0, {folder!r})
import reader
items = marshal.load(sys.stdin.buffer)
sys.stdin = io.TextIOWrapper(io.BytesIO(marshal.dumps(items)))
reader.main(sys.argv[1])
""",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_where_the_processes_fail_opencv_reads(
    program: str,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[subprocess.Popen[bytes]],
) -> None:
    path = tmp_path / "program.py"
    path.write_text(program.format(folder=str(Path(readers.PROGRAM).parent)) if "{" in program else program)
    monkeypatch.setattr(readers, "PROGRAM", str(path))
    assert_reads_all(image_folder, tmp_path)
    assert_ended(started)


def assert_reads_all(folder: Path, tmp_path: Path) -> None:
    expected = [opened(folder / name) for name in names_in(folder)]
    for source in (folder, zipped(folder, tmp_path / "images.zip")):
        train, test = load_fashion_mnist(source)
        assert np.array_equal(np.concatenate([test.images, train.images]), expected)


def no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")


def an_interpreter_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(Path("no", "such", "python")))


def a_frozen_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)


@pytest.mark.parametrize("arrange", [no_interpreter, an_interpreter_that_is_gone, a_frozen_program])
def test_where_no_process_can_be_started_opencv_reads(
    arrange: Callable[[pytest.MonkeyPatch], None],
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[subprocess.Popen[bytes]],
) -> None:
    arrange(monkeypatch)
    assert_reads_all(image_folder, tmp_path)
    assert not started


def test_an_interrupt_ends_the_processes(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Unfilter, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        readers.read(image_folder, names_in(image_folder))
    assert_ended(started)


@pytest.mark.parametrize("worthwhile", [1, 1000])
def test_the_fingerprint_is_the_same_before_and_after_reading(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, worthwhile: int
) -> None:
    monkeypatch.setattr(readers, "WORTHWHILE", worthwhile)
    (image_folder / "train" / "6" / "0001.png").write_bytes(RIGHT["interlaced"])
    folder = images.Folder(image_folder)
    folder.read("here")
    assert folder.fingerprint() == images.Folder(image_folder).fingerprint()
    os.utime(image_folder / "train" / "6" / "0001.png", ns=(0, 1))
    assert folder.fingerprint() != images.Folder(image_folder).fingerprint()


def test_the_notebooks_own_files_are_plain(png_sample: Path) -> None:
    names = names_in(png_sample)
    read = readers.read(png_sample, names)
    assert read.done.all()
    assert np.array_equal(read.images, [opened(png_sample / name) for name in names])
