from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend, default_backend
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, ReLU, Softmax, SoftmaxCategoricalCrossentropy, Tanh
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
        Tanh(),
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
def test_float32_gives_float32(module: Module) -> None:
    for call in make_calls(module):
        assert call(PROBABILITIES.astype("float32")).dtype == np.float32


def test_dunder_methods_stay_as_they_are() -> None:
    class Counted(Layer):
        def __len__(self) -> int:
            return 3

        def forward(self, inputs: Any) -> Any:
            return inputs

    assert not hasattr(Counted.__len__, "__wrapped__")
    assert hasattr(Counted.forward, "__wrapped__")
