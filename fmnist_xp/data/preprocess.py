"""Conversion of images to the rows that a network takes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.arguments import whole_number
from fmnist_xp.data.dataset import Dataset

_CHUNK = 1000
"""Rows at a time: 3 MB of float32, which stay in the processor's cache between the three steps."""


def preprocess(dataset: Dataset, shuffle_seed: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return (X, y): rows `(pixel - 127.5) / 127.5`, float32 (n, 784) in [-1, 1], and labels, uint8 (n,).

    With a `shuffle_seed`, rows and labels are in the order of one permutation,
    `numpy.random.default_rng(shuffle_seed).permutation(n)`; without, they keep theirs. Takes only a few MB beyond the
    result. TypeError for anything but a `Dataset`, ValueError for a seed that is not an integer of at least 0.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset must be a Dataset, not {type(dataset).__name__}: Dataset(images, labels, name, source)"
        )
    if shuffle_seed is None:
        return scale(dataset.images), dataset.labels.copy()
    order = np.random.default_rng(whole_number("shuffle_seed", shuffle_seed, 0)).permutation(len(dataset))
    return scale(dataset.images, order), dataset.labels[order]


def scale(images: NDArray[np.uint8], order: NDArray[np.integer[Any]] | None = None) -> NDArray[np.float32]:
    """Return the rows of `preprocess` for uint8 images (n, 28, 28), in `order` if given: float32 (n, 784)."""
    pixels = images.reshape(len(images), -1)
    rows = np.empty(pixels.shape, np.float32)
    half = np.float32(127.5)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        chunk = rows[part]
        chunk[:] = pixels[part] if order is None else pixels[order[part]]
        chunk -= half
        chunk /= half
    return rows
