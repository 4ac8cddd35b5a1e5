"""A data set in two CSV files, as on Kaggle: one line per image, its label and then 28 x 28 grey values.

`<name>train.csv` and `<name>test.csv`, with or without a header. With one, the column `label` may be anywhere.
"""

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.stored import MOST_IMAGES, Form, Stored, shown
from fmnist_xp.errors import DataError

PIXELS = 784
_NAME = re.compile(
    r"(?P<start>(?:.*[-_. ])?)(?P<split>train|t10k|test)(?P<kind>)\.csv(?P<packed>\.gz|\.zip)?", re.IGNORECASE
)
_LINE = 1 << 16
"""Longest line in bytes; 785 numbers take some 3,000."""
_CHUNK = 1000
"""Lines parsed at once."""


def _check_split(files: list[Stored]) -> None:
    (file,) = files
    with file.open() as (stream, _, _):
        _header(stream, file.where)


def _read_split(files: list[Stored], source: str) -> Dataset:
    (file,) = files
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.uint8]] = []
    with file.open() as (stream, _, _):
        column, skipped = _header(stream, file.where)
        stream.seek(0)
        for number, lines in _chunks(stream, file.where, skipped):
            if number > MOST_IMAGES:
                raise DataError(f"{file.where}: more than {MOST_IMAGES:,} lines found; is it the right file?")
            values = _parse(lines, number, file.where)
            labels.append(values[:, column].copy())
            images.append(np.delete(values, column, axis=1))
        if not labels:
            raise DataError(f"{file.where}: no images found below its header; is it the right file?")
        return Dataset(np.concatenate(images).reshape(-1, 28, 28), np.concatenate(labels), "custom", source)


def _header(stream: IO[bytes], where: str) -> tuple[int, int]:
    """Return the column of the labels, and the number of lines, 0 or 1, that are a header."""
    line = stream.readline(_LINE)
    fields = [field.strip().strip('"') for field in line.decode("utf-8-sig", "replace").split(",")]
    if all(map(_is_number, fields)):
        if len(fields) != 1 + PIXELS:
            raise _wrong_count(where, 1, len(fields))
        return 0, 0
    columns = [number for number, field in enumerate(fields) if field.lower() == "label"]
    if len(fields) != 1 + PIXELS or len(columns) != 1:
        few = ", ".join(fields[:3])
        raise DataError(
            f"{where}: a header of {len(fields)} columns found, {len(columns)} of them label ({shown(few[:60])}, …); "
            f"{1 + PIXELS} are needed, separated by commas: label and {PIXELS} pixels"
        )
    pixels = [tuple(map(int, re.findall(r"\d{1,6}", field))) for field in fields if field.lower() != "label"]
    if any(one >= other for one, other in pairwise(pixels)):
        raise DataError(f"{where}: the pixels of its header are not in ascending order; row by row is needed")
    return columns[0], 1


def _chunks(stream: IO[bytes], where: str, skipped: int) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (number of the first line, lines), leaving out the first `skipped` lines and empty ones at the end."""
    lines: list[bytes] = []
    empty: list[bytes] = []  # kept back: they may be the end
    for number, line in enumerate(iter(partial(stream.readline, _LINE), b""), 1):
        if len(line) == _LINE and not line.endswith(b"\n"):
            raise DataError(f"{where}: line {number} is longer than {_LINE:,} bytes; is it the right file?")
        if number <= skipped:
            continue
        if not line.strip() and len(empty) < _CHUNK:
            empty.append(line)
            continue
        lines += [*empty, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line]
        empty = []
        if len(lines) >= _CHUNK:
            yield number - len(lines) + 1, lines
            lines = []
    if lines:
        yield number - len(empty) - len(lines) + 1, lines


def _parse(lines: list[bytes], number: int, where: str) -> NDArray[np.uint8]:
    """Return the values in `lines`, the first of which is line `number` of the file, as uint8 (n, 785)."""
    with suppress(ValueError):
        values = _load(lines) if all(map(bytes.strip, lines)) else np.empty(0)
        if values.shape == (len(lines), 1 + PIXELS) and _fit(values).all():
            return values.astype(np.uint8)
    # Something is wrong: go line by line to say what.
    rows = []
    for here, line in enumerate(lines, number):
        try:
            row = _load([line]).ravel() if line.strip() else np.empty(0)
        except ValueError:
            fields = line.decode("utf-8", "replace").split(",")
            wrong = next((field for field in fields if not _is_number(field)), fields[0])
            raise DataError(f"{where}: {wrong.strip()[:40]!r} found in line {here}; numbers are needed") from None
        if len(row) != 1 + PIXELS:
            raise _wrong_count(where, here, len(row))
        if not (good := _fit(row)).all():
            column = int(np.argmin(good))
            raise DataError(
                f"{where}: {row[column]:g} found in line {here}, column {column + 1}; "
                "whole numbers from 0 to 255 are needed"
            )
        rows.append(row.astype(np.uint8))
    return np.stack(rows)


def _load(lines: list[bytes]) -> NDArray[np.float64]:
    # As floats, since some versions of NumPy read 3.7 as 3 when asked for bytes.
    return np.loadtxt(lines, np.float64, comments=None, delimiter=",", quotechar='"', ndmin=2, encoding="utf-8")


def _fit(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((values >= 0) & (values <= 255) & (values == np.floor(values)))


def _wrong_count(where: str, line: int, count: int) -> DataError:
    return DataError(
        f"{where}: {count} values found in line {line}; {1 + PIXELS} are needed, separated by commas: "
        f"the label, then {PIXELS} grey values"
    )


def _is_number(text: str) -> bool:
    """Return whether NumPy reads `text` as a number; `float` also takes 1_000, and the digits of all scripts."""
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text


FORM = Form("CSV files", _NAME, {("train", ""): "train.csv", ("test", ""): "test.csv"}, _check_split, _read_split)
