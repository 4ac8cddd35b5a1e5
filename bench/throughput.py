"""Throughput: each experiment on the device, beside what the device could do at most."""

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

from bench import baseline, processes
from bench.measure import (
    Energy,
    alternate,
    epoch_bytes,
    floor_seconds,
    peak_bytes,
    peak_settings,
    reset_peak,
    rounded,
    summarize,
)
from bench.pictures import COLOURS, bars, figure_with_axes, seconds_in_words
from bench.results import Options, about, save
from fmnist_xp.backend import Backend
from fmnist_xp.data import preprocess
from fmnist_xp.experiments import EXPERIMENTS, Experiment
from fmnist_xp.measure import copy_rate, epoch_flops, gemm_sampler, time_epochs
from fmnist_xp.model import Sequential
from fmnist_xp.optim import Optimizer
from fmnist_xp.train.history import History
from fmnist_xp.train.trainer import train

LOG_EVERY = 10


def run(options: Options) -> Path:
    """Measure every experiment and return the path of the JSON file."""
    backend = options.backend()
    on_gpu = backend.name != "cpu"
    dataset, _ = options.load()
    data = about(dataset)
    rows, labels = preprocess(dataset, shuffle_seed=0)
    del dataset
    if options.quick:
        rows, labels = rows[:6_000].copy(), labels[:6_000].copy()
    with backend.computing():
        X, y = backend.asarray(rows, dtype=backend.precision(options.precision).operands), backend.asarray(labels)
    del rows
    settings: dict[str, Any] = {
        "data": data | {"rows": len(X)},
        "rounds": options.rounds or (2 if options.quick else 10),
        "epochs_a_round": (20 if options.quick else 100) if on_gpu else (2 if options.quick else 10),
        "notebook_epochs_a_round": 0 if on_gpu else 1 if options.quick else 3,
        "pause_after_notebook": 0 if options.quick else processes.PAUSE,
        "log_every": LOG_EVERY,
        "peak": peak_settings(backend, options.quick),
        "trainings": (1 if options.quick else 5) if on_gpu else 0,
    }
    peak = settings["peak"]
    runs = {e.name: _Run(e, backend, X, y, options.precision) for e in EXPERIMENTS.values()}
    memory = {name: one.peak_memory() for name, one in runs.items()}
    joules = {name: one.joules() for name, one in runs.items()}

    gemm_rate = gemm_sampler(backend, options.precision, **peak)  # after the memory was looked at: it holds some
    sides: dict[str, Callable[[], list[float]]] = {"gemm": lambda: [gemm_rate()]}
    if on_gpu:
        sides["copy"] = lambda: [copy_rate(backend, repeats=peak["repeats"])]
    sides |= {name: one.timed(settings["epochs_a_round"]) for name, one in runs.items()}
    notebooks: dict[str, baseline.Rounds] = {}
    with TemporaryDirectory() as folder:
        if not on_gpu:
            baseline.write_rows(Path(folder), X, y)
            for name, experiment in EXPERIMENTS.items():
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
                **figures(one.network, len(X), samples[name], gemm_rates, copy_rates),
                "peak_memory_bytes": memory[name],
                "joules_per_epoch": joules[name],
                "training": runs[name].training(trainings[name]) if on_gpu else None,
            }
            for name, one in runs.items()
        },
    }
    return save("throughput", options, backend, settings, results)


class _Run:
    """An experiment that trains on and on."""

    def __init__(self, experiment: Experiment, backend: Backend, X: Any, y: Any, dtype: str) -> None:
        self._experiment, self._dtype = experiment, dtype
        self._backend, self._X, self._y = backend, X, y
        self.network, self._optimizer = self._fresh()
        self._history = History()

    def _fresh(self) -> tuple[Sequential, Optimizer]:
        network = self._experiment.make_network(self._backend, seed=0, dtype=self._dtype)
        return network, self._experiment.make_optimizer()

    def timed(self, epochs: int) -> Callable[[], list[float]]:
        return lambda: time_epochs(self.network, self._X, self._y, self._optimizer, epochs, log_every=LOG_EVERY)

    def peak_memory(self) -> int | None:
        """Return the most memory held during an epoch, rows included."""
        reset_peak(self._backend)
        self.timed(1)()
        return peak_bytes(self._backend)

    def train(self) -> list[float]:
        """Return the seconds by the clock of a whole training from its first weights; rows and kernels are there."""
        network, optimizer = self._fresh()
        self._backend.synchronize()
        started = perf_counter()
        self._history = train(
            network, self._X, self._y, epochs=self._experiment.epochs, optimizer=optimizer, log_every=LOG_EVERY
        )
        self._backend.synchronize()
        return [perf_counter() - started]

    def training(self, seconds: list[float]) -> dict[str, Any]:
        """Return what whole trainings took, and the last logged figures, null where they are no numbers."""
        last = {"loss": self._history.loss[-1], "accuracy": self._history.accuracy[-1]}
        return {
            "epochs": self._experiment.epochs,
            "seconds": summarize(seconds),
            **{name: rounded(value) if isfinite(value) else None for name, value in last.items()},
        }

    def joules(self, seconds: float = 2.0) -> float | None:
        """Return the joules of an epoch, over enough of them for the counter, which moves a few times a second."""
        energy = Energy(self._backend)
        if energy.read() is None:
            return None
        epochs = max(10, int(seconds / median(self.timed(10)())))
        before = energy.read()
        self.timed(epochs - 1)()
        after = energy.read()
        return None if before is None or after is None else rounded((after - before) / epochs)


def figures(
    network: Sequential, rows: int, seconds: list[float], gemm_rates: list[float], copy_rates: list[float] | None
) -> dict[str, Any]:
    """Return the figures of one experiment from its epochs and the rates measured between them."""
    # Nearly all that an epoch moves enters or leaves a product.
    widths, itemsize = network.widths, np.dtype(network.precision.operands).itemsize
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
        "bytes_per_epoch": epoch_bytes(widths, rows, itemsize),
        "fraction_of_bandwidth": rounded(epoch_bytes(widths, rows, itemsize) / epoch / copy) if copy else None,
        "floor_seconds": rounded(floor_seconds(widths, rows, itemsize, flops, median(gemm_rates), copy)),
    }


def draw(record: dict[str, Any]) -> Figure:
    """Return bars of the median epoch, with the floor of each."""
    experiments = record["results"]["experiments"]
    figure, (ax,) = figure_with_axes(
        1, 1, width=10, height=3.6, title="A full-batch epoch and its floor", record=record
    )
    products = "the matrix products at the GEMM rate"
    floor = f"{products}, or the bytes at the rate of a copy" if record["device"] == "cuda" else products
    names = [f"{name}\n{'-'.join(map(str, e['widths']))}" for name, e in experiments.items()]
    labels = [_label(e) for e in experiments.values()]
    summaries = [e["epoch_seconds"] for e in experiments.values()]
    bars(ax, names, summaries, labels, [COLOURS["ours"]] * len(names), unit="time of an epoch")
    for place, e in enumerate(experiments.values()):
        ax.plot(
            [e["floor_seconds"]] * 2,
            [place - 0.4, place + 0.4],
            color=COLOURS["floor"],
            linewidth=2,
            label=f"floor: {floor}, measured between the epochs" if place == 0 else None,
        )
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    return figure


def _label(experiment: dict[str, Any]) -> str:
    """Return the figures of an experiment in two lines, on a GPU three."""
    epoch, training = experiment["epoch_seconds"]["median"], experiment["training"]
    text = (
        f"{seconds_in_words(epoch)} · {experiment['samples_per_second'] / 1e3:,.0f} k samples/s\n"
        f"{experiment['flops_per_second'] / 1e9:,.0f} GFLOP/s, {experiment['fraction_of_gemm']:.0%} of the GEMM rate"
    )
    if experiment["fraction_of_bandwidth"] is not None:
        text += f", {experiment['fraction_of_bandwidth']:.0%} of the bandwidth"
    if training is not None:
        text += f"\n{training['epochs']:,} epochs in {training['seconds']['median']:.3g} s"
    return text
