from collections.abc import Callable

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend, default_backend
from fmnist_xp.nn import CategoricalCrossentropy, Dense, ReLU, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.nn.module import Module

GENERATOR = np.random.default_rng(0)
INPUTS = GENERATOR.standard_normal((6, 4))
LOGITS = GENERATOR.standard_normal((6, 4))
PROBABILITIES = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
LABELS = np.array([0, 3, 1, 2, 0, 1])


def make_calls(module: Module) -> list[Callable[[np.ndarray], np.ndarray]]:
    """Return what `module` does with one array."""
    if isinstance(module, SoftmaxCategoricalCrossentropy):
        return [module.activate, lambda values: module.backward(values, LABELS)]
    if isinstance(module, CategoricalCrossentropy):
        return [
            lambda values: module.forward(values, LABELS),
            lambda values: module.backward(values, LABELS),
        ]
    return [module.forward, module.backward]


def make_modules() -> list[Module]:
    return [
        Dense(4, 4, 0.1, 0.1, 0.1, 0.1, seed=1, dtype="float64"),
        ReLU(),
        Softmax(),
        CategoricalCrossentropy(),
        SoftmaxCategoricalCrossentropy(),
    ]


def named(module: Module) -> str:
    return type(module).__name__


@pytest.mark.parametrize("module", make_modules(), ids=named)
def test_alone_arguments_and_earlier_results_stay_as_they_are(module: Module) -> None:
    for call in make_calls(module):
        values = PROBABILITIES.copy()
        first = call(values)
        held = first.copy()
        second = call(values[::-1].copy())
        np.testing.assert_array_equal(values, PROBABILITIES)
        np.testing.assert_array_equal(first, held)
        assert not np.shares_memory(first, second)
        assert not np.shares_memory(first, values)


@pytest.mark.parametrize("module", make_modules(), ids=named)
def test_replica_gives_the_same_values(module: Module) -> None:
    twin = module.replica()
    for call, twin_call in zip(make_calls(module), make_calls(twin), strict=True):
        expected = call(PROBABILITIES.copy())
        whole = twin_call(PROBABILITIES.copy())
        np.testing.assert_array_equal(whole, expected)


@pytest.mark.parametrize("module", [Dense(4, 3, seed=1), ReLU(), Softmax()], ids=named)
def test_replica_uses_the_head_of_its_buffer_for_fewer_rows(module: Module) -> None:
    twin = module.replica()
    inputs = INPUTS.astype("float32")
    whole = twin.forward(inputs)
    start = whole.ctypes.data
    head = twin.forward(inputs[:2])
    assert head.shape == (2, *whole.shape[1:])
    assert head.ctypes.data == start
    assert twin.forward(inputs).ctypes.data == start
    np.testing.assert_array_equal(head, module.forward(inputs[:2]))


def test_replica_makes_a_larger_or_other_buffer_where_it_must() -> None:
    twin = ReLU().replica()
    small = twin.forward(INPUTS[:2])
    large = twin.forward(INPUTS)
    assert not np.shares_memory(small, large)
    assert twin.forward(INPUTS[:, :3].copy()).shape == (6, 3)
    assert twin.forward(INPUTS.astype("float32")).dtype == np.float32


def test_replicas_share_parameters_and_have_gradients_of_their_own() -> None:
    dense = Dense(4, 3, seed=1)
    twin, other = dense.replica(), dense.replica()
    assert np.shares_memory(twin.weights, dense.weights)
    assert np.shares_memory(twin.biases, dense.biases)
    assert not np.shares_memory(twin.gradients, dense.gradients)
    assert not np.shares_memory(twin.gradients, other.gradients)
    assert np.shares_memory(twin.dweights, twin.gradients)
    inputs = INPUTS.astype("float32")
    assert not np.shares_memory(twin.forward(inputs), other.forward(inputs))


def test_loss_replica_has_buffers_of_its_own() -> None:
    loss = SoftmaxCategoricalCrossentropy()
    twin, other = loss.replica(), loss.replica()
    assert not np.shares_memory(twin.activate(LOGITS), other.activate(LOGITS))
    assert not np.shares_memory(loss.activate(LOGITS), loss.activate(LOGITS))


def test_module_computes_on_the_cpu_unless_told() -> None:
    assert ReLU().backend is default_backend()
    assert default_backend().name == "cpu"
    backend = CpuBackend(1)
    assert ReLU(backend).backend is backend


@pytest.mark.parametrize("module", make_modules(), ids=named)
def test_bind_moves_the_module_to_another_backend(module: Module) -> None:
    backend = CpuBackend(1)
    module.bind(backend)
    assert module.backend is backend
    assert make_calls(module)[0](PROBABILITIES).shape[0] == 6


@pytest.mark.parametrize("module", make_modules(), ids=named)
def test_array_of_another_device_is_refused_with_the_cure(module: Module) -> None:
    class Foreign:
        """Stands for an array of another library."""

    for call in make_calls(module):
        with pytest.raises(ValueError, match=r"Foreign, but .* on cpu with numpy arrays: pass backend\.asarray\("):
            call(Foreign())  # type: ignore[arg-type]
