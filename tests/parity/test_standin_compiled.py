"""The stand-in with compiled kernels: what NVRTC makes of a formula or a source, run by an interpreter of PTX."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath
from ptx import LaunchError, OutOfBounds, Race, Uninitialised

from fmnist_xp import Adam, Dense, ReLU, Sequential
from fmnist_xp.backend import CpuBackend, CudaBackend, CudaGraphBackend
from fmnist_xp.backend.base import elementwise

pytestmark = pytest.mark.usefixtures("nvrtc")

SOURCE = """
extern "C" __global__ void scale(const float* x, float* y, const float factor, const int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) y[i] = factor * x[i];
}
extern "C" __global__ void reversed(float* x) {
  extern __shared__ float kept[];
  kept[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = kept[blockDim.x - 1 - threadIdx.x];
}
"""


@pytest.fixture
def cupy() -> StandInCupy:
    return StandInCupy(kernels="ptx")


@elementwise
def shifted(xp: Any, values: Any, row: Any, shift: float, output: Any) -> None:
    """Write values + row · shift to `output`."""
    xp.add(values, row * shift, out=output)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F", "every second column"])
def test_formula_computes_on_arrays_as_they_lie(cupy: StandInCupy, dtype: str, order: str) -> None:
    values = np.arange(35.0).reshape(5, 7)
    given = cupy.asarray(values, dtype=dtype)
    if order == "F":
        given = cupy.asarray(np.ascontiguousarray(values.T), dtype=dtype).T
    elif order == "every second column":
        wide = cupy.zeros((5, 14), dtype=dtype)
        wide[:, ::2] = given
        given = wide[:, ::2]
    row, output = cupy.asarray(np.arange(7.0)[None], dtype=dtype), cupy.empty((5, 7), dtype=dtype)
    CudaBackend(cupy=cupy).compute(shifted, given, row, 0.5, output)
    np.testing.assert_array_equal(output.get(), values + np.arange(7) * 0.5)
    assert cupy.kernels[-1] == "shifted"


def test_formula_runs_in_its_place_in_a_graph(cupy: StandInCupy) -> None:
    backend = CudaBackend(cupy=cupy)
    values, row = cupy.asarray(np.ones((2, 3), "float32")), cupy.asarray(np.ones((1, 3), "float32"))
    backend.compute(shifted, values, row, 1.0, values)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        backend.compute(shifted, values, row, 1.0, values)
        graph = stream.end_capture()
    np.testing.assert_array_equal(values.get(), 2)
    graph.launch()
    graph.launch()
    np.testing.assert_array_equal(values.get(), 4)


def test_what_was_never_written_may_not_be_read(cupy: StandInCupy) -> None:
    row, output = cupy.zeros((1, 3), dtype="float32"), cupy.empty((2, 3), dtype="float32")
    unwritten = cupy.empty((2, 3), dtype="float32")
    backend = CudaBackend(cupy=cupy)
    with pytest.raises(Uninitialised, match="shifted"):
        backend.compute(shifted, unwritten, row, 1.0, output)
    unwritten[...] = 1  # by NumPy, in the place of a copy
    backend.compute(shifted, unwritten, row, 1.0, output)
    np.testing.assert_array_equal(output.get(), 1)


def test_formula_that_cannot_be_given_the_real_cupy_is_refused(cupy: StandInCupy) -> None:
    fused = cupy.fuse(lambda values: cupy.add(values, 1, out=values))
    with pytest.raises(TypeError, match=r"is not functools\.partial"):
        fused(cupy.zeros(3))

    def add_one(xp: Any, values: Any) -> None:
        xp.add(values, 1, out=values)

    values = cupy.zeros(3)
    cupy.fuse(kernel_name="add_one")(partial(add_one, cupy))(values)
    np.testing.assert_array_equal(values.get(), 1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_training_runs_on_what_the_compiler_made(cupy: StandInCupy, dtype: str) -> None:
    generator = np.random.default_rng(0)
    y = generator.integers(0, 4, 60)
    X = np.tanh(generator.standard_normal((4, 16))[y] + generator.standard_normal((60, 16)))
    histories = []
    for backend in (CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy)), CpuBackend(1)):
        layers = [Dense(16, 16, 0, 1e-3), ReLU(), Dense(16, 4)]
        own = dtype if dtype in backend.precisions else "float32"
        network = Sequential(layers, backend=backend, seed=1, dtype=own)
        histories.append(network.fit(X, y, epochs=6, optimizer=Adam(0.05), log_every=2, verbose=0))
    compiled, expected = histories
    made = {"adam", "relu_gradient", "relu_gradient_total", "penalty", "crossentropy"}
    assert made <= {*cupy.kernels}
    np.testing.assert_allclose(compiled.loss, expected.loss, rtol=5e-3 if dtype == "float16" else 1e-5)
    assert compiled.loss[-1] < compiled.loss[0]


def test_kernel_runs_on_the_devices_memory(cupy: StandInCupy) -> None:
    x, y = cupy.asarray(np.arange(100, dtype="float32")), cupy.empty(100, dtype="float32")
    scale = cupy.RawKernel(SOURCE, "scale")
    scale((4,), (32,), (x, y, np.float32(0.5), np.int32(100)))
    np.testing.assert_array_equal(y.get(), np.arange(100) / 2)
    with pytest.raises(LaunchError, match="takes 4 arguments, not 3"):
        scale((4,), (32,), (x, y, np.float32(0.5)))
    with pytest.raises(LaunchError, match="has 4 bytes, not 8"):
        scale((4,), (32,), (x, y, np.float64(0.5), np.int32(100)))
    with pytest.raises(LaunchError, match="1024 is the most"):
        scale((1,), (1025,), (x, y, np.float32(0.5), np.int32(100)))
    with pytest.raises(OutOfBounds, match="scale"):
        scale((4,), (32,), (x, y, np.float32(0.5), np.int32(101)))


def test_kernel_has_the_shared_memory_that_it_is_given(cupy: StandInCupy) -> None:
    x = cupy.asarray(np.arange(64, dtype="float32"))
    kernel = cupy.RawKernel(SOURCE, "reversed")
    kernel((1,), (64,), (x,), shared_mem=256)
    np.testing.assert_array_equal(x.get(), np.arange(64)[::-1])
    with pytest.raises(OutOfBounds, match="reversed"):
        kernel((1,), (64,), (x,), shared_mem=252)
    with pytest.raises(LaunchError, match="dynamic shared memory"):
        kernel((1,), (64,), (x,), shared_mem=50_000)
    kernel.max_dynamic_shared_size_bytes = 50_000
    kernel((1,), (64,), (x,), shared_mem=50_000)
    without = cupy.RawKernel(SOURCE.replace("__syncthreads();", ""), "reversed")
    with pytest.raises(Race, match="reversed"):
        without((1,), (64,), (x,), shared_mem=256)
