"""The command as a whole."""

from typing import Annotated, Any

import typer

from fmnist_xp.cli import cache, data, export, measure, options, report, runs, train
from fmnist_xp.cli.help import Command, Group, show_help
from fmnist_xp.launcher import launched


def _group(help: str, **more: Any) -> typer.Typer:
    return typer.Typer(
        cls=Group,
        help=help,
        invoke_without_command=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **more,
    )


app = _group("A neural network from scratch, trained full batch on Fashion-MNIST, on NumPy or CuPy.")
data_app = _group("Look at, fetch or export the data set.", callback=show_help)
cache_app = _group("Look at the cache of data sets, or empty it.", callback=show_help)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")

app.command(cls=Command, epilog=train.EXAMPLES)(train.train)
app.command(cls=Command)(runs.evaluate)
app.command(cls=Command)(runs.predict)
app.command(cls=Command)(runs.plot)
app.command(cls=Command)(runs.runs)
app.command(cls=Command)(report.report)
app.command(cls=Command)(export.export)
app.command(cls=Command)(train.reproduce)
app.command(cls=Command)(measure.devices)
app.command(cls=Command)(measure.bench)
app.command(cls=Command)(measure.parity)
data_app.command(cls=Command)(data.info)
data_app.command(cls=Command)(data.fetch)
data_app.command(cls=Command)(data.export)
cache_app.command(cls=Command)(cache.info)
cache_app.command(cls=Command)(cache.clear)


def _show_version(wanted: bool) -> None:
    if wanted:
        from fmnist_xp import __version__

        print(f"fmnist-xp {__version__}")
        raise typer.Exit


@app.callback()
def common(
    ctx: typer.Context,
    debug: Annotated[bool, options.switch("--debug", "Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """A neural network from scratch, trained full batch on Fashion-MNIST, on NumPy or CuPy."""
    show_help(ctx)
    processes = launched()[1]
    if processes > 1 and ctx.invoked_subcommand not in ("train", "devices"):
        raise options.UsageError(
            f"{processes} processes were started together, and {ctx.invoked_subcommand} is for one: start it without "
            "mpiexec"
        )
