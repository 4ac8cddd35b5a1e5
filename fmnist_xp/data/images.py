"""A data set as images: a folder, or a zip of one, laid out as `train/<class>/*.png`, `test/<class>/*.png`.

Images are sorted by label, then by name, whatever order the disk lists them in. `_SPLITS` lists the other names that
the splits may have, `classes.of_folders` tells the labels; everything may also be one folder further down.
"""

import hashlib
import logging
import os
import re
import sys
import zipfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.class_files import is_class_file
from fmnist_xp.data.classes import of_folders
from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.imagefile import check_image, read_file
from fmnist_xp.data.opencv import decoder, on_threads, opencv
from fmnist_xp.data.stored import DAMAGE, leads_to_folder
from fmnist_xp.errors import DataError

LOG = logging.getLogger("fmnist_xp")
Listed: TypeAlias = Callable[[str], dict[str, bool]]
"""Takes a folder, relative to the data set's own (""); returns each name in it, and whether it is a folder."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("valid", "validation", "val"), "validation"),
}
"""The split of each folder name, in any case; validation images serve as test images where there are none."""
_SUFFIXES = (".png", ".jpg", ".jpeg")
_LEFT_BEHIND = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "@eadir", "__macosx", "icon\r",
}  # fmt: skip
_ABOUT = (".csv", ".json", ".md", ".tsv", ".txt")
_SUSPECT = re.compile(r"[:\\]|\.\.|^/")
"""Every path that leads out of its folder matches this."""

_LARGEST = 1 << 18
"""Bytes: no file of 28 x 28 pixels is larger, whatever metadata a program adds."""
_PIECE = 250
"""Files that a thread decodes at a time."""
_BATCH = 1 << 24
"""Bytes of files read before they are decoded, half of the published images: starting threads takes time."""


def is_folder_of_images(folder: Path) -> bool:
    """Return whether `folder`, or the only folder in it, has at least one of the split folders."""
    return _top(_lister(folder)) is not None


class Folder:
    """A folder of images: its files, and their size and time when they are read or first asked for."""

    def __init__(self, path: Path) -> None:
        """List the files; DataError names a file or folder that is missing or does not belong there."""
        self._base = f"{path}{os.sep}"
        self._layout = _Layout(self._base, _lister(path))
        self._stats: array[int] | None = None

    @property
    def top(self) -> str:
        """The folder that holds the splits: "", or the only one, with its slash."""
        return self._layout.top

    def fingerprint(self) -> str:
        """Return a SHA-256 over each file's name, size and modification time.

        It stands for the content: hashing that would mean opening 70,000 files at each start, which takes most of the
        time that the cache saves. Once the files are read, it describes them as they were then.
        """
        names = self._layout.names
        if self._stats is None:
            states = (os.stat(self._base + name) for name in names)  # noqa: PTH116 (a Path takes longer)
            self._stats = array("q", (value for state in states for value in (state.st_size, state.st_mtime_ns)))
        digest = hashlib.sha256(os.fsencode("\0".join(names)))
        digest.update(self._stats)
        return digest.hexdigest()

    def read(self, source: str) -> tuple[Dataset, Dataset]:
        """Read the images into (train, test); DataError names the file at fault."""
        stats = array("q")

        def read(name: str) -> bytes:
            content, state = read_file(self._base + name, _LARGEST)
            stats.extend((state.st_size, state.st_mtime_ns))
            return content

        datasets = self._layout.read(read, source)
        if self._stats is None:
            self._stats = stats
        return datasets


def read_zip(path: Path, source: str) -> tuple[Dataset, Dataset]:
    """Read a zip of such a folder, with or without one top folder, into (train, test).

    Nothing is unpacked to disk. Even so, a member whose path leaves its folder is refused: such a zip is malicious.
    DataError names the member at fault.
    """
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise DataError(f"{path}: not a zip file, or a damaged one ({error!s:.200}); copy it again") from error
    with archive:
        members = _members(path, archive)
        layout = _Layout(f"{path}: ", _member_lister(members))
        return layout.read(lambda name: _read_member(path, archive, members[name]), source)


def write(dataset: Dataset, split: str, folder: Path) -> None:
    """Write one split to `folder` as `<split>/<label>/NNNN.png`, numbered in the order of the images.

    DataError, naming the folder, for a class without images.
    """
    folders = [folder / split / str(label) for label in range(len(dataset.class_names))]
    for label, made in enumerate(folders):
        if not (dataset.labels == label).any():
            raise DataError(f"{made}: no image of this class; a folder of images needs some, and IDX files do not")
        made.mkdir(parents=True)
    cv2 = opencv()

    def work(label: int) -> None:
        for number, index in enumerate(np.flatnonzero(dataset.labels == label)):
            file = cv2.imencode(".png", dataset.images[index])[1]
            (folders[label] / f"{number:04d}.png").write_bytes(file)

    on_threads(work, range(len(folders)))


class _Layout:
    """The files of a data set in order: train, then test, by label, then by name."""

    def __init__(self, where: str, listed: Listed) -> None:
        """List the files, refusing whatever does not belong there; `where` is the prefix of names in errors."""
        self.names: list[str] = []
        self._where = where
        self._listed = listed
        self._labels: list[NDArray[np.uint8]] = []
        self.top = top = _top(listed) or ""
        self._skipped = [name for name in listed("") if top and f"{name}/" != top and not is_class_file(name)]
        splits = self._splits(top)
        for split in ("train", "test"):
            if split not in splits:
                other = next(iter(splits.values()), "neither")
                raise DataError(f"{where}{top}{split}: missing; train and test are needed, {other} found")
        train, test = (self._classes(top + splits[split]) for split in ("train", "test"))
        try:
            self._class_names, labels = of_folders([*train, *test])
        except ValueError as error:
            raise DataError(f"{where}{top}{splits['train']}: {error}") from error
        self._add(top + splits["train"], train, labels)
        self._add(top + splits["test"], test, labels)
        if self._skipped:
            first = ", ".join(map(repr, self._skipped[:3])) + (", …" if len(self._skipped) > 3 else "")
            level = logging.INFO if all(map(_is_left_behind, self._skipped)) else logging.WARNING
            source = where.rstrip(f": {os.sep}")
            message = "%s: skipped what is no image of the data set, %d in all: %s"
            LOG.log(level, message, source, len(self._skipped), first)

    def read(self, read: Callable[[str], bytes], source: str) -> tuple[Dataset, Dataset]:
        """Return (train, test) of all `names`; `read` returns the bytes of a file."""
        images = np.empty((len(self.names), 28, 28), np.uint8)
        with _bar(2 * len(images)) as advance:

            def work(piece: tuple[int, list[bytes]]) -> None:
                start, files = piece
                self._decode(files, self.names[start : start + _PIECE], images[start : start + _PIECE])
                advance(len(files))

            pieces, held = [], 0
            for start in range(0, len(images), _PIECE):
                # On this thread: threads that read files would wait longer for Python's lock than for the disk.
                files = [self._checked(name, read(name)) for name in self.names[start : start + _PIECE]]
                advance(len(files))
                pieces.append((start, files))
                held += sum(map(len, files))
                if held > _BATCH or start + _PIECE >= len(images):
                    on_threads(work, pieces)
                    pieces, held = [], 0
        train, test = self._labels
        n = len(train)
        names = self._class_names
        return Dataset(images[:n], train, "custom", source, names), Dataset(images[n:], test, "custom", source, names)

    def _splits(self, top: str) -> dict[str, str]:
        """Return the folders of the splits."""
        splits: dict[str, str] = {}
        for name, is_folder in self._listed(top).items():
            split = _SPLITS.get(name.lower()) if is_folder else None
            if split is None:
                self._skipped += [name] * (not is_class_file(name))
            elif split in splits:
                raise DataError(f"{self._where}{top}{name}: as well as {splits[split]}; which is it? Leave one there")
            else:
                splits[split] = name
        if "validation" in splits:
            validation = splits.pop("validation")
            if splits.setdefault("test", validation) != validation:
                LOG.warning("%s%s: left aside, since there is %s too", self._where, top + validation, splits["test"])
        return splits

    def _classes(self, split: str) -> list[str]:
        """Return the folders of classes in that of a split."""
        names = []
        for name, is_folder in sorted(self._listed(split).items()):
            if _is_aside(name):
                self._skipped.append(name)
            elif not is_folder:
                raise DataError(f"{self._where}{split}/{name}: not a folder; a folder for each class belongs there")
            else:
                names.append(name)
        return names

    def _add(self, split: str, names: list[str], labels: dict[str, int]) -> None:
        folders: dict[int, str] = {}
        for name in names:
            label = labels[name]
            if label in folders:
                place = f"{self._where}{split}/{name}"
                raise DataError(f"{place}: the same label as {folders[label]}; put the images into one of the two")
            folders[label] = name
        usual = {label: name for name, label in labels.items()}
        lowest = min(1, *labels.values()) if labels else 0  # numbers may count from 1
        counts = []
        for label in range(lowest, len(self._class_names)):
            folder = f"{split}/{folders.get(label, usual.get(label, label))}"
            files = self._images(folder) if label in folders else []
            if not files:
                raise DataError(f"{self._where}{folder}: no image found; each class needs some")
            self.names += [f"{folder}/{name}" for name in sorted(files)]
            counts.append(len(files))
        self._labels.append(np.repeat(np.arange(lowest, len(self._class_names)).astype(np.uint8), counts))

    def _images(self, folder: str) -> list[str]:
        names = []
        for name, is_folder in self._listed(folder).items():
            if not is_folder and name.lower().endswith(_SUFFIXES) and name[0] != ".":
                names.append(name)
            elif _is_aside(name):
                self._skipped.append(name)
            else:
                found = "a folder" if is_folder else "neither a .png nor a .jpg file"
                raise DataError(f"{self._where}{folder}/{name}: {found}; move it elsewhere")
        return names

    def _checked(self, name: str, file: bytes) -> bytes:
        try:
            width, height, file = check_image(file)
        except ValueError as error:
            raise DataError(f"{self._where}{name}: {error}") from error
        if (width, height) != (28, 28):
            raise DataError(f"{self._where}{name}: {width} x {height} pixels found; 28 x 28 pixels of grey needed")
        return file

    def _decode(self, files: list[bytes], names: list[str], images: NDArray[np.uint8]) -> None:
        # With map, which does little between two images: a thread releases Python's lock only inside OpenCV.
        decoded: list[Any] = list(map(decoder(opencv().IMREAD_UNCHANGED), files))
        for index, image in enumerate(decoded):
            if image is None:
                raise DataError(f"{self._where}{names[index]}: not an image that OpenCV can decode")
            if image.shape != (28, 28) or image.dtype != images.dtype:
                decoded[index] = _grey(image, f"{self._where}{names[index]}")
        images[:] = decoded


def _grey(image: NDArray[Any], place: str) -> NDArray[Any]:
    """Return the grey values of an opaque colour image whose channels agree; DataError for any other."""
    height, width, *channels = image.shape
    if image.dtype == np.uint8 and channels:
        grey: NDArray[Any] = image[..., 0]
        if (image[..., :3] == image[..., :1]).all() and (image[..., 3:] == 255).all():
            return grey
    found = f"{width} x {height} pixels of {channels[0] if channels else 1} x {8 * image.itemsize} bits"
    raise DataError(f"{place}: {found} found that are not grey; 28 x 28 pixels of 8-bit grey needed")


def top_of(members: Iterable[str]) -> str:
    """Return the folder with the splits among the members of a zip that `read_zip` has read: "", or "name/"."""
    return _top(_member_lister(members)) or ""


def _top(listed: Listed) -> str | None:
    """Return the folder with the splits: "", or "name/" of the only folder, or None if neither has them."""
    entries = listed("")
    if _has_splits(entries):
        return ""
    folders = [name for name, is_folder in entries.items() if is_folder and not _is_left_behind(name)]
    return f"{folders[0]}/" if len(folders) == 1 and _has_splits(listed(folders[0])) else None


def _has_splits(entries: dict[str, bool]) -> bool:
    return any(is_folder and name.lower() in _SPLITS for name, is_folder in entries.items())


def _lister(path: Path) -> Listed:
    def listed(folder: str) -> dict[str, bool]:
        with os.scandir(path / folder) as entries:
            return {entry.name: leads_to_folder(entry) for entry in entries}

    return listed


def _is_left_behind(name: str) -> bool:
    """Return whether an operating system or a file manager left this behind."""
    name = name.lower()
    return name[0] == "." or name in _LEFT_BEHIND or name.endswith(":zone.identifier")


def _is_aside(name: str) -> bool:
    """Return whether this is to be skipped: left behind, or a text about the images."""
    return _is_left_behind(name) or name.lower() == "readme" or name.lower().endswith(_ABOUT)


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files in a zip by their paths."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename
        windows = PureWindowsPath(name) if _SUSPECT.search(name) else None  # knows both slashes, and drives
        if windows and (windows.drive or windows.root or ".." in windows.parts):
            raise DataError(f"{path}: member {name} leads out of its folder; do not trust this file")
        if name.endswith("/") and not info.file_size:
            continue
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
        if not name:
            raise DataError(f"{path}: a member without a name found; copy the zip again")
        if name in members:
            raise DataError(f"{path}: member {name} is there twice; which is it? Make the zip again with one of them")
        members[name] = info
    return members


def _member_lister(members: Iterable[str]) -> Listed:
    folders: dict[str, dict[str, bool]] = {"": {}}
    for member in members:
        parts = member.split("/")
        for depth, name in enumerate(parts, 1):
            folders.setdefault("/".join(parts[: depth - 1]), {})[name] = depth < len(parts)
    return lambda folder: folders[folder.rstrip("/")]


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    where = f"{path}: member {info.filename}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # reads of others are unbounded
        found = f"compressed by method {info.compress_type}"
        raise DataError(f"{where} is {found}, which is not read here; unpack the zip and give its folder")
    if info.file_size > _LARGEST:
        raise DataError(f"{where}: {info.file_size:,} bytes found; an image file may have {_LARGEST:,} here")
    try:
        with archive.open(info) as stream:
            return stream.read(_LARGEST)  # whatever size the header gives
    except RuntimeError as error:
        raise DataError(f"{where} is locked ({error!s:.200}); unpack the zip and give its folder") from error
    except DAMAGE as error:
        raise DataError(f"{where} is damaged ({error!s:.200}); copy the zip again") from error


@contextmanager
def _bar(count: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar, on a terminal; yield a function that advances it, by so many of `count`."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("reading images", total=count)
        yield lambda more: progress.advance(task, more)
