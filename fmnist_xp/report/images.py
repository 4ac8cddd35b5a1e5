"""The pictures made of images, as matplotlib figures: samples, grey values, weights, mistakes, photographs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.data import Photograph
from fmnist_xp.report.plots import FEW_CLASSES, class_labels, plain, titled_figure, write_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NEURONS = 256
MISTAKES_SHOWN = (5, 6)  # rows and columns


def samples_figure(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], *, class_names: Sequence[str], title: str
) -> Figure:
    """Return a grid of images: one row per class, with the first 15 of its images, or 30 where classes are many.

    `images` is uint8 of shape (n, 28, 28), `labels` of shape (n,).
    """
    columns = 15 if len(class_names) <= FEW_CLASSES else 30
    height, width = images.shape[1:]
    # One large image: white where there is none, and a white pixel between two.
    grid = np.full((len(class_names) * (height + 1), columns * (width + 1)), 255, dtype=np.uint8)
    for row in range(len(class_names)):
        for column, image in enumerate(images[labels == row][:columns]):
            top, left = row * (height + 1), column * (width + 1)
            grid[top : top + height, left : left + width] = image
    rows = len(class_names) * 9.0 / columns + 1.0  # inches
    figure = titled_figure(f"Samples of each class\n{title}", (10.0, rows))
    axes = figure.subplots()
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_yticks([row * (height + 1) + height / 2 for row in range(len(class_names))], class_labels(class_names))
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def grey_values_figure(image: NDArray[np.uint8], *, title: str) -> Figure:
    """Return the picture of one enlarged image, uint8 of shape (28, 28), with the grey value in each cell."""
    figure = titled_figure(f"Grey values\n{title}", (10.0, 10.5))
    axes = figure.subplots()
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xlabel("Column")
    axes.set_ylabel("Row")
    write_cells(axes, image, image < 128, fontsize=7)
    return figure


def weights_figure(weights: NDArray[np.floating], *, title: str) -> Figure:
    """Return the picture of a first layer's weights, of shape (784, neurons): an image of 28 × 28 for each neuron.

    All have one scale of colours, symmetrical about 0, which ends where one weight in a hundred lies beyond. Of more
    than 256 neurons the first 256 are shown. Weights that are not finite are black.
    """
    shown = weights[:, :MOST_NEURONS].T.reshape(-1, 28, 28).astype(np.float64)
    columns = 8 if len(shown) <= 64 else 16
    rows = -(-len(shown) // columns)
    shown = np.where(np.isfinite(shown), shown, np.inf)  # which is a colour of its own
    # One large image, with a white pixel between two neurons: NaN, as the cells without a neuron.
    grid = np.full((rows, 29, columns, 29), np.nan)
    for neuron, values in enumerate(shown):
        grid[neuron // columns, :28, neuron % columns, :28] = values
    whole = grid.reshape(29 * rows, 29 * columns)[:-1, :-1]
    finite = np.abs(shown[np.isfinite(shown)])
    limit = float(np.quantile(finite, 0.99)) if finite.any() else 1.0

    some = f"the first {len(shown)} of {weights.shape[1]:,}" if weights.shape[1] > len(shown) else f"{len(shown)}"
    height = 8.1 * rows / columns + 0.6  # square cells, beside a bar of colours
    neurons = "neurons" if weights.shape[1] > 1 else "neuron"
    figure = titled_figure(f"Weights of the first layer: {some} {neurons}\n{title}", (10.0, height))
    axes = figure.subplots()
    axes.imshow(np.isinf(whole), cmap="Greys", interpolation="nearest")
    image = axes.imshow(np.ma.masked_invalid(whole), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(image, label="Weight", extend="both", shrink=0.8, aspect=30)
    axes.set_axis_off()
    return figure


def mistakes_figure(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Return the picture of the most confident mistakes: the wrong predictions of the highest probability.

    `images` is uint8 of shape (n, 28, 28), `labels` of shape (n,), `probabilities` of shape (n, classes). Rows whose
    probabilities are not finite, as those of a diverged network, are no predictions and are left out.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities[np.arange(len(labels)), predicted]
    wrong = np.flatnonzero((predicted != labels) & np.isfinite(probabilities).all(axis=1))
    rows, columns = MISTAKES_SHOWN
    # The first of equals first: float32 often has several that are exactly 1.
    chosen = wrong[np.argsort(-confidence[wrong], kind="stable")][: rows * columns]
    rows = max(1, -(-len(chosen) // columns))
    mistakes = "mistake" if len(wrong) == 1 else "mistakes"
    figure = titled_figure(
        f"The most confident of {len(wrong):,} {mistakes}: true → predicted class, and its probability\n{title}",
        (10.0, 1.0 + 1.95 * rows),
    )
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    shown = class_labels(class_names, 16)
    for axes, index in zip(figure.axes, chosen, strict=False):
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=255, interpolation="nearest")
        names = shown[labels[index]], shown[predicted[index]]
        axes.set_title(f"{names[0]}\n→ {names[1]}, {_percent(confidence[index])}", fontsize=8)
    if not chosen.size:
        finite = np.isfinite(probabilities).all()
        reason = "none" if finite else "the probabilities are not finite: training diverged"
        figure.text(0.5, 0.3, reason, ha="center")
    return figure


def seen_figure(
    photograph: Photograph, ranking: Sequence[tuple[str, float]], warnings: Sequence[str], *, title: str
) -> Figure:
    """Return the picture of a photograph, with an outline of its garment, beside the image that a network sees of it.

    `ranking` are class names with their probabilities, of which the first three are written above.
    """
    figure = titled_figure(title, (6.4, 3.9))
    answer = ", ".join(f"{name} {_percent(probability)}" for name, probability in ranking[:3])
    lines = [textwrap.fill(plain(line), 80) for line in (answer, "; ".join(warnings)) if line]
    figure.supxlabel("\n".join(lines), fontsize=9)
    before, seen = figure.subplots(1, 2)
    before.imshow(photograph.shown[..., ::-1])  # OpenCV has blue first
    if not photograph.garment.all():
        before.contour(photograph.garment, levels=[0.5], colors=["#D55E00"], linewidths=1)
    before.set_title("photograph", fontsize=9)
    seen.imshow(photograph.image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    seen.set_title("what the network sees", fontsize=9)
    for axes in (before, seen):
        axes.set_axis_off()
    return figure


def _percent(share: float) -> str:
    """Return a probability with the digits that tell it from certainty."""
    return "> 99.99%" if share > 0.9999 else f"{share:.2%}" if share > 0.99 else f"{share:.1%}"
