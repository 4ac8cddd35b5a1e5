"""One split of a data set: what every reader returns and every consumer takes."""

import hashlib
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmnist_xp.data.mapped import pieces

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their labels.

    `images` is uint8 of shape (n, 28, 28), `labels` uint8 of shape (n,) with values 0 to 9 (the index into
    `CLASS_NAMES`). Integers of another width, or a list, are converted where their values fit; TypeError for numbers
    of another kind, ValueError for other shapes and values. `name` says what the images are: "fashion-mnist" (the
    published ones, by their checksum), "synthetic" or "custom". `source` says, for the log, where they came from.

    Images that are uint8 already are neither copied nor looked at: they may be mapped from a file that is larger than
    the memory, see `mapped`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    name: str
    source: str

    def __post_init__(self) -> None:
        """Check and convert images and labels."""
        object.__setattr__(self, "images", _bytes("images", self.images, 255))
        object.__setattr__(self, "labels", _bytes("labels", self.labels, 9))
        n = len(self.labels) if self.labels.ndim == 1 else 0
        if n == 0 or self.images.shape != (n, 28, 28):
            raise ValueError(
                f"images of shape {self.images.shape} and labels of shape {self.labels.shape} given; "
                "(n, 28, 28) and (n,) are needed, n at least 1"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the images' bytes followed by the labels' bytes, in hexadecimal."""
        digest = hashlib.sha256()
        for images in pieces(self.images):
            digest.update(np.ascontiguousarray(images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def renamed(self, name: str) -> Self:
        """Return the same images and labels under another name, keeping the checksum if it was computed."""
        other = copy(self)
        object.__setattr__(other, "name", name)
        return other


def _bytes(name: str, values: ArrayLike, highest: int) -> NDArray[np.uint8]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} of dtype {array.dtype} given; whole numbers from 0 to {highest} are needed")
    possible = np.iinfo(array.dtype)
    if (possible.min < 0 or possible.max > highest) and array.size and (array.min() < 0 or array.max() > highest):
        raise ValueError(f"{name} from {array.min()} to {array.max()} given; they go from 0 to {highest}")
    return array.astype(np.uint8, copy=False)
