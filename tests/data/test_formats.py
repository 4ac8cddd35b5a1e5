from pathlib import Path

import numpy as np
import pytest
from data_helpers import by_label, made, opened

from fmnist_xp.data import Dataset, export, idx, load_fashion_mnist
from fmnist_xp.errors import DataError


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
