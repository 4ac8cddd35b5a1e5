"""The command `fmnist-xp`: arguments in, exit codes and messages out; nothing is computed here."""

from fmnist_xp.cli.process import main

__all__ = ["main"]
