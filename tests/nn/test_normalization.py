from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.nn import Dense, LayerNorm, Network, ReLU

GENERATOR = np.random.default_rng(5)
X, DVALUES = GENERATOR.standard_normal((2, 13, 7))


def make(dtype: str = "float64", epsilon: float = 1e-5) -> LayerNorm:
    norm, generator = LayerNorm(7, epsilon, dtype=dtype), np.random.default_rng(6)
    norm.gains, norm.biases = generator.standard_normal((2, 1, 7))
    return norm


@pytest.mark.parametrize("epsilon", [1e-5, 0.5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values_and_gradients_agree_with_pytorch(torch: Any, dtype: str, epsilon: float) -> None:
    norm, theirs = make(dtype, epsilon), torch.nn.LayerNorm(7, epsilon, dtype=getattr(torch, dtype))
    x, dvalues = (3 * X + 1).astype(dtype), DVALUES.astype(dtype)
    with torch.no_grad():
        theirs.weight[...], theirs.bias[...] = torch.tensor(norm.gains[0]), torch.tensor(norm.biases[0])
    tensor = torch.tensor(x, requires_grad=True)
    output = theirs(tensor)
    output.backward(torch.tensor(dvalues))
    close = {"rtol": 0, "atol": 20 * np.finfo(dtype).eps}
    np.testing.assert_allclose(norm.forward(x), output.detach().numpy(), **close)
    np.testing.assert_allclose(norm.backward(dvalues), tensor.grad.numpy(), **close)
    np.testing.assert_allclose(norm.dgains[0], theirs.weight.grad.numpy(), **close)
    np.testing.assert_allclose(norm.dbiases[0], theirs.bias.grad.numpy(), **close)


def test_gradients_agree_with_finite_differences() -> None:
    norm, step = make(), 1e-6

    def total(x: np.ndarray) -> float:
        return float(np.sum(norm.forward(x) * DVALUES))

    norm.forward(X)
    dinputs, gradients = norm.backward(DVALUES), norm.gradients.copy()
    for place in np.ndindex(X.shape):
        moved = [
            X + sign * step * (np.arange(X.size).reshape(X.shape) == np.ravel_multi_index(place, X.shape))
            for sign in (1, -1)
        ]
        assert dinputs[place] == pytest.approx((total(moved[0]) - total(moved[1])) / (2 * step), rel=1e-5, abs=1e-7)
    for place in range(norm.size):
        totals = []
        for sign in (1, -1):
            norm.parameters[place] += sign * step
            totals.append(total(X))
            norm.parameters[place] -= sign * step
        assert gradients[place] == pytest.approx((totals[0] - totals[1]) / (2 * step), rel=1e-5, abs=1e-7)


def test_rows_have_mean_0_and_deviation_1_at_first() -> None:
    output = LayerNorm(7, dtype="float64").forward(100 * X + 1000)
    np.testing.assert_allclose(output.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose(output.std(axis=1), 1, rtol=1e-8)


def test_rows_of_one_number_give_the_biases() -> None:
    norm = make()
    np.testing.assert_array_equal(norm.forward(np.full((3, 7), 0.5)), np.broadcast_to(norm.biases, (3, 7)))


def test_arguments_are_left_as_they_were_and_dtypes_are_kept() -> None:
    norm, x, dvalues = make("float32"), X.copy(), DVALUES.astype("float16")
    assert norm.forward(x).dtype == np.float64
    assert norm.backward(dvalues).dtype == np.float16
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(dvalues, DVALUES.astype("float16"))
    assert {values.dtype.name for values in (norm.gains, norm.biases, norm.dgains, norm.dbiases)} == {"float32"}


def test_drawing_anew_begins_anew() -> None:
    network = Network([Dense(3, 7), norm := make("float32"), Dense(7, 2)], seed=1)
    assert network.backend.to_host(norm.gains).tolist() == [[1.0] * 7]
    assert not norm.biases.any()


def test_gradients_of_blocks_add_up_and_are_no_sum_of_passes() -> None:
    norm = make()
    norm.forward(X)
    norm.backward(DVALUES)
    whole, parts = norm.gradients.copy(), np.zeros(norm.size)
    for part in (slice(0, 5), slice(5, 13)):
        norm.forward(X[part])
        norm.backward(DVALUES[part])
        parts += norm.gradients
    np.testing.assert_allclose(parts, whole, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_features": 0}, "n_features must be at least 1, got 0"),
        ({"n_features": 7.0}, "n_features must be a whole number, got 7.0"),
        ({"n_features": 7, "epsilon": 0}, "epsilon must be above 0 and finite, got 0"),
        ({"n_features": 7, "dtype": "int8"}, "dtype must be one of"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerNorm(**arguments)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"inputs must have the shape \(rows, 7\), got \(2, 6\)"):
        make().forward(np.ones((2, 6)))
    with pytest.raises(ValueError, match=r"dense1 has 4 neurons, but layer 3 \(LayerNorm\) takes 7 columns"):
        Network([Dense(3, 4), ReLU(), make(), Dense(7, 2)], backend=CpuBackend(1))
    with pytest.raises(ValueError, match=r"dense1 has 7 neurons, but dense2 takes 6"):
        Network([Dense(3, 7), make(), Dense(6, 2)], backend=CpuBackend(1))


def test_gradient_before_an_output_is_refused() -> None:
    with pytest.raises(AttributeError, match="LayerNorm has no output yet: call forward first"):
        make().backward(DVALUES)
