"""The command as a whole: its parts, and what becomes of their failures."""

import logging
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from fmnist_xp.cli import cache, data, measure, runs, train
from fmnist_xp.cli.console import INTERRUPTED, Interrupted, fail
from fmnist_xp.cli.options import UsageError
from fmnist_xp.errors import FmnistXpError

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
app.command()(train.reproduce)
app.command()(measure.devices)
app.command()(measure.bench)
app.command()(measure.parity)
data_app.command()(data.info)
data_app.command()(data.fetch)
data_app.command()(data.export)
cache_app.command()(cache.info)
cache_app.command()(cache.clear)


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
            fail("interrupted", INTERRUPTED)
    except UsageError as error:
        code = fail(f"{error.format_message().rstrip('.')}; see fmnist-xp --help", 2)
    except Interrupted as error:
        code = fail(str(error), INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        code = fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    except FmnistXpError as error:
        if debug:
            raise
        code = fail(str(error), 1)
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        code = fail(f"{place}{error.strerror or error}", 1)
    except MemoryError as error:
        if debug:
            raise
        code = fail(f"not enough memory: {error}; use narrower layers or fewer images", 1)
    except Exception as error:
        if debug:
            raise
        code = fail(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1)
    sys.exit(code or 0)


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
