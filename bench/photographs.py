"""How often a run is right about photographs made of test images, beside those images as they are."""

import math
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
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
from fmnist_xp.errors import DataError
from fmnist_xp.evaluation import load_network, own_images
from fmnist_xp.machine import usable_cores
from fmnist_xp.model import Sequential
from fmnist_xp.prediction import SURE
from fmnist_xp.runs import load_run
from fmnist_xp.runs.folder import MODEL_BEST

ROWS = 1_000
UNTOUCHED = "untouched"
Seen = tuple[NDArray[np.uint8], bool, float]
"""An image (28, 28), whether its photograph is doubtful, and how far the garment found is the true one; or NaN."""


def run(options: Options, folder: Path) -> Path:
    """Predict `ROWS` test images, untouched and on every ground, and return the JSON file's path."""
    trained = load_run(folder)
    best = (folder / MODEL_BEST).exists()
    backend = get_backend("cpu")
    network = load_network(trained, backend, best)
    test = own_images(trained, None if options.data == "auto" else options.data)[1]
    first = options.first_row or 0
    rows = range(first, min(first + (20 if options.quick else ROWS), len(test)))
    images, labels = test.images[rows.start : rows.stop], test.labels[rows.start : rows.stop]
    with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
        prepared = {
            ground: list(pool.map(partial(_prepare, ground), rows, images, chunksize=25))
            for ground in (UNTOUCHED, *GROUNDS)
        }
    grounds = {ground: _judged(network, seen, labels) for ground, seen in prepared.items()}
    settings = {
        "data": about(test),
        "run": trained.title,
        "best_epoch": trained.history.best_epoch if best else None,
        "test_rows": [rows.start, rows.stop],
        "sure": SURE,
    }
    return save("photographs", options, backend, settings, {"grounds": grounds})


def _prepare(ground: str, row: int, image: NDArray[np.uint8]) -> Seen | None:
    """Return what a network sees of one image on a ground, by way of a file; None where that is refused."""
    cv2.setNumThreads(1)  # each process has a core
    cover = None
    if ground != UNTOUCHED:
        image, cover = make_scene(image, ground, np.random.default_rng([row, [*GROUNDS].index(ground)]))
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "photograph.png"
        cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        try:
            photograph = prepare_photograph(path)
        except DataError:
            return None
    overlap = math.nan
    if cover is not None:
        found = cv2.resize(photograph.garment.astype(np.uint8), cover.shape[::-1]) > 0
        overlap = float((found & cover).sum() / (found | cover).sum())
    return photograph.image, bool(photograph.doubts), overlap


def _judged(network: Sequential, prepared: Sequence[Seen | None], labels: NDArray[np.uint8]) -> dict[str, Any]:
    """Return how often the network is right about images of these labels; what was refused counts as wrong."""
    there = np.array([one is not None for one in prepared])
    images, doubtful, overlaps = zip(*filter(None, prepared), strict=True)
    probabilities = network.predict_proba(Pixels(np.stack(images)))
    right = probabilities.argmax(axis=1) == labels[there]
    sure = (probabilities.max(axis=1) >= SURE) & ~np.array(doubtful)
    overlap = float(np.median(overlaps))
    return {
        "accuracy": float(right.sum() / len(labels)),
        "refused": int((~there).sum()),
        "doubtful": float(np.mean(doubtful)),
        "without_warning": float(sure.sum() / len(labels)),
        "accuracy_without_warning": float(right[sure].mean()) if sure.any() else None,
        "overlap": None if math.isnan(overlap) else overlap,
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
