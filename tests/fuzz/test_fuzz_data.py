"""Damaged data sets are either read correctly or refused, with a one-line error that names the place."""

import csv
import gzip
import io
from collections.abc import Callable

import fuzz_helpers as fuzz
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from table_helpers import csv_file, csv_rows, same, tar_file, zip_file

from fmnist_xp.data import Dataset, load_fashion_mnist

Splits = tuple[Dataset, Dataset]


def undamaged(read: Splits) -> bool:
    return same(read, fuzz.SPLITS)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path_factory.mktemp("cache")))


def load(files: dict[str, bytes], name: str = "", right: Callable[[Splits], bool] | None = None) -> Splits | None:
    """Load files from a folder, or the one called `name`; check that the result is the same twice, and `right`."""
    with fuzz.placed(files) as folder:
        size = sum(map(len, files.values()))
        first, again = (fuzz.tried(load_fashion_mnist, folder / name, size) for _ in range(2))
        assert (first is None) == (again is None)
        if first is not None and again is not None:
            assert fuzz.is_whole(first)
            assert same(again, first)
            assert right is None or right(first)
    return first


def one_of_them(files: dict[str, bytes], change: Callable[[bytes], st.SearchStrategy[bytes]]) -> st.SearchStrategy:
    """Return the files with one of them changed."""
    hidden = {name: fuzz.Content(content) for name, content in files.items()}
    return st.sampled_from(sorted(files)).flatmap(
        lambda name: change(files[name]).map(lambda content: hidden | {name: content})
    )


@fuzz.fuzzed(150)
@given(one_of_them(fuzz.IDX, fuzz.mutated))
def test_idx_files_with_changed_bytes(files: dict[str, bytes]) -> None:
    def right(read: Splits) -> bool:
        return all(
            split.images.tobytes() == files[f"{prefix}-images-idx3-ubyte"][16:]
            and split.labels.tobytes() == files[f"{prefix}-labels-idx1-ubyte"][8:]
            for split, prefix in zip(read, ("train", "t10k"), strict=True)
        )

    load(files, right=right)


CLASS_FILES = {
    "classes.txt": "\n".join("abcdefghij").encode(),
    "x-mapping.txt": b"".join(b"%d %d\n" % (label, 65 + label) for label in range(10)),
    "x_classmap.csv": b"index,codepoint,char\n" + b"".join(b"%d,U+30,%d\n" % (label, label) for label in range(10)),
}


@fuzz.fuzzed(60)
@given(
    st.sampled_from(sorted(CLASS_FILES)).flatmap(
        lambda name: st.tuples(st.just(name), fuzz.mutated(CLASS_FILES[name]))
    )
)
def test_class_names_with_changed_bytes(file: tuple[str, bytes]) -> None:
    name, content = file
    files = {f"x-{name}": content for name, content in fuzz.IDX.items()}
    load(files | {name: fuzz.Content(content)}, right=undamaged)


@fuzz.fuzzed(120)
@given(st.fixed_dictionaries({name: fuzz.idx_files_odd(values) for name, values in fuzz.IDX_VALUES.items()}))
def test_idx_files_whose_headers_lie(files: dict[str, bytes]) -> None:
    load(files, right=undamaged)


@fuzz.fuzzed(120)
@given(one_of_them({f"{name}.gz": gzip.compress(content) for name, content in fuzz.IDX.items()}, fuzz.mutated))
def test_gzip_files_with_changed_bytes(files: dict[str, bytes]) -> None:
    load(files, right=undamaged)


TEST_CSV = csv_file(csv_rows(fuzz.SPLITS[1]))


def values_of(content: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return labels and pixels of a CSV file, read with Python's own reader."""
    rows = [row for row in csv.reader(io.StringIO(content.decode(), newline="")) if row]
    column = rows.pop(0).index("label") if "label" in rows[0] else 0
    values = np.array([[int(float(field)) for field in row] for row in rows])
    return values[:, column], np.delete(values, column, axis=1)


@fuzz.fuzzed(30)
@given(fuzz.csv_files_odd(fuzz.SPLITS[0]), st.sampled_from(["", ".gz"]))
def test_csv_files_with_odd_fields_and_lines(odd: tuple[bytes, bool], suffix: str) -> None:
    content, untouched = odd
    pack = gzip.compress if suffix else bytes

    def right(read: Splits) -> bool:
        labels, pixels = values_of(content)
        return np.array_equal(read[0].labels, labels) and np.array_equal(read[0].images.reshape(-1, 784), pixels)

    read = load({"a_train.csv": pack(content), f"a_test.csv{suffix}": pack(TEST_CSV)}, right=right)
    assert read is not None or not untouched


@fuzz.fuzzed(20)
@given(fuzz.mutated(TEST_CSV))
def test_csv_files_with_changed_bytes(content: bytes) -> None:
    load({"train.csv": csv_file(csv_rows(fuzz.SPLITS[0])), "test.csv": content})


@fuzz.fuzzed(120)
@given(st.fixed_dictionaries({name: fuzz.npy_files_odd(values) for name, values in fuzz.NPZ_VALUES.items()}))
def test_arrays_whose_headers_lie(files: dict[str, bytes]) -> None:
    load({"mnist.npz": zip_file(files)}, "mnist.npz")


ZIPS = {
    "IDX": zip_file(fuzz.IDX),
    "IDX, stored": zip_file(fuzz.IDX, 0),
    "npz": zip_file(fuzz.NPZ),
    "images": zip_file(fuzz.IMAGES, 0),
    "images, deflated": zip_file(fuzz.IMAGES),
}


@pytest.mark.parametrize("kind", ZIPS)
@fuzz.fuzzed(120)
@given(st.data())
def test_zips(kind: str, data: st.DataObject) -> None:
    whole = ZIPS[kind]
    content = data.draw(st.one_of(fuzz.mutated(whole), fuzz.zip_files_odd(whole)))
    expected = fuzz.IN_ORDER if "images" in kind else fuzz.SPLITS
    load({"data.zip": content}, "data.zip", lambda read: same(read, expected))


@fuzz.fuzzed(120)
@given(fuzz.tar_files_odd(fuzz.IDX), st.sampled_from([bytes, gzip.compress]))
def test_tars_whose_headers_lie(content: bytes, pack: Callable[[bytes], bytes]) -> None:
    load({"data.tar": pack(content)}, "data.tar", undamaged)


@fuzz.fuzzed(120)
@given(fuzz.mutated(tar_file(fuzz.IDX)))
def test_tars_with_changed_bytes(content: bytes) -> None:
    load({"data.tar": content}, "data.tar")


@fuzz.fuzzed(120)
@given(fuzz.mutated(gzip.compress(tar_file(fuzz.IDX))))
def test_compressed_tars_with_changed_bytes(content: bytes) -> None:
    load({"data.tgz": content}, "data.tgz", undamaged)


@fuzz.fuzzed(120)
@given(one_of_them(fuzz.IMAGES, lambda content: st.one_of(fuzz.mutated(content), fuzz.png_files_odd(content))))
def test_a_folder_with_one_changed_image(files: dict[str, bytes]) -> None:
    load(files)


@fuzz.fuzzed(120)
@given(one_of_them(fuzz.IMAGES, fuzz.png_files_odd))
def test_a_zip_with_one_changed_image(files: dict[str, bytes]) -> None:
    load({"data.zip": zip_file(files, 0)}, "data.zip")
