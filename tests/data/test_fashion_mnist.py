import errno
import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from data_helpers import by_label, noise

from fmnist_xp.data import Dataset, describe, export, is_published, load_fashion_mnist, published
from fmnist_xp.errors import DataError


def test_an_unknown_source_says_what_is_allowed() -> None:
    with pytest.raises(DataError, match="download: no such folder or file; give a path, 'auto' or 'synthetic'"):
        load_fashion_mnist("download")


NO_PATHS = {
    "~nobody-of-this-name/data": "~nobody-of-this-name/data: no such folder or file (",
    "a\0b": "'a\\x00b': no such folder or file (",
    "a" * 5000: "a" * 500 + f"…: no such folder or file ({os.strerror(errno.ENAMETOOLONG)}); ",
    "": "the data source is empty; ",
}


@pytest.mark.parametrize("source", NO_PATHS)
def test_a_source_that_cannot_be_a_path_is_refused(source: str) -> None:
    with pytest.raises(DataError, match=r"; give a path, 'auto' or 'synthetic'$") as raised:
        load_fashion_mnist(source)
    assert str(raised.value).startswith(NO_PATHS[source])
    assert "\0" not in str(raised.value)
    assert "None" not in str(raised.value)


def test_auto_takes_the_path_in_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(noise(20), noise(10, 1), tmp_path / "idx", "idx")
    monkeypatch.setenv("FMNIST_XP_DATA", str(tmp_path / "idx"))
    train, test = load_fashion_mnist()
    assert np.array_equal(train.images, noise(20).images)
    assert np.array_equal(test.images, noise(10, 1).images)


def test_a_wrong_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_XP_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="FMNIST_XP_DATA") as raised:
        load_fashion_mnist()
    assert str(tmp_path / "gone") in str(raised.value)


def test_statistics_of_a_small_set() -> None:
    images = np.zeros((4, 28, 28), np.uint8)
    images[:2] = 255
    train = Dataset(images, np.array([0, 1, 1, 9], np.uint8), "custom", "here")
    first, second = describe(train, noise(10))
    assert (first.split, second.split) == ("train", "test")
    assert first.shape == (4, 28, 28)
    assert first.dtype == "uint8"
    assert first.class_counts == (1, 2, 0, 0, 0, 0, 0, 0, 0, 1)
    assert first.pixel_mean == pytest.approx(0.5)
    assert first.pixel_std == pytest.approx(0.5)
    assert first.sha256 == train.sha256
    assert (first.name, first.source) == ("custom", "here")
    assert first.published is second.published is False
    assert second.class_counts == (1,) * 10
    assert describe(train, Dataset(images, np.zeros(4, np.uint8), "custom", "here"))[1].class_counts == (4, *[0] * 9)
    assert describe(Dataset(images, np.zeros(4, np.uint8), "custom", "here"), train)[0].class_counts == (4, *[0] * 9)
    assert not is_published(train, noise(10))


def test_pixel_statistics_do_not_depend_on_the_chunks() -> None:
    dataset = noise(2345)
    dataset.images[:1000] //= 3  # pieces that are not alike
    info, _ = describe(dataset, noise(10))
    assert info.pixel_mean == pytest.approx((dataset.images / 255).mean())
    assert info.pixel_std == pytest.approx((dataset.images / 255).std())


def test_the_real_set_is_the_published_one_in_either_order(real_folder: Path) -> None:
    splits = load_fashion_mnist(real_folder)
    assert is_published(*splits)
    train, test = (Dataset(*by_label(split), split.name, "sorted") for split in splits)
    assert is_published(train, test)
    assert all(info.published for info in describe(*splits))
    changed = train.images.copy()
    changed[0, 14, 14] ^= 1
    assert not is_published(Dataset(changed, train.labels, train.name, "changed"), test)


def test_the_real_files_are_verified_by_name_and_size(real_folder: Path) -> None:
    for name in published.FILES:
        published.verify(real_folder / name, name)
    train, test = "train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
    with pytest.raises(DataError, match=f"{train}: its content has SHA-256"):
        published.verify(real_folder / test, train)
    with pytest.raises(DataError, match=f"{test}: larger than the 11,0[0-9]{{2}} bytes"):
        published.verify(real_folder / train, test)


def test_the_real_files_have_the_published_sizes(real_folder: Path) -> None:
    for name, expected in published.FILES.items():
        content = (real_folder / name).read_bytes()
        assert len(gzip.decompress(content)) == expected.size
        if hashlib.md5(content).hexdigest() == expected.md5_gz:
            assert len(content) == expected.size_gz
        assert len(content) < expected.limit


def test_another_name_keeps_the_images_and_the_checksum() -> None:
    dataset = noise(20)
    before = dataset.renamed("one", dataset.class_names)
    checksum = dataset.sha256
    after = dataset.renamed("other", "abcdefghijk")
    assert (dataset.name, before.name, after.name) == ("custom", "one", "other")
    assert before.sha256 == after.sha256 == checksum
    assert after.images is dataset.images
    assert after.source == dataset.source
    assert dataset.class_names == before.class_names == tuple("0123456789")
    assert after.class_names == tuple("abcdefghijk")
    with pytest.raises(ValueError, match="9 class names found; 10 to 256 are possible: labels are bytes"):
        dataset.renamed("other", "abcdefghi")
