"""Peers: our engine beside the notebook's arithmetic, PyTorch, JAX and scikit-learn, taking turns.

All in one process, but for the notebook's arithmetic: see `bench.baseline`.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench import baseline, processes
from bench.engines import ENGINES, Engine, Notebook, NotHereError, Ours, OursWithoutFigures, Task
from bench.measure import alternate, peak_settings, rounded, summarize
from bench.pictures import COLOURS, bars, figure_with_axes
from bench.results import Options, about, save
from fmnist_xp.data import preprocess
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.measure import epoch_flops, gemm_rate

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
LOG_EVERY = 10
"""As training logs: the share of epochs with figures in the derived row."""


def run(options: Options, engines: Sequence[type[Engine]] = ENGINES) -> Path:
    """Measure each experiment and return the path of the JSON file; an engine that disagrees is a `RuntimeError`."""
    backend = options.backend()
    on_gpu = backend.name != "cpu"
    train, _ = options.load()
    X, y = preprocess(train, shuffle_seed=0)
    if options.quick:
        X, y = X[:6_000].copy(), y[:6_000].copy()
    settings: dict[str, Any] = {
        "data": about(train) | {"rows": len(X)},
        "rounds": 2 if options.quick else 8 if on_gpu else 12,
        "epochs_a_round_on_cpu": 1 if options.quick or on_gpu else 3,
        "epochs_a_round_on_gpu": 10 if options.quick else 50,
        "pause_after_notebook": 0 if options.quick else processes.PAUSE,
        "tolerance": TOLERANCES[options.precision],
        "drift": DRIFTS[options.precision],
        "peak": peak_settings(backend, options.quick),
    }
    results = {}
    with TemporaryDirectory() as folder:
        baseline.write_rows(Path(folder), X, y)
        for experiment in EXPERIMENTS.values():
            network = experiment.make_network(backend, seed=0, dtype=options.precision)
            task = Task(experiment, network.state_dict(), X, y, backend, options.precision)
            results[experiment.name] = _measure(task, engines, network.widths, settings, Path(folder))
    return save("peers", options, backend, settings, results)


def _measure(
    task: Task, classes: Sequence[type[Engine]], widths: list[int], settings: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """Return what one experiment gave: samples and ratios by engine, and who was left out and why.

    `folder` has the rows for the notebook's processes.
    """
    engines: dict[str, Engine] = {}
    left_out: dict[str, str] = {}
    for kind in classes:
        try:
            engines[kind.name] = kind(task)
        except NotHereError as reason:
            left_out[kind.name] = str(reason)
    checked = check(task, list(engines.values()))

    def gemm() -> list[float]:
        return [1 / gemm_rate(task.backend, task.precision, **settings["peak"])]

    def timed(engine: Engine) -> Callable[[], list[float]]:
        on_gpu = task.on_gpu and engine.gpu
        epochs = settings["epochs_a_round_on_gpu" if on_gpu else "epochs_a_round_on_cpu"]
        return lambda: [time_round(engine, epochs)]

    sides = {name: timed(engine) for name, engine in engines.items()}
    if Notebook.name in sides:
        epochs = settings["epochs_a_round_on_cpu"]
        pause = settings["pause_after_notebook"]
        notebook = baseline.Rounds(folder, asdict(task.experiment), task.state, epochs, pause)
        sides[Notebook.name] = lambda: [fmean(notebook())]
    samples = alternate({"": gemm, **sides}, settings["rounds"])
    rates = [1 / seconds for seconds in samples.pop("")]
    flops = epoch_flops(widths, len(task.X))
    summaries = {
        name: {**summarize(seconds), "note": engines[name].note, **checked[name]} for name, seconds in samples.items()
    }
    return {
        "widths": widths,
        "flops_per_epoch": flops,
        "gemm_flops_per_second": summarize(rates),
        "engines": summaries,
        "seconds_logging_every_10th": _mixed(summaries),
        "ratios": ratios(summaries, flops / float(np.median(rates))),
        "left_out": left_out,
    }


def time_round(engine: Engine, epochs: int) -> float:
    """Return the mean seconds of `epochs` epochs in a row, after one to warm up."""
    with engine.session():
        engine.epoch()
        engine.synchronize()
        start = time.perf_counter()
        figures = [engine.epoch() for _ in range(epochs)]
        engine.synchronize()
        seconds = (time.perf_counter() - start) / epochs
    del figures  # kept until here, as a program would that prints them
    return seconds


def check(task: Task, engines: Sequence[Engine]) -> dict[str, dict[str, list[float]]]:
    """Return the losses of each engine on the task's weights and after 1 and 2 updates.

    Raises `RuntimeError` where one differs from ours by more than the precision grants; engines without L2 are
    held against ours without it. Our engine is checked by the others, above all by the notebook's float64.
    """
    references: dict[bool, list[float]] = {}
    found: dict[str, dict[str, list[float]]] = {}
    for engine in engines:
        if isinstance(engine, OursWithoutFigures):
            _losses(engine)  # has none, but shall have trained as long as the rest
            found[engine.name] = {"losses": []}
            continue
        if engine.l2 not in references:
            experiment = task.experiment if engine.l2 else replace(task.experiment, l2=0.0)
            references[engine.l2] = _losses(Ours(replace(task, experiment=experiment)))
        losses, expected = _losses(engine), references[engine.l2]
        for updates, (loss, ours) in enumerate(zip(losses, expected, strict=True)):
            drift = DRIFTS[task.precision] * abs(ours - expected[0])
            if not math.isclose(loss, ours, rel_tol=TOLERANCES[task.precision], abs_tol=drift):
                raise RuntimeError(
                    f"{engine.name} does not compute what fmnist_xp computes: {task.experiment.name} after {updates} "
                    f"updates has the loss {loss:.7g}, not {ours:.7g}"
                )
        found[engine.name] = {"losses": [rounded(loss) for loss in losses]}
    return found


def _losses(engine: Engine) -> list[float]:
    with engine.session():
        losses = [engine.epoch()[0] for _ in range(3)]
        engine.synchronize()
        return [float(loss) for loss in losses if loss is not None]


def _mixed(summaries: dict[str, Any]) -> float | None:
    """Return our median epoch where figures are computed every 10th time, from the two that were measured."""
    if not {Ours.name, OursWithoutFigures.name} <= summaries.keys():
        return None
    with_figures, without = (summaries[kind.name]["median"] for kind in (Ours, OursWithoutFigures))
    return rounded((with_figures + (LOG_EVERY - 1) * without) / LOG_EVERY)


def ratios(summaries: dict[str, Any], floor: float) -> dict[str, dict[str, float]]:
    """Return by engine: its median over ours, the notebook's over its, and the floor over its."""
    bases = {key: summaries[kind.name]["median"] for key, kind in _BASES.items() if kind.name in summaries}
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


_BASES: dict[str, type[Engine]] = {"ours": Ours, "notebook": Notebook}


def draw(record: dict[str, Any]) -> Figure:
    """Return bars of the median epoch by experiment, with minimum and maximum, and how many times ours that is."""
    results = record["results"]
    figure, axes = figure_with_axes(
        1, len(results), width=14, height=4.6, title="Seconds per full-batch epoch", record=record
    )
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        engines = result["engines"]
        labels = [
            f"{summary['median']:.3g} s"
            + (f" · {times:.2f}× ours" if (times := result["ratios"][engine].get("ours")) else "")
            for engine, summary in engines.items()
        ]
        colours = [COLOURS["ours"] if engine.startswith("fmnist_xp") else COLOURS["other"] for engine in engines]
        bars(ax, list(engines), list(engines.values()), labels, colours, names_shown=ax is axes[0])
        floor = result["flops_per_epoch"] / result["gemm_flops_per_second"]["median"]
        ax.axvline(floor, color=COLOURS["floor"], linestyle="--", label="matrix products alone")
        ax.set_title(f"{name}: {'-'.join(map(str, result['widths']))}")
    axes[0].legend(loc="lower right", fontsize=8, frameon=False)
    return figure
