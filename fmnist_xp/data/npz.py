"""A data set as NumPy arrays, four in one file as in Keras's `mnist.npz`, or four files as of Kuzushiji-MNIST.

The arrays are x_train, y_train, x_test and y_test, the files `kmnist-train-imgs.npz`, `kmnist-train-labels.npz` and
so on. Images are (n, 28, 28), (n, 784) or (n, 28, 28, 1), labels (n,) or (n, 1), both integers of any width. An array
of Python objects, which would need pickle, is refused.
"""

import re
import tokenize
import warnings
from math import prod
from typing import IO

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.dataset import MOST_CLASSES, Dataset
from fmnist_xp.data.stored import MOST_IMAGES, Form, Stored, read_array, wrong_length
from fmnist_xp.errors import DataError

_NAME = re.compile(r"(?P<start>)(?P<kind>[xy])_(?P<split>train|test)\.npy(?P<packed>)")
_ROLES = {(split, kind): f"{kind}_{split}.npy" for split in ("train", "test") for kind in "xy"}
_APART = re.compile(
    r"(?P<start>(?:.*[-_.])?)(?P<split>train|test)[-_](?P<kind>imgs|labels)(?P<packed>)\.np[yz]", re.IGNORECASE
)
_ROLES_APART = {(split, kind): f"{split}-{kind}.npz" for split in ("train", "test") for kind in ("imgs", "labels")}
_SHAPES = {"x": {(28, 28), (784,), (28, 28, 1)}, "y": {(), (1,)}}
_NEEDED = {"x": "(n, 28, 28) or (n, 784)", "y": "(n,)"}


def _check_split(files: list[Stored]) -> None:
    images, labels = files
    n_images, n_labels = _length(images, "x"), _length(labels, "y")
    if n_images != n_labels:
        raise DataError(f"{labels.where}: {n_labels} labels found for the {n_images} images of {images.base}")


def _read_split(files: list[Stored], source: str) -> Dataset:
    images, labels = files
    values = _read(labels, "y").ravel()
    return Dataset(_read(images, "x").reshape(-1, 28, 28), values, "custom", source)


def _length(file: Stored, kind: str) -> int:
    with file.open() as (stream, most, _):
        shape, dtype, _ = _header(stream, file.where, kind)
        promised, left = prod(shape) * dtype.itemsize, most - stream.tell()
        if promised > left:
            raise wrong_length(file.where, f"at most {left}", "values", promised)
    return shape[0]


def _read(file: Stored, kind: str) -> NDArray[np.uint8]:
    with file.open() as (stream, _, _):
        shape, dtype, fortran = _header(stream, file.where, kind)
        values = read_array(stream, shape, dtype, file.where, "values")
    if fortran:
        values = values.reshape(shape[::-1]).T
    if dtype != np.uint8:
        low, high = values.min(), values.max()
        if low < 0 or high > 255:
            limit = f", of at most {MOST_CLASSES} classes" if kind == "y" else ""
            raise DataError(f"{file.where}: {low if low < 0 else high} found; values from 0 to 255 are needed{limit}")
    return np.ascontiguousarray(values, np.uint8)


def _header(stream: IO[bytes], where: str, kind: str) -> tuple[tuple[int, ...], np.dtype[np.generic], bool]:
    version = np.lib.format.read_magic(stream)
    if version not in {(1, 0), (2, 0)}:
        raise DataError(f"{where}: version {version} of NumPy's format found; save the array by numpy.savez again")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a header written by Python 2
        try:
            shape, fortran, dtype = header(stream)
        except (MemoryError, tokenize.TokenError) as error:  # from Python's parser, which NumPy uses
            raise ValueError("its header cannot be parsed") from error
    if dtype.kind not in "iu":
        hint = "; pixels must not be scaled" if kind == "x" and dtype.kind == "f" else ""
        raise DataError(
            f"{where}: values of type {str(dtype)[:40]} found; whole numbers from 0 to 255 are needed{hint}"
        )
    if not shape or shape[1:] not in _SHAPES[kind]:
        raise DataError(f"{where}: an array of shape {shape} found; {_NEEDED[kind]} is needed")
    if not 0 < shape[0] <= MOST_IMAGES:
        raise DataError(f"{where}: its header promises {shape[0]} rows; is it the right file?")
    return shape, dtype, fortran


FORM = Form("NumPy arrays", _NAME, _ROLES, _check_split, _read_split)
FORM_APART = Form("NumPy files", _APART, _ROLES_APART, _check_split, _read_split)
