"""Exit codes and messages, tested on small programs."""

import errno
import logging
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from fmnist_xp.cli import console, process
from fmnist_xp.cli.console import messages, say
from fmnist_xp.cli.options import UsageError, chosen_backend, filled, path, usage
from fmnist_xp.cli.process import Interrupted, run
from fmnist_xp.errors import DataError

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def program(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a program whose only command calls `work`."""

    def start(work: Callable[[], Any], *arguments: str) -> tuple[int, str, str]:
        app = typer.Typer()

        @app.command()
        def command(name: str = "x") -> Any:
            return work()

        monkeypatch.setattr(sys, "argv", ["program", *arguments])
        code = run(app, "program")
        return code, *capfd.readouterr()

    return start


def raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_program_without_errors(program: Run) -> None:
    assert program(lambda: print("done")) == (0, "done\n", "")
    assert program(lambda: print("done"), "--debug", "--name", "y") == (0, "done\n", "")


def test_program_name_in_usage(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/elsewhere", "--help"])
    app = typer.Typer()
    app.command()(lambda: None)
    assert run(app, "program") == 0
    assert "Usage: program [OPTIONS]" in capfd.readouterr().out


@pytest.mark.parametrize("debug", [False, True])
def test_debug_reaches_streams_and_messages(program: Run, monkeypatch: pytest.MonkeyPatch, debug: bool) -> None:
    told: list[tuple[str, bool]] = []

    def noted(name: str) -> None:
        real = getattr(console, name)

        def enter(value: bool) -> Any:
            told.append((name, value))
            return real(value)

        monkeypatch.setattr(console, name, enter)

    noted("lasting_streams")
    noted("messages")
    assert program(lambda: None, *["--debug"] * debug)[0] == 0
    assert told == [("lasting_streams", debug), ("messages", debug)]


ENDINGS = {
    "usage": (UsageError("no such thing."), 2, "no such thing; see program --help"),
    "usage, with a name": (UsageError("there is no device X."), 2, "there is no device X; see program --help"),
    "interrupted in order": (Interrupted("what was learned is kept"), 130, "what was learned is kept"),
    "terminated in order": (Interrupted("what was learned is kept", signal.SIGTERM), 143, "what was learned is kept"),
    "interrupted": (KeyboardInterrupt(), 130, "interrupted"),
    "aborted": (typer.Abort(), 130, "interrupted"),
    "exit": (typer.Exit(3), 3, None),
    "failure": (DataError("the data are gone"), 1, "the data are gone"),
    "failure in lines": (OSError(errno.ENOENT, " No\n such  file"), 1, "No such file"),
    "file": (OSError(errno.ENOENT, "No such file", "a/file"), 1, "a/file: No such file"),
    "no file": (OSError(errno.ENOENT, "No such file"), 1, "No such file"),
    "no number": (OSError("strange"), 1, "strange"),
    "memory": (MemoryError("2 GiB"), 1, "not enough memory: 2 GiB; use narrower layers or fewer images"),
    "other": (LookupError("key"), 1, "unexpected LookupError: key (--debug shows where)"),
}


@pytest.mark.parametrize("case", ENDINGS)
def test_failure_is_one_line_and_an_exit_code(program: Run, case: str) -> None:
    error, code, line = ENDINGS[case]
    assert program(raising(error)) == (code, "", "" if line is None else f"fmnist-xp: {line}\n")


def test_debug_lets_failures_through_but_not_usage_errors_or_interrupts(program: Run) -> None:
    for case in ("failure", "file", "memory", "other"):
        error = ENDINGS[case][0]
        with pytest.raises(type(error)) as caught:
            program(raising(error), "--debug")
        assert caught.value is error
    for case in ("usage", "interrupted in order", "interrupted", "aborted"):
        error, code, _line = ENDINGS[case]
        assert program(raising(error), "--debug")[0] == code


def test_return_value_of_a_command_is_its_exit_code(program: Run) -> None:
    assert program(lambda: 5)[0] == 5
    assert program(lambda: 130) == (130, "", "fmnist-xp: interrupted\n")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="SIGHUP is a POSIX signal")
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_other_signals_end_a_program_with_their_code(
    program: Run, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    number = getattr(signal, name)
    monkeypatch.setattr(process, "_ended_by", [])
    before = signal.signal(number, process._terminate)
    try:
        assert program(lambda: signal.raise_signal(number)) == (code, "", "fmnist-xp: terminated\n")
    finally:
        signal.signal(number, before)


def test_error_on_stdout_is_a_failure(program: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = OSError(errno.ENOSPC, "No space left on device")

    class Streams:
        def __init__(self, _debug: bool) -> None:
            """Take the argument of the real one."""

        def __enter__(self) -> list[OSError]:
            return [failure]

        def __exit__(self, *_error: object) -> None:
            """Suppress nothing."""

    monkeypatch.setattr("fmnist_xp.cli.console.lasting_streams", Streams)
    assert program(lambda: None) == (1, "", "fmnist-xp: stdout: No space left on device\n")
    with pytest.raises(OSError, match="No space") as caught:
        program(lambda: None, "--debug")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "stdout")


# Messages


def test_message_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    say("  two\nlines\t\x1b[31m ")
    assert capsys.readouterr() == ("", "fmnist-xp: two lines \\x1b[31m\n")


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("options", [[], ["error"]], ids=["plain", "python -W"])
def test_package_messages_are_shown_and_library_messages_only_for_debug(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, debug: bool, options: list[str]
) -> None:
    ours, root = logging.getLogger("fmnist_xp"), logging.getLogger()
    before = [logging.NullHandler()]
    monkeypatch.setattr(ours, "handlers", before)
    monkeypatch.setattr(root, "handlers", [])  # pytest's
    monkeypatch.setattr(sys, "warnoptions", options)
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_more: print(message, file=sys.stderr))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with messages(debug):
            ours.warning("loss is %s\nat epoch %d", "nan", 3)
            logging.getLogger("matplotlib").warning("no such font")
            warnings.warn("this is old", stacklevel=1)
        assert root.handlers == []
        warnings.warn("afterwards", stacklevel=1)
    assert ours.handlers is before
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "fmnist-xp: loss is nan at epoch 3",
        *(["no such font"] if debug else []),
        *(["this is old"] if debug or options else []),
        "afterwards",
    ]


# Arguments


def test_name_is_accepted_or_refused() -> None:
    assert filled(" a name ") == " a name "
    assert path("a/b") == path(Path("a/b")) == Path("a/b")
    for text in ("", "a\0b"):
        with pytest.raises(typer.BadParameter) as caught:
            filled(text)
        assert caught.value.message == f"names nothing: {text!r}"


def test_value_error_of_an_argument_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"^no such thing$") as caught, usage():
        raise ValueError("no such thing")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(LookupError), usage():
        raise LookupError
    with pytest.raises(UsageError, match="tpu"):
        chosen_backend("tpu")


def test_backend_has_the_requested_threads() -> None:
    assert chosen_backend("cpu", 3).threads == 3
    with pytest.raises(UsageError, match="CUDA graphs need a CUDA device"):
        chosen_backend("cpu", None, True)
