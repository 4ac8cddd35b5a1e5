"""The plan: the same values as layer by layer, on buffers, in place and joined where that is allowed."""

import tracemalloc
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
from batch_helpers import undivided
from parity.standin import StandInCupy

from fmnist_xp.backend import Call, CpuBackend, CudaBackend, Formula, Product, RowSum, Step, elementwise
from fmnist_xp.model import Sequential
from fmnist_xp.nn import (
    GELU,
    Activation,
    CategoricalCrossentropy,
    Dense,
    Layer,
    LayerNorm,
    LeakyReLU,
    Loss,
    Network,
    ReLU,
    Sigmoid,
    Softmax,
    SoftmaxCategoricalCrossentropy,
    Tanh,
)
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.optim import SGD
from fmnist_xp.registry import REGISTRY
from fmnist_xp.train.plan import Calls, Plan, is_planned, plans_first_layer
from fmnist_xp.train.rows import Rows
from fmnist_xp.train.trainer import train

CPU = CpuBackend(1)
ROWS, CLASSES = 7, 3
GENERATOR = np.random.default_rng(2)
X, Y = GENERATOR.standard_normal((ROWS, 5)), GENERATOR.integers(0, CLASSES, ROWS)


class Identity(Layer):
    """A user's own layer, which keeps what it is given and gives back the very same array."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []  # shared with the copies

    def forward(self, inputs: Any) -> Any:
        self.seen.append(inputs)
        self.output = inputs
        return inputs

    def backward(self, dvalues: Any) -> Any:
        self.seen.append(dvalues)
        return dvalues


def make_network(*layers: Layer, dtype: str = "float64", backend: Any = CPU, loss: Any = None) -> Network:
    network = Network(list(layers), loss, backend, dtype=dtype)
    values = np.random.default_rng(4).standard_normal(network.parameters.shape)
    network.parameters[...] = backend.asarray(values, network.parameters.dtype)
    return network


def gradients_of(plan: Plan, network: Network, inputs: Any = X, labels: Any = Y) -> Any:
    gradients = np.empty_like(network.gradients)
    plan.backward(plan.forward(inputs, training=True), labels, gradients)
    return gradients


ARCHITECTURES: dict[str, Callable[[], list[Layer]]] = {
    "one Dense": lambda: [Dense(5, 3)],
    "Dense after Dense": lambda: [Dense(5, 4), Dense(4, 3)],
    "ReLU between": lambda: [Dense(5, 4), ReLU(), Dense(4, 3)],
    "Tanh between": lambda: [Dense(5, 4), Tanh(), Dense(4, 3)],
    "ReLU twice": lambda: [Dense(5, 4), ReLU(), ReLU(), Dense(4, 3)],
    "Tanh thrice": lambda: [Dense(5, 4), Tanh(), Tanh(), Tanh(), Dense(4, 3)],
    "Tanh, then ReLU": lambda: [Dense(5, 4), Tanh(), ReLU(), Dense(4, 3)],
    "ReLU last": lambda: [Dense(5, 3), ReLU()],
    "Softmax within": lambda: [Dense(5, 4), Softmax(), Dense(4, 3)],
    "Softmax, then ReLU": lambda: [Dense(5, 4), Softmax(), ReLU(), Dense(4, 3)],
    "Softmax, then Tanh": lambda: [Dense(5, 4), Softmax(), Tanh(), Dense(4, 3)],
    "Softmax thrice": lambda: [Dense(5, 4), Softmax(), Softmax(), Softmax(), Dense(4, 3)],
    "LeakyReLU between": lambda: [Dense(5, 4), LeakyReLU(0.2), Dense(4, 3)],
    "Sigmoid between": lambda: [Dense(5, 4), Sigmoid(), Dense(4, 3)],
    "GELU between": lambda: [Dense(5, 4), GELU(), Dense(4, 3)],
    "GELU thrice": lambda: [Dense(5, 4), GELU(), GELU(), GELU(), Dense(4, 3)],
    "GELU between others": lambda: [Dense(5, 4), Tanh(), GELU(), Sigmoid(), Dense(4, 3)],
    "Softmax, then GELU": lambda: [Dense(5, 4), Softmax(), GELU(), Dense(4, 3)],
    "GELU last": lambda: [Dense(5, 3), GELU()],
    "LayerNorm between": lambda: [Dense(5, 4), LayerNorm(4), Dense(4, 3)],
    "LayerNorm, then GELU": lambda: [Dense(5, 4), LayerNorm(4), GELU(), Dense(4, 3)],
    "GELU, then LayerNorm": lambda: [Dense(5, 4), GELU(), LayerNorm(4), Dense(4, 3)],
    "LayerNorm twice": lambda: [Dense(5, 4), Tanh(), LayerNorm(4), LayerNorm(4), Dense(4, 3)],
    "LayerNorm last": lambda: [Dense(5, 3), LayerNorm(3)],
    "own layer before LayerNorm": lambda: [Dense(5, 4), Identity(), LayerNorm(4), GELU(), Identity(), Dense(4, 3)],
    "own layer": lambda: [Dense(5, 4), Identity(), Dense(4, 3)],
    "own layer before an activation": lambda: [Dense(5, 4), Identity(), ReLU(), Dense(4, 3)],
    "own layer behind an activation": lambda: [Dense(5, 4), ReLU(), Identity(), Tanh(), Dense(4, 3)],
    "two own layers": lambda: [Dense(5, 4), Identity(), Tanh(), Identity(), Tanh(), Dense(4, 3)],
    "own layer last": lambda: [Dense(5, 4), ReLU(), Dense(4, 3), Identity()],
}


@pytest.mark.parametrize("make_layers", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_gradient_agrees_with_finite_differences_and_with_the_layers(
    make_layers: Callable[[], list[Layer]], numeric_gradient: Callable[..., np.ndarray]
) -> None:
    network = make_network(*make_layers())
    expected = numeric_gradient(
        lambda: ROWS * float(network.loss.calculate(network.forward(X), Y)), network.parameters
    )
    plan, held = Plan(network), (X.copy(), Y.copy())
    gradients = gradients_of(plan, network)
    np.testing.assert_allclose(gradients, expected, rtol=1e-6, atol=1e-8)
    network.backward(network.forward(X), Y, "sum")
    np.testing.assert_allclose(gradients, network.gradients, rtol=1e-12, atol=1e-14)
    for before, after in zip(held, (X, Y), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("make_layers", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_calls_made_again_compute_from_what_the_arrays_hold_then(
    make_layers: Callable[[], list[Layer]], split: bool
) -> None:
    layers = [*make_layers(), *([Softmax()] if split else [])]
    network = make_network(*layers, loss=CategoricalCrossentropy() if split else None)
    inputs, labels, gradients = X.copy(), Y.copy(), np.empty_like(network.gradients)
    plan = Plan(network)
    forward = plan.forward(inputs, training=True)
    backward = plan.backward(forward, labels, gradients)
    for _ in range(2):
        network.parameters *= 0.9  # an update, in place
        inputs[...], labels[...] = inputs[::-1] + 0.1, (labels + 1) % CLASSES
        forward.calls()
        np.testing.assert_allclose(forward.probabilities, network.forward(inputs), rtol=1e-12)
        gradients[...] = np.nan
        backward()
        network.backward(network.forward(inputs), labels, "sum")
        np.testing.assert_allclose(gradients, network.gradients, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("make_layers", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_nothing_is_kept_wider_than_the_network_computes(make_layers: Callable[[], list[Layer]]) -> None:
    network = make_network(*make_layers(), dtype="float32")
    plan = Plan(network)
    gradients_of(plan, network, X.astype("float32"))
    arrays = plan.workspace._arrays
    assert {array.dtype.name for array in arrays.values() if array.dtype.kind == "f"} == {"float32"}


def named(step: Step) -> str:
    return {Product: "product", RowSum: "row sum"}.get(type(step)) or step.function.__name__  # type: ignore[union-attr]


def test_calls_of_the_notebooks_network_in_their_order() -> None:
    network = make_network(Dense(5, 4), ReLU(), Dense(4, 3))
    plan = Plan(network)
    forward = plan.forward(X, training=True)
    backward = plan.backward(forward, Y, network.gradients)
    softmax = ["row_maxima", "shifted_exp", "product", "divide_rows"]
    assert [named(step) for step in forward.calls.steps] == [
        "product",
        "biased_relu",
        "product",
        "add_bias",
        *softmax,
    ]
    gradients = ["softmax_crossentropy_gradient", "product", "row sum", "product", "relu_gradient"]
    assert [named(step) for step in backward.steps] == [*gradients, "product", "row sum"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_nobody_needs_again_is_written_over(dtype: str) -> None:
    network = make_network(Dense(5, 4), Tanh(), Dense(4, 4), ReLU(), ReLU(), Dense(4, 3), dtype=dtype)
    plan = Plan(network)
    forward = plan.forward(X.astype(dtype), training=True)
    backward = plan.backward(forward, Y, network.gradients)
    products = [step.out for step in forward.calls.steps if isinstance(step, Product)]
    hidden = [step.arguments[-1] for step in forward.calls.steps if named(step).startswith("biased_")]
    assert all(np.shares_memory(a, b) for a, b in zip(products[:2], hidden, strict=True))
    (second,) = [step for step in forward.calls.steps if named(step) == "relu"]
    assert not np.shares_memory(second.arguments[0], second.arguments[1])  # the first one's gradient needs it
    assert np.shares_memory(forward.probabilities, products[2])
    assert backward.steps[0].arguments[-1] is forward.probabilities  # type: ignore[union-attr]
    for step in backward.steps:
        if named(step).endswith(("relu_gradient", "tanh_gradient")):
            assert step.arguments[0] is step.arguments[-1]  # type: ignore[union-attr]


@pytest.mark.parametrize("columns", [None, np.arange(0, 4000, 800)])
def test_nothing_as_large_as_an_activation_is_allocated_after_the_first_pass(columns: np.ndarray | None) -> None:
    rows, width = 4000, 32
    # With columns picked, the weights of all inputs are as large as an activation too.
    network = make_network(Dense(5 if columns is None else rows, width), ReLU(), Dense(width, width), dtype="float32")
    inputs, labels = np.ones((rows, 5), "float32"), np.arange(rows) % width
    plan = Plan(network)
    forward = plan.forward(inputs, training=True, columns=columns)
    outcomes = plan.outcomes(forward.probabilities, labels)
    backward = plan.backward(forward, labels, network.gradients)
    tracemalloc.start()
    try:
        forward.calls()
        outcomes.calls()
        backward()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # A comparison makes one byte an element; an activation, or the gradient of one, has four.
    assert peak < 3 * rows * width


def test_workspace_gives_the_head_of_an_array_for_fewer_rows_and_makes_others() -> None:
    workspace = Workspace(np)
    whole = workspace.empty("a", (6, 4), "float32")
    assert workspace.empty("a", (6, 4), "float32") is whole
    head = workspace.empty("a", (2, 4), "float32")
    assert (head.shape, head.ctypes.data) == ((2, 4), whole.ctypes.data)
    for name, shape, dtype in (
        ("b", (6, 4), "float32"),
        ("a", (7, 4), "float32"),
        ("a", (7, 4), "float64"),
        ("a", (7, 3), "float64"),
    ):
        other = workspace.empty(name, shape, dtype)
        assert (other.shape, other.dtype) == (shape, dtype)
        assert not np.shares_memory(other, whole)
    ones = workspace.ones(5, np.dtype("float32"))
    assert (ones.tolist(), ones.dtype) == ([[1]] * 5, np.float32)
    assert np.shares_memory(workspace.ones(3, np.dtype("float32")), ones)
    assert workspace.ones(5, np.dtype("float64")).dtype == np.float64


def test_buffers_of_a_plan_in_half_precision() -> None:
    backend = CudaBackend(0, cupy=StandInCupy())
    network = Network([Dense(5, 4), ReLU(), Dense(4, 3)], backend=backend, seed=0, dtype="float16")
    with backend.computing():
        inputs, labels = backend.asarray(X, "float32"), backend.asarray(Y)
        plan = Plan(network)
        plan.backward(plan.forward(inputs, training=True), labels, network.gradients)
    arrays = plan.workspace._arrays
    halves = {"0 inputs": (ROWS, 5), "0 weights": (5, 4), "0 output": (ROWS, 4), "2 weights": (4, 3)}
    halves |= {"loss dinputs": (ROWS, 3), "2 dinputs": (ROWS, 4), "ones in float16": (ROWS, 1)}
    assert {name: array.shape for name, array in arrays.items() if array.dtype == "float16"} == halves
    assert {name for name, array in arrays.items() if array.dtype == "float32"} == {
        *("2 output", "loss row", "loss by class", "ones in float32")
    }


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_scale_of_the_inputs_goes_into_the_products_of_the_first_layer(scale: float) -> None:
    network, expected = (make_network(Dense(5, 4), ReLU(), Dense(4, 3)) for _ in range(2))
    gradients = gradients_of(Plan(network, scale), network, X / scale)
    expected.backward(expected.forward(X), Y, "sum")
    np.testing.assert_allclose(gradients, expected.gradients, rtol=1e-13)


def test_scale_of_the_inputs_reaches_the_products_of_a_training_run(monkeypatch: pytest.MonkeyPatch) -> None:
    networks = [make_network(Dense(5, 4), ReLU(), Dense(4, 3)) for _ in range(2)]
    for network, scale in zip(networks, (1.0, 0.25), strict=True):
        blocks = slice(0, 3), slice(3, 6), slice(6, 7)
        values = [X[block] / scale for block in blocks]
        rows = Rows(blocks, Y, values.__getitem__, None, undivided(blocks), input_scale=scale)
        monkeypatch.setattr("fmnist_xp.train.fullbatch.lay_out", lambda *_given, rows=rows: rows)
        history = train(network, X, Y, epochs=3, optimizer=SGD(0.1))
        assert history.epoch == [0]
    np.testing.assert_allclose(*(network.parameters for network in networks), rtol=1e-12)


COLUMNS = [np.array([0, 2, 3]), np.array([1, 2, 4]), np.array([3]), np.arange(5)]


def written_out(network: Network, inputs: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities and the sum of the gradients of Dense, ReLU, Dense on scale · inputs, in NumPy."""
    w1, b1, w2, b2 = network.state_dict().values()
    hidden = np.maximum(scale * inputs @ w1 + b1, 0)
    exponentials = np.exp(hidden @ w2 + b2)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    d2 = probabilities - np.eye(CLASSES)[Y]
    d1 = (d2 @ w2.T) * (hidden > 0)
    gradients = scale * inputs.T @ d1, d1.sum(axis=0), hidden.T @ d2, d2.sum(axis=0)
    return probabilities, np.concatenate([part.ravel() for part in gradients])


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("columns", COLUMNS, ids=str)
def test_picked_columns_are_as_rows_whose_other_columns_are_0(columns: np.ndarray, scale: float) -> None:
    network = make_network(Dense(5, 4), ReLU(), Dense(4, 3))
    full = np.zeros_like(X)
    full[:, columns] = X[:, columns]
    probabilities, expected = written_out(network, full, scale)
    plan, gradients = Plan(network, scale), np.full_like(network.gradients, np.nan)
    forward = plan.forward(np.ascontiguousarray(X[:, columns]), training=True, columns=columns)
    np.testing.assert_allclose(forward.probabilities, probabilities, rtol=1e-13)
    plan.backward(forward, Y, gradients)
    np.testing.assert_allclose(gradients, expected, rtol=1e-12, atol=1e-14)
    others = np.setdiff1d(np.arange(5), columns)
    np.testing.assert_array_equal(gradients[:20].reshape(5, 4)[others], 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_calls_made_again_take_the_columns_that_are_there_then(dtype: str) -> None:
    network = make_network(Dense(5, 4), ReLU(), Dense(4, 3), dtype=dtype)
    plan, gradients = Plan(network), np.empty_like(network.gradients)
    columns, inputs = COLUMNS[0].copy(), X[:, COLUMNS[0]].astype(dtype)
    forward = plan.forward(inputs, training=True, columns=columns)
    backward = plan.backward(forward, Y, gradients)
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    for picked in COLUMNS[1::-1]:
        network.parameters *= 0.9  # an update, in place
        columns[...], inputs[...] = picked, X[:, picked]
        full = np.zeros_like(X)
        full[:, picked] = X[:, picked]
        probabilities, expected = written_out(network, full, 1.0)
        forward.calls()
        np.testing.assert_allclose(forward.probabilities, probabilities, rtol=tolerance)
        gradients[...] = np.nan
        backward()
        np.testing.assert_allclose(gradients, expected, rtol=tolerance, atol=tolerance)


def test_one_plan_takes_blocks_of_several_numbers_of_columns() -> None:
    network = make_network(Dense(5, 4), ReLU(), Dense(4, 3))
    plan, made = Plan(network), []
    for columns in COLUMNS:
        full = np.zeros_like(X)
        full[:, columns] = X[:, columns]
        gradients = np.empty_like(network.gradients)
        forward = plan.forward(np.ascontiguousarray(X[:, columns]), training=True, columns=columns)
        made.append((forward, plan.backward(forward, Y, gradients), gradients, *written_out(network, full, 1.0)))
    for forward, backward, gradients, probabilities, expected in made + made[::-1]:
        forward.calls()
        np.testing.assert_allclose(forward.probabilities, probabilities, rtol=1e-13)
        gradients[...] = np.nan
        backward()
        np.testing.assert_allclose(gradients, expected, rtol=1e-12, atol=1e-14)


def test_columns_are_those_of_the_first_layer_alone() -> None:
    network = make_network(Dense(5, 4), Dense(4, 3))
    plan, columns = Plan(network), COLUMNS[0]
    forward = plan.forward(np.ascontiguousarray(X[:, columns]), training=True, columns=columns)
    backward = plan.backward(forward, Y, network.gradients)
    products = [step.out.shape for step in backward.steps if isinstance(step, Product)]
    assert products == [(4, 3), (ROWS, 4), (3, 4)]
    assert [named(step) for step in forward.calls.steps][:4] == ["take_rows", "product", "add_bias", "product"]
    assert [named(step) for step in backward.steps][-3:] == ["product", "row sum", "put_rows"]


def test_parameters_may_take_the_place_of_the_first_layers_own() -> None:
    network, expected = (make_network(Dense(5, 4), ReLU(), Dense(4, 3)) for _ in range(2))
    held = network.parameters.copy()
    first = np.random.default_rng(5).standard_normal(24)
    expected.parameters[:24] = first
    plan, gradients = Plan(network, 1.0, first), np.empty_like(network.gradients)
    forward = plan.forward(X, training=True)
    backward = plan.backward(forward, Y, gradients)
    for _ in range(2):
        probabilities, sums = written_out(expected, X, 1.0)
        forward.calls()
        np.testing.assert_allclose(forward.probabilities, probabilities, rtol=1e-13)
        backward()
        np.testing.assert_allclose(gradients, sums, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(network.parameters, held)
        first *= 0.5
        expected.parameters[:24] = first
    np.testing.assert_array_equal(network.dense[0].weights.ravel(), held[:20])


def test_of_which_networks_the_first_layer_is_taken_apart() -> None:
    class OwnDense(Dense):
        """A user's own."""

    class OwnNetwork(Network):
        def forward(self, inputs: Any) -> Any:
            return super().forward(inputs)

    class OwnBackward(Network):
        def backward(self, *given: Any, **more: Any) -> Any:
            return super().backward(*given, **more)

    assert plans_first_layer(make_network(Dense(5, 4), Identity(), OwnDense(4, 3)))
    assert not plans_first_layer(make_network(OwnDense(5, 4), Dense(4, 3)))
    assert not plans_first_layer(OwnNetwork([Dense(5, 4), Dense(4, 3)]))
    assert not plans_first_layer(OwnBackward([Dense(5, 4), Dense(4, 3)]))


class Asked(CpuBackend):
    """NumPy that notes of each product whether it may be rounded as TF32."""

    precisions = ("float32", "tf32")

    def __init__(self) -> None:
        super().__init__(1)
        self.asked: list[bool] = []

    def dot_calls(self, product: Product) -> list[Call]:
        self.asked.append(product.tf32)
        return super().dot_calls(product)


@pytest.mark.parametrize(("dtype", "asks"), [("float32", False), ("tf32", True)])
def test_products_of_layers_alone_are_rounded_and_only_where_asked(dtype: str, asks: bool) -> None:
    network = Network([Dense(5, 4), ReLU(), Dense(4, 3)], backend=(backend := Asked()), seed=0, dtype=dtype)
    gradients_of(Plan(network), network, X.astype("float32"))
    # Two outputs, the sum in softmax; two gradients of the weights, of the biases, and one of the hidden layer.
    assert backend.asked == [asks, asks, False, asks, asks, asks, asks, asks]


# A user's own layers


def test_own_layer_gets_new_arrays_in_every_call_and_the_others_are_taken_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = Identity()
    network = make_network(*(Dense(5, 4), ReLU(), layer, Dense(4, 3), Softmax()), loss=CategoricalCrossentropy())
    plan = Plan(network)
    for name in ("forward", "backward_parameters", "backward_inputs"):
        monkeypatch.setattr(Dense, name, lambda *_given: pytest.fail("a Dense layer was called"))
    for name in ("activate", "backward", "outcomes"):
        monkeypatch.setattr(Loss, name, lambda *_given: pytest.fail("the loss was called"))
    forward = plan.forward(X, training=True)
    outcomes = plan.outcomes(forward.probabilities, Y)
    np.testing.assert_array_equal(outcomes.left, forward.probabilities[np.arange(ROWS), Y])
    np.testing.assert_array_equal(outcomes.predicted, forward.probabilities.argmax(axis=1))
    backward = plan.backward(forward, Y, network.gradients)
    held = [array.copy() for array in layer.seen]
    network.parameters *= 2
    for _ in range(2):
        forward.calls()
        backward()
    assert len(layer.seen) == 6
    for array, before in zip(layer.seen, held, strict=False):
        np.testing.assert_array_equal(array, before)
    assert not any(np.shares_memory(a, b) for i, a in enumerate(layer.seen) for b in layer.seen[:i])


def test_own_dense_layer_is_asked_for_the_gradient_of_its_inputs_unless_it_is_the_first() -> None:
    class OwnDense(Dense):
        asked: ClassVar[list[int]] = []

        def backward_inputs(self, dvalues: Any) -> Any:
            self.asked.append(self.n_inputs)
            return super().backward_inputs(dvalues)

    for layers, asked in (
        ([OwnDense(5, 4), ReLU(), OwnDense(4, 3)], [4]),
        ([Dense(5, 4), OwnDense(4, 3)], [4]),
    ):
        OwnDense.asked.clear()
        network = make_network(*layers)
        gradients = gradients_of(Plan(network), network)
        assert OwnDense.asked == asked
        network.backward(network.forward(X), Y, "sum")
        np.testing.assert_allclose(gradients, network.gradients, rtol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_own_parts_are_told_whether_they_train(training: bool) -> None:
    told: list[bool] = []

    class Told(SoftmaxCategoricalCrossentropy):
        def activate(self, outputs: Any) -> Any:
            told.append(self.training)
            return super().activate(outputs)

    class Telling(Network):
        def forward(self, inputs: Any) -> Any:
            told.append(self.training)
            return super().forward(inputs)

    Plan(make_network(Dense(5, 3), loss=Told())).forward(X, training)
    Plan(Telling([Dense(5, 3)], backend=CPU, dtype="float64")).forward(X, training)
    assert told == [training] * 2


def test_own_loss_reads_no_labels_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(SoftmaxCategoricalCrossentropy):
        """A user's own."""

    network = make_network(Dense(5, 3), loss=Own())
    monkeypatch.setattr("fmnist_xp.nn.loss.class_indices", lambda *_given: pytest.fail("labels were looked at"))
    plan = Plan(network)
    forward = plan.forward(X, training=True)
    plan.outcomes(forward.probabilities, Y)
    plan.backward(forward, Y, network.gradients)
    assert network.loss.checks_labels


class Countdown(Layer):
    """Fails in its first backward pass."""

    left: ClassVar[list[int]] = []

    def forward(self, inputs: Any) -> Any:
        self.output = inputs
        return inputs

    def backward(self, dvalues: Any) -> Any:
        if self.left:
            self.left.pop()
            raise ArithmeticError("not yet")
        return dvalues


def test_attempt_that_failed_leaves_nothing_behind() -> None:
    network, expected = (Sequential([Dense(5, 4, seed=1), Countdown(), Dense(4, 3, seed=2)]) for _ in range(2))
    Countdown.left.append(1)
    with pytest.raises(ArithmeticError, match="not yet"):
        network.fit(X, Y, epochs=2, verbose=False)
    for model in (network, expected):
        model.fit(X, Y, epochs=2, verbose=False)
    np.testing.assert_array_equal(network.parameters, expected.parameters)


class Wrong(Identity):
    """Gives what `result` is."""

    result: Any = None

    def forward(self, inputs: Any) -> Any:
        return self.result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("text", r"output of Wrong is a builtins.str, but .* on cpu with numpy arrays"),
        (np.ones((ROWS, 3)), r"inputs must have the shape \(rows, 4\), got \(7, 3\)"),
    ],
)
def test_what_an_own_layer_gives_is_checked(result: Any, message: str) -> None:
    Wrong.result = result
    network = make_network(Dense(5, 4), Wrong(), Dense(4, 3))
    with pytest.raises(ValueError, match=message):
        Plan(network).forward(X, training=True)


def test_what_an_own_part_gives_back_is_checked() -> None:
    class Lost(Identity):
        def backward(self, dvalues: Any) -> Any:
            return None

    class LostDense(Dense):
        def backward_inputs(self, dvalues: Any) -> Any:
            return None

    class LostLoss(SoftmaxCategoricalCrossentropy):
        def backward(self, dvalues: Any, labels: Any, reduction: str = "mean") -> Any:
            return None

    for name, network in {
        "Lost": make_network(Dense(5, 4), Lost(), Dense(4, 3)),
        "LostDense": make_network(Dense(5, 4), LostDense(4, 3)),
        "LostLoss": make_network(Dense(5, 3), loss=LostLoss()),
    }.items():
        with pytest.raises(ValueError, match=f"^dinputs of {name} is a builtins.NoneType"):
            gradients_of(Plan(network), network)


def test_whole_numbers_of_an_own_layer_become_floats() -> None:
    class Signs(Identity):
        def forward(self, inputs: Any) -> Any:
            return np.sign(inputs).astype(int)

    network = make_network(Dense(5, 4), Signs(), ReLU(), Dense(4, 3))
    np.testing.assert_allclose(Plan(network).forward(X, training=False).probabilities, network.forward(X))


def test_steps_wait_until_they_are_finished_and_are_computed_together() -> None:
    asked: list[int] = []

    class Joining(CpuBackend):
        def calls(self, steps: Any) -> list[Call]:
            asked.append(len(steps))
            return super().calls(steps)

    def double(xp: Any, values: Any) -> None:
        xp.multiply(values, 2, out=values)

    values, result = np.ones(3), np.empty(3)
    calls = Calls(Joining(1))
    calls.add(Formula(double, (values,)), Formula(double, (values,)))
    assert (asked, values.tolist()) == ([], [1, 1, 1])

    def keep(given: Any) -> Any:
        result[...] = given
        return result

    assert calls.through(lambda given: given + 1, values, keep) is result
    assert (asked, values.tolist(), result.tolist()) == ([2], [4, 4, 4], [5, 5, 5])
    calls.add(Formula(double, (result,)))
    calls.finish()
    assert (asked, result.tolist()) == ([2, 1], [10, 10, 10])
    calls()
    assert (values.tolist(), result.tolist()) == ([16, 16, 16], [34, 34, 34])
    assert asked == [2, 1]


def test_layers_write_over_what_nobody_needs_again() -> None:
    network = make_network(Dense(5, 4), LayerNorm(4), GELU(), Dense(4, 4), LeakyReLU(), Dense(4, 3))
    plan = Plan(network)
    gradients_of(plan, network)
    outputs = {name for name in plan.workspace._arrays if name.endswith("output")}
    # GELU alone must leave its inputs, which its gradient is made from, as they are.
    assert outputs == {"0 output", "2 output", "3 output", "5 output"}
    assert is_planned(network)


class Leaky(ReLU):
    """Registered below, but not what its class's formulas compute."""

    def forward(self, inputs: Any) -> Any:
        self.slopes = np.where(inputs > 0, 1.0, 0.1)
        self.output = inputs * self.slopes
        return self.output

    def backward(self, dvalues: Any) -> Any:
        return dvalues * self.slopes


class Weighted(SoftmaxCategoricalCrossentropy):
    """Counts every sample twice."""

    def backward(self, dvalues: Any, labels: Any, reduction: str = "mean") -> Any:
        return 2 * super().backward(dvalues, labels, reduction)


def test_registered_classes_with_methods_of_their_own_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "leaky", Leaky)
    monkeypatch.setitem(REGISTRY, "weighted", Weighted)
    networks = {
        "activation": make_network(Dense(5, 4), Leaky(), Dense(4, 3)),
        "loss": make_network(Dense(5, 4), ReLU(), Dense(4, 3), loss=Weighted()),
    }
    for network in networks.values():
        assert not is_planned(network)
        gradients = gradients_of(Plan(network), network)
        network.backward(network.forward(X), Y, "sum")
        np.testing.assert_allclose(gradients, network.gradients, rtol=1e-12)
    assert is_planned(make_network(Dense(5, 4), Tanh(), Dense(4, 3)))


def test_registered_activation_of_two_formulas_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    @elementwise
    def softsign(xp: Any, inputs: Any, output: Any) -> None:
        xp.divide(inputs, 1 + xp.abs(inputs), out=output)

    @elementwise
    def softsign_gradient(xp: Any, dvalues: Any, output: Any, dinputs: Any) -> None:
        xp.multiply(dvalues, (1 - xp.abs(output)) ** 2, out=dinputs)

    class Softsign(Activation):
        formula, gradient = staticmethod(softsign), staticmethod(softsign_gradient)

    network = make_network(Dense(5, 4), Softsign(), Dense(4, 3))
    assert not is_planned(network)
    monkeypatch.setitem(REGISTRY, "softsign", Softsign)
    assert is_planned(network)
    plan = Plan(network)
    forward = plan.forward(X, training=True)
    assert "biased_softsign" in [named(step) for step in forward.calls.steps]
    network.backward(network.forward(X), Y, "sum")
    np.testing.assert_allclose(gradients_of(plan, network), network.gradients, rtol=1e-12)
