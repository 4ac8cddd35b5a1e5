"""Images on disk, as many as asked for: garments drawn once, each copy a little out of its place."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data import Dataset, make_synthetic

DRAWN = 6_000
SHIFT = 2
"""Pixels by which a copy is moved at most, up or down and left or right: 25 times as many images as were drawn."""
PIECE = 10_000
"""Images that are made at once, 8 MB of them."""
TEST = 10

Split = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""Images (n, 28, 28) and labels (n,)."""


def write_images(folder: Path, rows: int) -> None:
    """Write `rows` training images, their labels, and a few test images to `folder` as plain IDX files.

    They depend on their number alone, and fewer are the first of more. What a shift leaves free is 0, background.
    """
    drawn, test = make_synthetic(DRAWN, TEST)
    _write(folder, "train", rows, shifted(drawn, rows))
    _write(folder, "t10k", TEST, [(test.images, test.labels)])


def shifted(drawn: Dataset, rows: int) -> Iterator[Split]:
    """Yield `rows` images in pieces, each one of `drawn` moved by up to `SHIFT` pixels, and their labels."""
    padded = np.pad(drawn.images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, drawn.images.shape[1:], axis=(1, 2))
    generator = np.random.default_rng(0)
    for start in range(0, rows, PIECE):
        which = generator.integers(0, len(drawn), PIECE)
        down, right = generator.integers(0, 2 * SHIFT + 1, (2, PIECE))
        part = slice(rows - start)
        yield windows[which[part], down[part], right[part]], drawn.labels[which[part]]


def _write(folder: Path, name: str, rows: int, pieces: Iterator[Split] | list[Split]) -> None:
    """Write both IDX files of a split: a magic number, the sizes, the bytes."""
    images, labels = folder / f"{name}-images-idx3-ubyte", folder / f"{name}-labels-idx1-ubyte"
    with images.open("wb") as image_file, labels.open("wb") as label_file:
        image_file.write(struct.pack(">4I", 0x0803, rows, 28, 28))
        label_file.write(struct.pack(">2I", 0x0801, rows))
        for piece_images, piece_labels in pieces:
            image_file.write(piece_images.tobytes())
            label_file.write(piece_labels.tobytes())
