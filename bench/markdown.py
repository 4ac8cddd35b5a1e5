"""What the tables of results share: Markdown, and times and sizes with as many digits as suit them."""

from collections.abc import Iterable, Sequence
from typing import Any

Record = dict[str, Any]
"""What a JSON file of the results holds, or a part of that."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are aligned right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def spread(summary: Record) -> list[str]:
    """Return median, minimum to maximum and IQR, all in the unit that suits the median."""
    median, low, high, iqr = (_in_unit(summary[key], summary["median"]) for key in ("median", "min", "max", "iqr"))
    return [f"{median} {_unit(summary['median'])}", f"{low} – {high}", iqr]


def seconds(value: float) -> str:
    """Return a time with its unit."""
    return f"{_in_unit(value, value)} {_unit(value)}"


def _unit(size: float) -> str:
    return "s" if size >= 0.1 else "ms"


def _in_unit(value: float, size: float) -> str:
    """Return `value` with as many digits as suit a median of `size` seconds."""
    return f"{value:.3f}" if size >= 0.1 else f"{value * 1000:.{1 if size >= 0.01 else 3}f}"


def number(value: float | None, form: str) -> str:
    """Return a number in the format `form`; a dash for None."""
    return "–" if value is None else format(value, form)


def megabytes(value: int | None) -> str:
    """Return bytes in MB; a dash for None."""
    return number(value and value / 1e6, ",.0f")
