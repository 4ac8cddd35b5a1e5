from typing import Any

import numpy as np
import pytest

import fmnist_xp as fx
from fmnist_xp.export import from_torch
from fmnist_xp.export.files import save
from fmnist_xp.nn import Layer
from fmnist_xp.registry import registered

KINDS = {name: kind for name, kind in registered(Layer).items() if vars(kind).get("torch_class") and name != "dense"}


@pytest.fixture
def X() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((50, 12)).astype("float32")


def probabilities(torch: Any, module: Any, X: np.ndarray) -> np.ndarray:
    """Return the softmax of what a module makes of `X`, unless it ends in one."""
    with torch.no_grad():
        values = module(torch.tensor(X))
    return (values if type(list(module.modules())[-1]).__name__ == "Softmax" else values.softmax(dim=1)).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("softmax", [False, True])
def test_a_module_says_what_it_is(torch: Any, X: np.ndarray, dtype: str, softmax: bool) -> None:
    nn = torch.nn
    body = nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 7, bias=False), nn.ReLU())
    last = [nn.Softmax(dim=1)] * softmax
    module = nn.Sequential(nn.Flatten(), body, nn.Identity(), nn.Linear(7, 3), *last).to(getattr(torch, dtype))
    network = from_torch(module)
    assert [type(layer).__name__ for layer in network.layers] == ["Dense", "Tanh", "Dense", "ReLU", "Dense"]
    assert (network.dtype, type(network.loss).__name__) == (dtype, "SoftmaxCategoricalCrossentropy")
    assert not network.dense[1].biases.any()
    np.testing.assert_allclose(
        network.predict_proba(X), probabilities(torch, module, X.astype(dtype)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", KINDS)
def test_every_registered_layer_that_names_a_class_is_that(torch: Any, X: np.ndarray, name: str) -> None:
    arguments = {"softmax": {"dim": 1}, "gelu": {"approximate": "tanh"}, "layer_norm": {"normalized_shape": 8}}
    said = vars(KINDS[name])["torch_class"]
    made = getattr(torch.nn, getattr(said, "name", said))(**arguments.get(name, {}))
    module = torch.nn.Sequential(torch.nn.Linear(12, 8), made, torch.nn.Linear(8, 3)).eval()
    with torch.no_grad():
        module[0].weight *= 20
    network = from_torch(module)
    assert type(network.layers[1]) is KINDS[name]
    np.testing.assert_allclose(network.predict_proba(X), probabilities(torch, module, X), atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_state_needs_to_be_told_what_is_between(torch: Any, X: np.ndarray, activation: str) -> None:
    nn = torch.nn
    made = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
    module = nn.Sequential(nn.Linear(12, 8), made(), nn.Linear(8, 6), nn.Linear(6, 3))
    network = from_torch(module.state_dict(), activation=activation)
    assert [type(layer).__name__ for layer in network.layers] == ["Dense", made.__name__, "Dense", "Dense"]
    np.testing.assert_allclose(network.predict_proba(X), probabilities(torch, module, X), atol=1e-5, rtol=0)


def test_one_layer_needs_no_activation_and_arrays_are_as_good_as_tensors() -> None:
    weight, bias = np.arange(6.0).reshape(2, 3), np.array([1.0, -1.0])
    network = from_torch({"weight": weight, "bias": bias})
    np.testing.assert_array_equal(network.dense[0].weights, weight.T)
    np.testing.assert_array_equal(network.dense[0].biases, bias[None])
    assert network.dtype == "float64"


def test_names_go_by_their_numbers_and_else_by_their_order(torch: Any) -> None:
    nn = torch.nn
    layers = [layer for _ in range(6) for layer in (nn.Linear(4, 4), nn.ReLU())] + [nn.Linear(4, 2)]
    module = nn.Sequential(*layers)
    state = dict(sorted(module.state_dict().items()))  # as safetensors has it, "10" before "2"
    assert list(state).index("10.weight") < list(state).index("2.weight")
    network = from_torch(state, activation="relu")
    for number, layer in enumerate(network.dense):
        np.testing.assert_array_equal(layer.weights, module[2 * number].weight.detach().numpy().T)
    named = {"net.stem.weight": np.ones((3, 4)), "net.head.weight": np.zeros((2, 3))}
    network = from_torch(named, activation="tanh")
    assert network.widths == [4, 3, 2]
    assert isinstance(network.layers[1], fx.Tanh)
    network = from_torch({"fc1.weight": np.ones((3, 4)), "fc2.weight": np.zeros((2, 3))}, activation="relu")
    assert isinstance(network.layers[1], fx.ReLU)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_halves_become_float32(torch: Any, kind: str) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(4, 3)).to(getattr(torch, kind))
    network = from_torch(module)
    assert network.dtype == "float32"
    np.testing.assert_array_equal(network.dense[0].weights, module[0].weight.detach().float().numpy().T)


def test_it_goes_on_training(torch: Any, X: np.ndarray) -> None:
    y = (X[:, 0] > 0).astype("uint8")
    network = from_torch(torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)))
    network.fit(X, y, epochs=200, optimizer=fx.Adam(0.02), verbose=0)
    assert network.evaluate(X, y).accuracy > 0.95


def test_there_and_back_is_the_same_module(network: fx.Sequential, torch: Any, tmp_path: Any) -> None:
    save(network, tmp_path / "model.pt")
    nn = torch.nn
    module = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 10))
    module.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    again = from_torch(module)
    for name, values in network.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], values)


def modules(torch: Any) -> dict[str, tuple[Any, str]]:
    nn = torch.nn

    class Mine(nn.Sequential):  # type: ignore[misc, name-defined]
        """Whatever it does."""

    return {
        "a convolution": (
            nn.Sequential(nn.Conv2d(1, 2, 3)),
            r"0 is a Conv2d: only Linear, ReLU, .*can be taken over",
        ),
        "deep inside": (nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.GELU())), r"0\.1 is a GELU"),
        "statistics of the batch": (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), "1 is a BatchNorm1d"),
        "one's own": (Mine(nn.Linear(3, 4)), "source is a Mine, not a module of torch.nn"),
        "softmax along rows": (nn.Sequential(nn.Linear(3, 4), nn.Softmax(dim=0)), "1 is a Softmax along dim=0"),
        "nothing": (nn.Sequential(), "no fully connected layer"),
        "widths": (nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), "dense1 has 4 neurons, but dense2 takes 5"),
        "activation first": (nn.Sequential(nn.ReLU(), nn.Linear(3, 4)), "first layer must be Dense"),
        "no module": (3, "source is a int"),
    }


def test_what_is_no_such_module_is_named(torch: Any) -> None:
    for case, (module, message) in modules(torch).items():
        with pytest.raises(ValueError, match=message):
            from_torch(module)
        assert case
    with pytest.raises(ValueError, match="activation is for states"):
        from_torch(torch.nn.Sequential(torch.nn.Linear(3, 4)), activation="relu")


TWO = {"0.weight": np.ones((3, 4)), "0.bias": np.ones(3), "2.weight": np.ones((2, 3)), "2.bias": np.ones(2)}
STATES: dict[str, tuple[dict[Any, Any], str | None, str]] = {
    "no activation": (TWO, None, "does not tell what stands between its layers.*one of relu, .*, got None"),
    "no such activation": (TWO, "swish", "got 'swish'"),
    "other parameters": ({**TWO, "1.running_mean": np.ones(3)}, "relu", "'1.running_mean' is neither"),
    "a bias alone": ({"0.bias": np.ones(3)}, None, r"0\.bias has no 0\.weight beside it"),
    "a convolution's": ({"0.weight": np.ones((3, 1, 5, 5))}, None, r"0\.weight is float64 of shape \(3, 1, 5, 5\)"),
    "a normalisation's of another width": ({**TWO, "1.weight": np.ones(4)}, None, r"\(LayerNorm\) takes 4 columns"),
    "biases of another width": (
        {**TWO, "1.weight": np.ones(3), "1.bias": np.ones(2)},
        None,
        "2 numbers for 3 columns",
    ),
    "whole numbers": ({"0.weight": np.ones((3, 4), int)}, None, r"0\.weight is int64"),
    "words": ({"0.weight": "abc"}, None, r"0\.weight is <U3"),
    "empty": ({"0.weight": np.ones((3, 0))}, None, r"shape \(3, 0\)"),
    "a bias of another width": ({**TWO, "0.bias": np.ones(4)}, "relu", r"0\.bias has 4 numbers for 3 outputs"),
    "widths": ({**TWO, "2.weight": np.ones((2, 5))}, "relu", "dense1 has 3 neurons, but dense2 takes 5"),
    "nothing": ({}, None, "no fully connected layer"),
    "no names": ({3: np.ones(3)}, None, "^3 is neither a weight nor a bias"),
}


@pytest.mark.parametrize("case", STATES)
def test_what_is_no_such_state_is_named(case: str) -> None:
    state, activation, message = STATES[case]
    with pytest.raises(ValueError, match=message):
        from_torch(state, activation=activation)
