"""Units of console output in this process; tests/cli/test_cli_console.py tests separate processes."""

import errno
import io
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from fmnist_xp.cli import process
from fmnist_xp.cli.console import _Console, _Descriptor, _fill_closed, _lasting, lasting_streams

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors and signals are POSIX's")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield the descriptors of a pipe: to read from, and to write to."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):  # which a test has closed
            os.close(end)


# The console


@pytest.mark.parametrize("colours", [False, True])
def test_text_is_printed_verbatim(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, colours: bool
) -> None:
    """No markup, no emoji, no highlighted numbers and paths, no lines broken at the terminal's edge."""
    if colours:
        monkeypatch.setenv("FORCE_COLOR", "1")
    text = "[bold]3.5[/bold] :smile: /a/path 'quoted' True " + "long " * 30 + "end"
    console = _Console()
    console.print(text)
    assert capsys.readouterr().out == text + "\n"
    table = Table("[red]head[/red]", ":smile:", box=None)
    table.add_row("[bold]cell[/bold]", "\x1b[31m")
    console.print(table)
    shown = capsys.readouterr().out
    for words in ("[red]head[/red]", ":smile:", "[bold]cell[/bold]", r"\x1b[31m"):
        assert words in shown


def test_text_keeps_its_style() -> None:
    assert _Console().render_str("[text]", style="bold").style == "bold"


# The descriptor


def test_descriptor_writes_and_stays_open(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    failures: list[OSError] = []
    with _Descriptor(writing, failures) as file:
        assert file.write(b"three") == 5
    assert os.read(reading, 100) == b"three"
    assert os.write(writing, b"again") == 5  # closing the file has left the descriptor open
    assert failures == []


def test_broken_pipe_is_no_failure(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    failures: list[OSError] = []
    os.close(reading)
    assert _Descriptor(writing, failures).write(b"three") == 5
    assert failures == []


def test_closed_terminal_is_no_failure() -> None:
    pytest.importorskip("pty")
    try:
        ours, theirs = os.openpty()
    except OSError as error:
        pytest.skip(f"no terminal can be made here ({error})")
    os.close(ours)
    failures: list[OSError] = []
    assert _Descriptor(theirs, failures).write(b"three") == 5
    assert failures == []
    os.close(theirs)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_full_disk_is_recorded_and_the_output_dropped() -> None:
    failures: list[OSError] = []
    with Path("/dev/full").open("wb", buffering=0) as full:
        assert _Descriptor(full.fileno(), failures).write(b"three") == 5
    assert [error.errno for error in failures] == [errno.ENOSPC]


def test_full_nonblocking_pipe_is_waited_for(pipe: tuple[int, int]) -> None:
    """It is non-blocking; the bytes arrive all the same."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    sent = 0
    while True:
        try:
            sent += os.write(writing, b"x" * 4096)
        except BlockingIOError:
            break
    received = []

    def read() -> None:
        time.sleep(0.05)
        while sum(map(len, received)) < sent + 5:
            received.append(os.read(reading, 2**16))

    reader = threading.Thread(target=read)
    reader.start()
    failures: list[OSError] = []
    assert _Descriptor(writing, failures).write(b"three") == 5
    reader.join()
    assert b"".join(received) == b"x" * sent + b"three"
    assert failures == []


# Streams


def test_stream_of_a_file_is_replaced_with_its_encoding(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    with io.TextIOWrapper(io.FileIO(os.dup(writing), "w"), encoding="cp437") as stream:
        lasting = _lasting(stream, writing, [])
        assert lasting is not stream
        print("\u0416 → é", file=lasting, flush=True)
        assert os.read(reading, 100) == rb"\u0416 \u2192 " + "é".encode("cp437") + b"\n"
        print("\u0416", file=stream, flush=True)  # which others may hold
        assert os.read(reading, 100) == rb"\u0416" + b"\n"


def test_errors_of_a_stream_are_recorded() -> None:
    failures: list[OSError] = []
    reading = os.open(os.devnull, os.O_RDONLY)
    print("lost", file=_lasting(None, reading, failures), flush=True)
    os.close(reading)
    assert [failure.errno for failure in failures] == [errno.EBADF]


@pytest.mark.parametrize(
    ("options", "at_once"), [({}, False), ({"line_buffering": True}, True), ({"write_through": True}, True)]
)
def test_line_buffering_is_kept(pipe: tuple[int, int], options: dict[str, bool], at_once: bool) -> None:
    reading, writing = pipe
    stream = io.TextIOWrapper(io.FileIO(os.dup(writing), "w"), encoding="utf-8", **options)
    os.set_blocking(reading, False)
    lasting = _lasting(stream, writing, [])
    print("line", file=lasting)
    if at_once:
        assert os.read(reading, 100) == b"line\n"
    else:
        with pytest.raises(BlockingIOError):
            os.read(reading, 100)
        lasting.flush()
        assert os.read(reading, 100) == b"line\n"
    stream.close()


def test_stream_that_is_no_file_is_kept(pipe: tuple[int, int]) -> None:
    text = io.StringIO()
    assert _lasting(text, pipe[1], []) is text  # as of IDLE and of Jupyter
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")  # as of a console of Windows
    assert _lasting(console, pipe[1], []) is console
    console.write("\u0416")
    console.flush()
    assert console.buffer.getvalue() == rb"\u0416"


def test_missing_stream_is_created(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lasting = _lasting(None, writing, [])
    print("ж", file=lasting, flush=True)
    assert os.read(reading, 100) == "ж\n".encode()


def test_closed_descriptors_are_filled() -> None:
    kept = [os.dup(descriptor) for descriptor in range(3)]
    lowest = os.dup(0)
    os.close(lowest)
    try:
        os.close(0)
        os.close(2)
        _fill_closed()
        assert [os.fstat(descriptor).st_rdev for descriptor in (0, 2)] == [Path(os.devnull).stat().st_rdev] * 2
        assert os.write(2, b"lost") == 4
        assert os.read(0, 10) == b""
        assert os.dup(0) == lowest  # nothing else is left open
        os.close(lowest)
    finally:
        for descriptor, copy in enumerate(kept):
            os.dup2(copy, descriptor)
            os.close(copy)


@pytest.mark.parametrize("held", [set(), {0}, {0, 1}, {1}, {0, 1, 2}, {0, 2}, {3}, {0, 1, 2, 3}])
def test_only_descriptors_of_streams_are_filled(monkeypatch: pytest.MonkeyPatch, held: set[int]) -> None:
    now = set(held)

    def lowest(*_given: Any) -> int:
        found = next(number for number in itertools.count() if number not in now)
        now.add(found)
        return found

    monkeypatch.setattr(os, "open", lowest)
    monkeypatch.setattr(os, "dup", lowest)
    monkeypatch.setattr(os, "close", now.remove)
    _fill_closed()
    monkeypatch.undo()
    assert now == held | {0, 1, 2}


def test_streams_are_flushed_and_restored(capfd: pytest.CaptureFixture[str]) -> None:
    streams = sys.stdout, sys.stderr
    with lasting_streams(debug=False) as failures:
        assert sys.stdout is not streams[0]
        print("out")
        print("err", file=sys.stderr)
    assert (sys.stdout, sys.stderr) == streams
    assert capfd.readouterr() == ("out\n", "err\n")
    assert failures == []


@pytest.mark.parametrize("debug", [False, True])
def test_output_of_c_libraries_is_shown_only_for_debug(capfd: pytest.CaptureFixture[str], debug: bool) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    with suppress(LookupError), lasting_streams(debug):
        os.write(2, b"libpng error\n")
        print("ours", file=sys.stderr)
        raise LookupError
    os.write(2, b"afterwards\n")
    assert capfd.readouterr().err == "libpng error\n" * debug + "ours\nafterwards\n"
    assert os.dup(0) == lowest
    os.close(lowest)


# An interrupt


class Left(BaseException):
    """The process would have ended."""


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)


@pytest.mark.usefixtures("leaving")
def test_interrupt_during_an_import_exits_at_once(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        """Is asked for every module that is imported."""

        @staticmethod
        def find_spec(name: str, *_more: Any) -> None:
            if name == "no_module_of_this_name":
                process._interrupt(2, sys._getframe())

    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises((Left, KeyboardInterrupt)) as left:
        import no_module_of_this_name  # type: ignore[import-not-found]  # noqa: F401
    assert repr(left.value) == "Left(130)"
    assert capfd.readouterr().err == "fmnist-xp: interrupted\n"


@pytest.mark.usefixtures("leaving")
def test_interrupt_elsewhere_is_an_exception(capfd: pytest.CaptureFixture[str]) -> None:
    for frame in (sys._getframe(), None):
        with pytest.raises(KeyboardInterrupt):
            process._interrupt(2, frame)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize(
    ("before", "during", "after"),
    [
        (signal.default_int_handler, process._interrupt, signal.SIG_DFL),
        (signal.SIG_IGN, signal.SIG_IGN, signal.SIG_IGN),  # as nohup has it
    ],
)
def test_interrupts_are_handled_unless_ignored(
    monkeypatch: pytest.MonkeyPatch, before: Any, during: Any, after: Any
) -> None:
    seen = []

    def run(_app: Any, program: str) -> int:
        seen.extend([program, signal.getsignal(signal.SIGINT)])
        return 7

    monkeypatch.setattr("fmnist_xp.cli.process.run", run)
    signal.signal(signal.SIGINT, before)
    with pytest.raises(SystemExit) as end:
        process.main()
    assert (end.value.code, seen) == (7, ["fmnist-xp", during])
    assert signal.getsignal(signal.SIGINT) == after


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP is a POSIX signal")
@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("ignored", [False, True])
def test_other_signals_are_handled_unless_ignored(monkeypatch: pytest.MonkeyPatch, name: str, ignored: bool) -> None:
    number, seen = getattr(signal, name), []

    def run(_app: Any, program: str) -> int:
        seen.append(signal.getsignal(number))
        return 0

    monkeypatch.setattr("fmnist_xp.cli.process.run", run)
    kept = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        with pytest.raises(SystemExit):
            process.main()
    finally:
        for one, handler in kept.items():
            signal.signal(one, handler)
    assert seen == [signal.SIG_IGN if ignored else process._terminate]


@pytest.mark.usefixtures("leaving")
def test_process_exits_also_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    for ended_by, code in (([], 130), ([signal.SIGTERM], 143)):
        monkeypatch.setattr(process, "_ended_by", ended_by)
        with pytest.raises(Left) as left:
            process._leave()
        assert left.value.args == (code,)
