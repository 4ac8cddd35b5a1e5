"""Commands that train: one experiment, or all three compared with the notebook."""

import itertools
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fmnist_xp.cli import options
from fmnist_xp.cli.console import out
from fmnist_xp.cli.process import Interrupted
from fmnist_xp.data import CLASS_NAMES
from fmnist_xp.experiments import EXPERIMENTS, N_INPUTS, Experiment
from fmnist_xp.machine import memory_bytes


class ExperimentName(StrEnum):
    """The names in `EXPERIMENTS`."""

    vars().update({name: name for name in EXPERIMENTS})


def train(
    experiment: Annotated[
        ExperimentName, typer.Argument(help="Which of the notebook's experiments.")
    ] = ExperimentName["adam"],
    device: options.Device = "auto",
    data: options.Data = "auto",
    no_synthetic: options.NoSynthetic = False,
    url: options.Url = None,
    epochs: Annotated[int | None, options.epochs("Full-batch updates.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the weights.")] = 0,
    precision: options.Precision = options.PrecisionName["float32"],
    log_every: Annotated[int, options.epochs("Epochs from one logged epoch to the next.")] = 10,
    out_folder: Annotated[Path | None, options.out_folder("Run folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the run that the folder holds.")] = False,
    hidden: Annotated[str | None, typer.Option(help="Widths of the hidden layers, such as 128,128.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of the first update.")] = None,
    decay: Annotated[float | None, typer.Option(help="Decay of the learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD.")] = None,
    l2: Annotated[float | None, typer.Option(help="L2 strength on the first layer.")] = None,
    threads: options.Threads = None,
    graphs: options.Graphs = None,
    block_rows: options.BlockRows = None,
    dense_rows: options.DenseRows = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the result alone.")] = False,
) -> None:
    """Train one experiment and write its run folder."""
    from fmnist_xp.data import load_fashion_mnist
    from fmnist_xp.runs import Settings, check_folder, default_folder, train_run

    chosen = _override(
        EXPERIMENTS[experiment],
        epochs=epochs,
        hidden=None if hidden is None else _widths(hidden),
        learning_rate=learning_rate,
        decay=decay,
        momentum=momentum,
        l2=l2,
    )
    backend = options.chosen_backend(device, threads, graphs)
    settings = Settings(chosen, seed, precision.value, log_every, block_rows, dense_rows)
    folder = out_folder or default_folder(settings, backend)
    backend.precision(settings.precision)  # both before anything is read or downloaded
    check_folder(folder, force)
    train_data, test_data = load_fashion_mnist(data, url=url, allow_synthetic=not no_synthetic)
    if not quiet:
        out.print(f"{train_data.name}: {len(train_data):,} + {len(test_data):,} images ({train_data.source})")
        out.print(f"{backend.name}: {backend.device_name}, {backend.manner}")
    run = train_run(settings, train_data, test_data, backend, folder, source=data, force=force, verbose=not quiet)
    result = run.result
    out.print(
        f"test accuracy {result.test_accuracy:.4f}, test loss {result.test_loss:.4f} on {test_data.name} after "
        f"{result.epochs:,} epochs in {result.total_seconds:.1f} s; written to {folder}",
    )
    if result.interrupted:
        raise Interrupted(f"interrupted: what was learned is kept in {folder}")


def reproduce(
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Seeds for each experiment.")] = 1,
    epochs: Annotated[int | None, options.epochs("Epochs instead of the notebook's 1,100.")] = None,
    device: options.Device = "auto",
    data: options.Data = "auto",
    no_synthetic: options.NoSynthetic = False,
    threads: options.Threads = None,
    graphs: options.Graphs = None,
    out_folder: Annotated[Path, options.out_folder("Folder of runs, pictures and report.")] = Path("reproduce"),
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the report alone.")] = False,
) -> None:
    """Run the three experiments and set them beside the notebook's figures."""
    from fmnist_xp.data import load_fashion_mnist
    from fmnist_xp.reproduce import reproduce as reproduce_experiments

    backend = options.chosen_backend(device, threads, graphs)
    train_data, test_data = load_fashion_mnist(data, allow_synthetic=not no_synthetic)
    report = reproduce_experiments(
        train_data, test_data, backend, out_folder, seeds=seeds, epochs=epochs, source=data, verbose=not quiet
    )
    out.print(report.read_text(encoding="utf-8"))
    out.print(f"written to {report}")


def _widths(text: str) -> tuple[int, ...]:
    widths = [part.strip() for part in text.split(",")]
    # No machine has memory for a width of ten digits, and int() refuses thousands of digits.
    if not all(width.isdecimal() and len(width) < 10 and int(width) > 0 for width in widths):
        raise options.UsageError(f"--hidden must be widths such as 128,128, got {text[:80]!r}")
    wanted = tuple(int(width) for width in widths)
    numbers = sum(inputs * neurons for inputs, neurons in itertools.pairwise((N_INPUTS, *wanted, len(CLASS_NAMES))))
    memory = memory_bytes() or 2**40
    if (needed := 8 * numbers) > memory:  # weights and their gradients, in float32
        raise options.UsageError(
            f"--hidden {text[:80]} takes {needed / 2**30:,.0f} GiB for weights and gradients alone, and this machine "
            f"has {memory / 2**30:,.0f}: choose narrower layers"
        )
    return wanted


def _override(experiment: Experiment, **overrides: Any) -> Experiment:
    """Return `experiment` with those `overrides` that are not None, checked before any data is read."""
    if overrides["momentum"] is not None and not hasattr(experiment.make_optimizer(), "momentum"):
        raise options.UsageError("--momentum is for SGD, and this experiment uses Adam: leave it out")
    chosen = replace(experiment, **{name: value for name, value in overrides.items() if value is not None})
    with options.usage():
        chosen.make_optimizer()
        if not 0 <= chosen.l2 < float("inf"):
            raise ValueError(f"--l2 must be at least 0 and finite, got {chosen.l2}")
    return chosen
