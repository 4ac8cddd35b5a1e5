"""Pickles and copies of networks, layers, losses and optimizers: the same bits, here and in another process."""

import copy
import gc
import io
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.standin import DeviceArray, StandInCupy

from fmnist_xp.backend import Array, Backend, CpuBackend, CudaBackend, get_backend
from fmnist_xp.errors import DeviceError
from fmnist_xp.model import Sequential
from fmnist_xp.nn import (
    CategoricalCrossentropy,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    Loss,
    Network,
    ReLU,
    Softmax,
    SoftmaxCategoricalCrossentropy,
)
from fmnist_xp.optim import SGD, Adam, Optimizer
from fmnist_xp.registry import registered

WIDTHS = 6, 9, 7, 4
PENALTIES = 1e-4, 1e-3, 2e-4, 2e-3
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((60, WIDTHS[0]))
Y = GENERATOR.integers(0, WIDTHS[-1], 60)
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: SGD(0.3, decay=0.01),
    "momentum": lambda: SGD(0.1, decay=0.01, momentum=0.9),
    "adam": lambda: Adam(0.02, decay=1e-3),
}


class Scale(Layer):
    """A user's own layer: parameters, a configuration, and attributes beside them."""

    def __init__(self, n_inputs: int, start: float = 1.0, *, backend: Backend | None = None) -> None:
        super().__init__(backend)
        self.n_inputs, self.start, self.passes = n_inputs, start, 0
        self.make_parameters(factors=(1, n_inputs), offsets=(1, n_inputs))
        self.factors = np.full((1, n_inputs), start)
        with self.backend.current():
            self.table = self.backend.xp.arange(3.0)

    def forward(self, inputs: Array) -> Array:
        self.passes += 1
        self.inputs, self.output = inputs, inputs * self.factors + self.offsets
        return self.output

    def backward(self, dvalues: Array) -> Array:
        self.dfactors = (dvalues * self.inputs).sum(axis=0, keepdims=True)
        self.doffsets = dvalues.sum(axis=0, keepdims=True)
        self.dinputs = dvalues * self.factors
        return self.dinputs


class Focused(SoftmaxCategoricalCrossentropy):
    """A user's own loss with a strength, which scales its gradient."""

    def __init__(self, strength: float = 2.0, backend: Backend | None = None) -> None:
        super().__init__(backend)
        self.strength = strength

    def backward(self, dvalues: Array, labels: Array, reduction: str = "mean") -> Array:  # type: ignore[override]
        self.dinputs = super().backward(dvalues, labels, reduction) * self.strength
        return self.dinputs


class Locked(ReLU):
    """A layer with an attribute that cannot be pickled, which it sees to itself."""

    def __init__(self, backend: Backend | None = None) -> None:
        super().__init__(backend)
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.lock = threading.Lock()


class Slotted(ReLU):
    __slots__ = ("slope",)


class Referring(ReLU):
    """A layer that knows its network, other than by `network`."""

    owner: Any = None


class Ensemble(Sequential):
    """A user's own network, with a constructor and attributes of its own."""

    def __init__(self, hidden: int, tags: list[str]) -> None:
        super().__init__([Dense(WIDTHS[0], hidden), ReLU(), Dense(hidden, WIDTHS[-1])], seed=2)
        self.tags, self.first, self.optimizer = tags, self.layers[0], Adam(0.02)


class Plain:
    """What an optimizer updates, and no more."""

    def __init__(self) -> None:
        self.backend = CpuBackend(1)
        self.parameters, self.gradients = np.ones(3), np.ones(3)


def make(backend: Any = "cpu", dtype: str = "float32", joined: bool = True) -> Sequential:
    """Return a network with penalties and a layer of the user's own, and parameters away from 0."""
    layers: list[Layer] = []
    for widths in pairwise(WIDTHS):
        layers += [Dense(*widths, *PENALTIES), ReLU()]
    layers[2:2] = [Scale(WIDTHS[1], 1.5)]
    layers[-1:] = [] if joined else [Softmax()]
    loss = Focused(1.5) if joined else CategoricalCrossentropy()
    network = Sequential(layers, loss=loss, backend=backend, seed=1, dtype=dtype)
    with network.backend.current():
        network.parameters *= 20
    return network


def fit(network: Sequential, optimizer: Optimizer, epochs: int) -> None:
    network.fit(X, Y, epochs=epochs, optimizer=optimizer, verbose=False, block_rows=7)


def train_on(pickled: bytes, epochs: int) -> bytes:
    """Return the pickle of a network and its optimizer, trained on: what another process does."""
    network, optimizer = pickle.loads(pickled)
    fit(network, optimizer, epochs)
    return pickle.dumps((network, optimizer))


def through_pickle(thing: Any, protocol: int | None = None) -> Any:
    return pickle.loads(pickle.dumps(thing, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {"pickle": through_pickle, "deepcopy": copy.deepcopy}
EACH_WAY = pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)
EACH_OPTIMIZER = pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def check_whole(network: Network, original: Network) -> None:
    """Check that `network` is one like `original` and shares nothing with it but perhaps the backend."""
    assert network.state_dict().keys() == original.state_dict().keys()
    for name, values in network.state_dict().items():
        np.testing.assert_array_equal(values, original.state_dict()[name], strict=True)
    assert (network.dtype, network.precision) == (original.dtype, original.precision)
    assert [layer.config() for layer in network.layers] == [layer.config() for layer in original.layers]
    for module, other in zip((*network.layers, network.loss), (*original.layers, original.loss), strict=True):
        assert type(module) is type(other)
        assert module is not other
        assert module.network is network
        assert other.network is original
        assert module.backend is network.backend
        assert module.precision == other.precision
    assert network.dense == [layer for layer in network.layers if isinstance(layer, Dense)]
    assert network.trainable == [layer for layer in network.layers if layer.size]
    before = original.backend.to_host(original.parameters).copy()
    with network.backend.current():
        network.parameters[...] = 3
        network.gradients[...] = 4
    for layer in network.trainable:
        assert all((layer.backend.to_host(values) == 3).all() for values in layer.tensors().values())
        assert (layer.backend.to_host(layer.gradients) == 4).all()
    np.testing.assert_array_equal(original.backend.to_host(original.parameters), before)


# Networks


@EACH_WAY
@DTYPES
@pytest.mark.parametrize("joined", [True, False], ids=["joined loss", "softmax layer"])
def test_network_predicts_the_same_bits_and_is_another(again: Callable[[Any], Any], dtype: str, joined: bool) -> None:
    network = make(dtype=dtype, joined=joined)
    fit(network, SGD(0.1), 2)
    loaded = again(network)
    assert loaded.training is network.training
    np.testing.assert_array_equal(loaded.predict_proba(X), network.predict_proba(X), strict=True)
    check_whole(loaded, network)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle(protocol: int) -> None:
    network = make()
    check_whole(through_pickle(network, protocol), network)


def test_what_a_pass_left_stays_behind() -> None:
    network = make()
    small = len(pickle.dumps(network))
    network.backward(network.forward(np.ones((1000, WIDTHS[0]))), np.zeros(1000, "int64"))
    assert network.layers[0].inputs.nbytes > small
    assert len(pickle.dumps(network)) == small
    with pytest.raises(AttributeError, match="Dense has no output yet: call forward first"):
        through_pickle(network).layers[0].output  # noqa: B018


@EACH_WAY
def test_users_network_keeps_its_attributes(again: Callable[[Any], Any]) -> None:
    network = Ensemble(5, ["a", "b"])
    fit(network, network.optimizer, 2)
    loaded = again(network)
    assert type(loaded) is Ensemble
    assert (loaded.tags, loaded.first) == (["a", "b"], loaded.layers[0])
    assert loaded.tags is not network.tags
    for each in (network, loaded):
        fit(each, each.optimizer, 3)
    np.testing.assert_array_equal(loaded.parameters, network.parameters)
    check_whole(loaded, network)


@EACH_WAY
def test_users_layer_and_loss_keep_configuration_and_attributes(again: Callable[[Any], Any]) -> None:
    network = make()
    network.forward(X)
    loaded = again(network)
    scale = loaded.layers[2]
    assert (scale.n_inputs, scale.start, scale.passes) == (WIDTHS[1], 1.5, 1)
    np.testing.assert_array_equal(scale.table, [0, 1, 2])
    assert loaded.loss.strength == 1.5
    scale.table[0] = 5
    assert network.layers[2].table[0] == 0


@EACH_WAY
def test_attribute_without_a_pickle_is_seen_to_by_the_class(again: Callable[[Any], Any]) -> None:
    layer = Locked()
    loaded = again(Sequential([Dense(6, 5), layer, Dense(5, 4)])).layers[1]
    assert isinstance(loaded, Locked)
    assert loaded.lock is not layer.lock
    plain = ReLU()
    plain.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"cannot pickle '_thread.lock' object"):
        again(plain)


@EACH_WAY
def test_gradients_are_zeros(again: Callable[[Any], Any]) -> None:
    network = make()
    network.backward(network.forward(X), Y)
    assert network.gradients.any()
    assert not again(network).gradients.any()
    assert not again(network.layers)[0].gradients.any()


def test_two_networks_on_one_backend_are_on_one_again() -> None:
    backend = CpuBackend(2)
    first, second = through_pickle([make(backend), make(backend)])
    assert first.backend is second.backend


@EACH_WAY
def test_network_and_its_layer_stay_what_they_are_to_each_other(again: Callable[[Any], Any]) -> None:
    network = make()
    loaded, layer = again((network, network.layers[0]))
    assert layer is loaded.layers[0]
    layer, loaded = again((network.layers[0], network))
    assert layer is loaded.layers[0]
    assert layer.network is loaded


@EACH_WAY
def test_layer_that_holds_its_network(again: Callable[[Any], Any]) -> None:
    layer = Referring()
    network = Sequential([Dense(6, 5), layer, Dense(5, 4)], seed=1)
    layer.owner = network
    loaded = again(network)
    assert loaded.layers[1].owner is loaded
    check_whole(loaded, network)
    with pytest.raises(TypeError, match=r"^Referring refers to its network: pickle or copy the network, and it goes"):
        again(layer)


def test_copy_in_a_callback_is_the_network_as_it_was_then() -> None:
    network, kept = make(dtype="float64"), []
    states = []

    def keep(_history: Any) -> None:
        kept.append(copy.deepcopy(network))
        states.append(network.parameters.copy())

    network.fit(X, Y, epochs=3, log_every=1, optimizer=SGD(0.1), callbacks=keep, verbose=False, block_rows=7)
    for copied, parameters in zip(kept, states, strict=True):
        np.testing.assert_array_equal(copied.parameters, parameters)


@settings(deadline=None, max_examples=25)
@given(
    widths=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    kinds=st.lists(st.sampled_from(["relu", "tanh", "softmax", "scale", "none"]), min_size=4, max_size=4),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**32 - 1),
    way=st.sampled_from(sorted(WAYS)),
)
def test_any_network(widths: list[int], kinds: list[str], dtype: str, seed: int, way: str) -> None:
    layers: list[Layer] = []
    for (n_inputs, n_neurons), kind in zip(pairwise(widths), kinds, strict=False):
        layers.append(Dense(n_inputs, n_neurons, weight_regularizer_l2=seed / 2**33))
        layers += [Scale(n_neurons, 0.5)] if kind == "scale" else []
        layers += [registered(Layer)[kind]()] if kind in registered(Layer) else []
    joined = not isinstance(layers[-1], Softmax)
    loss = None if joined else CategoricalCrossentropy
    network = Sequential(layers, loss, dtype=dtype, seed=seed)
    loaded = WAYS[way](network)
    rows = np.random.default_rng(seed).standard_normal((3, widths[0]))
    np.testing.assert_array_equal(loaded.predict_proba(rows), network.predict_proba(rows))
    check_whole(loaded, network)


# Layers and losses alone


@EACH_WAY
@DTYPES
def test_dense_alone(again: Callable[[Any], Any], dtype: str) -> None:
    layer = Dense(6, 4, *PENALTIES, seed=3, dtype=dtype)
    inputs = X.astype(dtype)
    layer.backward(layer.forward(inputs))
    loaded = again(layer)
    assert loaded.config() == layer.config()
    assert (loaded.precision, loaded.network) == (layer.precision, None)
    np.testing.assert_array_equal(loaded.weights, layer.weights, strict=True)
    np.testing.assert_array_equal(loaded.forward(inputs), layer.output, strict=True)
    assert loaded.regularization_loss() == layer.regularization_loss()
    assert not loaded.dweights.any()
    loaded.backward(loaded.output)
    np.testing.assert_array_equal(loaded.gradients, layer.gradients, strict=True)
    loaded.weights = 0 * loaded.weights
    assert not loaded.parameters[:24].any()
    assert layer.weights.any()


@EACH_WAY
def test_layer_of_a_network_is_free_of_it(again: Callable[[Any], Any]) -> None:
    network = make(dtype="float64")
    layers = again(network.layers)
    assert {layer.network for layer in layers} == {None}
    for layer, original in zip(layers, network.layers, strict=True):
        assert type(layer) is type(original)
        for name, values in layer.tensors().items():
            np.testing.assert_array_equal(values, original.tensors()[name], strict=True)
    other = Sequential(layers, loss=again(network.loss), dtype="float64")
    assert other.loss.network is other
    np.testing.assert_array_equal(other.predict_proba(X), network.predict_proba(X))


def test_pickle_of_a_layer_has_its_own_parameters_alone() -> None:
    network = Sequential([Dense(6, 5), ReLU(), Dense(5, 1000), ReLU(), Dense(1000, 4)])
    assert len(pickle.dumps(network.layers[0])) < 2000
    assert len(pickle.dumps(network)) < 4 * network.parameters.size + 4000


@EACH_WAY
@pytest.mark.parametrize("kind", [kind for kind in registered(Layer).values() if kind is not Dense])
def test_other_layer(again: Callable[[Any], Any], kind: type[Layer]) -> None:
    arguments: dict[Any, dict[str, Any]] = {LayerNorm: {"n_features": X.shape[1]}, Dropout: {"rate": 0.5}}
    layer = kind(**arguments.get(kind, {}))
    layer.training = True
    loaded = again(layer)
    np.testing.assert_array_equal(loaded.forward(X), layer.forward(X), strict=True)
    np.testing.assert_array_equal(loaded.backward(X), layer.backward(X), strict=True)


@EACH_WAY
@pytest.mark.parametrize("kind", [*registered(Loss).values(), Focused])
def test_loss(again: Callable[[Any], Any], kind: type[Loss]) -> None:
    loss = kind()
    loaded = again(loss)
    assert (type(loaded), loaded.config()) == (kind, loss.config())
    probabilities = np.full((3, 4), 0.25)
    np.testing.assert_array_equal(loaded.backward(probabilities, Y[:3]), loss.backward(probabilities, Y[:3]))


def test_slots_are_copied_too() -> None:
    layer = Slotted()
    layer.slope = 3
    assert [again(layer).slope for again in (copy.copy, copy.deepcopy, through_pickle)] == [3, 3, 3]


# Shallow copies, of which the training engine makes one a thread


def test_shallow_copy_shares_everything() -> None:
    network = make()
    network.forward(X)
    for thing in (network, *network.layers, network.loss):
        copied = copy.copy(thing)
        assert type(copied) is type(thing)
        assert vars(copied).keys() == vars(thing).keys()
        assert all(vars(copied)[name] is value for name, value in vars(thing).items())
        assert vars(copied) is not vars(thing)


# Backends


def test_backend_goes_by_its_name() -> None:
    backend = CpuBackend(3)
    assert copy.copy(backend) is copy.deepcopy([backend])[0] is backend
    loaded = through_pickle(backend)
    assert (type(loaded), loaded.name, loaded.threads) == (CpuBackend, "cpu", get_backend("cpu").threads)
    assert len(pickle.dumps(backend)) < 100


@pytest.mark.parametrize("make_thing", [make, lambda backend: Dense(2, 3, backend=backend)], ids=["network", "layer"])
def test_device_that_is_missing_where_a_pickle_is_loaded(
    make_thing: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = pickle.dumps(make_thing(CudaBackend(1, cupy=StandInCupy(devices=2))))
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr("importlib.metadata.distributions", lambda **_name: ())
    with pytest.raises(DeviceError, match=r"^a CUDA device was asked for, but CuPy is not installed: pip install"):
        pickle.loads(pickled)


# Optimizers


@EACH_WAY
@DTYPES
@EACH_OPTIMIZER
@pytest.mark.parametrize("order", [1, -1], ids=["network first", "optimizer first"])
def test_pair_goes_on_as_the_original(
    again: Callable[[Any], Any], dtype: str, make_optimizer: Callable[[], Optimizer], order: int
) -> None:
    whole, network, optimizer = make(dtype=dtype), make(dtype=dtype), make_optimizer()
    fit(whole, make_optimizer(), 11)
    fit(network, optimizer, 5)
    loaded, copied = again((network, optimizer)[::order])[::order]
    assert (copied.iterations, copied.current_learning_rate) == (5, optimizer.current_learning_rate)
    for pair in ((network, optimizer), (loaded, copied)):
        fit(*pair, 6)
        np.testing.assert_array_equal(pair[0].parameters, whole.parameters, strict=True)
        assert pair[1].iterations == 11


def test_pairs_go_on_in_another_process() -> None:
    makers = [(dtype, make_optimizer) for dtype in ("float32", "float64") for make_optimizer in OPTIMIZERS.values()]
    pairs = [(make(dtype=dtype), make_optimizer()) for dtype, make_optimizer in makers]
    for pair in pairs:
        fit(*pair, 5)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(train_on, map(pickle.dumps, pairs), [6] * len(pairs)))
    for (dtype, make_optimizer), result in zip(makers, results, strict=True):
        trained, used = pickle.loads(result)
        whole = make(dtype=dtype)
        fit(whole, make_optimizer(), 11)
        np.testing.assert_array_equal(trained.parameters, whole.parameters, strict=True)
        assert used.iterations == 11
    assert {optimizer.iterations for _network, optimizer in pairs} == {5}


def test_file_is_read_by_a_python_that_knows_nothing_of_it(tmp_path: Path) -> None:
    network = Sequential([Dense(6, 5), ReLU(), Dense(5, 4)], seed=1)
    (tmp_path / "network.pickle").write_bytes(pickle.dumps(network))
    np.save(tmp_path / "X.npy", X)
    program = """
import pickle, pathlib, numpy
network = pickle.loads(pathlib.Path("network.pickle").read_bytes())
numpy.save("probabilities.npy", network.predict_proba(numpy.load("X.npy")))
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "probabilities.npy"), network.predict_proba(X))


@EACH_WAY
def test_layers_by_hand_go_on_with_their_moments(again: Callable[[Any], Any]) -> None:
    first, second, optimizer = Dense(3, 2, seed=1), Dense(2, 2, seed=2), Adam(0.1)

    def update(layers: tuple[Dense, Dense], by: Optimizer) -> None:
        by.pre_update_params()
        for number, layer in enumerate(layers, start=1):
            layer.gradients[...] = number
            by.update_params(layer)
        by.post_update_params()

    update((first, second), optimizer)
    one, two, copied = again((first, second, optimizer))
    for layers, by in (((first, second), optimizer), ((one, two), copied)):
        update(layers, by)
    for layer, other in ((first, one), (second, two)):
        np.testing.assert_array_equal(layer.parameters, other.parameters)
        np.testing.assert_array_equal(optimizer.state(layer), copied.state(other))


@EACH_WAY
def test_what_is_no_network_goes_on_with_its_moments(again: Callable[[Any], Any]) -> None:
    target, optimizer = Plain(), SGD(0.5, momentum=0.5)
    optimizer.step(target)  # v = -0.5
    loaded, copied = again((target, optimizer))
    copied.step(loaded)  # v = -0.75
    np.testing.assert_array_equal(loaded.parameters, 1 - 0.5 - 0.75)
    np.testing.assert_array_equal(target.parameters, 0.5)


@EACH_WAY
def test_optimizer_alone_has_its_schedule_and_no_moments(again: Callable[[Any], Any]) -> None:
    network, optimizer = make(), Adam(0.02, decay=0.5, beta_1=0.8)
    fit(network, optimizer, 3)
    copied = again(optimizer)
    gc.collect()
    assert (copied.config(), copied.iterations) == (optimizer.config(), 3)
    assert copied.current_learning_rate == optimizer.current_learning_rate == 0.02 / 2
    assert not any(moment.any() for moment in copied.state(network))
    assert all(moment.any() for moment in optimizer.state(network))
    copied.load_state(network, optimizer.state(network))
    np.testing.assert_array_equal(copied.state(network), optimizer.state(network))


def test_network_alone_takes_no_moments_along() -> None:
    network, optimizer = make(), Adam(0.02)
    before = len(pickle.dumps(network))
    fit(network, optimizer, 3)
    assert len(pickle.dumps(network)) < before + 100
    copied = copy.deepcopy(network)
    assert not any(moment.any() for moment in optimizer.state(copied))


def test_moments_go_with_what_they_belong_to() -> None:
    network, optimizer = make(), Adam(0.02)
    fit(network, optimizer, 1)
    pair = through_pickle((network, optimizer))
    assert len(pair[1]._moments) == 1
    loaded, pair = pair[1], None
    gc.collect()
    assert len(loaded._moments) == 0


def test_shallow_copy_of_an_optimizer_goes_on_by_itself() -> None:
    network, optimizer = make(dtype="float64"), Adam(0.02)
    fit(network, optimizer, 3)
    copied, held = copy.copy(optimizer), optimizer.state(network)
    np.testing.assert_array_equal(copied.state(network), held)
    fit(network, copied, 1)
    np.testing.assert_array_equal(optimizer.state(network), held)
    assert (copied.iterations, optimizer.iterations) == (4, 3)


# On a GPU


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> CudaBackend:
    """Return the second of two devices of a stand-in, which `get_backend` finds too."""
    cupy = StandInCupy(devices=2)

    def import_nvmath() -> Any:
        raise DeviceError("nvmath-python is not installed")

    monkeypatch.setattr("fmnist_xp.backend.cuda.import_cupy", lambda: cupy)
    monkeypatch.setattr("fmnist_xp.backend.graphs.import_nvmath", import_nvmath)
    return CudaBackend(1, cupy=cupy)


def make_on_gpu(backend: CudaBackend, dtype: str) -> Sequential:
    layers = [Dense(6, 5), Scale(5, backend=backend), ReLU(), Dense(5, 4)]
    return Sequential(layers, backend=backend, dtype=dtype, seed=1)


@EACH_WAY
@EACH_OPTIMIZER
@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32"])
def test_pair_goes_on_on_a_gpu(
    standin: CudaBackend, again: Callable[[Any], Any], dtype: str, make_optimizer: Callable[[], Optimizer]
) -> None:
    network, optimizer = make_on_gpu(standin, dtype), make_optimizer()
    network.fit(X, Y, epochs=3, optimizer=optimizer, verbose=False)
    loaded, copied = again((network, optimizer))
    assert loaded.backend.name == "cuda:1"
    assert (loaded.backend is standin) == (again is copy.deepcopy)
    assert isinstance(loaded.parameters, DeviceArray)
    assert isinstance(loaded.layers[1].table, DeviceArray)
    assert loaded.layers[1].table.data.device_id == 1
    np.testing.assert_array_equal(standin.to_host(loaded.layers[1].table), [0, 1, 2])
    for pair in ((network, optimizer), (loaded, copied)):
        pair[0].fit(X, Y, epochs=3, optimizer=pair[1], verbose=False)
    np.testing.assert_array_equal(standin.to_host(loaded.parameters), standin.to_host(network.parameters))
    np.testing.assert_array_equal(copied.state(loaded), optimizer.state(network))
    check_whole(loaded, network)


def test_precision_that_the_device_of_another_machine_lacks(
    standin: CudaBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = pickle.dumps(make_on_gpu(standin, "tf32"))
    monkeypatch.setattr("fmnist_xp.backend.cuda.import_cupy", lambda: StandInCupy(devices=2, major=7))
    with pytest.raises(
        DeviceError, match=r"^cuda:1 \(Stand-in GPU\) does not compute in tf32: use float32 or float64"
    ):
        pickle.loads(pickled)


def test_network_of_a_gpu_pickles_without_arrays_of_it(standin: CudaBackend) -> None:
    pair = make_on_gpu(standin, "float32"), Adam(0.02)
    pair[0].fit(X, Y, epochs=2, optimizer=pair[1], verbose=False)
    assert b"standin" not in pickle.dumps(pair)


@EACH_WAY
def test_layer_of_a_gpu_alone(standin: CudaBackend, again: Callable[[Any], Any]) -> None:
    network = make_on_gpu(standin, "float32")
    for layer in network.layers:
        loaded = again(layer)
        assert (loaded.network, loaded.backend.name) == (None, "cuda:1")
        for name, values in loaded.tensors().items():
            np.testing.assert_array_equal(standin.to_host(values), standin.to_host(layer.tensors()[name]))
    with standin.current():
        outputs = [each.forward(standin.xp.ones((2, 6))) for each in (network.layers[0], again(network.layers[0]))]
    np.testing.assert_array_equal(*map(standin.to_host, outputs))


# Other libraries that pickle


def test_joblib_maps_the_parameters_read_only_and_they_are_copied(tmp_path: Path) -> None:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    pair = make(dtype="float64"), Adam(0.02)
    fit(*pair, 3)
    joblib.dump(pair, tmp_path / "pair.joblib")
    loaded, copied = joblib.load(tmp_path / "pair.joblib", mmap_mode="r")
    assert type(loaded.parameters) is type(loaded.gradients) is type(loaded.layers[0].weights) is np.ndarray
    for each in (pair, (loaded, copied)):
        fit(*each, 3)
    np.testing.assert_array_equal(loaded.parameters, pair[0].parameters)
    np.testing.assert_array_equal(copied.state(loaded), pair[1].state(pair[0]))


def test_joblib_sends_networks_to_processes() -> None:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    network = Sequential([Dense(6, 20_000), ReLU(), Dense(20_000, 4)], seed=1)  # above 1 MB arrays are mapped
    calls = [joblib.delayed(network.predict_proba)(X[start:]) for start in (0, 30)]
    for result, start in zip(joblib.Parallel(n_jobs=2)(calls), (0, 30), strict=True):
        np.testing.assert_array_equal(result, network.predict_proba(X[start:]))


def test_scikit_learn_clones_an_optimizer_in_a_parameter() -> None:
    base = pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")
    network, optimizer = make(), Adam(0.02)
    fit(network, optimizer, 2)
    cloned = base.clone(optimizer, safe=False)
    assert (cloned.config(), cloned.iterations) == (optimizer.config(), 2)


def test_buffers_beside_the_pickle_are_copied() -> None:
    network, buffers = make(), []
    pickled = pickle.dumps(network, 5, buffer_callback=buffers.append)
    assert buffers
    check_whole(pickle.loads(pickled, buffers=[bytes(buffer.raw()) for buffer in buffers]), network)


def test_pickle_names_classes_of_the_package_numpy_and_the_user_alone() -> None:
    found = set()

    class Noting(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found.add(module.partition(".")[0])
            return super().find_class(module, name)

    pair = make(), Adam(0.02)
    fit(*pair, 1)
    Noting(io.BytesIO(pickle.dumps(pair))).load()
    assert found == {"fmnist_xp", "numpy", Scale.__module__.partition(".")[0]}
