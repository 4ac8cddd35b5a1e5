from typing import Any

import numpy as np
import pytest

from fmnist_xp.nn.labels import class_indices, index_dtype

EYE = np.eye(4)


@pytest.mark.parametrize(
    ("classes", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_dtype_holds_the_last_class_and_is_the_smallest(classes: int, dtype: str) -> None:
    assert index_dtype(classes) == dtype
    np.testing.assert_array_equal(class_indices(np.array([classes - 1]), classes), [classes - 1])


@pytest.mark.parametrize(
    "labels",
    [
        np.array([2, 0, 3]),
        np.array([2, 0, 3], "uint64"),
        np.array([[2], [0], [3]]),
        EYE[[2, 0, 3]],
        EYE[[2, 0, 3]].astype(bool),
        EYE[[2, 0, 3]].astype("uint8"),
    ],
)
def test_every_form_becomes_the_same_indices(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(class_indices(labels, 4), np.array([2, 0, 3], "uint8"), strict=True)


def test_one_class_alone_is_one_hot() -> None:
    np.testing.assert_array_equal(class_indices(np.ones((3, 1)), 1), np.zeros(3, "uint8"), strict=True)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-1, 0], "labels must be from 0 to 3, got -1 to 0"),
        ([0, 4], "labels must be from 0 to 3, got 0 to 4"),
        ([[-1], [2]], "labels must be from 0 to 3, got -1 to 2"),
        ([0.0, 1.0], r"labels must be class indices .* the shape \(2,\) of dtype float64"),
        ([True, False], "of dtype bool"),
        (["0", "1"], "of dtype <U1"),
        ([0j, 1j], "of dtype complex128"),
        ([[0.0], [1.0]], r"the shape \(2, 1\) of dtype float64"),
        (EYE[:, :3], r"labels of two dimensions must be one-hot rows \(n, 4\) or one column"),
        (2 * EYE, "one-hot rows"),
        (0 * EYE, "one-hot rows"),
        (EYE + EYE[::-1], "one-hot rows"),
        (np.full((2, 4), np.nan), "one-hot rows"),
        (EYE[None], r"the shape \(1, 4, 4\)"),
        (3, r"the shape \(\)"),
    ],
)
def test_what_is_no_label_is_named(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_indices(np.asarray(labels), 4)


def test_argument_is_called_what_the_caller_calls_it() -> None:
    with pytest.raises(ValueError, match=r"^y must be from 0 to 3"):
        class_indices(np.array([9]), 4, "y")
