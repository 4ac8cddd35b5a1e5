import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmnist_xp.nn import Dense, Layer

PENALTIES = {
    "none": (0.0, 0.0, 0.0, 0.0),
    "weights l1": (0.3, 0.0, 0.0, 0.0),
    "weights l2": (0.0, 0.3, 0.0, 0.0),
    "biases l1": (0.0, 0.0, 0.3, 0.0),
    "biases l2": (0.0, 0.0, 0.0, 0.3),
    "all": (0.1, 0.2, 0.3, 0.4),
}


def make_dense(penalties: tuple[float, float, float, float] = PENALTIES["none"], rows: int = 5) -> Any:
    """Return a Dense(4, 3) with parameters away from 0, inputs and the gradient of its output."""
    generator = np.random.default_rng(3)
    dense = Dense(4, 3, *penalties, dtype="float64")
    signs = generator.choice([-1.0, 1.0], dense.size)
    dense.parameters[...] = signs * generator.uniform(0.2, 1.0, dense.size)
    return dense, generator.standard_normal((rows, 4)), generator.standard_normal((rows, 3))


def test_output_by_hand() -> None:
    dense = Dense(2, 3)
    dense.weights = [[1, 2, 3], [4, 5, 6]]
    dense.biases = [[10, 20, 30]]
    output = dense.forward([[1, 1], [2, -1]])
    np.testing.assert_array_equal(output, [[15, 27, 39], [8, 19, 30]])
    assert output is dense.output
    assert output.dtype == np.float32


def test_gradients_by_hand() -> None:
    dense = Dense(2, 1)
    dense.weights = [[2], [-3]]
    dense.forward([[1, 10], [2, 20]])
    dinputs = dense.backward([[1], [5]])
    np.testing.assert_array_equal(dense.dweights, [[11], [110]])
    np.testing.assert_array_equal(dense.dbiases, [[6]])
    np.testing.assert_array_equal(dinputs, [[2, -3], [10, -15]])
    assert dinputs is dense.dinputs


@pytest.mark.parametrize("penalties", PENALTIES.values(), ids=PENALTIES)
def test_gradients_agree_with_finite_differences(
    penalties: tuple[float, float, float, float], numeric_gradient: Callable[..., np.ndarray]
) -> None:
    dense, inputs, dvalues = make_dense(penalties)

    def loss() -> float:
        return float((dense.forward(inputs) * dvalues).sum() + dense.regularization_loss())

    dense.forward(inputs)
    dinputs = dense.backward(dvalues).copy()
    for analytic, array in ((dense.dweights, dense.weights), (dense.dbiases, dense.biases), (dinputs, inputs)):
        np.testing.assert_allclose(analytic, numeric_gradient(loss, array), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("penalties", PENALTIES.values(), ids=PENALTIES)
def test_gradients_agree_with_pytorch(penalties: tuple[float, float, float, float], torch: Any) -> None:
    dense, inputs, dvalues = make_dense(penalties)
    weights, biases, x = (torch.tensor(a, requires_grad=True) for a in (dense.weights, dense.biases, inputs))
    l1_w, l2_w, l1_b, l2_b = penalties
    penalty = l1_w * weights.abs().sum() + l2_w * (weights**2).sum()
    penalty = penalty + l1_b * biases.abs().sum() + l2_b * (biases**2).sum()
    (((x @ weights + biases) * torch.tensor(dvalues)).sum() + penalty).backward()

    dense.forward(inputs)
    dense.backward(dvalues)
    for analytic, tensor in ((dense.dweights, weights), (dense.dbiases, biases), (dense.dinputs, x)):
        np.testing.assert_allclose(analytic, tensor.grad.numpy(), rtol=1e-12, atol=1e-14)
    assert float(dense.regularization_loss()) == pytest.approx(penalty.item(), rel=1e-13, abs=0)


def test_slope_of_l1_at_zero_is_plus_one() -> None:
    dense = Dense(3, 1, weight_regularizer_l1=0.5, bias_regularizer_l1=0.25)
    dense.weights = [[0.0], [-2.0], [2.0]]
    dense.biases = [[-0.0]]
    dense.forward(np.zeros((1, 3)))
    dense.backward(np.zeros((1, 1)))
    np.testing.assert_array_equal(dense.dweights, [[0.5], [-0.5], [0.5]])
    np.testing.assert_array_equal(dense.dbiases, [[0.25]])


@pytest.mark.parametrize(
    ("penalties", "expected"),
    [
        ((0.0, 0.0, 0.0, 0.0), 0.0),
        ((0.5, 0.0, 0.0, 0.0), 0.5 * 10),
        ((0.0, 0.5, 0.0, 0.0), 0.5 * 30),
        ((0.0, 0.0, 0.5, 0.0), 0.5 * 11),
        ((0.0, 0.0, 0.0, 0.5), 0.5 * 61),
        ((1.0, 2.0, 3.0, 4.0), 10 + 60 + 33 + 244),
    ],
)
def test_regularization_loss_by_hand(penalties: tuple[float, float, float, float], expected: float) -> None:
    dense = Dense(2, 2, *penalties)
    dense.weights = [[1, -2], [3, -4]]
    dense.biases = [[-5, 6]]
    assert float(dense.regularization_loss()) == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_number_whose_square_is_too_large_costs_nothing_without_penalties(value: float) -> None:
    dense = Dense(2, 3)
    dense.weights = np.full((2, 3), value)
    assert float(dense.regularization_loss()) == 0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))
def test_layer_is_affine(seed: int, rows: int, inputs: int, neurons: int) -> None:
    dense = Dense(inputs, neurons, seed=seed, dtype="float64")
    generator = np.random.default_rng(seed)
    dense.biases = generator.standard_normal((1, neurons))
    a, b = generator.standard_normal((2, rows, inputs))
    both = dense.forward(a + b) + dense.biases
    np.testing.assert_allclose(both, dense.forward(a) + dense.forward(b), rtol=1e-9, atol=1e-12)


def test_weights_are_drawn_small_and_normal_from_the_seed_and_biases_are_zero() -> None:
    dense = Dense(5, 4, seed=7, dtype="float64")
    np.testing.assert_array_equal(dense.weights, 0.01 * np.random.default_rng(7).standard_normal((5, 4)))
    np.testing.assert_array_equal(dense.biases, np.zeros((1, 4)))
    assert not np.array_equal(dense.weights, Dense(5, 4, seed=8, dtype="float64").weights)
    assert not np.array_equal(Dense(5, 4).weights, Dense(5, 4).weights)


def test_weights_and_biases_are_views_of_one_vector() -> None:
    dense = Dense(2, 3)
    dense.parameters[...] = np.arange(9)
    np.testing.assert_array_equal(dense.weights, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(dense.biases, [[6, 7, 8]])
    dense.gradients[...] = np.arange(9)
    np.testing.assert_array_equal(dense.dweights, [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(dense.dbiases, [[6, 7, 8]])


def test_assigning_copies_the_values_into_the_vector() -> None:
    dense = Dense(2, 1)
    values = np.array([[1.0], [2.0]])
    dense.weights = values
    dense.biases = [[3.0]]
    values[...] = 9
    np.testing.assert_array_equal(dense.parameters, [1, 2, 3])


@pytest.mark.parametrize(("name", "shape"), [("weights", (2, 3)), ("biases", (1, 3))])
def test_assigning_another_shape_is_refused(name: str, shape: tuple[int, int]) -> None:
    dense = Dense(2, 3, seed=1)
    held = dense.parameters.copy()
    message = rf"{name} must have the shape \({shape[0]}, {shape[1]}\), got \(3, 2\)"
    with pytest.raises(ValueError, match=message):
        setattr(dense, name, np.ones((3, 2)))
    np.testing.assert_array_equal(dense.parameters, held)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_has_the_dtype_of_the_layer(dtype: str) -> None:
    dense = Dense(2, 3, 0.1, 0.1, 0.1, 0.1, dtype=dtype)
    dense.forward(np.ones((4, 2), dtype="uint8"))
    dense.backward(np.ones((4, 3), dtype="float32"))
    arrays = (dense.output, dense.dinputs, dense.dweights, dense.dbiases, dense.regularization_loss())
    assert {str(array.dtype) for array in arrays} == {dtype}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_inputs": 0}, "n_inputs must be at least 1, got 0"),
        ({"n_neurons": -3}, "n_neurons must be at least 1, got -3"),
        ({"weight_regularizer_l1": -0.1}, "weight_regularizer_l1 must be at least 0 and finite, got -0.1"),
        ({"weight_regularizer_l2": math.nan}, "weight_regularizer_l2 must be .* got nan"),
        ({"bias_regularizer_l1": math.inf}, "bias_regularizer_l1 must be .* got inf"),
        ({"bias_regularizer_l2": -1}, "bias_regularizer_l2 must be .* got -1"),
        ({"dtype": "int8"}, "dtype must be one of float32, float64, .*got 'int8'"),
    ],
)
def test_argument_out_of_range_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Dense(**{"n_inputs": 2, "n_neurons": 2, **arguments})


@pytest.mark.parametrize("inputs", [np.ones((3, 4)), np.ones(2), np.ones((1, 2, 2))])
def test_inputs_of_another_width_are_refused(inputs: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"inputs must have the shape \(rows, 2\), got \("):
        Dense(2, 3).forward(inputs)


def test_dvalues_of_another_shape_are_refused() -> None:
    dense = Dense(2, 3)
    dense.forward(np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"dvalues must have the shape of output, \(4, 3\), got \(4, 2\)"):
        dense.backward(np.ones((4, 2)))


def test_dvalues_of_the_right_dtype_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    dense, inputs, dvalues = make_dense()
    dense.forward(inputs)
    given: list[np.ndarray] = []
    monkeypatch.setattr(dense, "backward_parameters", given.append)
    dense.backward(dvalues)
    assert given[0] is dvalues


def test_config_makes_a_layer_like_this_one() -> None:
    dense = Dense(2, 3, 0.1, 0.2, 0.3, 0.4)
    assert Dense(**dense.config()).config() == dense.config()
    assert dense.config() == {
        "n_inputs": 2,
        "n_neurons": 3,
        "weight_regularizer_l1": 0.1,
        "weight_regularizer_l2": 0.2,
        "bias_regularizer_l1": 0.3,
        "bias_regularizer_l2": 0.4,
    }


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_layer_without_a_direction_says_so(direction: str) -> None:
    class Half(Layer):
        """Defines neither direction."""

    with pytest.raises(TypeError, match=f"Half does not define {direction}"):
        getattr(Half(), direction)(np.ones((1, 1)))
