"""Trainings on rows without their background: they learn what trainings on dense rows learn, but for rounding."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_helpers import CLASSES, images, labels_of, make_network, noise, one_pass, scaled
from parity.standin import StandInCupy, make_nvmath
from threadpoolctl import threadpool_limits

import fmnist_xp as fx
from fmnist_xp.backend import Backend, CpuBackend, CudaBackend, CudaGraphBackend
from fmnist_xp.data import Dataset, Pixels, pixels, preprocess
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, ReLU
from fmnist_xp.optim import SGD
from fmnist_xp.train import background, store
from fmnist_xp.train import rows as rows_module
from fmnist_xp.train.fullbatch import FullBatch

MARGINS = images(61)


class Case(NamedTuple):
    """Images, rows in a block, and whether bytes and floats of them are sorted."""

    images: np.ndarray
    block_rows: int
    bytes_sorted: bool = True
    floats_sorted: bool = True


CASES = {
    "blocks of 1": Case(MARGINS, 1),
    "blocks of 7": Case(MARGINS, 7),
    "one block": Case(MARGINS, 61),
    "white background": Case(255 - MARGINS, 7),
    "black and white background": Case(MARGINS ^ np.where(np.arange(144) % 5, 0, 255).astype("uint8"), 7),
    "no square": Case(images(61, 5, 9), 7),
    "one line": Case(images(61, 1, 90), 7),
    "one row": Case(images(1, seed=3), 7),
    "two rows": Case(images(2, seed=3), 1),
    "all black": Case(np.zeros((20, 144), np.uint8), 7),
    "all white": Case(np.full((20, 144), 255, np.uint8), 7),
    "no background": Case(noise(61), 7, False, False),
    # A background that no byte is taken for.
    "grey background": Case(images(61, background=99), 7, False, True),
    "one column": Case(images(61, 1, 1), 7, False, False),
}
KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "pixels": Pixels,
    "shuffled pixels": lambda rows: Pixels(rows[::-1], np.arange(len(rows))[::-1]),
    "floats": scaled,
}
EVERY_CASE = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


# One pass


@EVERY_CASE
@EVERY_KIND
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 5e-6)])
def test_gradients_metrics_and_predictions_are_those_of_dense_rows(
    case: Case, kind: str, dtype: str, tolerance: float
) -> None:
    width, labels = case.images.shape[1], labels_of(len(case.images))
    inputs, options = KINDS[kind](case.images), {"block_rows": case.block_rows}
    found = one_pass(make_network(width, CpuBackend(1), dtype), inputs, labels, **options)
    assert (found.rows.order is not None) == (case.floats_sorted if kind == "floats" else case.bytes_sorted)
    for threads in (2, 3, 5):
        other = one_pass(make_network(width, CpuBackend(threads), dtype), inputs, labels, **options)
        other.close_to(found, 0)  # the same bits
    dense = one_pass(make_network(width, CpuBackend(1), dtype), inputs, labels, dense=True, **options)
    assert (dense.rows.order, dense.rows.column_share) == (None, 1.0)
    found.close_to(dense, tolerance)


@EVERY_CASE
@EVERY_KIND
def test_gradients_are_those_of_pytorch(case: Case, kind: str, torch_reference: Callable[[Any], Any]) -> None:
    network, labels = make_network(case.images.shape[1], CpuBackend(2)), labels_of(len(case.images))
    found = one_pass(network, KINDS[kind](case.images), labels, block_rows=case.block_rows)
    expected = torch_reference(network).gradients(scaled(case.images), labels)
    np.testing.assert_allclose(found.gradients, expected, rtol=1e-12, atol=1e-12)


@EVERY_KIND
def test_weights_of_columns_that_no_row_needs_have_the_gradient_of_the_background(kind: str) -> None:
    """Which is −1 times that of the biases, as every row has −1 there; that of penalties comes on top."""
    network, labels = make_network(144), labels_of(61)
    first = network.dense[0]
    for name in ("weight", "bias"):
        for norm in ("l1", "l2"):
            setattr(first, f"{name}_regularizer_{norm}", 0.0)
    one_pass(network, KINDS[kind](MARGINS), labels, block_rows=7)
    unused = (MARGINS == 0).all(axis=0)
    assert unused.sum() >= 44  # the outermost pixels of 12 x 12
    expected = np.repeat(-first.dbiases, unused.sum(), axis=0)
    np.testing.assert_allclose(first.dweights[unused], expected, rtol=1e-12, atol=1e-15)
    assert np.abs(expected).max() > 1e-3


def test_outlier_costs_the_other_rows_no_digits() -> None:
    """Of a column without background, whose lowest value it is."""
    X, labels = scaled(MARGINS, "float32"), labels_of(61)
    X[:, 66] = np.random.default_rng(0).standard_normal(61)
    X[0, 66] = -1e6
    found = one_pass(make_network(144, dtype="float32"), X, labels, block_rows=7)
    assert found.rows.column_share < 1
    expected = by_numpy(make_network(144, dtype="float32"), X[1:])
    np.testing.assert_allclose(found.probabilities[1:], expected, atol=2e-6)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_sorted_and_dense_rows_have_the_same_gradients(data: st.DataObject) -> None:
    rows, height, width = (data.draw(st.integers(1, most)) for most in (40, 9, 9))
    backgrounds = data.draw(st.sampled_from([0, 255, 77]))
    made = images(rows, height, width, backgrounds, seed=data.draw(st.integers(0, 2**32)))
    labels = np.random.default_rng(rows).integers(0, CLASSES, rows)
    inputs = KINDS[data.draw(st.sampled_from(list(KINDS)))](made)
    threads, block_rows = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 41))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(background, "WINDOW", data.draw(st.integers(1, 50)))
        patch.setattr(background, "SAMPLE", data.draw(st.integers(1, 50)))
        patch.setattr(background, "WORTH_IT", data.draw(st.sampled_from([0.9, 2])))
        found, dense = (
            one_pass(
                make_network(height * width, CpuBackend(threads)), inputs, labels, block_rows=block_rows, dense=d
            )
            for d in (None, True)
        )
    found.close_to(dense, 1e-10)


@EVERY_KIND
def test_weight_that_is_no_number_shows_in_the_loss_also_where_no_row_needs_its_column(kind: str) -> None:
    network = make_network(144)
    network.dense[0].weights[0, 2] = np.inf
    with np.errstate(invalid="ignore"):
        found = one_pass(network, KINDS[kind](MARGINS), labels_of(61), block_rows=7)
    assert found.rows.column_share < 1
    assert not np.isfinite(found.totals[0])


def test_block_is_written_to_a_buffer_once_for_its_output_and_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, ...]] = []
    copy = rows_module._copy

    def noted(backend: Backend, buffer: Any, values: Any) -> None:
        written.append(values.shape)
        copy(backend, buffer, values)

    monkeypatch.setattr(rows_module, "_copy", noted)
    network = make_network(144)
    batch = FullBatch(network, Pixels(MARGINS), labels_of(61), block_rows=7)
    batch.compute_gradients()
    assert written == [batch.rows.block(number).shape for number in range(9)]


# Predictions


def by_numpy(network: Sequential, X: np.ndarray) -> np.ndarray:
    """Return the class probabilities in float64, written out."""
    values = X.astype("float64")
    *hidden, last = ((w.astype("float64"), b.astype("float64")) for w, b in parameters_of(network))
    for weights, biases in hidden:
        values = np.maximum(values @ weights + biases, 0)
    exponentials = np.exp(values @ last[0] + last[1])
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def parameters_of(network: Sequential) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    state = list(network.state_dict().values())
    return zip(state[::2], state[1::2], strict=True)


@EVERY_KIND
def test_predictions_come_in_the_order_of_the_rows_that_were_given(kind: str) -> None:
    network, inputs, labels = make_network(144, CpuBackend(2), "float32"), KINDS[kind](MARGINS), labels_of(61)
    history = network.fit(inputs, labels, epochs=5, optimizer=SGD(0.1), block_rows=7, verbose=False)
    assert history.column_share < 1
    expected = by_numpy(network, scaled(MARGINS))
    np.testing.assert_allclose(network.predict_proba(inputs), expected, atol=1e-5)
    np.testing.assert_allclose(one_pass(network, inputs, labels, block_rows=7).probabilities, expected, atol=1e-5)
    metrics = network.evaluate(inputs, labels)
    assert metrics.accuracy == (expected.argmax(axis=1) == labels).mean()
    assert metrics.loss == pytest.approx(-np.log(expected[np.arange(61), labels]).mean(), rel=1e-5)


# Garments


@pytest.fixture(scope="module")
def garments(small_data: tuple[Dataset, Dataset]) -> Dataset:
    """The images of `small_data`, 400 of them."""
    return small_data[0]


def trained(X: Any, y: np.ndarray, backend: Backend | None = None, **options: Any) -> tuple[Sequential, fx.History]:
    """Return a network for garments and the history of 30 epochs."""
    layers = [Dense(784, 16, weight_regularizer_l2=1e-4), ReLU(), Dense(16, 10)]
    network = Sequential(layers, backend=backend or CpuBackend(2), seed=1)
    options = {"block_rows": 64, "verbose": False, "log_every": 1, "optimizer": SGD(0.1, momentum=0.5), **options}
    return network, network.fit(X, y, epochs=30, **options)


def test_thirty_epochs_are_those_of_dense_rows_whatever_the_images_come_as(garments: Dataset) -> None:
    floats, y = preprocess(garments)
    dense, expected = trained(floats, y, dense=True)
    assert expected.column_share == 1.0
    assert expected.loss[-1] < 0.8 * expected.loss[0]  # it learns
    for X in (floats, Pixels(garments.images), garments.images, garments.images.reshape(-1, 784)):
        network, history = trained(X, y)
        assert history.column_share < 0.9
        np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-5)
        np.testing.assert_allclose(history.accuracy, expected.accuracy, atol=1.01 / len(y))
        np.testing.assert_allclose(network.parameters, dense.parameters, rtol=0, atol=1e-5)
        assert history.loss != expected.loss  # they are sums in another order


def test_bytes_train_alike_however_they_come(garments: Dataset) -> None:
    first, *others = (trained(X, garments.labels)[0] for X in (Pixels(garments.images), garments.images))
    for other in others:
        np.testing.assert_array_equal(other.parameters, first.parameters)


@pytest.mark.parametrize("kind", ["pixels", "floats"])
def test_trainings_on_any_number_of_threads_have_the_same_bits(garments: Dataset, kind: str) -> None:
    rows, y = (pixels if kind == "pixels" else preprocess)(garments, shuffle_seed=3)
    (first, expected), *others = (trained(rows, y, CpuBackend(threads)) for threads in (1, 2, 3, 5))
    for network, history in others:
        assert history.loss == expected.loss
        np.testing.assert_array_equal(network.parameters, first.parameters)


@pytest.mark.parametrize("seed", [None, 3])
def test_pixels_are_evaluated_and_predicted_with_the_bits_of_the_floats(garments: Dataset, seed: int | None) -> None:
    floats, y = preprocess(garments, shuffle_seed=seed)
    rows, _ = pixels(garments, shuffle_seed=seed)
    network, _ = trained(floats, y)
    assert network.evaluate(rows, y) == network.evaluate(floats, y)
    np.testing.assert_array_equal(network.predict_proba(rows), network.predict_proba(floats))
    np.testing.assert_array_equal(network.predict(rows), network.predict(floats))


@pytest.mark.parametrize("dense", [None, False, True])
def test_dense_pixels_train_with_the_bits_of_dense_floats_and_others_where_asked(
    garments: Dataset, dense: bool | None
) -> None:
    floats, y = preprocess(garments)
    network, history = trained(Pixels(garments.images), y, dense=dense)
    other, expected = trained(floats, y, dense=True)
    assert (history.column_share == 1.0) == (dense is True)
    assert np.array_equal(network.parameters, other.parameters) == (dense is True)
    assert (history.loss == expected.loss) == (dense is True)


@pytest.mark.parametrize("made", [MARGINS, noise(61)], ids=["margins", "noise"])
def test_images_in_a_file_train_with_the_bits_of_those_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: np.ndarray
) -> None:
    """And leave no file in the cache, where the sorted ones lie meanwhile."""
    (tmp_path / "images").write_bytes(made.tobytes())
    mapped = np.memmap(tmp_path / "images", np.uint8, "r", shape=made.shape)
    cache = tmp_path / "cache"
    monkeypatch.setenv("FMNIST_XP_CACHE", str(cache))
    monkeypatch.setattr(store, "IN_MEMORY", 100)
    parameters, shares = [], []
    for rows in (made, mapped):
        network = make_network(144, CpuBackend(2), "float32")
        history = network.fit(Pixels(rows), labels_of(61), epochs=5, block_rows=7, verbose=False)
        parameters.append(network.parameters)
        shares.append(history.column_share)
        assert cache.exists() == (rows is mapped and made is MARGINS)
    assert not cache.exists() or list(cache.iterdir()) == []
    np.testing.assert_array_equal(*parameters)
    assert shares[0] == shares[1]


class Own(Dense):
    """A layer of the user's own, whose inputs nothing may stand for."""

    def forward(self, inputs: Any) -> Any:
        assert inputs.min() == -1
        assert inputs.max() == 1
        return super().forward(inputs)


def test_first_layer_of_the_users_own_trains_on_pixels_as_on_floats(garments: Dataset) -> None:
    floats, y = preprocess(garments)
    results = []
    for X in (floats, Pixels(garments.images)):
        network = Sequential([Own(784, 16), ReLU(), Dense(16, 10)], backend=CpuBackend(2), seed=1)
        history = network.fit(X, y, epochs=10, optimizer=SGD(0.3), block_rows=64, verbose=False)
        assert history.column_share == 1.0
        results.append(network.parameters)
    np.testing.assert_array_equal(*results)


# Devices


@pytest.fixture
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread, as the CPU backend does: the order of a sum is then the same on both sides."""
    with threadpool_limits(1, user_api="blas"):
        yield


def eager() -> CudaBackend:
    return CudaBackend(1, cupy=StandInCupy(devices=2))


def with_graphs() -> CudaGraphBackend:
    cupy = StandInCupy(devices=2)
    return CudaGraphBackend(1, cupy=cupy, nvmath=make_nvmath(cupy))


def on_device(backend: Backend, dtype: str, inputs: Any, **options: Any) -> tuple[np.ndarray, fx.History, np.ndarray]:
    network = make_network(144, backend, dtype)
    history = network.fit(inputs, labels_of(61), epochs=12, optimizer=SGD(0.1), log_every=4, verbose=False, **options)
    return np.array(backend.to_host(network.parameters)), history, network.predict_proba(inputs)


@pytest.mark.usefixtures("one_blas_thread")
@pytest.mark.parametrize("block_rows", [61, 20])
@pytest.mark.parametrize("dense", [None, False])
@pytest.mark.parametrize("kind", ["pixels", "floats", "noise"])
@pytest.mark.parametrize("dtype", ["float32", "tf32", "float16"])
def test_trainings_on_a_device_are_those_of_the_cpu(
    dtype: str, kind: str, dense: bool | None, block_rows: int
) -> None:
    made = noise(61) if kind == "noise" else MARGINS
    inputs = scaled(made, "float32") if kind == "floats" else Pixels(made)
    options: dict[str, Any] = {"block_rows": block_rows}
    cpu_dtype = "float64" if dtype == "float64" else "float32"
    expected, history, probabilities = on_device(CpuBackend(1), cpu_dtype, inputs, dense=dense is None, **options)
    is_sorted = kind != "noise" and dense is False and (dtype != "float16" or kind == "pixels")
    for backend in (eager(), with_graphs()):
        found, there, predicted = on_device(backend, dtype, inputs, dense=dense, **options)
        assert (there.column_share < 1) == is_sorted
        if backend.captures:
            assert len(backend.xp.launches) == 2  # of 4, 4 and 4 epochs
        if dtype == "float16":
            np.testing.assert_allclose(found, expected, atol=2e-2)
            np.testing.assert_allclose(predicted, probabilities, atol=2e-2)
            np.testing.assert_allclose(there.loss, history.loss, rtol=5e-3)
        else:
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(predicted, probabilities)
            assert there.loss == history.loss


@pytest.mark.parametrize("kind", ["pixels", "floats"])
@pytest.mark.parametrize("dtype", ["float32", "tf32", "float16"])
def test_an_epoch_on_a_device_waits_for_nothing(kind: str, dtype: str) -> None:
    network = make_network(144, eager(), dtype)
    inputs = Pixels(MARGINS) if kind == "pixels" else scaled(MARGINS, "float32")
    options: dict[str, Any] = {"log_every": 1000, "block_rows": 7, "dense": False, "verbose": False}
    few, many = (
        network.backend.xp.counted(lambda epochs=epochs: network.fit(inputs, labels_of(61), epochs=epochs, **options))
        for epochs in (3, 13)
    )
    assert {name for name, count in many.items() if count != few[name]} == {"kernels", "products"}
