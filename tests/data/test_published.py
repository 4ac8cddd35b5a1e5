import gzip
import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from data_helpers import by_label, noise

from fmnist_xp.data import Dataset, is_published, make_synthetic, published
from fmnist_xp.errors import DataError

NAME = "t10k-images-idx3-ubyte.gz"


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Synthetic garments, published as the content of `NAME`."""
    images = make_synthetic(40, 10)[0].images.tobytes()
    publish(monkeypatch, images)
    return images


def publish(monkeypatch: pytest.MonkeyPatch, content: bytes) -> published.Published:
    packed = gzip.compress(content)
    table = published.Published(
        hashlib.md5(packed).hexdigest(), hashlib.sha256(content).hexdigest(), len(packed), len(content)
    )
    monkeypatch.setitem(published.FILES, NAME, table)
    return table


def test_decompressed_content_is_compressed_without_a_timestamp(content: bytes) -> None:
    assert published.as_gzip(content, NAME) == gzip.compress(content, 6, mtime=0)
    for other in (content[:-1], b""):
        assert published.as_gzip(other, NAME) == other


def test_doubly_compressed_content_is_decompressed_up_to_the_limit(content: bytes) -> None:
    inner = gzip.compress(content)
    assert published.as_gzip(gzip.compress(inner), NAME) == inner
    endless = b"\x1f\x8b" + bytes(10_000_000)
    limit = published.FILES[NAME].limit
    assert published.as_gzip(gzip.compress(endless), NAME) == endless[: 2 + limit]


def test_a_file_may_have_the_maximum_size_and_not_a_byte_more(tmp_path: Path, content: bytes) -> None:
    limit = 40 * 784 + 31 + 1024
    (tmp_path / "a").write_bytes(bytes(limit))
    with pytest.raises(DataError, match=rf"^{NAME}: what came is no whole gzip file \(Not a gzipped file .*\)$"):
        published.verify(tmp_path / "a", NAME)
    (tmp_path / "a").write_bytes(bytes(limit + 1))
    with pytest.raises(DataError, match=rf"^{NAME}: larger than the {limit:,} bytes that the file can have$"):
        published.verify(tmp_path / "a", NAME)


def test_content_is_compared_to_the_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With content as long as what is decompressed at a time, and longer."""
    for size in (1 << 20, 3 << 19):
        right = bytes(size)
        publish(monkeypatch, right)
        (tmp_path / "right").write_bytes(gzip.compress(right, 1))
        published.verify(tmp_path / "right", NAME)
        for more in (1, 2 << 20):
            (tmp_path / "more").write_bytes(gzip.compress(right + bytes(more)))
            with pytest.raises(
                DataError, match=rf"^{NAME}: holds more than the {size:,} bytes of the published file$"
            ):
                published.verify(tmp_path / "more", NAME)
        other = right[:-1] + b"\1"
        (tmp_path / "other").write_bytes(gzip.compress(other))
        sums = [hashlib.sha256(content).hexdigest() for content in (other, right)]
        with pytest.raises(
            DataError, match=rf"^{NAME}: its content has SHA-256 {sums[0]}, the published file {sums[1]}$"
        ):
            published.verify(tmp_path / "other", NAME)


def test_md5_is_declared_as_not_for_security(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    md5 = hashlib.md5

    def fips(*data: bytes, usedforsecurity: bool = True) -> "hashlib._Hash":
        if usedforsecurity:
            raise ValueError("disabled for FIPS")
        return md5(*data)

    (tmp_path / "a").write_bytes(gzip.compress(content))
    monkeypatch.setattr(hashlib, "md5", fips)
    published.verify(tmp_path / "a", NAME)


def test_a_gzip_bomb_is_not_held_in_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bomb").write_bytes(gzip.compress(bytes(30_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"^{NAME}: holds more than the {40 * 784:,} bytes"):
            published.verify(tmp_path / "bomb", NAME)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_the_checksum_is_that_of_the_order_by_label() -> None:
    mixed = noise(20)
    ordered = Dataset(*by_label(mixed), "custom", "here")
    expected = hashlib.sha256(ordered.images.tobytes() + ordered.labels.tobytes()).hexdigest()
    assert published.sorted_sha256(ordered) == published.sorted_sha256(mixed) == expected
    images = mixed.images[:3]
    nearly = Dataset(images, np.array([0, 2, 1], np.uint8), "custom", "here")
    expected = hashlib.sha256(images[[0, 2, 1]].tobytes() + bytes([0, 1, 2])).hexdigest()
    assert published.sorted_sha256(nearly) == expected


def test_both_splits_are_published_or_neither_is(monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = noise(20), noise(10, 1)
    assert not is_published(train, test)
    for split, dataset in (("train", train), ("test", test)):
        monkeypatch.setitem(published.SORTED_SHA256, split, published.sorted_sha256(dataset))
        monkeypatch.setitem(published.LENGTHS, split, len(dataset))
    assert is_published(train, test)
    with monkeypatch.context() as patch:
        patch.setattr(published, "sorted_sha256", None)  # what has another length is not hashed
        assert not is_published(noise(21), test)
    other = noise(10, 2)
    for splits in ((other, test), (train, other), (test, train)):
        assert not is_published(*splits)
