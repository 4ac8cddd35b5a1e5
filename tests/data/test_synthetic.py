from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fmnist_xp.data import Dataset, fashion_mnist, load_fashion_mnist, make_synthetic, preprocess, synthetic
from fmnist_xp.data.synthetic import _BLOCK, VERSION


@pytest.fixture(scope="session")
def splits() -> tuple[Dataset, Dataset]:
    return make_synthetic(6000, 1500, seed=3)


def test_shapes_names_and_balance(splits: tuple[Dataset, Dataset]) -> None:
    for split, n in zip(splits, (6000, 1500), strict=True):
        assert split.images.shape == (n, 28, 28)
        assert split.images.dtype == split.labels.dtype == np.uint8
        assert np.bincount(split.labels, minlength=10).tolist() == [n // 10] * 10
        assert split.name == "synthetic"
        assert np.any(np.diff(split.labels.astype(int)) < 0)  # shuffled


def test_drawings_match_their_version() -> None:
    """They look like the picture beside this file: cache entries are valid as long as the version stays."""
    train, _ = make_synthetic(240, 10, seed=1)
    by_class = train.images[np.argsort(train.labels, kind="stable")].reshape(10, 24, 28, 28)
    sheet = by_class.swapaxes(1, 2).reshape(280, 672)
    kept = cv2.imread(str(Path(__file__).with_name(f"garments-{VERSION}.png")), cv2.IMREAD_GRAYSCALE)
    # Other versions of NumPy and OpenCV may round a corner or a shade differently.
    assert (np.abs(sheet.astype(int) - kept) > 2).mean() < 1e-4


def test_a_number_that_ten_does_not_divide() -> None:
    train, test = make_synthetic(23, 4)
    assert sorted(np.bincount(train.labels, minlength=10).tolist()) == [2] * 7 + [3] * 3
    assert len(test) == 4


def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = set()
    for cores in (1, 2, 4):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        train, test = make_synthetic(3 * _BLOCK, 40, seed=5)
        sums.add((train.sha256, test.sha256))
    assert len(sums) == 1
    assert make_synthetic(3 * _BLOCK, 40, seed=6)[0].sha256 not in {train for train, _ in sums}


def test_every_block_has_its_own_generator() -> None:
    train, test = make_synthetic(2 * _BLOCK + 10, 20, seed=4)
    for start in (0, _BLOCK, 2 * _BLOCK):
        block = slice(start, start + _BLOCK)
        expected = synthetic._draw_block(train.labels[block], np.random.default_rng((4, 0, start)))
        np.testing.assert_array_equal(train.images[block], expected)
    np.testing.assert_array_equal(test.images, synthetic._draw_block(test.labels, np.random.default_rng((4, 1, 0))))
    assert train.source == test.source == "drawn by make_synthetic"


def test_the_default_sizes_are_those_of_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(synthetic, "_draw_split", lambda n, seed: asked.append((n, seed)))
    make_synthetic()
    assert asked == [(60_000, (0, 0)), (10_000, (0, 1))]


def test_no_image_is_duplicate_or_empty(splits: tuple[Dataset, Dataset]) -> None:
    images = np.concatenate([split.images for split in splits])
    assert len({image.tobytes() for image in images}) == len(images)
    assert images.max(axis=(1, 2)).min() > 30


def test_pixel_statistics_resemble_the_real_ones(splits: tuple[Dataset, Dataset]) -> None:
    pixels = splits[0].images / 255
    assert 0.15 < pixels.mean() < 0.35
    assert 0.25 < pixels.std() < 0.4
    corners = splits[0].images[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).mean() > 0.97


def linear_accuracy(train: Dataset, test: Dataset) -> float:
    """Accuracy on `test` of a ridge regression on one-hot labels, in closed form."""

    def rows(split: Dataset) -> NDArray[np.float64]:
        return np.hstack([preprocess(split)[0], np.ones((len(split), 1))]).astype(np.float64)

    x = rows(train)
    weights = np.linalg.solve(x.T @ x + 50 * np.eye(785), x.T @ np.eye(10)[train.labels])
    return float(((rows(test) @ weights).argmax(1) == test.labels).mean())


def test_a_linear_model_learns_much_but_not_all(splits: tuple[Dataset, Dataset]) -> None:
    accuracy = linear_accuracy(*splits)
    assert 0.6 < accuracy < 0.95


def test_the_source_synthetic_goes_through_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def small() -> tuple[Dataset, Dataset]:
        calls.append(1)
        return make_synthetic(20, 10)

    monkeypatch.setattr(fashion_mnist, "make_synthetic", small)
    first, second = load_fashion_mnist("synthetic"), load_fashion_mnist("synthetic")
    assert len(calls) == 1
    assert first[0].sha256 == second[0].sha256 == make_synthetic(20, 10)[0].sha256
    assert second[0].name == "synthetic"
