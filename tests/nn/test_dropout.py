"""Dropout alone and in a network."""

import copy
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath

import fmnist_xp as fx
from fmnist_xp.backend import CpuBackend, CudaBackend, CudaGraphBackend

ROWS, UNITS = 400, 300


def trained(layer: fx.Dropout, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    layer.training = True
    output = layer.forward(np.ones((ROWS, UNITS), dtype))
    return output, layer.backward(np.full_like(output, 2))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_a_share_is_dropped_and_the_rest_makes_up_for_it(rate: float) -> None:
    output, dinputs = trained(fx.Dropout(rate))
    assert set(np.unique(output)) == {0, np.float32(1) * np.float32(1 / (1 - rate))}
    assert abs((output == 0).mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / output.size)
    assert np.array_equal(dinputs, 2 * output)


def test_each_pass_and_each_seed_drops_others() -> None:
    layer, other = fx.Dropout(0.5), fx.Dropout(0.5, seed=1)
    masks = [trained(layer)[0] > 0, trained(layer)[0] > 0, trained(other)[0] > 0]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        assert abs((masks[one] == masks[two]).mean() - 0.5) < 5 * 0.5 / np.sqrt(ROWS * UNITS)
    assert np.array_equal(trained(fx.Dropout(0.5))[0] > 0, masks[0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nothing_is_dropped_where_no_gradient_will_follow(dtype: Any) -> None:
    given = np.random.default_rng(0).standard_normal((5, 4)).astype(dtype)
    layer = fx.Dropout(0.5)
    output = layer.forward(given)
    assert np.array_equal(output, given)
    assert output.dtype == dtype
    assert not np.shares_memory(output, given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 1.0}, "rate must be at least 0 and below 1, got 1.0"),
        ({"rate": -0.1}, "rate must be at least 0 and below 1"),
        ({"rate": "much"}, "rate must be a number"),
        ({"rate": 0.5, "seed": -1}, "seed must be"),
    ],
)
def test_arguments_that_are_none_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        fx.Dropout(**arguments)


def network(backend: Any, dtype: str = "float64", activation: Any = fx.ReLU) -> fx.Sequential:
    layers = [fx.Dense(36, 24), activation(), fx.Dropout(0.3), fx.Dense(24, 16), fx.Tanh(), fx.Dropout(0.2)]
    return fx.Sequential([*layers, fx.Dense(16, 4)], backend=backend, seed=0, dtype=dtype)


def data(rows: int = 700) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((rows, 36)), generator.integers(0, 4, rows)


def test_the_gradient_is_that_of_the_units_that_are_kept() -> None:
    # Of the loss with the masks of one epoch, by finite differences; a learning rate this small changes nothing.
    X, y = data(50)
    still = fx.SGD(learning_rate=1e-300)
    model = network(CpuBackend(1))
    model.fit(X, y, epochs=1, optimizer=copy.copy(still), verbose=0)
    gradients = model.gradients.copy()
    for place in np.random.default_rng(1).choice(len(gradients), 30, replace=False):
        losses = []
        for step in (1e-6, -1e-6):
            moved = network(CpuBackend(1))
            moved.parameters[place] += step
            losses.append(moved.fit(X, y, epochs=1, optimizer=copy.copy(still), verbose=0).loss[0])
        assert gradients[place] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-8)


def test_pytorch_with_the_same_masks_has_the_same_gradient() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")
    X, y = data(60)
    model = fx.Sequential([fx.Dense(36, 24), fx.ReLU(), fx.Dropout(0.3), fx.Dense(24, 4)], seed=0, dtype="float64")
    tensors = {name: torch.tensor(values, requires_grad=True) for name, values in model.state_dict().items()}
    model.training = True
    probabilities = model.forward(X)
    before, behind = model.layers[1].output, model.layers[2].output
    mask = torch.tensor(np.divide(behind, before, out=np.zeros_like(before), where=before > 0))
    hidden = torch.relu(torch.tensor(X) @ tensors["dense1.weights"] + tensors["dense1.biases"]) * mask
    output = hidden @ tensors["dense2.weights"] + tensors["dense2.biases"]
    torch.nn.functional.cross_entropy(output, torch.tensor(y)).backward()
    model.backward(probabilities, y)
    for number, layer in enumerate(model.dense, start=1):
        for name in ("weights", "biases"):
            expected = tensors[f"dense{number}.{name}"].grad.numpy()
            np.testing.assert_allclose(getattr(layer, f"d{name}"), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("activation", [fx.ReLU, fx.Tanh])
def test_training_drops_the_same_in_blocks_of_any_size_and_order(activation: Any) -> None:
    X, y = data()
    images = np.where(np.arange(36) % 6 > 1, np.random.default_rng(0).integers(0, 256, (700, 36)), 0).astype("uint8")
    for rows, layouts in ((X, [{}, {"block_rows": 700}, {"block_rows": 37}]), (images, [{"dense": True}, {}])):
        results = []
        for layout in layouts:
            model = network(CpuBackend(2), activation=activation)
            model.fit(rows, y, epochs=4, optimizer=fx.SGD(0.5), verbose=0, **layout)
            results.append(model.parameters.copy())
        for other in results[1:]:
            np.testing.assert_allclose(other, results[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_number_of_threads_has_the_same_bits(dtype: str) -> None:
    X, y = data()
    results = []
    for threads in (1, 2, 3):
        model = network(CpuBackend(threads), dtype)
        model.fit(X, y, epochs=4, optimizer="adam", verbose=0, block_rows=50)
        results.append(model.parameters.copy())
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("activation", [fx.ReLU, fx.Tanh])
def test_a_device_draws_the_same_with_graphs_and_without(activation: Any) -> None:
    X, y = data(90)
    results = []
    for make in (
        lambda: CpuBackend(1),
        lambda: CudaBackend(cupy=StandInCupy()),
        lambda: (lambda cupy: CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy)))(StandInCupy()),
    ):
        backend = make()
        model = network(backend, activation=activation)
        history = model.fit(X, y, epochs=12, optimizer=fx.SGD(0.5), verbose=0, log_every=4)
        results.append((backend.to_host(model.parameters), history.loss))
    for parameters, loss in results[1:]:
        np.testing.assert_allclose(parameters, results[0][0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(loss, results[0][1], rtol=1e-9)


def test_a_resumed_training_drops_what_it_would_have_dropped(tmp_path: Any) -> None:
    X, y = data(90)
    whole, half = network("cpu"), network("cpu")
    whole.fit(X, y, epochs=6, optimizer="adam", verbose=0)
    half.fit(X, y, epochs=3, optimizer="adam", verbose=0, checkpoint=tmp_path)
    again = network("cpu")
    again.fit(X, y, epochs=6, optimizer="adam", verbose=0, checkpoint=tmp_path, resume=True)
    assert np.array_equal(whole.parameters, again.parameters)


def test_a_saved_network_has_its_dropout(tmp_path: Any) -> None:
    model = network("cpu", "float32")
    model.save(tmp_path / "model.safetensors")
    again = fx.load(tmp_path / "model.safetensors")
    assert [layer.config() for layer in again.layers] == [layer.config() for layer in model.layers]
    X, _ = data(20)
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    assert repr(again.layers[2]) == "Dropout(0.3)"
