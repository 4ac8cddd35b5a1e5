from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, Network, ReLU, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.optim import SGD
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.plan import Plan
from fmnist_xp.train.worker import Worker

ROWS = 23


class Doubling(Layer):
    """A user's own layer: it computes as it likes, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []  # shared with the copies

    def forward(self, inputs: Any) -> Any:
        self.calls.append(len(inputs))
        return 2 * inputs

    def backward(self, dvalues: Any) -> Any:
        return 2 * dvalues


class OwnReLU(ReLU):
    """Inherits from a layer that is taken apart, and is not."""

    def forward(self, inputs: Any) -> Any:
        self.output = np.maximum(inputs, 0)
        return self.output


def make_network(*between: Layer, split_softmax: bool = False, dtype: str = "float64", threads: int = 1) -> Network:
    layers = [Dense(6, 5, 0.0, 0.02), *(between or (ReLU(),)), Dense(5, 4), *([Softmax()] if split_softmax else [])]
    loss = CategoricalCrossentropy() if split_softmax else None
    network = Network(layers, loss, CpuBackend(threads), dtype=dtype)
    network.parameters[...] = np.random.default_rng(1).standard_normal(network.parameters.shape)
    return network


def make_batch(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    return generator.standard_normal((rows, 6)), generator.integers(0, 4, rows, dtype="uint8")


def through_layers(network: Network, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sum of the samples' gradients, by the layers' own forward and backward."""
    network.backward(network.forward(X.astype(network.parameters.dtype)), y, reduction="sum")
    return network.gradients


@pytest.mark.parametrize("split_softmax", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_have_the_gradients_that_the_layers_compute(dtype: str, split_softmax: bool) -> None:
    network = make_network(split_softmax=split_softmax, dtype=dtype)
    X, y = make_batch()
    worker = Worker(network, X.astype(dtype), y, 10)
    for _ in range(3):
        for block in (slice(0, 10), slice(10, 20), slice(20, 23), slice(3, 13)):
            worker.compute_gradients(block)
            expected = through_layers(network, X[block], y[block])
            tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
            np.testing.assert_allclose(worker.gradients, expected, rtol=tolerance, atol=tolerance)
            probabilities = worker.forward(block)
            np.testing.assert_allclose(probabilities, network.forward(X[block].astype(dtype)), rtol=tolerance)
        network.parameters += 0.1  # an update, in place


class OwnLoss(SoftmaxCategoricalCrossentropy):
    """A loss of the user's own."""


@pytest.mark.parametrize("own", ["layer", "activation", "loss"])
@pytest.mark.parametrize("first", [slice(20, 23), slice(0, 10)])
def test_blocks_of_two_sizes_do_not_mix_whichever_comes_first(first: slice, own: str) -> None:
    """The arrays of the smaller size are the heads of the larger ones only where those were there before."""
    network = make_network(*{"layer": [ReLU(), Doubling()], "activation": [OwnReLU()]}.get(own, []))
    if own == "loss":
        network.loss = OwnLoss()
        network.loss.join(network)
    X, y = make_batch()
    worker = Worker(network, X, y, 10)
    for block in (first, slice(0, 10), slice(20, 23), slice(10, 20), slice(20, 23), slice(0, 10)):
        worker.compute_gradients(block)
        np.testing.assert_allclose(worker.gradients, through_layers(network, X[block], y[block]), rtol=1e-12)
        np.testing.assert_allclose(worker.forward(block), network.forward(X[block]), rtol=1e-12)
        network.parameters *= 1.1


class Scale(Layer):
    """A layer of the user's own with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.make_parameters(factors=(1, 5))
        self.factors = [[1.0, 2.0, 3.0, 4.0, 5.0]]

    def forward(self, inputs: Any) -> Any:
        self.inputs = inputs
        return inputs * self.factors

    def backward(self, dvalues: Any) -> Any:
        self.dfactors = (dvalues * self.inputs).sum(axis=0, keepdims=True)
        return dvalues * self.factors


def test_own_layer_writes_to_the_vector_of_gradients_whose_turn_it_is() -> None:
    network = make_network(ReLU(), Scale())
    X, y = make_batch()
    worker = Worker(network, X, y, 10)
    vectors = [worker.gradients, np.empty_like(worker.gradients)]
    for _ in range(3):
        for vector in vectors:
            worker.gradients = vector
            for each in vectors:
                each[...] = np.nan
            worker.compute_gradients(slice(0, 10))
            np.testing.assert_allclose(vector, through_layers(network, X[:10], y[:10]), rtol=1e-12)


def test_plans_are_made_once_for_each_size_and_vector_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    X, y = make_batch()
    blocks = (slice(0, 10), slice(10, 20), slice(20, 23))
    expected = [through_layers(network, X[block], y[block]).copy() for block in blocks]
    made: list[tuple[str, int]] = []
    forward, backward = Plan.forward, Plan.backward
    monkeypatch.setattr(
        Plan, "forward", lambda plan, x, training: made.append(("forward", len(x))) or forward(plan, x, training)
    )
    monkeypatch.setattr(
        Plan, "backward", lambda plan, f, y, g: made.append(("backward", len(y))) or backward(plan, f, y, g)
    )
    worker = Worker(network, X, y, 10)
    vectors = [worker.gradients, np.empty_like(worker.gradients)]
    for _ in range(3):
        for vector in vectors:
            worker.gradients = vector
            for block, gradients in zip(blocks, expected, strict=True):
                vector[...] = np.nan
                worker.compute_gradients(block)
                np.testing.assert_allclose(vector, gradients, rtol=1e-12)
    assert sorted(made) == [("backward", 3)] * 2 + [("backward", 10)] * 2 + [("forward", 3), ("forward", 10)]


@pytest.mark.parametrize("stages", [False, True])
def test_copying_blocks_to_a_buffer_changes_no_gradient(stages: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuBackend, "stages_blocks", stages)
    network = make_network()
    X, y = make_batch()
    given = X.copy(), y.copy()
    batch = FullBatch(network, X, y, 10)
    for _ in range(2):
        batch.compute_gradients()
        penalty = np.concatenate([2 * 0.02 * network.dense[0].weights.ravel(), np.zeros(5 + 24)])
        gradients = network.gradients.copy()
        np.testing.assert_allclose(gradients, through_layers(network, X, y) / ROWS + penalty, rtol=1e-12)
    np.testing.assert_array_equal(X, given[0])
    np.testing.assert_array_equal(y, given[1])


def test_metrics_see_the_probabilities_of_each_block_before_the_gradient_is_written_over_them() -> None:
    network = make_network()
    X, y = make_batch()
    worker = Worker(network, X, y, 10)
    seen: list[tuple[slice, np.ndarray]] = []

    class Noting:
        def note(self, _plan: Any, probabilities: np.ndarray, block: slice) -> None:
            seen.append((block, probabilities.copy()))

    for block in (slice(0, 10), slice(10, 20), slice(20, 23)) * 2:
        worker.compute_gradients(block, Noting())  # type: ignore[arg-type]
    assert len(seen) == 6
    for block, probabilities in seen:
        np.testing.assert_allclose(probabilities, network.forward(X[block]), rtol=1e-13)


@pytest.mark.parametrize("make", [Doubling, OwnReLU])
@pytest.mark.parametrize("threads", [1, 2])
def test_users_own_layer_is_called_once_for_every_block(make: Callable[[], Layer], threads: int) -> None:
    layer = make()
    network = make_network(layer, threads=threads)
    X, y = make_batch()
    batch = FullBatch(network, X, y, 10)
    optimizer = SGD(0.1)
    for _ in range(3):
        batch.compute_gradients()
        expected = make_network(Doubling() if make is Doubling else ReLU())
        expected.parameters[...] = network.parameters
        FullBatch(expected, X, y).compute_gradients()
        np.testing.assert_allclose(network.gradients, expected.gradients, rtol=1e-12)
        optimizer.step(network)
    if isinstance(layer, Doubling):
        assert sorted(layer.calls) == [3] * 3 + [10] * 6


def test_rows_of_another_dtype_are_taken_block_by_block() -> None:
    network = make_network(dtype="float32")
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 6), dtype="uint8")
    y = make_batch()[1]
    FullBatch(network, pixels, y, 10).compute_gradients()
    gradients = network.gradients.copy()
    FullBatch(network, pixels.astype("float32"), y, 10).compute_gradients()
    np.testing.assert_array_equal(gradients, network.gradients)


@pytest.mark.parametrize("labels", [True, False])
def test_buffers_are_of_the_dtypes_that_enter_products(labels: bool) -> None:
    pixels = np.zeros((ROWS, 6), dtype="int16")
    worker = Worker(make_network(dtype="float32"), pixels, make_batch()[1] if labels else None, 10)
    assert worker._buffers is not None
    rows, of_labels = worker._buffers
    assert (rows.shape, str(rows.dtype)) == ((10, 6), "float32")
    assert (of_labels.shape, str(of_labels.dtype)) == ((10,), "uint8") if labels else of_labels is None
