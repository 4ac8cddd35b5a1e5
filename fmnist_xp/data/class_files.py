"""Files that name the classes of a data set: `classes.txt`, and those published with EMNIST and Kuzushiji-MNIST.

- `classes.txt`: a name a line, by label.
- `emnist-letters-mapping.txt` and its like: a line has a label and the codes of its characters, of which the first
  is the name.
- `kmnist_classmap.csv`, `k49_classmap.csv`: the columns index, codepoint and char.
"""

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from fmnist_xp.data.dataset import checked_names
from fmnist_xp.data.stored import Stored, open_file, shown
from fmnist_xp.errors import DataError

NAMES = "classes.txt"
_NAME = re.compile(r"classes\.txt|(?P<stem>.+)[-_](?P<kind>mapping\.txt|classmap\.csv)", re.IGNORECASE)
_LARGEST = 1 << 16
"""Bytes; 256 names take few of them."""


class ClassFile(NamedTuple):
    """The class names of a file, `where`; the label of the first name is 0, or 1, or, None, what the data say."""

    names: tuple[str, ...]
    first: int | None
    where: str


def is_class_file(name: str) -> bool:
    """Return whether a file of this name may name classes."""
    return _NAME.fullmatch(name) is not None


def find(files: Sequence[Stored], folder: str = "", start: str = "") -> ClassFile | None:
    """Return the class names, or None, for a data set in `folder`, whose files' names begin with `start`.

    `classes.txt` counts in the same folder or, after that, in the topmost one. Of the published files one counts that
    begins as the set's do, or, where these begin with nothing, the only class map. DataError for a damaged file.
    """
    stem = start.rstrip("-_. ").lower()
    here = [(match, file) for file in files if file.folder == folder if (match := _NAME.fullmatch(file.base))]
    own = [file for match, file in here if not match["stem"]]
    top = [file for file in files if not file.folder and file.base.lower() == NAMES]
    published = [(match, file) for match, file in here if match["stem"]]
    if stem:
        like = [file for match, file in published if match["stem"].lower() == stem]
    else:
        like = [file for match, file in published if match["kind"].lower() == "classmap.csv"]
        like = like if len(like) == 1 else []
    chosen = own or top or like
    return _read(chosen[0]) if chosen else None


def beside(path: Path) -> ClassFile | None:
    """Return the class names in `classes.txt` beside a file, or None; DataError if they are damaged."""
    place = path.parent / NAMES
    return read_path(place) if place.is_file() else None


def read_path(path: Path) -> ClassFile:
    """Return the class names in a file on disk; DataError if there is none, or it is damaged."""
    try:
        return _read(Stored(path.name, str(path)[: -len(path.name)], path, partial(open_file, path)))
    except OSError as error:
        raise DataError(f"{shown(str(path))}: cannot be read ({error.strerror or error})") from error


def _read(file: Stored) -> ClassFile:
    with file.open() as (stream, _, _):
        content = stream.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise DataError(f"{file.where}: more than {_LARGEST:,} bytes found; is it the right file?")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file.where}: no UTF-8 at byte {error.start}; save it as UTF-8") from error
    match = _NAME.fullmatch(file.base)
    kind = (match["kind"] or "").lower() if match else ""
    lines = text.rstrip().splitlines()
    try:
        if not kind:
            return ClassFile(checked_names(_lines(lines)), None, file.where)
        pairs = sorted(_mapping(lines) if kind == "mapping.txt" else _class_map(lines))
        names, labels = checked_names(name for _, name in pairs), [label for label, _ in pairs]
        if labels[0] > 1 or labels != [*range(labels[0], labels[0] + len(labels))]:
            raise ValueError("its labels do not go from 0 or 1 on, one after the other")
        return ClassFile(names, labels[0], file.where)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{file.where}: {error}") from error


def _lines(lines: Sequence[str]) -> list[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise ValueError(f"line {number} is empty; a name a line is needed, by label")
    return [line.strip() for line in lines]


def _mapping(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield labels and names from lines such as `1 65 97`: a label, then the codes of its characters."""
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) < 2 or not all(map(_is_number, fields)):
            raise ValueError(f"{line.strip()[:40]!r} found in line {number}; a label and a code are needed")
        yield int(fields[0]), chr(int(fields[1]))


def _class_map(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield labels and names from the lines of a CSV file with the columns index and char."""
    for number, row in enumerate(csv.DictReader(lines), 2):
        index, name = row.get("index") or "", row.get("char") or ""
        if not _is_number(index) or not name:
            raise ValueError(f"no index or char found in line {number}; index, codepoint, char are needed")
        yield int(index), name


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 8 and int(text) <= sys.maxunicode
