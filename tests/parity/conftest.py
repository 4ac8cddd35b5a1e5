"""The devices that are compared with the CPU: the stand-in for CuPy everywhere, a GPU where one was asked for."""

import os

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath

from fmnist_xp.backend import Backend, CudaBackend, CudaGraphBackend

REAL = os.environ.get("FMNIST_XP_DATA")  # read before a test takes it away

ON_GPU = pytest.param("cuda", marks=pytest.mark.cuda)


@pytest.fixture
def standin(request: pytest.FixtureRequest) -> CudaBackend:
    """A CUDA backend without a GPU, of a device that is not current where nobody sees to it."""
    return CudaBackend(1, cupy=StandInCupy(devices=2, kernels=request.config.getoption("kernels")))


@pytest.fixture(params=["stand-in", ON_GPU])
def device(request: pytest.FixtureRequest) -> Backend:
    """The stand-in and the GPU, in turn."""
    backend: Backend = request.getfixturevalue("gpu" if request.param == "cuda" else "standin")
    return backend


@pytest.fixture
def compiling(nvrtc: None) -> CudaGraphBackend:
    """A CUDA backend like `standin`, whose kernels are those that the compiler makes."""
    cupy = StandInCupy(devices=2, kernels="ptx")
    return CudaGraphBackend(1, cupy=cupy, nvmath=make_nvmath(cupy))


@pytest.fixture
def compiling_if_possible(request: pytest.FixtureRequest) -> Backend:
    """That, or `standin` where there is no compiler."""
    try:
        backend: Backend = request.getfixturevalue("compiling")
    except pytest.skip.Exception:
        backend = request.getfixturevalue("standin")
    return backend


@pytest.fixture(params=["compiling_if_possible", ON_GPU])
def device_as_compiled(request: pytest.FixtureRequest) -> Backend:
    """That and the GPU, in turn."""
    backend: Backend = request.getfixturevalue("gpu" if request.param == "cuda" else request.param)
    return backend


@pytest.fixture(params=["compiling", ON_GPU])
def compiled_device(request: pytest.FixtureRequest) -> Backend:
    """`compiling` and the GPU, in turn."""
    backend: Backend = request.getfixturevalue("gpu" if request.param == "cuda" else "compiling")
    return backend


@pytest.fixture(scope="session")
def small_rows() -> tuple[np.ndarray, np.ndarray]:
    """(X, y) of 160 made images around one centre a class, float32 in [-1, 1]."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, 10, 160, dtype="uint8")
    X = np.tanh(generator.standard_normal((10, 784))[y] + generator.standard_normal((160, 784)))
    return X.astype("float32"), y


@pytest.fixture(scope="session")
def rows_with_margins(small_rows: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The same, each image with a margin of -1, as wide as chance has it."""
    generator, X = np.random.default_rng(1), small_rows[0].copy()
    for image in X.reshape(-1, 28, 28):
        top, bottom, left, right = generator.integers(0, 9, 4)
        image[:top] = image[28 - bottom :] = -1
        image[:, :left] = image[:, 28 - right :] = -1
    return X, small_rows[1]


@pytest.fixture(params=["small_rows", "rows_with_margins"])
def any_rows(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    """Rows that the engine leaves as they are, and rows that it sorts, in turn."""
    rows: tuple[np.ndarray, np.ndarray] = request.getfixturevalue(request.param)
    return rows


@pytest.fixture(scope="session")
def real_folder() -> str:
    """The folder of the published images."""
    if REAL is None:
        pytest.skip("real Fashion-MNIST not found: set FMNIST_XP_DATA to the folder of the four IDX .gz files")
    return REAL
