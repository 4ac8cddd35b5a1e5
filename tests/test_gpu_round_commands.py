"""The commands accept the arguments that the GPU round calls them with."""

from pathlib import Path
from typing import Any

import gpu_round
import pytest
import typer.main

from bench.commands import app as bench
from fmnist_xp.cli.app import app as fmnist_xp

COMMANDS: dict[str, Any] = {"fmnist_xp": typer.main.get_command(fmnist_xp), "bench": typer.main.get_command(bench)}
PARTS = [
    pytest.param([*part.command], id=part.name + " quick" * quick)
    for quick in (False, True)
    for part in gpu_round.choose_parts(Path("kept"), None, Path("packages"), quick=quick)
    if part.command[1] == "-m" and part.command[2] in COMMANDS
]


@pytest.mark.parametrize("call", PARTS)
def test_command_takes_the_arguments_of_the_round(call: list[str]) -> None:
    """Parsed, and not run: an unknown option or value is an error."""
    _python, _m, module, name, *arguments = call
    command = COMMANDS[module].commands[name]
    with command.make_context(name, arguments) as context:
        given = {str(value) for value in context.params.values()}
    values = [one for one in arguments if not one.startswith("--") and one not in ("notebook", "scikit-learn")]
    assert {*values} <= given
