"""Peers: our engine beside the notebook's arithmetic, PyTorch, JAX and scikit-learn, taking turns.

All in one process, but for the notebook's arithmetic: see `bench.baseline`.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench import baseline, processes
from bench.engines import (
    ENGINES,
    LOG_EVERY,
    Engine,
    Notebook,
    NotHereError,
    Ours,
    OursCudaGraphs,
    OursWithoutFigures,
    Task,
)
from bench.engines.base import first_line
from bench.measure import alternate, peak_settings, rounded, summarize
from bench.pictures import COLOURS, bars, figure_with_axes, seconds_in_words
from bench.results import Options, about, save
from fmnist_xp.data import preprocess
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.measure import epoch_flops, gemm_sampler

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "tf32": 1e-4, "float16": 1e-4}
"""Relative difference of two losses beyond which two programs do not compute the same, by precision.

Seen after two updates: 1e-15 in float64, 2e-6 in float32. The first loss tells in every precision whether a program
leaves out the penalty, which is 1e-3 of it.
"""
DRIFTS = {"float64": 0.0, "float32": 0.0, "tf32": 0.1, "float16": 0.1}
"""Difference beyond that which is granted after an update, as a share of how far the loss has come from the first.

TF32 and halves keep 11 bits of each operand, and Adam, which divides small gradients by their size, makes much of
what they lose: seen up to 4% of the way.
"""
LATE_DRIFTS = {"float64": 1e-6, "float32": 0.01, "tf32": 0.25, "float16": 0.25}
"""The same where a program makes `LOG_EVERY` updates before the next loss, in which what differs grows.

Seen: 1e-15 in float64, and with Adam on 6,000 rows 4e-5 in float32 and 9% in float16 (on 60,000 2e-5 and 0.4%).
"""


def run(options: Options, engines: Sequence[type[Engine]] = ENGINES) -> Path:
    """Measure each experiment and return the path of the JSON file.

    An engine that disagrees with ours, or fails, is left out and the reason recorded.
    """
    engines = wanted(engines, options.without)
    backend = replace(options, graphs=False).backend()  # graphs are a side of their own
    on_gpu = backend.name != "cpu"
    train, _ = options.load()
    X, y = preprocess(train, shuffle_seed=0)
    if options.quick:
        X, y = X[:6_000].copy(), y[:6_000].copy()
    settings: dict[str, Any] = {
        "data": about(train) | {"rows": len(X)},
        "rounds": options.rounds or (2 if options.quick else 8 if on_gpu else 12),
        "epochs_a_round_on_cpu": 1 if options.quick or on_gpu else 3,
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
        for experiment in EXPERIMENTS.values():
            network = experiment.make_network(backend, seed=0, dtype=options.precision)
            task = Task(experiment, network.state_dict(), X, y, backend, options.precision)
            results[experiment.name] = _measure(task, engines, network.widths, settings, Path(folder), gemm)
    return save("peers", options, backend, settings, results)


def wanted(engines: Sequence[type[Engine]], without: Iterable[str]) -> list[type[Engine]]:
    """Return the engines but those that `without` names, each by the whole name or, in any case, how names begin.

    Raises `ValueError` where a text is none of them.
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
    """Return what one experiment gave: samples and ratios by engine, who was left out and why, and who disagreed.

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
        except NotHereError as reason:
            left_out[kind.name] = str(reason)
        except DisagreementError as error:
            left_out[kind.name] = str(error)
            disagreed.append(kind.name)
        except Exception as error:
            left_out[kind.name] = _failure(error)

    def timed(engine: Engine) -> Callable[[], float]:
        on_gpu = task.on_gpu and engine.gpu
        epochs = settings["epochs_a_round_on_gpu" if on_gpu else "epochs_a_round_on_cpu"]
        return lambda: time_round(engine, epochs)

    def unless_it_fails(name: str, sample: Callable[[], float]) -> Callable[[], list[float]]:
        def side() -> list[float]:
            if name in left_out:
                return []
            try:
                return [sample()]
            except Exception as error:
                left_out[name] = _failure(error)
                return []

        return side

    sides = {name: timed(engine) for name, engine in engines.items()}
    if Notebook.name in sides:
        epochs = settings["epochs_a_round_on_cpu"]
        pause = settings["pause_after_notebook"]
        notebook = baseline.Rounds(folder, asdict(task.experiment), task.state, epochs, pause)
        sides[Notebook.name] = lambda: fmean(notebook())
    samples = alternate(
        {"": lambda: [gemm()], **{name: unless_it_fails(name, sample) for name, sample in sides.items()}},
        settings["rounds"],
    )
    rates = samples.pop("")
    flops = epoch_flops(widths, len(task.X))
    summaries = {
        name: {
            **summarize(seconds),
            "note": engines[name].note,
            "epochs_a_call": engines[name].epochs_a_call,
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
    """Return what is to be said of each program that was left out because it computes something else than ours."""
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
        figures = [engine.epoch() for _ in range(calls)]
        engine.synchronize()
        seconds = (time.perf_counter() - start) / (calls * engine.epochs_a_call)
    del figures  # kept until here, as a program would that prints them
    return seconds


class DisagreementError(Exception):
    """A program computes something else than ours; the message says after how many updates, and both losses."""


def references(task: Task, kinds: Iterable[type[Engine]]) -> dict[bool, list[float]]:
    """Return our losses before each of the first updates, by whether there is L2, as the `kinds` need them."""
    experiment = task.experiment
    return {
        l2: _losses(Ours(replace(task, experiment=experiment if l2 else replace(experiment, l2=0.0))), LOG_EVERY + 1)
        for l2 in {kind.l2 for kind in kinds}
    }


def check(task: Task, engine: Engine, expected: Mapping[bool, Sequence[float]]) -> list[float]:
    """Return the losses of `engine` on the task's weights and after 1 and 2 updates, or after those of one call.

    Raises `DisagreementError` where one differs from ours by more than the precision grants; engines without L2 are
    held against ours without it. Our engine is checked by the others, above all by the notebook's float64.
    """
    late = engine.epochs_a_call > 1
    updates = range(0, engine.epochs_a_call + 1, engine.epochs_a_call) if late else range(3)
    losses = _losses(engine, len(updates))
    if isinstance(engine, OursWithoutFigures):
        return []  # has none, but shall have trained as long as the rest
    first, *_ = ours = expected[engine.l2]
    granted = (LATE_DRIFTS if late else DRIFTS)[task.precision]
    for update, loss in zip(updates, losses, strict=True):
        drift = granted * abs(ours[update] - first)
        if not math.isclose(loss, ours[update], rel_tol=TOLERANCES[task.precision], abs_tol=drift):
            raise DisagreementError(
                f"it does not compute what fmnist_xp computes: {task.experiment.name} after {update} updates has the "
                f"loss {loss:.7g}, not {ours[update]:.7g}"
            )
    return [rounded(loss) for loss in losses]


def _losses(engine: Engine, calls: int) -> list[float]:
    with engine.session():
        losses = [engine.epoch()[0] for _ in range(calls)]
        engine.synchronize()
        return [float(loss) for loss in losses if loss is not None]


def _mixed(summaries: dict[str, Any]) -> float | None:
    """Return our median epoch where figures are computed every 10th time, from the two that were measured."""
    if not {Ours.name, OursWithoutFigures.name} <= summaries.keys():
        return None
    with_figures, without = (summaries[kind.name]["median"] for kind in (Ours, OursWithoutFigures))
    return rounded((with_figures + (LOG_EVERY - 1) * without) / LOG_EVERY)


def ratios(summaries: dict[str, Any], floor: float) -> dict[str, dict[str, float]]:
    """Return by engine: its median over ours, the notebook's over its, and the floor over its.

    Ours is what training does: with CUDA graphs where they were measured.
    """
    bases = {
        key: next(summaries[kind.name]["median"] for kind in kinds if kind.name in summaries)
        for key, kinds in _BASES.items()
        if any(kind.name in summaries for kind in kinds)
    }
    table = {}
    for name, summary in summaries.items():
        seconds = summary["median"]
        row = {"floor": floor / seconds}
        if "ours" in bases:
            row["ours"] = seconds / bases["ours"]
        if "notebook" in bases:
            row["notebook"] = bases["notebook"] / seconds
        table[name] = {key: float(f"{value:.3g}") for key, value in row.items()}
    return table


_BASES: dict[str, Sequence[type[Engine]]] = {"ours": (OursCudaGraphs, Ours), "notebook": (Notebook,)}


def draw(record: dict[str, Any]) -> Figure:
    """Return bars of the median epoch by experiment, with minimum and maximum, and how many times ours that is."""
    results = record["results"]
    figure, axes = figure_with_axes(1, len(results), width=14, height=4.6, title="A full-batch epoch", record=record)
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
        bars(ax, list(engines), list(engines.values()), labels, colours, names_shown=ax is axes[0])
        ax.axvline(floor, color=COLOURS["floor"], linestyle="--", label="matrix products alone")
        ax.set_title(f"{name}: {'-'.join(map(str, result['widths']))}")
    axes[0].legend(loc="lower right", fontsize=8, frameon=False)
    return figure
