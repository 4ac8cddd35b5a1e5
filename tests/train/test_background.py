from typing import Any, NamedTuple

import numpy as np
import pytest
from image_helpers import images, noise
from numpy.typing import NDArray

from fmnist_xp.backend import CpuBackend
from fmnist_xp.train import background
from fmnist_xp.train.background import (
    COLUMN_STEP,
    arrange,
    bounding_boxes,
    find_base,
    image_shape,
    picked_columns,
    share_of_boxes,
    sort_by_boxes,
    without_base,
)


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
def test_share_of_boxes_is_that_of_a_loop(generator: np.random.Generator, rows: int) -> None:
    boxes = random_boxes(generator, 31, 9)
    pixels = 0
    for start in range(0, 31, rows):
        top, bottom, left, right = boxes[:, start : start + rows]
        pixels += top.size * (max(bottom) - min(top) + 1) * (max(right) - min(left) + 1)
    assert share_of_boxes(boxes, rows, (9, 9)) == pixels / (31 * 81)


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


# The whole arrangement


class Arrangement(NamedTuple):
    order: NDArray[np.intp]
    base: NDArray[Any]
    columns: list[NDArray[np.intp]]
    blocks: list[NDArray[Any]]


def arranged(values: NDArray[Any], block_rows: int, threads: int = 1) -> Arrangement | None:
    blocks: list[NDArray[Any]] = []
    read: list[NDArray[Any]] = []
    done: list[int] = []

    def note(part: slice) -> NDArray[Any]:
        read.append(values[part])
        return read[-1]

    found = arrange(
        note, len(values), block_rows, CpuBackend(threads), blocks.append, lambda: done.append(len(blocks))
    )
    if found is None:
        assert blocks == []
        return None
    assert done[-1] == len(blocks)  # what was read last is not needed either
    return Arrangement(*found, blocks)


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
    assert sorted(found.order) == list(range(90))
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
    there = values[found.order]
    if kind == "floats":
        np.testing.assert_array_equal(expanded, there - found.base)  # rounded, and 0 outside of a block's columns
        np.testing.assert_allclose(found.base + expanded, there, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(found.base, np.float32(-1))
    else:
        np.testing.assert_array_equal(np.where(found.base == 255, 255 - expanded, expanded), there)
        np.testing.assert_array_equal(found.base, 255 if kind == "white bytes" else 0)
    assert sum(map(len, found.columns)) < 0.9 * len(found.columns) * 144


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
    values, read = noise(1000, 9), []

    def note(part: slice) -> NDArray[Any]:
        read.append(values[part])
        return read[-1]

    def never(*_values: Any) -> None:
        raise AssertionError

    given_back: list[int] = []
    assert arrange(note, 1000, 100, CpuBackend(1), never, lambda: given_back.append(len(read))) is None
    assert sum(map(len, read)) == 10
    assert given_back[-1] == 10  # what a mapped file brought in with the sample
    assert (read[0][0].tolist(), read[-1][0].tolist()) == (values[0].tolist(), values[900].tolist())


def test_windows_are_sorted_in_themselves_and_read_once_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WINDOW", 30)
    monkeypatch.setattr(background, "SAMPLE", 5)
    values, parts, events = images(100), [], []

    def note(part: slice) -> NDArray[Any]:
        parts.append(part)
        return values[part]

    found = arrange(note, 100, 8, CpuBackend(1), lambda _values: events.append("kept"), lambda: events.append("done"))
    assert found is not None
    assert parts[5:] == [slice(0, 24), slice(24, 48), slice(48, 72), slice(72, 96), slice(96, 100)]  # whole blocks
    windows = events[events.index("kept") :]  # after the sample
    assert windows == ["kept", "kept", "kept", "done"] * 4 + ["kept", "done"]
    for part in parts[5:]:
        alone = arranged(values[part], 8)
        assert alone is not None
        np.testing.assert_array_equal(found.order[part], part.start + alone.order)


def test_first_window_decides_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WINDOW", 48)
    values = np.concatenate([images(48), noise(48)])
    found = arranged(values, 8)
    assert found is not None
    assert len(found.order) == 96
    assert len(found.columns[-1]) == 144
    assert arranged(np.concatenate([noise(48), images(90)]), 8) is None


def test_block_larger_than_a_window_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "WINDOW", 10)
    found = arranged(images(70), 32)
    assert found is not None
    assert [len(block) for block in found.blocks] == [32, 32, 6]
