"""The line search alone, on functions of one number."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmnist_xp.optim.wolfe import ACCEPTED, FAILED, MOST, SETTLE, Point, Search, advance, begin, cubic_minimum

C1, C2 = 1e-4, 0.9
Function = Callable[[float], tuple[float, float]]


def searched(function: Function, step: float, c1: float = C1, c2: float = C2) -> tuple[Search, list[float]]:
    """Return how a search from 0 ends, and the steps that were evaluated."""
    search, steps = begin(Point(0.0, *function(0.0)), step), list[float]()
    while search.phase not in (ACCEPTED, FAILED):
        steps.append(search.step)
        search = advance(search, *function(search.step), c1, c2)
        assert len(steps) <= MOST + 1
    return search, steps


def fulfils(function: Function, step: float, c1: float = C1, c2: float = C2) -> bool:
    (start, slope), (loss, slope_there) = function(0.0), function(step)
    return loss <= start + c1 * step * slope and abs(slope_there) <= -c2 * slope


FUNCTIONS: dict[str, Function] = {
    "parabola": lambda t: ((t - 3) ** 2, 2 * (t - 3)),
    "two valleys": lambda t: (math.cos(t) + 0.01 * t * t, -math.sin(t) + 0.02 * t - (0.3 if t == 0 else 0)),
    "steep wall": lambda t: (-t + t**8, -1 + 8 * t**7),
    "long slope": lambda t: (math.sqrt(1 + (t - 500) ** 2), (t - 500) / math.sqrt(1 + (t - 500) ** 2)),
    # Moré & Thuente, "Line search algorithms with guaranteed sufficient decrease" (1994), equation 5.1, β = 2.
    "Moré and Thuente 1": lambda t: (-t / (t * t + 2), (t * t - 2) / (t * t + 2) ** 2),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("c2", [0.9, 0.1])
def test_step_fulfils_the_strong_wolfe_conditions(function: Function, first: float, c2: float) -> None:
    search, steps = searched(function, first, c2=c2)
    assert search.phase == ACCEPTED
    assert search.step == steps[-1] == search.low.step
    assert fulfils(function, search.step, c2=c2)
    assert len(steps) < MOST


@settings(deadline=None, max_examples=100)
@given(
    place=st.floats(1e-3, 1e3), curvature=st.floats(1e-3, 1e3), quartic=st.floats(0, 10), first=st.floats(1e-4, 1e4)
)
def test_step_on_any_valley(place: float, curvature: float, quartic: float, first: float) -> None:
    def function(t: float) -> tuple[float, float]:
        x = t / place - 1
        return curvature * (x * x + quartic * x**4), curvature * (2 * x + 4 * quartic * x**3) / place

    search, _steps = searched(function, first)
    assert search.phase == ACCEPTED
    assert fulfils(function, search.step)


def test_first_step_that_is_good_is_taken_at_once() -> None:
    assert searched(FUNCTIONS["parabola"], 2.5)[1] == [2.5]


def test_cubic_is_exact_for_one() -> None:
    # x³ - 3x has its minimum at 1.
    a, b = (Point(x, x**3 - 3 * x, 3 * x * x - 3) for x in (-0.5, 2.5))
    assert cubic_minimum(a, b) == pytest.approx(1.0, rel=1e-14)
    assert cubic_minimum(b, a) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize(
    "b", [Point(0.0, 1.0, 1.0), Point(1.0, math.inf, 1.0), Point(1.0, 2.0, math.nan), Point(1.0, -1.0, -1.0)]
)
def test_no_cubic_has_no_minimum(b: Point) -> None:
    assert cubic_minimum(Point(0.0, 0.0, -1.0), b) is None


@pytest.mark.parametrize("beyond", [(math.inf, math.inf), (math.nan, math.nan), (-5.0, math.nan), (-math.inf, 1.0)])
def test_loss_that_is_not_finite_is_a_step_too_long(beyond: tuple[float, float]) -> None:
    def function(t: float) -> tuple[float, float]:
        return FUNCTIONS["parabola"](t) if t < 4 else beyond

    if beyond[0] == -math.inf:  # lower than everything: no loss has that, but a search must come to an end
        assert len(searched(function, 100.0)[1]) <= MOST + 1
        return
    search, steps = searched(function, 100.0)
    assert search.phase == ACCEPTED
    assert fulfils(function, search.step)
    assert steps[0] == 100
    assert search.step < 4


def test_nothing_lower_is_a_failure() -> None:
    # The slope says that it falls, which it does not.
    search, steps = searched(lambda t: (t, 1.0 if t else -1.0), 1.0)
    assert (search.phase, len(steps)) == (FAILED, MOST)
    assert search.step == search.low.step == 0


def test_best_step_is_gone_back_to_where_none_fulfils_the_conditions() -> None:
    # A kink at 1: the slope is -1 before and 1 behind, and never small.
    def kink(t: float) -> tuple[float, float]:
        return abs(t - 1), -1.0 if t <= 1 else 1.0

    search, steps = searched(kink, 1.5, c2=0.5)
    assert search.phase == ACCEPTED
    assert len(steps) in (MOST, MOST + 1)
    assert kink(search.step)[0] == min(kink(t)[0] for t in steps)
    assert search.step < 1.0 + 1e-3


def test_settling_is_one_evaluation_more() -> None:
    search = begin(Point(0.0, 1.0, -1.0), 1.0)._replace(phase=SETTLE, step=0.25, low=Point(0.25, 0.9, -0.99))
    search = advance(search, 0.9, -0.99, C1, C2)
    assert (search.phase, search.step) == (ACCEPTED, 0.25)
