"""The command `fmnist-xp report`: a page of finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from fmnist_xp.cli import options
from fmnist_xp.cli.console import out, say


def report(
    run_folders: Annotated[list[Path], typer.Argument(parser=options.path, metavar="RUN...", help="Run folders.")],
    page: Annotated[
        Path, typer.Option("--out", "-o", parser=options.path, metavar="FILE", help="The page, which is replaced.")
    ] = Path("report.html"),
    data: Annotated[
        str | None,
        options.text("--data", "Where the runs' test images are now; by default where they were.", "SOURCE"),
    ] = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
) -> None:
    """Write one HTML page of the runs: results, curves, settings, mistakes, weights; it needs no other file."""
    from fmnist_xp.reporting import report_runs

    if page.is_dir():
        raise options.UsageError(f"--out must be a file, such as {page / 'report.html'}, and {page} is a folder")
    for note in report_runs(run_folders, page, data, options.chosen_backend(device, threads)):
        say(note)
    out.print(f"written to {page}")
