from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.nn import Dense, Network, ReLU


class EveryPrecision(CpuBackend):
    """NumPy with a GPU's precisions: products sum in float32 and note whether TF32 was asked for."""

    precisions = ("float32", "float64", "tf32", "float16")

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: list[bool] = []

    def dot(self, a: Any, b: Any, out: Any, scale: float = 1.0, tf32: bool = False) -> None:
        assert a.dtype == b.dtype
        self.asked.append(tf32)
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
@pytest.mark.parametrize("in_replica", [False, True])
def test_halves_enter_products_and_everything_kept_is_float32(dtype: str, in_replica: bool) -> None:
    X, y = make_batch()
    whole = Network([Dense(5, 4), ReLU(), Dense(4, 3)], backend=EveryPrecision(), dtype=dtype)
    whole.parameters[...] = np.random.default_rng(3).standard_normal(whole.parameters.shape)
    expected = Network([Dense(5, 4), ReLU(), Dense(4, 3)], backend=CpuBackend(1), dtype="float64")
    expected.load_state_dict(whole.state_dict())
    network = whole.replica() if in_replica else whole
    for _ in range(2):
        probabilities = network.forward(X)
        np.testing.assert_allclose(probabilities, expected.forward(X.astype("float64")), atol=5e-3)
        logits = network.dense[-1].output.dtype
        assert (logits, probabilities.dtype) == (np.float32, np.float32)
        network.backward(probabilities, y, samples=1)
    expected.backward(expected.forward(X.astype("float64")), y, samples=1)
    np.testing.assert_allclose(network.gradients, expected.gradients, atol=2e-2)
    operand = np.float16 if dtype == "float16" else np.float32
    first, last = network.dense
    between = (first.output, network.layers[1].output, last.dinputs, network.loss.dinputs, network.layers[1].dinputs)
    assert {array.dtype for array in between} == {np.dtype(operand)}
    assert {array.dtype for array in (network.parameters, network.gradients)} == {np.dtype("float32")}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_factor_on_the_inputs_goes_into_their_products(dtype: str) -> None:
    dense = Dense(2, 1, dtype=dtype, backend=EveryPrecision())
    dense.weights = [[2], [-3]]
    dense.biases = [[5]]
    dense.input_scale = 0.5
    np.testing.assert_array_equal(dense.forward([[2, 20], [4, 40]]), [[2 - 30 + 5], [4 - 60 + 5]])
    np.testing.assert_array_equal(dense.backward([[1], [5]]), [[2, -3], [10, -15]])
    np.testing.assert_array_equal(dense.dweights, [[11], [110]])
    np.testing.assert_array_equal(dense.dbiases, [[6]])
    dense.set_precision(dtype)
    np.testing.assert_array_equal(dense.forward([[1, 10]]), [[2 - 30 + 5]])


def test_layer_alone_in_half_precision_gives_halves() -> None:
    dense = Dense(5, 3, dtype="float16", backend=EveryPrecision())
    dense.forward(make_batch()[0])
    dense.backward(np.ones((7, 3), dtype="float32"))
    assert {a.dtype for a in (dense.output, dense.dinputs)} == {np.dtype("float16")}
    assert {a.dtype for a in (dense.parameters, dense.gradients)} == {np.dtype("float32")}
