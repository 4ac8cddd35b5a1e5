"""matplotlib for pictures written to files, without a display and without pyplot, whose state stays the user's."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmnist_xp.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(size: tuple[float, float], dpi: int) -> Figure:
    """Return an empty figure of `size` in inches, with `dpi` pixels per inch."""
    _import_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=size, dpi=dpi, layout="constrained")


def drawable(values: ArrayLike) -> NDArray[np.float64]:
    """Return `values` as float64 of the same shape, with those beyond ±1e300 infinite, which leaves a gap in a line.

    matplotlib cannot place ticks on an axis that spans float64's range, 1.8e308.
    """
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(numbers) > 1e300, np.copysign(np.inf, numbers), numbers)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write `figure` as a PNG, completely or not at all, and return `path`; raises `OSError`."""
    with _quiet(), replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def save_figures(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures into `folder` by their file names, as `save_figure` does, and return their paths."""
    return [save_figure(figure, folder / name) for name, figure in figures.items()]


def _import_matplotlib() -> None:
    """Import matplotlib whatever `MPLBACKEND` says: Jupyter exports a backend that only its own environment has.

    Late, since matplotlib takes longer to load than everything else, and most commands draw nothing.
    """
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        with _quiet():
            import matplotlib.figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend:
        with suppress(ValueError):  # the backend for pyplot, in case the user imports it later
            matplotlib.rcParams["backend"] = backend


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep matplotlib's messages on its cache folder, fonts and glyphs off stderr."""
    logger, nowhere = logging.getLogger("matplotlib"), logging.NullHandler()
    logger.addHandler(nowhere)  # without any handler, Python prints the messages
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.removeHandler(nowhere)
