"""Fashion-MNIST in its four IDX files, plain or gzip, read and written.

The format is LeCun's: a big-endian magic number (0x0803 for images, 0x0801 for labels: unsigned bytes of
three or one dimensions), the dimensions as 32-bit integers, then the bytes. http://yann.lecun.com/exdb/mnist
"""

import gzip
import struct
import zlib
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.errors import DataError

PREFIXES = {"train": "train", "test": "t10k"}
STEMS = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
NAMES = tuple(f"{prefix}-{stem}" for prefix in PREFIXES.values() for stem in STEMS.values())
"""The four standard names, without `.gz`."""


def find(folder: Path) -> list[Path]:
    """Return the four files of `folder` in the order of `NAMES`, or an empty list where there are none.

    A plain file is preferred to its gzip form. Some files but not all four are a DataError.
    """
    found = [next((p for p in (folder / n, folder / f"{n}.gz") if p.is_file()), None) for n in NAMES]
    if not any(found):
        return []
    for name, path in zip(NAMES, found, strict=True):
        if path is None:
            raise DataError(f"{folder / name}.gz: missing; the folder must hold all four IDX files")
    return [path for path in found if path]


def read(paths: list[Path], source: str) -> tuple[Dataset, Dataset]:
    """Read the four files, as `find` returns them, into (train, test); DataError names the file at fault."""
    train_images, train_labels, test_images, test_labels = paths
    return _split(train_images, train_labels, source), _split(test_images, test_labels, source)


def write(dataset: Dataset, split: str, folder: Path) -> None:
    """Write one split ("train" or "test") to `folder` as two gzip files, the same bytes at each writing."""
    n, height, width = dataset.images.shape
    _write(folder, split, "images", struct.pack(">IIII", 0x0803, n, height, width), dataset.images)
    _write(folder, split, "labels", struct.pack(">II", 0x0801, n), dataset.labels)


def _write(folder: Path, split: str, kind: str, head: bytes, values: NDArray[np.uint8]) -> None:
    path = folder / f"{PREFIXES[split]}-{STEMS[kind]}.gz"
    # No name and no time in the gzip header, so that the file depends on its content alone.
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as stream:
        stream.write(head)
        stream.write(np.ascontiguousarray(values).data)


def _split(images_path: Path, labels_path: Path, source: str) -> Dataset:
    images, labels = _read(images_path, "images", 3), _read(labels_path, "labels", 1)
    if len(images) != len(labels):
        raise DataError(
            f"{labels_path}: {len(labels)} labels found for the {len(images)} images of {images_path.name}; "
            "take both files from the same data set"
        )
    if labels.max() > 9:
        raise DataError(f"{labels_path}: label {labels.max()} found; labels go from 0 to 9")
    return Dataset(images, labels, "custom", source)


def _read(path: Path, kind: str, dimensions: int) -> NDArray[np.uint8]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
        try:
            return _parse(stream, path, kind, dimensions)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path}: the gzip file is cut short or damaged ({error}); fetch it again") from error


def _parse(stream: BufferedIOBase, path: Path, kind: str, dimensions: int) -> NDArray[np.uint8]:
    """Read one array straight into its memory, so that a file needs no second copy."""
    head = stream.read(4 * (1 + dimensions))
    magic = 0x0800 + dimensions
    if head[:4] != struct.pack(">I", magic):
        raise DataError(f"{path}: magic number {head[:4].hex() or 'nothing'} found; {kind} begin with {magic:08x}")
    if len(head) < 4 * (1 + dimensions):
        raise DataError(f"{path}: cut short in its header; fetch it again")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    if shape[1:] not in {(), (28, 28)}:
        raise DataError(f"{path}: images of {shape[2]} x {shape[1]} pixels found; 28 x 28 are needed")
    if not 0 < shape[0] <= 10_000_000:
        raise DataError(f"{path}: its header promises {shape[0]} {kind}; is it the right file?")
    values = np.empty(shape, np.uint8)
    view, filled = values.data.cast("B"), 0
    while filled < len(view) and (got := stream.readinto(view[filled : filled + (1 << 20)])):
        filled += got
    if filled < len(view) or stream.read(1):
        found = "more" if filled == len(view) else str(filled)
        raise DataError(f"{path}: {found} bytes of {kind} found, its header promises {len(view)}; fetch it again")
    return values
