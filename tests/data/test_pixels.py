import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_helpers import noise
from numpy.typing import NDArray

import fmnist_xp as fx
from fmnist_xp.data import Pixels, pixels, preprocess
from fmnist_xp.data.pixels import HALF, scale_pixels

N = 2345
DATASET = noise(N)
ORDER = np.random.default_rng(7).permutation(N)
FLOATS = ((DATASET.images.astype(np.float32) - 127.5) / 127.5).reshape(N, 784)
"""The notebook's expression."""


def both() -> list[tuple[Pixels, NDArray[np.float32]]]:
    """Return rows in the images' order and shuffled, each with the floats that they stand for."""
    return [(Pixels(DATASET.images), FLOATS), (Pixels(DATASET.images, ORDER), FLOATS[ORDER])]


def same(found: Any, expected: Any) -> bool:
    found, expected = np.asarray(found), np.asarray(expected)
    return (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


def test_the_package_offers_them() -> None:
    assert (fx.Pixels, fx.pixels) == (Pixels, pixels)


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_rows_and_labels_are_those_of_preprocess(seed: int | None) -> None:
    X, y = pixels(DATASET, seed)
    order = np.arange(N) if seed is None else np.random.default_rng(seed).permutation(N)
    assert same(X, FLOATS[order])
    assert same(X, preprocess(DATASET, shuffle_seed=seed)[0])
    assert y.dtype == np.uint8
    assert np.array_equal(y, DATASET.labels[order])
    y[:] = 0
    assert np.array_equal(DATASET.labels, noise(N).labels)


def test_the_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="dataset must be a Dataset, not ndarray"):
        pixels(DATASET.images)  # type: ignore[arg-type]
    for seed in (-1, 1.5, True, "7"):
        with pytest.raises(ValueError, match="shuffle_seed must be "):
            pixels(DATASET, seed)  # type: ignore[arg-type]


def test_they_look_like_the_float_rows() -> None:
    for X, floats in both():
        assert (X.shape, X.ndim, X.size, len(X)) == (floats.shape, floats.ndim, floats.size, len(floats))
        assert X.dtype == floats.dtype
        assert isinstance(X.dtype, np.dtype)
        assert repr(X) == "<Pixels: 2345 rows of 784>"
        assert np.shape(X) == floats.shape


def test_numpy_takes_them_as_the_float_rows() -> None:
    for X, floats in both():
        assert same(np.array(X), floats)
        assert same(np.asarray(X, dtype="float64"), floats.astype("float64"))
        assert same(np.asarray(X, dtype="float16"), floats.astype("float16"))
        assert np.max(X) == 1.0  # type: ignore[call-overload]
        assert same(np.dot(X, np.ones((784, 2), np.float32)), floats @ np.ones((784, 2), np.float32))
        assert same(np.concatenate([X, X]), np.concatenate([floats, floats]))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no array until they are scaled"):
            np.array(X, copy=False)


def test_arrays_that_numpy_makes_are_its_own() -> None:
    X, _ = pixels(DATASET)
    made = np.asarray(X)
    made[:] = 0
    assert same(X, FLOATS)


SELECTIONS: dict[str, Any] = {
    "some": slice(3, 9),
    "all": slice(None),
    "from the end": slice(-5, None),
    "backwards": slice(None, None, -7),
    "every third": slice(1, 2000, 3),
    "none": slice(5, 5),
    "beyond": slice(2340, 9999),
    "indices": np.array([5, 0, -1, 5]),
    "unsigned indices": np.array([5, 0], np.uint8),
    "a list": [2, -3],
    "an empty list": [],
    "a mask": DATASET.labels == 3,
    "a list of truths": (DATASET.labels == 3).tolist(),
    "dots": ...,
}


@pytest.mark.parametrize("rows", SELECTIONS.values(), ids=SELECTIONS)
def test_several_rows_are_pixels_of_the_same_images(rows: Any) -> None:
    for X, floats in both():
        taken = X[rows]
        assert isinstance(taken, Pixels)
        assert same(taken, floats[rows])
        if len(taken):
            assert np.shares_memory(taken.images, DATASET.images)


def test_a_slice_of_rows_in_their_order_stays_a_view() -> None:
    taken = Pixels(DATASET.images)[10:2000][::3]
    assert taken.order is None
    assert same(taken, FLOATS[10:2000][::3])


def test_rows_of_rows() -> None:
    for X, floats in both():
        assert same(X[100:2000][5:50][::-1], floats[100:2000][5:50][::-1])
        assert same(X[[9, 8, 7, 1000]][1:][np.array([2, -3])], floats[[9, 8, 7, 1000]][1:][[2, -3]])
        mask = np.arange(100) % 2 == 0
        assert same(X[-100:][mask][3], floats[-100:][mask][3])


ROWS: dict[str, Any] = {
    "first": 0,
    "last": -1,
    "a NumPy integer": np.int64(17),
    "an array of one": np.array(17),
    "more dimensions": np.array([[0, 1], [2, -1]]),
    "a new axis": None,
}


@pytest.mark.parametrize("index", ROWS.values(), ids=ROWS)
def test_what_is_no_matrix_is_floats(index: Any) -> None:
    for X, floats in both():
        taken = X[index]
        assert isinstance(taken, np.ndarray)
        assert same(taken, floats[index])
        taken[:] = 0  # its own memory
        assert same(X, floats)


def test_rows_can_be_gone_through() -> None:
    X = Pixels(DATASET.images, [4, 2, 4])
    assert [row.tobytes() for row in X] == [FLOATS[i].tobytes() for i in (4, 2, 4)]


CELLS: dict[str, Any] = {
    "one": (5, 300),
    "one from the end": (-1, -1),
    "one row": (5,),
    "a column": (slice(None), 300),
    "a block": (slice(10, 20), slice(100, 200, 5)),
    "columns of rows": (slice(10, 14), [3, 9, 27]),
    "pairs": ([4, 2, -1], [3, 9, 27]),
    "a grid": (np.array([[4], [2]]), np.array([3, 9, 27])),
    "a row's columns": (5, [3, 9, 27]),
    "masked": (DATASET.labels == 3, slice(0, 3)),
    "dots": (..., 0),
    "a new axis": (None, slice(0, 3)),
    "nothing": (),
}


@pytest.mark.parametrize("key", CELLS.values(), ids=CELLS)
def test_cells_are_numpys(key: Any) -> None:
    for X, floats in both():
        assert type(X[key]) is type(floats[key])
        assert same(X[key], floats[key])


@pytest.mark.parametrize(
    "key",
    [N, -N - 1, [0, N], 1.5, "a", np.array([1.5]), np.ones(3, bool), (0, 784), (N, 0), (slice(None), 784), (0, 0, 0)],
    ids=str,
)
def test_wrong_indices_are_refused_as_by_numpy(key: Any) -> None:
    for X, floats in both():
        with pytest.raises(IndexError):
            floats[key]
        with pytest.raises(IndexError):
            X[key]


def test_bytes_are_those_of_the_images() -> None:
    flat = DATASET.images.reshape(N, 784)
    for part in (slice(3, 9), slice(None), slice(2340, 9999), slice(None, None, -100)):
        view = Pixels(DATASET.images).bytes(part)
        assert np.shares_memory(view, DATASET.images)
        assert same(view, flat[part])
        assert same(Pixels(DATASET.images, ORDER).bytes(part), flat[ORDER][part])


def test_images_may_have_any_shape_after_the_first() -> None:
    images = DATASET.images[:6]
    for shape in ((6, 784), (6, 28, 28), (6, 28, 28, 1), (6, 2, 392)):
        assert same(Pixels(images.reshape(shape)), FLOATS[:6])
    assert Pixels(images[:0]).shape == (0, 784)
    assert Pixels(np.zeros((3, 0), np.uint8)).shape == (3, 0)
    uneven = images[:, ::2, 1:]
    assert same(Pixels(uneven), (uneven.reshape(6, -1).astype(np.float32) - 127.5) / 127.5)


def test_an_array_on_disk_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "images"
    path.write_bytes(DATASET.images.tobytes())
    mapped = np.memmap(path, np.uint8, "r", 0, (N, 28, 28))
    X = Pixels(mapped, ORDER)
    assert np.shares_memory(X.images, mapped)
    assert same(X[5:900], FLOATS[ORDER][5:900])
    assert type(np.asarray(X)) is np.ndarray
    assert type(X[3]) is np.ndarray


WRONG: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "floats": (FLOATS, None, TypeError, r"^images of dtype float32 given; bytes \(uint8\) are needed$"),
    "signed bytes": (np.zeros((3, 4), np.int8), None, TypeError, "images of dtype int8 given"),
    "a list": ([[1, 2]], None, TypeError, "images of dtype int64 given"),
    "one row": (np.zeros(784, np.uint8), None, ValueError, r"images of shape \(784,\) given; .* is needed$"),
    "one pixel": (np.uint8(3), None, ValueError, r"images of shape \(\) given"),
    "fractional order": (DATASET.images, [0.0], TypeError, "order of dtype float64 given; whole numbers are needed"),
    "a mask as order": (DATASET.images, DATASET.labels > 3, TypeError, "order of dtype bool given"),
    "order of two": (DATASET.images, [[0]], ValueError, r"order of shape \(1, 1\) given; \(n,\) is needed"),
    "order beyond": (DATASET.images, [3, N], IndexError, "order from 3 to 2345 given, but there are 2345 images"),
    "order before": (DATASET.images, [-N - 1, 0], IndexError, "order from -2346 to 0 given"),
}


@pytest.mark.parametrize(("images", "order", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_is_no_images_in_an_order_is_refused(
    images: Any, order: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Pixels(images, order)


def test_an_order_may_count_from_the_end_and_repeat() -> None:
    X = Pixels(DATASET.images, [-1, 0, -N, 0])
    assert same(X, FLOATS[[-1, 0, 0, 0]])
    assert same(X[1:][[0, -1]], FLOATS[[0, 0]])


def test_they_survive_pickling() -> None:
    X = pickle.loads(pickle.dumps(Pixels(DATASET.images[:5], [3, 1])))
    assert same(X, FLOATS[[3, 1]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_formula_gives_the_notebooks_values_for_every_pixel(dtype: str) -> None:
    values = np.arange(256, dtype=np.uint8)
    output = np.full(256, np.nan, dtype)
    scale_pixels(np, output, values, np.dtype(dtype).type(HALF))
    assert same(output, (values.astype(dtype) - 127.5) / 127.5)
    assert np.array_equal(values, np.arange(256))
