"""How often a run is right about photographs made of test images, beside those images as they are."""

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bench import markdown
from bench.grounds import GROUNDS, make_scene
from bench.markdown import Record
from bench.results import Options, about, save
from fmnist_xp.backend import get_backend
from fmnist_xp.data import Pixels, prepare_photograph
from fmnist_xp.data.opencv import on_threads
from fmnist_xp.errors import DataError
from fmnist_xp.evaluation import load_network, own_images
from fmnist_xp.model import Sequential
from fmnist_xp.prediction import SURE
from fmnist_xp.runs import load_run
from fmnist_xp.runs.folder import MODEL_BEST

ROWS = 1_000
UNTOUCHED = "untouched"


def run(options: Options, folder: Path) -> Path:
    """Predict `ROWS` test images, untouched and on every ground, and return the JSON file's path."""
    trained = load_run(folder)
    best = (folder / MODEL_BEST).exists()
    backend = get_backend("cpu")
    network = load_network(trained, backend, best)
    test = own_images(trained, None if options.data == "auto" else options.data)[1]
    first = options.first_row or 0
    rows = range(first, min(first + (20 if options.quick else ROWS), len(test)))
    grounds = {name: _measured(network, test.images, test.labels, rows, name) for name in (UNTOUCHED, *GROUNDS)}
    settings = {
        "data": about(test),
        "run": trained.title,
        "best_epoch": trained.history.best_epoch if best else None,
        "test_rows": [rows.start, rows.stop],
        "sure": SURE,
    }
    return save("photographs", options, backend, settings, {"grounds": grounds})


def _measured(
    network: Sequential, images: NDArray[np.uint8], labels: NDArray[np.uint8], rows: range, ground: str
) -> dict[str, Any]:
    """Return what comes of the images of these rows on one ground."""
    seen = np.zeros((len(rows), 28, 28), np.uint8)
    refused, doubtful = np.zeros((2, len(rows)), np.bool_)
    overlap = np.ones(len(rows))
    with tempfile.TemporaryDirectory() as temporary:

        def prepare(place: int) -> None:
            image, cover, path = images[rows[place]], None, Path(temporary) / f"{place}.png"
            if ground != UNTOUCHED:
                image, cover = make_scene(
                    image, ground, np.random.default_rng([rows[place], [*GROUNDS].index(ground)])
                )
            path.write_bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())
            try:
                photograph = prepare_photograph(path)
            except DataError:
                refused[place] = True
                return
            finally:
                path.unlink()
            seen[place], doubtful[place] = photograph.image, bool(photograph.doubts)
            if cover is not None:
                found = cv2.resize(photograph.garment.astype(np.uint8), cover.shape[::-1]) > 0
                overlap[place] = (found & cover).sum() / max(1, (found | cover).sum())

        on_threads(prepare, range(len(rows)))
    probabilities = network.predict_proba(Pixels(seen))
    right = (probabilities.argmax(axis=1) == labels[rows.start : rows.stop]) & ~refused
    sure = ~refused & ~doubtful & (probabilities.max(axis=1) >= SURE)
    return {
        "accuracy": float(right.mean()),
        "refused": int(refused.sum()),
        "not_plain": float(doubtful.mean()),
        "without_warning": float(sure.mean()),
        "accuracy_without_warning": float(right[sure].mean()) if sure.any() else None,
        "overlap": None if ground == UNTOUCHED else float(np.median(overlap[~refused])),
    }


def tables(record: Record) -> list[str]:
    """Return the table of a file of photographs."""
    found, settings = record["results"]["grounds"], record["settings"]
    rows = [
        [
            name,
            markdown.number(one["accuracy"], ".3f"),
            str(one["refused"]),
            markdown.number(one["overlap"], ".2f"),
            markdown.number(one["without_warning"], ".0%"),
            markdown.number(one["accuracy_without_warning"], ".3f"),
        ]
        for name, one in found.items()
    ]
    start, stop = settings["test_rows"]
    head = ["", "accuracy", "refused", "overlap", "without warning", "accuracy of these"]
    epoch = "" if settings["best_epoch"] is None else f", epoch {settings['best_epoch']}"
    return [
        markdown.table(head, rows),
        f"Test images {start:,} to {stop - 1:,}. Run: {settings['run']}{epoch}. Overlap: median of the intersection "
        "of the garment found and the true one, through their union.\n",
    ]
