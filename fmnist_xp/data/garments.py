"""The outlines of ten kinds of garment, as polygons with random corners.

A garment is a list of parts, drawn one over the other: points of shape (n, corners, 2), x to the right and y
down in the unit square, and shades of shape (n,), 0 to 255, for n garments at once. Shade 0 cuts a hole. The order of
the random draws is part of the result.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Parts = list[tuple[Floats, Floats]]
Corner = tuple[Floats | float, Floats | float]


class _Draw:
    """Random numbers for n garments of one class."""

    def __init__(self, rng: np.random.Generator, n: int) -> None:
        self.rng, self.n = rng, n
        self.base = rng.uniform(130, 235, n)

    def between(self, low: float, high: float) -> Floats:
        return self.rng.uniform(low, high, self.n)

    def some(self, share: float, then: Floats | float, otherwise: Floats | float) -> Floats:
        """Return `then` for a share of the garments, `otherwise` for the rest."""
        return np.where(self.rng.random(self.n) < share, then, otherwise)

    def part(self, corners: list[Corner], shade: Floats | float = 1.0) -> tuple[Floats, Floats]:
        """Return one polygon; its shade is a factor on the garment's own."""
        points = [np.stack([np.broadcast_to(value, self.n) for value in corner], -1) for corner in corners]
        return np.stack(points, 1), np.clip(self.base * shade, 0, 255)

    def symmetric(self, half: list[Corner], shade: Floats | float = 1.0) -> tuple[Floats, Floats]:
        """Return the polygon whose right half has the corners (distance from the middle, y), top to bottom."""
        right: list[Corner] = [(0.5 + x, y) for x, y in half]
        left: list[Corner] = [(0.5 - x, y) for x, y in reversed(half)]
        return self.part(right + left, shade)

    def pair(self, half: list[Corner], left: Floats | float, right: Floats | float) -> Parts:
        """Return two polygons, the corners (distance from the middle, y) to the left and to the right, and shades."""
        sides = ((-1, left), (1, right))
        return [self.part([(0.5 + side * x, y) for x, y in half], shade) for side, shade in sides]


def _upper(d: _Draw, sleeve: Floats, *ranges: tuple[float, float]) -> Parts:
    """Body, two sleeves of length `sleeve` hanging `spread` radians from the vertical, and a neckline.

    The `ranges` are those of the half widths of shoulder, waist, hem and neck, and of `spread`.
    """
    shoulder, waist, hem, neck, spread = (d.between(*each) for each in ranges)
    top, bottom = d.between(0.04, 0.09), d.between(0.93, 0.98)
    width = d.between(0.09, 0.13)
    slope = d.between(0.03, 0.07)
    neck_depth = d.between(0.02, 0.1)
    elbow_x, elbow_y = np.sin(spread), np.cos(spread)
    start_y = top + slope
    end_x = np.minimum(shoulder + sleeve * elbow_x, 0.49)
    end_y = np.minimum(start_y + sleeve * elbow_y, 0.96)
    narrow = width * d.between(0.7, 1.0)
    body = d.symmetric([(neck, top), (shoulder, start_y), (waist, 0.5), (hem, bottom)])
    tint = d.some(0.2, d.between(0.6, 0.9), d.between(0.9, 1.05))
    arm: list[Corner] = [
        (shoulder - 0.06, top + 0.01),
        (shoulder, start_y),
        (end_x, end_y),
        (end_x - narrow, end_y + narrow * elbow_x),
        (shoulder - 0.05, start_y + width * 1.3),
    ]
    opening = d.symmetric([(neck * 0.9, top - 0.02), (neck * d.between(0.2, 0.8), top + neck_depth)], 0.0)
    return [*d.pair(arm, tint, tint), body, opening]


def _seam(d: _Draw, share: float, low: float, high: float) -> tuple[Floats, Floats]:
    """Return a line of buttons or a zip down the middle, for a share of the garments."""
    half, middle = d.some(share, d.between(0.006, 0.018), 0.0), d.between(-0.02, 0.02)
    x = 0.5 + middle
    return d.part([(x - half, 0.1), (x + half, 0.1), (x + half, 0.96), (x - half, 0.96)], d.between(low, high))


def _t_shirt(d: _Draw) -> Parts:
    sleeve = d.some(0.12, d.between(0.3, 0.75), d.between(0.1, 0.28))
    return _upper(d, sleeve, (0.24, 0.31), (0.21, 0.27), (0.21, 0.29), (0.07, 0.14), (0.45, 0.95))


def _shirt(d: _Draw) -> Parts:
    sleeve = d.some(0.35, d.between(0.12, 0.4), d.between(0.5, 0.82))
    parts = _upper(d, sleeve, (0.23, 0.30), (0.20, 0.26), (0.21, 0.28), (0.05, 0.11), (0.15, 0.55))
    collar = d.symmetric([(0.1, 0.04), (d.between(0.04, 0.09), d.between(0.1, 0.16))], d.between(0.75, 1.2))
    return [*parts, collar, parts[-1], _seam(d, 0.6, 0.6, 1.2)]


def _pullover(d: _Draw) -> Parts:
    sleeve = d.some(0.06, d.between(0.3, 0.5), d.between(0.62, 0.88))
    parts = _upper(d, sleeve, (0.24, 0.31), (0.21, 0.28), (0.22, 0.29), (0.05, 0.12), (0.12, 0.42))
    hem = d.symmetric([(0.23, 0.9), (0.23, 0.95)], d.between(0.8, 1.05))
    return [*parts, hem]


def _coat(d: _Draw) -> Parts:
    sleeve = d.between(0.62, 0.9)
    parts = _upper(d, sleeve, (0.22, 0.29), (0.2, 0.28), (0.22, 0.32), (0.06, 0.12), (0.08, 0.35))
    lapel = d.symmetric([(d.between(0.05, 0.11), 0.05), (0.005, d.between(0.25, 0.5))], d.between(0.55, 1.15))
    return [*parts, lapel, _seam(d, 0.8, 0.2, 0.9)]


def _dress(d: _Draw) -> Parts:
    shoulder, waist = d.between(0.12, 0.22), d.between(0.1, 0.18)
    hem = np.maximum(waist + d.between(-0.02, 0.16), 0.09)
    sleeve = d.some(0.35, d.between(0.1, 0.7), d.between(0.0, 0.03))
    top, waist_y, neck = d.between(0.02, 0.06), d.between(0.3, 0.45), d.between(0.04, 0.1)
    body = d.symmetric([(neck, top), (shoulder, top + 0.05), (waist, waist_y), (hem, d.between(0.8, 0.98))])
    end_x, end_y = shoulder + sleeve * np.sin(d.between(0.15, 0.4)), top + 0.06 + sleeve
    arm: list[Corner] = [
        (shoulder - 0.04, top + 0.02),
        (end_x, end_y),
        (end_x - 0.08, end_y),
        (shoulder - 0.06, top + 0.12),
    ]
    arms = d.pair(arm, d.between(0.8, 1.05), d.between(0.8, 1.05))
    opening = d.symmetric([(neck * 0.8, 0.0), (neck * d.between(0.1, 0.8), top + d.between(0.02, 0.14))], 0.0)
    return [*arms, body, opening]


def _trouser(d: _Draw) -> Parts:
    waist, hip = d.between(0.12, 0.19), d.between(0.14, 0.23)
    top, crotch, bottom = d.between(0.02, 0.06), d.between(0.28, 0.42), d.between(0.9, 0.98)
    stance, cuff = d.between(0.08, 0.16), d.between(0.05, 0.09)
    leg: list[Corner] = [
        (0, top),
        (waist, top),
        (hip, crotch),
        (stance + cuff, bottom),
        (stance - cuff, bottom),
        (d.between(0.004, 0.02), crotch),
    ]
    legs = d.pair(leg, 1.0, d.between(0.9, 1.05))
    belt = d.symmetric([(waist, top), (waist + 0.005, top + 0.04)], d.between(0.6, 1.15))
    return [*legs, belt]


def _shoe(d: _Draw, shaft: Floats, heel: Floats, sole: Floats, toe: Floats) -> Parts:
    """A shoe seen from the side, toe to the left: an upper with a shaft of that height, a heel and a sole."""
    ground = d.between(0.74, 0.86)
    floor = ground - heel
    back = d.between(0.88, 0.96)
    instep = floor - toe
    ankle = d.between(0.5, 0.62)
    upper = d.part(
        [
            (0.04, floor),
            (0.05, floor - toe * 0.6),
            (d.between(0.14, 0.24), instep),
            (ankle - 0.06, instep - d.between(0.04, 0.1)),
            (ankle, floor - shaft),
            (back - d.between(0.0, 0.05), floor - shaft - d.between(-0.03, 0.04)),
            (back, floor),
        ]
    )
    tread = d.part(
        [(0.03, ground), (0.03, ground - sole), (0.4, floor), (back, floor), (back, ground),
         (back - 0.22, ground), (back - 0.25, floor + (ground - floor) * 0.3), (0.4, ground)],
        d.between(0.4, 1.25),
    )  # fmt: skip
    return [upper, tread]


def _sneaker(d: _Draw) -> Parts:
    shaft = d.some(0.12, d.between(0.3, 0.42), d.between(0.18, 0.3))
    parts = _shoe(d, shaft, d.between(0.03, 0.06), d.between(0.03, 0.06), d.between(0.08, 0.14))
    x, y = d.between(0.3, 0.5), 0.62
    stripe = d.part(
        [(x, y - 0.02), (x + 0.06, y - 0.02), (x + 0.14, y + 0.12), (x + 0.08, y + 0.12)],
        d.some(0.5, d.between(0.3, 1.3), 1.0),
    )
    return [parts[0], stripe, parts[1]]


def _ankle_boot(d: _Draw) -> Parts:
    shaft = d.some(0.12, d.between(0.3, 0.45), d.between(0.42, 0.66))
    heel = d.some(0.4, d.between(0.08, 0.2), d.between(0.03, 0.08))
    return _shoe(d, shaft, heel, d.between(0.02, 0.05), d.between(0.09, 0.15))


def _sandal(d: _Draw) -> Parts:
    """A sole, a heel, and two or three straps: each a band over the foot with a hole cut into it."""
    heel = d.some(0.4, d.between(0.1, 0.28), d.between(0.02, 0.08))
    _, tread = _shoe(d, d.between(0.1, 0.3), heel, d.between(0.03, 0.06), d.between(0.08, 0.14))
    floor = tread[0][:, 2, 1]
    straps = []
    for left, right, low, high in ((0.08, 0.4, 0.08, 0.22), (0.3, 0.66, 0.1, 0.3), (0.6, 0.94, 0.12, 0.42)):
        start, end, height = d.between(left, left + 0.1), d.between(right - 0.12, right), d.between(low, high)
        band, lean = d.between(0.03, 0.09), d.between(-0.02, 0.1)
        height = height * d.some(0.85, 1.0, 0.0)
        for inset, shade in ((0.0, 1.0), (band, 0.0)):
            peak = floor - np.maximum(height - inset, 0)
            front: list[Corner] = [(start + inset, floor), (start + lean + inset, peak)]
            back: list[Corner] = [(end - inset, peak), (end + lean * 0.2 - inset, floor)]
            straps.append(d.part(front + back, shade))
    return [*straps, tread]


def _bag(d: _Draw) -> Parts:
    top, bottom = d.between(0.28, 0.45), d.between(0.78, 0.92)
    upper, lower = d.between(0.28, 0.44), d.between(0.32, 0.47)
    handle, height, thick = d.between(0.12, 0.3), d.between(0.06, 0.3), d.between(0.02, 0.05)
    peak = np.maximum(top - height, 0.03)
    bend = peak + height * 0.25
    bow, inside = (
        d.symmetric([(handle / 2 - t / 2, peak + t), (handle * 0.85 - t, bend + t), (handle - t, top + 0.02)], shade)
        for t, shade in ((0.0, 0.8), (thick, 0.0))
    )
    body = d.symmetric([(upper, top), (lower, (top + bottom) / 2), (lower - 0.02, bottom)])
    flap = d.symmetric([(upper, top), (upper * 0.97, top + d.between(0.05, 0.25))], d.between(0.75, 1.15))
    return [bow, inside, body, flap]


_GARMENTS: tuple[Callable[[_Draw], Parts], ...] = (
    _t_shirt, _trouser, _pullover, _dress, _coat, _sandal, _shirt, _sneaker, _bag, _ankle_boot,
)  # fmt: skip


def draw_parts(label: int, rng: np.random.Generator, n: int) -> Parts:
    """Return the parts of n garments of the class `label`."""
    return _GARMENTS[label](_Draw(rng, n))
