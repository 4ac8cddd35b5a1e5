"""The user's cache folder, which keeps data sets decoded, so that later starts skip the decoding.

Plain IDX files need none: they are used as they are, see `mapped`.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fmnist_xp.data import published
from fmnist_xp.data.dataset import Dataset
from fmnist_xp.errors import DataError
from fmnist_xp.files import TEMPORARY, replacing
from fmnist_xp.plain_json import parse_json

LOG = logging.getLogger("fmnist_xp")
SPLITS = ("train", "test")
NO_FOLDER = "its folder is unknown without pooch and a home: pip install pooch, or set FMNIST_XP_CACHE"
"""Why `cache_folder` may return None, and what to do about it."""
SIZE = 1000
"""Default limit of the cache in megabytes; `$FMNIST_XP_CACHE_SIZE` overrides it. A decoded data set takes 55."""
LITTER_AGE = 3600
"""Age in seconds above which a temporary file counts as left over from a killed process: writing takes seconds."""
FETCHED = "fashion-mnist"
"""Subfolder of the cache for the files as they were fetched."""
_DECODED = re.compile(r"decoded-[0-9a-f]{32}\.safetensors")


@dataclass(frozen=True)
class CacheFile:
    """A file in the cache: `size` in bytes, time it was last `used` (seconds since 1970), `kind` and `source`."""

    path: Path
    size: int
    used: float
    kind: str
    """ "decoded data set", "file as fetched" or "unfinished"."""
    source: str


def cache_folder() -> Path | None:
    """Return `$FMNIST_XP_CACHE`, or the platform's folder for this program's cache; it need not exist.

    None if neither is known, see `NO_FOLDER`. DataError if `$FMNIST_XP_CACHE` names an unknown user's home.
    """
    chosen = os.environ.get("FMNIST_XP_CACHE")
    if chosen:
        try:
            return Path(chosen).expanduser()
        except RuntimeError as error:
            raise DataError(f"FMNIST_XP_CACHE={chosen}: there is no such home; set it to another folder") from error
    try:
        import pooch

        folder = Path(pooch.os_cache("fmnist-xp"))
    except (ImportError, RuntimeError):  # RuntimeError: the user has no home
        return None
    return folder if folder.is_absolute() else None  # older versions return "~/.cache" for a user without a home


def cache_size() -> int:
    """Return the limit in bytes: `$FMNIST_XP_CACHE_SIZE` megabytes, or `SIZE`; DataError if that is not a number."""
    chosen = os.environ.get("FMNIST_XP_CACHE_SIZE") or str(SIZE)
    if not (chosen.isascii() and chosen.isdecimal()):
        raise DataError(f"FMNIST_XP_CACHE_SIZE={chosen}: not a whole number of megabytes, such as {SIZE}")
    return int(chosen) * 1_000_000


def cache_files() -> list[CacheFile]:
    """Return this package's own files in the cache, least recently used first; DataError if it cannot be read."""
    folder = cache_folder()
    return sorted(_ours(folder), key=lambda file: file.used) if folder else []


def clear_cache() -> list[CacheFile]:
    """Remove this package's own files from the cache and return them, except any that another process is writing.

    DataError if a file cannot be removed.
    """
    removed = [file for file in cache_files() if file.kind != "unfinished" or _is_litter(file)]
    for file in removed:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{file.path}: cannot be removed ({error.strerror or error})") from error
    if folder := cache_folder():
        with suppress(OSError):  # not empty, or missing
            (folder / FETCHED).rmdir()
    return removed


def _ours(folder: Path) -> Iterator[CacheFile]:
    for place in (folder, folder / FETCHED):
        try:
            paths = [path for path in place.iterdir() if path.is_symlink() or path.is_file()]
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{place}: cannot be read ({error.strerror or error}); set FMNIST_XP_CACHE") from error
        for path in paths:
            # For a temporary file of `replacing`, the name that it would have got.
            unfinished = TEMPORARY.fullmatch(path.name) and path.name[1:].rpartition("-")[0] + path.suffix
            name = unfinished or path.name
            if place == folder and _DECODED.fullmatch(name):
                kind, source = "decoded data set", "" if unfinished else _source(path)
            elif place != folder and name in published.FILES:
                kind, source = "file as fetched", "Fashion-MNIST"
            else:
                continue
            with suppress(FileNotFoundError):  # another process has removed it
                stat = path.lstat()
                yield CacheFile(path, stat.st_size, stat.st_mtime, "unfinished" if unfinished else kind, source)


def _source(path: Path) -> str:
    try:
        if not path.is_file():  # opening a link to a pipe would block
            raise OSError
        with safe_open(path, framework="np") as file:
            return str((file.metadata() or {})["source"])
    except (SafetensorError, OSError, LookupError, ValueError):
        return "unknown (damaged, or of another version)"


def _is_litter(file: CacheFile) -> bool:
    return file.kind == "unfinished" and time.time() - file.used > LITTER_AGE


def _tidy(most: int) -> None:
    """Remove litter, then the least recently used data sets, until the cache holds at most `most` bytes."""
    files = cache_files()
    total = sum(file.size for file in files)
    for file in sorted(files, key=lambda file: file.kind != "unfinished"):
        if _is_litter(file) or (total > most and file.kind == "decoded data set"):
            with suppress(OSError):  # it is gone, or, on Windows, being read
                file.path.unlink()
                total -= file.size


def cached(
    key: str, source: str, build: Callable[[], tuple[Dataset, Dataset]], state: Callable[[], str] = str
) -> tuple[Dataset, Dataset]:
    """Return the (train, test) cached for `key`, or those of `build`, which are then cached.

    Either `key` identifies the content, or it identifies the place and `state` returns a value that changes with
    the content; `state` is called before `build` if there is an entry for `key`, else after it. `key` is hashed into
    the file's name. `source` becomes the source of data sets read from the cache. An entry that is damaged, or fails
    its checksum, is rebuilt. Without a writable cache folder, a warning is logged and the set is decoded each time.
    After each write the cache is trimmed to `cache_size`; a data set larger than that is not written.
    """
    folder, most = cache_folder(), cache_size()
    if folder is None:
        LOG.warning("no cache (%s); the data set is decoded at each start", NO_FOLDER)
        return build()
    path = folder / f"decoded-{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.safetensors"
    if os.path.isfile(path):  # noqa: PTH113 (Path's own raises where the folder may not be entered)
        now = state()
        try:
            splits = _load(path, source, now)
        except (SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            LOG.info("%s: not used (%s); building it again", path, error)
        else:
            with suppress(OSError):  # a read-only cache
                os.utime(path)
            return splits
    splits = build()
    if sum(split.images.nbytes for split in splits) > most:
        LOG.info("%s: not written, FMNIST_XP_CACHE_SIZE is less than it takes", path)
        return splits
    try:
        _save(path, splits, state())
    except OSError as error:
        LOG.warning("%s: cannot be written (%s); the data set is decoded at each start", path, error)
    else:
        with suppress(DataError):  # an unreadable folder in the cache must not stop this start
            _tidy(most)
    return splits


def _load(path: Path, source: str, state: str) -> tuple[Dataset, Dataset]:
    with safe_open(path, framework="np") as file:
        about: dict[str, str] = file.metadata()
        if about["state"] != state:
            raise ValueError("made from something that has changed since")
        arrays = ((file.get_tensor(f"{split}_images"), file.get_tensor(f"{split}_labels")) for split in SPLITS)
        train, test = (
            Dataset(images, labels, about["name"], source, names)
            for (images, labels), names in zip(arrays, parse_json(about["class_names"]), strict=True)
        )
    if _checksum((train, test)) != about["checksum"]:
        raise ValueError("it does not have the checksum it was written with")
    return train, test


def _save(path: Path, splits: tuple[Dataset, Dataset], state: str) -> None:
    about = {"name": splits[0].name, "state": state, "source": splits[0].source, "checksum": _checksum(splits)}
    about["class_names"] = json.dumps([split.class_names for split in splits])
    tensors = {}
    for split, dataset in zip(SPLITS, splits, strict=True):
        tensors[f"{split}_images"] = np.ascontiguousarray(dataset.images)
        tensors[f"{split}_labels"] = np.ascontiguousarray(dataset.labels)
    if path.is_fifo():  # nobody's but ours: else `replacing` would refuse
        path.unlink()
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, about)
        except SafetensorError as error:  # raised for a full disk, for example
            raise OSError(str(error)) from error


def _checksum(splits: tuple[Dataset, Dataset]) -> str:
    """Return the SHA-256 of all that the caller gets: names, dtypes, shapes and values."""
    what = [
        (d.name, d.class_names, d.images.dtype.str, d.images.shape, d.labels.dtype.str, d.labels.shape, d.sha256)
        for d in splits
    ]
    return hashlib.sha256(repr(what).encode()).hexdigest()
