"""Images of noise, PNG files, and a way to compare data sets in different orders."""

import itertools
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data import Dataset


def noise(n: int, seed: int = 0) -> Dataset:
    """Return n images of noise, labelled 0 to 9 in turn."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return Dataset(images, np.arange(n, dtype=np.uint8) % 10, "custom", "here")


def by_label(dataset: Dataset) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images and labels sorted by label, otherwise in their own order."""
    order = np.argsort(dataset.labels, kind="stable")
    return dataset.images[order], dataset.labels[order]


def opened(path: Path) -> NDArray[np.uint8]:
    """Return an image file as OpenCV reads it, unchanged, as in the notebook."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image, np.uint8)


def filtered(image: NDArray[np.uint8], filters: list[int]) -> bytes:
    """Return the scanlines of an 8-bit grey image, row k filtered by filters[k]: W3C PNG, section 9."""
    width = image.shape[1]

    def pixel(row: int, column: int) -> int:
        return int(image[row, column]) if row >= 0 and column >= 0 else 0

    def predicted(kind: int, row: int, column: int) -> int:
        a, b, c = pixel(row, column - 1), pixel(row - 1, column), pixel(row - 1, column - 1)
        p = a + b - c
        pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
        paeth = a if pa <= pb and pa <= pc else b if pb <= pc else c
        return (0, a, b, (a + b) // 2, paeth)[kind]

    lines = bytearray()
    for row, kind in enumerate(filters):
        lines.append(kind)
        lines += bytes((pixel(row, column) - predicted(kind, row, column)) % 256 for column in range(width))
    return bytes(lines)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    scanlines: bytes,
    width: int = 28,
    height: int = 28,
    depth: int = 8,
    colour: int = 0,
    interlace: int = 0,
    before: bytes = b"",
    parts: int = 1,
) -> bytes:
    """Return a PNG file of `scanlines`, with the chunks `before` its IDAT, which is split into `parts` chunks."""
    data = zlib.compress(scanlines)
    cuts = [len(data) * part // parts for part in range(parts + 1)]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    idat = b"".join(chunk(b"IDAT", data[start:end]) for start, end in itertools.pairwise(cuts))
    return b"\x89PNG\r\n\x1a\n" + head + before + idat + chunk(b"IEND", b"")
