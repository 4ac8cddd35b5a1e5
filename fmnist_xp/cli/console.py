"""Printing: text, tables and JSON, on streams of any code page, also those that nobody reads any more."""

import json
import logging
import math
import os
import select
import sys
import warnings
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, is_dataclass
from errno import EIO, EPIPE
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import PurePath
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fmnist_xp.errors import one_line, printable


class _Console(Console):
    """A console that prints strings verbatim: a path may contain brackets or control characters."""

    def __init__(self) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return `text` for rendering; every string is rendered here, those in tables too."""
        return super().render_str(printable(text), **options)

    def print_prose(self, text: str) -> None:
        """Print `text`, on a terminal broken between words, and in a file as one line, which can be searched."""
        self.print(text, soft_wrap=not self.is_terminal)

    def fits(self, table: Table) -> bool:
        """Say whether there is room for `table` with a line for each row."""
        return self.measure(table, options=self.options.update(max_width=1000)).maximum <= self.width


out = _Console()


def new_table(*header: str, right: Container[str] = (), title: str | None = None, show_header: bool = True) -> Table:
    """Return a table without rows; the columns `right` are aligned right, and nothing in it is ever cut off."""
    table = Table(title=title, title_justify="left", show_header=show_header)
    for name in header:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def print_json(values: Any) -> None:
    """Print `values` as one document of strict JSON.

    They may hold dataclasses, paths and NumPy's numbers and arrays; NaN and infinity, which JSON lacks, are null.
    """
    print(json.dumps(_plain(values), indent=2, allow_nan=False))  # in ASCII: a path may be no valid UTF-8


def _plain(value: Any) -> Any:
    """Return `value` made of what JSON has."""
    match value:
        case float():
            return float(value) if math.isfinite(value) else None
        case PurePath():
            return str(value)
        case Mapping():
            return {str(name): _plain(item) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _ if hasattr(value, "tolist"):  # NumPy's, which need not be imported here
            return _plain(value.tolist())
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _plain(asdict(value))
    return value


def say(message: str) -> None:
    """Print `message` on stderr, in one line."""
    print(f"fmnist-xp: {one_line(' '.join(message.split()))}", file=sys.stderr)


class _Messages(logging.Handler):
    """A handler that prints a record's message with `say`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message."""
        say(record.getMessage())


@contextmanager
def messages(debug: bool) -> Iterator[None]:
    """Print the package's warnings on stderr; all that it logs, and what libraries and Python warn of, for `debug`.

    A user can do nothing about most of what libraries log; the package itself reports what matters.
    """
    ours = logging.getLogger("fmnist_xp")
    before, ours.handlers = ours.handlers, [_Messages()]
    level = ours.level
    if debug:
        ours.setLevel(logging.DEBUG)
    silent = logging.NullHandler()
    with warnings.catch_warnings():
        if not debug:
            logging.getLogger().addHandler(silent)  # else Python prints what has no handler
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.getLogger().removeHandler(silent)
            ours.handlers = before
            ours.setLevel(level)


@contextmanager
def lasting_streams(debug: bool) -> Iterator[list[OSError]]:
    """Let no error of stdout or stderr stop the command; yield the list of errors on stdout.

    A reader that has gone (`| head`, a closed terminal) is no error: its output is dropped. What C libraries such as
    libpng and libjpeg write to the descriptor of stderr is shown only for `debug`.
    """
    _fill_closed()
    failures: list[OSError] = []
    kept = os.dup(2)
    with (
        redirect_stdout(_lasting(sys.stdout, 1, failures)) as stdout,
        redirect_stderr(_lasting(sys.stderr, kept, [])) as stderr,
    ):
        if not debug:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 2)
            os.close(nothing)
        try:
            yield failures
        finally:
            stdout.flush()
            stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)


def _fill_closed() -> None:
    """Open what the shell has closed (`>&-`) on the null device: the next file opened would become stdout."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= 2:
        descriptor = os.dup(descriptor)
    os.close(descriptor)


def _lasting(stream: TextIO | None, descriptor: int, failures: list[OSError]) -> TextIO:
    """Return a replacement for `stream`; characters that its code page lacks are backslash-escaped."""
    encoding, at_once = "utf-8", False
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
        encoding, at_once = stream.encoding, stream.line_buffering or stream.write_through
        if not isinstance(getattr(stream.buffer, "raw", stream.buffer), FileIO):  # a Windows console
            return stream
    elif stream is not None:
        return stream
    buffer = BufferedWriter(_Descriptor(descriptor, failures))
    return TextIOWrapper(buffer, encoding=encoding, errors="backslashreplace", line_buffering=at_once)


class _Descriptor(FileIO):
    """A file descriptor whose writes always succeed; errors other than a missing reader are kept in `failures`."""

    def __init__(self, descriptor: int, failures: list[OSError]) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._failures = failures

    def write(self, data: Any) -> int:
        """Write `data`, or drop it on an error, and return its size in bytes."""
        try:
            while (written := super().write(data)) is None:  # a full non-blocking pipe
                select.select([], [self], [])
        except OSError as error:
            if error.errno not in (EPIPE, EIO):
                self._failures.append(error)
            return memoryview(data).nbytes
        return written
