"""Bytes of a file as an array, without reading them: the system fetches pages as they are used.

Such pages are the system's own copy of the file, which it drops when memory is short. Until then they count as the
process's memory; `forget` gives them back. A file that is cut while it is mapped ends the process where its missing
pages are read (SIGBUS); one that is replaced by renaming stays as it was.
"""

import mmap
from collections.abc import Iterator
from math import prod
from typing import IO, Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

_AROUND = max(2 << 20, mmap.PAGESIZE)
"""Most bytes that come with a page that is touched, aligned to as much: Linux maps 64 KiB, or a huge page."""
_PIECE = 10_000
"""Images at a time, 8 MB."""


def map_bytes(file: IO[bytes], offset: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the bytes of an open file from `offset` on as a read-only uint8 array of `shape`, none of them read.

    The file may be closed afterwards. ValueError if it has fewer bytes, OSError where the file system cannot map it.
    """
    count = prod(shape)
    mapping = mmap.mmap(file.fileno(), offset + count, access=mmap.ACCESS_READ)
    return np.frombuffer(mapping, np.uint8, count, offset).reshape(shape)


def is_mapped(array: NDArray[Any]) -> bool:
    """Return whether an array is a view of a file that is mapped for reading only, here or by `numpy.memmap`."""
    return _mapping(array) is not None


def forget(array: NDArray[Any]) -> None:
    """Let the system take back the pages of a mapped file that `array` lies in; they come again when they are used.

    Neighbours within 2 MiB, which came with them, go too: take several MB at a time. Does nothing to other arrays, to
    files mapped for writing, whose changes it would undo, and where the system has no `madvise`.
    """
    mapping = _mapping(array)
    if mapping is None or not array.size or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = byte_bounds(np.frombuffer(mapping, np.uint8))[0]
    low, high = byte_bounds(array)
    first = max(0, low // _AROUND * _AROUND - start)
    last = min(len(mapping), -(-high // _AROUND) * _AROUND - start)
    mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def pieces(images: NDArray[np.uint8], rows: int = _PIECE) -> Iterator[NDArray[np.uint8]]:
    """Yield `images` in pieces of so many rows, and `forget` each when the next is asked for."""
    for start in range(0, len(images), rows):
        piece = images[start : start + rows]
        yield piece
        forget(piece)


def _mapping(array: NDArray[Any]) -> mmap.mmap | None:
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) and memoryview(base).readonly else None
