import numpy as np
import pytest
from data_helpers import filtered, made
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fmnist_xp.data.png import Unfilter


def unfiltered(images: np.ndarray, filters: np.ndarray, unfilter: Unfilter | None = None) -> np.ndarray:
    lines = b"".join(filtered(image, list(kinds)) for image, kinds in zip(images, filters, strict=True))
    scanlines = np.frombuffer(lines, np.uint8).reshape(-1, 28, 29)
    result = np.empty_like(images)
    assert (unfilter or Unfilter(len(images)))(scanlines, result).all()
    return result


@pytest.mark.parametrize("kind", range(5), ids=["none", "sub", "up", "average", "paeth"])
@pytest.mark.parametrize("n", [1, 3])
def test_each_filter_is_undone(kind: int, n: int) -> None:
    images = made(n).images
    assert np.array_equal(unfiltered(images, np.full((n, 28), kind)), images)


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3), st.data())
def test_any_mixture_of_filters_is_undone(n: int, data: st.DataObject) -> None:
    # Few grey values make ties, and the largest make sums beyond 255.
    values = st.sampled_from([0, 1, 2, 127, 128, 254, 255]) if data.draw(st.booleans()) else st.integers(0, 255)
    images = data.draw(arrays(np.uint8, (n, 28, 28), elements=values))
    filters = data.draw(arrays(np.uint8, (n, 28), elements=st.integers(0, 4)))
    assert np.array_equal(unfiltered(images, filters), images)


def test_paeth_is_undone_for_all_neighbours() -> None:
    # Every triple of neighbours from the ends, the middle and around them, among noise.
    values = np.array([0, 1, 2, 3, 126, 127, 128, 129, 252, 253, 254, 255], np.uint8)
    left, above, corner = (grid.ravel() for grid in np.meshgrid(values, values, values))
    images = np.random.default_rng(0).integers(0, 256, (len(left), 28, 28), dtype=np.uint8)
    images[:, 5, 5], images[:, 4, 6], images[:, 4, 5] = left, above, corner
    filters = np.zeros((len(left), 28), np.uint8)
    filters[:, 5] = 4
    assert np.array_equal(unfiltered(images, filters), images)


def test_memory_that_was_used_before_leaves_no_trace() -> None:
    images = made(7).images
    unfilter = Unfilter(7)
    for part in (slice(0, 7), slice(2, 4), slice(0, 7)):
        filters = np.random.default_rng(part.start).integers(0, 5, (len(images[part]), 28))
        assert np.array_equal(unfiltered(images[part], filters, unfilter), images[part])


def test_a_filter_that_there_is_not_is_reported_and_harms_no_other_image() -> None:
    images = made(3).images
    lines = [bytearray(filtered(image, [4] * 28)) for image in images]
    lines[1][27 * 29] = 5
    scanlines = np.frombuffer(b"".join(lines), np.uint8).reshape(3, 28, 29)
    result = np.empty_like(images)
    assert Unfilter(3)(scanlines, result).tolist() == [True, False, True]
    assert np.array_equal(result[::2], images[::2])
