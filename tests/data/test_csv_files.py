import gzip
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from data_helpers import noise
from hypothesis import given
from hypothesis import strategies as st
from table_helpers import csv_file, csv_rows, folder_of, same

from fmnist_xp.data import csv_files, load_fashion_mnist
from fmnist_xp.data.stored import in_folder
from fmnist_xp.errors import DataError

SPLITS = noise(20), noise(10, 1)
TEST = csv_file(csv_rows(SPLITS[1]))
HEADER, FIRST, *REST = csv_file(csv_rows(SPLITS[0])).decode().splitlines()


def folder(path: Path, train: bytes | str) -> Path:
    content = train if isinstance(train, bytes) else train.encode()
    return folder_of(path, {"fashion-mnist_train.csv": content, "fashion-mnist_test.csv": TEST})


def moved(column: int) -> str:
    """Return the training file with its labels in another column."""
    lines = []
    for line in (HEADER, FIRST, *REST):
        label, *pixels = line.split(",")
        lines.append(",".join([*pixels[:column], label, *pixels[column:]]))
    return "\n".join(lines)


AS_KAGGLE_HAS_IT = "\n".join([HEADER, FIRST, *REST])
GRID = ",".join(["label", *(f"{row}x{column}" for row, column in itertools.product(range(1, 29), repeat=2))])
ACCEPTED = {
    "with a header": AS_KAGGLE_HAS_IT,
    "without one": "\n".join([FIRST, *REST]),
    "rows and columns in the header": "\n".join([GRID, FIRST, *REST]),
    "Windows line ends, and empty lines": "\r\n".join([HEADER, FIRST, *REST, "", ""]),
    "labels last": moved(784),
    "labels in the middle": moved(400),
    "a byte order mark before the header": b"\xef\xbb\xbf" + AS_KAGGLE_HAS_IT.encode(),
    "a byte order mark before the numbers": b"\xef\xbb\xbf" + "\n".join([FIRST, *REST]).encode(),
    "a decimal point in the numbers": "\n".join(
        [HEADER, *(line.replace(",", ".0,") + ".0" for line in [FIRST, *REST])]
    ),
    "quotes": "\n".join(['"' + line.replace(",", '","') + '"' for line in [HEADER, FIRST, *REST]]),
    "quotes that are not closed": "\n".join(
        [HEADER, *(line[::-1].replace(",", '",', 1)[::-1] for line in [FIRST, *REST])]
    ),
    "spaces": "\n".join([HEADER, *(line.replace(",", ", ") for line in [FIRST, *REST])]),
}


@pytest.mark.parametrize("content", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted_files_are_read(tmp_path: Path, content: str | bytes) -> None:
    assert same(load_fashion_mnist(folder(tmp_path, content)), SPLITS)


def with_value(value: str, column: int = 0) -> str:
    fields = FIRST.split(",")
    fields[column] = value
    return "\n".join([HEADER, ",".join(fields), *REST])


PIXELS = FIRST.partition(",")[2]
REFUSED = {
    "a fractional label": (with_value("3.7"), "3.7 found in line 2, column 1; whole numbers from 0 to 255"),
    "NaN as a label": (with_value("nan"), "nan found in line 2, column 1; whole numbers"),
    "a label beyond a byte": (with_value("300"), "300 found in line 2, column 1; whole numbers"),
    "a label below 0": (with_value("-1"), "-1 found in line 2, column 1; whole numbers"),
    "a scaled pixel": (with_value("0.5", 130), "0.5 found in line 2, column 131; whole numbers"),
    "beyond float64": (with_value("1e400", 784), "inf found in line 2, column 785; whole numbers"),
    "a word": (with_value("shoe"), "'shoe' found in line 2; numbers are needed"),
    "an empty field": (with_value("", 5), "'' found in line 2; numbers are needed"),
    "a field too few": ("\n".join([HEADER, FIRST, PIXELS]), "784 values found in line 3; 785 are needed"),
    "a field too many": ("\n".join([HEADER, FIRST + ",1"]), "786 values found in line 2; 785 are needed"),
    "an empty line between": ("\n".join([HEADER, FIRST, "", *REST]), "0 values found in line 3; 785 are needed"),
    "no label, no header": (PIXELS, "784 values found in line 1; 785 are needed"),
    "no label": (HEADER.partition(",")[2], "a header of 784 columns found, 0 of them label"),
    "two labels": (HEADER.replace("pixel5,", "label,"), "a header of 785 columns found, 2 of them label"),
    "semicolons": (AS_KAGGLE_HAS_IT.replace(",", ";"), "a header of 1 columns found, 0 of them label"),
    "an index": (f",{HEADER}\n0,{FIRST}", "a header of 786 columns found, 1 of them label"),
    "columns in another order": (
        HEADER.replace("pixel5,pixel6", "pixel6,pixel5"), "the pixels of its header are not in ascending order"
    ),
    "only a header": (HEADER + "\n\n", "no images found below its header"),
    "an empty file": ("", "a header of 1 columns found"),
    "an endless line": (HEADER + "\n" + "1" * 100_000, "line 2 is longer than 65,536 bytes"),
    "bytes": (b"\xff\xfe\x00\x81" * 300, "a header of 1 columns found"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_files_are_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        load_fashion_mnist(folder(tmp_path, content))
    assert str(raised.value).startswith(f"{tmp_path / 'fashion-mnist_train.csv'}: ")
    assert str(raised.value).isprintable()


def test_line_numbers_count_across_chunks(tmp_path: Path) -> None:
    lines = [HEADER, *[FIRST] * 2500, with_value("12,12").splitlines()[1]]
    with pytest.raises(DataError, match="786 values found in line 2502"):
        load_fashion_mnist(folder(tmp_path, "\n".join(lines)))
    many = load_fashion_mnist(folder(tmp_path, "\n".join(lines[:-1])))[0]
    assert len(many) == 2500
    assert (many.images == SPLITS[0].images[0]).all()


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "mnist_train.csv").write_bytes(TEST)
    for path in (tmp_path, tmp_path / "mnist_train.csv"):
        with pytest.raises(DataError, match=r"mnist_test\.csv: missing; all 2 CSV files are needed") as raised:
            load_fashion_mnist(path)
        assert str(tmp_path) in str(raised.value)


def test_endless_lines_in_a_gzip_are_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "MOST_IMAGES", 5000)
    zeros = ",".join("0" * 785) + "\n"
    with pytest.raises(DataError, match=r"more than 5,000 lines found"):
        load_fashion_mnist(folder(tmp_path, gzip.compress(zeros.encode() * 20_000)))


@given(
    values=st.lists(st.integers(0, 255), min_size=1, max_size=30),
    labels=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
def test_every_value_is_read_in_every_position(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], labels: list[int]
) -> None:
    images = np.resize(np.array(values, np.uint8), (len(labels), 784))
    lines = "".join(",".join(map(str, [label, *image])) + "\n" for label, image in zip(labels, images, strict=True))
    train, _ = load_fashion_mnist(folder(tmp_path_factory.mktemp("csv"), lines))
    assert train.labels.tolist() == labels
    assert np.array_equal(train.images.reshape(-1, 784), images)


def test_no_more_than_the_most_images_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_CHUNK", 4)
    monkeypatch.setattr(csv_files, "MOST_IMAGES", 18)  # line 18 begins the last chunk
    assert same(load_fashion_mnist(folder(tmp_path, AS_KAGGLE_HAS_IT)), SPLITS)
    monkeypatch.setattr(csv_files, "MOST_IMAGES", 17)
    with pytest.raises(DataError, match=r"train\.csv: more than 17 lines found; is it the right file\?$"):
        csv_files.FORM.read(csv_files.FORM.find(in_folder(tmp_path))[0].files, "here")


@pytest.mark.parametrize("skipped", [0, 1])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 9])
def test_chunks_have_a_fixed_length_and_their_first_line_number(
    monkeypatch: pytest.MonkeyPatch, skipped: int, count: int
) -> None:
    monkeypatch.setattr(csv_files, "_CHUNK", 3)
    lines = [f"{number}\n".encode() for number in range(1, count + 1)]
    pieces = list(csv_files._chunks(io.BytesIO(b"".join(lines) + b"\n \n"), "here", skipped))
    assert [line for _, piece in pieces for line in piece] == lines[skipped:]
    for number, piece in pieces:
        assert piece[0] == lines[number - 1]
    assert [len(piece) for _, piece in pieces[:-1]] == [3] * (len(pieces) - 1)


def test_empty_lines_are_ignored_only_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_CHUNK", 3)

    def pieces(text: bytes) -> list[tuple[int, list[bytes]]]:
        return list(csv_files._chunks(io.BytesIO(text), "here", 0))

    assert pieces(b"1\n2\n3\n\n") == [(1, [b"1\n", b"2\n", b"3\n"])]
    assert pieces(b"1\n\n\n4\n5\n") == [(1, [b"1\n", b"\n", b"\n", b"4\n"]), (5, [b"5\n"])]
    assert pieces(b"\n" * 3) == []
    assert pieces(b"\n" * 4) == [(1, [b"\n"] * 4)]  # only so many are kept back


def test_byte_order_mark_is_removed_only_from_the_first_line() -> None:
    mark = b"\xef\xbb\xbf"
    ((_, lines),) = csv_files._chunks(io.BytesIO(mark + b"1\n" + mark + b"2\n"), "here", 0)
    assert lines == [b"1\n", mark + b"2\n"]


def test_a_line_of_the_maximum_length_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_files, "_LINE", 4)
    ((_, lines),) = csv_files._chunks(io.BytesIO(b"123\n456\n"), "here", 0)
    assert lines == [b"123\n", b"456\n"]
    with pytest.raises(DataError, match=r"^here: line 2 is longer than 4 bytes; is it the right file\?$"):
        list(csv_files._chunks(io.BytesIO(b"123\n4567\n"), "here", 0))


TOLD = {
    "header": (
        ",".join(["a" * 70, "b", "label"]),
        f"a header of 3 columns found, 1 of them label ({'a' * 60}, …); "
        "785 are needed, separated by commas: label and 784 pixels",
    ),
    "same pixel twice": (
        HEADER.replace("pixel6,", "pixel5,"),
        "the pixels of its header are not in ascending order; row by row is needed",
    ),
    "values": (
        "\n".join([HEADER, FIRST + ",1"]),
        "786 values found in line 2; 785 are needed, separated by commas: the label, then 784 grey values",
    ),
    "word": (with_value("w" * 50), f"'{'w' * 40}' found in line 2; numbers are needed"),
    "not UTF-8": (with_value("\udcff"), "'�' found in line 2; numbers are needed"),
    "an underscore between digits": (with_value("1_0", 5), "'1_0' found in line 2; numbers are needed"),
    "digits of another script": (with_value("\u0661", 5), "'\u0661' found in line 2; numbers are needed"),
    "short header": (
        "a,b,label,c",
        "a header of 4 columns found, 1 of them label (a, b, label, …); "
        "785 are needed, separated by commas: label and 784 pixels",
    ),
    "256": (with_value("256", 3), "256 found in line 2, column 4; whole numbers from 0 to 255 are needed"),
    "only a header": (HEADER, "no images found below its header; is it the right file?"),
    "number sign": (with_value("1#", 784), "'1#' found in line 2; numbers are needed"),
}


@pytest.mark.parametrize(("content", "message"), TOLD.values(), ids=TOLD)
def test_messages_are_exact(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError) as raised:
        load_fashion_mnist(folder(tmp_path, content.encode("utf-8", "surrogateescape")))
    assert str(raised.value) == f"{tmp_path / 'fashion-mnist_train.csv'}: {message}"


def test_all_lines_of_a_chunk_are_parsed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.encode() for line in (FIRST, *REST)]
    counts, load = [], csv_files._load
    monkeypatch.setattr(csv_files, "_load", lambda lines: counts.append(len(lines)) or load(lines))
    values = csv_files._parse(lines, 1, "here")
    assert (values.dtype, values.shape, counts) == (np.uint8, (20, 785), [20])
    assert values[:, 0].tolist() == SPLITS[0].labels.tolist()
