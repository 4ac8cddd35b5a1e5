import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from fmnist_xp.arguments import real_number, whole_number


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3)])
def test_whole_numbers_of_any_kind_become_ints(value: Any) -> None:
    number = whole_number("epochs", value, 3)
    assert (number, type(number)) == (3, int)


@pytest.mark.parametrize("value", [1.5, 2.0, np.float32(2), "2", None, True, np.True_, 2 + 0j, [2], np.array([2, 3])])
def test_anything_but_a_whole_number_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^epochs must be a whole number, got "):
        whole_number("epochs", value, 0)


def test_whole_number_below_the_least_is_named() -> None:
    with pytest.raises(ValueError, match=r"^epochs must be at least 1, got 0$"):
        whole_number("epochs", 0, 1)


def test_whole_number_above_the_most_is_named() -> None:
    assert whole_number("shift", 7, 0, 7) == 7
    with pytest.raises(ValueError, match="shift must be at most 7, got 8"):
        whole_number("shift", 8, 0, 7)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), Fraction(1, 2)])
def test_real_numbers_of_any_kind_become_floats(value: Any) -> None:
    number = real_number("rate", value, 0.5)
    assert (number, type(number)) == (0.5, float)


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, np.complex64(1), [0.1], np.array([0.1])])
def test_anything_but_a_real_number_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^rate must be a number, got "):
        real_number("rate", value, 0)


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (0, {"open_low": True}, "rate must be above 0 and finite, got 0"),
        (-0.1, {}, "rate must be at least 0 and finite, got -0.1"),
        (math.inf, {}, "rate must be at least 0 and finite, got inf"),
        (math.nan, {}, "rate must be at least 0 and finite, got nan"),
        (1, {"high": 1}, "rate must be at least 0 and below 1, got 1"),
    ],
)
def test_real_number_out_of_range_is_named(value: float, limits: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        real_number("rate", value, 0, **limits)


def test_ends_of_the_range() -> None:
    assert real_number("rate", 0, 0) == 0
    assert real_number("rate", math.nextafter(1, 0), 0, 1) < 1
    assert real_number("rate", math.nextafter(0, 1), 0, open_low=True) > 0
