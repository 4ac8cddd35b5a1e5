import hashlib
from typing import Any

import numpy as np
import pytest
from data_helpers import noise

from fmnist_xp.data import Dataset, preprocess

IMAGES, LABELS = noise(10).images, noise(10).labels


def test_integers_of_another_width_are_converted() -> None:
    dataset = Dataset(IMAGES.astype(np.int64), LABELS.tolist(), "custom", "here")  # type: ignore[arg-type]
    assert dataset.images.dtype == dataset.labels.dtype == np.uint8
    assert np.array_equal(dataset.images, IMAGES)
    assert np.array_equal(dataset.labels, LABELS)
    assert dataset.sha256 == noise(10).sha256
    assert Dataset(IMAGES, LABELS, "custom", "here").images is IMAGES


@pytest.mark.parametrize("n", [10, 9_999, 10_000, 10_001, 25_000])
def test_the_checksum_is_that_of_all_bytes(n: int) -> None:
    images = np.arange(n * 784, dtype=np.uint32).astype(np.uint8).reshape(n, 28, 28)
    images[-1] = 255
    labels = (np.arange(n) % 10).astype(np.uint8)
    expected = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert Dataset(images, labels, "custom", "here").sha256 == expected
    backwards = Dataset(images[::-1], labels, "custom", "here")
    assert backwards.sha256 == hashlib.sha256(images[::-1].tobytes() + labels.tobytes()).hexdigest()


WRONG: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "complex images": (
        IMAGES + 1j,
        LABELS,
        TypeError,
        "images of dtype complex128 given; whole numbers from 0 to 255",
    ),
    "images as text": (IMAGES.astype(str), LABELS, TypeError, "images of dtype <U3 given"),
    "scaled images": (IMAGES / 255, LABELS, TypeError, "images of dtype float64 given"),
    "labels as text": (
        IMAGES,
        LABELS.astype(str),
        TypeError,
        "labels of dtype <U3 given; whole numbers from 0 to",
    ),
    "fractional labels": (IMAGES, LABELS + 0.5, TypeError, "labels of dtype float64 given"),
    "booleans as labels": (IMAGES, LABELS > 3, TypeError, "labels of dtype bool given"),
    "images that wrap": (IMAGES + np.int64(256), LABELS, ValueError, r"images from 25\d to 511 given; .*0 to 255"),
    "a label below 0": (IMAGES, LABELS - np.int64(1), ValueError, "labels from -1 to 8 given; they go from 0 to 255"),
    "a label beyond a byte": (
        IMAGES,
        LABELS + np.int64(250),
        ValueError,
        "labels from 250 to 259 given; they go from 0 to 255, of at most 256 classes",
    ),
    "rows": (
        IMAGES.reshape(10, 784),
        LABELS,
        ValueError,
        r"^images of shape \(10, 784\) and labels of shape \(10,\) given; "
        r"\(n, 28, 28\) and \(n,\) are needed, n at least 1$",
    ),
    "fewer labels": (IMAGES, LABELS[:9], ValueError, r"labels of shape \(9,\) given"),
    "a column of labels": (IMAGES, LABELS[:, None], ValueError, r"labels of shape \(10, 1\) given"),
    "one label in a column": (IMAGES[:1], LABELS[:1, None], ValueError, r"labels of shape \(1, 1\) given"),
    "a scalar label": (IMAGES[:1], LABELS[0], ValueError, r"labels of shape \(\) given"),
    "nothing": (IMAGES[:0], LABELS[:0], ValueError, "n at least 1"),
}


@pytest.mark.parametrize(("images", "labels", "error", "message"), WRONG.values(), ids=WRONG)
def test_values_that_would_change_are_refused(images: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Dataset(images, labels, "custom", "here")


@pytest.mark.parametrize(
    ("seed", "error"), [(1.5, ValueError), ("7", ValueError), (True, ValueError), (1j, ValueError), (-1, ValueError)]
)
def test_a_seed_is_a_whole_number(seed: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"shuffle_seed must be (a whole number|at least 0), got "):
        preprocess(noise(10), shuffle_seed=seed)


def test_a_seed_may_be_a_numpy_integer() -> None:
    assert np.array_equal(preprocess(noise(10), np.int64(3))[0], preprocess(noise(10), 3)[0])  # type: ignore[arg-type]


def test_anything_but_a_dataset_is_refused() -> None:
    with pytest.raises(TypeError, match="dataset must be a Dataset, not ndarray"):
        preprocess(IMAGES)  # type: ignore[arg-type]
