"""A data set in the four IDX files of MNIST, plain or gzip, read and written.

The format is LeCun's: a big-endian magic number (0x0803 for images, 0x0801 for labels: unsigned bytes of
three or one dimensions), the dimensions as 32-bit integers, then the bytes. http://yann.lecun.com/exdb/mnist

Images in a plain file on disk are mapped (`mapped.map_bytes`), never read whole: they may be larger than the memory.
Those of EMNIST, which have to be turned, are read.
"""

import gzip
import math
import re
import struct
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.mapped import map_bytes, pieces
from fmnist_xp.data.published import FILES
from fmnist_xp.data.stored import (
    MOST_IMAGES,
    Form,
    Stored,
    is_on_disk,
    is_sideways,
    read_array,
    shown,
    wrong_length,
)
from fmnist_xp.errors import DataError

_NAME = re.compile(
    r"(?P<start>(?:.*[-_.])?)(?P<split>train|t10k|test)[-_](?P<kind>images|labels)[-.]idx[13][-.]ubyte"
    r"(?P<packed>\.gz|\.zip)?",
    re.IGNORECASE,
)
"""Names of such files, including variants: a dot before `idx`, test for t10k, `emnist-letters-` and the like."""
_ROLES = dict(zip(product(("train", "test"), ("images", "labels")), FILES, strict=True))
_DIMENSIONS = {"images": 3, "labels": 1}


def write(dataset: Dataset, split: str, folder: Path) -> None:
    """Write one split ("train" or "test") to `folder` as two gzip files, with the same bytes every time."""
    for kind, values in (("images", dataset.images), ("labels", dataset.labels)):
        path = folder / _ROLES[split, kind]
        # No name and no time in the gzip header, so that the file depends only on its content.
        with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
            stream.write(struct.pack(f">I{values.ndim}I", 0x0800 + values.ndim, *values.shape))
            for piece in pieces(values):
                stream.write(np.ascontiguousarray(piece).data)


def _check_split(files: list[Stored]) -> None:
    images, labels = files
    (n_images, *_), (n_labels, *_) = _shape(images, "images"), _shape(labels, "labels")
    if n_images != n_labels:
        raise DataError(
            f"{labels.where}: {n_labels} labels found for the {n_images} images of {shown(images.base)}; "
            "take both files from the same data set"
        )


def _read_split(files: list[Stored], source: str) -> Dataset:
    images, labels = files
    # Labels first: they are smaller.
    values = _read(labels, "labels")
    return Dataset(_read(images, "images"), values, "custom", source)


def _shape(file: Stored, kind: str) -> tuple[int, ...]:
    with file.open() as (stream, most, packed):
        return _promised(stream, most, packed, file.where, kind)


def _read(file: Stored, kind: str) -> NDArray[np.uint8]:
    with file.open() as (stream, most, packed):
        shape = _promised(stream, most, packed, file.where, kind)
        if kind == "images" and is_on_disk(stream) and not is_sideways(file):
            with suppress(OSError):  # some network file systems cannot map a file
                return map_bytes(stream, stream.tell(), shape)
        values: NDArray[np.uint8] = read_array(stream, shape, np.uint8, file.where, kind)
    return values


def _in_place(files: list[Stored]) -> bool:
    """Return whether the images of both splits are mapped."""
    for file in files[::2]:
        with file.open() as (stream, _, _):
            if not is_on_disk(stream) or is_sideways(file):
                return False
    return True


def _promised(stream: IO[bytes], most: int, packed: bool, where: str, kind: str) -> tuple[int, ...]:
    """Read a header and return its shape; DataError if the file cannot hold that much, or, not packed, holds more."""
    shape = _header(stream, where, kind)
    left, promised = most - stream.tell(), math.prod(shape)
    if promised > left or (promised < left and not packed):
        raise wrong_length(where, left if not packed else f"at most {left}", kind, promised)
    return shape


def _header(stream: IO[bytes], where: str, kind: str) -> tuple[int, ...]:
    dimensions = _DIMENSIONS[kind]
    magic = 0x0800 + dimensions
    head = stream.read(4 * (1 + dimensions))
    if head[:4] != struct.pack(">I", magic):
        raise DataError(f"{where}: magic number {head[:4].hex() or 'nothing'} found; {kind} begin with {magic:08x}")
    if len(head) < 4 * (1 + dimensions):
        raise DataError(f"{where}: cut short in its header; copy or fetch it again")
    shape: tuple[int, ...] = struct.unpack(f">{dimensions}I", head[4:])
    if shape[1:] not in {(), (28, 28)}:
        raise DataError(f"{where}: images of {shape[2]} x {shape[1]} pixels found; 28 x 28 are needed")
    if not 0 < shape[0] <= MOST_IMAGES:
        raise DataError(f"{where}: its header promises {shape[0]} {kind}; is it the right file?")
    return shape


FORM = Form("IDX files", _NAME, _ROLES, _check_split, _read_split, _in_place)
