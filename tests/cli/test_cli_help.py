"""What --help of every command prints, and how little it imports for it."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from fmnist_xp.cli.app import app

Command = Callable[..., Any]
ROOT = Path(__file__).parents[2]


def commands(command: Any = None, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command below `command`, and itself, with its name."""
    command = command or typer.main.get_command(app)
    yield name, command
    for below, subcommand in getattr(command, "commands", {}).items():
        yield from commands(subcommand, (*name, below))


ALL = {" ".join(name): command for name, command in commands()}
EACH = pytest.mark.parametrize("name", ALL)


@EACH
@pytest.mark.parametrize("columns", [60, 80, 200])
def test_help_fits_and_names_no_types(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("FORCE_COLOR", "1")
    answer = command(*name.split(), "--help")
    answer.assert_went_well()
    assert max(map(len, answer.lines)) <= min(columns, 80)
    assert answer.lines[0] == " ".join(["Usage:", "fmnist-xp", *answer.lines[0].split()[2:]])
    assert answer.out.startswith(f"Usage: {' '.join(['fmnist-xp', *name.split()])} [OPTIONS]")
    assert "\x1b" not in answer.out  # colours, also where they are forced
    assert not re.search(
        r"<(str|int|float|bool|Path|list)\b|range|INTEGER|FLOAT|None|x>=|<=x|[a-z,]\.\.\.", answer.out
    )
    assert answer.out.isascii()


@EACH
def test_every_option_says_what_it_is_and_what_holds_without_it(command: Command, name: str) -> None:
    text = " ".join(command(*name.split(), "--help").out.split())
    for parameter in ALL[name].params:
        if parameter.param_type_name == "option":
            assert f" {parameter.opts[0]} " in text
        assert parameter.help.endswith(".")
        if not isinstance(parameter.default, (bool, type(None))) and str(parameter.default) != ".":
            assert f"[default: {parameter.default}]" in text


def test_summaries_are_whole(command: Command) -> None:
    for group in ("", "data", "cache"):
        text = " ".join(command(*group.split(), "--help").out.split())
        for name, below in ALL.items():
            if name.rpartition(" ")[0] == group and name:
                assert f" {name.split()[-1]} {' '.join(below.help.split())}" in text


def test_options_of_train_are_in_groups_with_an_example_at_the_end(command: Command) -> None:
    out = command("train", "--help").out
    titles = re.findall(r"^(\w.*):$", out, flags=re.MULTILINE)
    assert titles == [
        "Arguments", "Network and optimizer", "Validation", "Run", "Data", "Machine", "Output", "Options",
    ]  # fmt: skip
    assert "--seed N" in out
    assert "at least 1" in out
    *_, last = out.rstrip().split("\n\n")
    assert last.split("\n")[0] == "  Examples:"
    assert last.split("\n")[1] == "    fmnist-xp train"


@pytest.mark.parametrize("group", ["", "data", "cache"])
def test_a_bare_group_shows_its_help_and_is_a_usage_error(command: Command, group: str) -> None:
    shown = command(*group.split(), "--help").out
    answer = command(*group.split())
    assert (answer.code, answer.out, answer.err) == (2, "", shown)


def test_help_imports_no_numbers() -> None:
    """NumPy and what typer checks values with take longer than all the rest: --help is there at once without them."""
    calls = [[*name.split(), "--help"] for name in ALL]
    program = (
        "import sys\n"
        "from fmnist_xp.cli.app import app\n"
        "from fmnist_xp.cli.process import run\n"
        f"for call in {calls!r}:\n"
        "    sys.argv[1:] = call\n"
        "    assert run(app, 'fmnist-xp') == 0\n"
        "slow = {'numpy', 'pydantic', 'matplotlib', 'requests'}\n"
        "print('imported', *(slow & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "imported"
    assert done.stdout.count("Usage: ") == len(ALL)
