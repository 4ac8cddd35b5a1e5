"""Summary statistics of a data set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.mapped import pieces
from fmnist_xp.data.published import is_published_split


@dataclass(frozen=True)
class SplitInfo:
    """Statistics of one split; `published` says whether these are Zalando's images, in either known order."""

    split: str
    name: str
    source: str
    shape: tuple[int, ...]
    dtype: str
    class_counts: tuple[int, ...]
    pixel_mean: float
    """Mean of the pixels over 255."""
    pixel_std: float
    """Standard deviation of the pixels over 255."""
    sha256: str
    published: bool


def describe(train: Dataset, test: Dataset) -> tuple[SplitInfo, SplitInfo]:
    """Return the statistics of both splits."""
    classes = max(len(train.class_names), len(test.class_names))
    return _describe("train", train, classes), _describe("test", test, classes)


def _describe(split: str, dataset: Dataset, classes: int) -> SplitInfo:
    counts = _counts(dataset.images, 256)
    grey = np.arange(256) / 255
    mean = float(counts @ grey / counts.sum())
    return SplitInfo(
        split=split,
        name=dataset.name,
        source=dataset.source,
        shape=dataset.images.shape,
        dtype=str(dataset.images.dtype),
        class_counts=tuple(_counts(dataset.labels, classes).tolist()),
        pixel_mean=mean,
        pixel_std=float(np.sqrt(counts @ (grey - mean) ** 2 / counts.sum())),
        sha256=dataset.sha256,
        published=is_published_split(split, dataset),
    )


def _counts(values: NDArray[np.uint8], kinds: int) -> NDArray[np.int64]:
    """Return how often each value below `kinds` is found; in pieces, since bincount makes 8 bytes of each."""
    counts = np.zeros(kinds, np.int64)
    for piece in pieces(values, 1000):
        counts += np.bincount(piece.ravel(), minlength=kinds)
    return counts
