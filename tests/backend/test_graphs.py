"""CUDA graphs on the stand-in: what is captured, what is refused, what is held."""

import builtins
import gc
import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from parity.standin import NvmathCublas, NvmathCublasLt, StandInCupy, make_nvmath
from parity.standin.cuda import COMPUTE_32F, COMPUTE_TF32

from bench.probe import named
from fmnist_xp.backend import Backend, CudaGraphBackend, Formula, Product, RowSum, Step, elementwise
from fmnist_xp.backend.graphs import import_nvmath
from fmnist_xp.errors import DeviceError
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, Layer, ReLU
from fmnist_xp.nn.activations import biased_relu, relu, relu_gradient
from fmnist_xp.nn.layers import add_bias
from fmnist_xp.optim import Adam


@pytest.fixture
def cupy() -> StandInCupy:
    return StandInCupy()


@pytest.fixture
def backend(cupy: StandInCupy) -> CudaGraphBackend:
    return CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy))


@elementwise
def double(xp: Any, values: Any) -> None:
    xp.multiply(values, 2, out=values)


def unmarked(xp: Any, a: Any, b: Any, out: Any) -> None:
    xp.multiply(a, b, out=out)


def add_one(xp: Any, values: Any) -> None:
    values[...] = xp.add(values, 1, out=values)


def column_maxima(xp: Any, values: Any, out: Any) -> None:
    xp.max(values, axis=0, out=out)


def repeated(backend: CudaGraphBackend, steps: Sequence[Step]) -> Callable[[], None]:
    """Return what makes the calls of `steps`."""
    calls = backend.calls(steps)

    def repeat() -> None:
        for function, arguments in calls:
            function(*arguments)

    return repeat


def captured(backend: CudaGraphBackend, *steps: Step) -> Callable[[], None]:
    """Return the launch of a graph of `steps`."""
    return backend.captured(repeated(backend, steps))


# What is captured


def test_steps_are_taken_at_each_launch_and_not_before(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    values, maxima = cupy.asarray(np.array([[1.0, 2.0], [4.0, 3.0]])), cupy.zeros(2)
    backend.compute(double, values)  # compiles it
    launch = captured(
        backend,
        Formula(double, (values,)),
        Formula(add_one, (values,)),
        Formula(column_maxima, (values, maxima)),
    )
    assert values.tolist() == [[2, 4], [8, 6]]
    launch()
    assert values.tolist() == [[5, 9], [17, 13]]
    launch()
    assert values.tolist() == [[11, 19], [35, 27]]
    assert maxima.tolist() == [35, 27]


def test_graph_holds_the_work_that_it_was_captured_from(backend: CudaGraphBackend) -> None:
    class Work:
        def __call__(self) -> None:
            pass

    work = Work()
    held = weakref.ref(work)
    launch = backend.captured(work)
    del work
    gc.collect()
    assert held() is not None
    launch()
    del launch
    gc.collect()
    assert held() is None


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_during_a_capture(backend: CudaGraphBackend, enabled: bool) -> None:
    states: list[bool] = []
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        launch = backend.captured(lambda: states.append(gc.isenabled()))
        after = gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()
    launch()
    assert (states[0], after) == (False, enabled)


def test_capture_has_a_stream_that_waits_for_no_other(cupy: StandInCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    real = cupy.cuda.Stream

    def stream(**options: Any) -> Any:
        made.append(options)
        return real(**options)

    monkeypatch.setattr(cupy.cuda, "Stream", stream)
    backend = CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy))
    assert made == [{"non_blocking": True}]
    assert backend._workspace.nbytes == 32 * 2**20


def test_launch_is_all_that_is_asked_of_the_device(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    values = cupy.ones((2, 2))
    backend.compute(double, values)
    steps = Formula(double, (values,)), Product(values, values, cupy.empty((2, 2)))
    launches: list[Callable[[], None]] = []
    assert cupy.counted(lambda: launches.append(captured(backend, *steps))) == {}
    assert cupy.counted(launches[0]) == {"launches": 1, "kernels": 1, "products": 1}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_are_captured_with_their_scale(backend: CudaGraphBackend, cupy: StandInCupy, dtype: str) -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(4, 3)
    left, right, out = cupy.asarray(a, dtype=dtype), cupy.asarray(b, dtype=dtype), cupy.zeros((2, 4), dtype=dtype)
    launch = captured(backend, Product(left, right.T, out, 0.5))
    assert not out.get().any()
    launch()
    np.testing.assert_array_equal(out.get(), 0.5 * a @ b.T)
    left[...] = cupy.asarray(a + 1, dtype=dtype)
    launch()
    np.testing.assert_array_equal(out.get(), 0.5 * (a + 1) @ b.T)


def test_products_that_are_not_captured_run_in_the_current_stream(
    backend: CudaGraphBackend, cupy: StandInCupy
) -> None:
    ones, out = cupy.ones((2, 2)), cupy.empty((2, 2))
    with cupy.cuda.Stream():
        backend.dot(ones, ones, out)  # the stand-in refuses another one
    assert out.tolist() == [[2, 2], [2, 2]]


def test_graph_holds_the_arrays_of_its_calls(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    a, out = cupy.ones((2, 2)), cupy.zeros((2, 2))
    held = [weakref.ref(array._memory) for array in (a, out)]
    launch = captured(backend, Product(a, a, out), Formula(add_one, (out,)))
    del a, out
    gc.collect()
    launch()
    assert None not in [memory() for memory in held]
    del launch
    gc.collect()
    assert [memory() for memory in held] == [None, None]


# What a product takes along

FOLLOWING = {
    "bias": (lambda out, biases: Formula(add_bias, (out, biases)), lambda sums: sums),
    "relu": (lambda out, biases: Formula(biased_relu, (out, biases, out)), lambda sums: np.maximum(sums, 0)),
}


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("operands", ["float32", "float16"])
@pytest.mark.parametrize(("following", "expected"), FOLLOWING.values(), ids=FOLLOWING)
def test_biases_and_relu_ride_along_with_the_product(
    backend: CudaGraphBackend,
    cupy: StandInCupy,
    following: Callable[[Any, Any], Step],
    expected: Callable[[Any], Any],
    operands: str,
    misaligned: bool,
) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.integers(-4, 5, (3, 6)).astype(operands), generator.integers(-4, 5, (6, 8)).astype(operands)
    biases = generator.integers(-9, 10, (1, 9)).astype("float32")
    left, right, held = cupy.asarray(a), cupy.asarray(b), cupy.asarray(biases)
    out, added = cupy.empty((3, 8), dtype="float32"), held[:, misaligned : 8 + misaligned]
    steps = Product(left, right, out), following(out, added)
    assert [function for function, _ in backend.calls(steps)] != [f for s in steps for f, _ in backend.calls([s])]
    repeat = repeated(backend, steps)
    counted = cupy.counted(repeat)
    assert counted == {"products": 1}  # no kernel of its own for what follows
    np.testing.assert_array_equal(out.get(), expected(a @ b + biases[:, misaligned : 8 + misaligned]))
    held[...] = held + 1
    backend.captured(repeat)()  # with the biases as they are then
    np.testing.assert_array_equal(out.get(), expected(a @ b + biases[:, misaligned : 8 + misaligned] + 1))


def test_only_what_works_on_the_products_result_rides_along(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    a, out, other, biases = (cupy.ones(shape, dtype="float32") for shape in ((4, 4), (4, 4), (4, 4), (1, 4)))
    product = Product(a, a, out)
    for follower in (
        Formula(add_bias, (other, biases)),
        Formula(biased_relu, (out, biases, other)),
        Formula(relu, (out, out)),
        Product(a, out, other),
    ):
        apart = [*backend.calls([product]), *backend.calls([follower])]
        assert len(backend.calls([product, follower])) == len(apart) == 2
    assert len(backend.calls([Formula(add_bias, (out, biases)), product])) == 2
    assert len(backend.calls([product, Formula(add_bias, (out, biases)), product])) == 2
    assert len(backend.calls([product])) == 1


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_relu_of_halves_and_of_doubles_stays_two_calls(
    backend: CudaGraphBackend, cupy: StandInCupy, dtype: str
) -> None:
    a, out, biases = cupy.ones((4, 4), dtype=dtype), cupy.empty((4, 4), dtype=dtype), cupy.ones((1, 4))
    repeat = repeated(backend, [Product(a, a, out), Formula(biased_relu, (out, biases, out))])
    assert cupy.counted(repeat) == {"products": 1, "kernels": 1}


def test_what_cublaslt_cannot_do_stays_two_calls(cupy: StandInCupy) -> None:
    nvmath = make_nvmath(cupy)
    nvmath.cublasLt = NvmathCublasLt(cupy, unsupported=["RELU_BIAS"])
    backend = CudaGraphBackend(cupy=cupy, nvmath=nvmath)
    a, out = cupy.ones((4, 4), dtype="float32"), cupy.empty((4, 4), dtype="float32")
    biases = cupy.full((1, 4), -3.0, dtype="float32")
    repeat = repeated(backend, [Product(a, a, out), Formula(biased_relu, (out, biases, out))])
    assert cupy.counted(repeat) == {"products": 1, "kernels": 1}
    assert out.tolist() == [[1.0] * 4] * 4


@pytest.mark.parametrize(("tf32", "compute"), [(False, COMPUTE_32F), (True, COMPUTE_TF32)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_joined_product_has_its_scale_and_its_precision(
    backend: CudaGraphBackend, cupy: StandInCupy, scale: float, tf32: bool, compute: int
) -> None:
    a, out, biases = (cupy.ones(shape, dtype="float32") for shape in ((4, 4), (4, 4), (1, 4)))
    cupy.products.clear()
    repeated(backend, [Product(a, a, out, scale, tf32), Formula(add_bias, (out, biases))])()
    assert cupy.products == [compute]
    assert out.tolist() == [[4 * scale + 1] * 4] * 4


def test_why_two_calls_stay_two_is_logged(cupy: StandInCupy, caplog: pytest.LogCaptureFixture) -> None:
    nvmath = make_nvmath(cupy)
    nvmath.cublasLt = NvmathCublasLt(cupy, unsupported=["BIAS"])
    backend = CudaGraphBackend(cupy=cupy, nvmath=nvmath)
    a, out, biases = (cupy.ones(shape, dtype="float32") for shape in ((4, 4), (4, 4), (1, 4)))
    with caplog.at_level(logging.DEBUG, logger="fmnist_xp"):
        backend.calls([Product(a, a, out), Formula(add_bias, (out, biases))])
    assert caplog.messages == ["cuBLASLt 130100 answers CUBLAS_STATUS_NOT_SUPPORTED (15)"]


# What a formula takes along


class Gradients:
    """The arrays of a ReLU's gradient and of what is made of it: 5 rows of 8, and 3 inputs."""

    def __init__(self, cupy: StandInCupy) -> None:
        generator = np.random.default_rng(0)
        self.given = generator.integers(-4, 5, (5, 8)).astype("float32")
        self.output = generator.integers(0, 2, (5, 8)).astype("float32")
        self.dvalues, self.relu = cupy.asarray(self.given), cupy.asarray(self.output)
        self.inputs, self.dweights = cupy.ones((5, 3), dtype="float32"), cupy.empty((3, 8), dtype="float32")
        self.ones, self.dbiases = cupy.ones((5, 1), dtype="float32"), cupy.empty((1, 8), dtype="float32")
        self.other = cupy.ones((5, 8), dtype="float32")
        self.square = cupy.ones((5, 5), dtype="float32")

    def gradient(self, formula: Callable[..., None] = relu_gradient) -> Formula:
        return Formula(formula, (self.dvalues, self.relu, self.dvalues))

    def product(self) -> Product:
        return Product(self.inputs.T, self.dvalues, self.dweights)

    def sums(self) -> RowSum:
        return RowSum(self.ones, self.dvalues, self.dbiases)


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("between", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 1])
def test_sums_over_rows_ride_along_with_the_formula(
    backend: CudaGraphBackend, cupy: StandInCupy, before: int, between: int, after: int
) -> None:
    arrays = Gradients(cupy)
    doubling = Formula(double, (arrays.other,))
    steps = [*[doubling] * before, arrays.gradient(), *[arrays.product()] * between, arrays.sums()]
    repeat = repeated(backend, [*steps, *[doubling] * after])
    counted = cupy.counted(repeat)
    # The formula's kernel, that of the blocks' sums, and no product for these.
    assert counted == {"kernels": 2 + before + after, **({"products": between} if between else {})}
    expected = np.where(arrays.output > 0, arrays.given, 0)
    np.testing.assert_array_equal(arrays.dvalues.get(), expected)
    np.testing.assert_array_equal(arrays.dbiases.get(), expected.sum(axis=0)[None])
    if between:
        np.testing.assert_array_equal(arrays.dweights.get(), np.ones((3, 5)) @ expected)
    assert (arrays.other.get() == 2 ** (before + after)).all()


def test_sums_stay_apart_where_something_comes_between(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    arrays = Gradients(cupy)
    summed = arrays.gradient(), arrays.sums()
    assert len(backend.calls(summed)) == 2  # the formula's kernel and that of the blocks' sums
    apart = {
        "no sums": [arrays.gradient()],
        "sums before": [arrays.sums(), arrays.gradient()],
        "sums of others": [arrays.gradient(), RowSum(arrays.ones, arrays.other, arrays.dbiases)],
        "a formula between": [arrays.gradient(), Formula(double, (arrays.dvalues,)), arrays.sums()],
        "sums of others between": [
            arrays.gradient(),
            RowSum(arrays.ones, arrays.other, arrays.dbiases),
            arrays.sums(),
        ],
        "overwritten between": [
            arrays.gradient(),
            Product(arrays.square, arrays.other, arrays.dvalues),
            arrays.sums(),
        ],
        "not marked as element-wise": [arrays.gradient(unmarked), arrays.sums()],
        "another formula": [Formula(double, (arrays.dvalues,)), arrays.sums()],
    }
    for name, steps in apart.items():
        alone = [call for step in steps for call in backend.calls([step])]
        together = backend.calls(steps)
        assert [named(call) for call in together] == [named(call) for call in alone], name
        assert len(together) == len(steps), name


# What cannot be captured


def waits(xp: Any, values: Any) -> None:
    values[...] = float(values[0, 0])


def allocates(xp: Any, values: Any) -> None:
    values[...] = values + 1


def multiplies(xp: Any, values: Any) -> None:
    xp.dot(values, values, out=values)


def calls_cublas(xp: Any, values: Any) -> None:
    xp.cuda.cublas.gemmEx(xp.cuda.get_cublas_handle(), *range(18))


def fails(xp: Any, values: Any) -> None:
    raise KeyError


REFUSED: dict[str, tuple[Callable[[Any, Any], None], str]] = {
    "wait": (waits, r"cudaErrorStreamCaptureUnsupported: float\(\) while the stream is captured"),
    "allocation": (allocates, "32 bytes of memory were asked for"),
    "CuPy's product": (multiplies, "calling cuBLAS API during stream capture is currently unsupported"),
    "CuPy's cuBLAS": (calls_cublas, "calling cuBLAS API during stream capture is currently unsupported"),
    "fault": (fails, "KeyError"),
}


@pytest.mark.parametrize(("function", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_captured_is_told_in_one_line(
    backend: CudaGraphBackend, cupy: StandInCupy, function: Callable[[Any, Any], None], reason: str
) -> None:
    values = cupy.ones((2, 2))
    message = (
        r"^cuda:0 \(Stand-in GPU\) cannot capture an epoch as a CUDA graph "
        rf"\({reason}\): compute without CUDA graphs$"
    )
    with pytest.raises(DeviceError, match=message):
        captured(backend, Formula(function, (values,)))
    assert values.tolist() == [[1, 1], [1, 1]]
    # Streams and memory are as before.
    captured(backend, Formula(add_one, (values,)))()
    assert (values + 1).tolist() == [[3, 3], [3, 3]]


def test_full_memory_is_said_as_ever(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    def fill() -> None:
        raise cupy.cuda.memory.OutOfMemoryError("full")

    with pytest.raises(DeviceError, match=r"^cuda:0 \(Stand-in GPU\) is out of memory"):
        backend.captured(fill)
    nvmath = make_nvmath(cupy)
    nvmath.cublas.create = fill
    with pytest.raises(DeviceError, match=r"^cuda:0 \(Stand-in GPU\) is out of memory"):
        CudaGraphBackend(cupy=cupy, nvmath=nvmath)


def test_interrupt_while_capturing_sets_the_stream_free(backend: CudaGraphBackend, cupy: StandInCupy) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.captured(interrupt)
    values = cupy.zeros((1, 1))
    captured(backend, Formula(add_one, (values,)))()
    assert values.tolist() == [[1]]


# What can be wrong with nvmath-python

INSTALL = r"pip install nvmath-python$"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'nvmath'"), f"nvmath-python is not installed: {INSTALL}"),
        (ImportError("libcudart: not found\nmore"), rf"does not load \(libcudart: not found\): {INSTALL}"),
    ],
)
def test_nvmath_that_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, cupy: StandInCupy, error: Exception, message: str
) -> None:
    real_import = builtins.__import__

    def failing_import(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "nvmath":
            raise error
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", failing_import)
    for attempt in (import_nvmath, lambda: CudaGraphBackend(cupy=cupy)):
        with pytest.raises(DeviceError, match=f"^CUDA graphs were asked for, but .*{message}") as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_nvmath_that_cannot_multiply(cupy: StandInCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(_cublas: Any) -> int:
        raise RuntimeError("libcublas.so: not found\nmore")

    monkeypatch.setattr(NvmathCublas, "create", create)
    message = r"^nvmath-python cannot multiply on cuda:0 \(libcublas\.so: not found\): compute without CUDA graphs$"
    with pytest.raises(DeviceError, match=message):
        CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy))


def test_faults_of_cuda_come_first() -> None:
    with pytest.raises(DeviceError, match="no NVIDIA driver answers"):
        CudaGraphBackend(cupy=StandInCupy(driver=0))


# On a GPU


@pytest.mark.cuda
@pytest.mark.parametrize("block_rows", [None, 150])
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float64", 1e-9), ("tf32", 1e-2), ("float16", 1e-2)])
def test_training_with_graphs_is_training_without(
    gpu: Backend, synthetic_rows: Any, dtype: str, rtol: float, block_rows: int | None
) -> None:
    pytest.importorskip("nvmath", reason="nvmath-python, with whose cuBLAS products are captured, is not installed")
    if dtype not in gpu.precisions:
        pytest.skip(f"{gpu.device_name} does not compute in {dtype}")
    X, y = synthetic_rows(400)
    losses = []
    for backend in (gpu, CudaGraphBackend(int(gpu.name.partition(":")[2]))):
        layers: list[Layer] = [Dense(20, 32, 0.0, 1e-4), ReLU(), Dense(32, 10)]
        model = Sequential(layers, backend=backend, seed=1, dtype=dtype)
        history = model.fit(X, y, epochs=40, optimizer=Adam(0.01), log_every=5, block_rows=block_rows, verbose=False)
        losses.append(history.loss)
    np.testing.assert_allclose(losses[1], losses[0], rtol=rtol)
    assert losses[0][-1] < 0.5 * losses[0][0]
