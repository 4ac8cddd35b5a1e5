import gzip
import os
import re
import stat
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from data_helpers import noise
from table_helpers import (
    csv_file,
    csv_rows,
    folder_of,
    idx_file,
    idx_files,
    npz_arrays,
    same,
    sideways,
    tar_to,
    zip_to,
)

from fmnist_xp.data import load_fashion_mnist, stored
from fmnist_xp.errors import DataError

SPLITS = noise(20), noise(10, 1)
FILES = idx_files(*SPLITS)
CSV = {
    "fashion-mnist_train.csv": csv_file(csv_rows(SPLITS[0])),
    "fashion-mnist_test.csv": csv_file(csv_rows(SPLITS[1])),
}
TRAIN_IMAGES = "train-images-idx3-ubyte"


def renamed(*changes: tuple[str, str]) -> dict[str, bytes]:
    files = FILES
    for old, new in changes:
        files = {name.replace(old, new): content for name, content in files.items()}
    return files


def npz(path: Path) -> Path:
    np.savez_compressed(path, **npz_arrays(*SPLITS))
    return path


LAYOUTS = {
    "as published": {f"{name}.gz": gzip.compress(content) for name, content in FILES.items()},
    "a dot": renamed(("-idx", ".idx")),
    "test for t10k": renamed(("t10k", "test")),
    "capitals": {name.upper(): content for name, content in FILES.items()},
    "torchvision": {f"FashionMNIST/raw/{name}": content for name, content in FILES.items()},
    "torchvision, both": {
        **{f"FashionMNIST/raw/{name}": content for name, content in FILES.items()},
        **{f"FashionMNIST/raw/{name}.gz": gzip.compress(content) for name, content in FILES.items()},
    },
    "one folder down": {f"data/{name}": content for name, content in FILES.items()},
    "EMNIST": {
        f"emnist-mnist-{name.replace('t10k', 'test')}.gz": gzip.compress(content)
        for name, content in idx_files(*map(sideways, SPLITS)).items()
    },
    "gzip without .gz": {name: gzip.compress(content) for name, content in FILES.items()},
    "plain with .gz": {f"{name}.gz": content for name, content in FILES.items()},
    "folders named like the files": {
        **renamed(("-idx", ".idx")), **{f"{name}/{name}": content for name, content in FILES.items()}
    },
    "CSV": CSV,
    "CSV, gzip": {f"{name}.gz": gzip.compress(content) for name, content in CSV.items()},
    "CSV beside an IDX file of something else": {**CSV, "emnist-train-labels-idx1-ubyte": b"whatever"},
}  # fmt: skip


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("place", ["folder", "zip", "tar", "tar.gz"])
def test_common_layouts_are_read_from_a_folder_and_from_archives(
    tmp_path: Path, files: dict[str, bytes], place: str
) -> None:
    if place == "folder":
        path = folder_of(tmp_path / "data", files)
    elif place == "zip":
        path = zip_to(tmp_path / "data", files)  # known by its first bytes
    else:
        path = tar_to(tmp_path / "data", files, "w:gz" if place == "tar.gz" else "w")
    assert same(load_fashion_mnist(path), SPLITS)
    assert same(load_fashion_mnist(path), SPLITS)  # from the cache


def test_a_folder_with_one_archive_means_the_archive(tmp_path: Path) -> None:
    for name, write in (("a.zip", zip_to), ("a.tgz", tar_to)):
        folder = tmp_path / name[2:]
        folder.mkdir()
        write(folder / name, FILES)
        (folder / "README.md").write_text("about")
        assert same(load_fashion_mnist(folder), SPLITS)
    folder = tmp_path / "npz"
    folder.mkdir()
    npz(folder / "mnist.npz")
    assert same(load_fashion_mnist(folder), SPLITS)
    assert same(load_fashion_mnist(folder / "mnist.npz"), SPLITS)
    zip_to(folder / "other.zip", FILES)
    with pytest.raises(DataError, match=r"several data sets found \(mnist\.npz; other\.zip\); give one of them"):
        load_fashion_mnist(folder)


def test_csv_files_zipped_one_by_one_as_by_kaggle_are_read(tmp_path: Path) -> None:
    for name, content in CSV.items():
        zip_to(tmp_path / f"{name}.zip", {name: content})
    assert same(load_fashion_mnist(tmp_path), SPLITS)
    zip_to(tmp_path / "fashion-mnist_test.csv.zip", {**CSV, "more": b""})
    with pytest.raises(DataError, match=r"test\.csv\.zip: a zip of 3 files found; one is needed here"):
        load_fashion_mnist(tmp_path)


def test_one_file_of_a_set_means_the_set(tmp_path: Path) -> None:
    other = noise(30, 2), noise(10, 3)
    folder_of(
        tmp_path,
        FILES | {f"emnist-{name}": content for name, content in idx_files(*map(sideways, other)).items()} | CSV,
    )
    assert same(load_fashion_mnist(tmp_path / TRAIN_IMAGES), SPLITS)
    assert same(load_fashion_mnist(tmp_path / "emnist-t10k-labels-idx1-ubyte"), other)
    assert same(load_fashion_mnist(tmp_path / "fashion-mnist_test.csv"), SPLITS)


def test_several_sets_in_one_place_are_named(tmp_path: Path) -> None:
    folder_of(tmp_path / "forms", FILES | CSV)
    with pytest.raises(DataError, match="several data sets found") as raised:
        load_fashion_mnist(tmp_path / "forms")
    for name in (tmp_path / "forms", TRAIN_IMAGES, "fashion-mnist_train.csv", "give one of the files"):
        assert str(name) in str(raised.value)
    two = {f"emnist-{kind}-{name}": content for kind in ("letters", "digits") for name, content in FILES.items()}
    with pytest.raises(DataError, match=r"emnist-letters-.*; IDX files emnist-digits-.*; unpack it and give one"):
        load_fashion_mnist(zip_to(tmp_path / "two.zip", two))


def test_two_files_for_one_role_are_named(tmp_path: Path) -> None:
    folder_of(tmp_path, FILES | {"test-images-idx3-ubyte": FILES["t10k-images-idx3-ubyte"]})
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(tmp_path)
    assert str(raised.value) == (
        f"{tmp_path / 't10k-images-idx3-ubyte'}: several files in one place "
        "(t10k-images-idx3-ubyte and test-images-idx3-ubyte); keep one"
    )
    folder_of(tmp_path, {"test-images.idx3-ubyte": b"", "test-images.idx3.ubyte": b""})
    with pytest.raises(DataError, match=r"several files in one place \((\S+ and ){2}\S+\); keep one$"):
        load_fashion_mnist(tmp_path)


def test_long_names_are_cut_and_unprintable_ones_escaped() -> None:
    assert stored.shown("a" * 500) == "a" * 500
    assert stored.shown("a" * 501) == "a" * 500 + "…"
    assert stored.shown("a\n") == "'a\\n'"


def test_files_in_archives_know_their_archive(tmp_path: Path) -> None:
    for path in (zip_to(tmp_path / "a.zip", FILES), tar_to(tmp_path / "a.tar", FILES)):
        with stored.in_archive(path) as files:
            assert [file.name for file in files] == list(FILES)
            assert {file.path for file in files} == {path}


def test_no_file_beyond_the_largest_size_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a tar without the zeros that usually end it, which is read to its last byte."""
    large = idx_file(noise(20).images)
    path = tar_to(tmp_path / "a.tar", {**FILES, TRAIN_IMAGES: large})
    folder_of(tmp_path / "folder", FILES)
    with tarfile.open(path) as archive:
        member = archive.getmembers()[-1]
    size = member.offset_data + -(-member.size // 512) * 512
    path.write_bytes(path.read_bytes()[:size])
    for source, largest in ((path, size), (tmp_path / "folder", len(large))):
        monkeypatch.setattr(stored, "LARGEST", largest)
        assert same(load_fashion_mnist(source), SPLITS)
        monkeypatch.setattr(stored, "LARGEST", largest - 1)
        with pytest.raises(DataError, match=r": 0 GB found; no data set of 28 x 28 pixels is as large$"):
            load_fashion_mnist(source)


def test_arrays_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_PIECE", 1000)
    assert same(load_fashion_mnist(folder_of(tmp_path / "plain", FILES)), SPLITS)
    packed = {f"{name}.gz": gzip.compress(content) for name, content in FILES.items()}
    assert same(load_fashion_mnist(folder_of(tmp_path / "packed", packed)), SPLITS)


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_a_tar_with_unbounded_compression_is_refused(tmp_path: Path, kind: Literal["bz2", "xz"]) -> None:
    with tarfile.open(tmp_path / "a.tar", f"w:{kind}") as archive:
        archive.add(folder_of(tmp_path / "folder", FILES), "")
    with pytest.raises(DataError, match=r"a\.tar: neither a zip nor a tar; understood are"):
        load_fashion_mnist(tmp_path / "a.tar")


def test_a_tar_may_lead_to_the_last_byte_of_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tarfile.TarInfo("first")
    info.size = 512
    (tmp_path / "a.tar").write_bytes(info.tobuf())
    monkeypatch.setattr(stored, "LARGEST", 1023)
    with pytest.raises(DataError, match=r"cut short or damaged \(unexpected end of data\)"):
        load_fashion_mnist(tmp_path / "a.tar")
    monkeypatch.setattr(stored, "LARGEST", 1022)
    with pytest.raises(DataError, match=r"\(its headers lead to byte 1023, beyond 1022\); copy or fetch it again$"):
        load_fashion_mnist(tmp_path / "a.tar")


def test_a_duplicate_member_is_refused(tmp_path: Path) -> None:
    path = zip_to(tmp_path / "a.zip", FILES)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("train-labels-idx1-ubyte", FILES["train-labels-idx1-ubyte"])
    with pytest.raises(DataError, match="member train-labels-idx1-ubyte: several files in one place"):
        load_fashion_mnist(path)


def test_other_files_beside_a_set_do_not_matter(tmp_path: Path, image_folder: Path) -> None:
    ids = {"train.csv": b"id,label\n1,3\n", "test.csv": b"id,label\n1,3\n"}
    assert same(load_fashion_mnist(folder_of(tmp_path / "idx", FILES | ids)), SPLITS)
    train, _ = load_fashion_mnist(folder_of(image_folder, ids))
    assert len(train) == 20
    assert same(load_fashion_mnist(folder_of(tmp_path / "other", FILES | {"test/notes.txt": b""})), SPLITS)


def test_images_and_a_table_in_one_folder_are_several_sets(image_folder: Path) -> None:
    folder_of(image_folder, FILES)
    with pytest.raises(
        DataError, match="IDX files train-images-idx3-ubyte and the others; images in train/ and test/"
    ):
        load_fashion_mnist(image_folder)


def test_a_refusal_says_what_is_understood(tmp_path: Path) -> None:
    folder_of(tmp_path / "other", {"a.txt": b"a", "b.txt": b"b", "c\n\x1b.txt": b"c", "d.txt": b"d"})
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(tmp_path / "other")
    message = str(raised.value)
    assert message.startswith(f"{tmp_path / 'other'}: no data set found among its files (a.txt, b.txt, 'c\\n")
    assert "and 1 more); understood are" in message
    assert "copy" not in message
    assert message.isprintable()
    for name in (zip_to(tmp_path / "flat.zip", {"a.txt": b"a"}), tar_to(tmp_path / "flat.tar", {"a.txt": b"a"})):
        with pytest.raises(DataError, match=r"no data set found among its files \(a\.txt\); understood are"):
            load_fashion_mnist(name)
    for name in ("a.txt", "d.txt"):
        with pytest.raises(DataError, match=rf"{name}: neither a zip nor a tar; understood are"):
            load_fashion_mnist(tmp_path / "other" / name)


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
@pytest.mark.parametrize("name", ["pipe", "train-labels-idx1-ubyte", "fashion-mnist_test.csv", "a.zip"])
def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "data", FILES if "idx" in name else CSV if "csv" in name else {})
    folder.mkdir(exist_ok=True)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    for path in (folder / name, folder) if name != "pipe" else (folder / name,):
        with pytest.raises(DataError, match=rf"{name}: a named pipe found; a regular file is needed"):
            load_fashion_mnist(path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_a_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="/dev/zero: a device found; a regular file is needed"):
        load_fashion_mnist("/dev/zero")
    folder_of(tmp_path, FILES)
    (tmp_path / TRAIN_IMAGES).unlink()
    (tmp_path / TRAIN_IMAGES).symlink_to("/dev/zero")
    with pytest.raises(DataError, match=rf"{TRAIN_IMAGES}: a device found"):
        load_fashion_mnist(tmp_path)


@pytest.mark.parametrize("name", ["a.zip", TRAIN_IMAGES, "train-labels-idx1-ubyte", "fashion-mnist_train.csv"])
def test_a_huge_sparse_file_is_refused_by_its_size(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path, FILES if "idx" in name else CSV if "csv" in name else {})
    with (tmp_path / name).open("ab") as file:
        try:
            file.truncate(200_500_000_100)
        except OSError as error:
            pytest.skip(f"this file system has no sparse files as large: {error}")
    with pytest.raises(DataError, match=rf"{name}: 201 GB found; no data set"):
        load_fashion_mnist(tmp_path / name)


def test_a_sparse_file_is_checked_by_its_header_and_not_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, FILES)
    with (tmp_path / TRAIN_IMAGES).open("ab") as file:
        file.truncate(7_000_000_000)
    monkeypatch.setattr("hashlib.file_digest", None)
    with pytest.raises(DataError, match=f"6999999984 bytes of images found, its header promises {20 * 784}"):
        load_fashion_mnist(tmp_path)


def bomb(n: int, head: bytes) -> bytes:
    """Return a gzip file of `head` and n zero bytes."""
    return gzip.compress(head + bytes(n), 9)


def test_a_gzip_longer_than_its_header_promises_is_stopped_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    inflate = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int | None = -1) -> bytes:
        nonlocal read
        data = inflate(self, size)
        read += len(data)
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    monkeypatch.setattr(gzip.GzipFile, "readinto", lambda self, buffer: fill(buffer, counted(self, len(buffer))))
    folder_of(tmp_path, FILES | {"train-labels-idx1-ubyte": bomb(50_000_000, struct.pack(">II", 0x0801, 20))})
    with pytest.raises(DataError, match="more bytes of labels found, its header promises 20"):
        load_fashion_mnist(tmp_path)
    assert 0 < read < 1000


def fill(buffer: memoryview, data: bytes) -> int:
    buffer[: len(data)] = data
    return len(data)


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_a_promise_that_a_file_cannot_hold_is_refused_before_memory_is_allocated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: type[bytes]
) -> None:
    head = struct.pack(">IIII", 0x0803, 9_000_000, 28, 28)
    folder_of(tmp_path, FILES | {TRAIN_IMAGES: pack(head + bytes(1000))})
    monkeypatch.setattr("numpy.empty", None)
    with pytest.raises(DataError, match=f"{TRAIN_IMAGES}: .* bytes of images found, its header promises 7056000000"):
        load_fashion_mnist(tmp_path)


def test_counts_are_compared_before_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((4000, 28, 28), np.uint8)
    folder_of(tmp_path, FILES | {TRAIN_IMAGES: gzip.compress(idx_file(images))})
    monkeypatch.setattr("numpy.empty", None)
    with pytest.raises(DataError, match=f"20 labels found for the 4000 images of {TRAIN_IMAGES}"):
        load_fashion_mnist(tmp_path)


def with_field(path: Path, offset: int, field: bytes, name: str = TRAIN_IMAGES) -> Path:
    """Overwrite part of a member's entry in the zip's central directory."""
    content = bytearray(path.read_bytes())
    place = content.rindex(name.encode(), 0, content.rindex(b"PK\x05\x06")) - 46
    assert content[place : place + 4] == b"PK\x01\x02"
    content[place + offset : place + offset + len(field)] = field
    path.write_bytes(content)
    return path


def test_a_member_that_holds_more_than_it_declares_is_stopped_there(tmp_path: Path) -> None:
    large = idx_file(np.zeros((20_000, 28, 28), np.uint8))
    path = with_field(zip_to(tmp_path / "a.zip", FILES | {TRAIN_IMAGES: large}), 24, struct.pack("<I", 1000))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"member {TRAIN_IMAGES}: cut short or damaged \(Bad CRC"):
            load_fashion_mnist(path)
        assert tracemalloc.get_traced_memory()[1] < len(large) / 4
    finally:
        tracemalloc.stop()
    huge = with_field(zip_to(tmp_path / "b.zip", FILES), 24, struct.pack("<I", 2**31))
    with pytest.raises(DataError, match=rf"member {TRAIN_IMAGES}: "):
        load_fashion_mnist(huge)


def test_an_unknown_compression_is_refused_by_its_number(tmp_path: Path) -> None:
    path = with_field(zip_to(tmp_path / "a.zip", FILES), 10, struct.pack("<H", 93))
    with pytest.raises(DataError, match=r": compressed by 93; only stored and deflated files are read: unpack"):
        load_fashion_mnist(path)


METHODS = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}


@pytest.mark.parametrize("kind", METHODS)
def test_unbounded_compression_is_refused_with_advice(tmp_path: Path, kind: str) -> None:
    path = zip_to(tmp_path / "a.zip", FILES, METHODS[kind])
    with pytest.raises(DataError, match=rf"compressed by {kind}; only stored and deflated files .*: unpack the zip"):
        load_fashion_mnist(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, *METHODS.values()])
def test_a_damaged_member_of_every_compression_is_named(tmp_path: Path, compression: int) -> None:
    path = zip_to(tmp_path / "a.zip", FILES, compression)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(TRAIN_IMAGES)
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(TRAIN_IMAGES) + 100] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.zip: member {TRAIN_IMAGES}: "):
        load_fashion_mnist(path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = with_field(zip_to(tmp_path / "a.zip", FILES), 8, b"\1")
    with pytest.raises(
        DataError, match=f"{TRAIN_IMAGES}: locked with a password; unpack the zip and give the folder"
    ):
        load_fashion_mnist(path)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_that_is_cut_short_is_named(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    if name == "a.zip":
        zip_to(path, FILES)
    else:
        tar_to(path, FILES, "w:gz" if name.endswith("gz") else "w")
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(DataError, match=r"damaged|missing|found, its header promises") as raised:
        load_fashion_mnist(path)
    assert str(path) in str(raised.value)


def test_the_checksum_of_a_tar_gz_is_verified(tmp_path: Path) -> None:
    path = tar_to(tmp_path / "a.tgz", FILES, "w:gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tgz: cut short or damaged \(CRC check failed"):
        load_fashion_mnist(path)


def test_links_in_a_tar_are_not_files(tmp_path: Path) -> None:
    path = tar_to(tmp_path / "a.tar", {name: FILES[name] for name in FILES if name != TRAIN_IMAGES})
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo(TRAIN_IMAGES)
        info.type, info.linkname = tarfile.SYMTYPE, "/dev/zero"
        archive.addfile(info)
    with pytest.raises(DataError, match=f"member {TRAIN_IMAGES}.gz: missing; all 4 IDX files are needed"):
        load_fashion_mnist(path)


def test_a_tar_whose_headers_lead_beyond_the_limit_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    info = tarfile.TarInfo("first")
    info.size = 1 << 40
    path.write_bytes(gzip.compress(info.tobuf() + bytes(10_000)))
    with pytest.raises(DataError, match=r"a\.tar\.gz: cut short or damaged \(its headers lead to byte"):
        load_fashion_mnist(path)
    extended = tarfile.TarInfo("pax")
    extended.type, extended.size = tarfile.XHDTYPE, 1 << 40
    with path.open("wb") as file:
        file.write(tarfile.TarInfo("first").tobuf() + extended.tobuf(tarfile.GNU_FORMAT))
        file.truncate(7_000_000_000)
    with pytest.raises(DataError, match=r"a\.tar\.gz: cut short or damaged \(its headers ask for 1099511627776"):
        load_fashion_mnist(path)


def test_a_tar_of_very_many_files_is_refused(tmp_path: Path) -> None:
    path = tar_to(tmp_path / "a.tar", {f"train/0/{number}.png": b"" for number in range(1001)})
    with pytest.raises(
        DataError, match=rf"^{re.escape(str(path))}: a tar of more than 1000 members; unpack it and give the folder$"
    ):
        load_fashion_mnist(path)


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may read everything")
def test_an_unreadable_subfolder_is_skipped(tmp_path: Path) -> None:
    folder_of(tmp_path, {f"data/{name}": content for name, content in FILES.items()} | {"lost+found/x": b""})
    (tmp_path / "lost+found").chmod(0)
    try:
        assert same(load_fashion_mnist(tmp_path), SPLITS)
    finally:
        (tmp_path / "lost+found").chmod(stat.S_IRWXU)


def test_folders_are_listed_as_deep_as_data_sets_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, dict.fromkeys(("a", "b/c", "b/raw/d", "b/raw/raw/e", "b/x/f", "g/h", "raw/i"), b""))
    assert [file.name for file in stored.in_folder(tmp_path, below=False)] == ["a"]
    assert [file.name for file in stored.in_folder(tmp_path)] == ["a", "b/c", "g/h", "raw/i", "b/raw/d"]
    scandir = os.scandir

    def locked(path: Path) -> object:
        if path == tmp_path / "b":
            raise PermissionError
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert [file.name for file in stored.in_folder(tmp_path)] == ["a", "g/h", "raw/i"]


def test_circular_links_are_skipped(tmp_path: Path) -> None:
    folder_of(tmp_path, FILES)
    (tmp_path / "circle").symlink_to("circle")
    assert same(load_fashion_mnist(tmp_path), SPLITS)
    with pytest.raises(DataError, match="circle: no such folder or file"):
        load_fashion_mnist(tmp_path / "circle")
    (tmp_path / TRAIN_IMAGES).unlink()
    (tmp_path / TRAIN_IMAGES).symlink_to(TRAIN_IMAGES)
    with pytest.raises(DataError, match=f"{TRAIN_IMAGES}: cannot be read"):
        load_fashion_mnist(tmp_path)


def test_too_little_memory_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise MemoryError

    folder_of(tmp_path, FILES)
    monkeypatch.setattr("numpy.empty", none_left)
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: does not fit into memory"):
        load_fashion_mnist(tmp_path)


def test_messages_are_one_line_whatever_files_are_called(tmp_path: Path) -> None:
    odd = "a\nb\x1b[2J"
    try:
        folder = folder_of(tmp_path / odd, {f"{odd}-{name}": b"" for name in FILES} | {f"{odd}.zip": b"PK"})
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    for path in (folder, folder / f"{odd}.zip", folder / odd, folder / f"{odd}-{TRAIN_IMAGES}"):
        with pytest.raises(DataError) as raised:
            load_fashion_mnist(path)
        assert str(raised.value).isprintable()
