"""Scaling: time, share of the GEMM rate and memory as rows, width and threads grow; each point in a fresh process."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from bench import markdown
from bench.markdown import Record
from bench.measure import fitted_exponent, peak_settings, rounded, summarize
from bench.pictures import COLOURS, SERIES, figure_with_axes
from bench.point import measure_point
from bench.processes import PAUSE, in_fresh_process
from bench.results import Options, save
from fmnist_xp.backend import Backend
from fmnist_xp.experiments import N_INPUTS
from fmnist_xp.machine import memory_bytes

ROWS = (6_000, 20_000, 60_000, 200_000, 600_000)
WIDTHS = (64, 128, 256, 512, 1024, 2048)
QUICK_ROWS = (1_000, 3_000, 9_000)
QUICK_WIDTHS = (32, 64, 128)
ROW_BYTES = 4 * N_INPUTS

Point = dict[str, Any]
"""What `measure_point` takes, and later what it returned."""


def run(options: Options) -> Path:
    """Measure every point once a round and return the path of the JSON file."""
    backend = options.backend()
    points, left_out = plan(backend, options.quick)
    settings: dict[str, Any] = {
        "data": {"name": "made"},
        "rounds": 1 if options.quick else 2,
        "epochs": 2 if options.quick else 50 if backend.asynchronous else 5,
        "peak": peak_settings(backend, options.quick),
        "pause": 0 if options.quick or backend.own_memory else PAUSE,
    }
    asked = {"precision": options.precision, "epochs": settings["epochs"], "peak": settings["peak"]}
    samples: list[list[Point]] = [[] for _ in points]
    for _ in range(settings["rounds"]):
        for point, found in zip(points, samples, strict=True):
            found.append(in_fresh_process(measure_point, {**point, **asked}, settings["pause"]))
    measured = [{**point, **combined(found)} for point, found in zip(points, samples, strict=True)]
    results = {**{sweep: series(measured, sweep) for sweep in ("rows", "width", "threads")}, "left_out": left_out}
    return save("scaling", options, backend, settings, results)


def combined(found: Sequence[Point]) -> dict[str, Any]:
    """Return one record of what the processes of one point measured."""
    flops = found[0]["flops_per_epoch"]
    epoch = summarize([seconds for one in found for seconds in one["epoch_seconds"]])
    gemm = median(one["gemm_flops_per_second"] for one in found)
    memory = [one["memory_added_bytes"] for one in found if one["memory_added_bytes"] is not None]
    return {
        "flops_per_epoch": flops,
        "epoch_seconds": epoch,
        "gemm_flops_per_second": rounded(gemm),
        "fraction_of_gemm": rounded(flops / epoch["median"] / gemm),
        "memory_added_bytes": max(memory, default=None),
    }


def plan(backend: Backend, quick: bool) -> tuple[list[Point], list[str]]:
    """Return the points to measure, and in words those that do not fit into this machine's memory."""
    row_counts, widths = (QUICK_ROWS, QUICK_WIDTHS) if quick else (ROWS, WIDTHS)
    some = row_counts[-1] if quick else 60_000
    threads = backend.threads
    points: list[Point] = []
    left_out = []
    memory = memory_bytes()
    base = {"device": backend.name, "threads": threads}
    for rows in row_counts:
        if memory and rows * ROW_BYTES > memory / 2:
            left_out.append(f"{rows:,} rows: more than half of this machine's memory")
            continue
        points += [{**base, "sweep": "rows", "experiment": e, "rows": rows} for e in ("sgd", "adam")]
    points += [{**base, "sweep": "width", "experiment": "sgd", "rows": some, "width": width} for width in widths]
    if not backend.asynchronous:  # the work is done by threads of the host
        counts = sorted({2**power for power in range(threads.bit_length())} | {threads})
        points += [
            {**base, "sweep": "threads", "experiment": e, "rows": some, "threads": count}
            for e in ("sgd", "adam")
            for count in counts
        ]
    return points, left_out


def series(measured: Sequence[Point], sweep: str) -> dict[str, Any]:
    """Return the points of one sweep by experiment, with the exponents of time and of memory."""
    found = {}
    for experiment in dict.fromkeys(p["experiment"] for p in measured if p["sweep"] == sweep):
        points = [p for p in measured if p["sweep"] == sweep and p["experiment"] == experiment]
        sizes = [p[sweep] for p in points]
        found[experiment] = {
            "points": points,
            "time_exponent": fitted_exponent(sizes, [p["epoch_seconds"]["median"] for p in points]),
            "memory_exponent": fitted_exponent(sizes, [p["memory_added_bytes"] or 0 for p in points]),
        }
    return found


def draw(record: dict[str, Any]) -> Figure:
    """Return plots of time, share of the GEMM rate and memory over rows, width and threads, with fitted exponents."""
    sweeps = {name: found for name in ("rows", "width", "threads") if (found := record["results"][name])}
    figure, axes = figure_with_axes(
        3, len(sweeps), width=4.6 * len(sweeps), height=9.5, title="How time and memory grow", record=record
    )
    for column, (sweep, by_experiment) in enumerate(sweeps.items()):
        time, share, memory = axes[column :: len(sweeps)]
        for (experiment, found), colour in zip(by_experiment.items(), SERIES, strict=False):
            points = found["points"]
            sizes = [p[sweep] for p in points]
            style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4}
            seconds = [p["epoch_seconds"]["median"] for p in points]
            time.loglog(sizes, seconds, label=_label(experiment, sweep, found["time_exponent"]), **style)
            low, high = ([p["epoch_seconds"][end] for p in points] for end in ("min", "max"))
            time.fill_between(sizes, low, high, color=colour, alpha=0.2)
            share.plot(sizes, [p["fraction_of_gemm"] for p in points], label=experiment, **style)
            known = [p for p in points if p["memory_added_bytes"] is not None]
            megabytes = [p["memory_added_bytes"] / 1e6 for p in known]
            label = _label(experiment, sweep, found["memory_exponent"])
            memory.plot([p[sweep] for p in known], megabytes, label=label, **style)
        time.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        time.yaxis.set_major_formatter("{x:g}")
        time.set_ylabel("seconds per epoch" if column == 0 else "")
        memory.set_ylabel("MB added by fit" if column == 0 else "")
        share.axhline(1, color=COLOURS["floor"], linestyle="--")
        share.set_ylabel("of the GEMM rate" if column == 0 else "")
        for ax in (share, memory):
            ax.set_xscale("log")
            ax.set_ylim(bottom=0)
        for ax in (time, share, memory):
            ax.set_xlabel({"rows": "rows", "width": "neurons in each hidden layer", "threads": "threads"}[sweep])
            sizes = sorted({p[sweep] for found in by_experiment.values() for p in found["points"]})
            ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
            ax.minorticks_off()
            ax.grid(alpha=0.3)
            ax.legend(fontsize=8)
            ax.spines[["top", "right"]].set_visible(False)
    return figure


def _label(experiment: str, sweep: str, exponent: float | None) -> str:
    return experiment if exponent is None else f"{experiment}: ∝ {sweep}^{exponent:.2f}"


def tables(record: Record) -> list[str]:
    """Return the tables of a scaling file, one a sweep."""
    parts = []
    for sweep in ("rows", "width", "threads"):
        found = record["results"][sweep]
        if not found:
            continue
        rows = [
            [
                f"{point[sweep]:,}",
                experiment,
                *markdown.spread(point["epoch_seconds"]),
                f"{point['flops_per_epoch'] / point['epoch_seconds']['median'] / 1e9:,.0f}",
                markdown.number(point.get("fraction_of_gemm"), ".2f"),
                markdown.megabytes(point["memory_added_bytes"]),
            ]
            for experiment, one in found.items()
            for point in one["points"]
        ]
        head = [
            sweep, "experiment", "epoch", "min – max", "IQR", "GFLOP/s", "of the GEMM rate", "MB added by fit",
        ]  # fmt: skip
        parts.append(markdown.table(head, rows))
        fits = [
            f"{experiment}: "
            + ", ".join(f"{what} ∝ {sweep}^{_exponent(one[f'{what}_exponent'])}" for what in ("time", "memory"))
            for experiment, one in found.items()
        ]
        parts.append(f"{'; '.join(fits)}.\n")
    parts += [f"- Left out: {reason}." for reason in record["results"]["left_out"]]
    return parts


def _exponent(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"
