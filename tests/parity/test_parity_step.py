from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import PRECISIONS, Backend, Call, CpuBackend, CudaBackend, Product, elementwise
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS, Experiment
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Activation, CategoricalCrossentropy, Dense, Layer, Loss, Network, ReLU, Softmax, Tanh
from fmnist_xp.nn.activations import tanh_gradient
from fmnist_xp.parity.operations import registered_losses
from fmnist_xp.parity.step import UPDATED, bound_step, compute_step, start_network
from fmnist_xp.parity.suite import Side, choose_sides, compare_step
from fmnist_xp.parity.tolerances import ROUNDOFF
from fmnist_xp.registry import registered
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.shift import Shift

CPU = CpuBackend(2)
EACH = pytest.mark.parametrize("name", NOTEBOOK_EXPERIMENTS)
Rows = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module", autouse=True)
def _each_bound_once() -> Iterator[None]:
    """Bounds go by experiment, precision and rows alone; a comparison takes most of its time for them."""
    known: dict[tuple[str, str, int], Any] = {}

    def bound(experiment: Experiment, precision: str, X: np.ndarray, y: np.ndarray) -> Any:
        key = repr(experiment), precision, id(X)
        if key not in known:
            known[key] = X, bound_step(experiment, precision, X, y)  # X, so that no other array gets its id
        return known[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmnist_xp.parity.suite.bound_step", bound)
        yield


@pytest.mark.parity
@EACH
@pytest.mark.parametrize("precision", ROUNDOFF)
def test_every_tensor_agrees_with_the_cpu(name: str, precision: str, device: Backend, any_rows: Rows) -> None:
    if precision not in device.precisions:
        pytest.skip(f"{device.device_name} does not compute in {precision}")
    ((actual, reference),) = choose_sides(device, precision)
    for line in compare_step(NOTEBOOK_EXPERIMENTS[name], actual, reference, any_rows):
        assert line.passed, line


@EACH
def test_float32_of_the_cpu_agrees_with_its_float64(name: str, any_rows: Rows) -> None:
    for line in compare_step(NOTEBOOK_EXPERIMENTS[name], *choose_sides(CPU)[0], any_rows):
        assert line.passed, line


@EACH
def test_every_tensor_is_what_is_written_out(name: str, any_rows: Rows) -> None:
    """In float64: where both devices were wrong alike, this would tell."""
    tensors = compute_step(NOTEBOOK_EXPERIMENTS[name], CPU, "float64", *any_rows)
    bounded = bound_step(NOTEBOOK_EXPERIMENTS[name], "float64", *any_rows)
    assert tensors.keys() == bounded.keys()
    for tensor, array in tensors.items():
        assert array.shape == bounded[tensor].value.shape
        assert np.all(np.abs(array - bounded[tensor].value) <= 2 * bounded[tensor].tolerance), tensor


def test_tensors_are_those_of_a_whole_step(small_rows: Rows) -> None:
    tensors = compute_step(NOTEBOOK_EXPERIMENTS["adam"], CPU, "float32", *small_rows)
    engines = "engine", "sorted"
    layers = ["dense1", "relu1", "dense2", "relu2", "dense3"]
    assert set(tensors) == {
        "probabilities", "loss", "loss.dinputs",
        *(f"{engine}.{metric}" for engine in engines for metric in ("loss", "accuracy", "penalty")),
        *(f"sorted.{layer}.{part}" for layer in layers[::2] for part in ("dweights", "dbiases")),
        *(f"{layer}.{part}" for layer in layers for part in ("output", "dinputs")),
        *(f"{layer}.{part}" for layer in layers[::2] for part in ("dweights", "dbiases")),
        *(f"{layer}.{part}{UPDATED}" for layer in layers[::2] for part in ("weights", "biases")),
    }  # fmt: skip
    assert tensors["dense1.output"].shape == (160, 64)
    assert tensors["dense1.dinputs"].shape == (160, 784)


@pytest.mark.parametrize("precision", ROUNDOFF)
def test_layers_are_given_the_operands_of_the_precision(
    precision: str, standin: CudaBackend, small_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, given = Dense.forward, []
    monkeypatch.setattr(
        Dense, "forward", lambda layer, inputs: given.append(inputs.dtype.name) or forward(layer, inputs)
    )
    compute_step(NOTEBOOK_EXPERIMENTS["adam"], standin, precision, *small_rows)
    assert given[:3] == [PRECISIONS[precision].operands] * 3


def test_only_the_last_layer_is_bounded_as_one_that_no_activation_stores(
    small_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound_pass, wide = Dense.bound_pass, []

    def note(layer: Dense, *given: Any) -> Any:
        wide.append(layer.precision.wide)
        return bound_pass(layer, *given)

    monkeypatch.setattr(Dense, "bound_pass", note)
    bound_step(NOTEBOOK_EXPERIMENTS["adam"], "float16", *small_rows)
    assert wide == [False, False, True] * 2  # of dense rows, and of sorted ones


def test_tolerances_are_narrow_enough_to_mean_something(small_rows: Rows) -> None:
    """Those of float32, against the largest number of each tensor; where a gradient hangs on one sign, none is."""
    tensors = bound_step(NOTEBOOK_EXPERIMENTS["sgd"], "float32", *small_rows)
    for name, bounded in tensors.items():
        typical = np.median(bounded.tolerance) / np.max(np.abs(bounded.value))
        if name.startswith("sorted."):  # the base is rounded too, which may turn more predictions
            assert typical < (0.4 if name == "sorted.accuracy" else 5e-3), name
        else:
            assert typical < (0.2 if name == "engine.accuracy" else 2e-3), name


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_start_is_the_same_in_every_precision(precision: str) -> None:
    network = start_network(NOTEBOOK_EXPERIMENTS["sgd"], CPU, precision)
    drawn = np.random.default_rng(0).standard_normal((784, 128))
    np.testing.assert_array_equal(network.dense[0].weights, (0.01 * drawn).astype("float32"))


class Imitation(CpuBackend):
    """A CPU whose products take their operands as tensor cores do: 10 bits of mantissa, cut off, or halves."""

    precisions = tuple(ROUNDOFF)

    def dot_calls(self, product: Product) -> list[Call]:
        return [(self._multiply, tuple(product))]

    @staticmethod
    def _multiply(a: Any, b: Any, out: Any, scale: float, tf32: bool) -> None:
        a, b = (np.ascontiguousarray(matrix) for matrix in (a, b))
        if tf32:
            a, b = ((matrix.view("uint32") & np.uint32(0xFFFFE000)).view("float32") for matrix in (a, b))
        elif a.dtype == "float16":
            a, b = a.astype("float32"), b.astype("float32")
        out[...] = scale * (a @ b)


@EACH
@pytest.mark.parametrize("precision", ["tf32", "float16"])
def test_operands_rounded_as_on_tensor_cores_stay_within_the_bounds(
    name: str, precision: str, any_rows: Rows
) -> None:
    device, reference = Side(Imitation(1), precision), Side(CPU, "float32")
    lines = compare_step(NOTEBOOK_EXPERIMENTS[name], device, reference, any_rows)
    for line in lines:
        assert line.passed, line
    # In bounds that are not those of float32, which it would leave.
    assert max(line.absolute for line in lines if line.tensor == "dense1.output") > 1e-4


# An engine that is wrong on one side


def lost_row(batch: FullBatch, log: bool = False) -> None:
    if batch.rows.order is not None:
        return _COMPUTE(batch, log)
    (_all,) = batch.rows.blocks
    rest = FullBatch(batch.network, batch.rows.block(0)[1:], batch.rows.labels[1:])
    _COMPUTE(rest, log)
    batch.metrics.totals[...] = rest.metrics.totals
    return None


_COMPUTE = FullBatch.compute_gradients


def no_penalty(network: Network) -> None:
    """Leave the gradients as they are."""


def no_shift(shift: Shift) -> None:
    """Leave the gradients as they are, and take the layer's parameters as its own."""
    shift.parameters[...] = shift._layer.parameters


FAULTS: dict[str, tuple[type, str, Callable[..., Any], set[str]]] = {
    "a row is left out": (
        FullBatch,
        "compute_gradients",
        lost_row,
        {"dense1.dweights", "dense2.dweights", "dense3.dweights", "dense3.dbiases"},
    ),
    "no penalty": (Network, "add_penalty_gradients", no_penalty, {"dense1.dweights"}),
    "the base is left out of the biases": (
        Shift,
        "update",
        no_shift,
        {"sorted.dense1.dbiases", "sorted.dense2.dweights"},
    ),
    "the base is left out of the gradient": (Shift, "unshift", no_shift, {"sorted.dense1.dweights"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_of_the_engine_is_found(
    fault: str, standin: CudaBackend, rows_with_margins: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, method, wrong, expected = FAULTS[fault]
    right = getattr(kind, method)

    def on_the_device(self: Any, *arguments: Any, **more: Any) -> Any:
        owner = self._layer if isinstance(self, Shift) else self if isinstance(self, Network) else self.network
        backend = owner.backend
        return (wrong if backend is standin else right)(self, *arguments, **more)

    monkeypatch.setattr(kind, method, on_the_device)
    lines = compare_step(NOTEBOOK_EXPERIMENTS["sgd"], *choose_sides(standin, "float32")[0], rows_with_margins)
    failed = {line.tensor for line in lines if not line.passed}
    assert expected <= failed
    assert not any(name.endswith("output") for name in failed)


def test_roundoff_of_the_tensors_is_that_of_the_precision(small_rows: Rows) -> None:
    for precision in ROUNDOFF:
        tensors = bound_step(NOTEBOOK_EXPERIMENTS["momentum"], precision, *small_rows)
        assert {tensor.roundoff for tensor in tensors.values()} == {ROUNDOFF[precision]}


# Networks of other layers and losses than the experiments have


@dataclass(frozen=True)
class Other(Experiment):
    """An experiment with these activations between its layers, and softmax joined with the loss or a layer."""

    activations: tuple[type[Activation], ...] = ()
    joined: bool = True
    make_loss: Callable[[], Loss] | None = None

    def make_network(self, backend: Backend, seed: int, dtype: str = "float32") -> Sequential:
        layers: list[Layer] = []
        widths = (784, *self.hidden)
        for inputs, neurons, kind in zip(widths, self.hidden, self.activations, strict=False):
            layers += [Dense(inputs, neurons, 1e-4, 5e-4, 1e-4, 5e-4), kind()]
        layers += [Dense(widths[-1], 10)] if self.joined else [Dense(widths[-1], 10), Tanh(), Softmax()]
        loss: Any = None if self.joined else CategoricalCrossentropy
        if self.make_loss:
            loss = self.make_loss()
            layers += [loss.ends_with()] if loss.ends_with else []
        return Sequential(layers, loss=loss, backend=backend, seed=seed, dtype=dtype)


SETTINGS = (16, 12), "sgd", 1.0, 0.01, 0.5
OTHERS = {name: Other(name, *SETTINGS, activations=(kind, kind)) for name, kind in registered(Activation).items()}
OTHERS["mixed"] = Other("mixed", *SETTINGS, activations=(Tanh, ReLU), joined=False)
TANH = OTHERS["tanh"]
LOSSES = {
    name: Other(name, *SETTINGS, activations=(ReLU, ReLU), make_loss=partial(kind, **arguments))
    for name, kind, arguments in registered_losses()
    if arguments or not issubclass(kind, CategoricalCrossentropy)  # which the others have
}
EACH_OTHER = pytest.mark.parametrize("name", OTHERS)


@EACH_OTHER
@pytest.mark.parametrize("precision", ROUNDOFF)
def test_other_layers_agree_with_the_cpu(name: str, precision: str, device: Backend, small_rows: Rows) -> None:
    if precision not in device.precisions:
        pytest.skip(f"{device.device_name} does not compute in {precision}")
    for line in compare_step(OTHERS[name], *choose_sides(device, precision)[0], small_rows):
        assert line.passed, line


@EACH_OTHER
def test_other_layers_in_float32_agree_with_float64(name: str, small_rows: Rows) -> None:
    for line in compare_step(OTHERS[name], *choose_sides(CPU)[0], small_rows):
        assert line.passed, line


@EACH_OTHER
def test_other_layers_are_what_is_written_out(name: str, small_rows: Rows) -> None:
    tensors = compute_step(OTHERS[name], CPU, "float64", *small_rows)
    bounded = bound_step(OTHERS[name], "float64", *small_rows)
    assert tensors.keys() == bounded.keys()
    for tensor, array in tensors.items():
        assert np.all(np.abs(array - bounded[tensor].value) <= 2 * bounded[tensor].tolerance), tensor


@pytest.mark.parametrize("precision", ["tf32", "float16"])
@EACH_OTHER
def test_other_layers_with_operands_rounded_as_on_tensor_cores(name: str, precision: str, small_rows: Rows) -> None:
    for line in compare_step(OTHERS[name], Side(Imitation(1), precision), Side(CPU, "float32"), small_rows):
        assert line.passed, line


@pytest.mark.parametrize("name", LOSSES)
def test_other_losses_agree_within_their_bounds(name: str, small_rows: Rows) -> None:
    """In float32, and in halves with operands rounded as on tensor cores."""
    for sides in (choose_sides(CPU)[0], (Side(Imitation(1), "float16"), Side(CPU, "float32"))):
        for line in compare_step(LOSSES[name], *sides, small_rows):
            assert line.passed, line


def test_tolerances_of_tanh_are_narrow_enough_to_mean_something(small_rows: Rows) -> None:
    for name, bounded in bound_step(TANH, "float32", *small_rows).items():
        typical = np.median(bounded.tolerance) / np.max(np.abs(bounded.value))
        narrow = 5e-3 if name.startswith("sorted.") else 2e-3
        assert typical < narrow or name.endswith(".accuracy"), name  # small networks give all classes the same


def wrong_tanh_gradient(xp: Any, dvalues: Any, output: Any, dinputs: Any) -> None:
    """Leave the square out, on every device but the host."""
    xp.multiply(dvalues, 1 - (output * output if xp is np else output), out=dinputs)


def test_wrong_gradient_of_tanh_is_found(
    standin: CudaBackend, small_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tanh, "gradient", staticmethod(elementwise(wrong_tanh_gradient)))
    lines = compare_step(TANH, *choose_sides(standin, "float32")[0], small_rows)
    failed = {line.tensor for line in lines if not line.passed}
    assert failed >= {"tanh1.dinputs", "tanh2.dinputs", "dense1.dweights", "dense2.dweights", "dense2.dbiases"}
    assert not any(name.endswith("output") or name.startswith("dense3.d") for name in failed)


def test_gradient_of_tanh_that_is_wrong_on_both_sides_is_found(
    small_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(xp: Any, dvalues: Any, output: Any, dinputs: Any) -> None:
        tanh_gradient(xp, dvalues * (1 + 1e-9), output, dinputs)

    monkeypatch.setattr(Tanh, "gradient", staticmethod(off))
    tensors = compute_step(TANH, CPU, "float64", *small_rows)
    bounded = bound_step(TANH, "float64", *small_rows)
    wrong = {
        name
        for name, array in tensors.items()
        if np.any(np.abs(array - bounded[name].value) > 2 * bounded[name].tolerance)
    }
    assert {"tanh2.dinputs", "dense2.dweights"} <= wrong
