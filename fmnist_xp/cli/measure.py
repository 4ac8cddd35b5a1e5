"""Commands about the machine: devices found, training speed, parity of its devices."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fmnist_xp.cli import options
from fmnist_xp.cli.console import out
from fmnist_xp.errors import FmnistXpError


def devices() -> None:
    """Print what was found: CPU, BLAS, threads, GPUs, CuPy, driver, and what is missing for CUDA."""
    from fmnist_xp.devices import survey

    table = Table(show_header=False)
    for name, found in survey():
        table.add_row(name, found)
    out.print(table)


def bench(
    device: options.Device = "auto",
    precision: options.Precision = options.PrecisionName["float32"],
    epochs: Annotated[int, options.epochs("Epochs timed for each experiment.")] = 20,
    threads: options.Threads = None,
    graphs: options.Graphs = None,
    block_rows: options.BlockRows = None,
    dense_rows: options.DenseRows = None,
) -> None:
    """Time each experiment on this machine, in epochs of 60,000 drawn garments."""
    from fmnist_xp.speed import ROWS, measure_speed

    backend = options.chosen_backend(device, threads, graphs)
    table = Table("experiment", "network", "ms/epoch", "epochs/s", "columns", "GFLOP/s", "peak")  # 80 characters
    for speed in measure_speed(backend, precision.value, epochs, block_rows=block_rows, dense=dense_rows):
        table.add_row(
            speed.experiment,
            "-".join(map(str, speed.widths)),
            f"{1000 * speed.epoch_seconds:.2f}",
            f"{1 / speed.epoch_seconds:.1f}",
            f"{speed.column_share:.0%}",
            f"{speed.flops / 1e9:,.0f}",
            f"{speed.flops / speed.gemm_flops:.0%}",
        )
    out.print(
        f"{ROWS:,} images an epoch on {backend.name}: {backend.device_name}, {backend.manner}, "
        f"{precision.value}; peak: large matrix products in the same process",
    )
    out.print_whole(table)
    out.print(
        "columns: the share of each image's that the first layer multiplies; GFLOP/s: as if it were all of them"
    )


def parity(
    device: options.Device = "auto",
    precision: Annotated[
        options.PrecisionName | None, typer.Option(help="Arithmetic of a GPU; by default, all that it has.")
    ] = None,
    epochs: Annotated[int, options.epochs("Epochs of each training curve.")] = 20,
    data: options.Data = "auto",
    no_synthetic: options.NoSynthetic = False,
    threads: options.Threads = None,
    graphs: options.Graphs = None,
    out_folder: Annotated[Path | None, options.out_folder("Folder of tables, pictures and JSON.")] = None,
) -> None:
    """Compare a GPU with the CPU, or the CPU's float32 with its float64: operations, a step, training curves."""
    from fmnist_xp.data import load_fashion_mnist
    from fmnist_xp.parity.suite import choose_sides, failures, run_parity
    from fmnist_xp.report.parity import parity_summary, parity_tables

    backend = options.chosen_backend(device, threads, graphs)
    with options.usage():
        pairs = choose_sides(backend, precision and precision.value)
    folder = out_folder or Path(f"parity-{backend.name.replace(':', '')}")
    train_data, _test_data = load_fashion_mnist(data, allow_synthetic=not no_synthetic)
    record = run_parity(pairs, train_data, folder, epochs=epochs, note=out.print)
    for title, header, rows in parity_tables(record):
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        out.print_whole(table)
    out.print(f"{parity_summary(record)} Written to {folder}")
    if failed := list(failures(record)):
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise FmnistXpError(f"differs by more than rounding: {', '.join(failed[:3])}{more}; see {folder}/parity.md")
