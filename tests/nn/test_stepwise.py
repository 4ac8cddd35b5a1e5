"""Layers made of steps, from the outside: what a subclass must define, and how it is used."""

from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import Array, CpuBackend, Formula, Step
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, ReLU
from fmnist_xp.nn.stepwise import StepwiseLayer, is_taken_apart, keeps_width
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.registry import REGISTRY

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.standard_normal((30, 4)), GENERATOR.integers(0, 3, 30)


def negate(xp: Any, values: Array, output: Array) -> None:
    xp.negative(values, out=output)


class Negative(StepwiseLayer):
    """−x, in place where nobody needs x."""

    def forward_steps(
        self, inputs: Array, output: Array, workspace: Workspace, name: str, biases: Array | None = None
    ) -> list[Step]:
        return [Formula(negate, (inputs, output))]

    def backward_steps(
        self, dvalues: Array, inputs: Array, output: Array, dinputs: Array, workspace: Workspace, name: str
    ) -> list[Step]:
        return [Formula(negate, (dvalues, dinputs))]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_class_without_its_steps_says_so(direction: str) -> None:
    class Half(StepwiseLayer):
        """Defines nothing."""

    layer = Half()
    layer.output = layer.inputs = np.ones((1, 1))
    layer._workspace = Workspace(np)
    with pytest.raises(TypeError, match=f"Half does not define {direction}_steps"):
        getattr(layer, direction)(np.ones((1, 1)))


def test_as_a_lesson_it_leaves_its_arguments_alone() -> None:
    layer, x = Negative(), X.copy()
    np.testing.assert_array_equal(layer.forward(x), -X)
    np.testing.assert_array_equal(layer.backward(x), -X)
    np.testing.assert_array_equal(x, X)
    assert layer.forward(np.array([[1, 2]])).dtype == np.float64
    with pytest.raises(ValueError, match="dvalues must have the shape of output"):
        layer.backward(X)


def test_registered_it_trains_taken_apart_to_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    def train() -> Any:
        model = Sequential([Dense(4, 5), Negative(), ReLU(), Negative(), Dense(5, 3)], backend=CpuBackend(1), seed=1)
        model.fit(X, Y, epochs=9, optimizer="adam", verbose=0)
        return model

    called = train()
    assert not is_taken_apart(called.layers[1])
    assert not keeps_width(called.layers[1])
    monkeypatch.setitem(REGISTRY, "negative", Negative)
    apart = train()
    assert is_taken_apart(apart.layers[1])
    assert keeps_width(apart.layers[1])
    np.testing.assert_array_equal(apart.parameters, called.parameters)


def test_a_subclass_of_a_registered_one_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(Negative):
        def forward(self, inputs: Array) -> Array:
            return 2 * super().forward(inputs)

    monkeypatch.setitem(REGISTRY, "negative", Negative)
    assert not is_taken_apart(Doubled())
    monkeypatch.setitem(
        REGISTRY, "doubled", Doubled
    )  # nor where it is registered: its steps are not all that it does
    assert not is_taken_apart(Doubled())
    assert not is_taken_apart(None)
