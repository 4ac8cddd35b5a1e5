"""The user's cache folder, and in it each data set decoded once, so that later starts skip the decoding."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fmnist_xp.data.dataset import Dataset
from fmnist_xp.files import replacing

LOG = logging.getLogger("fmnist_xp")
SPLITS = ("train", "test")
NO_FOLDER = "its folder is unknown without pooch and a home: pip install pooch, or set FMNIST_XP_CACHE"
"""Why there is no cache where `cache_folder` returns None, and what to do."""


def cache_folder() -> Path | None:
    """Return `$FMNIST_XP_CACHE`, or the platform's folder for this program's cache; it need not exist.

    None where neither is known, see `NO_FOLDER`.
    """
    chosen = os.environ.get("FMNIST_XP_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    try:
        import pooch

        folder = Path(pooch.os_cache("fmnist-xp"))
    except (ImportError, RuntimeError):  # the second for a user without a home,
        return None
    return folder if folder.is_absolute() else None  # whose folder is "~/.cache" in older versions


def cached(
    key: str, source: str, build: Callable[[], tuple[Dataset, Dataset]], state: Callable[[], str] = str
) -> tuple[Dataset, Dataset]:
    """Return what `build` returned when it was last called for `key`, or call it and keep its (train, test).

    Either `key` names the content, or it names the place and `state` returns what changes with the content: it
    is called before `build` if something is kept for `key`, else after it. `key` is hashed into the file's name.
    `source` is put into the data sets that come from the cache. A cached file that is damaged, or does not have
    the checksums it carries, is built again; no folder, or one that cannot be written, costs a warning and the
    next start's time, nothing else.
    """
    folder = cache_folder()
    if folder is None:
        LOG.warning("no cache (%s); the data set is decoded at each start", NO_FOLDER)
        return build()
    path = folder / f"decoded-{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.safetensors"
    if path.is_file():
        now = state()
        try:
            return _load(path, source, now)
        except (SafetensorError, OSError, LookupError, ValueError, TypeError) as error:
            LOG.info("%s: not used (%s); building it again", path, error)
    splits = build()
    try:
        _save(path, splits, state())
    except OSError as error:
        LOG.warning("%s: cannot be written (%s); the data set is decoded at each start", path, error)
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
    for split, dataset in zip(SPLITS, (train, test), strict=True):
        if dataset.sha256 != about[f"{split}_sha256"]:
            raise ValueError(f"the {split} arrays do not have the checksum they were written with")
    return train, test


def _save(path: Path, splits: tuple[Dataset, Dataset], state: str) -> None:
    about = {"name": splits[0].name, "state": state}
    tensors = {}
    for split, dataset in zip(SPLITS, splits, strict=True):
        about[f"{split}_sha256"] = dataset.sha256
        tensors[f"{split}_images"] = np.ascontiguousarray(dataset.images)
        tensors[f"{split}_labels"] = np.ascontiguousarray(dataset.labels)
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, about)
        except SafetensorError as error:  # a full disk arrives as one of these
            raise OSError(str(error)) from error
