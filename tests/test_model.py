import dataclasses
import json
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.standin import StandInCupy
from rank_helpers import in_ranks, outcomes_of
from safetensors.numpy import load_file, save_file

from fmnist_xp.backend import CpuBackend, CudaBackend
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.errors import DeviceError, ElsewhereError, EngineError, RunError
from fmnist_xp.model import Metrics, Sequential, load
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, ReLU, Softmax
from fmnist_xp.optim import SGD, Adam, Optimizer
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.arrays import MODEL
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.history import COLUMNS, History

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((50, 6))
Y = (X[:, :4] + 0.3 * GENERATOR.standard_normal((50, 4))).argmax(axis=1)


def make_model(seed: int = 1, dtype: str = "float64", threads: int = 1, split_softmax: bool = False) -> Sequential:
    """Return a 6-5-4 model with a penalty of every kind."""
    layers: list[Layer] = [Dense(6, 5, 1e-3, 2e-3, 3e-3, 4e-3), ReLU(), Dense(5, 4, 0.0, 1e-3)]
    loss = CategoricalCrossentropy() if split_softmax else None
    return Sequential([*layers, Softmax()] if split_softmax else layers, loss, CpuBackend(threads), seed, dtype)


def spread(model: Sequential) -> Sequential:
    """Give `model` parameters away from 0: biases start there, where PyTorch's slope of |b| is another."""
    model.parameters[...] = 0.5 * np.random.default_rng(3).standard_normal(model.parameters.shape)
    return model


def fit(model: Sequential, **arguments: Any) -> History:
    return model.fit(X, Y, **{"epochs": 5, "optimizer": SGD(0.1), "log_every": 1, "verbose": False, **arguments})


def reference_probabilities(model: Sequential) -> np.ndarray:
    """Return the class probabilities of `X`, written out in NumPy."""
    w1, b1, w2, b2 = (values.astype("float64") for values in model.state_dict().values())
    exponentials = np.exp(np.maximum(X @ w1 + b1, 0) @ w2 + b2)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


class Momentum:
    """The notebook's SGD with momentum, for PyTorch tensors with gradients."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self.velocities: list[Any] = []

    def step(self, parameters: list[Any], rate: float) -> None:
        self.velocities = self.velocities or [0 * parameter.detach() for parameter in parameters]
        for number, parameter in enumerate(parameters):
            self.velocities[number] = self.momentum * self.velocities[number] - rate * parameter.grad
            parameter.data += self.velocities[number]


class Oracle:
    """An optimizer of PyTorch, made when the parameters are known."""

    def __init__(self, make: Callable[[list[Any]], Any]) -> None:
        self.make = make
        self.optimizer: Any = None

    def step(self, parameters: list[Any], rate: float) -> None:
        self.optimizer = self.optimizer or self.make(parameters)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()


@pytest.mark.parametrize("decay", [0.0, 0.02])
@pytest.mark.parametrize(
    ("make", "make_oracle"),
    [
        (lambda decay: SGD(0.5, decay), lambda torch: Oracle(lambda p: torch.optim.SGD(p, lr=0.5))),
        (lambda decay: SGD(0.2, decay, 0.5), lambda torch: Momentum(0.5)),
        (lambda decay: Adam(0.02, decay), lambda torch: Oracle(lambda p: torch.optim.Adam(p, lr=0.02, eps=1e-7))),
    ],
    ids=["sgd", "momentum", "adam"],
)
@pytest.mark.parametrize("split_softmax", [False, True], ids=["joined", "split"])
def test_training_agrees_with_pytorch_after_five_and_fifty_epochs(
    make: Callable[[float], Optimizer],
    make_oracle: Callable[[Any], Any],
    decay: float,
    split_softmax: bool,
    torch: Any,
    torch_reference: Callable[[Sequential], Any],
) -> None:
    model = spread(make_model(split_softmax=split_softmax, threads=2))
    twin, optimizer, oracle = torch_reference(model), make(decay), make_oracle(torch)
    losses, logged = [], []
    for epochs in (range(5), range(5, 50)):
        logged += fit(model, epochs=len(epochs), optimizer=optimizer, block_rows=7).loss
        for epoch in epochs:
            losses.append(twin.loss(X, Y).item())
            twin.gradients(X, Y)
            oracle.step(twin.parameters, optimizer.learning_rate / (1 + decay * epoch))
        np.testing.assert_allclose(model.parameters, twin.vector(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(logged, losses, rtol=1e-9)
    assert losses[-1] < 0.8 * losses[0]


def test_float32_training_follows_float64() -> None:
    histories = [fit(make_model(dtype=dtype), epochs=30, optimizer=Adam(0.02)) for dtype in ("float32", "float64")]
    for column in ("loss", "regularization_loss"):
        np.testing.assert_allclose(*(getattr(history, column) for history in histories), rtol=1e-4)


@pytest.mark.parametrize("split_softmax", [False, True], ids=["joined", "split"])
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-12), ("float32", 1e-5)])
def test_predictions_and_metrics_are_those_written_out(split_softmax: bool, dtype: str, rtol: float) -> None:
    model = spread(make_model(dtype=dtype, threads=2, split_softmax=split_softmax))
    expected = reference_probabilities(model)
    probabilities = model.predict_proba(X)
    np.testing.assert_allclose(probabilities, expected, rtol=rtol)
    assert probabilities.dtype == dtype
    np.testing.assert_array_equal(model.predict(X), expected.argmax(axis=1))
    metrics = model.evaluate(X, Y)
    assert metrics.accuracy == pytest.approx((expected.argmax(axis=1) == Y).mean(), rel=1e-12)
    assert metrics.loss == pytest.approx(-np.log(expected[np.arange(50), Y]).mean(), rel=rtol)


def test_evaluation_is_the_data_loss_alone() -> None:
    model = make_model()
    history = fit(model, epochs=1)
    before = make_model().evaluate(X, Y)
    assert before.loss == pytest.approx(history.loss[0] - history.regularization_loss[0], rel=1e-12)
    assert before.accuracy == history.accuracy[0]


def test_metrics_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Metrics(accuracy=0.5, loss=1.0).loss = 0.0  # type: ignore[misc]


LABELS = {
    "uint8": Y.astype("uint8"),
    "int32": Y.astype("int32"),
    "uint64": Y.astype("uint64"),
    "int8": Y.astype("int8"),
    "list": Y.tolist(),
    "column": Y[:, None],
    "column list": Y[:, None].tolist(),
    "one-hot": np.eye(4)[Y],
    "one-hot uint8": np.eye(4, dtype="uint8")[Y],
    "one-hot bool": np.eye(4, dtype=bool)[Y],
    "one-hot list": np.eye(4, dtype=int)[Y].tolist(),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_of_any_kind_give_the_same_bits(labels: Any) -> None:
    model, expected = make_model(), make_model()
    history = model.fit(X, labels, epochs=5, optimizer=SGD(0.1), log_every=1, verbose=False)
    assert history.loss == fit(expected).loss
    np.testing.assert_array_equal(model.parameters, expected.parameters)
    assert model.evaluate(X, labels) == expected.evaluate(X, Y)


@pytest.mark.parametrize(
    "inputs", [X.tolist(), np.asfortranarray(X), np.repeat(X, 2, axis=0)[::2]], ids=["list", "Fortran", "strided"]
)
def test_inputs_of_any_layout_give_the_same_bits(inputs: Any) -> None:
    model, expected = make_model(), make_model()
    model.fit(inputs, Y, epochs=5, optimizer=SGD(0.1), verbose=False)
    fit(expected)
    np.testing.assert_array_equal(model.parameters, expected.parameters)


def test_data_stays_as_it_is() -> None:
    inputs, labels = X.copy(), Y.copy()
    model = make_model()
    model.fit(inputs, labels, epochs=3, verbose=False)
    model.evaluate(inputs, labels)
    model.predict(inputs)
    np.testing.assert_array_equal(inputs, X)
    np.testing.assert_array_equal(labels, Y)


def test_same_seed_same_bits_and_another_seed_others() -> None:
    first, again, other = make_model(seed=1), make_model(seed=1), make_model(seed=2)
    histories = [fit(model) for model in (first, again, other)]
    np.testing.assert_array_equal(first.parameters, again.parameters)
    assert histories[0].loss == histories[1].loss != histories[2].loss
    assert not np.array_equal(first.parameters, other.parameters)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_order_of_the_rows_does_not_matter_beyond_rounding(seed: int) -> None:
    order = np.random.default_rng(seed).permutation(50)
    model, expected = make_model(), make_model()
    model.fit(X[order], Y[order], epochs=5, optimizer=SGD(0.1), verbose=False, block_rows=9)
    fit(expected)
    np.testing.assert_allclose(model.parameters, expected.parameters, rtol=1e-9, atol=1e-13)
    np.testing.assert_array_equal(model.predict(X[order]), model.predict(X)[order])


def test_two_fits_with_one_optimizer_equal_one_long_fit() -> None:
    halves, whole, optimizer = make_model(), make_model(), Adam(0.02, decay=0.1)
    first, second = fit(halves, optimizer=optimizer), fit(halves, optimizer=optimizer)
    expected = fit(whole, epochs=10, optimizer=Adam(0.02, decay=0.1))
    np.testing.assert_array_equal(halves.parameters, whole.parameters)
    for column in COLUMNS[1:]:
        assert getattr(first, column) + getattr(second, column) == getattr(expected, column)


def test_optimizer_is_sgd_at_rate_one_unless_given() -> None:
    model, expected = make_model(), make_model()
    fit(model, optimizer=None)
    fit(expected, optimizer=SGD(1.0))
    np.testing.assert_array_equal(model.parameters, expected.parameters)


def test_fit_without_epochs_changes_nothing() -> None:
    model = make_model()
    held = model.parameters.copy()
    assert len(fit(model, epochs=0)) == 0
    np.testing.assert_array_equal(model.parameters, held)


def test_verbose_fit_prints_the_notebooks_lines_and_calls_back(capsys: pytest.CaptureFixture[str]) -> None:
    epochs: list[int] = []
    model = make_model()
    history = model.fit(X, Y, epochs=11, optimizer=SGD(0.1), callbacks=[lambda h: epochs.append(h.epoch[-1])])
    assert epochs == [0, 10]
    assert capsys.readouterr().out.splitlines() == [
        f"epoch: {epoch}, acc: {accuracy:.3f}, loss: {loss:.3f} "
        f"(data: {loss - penalty:.3f}, reg: {penalty:.3f}), lr: 0.1"
        for epoch, accuracy, loss, _, penalty in zip(*(getattr(history, c) for c in COLUMNS), strict=True)
    ]


def test_quiet_fit_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    fit(make_model())
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("sigint")
def test_interrupt_keeps_what_was_learned() -> None:
    model, expected = make_model(), make_model()

    def interrupt(history: History) -> None:
        if history.epoch[-1] == 2:
            signal.raise_signal(signal.SIGINT)

    history = fit(model, epochs=50, callbacks=[interrupt])
    fit(expected, epochs=3)
    assert history.interrupted
    assert history.epoch == [0, 1, 2]
    np.testing.assert_array_equal(model.parameters, expected.parameters)


def test_models_can_be_trained_in_threads_of_their_own() -> None:
    models = [make_model(seed, threads=2) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fit, models))
    for seed, model in enumerate(models):
        expected = make_model(seed)
        fit(expected)
        np.testing.assert_array_equal(model.parameters, expected.parameters)


def with_value(row: int, column: int, value: float) -> np.ndarray:
    changed = X.copy()
    changed[row, column] = value
    return changed


def with_values(*values: float) -> np.ndarray:
    changed = X.copy()
    changed[0, : len(values)] = values
    return changed


BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "narrow": (X[:, :5], r"X must have the shape \(n, 6\) with n ≥ 1, got \(50, 5\)"),
    "images": (X.reshape(50, 2, 3), r"X must have the shape \(n, 6\) with n ≥ 1, got \(50, 2, 3\)"),
    "one row flat": (X[0], r"X must have the shape \(n, 6\) with n ≥ 1, got \(6,\)"),
    "empty": (X[:0], r"X must have the shape \(n, 6\) with n ≥ 1, got \(0, 6\)"),
    "a number": (3.0, r"X must have the shape \(n, 6\) with n ≥ 1, got \(\)"),
    "NaN": (with_value(49, 5, np.nan), "X has values that are not finite"),
    "infinity": (with_value(0, 0, np.inf), "X has values that are not finite"),
    "both infinities": (with_values(np.inf, -np.inf), "X has values that are not finite"),
    "text": (X.astype("str"), "X must hold real numbers, got dtype <U"),
    "complex": (X + 0j, "X must hold real numbers, got dtype complex128"),
    "objects": (X.astype("object"), "X must hold real numbers, got dtype object"),
}


@pytest.mark.parametrize(("inputs", "message"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_inputs_that_do_not_fit_are_refused(inputs: Any, message: str) -> None:
    model = make_model()
    held = model.parameters.copy()
    with pytest.raises(ValueError, match=message):
        model.fit(inputs, Y, epochs=1, verbose=False)
    with pytest.raises(ValueError, match=message):
        model.evaluate(inputs, Y)
    with pytest.raises(ValueError, match=message):
        model.predict(inputs)
    np.testing.assert_array_equal(model.parameters, held)


def test_inputs_too_large_for_float32_are_refused() -> None:
    with pytest.raises(ValueError, match="X has values that are not finite"):
        make_model(dtype="float32").predict(with_value(0, 0, 1e300))


def test_large_but_finite_inputs_are_taken() -> None:
    # Their sum overflows, each of them does not.
    model = make_model()
    model.dense[0].weights = np.zeros((6, 5))
    assert model.predict_proba(with_values(1e308, 1e308, 1e308)).shape == (50, 4)


ONE_HOT = np.eye(4)[Y]
BAD_LABELS: dict[str, tuple[Any, str]] = {
    "too few": (Y[:-1], "X has 50 rows, but y has 49"),
    "too few one-hot": (ONE_HOT[:-1], "X has 50 rows, but y has 49"),
    "too large": (Y + 1, "y must be from 0 to 3, got 1 to 4"),
    "negative": (Y - 1, "y must be from 0 to 3, got -1 to 2"),
    "float": (Y.astype("float64"), r"y must be class indices \(n,\) of an integer dtype or .* of dtype float64"),
    "bool": (Y > 1, r"y must be class indices .* of dtype bool"),
    "text": (Y.astype("str"), r"y must be class indices .* of dtype <U"),
    "two columns": (Y[:, None][:, [0, 0]], r"y of two dimensions must be one-hot rows \(n, 4\) or one column"),
    "column of text": (Y[:, None].astype("str"), r"y must be class indices .* \(50, 1\) of dtype <U"),
    "one-hot of other width": (
        np.eye(5)[Y],
        r"one-hot rows \(n, 4\) or one column \(n, 1\), got the shape \(50, 5\)",
    ),
    "two ones": (np.maximum(ONE_HOT, np.eye(4)[0]), "must be one-hot rows"),
    "all zero": (0 * ONE_HOT, "must be one-hot rows"),
    "probabilities": (np.full((50, 4), 0.25), "must be one-hot rows"),
    "twos": (2 * ONE_HOT, "must be one-hot rows"),
    "three dimensions": (ONE_HOT[:, :, None], r"got the shape \(50, 4, 1\)"),
    "a number": (3, r"got the shape \(\)"),
    "empty": ([], r"got the shape \(0,\)"),
}


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_labels_that_do_not_fit_are_refused(labels: Any, message: str) -> None:
    model = make_model()
    held = model.parameters.copy()
    with pytest.raises(ValueError, match=message):
        model.fit(X, labels, epochs=1, verbose=False)
    with pytest.raises(ValueError, match=message):
        model.evaluate(X, labels)
    np.testing.assert_array_equal(model.parameters, held)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": -1}, "epochs must be at least 0, got -1"),
        ({"log_every": 0}, "log_every must be at least 1, got 0"),
        ({"block_rows": 0}, "block_rows must be at least 1, got 0"),
        ({"epochs": 2.0}, "epochs must be a whole number, got 2.0"),
        ({"log_every": 1.5}, "log_every must be a whole number, got 1.5"),
        ({"block_rows": "7"}, "block_rows must be a whole number, got '7'"),
        ({"optimizer": "nadam"}, "optimizer must be one of sgd, adam, .*lbfgs, or an Optimizer, got 'nadam'"),
        ({"optimizer": 0.1}, "optimizer must be one of sgd, adam, .*lbfgs, or an Optimizer, got 0.1"),
        ({"optimizer": Dense}, "optimizer must be one of sgd, adam, .*lbfgs, or an Optimizer, got <class"),
        ({"callbacks": 3}, r"callbacks must be functions of the history, or objects with on_epoch\(history\), got 3"),
        ({"callbacks": [print, "log"]}, "callbacks must be functions .*, got 'log'"),
        ({"callbacks": History}, "callbacks must be functions .*, got <class"),
    ],
)
def test_argument_that_does_not_fit_is_named(arguments: dict[str, Any], message: str) -> None:
    model = make_model()
    held = model.parameters.copy()
    with pytest.raises(ValueError, match=message):
        fit(model, **arguments)
    np.testing.assert_array_equal(model.parameters, held)


@pytest.mark.parametrize(("named", "plain"), [("adam", Adam()), ("Adam", Adam()), (Adam, Adam()), ("sgd", SGD())])
def test_optimizer_may_be_named_or_be_a_class(named: Any, plain: Optimizer) -> None:
    model, expected = make_model(), make_model()
    fit(model, optimizer=named)
    fit(expected, optimizer=plain)
    np.testing.assert_array_equal(model.parameters, expected.parameters)


class Noting:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_epoch(self, history: History) -> None:
        self.epochs.append(history.epoch[-1])


class Told(list[int]):
    """A list of the epochs that it was told of: a callback, and no list of callbacks."""

    def on_epoch(self, history: History) -> None:
        self.append(history.epoch[-1])


class Called(list[int]):
    """The same, as a function."""

    def __call__(self, history: History) -> None:
        self.append(history.epoch[-1])


@pytest.mark.parametrize("kind", [Told, Called])
def test_callback_that_could_be_a_list_of_some_is_one(kind: Any) -> None:
    callback = kind()
    fit(make_model(), epochs=3, callbacks=callback)
    assert callback == [0, 1, 2]


def test_progress_is_of_all_epochs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    make_model().fit(X, Y, epochs=2, log_every=1)
    assert "2/2" in capsys.readouterr().out


def test_values_beyond_the_dtype_are_told_once_and_in_words() -> None:
    with pytest.raises(ValueError, match=r"^X has values that are not finite in float32"):
        make_model(dtype="float32").predict(np.full((2, 6), 1e300))
    with pytest.raises(ValueError, match=r"^X must hold real numbers, got dtype complex128$"):
        make_model().predict(np.full((2, 6), 1j))


def test_callback_may_stand_alone() -> None:
    epochs: list[int] = []
    fit(make_model(), epochs=3, callbacks=lambda history: epochs.append(history.epoch[-1]))
    noting = Noting()
    fit(make_model(), epochs=3, callbacks=noting)
    assert epochs == noting.epochs == [0, 1, 2]


# The engine


def test_fused_engine_leaves_what_it_does_not_take_to_the_plain_one(caplog: pytest.LogCaptureFixture) -> None:
    plain, fused = (make_model(dtype="float32", threads=2) for _ in range(2))
    expected, found = fit(plain), fit(fused, engine="fused")
    np.testing.assert_array_equal(fused.parameters, plain.parameters)
    assert found.to_csv() == expected.to_csv()
    reason = f"cpu ({fused.backend.device_name}): it needs compute capability 8.0"
    assert caplog.messages == [f"the fused engine does not take {reason}; the plain one trains"]


def test_unknown_engine_is_named_before_anything_is_trained() -> None:
    model = make_model()
    before = model.parameters.copy()
    with pytest.raises(ValueError, match=r"^engine must be one of plain, fused, got 'fuse'; did you mean fused\?$"):
        fit(model, engine="fuse")
    np.testing.assert_array_equal(model.parameters, before)


def test_engine_is_the_same_on_all_ranks() -> None:
    def work(ranks: Ranks) -> History:
        return fit(make_model(), comm=ranks.comm, engine="plain" if ranks.is_first else "fused")

    outcomes = outcomes_of(2, work)
    assert [type(outcome) for outcome in outcomes] == [ValueError, ElsewhereError]
    assert "engine" in str(outcomes[0])


def test_precision_of_the_fused_engine_is_not_the_cpus() -> None:
    with pytest.raises(DeviceError, match=r"^cpu \(.*\) does not compute in bfloat16: use float32 or float64$"):
        make_model(dtype="bfloat16")


def test_several_ranks_are_told_once_that_no_engine_takes_them() -> None:
    def work(ranks: Ranks) -> History:
        backend = CudaBackend(cupy=StandInCupy())
        model = Sequential([Dense(6, 5), ReLU(), Dense(5, 4)], backend=backend, seed=1, dtype="bfloat16")
        return fit(model, comm=ranks.comm, engine="fused")

    first, second = outcomes_of(2, work)
    assert (type(first), type(second)) == (EngineError, ElsewhereError)
    assert str(first).startswith("bfloat16 is for the fused engine alone, which does not take ")


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.float64, "float64"), (float, "float64"), (np.dtype("float32"), "float32")]
)
def test_dtype_may_be_numpys(dtype: Any, name: str) -> None:
    model = Sequential([Dense(6, 4, dtype=dtype)], dtype=dtype)
    assert (model.dtype, model.parameters.dtype) == (name, name)
    assert Dense(6, 4, dtype=dtype).weights.dtype == name


@pytest.mark.parametrize("dtype", ["f4", None, int, np.complex64, "double", ["float32"], object()])
def test_what_is_no_dtype_of_a_network_is_named(dtype: Any) -> None:
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, tf32, float16, bfloat16, got "):
        Sequential([Dense(6, 4)], dtype=dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int64", "uint64"])
def test_more_classes_than_a_byte_counts(dtype: str) -> None:
    # Class 256 would be class 0 in uint8: the true class has to be one alone, in loss and gradient.
    classes = 300
    labels = np.random.default_rng(0).integers(0, classes if dtype != "uint8" else 256, 400).astype(dtype)
    rows = np.random.default_rng(1).standard_normal((400, 6))
    model = Sequential([Dense(6, classes, seed=1)], dtype="float64", backend=CpuBackend(2))
    probabilities = model.forward(rows)
    by_hand = rows.T @ (probabilities - np.eye(classes)[labels]) / 400
    before = model.dense[0].weights.copy()
    model.fit(rows, labels, epochs=1, optimizer=SGD(1.0), verbose=False, block_rows=150)
    np.testing.assert_allclose(before - model.dense[0].weights, by_hand, rtol=1e-9, atol=1e-14)


def test_labels_of_a_narrow_dtype_in_the_engine_itself() -> None:
    labels = np.array([0, 1, 127, 3], "int8")
    model = Sequential([Dense(6, 300, seed=1)], dtype="float64")
    expected = model.forward(X[:4]) - np.eye(300)[labels]
    with model.backend.computing():
        FullBatch(model, X[:4], labels).compute_gradients()
    np.testing.assert_allclose(model.dense[0].dbiases[0], expected.mean(axis=0), rtol=1e-12)


def diverged() -> Sequential:
    model = make_model()
    model.parameters[...] = np.nan
    return model


def test_network_that_has_diverged_predicts_nothing() -> None:
    with pytest.raises(RunError, match="gives 50 of 50 rows probabilities that are not finite: its training has div"):
        diverged().predict(X)
    assert np.isnan(diverged().predict_proba(X)).all()


def test_rows_without_a_prediction_are_not_right() -> None:
    metrics = diverged().evaluate(X, np.zeros(50, int))
    assert metrics.accuracy == 0
    assert np.isnan(metrics.loss)
    history = fit(diverged(), epochs=1)
    assert history.accuracy == [0]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint16", "int64"])
def test_unscaled_pixels_are_told_of_once(dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 6)).astype(dtype)
    model = make_model()
    for _ in range(2):
        fit_to(model, pixels)
    model.predict(pixels)
    assert [record.getMessage() for record in caplog.records if "X has values" in record.getMessage()] == [
        f"X has values from {pixels.min():g} to {pixels.max():g}: networks learn from values of about -1 to 1; scale "
        "pixels as preprocess does, (X - 127.5) / 127.5"
    ]


BYTES = np.random.default_rng(0).integers(0, 256, (50, 6), dtype="uint8")
SCALED = ((BYTES.astype("float64") - 127.5) / 127.5).astype("float32")  # as preprocess scales them
KINDS_OF_BYTES: dict[str, Callable[[], Any]] = {
    "rows": lambda: BYTES,
    "images": lambda: BYTES.reshape(50, 2, 3),
    "Pixels": lambda: Pixels(BYTES),
    "Pixels of images in an order": lambda: Pixels(BYTES[::-1].reshape(50, 3, 2), np.arange(50)[::-1]),
    "rows in Fortran's order": lambda: np.asfortranarray(BYTES),
}
EACH_KIND_OF_BYTES = pytest.mark.parametrize("make_inputs", KINDS_OF_BYTES.values(), ids=KINDS_OF_BYTES)


@EACH_KIND_OF_BYTES
def test_bytes_are_pixels_scaled_as_preprocess_does(
    make_inputs: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    model, inputs = spread(make_model(dtype="float32", threads=2)), make_inputs()
    w1, b1, w2, b2 = (values.astype("float64") for values in model.state_dict().values())
    exponentials = np.exp(np.maximum((BYTES - 127.5) / 127.5 @ w1 + b1, 0) @ w2 + b2)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(inputs), expected, rtol=1e-5)
    # The very bits of the float rows where nothing is trained.
    np.testing.assert_array_equal(model.predict_proba(inputs), model.predict_proba(SCALED))
    np.testing.assert_array_equal(model.predict(inputs), model.predict(SCALED))
    assert model.evaluate(inputs, Y) == model.evaluate(SCALED, Y)
    assert caplog.records == []


@pytest.mark.parametrize("dense", [None, False, True])
@EACH_KIND_OF_BYTES
def test_training_on_bytes_is_that_on_the_rows_of_preprocess(
    make_inputs: Callable[[], Any], dense: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    models = [spread(make_model(dtype="float32")) for _ in range(2)]
    histories = [
        model.fit(inputs, Y, epochs=10, optimizer=SGD(0.1), log_every=1, verbose=False, block_rows=7, dense=dense)
        for model, inputs in zip(models, (make_inputs(), SCALED), strict=True)
    ]
    if dense:
        np.testing.assert_array_equal(*(model.parameters for model in models))
        assert histories[0].loss == histories[1].loss
    else:
        np.testing.assert_allclose(*(model.parameters for model in models), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-5)
    assert histories[0].loss[-1] < 0.9 * histories[0].loss[0]
    assert caplog.records == []


def test_training_on_bytes_in_float64_agrees_with_pytorch(torch_reference: Callable[[Sequential], Any]) -> None:
    model = spread(make_model(threads=2))
    twin, rows = torch_reference(model), (BYTES - 127.5) / 127.5
    for _ in range(5):
        loss = model.fit(BYTES, Y, epochs=1, optimizer=SGD(0.2), verbose=False, block_rows=7).loss
        assert loss == pytest.approx([twin.loss(rows, Y).item()], rel=1e-9)
        twin.gradients(rows, Y)
        for parameter in twin.parameters:
            parameter.data -= 0.2 * parameter.grad
        np.testing.assert_allclose(model.parameters, twin.vector(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        (BYTES[:, :5], r"\(50, 5\)"),
        (BYTES.reshape(25, 3, 4), r"\(25, 12\)"),
        (BYTES[:0], r"\(0, 6\)"),
        (BYTES[0], r"\(6,\)"),
    ],
    ids=["narrow", "images", "empty", "one row flat"],
)
def test_bytes_that_do_not_fit_are_refused(inputs: Any, shape: str) -> None:
    for use in (make_model().predict, lambda X: make_model().fit(X, Y, epochs=1, verbose=False)):
        with pytest.raises(ValueError, match=rf"X must have the shape \(n, 6\) with n ≥ 1, got {shape}"):
            use(inputs)


def test_background_that_is_left_out_changes_nothing_but_the_share_of_columns() -> None:
    images = np.zeros((50, 8, 8), "uint8")
    images[:, 2:5, 3:6] = np.random.default_rng(0).integers(0, 256, (50, 3, 3))
    rows = ((images.reshape(50, 64) - 127.5) / 127.5).astype("float32")
    results = []
    for inputs, dense in ((rows, True), (rows, None), (images, None), (images, False)):
        model = Sequential([Dense(64, 5, seed=1), ReLU(), Dense(5, 4, seed=2)], backend=CpuBackend(2))
        history = model.fit(
            inputs, Y, epochs=10, optimizer=SGD(0.1), log_every=1, verbose=False, block_rows=7, dense=dense
        )
        assert history.column_share == (1 if dense else 16 / 64)  # 9 columns, up to a multiple of 16
        results.append((history.loss, model.predict_proba(inputs)))
    for losses, probabilities in results[1:]:
        np.testing.assert_allclose(losses, results[0][0], rtol=1e-5)
        np.testing.assert_allclose(probabilities, results[0][1], rtol=1e-4)


@pytest.mark.parametrize(("value", "told"), [(99.9, False), (100.0, True), (-100.0, True)])
def test_only_values_like_those_of_pixels_are_told_of(
    value: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    make_model().predict_proba(with_value(0, 0, value))
    assert any("X has values" in record.getMessage() for record in caplog.records) is told


def fit_to(model: Sequential, inputs: np.ndarray) -> History:
    return model.fit(inputs, Y, epochs=1, optimizer=SGD(1e-6), verbose=False)


@pytest.mark.parametrize("split_softmax", [False, True], ids=["joined", "split"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saved_model_is_loaded_bit_for_bit(tmp_path: Path, dtype: str, split_softmax: bool) -> None:
    model = make_model(dtype=dtype, split_softmax=split_softmax)
    fit(model)
    path = tmp_path / "models" / "model.safetensors"
    model.save(str(path))
    backend = CpuBackend(2)
    for loaded in (load(path, backend=backend), Sequential.load(str(path), backend)):
        np.testing.assert_array_equal(loaded.parameters, model.parameters, strict=True)
        assert [(type(layer), layer.config()) for layer in loaded.layers] == [
            (type(layer), layer.config()) for layer in model.layers
        ]
        assert type(loaded.loss) is type(model.loss)
        assert (loaded.dtype, loaded.backend) == (dtype, backend)
        np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    # What was loaded trains on as the model itself.
    np.testing.assert_array_equal(fit(loaded).loss, fit(model).loss)


def test_loaded_model_is_of_the_class_that_loads(tmp_path: Path) -> None:
    class Special(Sequential):
        """A model of another class."""

    make_model().save(tmp_path / "model.safetensors")
    assert type(Special.load(tmp_path / "model.safetensors")) is Special


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no model file .*none\.safetensors"):
        load(tmp_path / "none.safetensors")


def test_truncated_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    make_model().save(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(RunError, match=r"model\.safetensors is damaged"):
        load(path)


def dense(**changes: Any) -> dict[str, Any]:
    return {"type": "Dense", "n_inputs": 6, "n_neurons": 4, **changes}


ARCHITECTURES: dict[str, Any] = {
    "unknown layer": {"layers": [dense(), {"type": "Dropout"}]},
    "unknown argument": {"layers": [dense(stride=2)]},
    "layer without a type": {"layers": [{"n_inputs": 6, "n_neurons": 4}]},
    "layer that is text": {"layers": ["Dense"]},
    "other width": {"layers": [dense(n_inputs=5)]},
    "width that is text": {"layers": [dense(n_inputs="six")]},
    "bad penalty": {"layers": [dense(weight_regularizer_l1=-1)]},
    "two layers": {"layers": [dense(), {"type": "ReLU"}, dense(n_inputs=4)]},
    "no layers": {"layers": []},
    "layers missing": {"layers": None},
    "unknown loss": {"loss": "Focal"},
    "loss that does not fit": {"loss": "CategoricalCrossentropy"},
    "dtype": {"dtype": "int8"},
    "dtype of other weights": {"dtype": "float64"},
}


def test_weights_of_another_dtype_are_named(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    state = Sequential([Dense(6, 4)], dtype="float64").state_dict()
    architecture = {"layers": [dense()], "loss": "SoftmaxCategoricalCrossentropy", "dtype": "float32"}
    save_file(
        {**state, "dense1.biases": state["dense1.biases"].astype("float32")},
        path,
        metadata={MODEL.format: json.dumps(architecture)},
    )
    with pytest.raises(RunError, match=r"do not fit each other: dense1\.weights is float64, not float32$"):
        load(path)


def test_network_trained_in_a_precision_of_gpus_is_one_of_float32_on_the_cpu(tmp_path: Path) -> None:
    for dtype, expected in (
        ("tf32", "float32"),
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ):
        network = Sequential([Dense(6, 4)], dtype=expected)
        network.save(tmp_path / "model.safetensors")
        state = load_file(tmp_path / "model.safetensors")
        architecture = {"layers": [dense()], "loss": "SoftmaxCategoricalCrossentropy", "dtype": dtype}
        save_file(state, tmp_path / "model.safetensors", metadata={MODEL.format: json.dumps(architecture)})
        loaded = load(tmp_path / "model.safetensors")
        assert (loaded.dtype, str(loaded.parameters.dtype)) == (expected, expected)


def test_network_trained_in_bfloat16_is_one_of_float32_on_a_gpu_too(tmp_path: Path) -> None:
    network = Sequential([Dense(6, 4)], backend=CudaBackend(cupy=StandInCupy()), seed=1, dtype="bfloat16")
    network.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", CudaBackend(cupy=StandInCupy()))
    assert (network.dtype, loaded.dtype) == ("bfloat16", "float32")
    np.testing.assert_array_equal(loaded.parameters.get(), network.parameters.get())


class Leaky(ReLU):
    """A layer of one's own."""


def test_classes_of_ones_own_are_handed_on(tmp_path: Path) -> None:
    Sequential([Dense(6, 4), Leaky(), Dense(4, 3)]).save(tmp_path / "model.safetensors")
    for loaded in (
        load(tmp_path / "model.safetensors", custom_objects=Leaky),
        Sequential.load(tmp_path / "model.safetensors", custom_objects=[Leaky]),
    ):
        assert type(loaded.layers[1]) is Leaky


@pytest.mark.parametrize("change", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_architecture_that_does_not_fit_the_weights_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "model.safetensors"
    Sequential([Dense(6, 4)]).save(path)
    assert load(path).widths == [6, 4]
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    metadata = header["__metadata__"]
    written = json.loads(metadata[MODEL.format])
    assert len(written.pop("sha256")) == 64  # else that would be what is found
    metadata[MODEL.format] = json.dumps({**written, **change})
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(RunError, match=r"architecture and the weights in .*model\.safetensors do not fit .*: .+"):
        load(path)


# Several ranks, which threads play

PIXELS = GENERATOR.integers(0, 256, (50, 6), dtype="uint8")
SPLITS = [(25, 25), (0, 50), (13, 0, 30, 7)]
"""How many rows each rank hands in."""


def fit_over(ranks: Ranks, counts: tuple[int, ...], rows: Any = X, **arguments: Any) -> tuple[Sequential, History]:
    """Train a new model on these rows, of which this rank hands in its part, and the first alone has callbacks."""
    stop = sum(counts[: ranks.rank + 1])
    own, model = slice(stop - counts[ranks.rank], stop), make_model(threads=1 + ranks.rank % 2)
    if not ranks.is_first:
        arguments.pop("callbacks", None)
    given = {"optimizer": Adam(0.02), "verbose": 0, "block_rows": 6, **arguments}
    return model, model.fit(rows[own], Y[own], comm=ranks.comm, **given)


@pytest.mark.parametrize("counts", SPLITS, ids=str)
@pytest.mark.parametrize("rows", [X, PIXELS, Pixels(PIXELS)], ids=["floats", "bytes", "Pixels"])
@pytest.mark.parametrize(
    "options",
    [{}, {"validation_fraction": 0.2, "keep_best": True}, {"dense": True}],
    ids=["plain", "held out", "dense"],
)
def test_ranks_come_to_the_weights_of_one_process(
    rows: Any, counts: tuple[int, ...], options: dict[str, Any]
) -> None:
    arguments = {"epochs": 14, "log_every": 3, **options}
    model = make_model()
    expected = model.fit(rows, Y, optimizer=Adam(0.02), verbose=0, block_rows=6, **arguments)
    for found, history in in_ranks(len(counts), lambda ranks: fit_over(ranks, counts, rows, **arguments)):
        np.testing.assert_array_equal(found.parameters, model.parameters)
        assert history.to_csv() == expected.to_csv()
        assert history.best_epoch == expected.best_epoch
        for name, values in (expected.best_state or {}).items():
            np.testing.assert_array_equal(history.best_state[name], values)  # type: ignore[index]


def test_ranks_log_the_rows_of_other_data() -> None:
    """Each hands in some, the first none."""
    expected = make_model().fit(
        *(X, Y), epochs=8, optimizer=Adam(0.02), verbose=0, block_rows=6, validation_data=(X[:20], Y[:20])
    )

    def work(ranks: Ranks) -> History:
        own = slice(0, 10 * ranks.rank) if ranks.rank < 2 else slice(10, 20)
        return fit_over(ranks, (20, 20, 10), epochs=8, validation_data=(X[own], Y[own]))[1]

    for history in in_ranks(3, work):
        assert history.to_csv() == expected.to_csv()


@pytest.mark.parametrize("stops", [[(9, 2), (20, 3)], [(9, 1), (20, 2)], [(5, 4), (12, 2), (20, 1)]], ids=str)
def test_training_goes_on_with_another_number_of_ranks(tmp_path: Path, stops: list[tuple[int, int]]) -> None:
    model = make_model()
    expected = model.fit(X, Y, epochs=20, optimizer=Adam(0.02), verbose=0, block_rows=6)
    for epochs, size in stops:
        counts = (50 - 10 * (size - 1), *[10] * (size - 1))
        options = {"epochs": epochs, "checkpoint": tmp_path, "resume": True}
        every = in_ranks(size, lambda ranks, counts=counts, options=options: fit_over(ranks, counts, **options))
    for found, history in every:
        np.testing.assert_array_equal(found.parameters, model.parameters)
        assert history.to_csv() == expected.to_csv()
        assert len(history.epoch_seconds) == 20


def test_first_rank_alone_prints_and_calls(capsys: pytest.CaptureFixture[str]) -> None:
    epochs: list[int] = []
    options = {
        "epochs": 4,
        "log_every": 1,
        "verbose": 1,
        "callbacks": lambda history: epochs.append(history.epoch[-1]),
    }
    in_ranks(3, lambda ranks: fit_over(ranks, (20, 20, 10), **options))
    assert epochs == [0, 1, 2, 3]
    assert capsys.readouterr().out.count("epoch: 0, ") == 1


@pytest.mark.parametrize("counts", SPLITS, ids=str)
def test_ranks_evaluate_the_rows_of_all(counts: tuple[int, ...]) -> None:
    expected = make_model().evaluate(X, Y)

    def work(ranks: Ranks) -> Metrics:
        stop = sum(counts[: ranks.rank + 1])
        own = slice(stop - counts[ranks.rank], stop)
        return make_model().evaluate(X[own], Y[own], comm=ranks.comm)

    assert in_ranks(len(counts), work) == [expected] * len(counts)


@pytest.mark.parametrize(
    ("given", "at_fault", "message"),
    [
        ({1: {"X": X[:, :5]}}, 1, r"X must have the shape \(n, 6\) with n ≥ 0, got \(50, 5\)"),
        ({0: {"y": Y[:49]}}, 0, "X has 50 rows, but y has 49"),
        ({2: {"X": X + np.inf}}, 2, "X has values that are not finite in float64"),
        ({rank: {"X": X[:0], "y": Y[:0]} for rank in range(3)}, 0, "X has no rows on any rank"),
        ({1: {"X": PIXELS}}, 0, "X is pixels on some ranks and floats on others: all must have the same kind"),
        ({1: {"epochs": 4}}, 0, "rank 1 has epochs 4, and rank 0 3: all ranks must have the same"),
        ({2: {"checkpoint": "there"}}, 0, "rank 2 has checkpoint True, and rank 0 False"),
        ({1: {"validation_data": (X, Y)}}, 0, "rank 1 has validation_data of 2 arrays, and rank 0 None"),
    ],
    ids=["columns", "labels", "infinity", "no rows", "kinds", "epochs", "checkpoint", "validation"],
)
def test_what_does_not_fit_on_one_rank_is_refused_on_all(
    given: dict[int, dict[str, Any]], at_fault: int, message: str
) -> None:
    def work(ranks: Ranks) -> History:
        arguments = {"X": X, "y": Y, "epochs": 3, "verbose": 0, **given.get(ranks.rank, {})}
        return make_model().fit(arguments.pop("X"), arguments.pop("y"), comm=ranks.comm, **arguments)

    outcomes = outcomes_of(3, work)
    for rank, outcome in enumerate(outcomes):
        assert isinstance(outcome, ValueError if rank == at_fault else ElsewhereError)
        with pytest.raises((ValueError, ElsewhereError), match=message):
            raise outcome
