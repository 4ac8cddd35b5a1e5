import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmnist_xp.plain_json import check_form, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_any_json_value_is_read_back(value: Any) -> None:
    assert parse_json(json.dumps(value)) == value


@given(st.text() | st.text(alphabet='{}[]":,0123456789eE.-+ntrufalsNIi'))
def test_anything_else_is_a_value_error(text: str) -> None:
    try:
        value = parse_json(text)
    except ValueError:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', '"c" is given twice'),
        ('{"a": NaN}', '"NaN" is no finite number'),
        ("[-Infinity]", '"-Infinity" is no finite number'),
        ("1e400", '"1e400" is no finite number'),
        ("1" * 100 + "e999", f'"{"1" * 38}… is no finite number'),
        ("[" * 100_000 + "]" * 100_000, "it is nested too deeply"),
        ("9" * 5000, "4300"),
        ("", "Expecting value"),
    ],
)
def test_what_python_would_accept_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 250


GOOD: list[tuple[Any, Any]] = [
    ("text", str),
    ("", str),
    (3, int),
    (-(10**30), int),
    (0.5, float),
    (3, float),
    (True, bool),
    (None, float | None),
    (2, float | None),
    ([], [int]),
    ([1, 2], [int]),
    ({}, {}),
    ({"a": 1, "more": None}, {"a": int}),
    ({"a": {"b": ["x"]}}, {"a": {"b": [str]}}),
]


@pytest.mark.parametrize(("value", "form"), GOOD)
def test_a_value_of_the_form_passes(value: Any, form: Any) -> None:
    check_form(value, form)


BAD: list[tuple[Any, Any, str]] = [
    (3, str, "it must be text, got 3"),
    (None, str, "it must be text, got null"),
    ("3", int, 'it must be a whole number, got "3"'),
    (3.0, int, "it must be a whole number, got 3.0"),
    (True, int, "it must be a whole number, got true"),
    (False, float, "it must be a number, got false"),
    (10**400, float, f"it must be a number, got 1{'0' * 38}…"),
    (1, bool, "it must be true or false, got 1"),
    ("nan", float | None, 'it must be a number or null, got "nan"'),
    ([], {}, "it must be an object, got a list"),
    ({}, [int], "it must be a list, got an object"),
    ({}, int, "it must be a whole number, got an object"),
    ([1, 2, "x"], [int], 'it[2] must be a whole number, got "x"'),
    ({}, {"a": int}, "a is missing"),
    ({"a": {"b": [{}]}}, {"a": {"b": [{"c": str}]}}, "a.b[0].c is missing"),
    ({"a": {"b": 1}}, {"a": {"b": str}}, "a.b must be text, got 1"),
    ({"a": "x\0y"}, {"a": str}, "a holds a NUL character"),
    ("x" * 39, int, f'it must be a whole number, got "{"x" * 38}…'),
    ("x" * 38, int, f'it must be a whole number, got "{"x" * 38}"'),
    ("\udce9\n", int, 'it must be a whole number, got "\\udce9\\n"'),
]


@pytest.mark.parametrize(("value", "form", "message"), BAD)
def test_a_field_of_another_form_is_named(value: Any, form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_form(value, form)


def test_errors_use_the_given_name() -> None:
    with pytest.raises(ValueError, match=r"^loss\.type is missing$"):
        check_form({}, {"type": str}, "loss")
