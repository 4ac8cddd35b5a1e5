"""A hook of MkDocs: the reference of `fmnist-xp`, made from what `--help` of its commands is made from."""

import inspect
import re
from collections.abc import Iterator

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGE = "docs/reference/command.md"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=page()))
    return files


def page() -> str:
    """Return the whole reference, in Markdown."""
    from fmnist_xp.cli.app import app

    parts = ["# The command", "`--help` of each command says the same."]
    for context in _contexts(typer.Context(typer.main.get_command(app), info_name="fmnist-xp")):
        parts += _section(context)
    return "\n\n".join(parts) + "\n"


def _contexts(context: typer.Context) -> Iterator[typer.Context]:
    """Go through a command and all commands below it."""
    yield context
    for name, command in getattr(context.command, "commands", {}).items():
        if not command.hidden:
            yield from _contexts(typer.Context(command, info_name=name, parent=context))


def _section(context: typer.Context) -> Iterator[str]:
    """Return a command's heading, its words, how it is called, and tables of its arguments and options."""
    command, name = context.command, context.command_path
    yield f"{'#' * (2 + name.count(' '))} {name}" if context.parent else f"## {name}"
    yield _text(inspect.cleandoc(command.help or ""))
    yield f"```\n{name} {' '.join(command.collect_usage_pieces(context))}\n```"
    for title, records in command.panels(context).items():
        rows = [
            f"| <code>{_text(call)}</code> | {' '.join(_text(words).split())} |"
            for call, words in records
            if "--help" not in call
        ]
        if rows:
            yield "\n".join([f"| {title} | |", "| --- | --- |", *rows])
    if command.epilog:
        title, _, examples = inspect.cleandoc(command.epilog.replace("\b", "")).strip().partition("\n")
        yield f"{title}\n\n```\n{inspect.cleandoc(examples)}\n```"


def _text(words: str) -> str:
    r"""Return the words with nothing in them that Markdown or HTML takes for its own; `\b` is for terminals."""
    return re.sub(r"[\\`*_<>\[\]#|&]", lambda match: f"&#{ord(match[0])};", words.replace("\b", "")).strip()
