"""One split of a data set: what every reader returns and every consumer takes."""

import hashlib
from collections.abc import Iterable
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
"""The garments of Fashion-MNIST, by label."""
GARMENTS = ("fashion-mnist", "synthetic")
"""Names of data sets whose images show these."""
MOST_CLASSES = 256
"""As many as labels of one byte can tell apart."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and their labels.

    `images` is uint8 of shape (n, 28, 28), `labels` uint8 of shape (n,), the indices into `class_names`. Integers of
    another width, or a list, are converted where their values fit; TypeError for numbers of another kind, ValueError
    for other shapes and values. `name` says what the images are: "fashion-mnist" (the published ones, by their
    checksum), "synthetic" or "custom". `source` says, for the log, where they came from. `class_names` are 1 to 256
    texts, all different; by default `CLASS_NAMES` where the images show garments by their name, else "0", "1", … up
    to the highest label.

    Images that are uint8 already are neither copied nor looked at: they may be mapped from a file that is larger than
    the memory, see `mapped`.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    name: str
    source: str
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check and convert images, labels and class names."""
        names = checked_names(self.class_names or (CLASS_NAMES if self.name in GARMENTS else ()), 0)
        object.__setattr__(self, "images", _bytes("images", self.images, 255))
        object.__setattr__(self, "labels", _bytes("labels", self.labels, len(names or range(MOST_CLASSES)) - 1))
        n = len(self.labels) if self.labels.ndim == 1 else 0
        if n == 0 or self.images.shape != (n, 28, 28):
            raise ValueError(
                f"images of shape {self.images.shape} and labels of shape {self.labels.shape} given; "
                "(n, 28, 28) and (n,) are needed, n at least 1"
            )
        object.__setattr__(self, "class_names", names or numbers_as_names(int(self.labels.max()) + 1))

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

    def renamed(self, name: str, class_names: Iterable[str]) -> Self:
        """Return the same images and labels under other names, keeping the checksum if it was computed."""
        other = copy(self)
        object.__setattr__(other, "name", name)
        object.__setattr__(other, "class_names", checked_names(class_names, int(self.labels.max()) + 1))
        return other


def numbers_as_names(count: int, first: int = 0) -> tuple[str, ...]:
    """Return the names of `count` classes that have none: the labels that they have in their files, from `first`."""
    return tuple(map(str, range(first, first + count)))


def checked_names(names: Iterable[str], least: int = 1) -> tuple[str, ...]:
    """Return class names as a tuple; ValueError unless they are `least` to 256 texts, all different and printable."""
    found = tuple(names)
    if not least <= len(found) <= MOST_CLASSES:
        raise ValueError(f"{len(found)} class names found; {least} to {MOST_CLASSES} are possible: labels are bytes")
    seen: set[str] = set()
    for name in found:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise ValueError(f"{name!r:.80} is no class name; some text on one line is needed")
        if name in seen:
            raise ValueError(f"class name {name!r:.80} found twice; each class needs one of its own")
        seen.add(name)
    return found


def _bytes(name: str, values: ArrayLike, highest: int) -> NDArray[np.uint8]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} of dtype {array.dtype} given; whole numbers from 0 to {highest} are needed")
    possible = np.iinfo(array.dtype)
    if (possible.min < 0 or possible.max > highest) and array.size and (array.min() < 0 or array.max() > highest):
        limit = f", of at most {MOST_CLASSES} classes" if name == "labels" and highest == MOST_CLASSES - 1 else ""
        raise ValueError(f"{name} from {array.min()} to {array.max()} given; they go from 0 to {highest}{limit}")
    return array.astype(np.uint8, copy=False)
