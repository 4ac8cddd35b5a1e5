from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.nn import (
    CategoricalCrossentropy,
    Dense,
    Layer,
    Network,
    ReLU,
    Softmax,
    SoftmaxCategoricalCrossentropy,
)

CPU = CpuBackend(1)


def make_network(split_softmax: bool = False, dtype: str = "float64", seed: int = 1) -> Network:
    """Return a 5-4-3-3 network with penalties everywhere and parameters away from 0."""
    layers: list[Layer] = [
        Dense(5, 4, 0.01, 0.02, 0.03, 0.04),
        ReLU(),
        Dense(4, 3, 0.0, 0.05),
        ReLU(),
        Dense(3, 3, 0.06, 0.0, 0.0, 0.07),
    ]
    loss = CategoricalCrossentropy() if split_softmax else None
    network = Network([*layers, Softmax()] if split_softmax else layers, loss, CPU, dtype=dtype)
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], network.parameters.shape)
    network.parameters[...] = signs * generator.uniform(0.2, 1.0, network.parameters.shape)
    return network


def make_batch(rows: int = 7, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    return generator.standard_normal((rows, 5)), generator.integers(0, classes, rows)


def total_loss(network: Network, X: np.ndarray, y: np.ndarray) -> float:
    return float(network.loss.calculate(network.forward(X), y) + network.regularization_loss())


def test_parameters_are_one_vector_layer_by_layer_weights_first() -> None:
    network = Network([Dense(2, 2), ReLU(), Dense(2, 1)], backend=CPU)
    network.parameters[...] = np.arange(9)
    network.gradients[...] = np.arange(9)
    first, second = network.dense
    np.testing.assert_array_equal(first.weights, [[0, 1], [2, 3]])
    np.testing.assert_array_equal(first.biases, [[4, 5]])
    np.testing.assert_array_equal(second.weights, [[6], [7]])
    np.testing.assert_array_equal(second.biases, [[8]])
    np.testing.assert_array_equal(second.dweights, [[6], [7]])
    np.testing.assert_array_equal(first.dbiases, [[4, 5]])


def test_layers_lie_one_after_another_in_the_vectors() -> None:
    layers = [Dense(2, 1), ReLU(), Dense(1, 3), Dense(3, 2)]
    network = Network(layers, backend=CPU, dtype="float64")
    network.parameters[...] = np.arange(17)
    network.gradients[...] = -np.arange(17)
    sizes = [layer.parameters.tolist() for layer in network.dense]
    assert sizes == [[0, 1, 2], [3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16]]
    assert [(-layer.gradients).tolist() for layer in network.dense] == sizes


def test_widths() -> None:
    network = Network([Dense(5, 4), ReLU(), Dense(4, 2), Dense(2, 3)], backend=CPU)
    assert (network.n_inputs, network.n_classes, network.widths) == (5, 3, [5, 4, 2, 3])


def test_layers_keep_their_weights_without_a_seed() -> None:
    first, second = Dense(5, 4, seed=1), Dense(4, 3, seed=2)
    held = [first.weights.copy(), second.weights.copy()]
    network = Network([first, ReLU(), second], backend=CPU)
    np.testing.assert_array_equal(network.dense[0].weights, held[0])
    np.testing.assert_array_equal(network.dense[1].weights, held[1])


def test_seed_draws_all_weights_from_one_stream() -> None:
    network = Network([Dense(5, 4), ReLU(), Dense(4, 3)], backend=CPU, seed=3, dtype="float64")
    generator = np.random.default_rng(3)
    for layer, shape in zip(network.dense, [(5, 4), (4, 3)], strict=True):
        np.testing.assert_array_equal(layer.weights, 0.01 * generator.standard_normal(shape))
        assert not layer.biases.any()


@pytest.mark.parametrize("split_softmax", [False, True], ids=["joined", "split"])
def test_gradient_agrees_with_finite_differences(
    split_softmax: bool, numeric_gradient: Callable[..., np.ndarray]
) -> None:
    network = make_network(split_softmax)
    X, y = make_batch()
    network.backward(network.forward(X), y)
    network.add_penalty_gradients()
    expected = numeric_gradient(lambda: total_loss(network, X, y), network.parameters)
    np.testing.assert_allclose(network.gradients, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("split_softmax", [False, True], ids=["joined", "split"])
def test_loss_and_gradient_agree_with_pytorch(split_softmax: bool, torch_reference: Callable[[Network], Any]) -> None:
    network = make_network(split_softmax)
    X, y = make_batch()
    twin = torch_reference(network)
    assert total_loss(network, X, y) == pytest.approx(twin.loss(X, y).item(), rel=1e-13)
    network.backward(network.forward(X), y)
    network.add_penalty_gradients()
    np.testing.assert_allclose(network.gradients, twin.gradients(X, y), rtol=1e-10, atol=1e-14)


def test_data_gradients_of_blocks_add_up() -> None:
    network = make_network()
    X, y = make_batch()
    total = np.zeros_like(network.gradients)
    for rows in (slice(0, 3), slice(3, 7)):
        network.backward(network.forward(X[rows]), y[rows], "sum")
        total += network.gradients
    network.backward(network.forward(X), y)
    np.testing.assert_allclose(total / 7, network.gradients, rtol=1e-12, atol=1e-15)


def test_layers_by_hand_as_in_a_lesson_give_the_networks_gradient() -> None:
    network = make_network()
    X, y = make_batch()
    network.backward(network.forward(X), y)
    network.add_penalty_gradients()
    expected = network.gradients.copy()

    dense1, relu1, dense2, relu2, dense3 = network.layers
    loss = SoftmaxCategoricalCrossentropy()
    dense1.forward(X)
    relu1.forward(dense1.output)
    dense2.forward(relu1.output)
    relu2.forward(dense2.output)
    dense3.forward(relu2.output)
    loss.forward(dense3.output, y)
    loss.backward(loss.output, y)
    dense3.backward(loss.dinputs)
    relu2.backward(dense3.dinputs)
    dense2.backward(relu2.dinputs)
    relu1.backward(dense2.dinputs)
    dense1.backward(relu1.dinputs)
    np.testing.assert_array_equal(network.gradients, expected)


def test_regularization_loss_is_the_sum_over_layers() -> None:
    network = make_network()
    dense1, dense2, dense3 = network.dense
    expected = (
        0.01 * np.abs(dense1.weights).sum()
        + 0.02 * (dense1.weights**2).sum()
        + 0.03 * np.abs(dense1.biases).sum()
        + 0.04 * (dense1.biases**2).sum()
        + 0.05 * (dense2.weights**2).sum()
        + 0.06 * np.abs(dense3.weights).sum()
        + 0.07 * (dense3.biases**2).sum()
    )
    assert float(network.regularization_loss()) == pytest.approx(expected, rel=1e-13)


def test_state_dict_names_and_shapes() -> None:
    state = make_network(dtype="float32").state_dict()
    assert {name: values.shape for name, values in state.items()} == {
        "dense1.weights": (5, 4),
        "dense1.biases": (1, 4),
        "dense2.weights": (4, 3),
        "dense2.biases": (1, 3),
        "dense3.weights": (3, 3),
        "dense3.biases": (1, 3),
    }
    assert {str(values.dtype) for values in state.values()} == {"float32"}


def test_state_dict_round_trip_copies_both_ways() -> None:
    network, other = make_network(seed=1), make_network(seed=2)
    held = network.parameters.copy()
    state = network.state_dict()
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.parameters, held)
    for values in state.values():
        values[...] = 0
    np.testing.assert_array_equal(network.parameters, held)
    np.testing.assert_array_equal(other.parameters, held)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dense2.biases": None}, "the state lacks dense2.biases"),
        ({"dense2.biases": None, "dense1.weights": None}, "the state lacks dense1.weights, dense2.biases"),
        ({"dense4.biases": np.zeros((1, 3))}, "the state has dense4.biases, which this network of 3 Dense lacks"),
        ({"b": 0, "a": 0}, "the state has a, b, which this network of 3 Dense lacks"),
        (
            {"dense1.weights": np.zeros((5, 4)), "dense3.biases": np.zeros((1, 2))},
            r"dense3.biases must have the shape \(1, 3\), got \(1, 2\)",
        ),
        (
            {"dense1.weights": np.zeros((5, 4)), "dense3.biases": [["a", "b", "c"]]},
            "dense3.biases must hold real numbers, got dtype <U1",
        ),
    ],
)
def test_state_that_does_not_fit_changes_nothing(change: dict[str, Any], message: str) -> None:
    network = make_network()
    held = network.parameters.copy()
    state = {name: values for name, values in {**network.state_dict(), **change}.items() if values is not None}
    with pytest.raises(ValueError, match=f"^{message}"):
        network.load_state_dict(state)
    np.testing.assert_array_equal(network.parameters, held)


def twice() -> list[Layer]:
    relu = ReLU()
    return [Dense(2, 2), relu, Dense(2, 2), relu]


@pytest.mark.parametrize(
    ("make_layers", "arguments", "message"),
    [
        (list, {}, "the first layer must be Dense"),
        (lambda: [ReLU(), Dense(2, 2)], {}, "the first layer must be Dense"),
        (lambda: [Dense(2, 3), ReLU(), Dense(4, 2)], {}, "dense1 has 3 neurons, but dense2 takes 4 inputs"),
        (twice, {}, "each layer can stand in a network only once"),
        (
            lambda: [Dense(2, 2), Softmax()],
            {},
            "SoftmaxCategoricalCrossentropy brings its own softmax: leave the last Softmax layer out",
        ),
        (
            lambda: [Dense(2, 2)],
            {"loss": CategoricalCrossentropy()},
            r"CategoricalCrossentropy takes probabilities: end the layers with Softmax\(\)",
        ),
        (lambda: [Dense(2, 2)], {"dtype": "int8"}, "dtype must be one of float32, float64, .*got 'int8'"),
        (lambda: [Dense(2, 2)], {"backend": "tpu"}, "device must be auto, cpu, cuda or cuda:<index>, got 'tpu'"),
    ],
)
def test_architecture_that_does_not_fit_is_refused(
    make_layers: Callable[[], list[Layer]], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Network(make_layers(), **{"backend": CPU, **arguments})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_network_computes_in_its_dtype_whatever_the_layers_had(dtype: str) -> None:
    network = Network([Dense(5, 3, dtype="float64", seed=1)], backend=CPU, dtype=dtype)
    X, y = make_batch()
    probabilities = network.forward(X)
    network.backward(probabilities, y)
    assert {str(a.dtype) for a in (network.parameters, probabilities, network.gradients)} == {dtype}


def test_network_makes_its_loss_on_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [Dense(5, 3, backend=CPU)]
    monkeypatch.setattr("fmnist_xp.nn.module.default_backend", lambda: pytest.fail("another backend was asked for"))
    assert Network(layers, backend=CPU).loss.backend is CPU


def test_network_gives_its_backend_to_every_part() -> None:
    network = make_network()
    assert {id(part.backend) for part in (*network.layers, network.loss, network)} == {id(CPU)}
