"""What holds of every registered activation and loss, also of one that is added."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fmnist_xp.backend import CpuBackend
from fmnist_xp.model import Sequential, load
from fmnist_xp.nn import Activation, Dense, Layer, Loss, ReLU
from fmnist_xp.nn.activations import biased
from fmnist_xp.parity.bounds import Bounded
from fmnist_xp.parity.operations import registered_losses
from fmnist_xp.parity.tolerances import ROUNDOFF
from fmnist_xp.registry import registered
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.plan import is_planned

ACTIVATIONS = registered(Activation)
LOSSES = {name: partial(kind, **arguments) for name, kind, arguments in registered_losses()}
EACH = pytest.mark.parametrize("kind", ACTIVATIONS.values(), ids=ACTIVATIONS)
EACH_LOSS = pytest.mark.parametrize("make_loss", LOSSES.values(), ids=LOSSES)
SMOOTH = st.floats(0.01, 6) | st.floats(-6, -0.01)
"""An activation may have an edge at 0."""


def rows_of(elements: Any, dtype: str = "float64") -> Any:
    return arrays(dtype, (3, 5), elements=elements)


@EACH
@settings(deadline=None, max_examples=25)
@given(x=rows_of(SMOOTH), dvalues=rows_of(st.floats(-2, 2)))
def test_gradient_is_that_of_the_output(kind: type[Activation], x: np.ndarray, dvalues: np.ndarray) -> None:
    layer, step = kind(), 1e-6
    slope = (layer.forward(x + step) - layer.forward(x - step)) / (2 * step)
    layer.forward(x)
    np.testing.assert_allclose(layer.backward(dvalues), dvalues * slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradient_agree_with_pytorch(name: str, dtype: str, torch: Any) -> None:
    theirs = getattr(torch, name, None) or getattr(torch.nn.functional, name, None)
    if theirs is None:
        pytest.skip(f"PyTorch has no function called {name}")
    options = {"approximate": "tanh"} if name == "gelu" else {}
    generator, eps = np.random.default_rng(0), np.finfo(dtype).eps
    x, dvalues = (generator.standard_normal((40, 30)).astype(dtype) for _ in range(2))
    x[0, :2] = 0.0, -0.0
    layer, tensor = ACTIVATIONS[name](), torch.tensor(x, requires_grad=True)
    output = theirs(tensor, **options)
    output.backward(torch.tensor(dvalues))
    lost = 4 * eps if name == "gelu" else 0  # by PyTorch, which adds tanh to 1
    np.testing.assert_allclose(layer.forward(x), output.detach().numpy(), rtol=8 * eps, atol=lost)
    np.testing.assert_allclose(layer.backward(dvalues), tensor.grad.numpy(), rtol=8 * eps, atol=16 * eps)


@EACH
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_arrays_keep_their_dtype_and_arguments_their_values(kind: type[Activation], dtype: str) -> None:
    x, dvalues = (np.linspace(-3, 3, 15).reshape(3, 5).astype(dtype) * sign for sign in (1, -1))
    before, layer = x.copy(), kind()
    output = layer.forward(x)
    dinputs = layer.backward(dvalues)
    assert (output.dtype, output.shape, dinputs.dtype, dinputs.shape) == (dtype, x.shape) * 2
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(dvalues, -before)


@EACH
@settings(deadline=None, max_examples=25)
@given(x=rows_of(st.floats(-8, 8, width=32), "float32"), dvalues=rows_of(st.floats(-2, 2, width=32), "float32"))
def test_formulas_may_write_over_their_first_argument(
    kind: type[Activation], x: np.ndarray, dvalues: np.ndarray
) -> None:
    layer, biases = kind(), np.full((1, 5), 0.25, "float32")
    output, values = layer.forward(x), x.copy()
    dinputs, gradient = layer.backward(dvalues), dvalues.copy()
    arguments = [np.float32(number) for number in layer.arguments()]
    kind.formula(np, values, *arguments, values)
    kind.gradient(np, gradient, x if kind.needs_inputs else output, *arguments, gradient)
    np.testing.assert_array_equal(values, output)
    np.testing.assert_array_equal(gradient, dinputs)
    if kind.takes_biases:  # in one: as if these had been added before
        expected, values = layer.forward(x + biases), x.copy()
        biased(kind.formula)(np, values, biases, values)
        np.testing.assert_array_equal(values, expected)


@EACH
@settings(deadline=None, max_examples=25)
@given(x=rows_of(st.floats(-8, 8, width=32), "float32"), dvalues=rows_of(st.floats(-2, 2, width=32), "float32"))
def test_what_is_computed_is_what_is_written_out(kind: type[Activation], x: np.ndarray, dvalues: np.ndarray) -> None:
    layer = kind()
    computed = layer.forward(x), layer.backward(dvalues)
    output, backward = layer.bound_pass(Bounded.exact(x, ROUNDOFF["float32"]), {})
    dinputs, gradients = backward(Bounded.exact(dvalues, ROUNDOFF["float32"]))
    for array, bounded in zip(computed, (output, dinputs), strict=True):
        assert np.all(np.abs(array - bounded.value) <= bounded.tolerance)
    assert gradients == layer.bound_penalties({}) == {}


@EACH
def test_bound_holds_for_all_that_the_inputs_may_be(kind: type[Activation]) -> None:
    generator = np.random.default_rng(0)
    x, error, dvalues = generator.standard_normal((3, 20, 30))
    error = np.abs(error) * 2.0 ** generator.integers(-20, -2, error.shape)
    layer, roundoff = kind(), ROUNDOFF["float64"]
    output, backward = layer.bound_pass(Bounded(x, np.stack([error, error, 0 * error]), roundoff), {})
    dinputs, _gradients = backward(Bounded.exact(dvalues, roundoff))
    for share in (-0.99, -0.5, 0.5, 0.99):  # the ends themselves are rounded here
        assert np.all(np.abs(layer.forward(x + share * error) - output.value) <= output.tolerance)
        assert np.all(np.abs(layer.backward(dvalues) - dinputs.value) <= dinputs.tolerance)


@EACH
def test_network_learns_and_is_kept_in_a_file(kind: type[Activation], tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 3, 60)
    X = generator.standard_normal((3, 4))[y] + 0.1 * generator.standard_normal((60, 4))
    model = Sequential([Dense(4, 8), kind(), Dense(8, 3)], seed=1)
    model.fit(X, y, epochs=60, optimizer="adam", verbose=False)
    model.fit(X, y, epochs=200, optimizer="sgd", verbose=False)
    assert model.evaluate(X, y).accuracy > 0.9
    model.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert type(again.layers[1]) is kind
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


@EACH_LOSS
@EACH
def test_gradient_of_a_network_is_that_of_its_loss(kind: type[Activation], make_loss: Callable[[], Loss]) -> None:
    loss = make_loss()
    layers: list[Layer] = [Dense(4, 5), kind(), Dense(5, 3), *ending(loss)]
    network = Sequential(layers, loss=loss, backend=CpuBackend(1), seed=0, dtype="float64")
    generator, step = np.random.default_rng(1), 1e-6
    X, y = generator.standard_normal((7, 4)), generator.integers(0, 3, 7)
    network.parameters[...] = generator.standard_normal(network.parameters.size)
    network.backward(network.forward(X), y)
    for place in range(network.parameters.size):
        means = []
        for sign in (1, -1):
            network.parameters[place] += sign * step
            means.append(network.loss.calculate(network.forward(X), y))
            network.parameters[place] -= sign * step
        assert network.gradients[place] == pytest.approx((means[0] - means[1]) / (2 * step), rel=1e-5, abs=1e-8)


def ending(loss: Loss) -> list[Layer]:
    """Return the layer that a network of `loss` ends with."""
    return [loss.ends_with()] if loss.ends_with else []


@EACH_LOSS
def test_gradient_of_a_loss_is_that_of_its_mean(make_loss: Callable[[], Loss]) -> None:
    generator, loss, step = np.random.default_rng(0), make_loss(), 1e-6
    inputs = generator.dirichlet(np.full(4, 9.0), 6) if loss.ends_with else generator.standard_normal((6, 4))
    labels = generator.integers(0, 4, 6)
    dinputs = loss.backward(loss.activate(inputs), labels)
    for place in np.ndindex(inputs.shape):
        means = []
        for sign in (1, -1):
            moved = inputs.copy()
            moved[place] += sign * step
            means.append(loss.calculate(loss.activate(moved), labels))
        assert dinputs[place] == pytest.approx((means[0] - means[1]) / (2 * step), rel=1e-5, abs=1e-8)


@EACH_LOSS
def test_loss_that_is_computed_is_the_one_written_out(make_loss: Callable[[], Loss]) -> None:
    generator, loss, roundoff = np.random.default_rng(1), make_loss(), ROUNDOFF["float32"]
    inputs = generator.dirichlet(np.ones(4), 9) if loss.ends_with else generator.standard_normal((9, 4))
    inputs, labels = inputs.astype("float32"), generator.integers(0, 4, 9)
    output = loss.activate(inputs)
    computed = output, loss.sample_losses(output, labels), loss.backward(output, labels)
    for array, bounded in zip(
        computed, loss.bound_pass(Bounded.exact(inputs, roundoff), labels, len(labels)), strict=True
    ):
        assert array.dtype == np.float32
        assert np.all(np.abs(array - bounded.value) <= bounded.tolerance)


@EACH_LOSS
def test_engine_trains_with_a_loss_as_the_layers_do(make_loss: Callable[[], Loss]) -> None:
    """The metrics and the gradient of all rows in blocks are those of one pass, the same bits on several threads."""
    generator, results = np.random.default_rng(0), []
    X, y, parameters = generator.standard_normal((40, 6)), generator.integers(0, 4, 40), generator.standard_normal(59)
    for threads in (3, 1):
        loss = make_loss()
        layers = [Dense(6, 5), ReLU(), Dense(5, 4), *ending(loss)]
        network = Sequential(layers, loss, CpuBackend(threads), dtype="float64")
        network.parameters[...] = parameters
        assert is_planned(network)
        batch = FullBatch(network, X, y.astype("uint8"), block_rows=7)
        batch.compute_gradients(log=True)
        results.append((network.gradients.copy(), batch.metrics.totals.copy()))
    for several, one in zip(*results, strict=True):
        np.testing.assert_array_equal(several, one)
    gradients, totals = results[0]
    output = network.forward(X)
    network.backward(output, y)
    np.testing.assert_allclose(gradients, network.gradients, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(totals[0], network.loss.calculate(output, y), rtol=1e-12)
    assert totals[1] == pytest.approx(np.mean(output.argmax(axis=1) == y))
    np.testing.assert_allclose(network.predict_proba(X), output, rtol=1e-12)


@EACH_LOSS
def test_network_with_a_loss_is_kept_in_a_file_and_as_a_pickle(make_loss: Callable[[], Loss], tmp_path: Path) -> None:
    generator, loss = np.random.default_rng(0), make_loss()
    X, y = generator.standard_normal((12, 6)), generator.integers(0, 4, 12)
    network = Sequential([Dense(6, 4), *ending(loss)], loss, seed=1)
    network.save(tmp_path / "model.safetensors")
    for again in (load(tmp_path / "model.safetensors"), pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert (type(again.loss), again.loss.config()) == (type(loss), loss.config())
        assert again.evaluate(X, y) == network.evaluate(X, y)
