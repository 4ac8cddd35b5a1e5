"""The pictures of an experiment over several seeds, as matplotlib figures: bands over the epochs, ends as dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.report import plots
from fmnist_xp.report.drawing import drawable
from fmnist_xp.report.plots import ACCURACY, COLOURS, LATER, LOSS, OTHER_COLOURS, Quantity
from fmnist_xp.report.tables import ENOUGH_FOR_QUARTILES
from fmnist_xp.train.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Bands(NamedTuple):
    """A quantity over the epochs that all seeds logged: each seed's, and lowest, quartiles and highest of them.

    What is not finite takes no part; `missing` says at which epochs there is any. `seeds` has shape (seeds, epochs),
    `quantiles` (5, epochs): minimum, lower quartile, median, upper quartile and maximum.
    """

    epochs: NDArray[np.int64]
    seeds: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    missing: NDArray[np.bool_]

    @classmethod
    def of(cls, histories: Sequence[History], column: str) -> Bands:
        """Return the bands of one column of at least one history."""
        epochs = sorted(set.intersection(*(set(history.epoch) for history in histories)))
        rows = [dict(zip(history.epoch, getattr(history, column), strict=True)) for history in histories]
        seeds = drawable([[row[epoch] for epoch in epochs] for row in rows])
        finite = np.isfinite(seeds)
        seeds = np.where(finite, seeds, np.nan)
        quantiles = np.full((5, len(epochs)), np.nan)
        some = finite.any(axis=0)
        quantiles[:, some] = np.nanquantile(seeds[:, some], [0, 0.25, 0.5, 0.75, 1], axis=0)
        missing = np.asarray(~finite.all(axis=0))
        return cls(np.array(epochs, dtype=np.int64), seeds, quantiles, missing)

    def since(self, epoch: int) -> Bands:
        """Return the part logged at `epoch` or later."""
        kept = self.epochs >= epoch
        return Bands(self.epochs[kept], self.seeds[:, kept], self.quantiles[:, kept], self.missing[kept])


def seeds_figures(
    histories: Sequence[History], *, experiment: str, title: str, notebook: History | None = None
) -> dict[str, Figure]:
    """Return `<experiment>-accuracy.png` and `<experiment>-loss.png`: its seeds, their median, quartiles and range.

    Beside all epochs those from 300 on, where there are such. `notebook` is drawn up to the last of them.
    """
    if not histories:
        return {}
    return {
        f"{experiment}-{quantity.column}.png": _seeds_figure(histories, quantity, experiment, title, notebook)
        for quantity in (ACCURACY, LOSS)
    }


def medians_figure(by_experiment: Mapping[str, Sequence[History]], *, title: str) -> Figure:
    """Return the picture of several experiments' training accuracy: the median of each over its seeds, and a band.

    The band has the middle half of the seeds, or all of them where they are few.
    """
    figure = plots.titled_figure(title, plots.WIDE)
    axes = figure.subplots()
    for experiment, histories in by_experiment.items():
        _draw(axes, Bands.of(histories, ACCURACY.column), ACCURACY, experiment, label=f"{experiment}, ", alone=False)
    plots.finish(axes, ACCURACY)
    plots.legend_below(figure)
    return figure


def ends_figure(
    by_experiment: Mapping[str, Sequence[float]], *, label: str, title: str, notebook: Mapping[str, float]
) -> Figure:
    """Return the picture of one metric at the end of each run: a line for each experiment, a dot for each seed.

    A box has the quartiles and the median. `notebook` has the notebook's own values, where they are comparable.
    """
    figure = plots.titled_figure(title, (10.0, 1.4 + 0.75 * len(by_experiment)))
    axes = figure.subplots()
    for place, (experiment, values) in enumerate(by_experiment.items()):
        numbers = drawable(values)
        finite = numbers[np.isfinite(numbers)]
        colour = _colour(experiment)
        if len(finite) >= ENOUGH_FOR_QUARTILES:
            low, median, high = np.quantile(finite, [0.25, 0.5, 0.75])
            axes.barh(place, high - low, left=low, height=0.5, color=colour, alpha=0.25, zorder=1)
            axes.plot([median] * 2, [place - 0.25, place + 0.25], color=colour, linewidth=2.5, zorder=2)
        axes.scatter(finite, [place] * len(finite), s=40, facecolors="none", edgecolors=colour, zorder=3)
        if experiment in notebook:
            style: dict[str, Any] = {
                "color": "black",
                "marker": "x",
                "markersize": 9,
                "markeredgewidth": 2,
                "linestyle": "none",
            }
            axes.plot([notebook[experiment]], [place], label="notebook", zorder=4, **style)
    axes.plot([], [], linestyle="none", marker="o", color="#333333", markerfacecolor="none", label="a seed")
    if any(len(values) >= ENOUGH_FOR_QUARTILES for values in by_experiment.values()):
        axes.fill_between([], [], color="#333333", alpha=0.25, linewidth=0, label="quartiles, around the median")
    axes.set_yticks(range(len(by_experiment)), [plots.plain(plots.short(name)) for name in by_experiment])
    axes.set_ylim(len(by_experiment) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3, axis="x")
    plots.legend_below(figure)
    return figure


def _seeds_figure(
    histories: Sequence[History], quantity: Quantity, experiment: str, title: str, notebook: History | None
) -> Figure:
    whole = Bands.of(histories, quantity.column)
    later = whole.since(LATER)
    parts = [(0, whole)] + [(LATER, later)] * (1 < len(later.epochs) < len(whole.epochs))
    figure = plots.titled_figure(title, (7.0 * len(parts), 4.5))
    for axes, (start, bands) in zip(figure.subplots(1, len(parts), squeeze=False).flat, parts, strict=True):
        _draw(axes, bands, quantity, experiment)
        if notebook and len(bands.epochs):
            beside = notebook.since(start).until(int(bands.epochs[-1]))
            plots.draw_line(axes, beside, quantity, "notebook", **plots.NOTEBOOK_STYLE | {"marker": ""})
        plots.finish(axes, quantity)
    plots.legend_below(figure)
    return figure


def _draw(
    axes: Axes, bands: Bands, quantity: Quantity, experiment: str, *, label: str = "", alone: bool = True
) -> None:
    """Draw the median with its bands; with the range and the single seeds where it is `alone` in the axes."""
    colour, seeds = _colour(experiment), len(bands.seeds)
    low, lower, median, upper, high = bands.quantiles
    of_seeds = f"{label}median of {seeds} seeds" if seeds > 1 else f"{label}1 seed"
    axes.plot(bands.epochs, median, label=of_seeds, color=colour, linewidth=2, zorder=3)
    area: dict[str, Any] = {"color": colour, "linewidth": 0}
    quartiles = seeds >= ENOUGH_FOR_QUARTILES
    if quartiles:
        axes.fill_between(bands.epochs, lower, upper, alpha=0.35, label=f"{label}quartiles", **area)
    if seeds > 1 and (alone or not quartiles):
        axes.fill_between(bands.epochs, low, high, alpha=0.15, label=f"{label}lowest to highest", **area)
    if alone and seeds > 1:
        for number, values in enumerate(bands.seeds):
            name = "" if number else "each seed"
            axes.plot(bands.epochs, values, label=name, color=colour, linewidth=0.5, alpha=0.6, zorder=2)
    plots.mark_not_finite(axes, bands.epochs, bands.missing, quantity, f"{label}some seed", colour)


def _colour(experiment: str) -> str:
    return COLOURS.get(experiment, OTHER_COLOURS[0])
