"""Finding the data set: a path, the user's cache, the network, or synthetic images."""

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fmnist_xp.data import download, formats
from fmnist_xp.data.cache import cached
from fmnist_xp.data.classes import given, name_classes
from fmnist_xp.data.dataset import Dataset
from fmnist_xp.data.published import FILES
from fmnist_xp.data.stored import shown
from fmnist_xp.data.synthetic import VERSION, make_synthetic
from fmnist_xp.errors import DataError

LOG = logging.getLogger("fmnist_xp")


def load_fashion_mnist(
    source: str | Path = "auto",
    *,
    url: str | None = None,
    allow_synthetic: bool = True,
    classes: str | Sequence[str] | None = None,
) -> tuple[Dataset, Dataset]:
    """Return (train, test).

    `source` is one of

    - a path: a folder with the four IDX files (plain or gzip), a folder of images laid out as
      `train/<class>/*.png` and `test/<class>/*.png`, a pair of CSV files with the label first, Keras's .npz, a zip or
      tar of such files, or one file of such a set, see `formats.read`;
    - "synthetic": 60,000 and 10,000 synthetic images, see `make_synthetic`;
    - "auto": the path in `$FMNIST_XP_DATA` if that is set, else the files fetched earlier, else files fetched
      now from `url` (see `fetch`). Where no server answers, or requests is not installed, one warning is logged and
      the synthetic set returned; its `name` says so.

    Whatever other data of 28 x 28 pixels the path leads to come with classes of their own, up to 256, which a file
    beside them or their folders name, see `formats.read`. `classes` are other names, by label: a sequence, or a text
    as `classes.given` takes it, such as "fashion" for `CLASS_NAMES`.

    With `allow_synthetic=False`, DataError if synthetic images would be returned. Decoded arrays are kept in the
    cache, see `cached`. Images in plain IDX files are not: they are mapped, take no memory of their own and are
    read-only; such a file must not be cut or overwritten while they are used, which would change them or end the
    process. DataError, naming the file, for whatever is missing, damaged or not what it claims to be.
    """
    names = None if classes is None else given(classes)  # before anything is read or downloaded
    splits = _load(source, url, allow_synthetic)
    return splits if names is None else name_classes(*splits, names)


def _load(source: str | Path, url: str | None, allow_synthetic: bool) -> tuple[Dataset, Dataset]:
    if str(source) == "synthetic":
        if not allow_synthetic:
            raise DataError("synthetic: drawn images are ruled out (--no-synthetic); name the folder of real ones")
        return cached(f"synthetic {VERSION}", "drawn by make_synthetic", make_synthetic)
    if str(source) == "auto":
        return _auto(url, allow_synthetic)
    return formats.read(_existing(source))


def _existing(source: str | Path) -> Path:
    """Return the path that `source` names; DataError if nothing is there."""
    if not str(source):
        raise DataError("the data source is empty; give a path, 'auto' or 'synthetic'")
    try:
        path = Path(source).expanduser()
        path.stat()
    except (OSError, ValueError, RuntimeError) as error:  # ValueError: a NUL in it; RuntimeError: an unknown home
        reason = "" if isinstance(error, FileNotFoundError) else f" ({getattr(error, 'strerror', None) or error})"
        raise DataError(
            f"{shown(str(source))}: no such folder or file{reason}; give a path, 'auto' or 'synthetic'"
        ) from error
    return path


def _auto(url: str | None, allow_synthetic: bool) -> tuple[Dataset, Dataset]:
    chosen = os.environ.get("FMNIST_XP_DATA")
    if chosen and chosen != "auto":
        try:
            return _load(chosen, None, allow_synthetic)
        except DataError as error:
            raise DataError(f"FMNIST_XP_DATA={chosen}: {error}") from error
    folder = download.fetched_folder()
    fetched = folder and all(os.path.isfile(folder / name) for name in FILES)  # noqa: PTH113 (Path's own may raise)
    if folder and fetched:
        try:
            if (splits := formats.read(folder))[0].name == "fashion-mnist":
                return splits
        except DataError as error:
            LOG.info("%s; fetching it again", error)
    try:
        if folder and _is_writable(folder):
            return formats.read(download.fetch(url))
        if folder:  # without a cache folder, `cached` warns
            LOG.warning("%s: cannot be written; the data set is fetched at each start", folder)
        with tempfile.TemporaryDirectory() as temporary:
            return formats.read(download.fetch(url, folder=Path(temporary)))
    except download.OutOfReachError as error:
        if fetched:
            raise DataError(f"{folder}: its files are damaged, and cannot be fetched again: {error}") from error
        if not allow_synthetic:
            raise DataError(f"Fashion-MNIST cannot be fetched ({error}), and drawn images are ruled out") from error
        LOG.warning("Fashion-MNIST cannot be fetched (%s); using synthetic images instead", error)
        return _load("synthetic", None, allow_synthetic)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
