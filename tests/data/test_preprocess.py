import numpy as np
import pytest
from data_helpers import noise

from fmnist_xp.data import Dataset, preprocess


@pytest.mark.parametrize("n", [1, 999, 1000, 2345])
def test_rows_match_the_notebooks_expression_bit_for_bit(n: int) -> None:
    dataset = noise(n)
    rows, labels = preprocess(dataset)
    expected = ((dataset.images.astype(np.float32) - 127.5) / 127.5).reshape(n, 784)
    assert rows.dtype == np.float32
    assert rows.tobytes() == expected.tobytes()
    assert np.array_equal(labels, dataset.labels)


def test_every_grey_value_is_scaled_into_minus_one_to_one() -> None:
    images = (np.arange(784) % 256).astype(np.uint8).reshape(1, 28, 28)
    rows, _ = preprocess(Dataset(images, np.zeros(1, np.uint8), "custom", "here"))
    assert rows[0, 0] == -1.0
    assert rows[0, 255] == 1.0
    assert np.all(np.diff(rows[0, :256]) > 0)


def test_a_seed_is_one_permutation_of_rows_and_labels() -> None:
    dataset = noise(2345)
    order = np.random.default_rng(7).permutation(2345)
    rows, labels = preprocess(dataset, shuffle_seed=7)
    assert np.array_equal(rows, preprocess(dataset)[0][order])
    assert np.array_equal(labels, dataset.labels[order])
    assert not np.array_equal(rows, preprocess(dataset, shuffle_seed=8)[0])


def test_the_dataset_is_not_modified() -> None:
    dataset = noise(50)
    before = dataset.images.copy()
    for seed in (None, 1):
        rows, labels = preprocess(dataset, seed)
        rows[:] = 0
        labels[:] = 3
    assert np.array_equal(dataset.images, before)
    assert np.array_equal(dataset.labels, noise(50).labels)
