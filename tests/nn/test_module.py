from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend, default_backend
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, ReLU, Softmax, SoftmaxCategoricalCrossentropy
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


@pytest.mark.parametrize(
    "make", [ReLU, Softmax, CategoricalCrossentropy, SoftmaxCategoricalCrossentropy, partial(Dense, 2, 3)]
)
def test_module_computes_where_it_is_told(make: Callable[..., Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.nn.module.default_backend", lambda: pytest.fail("another backend was asked for"))
    backend = CpuBackend(1)
    assert make(backend=backend).backend is backend


@pytest.mark.parametrize("module", make_modules(), ids=named)
def test_bind_moves_the_module_to_another_backend(module: Module) -> None:
    backend = CpuBackend(1)
    module.bind(backend)
    assert module.backend is backend
    assert make_calls(module)[0](PROBABILITIES).shape[0] == 6


@pytest.mark.parametrize("module", make_modules(), ids=named)
def test_replica_that_moves_makes_its_buffers_anew(module: Module) -> None:
    twin = module.replica()
    for _ in range(2):
        results = [call(PROBABILITIES.copy()) for call in make_calls(twin)]
        twin.bind(CpuBackend(1))
        for call, before in zip(make_calls(twin), results, strict=True):
            assert not np.shares_memory(call(PROBABILITIES.copy()), before)


@pytest.mark.parametrize("module", make_modules(), ids=named)
def test_array_of_another_device_is_refused_with_the_cure(module: Module) -> None:
    class Foreign:
        """Stands for an array of another library."""

    if isinstance(module, SoftmaxCategoricalCrossentropy):
        names = ["inputs", "predictions"]
    elif isinstance(module, CategoricalCrossentropy):
        names = ["predictions", "predictions"]
    else:
        names = ["inputs", "dvalues"]
    for call, name in zip(make_calls(module), names, strict=True):
        cure = rf"^{name} is a .*Foreign, but .* on cpu with numpy arrays: pass backend\.asarray\({name}\)$"
        with pytest.raises(ValueError, match=cure):
            call(Foreign())  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [CategoricalCrossentropy(), SoftmaxCategoricalCrossentropy()], ids=named)
def test_labels_of_another_device_are_refused_by_name(loss: CategoricalCrossentropy) -> None:
    for call in (loss.sample_losses, loss.backward):
        with pytest.raises(ValueError, match=r"^labels is a builtins.str, but .*: pass backend\.asarray\(labels\)$"):
            call(PROBABILITIES, "012")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "module", [ReLU(), Softmax(), CategoricalCrossentropy(), SoftmaxCategoricalCrossentropy()], ids=named
)
def test_float32_gives_float32_and_keeps_nothing_wider(module: Module) -> None:
    twin = module.replica()
    for alone in (module, twin):
        for call in make_calls(alone):
            assert call(PROBABILITIES.astype("float32")).dtype == np.float32
    assert {str(buffer.dtype) for buffer in twin._buffers.values() if buffer.dtype.kind == "f"} <= {"float32"}


def step_of(module: Module) -> Module:
    """Return a replica of `module` that has computed a value and its gradient for 6 rows, then for 2."""
    twin: Any = module.replica()
    for rows in (6, 2):
        if isinstance(module, CategoricalCrossentropy):
            probabilities = twin.activate(LOGITS[:rows].copy())
            twin.true_probabilities(probabilities, np.zeros(rows, "uint8"))
            twin.backward(probabilities, np.zeros(rows, "uint8"))
        else:
            twin.backward(twin.forward(INPUTS[:rows].astype("float32")).copy())
    return twin


KEPT: list[tuple[Module, dict[str, tuple[tuple[int, ...], str]]]] = [
    (
        Dense(4, 4, dtype="float64"),
        {
            "inputs": ((6, 4), "float64"),  # rows came in float32
            "output": ((6, 4), "float64"),
            "dinputs": ((6, 4), "float64"),
            "ones": ((6, 1), "float64"),
        },
    ),
    (ReLU(), {"output": ((6, 4), "float32")}),
    (
        Softmax(),
        {
            "output": ((6, 4), "float32"),
            "row": ((6, 1), "float32"),
            "by_class": ((24,), "float32"),
            "ones": ((4, 1), "float32"),
            "products": ((6, 4), "float32"),
            "dinputs": ((6, 4), "float32"),
        },
    ),
    (
        CategoricalCrossentropy(),
        {
            "starts of 4": ((6,), "int64"),
            "places": ((6,), "int64"),
            "dinputs": ((6, 4), "float64"),
        },
    ),
    (SoftmaxCategoricalCrossentropy(), {"starts of 4": ((6,), "int64"), "places": ((6,), "int64")}),
]


@pytest.mark.parametrize(("module", "buffers"), KEPT, ids=lambda value: type(value).__name__)
def test_replica_keeps_these_buffers_and_no_more(
    module: Module, buffers: dict[str, tuple[tuple[int, ...], str]]
) -> None:
    kept = step_of(module)._buffers
    assert {name: (buffer.shape, buffer.dtype.name) for name, buffer in kept.items()} == buffers


def test_true_probabilities_are_found_by_places_that_stay() -> None:
    twin = CategoricalCrossentropy().replica()
    for labels in (np.zeros(6, "uint8"), np.full(6, 3, "uint8")):
        twin.true_probabilities(PROBABILITIES, labels)
        np.testing.assert_array_equal(twin._buffers["places"], 4 * np.arange(6) + labels[0])


def test_dunder_methods_stay_as_they_are() -> None:
    class Counted(Layer):
        def __len__(self) -> int:
            return 3

        def forward(self, inputs: Any) -> Any:
            return inputs

    assert not hasattr(Counted.__len__, "__wrapped__")
    assert hasattr(Counted.forward, "__wrapped__")
    assert not Counted.is_replayable()
    assert Dense.is_replayable() is True
    assert Counted.is_replayable() is False


def test_replica_of_a_loss_checks_no_labels_and_has_the_dtype_of_its_predictions() -> None:
    loss = CategoricalCrossentropy()
    assert (loss.checks_labels, loss.replica().checks_labels) == (True, False)
    assert loss.gradient_dtype is None
