"""Preparation of a photograph of a garment, to look like the images that the network was trained on.

Follows section 2 of Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms" (2017, arXiv:1708.07747): trim the border, bring the longest edge to 28 pixels, sharpen,
extend the shortest edge to 28 with the garment in the middle, negate so that the garment is light on black,
keep 8-bit grey.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.imagefile import check_image, read_file
from fmnist_xp.data.opencv import decoder, opencv
from fmnist_xp.errors import DataError

MOST_PIXELS = 50_000_000
"""Most pixels of a photograph; while it is prepared, each takes up to 20 bytes of memory."""
MOST_BYTES = 1 << 27
"""Most bytes of its file."""

_DARK = 16
"""The lightest border that counts as black, as in the data set's own images."""
_LEAST_CONTRAST = 10.0
"""Least difference in grey values between a garment and its background."""


def prepare_photograph(path: Path) -> NDArray[np.uint8]:
    """Return the garment in an image file, uint8 of shape (28, 28), light on black.

    Takes a PNG, JPEG, WebP or BMP file of up to `MOST_PIXELS` and `MOST_BYTES`, grey or colour, on a plain
    background, light or dark, that shows along the border. Transparent parts count as white. An image of 28 x 28 grey
    pixels with a black border, such as one of the data set, is returned unchanged. DataError for what is not a
    regular file, cannot be read or decoded, or is larger, and for an image with nothing on its background.
    """
    grey = _read_grey(path)
    background = float(np.median(_border(grey)))
    ready = grey.shape == (28, 28) and background <= _DARK
    difference = grey.astype(np.float32) - np.float32(background)
    garment = grey > 0 if ready else _garment(difference)
    if not garment.any():
        raise DataError(f"{path}: the image is blank; give one with a garment on a plain background")
    if ready:
        return grey
    # A garment that is darker than its background, on average, is inverted.
    if difference[garment].mean() < 0:
        light = -difference * (255 / background)
    else:
        light = difference * (255 / (255 - background))
    rows, columns = np.flatnonzero(garment.any(1)), np.flatnonzero(garment.any(0))
    return _fit(light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].clip(0, 255))


def _read_grey(path: Path) -> NDArray[np.uint8]:
    cv2 = opencv()
    content, _ = read_file(str(path), MOST_BYTES)
    try:
        width, height, file = check_image(content)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if width * height > MOST_PIXELS:
        raise DataError(f"{path}: {width} x {height} pixels found, more than {MOST_PIXELS:,}; make it smaller")
    image = decoder(cv2.IMREAD_UNCHANGED)(file)
    # When it decodes to grey, OpenCV also applies the camera's orientation and converts 16 bits to 8.
    grey = decoder(cv2.IMREAD_GRAYSCALE)(file)
    if image is None or grey is None:
        raise DataError(f"{path}: not an image that OpenCV can decode; save it again as PNG or JPEG")
    if image.ndim == 3 and image.shape[2] == 4:
        full = 255 if image.dtype == np.uint8 else 65535
        for start in range(0, len(image), 256):  # rows; all at once would take 40 bytes a pixel
            part = slice(start, start + 256)
            colour, opaque = np.split(image[part].astype(np.float32) / full, [3], axis=2)
            on_white = cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY) * opaque[..., 0] + (1 - opaque[..., 0])
            grey[part] = np.rint(on_white * 255)
    return np.asarray(grey, np.uint8)


def _border(grey: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])


def _garment(difference: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where the image differs from its background by more than the background's noise."""
    cv2 = opencv()
    noise = float(np.median(np.abs(_border(difference))))
    garment = (np.abs(difference) > _LEAST_CONTRAST + 5 * noise).astype(np.uint8)
    if min(garment.shape) >= 100:  # remove specks of dust and of JPEG compression
        garment = cv2.morphologyEx(garment, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return garment.astype(np.bool_)


def _fit(light: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Scale the longest edge to 28, sharpen if that made it smaller, and centre it in a black square."""
    cv2 = opencv()
    height, width = light.shape
    scale = 28 / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(light, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    image = np.zeros((28, 28), np.float32)
    # An odd pixel goes above or to the left, as in the data set.
    top, left = (29 - size[1]) // 2, (29 - size[0]) // 2
    image[top : top + size[1], left : left + size[0]] = small
    if scale < 1:
        # A third of the paper's "Gaussian operator of the radius and standard deviation of 1.0"; within the garment.
        sharp = image + 0.3 * (image - cv2.GaussianBlur(image, (3, 3), 1.0))
        image = np.where(image > 0, sharp, 0)
    return np.asarray(np.rint(image.clip(0, 255)), np.uint8)
