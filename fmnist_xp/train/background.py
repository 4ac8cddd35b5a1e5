"""The background of rows, and an order of the rows in which a block of them needs few columns.

Most pixels at an image's border are background, the same value in every image. Images sorted by the box around what
is not background lie beside others that leave the same pixels free: of 640 Fashion-MNIST images in random order some
image needs almost every column, of 640 sorted ones two thirds of the columns are needed. The order of the rows of a
full batch is free, and what a block leaves out of its products is exactly 0.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.sharing import share_out
from fmnist_xp.train.source import Source

Values: TypeAlias = NDArray[Any]

SAMPLE = 512
"""Rows that are looked at before anything else: where these have no background, nothing else is done."""
WINDOW = 131_072
"""Rows that are sorted among themselves: 100 MB of bytes, so that data on disk is read from first to last."""
WORTH_IT = 0.9
"""Share of the columns above which the smaller products do not pay for picking columns."""
COLUMN_STEP = 16
"""Columns of a block come in multiples of this: products are fastest so, and few sizes of blocks are laid out."""
_CHUNK = 500
"""Rows whose background is looked at at once: they stay in a core's cache."""


class Order(NamedTuple):
    """Rows in a new order, block by block: x = base + x′, and x′ is 0 outside of a block's columns.

    `rows` (n,) says which row lies where, and `base` is (d,). `columns` (blocks,) says how many columns the box has
    that is around what is not background in any row of a block.
    """

    rows: NDArray[np.integer[Any]]
    base: Values
    columns: NDArray[np.intp]


def sample_places(rows: int) -> NDArray[np.intp]:
    """Return which of `rows` rows are looked at before anything else."""
    return np.arange(0, rows, -(-rows // SAMPLE))


def find_base(sample: Values) -> Values:
    """Return the value that is most likely the background of each column of `sample` (rows, d): (d,).

    Of bytes 0 or 255, whichever is more frequent; of floats the median, the lowest or the highest value.
    """
    if sample.dtype == np.uint8:
        return np.where((sample == 255).sum(axis=0) > (sample == 0).sum(axis=0), 255, 0).astype(np.uint8)
    middle = len(sample) // 2
    places = [middle, 0, len(sample) - 1]
    candidates = np.partition(sample, places, axis=0)[places]
    counts = np.stack([(sample == candidate).sum(axis=0) for candidate in candidates])
    # What is rare is no background, and against a base of another size (-999 for what is unknown) all other values
    # would be rounded coarsely: the median then.
    usual = np.partition(np.abs(sample), middle, axis=0)[middle]
    unfit = (counts < len(sample) / 16) | (np.abs(candidates) > 16 * usual)
    counts[1:][unfit[1:]] = 0
    frequent = counts.argmax(axis=0)
    base: Values = candidates[frequent, np.arange(sample.shape[1])]
    return base


def without_base(values: Values, base: Values) -> Values:
    """Return what `values` (rows, d) have beyond `base` (d,), 0 where they are the same.

    Of floats the difference; of bytes, which go up from 0 or down from 255, the distance.
    """
    return values ^ base if values.dtype == np.uint8 else values - base


def image_shape(columns: int) -> tuple[int, int]:
    """Return (height, width) of the images whose rows have so many columns: a square, or one line."""
    side = math.isqrt(columns)
    return (side, side) if side * side == columns else (1, columns)


def bounding_boxes(values: Values, base: Values) -> NDArray[np.intp]:
    """Return first and last line, first and last column of what differs from `base` in each row: (4, rows).

    All are 0 where nothing does.
    """
    height, width = image_shape(values.shape[1])
    boxes = np.empty((4, len(values)), np.intp)
    for start in range(0, len(values), _CHUNK):
        part = slice(start, start + _CHUNK)
        # Pixel by pixel in memory all rows are looked at at once: twice as fast.
        differs = np.ascontiguousarray((values[part] != base).T).reshape(height, width, -1)
        for number, axis in ((0, 1), (2, 0)):
            used = np.logical_or.reduce(differs, axis=axis)
            places = np.arange(len(used), dtype=np.min_scalar_type(len(used)))[:, None]
            last = np.where(used, places, 0).max(axis=0)
            boxes[number, part] = np.where(used, places, last).min(axis=0)
            boxes[number + 1, part] = last
    return boxes


def sort_by_boxes(boxes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return an order in which neighbours have similar boxes; equal boxes keep their order."""
    top, bottom, left, right = boxes
    # Of the 24 orders of the edges this leaves Fashion-MNIST fewest columns, 0.672; the worst leaves 0.680.
    return np.lexsort((top, right, bottom, left))


def columns_of_boxes(boxes: NDArray[np.intp], rows: int) -> NDArray[np.intp]:
    """Return how many pixels lie in the box around each `rows` neighbours' boxes (4, n): (blocks,)."""
    starts = np.arange(0, boxes.shape[1], rows)
    top, left = (np.minimum.reduceat(boxes[edge], starts) for edge in (0, 2))
    bottom, right = (np.maximum.reduceat(boxes[edge], starts) for edge in (1, 3))
    columns: NDArray[np.intp] = (bottom - top + 1) * (right - left + 1)
    return columns


def share_of_boxes(boxes: NDArray[np.intp], rows: int, shape: tuple[int, int]) -> float:
    """Return what share of all pixels lies in the boxes (4, n) around each `rows` neighbours' boxes."""
    count = boxes.shape[1]
    counts = np.diff(np.append(np.arange(0, count, rows), count))
    return float((columns_of_boxes(boxes, rows) * counts).sum() / (count * math.prod(shape)))


def sort_rows(source: Source, block_rows: int, backend: Backend, ranks: Ranks) -> Order | None:
    """Return an order of the rows of `source` for blocks of `block_rows` rows; None where that would not pay.

    It depends on the rows and on `block_rows` alone. All ranks call this at once, each looks at its own rows, and the
    backend's threads share the work.
    """
    sample = source.sample(sample_places(source.rows))
    base = find_base(sample)
    shape = image_shape(sample.shape[1])
    if share_of_boxes(bounding_boxes(sample, base), 1, shape) > WORTH_IT:  # no row has a margin to leave out
        return None
    orders: list[NDArray[np.integer[Any]]] = []
    columns: list[NDArray[np.intp]] = []
    for window in windows(source.rows, block_rows):
        boxes = ranks.concatenated(_boxes_of(source.own(window), base, backend).T).T
        order = sort_by_boxes(boxes)
        if window.start == 0 and share_of_boxes(boxes[:, order], block_rows, shape) > WORTH_IT:
            return None
        orders.append((window.start + order).astype(np.int32 if source.rows < 2**31 else np.int64))
        columns.append(columns_of_boxes(boxes[:, order], block_rows))
        source.forget()
    return Order(np.concatenate(orders), base, np.concatenate(columns))


def windows(rows: int, block_rows: int) -> list[slice]:
    """Return the parts of `rows` rows that are sorted among themselves, each of whole blocks."""
    step = max(1, WINDOW // block_rows) * block_rows
    return [slice(first, min(first + step, rows)) for first in range(0, rows, step)]


def pick_blocks(
    source: Source,
    order: Order,
    own: range,
    block_rows: int,
    backend: Backend,
    keep: Callable[[Values], None],
) -> list[NDArray[np.intp]]:
    """Hand the blocks of numbers `own` to `keep`, each what its rows have beyond the base, (rows, k).

    Returns the ascending indices (k,) of each block's columns. All ranks call this at once.
    """
    columns = []
    for window in windows(source.rows, block_rows):
        first, stop = (-(-place // block_rows) for place in (window.start, window.stop))
        mine = range(max(first, own.start), max(first, own.start, min(stop, own.stop)))
        places = order.rows[mine.start * block_rows : mine.stop * block_rows]
        for picked, values in _blocks_of(source.bring(places), len(places), order.base, block_rows, backend):
            columns.append(picked)
            keep(values)
        source.forget()
    return columns


def _boxes_of(window: Values, base: Values, backend: Backend) -> NDArray[np.intp]:
    boxes = np.empty((4, len(window)), np.intp)

    def look(_worker: int, number: int) -> None:
        part = slice(number * _CHUNK, (number + 1) * _CHUNK)
        boxes[:, part] = bounding_boxes(window[part], base)

    share_out(backend, backend.threads, -(-len(window) // _CHUNK), look)
    return boxes


def _blocks_of(
    rows: Callable[[slice], Values], count: int, base: Values, block_rows: int, backend: Backend
) -> Sequence[tuple[NDArray[np.intp], Values]]:
    """Return the columns and the values of each block of `count` rows."""
    blocks: list[Any] = [None] * -(-count // block_rows)

    def make(_worker: int, number: int) -> None:
        values = without_base(rows(slice(number * block_rows, (number + 1) * block_rows)), base)
        columns = picked_columns(values.any(axis=0))
        blocks[number] = columns, np.take(values, columns, axis=1)

    share_out(backend, backend.threads, len(blocks), make)
    return blocks


def picked_columns(used: Any) -> NDArray[np.intp]:
    """Return the indices of the columns that are `used` (d,), and of others up to a multiple of `COLUMN_STEP`."""
    missing = min(len(used), max(1, -(-used.sum() // COLUMN_STEP)) * COLUMN_STEP) - used.sum()
    picked = used.copy()
    picked[np.flatnonzero(~used)[:missing]] = True
    return np.flatnonzero(picked)
