"""Peers: our engine beside the notebook's arithmetic, PyTorch, JAX and scikit-learn, taking turns.

All run in this process but the notebook's arithmetic: see `bench.baseline`.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench import baseline, markdown, processes
from bench.agreement import DRIFTS, LATE_DRIFTS, TOLERANCES, DisagreementError, check, references
from bench.engines import (
    ENGINES,
    LOG_EVERY,
    Engine,
    Notebook,
    NotHereError,
    Ours,
    OursCudaGraphs,
    OursDense,
    OursFused,
    OursWithoutMetrics,
    Task,
)
from bench.engines.base import first_line
from bench.markdown import Record
from bench.measure import alternate, peak_settings, rounded, summarize
from bench.pictures import COLOURS, bars, explain, figure_with_axes, seconds_in_words
from bench.results import Options, save
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.measure import epoch_flops, gemm_sampler


def run(options: Options, engines: Sequence[type[Engine]] = ENGINES) -> Path:
    """Measure each experiment and return the path of the JSON file.

    An engine that disagrees with ours, or fails, is left out and the reason recorded.
    """
    engines = wanted(engines, options.without)
    backend = replace(options, graphs=False).backend()  # graphs are a side of their own
    X, y, data = options.rows()
    settings: dict[str, Any] = {
        "data": data,
        "rounds": options.rounds or (2 if options.quick else 8 if backend.asynchronous else 12),
        "epochs_a_round_on_cpu": 1 if options.quick or backend.asynchronous else 3,
        "epochs_a_round_on_gpu": 10 if options.quick else 50,
        "pause_after_notebook": 0 if options.quick else processes.PAUSE,
        "tolerance": TOLERANCES[options.precision],
        "drift": DRIFTS[options.precision],
        "late_drift": LATE_DRIFTS[options.precision],
        "peak": peak_settings(backend, options.quick),
    }
    results = {}
    gemm = gemm_sampler(backend, options.precision, **settings["peak"])
    with TemporaryDirectory() as folder:
        if Notebook in engines:
            baseline.write_rows(Path(folder), X, y)
        for experiment in NOTEBOOK_EXPERIMENTS.values():
            network = experiment.make_network(backend, seed=0, dtype=options.precision)
            task = Task(experiment, network.state_dict(), X, y, backend, options.precision)
            results[experiment.name] = _measure(task, engines, network.widths, settings, Path(folder), gemm)
    return save("peers", options, backend, settings, results)


def wanted(engines: Sequence[type[Engine]], without: Iterable[str]) -> list[type[Engine]]:
    """Return the engines without those that `without` names: each by its name, or several by how theirs begin.

    The case of a beginning does not matter. Raises `ValueError` for a text that fits no name.
    """
    names = [kind.name for kind in engines]
    for text in without:
        found = [text] if text in names else [name for name in names if name.lower().startswith(text.lower())]
        if not text or not found:
            raise ValueError(f"no side's name begins with {text!r}: there are {'; '.join(names)}")
        engines = [kind for kind in engines if kind.name not in found]
    return list(engines)


def _measure(
    task: Task,
    classes: Sequence[type[Engine]],
    widths: list[int],
    settings: dict[str, Any],
    folder: Path,
    gemm: Callable[[], float],
) -> dict[str, Any]:
    """Return the record of one experiment: samples and ratios by engine, who was left out and why, and who disagreed.

    `folder` has the rows for the notebook's processes, and `gemm` samples the rate of large products.
    """
    engines: dict[str, Engine] = {}
    losses: dict[str, list[float]] = {}
    left_out: dict[str, str] = {}
    disagreed: list[str] = []
    expected = references(task, classes)
    for kind in classes:
        try:
            engine = kind(task)
            losses[kind.name] = check(task, engine, expected)
            engines[kind.name] = engine
        except (NotHereError, DisagreementError) as reason:
            left_out[kind.name] = str(reason)
            disagreed += [kind.name] * isinstance(reason, DisagreementError)
        except Exception as error:
            left_out[kind.name] = _failure(error)

    def timed(engine: Engine) -> Callable[[], float]:
        device = "gpu" if task.on_gpu and engine.gpu else "cpu"
        return partial(time_round, engine, settings[f"epochs_a_round_on_{device}"])

    def unless_it_fails(name: str, sample: Callable[[], float]) -> list[float]:
        if name not in left_out:
            try:
                return [sample()]
            except Exception as error:
                left_out[name] = _failure(error)
        return []

    sides = {name: timed(engine) for name, engine in engines.items()}
    if Notebook.name in sides:
        turn = settings["epochs_a_round_on_cpu"], settings["pause_after_notebook"]
        notebook = baseline.Rounds(folder, asdict(task.experiment), task.state, *turn)
        sides[Notebook.name] = lambda: fmean(notebook())
    turns = {"": lambda: [gemm()]} | {name: partial(unless_it_fails, name, side) for name, side in sides.items()}
    samples = alternate(turns, settings["rounds"])
    rates = samples.pop("")
    flops = epoch_flops(widths, len(task.y))
    summaries = {
        name: {
            **summarize(seconds),
            "note": engines[name].note,
            "epochs_a_call": engines[name].epochs_a_call,
            "column_share": rounded(engines[name].column_share),
            "losses": losses[name],
        }
        for name, seconds in samples.items()
        if name not in left_out
    }
    return {
        "widths": widths,
        "flops_per_epoch": flops,
        "gemm_flops_per_second": summarize(rates),
        "engines": summaries,
        "seconds_logging_every_10th": _mixed(summaries),
        "ratios": ratios(summaries, flops / float(np.median(rates))),
        "left_out": left_out,
        "disagreed": disagreed,
    }


def _failure(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {first_line(error)}"


def disagreements(record: dict[str, Any]) -> list[str]:
    """Return a sentence on each program that was left out because it computes something else than ours."""
    return [
        f"{name}: {result['left_out'][name]}" for result in record["results"].values() for name in result["disagreed"]
    ]


def time_round(engine: Engine, epochs: int) -> float:
    """Return the mean seconds of at least `epochs` epochs in a row, after one call to warm up."""
    calls = math.ceil(epochs / engine.epochs_a_call)
    with engine.session():
        engine.epoch()
        engine.synchronize()
        start = time.perf_counter()
        metrics = [engine.epoch() for _ in range(calls)]
        engine.synchronize()
        seconds = (time.perf_counter() - start) / (calls * engine.epochs_a_call)
    del metrics  # kept until here, as by a program that prints them
    return seconds


def _mixed(summaries: dict[str, Any]) -> float | None:
    """Return our median epoch with metrics every 10th time, from the medians with and without them."""
    if not {Ours.name, OursWithoutMetrics.name} <= summaries.keys():
        return None
    with_metrics, without = (summaries[kind.name]["median"] for kind in (Ours, OursWithoutMetrics))
    return rounded((with_metrics + (LOG_EVERY - 1) * without) / LOG_EVERY)


def ratios(summaries: dict[str, Any], floor: float) -> dict[str, dict[str, float]]:
    """Return for each engine its median over ours, the notebook's over its own, and the floor over its own.

    Ours is as `train` runs: with CUDA graphs where these were measured.
    """
    medians = {name: summary["median"] for name, summary in summaries.items()}
    ours, notebook = medians.get(OursCudaGraphs.name, medians.get(Ours.name)), medians.get(Notebook.name)
    found = {}
    for name, seconds in medians.items():
        row = {"floor": floor / seconds}
        if ours:
            row["ours"] = seconds / ours
        if notebook:
            row["notebook"] = notebook / seconds
        found[name] = {key: rounded(value, 3) for key, value in row.items()}
    return found


def draw(record: dict[str, Any]) -> Figure:
    """Return bars of the median epoch by experiment, and how many times ours that is."""
    results = record["results"]
    figure, axes = figure_with_axes(1, len(results), width=14, height=4.6, title="A full-batch epoch", record=record)
    broken = False
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        engines = result["engines"]
        floor = result["flops_per_epoch"] / result["gemm_flops_per_second"]["median"]
        beside = ratios(engines, floor)
        labels = [
            seconds_in_words(summary["median"])
            + (f" · {times:.2f}× ours" if (times := beside[engine].get("ours")) else "")
            for engine, summary in engines.items()
        ]
        colours = [COLOURS["ours"] if engine.startswith("fmnist_xp") else COLOURS["other"] for engine in engines]
        shown: dict[str, Any] = {"floors": [floor] * len(engines), "names_shown": ax is axes[0]}
        broken |= bars(ax, list(engines), list(engines.values()), labels, colours, broken=True, **shown)
        words = "floor: the matrix products of every column, at the GEMM rate"
        line = ax.axvline(floor, color=COLOURS["floor"], linestyle="--", label=words)
        ax.set_title(f"{name}: {'-'.join(map(str, result['widths']))}")
    explain(figure, line, broken=broken)
    return figure


def tables(record: Record) -> list[str]:
    """Return the tables of a peers file, one an experiment."""
    parts = []
    notes: dict[tuple[str, str], list[str]] = {}
    left_out: dict[tuple[str, str], list[str]] = {}
    for name, result in record["results"].items():
        rows = []
        for engine, summary in result["engines"].items():
            ratio = result["ratios"][engine]
            times = [f"{ratio[key]:.2f}" if key in ratio else "–" for key in ("ours", "notebook", "floor")]
            rows.append([engine, *markdown.spread(summary), *times, _frequency(summary)])
            if summary["note"]:
                notes.setdefault((engine, summary["note"]), []).append(name)
        for engine, reason in result["left_out"].items():
            left_out.setdefault((engine, reason), []).append(name)
        parts.append(f"**{name}**, {'-'.join(map(str, result['widths']))}\n")
        parts += _fastest_frameworks(result)
        head = ["", "epoch", "min – max", "IQR", "× ours", "times the notebook's speed", "floor / epoch", "metrics"]
        parts.append(markdown.table(head, rows))
        if result["seconds_logging_every_10th"] is not None:
            seconds = markdown.seconds(result["seconds_logging_every_10th"])
            graphs = any(_calls(e) > 1 for engine, e in result["engines"].items() if engine.startswith("fmnist_xp"))
            when = "but without CUDA graphs" if graphs else "as `train` logs"
            parts.append(f"fmnist_xp with metrics in every 10th epoch, {when}: {seconds} an epoch.\n")
    granted = record["settings"].get("drift", 0.0)
    drift = f", or to {granted:.0%} of what the updates made of them" if granted else ""
    shares = [e.get("column_share", 1) for result in record["results"].values() for e in result["engines"].values()]
    if min(shares, default=1) < 1:
        parts.append(
            "The peers multiply every column of every row: none of them knows that the order of rows is free. The\n"
            "floor is that of every column too, so floor / epoch may exceed 1.\n"
        )
    parts.append(
        "Loss and accuracy are computed in every epoch by all, unless noted. All were checked before: their losses\n"
        "on the same weights, and after one and two updates, agree with ours to "
        f"{record['settings']['tolerance']:g} relative{drift}.\n"
    )
    if late := record["settings"].get("late_drift"):
        parts.append(
            f"Where several epochs are one call, their loss after one call does, to {late:g} of what it changed.\n"
        )

    def where(experiments: Sequence[str]) -> str:
        return "" if len(experiments) == len(record["results"]) else f" ({', '.join(experiments)})"

    parts += [f"- {engine}{where(names)}: {note}." for (engine, note), names in notes.items()]
    parts += [f"- {engine}{where(names)}: left out, {reason}." for (engine, reason), names in left_out.items()]
    return [*parts, " "] if notes or left_out else parts


def _calls(summary: Record) -> int:
    """Return how many epochs one call made: one in older files, which do not say."""
    return int(summary.get("epochs_a_call", 1))


def _frequency(summary: Record) -> str:
    """Return how often a program computed loss and accuracy."""
    if not summary["losses"]:
        return "none"
    return "every epoch" if _calls(summary) == 1 else f"every {_calls(summary)}th"


def _fastest_frameworks(result: Record) -> list[str]:
    """Return a sentence on the fastest of PyTorch, JAX and scikit-learn, beside ours with metrics as often.

    One for those with metrics in every epoch, and one for each number of epochs that some make in one call: there
    ours is the fastest of the plain engine that does so too, or what its epochs with and without metrics come to.
    Ours with dense rows, which has metrics in every epoch, and the fused engine stand beside.
    """
    sentences = []
    for calls in sorted({_calls(summary) for summary in result["engines"].values()}):
        medians = {name: e["median"] for name, e in result["engines"].items() if _calls(e) == calls and e["losses"]}
        found = {name: m for name, m in medians.items() if name.startswith(("PyTorch", "JAX", "scikit-learn"))}
        if calls == 1:
            ours, when, alone = medians.get(Ours.name), "", ""
        else:
            alike = [m for name, m in medians.items() if name.startswith("fmnist_xp") and name != OursFused.name]
            ours = min(alike, default=result["seconds_logging_every_10th"])
            when, alone = f" with metrics in every {calls}th epoch", " and metrics in every epoch"
        if found and ours:
            fastest = min(found, key=lambda name: found[name])
            times = f"{found[fastest] / ours:.2f}× our time"
            if dense := result["engines"].get(OursDense.name):
                times += f", and {found[fastest] / dense['median']:.2f}× that with dense rows{alone}"
            if fused := medians.get(OursFused.name):
                times += f", and {found[fastest] / fused:.2f}× that of the fused engine"
            sentences.append(f"The fastest of the frameworks{when}, {fastest}, takes {times}.\n")
    return sentences
