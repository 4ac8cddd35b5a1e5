"""The package's layers, losses and optimizers by name, each entered where it is defined, and how one is described."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

REGISTRY: dict[str, type] = {}
"""Every registered class by the name that users may call it by, such as "adam"."""


def register(name: str) -> Callable[[type[T]], type[T]]:
    """Enter a class under `name`: from there loading, parity, kernel compilation and tests find it."""

    def enter(kind: type[T]) -> type[T]:
        REGISTRY[name] = kind
        return kind

    return enter


def registered(base: type[T]) -> dict[str, type[T]]:
    """Return the registered classes that inherit from `base`, by name."""
    return {name: kind for name, kind in REGISTRY.items() if issubclass(kind, base)}


def is_registered(thing: object) -> bool:
    """Return whether the very class of `thing`, not one that it inherits from, is registered."""
    return type(thing) in REGISTRY.values()


def configuration(thing: object, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the arguments of its constructor that make another `thing`: its attributes of the same names.

    Those named in `without` are left out. Raises `AttributeError` where it keeps one under no such name.
    """
    names: dict[str, None] = {}
    for constructor in (vars(kind)["__init__"] for kind in type(thing).__mro__ if "__init__" in vars(kind)):
        parameters = list(inspect.signature(constructor).parameters.values())
        names |= {p.name: None for p in parameters[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):  # else the next class takes the others
            break
    return {name: getattr(thing, name) for name in names if name not in without}


def warn_renamed(old: str, new: str) -> None:
    """Warn that `old` is now `new`."""
    warnings.warn(f"{old} is now {new}: the old name goes with the next version", FutureWarning, stacklevel=3)
