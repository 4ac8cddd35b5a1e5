"""How the rows lie: what a user hands in becomes blocks of values, which the workers copy into their buffers.

`lay_out` looks at the data once, shares their blocks out among the ranks, and chooses:

- **as they are**: floats in the order in which they came;
- **as bytes**: pixels, a quarter of the memory, which become the numbers of `preprocess` in a worker's buffer;
- **as bytes, unscaled**: in the buffer they are the numbers from 0 to 255, x = base + scale · x′, see `Shift`;
- **without background** (`background.py`): floats or bytes likewise, in another order, and of each block only the
  columns in which its rows differ from the base.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.arguments import whole_number
from fmnist_xp.backend import Array, Backend, elementwise
from fmnist_xp.data.mapped import forget, is_mapped
from fmnist_xp.data.pixels import HALF, Pixels, scale_pixels
from fmnist_xp.nn.layers import copy_values
from fmnist_xp.nn.network import Network
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.train.background import pick_blocks, sort_rows
from fmnist_xp.train.halves import halves
from fmnist_xp.train.plan import plans_first_layer
from fmnist_xp.train.shift import Shift
from fmnist_xp.train.source import Source
from fmnist_xp.train.store import Store
from fmnist_xp.train.tree import Tree

Write: TypeAlias = Callable[[Array, Array], None]

logger = logging.getLogger("fmnist_xp")

GROUPS = 1024
"""Groups of blocks at most: as many threads and ranks can share them out, and each has a vector to add up."""
_PIECE = 10_000
"""Rows that are sent to a device at once."""

elementwise(scale_pixels)


@elementwise
def odd_integers(xp: Any, output: Array, pixels: Array, two: float, most: float) -> None:
    """Write 2 · pixels − 255, which is exact in half precision, to `output`."""
    xp.subtract(xp.multiply(pixels, two), most, out=output)


class Shares(NamedTuple):
    """Which groups of neighbouring blocks each rank has.

    `tree` is in what order the gradients of groups are added. `of_ranks` has the numbers of each rank's groups, and
    `numbers` are this rank's. `groups` are the blocks in each of these, counted from this rank's first, and `blocks`
    their numbers among all; `first` is the place of their first row, of all `rows`.
    """

    tree: Tree
    of_ranks: list[range]
    numbers: range
    groups: list[range]
    blocks: range
    first: int
    rows: int


class Weights(NamedTuple):
    """What this rank's rows weigh, (rows,), and the sum over those of all ranks."""

    values: Array
    total: float


@dataclass(frozen=True)
class Rows:
    """This rank's rows, in blocks.

    `block(number)` returns the values of a block, (rows, columns), as they are kept, and `write(buffer, values)`
    writes them to a worker's buffer, of the dtype of the products' operands; where it is None they are worked on
    where they lie. `columns` has the indices of each block's columns; None stands for all. `labels` (rows,) lie as
    the rows do, and `order` (rows,) says which of all rows that were given lies where; None for the order given.
    `input_scale` is a factor on the values, `shift` what else makes the inputs of them. `weights` lie as the rows do;
    without, each weighs 1.
    """

    blocks: Sequence[slice]
    labels: Array | None
    block: Callable[[int], Array]
    write: Write | None
    shares: Shares
    input_scale: float = 1.0
    shift: Shift | None = None
    columns: Sequence[Array] | None = None
    order: Array | None = None
    column_share: float = 1.0
    """Share of the columns that the first layer's products are computed with, on all ranks."""
    weights: Weights | None = None

    def numbers(self, backend: Backend) -> Array:
        """Return the number of each row among all that were given, (rows,) of uint32 on the backend."""
        if self.order is not None:
            return self.order.astype("uint32")
        count = sum(block.stop - block.start for block in self.blocks)
        return backend.xp.arange(self.shares.first, self.shares.first + count, dtype="uint32")

    @property
    def total(self) -> float:
        """What a sum over the rows of all ranks is divided by for their mean."""
        return self.shares.rows if self.weights is None else self.weights.total


class Given(NamedTuple):
    """What is laid out: the rows of `source`, of which this rank has handed in `inputs` and `labels`."""

    network: Network
    source: Source
    inputs: Pixels | Array
    labels: Array | None
    block_rows: int
    ranks: Ranks

    @property
    def blocks(self) -> int:
        """How many blocks all ranks have."""
        return -(-self.source.rows // self.block_rows)

    def shares(self, columns: NDArray[np.integer]) -> Shares:
        """Share the blocks out, for whose products so many `columns` (blocks,) are needed."""
        count, widths = self.blocks, self.network.widths
        size = -(-count // GROUPS)
        # Of multiplications for a row: the first layer has two products, every other one three.
        costs = 2 * columns * widths[1] + 3 * sum(a * b for a, b in pairwise(widths[1:]))
        costs[-1] = costs[-1] * (self.source.rows - (count - 1) * self.block_rows) // self.block_rows
        tree = Tree([int(costs[start : start + size].sum()) for start in range(0, count, size)])
        of_ranks = tree.shares(self.ranks.size)
        numbers = of_ranks[self.ranks.rank]
        own = range(min(numbers.start * size, count), min(numbers.stop * size, count))
        groups = [
            range(start - own.start, min(start + size, own.stop) - own.start)
            for start in range(own.start, own.stop, size)
        ]
        first = min(own.start * self.block_rows, self.source.rows)
        return Shares(tree, of_ranks, numbers, groups, own, first, self.source.rows)

    def slices(self, own: range) -> list[slice]:
        """Return where this rank's rows of each of its blocks lie among its rows."""
        stops = [min((number + 1) * self.block_rows, self.source.rows) for number in own]
        first = own.start * self.block_rows
        return [
            slice(number * self.block_rows - first, stop - first) for number, stop in zip(own, stops, strict=True)
        ]


def lay_out(
    network: Network,
    inputs: Pixels | Array,
    labels: Array | None = None,
    block_rows: int | None = None,
    dense: bool | None = None,
    ranks: Ranks = ALONE,
    weights: Array | None = None,
    changed: bool = False,
) -> Rows:
    """Return how the rows of `inputs` (n, n_inputs), with those of the other ranks behind and before, lie.

    Parameters
    ----------
    inputs
        `Pixels`, or floats on the network's backend, of the dtype of the parameters or of the products' operands; the
        same kind on every rank.
    labels
        Class indices (n,) on the backend, or None for predictions alone, which leave the rows as they are.
    block_rows
        Rows in a block; by default what suits the backend and the network's widths.
    dense
        Whether every column is multiplied; by default where the backend works on blocks where they lie, as GPUs do.
    ranks
        All of them call this at once, and each may get rows that another has handed in.
    weights
        What the rows weigh in the loss, (n,) on the host, at least 0 and not all 0; by default 1 each.
    changed
        Whether the values change before they are worked on, so that their background is not what it is here.
    """
    backend = network.backend
    source = Source(inputs, backend, ranks)
    count = source.rows
    if dense is None:
        dense = not backend.stages_blocks
    pixels = isinstance(inputs, Pixels)
    # Each Dense layer has an output and the gradient of it.
    row_bytes = 2 * sum(network.widths[1:]) * network.parameters.dtype.itemsize
    if backend.own_memory and (pixels or changed):
        row_bytes += network.n_inputs * np.dtype(network.precision.operands).itemsize
    if backend.own_memory and changed:
        row_bytes += 12 * network.n_inputs  # the changed values, and where each comes from
    if block_rows is not None:
        block_rows = min(count, whole_number("block_rows", block_rows, 1))
    # What a device has free differs.
    block_rows = block_rows or min(ranks.gather(backend.block_rows(count, row_bytes, shared=ranks.size > 1)))
    given = Given(network, source, inputs, labels, block_rows, ranks)
    shifts = pixels or inputs.dtype == network.precision.operands == network.precision.parameters
    rows = None
    shifted = not (dense or labels is None or not plans_first_layer(network) or not shifts)
    if shifted and not changed:
        rows = _without_background(given)
    if rows is None:
        rows = _as_they_are(given, shifted and pixels)
    logger.debug(
        "%d rows in %d blocks, for which the first layer needs %.1f%% of the columns",
        *(count, given.blocks, 100 * rows.column_share),
    )
    return rows if weights is None else replace(rows, weights=_weights(given, rows, ranks.concatenated(weights)))


def _as_they_are(given: Given, shifted: bool) -> Rows:
    """Lay out rows in the order in which they came; with `shifted`, bytes are worked on as they are."""
    network, source = given.network, given.source
    shares = given.shares(np.full(given.blocks, network.n_inputs))
    own = shares.blocks
    first, stop = (min(place * given.block_rows, source.rows) for place in (own.start, own.stop))
    inputs, labels = given.inputs, given.labels
    if given.ranks.size > 1:
        inputs = source.part(first, stop)
        labels = None if labels is None else _all_labels(given)[first:stop]
    here = network, inputs, labels, given.slices(own), shares
    if not isinstance(inputs, Pixels):
        return _floats(*here, given.ranks)
    return _shifted_pixels(*here) if shifted else _pixels(*here)


def _all_labels(given: Given) -> Array:
    """Return the labels of the rows of all ranks."""
    backend = given.network.backend
    return backend.asarray(given.ranks.concatenated(backend.to_host(given.labels)))


def _weights(given: Given, rows: Rows, weights: NDArray[np.floating]) -> Weights:
    """Return those of the float64 `weights` of all rows that are this rank's, where its rows lie.

    A power of two brings them to a mean of about 1, exactly: half precision and the sum of a block bear that.
    """
    backend, own = given.network.backend, rows.shares.blocks
    weights = np.ldexp(weights, -math.frexp(weights.max())[1])  # first: the sum of the largest is infinite
    weights = np.ldexp(weights, -round(math.log2(weights.mean())))
    first, stop = own.start * given.block_rows, own.stop * given.block_rows
    mine = weights[first:stop] if rows.order is None else weights[backend.to_host(rows.order)]
    return Weights(backend.asarray(mine, given.network.parameters.dtype), float(weights.sum()))


def _floats(
    network: Network, inputs: Array, labels: Array | None, blocks: list[slice], shares: Shares, ranks: Ranks
) -> Rows:
    """Lay out floats as they are; in half precision, exactly where they are pixels."""
    backend, scale = network.backend, 1.0
    if network.precision.operands == "float16" != inputs.dtype:
        inputs, scale = halves(backend.xp, inputs, ranks)
        if not plans_first_layer(network):
            inputs, scale = inputs * inputs.dtype.type(scale), 1.0
    write = _forgetting(partial(_copy, backend), inputs) if backend.stages_blocks else None
    return Rows(blocks, labels, lambda number: inputs[blocks[number]], write, shares, scale)


def _pixels(network: Network, pixels: Pixels, labels: Array | None, blocks: list[slice], shares: Shares) -> Rows:
    """Lay out bytes that become the numbers of `preprocess` in each block."""
    exactly = network.precision.operands == "float16" and plans_first_layer(network)
    scaled = partial(_write_odd_integers if exactly else _write_scaled, network.backend)
    block, write = _bytes_of(network.backend, pixels, blocks, scaled)
    return Rows(blocks, labels, block, write, shares, 1 / 255 if exactly else 1.0)


def _shifted_pixels(
    network: Network, pixels: Pixels, labels: Array | None, blocks: list[slice], shares: Shares
) -> Rows:
    """Lay out bytes that are worked on as they are."""
    backend = network.backend
    shift = _shift_of_bytes(network, np.zeros(network.n_inputs, np.uint8))
    block, write = _bytes_of(backend, pixels, blocks, partial(_copy, backend))
    return Rows(blocks, labels, block, write, shares, shift=shift)


def _without_background(given: Given) -> Rows | None:
    """Lay out rows sorted by what they have beyond their background; None where that does not pay."""
    network, source, ranks, backend = given.network, given.source, given.ranks, given.network.backend
    order = sort_rows(source, given.block_rows, backend, ranks)
    if order is None:
        return None
    shares = given.shares(order.columns)
    own = shares.blocks
    blocks = given.slices(own)
    store = Store(backend, source.values)
    columns = pick_blocks(source, order, own, given.block_rows, backend, store.keep)
    if isinstance(given.inputs, Pixels):
        shift = _shift_of_bytes(network, order.base)
    else:
        base = backend.asarray(order.base[:, None], network.parameters.dtype)
        shift = Shift(network, base, backend.xp.ones_like(base))
    used = sum(len(picked) * (block.stop - block.start) for picked, block in zip(columns, blocks, strict=True))
    lies = backend.asarray(order.rows[own.start * given.block_rows : own.stop * given.block_rows])
    values = store.blocks()
    return Rows(
        blocks,
        _all_labels(given)[lies],
        values.__getitem__,
        _forgetting(partial(_copy, backend), values[0]) if values else partial(_copy, backend),
        shares,
        shift=shift,
        columns=[backend.asarray(picked) for picked in columns],
        order=lies,
        column_share=sum(ranks.gather(used)) / (source.rows * network.n_inputs),
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
    there = _sent(backend, pixels)
    return lambda number: there[blocks[number]], write


def _sent(backend: Backend, pixels: Pixels) -> Array:
    there = backend.xp.empty(pixels.shape, "uint8")
    for start in range(0, len(pixels), _PIECE):
        part = slice(start, start + _PIECE)
        backend.send(np.ascontiguousarray(pixels.bytes(part)), there[part])
        forget(pixels.images)
    return there


def as_bytes(backend: Backend, inputs: Pixels | Array) -> Array | None:
    """Return the bytes (n, n_inputs) on the backend that `scale_pixels` made `inputs` of, None where it did not."""
    if isinstance(inputs, Pixels):
        return _sent(backend, inputs)
    xp = backend.xp
    pixels = xp.clip(xp.rint(inputs * HALF + HALF), 0, 255)
    close = xp.abs(pixels - HALF - inputs * HALF) <= 4 * float(np.finfo("float32").eps) * HALF
    return pixels.astype("uint8") if bool(close.all()) else None


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
