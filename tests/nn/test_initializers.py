from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmnist_xp.model import Sequential, load
from fmnist_xp.nn import Dense, ReLU
from fmnist_xp.nn.initializers import INITIALIZERS

N_INPUTS, N_NEURONS = 300, 200


def of_pytorch(torch: Any) -> dict[str, Callable[[Any], Any]]:
    """Return what fills a weight (n_neurons, n_inputs) of PyTorch's by our names."""
    init = torch.nn.init
    return {
        "he_normal": lambda weight: init.kaiming_normal_(weight, nonlinearity="relu"),
        "he_uniform": lambda weight: init.kaiming_uniform_(weight, nonlinearity="relu"),
        "glorot_normal": init.xavier_normal_,
        "glorot_uniform": init.xavier_uniform_,
        "lecun_normal": lambda weight: init.kaiming_normal_(weight, nonlinearity="linear"),
        "lecun_uniform": lambda weight: init.kaiming_uniform_(weight, nonlinearity="linear"),
    }


def test_distributions_are_those_of_pytorch(torch: Any) -> None:
    torch.manual_seed(0)
    fills = of_pytorch(torch)
    assert {"normal", *fills} == set(INITIALIZERS)
    for name, fill in fills.items():
        dense = Dense(N_INPUTS, N_NEURONS, initializer=name, seed=0)
        theirs = fill(torch.empty(N_NEURONS, N_INPUTS)).numpy()
        assert np.std(dense.weights) == pytest.approx(np.std(theirs), rel=0.015), name
        assert abs(np.mean(dense.weights)) < 5 * np.std(theirs) / np.sqrt(theirs.size)
        if name.endswith("uniform"):
            assert np.abs(dense.weights).max() == pytest.approx(np.abs(theirs).max(), rel=1e-3), name
        else:
            assert np.abs(dense.weights).max() > 3.5 * np.std(theirs), name  # not truncated
        assert not dense.biases.any()


def test_normal_draws_the_notebooks_bits_and_is_the_default() -> None:
    expected = (0.01 * np.random.default_rng(3).standard_normal((5, 4))).astype("float32")
    for dense in (Dense(5, 4, seed=3), Dense(5, 4, initializer="normal", seed=3)):
        np.testing.assert_array_equal(dense.weights, expected)
        assert "initializer" not in dense.config()
        assert repr(dense) == "Dense(5, 4)"


@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_a_network_draws_anew_in_each_precision_alike_and_a_file_keeps_how(initializer: str, tmp_path: Any) -> None:
    def make(dtype: str) -> Sequential:
        layers = [Dense(6, 5, initializer=initializer), ReLU(), Dense(5, 3, initializer=initializer)]
        return Sequential(layers, seed=2, dtype=dtype)

    network = make("float32")
    np.testing.assert_array_equal(network.parameters, make("float64").parameters.astype("float32"))
    network.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert [layer.initializer for layer in again.dense] == [initializer] * 2
    np.testing.assert_array_equal(again.parameters, network.parameters)
    again.dense[0].init_parameters(np.random.default_rng(2))
    np.testing.assert_array_equal(again.dense[0].weights, network.dense[0].weights)


@pytest.mark.parametrize("name", ["he", "uniform", "", None, 3, ["normal"]])
def test_another_name_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"initializer must be one of normal, he_normal, .*, got "):
        Dense(2, 3, initializer=name)
