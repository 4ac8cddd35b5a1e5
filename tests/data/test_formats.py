import errno
import gzip
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_helpers import by_label, noise, opened
from table_helpers import folder_of, idx_files, same, tar_to, zip_to

from fmnist_xp.data import Dataset, export, formats, idx, load_fashion_mnist, stored
from fmnist_xp.data.mapped import is_mapped
from fmnist_xp.errors import DataError

SPLITS = noise(20), noise(10, 1)


def packed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()}


def test_png_files_are_numbered_within_their_class(tmp_path: Path) -> None:
    train, test = noise(30), noise(10, 1)
    export(train, test, tmp_path / "out", "png")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["classes.txt", "test", "train"]
    for label in range(10):
        folder = tmp_path / "out" / "train" / str(label)
        assert sorted(path.name for path in folder.iterdir()) == ["0000.png", "0001.png", "0002.png"]
        for number in range(3):
            image = opened(folder / f"{number:04d}.png")
            assert np.array_equal(image, train.images[label + 10 * number])


@pytest.mark.parametrize("format", ["png", "idx"])
def test_what_is_exported_is_read_back(tmp_path: Path, format: str) -> None:
    splits = noise(30), noise(10, 1)
    (tmp_path / "out").mkdir()  # an empty folder may exist
    export(*splits, tmp_path / "out", format)
    for written, read in zip(splits, load_fashion_mnist(tmp_path / "out"), strict=True):
        for one, other in zip(by_label(written), by_label(read), strict=True):
            assert np.array_equal(one, other)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(DataError, match="not an empty folder") as raised:
            export(noise(10), noise(10), target, "idx")
        assert str(target) in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = idx.write

    def fail_on_test(dataset: Dataset, split: str, folder: Path) -> None:
        if split == "test":
            raise OSError(28, "No space left on device")
        write(dataset, split, folder)

    monkeypatch.setattr(idx, "write", fail_on_test)
    with pytest.raises(DataError, match=r"out: cannot be written \(No space left on device\)"):
        export(noise(10), noise(10), tmp_path / "out", "idx")
    assert list(tmp_path.iterdir()) == []


def test_a_class_without_images_cannot_be_exported_as_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test/9: no image of this class; a folder of images needs some"):
        export(noise(10), noise(9), tmp_path / "out", "png")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="format 'jpg': not known; choose one of png, idx"):
        export(noise(10), noise(10), tmp_path / "out", "jpg")


def test_the_real_images_survive_a_round_trip_through_png(real_folder: Path, tmp_path: Path) -> None:
    train, test = load_fashion_mnist(real_folder)
    part = Dataset(train.images[:2000], train.labels[:2000], train.name, train.source)
    export(part, test, tmp_path / "png", "png")
    for written, read in zip((part, test), load_fashion_mnist(tmp_path / "png"), strict=True):
        for one, other in zip(by_label(written), (read.images, read.labels), strict=True):
            assert np.array_equal(one, other)


def test_only_the_published_images_are_called_fashion_mnist(real_folder: Path, tmp_path: Path) -> None:
    assert {split.name for split in load_fashion_mnist(real_folder)} == {"fashion-mnist"}
    export(noise(30), noise(10, 1), tmp_path / "here", "idx")
    assert {split.name for split in load_fashion_mnist(tmp_path / "here")} == {"custom"}


def test_the_current_folder_is_filled_and_stays_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir(mode=0o750)
    monkeypatch.chdir(here)
    before = here.stat()
    export(*SPLITS, Path(), "idx")
    assert sorted(path.name for path in Path().iterdir()) == sorted([*idx.FORM.roles.values(), "classes.txt"])
    assert (here.stat().st_ino, here.stat().st_mode) == (before.st_ino, before.st_mode)
    assert same(load_fashion_mnist("."), SPLITS)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    export(*SPLITS, tmp_path / "link", "png")
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["classes.txt", "test", "train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]


def test_circular_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(DataError, match="circle: cannot be written"):
        export(*SPLITS, tmp_path / "circle", "idx")


def test_a_mount_point_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount point cannot be removed or replaced, and is a separate file system."""
    disk = tmp_path / "disk"
    (disk / "lost+found").mkdir(parents=True)
    rename, rmdir = Path.rename, Path.rmdir

    def busy(path: Path, *more: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    def rename_within(path: Path, target: Path) -> Path:
        if disk in (path, target):
            busy(path)
        if path.is_relative_to(disk) != target.is_relative_to(disk):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rmdir", lambda path: busy(path) if path == disk else rmdir(path))
    monkeypatch.setattr(Path, "rename", rename_within)
    export(*SPLITS, disk, "png")
    assert sorted(path.name for path in disk.iterdir()) == ["classes.txt", "lost+found", "test", "train"]


def test_a_folder_that_cannot_be_filled_stays_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    rename = Path.rename

    def fail_on_the_third(path: Path, target: Path) -> Path:
        if path.parent.parent.name != "out" and target.parent.name == "out" and target.name.startswith("train-im"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_on_the_third)
    with pytest.raises(DataError, match=r"out: cannot be written \(Input/output error\)"):
        export(*SPLITS, tmp_path / "out", "idx")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_accepted_does_not_depend_on_the_cache(tmp_path: Path, cache: Path) -> None:
    """The same bytes under other names, in another format, or in the wrong place."""
    files = idx_files(*SPLITS)
    assert same(load_fashion_mnist(folder_of(tmp_path / "good", files)), SPLITS)
    misnamed = {f"{name}.gz": content for name, content in files.items()}
    assert same(load_fashion_mnist(folder_of(tmp_path / "names", misnamed)), SPLITS)
    crossed = files | {
        "train-labels-idx1-ubyte": files["t10k-labels-idx1-ubyte"],
        "t10k-labels-idx1-ubyte": files["train-labels-idx1-ubyte"],
    }
    folder = folder_of(tmp_path / "crossed", crossed)
    for _ in range(2):
        with pytest.raises(DataError, match="10 labels found for the 20 images"):
            load_fashion_mnist(folder)
    shutil.rmtree(cache)
    assert same(load_fashion_mnist(tmp_path / "names"), SPLITS)
    for wrong in ({"emnist-" + name: content for name, content in files.items()}, {"train-images.idx3-ubyte": b""}):
        folder_of(tmp_path / "good", wrong)
        for _ in range(2):
            with pytest.raises(DataError, match="several"):
                load_fashion_mnist(tmp_path / "good")
        for name in wrong:
            (tmp_path / "good" / name).unlink()
    assert same(load_fashion_mnist(tmp_path / "good"), SPLITS)


def test_entries_of_other_reader_versions_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "data", packed(idx_files(*SPLITS)))
    load_fashion_mnist(folder)
    monkeypatch.setattr(idx, "_read", None)
    load_fashion_mnist(folder)
    monkeypatch.setattr(formats, "VERSION", formats.VERSION + 1)
    with pytest.raises(TypeError):
        load_fashion_mnist(folder)


@pytest.mark.parametrize("pack", [dict, packed], ids=["plain", "gzip"])
def test_files_that_change_while_they_are_read_are_not_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[dict[str, bytes]], dict[str, bytes]]
) -> None:
    folder = folder_of(tmp_path / "data", pack(idx_files(*SPLITS)))
    form = idx.FORM

    def replaced_first(files: list[stored.Stored], source: str) -> Dataset:
        folder_of(folder, pack(idx_files(noise(30), noise(10))))
        return form.read_split(files, source)

    monkeypatch.setattr(idx, "FORM", replace(form, read_split=replaced_first))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte(\.gz)?: changed while it was read"):
        load_fashion_mnist(folder)
    folder_of(folder, pack(idx_files(*SPLITS)))
    monkeypatch.setattr(idx, "FORM", form)
    assert same(load_fashion_mnist(folder), SPLITS)


def archives(folder: Path, count: int) -> Path:
    for number in range(count):
        zip_to(folder / f"{number}.zip", {"a.txt": b"a"})
    return folder


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_the_first_of_several_are_named_and_the_others_counted(tmp_path: Path, count: int) -> None:
    named = {2: "0.zip; 1.zip", 3: "0.zip; 1.zip; 2.zip", 4: "0.zip; 1.zip; 2.zip and 1 more"}
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(archives(tmp_path, count))
    words = named.get(count, "0.zip; 1.zip; 2.zip and 3 more")
    assert str(raised.value) == f"{tmp_path}: several data sets found ({words}); give one of them"


def test_the_first_files_are_named_if_there_is_no_set(tmp_path: Path) -> None:
    for names, words in (
        ([], "no file"),
        (["a" * 150], "a" * 100),
        (list("abc"), "a, b, c"),
        (list("abcd"), "a, b, c and 1 more"),
        (list("abcdef"), "a, b, c and 3 more"),
    ):
        folder = tmp_path / str(len(names))
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        with pytest.raises(DataError) as raised:
            load_fashion_mnist(folder)
        expected = f"{folder}: no data set found among its files ({words}); {formats.UNDERSTOOD}"
        assert str(raised.value) == expected
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(zip_to(tmp_path / "a.zip", {"a.txt": b""}))
    assert (
        str(raised.value) == f"{tmp_path / 'a.zip'}: no data set found among its files (a.txt); {formats.UNDERSTOOD}"
    )


def test_the_advice_for_several_sets_fits_the_source(tmp_path: Path) -> None:
    files = idx_files(*SPLITS)
    two = {**files, **{f"emnist-{name}": content for name, content in files.items()}}
    for path, way_out in (
        (folder_of(tmp_path / "folder", two), "give one of the files"),
        (zip_to(tmp_path / "two.zip", two), "unpack it and give one of the files"),
    ):
        with pytest.raises(DataError, match=rf"\); {way_out}$"):
            load_fashion_mnist(path)


def test_of_two_damaged_sets_the_first_is_reported(tmp_path: Path) -> None:
    """Neither is usable: the error is that of the first, not that there is no data set."""
    files = dict.fromkeys(idx_files(*SPLITS), b"")
    two = {**files, **{f"emnist-{name}": content for name, content in files.items()}}
    with pytest.raises(DataError, match=r"emnist-train-images-idx3-ubyte: "):
        load_fashion_mnist(folder_of(tmp_path / "folder", two))


def test_one_file_means_the_set_in_its_own_folder(tmp_path: Path) -> None:
    files = idx_files(*SPLITS)
    folder_of(tmp_path, {**files, **{f"below/{name}": b"" for name in files}})
    splits = load_fashion_mnist(tmp_path / "train-images-idx3-ubyte")
    assert same(splits, SPLITS)
    assert [split.source for split in splits] == [f"IDX files in {tmp_path}"] * 2
    with pytest.raises(DataError, match=rf"^{tmp_path / 'below' / 'train-images-idx3-ubyte'}: "):
        load_fashion_mnist(tmp_path / "below" / "train-images-idx3-ubyte")


def test_splits_give_their_source_cached_or_not(tmp_path: Path, image_folder: Path) -> None:
    files = idx_files(*SPLITS)
    images = {
        str(path.relative_to(image_folder)): path.read_bytes() for path in image_folder.rglob("*") if path.is_file()
    }
    for path, form in (
        (folder_of(tmp_path / "folder", files), "IDX files in "),
        (zip_to(tmp_path / "files.zip", files), "IDX files in "),
        (image_folder, "images in "),
        (zip_to(tmp_path / "images.zip", images), "zip of images "),
    ):
        for _ in range(2):
            assert [split.source for split in load_fashion_mnist(path)] == [f"{form}{path}"] * 2


def test_the_same_bytes_as_archive_and_as_files_have_separate_entries(tmp_path: Path, cache: Path) -> None:
    files = packed(idx_files(*SPLITS))
    load_fashion_mnist(zip_to(tmp_path / "files.zip", files))
    load_fashion_mnist(folder_of(tmp_path / "folder", files))
    assert len(list(cache.glob("decoded-*"))) == 2
    load_fashion_mnist(Path(shutil.copy(tmp_path / "files.zip", tmp_path / "again.zip")))
    load_fashion_mnist(folder_of(tmp_path / "other", files))
    assert len(list(cache.glob("decoded-*"))) == 2


def test_an_unreadable_file_is_named_with_the_systems_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_to(tmp_path / "files.zip", idx_files(*SPLITS))
    for error, words in (
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("strange"), "strange"),
    ):

        def fail(_path: Path, error: OSError = error) -> None:
            raise error

        monkeypatch.setattr(formats, "open_file", fail)
        with pytest.raises(DataError) as raised:
            formats.read(path)
        assert str(raised.value) == f"{path}: cannot be read ({words})"


def test_export_creates_parent_folders_and_hides_unfinished_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places, write = [], idx.write

    def noted(dataset: Dataset, split: str, folder: Path) -> None:
        places.append(folder)
        write(dataset, split, folder)

    monkeypatch.setattr(idx, "write", noted)
    export(*SPLITS, tmp_path / "a" / "b" / "out", "idx")
    assert same(load_fashion_mnist(tmp_path / "a" / "b" / "out"), SPLITS)
    assert {place.name for place in places} == {"out"}
    (hidden,) = {place.parent for place in places}
    assert hidden.parent == tmp_path / "a" / "b"
    assert hidden.name.startswith(".out-")


def test_splits_are_renamed_only_if_published(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(formats, "is_published", lambda *splits: asked.append(splits) or len(asked) == 1)
    renamed = formats._named(*SPLITS)
    assert [split.name for split in renamed] == ["fashion-mnist"] * 2
    assert same(renamed, SPLITS)
    assert formats._named(*SPLITS) == SPLITS
    assert asked == [SPLITS, SPLITS]


IMAGES = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"


@pytest.mark.parametrize("gzipped", [(), ("train-labels-idx1-ubyte",), ("t10k-labels-idx1-ubyte",)], ids=str)
def test_plain_images_are_mapped_and_nothing_is_cached(tmp_path: Path, cache: Path, gzipped: tuple[str, ...]) -> None:
    files = idx_files(*SPLITS)
    files |= packed({name: files.pop(name) for name in gzipped})
    for path in (folder_of(tmp_path / "data", files), tmp_path / "data" / IMAGES[0]):
        for _ in range(2):
            splits = load_fashion_mnist(path)
            assert same(splits, SPLITS)
            assert all(is_mapped(split.images) and not is_mapped(split.labels) for split in splits)
            assert not any(split.images.flags.writeable for split in splits)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("gzipped", [IMAGES[:1], IMAGES[1:], IMAGES], ids=str)
def test_with_packed_images_the_set_is_cached(tmp_path: Path, cache: Path, gzipped: tuple[str, ...]) -> None:
    files = idx_files(*SPLITS)
    files |= packed({name: files.pop(name) for name in gzipped})
    folder = folder_of(tmp_path / "data", files)
    for _ in range(2):
        assert same(load_fashion_mnist(folder), SPLITS)
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("archive", [zip_to, tar_to])
def test_plain_files_in_an_archive_are_read(
    tmp_path: Path, cache: Path, archive: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    splits = load_fashion_mnist(archive(tmp_path / "archive", idx_files(*SPLITS)))
    assert same(splits, SPLITS)
    assert not any(is_mapped(split.images) for split in splits)
    assert len(list(cache.iterdir())) == 1
