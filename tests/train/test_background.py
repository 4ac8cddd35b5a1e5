from typing import Any, NamedTuple

import numpy as np
import pytest
from image_helpers import images, noise
from numpy.typing import NDArray

from fmnist_xp.backend import CpuBackend
from fmnist_xp.data import Pixels
from fmnist_xp.ranks import ALONE
from fmnist_xp.train import background
from fmnist_xp.train.background import (
    COLUMN_STEP,
    Order,
    bounding_boxes,
    columns_of_boxes,
    find_base,
    image_shape,
    pick_blocks,
    picked_columns,
    sample_places,
    share_of_boxes,
    sort_by_boxes,
    sort_rows,
    windows,
    without_base,
)
from fmnist_xp.train.source import Source


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


# The base, and what there is beyond it


def test_base_of_bytes_is_black_or_white_whichever_is_more_frequent() -> None:
    sample = np.array([[0, 255, 255, 7, 0], [0, 255, 255, 7, 255], [9, 255, 0, 7, 3], [255, 0, 0, 7, 4]], np.uint8)
    base = find_base(sample)
    assert base.dtype == np.uint8
    assert base.tolist() == [0, 255, 0, 0, 0]  # 0 where none is more frequent, or none is there


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_base_of_floats_is_their_lowest_median_or_highest(generator: np.random.Generator, dtype: str) -> None:
    low, middle, high = np.sort(generator.random((3, 9)), axis=1)  # below 1
    low[:2], high[-2:], middle[5] = -2.5, 3.5, middle[4]
    sample = np.stack([low, middle, high, generator.random(9)], axis=1).astype(dtype)
    base = find_base(sample[generator.permutation(9)])
    assert base.dtype == dtype
    assert base.tolist() == [-2.5, sample[4, 1], 3.5, np.median(sample[:, 3])]  # this where none is frequent


def test_rare_value_or_one_of_another_size_is_no_base(generator: np.random.Generator) -> None:
    """Against such a base float32 would round all other values of the column coarsely."""
    sample = generator.uniform(0.5, 1, (160, 4)).astype("float32")
    sample[:9, 0] = sample[:10, 1] = 0.25  # of 160 rows, 10 are a sixteenth
    sample[:60, 2], sample[:60, 3] = -999, -4
    expected = [np.sort(sample[:, 0])[80], 0.25, np.sort(sample[:, 2])[80], -4]
    np.testing.assert_array_equal(find_base(sample), np.array(expected, "float32"))


def test_base_of_standardised_features_is_what_the_background_became() -> None:
    pixels = images(300, 4, 4).astype("float32")
    pixels[:, 5] = 255 - pixels[:, 5]  # in one column the background is the highest
    mean, deviation = pixels.mean(axis=0), pixels.std(axis=0)
    expected = np.where(np.arange(16) == 5, 255, 0).astype("float32")
    np.testing.assert_array_equal(find_base((pixels - mean) / deviation), (expected - mean) / deviation)


def test_base_of_one_row_is_that_row(generator: np.random.Generator) -> None:
    row = generator.standard_normal((1, 5))
    np.testing.assert_array_equal(find_base(row), row[0])


def test_bytes_without_base_are_their_distance_from_it() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(128, 2)
    for base in ([0, 0], [255, 255], [0, 255]):
        distance = np.abs(every.astype(int) - base)
        found = without_base(every, np.array(base, np.uint8))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, distance)


def test_floats_without_base_are_exactly_0_where_they_are_the_base_and_there_alone(
    generator: np.random.Generator,
) -> None:
    base = generator.standard_normal(6).astype("float32")
    values = np.stack([base, np.nextafter(base, np.float32(9)), base - 1, 1e-30 * base])
    found = without_base(values, base)
    np.testing.assert_array_equal(found, values - base)
    np.testing.assert_array_equal(found == 0, np.repeat([[True], [False], [False], [False]], 6, axis=1))


# Boxes


@pytest.mark.parametrize(
    ("columns", "shape"), [(784, (28, 28)), (1, (1, 1)), (4, (2, 2)), (783, (1, 783)), (2, (1, 2)), (12, (1, 12))]
)
def test_rows_are_squares_or_lines(columns: int, shape: tuple[int, int]) -> None:
    assert image_shape(columns) == shape


def slow_boxes(values: NDArray[Any], base: NDArray[Any], shape: tuple[int, int]) -> list[list[int]]:
    boxes = []
    for row in values:
        used = [divmod(place, shape[1]) for place in range(len(row)) if row[place] != base[place]]
        lines, columns = ([place[axis] for place in used] or [0] for axis in (0, 1))
        boxes.append([min(lines), max(lines), min(columns), max(columns)])
    return np.transpose(boxes).tolist()


@pytest.mark.parametrize(("height", "width", "shape"), [(6, 6, (6, 6)), (5, 4, (1, 20)), (1, 1, (1, 1))])
@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_boxes_are_those_of_a_loop(
    generator: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    height: int,
    width: int,
    shape: tuple[int, int],
    kind: str,
) -> None:
    monkeypatch.setattr(background, "_CHUNK", 7)
    base = generator.choice([0, 255], height * width).astype(np.uint8)
    pixels = images(30, height, width) ^ base
    pixels[:3], pixels[3:5] = base, 100  # nothing but background, and none of it
    values, base = (pixels, base) if kind == "bytes" else (pixels / 255, base / 255)
    boxes = bounding_boxes(values, base)
    assert boxes.tolist() == slow_boxes(values, base, shape)
    assert boxes[:, :3].tolist() == [[0] * 3] * 4
    assert boxes[:, 3].tolist() == [0, shape[0] - 1, 0, shape[1] - 1]


def random_boxes(generator: np.random.Generator, n: int, side: int) -> NDArray[np.intp]:
    return np.concatenate([np.sort(generator.integers(0, side, (2, n)), axis=0) for _ in range(2)])


def test_order_of_boxes_keeps_equal_ones_in_theirs(generator: np.random.Generator) -> None:
    boxes = random_boxes(generator, 400, 4)
    order = sort_by_boxes(boxes)
    assert sorted(order) == list(range(400))
    places: dict[tuple[int, ...], list[int]] = {}
    for place, row in enumerate(order):
        places.setdefault(tuple(boxes[:, row]), []).append(place)
    for box, found in places.items():
        assert found == list(range(found[0], found[0] + len(found)))  # equal ones are neighbours
        assert order[found].tolist() == [row for row in range(400) if tuple(boxes[:, row]) == box]


@pytest.mark.parametrize("rows", [1, 7, 30, 31, 100])
def test_columns_and_share_of_boxes_are_those_of_a_loop(generator: np.random.Generator, rows: int) -> None:
    boxes = random_boxes(generator, 31, 9)
    columns, pixels = [], 0
    for start in range(0, 31, rows):
        top, bottom, left, right = boxes[:, start : start + rows]
        columns.append((max(bottom) - min(top) + 1) * (max(right) - min(left) + 1))
        pixels += top.size * columns[-1]
    assert columns_of_boxes(boxes, rows).tolist() == columns
    assert share_of_boxes(boxes, rows, (9, 9)) == pixels / (31 * 81)


def test_columns_of_boxes_by_hand() -> None:
    boxes = np.array([[0, 2, 5], [1, 2, 5], [3, 0, 4], [3, 4, 4]])  # first and last line, first and last column
    assert columns_of_boxes(boxes, 1).tolist() == [2, 5, 1]
    assert columns_of_boxes(boxes, 2).tolist() == [3 * 5, 1]
    assert columns_of_boxes(boxes, 3).tolist() == [6 * 5]


# Columns


@pytest.mark.parametrize("used", [0, 1, 15, 16, 17, 32, 50, 63, 70])
def test_columns_are_all_that_are_used_up_to_a_multiple(generator: np.random.Generator, used: int) -> None:
    mask = np.zeros(70, bool)
    mask[generator.permutation(70)[:used]] = True
    held = mask.copy()
    picked = picked_columns(mask)
    assert set(np.flatnonzero(mask)) <= set(picked)
    assert (np.diff(picked) > 0).all()
    multiples = range(COLUMN_STEP, 70 + COLUMN_STEP, COLUMN_STEP)
    assert len(picked) == min(70, next(size for size in multiples if size >= used))
    assert picked[0] >= 0
    assert picked[-1] < 70
    np.testing.assert_array_equal(mask, held)


@pytest.mark.parametrize("used", [0, 2, 5])
def test_fewer_columns_than_a_step_are_all_taken(used: int) -> None:
    assert picked_columns(np.arange(5) < used).tolist() == [0, 1, 2, 3, 4]


# The sample and the windows


@pytest.mark.parametrize(
    ("rows", "sample", "places"),
    [
        (1, 4, [0]),
        (4, 4, [0, 1, 2, 3]),
        (5, 4, [0, 2, 4]),
        (8, 4, [0, 2, 4, 6]),
        (9, 4, [0, 3, 6]),
        (1000, 4, [0, 250, 500, 750]),
    ],
)
def test_sample_is_evenly_spaced(monkeypatch: pytest.MonkeyPatch, rows: int, sample: int, places: list[int]) -> None:
    monkeypatch.setattr(background, "SAMPLE", sample)
    assert sample_places(rows).tolist() == places


@pytest.mark.parametrize(
    ("rows", "block_rows", "stops"),
    [
        (24, 8, [24]),
        (25, 8, [24, 25]),
        (100, 8, [24, 48, 72, 96, 100]),
        (70, 40, [40, 70]),  # a block larger than a window is one
        (60, 30, [30, 60]),
        (5, 1, [5]),
    ],
)
def test_windows_are_of_whole_blocks(
    monkeypatch: pytest.MonkeyPatch, rows: int, block_rows: int, stops: list[int]
) -> None:
    monkeypatch.setattr(background, "WINDOW", 30)
    assert windows(rows, block_rows) == [slice(*ends) for ends in zip([0, *stops], stops, strict=False)]


# The whole arrangement


class NotingSource(Source):
    """The rows of one rank, which note what is asked of them."""

    def __init__(self, values: NDArray[Any], backend: CpuBackend) -> None:
        super().__init__(Pixels(values) if values.dtype == np.uint8 else values, backend, ALONE)
        self.events: list[Any] = []

    def own(self, part: slice) -> NDArray[Any]:
        self.events.append(part)
        return super().own(part)

    def bring(self, places: NDArray[np.integer[Any]]) -> Any:
        self.events.append(f"{len(places)} rows")
        return super().bring(places)

    def sample(self, places: NDArray[np.integer[Any]]) -> NDArray[Any]:
        self.events.append(places.tolist())
        return super().sample(places)

    def forget(self) -> None:
        self.events.append("forgotten")
        super().forget()


class Arrangement(NamedTuple):
    order: Order
    columns: list[NDArray[np.intp]]
    blocks: list[NDArray[Any]]


def arranged(values: NDArray[Any], block_rows: int, threads: int = 1, own: range | None = None) -> Arrangement | None:
    """Sort the rows and pick the columns of the blocks of numbers `own`, by default of all; None where none pays."""
    backend = CpuBackend(threads)
    source = NotingSource(values, backend)
    order = sort_rows(source, block_rows, backend, ALONE)
    assert source.events[-1] == "forgotten" or order is None  # what was read last is not needed either
    if order is None:
        return None
    blocks: list[NDArray[Any]] = []
    every = range(-(-len(values) // block_rows)) if own is None else own
    columns = pick_blocks(source, order, every, block_rows, backend, blocks.append)
    assert source.events[-1] == "forgotten"
    return Arrangement(order, columns, blocks)


def rows_of(kind: str, rows: int = 90) -> NDArray[Any]:
    pixels = images(rows)
    if kind == "white bytes":
        return 255 - pixels
    return pixels if kind == "bytes" else (pixels.astype("float32") - np.float32(127.5)) / np.float32(127.5)


@pytest.mark.parametrize("kind", ["bytes", "white bytes", "floats"])
@pytest.mark.parametrize("block_rows", [1, 8, 45, 90])
def test_every_row_is_its_base_and_what_its_block_has(kind: str, block_rows: int) -> None:
    values = rows_of(kind)
    found = arranged(values, block_rows)
    assert found is not None
    lies, base = found.order.rows, found.order.base
    assert sorted(lies) == list(range(90))
    assert [len(block) for block in found.blocks] == [
        len(values[i : i + block_rows]) for i in range(0, 90, block_rows)
    ]
    expanded = np.zeros(values.shape, values.dtype)
    start = 0
    for picked, block in zip(found.columns, found.blocks, strict=True):
        assert block.dtype == values.dtype
        assert block.shape[1] == len(picked)
        expanded[start : start + len(block), picked] = block
        start += len(block)
    there = values[lies]
    if kind == "floats":
        np.testing.assert_array_equal(expanded, there - base)  # rounded, and 0 outside of a block's columns
        np.testing.assert_allclose(base + expanded, there, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(base, np.float32(-1))
    else:
        np.testing.assert_array_equal(np.where(base == 255, 255 - expanded, expanded), there)
        np.testing.assert_array_equal(base, 255 if kind == "white bytes" else 0)
    assert sum(map(len, found.columns)) < 0.9 * len(found.columns) * 144


@pytest.mark.parametrize("kind", ["bytes", "floats"])
@pytest.mark.parametrize("block_rows", [1, 8, 90])
def test_order_has_the_size_of_the_box_around_each_block(kind: str, block_rows: int) -> None:
    values = rows_of(kind)
    found = arranged(values, block_rows)
    assert found is not None
    differs = values[found.order.rows] != found.order.base
    differs[~differs.any(axis=1), 0] = True  # the box of a row that is background alone is its first pixel
    expected = []
    for start in range(0, 90, block_rows):
        lines, columns = np.nonzero(differs[start : start + block_rows].any(axis=0).reshape(12, 12))
        expected.append((np.ptp(lines) + 1) * (np.ptp(columns) + 1))
    assert found.order.columns.tolist() == expected


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_arrangement_does_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(background, "_CHUNK", 11)
    monkeypatch.setattr(background, "WINDOW", 40)
    values = rows_of(kind)
    one = arranged(values, 8)
    assert one is not None
    for threads in (2, 5):
        other = arranged(values, 8, threads)
        assert other is not None
        for expected, found in zip(one, other, strict=True):
            for a, b in zip(expected, found, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["bytes", "floats"])
@pytest.mark.parametrize("own", [range(0), range(4), range(3, 9), range(5, 6), range(7, 12), range(12, 12)], ids=str)
def test_some_of_the_blocks_are_those_of_all(monkeypatch: pytest.MonkeyPatch, kind: str, own: range) -> None:
    monkeypatch.setattr(background, "WINDOW", 40)  # of five blocks
    values = rows_of(kind)
    whole, part = arranged(values, 8), arranged(values, 8, own=own)
    assert whole is not None
    assert part is not None
    assert len(whole.blocks) == 12
    assert len(part.blocks) == len(part.columns) == len(own)
    for number, picked, block in zip(own, part.columns, part.blocks, strict=True):
        np.testing.assert_array_equal(picked, whole.columns[number])
        np.testing.assert_array_equal(block, whole.blocks[number])


@pytest.mark.parametrize("kind", ["bytes", "floats"])
def test_rows_without_background_are_left_alone(kind: str) -> None:
    values = noise(90)
    assert arranged(values if kind == "bytes" else values / 255, 8) is None


def test_rows_whose_background_lies_elsewhere_in_each_are_left_alone_where_blocks_are_large() -> None:
    """Each row has margins, so the sample says yes; but of two neighbours one has what the other lacks."""
    values = np.zeros((64, 64), np.uint8)
    values[:, :32], values[32:, :32], values[32:, 32:] = 9, 0, 9
    assert arranged(values, 64) is None
    assert arranged(values, 32) is not None


def test_only_a_sample_is_read_of_rows_without_background(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "SAMPLE", 10)
    backend = CpuBackend(1)
    source = NotingSource(noise(1000, 9), backend)
    assert sort_rows(source, 100, backend, ALONE) is None
    # What a mapped file brought in with the sample is given back.
    assert source.events == [list(range(0, 1000, 100)), "forgotten"]


def test_windows_are_sorted_in_themselves_and_read_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WINDOW", 30)
    monkeypatch.setattr(background, "SAMPLE", 5)
    values, backend, blocks = images(100), CpuBackend(1), list[Any]()
    source = NotingSource(values, backend)
    order = sort_rows(source, 8, backend, ALONE)
    assert order is not None
    parts = [slice(0, 24), slice(24, 48), slice(48, 72), slice(72, 96), slice(96, 100)]  # whole blocks
    sample, *events = source.events
    assert sample == [0, 20, 40, 60, 80]
    assert events == ["forgotten", *(event for part in parts for event in (part, "forgotten"))]
    source.events.clear()
    pick_blocks(source, order, range(13), 8, backend, blocks.append)
    assert source.events == ["24 rows", "forgotten"] * 4 + ["4 rows", "forgotten"]
    for part in parts:
        alone = arranged(values[part], 8)
        assert alone is not None
        np.testing.assert_array_equal(order.rows[part], part.start + alone.order.rows)


def test_first_window_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WINDOW", 48)
    values = np.concatenate([images(48), noise(48)])
    found = arranged(values, 8)
    assert found is not None
    assert len(found.order.rows) == 96
    assert len(found.columns[-1]) == 144
    assert arranged(np.concatenate([noise(48), images(90)]), 8) is None


def test_block_larger_than_a_window_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WINDOW", 10)
    found = arranged(images(70), 32)
    assert found is not None
    assert [len(block) for block in found.blocks] == [32, 32, 6]
