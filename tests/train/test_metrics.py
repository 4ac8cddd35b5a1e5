import itertools

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.nn import Dense, Network
from fmnist_xp.train.metrics import BatchMetrics

PROBABILITIES = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.4, 0.3], [0.25, 0.25, 0.5]])
LABELS = np.array([0, 1, 1, 2], dtype="uint8")
TRUE = PROBABILITIES[np.arange(4), LABELS]
PREDICTED = np.array([0, 2, 1, 2])
LOSS = -np.log([0.5, 0.2, 0.4, 0.5]).mean()


@pytest.fixture
def network() -> Network:
    network = Network([Dense(2, 3, 0.5, 0.25)], backend=CpuBackend(1), dtype="float64")
    network.dense[0].weights = [[1.0, -2.0, 0.0], [0.0, 0.0, 2.0]]
    return network


@pytest.mark.parametrize("blocks", [[slice(0, 4)], [slice(0, 3), slice(3, 4)], [slice(2, 4), slice(0, 2)]])
def test_metrics_by_hand(network: Network, blocks: list[slice]) -> None:
    metrics = BatchMetrics(network, LABELS)
    for block in blocks:
        metrics.note(block, TRUE[block], PREDICTED[block])
    np.testing.assert_allclose(metrics.reduce(), [LOSS, 0.75, 0.5 * 5 + 0.25 * 9], rtol=1e-15)


def test_next_metrics_are_written_to_the_same_place(network: Network) -> None:
    metrics = BatchMetrics(network, LABELS)
    metrics.note(slice(0, 4), TRUE, PREDICTED)
    first = metrics.reduce()
    network.dense[0].weights = np.zeros((2, 3))
    metrics.note(slice(0, 4), np.ones(4), LABELS)
    assert metrics.reduce() is first
    np.testing.assert_allclose(first, [1e-7, 1, 0], rtol=1e-5)


@pytest.mark.parametrize("piece", [1, 2, 3])
def test_rows_are_added_up_in_pieces(network: Network, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.train.metrics.PIECE", piece)
    metrics = BatchMetrics(network, LABELS)
    metrics.note(slice(0, 4), TRUE, PREDICTED)
    for _ in range(2):
        np.testing.assert_allclose(metrics.reduce(), [LOSS, 0.75, 0.5 * 5 + 0.25 * 9], rtol=1e-15)


def test_class_that_the_labels_dtype_cannot_hold_is_no_match() -> None:
    network = Network([Dense(2, 300)], backend=CpuBackend(1))
    metrics = BatchMetrics(network, np.zeros(2, "uint8"))
    metrics.note(slice(0, 2), np.array([0.5, 0.25]), np.array([0, 256]))
    assert metrics.reduce()[1] == 0.5


def random_rows(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities of the true classes and predicted classes, some of them right."""
    generator = np.random.default_rng(rows)
    labels, predicted = generator.integers(0, 3, (2, rows))
    return labels.astype("uint8"), generator.uniform(0.01, 1, rows), predicted


CUTS = pytest.mark.parametrize("cuts", [[0, 50], [0, 20, 50], [0, 1, 2, 30, 49, 50]], ids=str)


@CUTS
@pytest.mark.parametrize("piece", [7, 1 << 20])
def test_parts_are_added_up_to_the_means_of_all(
    network: Network, monkeypatch: pytest.MonkeyPatch, cuts: list[int], piece: int
) -> None:
    monkeypatch.setattr("fmnist_xp.train.metrics.PIECE", piece)
    labels, true, predicted = random_rows(50)
    metrics = BatchMetrics(network, labels, [slice(*ends) for ends in itertools.pairwise(cuts)])
    metrics.note(slice(0, 50), true, predicted)
    expected = [-np.log(true).mean(), (labels == predicted).mean(), 0.5 * 5 + 0.25 * 9]
    for _ in range(2):
        np.testing.assert_allclose(metrics.reduce(), expected, rtol=1e-14)


@CUTS
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_with_parts_of_their_own_have_the_bits_of_one(network: Network, cuts: list[int], ranks: int) -> None:
    labels, true, predicted = random_rows(50)
    parts = [slice(*ends) for ends in itertools.pairwise(cuts)]
    alone = BatchMetrics(network, labels, parts)
    alone.note(slice(0, 50), true, predicted)
    expected = alone.reduce().copy()
    shares = [range(len(parts) * rank // ranks, len(parts) * (rank + 1) // ranks) for rank in range(ranks)]
    collected = np.zeros((len(parts), 2))

    def collect(sums: np.ndarray, share: range) -> None:
        collected[share.start : share.stop] = sums[share.start : share.stop]
        sums[...] = collected

    for again in (False, True):  # the first time the sums of later ranks are not there yet
        for share in shares:
            own = slice(cuts[share.start], cuts[share.stop])
            metrics = BatchMetrics(
                network,
                labels[own],
                [slice(cuts[part] - own.start, cuts[part + 1] - own.start) for part in share],
                share.start,
                len(parts),
                50,
                collect=lambda sums, share=share: collect(sums, share),  # type: ignore[misc]
            )
            metrics.note(slice(0, own.stop - own.start), true[own], predicted[own])
            totals = metrics.reduce()
            if again:
                np.testing.assert_array_equal(totals, expected)
                ends = (predicted[own].min(), predicted[own].max()) if share else (3, -1)  # of no rows
                assert metrics.classes() == ends


@pytest.mark.parametrize(("predicted", "classes"), [([1, 1], (1, 1)), ([2, 0], (0, 2)), ([1, 2], (1, 2))])
def test_lowest_and_highest_class_predicted(network: Network, predicted: list[int], classes: tuple[int, int]) -> None:
    metrics = BatchMetrics(network, np.zeros(2, "uint8"))
    metrics.note(slice(0, 2), np.ones(2), np.array(predicted))
    assert metrics.classes() == classes
