"""What the pictures of the benchmarks share: colours, axes, bars with whiskers, one way to save."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from bench.results import hardware, other_engine
from fmnist_xp.files import replacing

# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = {"ours": "#0072B2", "other": "#B8B8B8", "notebook": "#8C8C8C", "floor": "#D55E00"}
TOO_LONG = 2.0
"""A bar so many times as long as the next longest is broken off where that is allowed."""
SERIES = ("#0072B2", "#009E73", "#CC79A7", "#E69F00")


def figure_with_axes(
    rows: int, columns: int, *, width: float, height: float, title: str, record: dict[str, Any]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a title that names the hardware, and its axes row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    note = " — quick sizes, not a result" if record["quick"] else ""
    what = ", ".join(filter(None, [hardware(record), record["precision"], other_engine(record), record["date"]]))
    figure.suptitle(f"{title}\n{what}{note}", fontsize=12)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def seconds_in_words(seconds: float) -> str:
    """Return a time with 3 digits and the unit that suits it."""
    return str(EngFormatter("s")(float(f"{seconds:.3g}")))


def bars(
    ax: Axes,
    names: Sequence[str],
    summaries: Sequence[dict[str, Any]],
    labels: Sequence[str],
    colours: Sequence[str],
    *,
    floors: Sequence[float] = (),
    names_shown: bool = True,
    unit: str = "time",
    broken: bool = False,
) -> bool:
    """Draw a horizontal bar for each name: its median, whiskers to the quartiles of its samples, and a label.

    `floors` are where the caller marks a bar's floor, which may be beyond the bar: the label then stands behind it.
    Where `broken`, bars that are more than `TOO_LONG` times as long as all others are broken off, so that the others
    can be compared. Returns whether there is such a bar; `explain` says what all of it means.
    """
    medians = [summary["median"] for summary in summaries]
    low, high = (np.array([np.quantile(summary["samples"], q) for summary in summaries]) for q in (0.25, 0.75))
    places = range(len(names))
    ends = [max(end, *floors[place : place + 1], 0) for place, end in enumerate(high)]
    longest = _longest(ends) if broken else max(ends, default=1.0)
    stop = 1.12 * longest
    off = [place for place in places if ends[place] > stop]
    ax.barh(places, [min(median, stop) for median in medians], color=list(colours))
    for place in places:
        if place in off:
            slashes: dict[str, Any] = {"marker": [(-0.4, -1), (0.4, 1)], "markersize": 22, "markeredgewidth": 3}
            ax.plot([0.95 * stop, 0.98 * stop], [place] * 2, linestyle="none", color="white", **slashes)
        else:
            whiskers = [[medians[place] - low[place]], [high[place] - medians[place]]]
            ax.errorbar(medians[place], place, xerr=whiskers, fmt="none", color="black", elinewidth=1, capsize=2)
        end = stop if place in off else ends[place]
        ax.text(end + 0.02 * longest, place, labels[place], va="center", fontsize=8)
    ax.set_yticks(places, names if names_shown else [""] * len(names))
    ax.invert_yaxis()
    ax.set_xlim(0, 1.75 * longest if off else 1.6 * longest)
    ax.set_xlabel(unit)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(EngFormatter("s"))
    ax.spines[["top", "right"]].set_visible(False)
    return bool(off)


def _longest(ends: Sequence[float]) -> float:
    """Return the longest end that is at most `TOO_LONG` times as long as the next, or the shortest of all."""
    falling = sorted(ends, reverse=True)
    return next((end for end, after in pairwise(falling) if end <= TOO_LONG * after), falling[-1])


def explain(figure: Figure, *handles: Any, broken: bool = False) -> None:
    """Put a legend below all axes: `handles`, what the whiskers are, and, if one is `broken`, what its mark means."""
    style: dict[str, Any] = {"color": "black", "marker": "|", "markersize": 6, "linewidth": 1}
    known = [*handles, Line2D([], [], label="bars: medians; whiskers: quartiles of the samples", **style)]
    if broken:
        known.append(Line2D([], [], linestyle="none", marker="$//$", color="black", label="broken off: too long"))
    figure.legend(handles=known, loc="outside lower center", ncols=len(known), fontsize=8, frameon=False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG to `path`, atomically."""
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
