"""JSON from untrusted or damaged files: parsed strictly, and checked against a form before use."""

import json
import math
from collections.abc import Mapping
from typing import Any, get_args

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def parse_json(text: str) -> Any:
    """Return the value of `text`.

    Raises `ValueError` for invalid JSON, and for what Python's parser silently accepts: a name given twice in one
    object, NaN and Infinity, numbers beyond float64. Nesting too deep for Python is a `ValueError` too.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_constant=_float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def to_json(values: Any) -> str:
    """Return `values` as the text of a file, in ASCII: a path may be no valid UTF-8. ValueError for NaN."""
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def check_form(value: Any, form: Any, name: str = "it") -> None:
    """Raise `ValueError`, naming the field, unless `value`, as returned by `parse_json`, has the given form.

    A form is a type of JSON value (`str`, `int`, `float`, `bool`, `None`, or a union such as `float | None`; a float
    may be written as an integer); a list with one form, for a list of any length; or a mapping from field names to
    forms, for an object that has all of these fields and may have more.
    """
    if isinstance(form, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"{name} must be an object, got {_shown(value)}")
        for field, of_field in form.items():
            place = f"{name}.{field}" if name != "it" else field
            if field not in value:
                raise ValueError(f"{place} is missing")
            check_form(value[field], of_field, place)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, got {_shown(value)}")
        for number, item in enumerate(value):
            check_form(item, form[0], f"{name}[{number}]")
    else:
        kinds = get_args(form) or (form,)
        if type(value) not in kinds and not (float in kinds and _is_float(value)):
            raise ValueError(f"{name} must be {' or '.join(_WORDS[kind] for kind in kinds)}, got {_shown(value)}")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{name} holds a NUL character")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{_shown(name)} is given twice")
        values[name] = value
    return values


def _float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{_shown(text)} is no finite number")
    return value


def _is_float(value: Any) -> bool:
    """Return whether `value` is an int that a float can hold."""
    try:
        return type(value) is int and math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    """Return `value` for a message: short, on one line."""
    text = (
        "an object"
        if isinstance(value, dict)
        else "a list"
        if isinstance(value, list)
        else json.dumps(value, default=str)
    )
    return text if len(text) <= 40 else f"{text[:39]}…"
