"""The whole training loop on the stand-in for CuPy: the bits of NumPy, and nothing that a GPU would wait for.

The device is the second of two, and not the current one: what is not sent there by the package is refused.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.standin import DeviceArray, StandInCupy, make_nvmath
from parity.standin.cuda import COMPUTE_32F, COMPUTE_64F, COMPUTE_TF32
from threadpoolctl import threadpool_limits

from fmnist_xp.backend import CpuBackend, CudaBackend, CudaGraphBackend
from fmnist_xp.model import Sequential, load
from fmnist_xp.nn import CategoricalCrossentropy, Dense, Layer, Loss, ReLU, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.optim import LBFGS, SGD, AdaGrad, Adam, AdamW, Cosine, Optimizer, RMSProp
from fmnist_xp.parity.operations import registered_losses
from fmnist_xp.registry import REGISTRY
from fmnist_xp.train.history import History

ROWS, WIDTHS = 60, (12, 9, 7, 4)
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {
    "sgd": lambda: SGD(0.3, decay=0.01),
    "momentum": lambda: SGD(0.1, decay=0.01, momentum=0.9),
    "adam": lambda: Adam(0.02, decay=1e-3),
}
LATER: dict[str, Callable[[], Optimizer]] = {
    "nesterov": lambda: SGD(0.1, momentum=0.9, nesterov=True, clip_norm=0.3),
    "adamw": lambda: AdamW(Cosine(0.05, 21, warmup=3), clip_norm=0.1, ema=0.8),
    "rmsprop": lambda: RMSProp(0.01, decay=0.1, ema=0.5),
    "adagrad": lambda: AdaGrad(0.05, clip_norm=0.2),
}
"""Those that came later, with all that came with them: for fewer tests."""
# Memory of the stand-in for all rows at once, and for a few of them.
MEMORIES = {"one block": {}, "several blocks": {"memory": (4000, 10_000), "pool": (1000, 2000)}}
PENALTIES = (1e-4, 1e-3, 2e-4, 2e-3)  # L1 and L2 of the weights, L1 and L2 of the biases


@pytest.fixture(autouse=True)
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread, as the CPU backend does: the order of a sum is then the same on both sides."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.standard_normal((ROWS, WIDTHS[0])), generator.integers(0, WIDTHS[-1], ROWS)


def make(backend: Any, dtype: str = "float32", joined: bool = True) -> Sequential:
    """Return a network with every penalty; its softmax is `joined` with the loss or a layer of its own."""
    layers: list[Layer] = []
    for widths in pairwise(WIDTHS):
        layers += [Dense(*widths, *PENALTIES), ReLU()]
    layers[-1:] = [] if joined else [Softmax()]
    loss = SoftmaxCategoricalCrossentropy() if joined else CategoricalCrossentropy()
    network = Sequential(layers, loss=loss, backend=backend, seed=1, dtype=dtype)
    with network.backend.current():
        network.parameters *= 20  # else the weights start so small that little happens in a few epochs
    return network


def eager() -> CudaBackend:
    return CudaBackend(1, cupy=StandInCupy(devices=2))


@pytest.fixture(params=MEMORIES)
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CudaBackend:
    """Return a CUDA backend on the stand-in, and let the CPU take blocks of as many rows."""
    backend = CudaBackend(1, cupy=StandInCupy(devices=2, **MEMORIES[request.param]))
    monkeypatch.setattr(CpuBackend, "block_rows", lambda _self, *sizes, shared: backend.block_rows(*sizes, shared))
    blocks = -(-ROWS // backend.block_rows(ROWS, 8 * sum(WIDTHS[1:])))
    assert (blocks > 1) == (request.param == "several blocks")
    return backend


# The bits


@pytest.mark.parametrize("joined", [True, False], ids=["joined loss", "softmax layer"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_training_has_the_bits_of_the_cpu(
    cuda: CudaBackend,
    data: tuple[np.ndarray, np.ndarray],
    optimizer: Callable[[], Optimizer],
    dtype: str,
    joined: bool,
) -> None:
    results = []
    for backend in (CpuBackend(1), cuda):
        model = make(backend, dtype, joined)
        history = model.fit(*data, epochs=21, optimizer=optimizer(), log_every=4, verbose=False)
        metrics, probabilities = model.evaluate(data[0], np.eye(WIDTHS[-1])[data[1]]), model.predict_proba(data[0])
        assert type(probabilities) is type(model.state_dict()["dense1.weights"]) is np.ndarray
        assert len(history.epoch_seconds) == 21
        results.append((model, history, metrics, probabilities))
    (cpu, expected, metrics, probabilities), (gpu, history, gpu_metrics, gpu_probabilities) = results
    assert isinstance(gpu.parameters, DeviceArray)
    for column in ("epoch", "loss", "accuracy", "regularization_loss", "learning_rate"):
        assert getattr(history, column) == getattr(expected, column)
    assert history.loss[-1] < history.loss[0]
    assert gpu_metrics == metrics
    np.testing.assert_array_equal(gpu_probabilities, probabilities)
    np.testing.assert_array_equal(cuda.to_host(gpu.parameters), cpu.parameters)


@pytest.mark.parametrize("made", [eager, lambda: with_graphs()], ids=["eager", "graphs"])
@pytest.mark.parametrize("optimizer", LATER.values(), ids=LATER)
def test_clipping_schedules_and_averages_have_the_bits_of_the_cpu(
    data: tuple[np.ndarray, np.ndarray], optimizer: Callable[[], Optimizer], made: Callable[[], Any]
) -> None:
    options: dict[str, Any] = {"epochs": 21, "log_every": 4, "verbose": False, "validation_fraction": 0.2}
    cpu, gpu = make(CpuBackend(1)), make(made())
    expected, history = (model.fit(*data, optimizer=optimizer(), **options) for model in (cpu, gpu))
    assert history.to_csv() == expected.to_csv()
    assert history.loss[-1] < history.loss[0]
    np.testing.assert_array_equal(gpu.backend.to_host(gpu.parameters), cpu.parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("made", [eager, lambda: with_graphs()], ids=["eager", "graphs"])
def test_lbfgs_has_the_bits_of_the_cpu(
    data: tuple[np.ndarray, np.ndarray], made: Callable[[], Any], dtype: str
) -> None:
    options: dict[str, Any] = {"epochs": 25, "log_every": 1, "verbose": False, "validation_fraction": 0.2}
    cpu, gpu = make(CpuBackend(1), dtype), make(made(), dtype)
    expected, history = (model.fit(*data, optimizer=LBFGS(), **options) for model in (cpu, gpu))
    assert history.to_csv() == expected.to_csv()
    np.testing.assert_array_equal(gpu.backend.to_host(gpu.parameters), cpu.parameters)


@pytest.mark.parametrize("there", ["eager", "graphs", "cpu"])
@pytest.mark.parametrize("before", ["eager", "graphs"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_stopped_training_goes_on_to_the_same_bits(
    data: tuple[np.ndarray, np.ndarray],
    optimizer: Callable[[], Optimizer],
    before: str,
    there: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With and without graphs, and on the CPU, which is told of: on the stand-in it has the same bits."""
    made: dict[str, Callable[[], Any]] = {"eager": eager, "graphs": with_graphs, "cpu": lambda: CpuBackend(1)}
    options: dict[str, Any] = {"log_every": 4, "verbose": 0, "validation_fraction": 0.2, "keep_best": True}
    whole = make(made[before]())
    expected = whole.fit(*data, epochs=21, optimizer=optimizer(), **options)
    first = make(made[before]())
    first.fit(*data, epochs=10, optimizer=optimizer(), checkpoint=tmp_path, **options)
    resumed = make(made[there]())
    history = resumed.fit(*data, epochs=21, optimizer=optimizer(), checkpoint=tmp_path, resume=True, **options)
    np.testing.assert_array_equal(
        resumed.backend.to_host(resumed.parameters), whole.backend.to_host(whole.parameters)
    )
    assert history.to_csv() == expected.to_csv()
    assert history.best_state is not None
    assert expected.best_state is not None
    for name, values in expected.best_state.items():
        np.testing.assert_array_equal(history.best_state[name], values)
    assert ("from here on in float32 on cpu" in caplog.text) == (there == "cpu")


# Rows that are bytes, or lie without their background


def make_images() -> tuple[np.ndarray, np.ndarray]:
    """Return bytes (ROWS, 36) of images with a margin, half of them with a wider one, and labels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (ROWS, 6, 6), dtype="uint8")
    images[:, 0] = images[::2, 1:3] = images[:, 5] = 0
    return images.reshape(ROWS, 36), generator.integers(0, WIDTHS[-1], ROWS)


def make_for_images(backend: Any, dtype: str) -> Sequential:
    network = Sequential([Dense(36, 9, *PENALTIES), ReLU(), Dense(9, 4)], backend=backend, seed=1, dtype=dtype)
    with network.backend.current():
        network.parameters *= 20
    return network


LAID_OUT: dict[str, tuple[Callable[[np.ndarray], np.ndarray], bool]] = {
    "bytes with every column": (lambda images: images, True),
    "bytes without background": (lambda images: images, False),
    "bytes that have none": (lambda images: images | 1, False),
    "floats without background": (lambda images: images / 127.5 - 1, False),
}
EACH_LAID_OUT = pytest.mark.parametrize(("convert", "dense"), LAID_OUT.values(), ids=LAID_OUT)


@EACH_LAID_OUT
@pytest.mark.parametrize("block_rows", [ROWS, 16])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_on_rows_laid_out_otherwise_has_the_bits_of_the_cpu(
    convert: Callable[[np.ndarray], np.ndarray], dense: bool, block_rows: int, dtype: str
) -> None:
    images, labels = make_images()
    results, options = [], {"log_every": 3, "verbose": False, "block_rows": block_rows, "dense": dense}
    for backend in (CpuBackend(1), eager(), with_graphs()):
        model = make_for_images(backend, dtype)
        history = model.fit(convert(images), labels, epochs=14, optimizer=Adam(0.02), **options)
        results.append((history.loss, history.column_share, backend.to_host(model.parameters).tolist()))
        assert history.loss[-1] < history.loss[0]
    assert results[0] == results[1] == results[2]


@EACH_LAID_OUT
@pytest.mark.parametrize("block_rows", [ROWS, 16])
@pytest.mark.parametrize("dtype", ["float32", "float16"])  # what casts and what does not
def test_an_epoch_on_rows_laid_out_otherwise_neither_waits_nor_copies_nor_allocates(
    convert: Callable[[np.ndarray], np.ndarray], dense: bool, block_rows: int, dtype: str
) -> None:
    images, labels = make_images()
    for backend, log_every, epochs in ((eager(), 1000, (2, 4)), (with_graphs(), 10, (30, 50))):
        options: dict[str, Any] = {"optimizer": Adam(0.02), "block_rows": block_rows, "dense": dense}
        model = make_for_images(backend, dtype)
        cost = cost_of_an_epoch(model, (convert(images), labels), epochs=epochs, log_every=log_every, **options)
        once = {"launches", "synchronisations", "transfers_to_device", "transfers_to_host"}
        if backend.captures:  # ten epochs are one launch and one wait
            assert {name: cost.pop(name) for name in once} == dict.fromkeys(once, 0.1)
        assert cost.keys() == {"kernels", "products"}


@pytest.mark.parametrize("dense", [None, True, False])
@pytest.mark.parametrize("dtype", ["tf32", "float16"])
def test_bytes_in_precisions_of_a_gpu_train_as_in_float32(dtype: str, dense: bool | None) -> None:
    images, labels = make_images()
    losses = []
    for precision in ("float32", dtype):
        model = make_for_images(eager(), precision)
        options = {"log_every": 1, "verbose": False, "block_rows": 16, "dense": dense}
        losses.append(model.fit(images, labels, epochs=10, optimizer=Adam(0.02), **options).loss)
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32", "float16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_one_device_has_the_bits_of_the_other(
    data: tuple[np.ndarray, np.ndarray], optimizer: Callable[[], Optimizer], dtype: str
) -> None:
    cupy = StandInCupy(devices=2)
    models = [make(CudaBackend(index, cupy=cupy), dtype) for index in (0, 1)]
    histories = [model.fit(*data, epochs=9, optimizer=optimizer(), log_every=4, verbose=False) for model in models]
    assert [model.parameters.data.device_id for model in models] == [0, 1]
    assert histories[0].loss == histories[1].loss
    np.testing.assert_array_equal(*(model.predict_proba(data[0]) for model in models))
    np.testing.assert_array_equal(*(model.backend.to_host(model.parameters) for model in models))


def test_rows_of_one_device_are_taken_by_a_model_on_the_other(data: tuple[np.ndarray, np.ndarray]) -> None:
    cupy = StandInCupy(devices=2)
    first, second = (CudaBackend(index, cupy=cupy) for index in (0, 1))
    model = make(second)
    expected = model.predict_proba(data[0])
    np.testing.assert_array_equal(model.predict_proba(first.asarray(data[0], dtype="float32")), expected)


def test_training_goes_on_with_the_same_moments(cuda: CudaBackend, data: tuple[np.ndarray, np.ndarray]) -> None:
    parameters = []
    for backend in (CpuBackend(1), cuda):
        model, optimizer = make(backend), Adam(0.02)
        for _ in range(2):
            model.fit(*data, epochs=3, optimizer=optimizer, verbose=False)
        parameters.append(backend.to_host(model.parameters))
    np.testing.assert_array_equal(*parameters)


def test_model_goes_to_a_file_and_to_the_other_device_with_its_bits(
    cuda: CudaBackend, data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    model = make(cuda)
    model.fit(*data, epochs=3, verbose=False)
    model.save(tmp_path / "gpu.safetensors")
    on_cpu = load(tmp_path / "gpu.safetensors", backend=CpuBackend(1))
    on_cpu.save(tmp_path / "cpu.safetensors")
    again = load(tmp_path / "cpu.safetensors", backend=cuda)
    assert (tmp_path / "cpu.safetensors").read_bytes() == (tmp_path / "gpu.safetensors").read_bytes()
    for other in (on_cpu, again):
        np.testing.assert_array_equal(other.predict_proba(data[0]), model.predict_proba(data[0]))


def test_tf32_is_float32_to_the_stand_in_but_for_the_kind_of_product(data: tuple[np.ndarray, np.ndarray]) -> None:
    parameters = []
    for dtype in ("float32", "tf32"):
        backend = eager()
        model = make(backend, dtype)
        model.fit(*data, epochs=3, verbose=False)
        parameters.append(backend.to_host(model.parameters))
    np.testing.assert_array_equal(*parameters)


@pytest.mark.parametrize(
    ("dtype", "kinds"),
    [
        ("float32", {COMPUTE_32F}),
        ("float64", {COMPUTE_64F}),
        ("tf32", {COMPUTE_TF32, COMPUTE_32F}),  # the softmax sums its rows exactly
        ("float16", {COMPUTE_32F}),
    ],
)
def test_products_are_of_the_precisions_kind(
    data: tuple[np.ndarray, np.ndarray], dtype: str, kinds: set[int]
) -> None:
    model = make(eager(), dtype)
    model.fit(*data, epochs=2, verbose=False)
    model.evaluate(*data)
    assert set(model.backend.xp.products) == kinds | {COMPUTE_64F}  # the figures' sums


# Layers, losses, networks and optimizers by hand, as in a lesson


class Affine(Layer):
    """A layer of the user's own, with arrays and operators."""

    def forward(self, inputs: Any) -> Any:
        self.output = self.backend.xp.full(inputs.shape, 0.5, dtype=inputs.dtype) + 3 * inputs
        return self.output

    def backward(self, dvalues: Any) -> Any:
        return 3 * dvalues


def by_hand(backend: Any, make_optimizer: Callable[[], Optimizer], X: np.ndarray, y: np.ndarray) -> list[Any]:
    """Return what three steps of layers alone give, with one-hot labels."""
    dense1 = Dense(WIDTHS[0], 9, *PENALTIES, seed=1, backend=backend)
    dense2 = Dense(9, WIDTHS[-1], seed=2, backend=backend)
    relu, affine, softmax, loss = ReLU(backend), Affine(backend), Softmax(backend), CategoricalCrossentropy(backend)
    dense2.biases = np.full((1, WIDTHS[-1]), 0.1)
    optimizer = make_optimizer()
    inputs, labels = backend.asarray(X), backend.asarray(np.eye(WIDTHS[-1])[y])
    results = [softmax.forward(backend.asarray([[1, 2], [3, 3]]))]
    for _ in range(3):
        predictions = softmax.forward(dense2.forward(affine.forward(relu.forward(dense1.forward(inputs)))))
        results += [loss.calculate(predictions, labels), loss.regularization_loss(dense1, dense2)]
        dvalues = dense2.backward(softmax.backward(loss.backward(predictions, labels)))
        dense1.backward(relu.backward(affine.backward(dvalues)))
        optimizer.pre_update_params()
        optimizer.update_params(dense1)
        optimizer.update_params(dense2)
        optimizer.post_update_params()
        results += [predictions, dense1.parameters, dense1.gradients, dense1.dinputs, dense2.parameters]
    return [backend.to_host(array).tolist() for array in results]


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_layers_by_hand_have_the_bits_of_the_cpu(
    data: tuple[np.ndarray, np.ndarray], optimizer: Callable[[], Optimizer]
) -> None:
    assert by_hand(eager(), optimizer, *data) == by_hand(CpuBackend(1), optimizer, *data)


@pytest.mark.parametrize("joined", [True, False], ids=["joined loss", "softmax layer"])
def test_network_by_hand_has_the_bits_of_the_cpu(data: tuple[np.ndarray, np.ndarray], joined: bool) -> None:
    results = []
    for backend in (CpuBackend(1), eager()):
        network, optimizer = make(backend, joined=joined), Adam(0.02)
        inputs, labels = backend.asarray(data[0], dtype="float32"), backend.asarray(data[1])
        for _ in range(3):
            probabilities = network.forward(inputs)
            network.backward(probabilities, labels)
            network.add_penalty_gradients()
            optimizer.step(network)
        summed = make(backend, joined=joined)
        summed.backward(summed.forward(inputs), labels, "sum")
        other = make(backend, joined=joined)
        other.load_state_dict(network.state_dict())
        arrays = network.parameters, probabilities, summed.gradients, other.parameters, other.regularization_loss()
        results.append([backend.to_host(array).tolist() for array in arrays])
    assert results[0] == results[1]


def test_network_is_made_of_layers_of_another_device(data: tuple[np.ndarray, np.ndarray]) -> None:
    cupy = StandInCupy(devices=2)
    first, second = (CudaBackend(index, cupy=cupy) for index in (0, 1))
    dense = Dense(12, 4, seed=1, backend=first)
    expected = first.to_host(dense.parameters)
    network = Sequential([dense], backend=second)
    np.testing.assert_array_equal(second.to_host(network.parameters), expected)
    network.fit(*data, epochs=2, verbose=False)


# What is waited for


@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32", "float16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_only_the_figures_of_logged_epochs_leave_the_device(
    cuda: CudaBackend, data: tuple[np.ndarray, np.ndarray], optimizer: Callable[[], Optimizer], dtype: str
) -> None:
    cupy = cuda.xp
    seen: list[list[list[str]]] = [[], [], []]

    def note(_history: History) -> None:
        for events, now in zip(seen, (cupy.synchronisations, cupy.transfers_to_device, cupy.implicit), strict=True):
            events.append(list(now))

    model = make(cuda, dtype)
    history = model.fit(*data, epochs=16, optimizer=optimizer(), log_every=5, callbacks=[note], verbose=False)
    waits, sent, implicit = seen
    assert [len(events) for events in waits] == list(range(len(waits[0]), len(waits[0]) + 4))  # one a logged epoch
    assert all(wait.startswith("Event.synchronize() at cuda.py:") for wait in waits[-1][len(waits[0]) - 1 :])
    assert sent[0] == sent[-1]
    assert implicit[0] == implicit[-1]
    # After the loop: are the weights finite, the last of the marks, the lowest and the highest class predicted.
    after = [wait.partition(" at ")[0] for wait in cupy.synchronisations[len(waits[-1]) :]]
    assert after[:4] == ["float()", "Event.synchronize()", "int()", "int()"]
    # Are there dead units, in a sample of the rows, where one class alone is predicted.
    assert after[4:5] in ([], ["get()"])
    assert set(after[5:]) <= {"bool()"}
    assert len(history.epoch_seconds) == 16


def cost_of_an_epoch(
    model: Sequential, data: tuple[np.ndarray, np.ndarray], epochs: tuple[int, int] = (3, 13), **options: Any
) -> dict[str, float]:
    """Return what one more epoch adds to the counts: the difference of fits of so few and so many epochs."""
    model.fit(*data, epochs=1, verbose=False, **options)  # makes the moments
    few, many = (
        model.backend.xp.counted(lambda count=count: model.fit(*data, epochs=count, verbose=False, **options))
        for count in epochs
    )
    more = epochs[1] - epochs[0]
    return {name: (count - few[name]) / more for name, count in many.items() if count != few[name]}


@pytest.mark.parametrize("block_rows", [ROWS, 20])
@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32", "float16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("end", ["joined loss", "softmax layer"])
def test_an_epoch_without_figures_neither_waits_nor_copies_nor_allocates(
    data: tuple[np.ndarray, np.ndarray], optimizer: Callable[[], Optimizer], dtype: str, end: str, block_rows: int
) -> None:
    model = make(eager(), dtype, joined=end == "joined loss")
    cost = cost_of_an_epoch(model, data, optimizer=optimizer(), log_every=1000, block_rows=block_rows)
    assert cost.keys() == {"kernels", "products"}


@pytest.mark.parametrize("optimizer", LATER.values(), ids=LATER)
def test_clipping_schedules_and_averages_neither_wait_nor_copy_nor_allocate(
    data: tuple[np.ndarray, np.ndarray], optimizer: Callable[[], Optimizer]
) -> None:
    cost = cost_of_an_epoch(make(eager()), data, optimizer=optimizer(), log_every=1000)
    assert cost.keys() == {"kernels", "products"}


def test_a_logged_epoch_waits_once(data: tuple[np.ndarray, np.ndarray]) -> None:
    cost = cost_of_an_epoch(make(eager()), data, optimizer=Adam(0.02), log_every=1)
    assert cost["synchronisations"] == cost["transfers_to_host"] == 1
    assert cost.keys() == {"synchronisations", "transfers_to_host", "kernels", "products"}


def test_sending_and_checking_the_data_is_all_that_comes_before(data: tuple[np.ndarray, np.ndarray]) -> None:
    model = make(eager())
    work = model.backend.xp.counted(lambda: model.fit(*data, epochs=0, verbose=False))
    # X and y go to the device; the least and the greatest of X come back, and at the end the sum of the weights: they
    # tell of values that are not finite.
    assert (work["transfers_to_device"], work["transfers_to_host"], work["implicit"]) == (2, 3, 3)


def test_prediction_fetches_the_probabilities_once(cuda: CudaBackend, data: tuple[np.ndarray, np.ndarray]) -> None:
    model, X = make(cuda), cuda.asarray(data[0], dtype="float32")
    work = cuda.xp.counted(lambda: model.predict_proba(X))
    assert work["transfers_to_host"] == work["synchronisations"] == 3  # and the bounds of X
    assert "transfers_to_device" not in work


# CUDA graphs


def with_graphs() -> CudaGraphBackend:
    cupy = StandInCupy(devices=2)
    return CudaGraphBackend(1, cupy=cupy, nvmath=make_nvmath(cupy))


LOSSES = {name: partial(kind, **arguments) for name, kind, arguments in registered_losses()}


@pytest.mark.parametrize("make_loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32", "float16"])
def test_every_loss_has_the_bits_of_the_cpu_with_and_without_graphs(
    data: tuple[np.ndarray, np.ndarray], make_loss: Callable[[], Loss], dtype: str
) -> None:
    results = []
    for backend in (eager(), with_graphs(), *([CpuBackend(1)] if dtype in ("float32", "float64") else [])):
        loss = make_loss()
        layers: list[Layer] = [Dense(12, 9), ReLU(), Dense(9, 4), *([loss.ends_with()] if loss.ends_with else [])]
        model = Sequential(layers, loss, backend, seed=1, dtype=dtype)
        with backend.current():
            model.parameters *= 20
        history = model.fit(*data, epochs=21, optimizer=Adam(0.02), log_every=4, verbose=0, block_rows=ROWS)
        assert history.loss[-1] < 0.9 * history.loss[0]
        parameters = backend.to_host(model.parameters).tolist()
        results.append((history.loss, history.accuracy, model.evaluate(*data), parameters))
    assert all(result == results[0] for result in results[1:])


EVERY_PRECISION = pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])  # tf32: see above
EVERY_OPTIMIZER = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.mark.parametrize(
    ("block_rows", "watched"), [(ROWS, False), (25, True)], ids=["one block, unwatched", "three blocks, watched"]
)
@pytest.mark.parametrize("joined", [True, False], ids=["joined loss", "softmax layer"])
@EVERY_PRECISION
@EVERY_OPTIMIZER
def test_training_with_graphs_has_the_bits_of_training_without(
    data: tuple[np.ndarray, np.ndarray],
    optimizer: Callable[[], Optimizer],
    dtype: str,
    joined: bool,
    block_rows: int,
    watched: bool,
) -> None:
    columns, seen, parameters = [], [], []
    for backend in (eager(), with_graphs()):
        model = make(backend, dtype, joined)

        def watch(history: History, model: Sequential = model) -> None:
            seen.append((history.epoch[-1], history.loss[-1], model.backend.to_host(model.parameters).tolist()))

        callbacks = [watch] if watched else []
        options: dict[str, Any] = {"log_every": 4, "verbose": False, "block_rows": block_rows, "callbacks": callbacks}
        history = model.fit(*data, epochs=18, optimizer=optimizer(), **options)
        assert len(history.epoch_seconds) == 18
        columns.append([history.epoch, history.loss, history.accuracy, history.learning_rate])
        parameters.append(backend.to_host(model.parameters))
        if backend.captures:
            # The first of each kind is made call by call: of 4, 4, 4, 4, 2, or of 1, 3, 1, 3, 1, 3, 1, 3, 1, 1.
            assert len(backend.xp.launches) == (7 if watched else 3)
    assert columns[1] == columns[0]
    np.testing.assert_array_equal(parameters[1], parameters[0])
    assert seen[: len(seen) // 2] == seen[len(seen) // 2 :]
    assert len(seen) == 10 * watched


def test_optimizer_of_the_users_own_is_asked_for_every_update(data: tuple[np.ndarray, np.ndarray]) -> None:
    class Halving(SGD):
        """Does as it likes in `step`."""

        def step(self, target: Any) -> None:
            self.learning_rate *= 0.5
            super().step(target)

    results = []
    for backend in (eager(), with_graphs()):
        model = make(backend)
        model.fit(*data, epochs=9, optimizer=Halving(1.0), log_every=2, verbose=False)
        assert backend.xp.launches == []
        results.append(backend.to_host(model.parameters))
    np.testing.assert_array_equal(*results)


def test_rate_that_a_callback_changes_is_the_next_updates(data: tuple[np.ndarray, np.ndarray]) -> None:
    results = []
    for backend in (eager(), with_graphs()):
        model, optimizer = make(backend), Adam(0.02)

        def halve(_history: History, optimizer: Adam = optimizer) -> None:
            optimizer.learning_rate /= 2

        history = model.fit(*data, epochs=12, optimizer=optimizer, log_every=3, verbose=False, callbacks=[halve])
        results.append((history.learning_rate, backend.to_host(model.parameters).tolist()))
    assert results[0] == results[1]
    assert results[0][0] == [0.02, 0.01, 0.005, 0.0025]


@pytest.mark.parametrize("block_rows", [ROWS, 20])
@EVERY_PRECISION
@EVERY_OPTIMIZER
def test_ten_epochs_with_graphs_are_one_launch_and_one_wait(
    data: tuple[np.ndarray, np.ndarray], optimizer: Callable[[], Optimizer], dtype: str, block_rows: int
) -> None:
    model, one = make(with_graphs(), dtype), optimizer()
    options: dict[str, Any] = {"optimizer": one, "log_every": 10, "verbose": False, "block_rows": block_rows}
    model.fit(*data, epochs=1, **options)  # makes what is made once
    few, many = (
        model.backend.xp.counted(lambda epochs=epochs: model.fit(*data, epochs=epochs, **options))
        for epochs in (30, 50)
    )
    cost = {name: (count - few[name]) / 2 for name, count in many.items() if count != few[name]}
    # What is sent are the rates and corrections of ten updates, what comes back the figures of the first.
    once = {"launches", "synchronisations", "transfers_to_device", "transfers_to_host"}
    assert {name: cost.pop(name) for name in once} == dict.fromkeys(once, 1)
    assert cost.keys() == {"kernels", "products"}  # no allocation, and nothing else is waited for


def test_what_ten_epochs_ask_of_a_gpu(data: tuple[np.ndarray, np.ndarray]) -> None:
    model = make(with_graphs(), "float32")
    cupy, asked = model.backend.xp, []
    for epochs in (30, 40):
        before = len(cupy.kernels), len(cupy.products)
        model.fit(*data, epochs=epochs, optimizer=Adam(0.02), log_every=10, verbose=False)
        asked.append((Counter(cupy.kernels[before[0] :]), len(cupy.products) - before[1]))
    (few, fewer_products), (many, more_products) = asked
    dense = len(model.dense)
    softmax = ("largest", "shifted_exp", "divide_rows", "softmax_crossentropy_gradient")
    every_epoch = dict.fromkeys([*softmax, "adam"], 10)
    # Weights and biases have penalties of their own, else one kernel would do for both.
    layers = {"relu_gradient": 10 * (dense - 1), "add_penalty_gradient": 10 * 2 * dense}
    figures = {"crossentropy": 1, "matches": 1, "penalty": 2 * dense}
    assert many - few == Counter(every_epoch | layers | figures)
    # Forward, biases and ReLU along with it; softmax's sum; gradients of weights, biases and inputs; for the figures
    # the sums of a group of blocks, of the groups, and of the penalties.
    assert more_products - fewer_products == 10 * (dense + 1 + 2 * dense + (dense - 1)) + 3


class Doubling(Layer):
    """A layer of the user's own, whose calls are not noted: it allocates."""

    def forward(self, inputs: Any) -> Any:
        return 2 * inputs

    def backward(self, dvalues: Any) -> Any:
        return 2 * dvalues


@pytest.mark.parametrize("registered", [False, True])
def test_network_with_a_layer_of_the_users_own_trains_without_a_graph(
    data: tuple[np.ndarray, np.ndarray], registered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if registered:
        monkeypatch.setitem(REGISTRY, "doubling", Doubling)
    parameters = []
    for backend in (eager(), with_graphs()):
        model = Sequential([Dense(12, 9), Doubling(), Dense(9, 4)], backend=backend, seed=1)
        history = model.fit(*data, epochs=5, optimizer=Adam(0.02), log_every=1, verbose=False)
        assert history.loss[-1] < history.loss[0]
        assert backend.xp.launches == []
        parameters.append(backend.to_host(model.parameters))
    np.testing.assert_array_equal(*parameters)
