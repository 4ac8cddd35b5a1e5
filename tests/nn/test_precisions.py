from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import Call, CpuBackend, Product
from fmnist_xp.nn import Dense, Network, ReLU
from fmnist_xp.train.plan import Plan


class EveryPrecision(CpuBackend):
    """NumPy with a GPU's precisions: products sum in float32 and note whether TF32 was asked for."""

    precisions = ("float32", "float64", "tf32", "float16")

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: list[bool] = []

    def dot_calls(self, product: Product) -> list[Call]:
        assert product.a.dtype == product.b.dtype
        self.asked.append(product.tf32)
        return [(self._multiply, tuple(product))]

    @staticmethod
    def _multiply(a: Any, b: Any, out: Any, scale: float, _tf32: bool) -> None:
        out[...] = scale * (a.astype("float32") @ b.astype("float32"))


def make_batch() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    return generator.standard_normal((7, 5)).astype("float32"), generator.integers(0, 3, 7)


@pytest.mark.parametrize(("dtype", "asks"), [("tf32", True), ("float32", False), ("float16", False)])
def test_products_of_tf32_alone_ask_for_it(dtype: str, asks: bool) -> None:
    backend = EveryPrecision()
    dense = Dense(5, 3, dtype=dtype, backend=backend)
    dense.forward(make_batch()[0])
    dense.backward(np.ones((7, 3), dtype="float32"))
    assert backend.asked == [asks] * 4  # output, dweights, dbiases, dinputs


@pytest.mark.parametrize("dtype", ["tf32", "float16"])
def test_halves_enter_products_and_everything_kept_is_float32(dtype: str) -> None:
    X, y = make_batch()
    network = Network([Dense(5, 4), ReLU(), Dense(4, 3)], backend=EveryPrecision(), dtype=dtype)
    network.parameters[...] = np.random.default_rng(3).standard_normal(network.parameters.shape)
    expected = Network([Dense(5, 4), ReLU(), Dense(4, 3)], backend=CpuBackend(1), dtype="float64")
    expected.load_state_dict(network.state_dict())
    for _ in range(2):
        probabilities = network.forward(X)
        np.testing.assert_allclose(probabilities, expected.forward(X.astype("float64")), atol=5e-3)
        logits = network.dense[-1].output.dtype
        assert (logits, probabilities.dtype) == (np.float32, np.float32)
        network.backward(probabilities, y, reduction="sum")
    expected.backward(expected.forward(X.astype("float64")), y, reduction="sum")
    np.testing.assert_allclose(network.gradients, expected.gradients, atol=2e-2)
    operand = np.float16 if dtype == "float16" else np.float32
    first, last = network.dense
    between = (first.output, network.layers[1].output, last.dinputs, network.loss.dinputs, network.layers[1].dinputs)
    assert {array.dtype for array in between} == {np.dtype(operand)}
    assert {array.dtype for array in (network.parameters, network.gradients)} == {np.dtype("float32")}
    plan = Plan(network)
    gradients = np.empty_like(network.gradients)
    plan.backward(plan.forward(X, training=True), y, gradients)
    np.testing.assert_allclose(gradients, expected.gradients, atol=2e-2)


def test_layer_alone_in_half_precision_gives_halves() -> None:
    dense = Dense(5, 3, dtype="float16", backend=EveryPrecision())
    dense.forward(make_batch()[0])
    dense.backward(np.ones((7, 3), dtype="float32"))
    assert {a.dtype for a in (dense.output, dense.dinputs)} == {np.dtype("float16")}
    assert {a.dtype for a in (dense.parameters, dense.gradients)} == {np.dtype("float32")}
