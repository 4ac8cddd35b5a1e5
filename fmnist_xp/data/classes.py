"""The names of the classes: what a data set's own files or folders, or the user, call them, by label.

A data set without names is called by its labels, "0", "1", …. Such names are numbers still: whatever else names the
classes takes their place, label by label.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fmnist_xp.data import class_files
from fmnist_xp.data.dataset import CLASS_NAMES, MOST_CLASSES, Dataset, checked_names, numbers_as_names
from fmnist_xp.data.stored import shown
from fmnist_xp.errors import DataError, printable

LOG = logging.getLogger("fmnist_xp")
FASHION = "fashion"
"""What the user says for `CLASS_NAMES`."""

_GARMENTS = {
    name: label
    for label, words in enumerate(CLASS_NAMES)
    for letters in ["".join(filter(str.isalnum, words.lower()))]
    for name in (f"{label}", f"{label:02d}", letters, f"{label}{letters}")
}
"""The label of each name of a folder of garments, in lower case and stripped of all but letters and digits."""


def of_folders(folders: Iterable[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the class names that folders of images have, and the label of each folder.

    Numbers below 256 are labels, and the classes then have no other names. The ten garments, with or without their
    number, have their published labels. All other names are sorted, as by torchvision's `ImageFolder`. ValueError for
    more than 256.
    """
    names = sorted(set(folders))
    stripped = {name: "".join(filter(str.isalnum, name.lower())) for name in names}
    if all(map(_is_label, stripped.values())):
        labels = {name: int(letters) for name, letters in stripped.items()}
        return numbers_as_names(max(labels.values(), default=0) + 1), labels
    labels = {name: _GARMENTS.get(letters, -1) for name, letters in stripped.items()}
    if set(labels.values()) == set(range(len(CLASS_NAMES))):
        return CLASS_NAMES, labels
    return checked_names(map(printable, names)), {name: label for label, name in enumerate(names)}


def given(classes: str | Sequence[str]) -> tuple[str, ...]:
    """Return the class names that a user gives, by label: a sequence, or a text as of `--classes`.

    A text is "fashion" for `CLASS_NAMES`, the path of a file in one of the forms of `class_files`, or names with
    commas between them. DataError for any other.
    """
    if classes == FASHION:
        return CLASS_NAMES
    names: Iterable[str] = classes
    if isinstance(classes, str):
        if os.path.exists(classes):  # noqa: PTH110 (Path's own raises for a list that is too long for a name)
            return class_files.read_path(Path(classes)).names
        if "," not in classes:
            raise DataError(
                f"{shown(classes)}: no such file; give names with commas between them, a file with a name a line, or "
                f"{FASHION}"
            )
        names = map(str.strip, classes.split(","))
    try:
        return checked_names(names)
    except ValueError as error:
        raise DataError(f"the class names given: {error}") from error


def is_numbered(names: Sequence[str]) -> bool:
    """Return whether class names are no more than labels, from 0 or 1 on."""
    return _first(names) is not None


def name_classes(
    train: Dataset, test: Dataset, names: tuple[str, ...] | None = None, first: int | None = None, by: str = "given"
) -> tuple[Dataset, Dataset]:
    """Return the two splits with the class names `names`, and labels that go with them.

    Splits whose classes are numbers get the names by label; labels without a 0 count from 1, unless there is a name
    for one more, or `first` says which number has the first name, and become 0, 1, …. Without `names` the numbers
    stay the names, of both splits alike. Splits whose classes have names already are brought into the order of
    `names` where all are among these, else renamed where there are as many. DataError, saying whose names these are
    (`by`), where they cannot be those of these splits.
    """
    own, source = max(train.class_names, test.class_names, key=len), train.source
    number = _first(own)
    if number is None:
        if names is None or names == own:
            return train, test
        if set(own) <= set(names):
            return _relabelled(train, test, [names.index(name) for name in own], names)
        if len(own) == len(names):
            return _relabelled(train, test, range(len(own)), names)
        raise DataError(
            f"{source}: {len(own)} classes found ({few(own)}), but there are {len(names)} class names, {by}: "
            f"{few(names)}"
        )
    lowest = min(int(split.labels.min()) for split in (train, test)) + number
    highest = max(int(split.labels.max()) for split in (train, test)) + number
    if first is None:
        first = int(lowest > 0 and highest == (len(names) if names else highest))
    if names is None:
        names = numbers_as_names(highest + 1 - first, first)
    if not first <= lowest <= highest < first + len(names):
        raise DataError(
            f"{source}: labels from {lowest} to {highest} found, but there are {len(names)} class names, {by}, for "
            f"{first} to {first + len(names) - 1}: {few(names)}"
        )
    if first:
        LOG.info("%s: labels from 1 on, without a 0: label 1 is class 0 here, %s", source, names[0])
    return _relabelled(train, test, range(number - first, number - first + len(own)), names)


def few(names: Sequence[str]) -> str:
    """Return class names for a message: the first ones, if there are many."""
    return ", ".join(name[:40] for name in names[:5]) + (", …" if len(names) > 5 else "")


def _is_label(letters: str) -> bool:
    return letters.isascii() and letters.isdecimal() and len(letters) < 10 and int(letters) < MOST_CLASSES


def _first(names: Sequence[str]) -> int | None:
    """Return 0 or 1 where the names are the numbers from that on, else None."""
    return next((first for first in (0, 1) if tuple(names) == numbers_as_names(len(names), first)), None)


def _relabelled(
    train: Dataset, test: Dataset, order: Sequence[int], names: tuple[str, ...]
) -> tuple[Dataset, Dataset]:
    """Return the splits with `order[k]` for the label k."""
    if all(label == number for number, label in enumerate(order)):
        return train.renamed(train.name, names), test.renamed(test.name, names)
    table = np.array([max(label, 0) for label in order], np.uint8)  # below 0 is what no image has
    one, other = (
        Dataset(split.images, table[split.labels], split.name, split.source, names) for split in (train, test)
    )
    return one, other
