"""Options that several commands share, and what a wrong value of one becomes."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fmnist_xp.backend import PRECISIONS, Backend, get_backend

# The class that typer's own complaints about arguments share; typer gives it no public name.
UsageError: Any = typer.BadParameter.__base__


class Precision(StrEnum):
    """The names in `PRECISIONS`."""

    _ignore_ = "key"
    for key in PRECISIONS:
        vars()[key] = key


MOST_EPOCHS = 10**9
MOST_THREADS = 1024  # more than any machine has


def filled(text: str) -> str:
    """Return `text`, which names something; raise `BadParameter` where it is empty or has a NUL."""
    if not text or "\0" in text:
        raise typer.BadParameter(f"names nothing: {text!r}")
    return text


def path(text: str | Path) -> Path:
    """Return the path that `text`, or a default, names; raise `BadParameter` where it cannot be one."""
    return Path(filled(str(text)))


def out_option(help: str) -> Any:
    """Return the option --out, for the folder that a command writes to."""
    return typer.Option("--out", parser=path, metavar="PATH", help=help)


DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<index>.")]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        parser=filled,
        metavar="TEXT",
        help="auto (FMNIST_XP_DATA, cache, download), synthetic, or a folder or archive: IDX, CSV, npz, images.",
    ),
]
UrlOption = Annotated[
    str | None, typer.Option(help="Address to download the IDX files from.", parser=filled, metavar="TEXT")
]
NoSyntheticOption = Annotated[
    bool, typer.Option("--no-synthetic", help="Fail where only images drawn here would be at hand.")
]
PrecisionOption = Annotated[Precision, typer.Option("--precision", help="Arithmetic; tf32 and float16 need a GPU.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=MOST_THREADS, help="Threads on the CPU; by default all usable cores.")
]
GraphsOption = Annotated[
    bool | None,
    typer.Option(
        "--graphs/--no-graphs",
        help="CUDA graphs on a GPU; by default where nvmath-python is installed.",
        show_default=False,
    ),
]
BlockRowsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Rows worked on at once by a thread; by default what suits the widths and the cache."),
]


@contextmanager
def usage() -> Iterator[None]:
    """Turn a `ValueError` about an argument into a complaint about the command's usage."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def chosen_backend(device: str, threads: int | None = None, graphs: bool | None = None) -> Backend:
    """Return the backend asked for; what cannot be asked for is wrong usage."""
    with usage():
        return get_backend(device, threads=threads, graphs=graphs)
