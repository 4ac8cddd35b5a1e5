"""The pictures of finished runs, as matplotlib figures: curves, runs side by side, a confusion matrix.

No picture needs a display. Runs with separate folders never overwrite each other's pictures. An empty history gives
no picture. Values that are not finite, or beyond 1e300, are crosses on the edge of the axes, and the legend says so.
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fmnist_xp.report.drawing import drawable, new_figure
from fmnist_xp.train.history import History, ended_in_dip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
WIDE = (10.0, 5.0)  # inches, as in the notebook
LATER = 300  # where a second picture begins: the first epochs flatten all that follows
COMPARED_LATER = 700

# Okabe and Ito's colours, which colour-blind readers can tell apart; an experiment always has the same. Not their
# sky blue, a shade of sgd's blue, but a violet.
COLOURS = {"sgd": "#0072B2", "momentum": "#D55E00", "adam": "#009E73", "quick": "#E69F00", "best": "#8C6BB1"}
OTHER_COLOURS = ("#CC79A7", "#66A61E", "#999933")
# Of 3, 5 and 7, so that 105 runs of one experiment differ.
SHADES = (1.0, 0.55, 1.5)  # of its colour: as it is, darker, lighter
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (7, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = "os^DvPX"
NOTEBOOK_STYLE: dict[str, Any] = {"color": "#555555", "marker": "x", "linestyle": "--"}
VALIDATION_STYLE: dict[str, Any] = {"color": "#A3508A", "marker": "d"}
FEW_CLASSES = 12  # a confusion matrix of more has smaller cells, and is larger
LARGEST = 24.0  # inches of a confusion matrix's side
MARKERS_SHOWN = 25  # at most about this many per curve: 110 would hide the line

# An untrained network of 10 classes has a loss of ln 10 = 2.3, of 256 classes one of 5.5. Where the loss spikes far
# above that, the axis is cut off here, or next above the first loss of more classes (and says so), or the spike would
# flatten everything else.
LOSS_TOP, MOST_AT_FIRST = 3.0, 6.0
STEADY = 1.1
"""A learning rate whose highest value is less than so many times its lowest is not worth a picture."""


class Quantity(NamedTuple):
    """A column of a history that is plotted, and at which end of its axis what is not finite is marked."""

    column: str
    label: str
    worst: int = 0


ACCURACY = Quantity("accuracy", "Training accuracy")
LOSS = Quantity("loss", "Training loss", worst=1)
LEARNING_RATE = Quantity("learning_rate", "Learning rate")
VALIDATION_ACCURACY = Quantity("validation_accuracy", "Validation accuracy")
VALIDATIONS = {ACCURACY: "validation_accuracy", LOSS: "validation_loss"}


class ComparedRun(NamedTuple):
    """One of several runs: its accuracies are those at its end, NaN where there is none."""

    name: str
    experiment: str
    history: History
    train_accuracy: float
    validation_accuracy: float
    test_accuracy: float


def run_figures(
    history: History, *, title: str, experiment: str, notebook: History | None = None
) -> dict[str, Figure]:
    """Return the pictures of one run by file name.

    `accuracy.png` and `loss.png`, `learning-rate.png` if it changes, and `accuracy-from-300.png` and
    `loss-from-300.png` if the run has epochs before and after that. Validation metrics and the best epoch are drawn
    where there are any. `title` names the run; `experiment` determines its colour. `notebook` is drawn beside it, up
    to the run's last epoch.
    """
    figures = {}
    for start, suffix in ((0, ""), (LATER, f"-from-{LATER}")):
        shown = history.since(start)
        if not shown or (start and not 1 < len(shown) < len(history)):
            break
        beside = notebook.since(start).until(shown.epoch[-1]) if notebook else None
        for quantity in (ACCURACY, LOSS):
            figures[f"{quantity.column}{suffix}.png"] = _run_figure(shown, quantity, title, experiment, beside)
        if not start and _changes(history.learning_rate):
            figures["learning-rate.png"] = _run_figure(history, LEARNING_RATE, title, experiment, None)
    return figures


def metrics_figure(history: History, *, title: str, experiment: str) -> Figure:
    """Return the summary picture of a run: accuracy, loss and, if it changes, learning rate, one below the other."""
    quantities = [ACCURACY, LOSS] + [LEARNING_RATE] * _changes(history.learning_rate)
    figure = titled_figure(title, (10.0, 8.0 if len(quantities) == 2 else 9.5))
    panels = figure.subplots(len(quantities), sharex=True, height_ratios=[3, 3, 1][: len(quantities)])
    for axes, quantity in zip(panels, quantities, strict=True):
        _draw_run(axes, history, quantity, experiment)
        axes.label_outer()
    legend_below(figure)
    return figure


def comparison_figures(runs: Sequence[ComparedRun], *, title: str) -> dict[str, Figure]:
    """Return pictures of several runs side by side, by file name.

    `comparison-results.png` has the accuracies at the end of each, `comparison-accuracy.png` the training accuracy
    over the epochs, `comparison-accuracy-from-700.png` that of later epochs, where there are earlier ones too, and
    `comparison-validation-accuracy.png` the validation accuracy of the runs that have one.
    """
    runs = [run for run in runs if run.history]
    if not runs:
        return {}
    # The order of the runs determines the styles, so that a run looks the same in all pictures.
    styles = dict(zip((run.name for run in runs), run_styles([run.experiment for run in runs]), strict=True))
    later = [run._replace(history=run.history.since(COMPARED_LATER)) for run in runs]
    if all(len(part.history) == len(run.history) for part, run in zip(later, runs, strict=True)):
        later = []  # the same picture
    validated = [run for run in runs if run.history.validation_accuracy]
    figures = {"comparison-results.png": _results_figure(runs, title)}
    for name, quantity, shown in (
        ("comparison-accuracy", ACCURACY, runs),
        (f"comparison-accuracy-from-{COMPARED_LATER}", ACCURACY, [run for run in later if len(run.history) > 1]),
        ("comparison-validation-accuracy", VALIDATION_ACCURACY, validated),
    ):
        if shown:
            figure = titled_figure(title, WIDE)
            axes = figure.subplots()
            for run in shown:
                draw_line(axes, run.history, quantity, short(run.name), **styles[run.name])
            finish(axes, quantity)
            legend_below(figure, least=1)  # the title names no run
            figures[f"{name}.png"] = figure
    return figures


def confusion_figure(matrix: NDArray[np.int64], *, class_names: Sequence[str], title: str) -> Figure:
    """Return the picture of a confusion matrix (rows true, columns predicted).

    Counts are text, shares of the row colours. Those of the diagonal and of the errors have scales of their own, or
    the errors would all be white. A class without samples has a blank row. The more classes, the larger the picture;
    of many, counts of 0 are left out, and where the cells become too small all counts.
    """
    classes = len(class_names)
    many = classes > FEW_CLASSES
    cell = min(0.3, LARGEST / classes)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(matrix), dtype=bool)
    height = classes * cell + 2.0 if many else 8.0
    figure = titled_figure(f"Confusion matrix\n{title}", (1.3125 * height, height))
    axes = figure.subplots()
    worst = float(shares[~right].max(initial=0.0)) or 1.0
    dark = np.zeros_like(right)
    for cells, colours, highest, label in (
        (right, "Blues", 1.0, "Share of the true class, recognised"),
        (~right, "Oranges", worst, "Share of the true class, taken for another"),
    ):
        image = axes.imshow(np.ma.masked_where(~cells, shares), cmap=colours, vmin=0, vmax=highest)
        digits = 0 if highest > 0.05 else 1
        share = min(1.0, 8.0 / height)  # of the height that a bar has beside few classes
        figure.colorbar(image, label=label, shrink=0.8 * share, fraction=0.15 * share, format=f"{{x:.{digits}%}}")
        dark |= cells & (shares > 0.6 * highest)
    names, fontsize = class_labels(class_names), min(8, int(50 * cell)) if many else 10
    upright = max(map(len, names)) < 3
    turned: dict[str, Any] = {} if upright else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(classes), names, fontsize=fontsize, **turned)
    axes.set_yticks(range(classes), names, fontsize=fontsize)
    axes.set_xlabel("Predicted class")
    axes.set_ylabel("True class")
    if cell > 0.2:
        write_cells(axes, matrix, dark, fontsize=7 if many else 10, zeros=not many)
    return figure


def run_styles(experiments: Sequence[str]) -> list[dict[str, Any]]:
    """Return a style for each run from the name of its experiment.

    Runs of one experiment share its colour, the first exactly; the others differ in shade, line and marker.
    """
    others = cycle(OTHER_COLOURS)
    colours = {name: COLOURS.get(name) or next(others) for name in dict.fromkeys(experiments)}
    order = [*COLOURS.values(), *OTHER_COLOURS]
    drawn: Counter[str] = Counter()
    styles = []
    for colour in (colours[name] for name in experiments):
        number = drawn[colour]
        styles.append(
            {
                "color": _shaded(colour, SHADES[number % len(SHADES)]),
                "linestyle": LINES[number % len(LINES)],
                "marker": MARKERS[(order.index(colour) + number) % len(MARKERS)],
            }
        )
        drawn[colour] += 1
    return styles


def draw_line(axes: Axes, history: History, quantity: Quantity, label: str, **style: Any) -> None:
    """Draw one quantity of a history with all its points, and crosses on the axis where it is not finite."""
    epochs, values = np.array(history.epoch), drawable(getattr(history, quantity.column))
    every = max(1, -(-len(epochs) // MARKERS_SHOWN))
    drawn = {"linewidth": 1.5, "markersize": 5, "markevery": every, **style}
    axes.plot(epochs, values, label=plain(label), **drawn)
    mark_not_finite(axes, epochs, ~np.isfinite(values), quantity, label, color=drawn["color"])


def mark_not_finite(
    axes: Axes, epochs: NDArray[np.int64], missing: NDArray[np.bool_], quantity: Quantity, label: str, color: str
) -> None:
    """Put a cross on the edge of the axes at each epoch that is `missing`, and say in the legend where they begin."""
    if not missing.any():
        return
    first = int(missing.argmax())
    text = f"from epoch {epochs[first]:,}" if missing[first:].all() else f"at times, first at epoch {epochs[first]:,}"
    axes.plot(
        epochs[missing],
        np.full(missing.sum(), quantity.worst),
        label=plain(f"{label}: not finite {text}"),
        color=color,
        linestyle="none",
        marker="X",
        markersize=9,
        markeredgecolor="black",
        markevery=max(1, -(-int(missing.sum()) // MARKERS_SHOWN)),
        transform=axes.get_xaxis_transform(),
        clip_on=False,
        zorder=5,
    )


def finish(axes: Axes, quantity: Quantity, label: str = "") -> None:
    """Label the axes, and cut off the loss axis where a spike of the first line would flatten the rest."""
    label = label or quantity.label
    axes.set_xlabel("Epoch")
    axes.set_ylabel(label)
    # A run that spends most of its epochs above has diverged, and is shown whole.
    first = np.nan_to_num(np.asarray(axes.lines[0].get_ydata(), dtype=float), nan=np.inf)
    middle = np.sort(first)[len(first) // 2 : len(first) // 2 + 1]  # not np.median, whose mean of two may overflow
    if quantity is LOSS and middle.size and axes.dataLim.y1 > (top := loss_top(first[0])) > middle[0]:
        axes.set_ylim(0, top)
        axes.set_ylabel(f"{label} (cut off above {top:g})")
    axes.locator_params(axis="x", integer=True)
    axes.ticklabel_format(useOffset=False)
    axes.grid(alpha=0.3)


def loss_top(first: float) -> float:
    """Return where the axis of the losses is cut off for a run that begins with the loss `first`."""
    return math.ceil(2 * first) / 2 if LOSS_TOP < first < MOST_AT_FIRST else LOSS_TOP


def legend_below(figure: Figure, least: int = 2) -> None:
    """Put one legend of all axes below them, where it hides nothing; none for fewer than `least` entries."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in entries}
    if len(entries) >= least:
        characters = 13 * figure.get_figwidth()  # in a line
        columns = max(1, min(len(entries), int(characters / (8 + max(map(len, entries))))))
        figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside lower center",
            ncols=columns,
            fontsize=9,
            frameon=False,
            handlelength=4,  # several dashes of a line
        )


def titled_figure(title: str, size: tuple[float, float]) -> Figure:
    """Return an empty figure of `size` in inches below `title`, whose lines are wrapped to fit 10 inches."""
    figure = new_figure(size, DPI)
    figure.suptitle("\n".join(textwrap.fill(line, 115) for line in plain(title).splitlines()), fontsize=11)
    return figure


def write_cells(
    axes: Axes, values: NDArray[Any], dark: NDArray[np.bool_], *, fontsize: int, zeros: bool = True
) -> None:
    """Print each value, or each but 0, into its cell of an image, in white where the cell is dark."""
    for (row, column), value in np.ndenumerate(values):
        if not value and not zeros:
            continue
        color = "white" if dark[row, column] else "black"
        axes.text(column, row, str(value), ha="center", va="center", fontsize=fontsize, color=color)


def plain(text: str) -> str:
    """Return `text` escaped so that matplotlib prints it literally: no formulas in dollars, no lone surrogates."""
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")


def short(name: str, most: int = 40) -> str:
    """Return `name`, with an ellipsis for its middle where it has more than `most` characters."""
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"


def class_labels(class_names: Sequence[str], most: int = 24) -> list[str]:
    """Return class names as a figure shows them: short, and the label instead where its font lacks a character."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return [
        plain(short(name, most)) if all(font.get_char_index(ord(sign)) for sign in name) else str(label)
        for label, name in enumerate(class_names)
    ]


def _shaded(colour: str, shade: float) -> str:
    """Return a colour such as "#0072B2" mixed with black (a shade below 1) or with white (above 1)."""
    channels = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    mixed = (channel * shade if shade <= 1 else 255 - (255 - channel) * (2 - shade) for channel in channels)
    return "#" + "".join(f"{round(channel):02X}" for channel in mixed)


def _run_figure(
    history: History, quantity: Quantity, title: str, experiment: str, notebook: History | None
) -> Figure:
    figure = titled_figure(title, WIDE)
    _draw_run(figure.subplots(), history, quantity, experiment, notebook)
    legend_below(figure)
    return figure


def _draw_run(
    axes: Axes, history: History, quantity: Quantity, experiment: str, notebook: History | None = None
) -> None:
    """Draw one quantity of a run, and what there is beside it: data loss, validation, best epoch, the notebook's."""
    (style,) = run_styles([experiment])
    draw_line(axes, history, quantity, "training", **style)
    if quantity is LOSS and any(history.regularization_loss):
        whole, penalty = np.array(history.loss), np.array(history.regularization_loss)
        with np.errstate(invalid="ignore"):  # of a diverged run both may be infinite
            data_loss = History(epoch=history.epoch, loss=(whole - penalty).tolist())
        dashed = {**style, "linestyle": "--", "marker": "", "alpha": 0.8}
        draw_line(axes, data_loss, quantity, "training, without penalty", **dashed)
    validation = getattr(history, VALIDATIONS.get(quantity, ""), [])
    if validation:
        beside = History(epoch=history.epoch)
        setattr(beside, quantity.column, validation)
        draw_line(axes, beside, quantity, "validation", **VALIDATION_STYLE)
        _mark_best(axes, history, validation)
    if notebook:
        draw_line(axes, notebook, quantity, "notebook", **NOTEBOOK_STYLE)
    finish(axes, quantity, quantity.label.removeprefix("Training ").capitalize() if validation else "")


def _mark_best(axes: Axes, history: History, validation: Sequence[float]) -> None:
    """Put a star on the validation curve at the best epoch."""
    best = history.best_epoch
    if best is not None:
        axes.plot(
            [best],
            drawable([validation[history.epoch.index(best)]]),
            label=f"best validation accuracy: {max(history.validation_accuracy):.4f} at epoch {best:,}",
            color=VALIDATION_STYLE["color"],
            linestyle="none",
            marker="*",
            markersize=13,
            markeredgecolor="black",
            zorder=4,
        )


def _results_figure(runs: Sequence[ComparedRun], title: str) -> Figure:
    """Return the picture of the accuracies at the end of each run, which has a line of its own."""
    figure = titled_figure(title, (10.0, 1.6 + 0.34 * len(runs)))
    axes = figure.subplots()
    colours = [style["color"] for style in run_styles([run.experiment for run in runs])]
    for label, marker in (("training", "o"), ("validation", "s"), ("test", "D")):
        column = f"{label.replace('training', 'train')}_accuracy"
        accuracies = np.array([getattr(run, column) for run in runs])
        if not np.isfinite(accuracies).any():
            continue
        filled = label == "test"
        style: dict[str, Any] = {"marker": marker, "facecolors": colours if filled else "none", "edgecolors": colours}
        axes.scatter(accuracies, range(len(runs)), s=45, zorder=3, **style)
        grey: dict[str, Any] = {"color": "#333333", "markerfacecolor": "#333333" if filled else "none"}
        axes.plot([], [], linestyle="none", marker=marker, label=label, **grey)
    axes.set_yticks(range(len(runs)), [plain(short(run.name)) for run in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    notes = axes.secondary_yaxis("right")
    notes.set_yticks(range(len(runs)), [_note(run) for run in runs])
    notes.tick_params(length=0)
    axes.set_xlabel("Accuracy at the end")
    axes.margins(x=0.08)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(alpha=0.3)
    legend_below(figure)
    return figure


def _note(run: ComparedRun) -> str:
    """Return the test accuracy in words, and from which epoch on the run fell if it ended in a dip."""
    tested = f"test {run.test_accuracy:.4f}" if np.isfinite(run.test_accuracy) else "test not finite"
    best = ended_in_dip(run.history, run.train_accuracy)
    return tested if best is None else f"{tested}, ended in a dip (best at epoch {best:,})"


def _changes(values: ArrayLike) -> bool:
    """Say whether a learning rate changes enough to be worth a picture."""
    numbers = drawable(values)
    finite = numbers[np.isfinite(numbers)]
    return bool(finite.size) and bool(finite.max() >= STEADY * finite.min() and finite.max() > finite.min())
