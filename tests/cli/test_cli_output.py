"""What the console makes of text, tables and values; tests/cli/test_cli_streams.py has what lies below."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from fmnist_xp.cli.console import _Console, new_table, print_json
from fmnist_xp.plain_json import parse_json


def test_nothing_in_a_table_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table("number", "path", right=("number",))
    table.add_row("7", "/a/path/" + "x" * 200)
    console = _Console()
    assert not console.fits(table)
    console.print(table)
    shown = capsys.readouterr().out
    assert shown.count("x") == 200
    assert max(map(len, shown.splitlines())) <= 80
    assert "│      7 │ /a/path/" in shown
    narrow = new_table("number")
    narrow.add_row("7")
    assert console.fits(narrow)


@pytest.mark.parametrize("terminal", [True, False])
def test_prose_is_broken_between_words_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(terminal)))
    text = " ".join(["[word]"] * 30)
    _Console().print_prose(text)
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(line.rstrip() for line in lines) == text
    assert (len(lines) > 1) == terminal
    assert all(set(line.split()) == {"[word]"} for line in lines)


@dataclass(frozen=True)
class Measured:
    share: float
    path: Path


def test_json_is_strict_and_plain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    values = {
        "nan": math.nan,
        "infinite": np.float32(np.inf),
        "array": np.array([[1, 2]]),
        "tuple": (Measured(0.5, Path("a\udce9")), None, True),
        "number": np.float64(0.1),
        "text": "[red] é",
    }
    print_json(values)
    text = capsys.readouterr().out
    assert text.isascii()
    assert text.endswith("}\n")
    assert parse_json(text) == {
        "nan": None,
        "infinite": None,
        "array": [[1, 2]],
        "tuple": [{"share": 0.5, "path": "a\udce9"}, None, True],
        "number": 0.1,
        "text": "[red] é",
    }
