"""What layers and losses have in common: a backend and buffers."""

import copy
from typing import Self

from fmnist_xp.backend import Array, Backend, default_backend


class Module:
    """A piece of a network that computes on `backend`, by default the CPU.

    Alone, as in a lesson, a module makes new arrays in every call and leaves its arguments as they were. A
    module of a replica (`replica`) belongs to the training engine and reads no array twice: it makes its buffers
    once, uses the head of them for fewer rows, and may overwrite what it is given.
    """

    def __init__(self, backend: Backend | None = None) -> None:
        """Compute on `backend`."""
        self.backend = backend or default_backend()
        self.reuse_buffers = False
        self.overwrite_inputs = False
        self._buffers: dict[str, Array] = {}

    def bind(self, backend: Backend) -> None:
        """Compute on `backend` from now on."""
        self.backend = backend
        self._buffers = {}

    def replica(self) -> Self:
        """Return a copy that shares the parameters, with buffers of its own that it makes once."""
        twin = copy.copy(self)
        twin.reuse_buffers = True
        twin._buffers = {}
        return twin

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: object) -> Array:
        """Return an uninitialised array: the head of the buffer `name` in a replica, else a new one."""
        if not self.reuse_buffers:
            return self.backend.xp.empty(shape, dtype=dtype)
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < shape[0] or buffer.shape[1:] != shape[1:] or buffer.dtype != dtype:
            buffer = self._buffers[name] = self.backend.xp.empty(shape, dtype=dtype)
        return buffer[: shape[0]]

    def _ones(self, count: int, dtype: object) -> Array:
        """Return a vector of ones, (count,); a product with it is the fastest sum over rows or columns."""
        if not self.reuse_buffers:
            return self.backend.xp.ones(count, dtype=dtype)
        ones = self._buffers.get("ones")
        if ones is None or len(ones) < count or ones.dtype != dtype:
            ones = self._buffers["ones"] = self.backend.xp.ones(count, dtype=dtype)
        return ones[:count]
