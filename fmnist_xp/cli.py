"""The command `fmnist-xp`: arguments in, exit codes and messages out; nothing is computed here."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fmnist_xp.backend import Backend, get_backend
from fmnist_xp.data import CLASS_NAMES
from fmnist_xp.errors import FmnistXpError
from fmnist_xp.experiments import EXPERIMENTS, Experiment

app = typer.Typer(
    help="A neural network from scratch, trained full batch on Fashion-MNIST, on NumPy or CuPy.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at, fetch or export the data set.", rich_markup_mode=None)
app.add_typer(data_app, name="data")

# A path may hold brackets, and "[cuda]" is no markup.
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)

# The class that typer's own complaints about arguments share; typer gives it no public name.
UsageError: Any = typer.BadParameter.__base__
INTERRUPTED = 130


class Interrupted(Exception):
    """A command was ended by Ctrl-C, in order; the message says what there is to keep."""


class ExperimentName(StrEnum):
    """The experiments one can train."""

    SGD = "sgd"
    MOMENTUM = "momentum"
    ADAM = "adam"


class Precision(StrEnum):
    """The precisions one can train in."""

    FLOAT32 = "float32"
    FLOAT64 = "float64"
    TF32 = "tf32"
    FLOAT16 = "float16"


class ExportFormat(StrEnum):
    """The forms of a data set on disk."""

    PNG = "png"
    IDX = "idx"


DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<index>.")]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="auto (FMNIST_XP_DATA, cache, download), synthetic, or a folder or zip of images, or of IDX files.",
    ),
]
UrlOption = Annotated[str | None, typer.Option(help="Address to download the IDX files from.")]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="Arithmetic; tf32 and float16 need a GPU.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads on the CPU; by default all usable cores.")]
GraphsOption = Annotated[
    bool | None,
    typer.Option(
        "--graphs/--no-graphs",
        help="CUDA graphs on a GPU; by default where nvmath-python is installed.",
        show_default=False,
    ),
]
BlockRowsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Rows worked on at once by a thread; by default what suits the widths and the cache."),
]


def main() -> None:
    """Run the command and turn every failure into one line on stderr and an exit code."""
    # Wherever it stands: people add it to the end of the command that failed.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    if isinstance(sys.stdout, TextIOWrapper):  # one that has no "±" gets a "?"
        sys.stdout.reconfigure(errors="replace")
    try:
        code = app(args=arguments, prog_name="fmnist-xp", standalone_mode=False)
        if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
            _fail("interrupted", INTERRUPTED)
    except UsageError as error:
        code = _fail(f"{error.format_message().rstrip('.')}; see fmnist-xp --help", 2)
    except Interrupted as error:
        code = _fail(str(error), INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    except FmnistXpError as error:
        if debug:
            raise
        code = _fail(str(error), 1)
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{place}{error.strerror or error}", 1)
    except MemoryError as error:
        if debug:
            raise
        code = _fail(f"not enough memory: {error}; use narrower layers or fewer images", 1)
    except Exception as error:
        if debug:
            raise
        code = _fail(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> int:
    print(f"fmnist-xp: {' '.join(message.split())}", file=sys.stderr)
    return code


@contextmanager
def _usage() -> Iterator[None]:
    """Turn a `ValueError` about an argument into a complaint about the command's usage."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def _show_version(wanted: bool) -> None:
    if wanted:
        from fmnist_xp import __version__

        print(f"fmnist-xp {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """A neural network from scratch, trained full batch on Fashion-MNIST, on NumPy or CuPy."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("fmnist-xp: %(message)s"))
    logging.getLogger("fmnist_xp").handlers = [handler]


@app.command()
def train(
    experiment: Annotated[ExperimentName, typer.Argument(help="Which of the notebook's experiments.")] = (
        ExperimentName.ADAM
    ),
    device: DeviceOption = "auto",
    data: DataOption = "auto",
    url: UrlOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Full-batch updates.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the weights and of the order of the images.")] = 0,
    precision: Annotated[
        Precision, typer.Option(help="Arithmetic; tf32 and float16 need a GPU.")
    ] = Precision.FLOAT32,
    log_every: Annotated[int, typer.Option(min=1, help="Epochs from one logged epoch to the next.")] = 10,
    out_folder: Annotated[Path | None, typer.Option("--out", help="Run folder.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the run that the folder holds.")] = False,
    hidden: Annotated[str | None, typer.Option(help="Widths of the hidden layers, such as 128,128.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Learning rate of the first update.")] = None,
    decay: Annotated[float | None, typer.Option(help="Decay of the learning rate.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD.")] = None,
    l2: Annotated[float | None, typer.Option(help="L2 strength on the first layer.")] = None,
    threads: ThreadsOption = None,
    graphs: GraphsOption = None,
    block_rows: BlockRowsOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the result alone.")] = False,
) -> None:
    """Train one experiment and write its run folder."""
    from fmnist_xp.data import load_fashion_mnist
    from fmnist_xp.runs import Settings, check_folder, default_folder, train_run

    overrides: dict[str, Any] = {
        "epochs": epochs,
        "hidden": None if hidden is None else _widths(hidden),
        "learning_rate": learning_rate,
        "decay": decay,
        "momentum": momentum,
        "l2": l2,
    }
    chosen = _override(EXPERIMENTS[experiment], {k: v for k, v in overrides.items() if v is not None})
    backend = _backend(device, threads, graphs)
    settings = Settings(chosen, seed=seed, precision=precision.value, log_every=log_every, block_rows=block_rows)
    folder = out_folder or default_folder(settings, backend)
    backend.precision(settings.precision)  # both before anything is read or downloaded
    check_folder(folder, force)
    train_data, test_data = load_fashion_mnist(data, url=url)
    if not quiet:
        out.print(f"{train_data.name}: {len(train_data):,} + {len(test_data):,} images ({train_data.source})")
        out.print(f"{backend.name}: {backend.device_name}, {backend.manner}")
    run = train_run(settings, train_data, test_data, backend, folder, source=data, force=force, verbose=not quiet)
    result = run.result
    out.print(
        f"test accuracy {result['test_accuracy']:.4f}, test loss {result['test_loss']:.4f} on {test_data.name} after "
        f"{result['epochs']:,} epochs in {result['total_seconds']:.1f} s; written to {folder}",
    )
    if result["interrupted"]:
        raise Interrupted(f"interrupted: what was learned is kept in {folder}")


@app.command()
def evaluate(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    data: Annotated[str | None, typer.Option("--data", help="Data source; by default that of the run.")] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
) -> None:
    """Print accuracy, loss, precision and recall on the test images, and save the confusion matrix."""
    from fmnist_xp.evaluation import evaluate_run

    report = evaluate_run(run_folder, data, _backend(device, threads))
    out.print(
        f"{report.dataset}: accuracy {report.metrics.accuracy:.4f}, loss {report.metrics.loss:.4f} "
        f"on {report.rows:,} test images"
    )
    table = Table("class", "precision", "recall", "F1", "support")
    for score in report.scores:
        figures = (f"{figure:.3f}" for figure in (score.precision, score.recall, score.f1))
        table.add_row(score.name, *figures, str(score.support))
    out.print(table)
    out.print(f"confusion matrix: {report.picture}")


@app.command()
def predict(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Photographs of single garments.")],
    top: Annotated[int, typer.Option(min=1, max=10, help="Number of classes to print.")] = 3,
    device: DeviceOption = "auto",
) -> None:
    """Say what garment is on each photograph."""
    from fmnist_xp.evaluation import predict_images

    for image, ranking in predict_images(run_folder, images, _backend(device)):
        classes = ", ".join(f"{name} {probability:.1%}" for name, probability in ranking[:top])
        out.print(f"{image}: {classes}")


@app.command()
def plot(
    run_folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the pictures.")] = Path("plots"),
    notebook: Annotated[bool, typer.Option("--notebook", help="Add the notebook's own curve.")] = False,
) -> None:
    """Draw the notebook's pictures of each run, and a comparison where there are several."""
    from fmnist_xp.evaluation import plot_runs

    for picture in plot_runs(run_folders, out_folder, notebook=notebook):
        out.print(str(picture))


@app.command()
def reproduce(
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for each experiment.")] = 1,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs instead of the notebook's 1,100.")] = None,
    device: DeviceOption = "auto",
    data: DataOption = "auto",
    threads: ThreadsOption = None,
    graphs: GraphsOption = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of runs, pictures and report.")] = Path(
        "reproduce"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", help="Print the report alone.")] = False,
) -> None:
    """Run the three experiments and set them beside the notebook's figures."""
    from fmnist_xp.data import load_fashion_mnist
    from fmnist_xp.reproduce import reproduce as reproduce_experiments

    backend = _backend(device, threads, graphs)
    train_data, test_data = load_fashion_mnist(data)
    report = reproduce_experiments(
        train_data, test_data, backend, out_folder, seeds=seeds, epochs=epochs, source=data, verbose=not quiet
    )
    out.print(report.read_text(encoding="utf-8"))
    out.print(f"written to {report}")


@app.command()
def devices() -> None:
    """Print what was found: CPU, BLAS, threads, GPUs, CuPy, driver, and what is missing for CUDA."""
    from fmnist_xp.devices import survey

    table = Table(show_header=False)
    for name, found in survey():
        table.add_row(name, found)
    out.print(table)


@app.command()
def bench(
    device: DeviceOption = "auto",
    precision: PrecisionOption = Precision.FLOAT32,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs timed for each experiment.")] = 20,
    threads: ThreadsOption = None,
    graphs: GraphsOption = None,
    block_rows: BlockRowsOption = None,
) -> None:
    """Time each experiment on this machine, in epochs of 60,000 made images."""
    from fmnist_xp.speed import ROWS, measure_speed

    backend = _backend(device, threads, graphs)
    table = Table("experiment", "network", "ms/epoch", "epochs/s", "GFLOP/s", "of peak")
    for speed in measure_speed(backend, precision.value, epochs, block_rows=block_rows):
        table.add_row(
            speed.experiment,
            "-".join(map(str, speed.widths)),
            f"{1000 * speed.epoch_seconds:.2f}",
            f"{1 / speed.epoch_seconds:.1f}",
            f"{speed.flops / 1e9:,.0f}",
            f"{speed.flops / speed.gemm_flops:.0%}",
        )
    out.print(
        f"{ROWS:,} images an epoch on {backend.name}: {backend.device_name}, {backend.manner}, "
        f"{precision.value}; peak: large matrix products in the same process",
    )
    out.print(table)


@app.command()
def parity(
    device: DeviceOption = "auto",
    precision: Annotated[
        Precision | None, typer.Option(help="Arithmetic of a GPU; by default, all that it has.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training curve.")] = 20,
    data: DataOption = "auto",
    threads: ThreadsOption = None,
    graphs: GraphsOption = None,
    out_folder: Annotated[Path | None, typer.Option("--out", help="Folder of tables, pictures and JSON.")] = None,
) -> None:
    """Compare a GPU with the CPU, or the CPU's float32 with its float64: operations, a step, training curves."""
    from fmnist_xp.data import load_fashion_mnist
    from fmnist_xp.parity.suite import choose_sides, failures, run_parity
    from fmnist_xp.report.parity import parity_summary, parity_tables

    backend = _backend(device, threads, graphs)
    with _usage():
        pairs = choose_sides(backend, precision and precision.value)
    folder = out_folder or Path(f"parity-{backend.name.replace(':', '')}")
    train_data, _test_data = load_fashion_mnist(data)
    record = run_parity(pairs, train_data, folder, epochs=epochs, note=out.print)
    for title, header, rows in parity_tables(record):
        table = Table(*header, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
        # A line for each comparison, also where the terminal is narrower.
        table.width = out.measure(table, options=out.options.update(max_width=1000)).maximum
        out.print(table)
    out.print(f"{parity_summary(record)} Written to {folder}")
    if failed := list(failures(record)):
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise FmnistXpError(f"differs by more than rounding: {', '.join(failed[:3])}{more}; see {folder}/parity.md")


@data_app.command()
def info(
    data: DataOption = "auto",
    url: UrlOption = None,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the pictures.")] = Path(),
) -> None:
    """Print shapes, class counts and checksums, and save a grid of samples and one image's grey values."""
    from fmnist_xp.data import describe, load_fashion_mnist
    from fmnist_xp.evaluation import plot_dataset

    train_data, test_data = load_fashion_mnist(data, url=url)
    splits = describe(train_data, test_data)
    for split in splits:
        published = "the published images" if split.published else "not the published images"
        out.print(f"{split.split}: {split.shape} {split.dtype}, {split.name} ({split.source})")
        out.print(f"  pixel mean {split.pixel_mean:.4f}, deviation {split.pixel_std:.4f}, of 0 to 1")
        out.print(f"  SHA-256 {split.sha256}: {published}")
    table = Table("class", *(split.split for split in splits))
    for label, name in enumerate(CLASS_NAMES):
        table.add_row(f"{label} {name}", *(f"{split.class_counts[label]:,}" for split in splits))
    out.print(table)
    for picture in plot_dataset(train_data, out_folder):
        out.print(f"saved {picture}")


@data_app.command()
def fetch(url: UrlOption = None) -> None:
    """Download Fashion-MNIST into the cache, and say where it lies."""
    from fmnist_xp.data import fetch as fetch_files

    out.print(str(fetch_files(url)))


@data_app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    form: Annotated[ExportFormat, typer.Option("--format", help="Image folder or IDX files.")] = ExportFormat.PNG,
    data: DataOption = "auto",
) -> None:
    """Write the data set as the notebook's image folder, or as the four IDX files."""
    from fmnist_xp.data import export as export_files
    from fmnist_xp.data import load_fashion_mnist

    export_files(*load_fashion_mnist(data), folder, form.value)
    out.print(f"written to {folder}")


def _backend(device: str, threads: int | None = None, graphs: bool | None = None) -> Backend:
    with _usage():
        return get_backend(device, threads=threads, graphs=graphs)


def _widths(text: str) -> tuple[int, ...]:
    widths = [part.strip() for part in text.split(",")]
    if not all(width.isdecimal() and int(width) > 0 for width in widths):
        raise UsageError(f"--hidden must be widths such as 128,128, got {text!r}")
    return tuple(int(width) for width in widths)


def _override(experiment: Experiment, overrides: dict[str, Any]) -> Experiment:
    """Return `experiment` with `overrides`, checked before any data is read."""
    if "momentum" in overrides and experiment.optimizer == "adam":
        raise UsageError("--momentum is for SGD, and this experiment uses Adam: leave it out")
    chosen = replace(experiment, **overrides)
    with _usage():
        chosen.make_optimizer()
        if not 0 <= chosen.l2 < float("inf"):
            raise ValueError(f"--l2 must be at least 0 and finite, got {chosen.l2}")
    return chosen


if __name__ == "__main__":
    main()
