import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fmnist_xp.parity.comparison import Comparison, compare, worst_cases

NAME = "Dense", "output", "one row"
NAN, INF = math.nan, math.inf


def compared(actual: Any, reference: Any, tolerance: Any = 1e-3, dtype: str = "float64") -> Comparison:
    return compare(NAME, np.array(actual, dtype="float64"), np.array(reference, dtype="float64"), tolerance, dtype)


def test_figures_by_hand() -> None:
    line = compared([1.0, 4.0, -2.0], [1.0, 4.5, -2.25], tolerance=np.array([0.0, 1.0, 0.5]))
    assert (line.operation, line.tensor, line.case) == NAME
    assert line.absolute == 0.5
    assert line.relative == pytest.approx(1 / 9)
    assert line.used == 0.5  # the second element and the third
    assert line.tolerance == 1.0
    assert line.passed
    assert line.record() == {
        "operation": "Dense", "tensor": "output", "case": "one row", "absolute": 0.5, "relative": line.relative,
        "ulps": line.ulps, "tolerance": 1.0, "used": 0.5, "loose": 0.0,
        "passed": True,
    }  # fmt: skip


@pytest.mark.parametrize(("dtype", "step"), [("float64", 2.0**-52), ("float32", 2.0**-23), ("float16", 2.0**-10)])
def test_unit_of_the_last_place_is_that_of_the_dtype_and_of_the_larger_number(dtype: str, step: float) -> None:
    assert compared([1 + step], [1.0], dtype=dtype).ulps == 1
    assert compared([0.0], [1.0], dtype=dtype).ulps == 1 / step
    assert compared([2.0], [2 + 4 * step], dtype=dtype).ulps == 2


def test_unit_of_the_last_place_is_never_finer_than_the_tensor() -> None:
    actual, reference = np.array([1 + 2.0**-10], dtype="float16"), np.array([1.0])
    assert compare(NAME, actual, reference, 1.0, "float32").ulps == 1
    assert compare(NAME, actual.astype("float32"), reference, 1.0, "float16").ulps == 1


@pytest.mark.parametrize("value", [NAN, INF, -INF, 0.0, 7.5])
def test_the_same_is_no_difference_whatever_it_is(value: float) -> None:
    line = compared([value, 1.0], [value, 1.0], tolerance=0.0)
    assert (line.absolute, line.relative, line.ulps, line.used) == (0, 0, 0, 0)
    assert line.passed


def test_negative_zero_is_zero() -> None:
    assert compared([-0.0], [0.0], tolerance=0.0).passed


@pytest.mark.parametrize(
    ("actual", "reference"), [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (1.0, -INF), (INF, -INF), (NAN, INF), (INF, NAN)]
)
@pytest.mark.parametrize("tolerance", [0.0, 1.0, INF, NAN])
def test_nan_and_infinity_on_one_side_fail(actual: float, reference: float, tolerance: float) -> None:
    line = compared([0.0, actual], [0.0, reference], tolerance)
    assert (line.absolute, line.used) == (INF, INF)
    assert not line.passed


def test_any_difference_is_too_much_without_tolerance() -> None:
    assert not compared([1.0], [1 + 2.0**-52], tolerance=0.0).passed


def test_one_element_beyond_its_tolerance_fails() -> None:
    actual = np.zeros(1000)
    actual[777] = 1.001e-3
    line = compared(actual, np.zeros(1000), tolerance=1e-3)
    assert line.used == pytest.approx(1.001)
    assert not line.passed


def test_tolerance_that_is_no_number_passes_nothing_but_the_same() -> None:
    assert not compared([1.0], [1.5], tolerance=NAN).passed


def test_another_shape_fails() -> None:
    line = compared([[1.0, 2.0]], [1.0, 2.0])
    assert line == Comparison(*NAME, INF, INF, INF, tolerance=0.0, used=INF)
    assert not line.passed


@pytest.mark.parametrize("kind", ["bool", "int64"])
def test_integers_and_truth_are_numbers(kind: str) -> None:
    assert compare(NAME, np.array([1, 0], dtype=kind), np.array([1.0, 0.0]), 0.0).passed
    assert compare(NAME, np.array([1, 0], dtype=kind), np.array([1.0, 1.0]), 0.0).absolute == 1


def test_scalar_is_compared() -> None:
    assert compare(NAME, np.array(2.0), np.array(2.5), 0.5).used == 1.0


FIRST = Comparison("Dense", "output", "one row", 1.0, 0.1, 30.0, 4.0, 0.25, 0.5)
WORST = Comparison("Dense", "output", "one neuron", 0.5, 0.2, 10.0, 1.0, 0.5, 0.1)
THIRD = Comparison("Dense", "output", "one input", 0.6, 0.3, 20.0, 3.0, 0.125, 0.2)
OTHER = replace(FIRST, tensor="dinputs")


@pytest.mark.parametrize("lines", list(itertools.permutations([FIRST, WORST, THIRD])))
def test_cases_of_one_tensor_become_a_line_with_the_largest_of_each_figure(lines: tuple[Comparison, ...]) -> None:
    # Wherever the worst case stands; and another tensor between them has a line of its own.
    expected = Comparison("Dense", "output", "one neuron", 1.0, 0.3, 30.0, 1.0, 0.5, 0.5)
    assert worst_cases([lines[0], OTHER, *lines[1:]]) == [expected, OTHER]
    assert worst_cases([OTHER, *lines]) == [OTHER, expected]


@pytest.mark.parametrize(
    ("reference", "tolerance", "loose"),
    [
        ([0.5], 0.4999, 0),
        ([0.5], 0.5, 1),
        ([-0.5, 0.1, 0.0, 0.0], [0.5, 0.4, 0.0, 0.6], 0.5),  # beside the largest value, not each its own
        ([0.0, 0.0], 1.0, 0),
        ([math.nan, 0.5, -math.inf], 0.5, 1),
        ([math.nan], 0.5, 0),
    ],
)
def test_loose_is_the_share_of_tolerances_that_say_nothing(
    reference: list[float], tolerance: Any, loose: float
) -> None:
    assert compared(reference, reference, tolerance=np.array(tolerance)).loose == loose
