"""The package's layers, losses and optimizers by name, each entered where it is defined, and how one is described."""

import inspect
import reprlib
import warnings
from collections.abc import Callable, Mapping
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
    return {name: getattr(thing, name) for name in arguments_of(type(thing)) if name not in without}


def call_text(thing: object, config: Callable[[], Mapping[str, Any]], without: tuple[str, ...] = ()) -> str:
    """Return the call that makes another `thing`, such as "Dense(784, 128, weight_regularizer_l2=0.0005)".

    It has the arguments that `config` returns, or, where it raises, the attributes of the same names, but for those
    in `without` and those at their defaults. Raises nothing: of a half-made `thing` it tells what there is.
    """
    name = type(thing).__name__
    try:
        try:
            given = config()
        except Exception:
            given = {name: value for name, value in vars(thing).items() if name not in without}
        texts, in_place = [], True
        for parameter in arguments_of(type(thing)).values():
            in_place &= parameter.name in given and parameter.default is parameter.empty
            in_place &= parameter.kind is not parameter.KEYWORD_ONLY
            if parameter.name in given and not _is(given[parameter.name], parameter.default):
                text = _short_text(given[parameter.name])
                texts.append(text if in_place else f"{parameter.name}={text}")
        return f"{name}({', '.join(texts)})"
    except Exception:  # in what a user's own class does when it is asked
        return f"{name}(…)"


def arguments_of(kind: type) -> dict[str, inspect.Parameter]:
    """Return the arguments of a constructor by name, and those of the constructors that it hands others to."""
    found: dict[str, inspect.Parameter] = {}
    for constructor in (vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)):
        parameters = list(inspect.signature(constructor).parameters.values())
        named = (p for p in parameters[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))
        found = {**found, **{p.name: p for p in named if p.name not in found}}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):  # else the next class takes the others
            break
    return found


def _is(value: Any, default: Any) -> bool:
    """Return whether `value` is the default; an array never is, and is not looked at."""
    return value is default or (not getattr(value, "shape", ()) and bool(value == default))


def _short_text(value: Any) -> str:
    """Return `value` as Python writes it, of a long one the beginning and the end; of an array shape and dtype."""
    if getattr(value, "shape", ()):
        return f"<array {value.shape} {value.dtype}>"
    short = reprlib.Repr()
    short.maxother = 80
    return " ".join(short.repr(value).split())


def warn_renamed(old: str, new: str) -> None:
    """Warn that `old` is now `new`."""
    warnings.warn(f"{old} is now {new}: the old name goes with the next version", FutureWarning, stacklevel=3)
