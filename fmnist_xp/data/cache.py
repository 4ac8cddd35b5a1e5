"""The user's cache folder, and in it each data set decoded once, so that later starts skip the decoding."""

import hashlib
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

LOG = logging.getLogger("fmnist_xp")
SPLITS = ("train", "test")
NO_FOLDER = "its folder is unknown without pooch and a home: pip install pooch, or set FMNIST_XP_CACHE"
"""Why there is no cache where `cache_folder` returns None, and what to do."""


SIZE = 1000
"""Megabytes that the cache may take, where `$FMNIST_XP_CACHE_SIZE` does not say it; a decoded data set takes 55."""
LITTER_AGE = 3600
"""Seconds after which a temporary file is one that a killed process left: writing takes seconds."""
FETCHED = "fashion-mnist"
"""Folder in the cache of the files as they were fetched."""
_DECODED = re.compile(r"decoded-[0-9a-f]{32}\.safetensors")


@dataclass(frozen=True)
class CacheFile:
    """A file of the cache: `size` in bytes, when it was last `used` (seconds since 1970), what it is and of what."""

    path: Path
    size: int
    used: float
    kind: str
    """ "decoded data set", "file as fetched" or "unfinished"."""
    source: str


def cache_folder() -> Path | None:
    """Return `$FMNIST_XP_CACHE`, or the platform's folder for this program's cache; it need not exist.

    None where neither is known, see `NO_FOLDER`. DataError where `$FMNIST_XP_CACHE` names the home of nobody.
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
    except (ImportError, RuntimeError):  # the second for a user without a home,
        return None
    return folder if folder.is_absolute() else None  # whose folder is "~/.cache" in older versions


def cache_size() -> int:
    """Return the bytes that the cache may take: `$FMNIST_XP_CACHE_SIZE` in megabytes, or `SIZE`."""
    chosen = os.environ.get("FMNIST_XP_CACHE_SIZE") or str(SIZE)
    if not (chosen.isascii() and chosen.isdecimal()):
        raise DataError(f"FMNIST_XP_CACHE_SIZE={chosen}: not a whole number of megabytes, such as {SIZE}")
    return int(chosen) * 1_000_000


def cache_files() -> list[CacheFile]:
    """Return what is ours in the cache, least recently used first; other files there are not.

    DataError where the folder cannot be read.
    """
    folder = cache_folder()
    return sorted(_ours(folder), key=lambda file: file.used) if folder else []


def clear_cache() -> list[CacheFile]:
    """Remove what is ours from the cache, and return it; what another process is writing now is left.

    DataError where a file cannot be removed.
    """
    removed = [file for file in cache_files() if file.kind != "unfinished" or _is_litter(file)]
    for file in removed:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{file.path}: cannot be removed ({error.strerror or error})") from error
    if folder := cache_folder():
        with suppress(OSError):  # not empty, or not there
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
            kind = source = ""
            # In this folder `replacing` writes files of these two kinds alone.
            made = TEMPORARY.fullmatch(path.name) and path.name[1:].rpartition("-")[0] + path.suffix
            name = made or path.name
            if place == folder and _DECODED.fullmatch(name):
                kind, source = "decoded data set", "" if made else _source(path)
            elif place != folder and name in published.FILES:
                kind, source = "file as fetched", "Fashion-MNIST"
            if kind:
                try:
                    stat = path.lstat()
                except FileNotFoundError:  # another process was here
                    continue
                yield CacheFile(path, stat.st_size, stat.st_mtime, "unfinished" if made else kind, source)


def _source(path: Path) -> str:
    try:
        if not path.is_file():  # a link to a pipe would be waited for
            raise OSError
        with safe_open(path, framework="np") as file:
            return str((file.metadata() or {})["source"])
    except (SafetensorError, OSError, LookupError, ValueError):
        return "unknown (damaged, or of another version)"


def _is_litter(file: CacheFile) -> bool:
    return file.kind == "unfinished" and time.time() - file.used > LITTER_AGE


def _tidy(most: int) -> None:
    """Remove litter, and then the data sets used least recently until the cache has at most `most` bytes."""
    files = cache_files()
    total = sum(file.size for file in files)
    for file in sorted(files, key=lambda file: file.kind != "unfinished"):
        if _is_litter(file) or (total > most and file.kind == "decoded data set"):
            with suppress(OSError):  # it has gone, or, on Windows, is being read
                file.path.unlink()
                total -= file.size


def cached(
    key: str, source: str, build: Callable[[], tuple[Dataset, Dataset]], state: Callable[[], str] = str
) -> tuple[Dataset, Dataset]:
    """Return what `build` returned when it was last called for `key`, or call it and keep its (train, test).

    Either `key` names the content, or it names the place and `state` returns what changes with the content: it
    is called before `build` if something is kept for `key`, else after it. `key` is hashed into the file's name.
    `source` is put into the data sets that come from the cache. A cached file that is damaged, or does not have
    the checksum it carries, is built again; no folder, or one that cannot be written, costs a warning and the
    next start's time, nothing else. After each writing the cache is brought down to `cache_size`; a data set larger
    than that is not written.
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
            with suppress(OSError):  # a cache that can only be read
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
        with suppress(DataError):  # a folder in it that cannot be read is not this start's matter
            _tidy(most)
    return splits


def _load(path: Path, source: str, state: str) -> tuple[Dataset, Dataset]:
    with safe_open(path, framework="np") as file:
        about: dict[str, str] = file.metadata()
        if about["state"] != state:
            raise ValueError("made from something that has changed since")
        train, test = (
            Dataset(file.get_tensor(f"{split}_images"), file.get_tensor(f"{split}_labels"), about["name"], source)
            for split in SPLITS
        )
    if _checksum((train, test)) != about["checksum"]:
        raise ValueError("it does not have the checksum it was written with")
    return train, test


def _save(path: Path, splits: tuple[Dataset, Dataset], state: str) -> None:
    about = {"name": splits[0].name, "state": state, "source": splits[0].source, "checksum": _checksum(splits)}
    tensors = {}
    for split, dataset in zip(SPLITS, splits, strict=True):
        tensors[f"{split}_images"] = np.ascontiguousarray(dataset.images)
        tensors[f"{split}_labels"] = np.ascontiguousarray(dataset.labels)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, about)
        except SafetensorError as error:  # a full disk arrives as one of these
            raise OSError(str(error)) from error


def _checksum(splits: tuple[Dataset, Dataset]) -> str:
    """Return the SHA-256 of all that a user gets: names, dtypes, shapes and values."""
    what = [
        (d.name, d.images.dtype.str, d.images.shape, d.labels.dtype.str, d.labels.shape, d.sha256) for d in splits
    ]
    return hashlib.sha256(repr(what).encode()).hexdigest()
