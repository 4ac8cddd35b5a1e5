"""A network in words: in one line, and as a table."""

import math
import textwrap
from collections.abc import Iterable
from typing import Any

from fmnist_xp.nn.layers import Dense, Layer
from fmnist_xp.nn.stepwise import keeps_width

COLUMNS = 79
"""Width of the table, for the longest cells of which a line is broken."""
MOST_NAMED = 12
"""Layers that `short_text` names one by one."""


def short_text(network: Any) -> str:
    """Return a line such as "<Sequential 784-64-10 on cpu, float32: Dense, ReLU, Dense; …; 50,890 parameters>".

    Raises nothing: of a network that is not whole it has the class alone.
    """
    kind = type(network).__name__
    try:
        names = [type(layer).__name__ for layer in network.layers]
        return (
            f"<{kind} {_some(map(str, network.widths), '-')} on {network.backend.name}, {network.dtype}: "
            f"{_some(names, ', ')}; {type(network.loss).__name__}; {network.parameters.size:,} parameters>"
        )
    except Exception:
        return f"<{kind}, not whole>"


def summary_text(network: Any) -> str:
    """Return a table of the layers with the shape of their output, number of parameters and penalties, and totals.

    An output of a user's own layer is as wide as the next layer takes it; "?" where that does not tell.
    """
    cells = [("#", "Layer", "Output shape", "Parameters")]
    for number, (layer, width) in enumerate(zip(network.layers, output_widths(network), strict=True), start=1):
        shape = f"(n, {'?' if width is None else width})"
        cells.append((str(number), type(layer).__name__, shape, f"{layer.size:,}"))
    sizes = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = max(30, COLUMNS - sum(sizes) - 2 * len(sizes))
    last = [["Penalties"], *(_penalties(layer, room) for layer in network.layers)]
    head, *body = (line for row in zip(cells, last, strict=True) for line in _lines(*row, sizes))
    rule = "-" * max(map(len, (head, *body)))
    parameters = network.parameters
    return "\n".join(
        [
            f"{type(network).__name__} on {network.backend.name}, {network.dtype}",
            *(rule, head, rule, *body, rule),
            f"Loss: {type(network.loss).__name__}",
            f"Parameters: {parameters.size:,} of {parameters.dtype}, {_memory(parameters.nbytes)}",
        ]
    )


def output_widths(network: Any) -> list[int | None]:
    """Return the number of columns of each layer's output, None where it is not known before the layer has run."""
    layers: list[Layer] = network.layers
    widths: list[int | None] = []
    for layer in layers:
        kept = (layer.n_features or widths[-1]) if keeps_width(layer) else None
        widths.append(layer.n_neurons if isinstance(layer, Dense) else kept)
    taken: int | None = network.n_classes  # by what follows
    for place in reversed(range(len(layers))):
        width = widths[place] = taken if widths[place] is None else widths[place]
        layer = layers[place]
        taken = layer.n_inputs if isinstance(layer, Dense) else width if keeps_width(layer) else None
    return widths


def _lines(cells: tuple[str, ...], last: list[str], sizes: list[int]) -> list[str]:
    """Return the lines of a row, of which the last cell may have several."""
    number, layer, shape, count = cells
    first = f"{number:>{sizes[0]}}  {layer:<{sizes[1]}}  {shape:<{sizes[2]}}  {count:>{sizes[3]}}  "
    return [(" " * len(first) if place else first) + line for place, line in enumerate(last)]


def _penalties(layer: Layer, room: int) -> list[str]:
    """Return the strengths of a layer's penalties, in lines of at most `room` characters."""
    lines = []
    for place, kind in enumerate(("L1", "L2")):
        strengths = {name: pair[place] for name, pair in layer.penalty_strengths().items() if pair[place]}
        text = ", ".join(f"{name} {strength:g}" for name, strength in strengths.items())
        lines += textwrap.wrap(f"{kind} {text}", room, subsequent_indent="   ") if text else []
    return lines or ["none"]


def _memory(size: int) -> str:
    """Return a number of bytes in words."""
    if size < 1024:
        return f"{size:,} bytes"
    power = min(3, int(math.log2(size)) // 10)
    return f"{size / 1024**power:,.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"


def _some(texts: Iterable[str], between: str) -> str:
    """Return all texts, or of many the first and the last."""
    listed = list(texts)
    if len(listed) > MOST_NAMED:
        listed[MOST_NAMED // 2 : -MOST_NAMED // 2] = ["…"]
    return between.join(listed)
