import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_helpers import by_label, made, opened

from fmnist_xp.data import Dataset, load_fashion_mnist
from fmnist_xp.errors import DataError


def assert_is_the_made_data(train: Dataset, test: Dataset) -> None:
    for read, expected in ((train, made(20)), (test, made(10, 1))):
        images, labels = by_label(expected)
        assert np.array_equal(read.images, images)
        assert np.array_equal(read.labels, labels)
        assert read.images.dtype == read.labels.dtype == np.uint8
        assert read.name == "custom"


def zipped(folder: Path, path: Path, top: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):  # not in the order they are to be read in
            archive.write(file, top + file.relative_to(folder).as_posix())
    return path


def test_a_folder_is_read_sorted_by_label_then_name(image_folder: Path) -> None:
    train, test = load_fashion_mnist(image_folder)
    assert_is_the_made_data(train, test)
    assert str(image_folder) in train.source


def test_what_file_managers_leave_behind_is_passed_over(image_folder: Path) -> None:
    for name in (".DS_Store", "train/.DS_Store", "train/3/Thumbs.db", "test/4/._0000.png", "README.txt"):
        (image_folder / name).write_bytes(b"anything")
    assert_is_the_made_data(*load_fashion_mnist(image_folder))


@pytest.mark.parametrize("top", ["", "fashion_mnist_images/"])
def test_a_zip_is_read_bare_or_below_one_folder(image_folder: Path, tmp_path: Path, top: str) -> None:
    path = zipped(image_folder, tmp_path / "images.zip", top)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"__MACOSX/{top}train/0/._0000.png", b"anything")
    assert_is_the_made_data(*load_fashion_mnist(path))


def encoded(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


GOOD = encoded(np.full((28, 28), 7, np.uint8))
NOISE = encoded(made(1).images[0])
WRONG = {
    "cut short": (NOISE[: len(NOISE) // 2], "not an image, damaged or cut short"),
    "without its end": (NOISE[:-12], "not an image, damaged or cut short"),
    "damaged inside": (NOISE[:300] + b"\x00" * 8 + NOISE[308:], "not an image, damaged or cut short"),
    "not an image": (b"<html>not found</html>", "not an image"),
    "empty": (b"", "not an image"),
    "size": (encoded(np.zeros((30, 28), np.uint8)), "28 x 30 pixels of 1 x 8 bits found"),
    "colour": (encoded(np.zeros((28, 28, 3), np.uint8)), "28 x 28 pixels of 3 x 8 bits found"),
    "transparency": (encoded(np.zeros((28, 28, 4), np.uint8)), "28 x 28 pixels of 4 x 8 bits found"),
    "depth": (encoded(np.zeros((28, 28), np.uint16)), "28 x 28 pixels of 1 x 16 bits found"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_image_is_named_in_a_folder_and_in_a_zip(
    image_folder: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    path = image_folder / "train" / "6" / "0001.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load_fashion_mnist(image_folder)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    archive = zipped(image_folder, tmp_path / "images.zip")
    with pytest.raises(DataError, match=message) as raised:
        load_fashion_mnist(archive)
    assert str(archive) in str(raised.value)
    assert "train/6/0001.png" in str(raised.value)


@pytest.mark.parametrize("label", ["10", "a", "00", "³"])
def test_a_folder_that_is_no_label_is_named(image_folder: Path, label: str) -> None:
    (image_folder / "test" / label).mkdir()
    (image_folder / "test" / label / "0000.png").write_bytes(GOOD)
    with pytest.raises(DataError, match="not a label folder") as raised:
        load_fashion_mnist(image_folder)
    assert str(image_folder / "test" / label) in str(raised.value)


def test_a_file_among_the_label_folders_is_named(image_folder: Path) -> None:
    (image_folder / "test" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt: not a label folder"):
        load_fashion_mnist(image_folder)


def test_a_file_that_is_not_called_png_is_named(image_folder: Path) -> None:
    (image_folder / "train" / "0" / "0000.jpg").write_bytes(GOOD)
    with pytest.raises(DataError, match=r"0/0000\.jpg: not a \.png file"):
        load_fashion_mnist(image_folder)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_named(image_folder: Path, tmp_path: Path, split: str) -> None:
    (image_folder / split).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="missing") as raised:
        load_fashion_mnist(image_folder)
    assert str(image_folder / split) in str(raised.value)
    archive = zipped(image_folder, tmp_path / "images.zip")
    with pytest.raises(DataError, match=f"no {split}/ found") as raised:
        load_fashion_mnist(archive)
    assert str(archive) in str(raised.value)


def test_a_missing_class_is_named_whether_its_folder_is_empty_or_gone(image_folder: Path) -> None:
    folder = image_folder / "test" / "8"
    (folder / "0000.png").unlink()
    for _ in range(2):
        with pytest.raises(DataError, match="no image found") as raised:
            load_fashion_mnist(image_folder)
        assert str(folder) in str(raised.value)
        if folder.exists():
            folder.rmdir()


@pytest.mark.parametrize(
    "name", ["../evil.png", "train/../../evil.png", "/evil.png", "C:/evil.png", "C:evil.png", "..\\evil.png"]
)
def test_a_member_that_leads_out_of_the_zip_is_refused(image_folder: Path, tmp_path: Path, name: str) -> None:
    path = zipped(image_folder, tmp_path / "images.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, GOOD)
    with pytest.raises(DataError, match="leads out of its folder") as raised:
        load_fashion_mnist(path)
    assert str(path) in str(raised.value)
    assert name in str(raised.value)


def test_a_file_that_is_no_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    path.write_bytes(b"PK but no more")
    with pytest.raises(DataError, match="not a zip file") as raised:
        load_fashion_mnist(path)
    assert str(path) in str(raised.value)


def test_a_damaged_member_is_named(image_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(zipped(image_folder, path)) as archive:
        info = archive.getinfo("train/6/0001.png")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename) + 200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"member train/6/0001\.png is damaged"):
        load_fashion_mnist(path)


def test_a_member_that_unpacks_to_far_more_than_an_image_is_refused(image_folder: Path, tmp_path: Path) -> None:
    (image_folder / "train" / "0" / "0000.png").write_bytes(GOOD + bytes(2_000_000))
    path = zipped(image_folder, tmp_path / "images.zip")
    with pytest.raises(DataError, match=r"member train/0/0000\.png is too large"):
        load_fashion_mnist(path)


def test_an_empty_folder_and_a_missing_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set found") as raised:
        load_fashion_mnist(tmp_path)
    assert str(tmp_path) in str(raised.value)
    with pytest.raises(DataError, match="no such folder or file") as raised:
        load_fashion_mnist(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(raised.value)


def test_without_opencv_the_error_says_what_to_install(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r"pip install opencv-python-headless$"):
        load_fashion_mnist(image_folder)


def test_the_notebooks_own_files_are_the_idx_images_in_order_of_label(real_folder: Path, png_sample: Path) -> None:
    for split, real in zip(("train", "test"), load_fashion_mnist(real_folder), strict=True):
        for label in range(10):
            images = real.images[real.labels == label]
            files = sorted((png_sample / split / str(label)).iterdir())
            assert files
            for file in files:
                assert np.array_equal(opened(file), images[int(file.stem)])


def test_the_notebooks_own_files_are_read(png_sample: Path) -> None:
    for split, read in zip(("train", "test"), load_fashion_mnist(png_sample), strict=True):
        files = sorted((png_sample / split).glob("*/*.png"))
        assert files
        expected = np.array([opened(file) for file in files])
        assert np.array_equal(read.images, expected)
        assert read.labels.tolist() == [int(file.parent.name) for file in files]
