import itertools
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from batch_helpers import TIMEOUT, NotingFailure, held_to_time, logged
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_helpers import in_ranks

from fmnist_xp.backend import CpuBackend
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, Network, ReLU, Softmax
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.plan import Plan
from fmnist_xp.train.rows import lay_out
from fmnist_xp.train.trainer import train
from fmnist_xp.train.tree import TreeSum
from fmnist_xp.train.worker import Worker

ROWS = 23


def make_network(threads: int = 1, dtype: str = "float64", split_softmax: bool = False, inputs: int = 6) -> Network:
    layers: list[Layer] = [Dense(inputs, 5, 0.01, 0.02, 0.03, 0.04), ReLU(), Dense(5, 4, 0.0, 0.05)]
    loss = CategoricalCrossentropy() if split_softmax else None
    network = Network([*layers, Softmax()] if split_softmax else layers, loss, CpuBackend(threads), dtype=dtype)
    network.parameters[...] = np.random.default_rng(1).standard_normal(network.parameters.shape)
    return network


def make_batch(rows: int = ROWS, dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    return generator.standard_normal((rows, 6)).astype(dtype), generator.integers(0, 4, rows, dtype="uint8")


def one_pass(network: Network, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Return the gradient and [data loss, accuracy, regularization loss], written out in NumPy."""
    w1, b1, w2, b2 = (values.astype("float64") for values in network.state_dict().values())
    hidden = np.maximum(X @ w1 + b1, 0)
    logits = hidden @ w2 + b2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    one_hot = np.eye(4)[y]
    d2 = (probabilities - one_hot) / len(X)
    d1 = (d2 @ w2.T) * (hidden > 0)
    gradients = (
        X.T @ d1 + 0.01 * np.sign(w1) + 0.04 * w1,
        d1.sum(axis=0) + 0.03 * np.sign(b1) + 0.08 * b1,
        hidden.T @ d2 + 0.1 * w2,
        d2.sum(axis=0),
    )
    loss = -np.log((probabilities * one_hot).sum(axis=1)).mean()
    accuracy = (probabilities.argmax(axis=1) == y).mean()
    penalty = (
        0.01 * np.abs(w1).sum()
        + 0.02 * (w1**2).sum()
        + 0.03 * np.abs(b1).sum()
        + 0.04 * (b1**2).sum()
        + 0.05 * (w2**2).sum()
    )
    return np.concatenate([part.ravel() for part in gradients]), [loss, accuracy, penalty]


@pytest.mark.parametrize("split_softmax", [False, True], ids=["joined", "split"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block_rows", [*range(1, ROWS + 1), ROWS + 100])
def test_any_block_size_gives_the_one_pass_gradient_and_metrics(
    block_rows: int, threads: int, split_softmax: bool
) -> None:
    network = make_network(threads, split_softmax=split_softmax)
    X, y = make_batch()
    gradient, metrics = one_pass(network, X, y)
    batch = FullBatch(network, X, y, block_rows)
    np.testing.assert_allclose(logged(batch), metrics, rtol=1e-12)
    np.testing.assert_allclose(network.gradients, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("block_rows", [1, 7, ROWS])
def test_float32_gradient_is_that_of_float64_within_rounding(block_rows: int) -> None:
    network = make_network(dtype="float32")
    X, y = make_batch(dtype="float32")
    gradient, metrics = one_pass(network, X, y)
    computed = logged(FullBatch(network, X, y, block_rows))
    np.testing.assert_allclose(network.gradients, gradient, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(computed, metrics, rtol=1e-6)
    assert computed.dtype == np.float64


def test_losses_are_taken_in_the_networks_precision() -> None:
    network = make_network(dtype="float32")
    network.parameters[...] = 0
    network.dense[-1].biases = [[100, 0, 0, 0]]
    X, _ = make_batch(dtype="float32")
    loss, accuracy, _ = FullBatch(network, X, np.zeros(ROWS, dtype="uint8")).compute_metrics()
    # What a sure sample costs: the float32 nearest to the highest probability, 1 - 1e-7, is 1 - 2**-23.
    assert loss == pytest.approx(2.0**-23, rel=1e-6)
    assert accuracy == 1


def test_mean_of_the_losses_is_taken_in_float64() -> None:
    network = make_network(dtype="float32")
    X, y = make_batch(dtype="float32")
    expected = network.loss.sample_losses(network.forward(X), y).astype("float64").mean()
    assert float(np.float32(expected)) != expected
    assert FullBatch(network, X, y).compute_metrics()[0] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("threads", [1, 2])
def test_gradient_agrees_with_pytorch(threads: int, torch_reference: Callable[[Network], Any]) -> None:
    network = make_network(threads)
    X, y = make_batch()
    FullBatch(network, X, y, 5).compute_gradients()
    np.testing.assert_allclose(network.gradients, torch_reference(network).gradients(X, y), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("threads", [1, 2])
def test_metrics_and_probabilities_alone_equal_those_of_one_pass(threads: int) -> None:
    network = make_network(threads)
    X, y = make_batch()
    _, metrics = one_pass(network, X, y)
    batch = FullBatch(network, X, y, 4)
    np.testing.assert_allclose(batch.compute_metrics(), metrics, rtol=1e-12)
    np.testing.assert_allclose(batch.compute_probabilities(), network.forward(X), rtol=1e-12)


def test_metrics_are_computed_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    class Counting(CategoricalCrossentropy):
        """Notes what is asked of it."""

        def true_probabilities(self, predictions: Any, labels: Any, out: Any = None) -> Any:
            calls.append(f"{len(labels)} true")
            return super().true_probabilities(predictions, labels, out)

        def losses(self, true_probabilities: Any, out: Any = None) -> Any:
            calls.append(f"{len(true_probabilities)} losses")
            return super().losses(true_probabilities, out)

    network = Network([Dense(6, 4), Softmax()], Counting(), CpuBackend(1), seed=1, dtype="float64")
    monkeypatch.setattr(network, "write_penalties", lambda _penalties: calls.append("penalty"))
    batch = FullBatch(network, *make_batch(), block_rows=12)
    batch.compute_gradients()
    assert calls == []
    batch.compute_gradients(log=True)
    assert sorted(calls) == ["11 losses", "11 true", "12 losses", "12 true", "penalty"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameter_that_is_no_number_shows_in_the_metrics_even_where_relu_hides_it(value: float) -> None:
    network = Network([Dense(6, 5), ReLU(), Dense(5, 4)], backend=CpuBackend(1), seed=1, dtype="float64")
    network.parameters[0] = value

    def hide(_xp: Any, inputs: Any, biases: Any, output: Any) -> None:
        output[...] = np.maximum(np.nan_to_num(inputs + biases, nan=0, posinf=0, neginf=0), 0)

    batch = FullBatch(network, *make_batch())
    with pytest.MonkeyPatch.context() as patch, np.errstate(all="ignore"):
        patch.setattr("fmnist_xp.nn.activations.biased", lambda _activation: hide)
        loss, _accuracy, penalty = logged(batch)
    assert np.isfinite(loss)
    assert not np.isfinite(penalty)


def test_parameters_inputs_and_labels_stay_as_they_are() -> None:
    network = make_network(2)
    X, y = make_batch()
    held = [a.copy() for a in (network.parameters, X, y)]
    batch = FullBatch(network, X, y, 4)
    logged(batch)
    batch.compute_metrics()
    batch.compute_probabilities()
    for before, after in zip(held, (network.parameters, X, y), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize("name", NOTEBOOK_EXPERIMENTS)
def test_fifty_epochs_have_the_same_bits_on_any_number_of_threads(
    name: str, synthetic_rows: Callable[..., tuple[np.ndarray, np.ndarray]]
) -> None:
    X, y = synthetic_rows(2500, features=784)
    results = []
    for threads in (1, 2, 4):
        network = NOTEBOOK_EXPERIMENTS[name].make_network(CpuBackend(threads), seed=1)
        optimizer = NOTEBOOK_EXPERIMENTS[name].make_optimizer()
        history = train(network, X.astype("float32"), y, epochs=50, optimizer=optimizer, log_every=7)
        history.epoch_seconds = []
        results.append((network.parameters, history))
    for parameters, history in results[1:]:
        np.testing.assert_array_equal(parameters, results[0][0])
        assert history == results[0][1]
    losses = results[0][1].loss
    assert losses[-1] < losses[0]


@settings(deadline=None, max_examples=15)
@given(block_rows=st.integers(1, 12), threads=st.integers(2, 5), rows=st.integers(1, 40))
def test_bits_do_not_depend_on_threads_for_any_blocks(block_rows: int, threads: int, rows: int) -> None:
    X, y = make_batch(rows)
    results = []
    for backend_threads in (1, threads):
        network = make_network(backend_threads)
        metrics = logged(FullBatch(network, X, y, block_rows))
        results.append((network.gradients, metrics))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("late", [0, 1, 2])
def test_order_of_finishing_does_not_change_the_bits(late: int, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = make_batch()
    expected_network = make_network()
    expected = logged(FullBatch(expected_network, X, y, 4))

    later_done = threading.Event()
    finished: list[int] = []
    compute = Worker.compute_gradients

    def compute_with_a_late_block(worker: Worker, number: int, metrics: Any) -> None:
        if number == late:
            assert later_done.wait(TIMEOUT)
        compute(worker, number, metrics)
        finished.append(number)
        if number == late + 2:
            later_done.set()

    monkeypatch.setattr(Worker, "compute_gradients", compute_with_a_late_block)
    network = make_network(threads=2)
    batch = FullBatch(network, X, y, 4)
    metrics = held_to_time(lambda: logged(batch))
    assert finished.index(late) > finished.index(late + 2)
    np.testing.assert_array_equal(network.gradients, expected_network.gradients)
    np.testing.assert_array_equal(metrics, expected)


def test_nobody_waits_for_a_slow_block_and_the_gradients_held_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 12 blocks, block 0 stays on until the other worker has done the others.
    X, y = make_batch()
    others_done = threading.Event()
    finished: list[int] = []
    used: dict[int, Any] = {}
    compute, vector = Worker.compute_gradients, TreeSum.vector

    def compute_with_a_late_block(worker: Worker, number: int, metrics: Any) -> None:
        if number == 0:
            assert others_done.wait(TIMEOUT)
        compute(worker, number, metrics)
        finished.append(number)
        if len(finished) == 11:
            others_done.set()

    def noted(tree: TreeSum, number: int) -> Any:
        given = vector(tree, number)
        used[id(given)] = given
        return given

    monkeypatch.setattr(Worker, "compute_gradients", compute_with_a_late_block)
    monkeypatch.setattr(TreeSum, "vector", noted)
    network = make_network(threads=2)
    held_to_time(FullBatch(network, X, y, 2).compute_gradients)
    assert finished == [*range(1, 12), 0]
    # While 11 is computed: those of 0, where the total will be, 1 + 2, 3 + 4 + 5, 6 + 7 + 8, 9 and 10, and its own.
    assert len(used) <= 7
    monkeypatch.undo()
    expected = make_network()
    FullBatch(expected, X, y, 2).compute_gradients()
    np.testing.assert_array_equal(network.gradients, expected.gradients)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_blocks_are_added_in_groups_and_the_groups_in_a_tree(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = make_batch()
    network = make_network(threads)
    blocks = []
    worker = Worker(network, lay_out(network, X, y, 3, dense=True), np.empty_like(network.gradients))
    for number in range(8):
        worker.compute_gradients(number)
        blocks.append(worker.gradients.copy())
    monkeypatch.setattr(network, "add_penalty_gradients", lambda: None)
    # At most three groups: of 3, 3 and 2 blocks.
    monkeypatch.setattr("fmnist_xp.train.rows.GROUPS", 3)
    batch = FullBatch(network, X, y, 3)
    assert batch.workers == min(threads, 3)
    batch.compute_gradients()
    first, second, third = sum(blocks[1:3], blocks[0]), sum(blocks[4:6], blocks[3]), blocks[6] + blocks[7]
    np.testing.assert_array_equal(network.gradients, (first + (second + third)) * (1 / ROWS))


@pytest.mark.parametrize(
    ("blocks", "groups"), [(1, [1]), (23, [1] * 23), (1024, [1] * 1024), (1025, [2] * 512 + [1]), (3000, [3] * 1000)]
)
def test_groups_are_of_neighbours_and_at_most_1024(blocks: int, groups: list[int]) -> None:
    batch = FullBatch(make_network(4), *make_batch(blocks), block_rows=1)
    assert [len(group) for group in batch._groups] == groups
    assert [block for group in batch._groups for block in group] == list(range(blocks))
    assert batch.workers == min(4, len(groups))


@pytest.mark.parametrize(
    ("threads", "block_rows", "workers"), [(1, 4, 1), (2, 4, 2), (4, 12, 2), (4, 23, 1), (4, 8, 3), (3, 100, 1)]
)
def test_each_worker_has_one_plan_and_a_gradient_of_its_own_where_there_are_several_blocks(
    threads: int, block_rows: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Plan] = []
    monkeypatch.setattr("fmnist_xp.train.worker.Plan", lambda *given: made.append(Plan(*given)) or made[-1])
    network = make_network(threads)
    batch = FullBatch(network, *make_batch(), block_rows=block_rows)
    batch.compute_gradients()
    assert batch.workers == workers
    assert len(made) == workers
    vectors = [network.gradients, *(worker.gradients for worker in batch._workers)]
    if block_rows >= ROWS:  # nothing has to be added up
        assert vectors[1] is vectors[0]
    else:
        assert not any(np.shares_memory(a, b) for a, b in itertools.combinations(vectors, 2))


def test_single_block_writes_its_gradient_where_it_belongs() -> None:
    network = make_network()
    X, y = make_batch()
    batch = FullBatch(network, X, y, ROWS)
    for _ in range(2):
        batch.compute_gradients()
        np.testing.assert_allclose(network.gradients, one_pass(network, X, y)[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("block_rows", [1, 5, 23, 24])
def test_blocks_cover_every_row_once(block_rows: int) -> None:
    batch = FullBatch(make_network(), *make_batch(), block_rows=block_rows)
    blocks = batch.rows.blocks
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(ROWS))
    assert max(block.stop - block.start for block in blocks) == min(block_rows, ROWS)


def test_backend_chooses_the_blocks_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    asked: list[tuple[int, int, bool]] = []
    monkeypatch.setattr(
        network.backend, "block_rows", lambda rows, size, shared: asked.append((rows, size, shared)) or 9
    )
    assert FullBatch(network, *make_batch()).rows.blocks == [slice(0, 9), slice(9, 18), slice(18, 23)]
    # An output and its gradient for 5 + 4 neurons of 8 bytes.
    assert asked == [(ROWS, 2 * (5 + 4) * 8, False)]


def test_block_rows_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="block_rows must be at least 1, got 0"):
        FullBatch(make_network(), *make_batch(), block_rows=0)


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("failing", [0, 3, 5])
def test_exception_in_a_worker_reaches_the_caller_and_the_engine_goes_on(
    threads: int,
    failing: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = make_batch()
    network = make_network(threads)
    batch = FullBatch(network, X, y, 4)

    def failing_in(method: Callable[..., Any]) -> Callable[..., Any]:
        def compute(worker: Worker, number: int, *others: Any, **options: Any) -> Any:
            if number == failing:
                raise ArithmeticError("block failed")
            return method(worker, number, *others, **options)

        return compute

    with monkeypatch.context() as patch:
        for name in ("forward", "compute_gradients"):
            patch.setattr(Worker, name, failing_in(getattr(Worker, name)))
        for compute in (batch.compute_gradients, batch.compute_metrics, batch.compute_probabilities):
            with pytest.raises(ArithmeticError, match="block failed"):
                held_to_time(compute)
    held_to_time(batch.compute_gradients)
    np.testing.assert_allclose(network.gradients, one_pass(network, X, y)[0], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("asked", ["compute_gradients", "compute_metrics", "compute_probabilities"])
def test_no_block_is_begun_after_one_failed(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, both_begun = make_network(), threading.Barrier(2)
    network.backend = backend = NotingFailure(2)
    begun: list[int] = []

    def failing_forward(_worker: Worker, number: int, *_others: Any, **_options: Any) -> Any:
        begun.append(number)
        if number <= 1:
            both_begun.wait(TIMEOUT)
        if number == 0:
            raise ArithmeticError("block failed")
        assert backend.failed.wait(TIMEOUT)
        raise ArithmeticError("block failed too")

    batch = FullBatch(network, *make_batch(), block_rows=4)
    monkeypatch.setattr(Worker, "_forward", failing_forward)
    with pytest.raises(ArithmeticError, match="block failed"):
        held_to_time(getattr(batch, asked))
    assert sorted(begun) == [0, 1]


# Rows without their background


def make_images(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Return bytes (rows, 144) of images with a margin, as wide as chance has it, and labels."""
    generator = np.random.default_rng(3)
    images = np.zeros((rows, 12, 12), "uint8")
    for image in images:
        top, left = generator.integers(0, 8, 2)
        bottom, right = (generator.integers(first + 2, min(12, first + 6)) for first in (top, left))
        image[top:bottom, left:right] = generator.integers(1, 256, (bottom - top, right - left))
    return images.reshape(rows, 144), generator.integers(0, 4, rows, dtype="uint8")


def make_sorted(
    kind: str,
    threads: int = 1,
    block_rows: int = 5,
    dtype: str = "float64",
    rows: int = ROWS,
    ranks: Ranks = ALONE,
    dense: bool = False,
) -> tuple[FullBatch, np.ndarray, np.ndarray]:
    """Return a batch of images as `kind`, of which some columns are left out, its rows as floats, and the labels.

    Each of several ranks hands in about as many rows.
    """
    images, y = make_images(rows)
    network = make_network(threads, dtype, inputs=144)
    network.parameters *= 0.2  # else so many inputs make some probabilities 0
    X = ((images.astype("float64") - 127.5) / 127.5).astype(dtype)
    own = ranks.share(rows)
    given = Pixels(images[own]) if kind == "bytes" else X[own]
    return FullBatch(network, given, y[own], block_rows, dense, ranks), X, y


EACH_KIND = pytest.mark.parametrize("kind", ["bytes", "floats"])


@EACH_KIND
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block_rows", [1, 4, 5, 12])
def test_rows_without_their_background_have_the_one_pass_gradient_and_metrics(
    block_rows: int, threads: int, kind: str
) -> None:
    batch, X, y = make_sorted(kind, threads, block_rows)
    network = batch.network
    for _ in range(2):
        gradient, metrics = one_pass(network, X, y)
        np.testing.assert_allclose(batch.compute_metrics(), metrics, rtol=1e-12)
        np.testing.assert_allclose(logged(batch), metrics, rtol=1e-12)
        np.testing.assert_allclose(network.gradients, gradient, rtol=1e-9, atol=1e-13)
        # In the order in which the rows were given, not in that in which they lie.
        np.testing.assert_allclose(batch.compute_probabilities(), network.forward(X), rtol=1e-11)
        network.parameters *= 0.9  # an update, in place
    assert batch.rows.column_share < 0.9
    assert len({len(columns) for columns in batch.rows.columns}) > 1 or block_rows == 12  # type: ignore[union-attr]


@EACH_KIND
def test_float32_gradient_without_background_is_that_of_float64_within_rounding(kind: str) -> None:
    batch, X, y = make_sorted(kind, dtype="float32")
    gradient, metrics = one_pass(batch.network, X.astype("float64"), y)
    np.testing.assert_allclose(logged(batch), metrics, rtol=1e-5)
    np.testing.assert_allclose(batch.network.gradients, gradient, rtol=1e-4, atol=1e-5)


@EACH_KIND
def test_gradient_without_background_agrees_with_pytorch(
    kind: str, torch_reference: Callable[[Network], Any]
) -> None:
    batch, X, y = make_sorted(kind, threads=2)
    batch.compute_gradients()
    expected = torch_reference(batch.network).gradients(X, y)
    np.testing.assert_allclose(batch.network.gradients, expected, rtol=1e-9, atol=1e-13)


@EACH_KIND
def test_bits_without_background_do_not_depend_on_threads(kind: str) -> None:
    results = []
    for threads in (1, 2, 4):
        batch, _X, _y = make_sorted(kind, threads, 7, "float32", rows=200)
        metrics = logged(batch).copy()
        results.append((batch.network.gradients.copy(), metrics, batch.compute_probabilities()))
    for result in results[1:]:
        for values, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(values, expected)


@EACH_KIND
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 30])
def test_bits_do_not_depend_on_ranks(kind: str, dense: bool, size: int) -> None:
    """Of 30 ranks some have neither rows nor blocks."""

    def gradients_and_metrics(ranks: Ranks = ALONE, threads: int = 1) -> list[np.ndarray]:
        batch = make_sorted(kind, threads, 3, "float32", 70, ranks, dense)[0]
        found = []
        for _ in range(2):
            metrics = logged(batch).copy()
            found += [batch.network.gradients.copy(), metrics, batch.compute_metrics().copy()]
            batch.network.parameters *= np.float32(0.9)  # an update, in place
        return found

    expected = gradients_and_metrics()
    for found in in_ranks(size, lambda ranks: gradients_and_metrics(ranks, 1 + ranks.rank % 2)):
        for values, of_one in zip(found, expected, strict=True):
            np.testing.assert_array_equal(values, of_one)


@EACH_KIND
def test_what_is_given_stays_as_it_is_without_background(kind: str) -> None:
    images, y = make_images()
    given = Pixels(images) if kind == "bytes" else images.astype("float64")
    held = images.copy(), np.array(given), y.copy()
    batch = FullBatch(network := make_network(2, inputs=144), given, y, 4, dense=False)
    parameters = network.parameters.copy()
    logged(batch)
    batch.compute_probabilities()
    for before, after in zip((*held, parameters), (images, np.array(given), y, network.parameters), strict=True):
        np.testing.assert_array_equal(after, before)


@EACH_KIND
@pytest.mark.parametrize("dense", [True, False])
def test_nothing_as_large_as_an_activation_is_allocated_between_two_logged_epochs(kind: str, dense: bool) -> None:
    block_rows, width = 2000, 64
    images, _ = make_images(4 * block_rows)
    images = np.concatenate([images] * 4, axis=1)
    network = Network([Dense(576, width), ReLU(), Dense(width, width)], backend=CpuBackend(1), seed=1)
    inputs = Pixels(images) if kind == "bytes" else np.asarray(Pixels(images))
    batch = FullBatch(network, inputs, np.arange(len(images)) % width, block_rows, dense)
    assert (batch.rows.column_share < 1) is not dense
    logged(batch)
    tracemalloc.start()
    try:
        batch.compute_gradients()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A comparison makes one byte an element; an activation has four, and a block's rows are many times that.
    assert peak < 3 * block_rows * width
