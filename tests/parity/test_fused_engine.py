"""The fused engine's kernels, as the compiler makes them, beside the layers' formulas: epochs, a step, curves.

Without a GPU an interpreter of PTX runs them, at small sizes.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath
from ptx import PtxError

from fmnist_xp import SGD, Adam, Dense, Pixels, ReLU, Sequential
from fmnist_xp.backend import Backend, CpuBackend, CudaBackend, CudaGraphBackend
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.parity import fused
from fmnist_xp.parity.fused import SHAPES, FusedEpoch, fused_operations
from fmnist_xp.parity.passes import Operation
from fmnist_xp.parity.suite import Trainings, choose_sides, compare_operation, compare_step
from fmnist_xp.parity.tolerances import FUSED
from fmnist_xp.train.fused import source

OPERATIONS = list(fused_operations())
# What one precision shows of the optimizers, all do: the update is of float32 in each.
CASES = [
    pytest.param(operation, precision, id=f"{operation}-{precision}")
    for operation in OPERATIONS
    for precision in FUSED
    if (operation.case in SHAPES and operation.case != "the widest") or precision == "float16"
]
GENERATOR = np.random.default_rng(0)
CENTRES = GENERATOR.integers(0, 256, (10, 48))
LABELS = GENERATOR.integers(0, 10, 150, dtype="uint8")
NOISE = GENERATOR.integers(-40, 40, (150, 48))
PIXELS = Pixels(np.clip(CENTRES[LABELS] + NOISE, 0, 255).astype("uint8"))


def make(backend: Backend, dtype: str = "float16", seed: int = 1) -> Sequential:
    layers = [Dense(48, 24, 0, 1e-3), ReLU(), Dense(24, 16), ReLU(), Dense(16, 10)]
    return Sequential(layers, backend=backend, seed=seed, dtype=dtype)


def graphs() -> CudaGraphBackend:
    cupy = StandInCupy(kernels="ptx")
    return CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy))


def alone() -> CudaBackend:
    return CudaBackend(cupy=StandInCupy(kernels="ptx"))


def fit(backend: Backend, dtype: str = "float16", **options: Any) -> Any:
    network = make(backend, dtype)
    options = {"epochs": 6, "optimizer": Adam(0.02), "log_every": 3, "engine": "fused", "verbose": 0} | options
    history = network.fit(PIXELS, LABELS, **options)
    return network, history


@pytest.mark.parity
@pytest.mark.parametrize(("operation", "precision"), CASES)
def test_epoch_agrees_with_the_plain_engine(
    operation: Operation, precision: str, compiled_device: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    ((actual, reference),) = choose_sides(compiled_device, precision, "fused")
    for line in compare_operation(operation, actual, reference):
        assert line.passed, line
    assert not caplog.records  # as of one that the plain engine computes


@pytest.mark.parametrize("architecture", ["80", "90"])
@pytest.mark.parametrize("precision", FUSED)
@pytest.mark.usefixtures("nvrtc")
def test_epoch_agrees_with_what_is_written_out(precision: str, architecture: str) -> None:
    """In float64 on the host, by kernels for both architectures, whose tensor cores cut off differently."""
    backend = CudaBackend(cupy=StandInCupy(kernels="ptx", architecture=architecture))
    operation = FusedEpoch("Fused epoch", "two hidden layers", 40, (48, 24, 16, 10), Adam, {}, (0.1, 0.2, 0.3, 0.4))
    computed, bounds = operation.compute(backend, precision), operation.bound(FUSED[precision])
    for name, array in computed.items():
        assert np.all(np.abs(array - bounds[name].value) <= bounds[name].tolerance), name


@pytest.mark.parity
@pytest.mark.parametrize("precision", FUSED)
def test_step_agrees_tensor_by_tensor(
    precision: str, compiled_device: Backend, small_rows: tuple[np.ndarray, np.ndarray]
) -> None:
    X = np.rint(small_rows[0] * 127.5 + 127.5).astype("uint8")
    ((actual, reference),) = choose_sides(compiled_device, precision, "fused")
    rows: Any = np.asarray(Pixels(X)), small_rows[1]
    lines = compare_step(NOTEBOOK_EXPERIMENTS["adam"], actual, reference, rows)
    assert {line.tensor for line in lines} >= {"engine.loss", "dense1.dweights", "dense3.biases after the update"}
    for line in lines:
        assert line.passed, line


@pytest.mark.parity
@pytest.mark.parametrize("precision", FUSED)
def test_curve_keeps_to_that_of_the_cpu(
    precision: str, compiled_device: Backend, small_rows: tuple[np.ndarray, np.ndarray]
) -> None:
    X = np.asarray(Pixels(np.rint(small_rows[0] * 127.5 + 127.5).astype("uint8")))
    trainings = Trainings((X, small_rows[1]), epochs=6, note=lambda _line: None)
    experiment = replace(NOTEBOOK_EXPERIMENTS["adam"], hidden=(16,))
    ((actual, reference),) = choose_sides(compiled_device, precision, "fused")
    curves = trainings.compare(experiment, actual, reference)
    assert curves.passed
    assert curves.device.loss[-1] < curves.device.loss[0]
    if precision == "float32":
        assert curves.loose_from is None  # else agreement would say little


@pytest.mark.parametrize("precision", FUSED)
def test_training_has_the_same_bits_with_graphs_and_without(precision: str, nvrtc: None) -> None:
    results = [fit(backend, precision, epochs=4, log_every=2) for backend in (graphs(), alone())]
    (one, first), (other, second) = results
    np.testing.assert_array_equal(one.parameters.get(), other.parameters.get())
    assert first.loss == second.loss


def test_training_is_three_launches_an_epoch_and_no_library(nvrtc: None) -> None:
    cupy = StandInCupy(kernels="ptx")
    backend = CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy))
    network, before = make(backend), len(cupy.products)
    network.fit(PIXELS, LABELS, epochs=9, optimizer=Adam(0.02), log_every=3, engine="fused", verbose=0)
    # First the weights as operands, then three stretches: one call by call, two as a graph.
    assert cupy.kernels == ["update", *["pass", "weights", "update"] * 9]
    assert len(cupy.launches) == 2
    assert len(cupy.products) == before


def test_metrics_are_those_before_the_update(nvrtc: None) -> None:
    network, history = fit(graphs(), "float32", epochs=4, log_every=1)
    cpu = make(CpuBackend(1), "float32")
    expected = cpu.fit(PIXELS, LABELS, epochs=4, optimizer=Adam(0.02), log_every=1, verbose=0)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(history.regularization_loss, expected.regularization_loss, rtol=1e-5)
    assert history.accuracy == expected.accuracy
    assert history.learning_rate == expected.learning_rate
    np.testing.assert_allclose(network.parameters.get(), cpu.parameters, atol=1e-4)


@pytest.mark.parametrize(
    "optimizer", [SGD(0.5, momentum=0.5, nesterov=True), Adam(0.02, ema=0.5)], ids=["nesterov", "average"]
)
def test_resumed_training_has_the_bits_of_one_that_was_not_stopped(
    optimizer: Any, tmp_path: Path, nvrtc: None
) -> None:
    kind, options = type(optimizer), optimizer.config()
    backend = alone()
    whole, _history = fit(backend, optimizer=kind(**options))
    fit(backend, optimizer=kind(**options), epochs=4, checkpoint=tmp_path)
    resumed, _history = fit(backend, optimizer=kind(**options), checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.parameters.get(), whole.parameters.get())


def test_weights_that_a_callback_changes_are_taken(nvrtc: None) -> None:
    backend = alone()

    def zero(history: Any, network: Any) -> None:
        if history.epoch[-1] == 1:
            network.parameters[...] = 0

    _network, history = fit(backend, epochs=3, log_every=1, callbacks=zero, optimizer=SGD(1e-3))
    assert history.loss[2] == pytest.approx(np.log(10), abs=1e-3)  # of weights that are 0 but for one small update


def test_diverged_training_says_so(nvrtc: None, caplog: pytest.LogCaptureFixture) -> None:
    backend = graphs()
    network = make(backend, "float32")
    network.dense[1].weights[3, 2] = np.nan
    history = network.fit(PIXELS, LABELS, epochs=3, optimizer="sgd", engine="fused", verbose=0)
    assert history.diverged
    assert np.isnan(history.loss[0])
    assert history.accuracy[0] == 0  # of outputs that are no numbers nothing is predicted


def test_one_class_predicted_for_all_is_told(nvrtc: None, caplog: pytest.LogCaptureFixture) -> None:
    network = make(alone())
    network.load_state_dict({name: 0 * array for name, array in network.state_dict().items()})
    biases = np.zeros((1, 10), "float32")
    biases[0, 7] = 1
    network.dense[-1].biases = network.backend.asarray(biases)
    network.fit(PIXELS, LABELS, epochs=2, optimizer=SGD(1e-6), log_every=1, engine="fused", verbose=0)
    assert "class 7 is predicted for every row" in caplog.text


def test_of_equal_probabilities_the_first_class_is_predicted(nvrtc: None, caplog: pytest.LogCaptureFixture) -> None:
    network = make(alone())
    network.load_state_dict({name: 0 * array for name, array in network.state_dict().items()})
    history = network.fit(PIXELS, LABELS, epochs=1, optimizer="sgd", engine="fused", verbose=0)
    assert history.accuracy == [pytest.approx(np.mean(LABELS == 0))]
    assert history.loss == [pytest.approx(np.log(10))]


def test_rows_held_out_are_measured(nvrtc: None) -> None:
    _network, history = fit(alone(), validation_fraction=0.2)
    assert len(history.validation_loss) == 2
    assert history.validation_loss[1] < history.validation_loss[0]


def test_floats_that_are_pixels_are_taken_as_bytes(nvrtc: None) -> None:
    backend = alone()
    results = []
    for rows in (PIXELS, np.asarray(PIXELS)):
        network = make(backend)
        network.fit(rows, LABELS, epochs=2, optimizer="adam", engine="fused", verbose=0)
        results.append(network.parameters.get())
    np.testing.assert_array_equal(*results)


def test_other_rows_are_the_plain_engines(caplog: pytest.LogCaptureFixture) -> None:
    network = make(CudaBackend(cupy=StandInCupy()))
    network.fit(np.asarray(PIXELS) / 2, LABELS, epochs=1, optimizer="sgd", engine="fused", verbose=0)
    assert "the fused engine does not take rows that are not bytes scaled to [-1, 1]; the plain one" in caplog.text


# What is wrong with a kernel, as a change of its source, and whether the interpreter or the comparison tells.
FAULTS = {
    "a bias left out": ("relu(sum[tile][i] * scale + bias(", "relu(sum[tile][i] * scale + 0 * bias("),
    "columns of a tile exchanged": ("lane() % 4 * 2 + i / 4 * 8 + i % 2", "lane() % 4 * 2 + i / 4 * 8 + 1 - i % 2"),
    "a transpose left out": (
        "a[term][1] = taken.z, a[term][2] = taken.y",
        "a[term][1] = taken.y, a[term][2] = taken.z",
    ),
    "the gradient passes where a unit is off": ("relu_gradient(sum[tile][i], inputs", "(sum[tile][i] + 0 * inputs"),
    "the last rows of a block": ("row < pass.rows && column < INPUTS", "row + 1 < pass.rows && column < INPUTS"),
    "rows beyond the last": ("label < 0 ? 0 : loss_gradient", "loss_gradient"),
    "of several blocks of rows the last alone": ("pass.again ? *partial + sum", "false ? *partial + sum"),
    "no mean": ("gradient * (1.0f / rows)", "gradient * 1.0f"),
    "pixels that are not read": ("if (slice + 1 < SLICES) read", "if (slice + 2 < SLICES) read"),
    "the order of inputs": ("row / 2 % 2 * 8", "row / 2 % 2 * 4"),
}
BROKEN = {
    "no barrier before the sums": (
        "  __syncthreads();\n#pragma unroll 1\n  for (int from",
        "#pragma unroll 1\n  for (int from",
        "Race",
    ),
    "beyond the rows": ("row < pass.rows && column < INPUTS", "column < INPUTS", "OutOfBounds"),
    "labels beyond the last": ("row < pass.rows ? pass.labels[row] : -1", "pass.labels[row]", "OutOfBounds"),
    "partial sums of the first rows": ("pass.again ?", "true ?", "Uninitialised"),
}


def broken(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Change the source of the kernels."""
    make_source = source.make_source

    def changed(*arguments: Any) -> Any:
        made = make_source(*arguments)
        assert old in made.text
        return made._replace(text=made.text.replace(old, new))

    monkeypatch.setattr("fmnist_xp.train.fused.batch.make_source", changed)


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_kernel_is_told(fault: str, monkeypatch: pytest.MonkeyPatch, compiling: CudaGraphBackend) -> None:
    broken(monkeypatch, *FAULTS[fault])
    compiling.multiprocessors = 1  # two blocks of threads then share three of rows
    operation = FusedEpoch("Fused epoch", "", 300, (80, 24, 10))
    ((actual, reference),) = choose_sides(compiling, "float32", "fused")
    try:
        lines = compare_operation(operation, actual, reference)
    except PtxError:
        return
    assert not all(line.passed for line in lines)


@pytest.mark.parametrize("fault", BROKEN)
def test_kernel_that_may_not_run_is_told(
    fault: str, monkeypatch: pytest.MonkeyPatch, compiling: CudaGraphBackend
) -> None:
    old, new, error = BROKEN[fault]
    broken(monkeypatch, old, new)
    with pytest.raises(PtxError) as caught:
        FusedEpoch("Fused epoch", "", 70, (80, 24, 16, 10)).compute(compiling, "float16")
    assert type(caught.value).__name__ == error


def test_float32_is_finer_with_three_terms_than_with_two(
    monkeypatch: pytest.MonkeyPatch, compiling: CudaGraphBackend
) -> None:
    operation = FusedEpoch("Fused epoch", "", 64, (64, 32, 10))
    bounds = operation.bound(FUSED["float32"])["dense1.dweights"]

    def error() -> float:
        computed = operation.compute(compiling, "float32")["dense1.dweights"]
        return float(np.max(np.abs(computed - bounds.value)))

    three = error()
    monkeypatch.setitem(source.OPERANDS, "float32", ("bf16", 2))
    assert error() > 8 * three
    assert three < 2.0**-20 * np.max(np.abs(bounds.value))


def test_every_optimizer_that_is_a_formula_is_compared() -> None:
    names = {operation.name.removeprefix("Fused epoch, ") for operation in fused_operations()}
    assert {"SGD", "SGD with momentum", "SGD with Nesterov momentum", "Adam", "AdamW", "RMSProp", "AdaGrad"} <= names
    assert fused.SHAPES["the widest"][1] == (16, 128, 128, 128)


def test_reason_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    fit(CpuBackend(1), "float32", epochs=1)
    assert "the fused engine does not take cpu (" in caplog.text
    assert "; the plain one trains" in caplog.text
