"""The command `fmnist-xp`: arguments in, exit codes and messages out; nothing is computed here."""

import os
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command; from here on a Ctrl-C is one line and the exit code 130, also while the rest is imported."""
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where it is ignored (nohup)
    if ours:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from fmnist_xp.cli.app import app
        from fmnist_xp.cli.process import run

        code = run(app, "fmnist-xp")
        if ours:  # nothing is left to be put in order
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except KeyboardInterrupt:  # beside what `run` looks at, or a second one
        _leave()
    sys.exit(code)


def _interrupt(_signal: int, frame: FrameType | None) -> None:
    """Raise `KeyboardInterrupt`; or leave at once where something is being imported, in which it could be lost."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            _leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave() -> None:
    try:
        os.write(sys.stderr.fileno(), b"fmnist-xp: interrupted\n")
    finally:
        os._exit(130)
