"""What the classes of a data set are called, whichever way its files or the user say so, and their labels."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from character_helpers import letters, printed
from data_helpers import noise
from hypothesis import given
from hypothesis import strategies as st
from table_helpers import csv_file, csv_rows, folder_of, idx_files, npy_file, npz_arrays, tar_to, zip_file, zip_to

from fmnist_xp.data import CLASS_NAMES, Dataset, classes, export, load_fashion_mnist, published
from fmnist_xp.data.classes import name_classes, of_folders
from fmnist_xp.errors import DataError

ALPHABET = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
LETTERS = printed(ALPHABET, 2, 0, 1), printed(ALPHABET, 1, 1, 1)
DIGITS = tuple("0123456789")
SPLITS = noise(20), noise(10, 1)
KANA = tuple("おきすつなはまやれを")
CLASS_MAP = "index,codepoint,char\r\n" + "".join(f"{i},U+{ord(sign):04X},{sign}\r\n" for i, sign in enumerate(KANA))


def lines(names: Iterable[str]) -> bytes:
    return "\n".join(names).encode()


def named(train: Dataset, test: Dataset) -> tuple[str, ...]:
    assert train.class_names == test.class_names
    return train.class_names


def kmnist(train: Dataset, test: Dataset) -> dict[str, bytes]:
    """Return the four files of Kuzushiji-MNIST in NumPy's form, each a zip with one array."""
    arrays = {"train-imgs": train.images, "train-labels": train.labels, "test-imgs": test.images}
    arrays["test-labels"] = test.labels
    return {f"kmnist-{name}.npz": zip_file({"arr_0.npy": npy_file(values)}) for name, values in arrays.items()}


def images_of(splits: tuple[Dataset, Dataset], names: list[str]) -> dict[str, bytes]:
    """Return a folder of images whose class k is called names[k]."""
    return {
        f"{split}/{names[label]}/{number:03d}.png": bytes(cv2.imencode(".png", image)[1])
        for split, dataset in zip(("train", "test"), splits, strict=True)
        for number, (image, label) in enumerate(zip(dataset.images, dataset.labels, strict=True))
    }


@pytest.mark.parametrize("place", ["folder", "zip", "tar"])
def test_letters_as_published_are_upright_and_count_from_0(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fmnist_xp")
    files = letters(LETTERS)
    write = {"folder": folder_of, "zip": zip_to, "tar": tar_to}[place]
    for _ in range(2):  # the second time from the cache
        splits = load_fashion_mnist(write(tmp_path / "data", files))
        assert named(*splits) == ALPHABET
        for read, made in zip(splits, LETTERS, strict=True):
            assert np.array_equal(read.images, made.images)
            assert np.array_equal(read.labels, made.labels - 1)
    said = "\n".join(caplog.messages)
    assert said.count("published with rows and columns swapped, are turned upright") == 2
    assert said.count("label 1 is class 0 here, A") == 2


def test_turned_and_other_files_of_the_same_bytes_have_entries_of_their_own(tmp_path: Path) -> None:
    files = {f"x-{name}": content for name, content in idx_files(*SPLITS).items()}
    packed = {f"{name}.gz": content for name, content in files.items()}
    emnist = {name.replace("x-", "emnist-"): content for name, content in packed.items()}
    for folder, made in ((folder_of(tmp_path / "x", packed), False), (folder_of(tmp_path / "e", emnist), True)):
        images = load_fashion_mnist(folder)[0].images
        assert np.array_equal(images, SPLITS[0].images.transpose(0, 2, 1) if made else SPLITS[0].images)


def test_letters_without_their_mapping_keep_their_numbers_as_names(tmp_path: Path) -> None:
    files = {name: content for name, content in letters(LETTERS).items() if not name.endswith(".txt")}
    train, test = load_fashion_mnist(folder_of(tmp_path, files))
    assert named(train, test) == tuple(map(str, range(1, 27)))
    assert np.array_equal(train.labels, LETTERS[0].labels - 1)
    again = load_fashion_mnist(tmp_path, classes=ALPHABET)
    assert named(*again) == ALPHABET
    assert np.array_equal(again[0].labels, train.labels)
    # A name for label 0, which no image has, as torchvision has it.
    longer = load_fashion_mnist(tmp_path, classes=["N/A", *ALPHABET])
    assert np.array_equal(longer[0].labels, LETTERS[0].labels)


def test_a_mapping_from_1_says_so_though_its_last_letter_has_no_image(tmp_path: Path) -> None:
    splits = printed(ALPHABET[:25], 1, 0, 1), printed(ALPHABET[:20], 1, 1, 1)
    train, test = load_fashion_mnist(folder_of(tmp_path, letters(splits)))
    assert named(train, test) == ALPHABET
    assert np.array_equal(train.labels, splits[0].labels - 1)


OTHERS: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
    "KMNIST's IDX files": (idx_files(*SPLITS) | {"kmnist_classmap.csv": CLASS_MAP.encode()}, KANA),
    "KMNIST's arrays": (kmnist(*SPLITS) | {"kmnist_classmap.csv": CLASS_MAP.encode("utf-8-sig")}, KANA),
    "KMNIST's arrays beside those of K49": (
        kmnist(*SPLITS) | {"kmnist_classmap.csv": CLASS_MAP.encode(), "k49_classmap.csv": b"index,codepoint,char\n"},
        KANA,
    ),
    "MNIST's IDX files": (idx_files(*SPLITS), DIGITS),
    "MNIST's IDX files beside a mapping of letters": (
        idx_files(*SPLITS) | {"emnist-letters-mapping.txt": b"1 65 97\n"}, DIGITS
    ),
    "Keras's arrays": ({f"{name}.npy": npy_file(values) for name, values in npz_arrays(*SPLITS).items()}, DIGITS),
    "CSV": (
        {"mnist_train.csv": csv_file(csv_rows(SPLITS[0])), "mnist_test.csv": csv_file(csv_rows(SPLITS[1]))}, DIGITS
    ),
    "classes.txt": (
        idx_files(*SPLITS) | {"classes.txt": "\ufeffa\r\n b b \r\nc\nd\ne\nf\ng\nh\ni\r\nj\r\n\r\n".encode()},
        ("a", "b b", *"cdefghij"),
    ),
    "classes.txt above": (
        {f"raw/{name}": content for name, content in idx_files(*SPLITS).items()}
        | {"classes.txt": lines("klmnopqrst")},
        tuple("klmnopqrst"),
    ),
    "classes.txt before a class map": (
        idx_files(*SPLITS) | {"kmnist_classmap.csv": CLASS_MAP.encode(), "Classes.TXT": lines(ALPHABET[:10])},
        ALPHABET[:10],
    ),
    "folders of garments": (images_of(SPLITS, [name.replace("/", "_") for name in CLASS_NAMES]), CLASS_NAMES),
    "folders of numbers": (images_of(SPLITS, [f"{n:02d}" for n in range(10)]), DIGITS),
    "folders of numbers with classes.txt": (
        images_of(SPLITS, list(DIGITS)) | {"classes.txt": lines(KANA)}, KANA
    ),
    "folders one level down with classes.txt": (
        {f"all/{name}": content for name, content in images_of(SPLITS, list(DIGITS)).items()}
        | {"all/classes.txt": lines(KANA)},
        KANA,
    ),
}  # fmt: skip


@pytest.mark.parametrize("place", ["folder", "zip"])
@pytest.mark.parametrize(("files", "names"), OTHERS.values(), ids=OTHERS)
def test_other_data_say_what_their_classes_are_called(
    tmp_path: Path, files: dict[str, bytes], names: tuple[str, ...], place: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder_of(tmp_path / "data", files) if place == "folder" else zip_to(tmp_path / "data.zip", files)
    splits = load_fashion_mnist(path)
    assert named(*splits) == names
    for read, made in zip(splits, SPLITS, strict=True):
        assert sorted(map(bytes, read.images)) == sorted(map(bytes, made.images))
        assert dict(zip(map(bytes, read.images), read.labels.tolist(), strict=True)) == dict(
            zip(map(bytes, made.images), made.labels.tolist(), strict=True)
        )
    assert caplog.messages == []


@pytest.mark.parametrize("files", [idx_files(*SPLITS), images_of(SPLITS, list(DIGITS))])
def test_classes_txt_beside_an_archive_names_its_classes(tmp_path: Path, files: dict[str, bytes]) -> None:
    path = zip_to(folder_of(tmp_path, {"classes.txt": lines(KANA)}) / "data.zip", files)
    assert named(*load_fashion_mnist(path)) == KANA
    zip_to(path, files | {"classes.txt": lines(ALPHABET[:10])})  # within it comes first
    assert named(*load_fashion_mnist(path)) == ALPHABET[:10]


def test_folders_of_other_names_are_sorted(tmp_path: Path) -> None:
    three = tuple(Dataset(split.images[:9], np.arange(9, dtype=np.uint8) % 3, "custom", "") for split in SPLITS)
    path = folder_of(tmp_path, images_of(three, ["dog", "ape", "Cat"]))
    train, test = load_fashion_mnist(path)
    assert named(train, test) == ("Cat", "ape", "dog")
    assert train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert np.array_equal(train.images[:3], three[0].images[2::3])
    # In the order of classes.txt, by their names.
    (path / "classes.txt").write_text("ape\ndog\nCat\n")
    train, test = load_fashion_mnist(path)
    assert named(train, test) == ("ape", "dog", "Cat")
    assert train.labels.tolist() == [2] * 3 + [0] * 3 + [1] * 3
    assert np.array_equal(train.images[train.labels == 1], three[0].images[::3])
    (path / "classes.txt").write_text("Chat\nsinge\nchien\n")  # other names, by label
    assert named(*load_fashion_mnist(path)) == ("Chat", "singe", "chien")
    (path / "classes.txt").write_text("Chat\nsinge\n")
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(path)
    assert str(raised.value) == (
        f"images in {path}: 3 classes found (Cat, ape, dog), but there are 2 class names, in {path}/classes.txt: "
        "Chat, singe"
    )


def test_folders_of_numbers_from_1_become_classes_from_0(tmp_path: Path) -> None:
    two = tuple(Dataset(split.images[:4], np.arange(4, dtype=np.uint8) % 2, "custom", "") for split in SPLITS)
    train, test = load_fashion_mnist(folder_of(tmp_path, images_of(two, ["2", "1"])))
    assert named(train, test) == ("1", "2")
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(train.images[:2], two[0].images[1::2])


@pytest.mark.parametrize(
    ("folders", "names", "labels"),
    [
        (["b", "a", "b"], ("a", "b"), {"a": 0, "b": 1}),
        (["0", "01", "3"], tuple("0123"), {"0": 0, "01": 1, "3": 3}),
        (["2019", "2020"], ("2019", "2020"), {"2019": 0, "2020": 1}),
        (["1000000005", "x"], ("1000000005", "x"), {"1000000005": 0, "x": 1}),
        (["trouser", "Dress"], ("Dress", "trouser"), {"Dress": 0, "trouser": 1}),
        (["1", "a"], ("1", "a"), {"1": 0, "a": 1}),
        (["a\x1bb", "³"], (r"a\x1bb", "³"), {"a\x1bb": 0, "³": 1}),
        ([*map(str, range(256))], tuple(map(str, range(256))), {str(n): n for n in range(256)}),
    ],
)  # fmt: skip
def test_labels_of_folders(folders: list[str], names: tuple[str, ...], labels: dict[str, int]) -> None:
    assert of_folders(folders) == (names, labels)


def test_more_folders_than_a_byte_has_values_are_refused(tmp_path: Path) -> None:
    for number in range(257):
        (tmp_path / "train" / f"c{number}").mkdir(parents=True)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="train: 257 class names found; 1 to 256 are possible: labels are bytes"):
        load_fashion_mnist(tmp_path)


def test_the_test_images_may_lack_the_highest_class() -> None:
    train, test = name_classes(noise(10), noise(8))
    assert named(train, test) == DIGITS
    train, test = name_classes(noise(8), noise(10))
    assert named(train, test) == DIGITS


def test_the_published_images_show_garments_whatever_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder_of(tmp_path, idx_files(*SPLITS) | {"classes.txt": lines(KANA)})
    assert named(*load_fashion_mnist(tmp_path)) == KANA
    monkeypatch.setattr("fmnist_xp.data.formats.is_published", lambda *_splits: True)
    splits = load_fashion_mnist(tmp_path)
    assert (splits[0].name, named(*splits)) == ("fashion-mnist", CLASS_NAMES)
    assert named(*load_fashion_mnist(tmp_path, classes=KANA)) == KANA  # unless the user says otherwise


def test_the_real_images_show_garments(real_folder: Path) -> None:
    splits = load_fashion_mnist(real_folder)
    assert named(*splits) == CLASS_NAMES
    part = Dataset(splits[0].images[:100], splits[0].labels[:100], "custom", "a part of them")
    assert part.class_names == DIGITS  # nobody says what these are


@pytest.mark.parametrize("form", ["png", "idx"])
@pytest.mark.parametrize("names", [KANA, CLASS_NAMES, tuple(map(str, range(1, 11)))])
def test_exported_classes_keep_their_names(tmp_path: Path, form: str, names: tuple[str, ...]) -> None:
    splits = tuple(split.renamed("custom", names) for split in SPLITS)
    export(*splits, tmp_path / "out", form)
    read = load_fashion_mnist(tmp_path / "out")
    assert named(*read) == names
    for one, other in zip(read, splits, strict=True):
        labels = dict(zip(map(bytes, one.images), one.labels.tolist(), strict=True))
        assert labels == dict(zip(map(bytes, other.images), other.labels.tolist(), strict=True))


def test_export_without_the_highest_class_in_the_test_images(tmp_path: Path) -> None:
    export(noise(10), noise(8), tmp_path / "out", "idx")
    train, test = load_fashion_mnist(tmp_path / "out")
    assert named(train, test) == DIGITS
    assert test.labels.max() == 7


def test_names_that_the_user_gives(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data", idx_files(*SPLITS))
    file = folder_of(tmp_path, {"names": lines(KANA)}) / "names"
    for given_names, names in (
        ("fashion", CLASS_NAMES),
        (str(file), KANA),
        ("a, b,c,d,e,f,g,h,i,j", tuple("abcdefghij")),
        (list(KANA), KANA),
        ("a,b,c,d,e,f,g,h,i,j,k", tuple("abcdefghijk")),  # the last has no image
    ):
        train, test = load_fashion_mnist(folder, classes=given_names)
        assert named(train, test) == names
        assert train.labels.tolist() == SPLITS[0].labels.tolist()


WRONG: dict[str, tuple[Any, str]] = {
    "no file": (
        "nothing.txt",
        r"nothing\.txt: no such file; give names with commas between them, a file .* or fashion",
    ),
    "an empty name": ("a,,b", "the class names given: '' is no class name"),
    "twice": ("a,b,a", "the class names given: class name 'a' found twice"),
    "nothing": ([], "the class names given: 0 class names found; 1 to 256 are possible"),
    "too many": (list(map(str, range(300))), "300 class names found; 1 to 256"),
    "numbers": ([1, 2], "1 is no class name"),
    "two lines": (["a\nb"], r"'a\\nb' is no class name; some text on one line"),
    "too few": ("a,b", "labels from 0 to 9 found, but there are 2 class names, given, for 0 to 1: a, b"),
}


@pytest.mark.parametrize(("names", "message"), WRONG.values(), ids=WRONG)
def test_names_that_cannot_be(tmp_path: Path, names: Any, message: str) -> None:
    folder = folder_of(tmp_path / "data", idx_files(*SPLITS))
    with pytest.raises(DataError, match=message) as raised:
        load_fashion_mnist(folder, classes=names)
    assert "\n" not in str(raised.value)


def test_too_few_names_name_the_file_and_those_beside_a_class_map(tmp_path: Path) -> None:
    folder_of(tmp_path, letters(LETTERS) | {"classes.txt": b"a\nb\n"})
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(tmp_path)
    assert str(raised.value) == (
        f"IDX files in {tmp_path}: labels from 1 to 26 found, but there are 2 class names, in "
        f"{tmp_path}/classes.txt, for 0 to 1: a, b"
    )
    with pytest.raises(DataError, match="labels from 0 to 9 found, but there are 26 class names, given, for 1 to 26"):
        name_classes(*SPLITS, ALPHABET, first=1)


@given(
    labels=st.lists(st.integers(0, 255), min_size=1, max_size=20),
    others=st.lists(st.integers(0, 255), min_size=1, max_size=20),
)
def test_numbers_are_never_lost(labels: list[int], others: list[int]) -> None:
    """Whatever labels files have, each class is called by the label that it has there; twice makes no difference."""
    made = tuple(
        Dataset(np.zeros((len(values), 28, 28), np.uint8), np.array(values), "custom", "")
        for values in (labels, others)
    )
    train, test = name_classes(*made)
    names = named(train, test)
    assert [int(names[label]) for label in train.labels] == labels
    assert [int(names[label]) for label in test.labels] == others
    assert names[0] == ("0" if 0 in labels + others else "1")
    again = name_classes(train, test)
    assert named(*again) == names
    assert again[0].labels.tolist() == train.labels.tolist()
    own = name_classes(*made, names)  # as a run names the classes of its own data
    assert named(*own) == names
    assert own[1].labels.tolist() == test.labels.tolist()


def test_a_data_set_names_its_classes() -> None:
    images, labels = noise(4).images, [0, 1, 1, 2]
    assert Dataset(images, labels, "custom", "").class_names == ("0", "1", "2")  # type: ignore[arg-type]
    assert Dataset(images, labels, "synthetic", "").class_names == CLASS_NAMES  # type: ignore[arg-type]
    made = Dataset(images, labels, "custom", "", ["a", "b", "c", "d"])  # type: ignore[arg-type]
    assert made.class_names == tuple("abcd")
    with pytest.raises(ValueError, match=r"^labels from 0 to 2 given; they go from 0 to 1$"):
        Dataset(images, labels, "custom", "", ("a", "b"))  # type: ignore[arg-type]


def test_few_names_for_a_message() -> None:
    assert classes.few(ALPHABET) == "A, B, C, D, E, …"
    assert classes.few(("a" * 50, "b")) == f"{'a' * 40}, b"


def test_published_splits_of_more_classes_are_hashed_to_the_end() -> None:
    backwards = Dataset(noise(30).images, np.arange(30)[::-1].astype(np.uint8), "custom", "")
    in_order = Dataset(noise(30).images[::-1], np.arange(30, dtype=np.uint8), "custom", "")
    assert published.sorted_sha256(backwards) == in_order.sha256
