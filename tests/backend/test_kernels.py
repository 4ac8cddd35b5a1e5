"""Formulas as kernels of our own, with sums over rows and without; what the stand-in cannot show, a GPU has to."""

from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy

from fmnist_xp.backend import Backend
from fmnist_xp.backend.kernels import expression, kernel_source, vectorized
from fmnist_xp.nn.activations import biased, biased_relu, hyperbolic_tangent, relu, relu_gradient, softmax_gradient
from fmnist_xp.nn.layers import add_penalty_gradient


@pytest.fixture
def cupy() -> StandInCupy:
    return StandInCupy()


def test_expression_is_the_formulas() -> None:
    assert expression(relu_gradient) == (["dvalues", "output", "dinputs"], "stored(dvalues * (output > 0))")


def test_expression_of_two_steps_rounds_between_them_as_the_formula_does() -> None:
    names = ["inputs", "biases", "output"]
    assert expression(biased_relu) == (names, "stored(at_least_0(stored(inputs + biases)))")
    assert expression(relu) == (["inputs", "output"], "stored(at_least_0(inputs))")


def test_what_is_not_known_has_none() -> None:
    def clip(xp: Any, a: Any, out: Any) -> None:
        xp.clip(a, 0, 6, out=out)

    def compare(xp: Any, a: Any, b: Any, out: Any) -> None:
        xp.multiply(a, a > b, out=out)

    assert expression(clip) is expression(compare) is None


@pytest.mark.parametrize("formula", [biased(hyperbolic_tangent), softmax_gradient, add_penalty_gradient])
def test_other_formulas_have_none(formula: Any) -> None:
    assert expression(formula) is None


def test_formula_that_writes_elsewhere_has_none() -> None:
    def two_results(xp: Any, a: Any, b: Any, out: Any) -> None:
        xp.multiply(a, b, out=b)
        xp.multiply(a, b, out=out)

    def first(xp: Any, a: Any, b: Any) -> None:
        xp.multiply(a, b, out=a)

    assert expression(two_results) is expression(first) is None


def given(xp: Any, dtype: str, rows: int, columns: int) -> tuple[Any, Any, Any, np.ndarray]:
    """Return dvalues, output and the place of the sums on the device, and the product by hand, in float64."""
    generator = np.random.default_rng(rows)
    dvalues, output = (generator.standard_normal((rows, columns)).astype(dtype) for _ in range(2))
    output[::3] = 0
    total = xp.full((1, columns), np.nan, dtype="float64" if dtype == "float64" else "float32")
    expected = np.where(output > 0, dvalues, 0).astype("float64")
    return xp.asarray(dvalues), xp.asarray(output), total, expected


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_result_and_sums_are_those_of_two_calls(cupy: StandInCupy, dtype: str) -> None:
    dvalues, output, total, expected = given(cupy, dtype, 50, 16)
    calls = vectorized(cupy, relu_gradient, (dvalues, output, dvalues), total)
    assert calls is not None
    for function, arguments in calls:
        function(*arguments)
    np.testing.assert_array_equal(dvalues.get(), expected)
    np.testing.assert_allclose(total.get(), expected.sum(axis=0)[None], rtol=1e-5, atol=1e-5)


LINES = """
struct alignas(16) Vector { __half values[8]; };
extern "C" __global__ void relu_gradient(const __half* in_dvalues, const __half* in_output, \
__half* dinputs, float* partial, const int rows) {
const int lanes = 64 / 8, lane = threadIdx.x % lanes, group = 256 / lanes;
__shared__ float sums[256][8];
float total[8] = {};
const Vector read_dvalues = ((const Vector*)in_dvalues)[place]; \
const Vector read_output = ((const Vector*)in_output)[place];
for (int i = 0; i < 8; i++) {
const float dvalues = (float)read_dvalues.values[i]; const float output = (float)read_output.values[i];
const float value = stored(dvalues * (output > 0));
result.values[i] = (__half)value;
total[i] += value;
((Vector*)dinputs)[place] = result;
for (int other = threadIdx.x; other < 256; other += lanes) sum += sums[other][i];
partial[blockIdx.x * 64 + lane * 8 + i] = sum;
extern "C" __global__ void relu_gradient_total(const float* partial, float* total) {
if (column < 64)
for (int block = threadIdx.y; block < 528; block += 32) sum += partial[block * 64 + column];
if (threadIdx.y == 0 && column < 64) {
"""


def test_source_is_for_the_dtype_the_columns_and_the_formula(
    cupy: StandInCupy, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[str] = []
    real = cupy.RawKernel

    def compiled(source: str, name: str) -> Any:
        sources.append(source)
        return real(source, name)

    monkeypatch.setattr(cupy, "RawKernel", compiled)
    dvalues, output, total, _ = given(cupy, "float16", 5, 64)
    assert vectorized(cupy, relu_gradient, (dvalues, output, dvalues), total) is not None
    source, same = sources
    assert source == same
    lines = iter(line.strip() for line in source.splitlines())
    for wanted in LINES.strip().splitlines():
        assert wanted in lines, wanted  # in this order


@pytest.mark.parametrize(("dtype", "wide"), [("float16", "float32"), ("float32", "float32"), ("float64", "float64")])
@pytest.mark.parametrize(("columns", "blocks"), [(16, 1), (32, 1), (64, 2), (512, 16)])
def test_kernels_are_started_for_all_blocks_and_columns(
    cupy: StandInCupy, dtype: str, wide: str, columns: int, blocks: int
) -> None:
    dvalues, output, total, _ = given(cupy, dtype, 7, columns)
    calls = vectorized(cupy, relu_gradient, (dvalues, output, dvalues), total)
    assert calls is not None
    (_, (grid, block, arguments)), (_, (total_grid, total_block, totals)) = calls
    assert (grid, block, total_grid, total_block) == ((528,), (256,), (blocks,), (32, 32))
    assert type(total_grid[0]) is int
    partial = arguments[3]
    assert (partial.shape, partial.dtype) == ((528, columns), wide)
    assert totals[0] is partial
    assert totals[1] is total
    assert (arguments[4], arguments[4].dtype) == (7, "int32")


def test_last_of_many_columns_are_added_too(cupy: StandInCupy) -> None:
    dvalues, output, total, _ = given(cupy, "float16", 2, 2048)
    calls = vectorized(cupy, relu_gradient, (dvalues, output, dvalues), total)
    assert calls is not None
    assert calls[1][1][0] == (64,)


@pytest.mark.parametrize("columns", [1, 2, 7, 12, 2048])
def test_columns_that_threads_cannot_share_out(cupy: StandInCupy, columns: int) -> None:
    dvalues, output, total, _ = given(cupy, "float32", 5, columns)
    assert vectorized(cupy, relu_gradient, (dvalues, output, dvalues), total) is None


def test_arrays_that_do_not_fit(cupy: StandInCupy) -> None:
    dvalues, output, total, _ = given(cupy, "float32", 8, 16)
    whole = tuple(array.astype("int32") for array in (dvalues, output, dvalues))
    for arrays, sums in (
        ((dvalues, output[:4], dvalues), total),
        ((dvalues, output.astype("float64"), dvalues), total),
        ((dvalues.T, output.T, dvalues.T), total),
        ((dvalues, output, dvalues), total.astype("float64")),
        ((dvalues[0], output[0], dvalues[0]), total),
        (whole, total),
        (whole, cupy.zeros(total.shape, dtype="int32")),
    ):
        assert vectorized(cupy, relu_gradient, arrays, sums) is None


def test_other_formulas_are_left_alone(cupy: StandInCupy) -> None:
    dvalues, output, total, _ = given(cupy, "float32", 8, 16)
    assert vectorized(cupy, hyperbolic_tangent, (dvalues, output), total) is None
    assert vectorized(cupy, relu_gradient, (dvalues, 1.5, dvalues)) is None


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_are_added_to_each_row(cupy: StandInCupy, dtype: str) -> None:
    values, biases, expected = hidden(cupy, dtype, 50, 64)
    calls = vectorized(cupy, biased_relu, (values, biases, values))
    assert calls is not None
    [(kernel, (grid, block, arguments))] = calls
    kernel(grid, block, arguments)
    np.testing.assert_array_equal(values.get(), expected)
    assert (grid, block, arguments[3].dtype, arguments[3]) == ((528,), (256,), "int32", 50)


def test_source_with_rows(cupy: StandInCupy) -> None:
    source = kernel_source(biased_relu, ("e", "fr", "e"), 64, False)
    assert source is not None
    lines = iter(line.strip() for line in source.splitlines())
    for wanted in (
        'extern "C" __global__ void biased_relu(const __half* in_inputs, const float* __restrict__ in_biases, '
        "__half* output, const int rows) {",
        "const Vector read_inputs = ((const Vector*)in_inputs)[place];",
        "const float inputs = (float)read_inputs.values[i]; const float biases = (float)in_biases[lane * 8 + i];",
        "const float value = stored(at_least_0(stored(inputs + biases)));",
        "((Vector*)output)[place] = result;",
    ):
        assert wanted in lines, wanted
    assert "total" not in source


def test_rows_that_do_not_fit(cupy: StandInCupy) -> None:
    values, biases, _ = hidden(cupy, "float32", 5, 64)
    for row in (biases.astype("float64"), biases[0], biases[:, :32], biases.astype("int64")):
        assert vectorized(cupy, biased_relu, (values, row, values)) is None


def hidden(xp: Any, dtype: str, rows: int, columns: int) -> tuple[Any, Any, np.ndarray]:
    """Return values, NaN and infinity among them, biases as a network has them, and NumPy's ReLU of their sum."""
    generator = np.random.default_rng(rows)
    values = generator.standard_normal((rows, columns)).astype(dtype)
    biases = generator.standard_normal((1, columns)).astype("float64" if dtype == "float64" else "float32")
    values[0, :3] = np.nan, np.inf, -np.inf
    expected = np.maximum((values + biases).astype(dtype), 0)
    return xp.asarray(values), xp.asarray(biases), expected


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (7, 128), (999, 16), (60_000, 64), (60_000, 128), (100, 512)])
def test_a_gpu_adds_biases_and_keeps_nan(gpu: Backend, dtype: str, rows: int, columns: int) -> None:
    with gpu.computing():
        values, biases, expected = hidden(gpu.xp, dtype, rows, columns)
        calls = vectorized(gpu.xp, biased_relu, (values, biases, values))
        assert calls is not None
        for function, arguments in calls:
            function(*arguments)
        np.testing.assert_array_equal(gpu.to_host(values), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (7, 128), (999, 16), (60_000, 64), (60_000, 128), (100, 512)])
def test_a_gpu_computes_both(gpu: Backend, dtype: str, rows: int, columns: int) -> None:
    with gpu.computing():
        dvalues, output, total, expected = given(gpu.xp, dtype, rows, columns)
        calls = vectorized(gpu.xp, relu_gradient, (dvalues, output, dvalues), total)
        assert calls is not None
        for function, arguments in calls:
            function(*arguments)
        sums = gpu.to_host(total)
        np.testing.assert_array_equal(gpu.to_host(dvalues), expected)
        roundoff = 1e-12 if dtype == "float64" else 1e-5
        difference = np.abs(sums[0] - expected.sum(axis=0))
        assert (difference <= roundoff * np.abs(expected).sum(axis=0)).all()
        for function, arguments in calls:  # on its own result, of which nothing changes
            function(*arguments)
        np.testing.assert_array_equal(gpu.to_host(total), sums)
