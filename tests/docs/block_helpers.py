"""The fenced blocks of a page: Python that runs, and the text below it, which is what it prints."""

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"^In `([^`]+)`, `([^`]+)`:$")
"""The line above a block that quotes a file and a function or class in it, and is not run."""
NOT_RUN = re.compile(r"^<!-- not run: (.+) -->$")
NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+(?=e))(?:e[-+]?\d+)?")


class Block(NamedTuple):
    """A block of `language` that begins in this line; `above` is the last line of text before it.

    `printed` is the text block behind it, if nothing stands between.
    """

    language: str
    code: str
    line: int
    above: str
    printed: str | None

    @property
    def runs(self) -> bool:
        return self.language == "python" and not QUOTED.match(self.above) and not NOT_RUN.match(self.above)


def blocks(text: str) -> list[Block]:
    """Return the blocks of a page in their order; text that is what a block prints belongs to that."""
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        between, (language, code) = text[end : match.start()], match.groups()
        if language == "text" and found and found[-1].runs and found[-1].printed is None and not between.strip():
            found[-1] = found[-1]._replace(printed=code)
        else:
            above = between.rstrip().rpartition("\n")[2]
            found.append(Block(language, code, text.count("\n", 0, match.start()) + 2, above, None))
        end = match.end()
    return found


def run(page: str, name: str, namespace: dict[str, Any]) -> Iterator[tuple[Block, str]]:
    """Run the Python of a page in `namespace`, one block after another; yield each with what it printed."""
    for block in blocks(page):
        if block.runs:
            code = compile("\n" * (block.line - 1) + block.code, name, "exec")  # with the page's lines in a traceback
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, namespace)
            yield block, printed.getvalue()


def differences(shown: str, printed: str) -> Iterator[str]:
    """Yield where `printed` is not what is shown: a float may be off by one in the last of the digits shown."""
    there, here = shown.split(), printed.split()
    if len(there) != len(here):
        yield f"{len(here)} words printed, {len(there)} shown:\n{printed}"
        return
    for expected, actual in zip(there, here, strict=True):
        numbers = NUMBER.findall(expected), NUMBER.findall(actual)
        same = NUMBER.sub("#", expected) == NUMBER.sub("#", actual)
        if not same or any(abs(float(a) - float(b)) > 1.001 * _unit(a) for a, b in zip(*numbers, strict=True)):
            yield f"{actual} printed, {expected} shown"


def _unit(number: str) -> float:
    """Return one in the last digit of a number."""
    digits, _, exponent = number.partition("e")
    return float(10 ** (int(exponent or 0) - len(digits.partition(".")[2])))
