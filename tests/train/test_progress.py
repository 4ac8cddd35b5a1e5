import io
import os
import re
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.live import Live

from fmnist_xp.train import progress
from fmnist_xp.train.history import History
from fmnist_xp.train.progress import ProgressDisplay, checked_verbose, log_line

ROOT = Path(__file__).parents[2]
# The notebook's, but for the names of the parts of the loss and the digits of the learning rate.
LINES = [
    "epoch: 0, acc: 0.085, loss: 2.308 (data: 2.303, reg: 0.005), lr: 1",
    "epoch: 10, acc: 0.194, loss: 2.065 (data: 2.059, reg: 0.006), lr: 0.917431",
]


def one_epoch(
    epoch: int,
    accuracy: float,
    loss: float,
    rate: float,
    penalty: float,
    validation: tuple[float, float] | None = None,
) -> History:
    history = History()
    history.append(epoch, accuracy, loss, rate, penalty, validation)
    return history


def logged() -> list[History]:
    """Return the notebook's history of sgd after its first and its second line."""
    first, second = History(), History()
    for history in (first, second):
        history.append(0, 0.0851, 2.30809, 1.0, 0.005059542213208445)
    second.append(10, 0.1942, 2.06491, 0.9174311926605504, 0.005503636788984646)
    return [first, second]


def validated() -> History:
    return one_epoch(10, 0.1942, 2.06491, 0.9174311926605504, 0.0055, (0.19, 2.1))


def plain(shown: str) -> str:
    """Return what a terminal shows, one refresh below the other instead of in its place."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.replace("\r", "\n"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands at `now`, which tests move."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class Terminal(io.StringIO):
    """A terminal's stream, of which rich learns the width from COLUMNS."""

    def isatty(self) -> bool:
        return True


def terminal(width: int = 80) -> Console:
    return Console(file=Terminal(), width=width, force_terminal=True, highlight=False, soft_wrap=True, _environ={})


def written(console: Console) -> str:
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def last_lines(console: Console, count: int) -> list[str]:
    """Return the last lines on the terminal; `Terminal` keeps all that was written."""
    return [line.rstrip() for line in plain(written(console)).splitlines() if line][-count:]


# Log lines


@pytest.mark.parametrize("number", [0, 1])
def test_line_is_the_notebooks(number: int) -> None:
    assert log_line(logged()[number]) == LINES[number]


def test_line_with_rows_held_out() -> None:
    expected = "epoch: 10, acc: 0.194, loss: 2.065, lr: 0.917431, val: 0.190/2.100"
    history = one_epoch(1090, 0.1942, 2.06491, 0.9174311926605504, 0.0055, (0.19, 2.1))
    assert log_line(history) == expected.replace("epoch: 10", "epoch: 1090")


@pytest.mark.parametrize(
    ("history", "line"),
    [
        (
            one_epoch(3, 0.1, float("nan"), 1e10, float("inf")),
            "epoch: 3, acc: 0.100, loss: nan (data: nan, reg: inf), lr: 1e+10",
        ),
        (
            one_epoch(3, 0.1, 1e20, 1e-5 / 3, 2.5e17),
            "epoch: 3, acc: 0.100, loss: 1e+20 (data: 9.98e+19, reg: 2.5e+17), lr: 3.33333e-06",
        ),
        # As much as fits, the parts of the loss first to go.
        (one_epoch(10**8, 0.1, 0.404, 1e-5 / 3, 0.01), "epoch: 100000000, acc: 0.100, loss: 0.404, lr: 3.33333e-06"),
        (
            one_epoch(10**14, 0.1, 12345.0, 1e-5 / 3, 0.01, (0.1, 23456.0)),
            "epoch: 100000000000000, acc: 0.100, loss: 1.23e+04, val: 0.100/2.35e+04",
        ),
    ],
)
def test_lines_of_unusual_numbers(history: History, line: str) -> None:
    # The second has 80 columns.
    expected = line if len(line) < 80 else "epoch: 3, acc: 0.100, loss: 1e+20, lr: 3.33333e-06"
    assert log_line(history) == expected


def test_without_a_terminal_only_the_lines_are_printed() -> None:
    text = io.StringIO()
    with ProgressDisplay(20, console=Console(file=text, width=40, highlight=False, soft_wrap=True)) as display:
        for history in logged():
            display.on_epoch(history)
            display.on_progress(history.epoch[-1] + 1)
    assert text.getvalue().splitlines() == LINES


@pytest.mark.parametrize("verbose", [1, 2])
def test_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str], verbose: int) -> None:
    with ProgressDisplay(20, verbose=verbose) as display:
        for number, history in enumerate(logged()):
            display.on_epoch(history)
            assert capsys.readouterr().out == f"{LINES[number]}\n"  # at once
    assert capsys.readouterr().out == ""


def test_verbose_0_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console = terminal()
    with suppress(ZeroDivisionError), ProgressDisplay(20, verbose=0, console=console) as display:
        display.on_epoch(logged()[0])
        raise ZeroDivisionError
    assert written(console) == ""
    assert capsys.readouterr() == ("", "")


def test_a_log_file_grows_line_by_line(tmp_path: Path) -> None:
    """Between what a callback prints, in the order of both, and flushed."""
    program = (
        "import sys\n"
        "from fmnist_xp.train.history import History\n"
        "from fmnist_xp.train.progress import ProgressDisplay\n"
        "history = History()\n"
        "with ProgressDisplay(2) as display:\n"
        "    for epoch in range(2):\n"
        "        history.append(epoch, 0.5, 2.0, 1.0, 0.5)\n"
        "        display.on_epoch(history)\n"
        "        print(open('log').read().count('epoch'))\n"
    )
    with (tmp_path / "log").open("w") as log:
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=log, check=True,
        )  # fmt: skip
    line = "epoch: {}, acc: 0.500, loss: 2.000 (data: 1.500, reg: 0.500), lr: 1"
    assert (tmp_path / "log").read_text().splitlines() == [line.format(0), "1", line.format(1), "2"]


# The display


def test_display_has_every_figure(clock: SimpleNamespace) -> None:
    console = terminal()
    with ProgressDisplay(21, rows=60_000, console=console) as display:
        clock.now += 5  # of preparation, which counts for no rate
        display.on_epoch(validated())
        clock.now += 2
        display.on_progress(15)
        # 4 epochs in the 2 seconds since the first report, 11 epochs done; 6 are left.
        assert last_lines(console, 2) == [
            " 71%  ━━━━━━━━━━━━━━━╸━━━━━━  15/21  0:00:03 left  2.00 epochs/s  120k samples/s",
            "loss 2.065  accuracy 0.194  val accuracy 0.190  lr 0.917431",
        ]
        clock.now += 3
        display.on_progress(21)
    assert last_lines(console, 2) == [
        "100%  ━━━━━━━━━━━━━━━━━━━━━━━━  21/21  in 0:00:10  2.00 epochs/s  120k samples/s",
        "loss 2.065  accuracy 0.194  val accuracy 0.190  lr 0.917431",
    ]


@pytest.mark.parametrize(
    ("width", "first", "second"),
    [
        (60, " 71%  15/21  0:00:03 left  2.00 epochs/s  120k samples/s", "loss accuracy val lr"),
        (50, " 71%  ━━━━━  15/21  0:00:03 left  2.00 epochs/s", "loss accuracy val"),
        (34, " 71%  15/21  0:00:03 left", "loss accuracy"),
        (12, " 71%  15/21", "loss"),
        (4, " 71%", "loss"),
    ],
)
def test_narrow_terminals_have_less(clock: SimpleNamespace, width: int, first: str, second: str) -> None:
    console = terminal(width)
    with ProgressDisplay(21, rows=60_000, console=console) as display:
        display.on_epoch(validated())
        clock.now += 2
        display.on_progress(15)
        above, below = last_lines(console, 2)
        assert max(len(above), len(below)) <= width
        assert re.sub(" +━.*[━╸╺] +", "  ━  ", above) == re.sub("━+", "━", first)
        names = ("loss", "accuracy", "val", "lr")
        assert [name for name in names if re.search(rf"\b{name}\b", below)] == second.split()[: len(below) // 5 or 1]


def test_slow_epochs_have_their_seconds(clock: SimpleNamespace) -> None:
    console = terminal(100)
    with ProgressDisplay(4, rows=300_000_000, console=console) as display:
        display.on_progress(1)
        clock.now += 200
        display.on_progress(2)
        assert "2/4  0:06:40 left  200 s/epoch  1.50M samples/s" in last_lines(console, 1)[0]


def test_resumed_run_has_the_rate_of_what_is_trained_now(clock: SimpleNamespace) -> None:
    console = terminal()
    with ProgressDisplay(1000, first_epoch=500, console=console) as display:
        assert last_lines(console, 1)[0].endswith("500/1,000")
        for done in (501, 511):
            clock.now += 5
            display.on_progress(done)
        assert last_lines(console, 1)[0].endswith("511/1,000  0:04:04 left  2.00 epochs/s")
        display.on_progress(505)  # late news
        clock.now += 5
        display.on_progress(511)
        assert last_lines(console, 1)[0].endswith("511/1,000  0:04:04 left  2.00 epochs/s")


def test_display_is_refreshed_ten_times_a_second_at_most(clock: SimpleNamespace) -> None:
    console = terminal()
    with ProgressDisplay(1000, console=console) as display:
        for done in range(1, 1000):
            clock.now += 0.01
            display.on_progress(done)
        shown = plain(written(console)).count("/1,000")
    assert 80 <= shown <= 101  # in 10 seconds


def test_training_without_epochs_is_complete() -> None:
    console = terminal()
    with ProgressDisplay(0, console=console):
        pass
    assert re.fullmatch("100%  ━+  0/0  in 0:00:00", last_lines(console, 1)[0])


def test_lines_stand_above_the_display() -> None:
    console = terminal()
    with ProgressDisplay(20, verbose=2, console=console) as display:
        for history in logged():
            display.on_epoch(history)
    shown = [line.rstrip() for line in plain(written(console)).splitlines()]
    assert [line for line in shown if line in LINES] == LINES
    assert re.match("100%  ━+  20/20  in 0:00:00", shown[-2])
    assert shown[-1] == "loss 2.065  accuracy 0.194  lr 0.917431"


@pytest.mark.parametrize("live", [True, False], ids=["display", "lines"])
@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"interrupted": True}, "interrupted after 12 of 1,100 epochs"),
        ({"stopped": "no better"}, "stopped after 12 of 1,100 epochs: no better"),
        ({}, "broken off after 12 of 1,100 epochs"),
    ],
)
def test_training_that_ends_early_says_so(changes: dict[str, Any], note: str, live: bool) -> None:
    console = terminal() if live else Console(file=io.StringIO())
    history = logged()[1]
    with suppress(KeyboardInterrupt), ProgressDisplay(1100, console=console) as display:
        display.on_epoch(history)
        display.on_progress(12)
        vars(history).update(changes)
        if not changes:
            raise KeyboardInterrupt
    assert last_lines(console, 1) == [note]
    if live:
        assert last_lines(console, 3)[0].startswith("  1%  ━")
        assert "12/1,100  in 0:00:00" in last_lines(console, 3)[0]


# Where it is shown


def test_lines_have_no_colours_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressDisplay(20, verbose=2) as display:
        display.on_epoch(logged()[0])
    shown = capsys.readouterr().out
    assert LINES[0] in shown
    assert "\x1b[9" in shown  # the bar's own
    monkeypatch.setenv("NO_COLOR", "1")
    with ProgressDisplay(20) as display:
        display.on_epoch(logged()[0])
    assert not re.search(r"\x1b\[[\d;]*m", capsys.readouterr().out)


def test_dumb_terminal_has_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    with ProgressDisplay(20) as display:
        display.on_epoch(logged()[0])
    assert capsys.readouterr().out == f"{LINES[0]}\n"


def test_two_at_once_share_a_terminal() -> None:
    """The second, also of another thread, prints its lines; the terminal is free again after the first."""
    first, second, third = terminal(), terminal(), terminal()

    def train(console: Console) -> None:
        with ProgressDisplay(20, console=console) as display:
            display.on_epoch(logged()[0])

    with ProgressDisplay(20, console=first) as display:
        thread = threading.Thread(target=train, args=(second,))
        thread.start()
        thread.join()
        display.on_epoch(logged()[0])
    assert written(second) == f"{LINES[0]}\n"
    assert "━" in written(first)
    thread = threading.Thread(target=train, args=(third,))
    thread.start()
    thread.join()
    assert "━" in written(third)


def test_display_of_the_caller_keeps_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a display of rich, as of a loop over seeds, the lines appear above it."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    own = Live("the caller's own", console=Console(file=stream, force_terminal=True), auto_refresh=False)
    with own, ProgressDisplay(20) as display:
        display.on_epoch(logged()[0])
    shown = plain(stream.getvalue())
    assert LINES[0] in shown
    assert "100%" not in shown


def test_messages_to_a_file_stay_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, file = Terminal(), io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    for stdout, stderr in ((screen, file), (screen, None), (screen, screen)):
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(sys, "stderr", stderr)
        with ProgressDisplay(20) as display:
            display.on_epoch(logged()[0])
            print("for people")
            print("a message", file=sys.stderr)
        assert (sys.stdout, sys.stderr) == (stdout, stderr)
    assert file.getvalue() == "a message\n"
    assert screen.getvalue().count("for people") == 3
    assert screen.getvalue().count("a message") == 2  # what is printed to None goes to stdout


def test_broken_display_leaves_the_terminal_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any, **_more: Any) -> None:
        raise OSError("no such terminal")

    with monkeypatch.context() as patch:
        patch.setattr(Live, "start", fail)
        with pytest.raises(OSError, match="no such terminal"), ProgressDisplay(20, console=terminal()):
            pass
    console = terminal()
    with ProgressDisplay(20, console=console):
        pass
    assert "100%" in last_lines(console, 1)[0]


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for IPython in a notebook; returns the list of what its only output was."""
    shown: list[str] = []

    def show(thing: Any) -> None:
        shown.append(thing._repr_mimebundle_([], [])["text/html"])

    def display(thing: Any, *, display_id: bool) -> Any:
        assert display_id
        show(thing)
        return SimpleNamespace(update=show)

    module: Any = ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_notebook_has_one_output_that_changes(
    notebook: list[str], clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressDisplay(21, console=Console(force_jupyter=True)) as display:
        assert len(notebook) == 1
        display.on_epoch(validated())
        assert len(notebook) == 2
        clock.now += 0.05
        display.on_progress(12)
        assert len(notebook) == 2
        vars(display._history).update(stopped="no better")
    assert len(notebook) == 3
    text = re.sub("<[^>]*>", "", notebook[-1])
    assert re.match(r" 57%  ━+[╺╸]? *  12/21  in 0:00:00  20\.0 epochs/s\nloss 2\.065  accuracy", text)
    assert capsys.readouterr().out == "stopped after 12 of 21 epochs: no better\n"


def test_notebook_has_lines_for_verbose_2(notebook: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(21, verbose=2, console=Console(force_jupyter=True)) as display:
        display.on_epoch(logged()[0])
    assert capsys.readouterr().out == f"{LINES[0]}\n"
    assert notebook == []


@pytest.mark.filterwarnings("ignore")  # of the packages that run it
def test_fit_in_a_notebook_with_a_real_kernel() -> None:
    client = pytest.importorskip("nbclient", reason="nbclient, which runs a notebook, is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel, which runs a notebook, is not installed")
    import nbformat

    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import numpy as np, fmnist_xp as fx\n"
        "model = fx.Sequential([fx.Dense(6, 3)])\n"
        "X, y = np.ones((4, 6), 'float32'), np.zeros(4, 'uint8')\n"
        "history = model.fit(X, y, epochs=30)\n"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    client.NotebookClient(notebook, timeout=None, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    assert re.search("100%.*30/30  in ", re.sub("<[^>]*>", "", output.data["text/html"]))


def test_terminal_of_80_columns_shows_what_is_meant() -> None:
    """In a process of its own, on a pseudo-terminal, whose last screen a terminal emulator tells."""
    pty = pytest.importorskip("pty")
    pyte = pytest.importorskip("pyte", reason="pyte, a terminal emulator, is not installed")
    import fcntl
    import termios

    program = (
        "import numpy as np, fmnist_xp as fx\n"
        "model = fx.Sequential([fx.Dense(6, 3)])\n"
        "X, y = np.ones((4, 6), 'float32'), np.zeros(4, 'uint8')\n"
        "say = lambda history: print('of a callback', history.epoch[-1])\n"
        "model.fit(X, y, epochs=30, callbacks=say)\n"
        "print('afterwards')\n"
    )
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal can be made here ({error})")
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 80, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    variables |= {"PYTHONPATH": str(ROOT), "TERM": "xterm"}
    screen = pyte.Screen(80, 25)
    stream = pyte.ByteStream(screen)
    with subprocess.Popen(
        [sys.executable, "-c", program], env=variables, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        try:
            while piece := os.read(ours, 2**16):
                stream.feed(piece)
        except OSError:  # EIO, as Linux has it: nobody writes to it any more
            pass
    os.close(ours)
    assert process.returncode == 0
    shown = [line.rstrip() for line in screen.display if line.strip()]
    assert shown[:3] == ["of a callback 0", "of a callback 10", "of a callback 20"]
    assert re.match("100%  ━+  30/30  in 0:00:0", shown[3])
    assert re.match(r"loss \d\.\d{3}  accuracy \d\.\d{3}  lr 1$", shown[4])
    assert shown[5:] == ["afterwards"]


# The argument


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, 0), (1, 1), (2, 2), (True, 1), (False, 0), (np.int64(2), 2), (np.True_, 1)],
)
def test_verbose_is_0_1_or_2(value: Any, expected: int) -> None:
    checked = checked_verbose(value)
    assert (checked, type(checked)) == (expected, int)


@pytest.mark.parametrize("value", [3, -1, 1.0, "auto", None, [1], np.array([1])])
def test_other_values_of_verbose_are_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^verbose must be 0 .*, 1 .* or 2 .*, got ") as caught:
        checked_verbose(value)
    assert str(caught.value).endswith(repr(value))
