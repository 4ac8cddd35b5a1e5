import math
from dataclasses import asdict

import numpy as np
import pytest
from batch_helpers import logged

from bench.notebook import NotebookNetwork, OptimizerSGD, make_network
from fmnist_xp.backend import CpuBackend
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.train.fullbatch import FullBatch


def test_first_epochs_follow_the_formulas_by_hand() -> None:
    # One input, one hidden neuron, two classes, one sample x = 2 of class 1; L2 0.1 on the first layer.
    state = {
        "dense1.weights": np.array([[0.5]]),
        "dense1.biases": np.array([[0.25]]),
        "dense2.weights": np.array([[1.0, -1.0]]),
        "dense2.biases": np.array([[0.0, 0.5]]),
    }
    network = NotebookNetwork(state, 0.1, OptimizerSGD(0.05, 0.5, 0.5))
    X, y = np.array([[2.0]], np.float32), np.array([1])
    w, b, (v0, v1), (c0, c1) = 0.5, 0.25, (1.0, -1.0), (0.0, 0.5)
    speed = [0.0] * 6
    for epoch in range(3):
        h = 2 * w + b  # above 0 in each epoch
        p1 = 1 / (1 + math.exp((h * v0 + c0) - (h * v1 + c1)))
        expected = -math.log(p1) + 0.1 * (w * w + b * b)
        d0, d1 = 1 - p1, p1 - 1
        dh = d0 * v0 + d1 * v1
        gradients = [2 * dh + 0.2 * w, dh + 0.2 * b, h * d0, h * d1, d0, d1]
        rate = 0.05 / (1 + 0.5 * epoch)
        speed = [0.5 * s - rate * g for s, g in zip(speed, gradients, strict=True)]
        assert h > 0
        loss, accuracy = network.epoch(X, y)
        assert loss == pytest.approx(expected, rel=1e-12)
        assert accuracy == float(p1 > 0.5)
        w, b, v0, v1, c0, c1 = (a + s for a, s in zip((w, b, v0, v1, c0, c1), speed, strict=True))
    first, second = network.dense
    assert first.weights[0, 0] == pytest.approx(w, rel=1e-12)
    assert first.biases[0, 0] == pytest.approx(b, rel=1e-12)
    assert second.weights[0] == pytest.approx([v0, v1], rel=1e-12)
    assert second.biases[0] == pytest.approx([c0, c1], rel=1e-12)


@pytest.mark.parametrize("name", NOTEBOOK_EXPERIMENTS)
def test_agrees_with_our_float64_network(name: str) -> None:
    generator = np.random.default_rng(1)
    X = generator.uniform(-1, 1, (300, 784)).astype(np.float32)
    y = generator.integers(0, 10, 300).astype(np.uint8)
    experiment = NOTEBOOK_EXPERIMENTS[name]
    backend = CpuBackend(2)
    network = experiment.make_network(backend, seed=3, dtype="float64")
    notebook = make_network(network.state_dict(), asdict(experiment))
    optimizer = experiment.make_optimizer()
    batch = FullBatch(network, X.astype(np.float64), y, block_rows=70)
    for _ in range(6):
        with backend.computing():
            data_loss, accuracy, penalty = logged(batch).tolist()
            optimizer.step(network)
        expected_loss, expected_accuracy = notebook.epoch(X, y)
        assert data_loss + penalty == pytest.approx(expected_loss, rel=1e-6)
        assert accuracy == pytest.approx(expected_accuracy, abs=1e-12)
    for ours, theirs in zip(network.dense, notebook.dense, strict=True):
        np.testing.assert_allclose(ours.weights, theirs.weights, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(ours.biases, theirs.biases, rtol=1e-6, atol=1e-9)


def test_inputs_stay_float32_and_weights_become_float64() -> None:
    state = {"dense1.weights": np.ones((3, 2), np.float32), "dense1.biases": np.zeros((1, 2), np.float32)}
    network = NotebookNetwork(state, 0.0, OptimizerSGD(0.1, 0.0, 0.0))
    X = np.ones((4, 3), np.float32)
    network.epoch(X, np.array([0, 1, 0, 1]))
    (layer,) = network.dense
    assert layer.inputs is X
    assert layer.weights.dtype == layer.output.dtype == np.float64
    assert layer.dinputs.shape == X.shape  # computed, and thrown away
