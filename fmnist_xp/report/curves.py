"""The interactive curves of finished runs, as the plain values that Plotly draws them from."""

import html
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.errors import printable
from fmnist_xp.report.drawing import drawable
from fmnist_xp.report.plots import COLOURS, LOSS_TOP, MARKERS_SHOWN, loss_top
from fmnist_xp.train.history import History

PANELS = {
    "Accuracy": ("accuracy", "validation_accuracy"),
    "Loss": ("loss", "validation_loss"),
    "Learning rate": ("learning_rate",),
}
HEIGHT = 860  # pixels
PANEL, STEP = 0.27, 0.365  # of the height: a panel, and from one to the next
CLEAR = "rgba(0,0,0,0)"  # the page decides on the colours of all but the curves
LONGEST_NAME = 24  # characters of a run's name beside the mouse

# The first run of an experiment has the experiment's colour, others have these: all can be told apart on white and
# on black. Each run has a marker besides; by its sign it is known elsewhere on the page.
OTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#A6761D", "#7F7F7F", "#E7298A")
SIGNS = {
    "circle": "●", "square": "■", "triangle-up": "▲", "diamond": "◆", "triangle-down": "▼", "star": "★", "cross": "✚",
    "pentagon": "⬟",
}  # fmt: skip


class Style(NamedTuple):
    """How a run is drawn: a colour, and the name of a marker in `SIGNS`."""

    colour: str
    marker: str


def run_styles(experiments: Sequence[str]) -> list[Style]:
    """Return a style for each run, in the order of the runs' experiments; up to 56 differ."""
    own = dict(COLOURS)
    others, markers = cycle(OTHER_COLOURS), cycle(SIGNS)
    return [Style(own.pop(name, "") or next(others), next(markers)) for name in experiments]


def curves_figure(histories: Mapping[str, History], styles: Sequence[Style]) -> dict[str, Any]:
    """Return Plotly's `data` and `layout` of the named histories: a panel for each quantity, over the same epochs.

    The `meta` of a trace is the number of its run. What is not finite is a gap in a line, and marked.
    """
    data = [
        trace
        for number, (name, style) in enumerate(zip(histories, styles, strict=True))
        for trace in _traces(number, name, histories[name], style)
    ]
    axis: dict[str, Any] = {"automargin": True, "zeroline": False}
    layout: dict[str, Any] = {
        "height": HEIGHT,
        "margin": {"l": 52, "r": 16, "t": 28, "b": 48},
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "showlegend": False,
        "hovermode": "x unified",
        "hoverlabel": {"namelength": -1},
        "xaxis": {
            **axis,
            "anchor": f"y{len(PANELS)}",
            "title": {"text": "Epoch", "standoff": 8},
            "hoverformat": ",d",
            "spikecolor": "#888888",
            "spikethickness": -2,  # negative: without a border
        },
    }
    place = {"xref": "paper", "x": 0, "xanchor": "left", "yref": "paper", "yanchor": "bottom", "showarrow": False}
    layout["annotations"] = [
        {"text": f"<b>{label}</b>", "y": 1 - STEP * panel, **place} for panel, label in enumerate(PANELS)
    ]
    for panel in range(len(PANELS)):
        top = 1 - STEP * panel
        layout[f"yaxis{panel + 1}"] = {**axis, "domain": [top - PANEL, top]}
    layout["yaxis2"] |= _loss_range(list(histories.values()))
    return {"data": data, "layout": layout}


def not_finite(history: History) -> Iterator[str]:
    """Yield a sentence for each column of which the curve cannot show every value."""
    for column in history.columns[1:]:
        lost = np.flatnonzero(~np.isfinite(drawable(getattr(history, column))))
        if len(lost):
            times = "once" if len(lost) == 1 else f"{len(lost):,} times"
            yield f"{column.replace('_', ' ')} is not finite {times}, first at epoch {history.epoch[lost[0]]:,}"


def _traces(number: int, name: str, history: History, style: Style) -> Iterator[dict[str, Any]]:
    short = printable(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…")
    short = html.escape(short, quote=False)  # Plotly takes some of HTML in a name
    for panel, columns in enumerate(PANELS.values()):
        for column in columns:
            values = drawable(getattr(history, column))
            if not len(values):
                continue
            validation = column.startswith("validation_")
            finite = np.isfinite(values)
            common = {
                "type": "scatter",
                "meta": number,
                "yaxis": f"y{panel + 1}",
                "name": f"{short}, validation" if validation else short,
            }
            yield common | {
                "x": history.epoch,
                "y": [value if known else None for value, known in zip(values.tolist(), finite, strict=True)],
                "mode": "lines+markers",
                "line": {"color": style.colour, "width": 2, "dash": "dash" if validation else "solid"},
                "marker": {"color": style.colour, "symbol": style.marker, "size": 7, "maxdisplayed": MARKERS_SHOWN},
                "hovertemplate": "%{y:.4g}" if column == "learning_rate" else "%{y:.4f}",
            }
            if not finite.all():
                yield common | {
                    "x": np.array(history.epoch)[~finite].tolist(),
                    "y": _held(values)[~finite].tolist(),
                    "mode": "markers",
                    "marker": {"color": style.colour, "symbol": "x", "size": 9},
                    "text": [str(value) for value in np.array(getattr(history, column))[~finite].tolist()],
                    "hovertemplate": "%{text}",
                }


def _held(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `values` with the last finite one, or 0, in place of those that are not finite."""
    last = np.maximum.accumulate(np.where(np.isfinite(values), np.arange(len(values)), -1))
    return np.where(last >= 0, values[last], 0.0)


def _loss_range(histories: Sequence[History]) -> dict[str, Any]:
    """Return the range that the losses' axis starts with, where a spike would flatten the rest, as in `plots`."""
    losses = [loss for h in histories for loss in h.loss + h.validation_loss if math.isfinite(loss)]
    top = max((loss_top(h.loss[0]) for h in histories if h.loss), default=LOSS_TOP)
    return {"range": [0, top]} if losses and max(losses) > top > statistics.median(losses) else {}
