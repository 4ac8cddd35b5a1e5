"""Throughput: the epochs of each experiment on the device, beside the device's limits."""

from collections.abc import Callable
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from bench import baseline, markdown, processes
from bench.markdown import Record
from bench.measure import (
    Energy,
    alternate,
    epoch_bytes,
    floor_seconds,
    fused_epoch_bytes,
    peak_settings,
    reset_peak,
    rounded,
    summarize,
)
from bench.pictures import COLOURS, bars, explain, figure_with_axes, seconds_in_words
from bench.results import Options, save
from fmnist_xp.backend import PRECISIONS, Backend
from fmnist_xp.data import Pixels
from fmnist_xp.errors import DeviceError
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS, Experiment
from fmnist_xp.measure import copy_rate, epoch_flops, gemm_sampler, time_epochs
from fmnist_xp.model import Sequential
from fmnist_xp.optim import Optimizer
from fmnist_xp.train.fused.batch import unfit
from fmnist_xp.train.fused.source import OPERANDS
from fmnist_xp.train.history import History
from fmnist_xp.train.trainer import train

LOG_EVERY = 10


def run(options: Options) -> Path:
    """Measure every experiment and return the path of the JSON file."""
    backend = options.backend()
    X, labels, data = options.rows()
    y = backend.asarray(labels)
    settings: dict[str, Any] = {
        "data": data,
        "rounds": options.rounds or (2 if options.quick else 10),
        "epochs_a_round": (20 if options.quick else 100) if backend.asynchronous else (2 if options.quick else 10),
        "notebook_epochs_a_round": 0 if backend.own_memory else 1 if options.quick else 3,
        "pause_after_notebook": 0 if options.quick else processes.PAUSE,
        "log_every": LOG_EVERY,
        "peak": peak_settings(backend, options.quick),
        "trainings": (1 if options.quick else 5) if backend.asynchronous else 0,
    }
    peak = settings["peak"]
    how = options.precision, options.engine
    runs = {e.name: _Run(e, backend, X, y, *how) for e in NOTEBOOK_EXPERIMENTS.values()}
    memory = {name: one.peak_memory() for name, one in runs.items()}
    joules = {name: one.joules() for name, one in runs.items()}

    # Of bfloat16, which the arrays lack, tensor cores multiply as many as of float16.
    of_gemm = "float16" if PRECISIONS[options.precision].fused else options.precision
    gemm_rate = gemm_sampler(backend, of_gemm, **peak)  # holds memory, and so after that was measured
    sides: dict[str, Callable[[], list[float]]] = {"gemm": lambda: [gemm_rate()]}
    if backend.own_memory:
        sides["copy"] = lambda: [copy_rate(backend, repeats=peak["repeats"])]
    sides |= {name: one.timed(settings["epochs_a_round"]) for name, one in runs.items()}
    notebooks: dict[str, baseline.Rounds] = {}
    with TemporaryDirectory() as folder:
        if settings["notebook_epochs_a_round"]:
            baseline.write_rows(Path(folder), X, labels)
            for name, experiment in NOTEBOOK_EXPERIMENTS.items():
                state = experiment.make_network(backend, seed=0).state_dict()
                notebooks[name] = sides[f"notebook {name}"] = baseline.Rounds(
                    Path(folder),
                    asdict(experiment),
                    state,
                    settings["notebook_epochs_a_round"],
                    settings["pause_after_notebook"],
                )
        samples = alternate(sides, settings["rounds"])
    trainings = alternate({name: one.train for name, one in runs.items()}, settings["trainings"])
    gemm_rates, copy_rates = samples["gemm"], samples.get("copy")
    results = {
        "gemm_flops_per_second": summarize(gemm_rates),
        "copy_bytes_per_second": summarize(copy_rates) if copy_rates else None,
        "notebook": {
            name: summarize(samples[f"notebook {name}"]) | {"first_epoch": summarize(notebook.first)}
            for name, notebook in notebooks.items()
        },
        "experiments": {
            name: {
                **metrics(one.network, len(X), samples[name], gemm_rates, copy_rates, options.engine),
                "column_share": rounded(one.column_share),
                "peak_memory_bytes": memory[name],
                "joules_per_epoch": joules[name],
                "training": one.training(trainings[name]) if trainings[name] else None,
            }
            for name, one in runs.items()
        },
    }
    return save("throughput", options, backend, settings, results)


class _Run:
    """An experiment whose network goes on training whenever it is timed."""

    def __init__(
        self, experiment: Experiment, backend: Backend, X: Pixels, y: Any, dtype: str, engine: str = "plain"
    ) -> None:
        """Raise `DeviceError` where the fused engine, which is to be measured, would not train."""
        self._experiment, self._dtype, self._engine = experiment, dtype, engine
        self._backend, self._X, self._y = backend, X, y
        self.network, self._optimizer = self._fresh()
        if engine == "fused" and (why := unfit(self.network, self._optimizer)):
            raise DeviceError(f"the fused engine does not take {why}")
        self._history = History()
        self.column_share = 1.0

    def _fresh(self) -> tuple[Sequential, Optimizer]:
        network = self._experiment.make_network(self._backend, seed=0, dtype=self._dtype)
        return network, self._experiment.make_optimizer()

    def timed(self, epochs: int) -> Callable[[], list[float]]:
        def seconds() -> list[float]:
            what = self.network, self._X, self._y, self._optimizer
            timed = time_epochs(*what, epochs, log_every=LOG_EVERY, engine=self._engine)
            self.column_share = timed.column_share
            return timed.seconds

        return seconds

    def peak_memory(self) -> int | None:
        """Return the most memory held during an epoch, rows included."""
        reset_peak(self._backend)
        self.timed(1)()
        return self._backend.peak_memory()

    def train(self) -> list[float]:
        """Return the wall time of a whole training run from bytes in the host's memory, with the kernels compiled."""
        network, optimizer = self._fresh()
        self._backend.synchronize()
        started = perf_counter()
        self._history = train(
            network,
            self._X,
            self._y,
            epochs=self._experiment.epochs,
            optimizer=optimizer,
            log_every=LOG_EVERY,
            engine=self._engine,
            keep_going=True,  # all epochs, whatever becomes of the loss
        )
        self._backend.synchronize()
        return [perf_counter() - started]

    def training(self, seconds: list[float]) -> dict[str, Any]:
        """Return the record of whole training runs; the last loss and accuracy are None where they are not finite."""
        last = {"loss": self._history.loss[-1], "accuracy": self._history.accuracy[-1]}
        return {
            "epochs": self._experiment.epochs,
            "seconds": summarize(seconds),
            **{name: rounded(value) if isfinite(value) else None for name, value in last.items()},
        }

    def joules(self, seconds: float = 2.0) -> float | None:
        """Return the joules of an epoch, averaged over `seconds`: the counter is updated a few times a second."""
        energy = Energy(self._backend)
        if energy.read() is None:
            return None
        epochs = max(10, int(seconds / median(self.timed(10)())))
        before = energy.read()
        self.timed(epochs - 1)()
        after = energy.read()
        return None if before is None or after is None else rounded((after - before) / epochs)


def metrics(
    network: Sequential,
    rows: int,
    seconds: list[float],
    gemm_rates: list[float],
    copy_rates: list[float] | None,
    engine: str = "plain",
) -> dict[str, Any]:
    """Return the record of one experiment's epochs, from their seconds and the rates measured between them."""
    widths = network.widths
    if engine == "fused":
        moved = fused_epoch_bytes(widths, rows, OPERANDS[network.dtype][1])
    else:  # in the operands' dtype: nearly all bytes that an epoch moves enter or leave a product
        moved = epoch_bytes(widths, rows, np.dtype(network.precision.operands).itemsize)
    flops = epoch_flops(widths, rows)
    summary = summarize(seconds)
    epoch = summary["median"]
    copy = median(copy_rates) if copy_rates else None
    return {
        "widths": widths,
        "epoch_seconds": summary,
        "epochs_per_second": rounded(1 / epoch),
        "samples_per_second": rounded(rows / epoch),
        "flops_per_epoch": flops,
        "flops_per_second": rounded(flops / epoch),
        "fraction_of_gemm": rounded(flops / epoch / median(gemm_rates)),
        "fraction_of_best_gemm": rounded(flops / epoch / max(gemm_rates)),
        "bytes_per_epoch": moved,
        "fraction_of_bandwidth": rounded(moved / epoch / copy) if copy else None,
        "floor_seconds": rounded(floor_seconds(flops, moved, median(gemm_rates), copy)),
    }


def draw(record: dict[str, Any]) -> Figure:
    """Return bars of the median epoch, with the floor of each."""
    experiments, copy = record["results"]["experiments"], record["results"]["copy_bytes_per_second"]
    figure, (ax,) = figure_with_axes(
        1, 1, width=10, height=3.6, title="A full-batch epoch and its floor", record=record
    )
    products = "the matrix products of every column at the GEMM rate"
    floor = f"{products}, or the bytes at the rate of a copy" if copy else products
    names = [f"{name}\n{'-'.join(map(str, e['widths']))}" for name, e in experiments.items()]
    labels = [_label(e) for e in experiments.values()]
    summaries = [e["epoch_seconds"] for e in experiments.values()]
    floors = [e["floor_seconds"] for e in experiments.values()]
    bars(ax, names, summaries, labels, [COLOURS["ours"]] * len(names), floors=floors, unit="time of an epoch")
    for place, seconds in enumerate(floors):
        (line,) = ax.plot([seconds] * 2, [place - 0.4, place + 0.4], color=COLOURS["floor"], linewidth=2)
    line.set_label(f"floor: {floor}")
    explain(figure, line)
    return figure


def _label(experiment: dict[str, Any]) -> str:
    """Return the metrics of an experiment in two lines, on a GPU three."""
    epoch, training = experiment["epoch_seconds"]["median"], experiment["training"]
    share = experiment.get("column_share", 1)  # older records do not say
    columns = f", {share:.0%} of the columns" if share < 1 else ""
    text = (
        f"{seconds_in_words(epoch)} · {experiment['samples_per_second'] / 1e3:,.0f} k samples/s{columns}\n"
        f"{experiment['flops_per_second'] / 1e9:,.0f} GFLOP/s, {experiment['fraction_of_gemm']:.0%} of the GEMM rate"
    )
    if experiment["fraction_of_bandwidth"] is not None:
        text += f", {experiment['fraction_of_bandwidth']:.0%} of the bandwidth"
    if training is not None:
        text += f"\n{training['epochs']:,} epochs in {training['seconds']['median']:.3g} s"
    return text


def tables(record: Record) -> list[str]:
    """Return the tables of a throughput file."""
    found = record["results"]
    gemm, copy = found["gemm_flops_per_second"], found["copy_bytes_per_second"]
    rows = [
        [
            f"{name}, {'-'.join(map(str, e['widths']))}",
            *markdown.spread(e["epoch_seconds"]),
            f"{e['epochs_per_second']:.3g}",
            f"{e['samples_per_second'] / 1e3:,.0f} k",
            f"{e['flops_per_second'] / 1e9:,.0f}",
            markdown.number(e.get("column_share"), ".0%"),
            f"{e['fraction_of_gemm']:.2f}",
            f"{e['fraction_of_best_gemm']:.2f}",
            markdown.number(e["fraction_of_bandwidth"], ".2f"),
            f"{e['floor_seconds'] / e['epoch_seconds']['median']:.2f}",
            markdown.megabytes(e["peak_memory_bytes"]),
            markdown.number(e["joules_per_epoch"], ".3g"),
        ]
        for name, e in found["experiments"].items()
    ]
    head = [
        "experiment", "epoch", "min – max", "IQR", "epochs/s", "samples/s", "GFLOP/s", "columns", "of the GEMM rate",
        "of its best", "of the bandwidth", "floor / epoch", "peak MB", "J/epoch",
    ]  # fmt: skip
    rates = f"GEMM rate: median {gemm['median'] / 1e9:,.0f}, best {gemm['max'] / 1e9:,.0f} GFLOP/s."
    if copy:
        rates += f" Copy: median {copy['median'] / 1e9:,.0f} GB/s."
    lines = [markdown.table(head, rows), rates + "\n"]
    if notebook := found.get("notebook"):
        ours = {name: e["epoch_seconds"]["median"] for name, e in found["experiments"].items()}
        rows = [
            [
                name,
                *markdown.spread(theirs),
                f"{theirs['median'] / ours[name]:.2f}",
                markdown.seconds(theirs["first_epoch"]["median"]),
                f"{theirs['first_epoch']['median'] / ours[name]:.2f}",
            ]
            for name, theirs in notebook.items()
        ]
        head = ["experiment", "epoch", "min – max", "IQR", "× ours", "first epoch", "× ours"]
        lines.append("The notebook's arithmetic in plain NumPy, in processes of its own between the same epochs:\n")
        lines.append(markdown.table(head, rows))
    return lines
