"""Data sets as files, by the grammar of each form and not by the package's own writers."""

import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data import Dataset


def idx_file(values: NDArray[np.uint8]) -> bytes:
    """Return an IDX file of unsigned bytes: LeCun's format, http://yann.lecun.com/exdb/mnist."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def idx_arrays(train: Dataset, test: Dataset) -> dict[str, NDArray[np.uint8]]:
    """Return the arrays of the four IDX files, under the standard names."""
    return {
        f"{prefix}-{kind}": values
        for prefix, split in (("train", train), ("t10k", test))
        for kind, values in (("images-idx3-ubyte", split.images), ("labels-idx1-ubyte", split.labels))
    }


def idx_files(train: Dataset, test: Dataset) -> dict[str, bytes]:
    """Return the four IDX files under their standard names."""
    return {name: idx_file(values) for name, values in idx_arrays(train, test).items()}


def sideways(dataset: Dataset) -> Dataset:
    """Return the images as EMNIST publishes them, with rows and columns swapped."""
    return Dataset(dataset.images.transpose(0, 2, 1), dataset.labels, dataset.name, dataset.source)


def csv_rows(dataset: Dataset) -> list[list[str]]:
    """Return the lines of a CSV file as Kaggle has it."""
    head = ["label", *(f"pixel{number}" for number in range(1, 785))]
    rows = zip(dataset.labels.tolist(), dataset.images.reshape(-1, 784).tolist(), strict=True)
    return [head, *([str(label), *map(str, image)] for label, image in rows)]


def csv_file(rows: list[list[str]]) -> bytes:
    """Return a CSV file of these lines."""
    return "".join(",".join(row) + "\n" for row in rows).encode()


def npz_arrays(train: Dataset, test: Dataset) -> dict[str, NDArray[np.uint8]]:
    """Return the arrays of Keras's mnist.npz, for numpy.savez."""
    return {"x_train": train.images, "y_train": train.labels, "x_test": test.images, "y_test": test.labels}


def npy_file(values: NDArray[Any]) -> bytes:
    """Return NumPy's file of an array."""
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def zip_file(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip of files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_file(files: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> bytes:
    """Return a tar of files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_to(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip of files, and return its path."""
    path.write_bytes(zip_file(files, compression))
    return path


def tar_to(path: Path, files: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> Path:
    """Write a tar of files, and return its path."""
    path.write_bytes(tar_file(files, mode))
    return path


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder, and return its path."""
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def same(read: tuple[Dataset, Dataset], expected: tuple[Dataset, Dataset]) -> bool:
    """Return whether both splits have the same images and labels, as bytes."""
    return all(
        one.images.dtype == one.labels.dtype == np.uint8
        and np.array_equal(one.images, other.images)
        and np.array_equal(one.labels, other.labels)
        for one, other in zip(read, expected, strict=True)
    )
