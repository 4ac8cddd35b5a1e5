"""What --help prints: options in groups, no names of types, and summaries that are not cut off."""

import inspect
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

Panels = dict[str, list[tuple[str, str]]]
"""By its title, what a section of --help has: names, and what they are."""


class Command(TyperCommand):
    """A command whose --help has a section for each group of options (`rich_help_panel`)."""

    def panels(self, ctx: Any) -> Panels:
        """Return how each parameter is written and what it does, by group; those of none come last."""
        return panels(self, ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what stands behind the command's name: RUN, or [FOLDER] where it may be left out."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(_written(it) if it.required else f"[{_written(it)}]" for it in arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections."""
        _write(formatter, self.panels(ctx))


class Group(TyperGroup):
    """Commands below one name, of which --help has the summaries in full."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what stands before the command's name; a switch that is not given is False, as typer's own is not."""
        for switch in self.get_params(ctx):
            if getattr(switch, "is_flag", False) and switch.default is None:
                switch.default = False  # for a None typer would import pydantic, which takes as long as all the rest
        return super().parse_args(ctx, args)

    def panels(self, ctx: Any) -> Panels:
        """Return the group's own parameters as `Command.panels` does."""
        return panels(self, ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, and the commands with the first paragraph of their help."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [(name, inspect.cleandoc(of.help or "").split("\n\n")[0]) for name, of in commands.items() if of]
        _write(formatter, {**self.panels(ctx), "Commands": rows})


def panels(command: Any, ctx: Any) -> Panels:
    """Return what `Command.panels` does."""
    found: Panels = {"Arguments": []}
    others: list[tuple[str, str]] = []
    for parameter in command.get_params(ctx):
        if (record := parameter.get_help_record(ctx)) is None:
            continue
        if parameter.param_type_name == "argument":  # without the name of its type
            found["Arguments"].append((_written(parameter), record[1]))
        elif group := getattr(parameter, "rich_help_panel", None):
            found.setdefault(group, []).append(record)
        else:
            others.append(record)
    return {title: rows for title, rows in {**found, "Options": others}.items() if rows}


def _written(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _write(formatter: Any, sections: Panels) -> None:
    for title, rows in sections.items():
        with formatter.section(title):
            formatter.write_dl(rows)


def show_help(ctx: typer.Context) -> None:
    """Print the help of a group that was called without a command, on stderr, and exit with 2, as click does."""
    if ctx.invoked_subcommand is None:
        print(ctx.get_help(), file=sys.stderr)
        raise typer.Exit(2)
