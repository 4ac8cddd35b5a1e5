"""Made data, and a way to compare data sets that are in different orders."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data import Dataset


def made(n: int, seed: int = 0) -> Dataset:
    """Return n images of noise, labelled 0 to 9 in turn."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return Dataset(images, np.arange(n, dtype=np.uint8) % 10, "custom", "made")


def by_label(dataset: Dataset) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images and labels in order of label, within a label as they were."""
    order = np.argsort(dataset.labels, kind="stable")
    return dataset.images[order], dataset.labels[order]


def opened(path: Path) -> NDArray[np.uint8]:
    """Return what OpenCV itself reads from an image file, unchanged, as the notebook reads it."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image, np.uint8)
