"""Reading a path in whichever format it has, and writing a data set in one of two."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from fmnist_xp.data import class_files, csv_files, idx, images, npz
from fmnist_xp.data.cache import cached
from fmnist_xp.data.class_files import ClassFile
from fmnist_xp.data.classes import name_classes
from fmnist_xp.data.dataset import CLASS_NAMES, Dataset
from fmnist_xp.data.published import is_published
from fmnist_xp.data.stored import (
    ARCHIVE,
    Found,
    Stored,
    archive_kind,
    in_archive,
    in_folder,
    is_sideways,
    open_file,
    shown,
)
from fmnist_xp.errors import DataError

LOG = logging.getLogger("fmnist_xp")
FORMATS = ("png", "idx")
"""What `export` writes."""
VERSION = 3
"""Version of the readers: raise it when they accept something else; it is part of the cache's keys."""
UNDERSTOOD = (
    "understood are the four IDX files (train-images-idx3-ubyte, …, also .gz), folders train/ and test/ of images, "
    "…train.csv and …test.csv with a label column, Keras's .npz, Kuzushiji-MNIST's four, and a zip, tar or tar.gz of "
    "such files"
)

Read = Callable[[], tuple[Dataset, Dataset]]


def read(path: Path) -> tuple[Dataset, Dataset]:
    """Read (train, test) from a folder, an archive, or one of the files of a set.

    See `idx`, `csv_files`, `npz` and `images` for the formats. In a folder, files may also be one level down, or in
    `raw` below that; the nearest set wins. A folder with one archive and no set means the archive; one file of a set
    means the set. DataError, naming the file, for several sets in one place and for whatever is wrong.

    The published images of Fashion-MNIST have `CLASS_NAMES`. Other classes have the names in a file beside the data,
    see `class_files`, else those of the folders, see `classes.of_folders`, else their labels, see `name_classes`.

    Images in plain IDX files are mapped, see `mapped`: nothing is decoded, hashed or cached, and the files must stay
    as they are for as long as the data set is used. Of all other files the decoded arrays are cached under the
    SHA-256 of the files' bytes, so that the cache never changes what is accepted; a folder of images is cached under
    its path, for as long as it has the same `images.Folder.fingerprint`.
    """
    try:
        if path.is_dir():
            return _read_folder(path)
        open_file(path)[0].close()
        siblings = in_folder(path.parent, below=False)
        for found in _sets(siblings):
            if any(file.path == path for file in found.files):
                return _read_set(found, path.parent, siblings)
        return _read_archive(path)
    except OSError as error:
        raise DataError(f"{shown(str(path))}: cannot be read ({error.strerror or error})") from error


def export(train: Dataset, test: Dataset, folder: Path, format: str) -> None:
    """Write a data set to `folder`, which must be empty or missing, in the format "png" or "idx".

    "png": the notebook's layout, `train/<label>/NNNN.png` and `test/<label>/NNNN.png`, where class k's
    NNNN.png is the NNNN-th image labelled k. "idx": the four gzip files, with the same bytes every time. With either
    comes `classes.txt`, the class names.

    A new folder appears complete or not at all. An existing one, which may be the current folder, a link to a folder
    or a mount point, stays the same folder: everything is written to a hidden folder inside it and then moved up, in
    two or four moves, which are undone if one of them fails. Only a process killed between two moves leaves a part.
    DataError if the folder is not empty or cannot be written, for another format, and for "png" where a class has
    no image, since such a folder could not be read.
    """
    if format not in FORMATS:
        raise DataError(f"format {format!r}: not known; choose one of {', '.join(FORMATS)}")
    try:
        target = Path(folder).resolve()  # a link stays a link
        there = target.exists()
        # The root of a file system, such as a mount point, has lost+found from the start.
        if there and (not target.is_dir() or any(entry.name != "lost+found" for entry in target.iterdir())):
            raise DataError(f"{folder}: already there and not an empty folder; choose another")
        target.parent.mkdir(parents=True, exist_ok=True)
        place = target if there else target.parent
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=place) as temporary:
            # A subfolder, since the temporary folder itself is private to the user.
            made = Path(temporary) / (target.name or "export")
            made.mkdir()
            write = images.write if format == "png" else idx.write
            names = max(train.class_names, test.class_names, key=len)  # numbers, of one made by hand, may be fewer
            for split, dataset in (("train", train), ("test", test)):
                write(dataset.renamed(dataset.name, names), split, made)
            (made / class_files.NAMES).write_text("".join(f"{name}\n" for name in names), "utf-8")
            if there:
                _move_up(made, target)
            else:
                made.rename(target)
    except (OSError, RuntimeError) as error:  # RuntimeError: circular links, up to Python 3.12
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{folder}: cannot be written ({reason})") from error


def _move_up(made: Path, folder: Path) -> None:
    moved: list[Path] = []
    try:
        for entry in sorted(made.iterdir()):
            moved.append(entry.rename(folder / entry.name))
    except OSError:
        for entry in moved:
            entry.rename(made / entry.name)
        raise


def _read_folder(path: Path) -> tuple[Dataset, Dataset]:
    files = in_folder(path)
    sets = _sets(files)
    pictures = images.is_folder_of_images(path)
    found = _nearest(sets, path, pictures)
    if found:
        return _read_set(found, path, files)
    if pictures:
        source = f"images in {path}"
        folder = images.Folder(path)
        key = f"images {VERSION} {path.resolve()}"
        splits = cached(key, source, lambda: _named(*folder.read(source)), folder.fingerprint)
        return _classed(splits, class_files.find(files, folder.top))
    if sets:
        raise DataError(f"{sets[0].problem}")
    archives = [file for file in files if not file.folder and ARCHIVE.search(file.name)]
    if len(archives) == 1:
        return _read_archive(archives[0].path)
    if archives:
        raise _several(path, [shown(file.name) for file in archives], "give one of them")
    raise _nothing(str(path), files)


def _read_archive(path: Path) -> tuple[Dataset, Dataset]:
    kind = archive_kind(path)
    if not kind:
        raise DataError(f"{shown(str(path))}: neither a zip nor a tar; {UNDERSTOOD}")
    # The members are listed and checked before the whole file is hashed.
    with in_archive(path) as files:
        sets = _sets(files)
        if found := _nearest(sets, path):
            return _read_set(found, path, files)
        if sets:
            raise DataError(f"{sets[0].problem}")
        if kind == "zip" and any("/" in file.name for file in files):
            source = f"zip of images {path}"
            splits = _by_content("archive", [path], source, _watched([path], lambda: images.read_zip(path, source)))
            top = images.top_of(file.name for file in files)
            return _classed(splits, class_files.find(files, top) or class_files.beside(path))
        raise _nothing(str(path), files)


def _read_set(found: Found, path: Path, files: list[Stored]) -> tuple[Dataset, Dataset]:
    """Return what `found` holds, which lies among `files` in `path`: a folder or an archive."""
    if found.problem:
        raise DataError(found.problem)
    names = class_files.find(files, found.files[0].folder, found.start)
    if names is None and not path.is_dir():
        names = class_files.beside(path)
    # Headers and sizes are checked before the whole files are hashed.
    found.form.check(found.files)
    source = f"{found.form.name} in {path}"
    form = found.form.name if path.is_dir() else "archive"
    paths = list(dict.fromkeys(file.path for file in found.files))  # all members have the path of their archive
    read = _watched(paths, lambda: found.form.read(found.files, source))
    if is_sideways(found.files[0]):
        form += ", turned"
        LOG.info("%s: EMNIST's images, published with rows and columns swapped, are turned upright", source)
    return _classed(read() if found.form.in_place(found.files) else _by_content(form, paths, source, read), names)


def _classed(splits: tuple[Dataset, Dataset], names: ClassFile | None) -> tuple[Dataset, Dataset]:
    """Return the splits with the class names of a file, or with numbers for such as have none."""
    if names is None or splits[0].name == "fashion-mnist":
        return name_classes(*splits)
    return name_classes(*splits, names.names, names.first, f"in {names.where}")


def _sets(files: list[Stored]) -> list[Found]:
    return [found for form in (idx.FORM, csv_files.FORM, npz.FORM, npz.FORM_APART) for found in form.find(files)]


def _nearest(sets: list[Found], path: Path, pictures: bool = False) -> Found | None:
    """Return the complete set with the fewest folders above it; DataError for several, or one beside `pictures`."""
    whole = [found for found in sets if not found.problem]
    nearest = [found for found in whole if found.depth == min(other.depth for other in whole)]
    if len(nearest) + pictures > 1:
        # Names alone prove little: a train.csv may hold something else.
        good = [found for found in nearest if _holds(found.form.check, found.files)]
        titles = [found.title for found in good]
        if pictures and _holds(images.Folder, path):
            titles.append("images in train/ and test/")
        if len(titles) > 1:
            way_out = "give one of the files" if path.is_dir() else "unpack it and give one of the files"
            raise _several(path, titles, way_out)
        nearest = good or ([] if pictures else nearest)
    return nearest[0] if nearest else None


def _holds(check: Callable[..., object], *what: object) -> bool:
    try:
        check(*what)
    except DataError:
        return False
    return True


def _several(path: Path, titles: list[str], way_out: str) -> DataError:
    more = f" and {len(titles) - 3} more" if titles[3:] else ""
    return DataError(f"{shown(str(path))}: several data sets found ({'; '.join(titles[:3])}{more}); {way_out}")


def _nothing(where: str, files: list[Stored]) -> DataError:
    names = ", ".join(shown(file.name[:100]) for file in files[:3]) or "no file"
    more = f" and {len(files) - 3} more" if files[3:] else ""
    return DataError(f"{shown(where)}: no data set found among its files ({names}{more}); {UNDERSTOOD}")


def _by_content(form: str, paths: list[Path], source: str, read: Read) -> tuple[Dataset, Dataset]:
    """Return what `read` returns, or what is cached for files with the same bytes."""
    return cached(f"{form} {VERSION} {_sha256(paths)}", source, read)


def _watched(paths: list[Path], read: Read) -> Read:
    """Return `read` with the splits named; it raises DataError if a file is no longer as it is now."""
    before = _states(paths)

    def watched() -> tuple[Dataset, Dataset]:
        splits = read()
        if _states(paths) != before:  # else the new content would be cached under the old checksum
            raise DataError(f"{shown(str(paths[0]))}: changed while it was read; try again when it is written")
        return _named(*splits)

    return watched


def _states(paths: Iterable[Path]) -> list[tuple[int, int, int]]:
    return [(found.st_ino, found.st_size, found.st_mtime_ns) for found in map(os.stat, paths)]


def _named(train: Dataset, test: Dataset) -> tuple[Dataset, Dataset]:
    """Return the splits, named "fashion-mnist" where they are the published ones."""
    if not is_published(train, test):
        return train, test
    return train.renamed("fashion-mnist", CLASS_NAMES), test.renamed("fashion-mnist", CLASS_NAMES)


def _sha256(files: Iterable[Path]) -> str:
    """Return the SHA-256 of the files' own SHA-256 digests."""
    digest = hashlib.sha256()
    for path in files:
        with open_file(path)[0] as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())  # type: ignore[arg-type]
    return digest.hexdigest()
