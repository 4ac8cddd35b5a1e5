"""Fashion-MNIST as images: a folder, or a zip of one, laid out as `train/<label>/*.png`, `test/<label>/*.png`.

Images come sorted by label, then by name, whatever order the disk lists them in.
"""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.opencv import decode, on_threads, opencv, silence
from fmnist_xp.errors import DataError

Image: TypeAlias = NDArray[np.generic] | None
"""What OpenCV makes of a file: an image of any shape and dtype, or nothing."""

SPLITS = ("train", "test")
_LABELS = tuple("0123456789")
_CHUNK = 250
"""Files a thread takes at a time; the first error is then never far away."""
_LARGEST = 1 << 20
"""Bytes: no image of 28 x 28 pixels is larger, and a zip that unpacks to more is not a data set."""


def is_folder_of_images(folder: Path) -> bool:
    """Return whether `folder` has at least one of the two split folders."""
    return any((folder / split).is_dir() for split in SPLITS)


def fingerprint(folder: Path) -> str:
    """Return a SHA-256 over where the folder lies and each file's relative name, size and time of change.

    It stands for the content in the name of the decoded cache. Hashing the content itself would mean to
    open 70,000 files again at each start, which is most of what the cache is there to save.
    """
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for split in SPLITS:
        for label in sorted(_listed(folder / split)):
            try:
                with os.scandir(folder / split / label) as entries:
                    lines = [f"{e.name}|{(s := e.stat()).st_size}|{s.st_mtime_ns}" for e in entries]
            except NotADirectoryError:
                lines = []
            digest.update("\n".join([f"{split}/{label}", *sorted(lines), ""]).encode(errors="surrogateescape"))
    return digest.hexdigest()


def read_folder(folder: Path, source: str) -> tuple[Dataset, Dataset]:
    """Read a folder of images into (train, test); DataError names the file or folder at fault."""
    names = {}
    for split in SPLITS:
        if not (folder / split).is_dir():
            raise DataError(f"{folder / split}: missing; the folder must hold train and test")
        paths = [f"{label}/{name}" for label in _listed(folder / split) for name in _files(folder / split / label)]
        names[split] = _by_label(paths, str(folder / split))
    load = _file_loader()
    train, test = (_read_split(names[split], f"{folder / split}{os.sep}", load, source) for split in SPLITS)
    return train, test


def read_zip(path: Path, source: str) -> tuple[Dataset, Dataset]:
    """Read a zip of such a folder, bare or below one top folder, into (train, test).

    Nothing is unpacked to disk. Even so, a member whose path leaves its folder is refused: such a file was
    made to do harm. DataError names the member at fault.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info.filename for info in archive.infolist() if not info.is_dir()]
            top, names = _zip_layout(path, members)

            def load(name: str) -> Image:
                return decode(_read_member(path, archive, name), opencv().IMREAD_UNCHANGED)

            train, test = (_read_split(names[s], f"{top}{s}/", load, source, f"{path}: ") for s in SPLITS)
            return train, test
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


def _zip_layout(path: Path, members: list[str]) -> tuple[str, dict[str, list[list[str]]]]:
    """Return the top folder ("" or "name/") and, per split and label, the sorted names below the split."""
    for name in members:
        windows = PureWindowsPath(name)  # knows both kinds of slash, and drives
        if windows.drive or windows.root or ".." in windows.parts:
            raise DataError(f"{path}: member {name} leads out of its folder; do not trust this file")
    parts = [(name, PurePosixPath(name).parts) for name in members if not _is_hidden(name)]
    tops = {p[0] for _, p in parts if len(p) > 1}
    top = "" if tops & set(SPLITS) or len(tops) != 1 else f"{tops.pop()}/"
    names = {}
    for split in SPLITS:
        start = f"{top}{split}/"
        below = [name[len(start) :] for name in members if name.startswith(start) and not _is_hidden(name)]
        if not below:
            raise DataError(f"{path}: no {start} found; the zip must hold train/<label>/ and test/<label>/")
        names[split] = _by_label(below, f"{path}: {top}{split}")
    return top, names


def _by_label(paths: Iterable[str], where: str) -> list[list[str]]:
    """Sort "label/name.png" paths into one list per label, refusing whatever does not belong there."""
    labels: dict[str, list[str]] = {label: [] for label in _LABELS}
    for path in paths:
        label, _, name = path.partition("/")
        if label not in labels:
            raise DataError(f"{where}/{label}: not a label folder; only folders 0 to 9 belong there")
        if "/" in name or not name.lower().endswith(".png"):
            raise DataError(f"{where}/{path}: not a .png file; move it elsewhere")
        labels[label].append(path)
    for label, found in labels.items():
        if not found:
            raise DataError(f"{where}/{label}: no image found; each label from 0 to 9 needs some")
    return [sorted(found) for found in labels.values()]


def _read_split(
    labels: list[list[str]], base: str, load: Callable[[str], Image], source: str, where: str = ""
) -> Dataset:
    """Load the files `base` + name on several threads, each into its place in one array.

    `where` goes before a file's name in an error.
    """
    names = [base + name for found in labels for name in found]
    images = np.empty((len(names), 28, 28), np.uint8)
    silence()

    def work(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(names))):
            image = load(names[index])
            if image is None:
                raise DataError(f"{where}{names[index]}: not an image, damaged or cut short; copy the file again")
            if image.shape != (28, 28) or image.dtype != images.dtype:
                raise DataError(f"{where}{names[index]}: {_found(image)} found; 28 x 28 pixels of 8-bit grey needed")
            images[index] = image

    on_threads(work, range(0, len(names), _CHUNK))
    counts = [len(found) for found in labels]
    return Dataset(images, np.repeat(np.arange(10, dtype=np.uint8), counts), "custom", source)


def _found(image: NDArray[np.generic]) -> str:
    height, width, *channels = image.shape
    return f"{width} x {height} pixels of {channels[0] if channels else 1} x {8 * image.itemsize} bits"


def _file_loader() -> Callable[[str], Image]:
    """Return a function that loads a file; what costs a microsecond in it costs a tenth of a second in all."""
    cv2 = opencv()
    imread, unchanged = cv2.imread, cv2.IMREAD_UNCHANGED

    def load(path: str) -> Image:
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
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not _is_hidden(entry.name)]


def _files(folder: Path) -> list[str]:
    """Return the names in a label folder; for a file in its place an empty name, which no layout allows."""
    return _listed(folder) if folder.is_dir() else [""]


def _is_hidden(path: str) -> bool:
    """Return whether a file manager left this behind: .DS_Store, Thumbs.db, desktop.ini, __MACOSX/."""
    return any(part.startswith(".") or part in {"Thumbs.db", "desktop.ini", "__MACOSX"} for part in path.split("/"))
