import gzip
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import noise
from hypothesis import given
from hypothesis import strategies as st

from fmnist_xp.data import Dataset, export, idx, load_fashion_mnist, make_synthetic, stored
from fmnist_xp.errors import DataError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def images_file(n: int = 3, side: int = 28, magic: int = 0x0803) -> bytes:
    return struct.pack(">IIII", magic, n, side, side) + bytes(i % 251 for i in range(n * side * side))


def labels_file(labels: bytes = b"\x02\x00\x09", magic: int = 0x0801) -> bytes:
    return struct.pack(">II", magic, len(labels)) + labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for prefix in ("train", "t10k"):
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(images_file())
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(labels_file())
    return tmp_path


def test_plain_files_are_read(folder: Path) -> None:
    train, test = load_fashion_mnist(folder)
    expected = np.array([i % 251 for i in range(3 * 784)], np.uint8).reshape(3, 28, 28)
    for split in (train, test):
        assert split.images.dtype == split.labels.dtype == np.uint8
        assert np.array_equal(split.images, expected)
        assert split.labels.tolist() == [2, 0, 9]
        assert split.name == "custom"
        assert str(folder) in split.source


def test_gzip_files_are_read_and_may_lie_beside_plain_ones(folder: Path) -> None:
    plain = folder / TRAIN_LABELS
    (folder / f"{TRAIN_LABELS}.gz").write_bytes(gzip.compress(labels_file(b"\x01\x02\x03")))
    assert load_fashion_mnist(folder)[0].labels.tolist() == [2, 0, 9]
    plain.unlink()
    assert load_fashion_mnist(folder)[0].labels.tolist() == [1, 2, 3]


WRONG = {
    "wrong magic": (TRAIN_IMAGES, images_file(magic=0x0801), "00000801 found"),
    "labels' magic": (TRAIN_LABELS, labels_file(magic=0x0803), "00000803 found"),
    "empty": (TRAIN_IMAGES, b"", "nothing found"),
    "cut in the header": (TRAIN_IMAGES, images_file()[:10], "cut short in its header"),
    "cut in the images": (TRAIN_IMAGES, images_file()[:-1], "2351 bytes of images found, its header promises 2352"),
    "a byte too many": (TRAIN_LABELS, labels_file() + b"\x00", "4 bytes of labels found, its header promises 3"),
    "counts differ": (TRAIN_LABELS, labels_file(b"\x01\x02"), "2 labels found for the 3 images"),
    "size": (TRAIN_IMAGES, images_file(side=32), "32 x 32 pixels found; 28 x 28 are needed"),
    "no images": (TRAIN_IMAGES, images_file(n=0), "promises 0 images"),
    "an absurd number": (TRAIN_IMAGES, struct.pack(">IIII", 0x0803, 2**32 - 1, 28, 28), "promises 4294967295"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load_fashion_mnist(folder)
    assert str(folder / name) in str(raised.value)
    assert "\n" not in str(raised.value)


WHOLE = {
    "plain, cut short": (
        TRAIN_IMAGES,
        images_file()[:-1],
        "2351 bytes of images found, its header promises 2352; copy or fetch it again",
    ),
    "gzip, which cannot hold as much": (
        TRAIN_LABELS,
        gzip.compress(labels_file()[:4] + struct.pack(">I", 100_000), mtime=0),
        f"at most {1032 * 28 - 8} bytes of labels found, its header promises 100000; copy or fetch it again",
    ),
    "gzip, cut short": (
        TRAIN_IMAGES,
        gzip.compress(images_file()[:-1]),
        "2351 bytes of images found, its header promises 2352; copy or fetch it again",
    ),
    "counts": (
        TRAIN_LABELS,
        labels_file(b"\1\2"),
        f"2 labels found for the 3 images of {TRAIN_IMAGES}; take both files from the same data set",
    ),
    "size": (
        TRAIN_IMAGES,
        struct.pack(">IIII", 0x0803, 3, 30, 28),
        "images of 28 x 30 pixels found; 28 x 28 are needed",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), WHOLE.values(), ids=WHOLE)
def test_messages_are_exact(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(folder)
    assert str(raised.value) == f"{folder / name}: {message}"


def test_no_more_than_the_most_images_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "MOST_IMAGES", 3)
    assert len(load_fashion_mnist(folder)[0]) == 3
    monkeypatch.setattr(idx, "MOST_IMAGES", 2)
    with pytest.raises(DataError, match="its header promises 3 images; is it the right file"):
        load_fashion_mnist(folder)


def test_a_file_that_changes_after_the_check_is_named(folder: Path) -> None:
    contents = iter([labels_file(), labels_file(magic=0)])

    def changing() -> stored.Opened:
        content = next(contents)
        return BytesIO(content), len(content)

    (found,) = idx.FORM.find(stored.in_folder(folder))
    found.files[1] = stored.Stored("labels", "a: ", folder, changing)
    with pytest.raises(DataError, match=r"^a: labels: magic number 00000000 found; labels begin with 00000801$"):
        idx.FORM.read(found.files, "here")


def test_images_that_are_cut_after_the_check_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before their length is compared, and after it."""
    (found,) = idx.FORM.find(stored.in_folder(folder))
    path, check = folder / TRAIN_IMAGES, found.form.check

    def cut(size: int) -> None:
        with path.open("rb+") as file:
            file.truncate(size)

    def check_and_cut(form: stored.Form, files: list[stored.Stored]) -> None:
        check(files)
        cut(100)

    with monkeypatch.context() as patch:
        patch.setattr(stored.Form, "check", check_and_cut)
        with pytest.raises(DataError) as raised:
            found.form.read(found.files, "here")
    assert str(raised.value) == f"{path}: 84 bytes of images found, its header promises 2352; copy or fetch it again"
    path.write_bytes(images_file())
    map_bytes = idx.map_bytes

    def cut_and_map(*arguments: Any) -> Any:
        cut(100)
        return map_bytes(*arguments)

    monkeypatch.setattr(idx, "map_bytes", cut_and_map)
    with pytest.raises(DataError, match=f"^{path}: cut short or damaged"):
        found.form.read(found.files, "here")


def test_a_file_that_cannot_be_mapped_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(idx, "map_bytes", refuse)
    for split in load_fashion_mnist(folder):
        assert split.images.tobytes() == images_file()[16:]


GZIP = gzip.compress(images_file(), mtime=0)
DAMAGED = {
    "cut short": GZIP[:-9],
    "cut in the header": GZIP[:5],
    "a flipped bit in the checksum": GZIP[:-6] + bytes([GZIP[-6] ^ 1]) + GZIP[-5:],
    "damaged inside": GZIP[:20] + b"\xff" * 40 + GZIP[60:],
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_gzip_is_named(folder: Path, content: bytes) -> None:
    (folder / TRAIN_IMAGES).unlink()
    path = folder / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cut short or damaged") as raised:
        load_fashion_mnist(folder)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: missing"):
        load_fashion_mnist(folder)


def test_written_files_have_the_format_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    train, test = noise(12), noise(3, 1)
    for name in ("a", "b"):
        export(train, test, tmp_path / name, "idx")
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted([*idx.FORM.roles.values(), "classes.txt"])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    packed = (tmp_path / "a" / f"{TRAIN_IMAGES}.gz").read_bytes()
    assert packed[:9] == b"\x1f\x8b\x08" + bytes(6)  # no name and no time
    content = gzip.decompress(packed)
    assert content == struct.pack(">IIII", 2051, 12, 28, 28) + train.images.tobytes()
    content = gzip.decompress((tmp_path / "a" / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert content == struct.pack(">II", 2049, 3) + test.labels.tobytes()


def test_files_are_compressed_at_gzips_default_level(tmp_path: Path) -> None:
    train, _ = make_synthetic(40, 10)
    idx.write(train, "train", tmp_path)
    content = struct.pack(">IIII", 2051, 40, 28, 28) + train.images.tobytes()
    assert (tmp_path / f"{TRAIN_IMAGES}.gz").read_bytes()[10:] == gzip.compress(content, 6)[10:]


@given(labels=st.binary(min_size=1, max_size=5).map(lambda b: bytes(x % 10 for x in b)), seed=st.integers(0, 99))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, labels: bytes, seed: int) -> None:
    folder = tmp_path_factory.mktemp("idx")
    values = np.frombuffer(labels, np.uint8)
    dataset = Dataset(noise(len(labels), seed).images, values, "custom", "here")
    for split in ("train", "test"):
        idx.write(dataset, split, folder)
    (found,) = idx.FORM.find(stored.in_folder(folder))
    for read in idx.FORM.read(found.files, "here"):
        assert np.array_equal(read.images, dataset.images)
        assert np.array_equal(read.labels, values)


def test_the_real_files_have_the_known_statistics(real_folder: Path) -> None:
    train, test = load_fashion_mnist(real_folder)
    assert train.images.shape == (60_000, 28, 28)
    assert test.images.shape == (10_000, 28, 28)
    assert np.bincount(train.labels).tolist() == [6000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.images.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert train.images.std() / 255 == pytest.approx(0.3530, abs=5e-5)
