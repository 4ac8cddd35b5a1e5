import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_helpers import by_label, made, opened
from table_helpers import folder_of, idx_files, same

from fmnist_xp.data import Dataset, export, formats, idx, load_fashion_mnist, stored
from fmnist_xp.errors import DataError

SPLITS = made(20), made(10, 1)


def test_png_files_are_numbered_within_their_class(tmp_path: Path) -> None:
    train, test = made(30), made(10, 1)
    export(train, test, tmp_path / "out", "png")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test", "train"]
    for label in range(10):
        folder = tmp_path / "out" / "train" / str(label)
        assert sorted(path.name for path in folder.iterdir()) == ["0000.png", "0001.png", "0002.png"]
        for number in range(3):
            image = opened(folder / f"{number:04d}.png")
            assert np.array_equal(image, train.images[label + 10 * number])


@pytest.mark.parametrize("format", ["png", "idx"])
def test_what_is_exported_is_read_back(tmp_path: Path, format: str) -> None:
    splits = made(30), made(10, 1)
    (tmp_path / "out").mkdir()  # an empty folder may be there
    export(*splits, tmp_path / "out", format)
    for written, read in zip(splits, load_fashion_mnist(tmp_path / "out"), strict=True):
        for one, other in zip(by_label(written), by_label(read), strict=True):
            assert np.array_equal(one, other)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for target in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(DataError, match="not an empty folder") as raised:
            export(made(10), made(10), target, "idx")
        assert str(target) in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_nothing_half_made_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = idx.write

    def fail_on_test(dataset: Dataset, split: str, folder: Path) -> None:
        if split == "test":
            raise OSError(28, "No space left on device")
        write(dataset, split, folder)

    monkeypatch.setattr(idx, "write", fail_on_test)
    with pytest.raises(DataError, match=r"out: cannot be written \(No space left on device\)"):
        export(made(10), made(10), tmp_path / "out", "idx")
    assert list(tmp_path.iterdir()) == []


def test_a_class_without_images_cannot_be_exported_as_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="test/9: no image of this label"):
        export(made(10), made(9), tmp_path / "out", "png")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="format 'jpg': not known; choose one of png, idx"):
        export(made(10), made(10), tmp_path / "out", "jpg")


def test_the_real_images_survive_the_way_through_png(real_folder: Path, tmp_path: Path) -> None:
    train, test = load_fashion_mnist(real_folder)
    part = Dataset(train.images[:2000], train.labels[:2000], train.name, train.source)
    export(part, test, tmp_path / "png", "png")
    for written, read in zip((part, test), load_fashion_mnist(tmp_path / "png"), strict=True):
        for one, other in zip(by_label(written), (read.images, read.labels), strict=True):
            assert np.array_equal(one, other)


def test_only_the_published_images_are_called_fashion_mnist(real_folder: Path, tmp_path: Path) -> None:
    assert {split.name for split in load_fashion_mnist(real_folder)} == {"fashion-mnist"}
    export(made(30), made(10, 1), tmp_path / "made", "idx")
    assert {split.name for split in load_fashion_mnist(tmp_path / "made")} == {"custom"}


def test_the_current_folder_is_filled_and_stays_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir(mode=0o750)
    monkeypatch.chdir(here)
    before = here.stat()
    export(*SPLITS, Path(), "idx")
    assert sorted(path.name for path in Path().iterdir()) == sorted(f"{name}.gz" for name in idx.NAMES)
    assert (here.stat().st_ino, here.stat().st_mode) == (before.st_ino, before.st_mode)
    assert same(load_fashion_mnist("."), SPLITS)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    export(*SPLITS, tmp_path / "link", "png")
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["test", "train"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(DataError, match="circle: cannot be written"):
        export(*SPLITS, tmp_path / "circle", "idx")


def test_a_mount_point_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the system does it: a mount point cannot be removed or renamed onto, and is a file system of its own."""
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
    assert sorted(path.name for path in disk.iterdir()) == ["lost+found", "test", "train"]


def test_a_folder_that_cannot_be_filled_whole_stays_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_is_accepted_does_not_depend_on_what_is_kept(tmp_path: Path, cache: Path) -> None:
    """The same bytes under other names, in another form, or where they do not belong."""
    files = idx_files(*SPLITS)
    assert same(load_fashion_mnist(folder_of(tmp_path / "good", files)), SPLITS)
    packed = {f"{name}.gz": content for name, content in files.items()}
    assert same(load_fashion_mnist(folder_of(tmp_path / "names", packed)), SPLITS)
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


def test_what_other_readers_kept_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "data", idx_files(*SPLITS))
    load_fashion_mnist(folder)
    monkeypatch.setattr(formats, "VERSION", formats.VERSION + 1)
    monkeypatch.setattr(idx, "_read", None)
    with pytest.raises(TypeError):
        load_fashion_mnist(folder)


def test_files_that_change_while_they_are_read_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path / "data", idx_files(*SPLITS))
    read = idx.read

    def replaced_first(files: list[stored.Stored], source: str) -> tuple[Dataset, Dataset]:
        folder_of(folder, idx_files(made(30), made(10)))
        return read(files, source)

    monkeypatch.setattr(idx, "read", replaced_first)
    with pytest.raises(DataError, match="train-images-idx3-ubyte: changed while it was read"):
        load_fashion_mnist(folder)
    folder_of(folder, idx_files(*SPLITS))
    monkeypatch.setattr(idx, "read", read)
    assert same(load_fashion_mnist(folder), SPLITS)
