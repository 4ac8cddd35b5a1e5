"""Fashion-MNIST as published: addresses and checksums. https://github.com/zalandoresearch/fashion-mnist"""

import gzip
import hashlib
import zlib
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.errors import DataError

ADDRESSES = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
"""Where the four files are, in the order in which they are tried."""


@dataclass(frozen=True)
class Published:
    """One file: MD5 and size of the .gz as published, SHA-256 and size of its content, in bytes."""

    md5_gz: str
    sha256: str
    size_gz: int
    size: int

    @property
    def limit(self) -> int:
        """Most bytes of a correct .gz, whatever compressed it: the content uncompressed, plus 1/1000 + 1 KiB."""
        return self.size + self.size // 1000 + 1024


FILES = {
    "train-images-idx3-ubyte.gz": Published(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        26_421_880,
        16 + 60_000 * 28 * 28,
    ),
    "train-labels-idx1-ubyte.gz": Published(
        "25c81989df183df01b3e8a0aad5dffbe",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        29_515,
        8 + 60_000,
    ),
    "t10k-images-idx3-ubyte.gz": Published(
        "bef4ecab320f06d8554ea6380940ec79",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        4_422_102,
        16 + 10_000 * 28 * 28,
    ),
    "t10k-labels-idx1-ubyte.gz": Published(
        "bb300cfdad3c16e7a12a480ee83cd310",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        5_148,
        8 + 10_000,
    ),
}

LENGTHS = {"train": 60_000, "test": 10_000}
"""Images in the two splits."""
SORTED_SHA256 = {
    "train": "0ea1f470ff2180c9cd98dddf0ee864eaf26e700d7bc754089ad8ae6ce686691c",
    "test": "4ae5dc49898f7d66d9c616d29845a06ea11e21d593c1c022316482efcfc5eef0",
}
"""`sorted_sha256` of the two splits, computed from files with the checksums above."""

_GZIP = b"\x1f\x8b"
_NO_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


def as_gzip(content: bytes, name: str) -> bytes:
    """Return the .gz file in what a server sent for `name`; `verify` has yet to check that it is the right one.

    A server or a proxy may have decompressed the file, or compressed it again.
    """
    expected = FILES[name]
    if not content.startswith(_GZIP):
        right = hashlib.sha256(content).hexdigest() == expected.sha256
        return gzip.compress(content, 6, mtime=0) if right else content
    with suppress(*_NO_GZIP), gzip.open(BytesIO(content)) as stream:
        if (start := stream.read(2)) == _GZIP:
            return start + stream.read(expected.limit)
    return content


def verify(path: Path, name: str) -> None:
    """Raise DataError unless the file at `path` is the published `name`, or has the same content.

    A mirror may have compressed the content anew, so the .gz itself may differ. Neither the file nor its content is
    read beyond the size of the published one.
    """
    expected = FILES[name]
    if path.stat().st_size > expected.limit:
        raise DataError(f"{name}: larger than the {expected.limit:,} bytes that the file can have")
    with path.open("rb") as file:
        if hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == expected.md5_gz:
            return
    try:
        with gzip.open(path) as stream:
            content = stream.read(expected.size + 1)
    except _NO_GZIP as error:
        raise DataError(f"{name}: what came is no whole gzip file ({error})") from error
    if len(content) > expected.size:
        raise DataError(f"{name}: holds more than the {expected.size:,} bytes of the published file")
    if (digest := hashlib.sha256(content).hexdigest()) != expected.sha256:
        raise DataError(f"{name}: its content has SHA-256 {digest}, the published file {expected.sha256}")


def sorted_sha256(dataset: Dataset) -> str:
    """Return the SHA-256 of the images, then the labels, sorted by label and otherwise in their own order.

    That is the order of an image folder, so the IDX files and a folder made from them share this checksum.
    """
    if (dataset.labels[:-1] <= dataset.labels[1:]).all():
        return dataset.sha256
    digest = hashlib.sha256()
    for label in range(len(dataset.class_names)):
        digest.update(dataset.images[dataset.labels == label].data)
    digest.update(np.sort(dataset.labels).data)
    return digest.hexdigest()


def is_published(train: Dataset, test: Dataset) -> bool:
    """Return whether these are the published images and labels, in the IDX files' order or a folder's."""
    return is_published_split("train", train) and is_published_split("test", test)


def is_published_split(split: str, dataset: Dataset) -> bool:
    """Return whether this is the published split, "train" or "test"; one of another length is not even hashed."""
    return len(dataset) == LENGTHS[split] and sorted_sha256(dataset) == SORTED_SHA256[split]
