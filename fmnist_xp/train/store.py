"""Where blocks of sorted rows are kept: in memory, on the device, or, of rows on disk, in a file of the cache."""

import math
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Array, Backend
from fmnist_xp.data.cache import cache_folder
from fmnist_xp.data.mapped import is_mapped
from fmnist_xp.errors import DataError

IN_MEMORY = 256 << 20
"""Bytes of rows on disk up to which the sorted ones are kept in memory."""


class Store:
    """The values of blocks, one after another; `source` is the array that they come from.

    A file has no name, and ends with the process.
    """

    def __init__(self, backend: Backend, source: NDArray[Any]) -> None:
        self._backend = backend
        self._blocks: list[Array] = []
        self._places: list[tuple[int, tuple[int, ...], np.dtype[Any]]] = []
        self._on_disk = is_mapped(source) and source.nbytes > IN_MEMORY and not backend.own_memory
        self._file: Any = None
        if self._on_disk:
            self._folder = cache_folder() or Path(tempfile.gettempdir())

    def keep(self, values: NDArray[Any]) -> None:
        """Take the values of the next block."""
        if not self._on_disk:
            self._blocks.append(self._backend.asarray(values))
            return
        with self._blamed():
            if self._file is None:  # not before: where sorting does not pay there is nothing to keep
                self._folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (`blocks` closes it)
            self._places.append((self._file.tell(), values.shape, values.dtype))
            self._file.write(np.ascontiguousarray(values).data)

    def blocks(self) -> list[Array]:
        """Return the values of all blocks, of which none is kept after this."""
        if not self._on_disk:
            return self._blocks
        with self._blamed(), self._file:  # the mapping outlives it
            self._file.flush()
            mapped = np.frombuffer(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        return [
            mapped[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for start, shape, dtype in self._places
        ]

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self._folder}: the sorted rows cannot be written ({error.strerror or error}); make room, set "
                "FMNIST_XP_CACHE to another folder, or train on dense rows (--dense-rows)"
            ) from error
