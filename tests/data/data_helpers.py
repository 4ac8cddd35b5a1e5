"""Made data and PNG files, and a way to compare data sets that are in different orders."""

import io
import itertools
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data import Dataset


def made(n: int, seed: int = 0) -> Dataset:
    """Return n images of noise, labelled 0 to 9 in turn."""
    images = np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    return Dataset(images, np.arange(n, dtype=np.uint8) % 10, "custom", "made")


def by_label(dataset: Dataset) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images and labels in order of label, within a label as they were."""
    order = np.argsort(dataset.labels, kind="stable")
    return dataset.images[order], dataset.labels[order]


def opened(path: Path) -> NDArray[np.uint8]:
    """Return what OpenCV itself reads from an image file, unchanged, as the notebook reads it."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image, np.uint8)


def filtered(image: NDArray[np.uint8], filters: list[int]) -> bytes:
    """Return the scanlines of an 8-bit grey image, row k by PNG's filter filters[k]: W3C PNG, section 9."""
    width = image.shape[1]

    def pixel(row: int, column: int) -> int:
        return int(image[row, column]) if row >= 0 and column >= 0 else 0

    def predicted(kind: int, row: int, column: int) -> int:
        a, b, c = pixel(row, column - 1), pixel(row - 1, column), pixel(row - 1, column - 1)
        p = a + b - c
        pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
        paeth = a if pa <= pb and pa <= pc else b if pb <= pc else c
        return (0, a, b, (a + b) // 2, paeth)[kind]

    lines = bytearray()
    for row, kind in enumerate(filters):
        lines.append(kind)
        lines += bytes((pixel(row, column) - predicted(kind, row, column)) % 256 for column in range(width))
    return bytes(lines)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    scanlines: bytes,
    width: int = 28,
    height: int = 28,
    depth: int = 8,
    colour: int = 0,
    interlace: int = 0,
    before: bytes = b"",
    parts: int = 1,
) -> bytes:
    """Return a PNG file of `scanlines`, with the chunks `before` its IDAT, which is cut into `parts` chunks."""
    data = zlib.compress(scanlines)
    cuts = [len(data) * part // parts for part in range(parts + 1)]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    idat = b"".join(chunk(b"IDAT", data[start:end]) for start, end in itertools.pairwise(cuts))
    return b"\x89PNG\r\n\x1a\n" + head + before + idat + chunk(b"IEND", b"")


def idx_file(values: NDArray[np.uint8]) -> bytes:
    """Return an IDX file of unsigned bytes: LeCun's format, http://yann.lecun.com/exdb/mnist."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def idx_files(train: Dataset, test: Dataset) -> dict[str, bytes]:
    """Return the four files under their standard names."""
    return {
        f"{prefix}-{kind}": idx_file(values)
        for prefix, dataset in (("train", train), ("t10k", test))
        for kind, values in (("images-idx3-ubyte", dataset.images), ("labels-idx1-ubyte", dataset.labels))
    }


def csv_file(dataset: Dataset, header: bool = True, end: str = "\n") -> bytes:
    """Return a CSV file as Kaggle has it."""
    lines = [",".join(["label", *(f"pixel{number}" for number in range(1, 785))])] if header else []
    for image, label in zip(dataset.images, dataset.labels, strict=True):
        lines.append(",".join(map(str, [label, *image.ravel()])))
    return "".join(line + end for line in lines).encode()


def npz_arrays(train: Dataset, test: Dataset) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of Keras's mnist.npz, for numpy.savez."""
    return {"x_train": train.images, "y_train": train.labels, "x_test": test.images, "y_test": test.labels}


def zip_of(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip of files, and return its path."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tar_of(path: Path, files: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> Path:
    """Write a tar of files, and return its path."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder, and return its path."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def assert_same(read: tuple[Dataset, Dataset], expected: tuple[Dataset, Dataset]) -> None:
    for one, other in zip(read, expected, strict=True):
        assert one.images.dtype == one.labels.dtype == np.uint8
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.labels, other.labels)
