import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmnist_xp as fx
from fmnist_xp.export import FORMATS, TAKES, save
from fmnist_xp.export.onnx_graph import onnx_model
from fmnist_xp.nn import CategoricalCrossentropy, Layer
from fmnist_xp.parity.operations import registered_losses
from fmnist_xp.registry import registered

pytestmark = pytest.mark.usefixtures("onnx")
ELEMENT_WISE = {
    name: kind
    for name, kind in registered(Layer).items()
    if vars(kind).get("onnx_operator") and kind not in (fx.Dense, fx.LayerNorm, fx.Softmax)
}

LOSSES = {name: partial(kind, **arguments) for name, kind, arguments in registered_losses()}


def elsewhere(onnxruntime: Any, path: Path, values: np.ndarray) -> np.ndarray:
    """Return what onnxruntime makes of `values`."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert output.name == "probabilities"
    (probabilities,) = session.run(None, {given.name: values})
    return np.asarray(probabilities)


def as_taken(takes: str, images: np.ndarray, dtype: str = "float32") -> np.ndarray:
    rows = images.reshape(len(images), -1)
    return {"images": images, "rows": rows, "floats": ((rows.astype(dtype) - 127.5) / 127.5).astype(dtype)}[takes]


@pytest.mark.parametrize("takes", TAKES)
@pytest.mark.parametrize("n", [1, 7, 200])
def test_onnxruntime_gives_the_same_probabilities(
    onnxruntime: Any, network: fx.Sequential, images: np.ndarray, tmp_path: Path, takes: str, n: int
) -> None:
    save(network, tmp_path / "model.onnx", takes=takes)
    found = elsewhere(onnxruntime, tmp_path / "model.onnx", as_taken(takes, images[:n]))
    assert (found.shape, found.dtype) == ((n, 10), np.float32)
    np.testing.assert_allclose(found, network.predict_proba(images[:n]), atol=1e-5, rtol=0)
    assert np.ptp(found) > 0.5  # it has learned something to get wrong


@pytest.mark.parametrize("takes", TAKES)
def test_onnxs_own_reference_gives_the_same_probabilities(
    onnx: Any, network: fx.Sequential, images: np.ndarray, takes: str
) -> None:
    from onnx.reference import ReferenceEvaluator

    (found,) = ReferenceEvaluator(onnx_model(network, takes)).run(None, {takes: as_taken(takes, images)})
    np.testing.assert_allclose(found, network.predict_proba(images), atol=1e-5, rtol=0)


def test_on_all_test_images_of_fashion_mnist(
    onnxruntime: Any, real_data: tuple[fx.Dataset, fx.Dataset], tmp_path: Path
) -> None:
    train, test = real_data
    layers = [fx.Dense(784, 64), fx.ReLU(), fx.Dense(64, 64), fx.ReLU(), fx.Dense(64, 10)]
    network = fx.Sequential(layers, seed=0)
    network.fit(train.images[:6000], train.labels[:6000], epochs=40, optimizer=fx.Adam(0.02, 1e-5), verbose=0)
    expected = network.predict_proba(test.images)
    assert len(expected) == 10_000
    assert np.mean(expected.argmax(axis=1) == test.labels) > 0.7
    for takes in TAKES:
        save(network, tmp_path / "model.onnx", takes=takes)
        found = elsewhere(onnxruntime, tmp_path / "model.onnx", as_taken(takes, test.images))
        np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("takes", TAKES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_keeps_the_dtype_and_passes_onnxs_checker(
    onnx: Any, onnxruntime: Any, images: np.ndarray, tmp_path: Path, takes: str, dtype: str
) -> None:
    network = fx.Sequential([fx.Dense(784, 12), fx.Tanh(), fx.Dense(12, 10)], seed=0, dtype=dtype)
    network.parameters[...] *= 30
    save(network, tmp_path / "model.onnx", takes=takes)
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    found = elsewhere(onnxruntime, tmp_path / "model.onnx", as_taken(takes, images, dtype))
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(found, network.predict_proba(images), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    ("takes", "type_", "shape"),
    [("images", "UINT8", ["n", 28, 28]), ("rows", "UINT8", ["n", 784]), ("floats", "FLOAT", ["n", 784])],
)
def test_what_the_file_says_of_itself(
    onnx: Any, network: fx.Sequential, tmp_path: Path, takes: str, type_: str, shape: list[Any]
) -> None:
    facts = {"classes": json.dumps(["a", "ü"]), "test_accuracy": "0.9"}
    save(network, tmp_path / "model.onnx", takes=takes, facts=facts)
    model = onnx.load(tmp_path / "model.onnx")
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        **facts, "fmnist_xp_version": fx.__version__,
    }  # fmt: skip
    assert (model.producer_name, model.producer_version) == ("fmnist-xp", fx.__version__)
    # ONNX 1.8 and onnxruntime 1.6 are the first that take these.
    assert (model.ir_version, [(of.domain, of.version) for of in model.opset_import]) == (7, [("", 13)])
    (given,), (output,) = model.graph.input, model.graph.output
    assert (given.name, given.type.tensor_type.elem_type) == (takes, getattr(onnx.TensorProto, type_))
    assert [size.dim_param or size.dim_value for size in given.type.tensor_type.shape.dim] == shape
    assert [size.dim_param or size.dim_value for size in output.type.tensor_type.shape.dim] == ["n", 10]
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for number, layer in enumerate(network.dense, start=1):
        np.testing.assert_array_equal(weights[f"dense{number}.weights"], layer.weights)
        np.testing.assert_array_equal(weights[f"dense{number}.biases"], layer.biases[0])


@pytest.mark.parametrize("kind", ELEMENT_WISE.values(), ids=ELEMENT_WISE)
def test_every_registered_layer_that_names_an_operator_is_that(
    onnxruntime: Any, tmp_path: Path, kind: type[Layer]
) -> None:
    network = fx.Sequential([fx.Dense(20, 30), kind(), fx.Dense(30, 5), kind(), fx.Dense(5, 3)], seed=1)
    network.parameters[...] *= 20
    save(network, tmp_path / "model.onnx", takes="floats")
    X = np.random.default_rng(0).standard_normal((40, 20)).astype("float32")
    found = elsewhere(onnxruntime, tmp_path / "model.onnx", X)
    np.testing.assert_allclose(found, network.predict_proba(X), atol=1e-5, rtol=0)


def test_a_softmax_of_its_own_and_in_between(onnxruntime: Any, tmp_path: Path) -> None:
    layers = [fx.Dense(6, 5), fx.Softmax(), fx.Dense(5, 3), fx.Softmax()]
    network = fx.Sequential(layers, loss=CategoricalCrossentropy(), seed=0)
    network.parameters[...] *= 100
    save(network, tmp_path / "model.onnx", takes="floats")
    X = np.random.default_rng(0).standard_normal((9, 6)).astype("float32")
    found = elsewhere(onnxruntime, tmp_path / "model.onnx", X)
    np.testing.assert_allclose(found, network.predict_proba(X), atol=1e-5, rtol=0)


@pytest.mark.parametrize("make_loss", LOSSES.values(), ids=LOSSES)
def test_it_gives_what_the_loss_makes_of_the_output(
    onnxruntime: Any, tmp_path: Path, make_loss: Callable[[], fx.Loss]
) -> None:
    loss = make_loss()
    network = fx.Sequential([fx.Dense(6, 5), *([loss.ends_with()] if loss.ends_with else [])], loss, seed=1)
    network.parameters[...] *= 100
    save(network, tmp_path / "model.onnx", takes="floats")
    X = np.random.default_rng(0).standard_normal((9, 6)).astype("float32")
    found = elsewhere(onnxruntime, tmp_path / "model.onnx", X)
    np.testing.assert_allclose(found, network.predict_proba(X), atol=1e-5, rtol=0)
    assert np.ptp(found) > 0.5


class Swish(Layer):
    def forward(self, inputs: Any) -> Any:
        self.output = inputs / (1 + np.exp(-inputs))
        return self.output


class Logistic(Layer):
    onnx_operator, torch_class = "Sigmoid", "Sigmoid"

    def forward(self, inputs: Any) -> Any:
        self.output = 1 / (1 + np.exp(-inputs))
        return self.output


class LeakyReLU(fx.ReLU):
    """Another formula than that of the class which names the operator."""


class Misnamed(Logistic):
    onnx_operator = "Sigmoidal"


class Scale(Layer):
    onnx_operator, torch_class = "Mul", "Scale"

    def __init__(self) -> None:
        super().__init__()
        self.make_parameters(factors=(1, 4))


def of(layer: Layer) -> fx.Sequential:
    return fx.Sequential([fx.Dense(9, 4), layer, fx.Dense(4, 3)], seed=0)


def test_a_users_own_layer_may_name_its_operator(onnxruntime: Any, tmp_path: Path) -> None:
    network = of(Logistic())
    network.parameters[...] *= 100
    save(network, tmp_path / "model.onnx", takes="floats")
    X = np.random.default_rng(0).standard_normal((5, 9)).astype("float32")
    found = elsewhere(onnxruntime, tmp_path / "model.onnx", X)
    np.testing.assert_allclose(found, network.predict_proba(X), atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", [Swish, LeakyReLU, Scale])
@pytest.mark.parametrize("form", FORMATS)
def test_a_layer_without_a_counterpart_is_refused(tmp_path: Path, layer: type[Layer], form: str) -> None:
    name = "onnx_operator" if form == "onnx" else "torch_class"
    with pytest.raises(ValueError, match=rf"layer 2 \({layer.__name__}\) has no counterpart .*, {name} = "):
        save(of(layer()), tmp_path / "model", form)
    assert not list(tmp_path.iterdir())


def test_what_makes_no_model_is_refused(network: fx.Sequential, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not take this network's operators.*Sigmoidal"):
        save(of(Misnamed()), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="takes must be one of images, rows, floats, got 'words'"):
        save(network, tmp_path / "model.onnx", takes="words")
    with pytest.raises(ValueError, match="20 inputs are no square image: let the model take rows"):
        save(fx.Sequential([fx.Dense(20, 3)]), tmp_path / "model.onnx")
    broken = of(fx.ReLU())
    broken.dense[1].weights[0, 0] = np.nan
    for form in FORMATS:
        with pytest.raises(ValueError, match=r"layer 3 \(Dense\) holds numbers that are not finite"):
            save(broken, tmp_path / "model", form, takes="rows")
    assert not list(tmp_path.iterdir())


def test_nobody_but_export_imports_onnx() -> None:
    code = "import fmnist_xp as fx, fmnist_xp.export, sys; print('onnx' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
