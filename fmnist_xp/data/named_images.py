"""The image files that arguments of a command name: files, folders and patterns."""

from collections.abc import Iterable, Iterator
from glob import glob, has_magic
from pathlib import Path

from fmnist_xp.errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


def named_images(names: Iterable[Path]) -> Iterator[tuple[Path, DataError | None]]:
    """Yield the image files that `names` stand for, each once, or a name that stands for none and why.

    A folder stands for the files in it (not those in its folders) with one of `SUFFIXES`, in the order of their
    names; a pattern such as ``shoes/*.jpg`` for the files that match it (``**`` for folders in folders), in the same
    order. What exists is no pattern, whatever brackets and stars its name has. Any other name stands for itself.
    """
    given: set[Path] = set()
    for name in names:
        try:
            found = _behind(name)
        except DataError as error:
            yield name, error
            continue
        for path in found:
            if path not in given:
                given.add(path)
                yield path, None


def _behind(name: Path) -> list[Path]:
    """Return the files that one name stands for; `DataError` where there are none."""
    try:
        if name.is_dir():
            found = sorted(path for path in name.iterdir() if path.suffix.lower() in SUFFIXES and not path.is_dir())
            if not found:
                raise DataError(f"{name}: a folder without images: no file ends in {', '.join(sorted(SUFFIXES))}")
            return found
        if name.exists() or not has_magic(str(name)):
            return [name]
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from error
    matching = map(Path, glob(str(name), recursive=True))  # noqa: PTH207 (Path's takes no absolute pattern)
    found = sorted(path for path in matching if not path.is_dir())
    if not found:
        raise DataError(f"{name}: no file matches this pattern")
    return found
