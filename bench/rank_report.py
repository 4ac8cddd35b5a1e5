"""What the benchmark of ranks found: pictures and tables, with the model of many more ranks beside it."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench import markdown
from bench.markdown import Record
from bench.pictures import SERIES, figure_with_axes
from bench.rank_model import STATED_LINKS, Link, Model, Processor, gpu

SPEEDUP_BARS = {60_000: 1.7, 600_000: 1.85}
"""How many times as fast as one rank two have to be, by the number of rows."""
SUM_BAR = 0.05
"""The share of an epoch that the sum over the ranks may take; beyond it, Allreduce should be a choice."""
EFFICIENCY = 0.9
MODEL_RANKS = tuple(2**power for power in range(11))
HERE = "this machine"
LINKS = (HERE, *STATED_LINKS)


def models(record: Record, experiment: str) -> dict[tuple[str, int], Model]:
    """Return the models of an experiment by link and by the number of rows that one rank's rate was measured on.

    The rate is that of the operations of every column, some of which are left out. That of GPUs is a stated one.
    """
    results = record["results"]
    alone, link = results["experiments"][experiment], results["link"]
    replicated, add = (alone[key]["median"] for key in ("replicated_seconds", "add_seconds"))
    found = {}
    for point in results["points"]:
        if (point["experiment"], point["ranks"]) != (experiment, 1):
            continue
        rows = point["rows"]
        row_seconds = (point["epoch_seconds"]["median"] - replicated) / rows
        core = Processor(row_seconds, replicated, add, lambda rows: -(-rows // alone["block_rows"]))
        for name, of in {HERE: Link(link["latency"], link["bandwidth"]), **STATED_LINKS}.items():
            processor = core if of.ring is None else gpu(alone["flops_per_row"])
            found[name, rows] = Model(processor, of, link["vector_bytes"])
    return found


def fewest_rows(record: Record, experiment: str, link: str, ranks: int) -> int:
    """Return at how many rows so many ranks are still efficient, at the rate of the largest number of rows."""
    found = models(record, experiment)
    model = found[link, max(rows for _link, rows in found)]
    return model.rows_for(EFFICIENCY, ranks, record["results"]["experiments"][experiment]["block_rows"])


def draw(record: dict[str, Any]) -> Figure:
    """Return the model's time and efficiency over the ranks beside those measured, and its rows for `EFFICIENCY`."""
    results, colours = record["results"], dict(zip(LINKS, SERIES, strict=False))
    experiments = list(results["experiments"])
    title, height = "An epoch on P ranks", 3.6 * len(experiments) + 1
    figure, axes = figure_with_axes(len(experiments), 3, width=15, height=height, title=title, record=record)
    styles = dict(zip(sorted({point["rows"] for point in results["points"]}), ("--", "-"), strict=False))
    measured: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 5, "zorder": 3}
    measured |= {"color": colours[HERE], "markeredgecolor": "black"}
    for number, experiment in enumerate(experiments):
        time, efficiency, fewest = axes[3 * number : 3 * number + 3]
        for (link, rows), model in models(record, experiment).items():
            style: dict[str, Any] = {"color": colours[link], "linestyle": styles[rows], **_width(link)}
            time.plot(MODEL_RANKS, [model.seconds(rows, ranks) for ranks in MODEL_RANKS], **style)
            efficiency.plot(MODEL_RANKS, [model.efficiency(rows, ranks) for ranks in MODEL_RANKS], **style)
        for link, colour in colours.items():
            needed = [fewest_rows(record, experiment, link, ranks) for ranks in MODEL_RANKS[1:]]
            fewest.plot(MODEL_RANKS[1:], needed, color=colour, **_width(link))
        points = [point for point in results["points"] if point["experiment"] == experiment]
        counts = [point["ranks"] for point in points]
        time.plot(counts, [point["epoch_seconds"]["median"] for point in points], **measured)
        efficiency.plot(counts, [point["efficiency"] for point in points], **measured)
        efficiency.axhline(EFFICIENCY, color="#555555", linestyle=":")
        efficiency.set_ylim(0, 1.05)
        for ax, label in (
            (time, f"{experiment}: seconds per epoch"),
            (efficiency, "efficiency, T(1) / (P · T(P))"),
            (fewest, f"rows at which P ranks are {EFFICIENCY:.0%} efficient"),
        ):
            _finish(ax, label, logarithmic=ax is not efficiency)
    handles = [Line2D([], [], color=colour, label=_label(link), **_width(link)) for link, colour in colours.items()]
    for rows, line in styles.items():
        handles.append(Line2D([], [], color="#333333", linestyle=line, label=f"{rows:,} rows"))
    handles.append(Line2D([], [], label="measured", **measured))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    return figure


def _width(link: str) -> dict[str, Any]:
    """Return how a link's line is drawn: of two that are nearly the same, the first shows below the second."""
    return {"linewidth": 4, "alpha": 0.5} if link == HERE else {"linewidth": 1.5}


def _label(link: str) -> str:
    if link == HERE:
        return "model, messages as measured here"
    return f"model, {'H100 on ' if STATED_LINKS[link].ring else ''}{link} as stated"


def _finish(ax: Axes, label: str, logarithmic: bool) -> None:
    """Give a plot over `MODEL_RANKS` its axes and grid."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(MODEL_RANKS, [f"{ranks:,}" for ranks in MODEL_RANKS], fontsize=8)
    ax.set_xlabel("ranks P")
    ax.set_ylabel(label)
    if logarithmic:
        ax.set_yscale("log")
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def tables(record: Record) -> list[str]:
    """Return what was measured, the sums over the ranks, and the model's tables."""
    return [*_measured(record), *_sums(record), *_modelled(record)]


def _measured(record: Record) -> list[str]:
    settings, results = record["settings"], record["results"]
    rows = [
        [
            f"{point['rows']:,}",
            point["experiment"],
            f"{point['ranks']}",
            *markdown.spread(point["epoch_seconds"]),
            f"{point['speedup']:.2f}",
            f"{point['efficiency']:.0%}",
            markdown.seconds(_model_of(record, point).seconds(point["rows"], point["ranks"])),
            *_waiting(point),
            f"{point['column_share']:.0%}",
        ]
        for point in results["points"]
    ]
    head = [
        "rows", "experiment", "ranks", "epoch", "min – max", "IQR", "speedup", "efficiency", "the model's epoch",
        "messages and waiting", "of the time", "columns",
    ]  # fmt: skip
    widths = "-".join(map(str, results["experiments"][results["points"][0]["experiment"]]["widths"]))
    return [
        f"Ranks of {settings['threads']} thread each on one machine, {settings['mpi']}. Both experiments have the "
        f"network {widths}, and\nthe {settings['made_rows']:,} rows are made images with a background. All ranks in "
        "all runs of an experiment on the same rows\nended with the same weights, to the bit:\n",
        markdown.table(head, rows),
        *_kept(results["points"]),
    ]


def _waiting(point: Record) -> list[str]:
    """Return the time of messages and waiting and its share, dashes of a rank alone."""
    if point["ranks"] == 1:
        return ["–", "–"]
    return [markdown.seconds(point["message_seconds"]), f"{point['message_share']:.1%}"]


def _model_of(record: Record, point: Record) -> Model:
    """Return the model of what a point measured."""
    return models(record, point["experiment"])[HERE, point["rows"]]


def _kept(points: Sequence[Record]) -> list[str]:
    """Return the line on the bars of two ranks, or nothing where other numbers of rows were measured."""
    told = [
        f"{point['speedup']:.2f}× with {point['experiment']} at {point['rows']:,} rows (at least {bar}×: "
        f"{'kept' if point['speedup'] >= bar else 'missed'})"
        for point in points
        if point["ranks"] == 2 and (bar := SPEEDUP_BARS.get(point["rows"]))
    ]
    return [f"The speed of two ranks, in that of one: {', '.join(told)}.\n"] if told else []


def _sums(record: Record) -> list[str]:
    """Return the table of sums by the tree and by Allreduce, and what they cost."""
    results = record["results"]
    link, shares, rows = results["link"], [], []
    for found in results["sums"]:
        for point in results["points"]:
            if point["ranks"] != found["ranks"]:
                continue
            cells = [f"{point['ranks']}", f"{point['rows']:,}", point["experiment"]]
            for side in ("tree", "allreduce"):
                share = found[side]["median"] / point["epoch_seconds"]["median"]
                low, middle, high = (_microseconds(found[side][key]) for key in ("min", "median", "max"))
                cells += [middle, f"{low} – {high}", f"{share:.3%}"]
                shares += [share] if side == "tree" else []
            rows.append([*cells, f"{found['tree']['median'] / found['allreduce']['median']:.2f}"])
    head = [
        "ranks", "rows", "experiment", "tree, µs", "min – max", "of an epoch", "Allreduce, µs", "min – max",
        "of an epoch", "tree / Allreduce",
    ]  # fmt: skip
    replicated = " and ".join(
        f"{_microseconds(found['replicated_seconds']['median'])} µs with {name}"
        for name, found in results["experiments"].items()
    )
    return [
        f"Between two ranks a message takes {1e6 * link['latency']:.3g} µs, and its bytes "
        f"{link['bandwidth'] / 1e9:.3g} GB/s. The sum over the ranks of a vector of\n{link['vector_bytes']:,} bytes, "
        "by the tree that makes its bits those of one rank, and by MPI's Allreduce, which promises no order:\n",
        markdown.table(head, rows),
        f"The tree takes {max(shares):.2%} of an epoch at most, of {SUM_BAR:.0%} that it may: "
        f"{'kept' if max(shares) <= SUM_BAR else 'missed, so that Allreduce should be a choice'}. What every rank "
        f"does in full takes {replicated}.\n",
    ]


def _microseconds(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}"


def _modelled(record: Record) -> list[str]:
    """Return a table for each experiment: time and efficiency by link and rows, and the rows for `EFFICIENCY`."""
    stated = " and ".join(
        f"{name} ({1e6 * link.latency:.3g} µs, {link.bandwidth / 1e9:g} GB/s)" for name, link in STATED_LINKS.items()
    )
    parts = [
        f"The model (`bench/rank_model.py`), with messages as measured here, where no network is between the ranks, "
        f"and as\n**stated, not measured**, for {stated}. Ranks are\ncores as this machine's, and H100s at a stated "
        "rate where NVLink joins them: 72 at most, the rest is arithmetic.\nTime and efficiency of an epoch, and "
        f"the fewest rows at which the ranks are {EFFICIENCY:.0%} efficient, as many whole blocks on each:\n"
    ]
    for experiment in record["results"]["experiments"]:
        found = models(record, experiment)
        sizes = sorted({rows for _link, rows in found})
        rows = []
        for ranks in MODEL_RANKS:
            cells = [f"{ranks:,}"]
            for link in LINKS:
                for size in sizes:
                    model = found[link, size]
                    cells.append(f"{_short(model.seconds(size, ranks))}, {model.efficiency(size, ranks):.0%}")
                cells.append(f"{fewest_rows(record, experiment, link, ranks):,}" if ranks > 1 else "–")
            rows.append(cells)
        columns = [*(f"{size:,} rows" for size in sizes), f"{EFFICIENCY:.0%} at rows"]
        head = [f"ranks, {experiment}", *(f"{link}: {column}" for link in LINKS for column in columns)]
        parts.append(markdown.table(head, rows))
    return parts


def _short(seconds: float) -> str:
    """Return a time with three digits: a model's are no more."""
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1e3 * seconds:.3g} ms"
