from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import Call, CpuBackend, Formula, Product, Step
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, Network, ReLU, Softmax
from fmnist_xp.optim import SGD
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.worker import Recorder, Worker

ROWS = 23


class Doubling(Layer):
    """A layer of the user's own: it computes as it likes, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []  # shared with the replicas

    def forward(self, inputs: Any) -> Any:
        self.calls.append(len(inputs))
        return 2 * inputs

    def backward(self, dvalues: Any) -> Any:
        return 2 * dvalues


class OwnReLU(ReLU):
    """Inherits from a layer whose calls can be made again, and is none."""

    def forward(self, inputs: Any) -> Any:
        self.output = np.maximum(inputs + (0 if self.biases is None else self.biases), 0)
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
    network.backward(network.forward(X.astype(network.parameters.dtype)), y, samples=1)
    return network.gradients


@pytest.mark.parametrize("split_softmax", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_calls_made_again_compute_what_the_layers_compute(dtype: str, split_softmax: bool) -> None:
    network = make_network(split_softmax=split_softmax, dtype=dtype)
    X, y = make_batch()
    worker = Worker(network, X.astype(dtype), y, 10)
    for _ in range(3):
        for block in (slice(0, 10), slice(10, 20), slice(20, 23), slice(3, 13)):
            worker.compute_gradients(block, None)
            expected = through_layers(network, X[block], y[block])
            tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
            np.testing.assert_allclose(worker.gradients, expected, rtol=tolerance, atol=tolerance)
        network.parameters += 0.1  # an update, in place


def test_layers_are_called_once_for_each_size_and_vector_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    X, y = make_batch()
    blocks = (slice(0, 10), slice(10, 20), slice(20, 23))
    expected = [through_layers(network, X[block], y[block]).copy() for block in blocks]
    called: list[int] = []
    forward = Dense.forward
    monkeypatch.setattr(Dense, "forward", lambda dense, x: called.append(len(x)) or forward(dense, x))
    worker = Worker(network, X, y, 10)
    vectors = [worker.gradients, np.empty_like(worker.gradients)]
    for _ in range(3):
        for vector in vectors:
            worker.gradients = vector
            for block, gradients in zip(blocks, expected, strict=True):
                vector[...] = np.nan
                worker.compute_gradients(block, None)
                np.testing.assert_allclose(vector, gradients, rtol=1e-12)
    # Two Dense layers for each of two sizes and two vectors.
    assert sorted(called) == [3] * 4 + [10] * 4


@pytest.mark.parametrize("stages", [False, True])
def test_whether_blocks_are_copied_to_a_buffer_is_without_meaning(
    stages: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_note_sees_the_probabilities_of_its_block() -> None:
    network = make_network()
    X, y = make_batch()
    worker = Worker(network, X, y, 10)
    seen: list[tuple[slice, np.ndarray]] = []
    for block in (slice(0, 10), slice(10, 20), slice(20, 23)) * 2:
        worker.compute_gradients(
            block, lambda _loss, probabilities, block: seen.append((block, probabilities.copy()))
        )
    for block, probabilities in seen:
        np.testing.assert_allclose(probabilities, network.forward(X[block]), rtol=1e-13)


@pytest.mark.parametrize("make", [Doubling, OwnReLU])
@pytest.mark.parametrize("threads", [1, 2])
def test_layer_of_the_users_own_is_asked_for_every_block(make: Callable[[], Layer], threads: int) -> None:
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
    assert all(worker._recorder.taken() == [] for worker in batch._workers)


def test_rows_of_another_dtype_are_taken_block_by_block() -> None:
    network = make_network(dtype="float32")
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 6), dtype="uint8")
    y = make_batch()[1]
    FullBatch(network, pixels, y, 10).compute_gradients()
    gradients = network.gradients.copy()
    FullBatch(network, pixels.astype("float32"), y, 10).compute_gradients()
    np.testing.assert_array_equal(gradients, network.gradients)


def test_no_call_is_held_when_only_probabilities_are_asked_for() -> None:
    worker = Worker(make_network(), *make_batch(), 10)
    worker.forward(slice(0, 10))
    assert worker._recorder.taken() == []


def _named(step: Step) -> str:
    return "product" if isinstance(step, Product) else step.function.__name__


def test_attempt_that_failed_leaves_no_calls_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    X, y = make_batch()
    taken: list[list[Step]] = []
    repeatable = network.backend.repeatable
    monkeypatch.setattr(network.backend, "repeatable", lambda steps: taken.append(steps) or repeatable(steps))
    worker = Worker(network, X, y, 10)
    with monkeypatch.context() as patch:
        patch.setattr(Dense, "backward_inputs", lambda *_given: 1 / 0)  # behind the first steps of backward
        with pytest.raises(ZeroDivisionError):
            worker.compute_gradients(slice(0, 10), None)
    fresh = Worker(network, X, y, 10)
    for one in (worker, fresh):
        one.compute_gradients(slice(0, 10), None)
    after, expected = ([_named(step) for step in forward] for forward in taken[::2])
    assert after == expected


class Asked(CpuBackend):
    """NumPy that notes of each product whether it may be rounded as TF32, and has buffers for blocks."""

    precisions = ("float32", "tf32")

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: list[bool] = []

    def dot_calls(self, product: Product) -> list[Call]:
        self.asked.append(product.tf32)
        return super().dot_calls(product)


@pytest.mark.parametrize(("dtype", "asks"), [("float32", False), ("tf32", True)])
def test_products_of_layers_alone_are_rounded_and_only_where_asked(dtype: str, asks: bool) -> None:
    backend = Asked()
    network = Network([Dense(6, 5), ReLU(), Dense(5, 4)], backend=backend, seed=0, dtype=dtype)
    X, y = make_batch()
    Worker(network, X.astype("float32"), y, 10).compute_gradients(slice(0, 10), None)
    # Two outputs, the sum in softmax; two gradients of the weights, of the biases, and one of the hidden layer.
    products = [asks, asks, False, asks, asks, asks, asks, asks]
    assert backend.asked == products * 2  # by the layers, and to be made again


def test_buffers_are_of_the_dtypes_that_enter_products() -> None:
    pixels = np.zeros((ROWS, 6), dtype="int16")
    worker = Worker(make_network(dtype="float32"), pixels, make_batch()[1], 10)
    assert worker._buffers is not None
    assert [(buffer.shape, str(buffer.dtype)) for buffer in worker._buffers] == [
        ((10, 6), "float32"),
        ((10,), "uint8"),
    ]


def test_formula_that_is_applied_is_noted_as_it_is_and_one_that_is_fused_as_that() -> None:
    def negate(xp: Any, values: Any, out: Any) -> None:
        xp.negative(values, out=out)

    recorder, values, out = Recorder(CpuBackend(1)), np.array([1.0, -2.0]), np.zeros(2)
    recorder.apply(negate, values, out)
    assert out.tolist() == [-1, 2]
    out[:] = 0
    recorder.fuse(negate)(values, out)
    assert out.tolist() == [-1, 2]
    steps = [Formula(negate, (values, out), fused) for fused in (False, True)]
    assert recorder.taken() == steps
    assert recorder.taken() == []
