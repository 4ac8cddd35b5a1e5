"""What a pickle or a deep copy has of a layer, a loss or a network: its attributes, arrays of a device on the host.

Its backend goes by name (`Backend.__reduce__`). A shallow copy (`copy.copy`) shares everything.
"""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

from fmnist_xp.backend import Array

T = TypeVar("T")


class OnHost(NamedTuple):
    """An array of a device with memory of its own, while it is in a state."""

    values: Array


def get_state(thing: Any, without: Iterable[str]) -> dict[str, Any]:
    """Return the attributes of `thing` but those named in `without`, arrays of its device as `OnHost`."""
    state = {name: value for name, value in _attributes(thing).items() if name not in without}
    backend = state.get("backend")
    if backend is not None and backend.own_memory:
        for name, value in state.items():
            if isinstance(value, backend.xp.ndarray):
                state[name] = OnHost(backend.to_host(value))
    return state


def set_state(thing: Any, state: Mapping[str, Any]) -> None:
    """Give `thing` the attributes that `get_state` returned, arrays back on its device."""
    backend: Any = state.get("backend")
    with backend.current() if backend is not None else nullcontext():
        for name, value in state.items():
            object.__setattr__(thing, name, backend.xp.array(value.values) if isinstance(value, OnHost) else value)


def shallow_copy(thing: T) -> T:
    """Return what `copy.copy` returns of a class without a state of its own making: it has the same attributes."""
    copied = type(thing).__new__(type(thing))
    for name, value in _attributes(thing).items():
        object.__setattr__(copied, name, value)
    return copied


def _attributes(thing: object) -> dict[str, Any]:
    """Return the attributes of `thing` by name, also those that lie in slots."""
    state: Any = object.__getstate__(thing)
    own, in_slots = state if isinstance(state, tuple) else (state, {})
    return {**(own or {}), **in_slots}
