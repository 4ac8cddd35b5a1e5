"""Layers of a user's own, and classes that inherit from the package's: what a network does with them."""

import gc
import inspect
import textwrap
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import pytest
from batch_helpers import logged
from parity.standin import StandInCupy

from fmnist_xp.backend import Array, Backend, CpuBackend, CudaBackend
from fmnist_xp.model import Sequential
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, ReLU, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.optim import SGD, Adam
from fmnist_xp.registry import REGISTRY
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.plan import is_planned

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((60, 6))
Y = GENERATOR.integers(0, 4, 60)


class Scale(Layer):
    """output = inputs · factors, a factor a column, as the documentation of `Layer` has it."""

    def __init__(self, n_inputs: int, *, backend: Backend | None = None) -> None:
        super().__init__(backend)
        self.n_inputs = n_inputs
        self.make_parameters(factors=(1, n_inputs))
        self.factors = self.backend.xp.ones((1, n_inputs))

    def forward(self, inputs: Array) -> Array:
        self.inputs, self.output = inputs, inputs * self.factors
        return self.output

    def backward(self, dvalues: Array) -> Array:
        self.dfactors = (dvalues * self.inputs).sum(axis=0, keepdims=True)
        self.dinputs = dvalues * self.factors
        return self.dinputs


class LeakyReLU(ReLU):
    def forward(self, inputs: Array) -> Array:
        super().forward(inputs)
        self.slopes = np.where(inputs > 0, 1.0, 0.1)
        self.output = inputs * self.slopes
        return self.output

    def backward(self, dvalues: Array) -> Array:
        super().backward(dvalues)
        self.dinputs = dvalues * self.slopes
        return self.dinputs


class Halved(Dense):
    """A Dense layer that does something of its own behind its biases, and reads its output again."""

    def forward(self, inputs: Array) -> Array:
        self.output = super().forward(inputs) / 2 + self.biases
        return self.output

    def backward_parameters(self, dvalues: Array) -> None:
        super().backward_parameters(dvalues / 2)
        self.dbiases = self.dbiases + dvalues.sum(axis=0, keepdims=True) + 0 * self.output.sum()

    def backward_inputs(self, dvalues: Array) -> Array:
        return super().backward_inputs(dvalues / 2)


class Tanh(Dense):
    """A Dense layer that bends its output, and needs it again for the gradient."""

    def forward(self, inputs: Array) -> Array:
        self.output = super().forward(inputs)
        self.output[...] = np.tanh(self.output)
        return self.output

    def backward_parameters(self, dvalues: Array) -> None:
        self.slopes = 1 - self.output**2
        super().backward_parameters(dvalues * self.slopes)

    def backward_inputs(self, dvalues: Array) -> Array:
        return super().backward_inputs(dvalues * self.slopes)


class Twice(ReLU):
    """Calls forward of its class twice: what a buffer that is used again would spoil."""

    def forward(self, inputs: Array) -> Array:
        first = super().forward(inputs)
        second = super().forward(inputs - 0.1)
        self.signs = (inputs > 0) * 1.0 + (inputs > 0.1)
        self.output = first + second
        return self.output

    def backward(self, dvalues: Array) -> Array:
        self.dinputs = dvalues * self.signs
        return self.dinputs


class Smoothed(SoftmaxCategoricalCrossentropy):
    """The gradient of its class, and another part made of the probabilities that it was given."""

    def backward(self, dvalues: Array, labels: Array, reduction: str = "mean") -> Array:
        dinputs = super().backward(dvalues, labels, reduction)
        assert dvalues is not dinputs
        return dinputs


class Blended(SoftmaxCategoricalCrossentropy):
    """The mean of two softmaxes, which one buffer could not hold."""

    def activate(self, outputs: Array) -> Array:
        self.parts = super().activate(outputs), super().activate(2 * outputs)
        return sum(self.parts) / 2

    def backward(self, dvalues: Array, labels: Array, reduction: str = "mean") -> Array:
        rows = np.arange(len(labels))
        true = dvalues[rows, labels][:, None]
        self.dinputs = 0 * dvalues
        for factor, part in zip((1, 2), self.parts, strict=True):
            own = part[rows, labels][:, None]
            self.dinputs += factor * own * (part - np.eye(part.shape[1])[labels]) / (2 * true)
        self.dinputs /= len(labels) if reduction == "mean" else 1
        return self.dinputs


def spread(layers: list[Layer], loss: Any = None, threads: int = 2, seed: int = 3) -> Sequential:
    """Return a float64 network of `layers` with parameters away from 0."""
    network = Sequential(layers, loss, CpuBackend(threads), dtype="float64")
    network.parameters[...] = 0.5 * np.random.default_rng(seed).standard_normal(network.parameters.shape)
    return network


NETWORKS: dict[str, Callable[[], Sequential]] = {
    "parameters of its own": lambda: spread([Dense(6, 5), Scale(5), ReLU(), Dense(5, 4), Scale(4)]),
    "leaky ReLU": lambda: spread([Dense(6, 5), LeakyReLU(), Dense(5, 4)]),
    "Dense subclass first": lambda: spread([Halved(6, 5), ReLU(), Dense(5, 4)]),
    "Dense subclass last": lambda: spread([Dense(6, 5), ReLU(), Halved(5, 4)]),
    "Dense subclass that needs its output": lambda: spread([Tanh(6, 5), ReLU(), Tanh(5, 4)]),
    "loss subclass with a softmax of its own": lambda: spread([Dense(6, 5), ReLU(), Dense(5, 4)], Blended()),
    "ReLU subclass that calls twice": lambda: spread([Dense(6, 5), Twice(), Dense(5, 4)]),
    "loss subclass": lambda: spread([Dense(6, 5), ReLU(), Dense(5, 4)], Smoothed()),
}


def mean_loss(network: Sequential) -> float:
    """Return the loss by the layers' own forward, in lesson form."""
    probabilities = network.forward(X)
    return float(-np.log(probabilities[np.arange(len(X)), Y]).mean())


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_engine_has_the_gradient_of_what_forward_computes(
    make: Callable[[], Sequential], numeric_gradient: Callable[..., np.ndarray]
) -> None:
    network = make()
    expected = numeric_gradient(lambda: mean_loss(network), network.parameters)
    with network.backend.computing():
        loss, *_ = logged(FullBatch(network, X, Y, block_rows=7))
    np.testing.assert_allclose(network.gradients, expected, rtol=1e-6, atol=1e-9)
    assert loss == pytest.approx(mean_loss(network), rel=1e-12)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_predictions_are_those_of_forward(make: Callable[[], Sequential]) -> None:
    network = make()
    expected = network.forward(X).copy()
    np.testing.assert_allclose(network.predict_proba(X), expected, rtol=1e-12)
    assert network.evaluate(X, Y).loss == pytest.approx(mean_loss(network), rel=1e-12)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_gradient_by_hand_is_the_engines(make: Callable[[], Sequential]) -> None:
    network, by_hand = make(), make()
    with network.backend.computing():
        FullBatch(network, X, Y, block_rows=7).compute_gradients()
    by_hand.backward(by_hand.forward(X), Y)
    np.testing.assert_allclose(by_hand.gradients, network.gradients, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_training_has_the_same_bits_on_any_number_of_threads(make: Callable[[], Sequential]) -> None:
    trained = []
    for threads in (1, 3):
        network = make()
        network.backend = CpuBackend(threads)
        network.fit(X, Y, epochs=4, optimizer=SGD(0.1), verbose=False, block_rows=7)
        trained.append(network.parameters.copy())
    np.testing.assert_array_equal(*trained)


def test_parameters_of_ones_own_are_updated_and_named() -> None:
    network = spread([Dense(6, 5), Scale(5), ReLU(), Dense(5, 4), Scale(4)])
    before = network.state_dict()
    assert list(before) == [
        *("dense1.weights", "dense1.biases", "scale1.factors", "dense2.weights", "dense2.biases", "scale2.factors")
    ]
    network.fit(X, Y, epochs=1, optimizer=SGD(0.5), verbose=False)
    for name, values in network.state_dict().items():
        assert (values != before[name]).any(), name
    network.load_state_dict(before)
    for name, values in network.state_dict().items():
        np.testing.assert_array_equal(values, before[name])


def test_example_in_the_documentation_is_this_layer() -> None:
    lines = inspect.cleandoc(Layer.__doc__ or "").splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("    class Scale"))
    last = next(number for number, line in enumerate(lines[first:], first) if line and not line.startswith("    "))
    scope: dict[str, Any] = {"Layer": Layer}
    exec(textwrap.dedent("\n".join(lines[first:last])), scope)
    networks = [
        Sequential([Dense(6, 5, seed=1), kind(5), Dense(5, 4, seed=2)], dtype="float64")
        for kind in (Scale, scope["Scale"])
    ]
    for network in networks:
        network.fit(X, Y, epochs=3, optimizer=SGD(0.5), verbose=False, block_rows=7)
    np.testing.assert_array_equal(*(network.parameters for network in networks))
    assert networks[1].layers[1].config() == {"n_inputs": 5}


def test_layer_alone_trains_as_in_a_lesson() -> None:
    scale, optimizer = Scale(2), SGD(0.5)
    scale.forward(np.array([[1.0, 2.0], [3.0, 4.0]]))
    scale.backward(np.array([[1.0, 1.0], [1.0, 0.0]]))
    optimizer.step(scale)
    np.testing.assert_array_equal(scale.dfactors, [[4, 2]])
    np.testing.assert_array_equal(scale.factors, [[1 - 0.5 * 4, 1 - 0.5 * 2]])


def test_assigning_copies_into_the_networks_vectors() -> None:
    scale = Scale(4)
    network = Sequential([Dense(6, 4), scale], dtype="float64")
    scale.factors = [[1, 2, 3, 4]]
    scale.dfactors = np.full((1, 4), 5)
    np.testing.assert_array_equal(network.parameters[-4:], [1, 2, 3, 4])
    np.testing.assert_array_equal(network.gradients[-4:], 5)
    scale.parameters = [4, 3, 2, 1]
    np.testing.assert_array_equal(network.parameters[-4:], [4, 3, 2, 1])
    with pytest.raises(ValueError, match=r"factors must have the shape \(1, 4\), got \(4,\)"):
        scale.factors = [1, 2, 3, 4]
    with pytest.raises(ValueError, match="factors must hold real numbers, got dtype complex128"):
        scale.factors = [[1j, 2, 3, 4]]
    with pytest.raises(ValueError, match="factors must hold real numbers, got dtype <U1"):
        scale.factors = [["1", "2", "3", "4"]]
    np.testing.assert_array_equal(scale.factors, [[4, 3, 2, 1]])


@pytest.mark.parametrize("name", ["parameters", "gradients"])
def test_parameters_that_nobody_would_update_are_refused(name: str) -> None:
    class Own(Layer):
        def __init__(self) -> None:
            super().__init__()
            setattr(self, name, np.zeros(3))

    with pytest.raises(TypeError, match=f"Own sets {name} itself: make parameters with self.make_parameters"):
        Own()


@pytest.mark.parametrize("name", ["inputs", "output", "parameters", "size", "dfactors", "actors", "backward"])
def test_names_that_are_taken_are_refused(name: str) -> None:
    class Own(Layer):
        def __init__(self) -> None:
            super().__init__()
            self.make_parameters(factors=(2,), dactors=(1,))
            self.make_parameters(**{name: (3,)})

    with pytest.raises(ValueError, match=r"Own has something called .* already: name the parameter anew"):
        Own()


class WithGain(Dense):
    """A Dense layer with one more parameter than its class has."""

    def __init__(self, n_inputs: int, n_neurons: int, **options: Any) -> None:
        super().__init__(n_inputs, n_neurons, **options)
        self.make_parameters(gain=(1, 1))
        self.gain = [[2.0]]

    def forward(self, inputs: Array) -> Array:
        self.plain = super().forward(inputs)
        self.output = self.plain * self.gain
        return self.output

    def backward_parameters(self, dvalues: Array) -> None:
        self.dgain = (dvalues * self.plain).sum(keepdims=True)
        super().backward_parameters(dvalues * self.gain)

    def backward_inputs(self, dvalues: Array) -> Array:
        return super().backward_inputs(dvalues * self.gain)


@pytest.mark.parametrize("strengths", [(0.1, 0.2, 0.1, 0.2), (0.1, 0.2, 0.3, 0.4)])
def test_dense_with_one_more_parameter(
    strengths: tuple[float, ...], numeric_gradient: Callable[..., np.ndarray]
) -> None:
    names = [name for name in Dense(1, 1).config() if "regularizer" in name]
    layer = WithGain(6, 5, **dict(zip(names, strengths, strict=True)), seed=1)
    kept = layer.weights.copy()
    network = Sequential([layer, ReLU(), Dense(5, 4, seed=2)], dtype="float64")
    assert layer.gain == 2
    np.testing.assert_array_equal(layer.weights, kept)
    network.parameters[...] = 0.5 * np.random.default_rng(3).standard_normal(network.parameters.shape)

    def loss() -> float:
        l1_w, l2_w, l1_b, l2_b = strengths
        penalty = l1_w * abs(layer.weights).sum() + l2_w * (layer.weights**2).sum()
        return float(mean_loss(network) + penalty + l1_b * abs(layer.biases).sum() + l2_b * (layer.biases**2).sum())

    expected = numeric_gradient(loss, network.parameters)
    with network.backend.computing():
        data, _, penalty = logged(FullBatch(network, X, Y, block_rows=7))
    np.testing.assert_allclose(network.gradients, expected, rtol=1e-6, atol=1e-9)
    assert data + penalty == pytest.approx(loss(), rel=1e-12)


class Dropout(Layer):
    """Keeps every second column while it trains."""

    seen: ClassVar[list[bool]] = []

    def forward(self, inputs: Array) -> Array:
        self.seen.append(self.training)
        self.mask = np.arange(inputs.shape[1]) % 2 * 2.0 if self.training else np.ones(inputs.shape[1])
        self.output = inputs * self.mask
        return self.output

    def backward(self, dvalues: Array) -> Array:
        self.dinputs = dvalues * self.mask
        return self.dinputs


def test_layer_knows_whether_it_trains() -> None:
    Dropout.seen.clear()
    network = spread([Dense(6, 5), Dropout(), Dense(5, 4)], threads=1)
    assert not network.training
    network.fit(X, Y, epochs=2, optimizer=SGD(0.1), verbose=False, block_rows=30)
    assert Dropout.seen == [True] * 4
    network.evaluate(X, Y)
    network.predict(X)
    assert set(Dropout.seen[4:]) == {False}
    network.training = True
    assert network.training
    network.forward(X)
    assert Dropout.seen[-1]


def test_metrics_after_a_gradient_are_not_those_of_training() -> None:
    Dropout.seen.clear()
    network = spread([Dense(6, 5), Dropout(), Dense(5, 4)], threads=1)
    with network.backend.computing():
        batch = FullBatch(network, X, Y)
        batch.compute_gradients()
        batch.compute_metrics()
    assert Dropout.seen == [True, False]


def test_dropped_columns_have_no_gradient_and_count_in_predictions() -> None:
    network = spread([Dense(6, 5), Dropout(), Dense(5, 4)], threads=1)
    before = network.state_dict()
    network.fit(X, Y, epochs=1, optimizer=SGD(0.1), verbose=False)
    changed = network.dense[0].weights != before["dense1.weights"]
    np.testing.assert_array_equal(changed.any(axis=0), [False, True, False, True, False])
    hidden = X @ network.dense[0].weights + network.dense[0].biases
    logits = hidden @ network.dense[1].weights + network.dense[1].biases
    exponentials = np.exp(logits)
    expected = exponentials / exponentials.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(network.predict_proba(X), expected, rtol=1e-12)


def test_networks_of_the_packages_own_classes_alone_are_taken_apart() -> None:
    assert is_planned(spread([Dense(6, 5), ReLU(), Dense(5, 4)]))
    for make in NETWORKS.values():
        assert not is_planned(make())


class Old(Smoothed):
    """A loss written for the version before, where `samples` was what `reduction` is."""

    def backward(self, dvalues: Array, labels: Array, samples: int | None = None) -> Array:  # type: ignore[override]
        self.dinputs = super().backward(dvalues, labels, "sum") / (samples or len(labels))
        return self.dinputs


def test_loss_of_the_version_before_trains_with_a_warning() -> None:
    network, expected = (spread([Dense(6, 5), ReLU(), Dense(5, 4)], loss()) for loss in (Old, Smoothed))
    with pytest.warns(
        FutureWarning, match=r"Old.backward\(…, samples\) is now backward\(…, reduction=.*: the old name"
    ):
        FullBatch(network, X, Y, block_rows=7).compute_gradients()
    FullBatch(expected, X, Y, block_rows=7).compute_gradients()
    np.testing.assert_allclose(network.gradients, expected.gradients, rtol=1e-12)


def test_names_of_the_version_before_work_with_a_warning() -> None:
    class Drawn(Scale):
        def draw(self, generator: Any) -> None:
            self.factors = generator.standard_normal((1, self.n_inputs))

    network = spread([Dense(6, 4)])
    network.backward(network.forward(X), Y, reduction="sum")
    expected = network.gradients / 7
    with pytest.warns(FutureWarning, match="^samples is now reduction"):
        network.backward(network.forward(X), Y, samples=7)
    np.testing.assert_allclose(network.gradients, expected, rtol=1e-12)
    for samples in ((), (3,), (None,)):
        loss = SoftmaxCategoricalCrossentropy()
        mean = loss.backward(network.forward(X), Y)
        with pytest.warns(FutureWarning, match="^samples is now reduction") if samples else nullcontext():
            dinputs = loss.backward(network.forward(X), Y, *samples)
        np.testing.assert_allclose(dinputs, mean * len(Y) / ((samples or (None,))[0] or len(Y)), rtol=1e-12)
    with pytest.warns(FutureWarning, match="^Drawn.draw is now init_parameters: the old name goes"):
        Sequential([Dense(6, 5), Drawn(5), Dense(5, 4)], seed=3)
    dense, again = Dense(2, 3, seed=1), Dense(2, 3, seed=2)
    with pytest.warns(FutureWarning, match="^draw is now init_parameters"):
        again.draw(np.random.default_rng(1))
    np.testing.assert_array_equal(dense.weights, again.weights)


def test_unknown_reduction_is_refused() -> None:
    network = spread([Dense(6, 4)])
    with pytest.raises(ValueError, match=r"^reduction must be .mean. or .sum., got 'none'$"):
        network.backward(network.forward(X), Y, "none")


def test_network_with_a_forward_of_its_own_is_asked_for_every_block() -> None:
    class Shifted(Sequential):
        def forward(self, inputs: Array) -> Array:
            return super().forward(inputs + 1)

    network = Shifted([Dense(6, 4, seed=1)], dtype="float64", backend=CpuBackend(2))
    plain = Sequential([Dense(6, 4, seed=1)], dtype="float64")
    network.fit(X, Y, epochs=3, optimizer=SGD(0.1), verbose=False, block_rows=7)
    plain.fit(X + 1, Y, epochs=3, optimizer=SGD(0.1), verbose=False, block_rows=7)
    np.testing.assert_allclose(network.parameters, plain.parameters, rtol=1e-10)


def test_layer_of_another_network_is_refused_while_that_lives() -> None:
    layers = [Dense(6, 5, seed=1), ReLU(), Dense(5, 4, seed=2)]
    network = Sequential(layers)
    with pytest.raises(ValueError, match=r"layer 1 \(Dense\) is part of another network already"):
        Sequential(layers)
    with pytest.raises(ValueError, match=r"layer 2 \(ReLU\) is part of another network already"):
        Sequential([Dense(6, 5), layers[1], Dense(5, 4)])
    with pytest.raises(ValueError, match=r"the loss \(SoftmaxCategoricalCrossentropy\) is part of another network"):
        Sequential([Dense(6, 4)], loss=network.loss)
    before = network.parameters.copy()
    network.fit(X, Y, epochs=1, optimizer=SGD(0.5), verbose=False)
    assert (network.parameters != before).all()
    np.testing.assert_array_equal(layers[0].weights.ravel(), network.parameters[:30])
    del network
    gc.collect()
    Sequential(layers)


def test_dense_whose_backward_would_not_be_called_is_refused() -> None:
    class Clipped(Dense):
        def backward(self, dvalues: Array) -> Array:
            return super().backward(dvalues.clip(-1, 1))

    Clipped(2, 3).forward(np.ones((1, 2)))
    with pytest.raises(
        ValueError,
        match=r"layer 2 \(Clipped\) overrides backward, .* of a Dense layer: override .* and backward_inputs$",
    ):
        Sequential([Dense(6, 5), Clipped(5, 4)])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (Dense(6, 4), r"layers must be a list of layers, got Dense\(6, 4\)"),
        (3, "layers must be a list of layers, got 3"),
        ([Dense], r"layer 1 is <class .*Dense'>, not a layer: make one: Dense\(…\)"),
        ([Dense(6, 4), "relu"], "layer 2 is 'relu', not a layer: inherit from fmnist_xp.Layer"),
        ([Scale(6), Dense(6, 4)], "the first layer must be Dense"),
        ([Dense(6, 5), ReLU(), Dense(4, 4)], "dense1 has 5 neurons, but dense2 takes 4 inputs"),
    ],
)
def test_what_is_no_network_is_named(layers: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sequential(layers)


def test_layer_that_changes_the_width_fits_between_two_dense(numeric_gradient: Callable[..., np.ndarray]) -> None:
    class Evens(Layer):
        def forward(self, inputs: Array) -> Array:
            self.n_inputs = inputs.shape[1]
            self.output = inputs[:, ::2]
            return self.output

        def backward(self, dvalues: Array) -> Array:
            self.dinputs = np.zeros((len(dvalues), self.n_inputs)).T.copy().T
            self.dinputs[:, ::2] = dvalues
            return self.dinputs

    network = spread([Dense(6, 5), Evens(), Dense(3, 4)])
    expected = numeric_gradient(lambda: mean_loss(network), network.parameters)
    with network.backend.computing():
        FullBatch(network, X, Y, block_rows=7).compute_gradients()
    np.testing.assert_allclose(network.gradients, expected, rtol=1e-6, atol=1e-9)


def test_layer_that_computes_in_float64_stands_in_a_float32_network() -> None:
    network = Sequential([Dense(6, 5, seed=1), LeakyReLU(), Dense(5, 4, seed=2)])
    twin = Sequential([Dense(6, 5, seed=1), LeakyReLU(), Dense(5, 4, seed=2)], dtype="float64")
    for model in (network, twin):
        model.fit(X, Y, epochs=5, optimizer=Adam(0.02), verbose=False, block_rows=7)
    np.testing.assert_allclose(network.parameters, twin.parameters, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("make", [lambda: Dense(2, 3), ReLU, Softmax, lambda: Scale(2)])
def test_backward_before_forward_is_named(make: Callable[[], Layer]) -> None:
    layer = make()
    name = type(layer).__name__
    with pytest.raises(AttributeError, match=f"^{name} has no (output|inputs) yet: call forward first$"):
        layer.backward(np.ones((2, 2)))
    with pytest.raises(AttributeError, match=f"^{name} has no dinputs yet: call backward first$"):
        layer.dinputs  # noqa: B018
    with pytest.raises(AttributeError, match=f"^{name} has no nonsense$"):
        layer.nonsense  # noqa: B018


def test_constructor_that_forgets_its_class_is_named() -> None:
    class Own(Layer):
        def __init__(self) -> None:
            pass

    with pytest.raises(AttributeError, match=r"begin its constructor with super\(\).__init__\(backend\)"):
        Own().backend  # noqa: B018
    with pytest.raises(AttributeError, match=r"begin its constructor with super\(\).__init__\(backend\)"):
        Sequential([Dense(6, 4), Own()])


def test_method_may_be_called_before_there_is_a_backend() -> None:
    class Own(Layer):
        def __init__(self, widths: str) -> None:
            self.widths = self.parsed(widths)
            super().__init__()

        def parsed(self, widths: str) -> list[int]:
            return [int(width) for width in widths.split(",")]

    assert Own("3,4").widths == [3, 4]


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        ("categorical_crossentropy", CategoricalCrossentropy),
        (CategoricalCrossentropy, CategoricalCrossentropy),
        ("softmax_categorical_crossentropy", SoftmaxCategoricalCrossentropy),
        (SoftmaxCategoricalCrossentropy, SoftmaxCategoricalCrossentropy),
        (None, SoftmaxCategoricalCrossentropy),
    ],
)
def test_loss_may_be_named_or_be_a_class(loss: Any, kind: type) -> None:
    layers: list[Layer] = [Dense(6, 4)]
    if kind is CategoricalCrossentropy:
        layers.append(Softmax())
    network = Sequential(layers, loss, CpuBackend(1))
    assert type(network.loss) is kind
    assert network.loss.backend is network.backend


@pytest.mark.parametrize("loss", ["softmax_categorical_crossentropy", SoftmaxCategoricalCrossentropy])
def test_loss_by_name_is_made_on_the_networks_device(loss: Any) -> None:
    made: list[Any] = []

    class Noting(SoftmaxCategoricalCrossentropy):
        def __init__(self, backend: Backend | None = None) -> None:
            made.append(backend)
            super().__init__(backend)

    backend = CpuBackend(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "softmax_categorical_crossentropy", Noting)
        Sequential([Dense(6, 4)], loss if isinstance(loss, str) else Noting, backend)
    assert made == [backend]


@pytest.mark.parametrize("loss", ["mse", 3, Dense, ReLU()])
def test_what_is_no_loss_is_named(loss: Any) -> None:
    with pytest.raises(ValueError, match="loss must be one of categorical_crossentropy, softmax_categorical_cross"):
        Sequential([Dense(6, 4)], loss)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_own_parameters_train_on_a_gpu_as_on_the_cpu(dtype: str) -> None:
    cuda = CudaBackend(1, cupy=StandInCupy(devices=2))
    networks = []
    for backend in (cuda, CpuBackend(1)):
        layers = [Dense(6, 5), Scale(5, backend=backend), ReLU(), Dense(5, 4)]
        networks.append(Sequential(layers, backend=backend, seed=1, dtype=dtype))
        networks[-1].fit(X, Y, epochs=5, optimizer=Adam(0.02), verbose=False, block_rows=60)
    on_gpu, on_cpu = networks
    assert (on_cpu.state_dict()["scale1.factors"] != 1).all()
    np.testing.assert_array_equal(cuda.to_host(on_gpu.parameters), on_cpu.parameters)
    np.testing.assert_array_equal(on_gpu.predict(X), on_cpu.predict(X))


def test_assigning_to_a_parameter_finds_the_layers_device() -> None:
    cuda = CudaBackend(1, cupy=StandInCupy(devices=2))
    scale = Scale(3, backend=cuda)
    scale.factors = [[1, 2, 3]]
    np.testing.assert_array_equal(cuda.to_host(scale.factors), [[1, 2, 3]])
