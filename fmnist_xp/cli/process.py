"""How a command ends: every failure is one line on stderr and an exit code."""

import sys

import typer

from fmnist_xp.cli.console import lasting_streams, messages, say
from fmnist_xp.cli.options import UsageError
from fmnist_xp.errors import FmnistXpError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130


class Interrupted(Exception):
    """A command was ended by Ctrl-C, in order; the message says what there is to keep."""


def run(app: typer.Typer, program: str) -> int:
    """Run `app` on the arguments of this process and return its exit code; with --debug, let errors through."""
    # Wherever it stands: people add it to the end of the command that failed.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    with lasting_streams(debug) as failures, messages(debug):
        try:
            code = app(args=arguments, prog_name=program, standalone_mode=False) or 0
            if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
                raise KeyboardInterrupt
            sys.stdout.flush()
            for error in failures:
                raise OSError(error.errno, error.strerror, "stdout")
        except UsageError as error:
            code = _fail(f"{error.format_message().rstrip('.')}; see {program} --help", USAGE)
        except Interrupted as error:
            code = _fail(str(error), INTERRUPTED)
        except (KeyboardInterrupt, typer.Abort):
            code = _fail("interrupted", INTERRUPTED)
        except Exception as error:
            if debug:
                raise
            code = _fail(_told(error), FAILURE)
    return code


def _fail(message: str, code: int) -> int:
    say(message)
    return code


def _told(error: Exception) -> str:
    """Return what to say of `error`."""
    match error:
        case FmnistXpError():
            return str(error)
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        case MemoryError():
            return f"not enough memory: {error}; use narrower layers or fewer images"
        case _:
            return f"unexpected {type(error).__name__}: {error} (--debug shows where)"
