"""Loading: image folder, zip, IDX files and the decoded cache, against the notebook's one-by-one loop."""

import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench import markdown
from bench.cold import make_cold
from bench.markdown import Record
from bench.measure import Summary, alternate, rounded, summarize
from bench.notebook import load_mnist_dataset
from bench.pictures import COLOURS, bars, explain, figure_with_axes
from bench.results import Options, about, save
from fmnist_xp.backend import get_backend
from fmnist_xp.data import Dataset, export, load_fashion_mnist

NOTEBOOK = "notebook's loop"
COLD = "cold: "
"""Prefix of the name of a side that reads with a cold disk cache."""
COLD_SIDES = (NOTEBOOK, "image folder, first time", "zip, first time")
CACHE = "FMNIST_XP_CACHE"
Arrays = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def run(options: Options) -> Path:
    """Write the data set out in every form, read each in turn, and return the path of the JSON file."""
    train, test = options.load()
    if options.quick:
        train, test = _head(train, 1_000), _head(test, 500)
    settings: dict[str, Any] = {
        "data": about(train) | {"test_rows": len(test)},
        "rounds": 1 if options.quick else 5,
        "disk_cache": "warm: every file was read once before",
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(train, test, folder / "images", "png")
        export(train, test, folder / "idx", "idx")
        _zip(folder / "images", folder / "images.zip")
        forms = {"image folder": folder / "images", "zip": folder / "images.zip", "IDX, gzip": folder / "idx"}
        _check(forms, folder, (train.images, train.labels))
        sides: dict[str, Callable[[], list[float]]] = {NOTEBOOK: partial(_timed, _loop_over, folder / "images")}
        for name, path in forms.items():
            sides[f"{name}, first time"] = partial(_timed_first, path)
            sides[f"{name}, from the cache"] = partial(_timed_again, path, folder / "cache")
        samples = alternate(sides, settings["rounds"])
        # After the warm sides: these would be cold too, and have done the imports by then.
        cool = partial(make_cold, folder, whole=not options.quick)
        settings["cold_disk_cache"] = cool()
        if settings["cold_disk_cache"]:
            cold = {COLD + name: partial(_after, cool, sides[name]) for name in COLD_SIDES}
            samples |= alternate(cold, settings["rounds"])
    readers = {name: summarize(seconds) for name, seconds in samples.items()}
    ratios = {name: rounded(_loop(readers, name) / reader["median"], 3) for name, reader in readers.items()}
    left_out = [COLD + name for name in COLD_SIDES if COLD + name not in readers]
    results = {"readers": readers, "times_faster_than_notebook": ratios, "left_out": left_out}
    return save("loading", options, get_backend("cpu"), settings, results)


def _loop(readers: Mapping[str, Summary], name: str) -> float:
    """Return the seconds of the notebook's loop with the disk cache as cold or warm as for the reader `name`."""
    return readers[COLD + NOTEBOOK if name.startswith(COLD) else NOTEBOOK]["median"]


def _after(prepare: Callable[[], Any], timed: Callable[[], list[float]]) -> list[float]:
    prepare()
    return timed()


def _timed(read: Callable[..., object], *arguments: object) -> list[float]:
    start = time.perf_counter()
    read(*arguments)
    return [time.perf_counter() - start]


def _loop_over(folder: Path) -> None:
    for split in ("train", "test"):
        load_mnist_dataset(split, str(folder))


def _timed_first(path: Path) -> list[float]:
    """Return the seconds of a first read, which writes the cache."""
    with tempfile.TemporaryDirectory() as empty, _cache_in(Path(empty)):
        return _timed(load_fashion_mnist, path)


def _timed_again(path: Path, cache: Path) -> list[float]:
    with _cache_in(cache):
        load_fashion_mnist(path)  # writes the cache in the first round
        return _timed(load_fashion_mnist, path)


@contextmanager
def _cache_in(folder: Path) -> Iterator[None]:
    before = os.environ.get(CACHE)
    os.environ[CACHE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[CACHE]
        else:
            os.environ[CACHE] = before


def _zip(folder: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))


def _head(dataset: Dataset, rows: int) -> Dataset:
    return Dataset(dataset.images[:rows], dataset.labels[:rows], dataset.name, dataset.source)


def _check(forms: dict[str, Path], folder: Path, expected: Arrays) -> None:
    """Raise `RuntimeError` where a reader, or the loop, returns other images than were written (in any order)."""
    wanted = _in_order(*expected)
    found = {NOTEBOOK: load_mnist_dataset("train", str(folder / "images"))}
    with _cache_in(folder / "check"):
        for name, path in forms.items():
            train, _ = load_fashion_mnist(path)
            found[name] = train.images, train.labels
    for name, arrays in found.items():
        if not np.array_equal(_in_order(*arrays), wanted):
            raise RuntimeError(f"{name}: read other images than were written")


def _in_order(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.void]:
    rows = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    return np.sort(np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel())


def draw(record: dict[str, Any]) -> Figure:
    """Return bars of the median seconds, warm and cold apart, labelled with the speedup over the loop."""
    readers, times = record["results"]["readers"], record["results"]["times_faster_than_notebook"]
    data = record["settings"]["data"]
    title = f"Reading {data['rows'] + data['test_rows']:,} images from disk"
    cold = [name for name in readers if name.startswith(COLD)]
    sides = [names for names in ([name for name in readers if name not in cold], cold) if names]
    figure, axes = figure_with_axes(1, len(sides), width=7 * len(sides), height=4, title=title, record=record)
    for ax, names in zip(axes, sides, strict=True):
        loops = [name.endswith(NOTEBOOK) for name in names]
        labels = [
            f"{readers[name]['median']:.3g} s" + ("" if loop else f" · {times[name]:.3g}× its speed")
            for name, loop in zip(names, loops, strict=True)
        ]
        colours = [COLOURS["other"] if loop else COLOURS["ours"] for loop in loops]
        bars(ax, names, [readers[name] for name in names], labels, colours)
    explain(figure)
    return figure


def tables(record: Record) -> list[str]:
    """Return the table of a loading file."""
    found = record["results"]
    rows = [
        [name, *markdown.spread(summary), f"{found['times_faster_than_notebook'][name]:.3g}"]
        for name, summary in found["readers"].items()
    ]
    data = record["settings"]["data"]
    cold = record["settings"].get("cold_disk_cache")
    notes = [
        f"{data['rows']:,} + {data['test_rows']:,} images. A first time ends when the decoded cache is written.",
        f"Disk cache {record['settings']['disk_cache']}.",
        f"Cold: {cold} before each sample; the ratio is to the loop as cold." if cold else "",
    ]
    parts = [
        markdown.table(["", "time", "min – max", "IQR", "times the notebook's speed"], rows),
        " ".join(filter(None, notes)) + "\n",
    ]
    if left_out := found.get("left_out"):
        parts.append(f"Left out, since the disk cache cannot be emptied here: {'; '.join(left_out)}.\n")
    return parts
