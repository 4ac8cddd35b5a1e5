"""Conversion of images to the rows that a network takes."""

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.pixels import pixels


def preprocess(dataset: Dataset, shuffle_seed: int | None = None) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return (X, y): rows `(pixel - 127.5) / 127.5`, float32 (n, 784) in [-1, 1], and labels, uint8 (n,).

    With a `shuffle_seed`, rows and labels are in the order of one permutation,
    `numpy.random.default_rng(shuffle_seed).permutation(n)`; without, they keep theirs. Takes only a few MB beyond the
    result. TypeError for anything but a `Dataset`, ValueError for a seed that is not an integer of at least 0.
    """
    rows, labels = pixels(dataset, shuffle_seed)
    return np.asarray(rows), labels
