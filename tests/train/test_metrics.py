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
