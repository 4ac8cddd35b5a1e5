"""Every command that README and docs show: its program, options and values are there; see also test_cli_readme.py."""

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from block_helpers import blocks
from script_helpers import ROOT
from test_code_blocks import PAGES, blocks_of

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
LAUNCHERS = {"mpiexec": ("-n", "-f"), "srun": ()}  # and their options that take a word of their own
SHELL = {"source", "export", "if", "else", "fi", "cat", "cd"}
IN_WORDS = re.compile(r"`((?:fmnist-xp|scripts/|pip install|python -m|mpiexec|pytest) ?[^`]*)`")


def lines(name: str) -> Iterator[tuple[str, bool]]:
    """Yield a page's commands, and whether they are whole: those of its blocks are, its words need not."""
    text = (ROOT / name).read_text(encoding="utf-8")
    for block in blocks(text):
        code = block.code.replace("\\\n", " ").splitlines()
        if block.language == "console":
            code = [line.removeprefix("$ ") for line in code if line.startswith("$ ")]
        if block.language in ("", "bash", "console"):
            yield from ((line, True) for line in code)
        text = text.replace(block.code, "")
    in_words = {" ".join(match.split()) for match in IN_WORDS.findall(text)}
    yield from ((line, False) for line in sorted(in_words - {"fmnist-xp checkpoint 1"}))  # a key in a file's header


def command_of(line: str) -> list[str]:
    """Return the words of a line without comment, variables set before it, and the launcher of several processes."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if words and words[0] in LAUNCHERS:
        with_value = LAUNCHERS[words.pop(0)]
        while words and words[0].startswith("-"):
            words = words[2 if words[0] in with_value else 1 :]
    return words


@cache
def applications() -> dict[str, Any]:
    from bench.commands import app as bench
    from fmnist_xp.cli.app import app as ours

    return {"fmnist-xp": typer.main.get_command(ours), "python -m bench": typer.main.get_command(bench)}


def parse(program: str, words: list[str], whole: bool) -> None:
    """Let the program's own parser read the words, and run nothing; arguments may miss where they are not `whole`."""
    command = applications()[program]
    context = typer.Context(command, info_name=program)
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        command = command.commands[words[0]]
        context, words = typer.Context(command, info_name=words[0], parent=context), words[1:]
    if len(words) == 1 and words[0].endswith("-completion"):  # its callback would change the shell's own files
        assert words[0] in {name for parameter in command.params for name in parameter.opts}, words[0]
        return
    try:
        command.make_context(context.info_name, [word for word in words if word != "…"], parent=context.parent)
    except Exception as error:
        if whole or type(error).__name__ not in ("MissingParameter", "NoArgsIsHelpError", "BadOptionUsage", "Exit"):
            raise


def install(words: list[str], _whole: bool) -> None:
    for word in words:
        name, _, extras = word.rstrip("]").partition("[")
        if name in (".", "fmnist-xp") and extras:
            assert {*extras.split(",")} <= {*EXTRAS}, f"no such extra: {extras}"
        assert word == "-e" or not word.startswith("-"), word


def script(words: list[str], _whole: bool) -> None:
    """Its options are in the script, or in the Python beside it; a file of another kind is only there."""
    path = ROOT / words[0]
    assert os.access(path, os.R_OK if path.suffix else os.X_OK), f"no such script: {path}"
    texts = [path, *(ROOT / "scripts").glob(f"{path.name.replace('-', '_')}*.py"), ROOT / "scripts" / "gpu_round.py"]
    known = "\n".join(text.read_text(encoding="utf-8") for text in texts)
    if path.name == "train":
        parse("fmnist-xp", ["train", *words[1:]], False)
    else:
        for word in words[1:]:
            assert not word.startswith("-") or re.search(rf"(?<!\w){word}\b", known), f"{words[0]} knows no {word}"


def dask(words: list[str], _whole: bool) -> None:
    module = pytest.importorskip(f"distributed.cli.dask_{words[0]}", reason="Dask is not installed")
    known = {name for parameter in module.main.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def pytest_option(words: list[str], _whole: bool) -> None:
    text = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    assert all(f'"{word.partition("=")[0]}"' in text for word in words if word.startswith("--"))


@pytest.mark.parametrize("name", PAGES)
def test_commands_can_be_given(name: str) -> None:
    for line, whole in lines(name):
        words = command_of(line)
        if not words or words[0] in SHELL:
            continue
        try:
            check(words, whole)
        except (Exception, SystemExit) as error:
            pytest.fail(f"{name}: {line}: {type(error).__name__}: {error}")


def check(words: list[str], whole: bool) -> None:
    """Raise where a command cannot be given so, or where nobody here knows its program."""
    match words:
        case ["fmnist-xp", *rest]:
            parse("fmnist-xp", rest, whole)
        case ["python", "-m", "bench", *rest]:
            parse("python -m bench", rest, whole)
        case ["python", "-m", module, *_]:
            pytest.importorskip(module, reason=f"{module} is not installed")
        case ["pip", "install", *rest]:
            install(rest, whole)
        case ["dask", *rest]:
            dask(rest, whole)
        case ["pytest", *rest]:
            pytest_option(rest, whole)
        case [program, *_] if program.startswith("scripts/"):
            script(words, whole)
        case _:
            raise LookupError(f"nobody here knows what {words[0]} takes")


@pytest.mark.parametrize(
    "name", [name for name in PAGES if any(block.language == "toml" for block in blocks_of(name))]
)
def test_files_of_settings_are_read(name: str, tmp_path: Path) -> None:
    from fmnist_xp.runs.config import read_settings

    for block in blocks_of(name):
        if block.language == "toml":
            path = tmp_path / "mine.toml"
            path.write_text(block.code, encoding="utf-8")
            read_settings(path)


def test_guide_to_training_names_all_that_is_registered() -> None:
    from fmnist_xp.nn import Layer, Loss
    from fmnist_xp.optim import Optimizer, Schedule
    from fmnist_xp.registry import registered

    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    bases: list[Any] = [Layer, Loss, Optimizer, Schedule]
    kinds = [kind for base in bases for kind in registered(base).values() if kind.__module__.startswith("fmnist_xp.")]
    assert len(kinds) > 15
    missing = {kind.__name__ for kind in kinds if f"`{kind.__name__}" not in text}
    assert missing <= {"Dense", "Softmax"}
