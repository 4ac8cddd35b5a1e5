"""What layers and losses have in common: a backend and buffers."""

import copy
import functools
import inspect
import weakref
from collections.abc import Callable
from typing import Any, Self

from fmnist_xp.backend import Array, Backend, default_backend

_SET_BY = {"inputs": "forward", "output": "forward", "_operand": "forward", "dinputs": "backward"}


class Module:
    """A piece of a network that computes on `backend`, by default the CPU.

    Every method of a subclass runs with the backend's device current; a constructor that makes arrays makes it so
    itself (`with self.backend.current():`).

    Alone, as in a lesson, a module makes new arrays in every call and leaves its arguments as they were. A
    module of a replica (`replica`) belongs to the training engine and, where its class is `replayable`, reads no
    array twice: it makes its buffers once, uses the head of them for fewer rows, and may overwrite what it is given.
    """

    # Whether `forward` and `backward` compute through the backend's `dot`, `fuse` and `apply` alone, into buffers.
    # Then their calls can be noted and made again. A class says so for itself, not for those that inherit from it:
    # these may do other things with the arrays, and get new ones in every call.
    replayable = False
    training = False
    """Whether `forward` computes for a gradient, and not for figures or predictions."""

    def __init_subclass__(cls) -> None:
        """Run the methods of the class on the backend's device, so that nobody who writes one has to think of it."""
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and not name.startswith("__"):
                setattr(cls, name, _on_device(method))

    def __init__(self, backend: Backend | None = None) -> None:
        """Compute on `backend`."""
        self.backend = backend or default_backend()
        self.reuse_buffers = False
        self.overwrite_inputs = False
        self._buffers: dict[str, Array] = {}
        self._network: weakref.ref[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        """Say what sets an attribute that is not there yet."""
        kind = type(self).__name__
        if "backend" not in vars(self):
            raise AttributeError(f"{kind} has no {name}: begin its constructor with super().__init__(backend)")
        raise AttributeError(
            f"{kind} has no {name} yet: call {_SET_BY[name]} first" if name in _SET_BY else f"{kind} has no {name}"
        )

    @classmethod
    def is_replayable(cls) -> bool:
        """Return whether this very class is `replayable`."""
        return bool(vars(cls).get("replayable", False))

    def bind(self, backend: Backend, network: Any = None) -> None:
        """Compute on `backend` from now on, as a part of `network` if one is given."""
        self.backend = backend
        self._buffers = {}
        self._network = weakref.ref(network) if network is not None else None

    @property
    def network(self) -> Any:
        """The network that this is a part of, or None."""
        return self._network() if self._network is not None else None

    def replica(self, backend: Backend | None = None) -> Self:
        """Return a copy that shares the parameters, with buffers of its own that it makes once.

        `backend`, if given, is one like the module's to compute through.
        """
        twin = copy.copy(self)
        twin.backend = backend or self.backend
        twin.reuse_buffers = self.is_replayable()
        twin._buffers = {}
        return twin

    def _buffer(
        self, name: str, shape: tuple[int, ...], dtype: Any, fill: Callable[..., Array] | None = None
    ) -> Array:
        """Return an array of `shape`: the head of the buffer `name` in a replica, else a new one.

        `fill` is what makes it, by default `xp.empty`; in a replica it is called once.
        """
        fill = fill or self.backend.xp.empty
        if not self.reuse_buffers:
            return fill(shape, dtype=dtype)
        buffer = self._buffers.get(name)
        if buffer is not None and buffer.dtype == dtype:
            if buffer.shape == shape:
                return buffer
            if buffer.shape[1:] == shape[1:] and len(buffer) > shape[0]:
                return buffer[: shape[0]]
        self._buffers[name] = buffer = fill(shape, dtype=dtype)
        return buffer

    def _ones(self, count: int, dtype: Any) -> Array:
        """Return a column of ones, (count, 1); a product with it is the fastest sum over rows or columns."""
        return self._buffer("ones", (count, 1), dtype, self.backend.xp.ones)


def _on_device(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return `method` of a module, which makes the device of the module's backend current."""

    @functools.wraps(method)
    def on_device(self: Module, *args: Any, **kwargs: Any) -> Any:
        with self.backend.current():
            return method(self, *args, **kwargs)

    return on_device
