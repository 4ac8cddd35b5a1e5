from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fmnist_xp.nn import Layer, ReLU, Softmax

ROWS = arrays("float64", (3, 5), elements=st.floats(-50, 50))


def away_from_zero(seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.choice([-1.0, 1.0], (4, 5)) * generator.uniform(0.1, 2.0, (4, 5))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_values_and_gradient_by_hand(dtype: str) -> None:
    relu = ReLU()
    output = relu.forward(np.array([[-1.0, -0.0, 0.0, 1e-30, 2.0]], dtype=dtype))
    np.testing.assert_array_equal(output, np.array([[0, 0, 0, 1e-30, 2]], dtype=dtype))
    dinputs = relu.backward(np.array([[5, 6, 7, 8, 9]], dtype=dtype))
    np.testing.assert_array_equal(dinputs, [[0, 0, 0, 8, 9]])
    assert output.dtype == dinputs.dtype == dtype
    assert relu.output is output
    assert relu.dinputs is dinputs


@settings(deadline=None, max_examples=25)
@given(ROWS)
def test_relu_of_x_and_minus_x_differ_by_x(x: np.ndarray) -> None:
    np.testing.assert_array_equal(ReLU().forward(x) - ReLU().forward(-x), x)


def test_softmax_by_hand() -> None:
    output = Softmax().forward(np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 6.0]]))
    np.testing.assert_allclose(output, [[0.125, 0.25, 0.625], [0.25, 0.25, 0.5]], rtol=1e-15)


@settings(deadline=None, max_examples=25)
@given(ROWS, st.floats(-1000, 1000))
def test_softmax_rows_sum_to_one_and_do_not_see_a_shift(x: np.ndarray, shift: float) -> None:
    output = Softmax().forward(x)
    np.testing.assert_allclose(output.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(Softmax().forward(x + shift), output, rtol=1e-9)


def test_softmax_does_not_overflow() -> None:
    output = Softmax().forward(np.array([[1e30, 0, -1e30], [-1e30, -1e30, -1e30]], dtype="float32"))
    np.testing.assert_allclose(output, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("values", [[[1, 2, 3]], np.array([[1, 2, 3]], dtype="uint8")], ids=["list", "uint8"])
def test_softmax_takes_integers(values: Any) -> None:
    exponentials = np.exp([1.0, 2.0, 3.0])
    np.testing.assert_allclose(Softmax().forward(values), [exponentials / exponentials.sum()], rtol=1e-6)


def test_softmax_gradient_is_the_jacobian() -> None:
    softmax = Softmax()
    (s,) = softmax.forward(np.log([[1.0, 2.0, 5.0]]))
    dvalues = np.array([[1.0, -2.0, 3.0]])
    jacobian = np.diag(s) - np.outer(s, s)
    np.testing.assert_allclose(softmax.backward(dvalues), dvalues @ jacobian, rtol=1e-14)


@pytest.mark.parametrize("activation", [ReLU(), Softmax()], ids=["relu", "softmax"])
def test_gradient_agrees_with_finite_differences(
    activation: Layer, numeric_gradient: Callable[..., np.ndarray]
) -> None:
    x = away_from_zero()
    dvalues = np.random.default_rng(1).standard_normal(x.shape)
    activation.forward(x)
    dinputs = activation.backward(dvalues).copy()
    expected = numeric_gradient(lambda: (activation.forward(x) * dvalues).sum(), x)
    np.testing.assert_allclose(dinputs, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(
    ("activation", "oracle"),
    [(ReLU(), lambda torch, x: torch.relu(x)), (Softmax(), lambda torch, x: torch.softmax(x, 1))],
    ids=["relu", "softmax"],
)
def test_values_and_gradient_agree_with_pytorch(
    activation: Layer, oracle: Callable[[Any, Any], Any], torch: Any
) -> None:
    x = away_from_zero()
    dvalues = np.random.default_rng(1).standard_normal(x.shape)
    tensor = torch.tensor(x, requires_grad=True)
    expected = oracle(torch, tensor)
    expected.backward(torch.tensor(dvalues))
    np.testing.assert_allclose(activation.forward(x), expected.detach().numpy(), rtol=1e-14)
    np.testing.assert_allclose(activation.backward(dvalues), tensor.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("activation", [ReLU(), Softmax()], ids=["relu", "softmax"])
def test_activation_has_no_arguments_to_save(activation: Layer) -> None:
    assert activation.config() == {}


def test_lists_and_whole_numbers_are_taken() -> None:
    assert ReLU().forward([1, -2]).tolist() == [1.0, 0.0]
    assert ReLU().forward(np.array([[3, -1]])).dtype == np.float64
    np.testing.assert_allclose(Softmax().forward([[0, 0], [1, 1]]), 0.5)
    relu = ReLU()
    relu.forward([[1, -2]])
    assert relu.backward([[5, 6]]).tolist() == [[5, 0]]


@pytest.mark.parametrize("inputs", [[1.0, 2.0], np.zeros((2, 0)), np.zeros((1, 2, 3))])
def test_softmax_of_anything_but_rows_is_refused(inputs: Any) -> None:
    with pytest.raises(ValueError, match=r"inputs must have the shape \(rows, classes\), got \("):
        Softmax().forward(inputs)


@pytest.mark.parametrize("kind", [ReLU, Softmax])
@pytest.mark.parametrize("values", [["a"], [[1j]], [[None]]])
def test_what_holds_no_numbers_is_refused(kind: type[Layer], values: Any) -> None:
    with pytest.raises(ValueError, match="inputs must hold real numbers, got dtype "):
        kind().forward(values)


@pytest.mark.parametrize("kind", [ReLU, Softmax])
def test_gradient_of_another_shape_is_refused(kind: type[Layer]) -> None:
    layer = kind()
    layer.forward(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"dvalues must have the shape of output, \(2, 3\), got \(1, 3\)"):
        layer.backward(np.ones((1, 3)))
