"""Summary statistics of a data set."""

from dataclasses import dataclass

import numpy as np

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.published import SORTED_SHA256, sorted_sha256


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
    return _describe("train", train), _describe("test", test)


def _describe(split: str, dataset: Dataset) -> SplitInfo:
    # A histogram of grey values, in pieces: bincount makes 8 bytes of each pixel.
    counts = np.zeros(256, np.int64)
    for start in range(0, len(dataset), 1000):
        counts += np.bincount(dataset.images[start : start + 1000].ravel(), minlength=256)
    grey = np.arange(256) / 255
    mean = float(counts @ grey / counts.sum())
    return SplitInfo(
        split=split,
        name=dataset.name,
        source=dataset.source,
        shape=dataset.images.shape,
        dtype=str(dataset.images.dtype),
        class_counts=tuple(int(n) for n in np.bincount(dataset.labels, minlength=10)),
        pixel_mean=mean,
        pixel_std=float(np.sqrt(counts @ (grey - mean) ** 2 / counts.sum())),
        sha256=dataset.sha256,
        published=sorted_sha256(dataset) == SORTED_SHA256[split],
    )
