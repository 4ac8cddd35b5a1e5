"""`python -m fmnist_xp` is the command."""

from fmnist_xp.cli import main

main()
