"""Commands that train: one experiment, or all of them over several seeds."""

import math
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fmnist_xp.cli import options
from fmnist_xp.cli.console import out, print_json
from fmnist_xp.cli.process import Interrupted
from fmnist_xp.errors import FmnistXpError
from fmnist_xp.experiments import EXPERIMENTS, Experiment
from fmnist_xp.launcher import launched

if TYPE_CHECKING:
    from fmnist_xp.backend import Backend
    from fmnist_xp.data import Dataset
    from fmnist_xp.ranks import Ranks
    from fmnist_xp.runs import Run, Settings

NETWORK, VALIDATION, RUN = "Network and optimizer", "Validation", "Run"
EXAMPLES = """\b
Examples:
  fmnist-xp train
  fmnist-xp train best --seed 1 --out runs/mine
  fmnist-xp train adam --validation 0.1 --keep-best
  fmnist-xp train --config runs/mine --hidden 256,64
"""


OF_EXPERIMENT = (
    "hidden", "activation", "dropout", "label_smoothing", "optimizer", "learning_rate", "decay", "momentum", "l2",
)  # fmt: skip
"""Options that are fields of an experiment, and that a run, once begun, cannot change."""


class ExperimentName(StrEnum):
    """The names in `EXPERIMENTS`."""

    vars().update({name: name for name in EXPERIMENTS})


def _activations() -> list[str]:
    from fmnist_xp.nn import Activation
    from fmnist_xp.registry import registered

    return [*registered(Activation)]


def _optimizers() -> list[str]:
    from fmnist_xp.optim import Optimizer
    from fmnist_xp.registry import registered

    return [*registered(Optimizer)]  # type: ignore[type-abstract]


def _setting(help: str, metavar: str = "NUMBER", **more: Any) -> Any:
    return typer.Option(help=help, metavar=metavar, rich_help_panel=NETWORK, **more)


def train(
    ctx: typer.Context,
    experiment: Annotated[
        ExperimentName | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="quick, which is trained by default, best, or one of the notebook's: sgd, momentum, adam.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            parser=options.path,
            metavar="FILE",
            help="Settings of a file in TOML, or of a run, by its folder; options below go before them.",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    epochs: Annotated[int | None, options.number(help="Full-batch updates, at least 1.", group=NETWORK)] = None,
    seed: Annotated[
        int | None,
        options.number(
            help="Seed of the weights, the images held out, and all else that is drawn; by default 0.",
            least=0,
            most=2**63 - 1,
            group=NETWORK,
        ),
    ] = None,
    hidden: Annotated[str | None, _setting("Widths of the hidden layers, such as 128,128.", "WIDTHS")] = None,
    activation: Annotated[
        str | None, _setting("Activation of the hidden layers, such as relu.", "NAME", autocompletion=_activations)
    ] = None,
    dropout: Annotated[float | None, _setting("Share of the hidden units to drop, below 1.")] = None,
    label_smoothing: Annotated[float | None, _setting("Share of each label to spread over all, below 1.")] = None,
    optimizer: Annotated[
        str | None,
        _setting("Optimizer, such as adamw, with its own learning rate.", "NAME", autocompletion=_optimizers),
    ] = None,
    learning_rate: Annotated[float | None, _setting("Learning rate of the first update, above 0.")] = None,
    decay: Annotated[float | None, _setting("Decay of the learning rate, at least 0.")] = None,
    momentum: Annotated[float | None, _setting("Momentum of SGD, at least 0 and below 1.")] = None,
    l2: Annotated[float | None, _setting("L2 strength on the first layer, at least 0.")] = None,
    validation: Annotated[
        float | None,
        typer.Option(
            metavar="FRACTION",
            help="Share of the training images to hold out and log, above 0 and below 1.",
            rich_help_panel=VALIDATION,
        ),
    ] = None,
    keep_best: Annotated[
        bool, options.switch("--keep-best", "Keep the weights of the best epoch by validation, too.", VALIDATION)
    ] = False,
    patience: Annotated[
        int | None,
        options.number(
            help="Stop after so many epochs without a better validation accuracy, at least 1.", group=VALIDATION
        ),
    ] = None,
    out_folder: Annotated[
        Path | None, options.out_folder("Run folder; by default a new one in runs, named by the settings.", RUN)
    ] = None,
    force: Annotated[bool, options.switch("--force", "Replace the run that the folder holds.", RUN)] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            parser=options.path,
            metavar="RUN",
            help="Go on with this run, to the bits of one never stopped.",
            rich_help_panel=RUN,
        ),
    ] = None,
    checkpoint_every: Annotated[
        int | None,
        options.number(help="Epochs from one checkpoint to the next; by default about half a minute's.", group=RUN),
    ] = None,
    keep_going: Annotated[
        bool, options.switch("--keep-going", "Train on where the loss is not finite any more.", RUN)
    ] = False,
    data: options.Data = "auto",
    no_synthetic: options.NoSynthetic = False,
    url: options.Url = None,
    classes: options.Classes = None,
    device: options.Device = "auto",
    precision: Annotated[
        options.PrecisionName | None,
        options.precision(
            "Arithmetic: float32, the default, or float64; on a GPU tf32 and float16, too, and bfloat16 with "
            "--engine fused."
        ),
    ] = None,
    threads: options.Threads = None,
    graphs: options.Graphs = None,
    engine: Annotated[
        options.EngineName | None,
        options.engine(
            "plain, the default, takes everything; fused trains Dense and ReLU on a GPU in three kernels an epoch."
        ),
    ] = None,
    block_rows: options.BlockRows = None,
    dense_rows: options.DenseRows = None,
    mpi: options.Mpi = False,
    log_every: Annotated[
        int | None,
        options.number(help="Epochs from one logged epoch to the next; by default 10.", group=options.OUTPUT),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            parser=options.path,
            metavar="FOLDER",
            help="Write event files for TensorBoard.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Train an experiment and write its run folder, or go on with a run."""
    from fmnist_xp.data import load_fashion_mnist
    from fmnist_xp.ranks import Ranks, world
    from fmnist_xp.runs import check_folder, resume_run, train_run
    from fmnist_xp.runs.training import settings_to_resume

    processes = launched()[1]
    if processes > 1 and not mpi:
        raise options.UsageError(
            f"{processes} processes were started together, each of which would train a run of its own: add --mpi to "
            "train one on all of them"
        )
    if config is not None and (experiment or resume):
        other = "--resume, which goes on with a run's own settings" if resume else f"the experiment {experiment}"
        raise options.UsageError(f"--config is given beside {other}: leave one of them out")
    with options.usage():
        settings = _settings(
            experiment or ExperimentName["quick"],
            config,
            optimizer,
            hidden=None if hidden is None else _widths(hidden),
            epochs=epochs,
            activation=activation,
            dropout=dropout,
            label_smoothing=label_smoothing,
            learning_rate=learning_rate,
            decay=decay,
            momentum=momentum,
            l2=l2,
            seed=seed,
            precision=precision and precision.value,
            engine=engine and engine.value,
            log_every=log_every,
            block_rows=block_rows,
            dense_rows=dense_rows,
            validation=validation,
            keep_best=keep_best or None,
            patience=patience,
        )
        if resume is None:
            settings.check()
    how: dict[str, Any] = {
        "verbose": int(not (quiet or as_json)),
        "checkpoint_every": checkpoint_every,
        "keep_going": keep_going,
        "tensorboard": tensorboard,
    }

    def begin() -> str:
        """Check what can be before anything is read or downloaded; return where the data are."""
        if resume is None:
            if out_folder is not None:
                check_folder(out_folder, force)
            return data
        config, own = settings_to_resume(resume, epochs)
        _check_resumed(ctx, resume, settings, own)
        if options.given(ctx, "data") is not None:
            return data
        return "synthetic" if config["data"].get("name") == "synthetic" else str(config["data"]["source"])

    with Ranks(world() if mpi else None) as ranks, ranks.quiet():
        with ranks.together():
            pass  # where a rank has failed before, all end here
        with ranks.together():
            backend = options.chosen_backend(device, threads, graphs, ranks.comm)
            if resume is None:
                backend.precision(settings.precision)
        source = ranks.by_first(begin)
        splits = ranks.in_turn_on_host(
            lambda: load_fashion_mnist(source, url=url, allow_synthetic=not no_synthetic, classes=classes)
        )
        _print_beginning(splits, backend, ranks, how["verbose"])
        if resume is not None:
            run = resume_run(resume, *splits, backend, epochs=epochs, ranks=ranks, **how)
        else:
            how |= {"source": source, "classes": classes, "force": force}
            run = train_run(settings, *splits, backend, out_folder, ranks=ranks, **how)
        with ranks.together():
            if ranks.is_first:
                _finish(run, as_json, keep_going)


def _print_beginning(splits: "tuple[Dataset, Dataset]", backend: "Backend", ranks: "Ranks", verbose: int) -> None:
    """Print which data are trained on, and by what."""
    train_data, test_data = splits
    threads, devices = ranks.threads(backend), ranks.gather(f"{backend.name}: {backend.device_name}")
    channel = str(ranks.channel(backend)) if ranks.size > 1 else ""
    if not verbose or not ranks.is_first:
        return
    images = f"{len(train_data):,} + {len(test_data):,} images of {len(train_data.class_names)} classes"
    out.print_prose(f"{train_data.name}: {images} ({train_data.source})")
    out.print_prose(f"{devices[0]}, {backend.manner(threads)}")
    if ranks.size > 1:
        hosts = ", ".join(f"{count} on {host}" for host, count in ranks.on_hosts().items())
        out.print_prose(f"{ranks.size} ranks: {hosts}; gradients by {channel}")
        for rank, device in enumerate(devices):
            if device != devices[0]:
                out.print_prose(f"rank {rank}: {device}")


def _finish(run: "Run", as_json: bool, keep_going: bool) -> None:
    """Print what came of a run, and raise where it did not come to its end."""
    from fmnist_xp.train.history import ended_in_dip

    if as_json:
        dip = ended_in_dip(run.history, run.result.train_accuracy)
        print_json({"run": run.folder, **run.result.to_json(), "best_epoch_before_dip": dip})
    else:
        _print_result(run)
    if run.result.interrupted:
        raise Interrupted(
            f"interrupted: what was learned is kept in {run.folder}; fmnist-xp train --resume {run.folder} goes on",
            run.history.signal,
        )
    if run.result.diverged and not keep_going:
        raise FmnistXpError(
            "no model is kept, since training has diverged: try a lower --learning-rate, or --keep-going; the last "
            f"good checkpoint is in {run.folder}"
        )


def _print_result(run: "Run") -> None:
    """Print what came of a run."""
    from fmnist_xp.train.history import ended_in_dip

    result, history = run.result, run.history
    took = f"{result.epochs:,} epochs in {result.total_seconds:.1f} s; written to {run.folder}"
    if result.diverged and math.isnan(result.test_accuracy):
        out.print_prose(f"diverged after {took}")
        return
    out.print_prose(
        f"test accuracy {result.test_accuracy:.4f}, test loss {result.test_loss:.4f} on {result.dataset.name} after "
        f"{took}"
    )
    if result.stopped and not result.interrupted:
        out.print_prose(f"stopped: {result.stopped}")
    if (best := history.best_place) is not None:
        out.print_prose(
            f"validation accuracy {history.validation_accuracy[best]:.4f} at epoch {result.best_epoch}, the best of "
            f"{result.validation_rows:,} images held out; {history.validation_accuracy[-1]:.4f} when last logged"
        )
    elif (epoch := ended_in_dip(history, result.train_accuracy)) is not None:
        out.print_prose(
            f"The run ended in a dip: accuracy on the training images {result.train_accuracy:.3f}, at epoch {epoch} "
            f"{max(history.accuracy):.3f}. --validation 0.1 --keep-best keeps the best weights, too."
        )


def _check_resumed(ctx: typer.Context, folder: Path, asked: Any, own: Any) -> None:
    """Raise a usage error for an option that a run, once begun with others, cannot take."""
    for name in ("out_folder", "force"):
        if options.given(ctx, name):
            raise options.UsageError(f"--resume goes on in the run's own folder: leave --{name.split('_')[0]} out")
    if options.given(ctx, "classes"):
        raise options.UsageError("--resume goes on with the run's own classes: leave --classes out")
    values = {name: (vars(asked)[name], vars(own)[name]) for name in vars(own) if name != "experiment"}
    values["experiment"] = asked.experiment.name, own.experiment.name
    for name in OF_EXPERIMENT:
        values[name] = vars(asked.experiment)[name], vars(own.experiment)[name]
    for name, (wanted, has) in values.items():
        if options.given(ctx, name) is not None and wanted != has:
            raise options.UsageError(
                f"{name.replace('_', ' ')} {wanted}: {folder} has {has}, and goes on with that; leave it out, or "
                "train a new run"
            )


def reproduce(
    experiments: Annotated[
        list[ExperimentName] | None, typer.Argument(help="Which experiments; by default all.", show_default=False)
    ] = None,
    seeds: Annotated[int, options.number(help="Seeds for each experiment, 1 to 1000.", most=1000)] = 1,
    epochs: Annotated[int | None, options.number(help="Epochs instead of each experiment's own, at least 1.")] = None,
    device: options.Device = "auto",
    data: options.Data = "auto",
    no_synthetic: options.NoSynthetic = False,
    threads: options.Threads = None,
    graphs: options.Graphs = None,
    engine: options.Engine = options.EngineName["plain"],
    out_folder: Annotated[Path, options.out_folder("Folder of runs, pictures and report.")] = Path("reproduce"),
    quiet: options.Quiet = False,
) -> None:
    """Train all experiments over seeds, side by side, beside the notebook's figures."""
    from fmnist_xp.data import load_fashion_mnist
    from fmnist_xp.reproduce import reproduce as reproduce_experiments

    backend = options.chosen_backend(device, threads, graphs)
    train_data, test_data = load_fashion_mnist(data, allow_synthetic=not no_synthetic)
    report = reproduce_experiments(
        *(train_data, test_data, backend, out_folder),
        seeds=seeds,
        epochs=epochs,
        source=data,
        engine=engine.value,
        verbose=not quiet,
        names=[*EXPERIMENTS] if not experiments else [name for name in EXPERIMENTS if name in experiments],
    )
    out.print(report.read_text(encoding="utf-8"))
    out.print(f"written to {report}")


def _settings(experiment: str, config: Path | None, optimizer: str | None, **changes: Any) -> "Settings":
    """Return the settings of a file, or else of an experiment, with those `changes` that are not None."""
    from fmnist_xp.runs import Settings
    from fmnist_xp.runs.config import read_settings

    try:
        settings = Settings(EXPERIMENTS[experiment]) if config is None else read_settings(config)
    except OSError as error:
        raise options.UsageError(
            f"--config {config}: {error.strerror}: name a run's folder, or a file in TOML"
        ) from error
    chosen = settings.experiment if optimizer is None else settings.experiment.with_optimizer(optimizer)
    given = {name: value for name, value in changes.items() if value is not None}
    own = {field.name for field in fields(Experiment)}
    chosen = replace(chosen, **{name: value for name, value in given.items() if name in own})
    return replace(settings, experiment=chosen, **{name: value for name, value in given.items() if name not in own})


def _widths(text: str) -> tuple[int, ...]:
    widths = [part.strip() for part in text.split(",")]
    # No machine has memory for a width of ten digits, and int() refuses thousands of digits.
    if not all(width.isdecimal() and len(width) < 10 and int(width) > 0 for width in widths):
        raise options.UsageError(f"--hidden must be widths such as 128,128, got {text[:80]!r}")
    return tuple(map(int, widths))
