"""Photographs made of the data set's images: enlarged, turned, put on grounds, lit and compressed.

A garment of the data set is light on black since its photograph, on white, was negated (Xiao 2017, section 2). Here
it gets its shade back, 255 minus the pixel, or is a light garment of the same pattern. Where the data set has black
there is no garment: the ground shows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
SIDE, GARMENT = 448, 336
"""Pixels of a photograph's edges, and of the garment's 28 enlarged twelve times."""
FAINT = 12
"""The faintest pixel that is taken for garment, not for a trace beside it."""


class Scene(NamedTuple):
    """A photograph, uint8 (448, 448) or (448, 448, 3) as OpenCV has colours, and its garment, bool (448, 448)."""

    photograph: NDArray[np.uint8]
    cover: NDArray[np.bool_]


class _Placed(NamedTuple):
    """A garment in its place: its pixels and how much of each is garment, 0 to 255 and 0 to 1, both (448, 448)."""

    pixels: Floats
    cover: Floats


def _place(image: NDArray[np.uint8], rng: np.random.Generator, degrees: float = 0.0) -> _Placed:
    """Enlarge an image, turn it by up to `degrees` either way, and put it anywhere on the canvas."""
    angle = rng.uniform(-degrees, degrees) if degrees else 0.0
    room = (SIDE - GARMENT) // 2 - (24 if degrees else 4)
    matrix: Any = cv2.getRotationMatrix2D((14.0 - 0.5, 14.0 - 0.5), angle, GARMENT / 28)
    matrix[:, 2] += SIDE / 2 - 13.5 + rng.uniform(-room, room, 2)

    def enlarged(values: NDArray[np.generic], how: int) -> Floats:
        return np.asarray(cv2.warpAffine(np.asarray(values, np.float32), matrix, (SIDE, SIDE), flags=how), np.float32)

    # The pixels are spread over the edge first, or it would fade into the data set's black.
    there = image > FAINT
    spread = np.where(there, image, cv2.dilate(image, np.ones((3, 3), np.uint8)))
    cover = enlarged(there, cv2.INTER_LINEAR)
    return _Placed(enlarged(spread, cv2.INTER_CUBIC).clip(0, 255), ((cover - 0.5) * 6 + 0.5).clip(0, 1))


def _noise(rng: np.random.Generator, across: float, down: float) -> Floats:
    """Return smooth noise of mean 0 and deviation 1, with blotches of so many pixels across and down."""
    small = rng.standard_normal((int(SIDE / down) + 2, int(SIDE / across) + 2))
    noise = np.asarray(cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def _coloured(grey: Floats | float, hue: float, saturation: float) -> Floats:
    """Return the colour of the hue 0 to 360 and saturation 0 to 1 that has this grey value, as (448, 448, 3)."""
    flat = np.full((1, 1, 3), (hue, saturation, 1.0), np.float32)
    colour = cv2.cvtColor(flat, cv2.COLOR_HSV2BGR)
    factor = (
        np.broadcast_to(np.asarray(grey, np.float32), (SIDE, SIDE)) / cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY)[0, 0]
    )
    return np.asarray(factor[..., None] * colour[0, 0], np.float32)


def _plain(value: float) -> Floats:
    return np.full((SIDE, SIDE, 3), value, np.float32)


def _wood(rng: np.random.Generator) -> Floats:
    """Return boards: fine and broad grain along them, joints between them."""
    grain = 0.6 * _noise(rng, 3, 160) + 0.5 * _noise(rng, 11, 240) + 0.3 * _noise(rng, 60, 200)
    grey = rng.uniform(110, 170) + 14 * grain
    joints = (np.arange(SIDE) + rng.integers(0, 110)) % 110 < 3
    grey[:, joints] -= 45
    board = _coloured(grey.clip(0, 255), rng.uniform(18, 34), rng.uniform(0.35, 0.6))
    return np.ascontiguousarray(board.transpose(1, 0, 2)) if rng.random() < 0.5 else board


def _cloth(rng: np.random.Generator) -> Floats:
    """Return a weave with folds."""
    down, across = np.mgrid[:SIDE, :SIDE]
    weave = np.sin(across * 2 * np.pi / 5) * np.sin(down * 2 * np.pi / 5)
    grey = rng.uniform(120, 200) + 14 * weave + 10 * _noise(rng, 120, 220) + 4 * _noise(rng, 2, 2)
    return _coloured(grey.clip(0, 255), rng.uniform(0, 360), rng.uniform(0.1, 0.5))


def _on(ground: Floats, garment: _Placed, shade: Floats) -> Floats:
    """Lay a garment of a grey or coloured shade on the ground."""
    shade = shade if shade.ndim == 3 else np.repeat(shade[..., None], 3, axis=2)
    return ground + (shade - ground) * garment.cover[..., None]


def _lit(photograph: Floats, rng: np.random.Generator, cover: Floats) -> Floats:
    """Light it from one side, and let the garment throw a soft shadow."""
    angle = rng.uniform(0, 2 * np.pi)
    down, across = np.mgrid[-0.5 : 0.5 : SIDE * 1j, -0.5 : 0.5 : SIDE * 1j]
    light = 0.82 + 0.3 * (np.cos(angle) * across + np.sin(angle) * down)
    moved = np.roll(cover, (8, 8), axis=(0, 1))
    shadow = 1 - 0.22 * cv2.GaussianBlur(moved, (0, 0), 6) * (1 - cover)
    return np.asarray(photograph * (light * shadow)[..., None], np.float32)


def _noisy(photograph: Floats, rng: np.random.Generator, deviation: float) -> Floats:
    return photograph + np.float32(deviation) * rng.standard_normal(photograph.shape, np.float32)


def _bytes(photograph: Floats) -> NDArray[np.uint8]:
    return np.asarray(np.rint(photograph.clip(0, 255)), np.uint8)


def _jpeg(photograph: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    _, file = cv2.imencode(".jpg", photograph, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)


def _dither(photograph: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return black and white dots, by Floyd and Steinberg's error diffusion."""
    return np.asarray(Image.fromarray(photograph[..., 0]).convert("1"), np.uint8) * 255


Paint = Callable[[_Placed, np.random.Generator], Floats]


def _white(garment: _Placed, _rng: np.random.Generator) -> Floats:
    return _on(_plain(255), garment, 255 - garment.pixels)


def _nearly_white(garment: _Placed, _rng: np.random.Generator) -> Floats:
    return _on(_plain(250), garment, 240 - garment.pixels * (45 / 255))


def _black(garment: _Placed, _rng: np.random.Generator) -> Floats:
    return _on(_plain(0), garment, garment.pixels)


def _light_on_grey(garment: _Placed, rng: np.random.Generator) -> Floats:
    return _on(_plain(rng.uniform(90, 140)), garment, 160 + garment.pixels * (95 / 255))


def _on_colour(garment: _Placed, rng: np.random.Generator) -> Floats:
    ground = _coloured(rng.uniform(110, 190), rng.uniform(0, 360), rng.uniform(0.4, 0.8))
    return _on(ground, garment, 255 - garment.pixels)


def _colour_on_colour(garment: _Placed, rng: np.random.Generator) -> Floats:
    """Make garment and ground of one grey value on average, and of opposite hues."""
    hue = rng.uniform(0, 360)
    shade = 130 + (127 - garment.pixels) * 0.4
    ground = _coloured(130, hue, 0.5)
    return _on(ground, garment, _coloured(shade, (hue + 180) % 360, 0.5))


def _on_wood(garment: _Placed, rng: np.random.Generator) -> Floats:
    return _on(_wood(rng), garment, 255 - garment.pixels)


def _on_cloth(garment: _Placed, rng: np.random.Generator) -> Floats:
    return _on(_cloth(rng), garment, 255 - garment.pixels)


def _lit_white(garment: _Placed, rng: np.random.Generator) -> Floats:
    return _lit(_white(garment, rng), rng, garment.cover)


def _noisy_grey(garment: _Placed, rng: np.random.Generator) -> Floats:
    return _noisy(_on(_plain(rng.uniform(170, 230)), garment, 255 - garment.pixels), rng, 20)


def _hard(garment: _Placed, rng: np.random.Generator) -> Floats:
    ground = _wood(rng) if rng.random() < 0.5 else _cloth(rng)
    return _noisy(_lit(_on(ground, garment, 255 - garment.pixels), rng, garment.cover), rng, 8)


GROUNDS: dict[str, tuple[Paint, float, Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None]] = {
    "white": (_white, 0, None),
    "black, garment light": (_black, 0, None),
    "white, turned by up to 8°": (_white, 8, None),
    "white, JPEG of quality 30": (_white, 0, lambda photograph: _jpeg(photograph, 30)),
    "white, garment nearly white": (_nearly_white, 0, None),
    "white, 1-bit dither": (_white, 0, _dither),
    "white, lit from one side, shadow": (_lit_white, 0, None),
    "grey, garment white": (_light_on_grey, 0, None),
    "light grey, noisy": (_noisy_grey, 0, None),
    "coloured": (_on_colour, 0, None),
    "coloured, garment of the opposite colour": (_colour_on_colour, 0, None),
    "wood": (_on_wood, 0, None),
    "cloth": (_on_cloth, 0, None),
    "wood or cloth, lit, noisy, turned, JPEG 50": (_hard, 8, lambda photograph: _jpeg(photograph, 50)),
}
"""How each is painted, turned by how many degrees, and what is done to the file."""


def make_scene(image: NDArray[np.uint8], ground: str, rng: np.random.Generator) -> Scene:
    """Return an image of the data set, uint8 (28, 28), as a photograph on one of `GROUNDS`."""
    paint, degrees, finish = GROUNDS[ground]
    garment = _place(image, rng, degrees)
    photograph = _bytes(paint(garment, rng))
    return Scene(finish(photograph) if finish else photograph, garment.cover > 0.5)
