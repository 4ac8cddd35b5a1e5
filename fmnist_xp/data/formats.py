"""Which form a path on disk has: read it, or write a data set in one of two forms."""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fmnist_xp.data import idx, images
from fmnist_xp.data.cache import cached
from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.published import is_published
from fmnist_xp.errors import DataError

FORMATS = ("png", "idx")
"""What `export` writes."""


def read(path: Path) -> tuple[Dataset, Dataset]:
    """Read (train, test) from a folder of IDX files, a folder of images or a zip of one; see `idx`, `images`.

    The decoded arrays are kept in the cache: for IDX files and a zip under the SHA-256 of the files' bytes,
    for a folder of images under its path, and as long as it has the same `images.Folder.fingerprint`. Whatever
    is wrong is a DataError naming the file.
    """
    try:
        if path.is_file():
            source = f"zip of images {path}"
            return cached(f"zip {_sha256([path])}", source, lambda: _named(*images.read_zip(path, source)))
        if not path.is_dir():
            raise DataError(f"{path}: no such folder or zip")
        if files := idx.find(path):
            source = f"IDX files in {path}"
            return cached(f"idx {_sha256(files)}", source, lambda: _named(*idx.read(files, source)))
        if images.is_folder_of_images(path):
            source = f"images in {path}"
            folder = images.Folder(path)
            key = f"images {path.resolve()}"
            return cached(key, source, lambda: _named(*folder.read(source)), folder.fingerprint)
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error
    raise DataError(f"{path}: neither the IDX files nor train/ and test/ found; is it the data set's folder?")


def export(train: Dataset, test: Dataset, folder: Path, format: str) -> None:
    """Write a data set to `folder`, which must be empty or not be there, in the form "png" or "idx".

    "png": the notebook's layout, `train/<label>/NNNN.png` and `test/<label>/NNNN.png`, where class k's
    NNNN.png is the NNNN-th image labelled k. "idx": the four gzip files, the same bytes at each writing.
    The folder appears whole or not at all. DataError where it has something in it or cannot be written,
    for another format, and for "png" where a class has no image, since such a folder could not be read.
    """
    if format not in FORMATS:
        raise DataError(f"format {format!r}: not known; choose one of {', '.join(FORMATS)}")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder}: already there and not an empty folder; choose another")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            # A folder within, since the temporary one is the user's alone.
            made = Path(temporary) / folder.name
            made.mkdir()
            for split, dataset in (("train", train), ("test", test)):
                if format == "png":
                    images.write(dataset, made / split)
                else:
                    idx.write(dataset, split, made)
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error})") from error


def _named(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Return the splits under the name of what was published, where that is what they hold."""
    if not is_published(train, test):
        return train, test
    return train.renamed("fashion-mnist"), test.renamed("fashion-mnist")


def _sha256(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the files' own SHA-256 sums."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
