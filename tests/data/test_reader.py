import marshal
import os
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import pytest
from data_helpers import chunk, filtered, made, png

from fmnist_xp.data import reader
from fmnist_xp.data.reader import (
    File,
    Member,
    read_files,
    read_files_ahead,
    read_files_on_threads,
    read_members,
    scanlines,
)

OTHER = b"\xff" * 812
IMAGE = made(1).images[0]
LINES = filtered(IMAGE, [row % 5 for row in range(28)])
PLAIN = png(LINES)


@pytest.mark.parametrize("level", range(10))
def test_the_scanlines_of_a_plain_file_are_its_own(level: int) -> None:
    data = chunk(b"IDAT", zlib.compress(LINES, level))
    file = PLAIN[:33] + data + PLAIN[-12:]
    assert scanlines(file) == LINES


NOT_PLAIN = {
    "nothing": b"",
    "no PNG": b"<html>not found</html>" * 20,
    "two IDAT chunks": png(LINES, parts=2),
    "an empty IDAT chunk": PLAIN[:33] + chunk(b"IDAT", b"") + PLAIN[-12:],
    "no IDAT chunk": PLAIN[:33] + PLAIN[-12:],
    "another chunk": png(LINES, before=chunk(b"tEXt", b"Title\0shoe")),
    "another chunk behind": PLAIN[:-12] + chunk(b"tEXt", b"Title\0shoe") + PLAIN[-12:],
    "transparency": png(LINES, before=chunk(b"tRNS", b"\0\7")),
    "palette": png(LINES, colour=3, before=chunk(b"PLTE", bytes(768))),
    "16 bits": png(LINES, depth=16),
    "interlaced": png(LINES, interlace=1),
    "29 columns": png(LINES, width=29),
    "27 rows": png(LINES, height=27),
    "too few scanlines": png(LINES[:-29]),
    "too many scanlines": png(LINES + LINES[-29:]),
    "far too many": png(bytes(2_000_000)),
    "a checksum of zlib's": PLAIN[:33] + chunk(b"IDAT", zlib.compress(LINES)[:-1] + b"\0") + PLAIN[-12:],
    "more behind": PLAIN + b"\0",
}


@pytest.mark.parametrize("file", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_plain_is_left_alone(file: bytes) -> None:
    assert scanlines(file) == OTHER


def test_a_file_that_is_cut_short_or_has_a_wrong_byte_is_left_alone() -> None:
    for place in range(len(PLAIN)):
        assert scanlines(PLAIN[:place]) == OTHER
        assert scanlines(PLAIN[:place] + bytes([PLAIN[place] ^ 1]) + PLAIN[place + 1 :]) == OTHER


@pytest.mark.parametrize("read_files", [read_files, read_files_ahead, read_files_on_threads])
def test_files_are_read_with_their_size_and_time(
    read_files: Callable[[list[str]], Iterator[File]], tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(PLAIN)
    os.utime(path, ns=(1, 1_234_567_890_000_000_000))
    gone = str(tmp_path / "gone.png")
    assert list(read_files([str(path), gone, str(tmp_path)])) == [
        (PLAIN, len(PLAIN), 1_234_567_890_000_000_000),
        (b"", 0, 0),
        (b"", 0, 0),
    ]


@pytest.mark.parametrize("read_files", [read_files_ahead, read_files_on_threads])
def test_files_come_in_order_from_a_slow_disk_too(
    read_files: Callable[[list[str]], Iterator[File]], tmp_path: Path
) -> None:
    paths = [tmp_path / str(number) for number in range(100)]
    for number, path in enumerate(paths):
        path.write_bytes(str(number).encode())
    assert [content for content, _, _ in read_files(list(map(str, paths)))] == [str(n).encode() for n in range(100)]


def test_system_that_cannot_be_asked_for_a_file_reads_it_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    path = tmp_path / "a.png"
    path.write_bytes(PLAIN)
    assert next(read_files_ahead([str(path)]))[0] == PLAIN


# A reader whose disk is slow by decree; it says on stderr how it reads.
SLOW = """
import itertools, sys
sys.path.insert(0, sys.argv[3])
import reader

def noted(name):
    read = getattr(reader, name)
    def call(names):
        sys.stderr.write(f"{name} {len(names)}\\n")
        return read(names)
    return call
for name in ("read_files", "read_files_ahead", "read_files_on_threads"):
    setattr(reader, name, noted(name))
reader.times_waited = itertools.count(0, int(sys.argv[2])).__next__
reader.main(sys.argv[1])
"""


@pytest.mark.parametrize(
    ("waits", "ways"),
    [
        (100, ["read_files"] * 4),
        (101, ["read_files", "read_files_ahead", "read_files_on_threads", "read_files_on_threads"]),
    ],
)
def test_reader_that_waits_for_the_disk_asks_for_many_files_at_once(
    waits: int, ways: list[str], tmp_path: Path
) -> None:
    names = [f"{number}.png" for number in range(800)]
    for name in names[:-1]:
        (tmp_path / name).write_bytes(PLAIN)
    answer = subprocess.run(
        [sys.executable, "-c", SLOW, str(tmp_path), str(waits), str(Path(reader.__file__).parent)],
        input=marshal.dumps(names),
        capture_output=True,
        check=True,
    )
    scanlines, stats = answer.stdout[: 812 * 800], np.frombuffer(answer.stdout[812 * 800 :], np.int64).reshape(800, 2)
    assert scanlines == LINES * 799 + OTHER
    assert (stats[:-1, 0] == len(PLAIN)).all()
    assert stats[:-1, 1].tolist() == [(tmp_path / name).stat().st_mtime_ns for name in names[:-1]]
    assert stats[-1].tolist() == [0, 0]
    assert [line.split()[0] for line in answer.stderr.decode().splitlines() if not line.endswith(" 8")] == ways


def member(info: zipfile.ZipInfo, **changes: int | bytes) -> Member:
    values = {
        "name": info.filename.encode(),
        "offset": info.header_offset,
        "size": info.compress_size,
        "method": info.compress_type,
        "checksum": info.CRC,
    }
    return tuple((values | changes).values())  # type: ignore[return-value]


def test_members_of_a_zip_are_read_if_they_are_as_said(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("stored.png", PLAIN)
        archive.writestr("deflated.png", PLAIN, zipfile.ZIP_DEFLATED)
        archive.writestr("packed.png", PLAIN, zipfile.ZIP_BZIP2)
        archive.writestr("large.png", bytes(5000))
        stored, deflated, packed, large = archive.infolist()
    wrong = [
        member(packed),
        member(large),
        member(stored, name=b"another.pn"),
        member(stored, checksum=stored.CRC ^ 1),
        member(stored, offset=stored.header_offset + 1),
        member(stored, offset=1_000_000),
        member(stored, size=stored.compress_size - 1),
        member(stored, method=8),
        member(deflated, method=-1),
        member(deflated, size=deflated.compress_size - 9),
    ]
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        read = list(read_members(content, [member(stored), member(deflated), *wrong]))
    assert read == [(PLAIN, 0, 0)] * 2 + [(b"", 0, 0)] * len(wrong)
