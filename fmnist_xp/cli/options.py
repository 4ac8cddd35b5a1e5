"""Options that several commands share, and the usage error that a wrong value becomes."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fmnist_xp.backend import PRECISIONS, Backend, get_backend

# The base class of typer's own errors about arguments, for which typer has no public name.
UsageError: Any = typer.BadParameter.__base__


class PrecisionName(StrEnum):
    """The names in `PRECISIONS`."""

    vars().update({name: name for name in PRECISIONS})


MOST_THREADS = 1024  # more than any machine has


def filled(text: str) -> str:
    """Return `text`; raise `BadParameter` where it is empty or contains a NUL."""
    if not text or "\0" in text:
        raise typer.BadParameter(f"names nothing: {text!r}")
    return text


def path(text: str | Path) -> Path:
    """Return `text`, or a default, as a path; raise `BadParameter` where it is empty or contains a NUL."""
    return Path(filled(str(text)))


def text(name: str, help: str) -> Any:
    """Return an option for a text that is not empty."""
    return typer.Option(name, parser=filled, metavar="TEXT", help=help)


def out_folder(help: str) -> Any:
    """Return the option --out, for the folder that a command writes to."""
    return typer.Option("--out", parser=path, metavar="PATH", help=help)


def epochs(help: str) -> Any:
    """Return an option for a number of epochs."""
    return typer.Option(min=1, max=10**9, help=help)


Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<index>.")]
Data = Annotated[
    str,
    text(
        "--data",
        "auto (FMNIST_XP_DATA, cache, download), synthetic, or a folder or archive: IDX, CSV, npz, images.",
    ),
]
Classes = Annotated[
    str | None,
    text("--classes", "Names of the classes by label: a list with commas, a file with a name a line, or fashion."),
]
Url = Annotated[str | None, text("--url", "Address to download the IDX files from.")]
NoSynthetic = Annotated[
    bool, typer.Option("--no-synthetic", help="Fail where only images drawn here would be at hand.")
]
Precision = Annotated[PrecisionName, typer.Option("--precision", help="Arithmetic; tf32 and float16 need a GPU.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=MOST_THREADS, help="Threads on the CPU; by default all usable cores.")
]
Graphs = Annotated[
    bool | None,
    typer.Option(
        "--graphs/--no-graphs",
        help="CUDA graphs on a GPU; by default where nvmath-python is installed.",
        show_default=False,
    ),
]
BlockRows = Annotated[
    int | None,
    typer.Option(min=1, help="Rows worked on at once by a thread; by default what suits the widths and the cache."),
]
DenseRows = Annotated[
    bool | None,
    typer.Option(
        "--dense-rows/--sorted-rows",
        help="Multiply every column of every row, or leave out background; by default what suits device and data.",
        show_default=False,
    ),
]


def given(ctx: typer.Context, name: str) -> Any:
    """Return the value of a parameter that was given on the command line, None where it was not."""
    source = ctx.get_parameter_source(name)
    return ctx.params[name] if source is not None and source.name == "COMMANDLINE" else None


Mpi = Annotated[
    bool, typer.Option("--mpi", help="Train on all processes that mpiexec has started, together (extra mpi).")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of words and tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print the result alone.")]
Best = Annotated[bool, typer.Option("--best", help="Take the model of the best epoch, which --keep-best has kept.")]


@contextmanager
def usage() -> Iterator[None]:
    """Turn a `ValueError` about an argument into a usage error."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def chosen_backend(device: str, threads: int | None = None, graphs: bool | None = None, comm: Any = None) -> Backend:
    """Return the backend of these options; an invalid one is a usage error."""
    with usage():
        return get_backend(device, threads=threads, graphs=graphs, comm=comm)
