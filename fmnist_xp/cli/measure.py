"""Commands about the machine: devices found, training speed, parity of its devices."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table

from fmnist_xp.cli import options
from fmnist_xp.cli.console import new_table, out, print_json
from fmnist_xp.errors import FmnistXpError


def devices(as_json: options.Json = False) -> None:
    """Print what was found: CPU, BLAS, threads, GPUs, CuPy, driver, and what is missing for CUDA."""
    from fmnist_xp.devices import survey

    found = survey()
    if as_json:
        print_json(found)
        return
    table = new_table("what", "found", show_header=False)
    for row in found.rows():
        table.add_row(*row)
    out.print(table)


def bench(
    device: options.Device = "auto",
    precision: options.Precision = options.PrecisionName["float32"],
    epochs: Annotated[int, options.number(help="Epochs timed for each experiment, at least 1.")] = 20,
    threads: options.Threads = None,
    graphs: options.Graphs = None,
    engine: options.Engine = options.EngineName["plain"],
    block_rows: options.BlockRows = None,
    dense_rows: options.DenseRows = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Time each experiment on this machine, in epochs of 60,000 drawn garments."""
    from fmnist_xp.blas import blas_name
    from fmnist_xp.speed import ROWS, measure_speed
    from fmnist_xp.train.engines import check_precision

    with options.usage():
        check_precision(precision.value, engine.value)
    backend = options.chosen_backend(device, threads, graphs)
    how: Any = {"block_rows": block_rows, "dense": dense_rows, "engine": engine.value}
    speeds = list(measure_speed(backend, precision.value, epochs, **how))
    if as_json:
        print_json(
            {
                "device": backend.name,
                "device_name": backend.device_name,
                "threads": backend.threads,
                "graphs": backend.captures,
                "blas": blas_name(),
                "precision": precision.value,
                "engine": engine.value,
                "rows": ROWS,
                "epochs": epochs,
                "experiments": [
                    {
                        "experiment": speed.experiment,
                        "widths": speed.widths,
                        "epoch_seconds": {"median": speed.epoch_seconds},
                        "samples_per_second": ROWS / speed.epoch_seconds,
                        "column_share": speed.column_share,
                        "flops_per_second": speed.flops,
                        "gemm_flops_per_second": speed.gemm_flops,
                    }
                    for speed in speeds
                ],
            }
        )
        return
    numbers = "ms/epoch", "epochs/s", "columns", "GFLOP/s", "peak"
    table = new_table("experiment", "network", *numbers, right=numbers)  # 80 characters
    for speed in speeds:
        table.add_row(
            speed.experiment,
            "-".join(map(str, speed.widths)),
            f"{1000 * speed.epoch_seconds:.2f}",
            f"{1 / speed.epoch_seconds:.1f}",
            f"{speed.column_share:.0%}",
            f"{speed.flops / 1e9:,.0f}",
            f"{speed.flops / speed.gemm_flops:.0%}",
        )
    if not quiet:
        on = f"{backend.name}: {backend.device_name}, {backend.manner()}"
        fused = ", fused engine" if engine == "fused" else ""
        out.print_prose(f"{ROWS:,} images an epoch on {on}, {precision.value}{fused}")
    out.print(table)
    if not quiet:
        out.print_prose(
            "columns: the share of each image's that the first layer multiplies; GFLOP/s: as if it were all of them; "
            "peak: their share of large matrix products in the same process"
        )


def parity(
    device: options.Device = "auto",
    precision: Annotated[
        options.PrecisionName | None,
        options.precision("Arithmetic of a GPU, such as tf32; by default all that it, or the engine, has."),
    ] = None,
    epochs: Annotated[int, options.number(help="Epochs of each training curve, at least 1.")] = 20,
    data: options.Data = "auto",
    no_synthetic: options.NoSynthetic = False,
    threads: options.Threads = None,
    graphs: options.Graphs = None,
    engine: Annotated[
        options.EngineName, options.engine("plain, or fused: epochs in three kernels on a GPU, beside the CPU's.")
    ] = options.EngineName["plain"],
    out_folder: Annotated[Path | None, options.out_folder("Folder of tables, pictures and JSON.")] = None,
    quiet: options.Quiet = False,
) -> None:
    """Compare a GPU with the CPU, or the CPU's float32 with its float64: operations, a step, training curves."""
    from fmnist_xp.data import load_fashion_mnist
    from fmnist_xp.parity.suite import choose_sides, failures, run_parity
    from fmnist_xp.report.parity import parity_summary, parity_tables

    backend = options.chosen_backend(device, threads, graphs)
    with options.usage():
        pairs = choose_sides(backend, precision and precision.value, engine.value)
    folder = out_folder or Path(f"parity-{backend.name.replace(':', '')}")
    train_data, _test_data = load_fashion_mnist(data, allow_synthetic=not no_synthetic)
    note = (lambda _line: None) if quiet else out.print
    record = run_parity(pairs, train_data, folder, epochs=epochs, note=note)
    if not quiet:
        for title, header, rows in parity_tables(record):
            out.print(_fitting_table(title, header, rows))
    out.print_prose(f"{parity_summary(record)} Written to {folder}")
    if failed := list(failures(record)):
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise FmnistXpError(f"differs by more than rounding: {', '.join(failed[:3])}{more}; see {folder}/parity.md")


# Of the tables of parity where there is no room for all columns, in this order; in parity.md they are whole.
LEFT_OUT = ("relative", "ulps", "loose", "tolerance above 1% from", "absolute", "tolerance", "worst case")
TEXTS = ("operation", "tensor", "worst case", "experiment", "verdict")


def _fitting_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table with as many of its columns as the terminal has room for."""
    for number in range(len(LEFT_OUT) + 1):
        kept = [place for place, name in enumerate(header) if name not in LEFT_OUT[:number]]
        table = new_table(title=title)
        for place in kept:
            name = textwrap.fill(header[place], 9, break_long_words=False) if number else header[place]
            table.add_column(name, justify="left" if header[place] in TEXTS else "right", overflow="fold")
        for row in rows:
            table.add_row(*(row[place] for place in kept))
        if out.fits(table):
            break
    return table
