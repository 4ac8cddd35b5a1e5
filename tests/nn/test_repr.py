"""What Python shows of layers, losses, networks and optimizers: the call that makes one, and nothing raised."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.standin import StandInCupy

from fmnist_xp.backend import CpuBackend, CudaBackend
from fmnist_xp.model import Sequential
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, Network, ReLU, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.optim import SGD, Adam, Optimizer
from fmnist_xp.registry import REGISTRY


class Own(Layer):
    """A layer with arguments of every kind, and a configuration of its own."""

    def __init__(self, depth: Any, /, rate: Any = 0.5, *, name: Any, table: Any = None, backend: Any = None) -> None:
        super().__init__(backend)
        self.kept = {"depth": depth, "rate": rate, "name": name, "table": table}

    def config(self) -> dict[str, Any]:
        return self.kept


class Kept(Layer):
    """A layer whose argument may be anything."""

    def __init__(self, value: Any = 0.5) -> None:
        super().__init__()
        self.value = value


class More(Dense):
    """A Dense layer with an argument more, which hands on the others."""

    def __init__(self, *sizes: int, gain: float = 1.0, **others: Any) -> None:
        super().__init__(*sizes, **others)
        self.gain = gain


class Raising:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("thing", "text"),
    [
        (Dense(784, 128, weight_regularizer_l2=0.0005), "Dense(784, 128, weight_regularizer_l2=0.0005)"),
        (Dense(3, 2, seed=1, dtype="float64"), "Dense(3, 2)"),
        (Dense(3, 2, 0, 1, 0.5), "Dense(3, 2, weight_regularizer_l2=1.0, bias_regularizer_l1=0.5)"),
        (ReLU(), "ReLU()"),
        (Softmax(), "Softmax()"),
        (CategoricalCrossentropy(), "CategoricalCrossentropy()"),
        (SoftmaxCategoricalCrossentropy(CpuBackend(1)), "SoftmaxCategoricalCrossentropy()"),
        (Adam(learning_rate=0.02, decay=1e-5), "Adam(learning_rate=0.02, decay=1e-05)"),
        (Adam(0.001, epsilon=1e-8), "Adam(epsilon=1e-08)"),
        (SGD(), "SGD()"),
        (SGD(momentum=0.9), "SGD(momentum=0.9)"),
        (Own(3, name="a"), "Own(3, name='a')"),
        (Own([1, 2], 0.25, name=None), "Own([1, 2], rate=0.25, name=None)"),
        (Own(3, name="a", table=np.zeros((3, 4), "float32")), "Own(3, name='a', table=<array (3, 4) float32>)"),
        (Kept(ReLU()), "Kept(value=ReLU())"),
        (Kept([Dense(2, 3)]), "Kept(value=[Dense(2, 3)])"),
        (Kept(np.float64(0.5)), "Kept()"),
        (
            More(3, 2, gain=2.0, bias_regularizer_l1=0.5),
            "More(gain=2.0, n_inputs=3, n_neurons=2, bias_regularizer_l1=0.5)",
        ),
    ],
)
def test_call_that_makes_one_like_it(thing: object, text: str) -> None:
    assert repr(thing) == str(thing) == text


@pytest.mark.parametrize("thing", [Dense(3, 2, 0.1), SGD(0.1, momentum=0.5), Adam(0.02, beta_1=0.5), Kept("a")])
def test_text_makes_one_like_it(thing: Any) -> None:
    assert eval(repr(thing), {**globals()}).config() == thing.config()


def test_long_values_are_shortened() -> None:
    assert len(repr(Kept("x" * 10_000))) < 100
    assert repr(Kept(list(range(1000)))) == "Kept(value=[0, 1, 2, 3, 4, 5, ...])"
    assert "\n" not in repr(Kept([np.zeros((2, 2))]))


def test_arrays_of_a_device_are_not_waited_for() -> None:
    cupy = StandInCupy(devices=2)
    with cupy.cuda.Device(1):
        layer = Own(2, name="a", table=cupy.zeros((2, 3)), backend=CudaBackend(1, cupy=cupy))
    waits = cupy.counted(lambda: repr(layer))
    assert not waits
    assert repr(layer) == "Own(2, name='a', table=<array (2, 3) float64>)"


def test_what_is_half_made_tells_what_there_is() -> None:
    class Broken(Layer):
        def __init__(self, depth: int, rate: float) -> None:
            self.rate = rate

    class Lost(Layer):
        def __init__(self, depth: int, rate: float) -> None:
            super().__init__()
            self.rate = rate

    assert repr(Broken(3, 0.5)) == "Broken(rate=0.5)"
    assert repr(Lost(3, 0.5)) == "Lost(rate=0.5)"
    assert repr(Kept(Raising())).startswith("Kept(")
    itself = Kept()
    itself.value = itself
    assert repr(itself) == "Kept(value=…)"
    optimizer = Adam.__new__(Adam)
    assert repr(optimizer) == "Adam()"
    optimizer.learning_rate = 0.5
    assert repr(optimizer) == "Adam(learning_rate=0.5)"


@pytest.mark.parametrize("kind", [*REGISTRY.values(), Own, Kept, More, Network, Sequential])
def test_object_that_was_never_made_has_a_text(kind: type) -> None:
    assert kind.__name__ in repr(kind.__new__(kind))


class Erring(Layer):
    """A layer whose configuration may fail."""

    failure: Any = None

    def __init__(self, depth: int = 3) -> None:
        super().__init__()

    def config(self) -> dict[str, Any]:
        result: dict[str, Any] = self.failure()
        return result


def raise_it() -> Any:
    raise RuntimeError("no configuration")


@pytest.mark.parametrize(
    "failure", [raise_it, lambda: None, lambda: 3, lambda: {"depth": Raising()}, lambda: {"a": 1}]
)
def test_configuration_that_fails_is_no_error(failure: Callable[[], Any]) -> None:
    layer = Erring()
    layer.failure = failure
    assert repr(layer).startswith("Erring(")


@settings(deadline=None, max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.binary(),
        lambda values: st.lists(values) | st.dictionaries(st.text(), values) | st.tuples(values, values),
    )
)
def test_any_argument_has_a_text_of_one_line(value: Any) -> None:
    text = repr(Kept(value))
    assert text.startswith("Kept(")
    assert "\n" not in text


# Networks


def test_network_in_a_line() -> None:
    layers = [Dense(784, 64), ReLU(), Dense(64, 64), ReLU(), Dense(64, 10)]
    expected = (
        "784-64-64-10 on cpu, float32: Dense, ReLU, Dense, ReLU, Dense; SoftmaxCategoricalCrossentropy; "
        "55,050 parameters>"
    )
    assert repr(Sequential(layers)) == f"<Sequential {expected}"
    layers = [Dense(784, 64), ReLU(), Dense(64, 64), ReLU(), Dense(64, 10)]
    assert repr(Network(layers)) == f"<Network {expected}"


def test_network_on_a_gpu_in_a_line() -> None:
    backend = CudaBackend(1, cupy=StandInCupy(devices=2))
    network = Network([Dense(3, 2), Softmax()], CategoricalCrossentropy(), backend, dtype="float16")
    expected = "<Network 3-2 on cuda:1, float16: Dense, Softmax; CategoricalCrossentropy; 8 parameters>"
    assert repr(network) == expected


def test_deep_network_is_named_by_its_ends() -> None:
    network = Network([Dense(5, 5) if number % 2 == 0 else ReLU() for number in range(101)])
    widths = "5-5-5-5-5-5-…-5-5-5-5-5-5"
    names = "Dense, ReLU, Dense, ReLU, Dense, ReLU, …, ReLU, Dense, ReLU, Dense, ReLU, Dense"
    assert repr(network).startswith(f"<Network {widths} on cpu, float32: {names}; Softmax")


def test_network_that_is_not_whole() -> None:
    assert repr(Sequential.__new__(Sequential)) == "<Sequential, not whole>"
    network = Network([Dense(3, 2)])
    del network.parameters
    assert repr(network) == "<Network, not whole>"


def test_optimizer_of_a_users_own() -> None:
    class Signed(Optimizer):
        moments = 0

        def __init__(self, learning_rate: float = 0.1, clip: float = 1.0) -> None:
            super().__init__(learning_rate, 0.0)
            self.clip = clip

        def _update(self, backend: Any, vectors: Any, coefficients: Any) -> None: ...

    assert repr(Signed(clip=2.0)) == "Signed(clip=2.0)"
