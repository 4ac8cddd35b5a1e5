"""A process that reads small PNG files, as fast as Python alone can; `readers.py` starts several and asks them.

Run as `python -I -S reader.py WHERE`: it imports nothing that takes time to import. WHERE is a folder or a zip. Each
request on stdin is a list, written by `marshal`: names of files in the folder, or `Member`s of the zip. The answer on
stdout has the `_SIZE` bytes of scanlines of each, then for each two 64-bit integers: a file's size and its time of
change in nanoseconds, or zeros.

Scanlines are what a PNG holds once it is inflated: 28 times a byte that says how the row is filtered, and 28 filtered
pixels (W3C, Portable Network Graphics, section 7). Only a plain PNG is read: 28 x 28 pixels of 8-bit grey, not
interlaced, in one IDAT chunk and nothing but IHDR and IEND around it, all checksums right. Whatever else there is
gets `_OTHER`, which no PNG holds.
"""

import marshal
import os
import sys
from array import array
from collections.abc import Callable, Iterator
from mmap import ACCESS_READ, mmap
from zlib import crc32, decompress, error

_IHDR = b"IHDR" + (28).to_bytes(4) + (28).to_bytes(4) + bytes([8, 0, 0, 0, 0])
_HEAD = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4) + _IHDR + crc32(_IHDR).to_bytes(4)
_IEND = (0).to_bytes(4) + b"IEND" + crc32(b"IEND").to_bytes(4)
_SIZE = 28 * 29
_OTHER = b"\xff" * _SIZE
_LARGEST = 4096
"""Bytes: a plain file has fewer."""

_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_PART = 200
"""Files that may be open at once, fewer than the 256 that some systems allow."""
_GONE = -1
_THREADS = 16
_SLICE = 8
"""Files that a thread reads at a time."""

File = tuple[bytes, int, int]
"""Content, size and time of change."""
Member = tuple[bytes, int, int, int, int]
"""Name, where its local header lies, compressed size, compression method (0 or 8; others are not read), CRC-32."""


def scanlines(file: bytes) -> bytes:
    """Return the scanlines of a plain PNG, or `_OTHER`."""
    data = file[37:-16]  # that of IDAT with its name, between its size and its checksum
    if (
        data.startswith(b"IDAT")
        and file.startswith(_HEAD + (len(data) - 4).to_bytes(4))
        and file.endswith(crc32(data).to_bytes(4) + _IEND)
    ):
        try:
            lines = decompress(data[4:], bufsize=_LARGEST)
        except error:
            return _OTHER
        if len(lines) == _SIZE:
            return lines
    return _OTHER


def read_files(names: list[str]) -> Iterator[File]:
    """Yield each file of the working folder, nothing and zeros for one that has gone."""
    for name in names:
        yield _content(_opened(name))


def read_files_ahead(names: list[str]) -> Iterator[File]:
    """Do the same for a disk that has to be waited for: ask it for all files before the first is read."""
    yield from map(_content, [_asked_for(name) for name in names])


def read_files_on_threads(names: list[str]) -> Iterator[File]:
    """Do the same for a disk far away: wait for many files at a time, which even to open takes a while."""
    from concurrent.futures import ThreadPoolExecutor  # here: it takes as long as a thousand files

    slices = [names[start : start + _SLICE] for start in range(0, len(names), _SLICE)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for files in pool.map(lambda names: list(read_files(names)), slices):
            yield from files


def _opened(name: str) -> int:
    try:
        return os.open(name, _READ_ONLY)
    except OSError:
        return _GONE


def _asked_for(name: str) -> int:
    file = _opened(name)
    try:  # noqa: SIM105 (contextlib takes longer to import than the rest together)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_WILLNEED)
    except (AttributeError, OSError):  # a system that cannot be asked, a file that has gone
        pass
    return file


def _content(file: int) -> File:
    try:
        stat = os.fstat(file)
        return os.read(file, _LARGEST), stat.st_size, stat.st_mtime_ns
    except OSError:
        return b"", 0, 0
    finally:
        if file != _GONE:
            os.close(file)


def times_waited() -> int:
    """Return how often this process has had to wait so far, mostly for the disk; always 0 on Windows."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


def read_members(archive: mmap, members: list[Member]) -> Iterator[File]:
    """Yield the content of each member of a zip, nothing for one that is not as it was said to be; and zeros."""
    for name, start, size, method, checksum in members:
        end = start + 30 + len(name)
        head = archive[start:end]
        end += int.from_bytes(head[28:30], "little")
        file = archive[end : end + size] if size < _LARGEST else b""
        if method == 8:
            try:
                file = decompress(file, -15, _LARGEST)
            except error:
                file = b""
        right = head[:4] == b"PK\3\4" and head[30:] == name and method in (0, 8) and crc32(file) == checksum
        yield file if right else b"", 0, 0


def main(where: str) -> None:
    """Answer requests until there are no more."""
    read: Callable[..., Iterator[File]] = read_files
    slower = [read_files_ahead, read_files_on_threads]
    if os.path.isdir(where):  # noqa: PTH112
        os.chdir(where)
    else:
        with open(where, "rb") as zipped:  # noqa: PTH123
            archive = mmap(zipped.fileno(), 0, access=ACCESS_READ)
        read, slower = lambda members: read_members(archive, members), []
    with open(1, "wb", 1 << 16) as out:
        while True:
            try:
                items = marshal.load(sys.stdin.buffer)
            except EOFError:
                return
            stats = array("q")
            for start in range(0, len(items), _PART):
                part = items[start : start + _PART]
                before = times_waited()
                for file, size, changed in read(part):
                    out.write(scanlines(file))
                    stats.append(size)
                    stats.append(changed)
                if slower and times_waited() - before > len(part) // 2:
                    read = slower.pop(0)
            out.write(stats)
            out.flush()


if __name__ == "__main__":
    main(sys.argv[1])
