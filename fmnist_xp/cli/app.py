"""The command as a whole."""

from typing import Annotated

import typer

from fmnist_xp.cli import cache, data, export, measure, options, report, runs, train
from fmnist_xp.ranks import launched

app = typer.Typer(
    help="A neural network from scratch, trained full batch on Fashion-MNIST, on NumPy or CuPy.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at, fetch or export the data set.", rich_markup_mode=None)
app.add_typer(data_app, name="data")
cache_app = typer.Typer(help="Look at the cache of data sets, or empty it.", rich_markup_mode=None)
app.add_typer(cache_app, name="cache")

app.command()(train.train)
app.command()(runs.evaluate)
app.command()(runs.predict)
app.command()(runs.plot)
app.command()(runs.runs)
app.command()(report.report)
app.command()(export.export)
app.command()(train.reproduce)
app.command()(measure.devices)
app.command()(measure.bench)
app.command()(measure.parity)
data_app.command()(data.info)
data_app.command()(data.fetch)
data_app.command()(data.export)
cache_app.command()(cache.info)
cache_app.command()(cache.clear)


def _show_version(wanted: bool) -> None:
    if wanted:
        from fmnist_xp import __version__

        print(f"fmnist-xp {__version__}")
        raise typer.Exit


@app.callback()
def common(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """A neural network from scratch, trained full batch on Fashion-MNIST, on NumPy or CuPy."""
    processes = launched()[1]
    if processes > 1 and ctx.invoked_subcommand not in ("train", "devices"):
        raise options.UsageError(
            f"{processes} processes were started together, and {ctx.invoked_subcommand} is for one: start it without "
            "mpiexec"
        )
