"""Files as the readers' own grammars have them, damaged in many ways, and what must hold of the readers then."""

import gzip
import json
import os
import shutil
import struct
import sys
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, TypeVar

import cv2
import numpy as np
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from table_helpers import csv_file, csv_rows, folder_of, idx_arrays, idx_files, npy_file, npz_arrays

from fmnist_xp.data import Dataset
from fmnist_xp.errors import FmnistXpError

T = TypeVar("T")
ROUNDS = os.environ.get("FMNIST_XP_FUZZ")
"""How many times as many examples as in the suite, by `scripts/fuzz`, which wants other ones each time."""


KEPT = Path(gettempdir(), "fmnist-xp-fuzz")
"""Where the files of the last example that failed are."""


def fuzzed(examples: int) -> settings:
    return settings(
        max_examples=examples * int(ROUNDS or 1),
        derandomize=ROUNDS is None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Content(bytes):
    """A file's bytes, which are not to be printed."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@contextmanager
def placed(files: dict[str, bytes]) -> Iterator[Path]:
    """Yield a folder that holds the files; where the block fails, they are kept for a look at them."""
    with TemporaryDirectory() as temporary:
        folder = folder_of(Path(temporary, "data"), files)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(KEPT, ignore_errors=True)
            shutil.copytree(folder, KEPT)
            note(f"the files are kept in {KEPT}")
            raise


def tried(read: Callable[[Path], T], path: Path, size: int) -> T | None:
    """Return what `read(path)` returns, or None where it refuses what is there in one line that names the place.

    Whatever else it raises fails the test, and so does memory out of proportion to the files' `size`.
    """
    before = _most_resident()
    tracemalloc.start()
    value = None
    try:
        value = read(path)
    except FmnistXpError as error:
        message = str(error)
        assert str(path) in message
        assert len(message.splitlines()) == 1
        assert len(message) < 2000
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < (64 << 20) + 1100 * size  # deflate can make 1032 bytes of one
    assert _most_resident() - before < (256 << 20) + 1100 * size
    return value


def _most_resident() -> int:
    """Return the most bytes that the process has held so far, or 0 where that is not to be had."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


# Bytes

WORDS = (
    b"", b"\0", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"1e400", b"-1", b"nan", b"[" * 3000,
    b"(" * 3000, b'"', b"\n", b",", b"9" * 400, b"1" * 70_000, b"\x1f\x8b\x08\0", b"PK\x03\x04", b"\xc3\x28",
    b"\x1b[2J",
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """Return `content` with some bytes flipped, cut away, doubled, or replaced by ones that mean something."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        n = len(data)
        ends = st.one_of(st.integers(0, min(80, n)), st.integers(max(0, n - 80), n), st.integers(0, n))
        at = draw(ends)
        length = draw(st.one_of(st.integers(0, 8), st.integers(0, n)))
        kind = draw(st.sampled_from(["flip", "flip", "cut", "remove", "double", "word", "zero"]))
        if kind == "flip" and at < n:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:]
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "double":
            data[at:at] = data[at : at + length]
        elif kind == "word":
            word = draw(st.sampled_from(WORDS))
            data[at : at + (len(word) if draw(st.booleans()) else 0)] = word
        elif kind == "zero":
            data[at : at + length] = bytes(len(data[at : at + length]))
    return Content(data)


# Numbers

COUNTS = st.sampled_from([0, 1, 2, 3, 27, 29, 784, 10_000_000, 2**31 - 1, 2**31, 2**32 - 1])
"""What a header's field may say instead of the truth."""


def sometimes(true: T, other: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Return the truth in most cases."""
    return st.one_of(st.just(true), st.just(true), st.just(true), other)


# Data sets

TRAIN, TEST = SPLITS = tuple(
    Dataset(
        np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8),
        np.arange(n, dtype=np.uint8) % 10,
        "custom",
        "made",
    )
    for seed, n in enumerate((12, 10))
)


IDX_VALUES, IDX = idx_arrays(TRAIN, TEST), idx_files(TRAIN, TEST)
NPZ_VALUES = {f"{name}.npy": values for name, values in npz_arrays(TRAIN, TEST).items()}
NPZ = {name: npy_file(values) for name, values in NPZ_VALUES.items()}


def is_whole(splits: tuple[Dataset, Dataset]) -> bool:
    """Return whether these are data sets at all."""
    return all(
        split.images.dtype == split.labels.dtype == np.uint8
        and split.images.shape == (len(split.labels), 28, 28)
        and len(split.labels) > 0
        and split.labels.max() < len(split.class_names)
        for split in splits
    )


@st.composite
def idx_files_odd(draw: st.DrawFn, values: NDArray[np.uint8]) -> bytes:
    """Return an IDX file whose header may lie, as it is or as a gzip file."""
    magic = draw(sometimes(0x0800 + values.ndim, st.sampled_from([0, 0x0801, 0x0803, 0x0903, 0x08FF, 0xFFFFFFFF])))
    shape = [draw(sometimes(size, COUNTS)) for size in values.shape]
    content = struct.pack(f">I{values.ndim}I", magic, *shape) + values.tobytes()
    return Content(draw(st.sampled_from([bytes, gzip.compress]))(content))


TOKENS = (
    "", "-1", "10", "255", "256", "3.7", "4.0", "1e2", "1e400", "-1e400", "nan", "inf", "0x10", "1_0", "label", '"',
    '"5"', "'5'", "5 5", "\0", "٣", "9" * 400, "9" * 70_000, "\r", "\n", ";", "#", "1+2j", "None",
)  # fmt: skip


@st.composite
def csv_files_odd(draw: st.DrawFn, split: Dataset) -> tuple[bytes, bool]:
    """Return a CSV file with some of its fields or lines replaced; and whether nothing was."""
    rows = [list(row) for row in csv_rows(split)]
    kinds = draw(st.lists(st.sampled_from(["field", "drop", "double", "line", "shift"]), max_size=2))
    for kind in kinds:
        at = draw(st.integers(0, len(rows) - 1))
        column = draw(st.one_of(st.just(0), st.integers(0, max(0, len(rows[at]) - 1))))
        if kind == "field" and rows[at]:
            rows[at][column] = draw(st.sampled_from(TOKENS))
        elif kind == "drop" and len(rows) > 1:
            del rows[at]
        elif kind == "double":
            rows.insert(at, rows[at])
        elif kind == "line":
            rows[at] = [draw(st.sampled_from(TOKENS))]
        elif kind == "shift" and rows[at]:
            rows[at].insert(column, rows[at].pop())
    return Content(csv_file(rows)), not kinds


@st.composite
def npy_files_odd(draw: st.DrawFn, values: NDArray[np.uint8]) -> bytes:
    """Return an array's file whose header may lie or be no header."""
    descr = draw(
        sometimes("'|u1'", st.sampled_from(["'|O'", "'<i8'", "'<f8'", "'<U9'", "'|b1'", "[('a', '|u1')]", "7"]))
    )
    lengths = [draw(sometimes(size, COUNTS)) for size in values.shape]
    shape = draw(sometimes(str(tuple(lengths)), st.sampled_from(["()", "(-1, 28, 28)", "(1e400,)", "7", "(True,)"])))
    order = draw(sometimes("False", st.sampled_from(["True", "0", "None"])))
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    header = draw(
        sometimes(header, st.sampled_from(["", "{}", "(" * 5000, "[" * 200 + "]" * 200, "f()", "0L", header * 2]))
    )
    text = header.encode() + b"\n"
    length = draw(sometimes(len(text), st.sampled_from([0, 1, 65_535])))
    version = draw(sometimes(b"\1\0", st.sampled_from([b"\2\0", b"\3\0", b"\xff\0"])))
    return Content(b"\x93NUMPY" + version + struct.pack("<H", length) + text + values.tobytes())


ZIP_FIELDS = {
    b"PK\x01\x02": {"flags": (8, "H"), "method": (10, "H"), "crc": (16, "I"), "packed": (20, "I"), "size": (24, "I"),
                    "name": (28, "H"), "extra": (30, "H"), "offset": (42, "I")},
    b"PK\x03\x04": {"flags": (6, "H"), "method": (8, "H"), "size": (22, "I"), "name": (26, "H"), "extra": (28, "H")},
    b"PK\x05\x06": {"count": (10, "H"), "size": (12, "I"), "offset": (16, "I"), "comment": (20, "H")},
}  # fmt: skip
"""Fields of a zip's records: APPNOTE.TXT, 4.3."""


@st.composite
def zip_files_odd(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a zip some of whose records' fields say something else."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 2))):
        record = draw(st.sampled_from(sorted(ZIP_FIELDS)))
        places = [at for at in range(len(data) - 3) if data[at : at + 4] == record]
        if places:
            offset, code = ZIP_FIELDS[record][draw(st.sampled_from(sorted(ZIP_FIELDS[record])))]
            most = 256 ** struct.calcsize(code) - 1
            value = draw(
                st.one_of(st.sampled_from([0, 1, 8, 9, 12, 14, 93, 95, 99, 1000, most]), st.integers(0, most))
            )
            at = draw(st.sampled_from(places)) + offset
            if at + struct.calcsize(code) <= len(data):
                struct.pack_into("<" + code, data, at, min(value, most))
    return Content(data)


@st.composite
def tar_files_odd(draw: st.DrawFn, files: dict[str, bytes]) -> bytes:
    """Return a tar in which headers may lie, with their checksums right."""
    parts = []
    for name, content in files.items():
        info = tarfile.TarInfo(draw(sometimes(name, st.sampled_from(["", "../" + name, "a" * 300, "\udc80"]))))
        info.size = draw(sometimes(len(content), st.sampled_from([0, 1, 511, 2**20, 2**33 - 1, 2**40])))
        info.type = draw(
            sometimes(tarfile.REGTYPE, st.sampled_from([b"1", b"2", b"5", b"g", b"x", b"L", b"S", b"?"]))
        )
        head = info.tobuf(tarfile.GNU_FORMAT, errors="surrogateescape")
        parts.append(head + content + bytes(-len(content) % 512))
    return Content(b"".join(parts) + bytes(1024))


# Images


def png_file(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


@st.composite
def png_files_odd(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a PNG some of whose chunks' fields say something else, with their checksums right in most cases."""
    at, parts = 8, [content[:8]]
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height = (draw(sometimes(28, st.sampled_from([0, 1, 16_000, 2**31 - 1, 2**32 - 1]))) for _ in "wh")
            rest = bytes(draw(sometimes(value, st.integers(0, 255))) for value in data[8:])
            data = struct.pack(">II", width, height) + rest
        kind = draw(sometimes(kind, st.sampled_from([b"IDAT", b"IEND", b"zzzz", b"PLTE", b"acTL", b"eXIf"])))
        data = draw(sometimes(data, mutated(data)))
        crc = draw(sometimes(zlib.crc32(kind + data), st.just(0)))
        stated = draw(sometimes(len(data), st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1])))
        repeats = draw(sometimes(1, st.sampled_from([0, 2])))
        parts += [struct.pack(">I", stated) + kind + data + struct.pack(">I", crc)] * repeats
        at += 12 + length
    return Content(b"".join(parts))


IMAGES = {
    f"{name}/{label}/{number:04d}.png": png_file(image)
    for name, split in zip(("train", "test"), SPLITS, strict=True)
    for label in range(10)
    for number, image in enumerate(split.images[split.labels == label])
}
IN_ORDER = tuple(
    Dataset(split.images[order], split.labels[order], "custom", "made")
    for split in SPLITS
    for order in [np.argsort(split.labels, kind="stable")]
)
"""What these images are, in the order of a folder."""


# JSON

VALUES = (
    "null", "true", "0", "-1", "1.5", "1e400", "-1e400", "NaN", "Infinity", "200000", "1234567890123456789012345",
    "9" * 5000, '""', '"text"', '"\\u0000"', '"\\ud800"', '"\\u001b[2J\\n"', "[]", "{}", "[1, 2]",
    '{"type": "Dense"}', "[" * 3000 + "]" * 3000, '{"a":' * 3000 + "1" + "}" * 3000, "[" * 100_000, "1, ", "'text'",
)  # fmt: skip
_MARK = "<here>"


@st.composite
def json_odd(draw: st.DrawFn, text: str) -> bytes:
    """Return a JSON document in which one or two values are others, missing or twice there."""
    for _ in range(draw(st.integers(1, 2))):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            break
        places = list(_places(value))
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["value", "value", "value", "missing", "twice"]))
        if kind == "missing":
            del holder[key]
        elif kind == "value":
            holder[key] = _MARK
        elif isinstance(holder, dict):
            holder[_MARK] = holder[key]
        text = json.dumps(value)
        if kind == "value":
            text = text.replace(json.dumps(_MARK), draw(st.sampled_from(VALUES)))
        else:
            text = text.replace(json.dumps(_MARK), json.dumps(str(key)))
    return Content(text.encode("utf-8", "surrogatepass"))


def _places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        found.append((value, key))
        found += _places(item)
    return found


@st.composite
def safetensors_odd(draw: st.DrawFn, content: bytes) -> bytes:
    """Return a safetensors file whose header, or the document in its metadata, says something else."""
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header["__metadata__"]
    name = draw(st.sampled_from(sorted(metadata)))
    if draw(st.booleans()):
        metadata[name] = draw(json_odd(metadata[name])).decode("utf-8", "surrogatepass")
        text = json.dumps(header)
    else:
        text = draw(json_odd(json.dumps(header))).decode("utf-8", "surrogatepass")
        types = st.sampled_from(["BF16", "F16", "F64", "I64", "BOOL", "F8_E4M3", "U8", "C64"])
        text = text.replace('"F32"', f'"{draw(sometimes("F32", types))}"', 1)
    packed = text.encode("utf-8", "surrogatepass")
    stated = draw(sometimes(len(packed), st.sampled_from([0, 1, 2**31, 2**40, 2**64 - 1])))
    return Content(struct.pack("<Q", stated) + packed + data)
