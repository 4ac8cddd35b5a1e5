"""Scaling: time, share of the GEMM rate and memory as rows, width and threads grow; each point in a fresh process.

Rows on disk are a series of their own: images with a background, in files that may be larger than the memory.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

from bench import markdown
from bench.made import write_images
from bench.markdown import Record
from bench.measure import fitted_exponent, peak_settings, rounded, summarize
from bench.pictures import COLOURS, SERIES, figure_with_axes
from bench.point import measure_disk_point, measure_point
from bench.processes import PAUSE, in_fresh_process
from bench.results import Options, save
from fmnist_xp.backend import Backend
from fmnist_xp.data.cache import cache_folder
from fmnist_xp.experiments import N_INPUTS
from fmnist_xp.machine import memory_bytes

ROWS = (6_000, 20_000, 60_000, 200_000, 600_000)
WIDTHS = (64, 128, 256, 512, 1024, 2048)
QUICK_ROWS = (1_000, 3_000, 9_000)
QUICK_WIDTHS = (32, 64, 128)
ROW_BYTES = 4 * N_INPUTS
DISK_ROWS = (60_000, 200_000, 600_000, 2_000_000, 6_000_000)
DISK_EPOCHS = 3, 20
"""Least and most epochs that are timed of a file, between which `DISK_EPOCH_ROWS` rows are gone through."""
DISK_EPOCH_ROWS = 3_000_000

Point = dict[str, Any]
"""What `measure_point` or `measure_disk_point` takes, and later what it returned."""


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
    on_disk: list[Point] = []
    if not backend.own_memory:  # the host's memory is what the files may be larger than
        on_disk, without_room = _measure_on_disk(options, backend)
        left_out += without_room
    results = {
        **{sweep: series(measured, sweep) for sweep in ("rows", "width", "threads")},
        "disk": series(on_disk, "disk"),
        "left_out": left_out,
    }
    return save("scaling", options, backend, settings, results)


def _measure_on_disk(options: Options, backend: Backend) -> tuple[list[Point], list[str]]:
    """Return the records of both experiments on files of so many rows, and in words the files that have no room.

    The files are in a temporary folder of the cache's folder, where training keeps sorted rows too.
    """
    place = cache_folder() or options.out
    place.mkdir(parents=True, exist_ok=True)
    low, high = DISK_EPOCHS
    measured, left_out = [], []
    for rows in options.disk_rows or (QUICK_ROWS if options.quick else DISK_ROWS):
        if 2 * rows * N_INPUTS > shutil.disk_usage(place).free:
            left_out.append(f"{rows:,} rows on disk: no room there for their images twice, as they are and sorted")
            continue
        with TemporaryDirectory(prefix="bench-", dir=place) as folder:
            write_images(Path(folder), rows)
            for experiment in ("sgd", "adam"):
                point = {
                    "device": backend.name,
                    "threads": backend.threads,
                    "sweep": "disk",
                    "experiment": experiment,
                    "rows": rows,
                    "epochs": low if options.quick else min(high, max(low, DISK_EPOCH_ROWS // rows)),
                    "precision": options.precision,
                }
                pause = 0 if options.quick else PAUSE
                found = in_fresh_process(measure_disk_point, {**point, "folder": folder}, pause)
                epoch = summarize(found["epoch_seconds"])
                measured.append(
                    {
                        **point,
                        **found,
                        "epoch_seconds": epoch,
                        "seconds_per_row": rounded(epoch["median"] / rows),
                        "first_epoch_seconds": rounded(found["first_epoch_seconds"]),
                        "column_share": rounded(found["column_share"]),
                    }
                )
    return measured, left_out


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
    """Return the points of one sweep by experiment."""
    found: dict[str, Any] = {}
    for point in measured:
        if point["sweep"] == sweep:
            found.setdefault(point["experiment"], {"points": []})["points"].append(point)
    return found


def draw(record: dict[str, Any]) -> Figure:
    """Return plots of time, share of the GEMM rate and memory over rows, width and threads.

    Below these, time per row, time to the end of the first epoch and memory over the rows on disk. Exponents stand
    above a plot where its points are on a power law.
    """
    sweeps = {name: found for name in ("rows", "width", "threads") if (found := record["results"][name])}
    on_disk = record["results"].get("disk", {})
    lines, columns = (4, 3) if on_disk else (3, len(sweeps))
    figure, axes = figure_with_axes(
        lines,
        columns,
        width=4.6 * columns,
        height=9.5 * lines / 3,
        title="How time and memory grow",
        record=record,
    )
    if on_disk:
        _draw_on_disk(on_disk, axes[3 * columns :])
    for ax in (ax for column in range(len(sweeps), columns) for ax in axes[column : 3 * columns : columns]):
        ax.set_axis_off()
    for column, (sweep, by_experiment) in enumerate(sweeps.items()):
        time, share, memory = axes[column : 3 * columns : columns]
        for (experiment, found), colour in zip(by_experiment.items(), SERIES, strict=False):
            points = found["points"]
            sizes = [p[sweep] for p in points]
            style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4, "label": experiment}
            time.loglog(sizes, [p["epoch_seconds"]["median"] for p in points], **style)
            low, high = ([np.quantile(p["epoch_seconds"]["samples"], q) for p in points] for q in (0.25, 0.75))
            time.fill_between(sizes, low, high, color=colour, alpha=0.2)
            share.plot(sizes, [p["fraction_of_gemm"] for p in points], **style)
            known = [p for p in points if p["memory_added_bytes"] is not None]
            memory.plot([p[sweep] for p in known], [p["memory_added_bytes"] / 1e6 for p in known], **style)
        time.set_title(_laws(by_experiment, sweep, "time"), fontsize=9)
        memory.set_title(_laws(by_experiment, sweep, "memory"), fontsize=9)
        time.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        time.yaxis.set_major_formatter("{x:g}")
        time.set_ylabel("seconds per epoch" if column == 0 else "")
        memory.set_ylabel("MB added by fit" if column == 0 else "")
        share.axhline(1, color=COLOURS["floor"], linestyle="--", label="the GEMM rate")
        share.set_ylabel("of the GEMM rate" if column == 0 else "")
        for ax in (share, memory):
            ax.set_xscale("log")
            ax.set_ylim(bottom=0)
        label = {"rows": "rows", "width": "neurons in each hidden layer", "threads": "threads"}[sweep]
        sizes = sorted({p[sweep] for found in by_experiment.values() for p in found["points"]})
        _finish((time, share, memory), label, sizes)
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    band = Patch(color="#333333", alpha=0.2, label="quartiles of the epochs, around their median")
    figure.legend(
        handles=[*handles.values(), band], loc="outside lower center", ncols=len(handles) + 1, frameon=False
    )
    return figure


def _draw_on_disk(by_experiment: dict[str, Any], axes: Sequence[Axes]) -> None:
    """Draw time per row, time to the end of the first epoch and memory over the rows on disk."""
    per_row, first, memory = axes
    for (experiment, found), colour in zip(by_experiment.items(), SERIES, strict=False):
        points = found["points"]
        style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4, "label": experiment}
        sizes = [p["rows"] for p in points]
        per_row.plot(sizes, [1e6 * p["seconds_per_row"] for p in points], **style)
        samples = [np.array(p["epoch_seconds"]["samples"]) / p["rows"] for p in points]
        low, high = ([1e6 * np.quantile(seconds, q) for seconds in samples] for q in (0.25, 0.75))
        per_row.fill_between(sizes, low, high, color=colour, alpha=0.2)
        first.loglog(sizes, [p["first_epoch_seconds"] for p in points], **style)
        known = [p for p in points if p["peak_memory_bytes"] is not None]
        memory.plot([p["rows"] for p in known], [p["peak_memory_bytes"] / 1e6 for p in known], **style)
    sizes = sorted({p["rows"] for found in by_experiment.values() for p in found["points"]})
    files = [size * N_INPUTS / 1e6 for size in sizes]
    memory.loglog(sizes, files, color="#555555", linestyle=":", label="the file on disk")
    first.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    memory.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for ax, words in (
        (per_row, "µs per row"),
        (first, "seconds to the end of the first epoch"),
        (memory, "MB of the process at most"),
    ):
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylabel(words)
        ax.set_xscale("log")
    per_row.set_ylim(bottom=0)
    _finish(axes, "rows on disk", sizes)


def _finish(axes: Sequence[Axes], label: str, sizes: Sequence[int]) -> None:
    """Give plots over `sizes` their x axis and grid."""
    for ax in axes:
        ax.set_xlabel(label)
        ax.set_xticks(sizes, [f"{size:,}" if size < 1e6 else f"{size / 1e6:g} M" for size in sizes])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)


def _laws(by_experiment: dict[str, Any], sweep: str, what: str) -> str:
    """Return in words the power laws of `what`, "time" or "memory", for those experiments that follow one."""
    found = {experiment: _exponent(one["points"], sweep, what) for experiment, one in by_experiment.items()}
    return ", ".join(f"{experiment} ∝ {sweep}^{law:.2f}" for experiment, law in found.items() if law is not None)


def _exponent(points: Sequence[Point], sweep: str, what: str) -> float | None:
    """Return the exponent of "time" or "memory" over the sizes of a sweep, None where it is no power law."""
    sizes = [point[sweep] for point in points]
    if what == "time":
        return fitted_exponent(sizes, [point["epoch_seconds"]["median"] for point in points])
    kind = "peak_memory_bytes" if "peak_memory_bytes" in points[0] else "memory_added_bytes"
    return fitted_exponent(sizes, [point[kind] or 0 for point in points])


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
        parts += _fits(found, sweep)
    if on_disk := record["results"].get("disk"):
        parts += _tables_on_disk(on_disk)
    parts += [f"- Left out: {reason}." for reason in record["results"]["left_out"]]
    return parts


def _tables_on_disk(by_experiment: Record) -> list[str]:
    """Return the sentence, the table and the exponents of rows on disk."""
    rows = [
        [
            f"{point['rows']:,}",
            experiment,
            *markdown.spread(point["epoch_seconds"]),
            f"{1e6 * point['seconds_per_row']:.2f}",
            f"{point['column_share']:.0%}",
            markdown.seconds(point["first_epoch_seconds"]),
            markdown.megabytes(point["rows"] * N_INPUTS),
            markdown.megabytes(point["peak_memory_bytes"]),
        ]
        for experiment, one in by_experiment.items()
        for point in one["points"]
    ]
    head = [
        "rows on disk", "experiment", "epoch", "min – max", "IQR", "µs/row", "columns", "to the first epoch's end",
        "MB of the file", "MB of the process",
    ]  # fmt: skip
    return [
        "Made images with a background, mapped from plain IDX files that were just written. The memory is all that\n"
        "the process held at most, Python and libraries included:\n",
        markdown.table(head, rows),
        *_fits(by_experiment, "rows"),
    ]


def _fits(by_experiment: Record, size: str) -> list[str]:
    """Return a line on how time and memory grow with `size`, or nothing where neither is a power law of it."""
    laws = {what: _laws(by_experiment, size, what) for what in ("time", "memory")}
    text = "; ".join(f"{what}: {law}" for what, law in laws.items() if law)
    return [f"{text}.\n"] if text else []
