from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from batch_helpers import undivided

from fmnist_xp.backend import CpuBackend
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, Network, ReLU, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.optim import SGD
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.plan import Plan
from fmnist_xp.train.rows import Rows
from fmnist_xp.train.worker import Worker

ROWS = 23
BLOCKS = slice(0, 10), slice(10, 20), slice(20, 23)


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


def make_worker(network: Network, X: np.ndarray, y: np.ndarray | None, *blocks: slice, stages: bool = True) -> Worker:
    """Return a worker on these blocks of rows, with a vector of gradients of its own."""
    write = (lambda buffer, values: np.copyto(buffer, values)) if stages else None
    rows = Rows(blocks, y, lambda number: X[blocks[number]], write, undivided(blocks))
    return Worker(network, rows, np.full_like(network.gradients, np.nan))


def through_layers(network: Network, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the sum of the samples' gradients, by the layers' own forward and backward."""
    network.backward(network.forward(X.astype(network.parameters.dtype)), y, reduction="sum")
    return network.gradients


@pytest.mark.parametrize("split_softmax", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stages", [False, True])
def test_blocks_have_the_gradients_that_the_layers_compute(stages: bool, dtype: str, split_softmax: bool) -> None:
    network = make_network(split_softmax=split_softmax, dtype=dtype)
    X, y = make_batch()
    blocks = (slice(0, 10), slice(10, 20), slice(20, 23), slice(3, 13))
    worker = make_worker(network, X.astype(dtype), y, *blocks, stages=stages)
    for _ in range(3):
        for number, block in enumerate(blocks):
            worker.compute_gradients(number)
            expected = through_layers(network, X[block], y[block])
            tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
            np.testing.assert_allclose(worker.gradients, expected, rtol=tolerance, atol=tolerance)
            probabilities = worker.forward(number)
            np.testing.assert_allclose(probabilities, network.forward(X[block].astype(dtype)), rtol=tolerance)
        network.parameters += 0.1  # an update, in place


class OwnLoss(SoftmaxCategoricalCrossentropy):
    """A loss of the user's own."""


@pytest.mark.parametrize("own", ["layer", "activation", "loss"])
@pytest.mark.parametrize("first", [2, 0])
def test_blocks_of_two_sizes_do_not_mix_whichever_comes_first(first: int, own: str) -> None:
    """The arrays of the smaller size are the heads of the larger ones only where those were there before."""
    network = make_network(*{"layer": [ReLU(), Doubling()], "activation": [OwnReLU()]}.get(own, []))
    if own == "loss":
        network.loss = OwnLoss()
        network.loss.join(network)
    X, y = make_batch()
    worker = make_worker(network, X, y, *BLOCKS)
    for number in (first, 0, 2, 1, 2, 0):
        block = BLOCKS[number]
        worker.compute_gradients(number)
        np.testing.assert_allclose(worker.gradients, through_layers(network, X[block], y[block]), rtol=1e-12)
        np.testing.assert_allclose(worker.forward(number), network.forward(X[block]), rtol=1e-12)
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


def test_own_layer_writes_to_the_vector_of_gradients_of_its_worker() -> None:
    network = make_network(ReLU(), Scale())
    X, y = make_batch()
    workers = [make_worker(network, X, y, *BLOCKS) for _ in range(2)]
    for number in (0, 2, 0, 1):
        for worker in workers:
            for each in workers:
                each.gradients[...] = np.nan
            worker.compute_gradients(number)
            block = BLOCKS[number]
            np.testing.assert_allclose(worker.gradients, through_layers(network, X[block], y[block]), rtol=1e-12)
            assert sum(np.isnan(each.gradients).all() for each in workers) == 1


def noted_plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return a list to which each call of a plan adds its name and the shapes of what it takes."""
    made: list[tuple[Any, ...]] = []
    forward, backward = Plan.forward, Plan.backward

    def noted_forward(plan: Plan, inputs: Any, training: bool, *others: Any) -> Any:
        made.append(("forward", inputs.shape))
        return forward(plan, inputs, training, *others)

    def noted_backward(plan: Plan, forward: Any, labels: Any, gradients: Any, weights: Any) -> Any:
        made.append(("backward", forward.kept[0][0].shape))
        return backward(plan, forward, labels, gradients, weights)

    monkeypatch.setattr(Plan, "forward", noted_forward)
    monkeypatch.setattr(Plan, "backward", noted_backward)
    return made


def test_plans_are_made_once_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    X, y = make_batch()
    expected = [through_layers(network, X[block], y[block]).copy() for block in BLOCKS]
    made = noted_plans(monkeypatch)
    worker = make_worker(network, X, y, *BLOCKS)
    for _ in range(3):
        for number, gradients in enumerate(expected):
            worker.gradients[...] = np.nan
            worker.compute_gradients(number)
            np.testing.assert_allclose(worker.gradients, gradients, rtol=1e-12)
    shapes = [(3, 6), (10, 6)]
    assert sorted(made) == [(name, shape) for name in ("backward", "forward") for shape in shapes]


def test_plans_are_made_once_for_each_number_of_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    X, y = make_batch()
    blocks = (slice(0, 5), slice(5, 10), slice(10, 15), slice(15, 20), slice(20, 23))
    columns = [np.array(picked) for picked in ([0, 3, 4], [1, 2, 5], [0, 1, 4, 5], [2, 3, 4], [1, 3, 5])]
    full = np.zeros_like(X)
    for block, picked in zip(blocks, columns, strict=True):
        full[block, picked] = X[block, picked]
    expected = [through_layers(network, full[block], y[block]).copy() for block in blocks]
    probabilities = [network.forward(full[block]) for block in blocks]
    made = noted_plans(monkeypatch)
    values = [X[block][:, picked] for block, picked in zip(blocks, columns, strict=True)]
    rows = Rows(blocks, y, values.__getitem__, np.copyto, undivided(blocks), columns=columns)
    worker = Worker(network, rows, np.empty_like(network.gradients))
    for order in ((0, 1, 2, 3, 4), (4, 2, 1, 0, 3), (3, 3, 2, 2, 0)):
        for number in order:
            worker.gradients[...] = np.nan
            worker.compute_gradients(number)
            np.testing.assert_allclose(worker.gradients, expected[number], rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(worker.forward(number), probabilities[number], rtol=1e-12)
    shapes = [(3, 3), (5, 3), (5, 4)]
    assert sorted(made) == [
        *(("backward", shape) for shape in shapes),
        *(("forward", shape) for shape in shapes for _training in (True, False)),
    ]


def test_block_in_the_buffers_is_not_copied_again() -> None:
    network = make_network()
    X, y = make_batch()
    asked: list[int] = []
    values = [X[block] for block in BLOCKS]
    rows = Rows(
        BLOCKS,
        y,
        lambda number: asked.append(number) or values[number],  # type: ignore[func-returns-value]
        lambda buffer, given: np.copyto(buffer, given),
        undivided(BLOCKS),
    )
    worker = Worker(network, rows, np.empty_like(network.gradients))
    for number in (0, 0, 1, 2, 2, 0):
        worker.compute_gradients(number)
        block = BLOCKS[number]
        np.testing.assert_allclose(worker.gradients, through_layers(network, X[block], y[block]), rtol=1e-12)
    assert asked == [0, 1, 2, 0]


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
    worker = make_worker(network, X, y, *BLOCKS)
    seen: list[tuple[slice, np.ndarray]] = []

    class Noting:
        def note(self, block: slice, true: np.ndarray, predicted: np.ndarray) -> None:
            seen.append((block, np.stack([true, predicted])))

    for number in (0, 1, 2) * 2:
        worker.compute_gradients(number, Noting())  # type: ignore[arg-type]
    assert [block for block, _ in seen] == [*BLOCKS] * 2
    for block, (true, predicted) in seen:
        probabilities = network.forward(X[block])
        np.testing.assert_allclose(true, probabilities[np.arange(len(true)), y[block]], rtol=1e-13)
        np.testing.assert_array_equal(predicted, probabilities.argmax(axis=1))


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


@pytest.mark.parametrize("dense", [True, False])
def test_bytes_become_numbers_block_by_block(dense: bool) -> None:
    network = make_network(dtype="float32")
    pixels = Pixels(np.random.default_rng(0).integers(0, 256, (ROWS, 6), dtype="uint8"))
    y = make_batch()[1]
    FullBatch(network, pixels, y, 10, dense).compute_gradients()
    gradients = network.gradients.copy()
    FullBatch(network, np.asarray(pixels), y, 10, dense=True).compute_gradients()
    if dense:
        np.testing.assert_array_equal(gradients, network.gradients)
    else:  # on bytes as they are, by weights that are scaled instead
        np.testing.assert_allclose(gradients, network.gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("columns", [True, False])
@pytest.mark.parametrize("labels", [True, False])
def test_buffers_are_of_the_dtypes_that_enter_products(labels: bool, columns: bool) -> None:
    network = make_network(dtype="float32")
    X, y = make_batch()
    picked = [np.array([0, 2])] * 3 if columns else None
    values = [X[block].astype("int16")[:, [0, 2] if columns else slice(None)] for block in BLOCKS]
    write = lambda buffer, given: np.copyto(buffer, given)  # noqa: E731
    rows = Rows(BLOCKS, y if labels else None, values.__getitem__, write, undivided(BLOCKS), columns=picked)
    worker = Worker(network, rows, network.gradients)
    inputs, of_labels, of_columns, *_others = worker._stage(1)
    assert (inputs.shape, str(inputs.dtype)) == ((10, 2 if columns else 6), "float32")
    np.testing.assert_array_equal(inputs, values[1])
    assert (of_labels.dtype, of_labels.tolist()) == ("uint8", y[10:20].tolist()) if labels else of_labels is None
    assert (of_columns.dtype, of_columns.tolist()) == (picked[1].dtype, [0, 2]) if picked else of_columns is None
    smaller = worker._stage(2)
    assert smaller.inputs.shape[0] == 3
    assert smaller.inputs.ctypes.data == inputs.ctypes.data  # the same buffer


def test_block_is_written_again_after_another_failed_halfway(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    X, y = make_batch()
    worker = make_worker(network, X, y, *BLOCKS)
    worker.compute_gradients(0)
    expected = worker.gradients.copy()
    rows = worker._rows

    def fail_halfway(buffer: Any, _values: Any) -> None:
        buffer[1:] = np.nan
        raise OSError("cut short")

    monkeypatch.setattr(worker, "_rows", replace(rows, write=fail_halfway))
    with pytest.raises(OSError, match="cut short"):
        worker.compute_gradients(1)
    monkeypatch.setattr(worker, "_rows", rows)
    worker.compute_gradients(0)
    np.testing.assert_array_equal(worker.gradients, expected)
