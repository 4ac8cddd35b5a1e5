import functools
import io
import os
import re
import shutil
import socket
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from data_helpers import by_label, chunk, filtered, noise, opened, png
from hypothesis import given, settings
from hypothesis import strategies as st

from fmnist_xp.data import CLASS_NAMES, Dataset, images, load_fashion_mnist
from fmnist_xp.errors import DataError


def assert_is_the_noise(train: Dataset, test: Dataset) -> None:
    for read, expected in ((train, noise(20)), (test, noise(10, 1))):
        images, labels = by_label(expected)
        assert np.array_equal(read.images, images)
        assert np.array_equal(read.labels, labels)
        assert read.images.dtype == read.labels.dtype == np.uint8
        assert read.name == "custom"


def zipped(folder: Path, path: Path, top: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):  # not in the order in which they are to be read
            archive.write(file, top + file.relative_to(folder).as_posix())
    return path


def test_a_folder_is_read_sorted_by_label_then_name(image_folder: Path) -> None:
    train, test = load_fashion_mnist(image_folder)
    assert_is_the_noise(train, test)
    assert str(image_folder) in train.source


LITTER = [
    ".DS_Store",
    "README.txt",
    "labels.CSV",
    "train/.DS_Store",
    "train/notes.txt",
    "train/README",
    "train/3/Thumbs.db",
    "train/3/EhThumbs.db",
    "test/4/._0000.png",
    "test/4/Desktop.ini",
    "test/4/Icon\r",
    "test/4/0000.png:Zone.Identifier",
    "test/4/@eaDir/0000.png/SYNO.jpg",
    "__MACOSX/train/0/._0000.png",
]


def test_files_left_behind_by_systems_are_skipped_and_counted(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fmnist_xp")
    made = 0
    for name in LITTER:
        try:
            (image_folder / name).parent.mkdir(parents=True, exist_ok=True)
            (image_folder / name).write_bytes(b"anything")
            made += 1
        except OSError:  # Windows does not allow some of these names
            continue
    for source in (image_folder, zipped(image_folder, tmp_path / "images.zip")):
        caplog.clear()
        assert_is_the_noise(*load_fashion_mnist(source))
        (record,) = (record for record in caplog.records if "skipped" in record.getMessage())
        assert f"{source}: skipped what is no image of the data set, {made} in all: " in record.getMessage()
        assert record.getMessage().count("'") == 2 * 3
        assert record.getMessage().endswith("', …")
        assert record.levelname == "WARNING"


def test_files_beside_the_top_folder_are_counted_too(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "above").mkdir()
    image_folder.rename(tmp_path / "above" / "images")
    (tmp_path / "above" / "README").write_text("all about it")
    (tmp_path / "above" / "images" / "licence.pdf").write_text("as is")
    assert_is_the_noise(*load_fashion_mnist(tmp_path / "above"))
    (record,) = caplog.records
    assert record.getMessage().endswith("2 in all: 'README', 'licence.pdf'")


def test_files_left_behind_by_systems_give_no_warning(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (image_folder / "train" / ".DS_Store").write_bytes(b"anything")
    (image_folder / "train" / "3" / "Thumbs.db").write_bytes(b"anything")
    assert_is_the_noise(*load_fashion_mnist(image_folder))
    assert not caplog.records


@pytest.mark.parametrize("top", ["", "fashion_mnist_images/", "FOR X/"])
def test_a_zip_is_read_with_or_without_a_top_folder(image_folder: Path, tmp_path: Path, top: str) -> None:
    path = zipped(image_folder, tmp_path / "images.zip", top)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"__MACOSX/{top}train/0/._0000.png", b"anything")
    assert_is_the_noise(*load_fashion_mnist(path))


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


GOOD = encoded(np.full((28, 28), 7, np.uint8))
IMAGE = noise(1).images[0]
NOISE = encoded(IMAGE)
LINES = filtered(IMAGE, [row % 5 for row in range(28)])
RAMP = np.tile(np.arange(28, dtype=np.uint8), (28, 1))
OPAQUE = np.full((28, 28), 255, np.uint8)


def interlaced(image: np.ndarray) -> bytes:
    """Return a PNG in Adam7 order: W3C PNG, section 8."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    lines = b""
    for row, column, rows, columns in passes:
        part = image[row::rows, column::columns]
        lines += filtered(part, [0] * len(part))
    return png(lines, interlace=1)


PALETTE = bytes(value for grey in range(255, -1, -1) for value in (grey, grey, grey))
RIGHT = {
    "plain": png(LINES),
    "three IDAT chunks": png(LINES, parts=3),
    "a title": png(LINES, before=chunk(b"tEXt", b"Title\0shoe")),
    "a comment after the pixels": png(LINES)[:-12] + chunk(b"tEXt", b"Comment\0boot") + png(LINES)[-12:],
    "bytes after the end": png(LINES) + b"more",
    "interlaced": interlaced(IMAGE),
    "RGB": encoded(np.dstack([IMAGE] * 3)),
    "RGBA": encoded(np.dstack([IMAGE] * 3 + [OPAQUE])),
    "palette": png(filtered(255 - IMAGE, [0] * 28), colour=3, before=chunk(b"PLTE", PALETTE)),
    "one grey transparent": png(LINES, before=chunk(b"tRNS", b"\1\7")),
    "an invalid profile": png(LINES, before=chunk(b"iCCP", b"nothing")),
    "animated": png(LINES, before=chunk(b"acTL", bytes([0, 0, 0, 9, 0, 0, 0, 0]))),
}


@pytest.mark.parametrize("content", RIGHT.values(), ids=RIGHT)
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_correct_image_is_read_in_any_encoding(
    image_folder: Path, tmp_path: Path, content: bytes, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (image_folder / "train" / "6" / "0001.png").write_bytes(content)
    source = image_folder if form == "folder" else zipped(image_folder, tmp_path / "images.zip")
    train, _ = load_fashion_mnist(source)
    assert np.array_equal(train.images[13], IMAGE)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["0001.jpg", "0001.JPEG"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_of_a_grey_image_is_read(image_folder: Path, name: str, channels: int) -> None:
    folder = image_folder / "train" / "6"
    (folder / "0001.png").unlink()
    # Flat 8 x 8 squares, which JPEG keeps to a grey value or so.
    squares = np.kron(np.arange(16, dtype=np.uint8).reshape(4, 4) * 16, np.ones((8, 8), np.uint8))[:28, :28]
    (folder / name).write_bytes(encoded(squares if channels == 1 else np.dstack([squares] * 3), ".jpg"))
    train, _ = load_fashion_mnist(image_folder)
    assert np.abs(train.images[13].astype(int) - squares).max() <= 2


COLOURED = np.dstack([RAMP, RAMP, RAMP + 1])
WRONG = {
    "cut short": (NOISE[: len(NOISE) // 2], "damaged or cut short; copy it again"),
    "without its end": (NOISE[:-12], "damaged or cut short; copy it again"),
    "damaged inside": (NOISE[:300] + b"\x00" * 8 + NOISE[308:], "damaged or cut short; copy it again"),
    "a chunk of 4 GB": (NOISE[:33] + b"\xff" + NOISE[34:], "damaged or cut short; copy it again"),
    "16,000 x 16,000 pixels": (png(LINES, 16_000, 16_000), "16000 x 16000 pixels found; 28 x 28"),
    "a JPEG cut short": (encoded(RAMP, ".jpg")[:-30], "damaged or cut short; copy it again"),
    "an unknown filter": (png(b"\5" + LINES[1:]), "not an image that OpenCV can decode$"),
    "not an image": (b"<html>not found</html>", r"not an image in PNG.* \(it begins with b'<html>no'\)$"),
    "empty": (b"", r"not an image in PNG.* \(it is empty\)$"),
    "size": (encoded(np.zeros((30, 28), np.uint8)), "28 x 30 pixels found; 28 x 28 pixels of grey needed"),
    "colour": (encoded(COLOURED), "28 x 28 pixels of 3 x 8 bits found that are not grey"),
    "transparency": (
        encoded(np.zeros((28, 28, 4), np.uint8)),
        "28 x 28 pixels of 4 x 8 bits found that are not grey",
    ),
    "depth": (encoded(np.zeros((28, 28), np.uint16)), "28 x 28 pixels of 1 x 16 bits found"),
    "depth, and colour": (
        encoded(np.zeros((28, 28, 3), np.uint16)),
        "28 x 28 pixels of 3 x 16 bits found that are not grey; 28 x 28 pixels of 8-bit grey needed$",
    ),
    "256 KiB": (NOISE + bytes(1 << 18), "bytes found; an image file may have 262,144 here"),
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


NAMES = ["shoe and\nboot.png", "größe.png", "靴.PNG", "-I.png", "%s.png", os.fsdecode(b"caf\xe9.png")]


@pytest.mark.parametrize("name", NAMES)
def test_names_may_have_any_characters(image_folder: Path, name: str) -> None:
    path = image_folder / "train" / "9" / name
    try:
        path.write_bytes(NOISE)
    except (OSError, UnicodeError):
        pytest.skip("the file system does not take this name")
    train, _ = load_fashion_mnist(image_folder)
    assert train.labels.tolist() == sorted([*range(10)] * 2 + [9])
    place = sorted(["0000.png", "0001.png", name]).index(name)
    assert np.array_equal(train.images[18 + place], IMAGE)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_among_the_images_is_named_and_does_not_block(image_folder: Path) -> None:
    os.mkfifo(image_folder / "train" / "3" / "pipe.png")
    with pytest.raises(DataError, match=r"3/pipe\.png: a named pipe found where an image file should be"):
        load_fashion_mnist(image_folder)


def test_a_device_among_the_images_is_named(image_folder: Path) -> None:
    if not Path("/dev/zero").is_char_device():
        pytest.skip("this system has no /dev/zero")
    (image_folder / "train" / "3" / "zeros.png").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"3/zeros\.png: a device found where an image file should be"):
        load_fashion_mnist(image_folder)


def test_a_socket_among_the_images_is_named(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("this system has no such sockets")
    monkeypatch.chdir(image_folder / "train" / "3")  # for a short name
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        with pytest.raises(DataError, match=r"3/socket\.png: cannot be read"):
            load_fashion_mnist(image_folder)


SPELT = {
    "two digits": [f"{label:02d}" for label in range(10)],
    "names": [
        "T-shirt_top",
        "trouser",
        "PULLOVER",
        "Dress",
        "coat",
        "sandal",
        "shirt",
        "Sneaker",
        "bag",
        "Ankle boot",
    ],
    "both": [f"{label} - {name}" for label, name in enumerate(CLASS_NAMES)],
}
SPELT["both"][0] = "0_Tshirt-Top"


@pytest.mark.parametrize("labels", SPELT.values(), ids=SPELT)
@pytest.mark.parametrize("splits", [("Train", "TEST"), ("training", "testing"), ("train", "val"), ("train", "valid")])
@pytest.mark.parametrize("below", [False, True])
def test_folders_may_have_other_names_and_be_one_level_down(
    image_folder: Path, tmp_path: Path, labels: list[str], splits: tuple[str, str], below: bool
) -> None:
    folder = tmp_path / "named"
    for split, other in zip(("train", "test"), splits, strict=True):
        for label, name in enumerate(labels):
            (folder / "data" / other).mkdir(parents=True, exist_ok=True)
            (image_folder / split / str(label)).rename(folder / "data" / other / name)
    (folder / "README.md").write_text("all about it")
    assert_is_the_noise(*load_fashion_mnist(folder if below else folder / "data"))
    assert_is_the_noise(*load_fashion_mnist(zipped(folder if below else folder / "data", tmp_path / "named.zip")))


def test_validation_images_beside_test_images_are_ignored_with_a_warning(
    image_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (image_folder / "valid" / "0").mkdir(parents=True)
    assert_is_the_noise(*load_fashion_mnist(image_folder))
    (record,) = (record for record in caplog.records if record.levelname == "WARNING")
    assert record.getMessage() == f"{image_folder / 'valid'}: left aside, since there is test too"


@pytest.mark.parametrize(("one", "other"), [("train/0", "train/T-Shirt Top"), ("test", "testing")])
def test_two_folders_for_the_same_images_are_named(image_folder: Path, tmp_path: Path, one: str, other: str) -> None:
    shutil.copytree(image_folder / one, image_folder / other)
    for source in (image_folder, zipped(image_folder, tmp_path / "images.zip")):
        with pytest.raises(DataError) as raised:
            load_fashion_mnist(source)
        for name in (Path(one).name, Path(other).name):
            assert name in str(raised.value).removeprefix(str(source))


@pytest.mark.parametrize("label", ["10", "a", "000", "³", "1 Bag", "٣"])
def test_a_class_of_test_images_alone_is_named(image_folder: Path, label: str) -> None:
    (image_folder / "test" / label).mkdir()
    (image_folder / "test" / label / "0000.png").write_bytes(GOOD)
    where, message = ("test", "the same label as 0") if label == "000" else ("train", "no image found; each class")
    with pytest.raises(DataError, match=message) as raised:
        load_fashion_mnist(image_folder)
    assert str(image_folder / where / label) in str(raised.value)


def test_a_file_among_the_folders_of_classes_is_named(image_folder: Path) -> None:
    for name in ("0.png", "08"):
        (image_folder / "test" / name).write_bytes(GOOD)
        with pytest.raises(DataError, match=f"{re.escape(name)}: not a folder; a folder for each class"):
            load_fashion_mnist(image_folder)
        (image_folder / "test" / name).unlink()


@pytest.mark.parametrize("name", ["0000.gif", "0000", "0000.png.bak"])
def test_a_file_without_an_image_suffix_is_named(image_folder: Path, name: str) -> None:
    (image_folder / "train" / "0" / name).write_bytes(GOOD)
    with pytest.raises(DataError, match=rf"0/{re.escape(name)}: neither a \.png nor a \.jpg file"):
        load_fashion_mnist(image_folder)


def test_a_folder_among_the_images_is_named(image_folder: Path) -> None:
    (image_folder / "train" / "0" / "more.png").mkdir()
    with pytest.raises(DataError, match=r"0/more\.png: a folder; move it elsewhere"):
        load_fashion_mnist(image_folder)


@pytest.mark.parametrize("count", [3, 4])
def test_three_of_the_skipped_files_are_named(
    image_folder: Path, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """A file with the name of a split is one of them."""
    for name in ("Testing", "valid", "x", "y")[:count]:
        (image_folder / name).write_bytes(b"anything")
    assert_is_the_noise(*load_fashion_mnist(image_folder))
    (said,) = caplog.messages
    start = f"{image_folder}: skipped what is no image of the data set, {count} in all: "
    assert said.startswith(start)
    names, end = said.removeprefix(start).removesuffix(", …").split(", "), said.endswith(", …")
    assert (len(names), end) == (3, count == 4)


def test_two_missing_splits_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        images.Folder(tmp_path)
    assert str(raised.value) == f"{tmp_path / 'train'}: missing; train and test are needed, neither found"


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_split_is_named(image_folder: Path, tmp_path: Path, split: str) -> None:
    (image_folder / split).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="missing") as raised:
        load_fashion_mnist(image_folder)
    assert str(image_folder / split) in str(raised.value)
    assert f"{'test' if split == 'train' else 'train'} found" in str(raised.value)
    archive = zipped(image_folder, tmp_path / "images.zip")
    with pytest.raises(DataError, match=f"{split}: missing") as raised:
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


def test_a_member_without_a_name_is_refused(image_folder: Path, tmp_path: Path) -> None:
    path = zipped(image_folder, tmp_path / "images.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("./.", GOOD)
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(path)
    assert str(raised.value) == f"{path}: a member without a name found; copy the zip again"


def test_a_file_that_is_not_a_zip_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    path.write_bytes(b"PK but no more")
    with pytest.raises(DataError, match="not a zip file") as raised:
        load_fashion_mnist(path)
    assert str(path) in str(raised.value)


METHODS = {"stored": zipfile.ZIP_STORED, "deflate": zipfile.ZIP_DEFLATED}


def place_of(archive: bytes, member: str) -> tuple[int, int]:
    """Return where the two headers of a member begin: before its data, and in the central directory."""
    return archive.index(member.encode()) - 30, archive.rindex(member.encode()) - 46


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("place", [0, 2, 5, 9, 20, 200])
def test_a_damaged_member_is_named(image_folder: Path, tmp_path: Path, method: int, place: int) -> None:
    path = zipped(image_folder, tmp_path / "images.zip", method=method)
    content = bytearray(path.read_bytes())
    content[place_of(content, "train/6/0001.png")[0] + 30 + len("train/6/0001.png") + place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"member train/6/0001\.png is damaged \(.*\); copy the zip again"):
        load_fashion_mnist(path)


def test_a_locked_member_is_named(image_folder: Path, tmp_path: Path) -> None:
    path = zipped(image_folder, tmp_path / "images.zip")
    content = bytearray(path.read_bytes())
    local, central = place_of(content, "train/6/0001.png")
    content[local + 6] |= 1
    content[central + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"member train/6/0001\.png is locked \(.*encrypted.*unpack the zip"):
        load_fashion_mnist(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 99])
def test_a_member_compressed_in_another_way_is_named(image_folder: Path, tmp_path: Path, method: int) -> None:
    path = zipped(image_folder, tmp_path / "images.zip", method=zipfile.ZIP_DEFLATED if method == 99 else method)
    content = bytearray(path.read_bytes())
    local, central = place_of(content, "train/0/0000.png")
    content[local + 8] = content[central + 10] = method
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"member train/0/0000\.png is compressed by method {method}.*; unpack the zip"
    ):
        load_fashion_mnist(path)


@pytest.mark.parametrize("name", ["train/6/0001.png", "./train/6//0001.png"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_duplicate_member_is_refused(image_folder: Path, tmp_path: Path, name: str) -> None:
    path = zipped(image_folder, tmp_path / "images.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, GOOD)
    with pytest.raises(DataError, match=r"images\.zip: member train/6/0001\.png is there twice"):
        load_fashion_mnist(path)


def traced_peak(run: Callable[[], object]) -> int:
    """Return the peak memory of Python and NumPy, in bytes, during `run`."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("said", [1_000, 100_000_000])
def test_a_member_that_unpacks_to_far_more_than_an_image_is_refused_unread(
    image_folder: Path, tmp_path: Path, method: int, said: int
) -> None:
    size = 100_000_000
    (image_folder / "train" / "0" / "0000.png").write_bytes(GOOD + bytes(size - len(GOOD)))
    path = zipped(image_folder, tmp_path / "images.zip", method=method)
    content = bytearray(path.read_bytes())
    local, central = place_of(content, "train/0/0000.png")
    content[local + 22 : local + 26] = content[central + 24 : central + 28] = said.to_bytes(4, "little")
    path.write_bytes(content)

    def load() -> None:
        with pytest.raises(DataError, match=r"member train/0/0000\.png(: 100,000,000 bytes found| is damaged)"):
            images.read_zip(path, "here")

    del content
    assert traced_peak(load) < 10_000_000


def test_files_of_the_largest_size_are_read(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(image_folder, tmp_path / "images.zip")
    largest = max(path.stat().st_size for path in image_folder.rglob("*.png"))
    monkeypatch.setattr(images, "_LARGEST", largest)
    assert_is_the_noise(*images.Folder(image_folder).read("here"))
    assert_is_the_noise(*images.read_zip(archive, "here"))
    monkeypatch.setattr(images, "_LARGEST", largest - 1)
    for read in (images.Folder(image_folder).read, functools.partial(images.read_zip, archive)):
        with pytest.raises(DataError, match=f"{largest} bytes found; an image file may have {largest - 1} here$"):
            read("here")


@functools.cache
def small_zip(method: int) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for split, seed in (("train", 0), ("test", 1)):
            for label, image in enumerate(noise(10, seed).images):
                archive.writestr(f"{split}/{label}/0.png", encoded(image))
    return content.getvalue()


def outcome(path: Path) -> str | tuple[Dataset, Dataset]:
    try:
        return images.read_zip(path, "here")
    except DataError as error:
        return str(error)


@given(
    method=st.sampled_from(list(METHODS.values())),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3),
    part=st.sampled_from([slice(0, -1), slice(-2000, -1), slice(-60, -1)]),  # much of the grammar is at the end
    kept=st.sampled_from([1, 1, 1, 0.99, 0.5]),
)
@settings(max_examples=200, deadline=None)
def test_a_zip_with_changed_bytes_is_read_correctly_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    method: int,
    changes: list[tuple[float, int]],
    part: slice,
    kept: float,
) -> None:
    content = bytearray(small_zip(method))
    places = range(len(content))[part]
    for where, value in changes:
        content[places[int(where * (len(places) - 1))]] = value
    path = tmp_path_factory.getbasetemp() / "changed.zip"
    path.write_bytes(content[: int(kept * len(content))])
    found = outcome(path)
    if isinstance(found, str):
        assert found.startswith(f"{path}: ")
        assert "\n" not in found
    else:  # in another order, if a name changed
        read = [bytes(image) for split in found for image in split.images]
        assert sorted(read) == sorted(bytes(image) for seed in (0, 1) for image in noise(10, seed).images)


def test_an_empty_folder_and_a_missing_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set found") as raised:
        load_fashion_mnist(tmp_path)
    assert str(tmp_path) in str(raised.value)
    with pytest.raises(DataError, match="no such folder or file") as raised:
        load_fashion_mnist(tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in str(raised.value)


def test_no_process_is_started(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python is embedded in another program, `sys.executable` is that program."""

    def refuse(event: str, _: object) -> None:
        if active and event in {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system", "os.exec"}:
            raise AssertionError(event)

    active = [True]
    sys.addaudithook(refuse)  # it cannot be removed; `active` switches it off
    monkeypatch.setattr(images, "_PIECE", 3)
    try:
        assert_is_the_noise(*images.Folder(image_folder).read("here"))
    finally:
        active.clear()


@pytest.mark.parametrize("first", ["fingerprint", "read"])
def test_the_fingerprint_is_the_same_before_and_after_reading(image_folder: Path, first: str) -> None:
    folder = images.Folder(image_folder)
    expected = images.Folder(image_folder).fingerprint()
    if first == "read":
        folder.read("here")
        os.utime(image_folder / "train" / "6" / "0001.png", ns=(0, 1))  # changed after it was read
    assert folder.fingerprint() == expected
    os.utime(image_folder / "train" / "6" / "0001.png", ns=(0, 2))
    assert images.Folder(image_folder).fingerprint() != expected


def test_images_may_be_older_than_1970(image_folder: Path) -> None:
    path = image_folder / "train" / "6" / "0001.png"
    try:
        os.utime(path, ns=(0, -1_000_000_000))
    except OSError:
        pytest.skip("this system has no such times")
    folder = images.Folder(image_folder)
    expected = images.Folder(image_folder).fingerprint()
    folder.read("here")
    assert folder.fingerprint() == expected


@pytest.mark.parametrize("batch", [0, 3000, 1 << 24])
def test_many_files_are_read_in_batches(image_folder: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(images, "_BATCH", batch)
    monkeypatch.setattr(images, "_PIECE", 3)
    assert_is_the_noise(*images.Folder(image_folder).read("here"))


def test_a_batch_is_decoded_once_it_exceeds_its_size(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in image_folder.rglob("*.png"):
        path.write_bytes(GOOD)
    batches: list[list[int]] = []
    on_threads = images.on_threads

    def noted(work: Callable[[tuple[int, list[bytes]]], None], pieces: list[tuple[int, list[bytes]]]) -> None:
        batches.append([start for start, _ in pieces])
        on_threads(work, pieces)

    monkeypatch.setattr(images, "on_threads", noted)
    monkeypatch.setattr(images, "_PIECE", 3)
    monkeypatch.setattr(images, "_BATCH", 3 * len(GOOD))
    train, test = images.Folder(image_folder).read("here")
    assert (train.images == 7).all()
    assert (test.images == 7).all()
    assert batches == [[0, 3], [6, 9], [12, 15], [18, 21], [24, 27]]


def test_the_bar_ends_with_the_last_image(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image is counted when it is read and when it is decoded."""
    counts: list[int] = []
    steps: list[int] = []

    @contextmanager
    def bar(count: int) -> Iterator[Callable[[int], None]]:
        counts.append(count)
        yield steps.append

    monkeypatch.setattr(images, "_bar", bar)
    monkeypatch.setattr(images, "_PIECE", 4)
    images.Folder(image_folder).read("here")
    assert counts == [60]
    assert sorted(steps) == [2, 2] + [4] * 14


def test_a_bar_is_shown_only_on_a_terminal(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images.Folder(image_folder).read("here")
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    images.Folder(image_folder).read("here")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "reading images" in shown.err
    assert "100%" in shown.err
    monkeypatch.setattr(sys, "stderr", None)  # a program without a console
    images.Folder(image_folder).read("here")


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
