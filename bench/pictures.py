"""What the pictures of the benchmarks share: colours, axes, bars with whiskers, one way to save."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from bench.results import hardware
from fmnist_xp.files import replacing

# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLOURS = {"ours": "#0072B2", "other": "#B8B8B8", "notebook": "#8C8C8C", "floor": "#D55E00"}
SERIES = ("#0072B2", "#009E73", "#CC79A7", "#E69F00")


def figure_with_axes(
    rows: int, columns: int, *, width: float, height: float, title: str, record: dict[str, Any]
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a title that names the hardware, and its axes row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    note = " — quick sizes, not a result" if record["quick"] else ""
    precision = f", {record['precision']}" if record["precision"] else ""
    figure.suptitle(f"{title}\n{hardware(record)}{precision}, {record['date']}{note}", fontsize=12)
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
) -> None:
    """Draw a horizontal bar for each name: its median, whiskers to minimum and maximum, and a label.

    `floors` are where the caller marks a bar's floor, which may be beyond the bar: the label then stands behind it.
    """
    medians = [summary["median"] for summary in summaries]
    low = [summary["median"] - summary["min"] for summary in summaries]
    high = [summary["max"] - summary["median"] for summary in summaries]
    places = range(len(names))
    ax.barh(places, medians, color=list(colours), xerr=[low, high], error_kw={"elinewidth": 1, "capsize": 2})
    ends = [max(summary["max"], *floors[place : place + 1], 0) for place, summary in enumerate(summaries)]
    longest = max(ends, default=1.0)
    for place, end, label in zip(places, ends, labels, strict=True):
        ax.text(end + 0.02 * longest, place, label, va="center", fontsize=8)
    ax.set_yticks(places, names if names_shown else [""] * len(names))
    ax.invert_yaxis()
    ax.set_xlim(0, 1.6 * longest)
    ax.set_xlabel(unit)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(EngFormatter("s"))
    ax.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Figure, path: Path) -> None:
    """Write `figure` as a PNG to `path`, atomically."""
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
