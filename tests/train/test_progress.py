import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from fmnist_xp.train.history import History
from fmnist_xp.train.progress import ProgressDisplay, log_line

LINES = [
    "epoch: 0, acc: 0.085, loss: 2.308 (data_loss: 2.303, reg_loss: 0.005), lr: 1.0",
    "epoch: 10, acc: 0.194, loss: 2.065 (data_loss: 2.059, reg_loss: 0.006), lr: 0.9174311926605504",
]


def logged() -> list[History]:
    """Return the notebook's history of sgd after its first and its second line."""
    first, second = History(), History()
    for history in (first, second):
        history.append(0, 0.0851, 2.30809, 1.0, 0.005059542213208445)
    second.append(10, 0.1942, 2.06491, 0.9174311926605504, 0.005503636788984646)
    return [first, second]


@pytest.mark.parametrize("number", [0, 1])
def test_line_is_the_notebooks(number: int) -> None:
    assert log_line(logged()[number]) == LINES[number]


def test_line_of_a_diverged_run() -> None:
    history = History()
    history.append(3, 0.1, float("nan"), 1e10, float("inf"))
    expected = "epoch: 3, acc: 0.100, loss: nan (data_loss: nan, reg_loss: inf), lr: 10000000000.0"
    assert log_line(history) == expected


def test_without_a_terminal_only_the_lines_are_printed() -> None:
    text = io.StringIO()
    with ProgressDisplay(20, Console(file=text, width=40, highlight=False, soft_wrap=True)) as display:
        for history in logged():
            display.on_epoch(history)
    assert text.getvalue().splitlines() == LINES


def test_lines_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay(20) as display:
        for history in logged():
            display.on_epoch(history)
    assert capsys.readouterr().out.splitlines() == LINES  # the second is wider than the 80 columns of the tests


def test_lines_have_no_colours_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressDisplay(20) as display:
        display.on_epoch(logged()[0])
    shown = capsys.readouterr().out
    assert LINES[0] in shown
    assert "\x1b[" in shown  # the bar's own


def test_terminal_shows_lines_and_a_bar_with_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0, 102.0])
    monkeypatch.setattr("fmnist_xp.train.progress.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=True, highlight=False, soft_wrap=True, _environ={})
    with ProgressDisplay(20, console) as display:
        for history in logged():
            display.on_epoch(history)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.getvalue())
    for line in LINES:
        assert line in shown
    # At first without figures, then 11 epochs in the 2 seconds from the start, and the time that is left.
    assert re.search(r"training +━+ +0/20 {2,}-:--:--", shown)
    last = r"training +[━╺╸]+ +11/20 5\.5 epochs/s  loss 2\.065  accuracy 0\.194 (-:--:--|\d:\d\d:\d\d)"
    assert re.search(last, shown)
