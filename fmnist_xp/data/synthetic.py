"""Synthetic data: garments drawn from a seed, for a machine without the data set and without a network.

Each class is a few polygons with random corners, shades and angles (`garments`). OpenCV fills them at four times
the size and scales them to 28 x 28; then they get stripes, shading and grain. The four upper garments overlap in
sleeve length, width and neckline, as the real ones do.
"""

from math import pi

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.garments import Floats, Parts, draw_parts
from fmnist_xp.data.opencv import on_threads, opencv

VERSION = 1
"""Version of the drawings: raise it when they change; it is part of the cache's key."""

_SCALE = 4
_BLOCK = 500
"""Images drawn from one generator; fixed, so that the number of threads does not affect the result."""


def make_synthetic(n_train: int = 60_000, n_test: int = 10_000, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Return (train, test) of synthetic garments, labelled by their index in `CLASS_NAMES`.

    The classes are balanced (to within one image, where ten does not divide the number) and shuffled. The same
    numbers and seed give the same bits on any number of threads, for one version of OpenCV and NumPy. A well-trained
    linear model reaches a test accuracy of about 0.87.
    """
    return _draw_split(n_train, (seed, 0)), _draw_split(n_test, (seed, 1))


def _draw_split(n: int, seed: tuple[int, int]) -> Dataset:
    labels = np.random.default_rng(seed).permutation(np.arange(n) % 10).astype(np.uint8)
    images = np.empty((n, 28, 28), np.uint8)

    def work(start: int) -> None:
        block = slice(start, start + _BLOCK)
        images[block] = _draw_block(labels[block], np.random.default_rng((*seed, start)))

    on_threads(work, range(0, n, _BLOCK))
    return Dataset(images, labels, "synthetic", "drawn by make_synthetic")


def _draw_block(labels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    shapes = np.zeros((len(labels), 28, 28), np.uint8)
    for label in range(10):
        chosen = np.flatnonzero(labels == label)
        parts = _place(draw_parts(label, rng, len(chosen)), rng, len(chosen))
        _fill(shapes, chosen, parts)
    return _texture(shapes.astype(np.float32), rng)


def _place(parts: Parts, rng: np.random.Generator, n: int) -> Parts:
    """Stretch, rotate and move each garment a little, all its parts alike."""
    angle = rng.normal(0, 0.07, (n, 1))
    stretch = rng.uniform(0.82, 1.06, (2, n, 1))
    shift = rng.normal(0, 0.018, (2, n, 1))
    mirror = np.sign(rng.uniform(-0.5, 1, (n, 1)))  # some shoes and bags point the other way
    placed = []
    for points, shade in parts:
        x, y = (points[..., 0] - 0.5) * stretch[0] * mirror, (points[..., 1] - 0.5) * stretch[1]
        turned = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
        placed.append((np.stack([turned[0] + shift[0], turned[1] + shift[1]], -1) + 0.5, shade))
    return placed


def _fill(shapes: NDArray[np.uint8], chosen: NDArray[np.intp], parts: Parts) -> None:
    """Fill the parts of each garment, one over the other, and scale the drawing to 28 x 28."""
    cv2 = opencv()
    side = 28 * _SCALE
    fixed = [(np.rint(points * (side * 16)).astype(np.int32), shade) for points, shade in parts]
    for index, image in enumerate(chosen):
        canvas = np.zeros((side, side), np.uint8)
        for points, shade in fixed:  # corners to a sixteenth of a pixel: shift=4
            cv2.fillPoly(canvas, [points[index]], float(shade[index]), cv2.LINE_8, 4)
        shapes[image] = cv2.resize(canvas, (28, 28), interpolation=cv2.INTER_AREA)


def _texture(shapes: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Give the garments their brightness, printed stripes, light from one side, and grain."""
    n = len(shapes)

    def each(low: float, high: float) -> Floats:
        return rng.uniform(low, high, (n, 1, 1))

    y, x = np.mgrid[0:28, 0:28] / 27 - 0.5
    brightness = np.where(each(0, 1) < 0.2, each(0.25, 0.6), each(0.7, 1.4))
    direction = rng.choice([0, pi / 2, pi / 4], (n, 1, 1), p=[0.3, 0.5, 0.2])
    wave = np.sin(2 * pi * each(3, 8) * (x * np.cos(direction) + y * np.sin(direction)) + each(0, 2 * pi))
    strength = np.where(each(0, 1) < 0.3, each(0.1, 0.45), 0.0)
    light = 1 + each(-0.35, 0.35) * x + each(-0.25, 0.25) * y
    grain = 1 + rng.standard_normal(shapes.shape, np.float32) * each(0.01, 0.1)
    garment = shapes * brightness * (1 + strength * wave) * light * grain
    return np.asarray(garment.clip(0, 255), np.uint8)
