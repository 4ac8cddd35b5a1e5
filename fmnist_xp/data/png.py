"""Undoing PNG's filters for many images at once (W3C, Portable Network Graphics, section 9)."""

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.opencv import opencv

Bytes = NDArray[np.uint8]
SUB, UP, AVERAGE, PAETH = 1, 2, 3, 4


class Unfilter:
    """Undoes the filters of up to `most` images at a time, in memory that it keeps: new memory takes longer."""

    def __init__(self, most: int) -> None:
        self._planes = np.empty(28 * 29 * most, np.uint8)
        self._skewed = np.empty(57 * 29 * most, np.uint8)

    def __call__(self, scanlines: Bytes, images: Bytes) -> NDArray[np.bool_]:
        """Write the images in `scanlines`, uint8 (n, 28, 29), to `images`, uint8 (n, 28, 28), both contiguous.

        Return, bool (n,), which are right: those with no other filters than PNG's. The first byte of a scanline
        is the row's filter. A pixel depends on those to its left, above it and between the two, so pixels on one
        diagonal, row + column = d, do not depend on one another: 55 diagonals are decoded one after the other,
        each for all rows and images in a few operations. `skewed[2 + d, 1 + row]` holds the pixel of all images.
        """
        cv2 = opencv()
        n = len(scanlines)
        planes = self._planes[: 28 * 29 * n].reshape(28, 29, n)
        skewed = self._skewed[: 57 * 29 * n].reshape(57, 29, n)
        cv2.transpose(scanlines.reshape(n, -1), planes.reshape(-1, n))
        filters = planes[:, 0]
        skewed[:, 0] = 0  # above the image
        for row in range(28):
            skewed[1 + row, 1 + row] = 0  # left of it
            skewed[2 + row : 30 + row, 1 + row] = planes[row, 1:]
        _undo(filters, skewed)
        pixels = self._planes[: 28 * 28 * n].reshape(28, 28, n)
        done: NDArray[np.bool_] = filters.max(0) <= PAETH
        for row in range(28):
            pixels[row] = skewed[2 + row : 30 + row, 1 + row]
        cv2.transpose(pixels.reshape(-1, n), images.reshape(n, -1))
        return done


def _undo(filters: Bytes, skewed: Bytes) -> None:
    """Decode `skewed`, see `Unfilter`, in place; `filters` is (28, n)."""
    paeth = filters == PAETH
    # Of one pixel and zeros Paeth takes the pixel: Sub and Up are Paeth without the other neighbours.
    with_left, with_above, with_corner = _mask(paeth | (filters == SUB)), _mask(paeth | (filters == UP)), _mask(paeth)
    average = _mask(filters == AVERAGE)
    any_paeth, any_average = paeth.any(), average.any()
    for d in range(55):
        rows = slice(max(0, d - 27), min(d, 27) + 1)
        below = slice(rows.start + 1, rows.stop + 1)
        left, above, corner = skewed[1 + d, below], skewed[1 + d, rows], skewed[d, rows]
        a, b = left & with_left[rows], above & with_above[rows]
        guess = _paeth(a, b, corner & with_corner[rows]) if any_paeth else a + b
        if any_average:
            guess += _average(left, above) & average[rows]
        skewed[2 + d, below] += guess


def _mask(condition: NDArray[np.bool_]) -> Bytes:
    """Return 255 where the condition holds, else 0; `&` with it is far faster than `np.where`."""
    return np.negative(condition.view(np.uint8))


def _average(a: Bytes, b: Bytes) -> Bytes:
    """Return (a + b) // 2 without a ninth bit."""
    return (a & b) + ((a ^ b) >> 1)


def _paeth(a: Bytes, b: Bytes, c: Bytes) -> Bytes:
    """Return which of a (left), b (above) and c (corner) is nearest to a + b - c, the first of those as near.

    Let low <= high be a and b. Then it is low where 2 (high - c) <= c - low, high where 2 (c - low) <= high - c,
    and else c. This also holds where c is not between them, if the difference below 0 is taken as 0.
    """
    low, high = np.minimum(a, b), np.maximum(a, b)
    down, up = np.maximum(c, low) - low, np.maximum(c, high) - c
    is_low, is_high = (up <= down >> 1).view(np.uint8), (down <= up >> 1).view(np.uint8)
    nearest: Bytes = c - is_low * down + is_high * up
    return nearest
