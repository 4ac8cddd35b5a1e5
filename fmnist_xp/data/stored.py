"""Files in a folder, a zip or a tar: listed by name, and read within bounds.

Nothing is trusted before it is checked: a file must be a regular one of a sane size, gzip is recognized by its first
bytes, and a reader is told how many bytes a file can hold at most, so that a header that promises more costs nothing.
"""

import gzip
import io
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.mapped import pieces
from fmnist_xp.errors import DataError
from fmnist_xp.files import other_kind

LARGEST = 8 << 30
"""Bytes: more than 10,000,000 images of 28 x 28 pixels take."""
MOST_IMAGES = 10_000_000
ARCHIVE = re.compile(r"\.(zip|npz|tar|tgz|tar\.gz)$", re.IGNORECASE)
"""Names of archives, which are opened where a folder holds nothing else."""
_DEFLATE = 1032
"""Most bytes that one byte of gzip or of a deflated member can become."""
_PIECE = 1 << 20
_TAR_UNPACKED = 2 << 30
_TAR_MEMBERS = 1000
DAMAGE = (
    ArithmeticError, EOFError, LookupError, OSError, RuntimeError, SyntaxError, TypeError, ValueError,
    struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What other libraries' readers raise for damaged bytes."""

Opened: TypeAlias = tuple[IO[bytes], int]
"""A seekable stream, and the most bytes it can have."""


@contextmanager
def blaming(where: str) -> Iterator[None]:
    """Turn an error from reading bytes in the block into a DataError that begins with `where`."""
    try:
        yield
    except MemoryError as error:
        raise DataError(f"{where}: does not fit into memory") from error
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:
            raise DataError(f"{where}: cannot be read ({error.strerror})") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{where}: cut short or damaged ({shown(reason[:200])}); copy or fetch it again") from error


def shown(name: str) -> str:
    """Return a name fit for one line: cut if long, and as Python's `ascii` if it has unprintable characters."""
    name = name if len(name) <= 500 else f"{name[:500]}…"
    return name if name.isprintable() else ascii(name)


@dataclass(frozen=True)
class Stored:
    """A file in a folder, or a member of an archive.

    `name` is its path in there with forward slashes, `root` the prefix of it in errors, `path` the file on disk.
    """

    name: str
    root: str
    path: Path
    _open: Callable[[], Opened]

    @property
    def folder(self) -> str:
        """The folder in the name, with its slash."""
        return self.name[: len(self.name) - len(self.base)]

    @property
    def base(self) -> str:
        """The name without the folder."""
        return self.name.rpartition("/")[2]

    @property
    def where(self) -> str:
        """Its name in errors."""
        return self.root + shown(self.name)

    @contextmanager
    def open(self) -> Iterator[tuple[IO[bytes], int, bool]]:
        """Yield (stream, most, packed): its content, the most bytes of it, and whether it was unpacked.

        A gzip file, or a zip of one member, is unpacked, whatever its name. DataError for what is not a regular
        file, and for any damage found within the block.
        """
        with blaming(self.where):
            raw, size = self._open()
            with raw:
                magic = raw.read(4)
                raw.seek(0)
                if magic[:2] == b"\x1f\x8b":
                    with gzip.open(raw) as stream:
                        yield stream, size * _DEFLATE, True  # type: ignore[misc]
                elif magic == b"PK\x03\x04":
                    with zipfile.ZipFile(raw) as archive:
                        infos = [info for info in archive.infolist() if not info.is_dir()]
                        if len(infos) != 1:
                            raise DataError(f"{self.where}: a zip of {len(infos)} files found; one is needed here")
                        inner, most = _member(archive, infos[0], self.where)
                        with inner:
                            yield inner, min(most, size * _DEFLATE), True
                else:
                    yield raw, size, False


@dataclass(frozen=True)
class Form:
    """A form that a data set can have: one file for each of its `roles`.

    `pattern` matches the base of a name, with the groups `start`, `split`, `kind` and `packed`; the roles are
    (split, kind), each with its usual name. `check_split(files)` looks only at headers and sizes; both it and
    `read_split(files, source)` take the files of one split, in the order of the roles, and raise DataError.
    `in_place(files)` says of all files whether reading them leaves the images on disk: then nothing is worth caching.
    """

    name: str
    pattern: re.Pattern[str]
    roles: dict[tuple[str, str], str]
    check_split: Callable[[list[Stored]], object]
    read_split: Callable[[list[Stored], str], Dataset]
    in_place: Callable[[list[Stored]], bool] = lambda _files: False

    def check(self, files: list[Stored]) -> None:
        """Check headers and sizes of all files in the order of the roles; DataError names the file at fault."""
        half = len(files) // 2
        self.check_split(files[:half])
        self.check_split(files[half:])

    def read(self, files: list[Stored], source: str) -> tuple[Dataset, Dataset]:
        """Check all files, and read them into (train, test); DataError names the file at fault."""
        self.check(files)
        half = len(files) // 2
        splits = self.read_split(files[:half], source), self.read_split(files[half:], source)
        if is_sideways(files[0]):
            for split in splits:
                for images in pieces(split.images):
                    images[...] = images.swapaxes(1, 2).copy()
        return splits

    def find(self, files: list[Stored]) -> "list[Found]":
        """Return the data sets of this form among `files`, complete or not.

        Names in one folder with the same `start` make a set. A plain file is preferred to a compressed one of the
        same name; differently named files for one role are a problem.
        """
        sets: dict[str, dict[tuple[str, str], list[tuple[str, Stored]]]] = {}
        for file in files:
            if match := self.pattern.fullmatch(file.base):
                role = ("train" if match["split"].lower() == "train" else "test", match["kind"].lower())
                stem = file.name[: len(file.name) - len(match["packed"] or "")]
                sets.setdefault(file.folder + match["start"], {}).setdefault(role, []).append((stem, file))
        needed = f"all {len(self.roles)} {self.name} are needed"
        found = []
        for start, filled in sets.items():
            chosen: list[Stored] = []
            problems = []
            for role, usual in self.roles.items():
                candidates = sorted(filled.get(role, []), key=lambda candidate: len(candidate[1].name))
                chosen += [file for _, file in candidates[:1]]
                if not candidates:
                    some = next(iter(filled.values()))[0][1]
                    problems.append(f"{some.root}{shown(start)}{usual}: missing; {needed}")
                names = [file.name for _, file in candidates]
                if len({stem for stem, _ in candidates}) > 1 or len(set(names)) < len(names):
                    several = " and ".join(map(shown, names[:3]))
                    problems.append(f"{candidates[0][1].where}: several files in one place ({several}); keep one")
            found.append(Found(self, chosen, problems[0] if problems else None, start.rpartition("/")[2]))
        return found


@dataclass(frozen=True)
class Found:
    """A data set found among files, whose names begin with `start`.

    `problem` says what is missing or ambiguous, or is None.
    """

    form: Form
    files: list[Stored]
    problem: str | None
    start: str

    @property
    def depth(self) -> int:
        """How many folders down it is."""
        return self.files[0].name.count("/")

    @property
    def title(self) -> str:
        """Its form and its first file."""
        return f"{self.form.name} {shown(self.files[0].name)} and the others" if self.files[1:] else self.form.name


def in_folder(folder: Path, below: bool = True) -> list[Stored]:
    """Return the files in a folder and, with `below`, those one level down and in `raw` there, as in torchvision."""
    found = []
    starts = [""]
    for start in starts:
        try:
            entries = sorted(os.scandir(folder / start), key=lambda entry: entry.name)
        except OSError:
            if start:
                continue  # a subfolder that we may not read, such as lost+found
            raise
        for entry in entries:
            name = start + entry.name
            if not leads_to_folder(entry):
                path = folder / name
                found.append(Stored(name, f"{shown(str(folder))}{os.sep}", path, partial(open_file, path)))
            elif below and (not start or (entry.name == "raw" and start.count("/") == 1)):
                starts.append(f"{name}/")
    return found


def leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a circular link
        return False


def open_file(path: Path) -> Opened:
    """Open a file on disk; DataError unless it is a regular file, no larger than a data set can be."""
    found, where = path.stat(), shown(str(path))
    if kind := other_kind(found.st_mode):
        raise DataError(f"{where}: {kind} found; a regular file is needed")
    if found.st_size > LARGEST:
        raise DataError(f"{where}: {found.st_size / 1e9:,.0f} GB found; no data set of 28 x 28 pixels is as large")
    return path.open("rb"), found.st_size


def is_sideways(file: Stored) -> bool:
    """Return whether the images of this file are EMNIST's, published with rows and columns swapped: by its name."""
    return "emnist" in file.base.lower()


def is_on_disk(stream: IO[bytes]) -> bool:
    """Return whether a stream of `Stored.open` is a file on disk as it is, neither packed nor in an archive."""
    return isinstance(getattr(stream, "raw", None), io.FileIO)


def archive_kind(path: Path) -> str | None:
    """Return "zip" or "tar" (perhaps in gzip) for a file on disk that begins like one, None for any other."""
    with open_file(path)[0] as file:
        if file.read(2) == b"PK":
            return "zip"
        with suppress(*DAMAGE):
            _tar(file)
            return "tar"
    return None


@contextmanager
def in_archive(path: Path) -> Iterator[list[Stored]]:
    """Yield the files in a zip, a tar or a tar.gz, to be opened in the block, not on disk; DataError if damaged."""
    where = shown(str(path))
    root = f"{where}: member "
    with blaming(where), open_file(path)[0] as file:
        if archive_kind(path) == "zip":
            with zipfile.ZipFile(file) as archive:
                yield [
                    Stored(info.filename, root, path, partial(_member, archive, info, root + shown(info.filename)))
                    for info in archive.infolist()
                    if not info.is_dir()
                ]
        else:
            tar = _tar(file)
            infos = list(islice(tar, _TAR_MEMBERS + 1))
            if len(infos) > _TAR_MEMBERS:
                raise DataError(f"{where}: a tar of more than {_TAR_MEMBERS} members; unpack it and give the folder")
            files = [info for info in infos if info.isreg() and not info.issparse()]
            # The checksum of a tar.gz comes after all members, where reading them does not get to.
            while tar.fileobj and tar.fileobj.read(_PIECE):
                pass
            yield [Stored(info.name, root, path, partial(_extract, tar, info)) for info in files]


def read_array(stream: IO[bytes], shape: tuple[int, ...], dtype: DTypeLike, where: str, what: str) -> NDArray[Any]:
    """Read the rest of a stream straight into an array of that shape; DataError unless it has that length."""
    values = np.empty(shape, dtype)
    view, filled = values.ravel().view(np.uint8).data, 0
    while got := stream.readinto(view[filled : filled + _PIECE]):  # type: ignore[attr-defined]
        filled += got
    if filled < len(view) or stream.read(1):
        found = "more" if filled == len(view) else str(filled)
        raise wrong_length(where, found, what, len(view))
    return values


def wrong_length(where: str, found: int | str, what: str, promised: int) -> DataError:
    """Return the error for a file whose content does not have the length that its header promises."""
    return DataError(
        f"{where}: {found} bytes of {what} found, its header promises {promised}; copy or fetch it again"
    )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Opened:
    if info.flag_bits & 1:
        raise DataError(f"{where}: locked with a password; unpack the zip and give the folder")
    if info.compress_type == zipfile.ZIP_STORED:
        return archive.open(info), info.file_size
    if info.compress_type == zipfile.ZIP_DEFLATED:
        return archive.open(info), min(info.file_size, info.compress_size * _DEFLATE)
    # zipfile decompresses the other kinds without a bound: 4 KB of bzip2 can become gigabytes.
    kind = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}.get(info.compress_type, f"{info.compress_type}")
    raise DataError(f"{where}: compressed by {kind}; only stored and deflated files are read: unpack the zip")


class _Metered:
    """A tar's stream, which raises where headers, which tarfile trusts, lead beyond `limit`."""

    def __init__(self, stream: IO[bytes] | gzip.GzipFile, limit: int) -> None:
        self.stream, self.limit = stream, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _PIECE or self.stream.tell() > self.limit:
            raise tarfile.ReadError(f"its headers ask for {size} bytes at once, or lead beyond {self.limit}")
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        if position > self.limit:
            raise tarfile.ReadError(f"its headers lead to byte {position}, beyond {self.limit}")
        return self.stream.seek(position)

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.stream.tell()


def _tar(file: IO[bytes]) -> tarfile.TarFile:
    file.seek(0)
    magic = file.read(2)
    file.seek(0)
    packed = magic == b"\x1f\x8b"
    stream = _Metered(gzip.GzipFile(fileobj=file), _TAR_UNPACKED) if packed else _Metered(file, LARGEST)
    return tarfile.open(fileobj=stream, mode="r:")  # type: ignore[call-overload, no-any-return]


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Opened:
    return archive.extractfile(info), info.size  # type: ignore[return-value] # a regular file's is never None
