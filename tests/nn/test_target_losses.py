import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import PRECISIONS, CpuBackend
from fmnist_xp.model import Sequential
from fmnist_xp.nn import BinaryCrossentropy, Dense, Layer, Loss, MeanSquaredError, ReLU, Sigmoid, Softmax
from fmnist_xp.train.fullbatch import FullBatch

BOTH = pytest.mark.parametrize("kind", [BinaryCrossentropy, MeanSquaredError])


def make_batch(rows: int = 6, outputs: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return predictions and targets (rows, outputs), both from 0 to 1, and class indices (rows,)."""
    generator = np.random.default_rng(0)
    predictions, targets = generator.uniform(0.05, 0.95, (2, rows, outputs))
    return predictions, targets, generator.integers(0, outputs, rows)


def test_binary_crossentropy_by_hand() -> None:
    predictions, targets = np.array([[0.5, 0.25], [0.8, 0.1]]), np.array([[1.0, 0.0], [0.25, 0.0]])
    loss = BinaryCrossentropy()
    expected = [
        -(math.log(0.5) + math.log(0.75)) / 2,
        -(0.25 * math.log(0.8) + 0.75 * math.log(0.2) + math.log(0.9)) / 2,
    ]
    np.testing.assert_allclose(loss.forward(predictions, targets), expected, rtol=1e-14)
    assert float(loss.calculate(predictions, targets)) == pytest.approx(sum(expected) / 2, rel=1e-14)
    dinputs = [[-1 / 0.5, 1 / 0.75], [-0.25 / 0.8 + 0.75 / 0.2, 1 / 0.9]]
    np.testing.assert_allclose(loss.backward(predictions, targets), np.array(dinputs) / 2 / 2, rtol=1e-14)
    np.testing.assert_allclose(loss.backward(predictions, targets, "sum"), np.array(dinputs) / 2, rtol=1e-14)


def test_mean_squared_error_by_hand() -> None:
    predictions, targets = (
        np.array([[1.0, -2.0, 0.5], [3.0, 0.0, 1.0]]),
        np.array([[0.0, 1.0, 0.5], [1.0, 0.0, -1.0]]),
    )
    loss = MeanSquaredError()
    np.testing.assert_allclose(loss.forward(predictions, targets), [10 / 3, 8 / 3], rtol=1e-15)
    assert float(loss.calculate(predictions, targets)) == pytest.approx(3.0, rel=1e-15)
    dinputs = np.array([[2.0, -6.0, 0.0], [4.0, 0.0, 4.0]]) / 3  # −2 (y − ŷ) / outputs
    np.testing.assert_allclose(loss.backward(predictions, targets), dinputs / 2, rtol=1e-15)
    np.testing.assert_allclose(loss.backward(predictions, targets, "sum"), dinputs, rtol=1e-15)


def test_binary_crossentropy_is_that_of_the_book_where_it_clips() -> None:
    """Chapter 16 clips ŷ alone, to [1e-7, 1 − 1e-7], in the loss and in the gradient."""
    predictions, targets = np.array([[0.0, 1.0, 1.0, 0.0]]), np.array([[0.0, 1.0, 0.0, 1.0]])
    clipped = np.clip(predictions, 1e-7, 1 - 1e-7)
    losses = -(targets * np.log(clipped) + (1 - targets) * np.log(1 - clipped))
    loss = BinaryCrossentropy()
    np.testing.assert_allclose(loss.sample_losses(predictions, targets), losses.mean(axis=1), rtol=1e-8)
    dinputs = -(targets / clipped - (1 - targets) / (1 - clipped)) / 4
    np.testing.assert_allclose(loss.backward(predictions, targets), dinputs, rtol=2e-7)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 3e-6), ("float64", 1e-12)])
@pytest.mark.parametrize(("kind", "theirs"), [(BinaryCrossentropy, "BCELoss"), (MeanSquaredError, "MSELoss")])
def test_values_and_gradients_agree_with_pytorch(
    kind: type[Loss], theirs: str, dtype: str, rtol: float, torch: Any
) -> None:
    predictions, targets, _ = (array.astype(dtype) for array in make_batch(50, 7))
    tensor = torch.tensor(predictions, requires_grad=True)
    expected = getattr(torch.nn, theirs)()(tensor, torch.tensor(targets))
    expected.backward()
    loss = kind()
    value, dinputs = loss.calculate(predictions, targets), loss.backward(predictions, targets)
    assert value.dtype == dinputs.dtype == dtype
    assert float(value) == pytest.approx(expected.item(), rel=rtol)
    np.testing.assert_allclose(dinputs, tensor.grad.numpy(), rtol=rtol, atol=rtol / 1000)


@BOTH
def test_gradient_agrees_with_finite_differences(
    kind: type[Loss], numeric_gradient: Callable[..., np.ndarray]
) -> None:
    loss = kind()
    predictions, targets, labels = make_batch()
    for given in (targets, labels):
        dinputs = loss.backward(predictions, given)
        expected = numeric_gradient(lambda given=given: loss.calculate(predictions, given), predictions)
        np.testing.assert_allclose(dinputs, expected, rtol=1e-6, atol=1e-9)


@BOTH
@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_class_indices_are_their_one_hot_rows(kind: type[Loss], dtype: str) -> None:
    predictions, _targets, labels = make_batch()
    one_hot, loss = np.eye(4)[labels], kind()
    others: list[Any] = [one_hot.astype(dtype), one_hot.tolist()]
    for given in (*others, *([] if dtype == "bool" else [labels.astype(dtype), labels[:, None]])):
        for method in ("outcomes", "sample_losses", "backward"):
            np.testing.assert_array_equal(
                getattr(loss, method)(predictions, given), getattr(loss, method)(predictions, one_hot)
            )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_binary_loss_and_gradient_are_finite_at_0_and_1(dtype: str) -> None:
    predictions = np.array([[0, 1], [1, 0]], dtype=dtype)
    loss = BinaryCrossentropy()
    losses = loss.sample_losses(predictions, np.array([1, 1]))
    np.testing.assert_allclose(losses, [1e-7, -math.log(1e-7)], rtol=0.2 if dtype == "float32" else 1e-6)
    np.testing.assert_allclose(loss.backward(predictions, np.array([1, 1]), "sum")[1], [5e6, -5e6], rtol=1e-6)
    assert np.isfinite(loss.backward(predictions, np.full((2, 2), 0.5))).all()


@BOTH
def test_arguments_stay_as_they_are_and_results_are_new(kind: type[Loss]) -> None:
    given = make_batch()
    held, loss = [array.copy() for array in given], kind()
    first = loss.backward(*given[:2])
    assert loss.dinputs is first
    second = loss.backward(given[0], given[2])
    assert not np.shares_memory(first, second)
    loss.sample_losses(*given[:2])
    for array, before in zip(given, held, strict=True):
        np.testing.assert_array_equal(array, before)


@BOTH
@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (
            3,
            np.zeros((2, 2)),
            r"labels must be \(rows,\) or \(rows, classes\) for predictions .* got labels \(2, 2\)",
        ),
        (3, np.zeros(3, int), r"got labels \(3,\) for predictions \(2, 3\)"),
        (3, np.zeros(2), "labels must be class indices .* of dtype float64"),
        (3, np.array([0, 3]), "labels must be from 0 to 2, got 0 to 3"),
        (3, np.array([["a"] * 3] * 2), "labels must hold real numbers"),
        (1, np.array([0, 1]), r"labels \(2,\) are class indices, and there is one output: give targets \(2, 1\)$"),
    ],
)
def test_labels_that_do_not_fit_are_refused(kind: type[Loss], outputs: int, labels: Any, message: str) -> None:
    for method in ("forward", "calculate", "backward", "outcomes"):
        with pytest.raises(ValueError, match=message):
            getattr(kind(), method)(np.full((2, outputs), 0.5), labels)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf])
def test_targets_that_are_no_probabilities_are_refused(value: float) -> None:
    targets = np.array([[0.0, 1.0, value]])
    with pytest.raises(ValueError, match=r"^labels that are targets must be from 0 to 1, as the predictions are$"):
        BinaryCrossentropy().forward(np.full((1, 3), 0.5), targets)


def test_one_output_takes_a_column_of_targets() -> None:
    predictions, targets = np.array([[0.5], [0.25]]), np.array([[1], [0]])
    np.testing.assert_allclose(
        BinaryCrossentropy().forward(predictions, targets), [math.log(2), -math.log(0.75)], rtol=1e-14
    )
    np.testing.assert_allclose(MeanSquaredError().forward(predictions, targets), [0.25, 0.0625], rtol=1e-15)


@BOTH
def test_gradient_of_a_network_in_half_precision_is_in_float32(kind: type[Loss]) -> None:
    """1/ŷ would be infinite in halves."""
    loss = kind()
    loss.precision = PRECISIONS["float16"]
    assert loss.backward(np.array([[1e-6, 0.5]], dtype="float32"), np.array([0])).dtype == np.float32


# Within a network


def network_of(kind: type[Loss], *end: Layer, threads: int = 1) -> Sequential:
    layers: list[Layer] = [Dense(5, 6), ReLU(), Dense(6, 3), *end]
    network = Sequential(layers, kind, CpuBackend(threads), dtype="float64")
    network.parameters[...] = 0.5 * np.random.default_rng(2).standard_normal(network.parameters.size)
    return network


@pytest.mark.parametrize(
    ("kind", "end"), [(BinaryCrossentropy, [Sigmoid]), (MeanSquaredError, []), (MeanSquaredError, [Sigmoid])]
)
def test_network_is_pytorchs(kind: type[Loss], end: list[type[Layer]], torch: Any) -> None:
    generator = np.random.default_rng(1)
    X, y, weights = generator.standard_normal((30, 5)), generator.integers(0, 3, 30), generator.uniform(0, 2, 30)
    network = network_of(kind, *(one() for one in end), threads=2)
    batch = FullBatch(network, X, y.astype("uint8"), block_rows=7, weights=weights)
    batch.compute_gradients(log=True)
    w1, b1, w2, b2 = parameters = [
        torch.tensor(values, requires_grad=True) for values in network.state_dict().values()
    ]
    logits = torch.relu(torch.tensor(X) @ w1 + b1) @ w2 + b2
    targets, of_rows = torch.tensor(np.eye(3)[y]), torch.tensor(weights)
    functional, outputs = torch.nn.functional, torch.sigmoid(logits) if end else logits
    if kind is BinaryCrossentropy:
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1)
    else:
        losses = functional.mse_loss(outputs, targets, reduction="none").mean(1)
    loss = (losses * of_rows).sum() / of_rows.sum()
    loss.backward()
    right = ((outputs.argmax(1) == torch.tensor(y)) * of_rows).sum() / of_rows.sum()
    np.testing.assert_allclose(batch.metrics.totals[:2], [loss.item(), right.item()], rtol=1e-12)
    expected = np.concatenate([parameter.grad.numpy().ravel() for parameter in parameters])
    np.testing.assert_allclose(network.gradients, expected, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(network.predict_proba(X), outputs.detach().numpy(), rtol=1e-12)
    np.testing.assert_array_equal(network.predict(X), outputs.argmax(1).numpy())


def test_network_by_hand_takes_targets() -> None:
    """Numbers to come close to, which need not be classes."""
    generator = np.random.default_rng(3)
    X, targets = generator.standard_normal((40, 5)), generator.standard_normal((40, 3))
    network = network_of(MeanSquaredError)
    losses = []
    for _ in range(50):
        outputs = network.forward(X)
        losses.append(float(network.loss.calculate(outputs, targets)))
        network.backward(outputs, targets)
        network.parameters -= 0.02 * network.gradients
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("end", [[], [Softmax()], [ReLU()]], ids=["Dense", "Softmax", "ReLU"])
def test_binary_crossentropy_wants_a_sigmoid_at_the_end(end: list[Layer]) -> None:
    with pytest.raises(
        ValueError, match=r"^BinaryCrossentropy takes probabilities: end the layers with Sigmoid\(\)$"
    ):
        Sequential([Dense(5, 3), *end], "binary_crossentropy")


@pytest.mark.parametrize("end", [Softmax, Sigmoid, ReLU])
def test_mean_squared_error_takes_any_output(end: type[Layer]) -> None:
    assert type(Sequential([Dense(5, 3), end()], "mean_squared_error").loss) is MeanSquaredError


@BOTH
def test_outputs_that_are_no_numbers_predict_nothing(kind: type[Loss]) -> None:
    network = network_of(kind, Sigmoid())
    network.dense[-1].biases[0, 1] = np.nan
    metrics = network.evaluate(np.ones((4, 5)), np.zeros(4, int))
    assert math.isnan(metrics.loss)
    assert metrics.accuracy == 0
