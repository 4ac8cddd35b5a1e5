"""The pictures of finished runs, as matplotlib figures.

No picture needs a display. Runs with separate folders never overwrite each other's pictures. An empty history gives
no picture; values that are not finite, or beyond 1e300, are gaps in a line.
"""

from __future__ import annotations

import textwrap
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.report.drawing import drawable, new_figure
from fmnist_xp.train.history import COLUMNS, History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
WIDE = (10.0, 5.0)  # inches, as in the notebook

# Okabe and Ito's colours, which colour-blind readers can tell apart; an experiment always has the same.
STYLES: dict[str, dict[str, Any]] = {
    "sgd": {"color": "#0072B2", "marker": "o"},
    "momentum": {"color": "#D55E00", "marker": "s"},
    "adam": {"color": "#009E73", "marker": "^"},
}
OTHER_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#CC79A7", "marker": "D"},
    {"color": "#E69F00", "marker": "v"},
    {"color": "#56B4E9", "marker": "P"},
)
NOTEBOOK_STYLE: dict[str, Any] = {"color": "#555555", "marker": "x", "linestyle": "--"}
MARKERS = 25  # at most about this many per curve: 110 would hide the line

# An untrained network of 10 classes has a loss of ln 10 = 2.3. Where the loss spikes far above that, the axis
# is cut off here (and says so), or the spike would flatten everything else.
LOSS_TOP = 3.0


class Quantity(NamedTuple):
    """A column of a history that is plotted."""

    column: str
    label: str


ACCURACY = Quantity("accuracy", "Training accuracy")
LOSS = Quantity("loss", "Training loss")
LEARNING_RATE = Quantity("learning_rate", "Learning rate")


@dataclass(frozen=True)
class Curve:
    """One line of a plot: a history, its style, and a band from the lowest to the highest values."""

    label: str
    history: History
    style: Mapping[str, Any]
    band: tuple[History, History] | None = None

    def since(self, epoch: int) -> Curve:
        """Return the part logged at `epoch` or later."""
        band = self.band and (self.band[0].since(epoch), self.band[1].since(epoch))
        return replace(self, history=self.history.since(epoch), band=band)


def run_figures(
    history: History, *, title: str, experiment: str, notebook: History | None = None
) -> dict[str, Figure]:
    """Return the pictures of one run by file name.

    `accuracy.png`, `loss.png` and `learning-rate.png`, then the same from epoch 300 on as
    `accuracy-from-300.png` and so on, if anything was logged there. `title` names the run (experiment,
    device, seed, data set); `experiment` labels the curve and determines its colour. `notebook` is drawn beside
    it, up to the run's last epoch.
    """
    curve = Curve(experiment, history, _styles([experiment])[0])
    return _curve_figures([curve], (ACCURACY, LOSS, LEARNING_RATE), 300, title=title, notebook=notebook)


def comparison_figures(histories: Mapping[str, History], *, title: str) -> dict[str, Figure]:
    """Return pictures of the accuracy of several named runs, by file name: of all epochs, and from epoch 700 on.

    `comparison-accuracy.png` and `comparison-accuracy-from-700.png`; the latter has the runs that get that far,
    and is only there if one does.
    """
    styles = _styles(list(histories))
    curves = [Curve(*curve) for curve in zip(histories, histories.values(), styles, strict=True)]
    return _curve_figures(curves, (ACCURACY,), 700, title=title, prefix="comparison-")


def seeds_figures(
    histories: Mapping[int, History], *, experiment: str, title: str, notebook: History | None = None
) -> dict[str, Figure]:
    """Return accuracy and loss of one experiment over several seeds: the median, and a band between the extremes.

    For the experiment `sgd`: `sgd-seeds-accuracy.png`, `sgd-seeds-loss.png` and, if reached, both from epoch 300 on;
    so several experiments can share a folder. Only epochs that every run logged are drawn.
    """
    if not histories:
        return {}
    runs = list(histories.values())
    curve = Curve(
        f"{experiment}: median of {len(runs)} {'seeds' if len(runs) > 1 else 'seed'}",
        _across(runs, np.median),
        _styles([experiment])[0],
        band=(_across(runs, np.min), _across(runs, np.max)),
    )
    prefix = f"{experiment}-seeds-"
    return _curve_figures([curve], (ACCURACY, LOSS), 300, title=title, notebook=notebook, prefix=prefix)


def metrics_figure(history: History, *, title: str, experiment: str) -> Figure:
    """Return the summary picture of a run: accuracy, loss and data loss, and learning rate, one below the other."""
    style = _styles([experiment])[0]
    figure = _new_figure(f"Accuracy, loss and learning rate\n{title}", (10.0, 10.0))
    panels = figure.subplots(3, sharex=True)
    for axes, quantity in zip(panels, (ACCURACY, LOSS, LEARNING_RATE), strict=True):
        _draw(axes, Curve(quantity.label.lower(), history, style), quantity)
        if quantity is LOSS:
            parts = zip(history.loss, history.regularization_loss, strict=True)
            data_loss = [loss - regularization for loss, regularization in parts]
            data_style = {**style, "linestyle": "--", "marker": "x", "alpha": 0.6}
            _draw(axes, Curve("data loss", replace(history, loss=data_loss), data_style), quantity)
        _finish(axes, quantity)
        axes.label_outer()
    return figure


def confusion_figure(matrix: NDArray[np.int64], *, class_names: Sequence[str], title: str) -> Figure:
    """Return the picture of a confusion matrix (rows true, columns predicted).

    Counts are text, shares of the row colours; a class without samples has a blank row.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = _new_figure(f"Confusion matrix\n{title}", (10.0, 9.0))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="Share of the true class", shrink=0.8)
    ticks = range(len(class_names))
    axes.set_xticks(ticks, class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, class_names)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")
    _write_cells(axes, matrix, shares > 0.5, fontsize=10)
    return figure


def samples_figure(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], *, class_names: Sequence[str], title: str
) -> Figure:
    """Return a grid of images: one row per class, with the first 15 of its images.

    `images` is uint8 of shape (n, 28, 28), `labels` of shape (n,).
    """
    columns, (height, width) = 15, images.shape[1:]
    # One large image: white where there is none, and a white pixel between two.
    grid = np.full((len(class_names) * (height + 1), columns * (width + 1)), 255, dtype=np.uint8)
    for row in range(len(class_names)):
        for column, image in enumerate(images[labels == row][:columns]):
            top, left = row * (height + 1), column * (width + 1)
            grid[top : top + height, left : left + width] = image
    figure = _new_figure(f"Samples of each class\n{title}", (10.0, 7.0))
    axes = figure.subplots()
    axes.imshow(grid, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_yticks([row * (height + 1) + height / 2 for row in range(len(class_names))], class_names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def grey_values_figure(image: NDArray[np.uint8], *, title: str) -> Figure:
    """Return the picture of one enlarged image, uint8 of shape (28, 28), with the grey value in each cell."""
    figure = _new_figure(f"Grey values\n{title}", (10.0, 10.5))
    axes = figure.subplots()
    axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_xlabel("Column")
    axes.set_ylabel("Row")
    _write_cells(axes, image, image < 128, fontsize=7)
    return figure


def _curve_figures(
    curves: Sequence[Curve],
    quantities: Sequence[Quantity],
    later: int,
    *,
    title: str,
    notebook: History | None = None,
    prefix: str = "",
) -> dict[str, Figure]:
    """Draw each quantity over all epochs, and again from epoch `later` on if a curve gets that far."""
    figures = {}
    for start in (0, later):
        shown = [part for curve in curves if (part := curve.since(start)).history]
        if not shown:
            break
        if notebook:
            last = max(curve.history.epoch[-1] for curve in shown)
            shown.append(Curve("notebook", _until(notebook, last), NOTEBOOK_STYLE).since(start))
        span, suffix = (f"from epoch {start} on", f"-from-{start}") if start else ("over the epochs", "")
        for quantity in quantities:
            figure = _new_figure(f"{quantity.label} {span}\n{title}", WIDE)
            axes = figure.subplots()
            for curve in shown:
                _draw(axes, curve, quantity)
            _finish(axes, quantity)
            figures[f"{prefix}{quantity.column.replace('_', '-')}{suffix}.png"] = figure
    return figures


def _draw(axes: Axes, curve: Curve, quantity: Quantity) -> None:
    """Draw one quantity of a curve, and its band if it has one."""
    epochs = curve.history.epoch
    style = {"linewidth": 1.5, "markersize": 5, "markevery": max(1, -(-len(epochs) // MARKERS)), **curve.style}
    axes.plot(epochs, drawable(getattr(curve.history, quantity.column)), label=_plain(curve.label), **style)
    if curve.band:
        low, high = (drawable(getattr(history, quantity.column)) for history in curve.band)
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.2, linewidth=0, label="lowest to highest")


def _finish(axes: Axes, quantity: Quantity) -> None:
    """Label the axes, and cut off the loss axis where a spike would flatten the rest."""
    axes.set_xlabel("Epoch")
    axes.set_ylabel(quantity.label)
    # A run that spends most of its epochs above has diverged, and is shown whole.
    if quantity is LOSS and axes.dataLim.y1 > LOSS_TOP > np.median(np.asarray(axes.lines[0].get_ydata())):
        axes.set_ylim(0, LOSS_TOP)
        axes.set_ylabel(f"{quantity.label} (cut off above {LOSS_TOP:g})")
    axes.locator_params(axis="x", integer=True)
    axes.ticklabel_format(useOffset=False)
    axes.grid(alpha=0.3)
    axes.legend()


def _write_cells(axes: Axes, values: NDArray[Any], dark: NDArray[np.bool_], *, fontsize: int) -> None:
    """Print each value into its cell of an image, in white where the cell is dark."""
    for (row, column), value in np.ndenumerate(values):
        color = "white" if dark[row, column] else "black"
        axes.text(column, row, str(value), ha="center", va="center", fontsize=fontsize, color=color)


def _across(histories: Sequence[History], statistic: Callable[..., Any]) -> History:
    """Reduce several histories to one, value by value, over the epochs that all of them logged."""
    epochs = sorted(set.intersection(*(set(history.epoch) for history in histories)))
    reduced = History(epoch=epochs)
    for column in COLUMNS[1:]:
        runs = [dict(zip(h.epoch, getattr(h, column), strict=True)) for h in histories]
        setattr(reduced, column, [float(statistic(drawable([run[epoch] for run in runs]))) for epoch in epochs])
    return reduced


def _until(history: History, epoch: int) -> History:
    """Return the part of `history` logged at `epoch` or earlier."""
    count = bisect_right(history.epoch, epoch)
    return History(*(getattr(history, column)[:count] for column in COLUMNS))


def _styles(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a style for each name: the experiment's own, or the next of `OTHER_STYLES`."""
    others = cycle(OTHER_STYLES)
    return [STYLES[name] if name in STYLES else next(others) for name in names]


def _new_figure(title: str, size: tuple[float, float]) -> Figure:
    figure = new_figure(size, DPI)
    figure.suptitle("\n".join(textwrap.fill(line, 115) for line in _plain(title).splitlines()), fontsize=11)
    return figure


def _plain(text: str) -> str:
    """Return `text` escaped so that matplotlib prints it literally: no formulas in dollars, no lone surrogates."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")
