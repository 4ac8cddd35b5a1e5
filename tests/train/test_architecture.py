"""Networks as plain values and back, through the file that `save` writes and `load` reads."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from fmnist_xp.backend import CpuBackend
from fmnist_xp.errors import RunError
from fmnist_xp.model import Sequential, load
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, ReLU, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.registry import REGISTRY
from fmnist_xp.train.architecture import build, describe, known
from fmnist_xp.train.arrays import MODEL

X = np.random.default_rng(0).standard_normal((9, 6))
Y = np.arange(9) % 4


class Scale(Layer):
    """`inputs` times a factor for each column, trained."""

    def __init__(self, n_inputs: int, start: float = 1.0, *, backend: Any = None) -> None:
        super().__init__(backend)
        self.n_inputs, self.start = n_inputs, start
        self.make_parameters(factors=(1, n_inputs))
        self.factors = start * self.backend.xp.ones((1, n_inputs))

    def forward(self, inputs: Any) -> Any:
        self.inputs, self.output = inputs, inputs * self.factors
        return self.output

    def backward(self, dvalues: Any) -> Any:
        self.dfactors = (dvalues * self.inputs).sum(axis=0, keepdims=True)
        self.dinputs = dvalues * self.factors
        return self.dinputs

    def config(self) -> dict[str, Any]:
        return {"n_inputs": self.n_inputs, "start": self.start}


class Focal(CategoricalCrossentropy):
    """A loss with an argument."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def config(self) -> dict[str, Any]:
        return {"gamma": self.gamma}


class Plain(CategoricalCrossentropy):
    """A loss without one."""


def network(*layers: Layer, loss: Any = None) -> Sequential:
    return Sequential(
        [Dense(6, 5), *layers, Dense(5, 4), *([Softmax()] if loss else [])], loss, seed=1, dtype="float64"
    )


def test_known_are_the_packages_layers_and_losses() -> None:
    assert set(known().values()) >= {Dense, ReLU, Softmax, CategoricalCrossentropy, SoftmaxCategoricalCrossentropy}
    assert Layer not in known().values()
    assert all(kind.__name__ == name for name, kind in known().items())


def test_architecture_as_it_is_written() -> None:
    dense = {f"{part}_regularizer_l{power}": 0.0 for part in ("weight", "bias") for power in (1, 2)}
    first = {"type": "Dense", "n_inputs": 6, "n_neurons": 5, **dense}
    last = {"type": "Dense", "n_inputs": 5, "n_neurons": 4, **dense}
    assert describe(network(ReLU())) == {
        "layers": [first, {"type": "ReLU"}, last],
        "loss": "SoftmaxCategoricalCrossentropy",
        "dtype": "float64",
    }
    assert describe(network(Scale(5, 2), loss=Focal(3.5))) == {
        "layers": [first, {"type": "Scale", "n_inputs": 5, "start": 2}, last, {"type": "Softmax"}],
        "loss": {"type": "Focal", "gamma": 3.5},
        "dtype": "float64",
    }


@pytest.mark.parametrize("loss", [None, Focal(0.5), Plain()], ids=["package's", "with an argument", "without"])
def test_network_of_ones_own_classes_is_loaded_bit_for_bit(tmp_path: Path, loss: Any) -> None:
    saved = network(Scale(5, 2.0), ReLU(), Scale(5), loss=loss)
    saved.fit(X, Y, epochs=3, verbose=False)
    saved.save(tmp_path / "model.safetensors")
    custom = [Scale] if loss is None else [type(loss), Scale]
    for loaded in (
        load(tmp_path / "model.safetensors", "cpu", custom),
        Sequential.load(tmp_path / "model.safetensors", custom_objects=iter(custom)),
        *([load(tmp_path / "model.safetensors", custom_objects=Scale)] if loss is None else []),
    ):
        np.testing.assert_array_equal(loaded.parameters, saved.parameters, strict=True)
        assert [type(layer) for layer in loaded.layers] == [type(layer) for layer in saved.layers]
        assert [layer.config() for layer in loaded.layers] == [layer.config() for layer in saved.layers]
        assert type(loaded.loss) is type(saved.loss)
        assert getattr(loaded.loss, "gamma", None) == getattr(saved.loss, "gamma", None)
        np.testing.assert_array_equal(loaded.predict_proba(X), saved.predict_proba(X))
        assert loaded.fit(X, Y, epochs=2, verbose=False).loss == saved.fit(X, Y, epochs=2, verbose=False).loss
        saved.load_state_dict(load(tmp_path / "model.safetensors", custom_objects=custom).state_dict())


def test_class_that_load_does_not_know_is_named_with_the_cure(tmp_path: Path) -> None:
    network(Scale(5), loss=Focal()).save(tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"layer 2 is of the class Scale, .* load with custom_objects=\[Scale\]"):
        load(tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"the loss is of the class Focal, .* load with custom_objects=\[Focal\]"):
        load(tmp_path / "model.safetensors", custom_objects=[Scale])


def test_layer_is_no_loss_and_loss_no_layer() -> None:
    good = {"layers": [{"type": "ReLU"}], "loss": "CategoricalCrossentropy", "dtype": "float32"}
    layers, loss, dtype = build(good, {})
    assert (type(layers[0]), type(loss), dtype) == (ReLU, CategoricalCrossentropy, "float32")
    with pytest.raises(ValueError, match=r"^the loss \(ReLU\) is not a loss$"):
        build({**good, "loss": "ReLU"}, {})
    with pytest.raises(ValueError, match=r"^layer 1 \(CategoricalCrossentropy\) is not a layer$"):
        build({**good, "layers": [{"type": "CategoricalCrossentropy"}]}, {})


def test_loss_without_a_name_and_dense_without_its_weights_are_named() -> None:
    good = {"layers": [{"type": "ReLU"}], "loss": "CategoricalCrossentropy", "dtype": "float32"}
    with pytest.raises(ValueError, match=r"^loss must be an object, got 3$"):
        build({**good, "loss": 3}, {})
    with pytest.raises(ValueError, match=r"^loss\.type is missing$"):
        build({**good, "loss": {"gamma": 3}}, {})
    with pytest.raises(ValueError, match=r"^layer 1 \(Dense\) is 6 × 4, not its weights$"):
        build({**good, "layers": [DENSE]}, {"dense1.weights": (4, 6)})


@pytest.mark.parametrize("custom", [Scale(5), int, {"Scale": Scale}, [Scale(5)], [int], 3, "Scale", [Scale, 3]])
def test_custom_objects_that_are_no_classes_are_named(custom: Any) -> None:
    with pytest.raises(TypeError, match="custom_objects must be a list of classes of layers and losses, got"):
        build({}, {}, custom)


def test_custom_objects_have_names_of_their_own() -> None:
    for custom in ([Scale, type("Scale", (Scale,), {})], [type("Dense", (Dense,), {})]):
        with pytest.raises(TypeError, match="custom_objects must have a name each that is not the package's"):
            build({}, {}, custom)
    good = {"layers": [{"type": "ReLU"}], "loss": "CategoricalCrossentropy", "dtype": "float32"}
    assert type(build(good, {}, [Scale, Scale, ReLU])[0][0]) is ReLU  # the same class twice, and the package's own


class NoConfig(Scale):
    def config(self) -> dict[str, Any]:
        return {}


class Unheard(Scale):
    def config(self) -> dict[str, Any]:
        return {**super().config(), "volume": 11}


class Changed(Scale):
    """Made again with another argument than it says."""

    def __init__(self, n_inputs: int, start: float = 1.0) -> None:
        super().__init__(n_inputs, start + 1)


class Wider(ReLU):
    """Has as many parameters as it is told after it was made."""

    def widen(self, count: int) -> "Wider":
        self.make_parameters(shift=(1, count))
        return self


class Arrays(ReLU):
    def config(self) -> dict[str, Any]:
        return {"values": np.zeros(3)}


class NotANumber(ReLU):
    def config(self) -> dict[str, Any]:
        return {"value": float("nan")}


class Nested(ReLU):
    def config(self) -> dict[str, Any]:
        values: list[Any] = []
        for _level in range(100_000):
            values = [values]
        return {"values": values}


class NotNamed(ReLU):
    def config(self) -> Any:
        return [3]


class Typed(ReLU):
    def config(self) -> dict[str, Any]:
        return {"type": "leaky"}


class Numbered(ReLU):
    """JSON makes its key 1 a "1"."""

    def config(self) -> Any:
        return {"levels": {1: 2}}


CURE = r"let its config\(\) return the arguments of its constructor that make one like it$"
NOT_SAVED = {
    "no config": (lambda: [NoConfig(5)], r"layer 2 \(NoConfig\) cannot be made .*n_inputs.*: .* config\(\) return"),
    "argument unheard of": (lambda: [Unheard(5)], r"layer 2 \(Unheard\) cannot be made .*volume.* config\(\) return"),
    "another argument": (
        lambda: [Changed(5)],
        rf"layer 2 \(Changed\) cannot be saved: it would be loaded as another; {CURE}",
    ),
    "other parameters": (lambda: [Wider().widen(5)], r"layer 2 \(Wider\) cannot be saved: it would be loaded as ano"),
    "arrays": (lambda: [Arrays()], r"layer 2 \(Arrays\) cannot be saved: JSON cannot hold .* plain values by name"),
    "NaN": (lambda: [NotANumber()], r"layer 2 \(NotANumber\) cannot be saved: JSON .*\"NaN\" is no finite number"),
    "nested": (lambda: [Nested()], r"layer 2 \(Nested\) cannot be saved: JSON cannot hold its config"),
    "a list": (lambda: [NotNamed()], r"layer 2 \(NotNamed\) cannot be saved: JSON .* must be an object, got a list"),
    "a type": (lambda: [Typed()], r"layer 2 \(Typed\) cannot be saved: its config has a 'type'"),
    "numbers as keys": (lambda: [Numbered()], r"layer 2 \(Numbered\) cannot be made from its arguments"),
    "the package's name": (
        lambda: [type("ReLU", (ReLU,), {})()],
        r"layer 2 \(ReLU\) .* not the package's ReLU; give",
    ),
    "one name for two": (
        lambda: [Scale(5), type("Scale", (Scale,), {})(5)],
        r"layer 3 \(Scale\) cannot be saved: two classes are called Scale; give one another name",
    ),
}


@pytest.mark.parametrize(("layers", "message"), NOT_SAVED.values(), ids=NOT_SAVED)
def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path, layers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        network(*layers()).save(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_loss_that_could_not_be_made_again_is_not_saved(tmp_path: Path) -> None:
    class Sharp(CategoricalCrossentropy):
        def __init__(self, sharpness: float) -> None:
            super().__init__()

    with pytest.raises(
        ValueError, match=r"^the loss \(Sharp\) cannot be made .*Sharp has no sharpness.*let its config\(\) return"
    ):
        network(loss=Sharp(2)).save(tmp_path / "model.safetensors")
    loss = type("CategoricalCrossentropy", (CategoricalCrossentropy,), {})()
    with pytest.raises(ValueError, match=r"^the loss \(CategoricalCrossentropy\) cannot be saved: its class is not"):
        network(loss=loss).save(tmp_path / "model.safetensors")


def test_class_of_ones_own_named_dense_in_other_letters(tmp_path: Path) -> None:
    """`state_dict` counts DENSE and Dense in one row."""
    shout = type("DENSE", (Dense,), {})
    saved = Sequential([Dense(6, 5), shout(5, 3), Dense(3, 4)], seed=1)
    saved.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", custom_objects=[shout])
    np.testing.assert_array_equal(loaded.parameters, saved.parameters)


def write(path: Path, layers: list[dict[str, Any]], dtype: Any = "float32", **state: Any) -> Path:
    """Write a file of an older version, without a checksum that would be wrong."""
    architecture = {"layers": layers, "loss": "SoftmaxCategoricalCrossentropy", "dtype": dtype}
    save_file(state, path, metadata={MODEL.format: json.dumps(architecture)})
    return path


STATE = {"dense1.weights": np.ones((6, 4), "float32"), "dense1.biases": np.zeros((1, 4), "float32")}
DENSE = {"type": "Dense", "n_inputs": 6, "n_neurons": 4}


@pytest.mark.parametrize(
    "layers",
    [
        [{**DENSE, "n_neurons": 200_000}],
        [{**DENSE, "n_inputs": 2**62, "n_neurons": 2**62}],
        [DENSE, *[{"type": "Dense", "n_inputs": 2000, "n_neurons": 2000}] * 500],
        [DENSE, {"type": "LayerNorm", "n_features": 2**62}],
    ],
    ids=["wide", "beyond all memory", "deep", "normalized"],
)
def test_architecture_beyond_its_tensors_allocates_nothing(tmp_path: Path, layers: list[dict[str, Any]]) -> None:
    path = write(tmp_path / "model.safetensors", layers, **STATE)
    tracemalloc.start()
    try:
        with pytest.raises(RunError, match=r"layer [12] \(\w+\) is \d+ × \d+, not its (weights|gains)"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()


def test_loading_draws_no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.safetensors", [DENSE], **STATE)
    backend = CpuBackend(1)
    monkeypatch.setattr(Dense, "init_parameters", None)
    np.testing.assert_array_equal(load(path, backend).parameters, [1.0] * 24 + [0.0] * 4)


def test_dense_without_a_draw_is_zero() -> None:
    assert not Dense(3, 2, draw=False).parameters.any()
    assert Dense(3, 2).parameters.any()


def test_tensors_of_another_dtype_than_the_architecture_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", [DENSE], "float64", **STATE)
    with pytest.raises(RunError, match=r"dense1\.\w+ is float32, not float64"):
        load(path)
    # In a precision of GPUs, parameters are float32, and so is the network on a CPU.
    for dtype in ("tf32", "float16"):
        assert load(write(path, [DENSE], dtype, **STATE)).dtype == "float32"


@pytest.mark.parametrize("dtype", ["int8", "", "x" * 100])
def test_dtype_that_is_none_is_named(tmp_path: Path, dtype: str) -> None:
    path = write(tmp_path / "model.safetensors", [DENSE], dtype, **STATE)
    with pytest.raises(RunError, match=r"its dtype is '.{0,39}'?, not one of float32, ") as caught:
        load(path)
    assert len(str(caught.value)) < len(str(path)) + 250


def test_device_that_is_none_is_not_the_files_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="abacus"):
        load(write(tmp_path / "model.safetensors", [DENSE], **STATE), "abacus")


def test_registered_class_is_loaded_without_being_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky(ReLU):
        def __init__(self, slope: float = 0.1, *, backend: Any = None) -> None:
            super().__init__(backend)
            self.slope = slope

        def forward(self, inputs: Any) -> Any:
            self.output = np.where(inputs > 0, inputs, self.slope * inputs)
            return self.output

    model = Sequential([Dense(6, 5), Leaky(0.25), Dense(5, 4)], seed=1)
    model.save(path := tmp_path / "model.safetensors")
    with pytest.raises(RunError, match="is of the class Leaky, which is not the package's"):
        load(path)
    monkeypatch.setitem(REGISTRY, "leaky", Leaky)
    again = load(path)
    assert again.layers[1].config() == {"slope": 0.25}
    np.testing.assert_array_equal(again.parameters, model.parameters)
