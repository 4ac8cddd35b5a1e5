"""Preparation of a photograph of a garment, to look like the images that the network was trained on.

Follows section 2 of Xiao, Rasul and Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
Learning Algorithms" (2017, arXiv:1708.07747): trim the border, bring the longest edge to 28 pixels, sharpen,
extend the shortest edge to 28 with the garment in the middle, negate so that the garment is light on black,
keep 8-bit grey. What was white there is first found, by `cut_out`.
"""

from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.cutout import cut_out
from fmnist_xp.data.imagefile import check_image, read_file
from fmnist_xp.data.opencv import decoder, opencv
from fmnist_xp.errors import DataError

MOST_PIXELS = 50_000_000
"""Most pixels of a photograph; while it is read, each takes up to 20 bytes of memory."""
MOST_BYTES = 1 << 27
"""Most bytes of its file."""

_SIDE = 28
_WORKED_ON = 1 << 16
"""How many pixels a photograph is shrunk to before its garment is looked for."""
_DARK, _LIGHT = 16, 239
"""The lightest grey value that counts as black, and the darkest that counts as white."""
_BLACK_BORDER = 0.25
"""Least share of black pixels in the border of an image of the data set's own kind. Of Fashion-MNIST's 70,000 images
the one with the least has 0.277."""


class Photograph(NamedTuple):
    """What a network sees of a photograph.

    `image` is uint8 (28, 28), light on black; `shown` the photograph, uint8 (height, width, 3) in OpenCV's order of
    colours, of about 256 x 256 pixels at most; `garment`, bool (height, width), where the garment was found on it;
    `doubts` why that may be wrong, in words.
    """

    image: NDArray[np.uint8]
    shown: NDArray[np.uint8]
    garment: NDArray[np.bool_]
    doubts: tuple[str, ...]


def prepare_photograph(path: Path, longest_edge: int = _SIDE) -> Photograph:
    """Return the garment in an image file as an image of the data set.

    Takes a PNG, JPEG, WebP or BMP file of up to `MOST_PIXELS` and `MOST_BYTES`, grey or colour, on a background that
    shows along the border. Transparent parts count as white. A garment that is darker than its background is
    inverted. Its longest edge becomes `longest_edge` pixels. An image of 28 x 28 grey pixels that can be of the data
    set itself, since its border is black where the garment leaves room, is returned unchanged. DataError for what is
    not a regular file, cannot be read or decoded, or is larger, and for an image with nothing on its background.
    """
    photograph = _read(path)
    if photograph.min() == photograph.max():
        raise DataError(f"{path}: the image is blank; give one of a single thing on a plain background")
    if _is_own(photograph):
        image = photograph[..., 0].copy()
        return Photograph(image, photograph, image > 0, ())
    cv2 = opencv()
    height, width = photograph.shape[:2]
    scale = (_WORKED_ON / (height * width)) ** 0.5
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        photograph = np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), np.uint8)
    if np.isin(photograph, (0, 255)).all():  # dots of a printer's kind: what they stand for is their mean
        photograph = np.asarray(cv2.GaussianBlur(photograph, (0, 0), 1.0), np.uint8)
    garment, darker, doubts = cut_out(photograph)
    if not garment.any():
        raise DataError(f"{path}: nothing stands out from the background; give an image on which something does")
    grey = cv2.cvtColor(photograph, cv2.COLOR_BGR2GRAY).astype(np.float32)
    light = np.where(garment, 255 - grey if darker else grey, 0)
    rows, columns = np.flatnonzero(garment.any(1)), np.flatnonzero(garment.any(0))
    image = _fit(light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], longest_edge)
    return Photograph(image, photograph, garment, doubts)


def longest_edge(images: NDArray[np.uint8]) -> int:
    """Return the longest edge that the things on images (n, 28, 28) have, the median of up to 10,000 of them.

    A thing is all that is not black. 28 where there is none.
    """
    there = images[:10_000] > _DARK
    found = np.maximum(_extent(there, 1), _extent(there, 2))
    return int(np.median(found[found > 0])) if found.any() else _SIDE


def _extent(there: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """Return how many pixels lie from the first to the last True along the other axis of each of (n, 28, 28)."""
    line = np.asarray(there.any(axis))
    last = line.shape[1] - line[:, ::-1].argmax(axis=1)
    return np.where(line.any(axis=1), last - line.argmax(axis=1), 0)


def _is_own(photograph: NDArray[np.uint8]) -> bool:
    """Say whether this can be an image of the data set: 28 x 28, grey, its border black and not white."""
    if photograph.shape != (_SIDE, _SIDE, 3) or (photograph != photograph[..., :1]).any():
        return False
    grey = photograph[..., 0]
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    black = np.mean(border <= _DARK)
    return bool(black >= _BLACK_BORDER and black > np.mean(border >= _LIGHT))


def _read(path: Path) -> NDArray[np.uint8]:
    """Return an image file as colours (height, width, 3), upright, 8 bits each, on white."""
    cv2 = opencv()
    content, _ = read_file(str(path), MOST_BYTES)
    try:
        width, height, file = check_image(content)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    if width * height > MOST_PIXELS:
        raise DataError(f"{path}: {width} x {height} pixels found, more than {MOST_PIXELS:,}; make it smaller")
    image = decoder(cv2.IMREAD_UNCHANGED)(file)
    if image is not None and image.ndim == 3 and image.shape[2] == 4:
        return _upright(_on_white(image), file)
    # When it decodes to colours, OpenCV also applies the camera's orientation and converts 16 bits to 8.
    colours = decoder(cv2.IMREAD_COLOR)(file)
    if image is None or colours is None:
        raise DataError(f"{path}: not an image that OpenCV can decode; save it again as PNG or JPEG")
    return np.asarray(colours, np.uint8)


def _on_white(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return colours and opacity, uint8 or uint16 (height, width, 4), as colours on white."""
    most = np.iinfo(image.dtype).max
    colours = np.empty((*image.shape[:2], 3), np.uint8)
    for start in range(0, len(image), 256):  # rows; all at once would take 40 bytes a pixel
        part = slice(start, start + 256)
        colour, opaque = np.split(image[part].astype(np.float32) / most, [3], axis=2)
        colours[part] = np.rint(255 * (colour * opaque + 1 - opaque))
    return colours


def _upright(image: NDArray[np.uint8], file: bytes) -> NDArray[np.uint8]:
    """Return an image as it was held, by the tag of its file, which OpenCV heeds only without opacity."""
    from PIL import ExifTags, Image, ImageOps

    try:
        orientation = Image.open(BytesIO(file)).getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError):  # an Exif part that is none
        return image
    held = Image.fromarray(image)
    held.getexif()[ExifTags.Base.Orientation] = orientation
    return np.asarray(ImageOps.exif_transpose(held), np.uint8)


def _fit(light: NDArray[np.float32], longest_edge: int) -> NDArray[np.uint8]:
    """Scale the longest edge, sharpen if that made it smaller, centre it in a black square, and make it as light.

    The lightest pixel of every image of Fashion-MNIST is 254 or 255.
    """
    cv2 = opencv()
    height, width = light.shape
    scale = longest_edge / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(light, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    image = np.zeros((_SIDE, _SIDE), np.float32)
    # An odd pixel goes above or to the left, as in the data set.
    top, left = (_SIDE + 1 - size[1]) // 2, (_SIDE + 1 - size[0]) // 2
    image[top : top + size[1], left : left + size[0]] = small
    if scale < 1:
        # A third of the paper's "Gaussian operator of the radius and standard deviation of 1.0"; within the garment.
        sharp = image + 0.3 * (image - cv2.GaussianBlur(image, (3, 3), 1.0))
        image = np.where(image > 0, sharp, 0).clip(0)
    return np.asarray(np.rint(image * (255 / max(image.max(), 1))).clip(0, 255), np.uint8)
