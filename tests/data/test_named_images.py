import os
from pathlib import Path

import pytest

from fmnist_xp.data import named_images
from fmnist_xp.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of images of all suffixes, with something else and a folder among them."""
    for name in (
        "b.jpg",
        "a.PNG",
        "c.jpeg",
        "d.webp",
        "e.bmp",
        "notes.txt",
        "b.tiff",
        "inner/f.png",
        "inner/deep/g.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "z.png").mkdir()
    return tmp_path


def names(*asked: Path) -> list[str]:
    """Return the names of the files found, where there is no error."""
    found = list(named_images(asked))
    assert [error for _path, error in found if error] == []
    return [path.name for path, _error in found]


def test_a_folder_stands_for_the_images_in_it_by_name(folder: Path) -> None:
    assert names(folder) == ["a.PNG", "b.jpg", "c.jpeg", "d.webp", "e.bmp"]
    assert names(folder / "inner") == ["f.png"]


def test_a_pattern_stands_for_the_files_that_match_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(folder / "*.j*") == ["b.jpg", "c.jpeg"]
    assert names(folder / "b.*") == ["b.jpg", "b.tiff"]  # it says itself what it wants
    assert names(folder / "[de].????") == ["d.webp"]
    assert names(folder / "**" / "*.jpg") == ["b.jpg", "g.jpg"]
    monkeypatch.chdir(folder)
    assert list(named_images([Path("inner/*.png")])) == [(Path("inner/f.png"), None)]


def test_each_file_is_found_once_where_it_is_first_named(folder: Path) -> None:
    assert names(folder / "c.jpeg", folder, folder / "*.jpg") == ["c.jpeg", "a.PNG", "b.jpg", "d.webp", "e.bmp"]


def test_a_name_with_brackets_is_no_pattern_if_there_is_such_a_file(folder: Path) -> None:
    (folder / "[de].png").touch()
    (folder / "d.png").touch()
    assert names(folder / "[de].png") == ["[de].png"]
    (folder / "[de].png").unlink()
    assert names(folder / "[de].png") == ["d.png"]


def test_what_stands_for_nothing_is_told_in_its_place(folder: Path) -> None:
    (folder / "empty").mkdir()
    asked = [folder / "*.gif", folder / "a.PNG", folder / "empty", folder / "nowhere.png"]
    (first, second, third, fourth) = named_images(asked)
    assert (first[0], second, third[0]) == (asked[0], (asked[1], None), asked[2])
    assert str(first[1]) == f"{folder}/*.gif: no file matches this pattern"
    assert str(third[1]) == f"{folder}/empty: a folder without images: no file ends in .bmp, .jpeg, .jpg, .png, .webp"
    assert fourth == (asked[3], None)  # whoever reads it says that it is missing


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_told(folder: Path) -> None:
    (folder / "inner").chmod(0)
    try:
        ((path, error),) = named_images([folder / "inner"])
    finally:
        (folder / "inner").chmod(0o700)
    assert path == folder / "inner"
    assert str(error) == f"{path}: cannot be read (Permission denied)"


def test_a_folder_that_cannot_be_listed_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", fail)
    ((_path, error),) = named_images([folder])
    assert isinstance(error, DataError)
    assert str(error) == f"{folder}: cannot be read (Permission denied)"
