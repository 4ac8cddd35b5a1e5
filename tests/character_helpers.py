"""Printed characters, which a network learns in a few epochs, as data sets of any number of classes."""

from collections.abc import Sequence

import cv2
import numpy as np
from table_helpers import idx_files, sideways

from fmnist_xp.data import Dataset

FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)


def printed(characters: Sequence[str], each: int, seed: int = 0, first: int = 0) -> Dataset:
    """Return `each` images of each character, light on black, labelled by their place from `first` on."""
    generator = np.random.default_rng(seed)
    images = np.zeros((each * len(characters), 28, 28), np.uint8)
    labels = np.arange(len(images)) % len(characters)
    for image, label in zip(images, labels, strict=True):
        place = (4 + int(generator.integers(3)), 22 + int(generator.integers(3)))
        cv2.putText(
            image, characters[label], place, FONTS[generator.integers(3)], generator.uniform(0.75, 0.9), 255, 2
        )
    return Dataset(images, labels + first, "custom", "printed")


def letters(splits: tuple[Dataset, Dataset]) -> dict[str, bytes]:
    """Return EMNIST's files of letters, which lie on their side and count from 1, with the characters of each."""
    files = idx_files(*map(sideways, splits))
    mapping = "".join(f"{number} {64 + number} {96 + number}\n" for number in range(1, 27))
    named = {f"emnist-letters-{name.replace('t10k', 'test')}": content for name, content in files.items()}
    return named | {"emnist-letters-mapping.txt": mapping.encode()}
