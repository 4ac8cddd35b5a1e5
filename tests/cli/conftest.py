"""Running the command in this process, and checks of its outcome."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from run_helpers import parse_json

from fmnist_xp.cli import main


@dataclass(frozen=True)
class Answer:
    """How the command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """Return the lines on stdout."""
        return self.out.splitlines()

    def assert_failed(self, code: int, *words: str) -> None:
        """Assert that it ended with the exit code `code` and one line on stderr with all `words`."""
        assert (self.code, self.err.count("\n")) == (code, 1), self
        assert self.err.startswith("fmnist-xp: ")
        assert "Traceback" not in self.out + self.err
        for word in words:
            assert word in self.err

    def assert_went_well(self) -> None:
        """Assert that it ended with exit code 0 and printed nothing on stderr."""
        assert (self.code, self.err) == (0, ""), self

    def document(self) -> Any:
        """Return what it printed, asserted to be one document of strict JSON, and to have ended well."""
        self.assert_went_well()
        return parse_json(self.out)


Command = Callable[..., Answer]
made_once = cache(typer.main.get_command)
"""A process makes its parsers once; these tests, which run the command in theirs, would make them each time."""


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, workplace: Path, sigint: None
) -> Command:
    """Return a function that runs `fmnist-xp` with arguments, in `workplace`."""
    monkeypatch.setattr(typer.main, "get_command", made_once)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "warnoptions", ["error"])  # as pytest has it: the command leaves them so

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["fmnist-xp", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Answer(end.value.code, out, err)

    return run
