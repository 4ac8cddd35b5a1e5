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
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and parameter.name != "help":
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            panels.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
    for title, records in panels.items():
        rows = [f"| <code>{_text(call)}</code> | {' '.join(_text(words).split())} |" for call, words in records]
        yield "\n".join([f"| {title} | |", "| --- | --- |", *rows])
    if command.epilog:
        yield _text(inspect.cleandoc(command.epilog))


def _text(words: str) -> str:
    r"""Return the words with nothing in them that Markdown or HTML takes for its own; `\b` is for terminals."""
    return re.sub(r"[\\`*_<>\[\]#|&]", lambda match: f"&#{ord(match[0])};", words.replace("\b", "")).strip()
