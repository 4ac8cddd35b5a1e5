"""One split of a data set, as every reader returns it and every consumer takes it."""

import hashlib
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their labels.

    `images` is uint8 of shape (n, 28, 28), `labels` uint8 of shape (n,) with values 0 to 9 (the index into
    `CLASS_NAMES`). `name` says what the images are: "fashion-mnist" (the published ones, by their checksum),
    "synthetic" or "custom". `source` says in words where they were read, for the log.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    name: str
    source: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the images' bytes followed by the labels' bytes, in hexadecimal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def renamed(self, name: str) -> Self:
        """Return the same images and labels under another name, with the checksum if it is known already."""
        other = copy(self)
        object.__setattr__(other, "name", name)
        return other
