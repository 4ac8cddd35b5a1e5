"""Rows with weights: what they count in loss, gradient and accuracy, on any layout, thread, rank and device."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath
from rank_helpers import in_ranks, outcomes_of
from threadpoolctl import threadpool_limits

from fmnist_xp.backend import CpuBackend, CudaBackend, CudaGraphBackend
from fmnist_xp.errors import ElsewhereError, RunError
from fmnist_xp.model import Metrics, Sequential
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, ReLU, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.optim import SGD, Adam
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.history import History
from fmnist_xp.train.validation import held_out_rows

ROWS = 60
GENERATOR = np.random.default_rng(5)
X = GENERATOR.standard_normal((ROWS, 36))
Y = GENERATOR.integers(0, 4, ROWS)
COUNTS = GENERATOR.integers(0, 4, ROWS)
WEIGHTS = GENERATOR.uniform(0, 5, ROWS)
IMAGES = GENERATOR.integers(0, 256, (ROWS, 6, 6), dtype="uint8")
IMAGES[:, 0] = IMAGES[::2, 1:3] = IMAGES[:, 5] = 0  # margins, which sorted rows leave out
KINDS: dict[str, Any] = {"floats": X, "bytes": IMAGES, "floats with margins": IMAGES.reshape(ROWS, 36) / 127.5 - 1}


def make(
    backend: Any = None, dtype: str = "float64", joined: bool = True, loss: Any = None, kind: Any = Sequential
) -> Any:
    """Return a 36-9-4 network with penalties, of weights large enough for something to happen."""
    layers: list[Layer] = [Dense(36, 9, 1e-3, 2e-3, 3e-3, 4e-3), ReLU(), Dense(9, 4)]
    if not joined:
        layers, loss = [*layers, Softmax()], CategoricalCrossentropy()
    network = kind(layers, loss=loss, backend=backend or CpuBackend(1), seed=1, dtype=dtype)
    with network.backend.current():
        network.parameters *= 20
    return network


def fit(network: Sequential, rows: Any = X, labels: Any = Y, weights: Any = WEIGHTS, **options: Any) -> History:
    options = {"epochs": 15, "log_every": 2, "verbose": 0, "block_rows": 7, "optimizer": Adam(0.02), **options}
    return network.fit(rows, labels, sample_weight=weights, **options)


def figures(history: History) -> dict[str, list[float]]:
    return {name: getattr(history, name) for name in ("loss", "accuracy", "validation_loss", "validation_accuracy")}


@pytest.mark.parametrize("joined", [True, False], ids=["joined loss", "softmax layer"])
@pytest.mark.parametrize("block_rows", [1, 7, ROWS])
def test_gradient_and_metrics_are_pytorchs(torch: Any, joined: bool, block_rows: int) -> None:
    network = make(joined=joined)
    batch = FullBatch(network, X, Y.astype("uint8"), block_rows, weights=WEIGHTS)
    batch.compute_gradients(log=True)
    w1, b1, w2, b2 = parameters = [
        torch.tensor(values, requires_grad=True) for values in network.state_dict().values()
    ]
    logits = torch.relu(torch.tensor(X) @ w1 + b1) @ w2 + b2
    weights, labels = torch.tensor(WEIGHTS), torch.tensor(Y)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    penalty = 1e-3 * w1.abs().sum() + 2e-3 * (w1**2).sum() + 3e-3 * b1.abs().sum() + 4e-3 * (b1**2).sum()
    right = ((logits.argmax(1) == labels) * weights).sum() / weights.sum()
    np.testing.assert_allclose(batch.metrics.totals, [v.item() for v in (loss, right, penalty)], rtol=1e-12)
    loss.backward()
    expected = np.concatenate([parameter.grad.numpy().ravel() for parameter in parameters])
    np.testing.assert_allclose(data_gradient(network, batch), expected, rtol=1e-9, atol=1e-15)


def data_gradient(network: Any, batch: FullBatch) -> np.ndarray:
    """Return the gradient of the data loss alone."""
    for layer in network.dense:
        layer.weight_regularizer_l1 = layer.weight_regularizer_l2 = 0.0
        layer.bias_regularizer_l1 = layer.bias_regularizer_l2 = 0.0
    batch.compute_gradients()
    return np.array(network.gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_is_how_often_a_row_is_there(kind: str) -> None:
    rows = KINDS[kind]
    weighted, repeated = make(), make()
    found = fit(weighted, rows, Y, COUNTS)
    expected = fit(repeated, np.repeat(rows, COUNTS, axis=0), np.repeat(Y, COUNTS), None)
    np.testing.assert_allclose(weighted.parameters, repeated.parameters, rtol=1e-7, atol=1e-10)
    for name, values in figures(found).items():
        np.testing.assert_allclose(values, getattr(expected, name), rtol=1e-9)
    assert found.loss[-1] < 0.9 * found.loss[0]
    one, other = (network.predict_proba(rows) for network in (weighted, repeated))
    np.testing.assert_allclose(one, other, rtol=1e-7)


def test_equal_weights_are_none() -> None:
    """Of any size: a power of two to the bit, any other but for rounding."""
    plain = make()
    fit(plain, weights=None)
    for size, rtol in ((1.0, 0), (2.0**900, 0), (2.0**-900, 0), (3.0, 1e-9), (1e308, 1e-9)):
        network = make()
        fit(network, weights=np.full(ROWS, size))
        np.testing.assert_allclose(network.parameters, plain.parameters, rtol=rtol)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_ranks_come_to_the_same_bits(kind: str) -> None:
    rows, options = KINDS[kind], {"validation_fraction": 0.2, "keep_best": True}
    expected = make()
    history = fit(expected, rows, **options)

    def work(ranks: Ranks) -> Any:
        own = slice(0, 0) if ranks.rank == 1 else slice(0, 25) if ranks.is_first else slice(25, ROWS)
        network = make(CpuBackend(1 + ranks.rank))
        return network, fit(network, rows[own], Y[own], WEIGHTS[own], comm=ranks.comm, **options)

    threaded = make(CpuBackend(3))
    for network, logged in [(threaded, fit(threaded, rows, **options)), *in_ranks(3, work)]:
        np.testing.assert_array_equal(network.parameters, expected.parameters)
        assert figures(logged) == figures(history)


def with_graphs() -> CudaGraphBackend:
    cupy = StandInCupy(devices=2)
    return CudaGraphBackend(1, cupy=cupy, nvmath=make_nvmath(cupy))


@pytest.mark.parametrize("dense", [None, False], ids=["usual", "sorted"])
@pytest.mark.parametrize("kind", ["floats", "bytes"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32", "float16"])
def test_gpu_has_the_bits_of_the_cpu(dtype: str, kind: str, dense: bool | None) -> None:
    """On the stand-in, with and without graphs; a CPU has no tf32 and float16."""
    eager, results = CudaBackend(1, cupy=StandInCupy(devices=2)), []
    cpu = [CpuBackend(1)] if dtype.startswith("float") and dtype != "float16" else []
    with threadpool_limits(1, user_api="blas"):
        for backend in (eager, with_graphs(), *cpu):
            network = make(backend, dtype)
            as_there = {"dense": True} if backend in cpu and dense is None else {"dense": dense}
            history = fit(network, KINDS[kind], block_rows=ROWS, validation_data=(X, Y, WEIGHTS), **as_there)
            results.append((figures(history), backend.to_host(network.parameters).tolist()))
            assert history.loss[-1] < history.loss[0]
    assert all(result == results[0] for result in results[1:])


def test_rows_held_out_are_weighted_too() -> None:
    network = make()
    history = fit(network, validation_data=(X[:20], Y[:20], COUNTS[:20]), log_every=1, epochs=2)
    before = make()
    expected = before.evaluate(np.repeat(X[:20], COUNTS[:20], axis=0), np.repeat(Y[:20], COUNTS[:20]))
    assert history.validation_loss[0] == pytest.approx(expected.loss, rel=1e-12)
    assert history.validation_accuracy[0] == pytest.approx(expected.accuracy, rel=1e-12)
    drawn = fit(make(), validation_fraction=0.25, log_every=1, epochs=1)
    assert drawn.validation_loss != fit(make(), weights=None, validation_fraction=0.25, epochs=1).validation_loss


def test_evaluation_is_the_weighted_mean() -> None:
    network = make()
    probabilities = network.predict_proba(X)
    losses = -np.log(probabilities[np.arange(ROWS), Y])
    expected = Metrics(
        accuracy=np.average(probabilities.argmax(1) == Y, weights=WEIGHTS), loss=np.average(losses, weights=WEIGHTS)
    )
    found = network.evaluate(X, Y, sample_weight=WEIGHTS)
    assert (found.accuracy, found.loss) == pytest.approx((expected.accuracy, expected.loss), rel=1e-12)


class Doubled(Layer):
    """A layer of a user's own."""

    def forward(self, inputs: Any) -> Any:
        return 2 * inputs

    def backward(self, dvalues: Any) -> Any:
        return 2 * dvalues


class Plain(SoftmaxCategoricalCrossentropy):
    """A loss of a user's own."""


def test_layers_and_losses_of_ones_own_are_weighted() -> None:
    def own() -> Any:
        layers: list[Layer] = [Dense(36, 9), Doubled(), ReLU(), Dense(9, 4)]
        return Sequential(layers, loss=Plain(), seed=1, dtype="float64")

    weighted, repeated = own(), own()
    fit(weighted, X, Y, COUNTS)
    fit(repeated, np.repeat(X, COUNTS, axis=0), np.repeat(Y, COUNTS), None)
    np.testing.assert_allclose(weighted.parameters, repeated.parameters, rtol=1e-7, atol=1e-10)


def test_training_goes_on_with_the_same_weights_alone(tmp_path: Path) -> None:
    whole, first, resumed = make(), make(), make()
    fit(whole, epochs=20)
    fit(first, epochs=8, checkpoint=tmp_path)
    with pytest.raises(RunError):
        fit(make(), epochs=20, weights=COUNTS, checkpoint=tmp_path, resume=True)
    with pytest.raises(RunError):
        fit(make(), epochs=20, weights=None, checkpoint=tmp_path, resume=True)
    fit(resumed, epochs=20, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)


class OwnForward(Sequential):
    """A network that computes otherwise than its layers."""

    def forward(self, inputs: Any) -> Any:
        return super().forward(inputs)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (WEIGHTS[:-1], r"sample_weight must have the shape \(60,\), got \(59,\)"),
        (WEIGHTS[:, None], r"got \(60, 1\)"),
        (-WEIGHTS, "sample_weight must be finite and at least 0"),
        (np.where(np.arange(ROWS) == 3, np.nan, WEIGHTS), "sample_weight must be finite and at least 0"),
        (np.where(np.arange(ROWS) == 3, np.inf, WEIGHTS), "sample_weight must be finite and at least 0"),
        (0 * WEIGHTS, "sample_weight is 0 for every row"),
        (["1"] * ROWS, "sample_weight must hold real numbers"),
        (1.0, r"got \(1,\)"),
    ],
    ids=["few", "column", "negative", "nan", "infinite", "zeros", "text", "scalar"],
)
def test_weights_that_do_not_fit_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(make(), weights=weights)
    with pytest.raises(ValueError, match=message):
        make().evaluate(X, Y, sample_weight=weights)


def test_rows_that_are_left_to_train_on_must_weigh_something() -> None:
    held = held_out_rows(Y, 0.2, 0)
    for weights in (held, ~held):
        with pytest.raises(ValueError, match="sample_weight is 0 for every row that is trained on, or"):
            fit(make(), weights=weights, validation_fraction=0.2)


def test_network_with_a_forward_of_its_own_takes_none() -> None:
    with pytest.raises(ValueError, match="OwnForward has a forward or backward of its own"):
        fit(make(kind=OwnForward))


def test_weights_of_one_rank_alone_are_refused_on_all() -> None:
    def work(ranks: Ranks) -> History:
        return fit(make(), weights=WEIGHTS if ranks.is_first else None, optimizer=SGD(0.1), comm=ranks.comm)

    for rank, outcome in enumerate(outcomes_of(2, work)):
        assert isinstance(outcome, ElsewhereError if rank else ValueError)
        assert "sample_weight" in str(outcome)
