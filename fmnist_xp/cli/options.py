"""Options that several commands share, and the usage error that a wrong value becomes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fmnist_xp.backend import Backend

# The base class of typer's own errors about arguments, for which typer has no public name.
UsageError: Any = typer.BadParameter.__base__

DATA, MACHINE, OUTPUT = "Data", "Machine", "Output"
"""Groups of options in --help."""


class PrecisionName(StrEnum):
    """The names in `PRECISIONS`, which would be slow to import for --help."""

    float32 = "float32"
    float64 = "float64"
    tf32 = "tf32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class EngineName(StrEnum):
    """The names in `ENGINES`, for the same reason."""

    plain = "plain"
    fused = "fused"


MOST_THREADS = 1024  # more than any machine has


def filled(text: str) -> str:
    """Return `text`; raise `BadParameter` where it is empty or contains a NUL."""
    if not text or "\0" in text:
        raise typer.BadParameter(f"names nothing: {text!r}")
    return text


def path(text: str | Path) -> Path:
    """Return `text`, or a default, as a path; raise `BadParameter` where it is empty or contains a NUL."""
    return Path(filled(str(text)))


def whole(least: int = 1, most: int = 10**9) -> Callable[[str | int], int]:
    """Return what reads a whole number; it raises `BadParameter` for one below `least` or above `most`."""

    def read(text: str | int) -> int:
        try:
            number = int(text)
        except ValueError:
            raise typer.BadParameter(f"must be a whole number, got {str(text)[:80]!r}") from None
        if not least <= number <= most:
            raise typer.BadParameter(f"must be at least {least} and at most {most}, got {str(text)[:80]}")
        return number

    return read


def number(*names: str, help: str, least: int = 1, most: int = 10**9, group: str | None = None) -> Any:
    """Return an option for a whole number."""
    return typer.Option(*names, parser=whole(least, most), metavar="N", help=help, rich_help_panel=group)


def text(name: str, help: str, metavar: str = "TEXT", group: str | None = None) -> Any:
    """Return an option for a text that is not empty."""
    return typer.Option(name, parser=filled, metavar=metavar, help=help, rich_help_panel=group)


def out_folder(help: str, group: str = OUTPUT) -> Any:
    """Return the option --out, for the folder that a command writes to."""
    return typer.Option("--out", parser=path, metavar="FOLDER", help=help, rich_help_panel=group)


def precision(help: str) -> Any:
    """Return the option --precision."""
    return typer.Option("--precision", metavar="NAME", help=help, rich_help_panel=MACHINE)


def engine(help: str) -> Any:
    """Return the option --engine."""
    return typer.Option("--engine", metavar="NAME", help=help, rich_help_panel=MACHINE)


def switch(name: str, help: str, group: str | None = None) -> Any:
    """Return an option without a value, or two with opposite meanings; what neither means, the help says."""
    return typer.Option(name, help=help, show_default=False, rich_help_panel=group)


Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="auto, cpu, cuda or cuda:<index>.",
        autocompletion=lambda: ["auto", "cpu", "cuda"],
        rich_help_panel=MACHINE,
    ),
]
Data = Annotated[
    str,
    text(
        "--data",
        "auto (FMNIST_XP_DATA, cache, download), synthetic, or a folder or archive: IDX, CSV, npz, images.",
        "SOURCE",
        DATA,
    ),
]
Classes = Annotated[
    str | None,
    text(
        "--classes",
        "Names of the classes by label: a list with commas, a file with a name a line, or fashion.",
        "NAMES",
        DATA,
    ),
]
Url = Annotated[str | None, text("--url", "Address to download the IDX files from.", "ADDRESS", DATA)]
NoSynthetic = Annotated[bool, switch("--no-synthetic", "Fail where only images drawn here would be at hand.", DATA)]
Precision = Annotated[
    PrecisionName,
    precision("Arithmetic: float32 or float64; on a GPU tf32 and float16, too, and bfloat16 with --engine fused."),
]
Threads = Annotated[
    int | None,
    number(help="Threads on the CPU, at least 1; by default all usable cores.", most=MOST_THREADS, group=MACHINE),
]
Graphs = Annotated[
    bool | None,
    switch("--graphs/--no-graphs", "CUDA graphs on a GPU; by default where nvmath-python is installed.", MACHINE),
]
Engine = Annotated[
    EngineName, engine("plain takes everything; fused trains Dense and ReLU on a GPU in three kernels an epoch.")
]
BlockRows = Annotated[
    int | None,
    number(
        help="Rows worked on at once by a thread, at least 1; by default what suits the widths and the cache.",
        most=10**15,
        group=MACHINE,
    ),
]
DenseRows = Annotated[
    bool | None,
    switch(
        "--dense-rows/--sorted-rows",
        "Multiply every column of every row, or leave out background; by default what suits device and data.",
        MACHINE,
    ),
]


def given(ctx: typer.Context, name: str) -> Any:
    """Return the value of a parameter that was given on the command line, None where it was not."""
    source = ctx.get_parameter_source(name)
    return ctx.params[name] if source is not None and source.name == "COMMANDLINE" else None


Mpi = Annotated[
    bool, switch("--mpi", "Train on all processes that mpiexec has started, together (extra mpi).", MACHINE)
]
Json = Annotated[bool, switch("--json", "Print one JSON document instead of words and tables.", OUTPUT)]
Quiet = Annotated[bool, switch("--quiet", "Print the result alone.", OUTPUT)]
Best = Annotated[bool, switch("--best", "Take the model of the best epoch, which --keep-best has kept.")]


@contextmanager
def usage() -> Iterator[None]:
    """Turn a `ValueError` about an argument into a usage error."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def chosen_backend(
    device: str, threads: int | None = None, graphs: bool | None = None, comm: Any = None
) -> "Backend":
    """Return the backend of these options; an invalid one is a usage error."""
    from fmnist_xp.backend import get_backend

    with usage():
        return get_backend(device, threads=threads, graphs=graphs, comm=comm)
