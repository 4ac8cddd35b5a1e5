"""The tables and the picture of a comparison of two devices, from its record of plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fmnist_xp.report import plots
from fmnist_xp.report.drawing import drawable, new_figure, save_figures
from fmnist_xp.report.tables import markdown_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE_STYLE: dict[str, Any] = {"color": "#555555", "linewidth": 3, "alpha": 0.5}
DEVICE_STYLE: dict[str, Any] = {"color": "#0072B2", "marker": "o", "markersize": 4}
TOLERANCE_STYLE: dict[str, Any] = {"color": "#D55E00", "linestyle": "--"}
SHOWN_EPOCHS = 21


class NamedTable(NamedTuple):
    """A table with its title."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def parity_tables(record: Mapping[str, Any]) -> Iterator[NamedTable]:
    """Yield the tables: threads, and for each precision the operations, the steps, and the curves side by side."""
    if record["threads"]:
        yield _comparisons("One thread and several: the same bits", record["threads"])
    for pair in record["pairs"]:
        title = f"{pair['device']} and {pair['reference']}"
        yield _comparisons(f"Operations: {title}", pair["operations"])
        yield _comparisons(f"One step: {title}", pair["steps"])
        yield _summary(f"Curves: {title}", pair["curves"])
        for curve in pair["curves"]:
            yield _side_by_side(f"Training loss of {curve['experiment']}: {title}", pair, curve)


def parity_markdown(record: Mapping[str, Any]) -> str:
    """Return all tables as Markdown, below a sentence on what was compared."""
    parts = [f"{parity_summary(record)}\n"]
    parts += [f"### {table.title}\n\n{markdown_table(table.header, table.rows)}" for table in parity_tables(record)]
    return "\n".join(parts)


def parity_summary(record: Mapping[str, Any]) -> str:
    """Return a sentence on what was compared, and how it came out."""
    dataset = record["dataset"]
    compared = " · ".join(f"{pair['device']} and {pair['reference']}" for pair in record["pairs"])
    verdict = "All agree within their tolerances." if record["passed"] else "Not all agree: see the verdicts."
    return (
        f"{compared}, on {_hardware(record)}, with {dataset['rows']:,} images of {dataset['name']} and "
        f"{record['epochs']} epochs. {verdict}"
    )


def plot_parity(record: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write one picture of the curves for each precision, `curves-<precision>.png`, and return their paths."""
    figures = {f"curves-{pair['precision']}.png": curves_figure(record, pair) for pair in record["pairs"]}
    return save_figures(figures, folder)


def curves_figure(record: Mapping[str, Any], pair: Mapping[str, Any]) -> Figure:
    """Return the picture of one pair: above the losses of each experiment, below their differences and tolerances."""
    figure = new_figure((13.0, 7.5), plots.DPI)
    dataset = record["dataset"]
    figure.suptitle(
        f"Training loss: {pair['device']} and {pair['reference']}\n"
        f"{dataset['name']} ({dataset['rows']:,} images) · {_hardware(record)}"
    )
    curves = pair["curves"]
    panels = figure.subplots(2, len(curves), sharex="col", squeeze=False)
    for (above, below), curve in zip(panels.T, curves, strict=True):
        for side, style in (("reference", REFERENCE_STYLE), ("device", DEVICE_STYLE)):
            above.plot(curve["epoch"], drawable(_numbers(curve[side]["loss"])), label=pair[side], **style)
        above.set_title(curve["experiment"])
        _draw_differences(below, curve)
    panels[0, 0].set_ylabel("Training loss")
    panels[1, 0].set_ylabel("Difference of the losses")
    for axes in panels.flat:
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        axes.locator_params(axis="x", integer=True)
    return figure


def _draw_differences(axes: Axes, curve: Mapping[str, Any]) -> None:
    # A logarithmic axis has no place for 0: where two curves are the same, there is a gap.
    difference = drawable(_numbers(curve["difference"]))
    axes.plot(curve["epoch"], np.where(difference > 0, difference, np.nan), label="difference", **DEVICE_STYLE)
    axes.plot(curve["epoch"], drawable(_numbers(curve["tolerance"])), label="tolerance", **TOLERANCE_STYLE)
    for epoch, what, style in ((curve["parts"], "the curves", "-"), (curve["twins_part"], "the twins", ":")):
        if epoch is not None:
            axes.axvline(epoch, color="black", linewidth=1, linestyle=style, label=f"{what} part: epoch {epoch}")
    axes.set_yscale("log")
    axes.set_xlabel("Epoch")


def _comparisons(title: str, lines: Sequence[Mapping[str, Any]]) -> NamedTable:
    header = (
        *("operation", "tensor", "worst case", "absolute", "relative", "ulps", "tolerance", "used", "loose"),
        "verdict",
    )
    rows = [
        (
            *(line[name] for name in ("operation", "tensor", "case")),
            *(_figure(line[unit]) for unit in ("absolute", "relative", "ulps", "tolerance")),
            *(_share(line[share]) for share in ("used", "loose")),
            _verdict(line),
        )
        for line in lines
    ]
    return NamedTable(title, header, rows)


def _summary(title: str, curves: Sequence[Mapping[str, Any]]) -> NamedTable:
    header = (
        *("experiment", "epochs", "largest difference", "used of its tolerance"),
        *("curves part at", "twins part at", "tolerance above 1% from", "verdict"),
    )
    rows = [
        (
            curve["experiment"],
            str(len(curve["epoch"])),
            _figure(np.max(_numbers(curve["difference"]))),
            _share(np.max(_numbers(curve["used"]))),
            *("—" if curve[name] is None else str(curve[name]) for name in ("parts", "twins_part", "loose_from")),
            _verdict(curve),
        )
        for curve in curves
    ]
    return NamedTable(title, header, rows)


def _side_by_side(title: str, pair: Mapping[str, Any], curve: Mapping[str, Any]) -> NamedTable:
    header = ("epoch", pair["reference"], pair["device"], "difference", "tolerance", "used")
    epochs = curve["epoch"]
    shown = {*range(0, len(epochs), -(-len(epochs) // SHOWN_EPOCHS)), len(epochs) - 1}
    shown |= {epochs.index(epoch) for epoch in (curve["parts"], curve["exceeds"]) if epoch is not None}
    losses = [_numbers(curve[side]["loss"]) for side in ("reference", "device")]
    rows = [
        (
            str(epochs[i]),
            *(f"{loss[i]:.9f}" for loss in losses),
            _figure(curve["difference"][i]),
            _figure(curve["tolerance"][i]),
            _share(curve["used"][i]),
        )
        for i in sorted(shown)
    ]
    return NamedTable(title, header, rows)


def _hardware(record: Mapping[str, Any]) -> str:
    return " beside ".join(dict.fromkeys(record[side]["hardware"] for side in ("device", "reference")))


def _numbers(values: Sequence[float | None]) -> Any:
    """Return a list from JSON as an array; what it had no word for is infinite."""
    return np.array([np.inf if value is None else value for value in values])


def _figure(value: float | None) -> str:
    return "∞" if value is None or not np.isfinite(value) else "0" if value == 0 else f"{value:.1e}"


def _share(value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "∞"
    if value == 0:
        return "0"
    return "< 0.1%" if value < 0.001 else f"{value:.1%}" if value < 0.1 else f"{value:.0%}"


def _verdict(line: Mapping[str, Any]) -> str:
    return "agrees" if line["passed"] else "DIFFERS"
