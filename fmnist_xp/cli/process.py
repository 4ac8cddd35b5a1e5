"""How the command starts and ends: every failure is one line on stderr and an exit code, all of them from here.

What takes long to import is imported late, so that a Ctrl-C is heard from the start.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from fmnist_xp.errors import FmnistXpError

FAILURE, USAGE, INTERRUPTED = 1, 2, 130
_ended_by: list[int] = []  # a signal other than Ctrl-C's


class Interrupted(Exception):
    """A command ended in an orderly way after a signal, by default Ctrl-C's; the message says what was kept."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.exit_code = 128 + (number or signal.SIGINT)


def main() -> None:
    """Run the command; from here on a Ctrl-C is one line and an exit code, also while the rest is imported."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored (nohup)
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    for name in ("SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)
    try:
        from fmnist_xp.cli.app import app

        code = run(app, "fmnist-xp")
        if ours:  # nothing is left to clean up
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:  # outside of `run`, or a second one
        _leave()
    sys.exit(code)


def run(app: Callable[..., int | None], program: str) -> int:
    """Run `app` on the arguments of this process and return its exit code; with --debug, let exceptions through."""
    from typer import Abort

    from fmnist_xp.cli.console import lasting_streams, messages, say
    from fmnist_xp.cli.options import UsageError
    from fmnist_xp.errors import ElsewhereError, RankError
    from fmnist_xp.launcher import abort, launched

    # In any position: people append it to the command that failed.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    # Of several processes, what all of them find is told by the first; what one finds alone, by that.
    tells, orderly = launched()[0] == 0, False
    with lasting_streams(debug) as failures, messages(debug):
        try:
            code = app(args=arguments, prog_name=program, standalone_mode=False) or 0
            if code == INTERRUPTED:  # what typer makes of a KeyboardInterrupt
                raise KeyboardInterrupt
            sys.stdout.flush()
            for error in failures:
                raise OSError(error.errno, error.strerror, "stdout")
            return code
        except UsageError as error:
            place = " ".join([program, *_commands(app, arguments)])
            wrong = error.format_message().replace("Value error, ", "").rstrip(".")  # pydantic's words
            code, message, orderly = USAGE, f"{wrong}; see {place} --help", True
            if launched()[1] > 1 and "--mpi" in arguments and "mpi4py.MPI" not in sys.modules:
                tells = _is_first_to_fail(error)
        except Interrupted as error:
            code, message, orderly = error.exit_code, str(error), True
        except (KeyboardInterrupt, Abort):
            code, message = _ending()
        except ElsewhereError as error:
            code, message, tells, orderly = error.exit_code, str(error), False, True
        except RankError as error:
            code, message = FAILURE, str(error)
        except Exception as error:
            code, message, tells = FAILURE, _message(error), True
            orderly = getattr(error, "told_to_all", False)
            if debug:
                if not orderly:
                    abort(code, error)
                raise
        if tells:
            say(message)
            sys.stderr.flush()  # before the process is ended
        if not orderly:  # others may be waiting for this process
            abort(code)
    return code


def _commands(app: Any, arguments: Iterable[str]) -> Iterator[str]:
    """Yield those of the arguments that name a command, and one below it: not every error knows of its own."""
    from typer.main import get_command

    below = getattr(get_command(app), "commands", {})
    for word in arguments:
        if word in below:
            yield word
            below = getattr(below[word], "commands", {})
        elif not word.startswith("-"):
            return


def _is_first_to_fail(error: Exception) -> bool:
    """Tell the processes that may already wait for this one in MPI; return whether none before it has failed."""
    from fmnist_xp.errors import ElsewhereError, RankError
    from fmnist_xp.launcher import launched
    from fmnist_xp.ranks import Ranks, world

    try:
        with Ranks(world()) as ranks, ranks.together():
            raise error
    except RankError as other:
        return not isinstance(other, ElsewhereError) and launched()[0] == 0
    except type(error):
        return True


def _message(error: Exception) -> str:
    """Return the message for `error`."""
    match error:
        case FmnistXpError():
            return str(error)
        case OSError():
            return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        case ValueError() if getattr(error, "told_to_all", False):  # the ranks were given different things
            return str(error)
        case MemoryError():
            return f"not enough memory: {error}; use narrower layers or fewer images"
        case _:
            return f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _interrupt(_signal: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`, or exit at once during an import, which could swallow it."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    """End the command as `_interrupt` does, with this signal's exit code."""
    _ended_by.append(number)
    _interrupt(number, frame)


def _ending() -> tuple[int, str]:
    """Return exit code and message of a command that a signal ended."""
    return (128 + _ended_by[0], "terminated") if _ended_by else (INTERRUPTED, "interrupted")


def _leave() -> None:
    """End the process at once."""
    code, message = _ending()
    try:
        os.write(sys.stderr.fileno(), f"fmnist-xp: {message}\n".encode())
    finally:
        os._exit(code)
