"""Layers with arguments or parameters of their own: the same elsewhere, and the same when they come back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmnist_xp as fx
from fmnist_xp.export import from_onnx, from_torch, save
from fmnist_xp.export.onnx_graph import onnx_model
from fmnist_xp.export.states import torch_layers, torch_state
from fmnist_xp.nn import Layer

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def make_network(dtype: str = "float32") -> fx.Sequential:
    """Return 12-8-8-6-3 with every such layer, its parameters drawn; its numbers are of float32, as ONNX has them."""
    layers: list[Layer] = [
        *(fx.Dense(12, 8), fx.LayerNorm(8, epsilon=2**-10), fx.GELU()),
        *(fx.Dense(8, 8), fx.LeakyReLU(0.25), fx.Dense(8, 6), fx.LayerNorm(6), fx.Sigmoid(), fx.Dense(6, 3)),
    ]
    network = fx.Sequential(layers, dtype=dtype)
    network.parameters[...] = np.random.default_rng(0).standard_normal(network.parameters.size)
    return network


@pytest.fixture
def X() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((50, 12))


def check_same(again: fx.Sequential, network: fx.Sequential) -> None:
    assert repr(again.layers) == repr(network.layers)
    assert again.dtype == network.dtype
    for name, values in network.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], values)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_onnxruntime_and_onnxs_reference_give_the_same_and_it_comes_back(
    onnx: Any, onnxruntime: Any, X: np.ndarray, dtype: str, tmp_path: Path
) -> None:
    from onnx.reference import ReferenceEvaluator

    network, path, X = make_network(dtype), tmp_path / "model.onnx", X.astype(dtype)
    save(network, path, takes="floats")
    runs = [ReferenceEvaluator(str(path)).run]
    if dtype == "float32":  # onnxruntime has no LeakyRelu of doubles
        runs.append(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run)
    for run in runs:
        (found,) = run(None, {"floats": X})
        assert found.dtype == dtype
        # ONNX's reference has the constants of Gelu to ten digits.
        np.testing.assert_allclose(found, network.predict_proba(X), atol=max(TOLERANCE[dtype], 1e-8), rtol=0)
    check_same(from_onnx(path), network)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_an_equal_module_of_pytorch_gives_the_same_and_comes_back(torch: Any, X: np.ndarray, dtype: str) -> None:
    network, nn = make_network(dtype), torch.nn
    calls = torch_layers(network)
    assert calls == [
        *("Linear(12, 8)", "LayerNorm(8, eps=0.0009765625)", "GELU(approximate='tanh')"),
        *("Linear(8, 8)", "LeakyReLU(negative_slope=0.25)", "Linear(8, 6)", "LayerNorm(6, eps=1e-05)", "Sigmoid()"),
        *("Linear(6, 3)", "Softmax(dim=1)"),
    ]
    module = nn.Sequential(*(eval(f"nn.{call}", {"nn": nn}) for call in calls)).to(getattr(torch, dtype))
    module.load_state_dict({name: torch.tensor(values) for name, values in torch_state(network).items()})
    with torch.no_grad():
        found = module(torch.tensor(X.astype(dtype))).numpy()
    np.testing.assert_allclose(found, network.predict_proba(X), atol=TOLERANCE[dtype], rtol=0)
    check_same(from_torch(module), network)


@pytest.mark.parametrize(
    ("layer", "opset", "version"),
    [(fx.LeakyReLU(), 13, 7), (fx.Sigmoid(), 13, 7), (fx.LayerNorm(4), 17, 8), (fx.GELU(), 20, 9)],
    ids=repr,
)
def test_an_onnx_file_is_no_newer_than_its_operators(onnx: Any, layer: Layer, opset: int, version: int) -> None:
    kind: Any = type(layer)
    model = onnx_model(fx.Sequential([fx.Dense(3, 4), kind(**layer.config()), fx.Dense(4, 2)]), "floats")
    assert ([of.version for of in model.opset_import], model.ir_version) == ([opset], version)


def test_a_state_has_normalizations_by_their_rows_of_weights(torch: Any, X: np.ndarray) -> None:
    nn = torch.nn
    layers = nn.Linear(12, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    module = nn.Sequential(*layers).double()
    with torch.no_grad():
        module[1].weight *= 2
        module[1].bias += 1
    network = from_torch(module.state_dict(), activation="relu")
    assert [type(layer).__name__ for layer in network.layers] == [
        "Dense", "LayerNorm", "ReLU", "Dense", "ReLU", "Dense",
    ]  # fmt: skip
    with torch.no_grad():
        found = module(torch.tensor(X)).softmax(dim=1).numpy()
    np.testing.assert_allclose(network.predict_proba(X), found, atol=1e-12, rtol=0)


def test_what_is_computed_otherwise_there_is_named(torch: Any) -> None:
    nn = torch.nn
    for module, message in (
        (nn.GELU(), r"1 is a GELU\(approximate='none'\): has approximate='none', and GELU here has .*'tanh' alone"),
        (nn.LeakyReLU(2.0), r"1 is a LeakyReLU\(negative_slope=2.0\): slope must be above 0 and below 1, got 2.0"),
        (nn.LayerNorm(4, elementwise_affine=False), r"1 is a LayerNorm\(.*with weights, can be taken over"),
        (nn.LayerNorm((3, 4)), r"1 is a LayerNorm\(\(3, 4\).* only one over the columns"),
    ):
        with pytest.raises(ValueError, match=message):
            from_torch(nn.Sequential(nn.Linear(3, 4), module))


def test_onnx_nodes_with_other_attributes_are_named(onnx: Any, tmp_path: Path) -> None:
    helper, path = onnx.helper, tmp_path / "model.onnx"
    for change, message in (
        ({"approximate": "none"}, r"\(Gelu\) has approximate='none', and GELU here has approximate='tanh' alone"),
        ({"axis": 0}, r"\(LayerNormalization\) has axis set, which LayerNorm here does not know"),
        ({"alpha": -1.0}, r"\(LeakyRelu\) slope must be above 0 and below 1, got -1.0"),
    ):
        model = onnx_model(make_network(), "floats")
        (name,) = change
        node = next(
            node
            for node in model.graph.node
            if any(attribute.name == name for attribute in node.attribute)
            or (name, node.op_type[:5]) == ("axis", "Layer")
        )
        for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
            node.attribute.remove(attribute)
        node.attribute.append(helper.make_attribute(name, change[name]))
        onnx.save(model, path)
        with pytest.raises(fx.RunError, match=message):
            from_onnx(path)


class AsItIs(Layer):
    """Does nothing but in training, and so is nothing elsewhere."""

    onnx_operator, torch_class = "", ""

    def forward(self, inputs: Any) -> Any:
        self.output = inputs
        return inputs


def test_a_layer_that_leaves_its_input_as_it_is_is_left_out(onnx: Any) -> None:
    network, without = (
        fx.Sequential([fx.Dense(3, 4, seed=0), *layer, fx.Dense(4, 2, seed=1)]) for layer in ([AsItIs()], [])
    )
    assert torch_layers(network) == torch_layers(without)
    assert onnx_model(network, "floats") == onnx_model(without, "floats")


def test_dropout_is_pytorchs_own_and_nothing_in_onnx(
    onnx: Any, onnxruntime: Any, torch: Any, X: np.ndarray, tmp_path: Path
) -> None:
    layers = [fx.Dense(12, 8), fx.ReLU(), fx.Dropout(0.25), fx.Dense(8, 3)]
    network, nn = fx.Sequential(layers, seed=0), torch.nn
    calls = torch_layers(network)
    assert calls == ["Linear(12, 8)", "ReLU()", "Dropout(p=0.25)", "Linear(8, 3)", "Softmax(dim=1)"]
    module = nn.Sequential(*(eval(f"nn.{call}", {"nn": nn}) for call in calls))
    module.load_state_dict({name: torch.tensor(values) for name, values in torch_state(network).items()})
    with torch.no_grad():
        found = module.eval()(torch.tensor(X, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(found, network.predict_proba(X), atol=1e-6)
    check_same(from_torch(module), network)
    save(network, tmp_path / "model.onnx", takes="floats")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"floats": X.astype("float32")})
    np.testing.assert_allclose(found, network.predict_proba(X), atol=1e-6)
    assert [type(layer) for layer in from_onnx(tmp_path / "model.onnx").layers] == [fx.Dense, fx.ReLU, fx.Dense]
