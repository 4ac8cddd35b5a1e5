"""A line search for the strong Wolfe conditions, one evaluation at a time: plain numbers in, plain numbers out.

φ(t) is the loss at the origin plus t times a direction along which it falls, φ′(t) its slope. Sought is a step t with
φ(t) ≤ φ(0) + c₁·t·φ′(0) and |φ′(t)| ≤ −c₂·φ′(0) (Nocedal & Wright, *Numerical Optimization*, 2nd edition, 2006,
equations 3.7; algorithms 3.5 and 3.6, with the cubic of equation 3.59).
"""

import math
from typing import NamedTuple

BRACKET, ZOOM, SETTLE, ACCEPTED, FAILED = 1.0, 2.0, 3.0, 4.0, 5.0
"""What a search does: look for an interval that holds such a step; narrow it; go back to the best step that it found
after `MOST` tries. Then it ends: with the step that was evaluated last, or with none."""
MOST = 20
"""Evaluations after which a search takes the best step so far."""
GROWTH = 10.0
"""How many times as long the next step may be while there is no interval."""
MARGIN = 0.1
"""How close to the ends of an interval a step may be, as a share of it."""


class Point(NamedTuple):
    """A step, and φ and φ′ there."""

    step: float
    loss: float
    slope: float


class Search(NamedTuple):
    """Where a search is: `step` is to be evaluated next.

    `low` is the best point so far, `high` the other end of the interval; of `BRACKET`, `low` is the point before.
    """

    phase: float
    tries: float
    step: float
    origin: Point
    low: Point
    high: Point


def begin(origin: Point, step: float) -> Search:
    """Return a search from `origin`, whose step is 0 and whose slope is below 0, that tries `step` first."""
    return Search(BRACKET, 0, step, origin, origin, origin)


def advance(search: Search, loss: float, slope: float, c1: float, c2: float) -> Search:
    """Return the search after φ = `loss` and φ′ = `slope` were found for its step; NaN and infinity are too long."""
    phase, tries, step, origin, low, high = search
    point, tries = Point(step, loss, slope), tries + 1
    if phase == SETTLE:
        return search._replace(phase=ACCEPTED, tries=tries)
    falls = math.isfinite(slope) and loss <= origin.loss + c1 * step * origin.slope and loss < low.loss
    if falls and abs(slope) <= -c2 * origin.slope:
        return search._replace(phase=ACCEPTED, tries=tries, low=point)
    if not falls:
        phase, high = ZOOM, point
    elif phase == BRACKET:
        phase, low, high = (ZOOM if slope >= 0 else BRACKET), point, low
    else:
        low, high = point, (low if slope * (high.step - low.step) >= 0 else high)
    if tries >= MOST:
        phase, step = (SETTLE if low.step else FAILED), low.step
        phase = ACCEPTED if low is point else phase  # whose gradient is at hand
    elif phase == ZOOM:
        step = _between(low, high)
    else:
        step = _beyond(high, low)
    return Search(phase, tries, step, origin, low, high)


def _between(low: Point, high: Point) -> float:
    """Return a step within the interval: where a cubic is lowest, or half way, not too close to either end.

    Close to `low` where nothing is known of the other end but that it is too far.
    """
    width = high.step - low.step
    step = cubic_minimum(low, high)
    share = 0.5 if step is None else (step - low.step) / width
    return low.step + min(max(share if math.isfinite(high.loss) else 0.0, MARGIN), 1 - MARGIN) * width


def _beyond(before: Point, point: Point) -> float:
    """Return a longer step than that of `point`: where a cubic is lowest, within limits."""
    least, most = point.step + MARGIN * (point.step - before.step), GROWTH * point.step
    step = cubic_minimum(before, point)
    return most if step is None or step <= point.step else min(max(step, least), most)


def cubic_minimum(a: Point, b: Point) -> float | None:
    """Return where the cubic with the values and slopes of two points has its minimum; None where there is none."""
    if not all(map(math.isfinite, (*a, *b))) or a.step == b.step:
        return None
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    square = d1 * d1 - a.slope * b.slope
    if not 0 <= square < math.inf:
        return None
    d2 = math.copysign(math.sqrt(square), b.step - a.step)
    below = b.slope - a.slope + 2 * d2
    return b.step - (b.step - a.step) * (b.slope + d2 - d1) / below if below else None
