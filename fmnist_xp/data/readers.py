"""Many small PNG files read at once, by processes of their own since Python's lock leaves too little to threads.

What they do not read is left to the caller: images that are no plain PNG, files that cannot be opened, everything
where no process can be started. `reader.py` is what a process runs.
"""

import marshal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from queue import SimpleQueue
from subprocess import Popen
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.opencv import on_threads, thread_count
from fmnist_xp.data.png import Unfilter
from fmnist_xp.data.reader import Member
from fmnist_xp.data.reader import __file__ as PROGRAM

Items: TypeAlias = list[str] | list[Member]

WORTHWHILE = 5000
"""Files; for fewer, the processes take longer to start than they save."""
_CHUNK = 2000
"""Files of one request."""


@dataclass(frozen=True)
class Read:
    """What was read: `images` uint8 (n, 28, 28), and bool (n,) which of them, the others hold anything.

    `stats`, int64 (n, 2), has the size in bytes and the time of change in nanoseconds of each file in a folder.
    """

    images: NDArray[np.uint8]
    done: NDArray[np.bool_]
    stats: NDArray[np.int64]


def read(where: Path, items: Items) -> Read:
    """Read the plain PNG files `items`, named from the folder `where`, or members of the zip `where`."""
    n = len(items)
    result = Read(np.empty((n, 28, 28), np.uint8), np.zeros(n, np.bool_), np.zeros((n, 2), np.int64))
    if n < WORTHWHILE:
        return result
    with _readers(where, thread_count()) as readers:
        idle: SimpleQueue[_Reader] = SimpleQueue()
        for reader in readers:
            idle.put(reader)

        def work(start: int) -> None:
            part = slice(start, start + _CHUNK)
            reader = idle.get()
            try:
                result.done[part] = reader.read(items[part], result.images[part], result.stats[part])
            finally:
                idle.put(reader)

        on_threads(work, range(0, n if readers else 0, _CHUNK))
    return result


class _Reader:
    """A process, and the memory in which its answers are decoded."""

    def __init__(self, where: Path) -> None:
        self._process = Popen(
            [sys.executable, "-I", "-S", PROGRAM, str(where.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._scanlines = np.empty((_CHUNK, 28, 29), np.uint8)
        self._unfilter = Unfilter(_CHUNK)

    def read(
        self, items: Items, images: NDArray[np.uint8], stats: NDArray[np.int64]
    ) -> NDArray[np.bool_] | Literal[False]:
        """Fill `images` and `stats`; return which images are right, or False where the process is gone."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert isinstance(answers, BufferedReader)
        scanlines = self._scanlines[: len(items)]
        try:
            marshal.dump(items, requests)
            requests.flush()
            for answer in (scanlines, stats):
                if answers.readinto(answer.data.cast("B")) < answer.nbytes:
                    return False
        except OSError:
            return False
        return self._unfilter(scanlines, images)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def _readers(where: Path, count: int) -> Iterator[list[_Reader]]:
    """Start readers, as many of `count` as can be started, and end them."""
    readers: list[_Reader] = []
    try:
        with suppress(OSError):
            # A frozen program is no interpreter: it would start itself.
            while sys.executable and not hasattr(sys, "frozen") and len(readers) < count:
                readers.append(_Reader(where))
        yield readers
    finally:
        for reader in readers:
            reader.end()
