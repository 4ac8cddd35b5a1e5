"""Checks of numeric arguments, which name the argument in the error."""

from collections.abc import Iterable
from math import inf
from numbers import Real
from operator import index
from typing import Any


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return `value` as an int; raise `ValueError`, naming the argument, unless it is an integer in these bounds.

    NumPy's integers are accepted; True and False, 2.0 and "2" are not.
    """
    try:
        number = index(value)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from error
    if isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}, got {value!r}")
    return number


def real_number(name: str, value: Any, low: float, high: float = inf, *, open_low: bool = False) -> float:
    """Return `value` as a float; raise `ValueError`, naming the argument, unless low ≤ value < high.

    With `open_low`, low < value. NumPy's numbers are accepted; True and False, text and complex numbers are not.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not (low < number if open_low else low <= number) or not number < high:
        lower = f"above {low:g}" if open_low else f"at least {low:g}"
        upper = "finite" if high == inf else f"below {high:g}"
        raise ValueError(f"{name} must be {lower} and {upper}, got {value!r}")
    return number


def one_of(name: str, value: Any, allowed: Iterable[str]) -> str:
    """Return `value`; raise `ValueError`, naming the argument and what comes near, unless it is one of `allowed`."""
    names = list(allowed)
    if value in names:
        return str(value)
    from difflib import get_close_matches

    near = get_close_matches(str(value), names, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"{name} must be {'one of ' if names[1:] else ''}{', '.join(names)}, got {value!r}{hint}")
