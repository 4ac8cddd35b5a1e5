"""How the rows lie: what a user hands in becomes blocks of values, which the workers copy into their buffers.

`lay_out` looks at the data once and chooses:

- **as they are**: floats in the order in which they came;
- **as bytes**: pixels, a quarter of the memory, which become the numbers of `preprocess` in a worker's buffer;
- **as bytes, unscaled**: in the buffer they are the numbers from 0 to 255, x = base + scale · x′, see `Shift`;
- **without background** (`background.py`): floats or bytes likewise, in another order, and of each block only the
  columns in which its rows differ from the base.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.arguments import whole_number
from fmnist_xp.backend import Array, Backend, elementwise
from fmnist_xp.data.mapped import forget, is_mapped
from fmnist_xp.data.pixels import HALF, Pixels, scale_pixels
from fmnist_xp.nn.layers import copy_values
from fmnist_xp.nn.network import Network
from fmnist_xp.train.background import arrange
from fmnist_xp.train.halves import halves
from fmnist_xp.train.plan import plans_first_layer
from fmnist_xp.train.shift import Shift
from fmnist_xp.train.store import Store

Write: TypeAlias = Callable[[Array, Array], None]

logger = logging.getLogger("fmnist_xp")

_PIECE = 10_000
"""Rows that are sent to a device at once."""

elementwise(scale_pixels)


@elementwise
def odd_integers(xp: Any, output: Array, pixels: Array, two: float, most: float) -> None:
    """Write 2 · pixels − 255, which is exact in half precision, to `output`."""
    xp.subtract(xp.multiply(pixels, two), most, out=output)


@dataclass(frozen=True)
class Rows:
    """All rows, in blocks.

    `block(number)` returns the values of a block, (rows, columns), as they are kept, and `write(buffer, values)`
    writes them to a worker's buffer, of the dtype of the products' operands; where it is None they are worked on
    where they lie. `columns` has the indices of each block's columns; None stands for all. `labels` (rows,) lie as
    the rows do, and `order` (rows,) says which of the rows that were given lies where; None for the order given.
    `input_scale` is a factor on the values, `shift` what else makes the inputs of them.
    """

    blocks: Sequence[slice]
    labels: Array | None
    block: Callable[[int], Array]
    write: Write | None
    input_scale: float = 1.0
    shift: Shift | None = None
    columns: Sequence[Array] | None = None
    order: Array | None = None
    column_share: float = 1.0
    """Share of the columns that the first layer's products are computed with."""


def lay_out(
    network: Network,
    inputs: Pixels | Array,
    labels: Array | None = None,
    block_rows: int | None = None,
    dense: bool | None = None,
) -> Rows:
    """Return how the rows of `inputs` (n, n_inputs) lie.

    Parameters
    ----------
    inputs
        `Pixels`, or floats on the network's backend, of the dtype of the parameters or of the products' operands.
    labels
        Class indices (n,) on the backend, or None for predictions alone, which leave the rows as they are.
    block_rows
        Rows in a block; by default what suits the backend and the network's widths.
    dense
        Whether every column is multiplied; by default where the backend works on blocks where they lie, as GPUs do.
    """
    backend, count = network.backend, len(inputs)
    if dense is None:
        dense = not backend.stages_blocks
    pixels = isinstance(inputs, Pixels)
    # Each Dense layer has an output and the gradient of it.
    row_bytes = 2 * sum(network.widths[1:]) * network.parameters.dtype.itemsize
    if backend.own_memory and pixels:
        row_bytes += network.n_inputs * np.dtype(network.precision.operands).itemsize
    if block_rows is not None:
        block_rows = min(count, whole_number("block_rows", block_rows, 1))
    block_rows = block_rows or backend.block_rows(count, row_bytes)
    blocks = [slice(start, min(start + block_rows, count)) for start in range(0, count, block_rows)]
    given = network, inputs, labels, blocks
    shifts = pixels or inputs.dtype == network.precision.operands == network.precision.parameters
    if dense or labels is None or not plans_first_layer(network) or not shifts:
        rows = _pixels(*given) if pixels else _floats(*given)
    else:
        rows = _without_background(*given) or (_shifted_pixels(*given) if pixels else _floats(*given))
    logger.debug(
        "%d rows in %d blocks, for which the first layer needs %.1f%% of the columns",
        *(count, len(blocks), 100 * rows.column_share),
    )
    return rows


def _floats(network: Network, inputs: Array, labels: Array | None, blocks: list[slice]) -> Rows:
    """Lay out floats as they are; in half precision, exactly where they are pixels."""
    backend, scale = network.backend, 1.0
    if network.precision.operands == "float16" != inputs.dtype:
        inputs, scale = halves(backend.xp, inputs)
        if not plans_first_layer(network):
            inputs, scale = inputs * inputs.dtype.type(scale), 1.0
    write = _forgetting(partial(_copy, backend), inputs) if backend.stages_blocks else None
    return Rows(blocks, labels, lambda number: inputs[blocks[number]], write, scale)


def _pixels(network: Network, pixels: Pixels, labels: Array | None, blocks: list[slice]) -> Rows:
    """Lay out bytes that become the numbers of `preprocess` in each block."""
    exactly = network.precision.operands == "float16" and plans_first_layer(network)
    scaled = partial(_write_odd_integers if exactly else _write_scaled, network.backend)
    block, write = _bytes_of(network.backend, pixels, blocks, scaled)
    return Rows(blocks, labels, block, write, 1 / 255 if exactly else 1.0)


def _shifted_pixels(network: Network, pixels: Pixels, labels: Array, blocks: list[slice]) -> Rows:
    """Lay out bytes that are worked on as they are."""
    backend = network.backend
    shift = _shift_of_bytes(network, np.zeros(network.n_inputs, np.uint8))
    block, write = _bytes_of(backend, pixels, blocks, partial(_copy, backend))
    return Rows(blocks, labels, block, write, shift=shift)


def _without_background(network: Network, inputs: Pixels | Array, labels: Array, blocks: list[slice]) -> Rows | None:
    """Lay out rows sorted by what they have beyond their background; None where that does not pay."""
    backend = network.backend
    source = inputs.images if isinstance(inputs, Pixels) else backend.to_host(inputs)
    read = inputs.bytes if isinstance(inputs, Pixels) else source.__getitem__
    store = Store(backend, source)
    arranged = arrange(read, len(inputs), blocks[0].stop, backend, store.keep, lambda: forget(source))
    if arranged is None:
        return None
    if isinstance(inputs, Pixels):
        shift = _shift_of_bytes(network, arranged.base)
    else:
        base = backend.asarray(arranged.base[:, None], network.parameters.dtype)
        shift = Shift(network, base, backend.xp.ones_like(base))
    used = sum(
        len(picked) * (block.stop - block.start) for picked, block in zip(arranged.columns, blocks, strict=True)
    )
    order, values = backend.asarray(arranged.order), store.blocks()
    return Rows(
        blocks,
        labels[order],
        values.__getitem__,
        _forgetting(partial(_copy, backend), values[0]),
        shift=shift,
        columns=[backend.asarray(picked) for picked in arranged.columns],
        order=order,
        column_share=used / (len(inputs) * network.n_inputs),
    )


def _shift_of_bytes(network: Network, base: NDArray[np.uint8]) -> Shift:
    """Return what makes numbers of bytes that go up from a base 0 or down from a base 255."""
    down = base[:, None] == 255
    column = partial(network.backend.asarray, dtype=network.parameters.dtype)
    return Shift(network, column(np.where(down, 1.0, -1.0)), column(np.where(down, -1 / HALF, 1 / HALF)))


def _bytes_of(
    backend: Backend, pixels: Pixels, blocks: list[slice], write: Write
) -> tuple[Callable[[int], Array], Write]:
    """Return what returns the bytes of a block, on a device all at once, and what writes them to a buffer."""
    if not backend.own_memory:
        return lambda number: pixels.bytes(blocks[number]), _forgetting(write, pixels.images)
    there = backend.xp.empty(pixels.shape, "uint8")
    for start in range(0, len(pixels), _PIECE):
        part = slice(start, start + _PIECE)
        backend.send(np.ascontiguousarray(pixels.bytes(part)), there[part])
        forget(pixels.images)
    return lambda number: there[blocks[number]], write


def _write_scaled(backend: Backend, buffer: Array, values: Array) -> None:
    backend.compute(scale_pixels, buffer, values, HALF)


def _write_odd_integers(backend: Backend, buffer: Array, values: Array) -> None:
    backend.compute(odd_integers, buffer, values, 2.0, 255.0)


def _copy(backend: Backend, buffer: Array, values: Array) -> None:
    backend.compute(copy_values, values, buffer)


def _forgetting(write: Write, source: Array) -> Write:
    """Return `write` for values from `source`; where that is a mapped file, what was read of it leaves the memory."""
    if not is_mapped(source):
        return write

    def written(buffer: Array, values: Array) -> None:
        write(buffer, values)
        forget(values if is_mapped(values) else source)  # shuffled rows come from all over the file

    return written
