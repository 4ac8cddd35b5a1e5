"""Fashion-MNIST as images: a folder, or a zip of one, laid out as `train/<label>/*.png`, `test/<label>/*.png`.

Images come sorted by label, then by name, whatever order the disk lists them in.
"""

import hashlib
import os
import re
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterable
from pathlib import Path, PureWindowsPath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data import readers
from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.opencv import decode, on_threads, opencv, silence
from fmnist_xp.data.reader import Member
from fmnist_xp.data.readers import Read
from fmnist_xp.errors import DataError

Image: TypeAlias = NDArray[np.generic] | None
"""What OpenCV makes of a file: an image of any shape and dtype, or nothing."""

SPLITS = ("train", "test")
_LABELS = tuple("0123456789")
_CHUNK = 250
"""Files a thread takes at a time; the first error is then never far away."""
_SUSPECT = re.compile(r"[:\\]|\.\.|^/")
"""What a path that leads out of its folder has at the least."""
_UTF8 = 0x800
_UNDERSTOOD = _UTF8 | 0xE
"""Flags of a zip's member that do not change how it is read: compression level, sizes behind the data, UTF-8."""
_LARGEST = 1 << 20
"""Bytes: no image of 28 x 28 pixels is larger, and a zip that unpacks to more is not a data set."""


def is_folder_of_images(folder: Path) -> bool:
    """Return whether `folder` has at least one of the two split folders."""
    return any((folder / split).is_dir() for split in SPLITS)


class Folder:
    """A folder of images: what files it has, and how they are when they are read or first asked for."""

    def __init__(self, path: Path) -> None:
        """List the files; DataError names the file or folder that does not belong there or is missing."""
        self.path = path
        self._layout = _Layout()
        self._stats: NDArray[np.int64] | None = None
        for split in SPLITS:
            if not (path / split).is_dir():
                raise DataError(f"{path / split}: missing; the folder must hold train and test")
            found = {label: _files(path / split / label) for label in _listed(path / split)}
            self._layout.add(f"{split}/", found, str(path / split))

    def fingerprint(self) -> str:
        """Return a SHA-256 over each file's name, size and time of change.

        It stands for the content. Hashing the content itself would mean to open 70,000 files again at each
        start, which is most of what the cache is there to save. Once the files are read, it is that of the
        files as they were then.
        """
        if self._stats is None:
            self._stats = self._stat(self._layout.names)
        digest = hashlib.sha256(os.fsencode("\0".join(self._layout.names)))
        digest.update(self._stats.data)
        return digest.hexdigest()

    def read(self, source: str) -> tuple[Dataset, Dataset]:
        """Read the images into (train, test); DataError names the file at fault."""
        names = self._layout.names
        read = readers.read(self.path, names)
        others = np.flatnonzero(~read.done)
        if self._stats is None:
            read.stats[others] = self._stat(names[index] for index in others)
            self._stats = read.stats
        base = f"{self.path}{os.sep}"
        load = _file_loader(base)
        _load_others(read, others, names, load, base)
        return self._layout.datasets(read.images, source)

    def _stat(self, names: Iterable[str]) -> NDArray[np.int64]:
        """Return size and time of change in nanoseconds of the files, int64 (n, 2)."""
        base = f"{self.path}{os.sep}"
        values = array("q")
        for stat in map(os.stat, (base + name for name in names)):
            values.append(stat.st_size)
            values.append(stat.st_mtime_ns)
        return np.array(values, np.int64).reshape(-1, 2)


def read_zip(path: Path, source: str) -> tuple[Dataset, Dataset]:
    """Read a zip of such a folder, bare or below one top folder, into (train, test).

    Nothing is unpacked to disk. Even so, a member whose path leaves its folder is refused: such a file was
    made to do harm. DataError names the member at fault.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            layout = _zip_layout(path, [info.filename for info in archive.infolist() if not info.is_dir()])
            read = readers.read(path, [_member(archive.getinfo(name)) for name in layout.names])

            def load(name: str) -> Image:
                return decode(_read_member(path, archive, name), opencv().IMREAD_UNCHANGED)

            _load_others(read, np.flatnonzero(~read.done), layout.names, load, f"{path}: ")
            return layout.datasets(read.images, source)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not a zip file, or a damaged one ({error}); copy it again") from error


def write(dataset: Dataset, folder: Path) -> None:
    """Write one split to `folder`, made here, as `<label>/NNNN.png`, numbered in the order of the images."""
    for label in range(10):
        if not (dataset.labels == label).any():
            raise DataError(f"{folder / str(label)}: no image of this label; a folder of images needs some")
        (folder / str(label)).mkdir(parents=True)
    cv2 = opencv()

    def work(label: int) -> None:
        for number, index in enumerate(np.flatnonzero(dataset.labels == label)):
            file = cv2.imencode(".png", dataset.images[index])[1]
            (folder / str(label) / f"{number:04d}.png").write_bytes(file)

    on_threads(work, range(10))


class _Layout:
    """The files of a data set in order: train, then test, by label, then by name."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._counts: list[list[int]] = []

    def add(self, start: str, found: dict[str, list[str]], where: str) -> None:
        """Add a split, the names in each label's folder, refusing whatever does not belong there.

        `start` goes before "label/name", `where` before it in an error.
        """
        for label, names in found.items():
            if names and label not in _LABELS:
                raise DataError(f"{where}/{label}: not a label folder; only folders 0 to 9 belong there")
            for name in names:
                if "/" in name or name[-4:].lower() != ".png":
                    raise DataError(f"{where}/{label}/{name}: not a .png file; move it elsewhere")
        for label in _LABELS:
            if not found.get(label):
                raise DataError(f"{where}/{label}: no image found; each label from 0 to 9 needs some")
            self.names += [f"{start}{label}/{name}" for name in sorted(found[label])]
        self._counts.append([len(found[label]) for label in _LABELS])

    def datasets(self, images: NDArray[np.uint8], source: str) -> tuple[Dataset, Dataset]:
        """Return (train, test) of the images of all `names`."""
        counts = np.array(self._counts)
        splits = np.split(images, [counts[0].sum()])
        digits = np.arange(10, dtype=np.uint8)
        train, test = (
            Dataset(part, np.repeat(digits, count), "custom", source)
            for part, count in zip(splits, counts, strict=True)
        )
        return train, test


def _zip_layout(path: Path, members: list[str]) -> _Layout:
    for name in members:
        windows = PureWindowsPath(name) if _SUSPECT.search(name) else None  # knows both kinds of slash, and drives
        if windows and (windows.drive or windows.root or ".." in windows.parts):
            raise DataError(f"{path}: member {name} leads out of its folder; do not trust this file")
    seen = [name for name in members if not any(map(_is_left_behind, name.split("/")))]
    tops = {name.partition("/")[0] for name in seen if "/" in name}
    top = "" if tops & set(SPLITS) or len(tops) != 1 else f"{tops.pop()}/"
    layout = _Layout()
    for split in SPLITS:
        start = f"{top}{split}/"
        found: dict[str, list[str]] = {}
        for name in seen:
            if name.startswith(start):
                label, _, rest = name[len(start) :].partition("/")
                found.setdefault(label, []).append(rest)
        if not found:
            raise DataError(f"{path}: no {start} found; the zip must hold train/<label>/ and test/<label>/")
        layout.add(start, found, f"{path}: {top}{split}")
    return layout


def _member(info: zipfile.ZipInfo) -> Member:
    """Return what `readers.read` needs to know of a member; one that is encrypted or the like it cannot read."""
    name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
    method = info.compress_type if info.flag_bits & ~_UNDERSTOOD == 0 else -1
    return name, info.header_offset, info.compress_size, method, info.CRC


def _load_others(
    read: Read, others: NDArray[np.intp], names: list[str], load: Callable[[str], Image], where: str
) -> None:
    """Load on several threads what was not read, each into its place; `where` goes before a name in an error."""
    silence()

    def work(start: int) -> None:
        for index in others[start : start + _CHUNK]:
            image = load(names[index])
            if image is None:
                raise DataError(f"{where}{names[index]}: not an image, damaged or cut short; copy the file again")
            if image.shape != (28, 28) or image.dtype != np.uint8:
                raise DataError(f"{where}{names[index]}: {_found(image)} found; 28 x 28 pixels of 8-bit grey needed")
            read.images[index] = image

    on_threads(work, range(0, len(others), _CHUNK))


def _found(image: NDArray[np.generic]) -> str:
    height, width, *channels = image.shape
    return f"{width} x {height} pixels of {channels[0] if channels else 1} x {8 * image.itemsize} bits"


def _file_loader(base: str) -> Callable[[str], Image]:
    """Return a function that loads the file `base` + name; a microsecond in it is a tenth of a second in all."""
    cv2 = opencv()
    imread, unchanged = cv2.imread, cv2.IMREAD_UNCHANGED

    def load(name: str) -> Image:
        path = base + name
        # One call that reads and decodes: a thread then waits for Python's lock once for each file, not twice.
        image: Image = imread(path, unchanged)
        return _load_again(path) if image is None else image

    return load


def _load_again(path: str) -> Image:
    """Load a file that OpenCV did not, to say why, or because it could not open a file of such a name."""
    try:
        with Path(path).open("rb") as file:
            return decode(file.read(_LARGEST), opencv().IMREAD_UNCHANGED)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _read_member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).file_size > _LARGEST:
        raise DataError(f"{path}: member {name} is too large for an image of 28 x 28 pixels")
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path}: member {name} is damaged or locked ({error}); copy the zip again") from error


def _listed(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if not _is_left_behind(name)]  # noqa: PTH208


def _files(folder: Path) -> list[str]:
    """Return the names in a label folder; for a file in its place an empty name, which no layout allows."""
    return _listed(folder) if folder.is_dir() else [""]


def _is_left_behind(name: str) -> bool:
    """Return whether a file manager made this: .DS_Store, Thumbs.db, desktop.ini, __MACOSX."""
    return name.startswith(".") or name in {"Thumbs.db", "desktop.ini", "__MACOSX"}
