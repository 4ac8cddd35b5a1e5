"""What the commands print, and how one of them ends."""

import sys

from rich.console import Console

INTERRUPTED = 130

# A path may hold brackets, and "[cuda]" is no markup.
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


class Interrupted(Exception):
    """A command was ended by Ctrl-C, in order; the message says what there is to keep."""


def fail(message: str, code: int) -> int:
    """Say on stderr, in one line, why the command ends; return its exit code."""
    print(f"fmnist-xp: {' '.join(message.split())}", file=sys.stderr)
    return code
