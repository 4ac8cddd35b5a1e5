import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmnist_xp.backend import PRECISIONS, CpuBackend
from fmnist_xp.model import Sequential
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Loss, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.train.fullbatch import FullBatch

BOTH = pytest.mark.parametrize("kind", [CategoricalCrossentropy, SoftmaxCategoricalCrossentropy])
SMOOTHED = [partial(kind, label_smoothing=0.1) for kind in (CategoricalCrossentropy, SoftmaxCategoricalCrossentropy)]
EVERY = pytest.mark.parametrize(
    "kind",
    [CategoricalCrossentropy, SoftmaxCategoricalCrossentropy, *SMOOTHED],
    ids=["alone", "joined", "alone, smoothed", "joined, smoothed"],
)
SEEDS = st.integers(0, 2**32 - 1)


def make_batch(rows: int = 6, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities (rows, classes) and labels (rows,)."""
    generator = np.random.default_rng(seed)
    exponentials = np.exp(generator.standard_normal((rows, classes)))
    return exponentials / exponentials.sum(axis=1, keepdims=True), generator.integers(0, classes, rows)


def test_losses_and_mean_by_hand() -> None:
    loss = CategoricalCrossentropy()
    predictions = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    np.testing.assert_allclose(loss.forward(predictions, np.array([1, 2])), [math.log(4), -math.log(0.8)], rtol=1e-15)
    assert float(loss.calculate(predictions, [1, 2])) == pytest.approx((math.log(4) - math.log(0.8)) / 2, rel=1e-15)


# In float32 the steps below 1 are 6e-8 wide: 1 - 1e-7 becomes 1 - 1.19e-7.
@pytest.mark.parametrize(("dtype", "rel"), [("float64", 1e-8), ("float32", 0.2)])
def test_predictions_are_clipped_at_both_ends(dtype: str, rel: float) -> None:
    losses = CategoricalCrossentropy().forward(np.array([[0, 1], [0, 1]], dtype=dtype), np.array([0, 1]))
    assert losses[0] == pytest.approx(-math.log(1e-7), rel=1e-6)
    assert losses[1] == pytest.approx(1e-7, rel=rel)
    assert losses.dtype == dtype


def test_crossentropy_gradient_by_hand() -> None:
    dinputs = CategoricalCrossentropy().backward(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]), np.array([1, 2]))
    np.testing.assert_allclose(dinputs, [[0, -1 / 0.25 / 2, 0], [0, 0, -1 / 0.8 / 2]], rtol=1e-15)


def test_crossentropy_gradient_stays_finite_at_zero() -> None:
    dinputs = CategoricalCrossentropy().backward(np.array([[0.0, 1.0]]), np.array([0]))
    np.testing.assert_allclose(dinputs, [[-1e7, 0]], rtol=1e-12)


def test_joined_gradient_by_hand() -> None:
    loss = SoftmaxCategoricalCrossentropy()
    probabilities = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    dinputs = loss.backward(probabilities, np.array([1, 2]))
    np.testing.assert_allclose(dinputs, [[0.25, -0.375, 0.125], [0.05, 0.05, -0.1]], rtol=1e-14)
    assert dinputs is loss.dinputs


def test_joined_loss_is_softmax_then_crossentropy() -> None:
    _, labels = make_batch()
    logits = np.random.default_rng(1).standard_normal((6, 4))
    joined, softmax, alone = SoftmaxCategoricalCrossentropy(), Softmax(), CategoricalCrossentropy()
    value = joined.forward(logits, labels)
    assert float(value) == pytest.approx(float(alone.calculate(softmax.forward(logits), labels)), rel=1e-15)
    np.testing.assert_array_equal(joined.output, softmax.output)
    chained = softmax.backward(alone.backward(softmax.output, labels))
    np.testing.assert_allclose(joined.backward(joined.output, labels), chained, rtol=1e-12, atol=1e-16)


def test_crossentropy_gradient_agrees_with_finite_differences(numeric_gradient: Callable[..., np.ndarray]) -> None:
    loss = CategoricalCrossentropy()
    predictions, labels = make_batch()
    dinputs = loss.backward(predictions, labels)
    expected = numeric_gradient(lambda: loss.calculate(predictions, labels), predictions)
    np.testing.assert_allclose(dinputs, expected, rtol=1e-6, atol=1e-10)


def test_joined_gradient_agrees_with_finite_differences(numeric_gradient: Callable[..., np.ndarray]) -> None:
    loss = SoftmaxCategoricalCrossentropy()
    logits = np.random.default_rng(1).standard_normal((6, 4))
    _, labels = make_batch()
    dinputs = loss.backward(loss.activate(logits), labels)
    expected = numeric_gradient(lambda: loss.forward(logits, labels), logits)
    np.testing.assert_allclose(dinputs, expected, rtol=1e-6, atol=1e-10)


def test_values_and_gradients_agree_with_pytorch(torch: Any) -> None:
    functional = torch.nn.functional
    predictions, labels = make_batch()
    logits = np.random.default_rng(1).standard_normal((6, 4))
    classes = torch.tensor(labels)

    tensor = torch.tensor(predictions, requires_grad=True)
    expected = functional.nll_loss(torch.log(tensor), classes)
    expected.backward()
    alone = CategoricalCrossentropy()
    assert float(alone.calculate(predictions, labels)) == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(alone.backward(predictions, labels), tensor.grad.numpy(), rtol=1e-13)

    tensor = torch.tensor(logits, requires_grad=True)
    expected = functional.cross_entropy(tensor, classes)
    expected.backward()
    joined = SoftmaxCategoricalCrossentropy()
    assert float(joined.forward(logits, labels)) == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(joined.backward(joined.output, labels), tensor.grad.numpy(), rtol=1e-12)


@EVERY
@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_labels_of_any_integer_dtype_and_one_hot_agree(
    kind: Callable[[], CategoricalCrossentropy], dtype: str
) -> None:
    predictions, labels = make_batch(rows=40)
    one_hot = np.eye(4, dtype=dtype)[labels]
    reference = kind()
    losses, dinputs = reference.sample_losses(predictions, labels), reference.backward(predictions, labels)
    for given_labels in (labels.astype(dtype), one_hot, one_hot.tolist(), labels.tolist()):
        loss = kind()
        np.testing.assert_array_equal(loss.sample_losses(predictions, given_labels), losses)
        np.testing.assert_array_equal(loss.backward(predictions, given_labels), dinputs)


@EVERY
@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, cuts=st.lists(st.integers(0, 30), max_size=5))
def test_loss_and_gradient_add_up_over_any_partition_of_rows(
    kind: Callable[[], CategoricalCrossentropy], seed: int, cuts: list[int]
) -> None:
    predictions, labels = make_batch(rows=30, seed=seed)
    edges = sorted({0, 30, *cuts})
    parts = [slice(a, b) for a, b in itertools.pairwise(edges)]
    loss = kind()
    whole = float(loss.calculate(predictions, labels))
    total = sum(float(loss.sample_losses(predictions[part], labels[part]).sum()) for part in parts)
    assert total / 30 == pytest.approx(whole, rel=1e-13)
    gradients = [loss.backward(predictions[part], labels[part], reduction="sum") for part in parts]
    np.testing.assert_array_equal(np.concatenate(gradients), loss.backward(predictions, labels, "sum"))
    np.testing.assert_allclose(np.concatenate(gradients) / 30, loss.backward(predictions, labels), rtol=1e-13)


@EVERY
@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_order_of_rows_does_not_matter(kind: Callable[[], CategoricalCrossentropy], seed: int) -> None:
    predictions, labels = make_batch(rows=30, seed=seed)
    order = np.random.default_rng(seed).permutation(30)
    loss = kind()
    whole = float(loss.calculate(predictions, labels))
    assert float(loss.calculate(predictions[order], labels[order])) == pytest.approx(whole, rel=1e-13)
    permuted = loss.backward(predictions[order], labels[order])
    np.testing.assert_array_equal(permuted, loss.backward(predictions, labels)[order])


def test_true_probabilities_and_their_losses_by_hand() -> None:
    predictions, labels = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]), np.array([0, 1, 2])
    loss = CategoricalCrossentropy()
    np.testing.assert_array_equal(loss.true_probabilities(predictions, labels), [0.5, 0.4, 0.7])
    expected = [0.6931471805599453, 0.916290731874155, 0.35667494393873245]  # ln 2, ln 2.5, ln 10/7
    np.testing.assert_allclose(loss.losses(np.array([0.5, 0.4, 0.7])), expected, rtol=1e-15)
    np.testing.assert_allclose(loss.sample_losses(predictions, labels), expected, rtol=1e-15)


def test_regularization_loss_is_the_sum_over_layers() -> None:
    first, second = Dense(1, 2, weight_regularizer_l1=0.5), Dense(2, 1, bias_regularizer_l2=0.25)
    first.weights = [[1, -3]]
    second.biases = [[4]]
    loss = CategoricalCrossentropy()
    assert float(loss.regularization_loss(first, second)) == pytest.approx(0.5 * 4 + 0.25 * 16)
    assert str(loss.regularization_loss()) == "0.0"


@BOTH
@pytest.mark.parametrize(
    ("predictions", "labels"),
    [
        (np.full((2, 3), 1 / 3), np.array([0])),
        (np.full((2, 3), 1 / 3), np.array([0, 1, 2])),
        (np.full(3, 1 / 3), np.array([0, 1, 2])),
        (np.full((2, 3), 1 / 3), np.zeros((2, 3, 1), dtype=int)),
        (np.full((2, 3), 1 / 3), np.eye(2)),
    ],
    ids=["too few labels", "too many labels", "flat predictions", "three dimensions", "one-hot of other width"],
)
def test_shapes_that_do_not_fit_are_refused(
    kind: type[CategoricalCrossentropy], predictions: np.ndarray, labels: np.ndarray
) -> None:
    with pytest.raises(
        ValueError, match=r"labels must be \(rows,\) or \(rows, classes\) for predictions .* got labels"
    ):
        kind().sample_losses(predictions, labels)


@BOTH
@pytest.mark.parametrize("method", ["backward", "forward", "calculate", "sample_losses", "true_probabilities"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1], "labels must be from 0 to 2, got -1 to 0"),
        ([0, 3], "labels must be from 0 to 2, got 0 to 3"),
        ([0.0, 1.0], "labels must be class indices .* of dtype float64"),
        ([[0.5, 0.5, 0], [0, 1, 0]], "labels of two dimensions must be one-hot rows"),
    ],
)
def test_labels_out_of_range_are_refused(
    kind: type[CategoricalCrossentropy], method: str, labels: Any, message: str
) -> None:
    predictions = np.array([[0.2, 0.3, 0.5], [0.1, 0.8, 0.1]])
    with pytest.raises(ValueError, match=message):
        getattr(kind(), method)(predictions, np.array(labels))


def test_labels_in_a_column_are_those_in_a_row() -> None:
    predictions, labels = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]), np.array([2, 0])
    loss = CategoricalCrossentropy()
    np.testing.assert_array_equal(
        loss.sample_losses(predictions, labels[:, None]), loss.sample_losses(predictions, labels)
    )


@BOTH
def test_classes_beyond_a_byte(kind: type[CategoricalCrossentropy]) -> None:
    predictions = np.full((2, 257), 1 / 257)
    dinputs = kind().backward(predictions, np.array([0, 5], "uint8"))
    wrong = np.sort(np.abs(dinputs), axis=1)[:, -2:]  # the true class alone stands out
    assert (wrong[:, 1] > 100 * wrong[:, 0]).all()


def test_class_indices_are_in_the_labels_dtype_or_in_one_that_holds_them() -> None:
    loss, labels, workspace = CategoricalCrossentropy(), np.zeros(2, "uint8"), Workspace(np)
    row = loss._class_row(np.ones((2, 3)), labels, workspace)
    assert (row.tolist(), row.dtype) == ([[0, 1, 2]], np.uint8)
    assert np.shares_memory(loss._class_row(np.ones((2, 3)), labels, workspace), row)
    assert loss._class_row(np.ones((2, 257)), labels, workspace).dtype == np.uint16


@EVERY
def test_gradient_has_the_dtype_of_the_predictions_or_that_of_the_networks_products(
    kind: Callable[[], CategoricalCrossentropy],
) -> None:
    predictions, labels = make_batch()
    loss = kind()
    expected = loss.backward(predictions, labels)
    assert expected.dtype == np.float64
    loss.precision = PRECISIONS["float32"]
    given = predictions.copy()
    dinputs = loss.backward(given, labels)
    assert dinputs.dtype == np.float32
    np.testing.assert_array_equal(given, predictions)
    np.testing.assert_allclose(dinputs, expected, rtol=1e-6, atol=1e-8)


def test_gradient_in_half_precision_is_that_of_the_products_alone_where_it_enters_one() -> None:
    """1/ŷ, which a softmax layer is given, would be infinite in halves."""
    predictions = np.array([[1e-6, 1 - 1e-6]], dtype="float32")
    joined, alone = SoftmaxCategoricalCrossentropy(), CategoricalCrossentropy()
    joined.precision = alone.precision = PRECISIONS["float16"]
    assert joined.backward(predictions, np.array([0])).dtype == np.float16
    dinputs = alone.backward(predictions, np.array([0]))
    assert (dinputs.dtype, dinputs.tolist()) == (np.float32, [[pytest.approx(-1e6), 0]])


# Label smoothing


def test_smoothed_losses_and_gradients_by_hand() -> None:
    predictions, labels = np.array([[0.5, 0.3, 0.2], [0.4, 0.4, 0.2]]), np.array([0, 2])
    targets = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])  # of 0.3
    for kind, dinputs in (
        (CategoricalCrossentropy, -targets / predictions / 2),
        (SoftmaxCategoricalCrossentropy, (predictions - targets) / 2),
    ):
        loss = kind(label_smoothing=0.3)
        expected = [
            -0.8 * math.log(0.5) - 0.1 * math.log(0.3) - 0.1 * math.log(0.2),
            -0.1 * math.log(0.4) - 0.1 * math.log(0.4) - 0.8 * math.log(0.2),
        ]
        np.testing.assert_allclose(loss.sample_losses(predictions, labels), expected, rtol=1e-14)
        np.testing.assert_allclose(loss.outcomes(predictions, labels), expected, rtol=1e-14)
        np.testing.assert_allclose(loss.backward(predictions, labels), dinputs, rtol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.1, 0.5, 0.99])
def test_smoothing_agrees_with_pytorch(torch: Any, smoothing: float) -> None:
    _, labels = make_batch(rows=40, classes=7)
    logits = 3 * np.random.default_rng(1).standard_normal((40, 7))
    tensor = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(tensor, torch.tensor(labels))
    expected.backward()
    joined = SoftmaxCategoricalCrossentropy(label_smoothing=smoothing)
    assert float(joined.forward(logits, labels)) == pytest.approx(expected.item(), rel=1e-13)
    np.testing.assert_allclose(joined.backward(joined.output, labels), tensor.grad.numpy(), rtol=1e-11, atol=1e-15)
    softmax, alone = Softmax(), CategoricalCrossentropy(label_smoothing=smoothing)
    probabilities = softmax.forward(logits)
    assert float(alone.calculate(probabilities, labels)) == pytest.approx(expected.item(), rel=1e-13)
    chained = softmax.backward(alone.backward(probabilities, labels))
    np.testing.assert_allclose(chained, tensor.grad.numpy(), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_smoothed_loss_and_gradient_are_finite_at_0_and_1(dtype: str) -> None:
    predictions, labels = np.eye(3, dtype=dtype), np.array([0, 1, 0])
    alone, joined = (kind() for kind in SMOOTHED)
    of_a_miss = -math.log(1e-7)  # clipped
    right, wrong = 2 / 30 * of_a_miss, (0.9 + 2 / 30) * of_a_miss
    for loss in (alone, joined):
        np.testing.assert_allclose(loss.sample_losses(predictions, labels), [right, right, wrong], rtol=1e-6)
        assert np.isfinite(loss.backward(predictions, labels)).all()


def test_no_smoothing_is_the_plain_loss_to_the_bit() -> None:
    predictions, labels = make_batch()
    for kind in (CategoricalCrossentropy, SoftmaxCategoricalCrossentropy):
        plain, none = kind(), kind(label_smoothing=0)
        for method in ("outcomes", "sample_losses", "backward", "true_probabilities"):
            np.testing.assert_array_equal(
                getattr(none, method)(predictions, labels), getattr(plain, method)(predictions, labels)
            )
        assert none.config() == plain.config() == {}
        assert repr(none) == f"{kind.__name__}()"
        assert repr(kind(label_smoothing=0.25)) == f"{kind.__name__}(label_smoothing=0.25)"


@pytest.mark.parametrize(
    ("smoothing", "message"),
    [
        (-0.1, "^label_smoothing must be at least 0 and below 1, got -0.1$"),
        (1, "^label_smoothing must be at least 0 and below 1, got 1$"),
        (math.nan, "^label_smoothing must be at least 0 and below 1, got nan$"),
        ("0.1", "^label_smoothing must be a number, got '0.1'$"),
        (True, "^label_smoothing must be a number, got True$"),
    ],
)
def test_smoothing_out_of_range_is_refused(smoothing: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CategoricalCrossentropy(label_smoothing=smoothing)


def test_smoothing_in_the_place_of_the_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^backend must be a Backend, got 0\.1: write label_smoothing=0\.1$"):
        SoftmaxCategoricalCrossentropy(0.1)  # type: ignore[arg-type]


class Older(SoftmaxCategoricalCrossentropy):
    """A user's own loss that knows of no smoothing, and did not call the constructor that does."""

    def __init__(self, strength: float = 1.0) -> None:
        super(CategoricalCrossentropy, self).__init__()
        self.strength = strength


def test_loss_of_ones_own_need_not_know_of_smoothing() -> None:
    predictions, labels = make_batch()
    older, plain = Older(2.0), SoftmaxCategoricalCrossentropy()
    np.testing.assert_array_equal(older.sample_losses(predictions, labels), plain.sample_losses(predictions, labels))
    np.testing.assert_array_equal(older.backward(predictions, labels), plain.backward(predictions, labels))
    assert older.config() == {"strength": 2.0}


# A loss that inherits from no registered one


class Quartic(Loss):
    """The mean of (ŷ − y)⁴ over a row's outputs: the two methods that a loss of one's own must have."""

    def outcomes(self, predictions: Any, labels: Any, out: Any = None) -> Any:
        losses = ((predictions - np.eye(predictions.shape[1])[labels]) ** 4).mean(axis=1)
        if out is None:
            return losses
        out[...] = losses
        return out

    def backward(self, dvalues: Any, labels: Any, reduction: str = "mean") -> Any:  # type: ignore[override]
        rows, outputs = dvalues.shape
        self.dinputs = 4 * (dvalues - np.eye(outputs)[labels]) ** 3 / outputs
        self.dinputs /= rows if reduction == "mean" else 1
        return self.dinputs


def test_loss_of_ones_own_from_the_base_class_trains(numeric_gradient: Callable[..., np.ndarray]) -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 60)
    X = generator.standard_normal((3, 4))[y] + 0.1 * generator.standard_normal((60, 4))
    network = Sequential([Dense(4, 3)], Quartic(), CpuBackend(2), seed=1, dtype="float64")
    batch = FullBatch(network, X, y.astype("uint8"), block_rows=7)
    batch.compute_gradients(log=True)
    gradients = network.gradients.copy()
    expected = numeric_gradient(lambda: network.loss.calculate(network.forward(X), y), network.parameters)
    np.testing.assert_allclose(gradients, expected, rtol=1e-5, atol=1e-9)
    expected_loss = float(((network.forward(X) - np.eye(3)[y]) ** 4).mean())
    assert float(batch.metrics.totals[0]) == pytest.approx(expected_loss, rel=1e-12)
    history = network.fit(X, y, epochs=100, optimizer="adam", verbose=0)
    assert history.loss[-1] < 0.9 * history.loss[0]


@pytest.mark.parametrize("name", ["outcomes", "backward", "bound_pass"])
def test_what_a_loss_does_not_define_is_named(name: str) -> None:
    class Empty(Loss):
        """Nothing."""

    arguments = (*make_batch(), *([1] if name == "bound_pass" else []))
    with pytest.raises(TypeError, match=f"^Empty does not define {name}$"):
        getattr(Empty(), name)(*arguments)
