import pytest

from fmnist_xp.errors import (
    LONGEST,
    DataError,
    DeviceError,
    ElsewhereError,
    EngineError,
    FmnistXpError,
    RankError,
    RunError,
    printable,
)


@pytest.mark.parametrize("kind", [DataError, DeviceError, EngineError, RunError, RankError, ElsewhereError])
def test_every_error_is_one_of_the_package(kind: type[Exception]) -> None:
    assert issubclass(kind, FmnistXpError)
    assert str(kind("a file: damaged")) == "a file: damaged"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("two\nlines", "two lines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("caf\udce9.png", r"caf\udce9.png"),
        ("a\rb\x00c\u2028d", r"a\rb\x00c\u2028d"),
        ("größer ≤ 28 × 28", "größer ≤ 28 × 28"),
    ],
)
def test_message_is_one_printable_line(message: str, line: str) -> None:
    assert str(RunError(message)) == line


def test_printable_keeps_newlines() -> None:
    assert printable("a\n\tb") == "a\n\\tb"


def test_a_long_message_keeps_its_beginning_and_end() -> None:
    assert str(DataError("x" * LONGEST)) == "x" * LONGEST
    text = str(DataError("begin" + "x" * LONGEST + "end"))
    assert len(text) == LONGEST + 3
    assert text.startswith("begin")
    assert text.endswith("end")
    assert " … " in text
