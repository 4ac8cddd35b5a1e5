"""Shared fixtures: synthetic data, a small data set and a run on it, numeric gradients, a reference in PyTorch."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

# The tests must not depend on the terminal or on proxies, but rich, typer, Python and requests read these variables,
# some of them only once, when they are imported.
for name in ("FORCE_COLOR", "PY_COLORS", "PYTHON_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE", "TERMINAL_WIDTH"):
    os.environ.pop(name, None)
os.environ.pop("MPLBACKEND", None)  # Jupyter exports a backend that only its own environment has
os.environ |= {"COLUMNS": "80", "LINES": "25", "no_proxy": "*"}
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or else each of hundreds of subprocesses compiles the package

# A shell that runs the tests in the background makes them and their subprocesses ignore Ctrl-C; nohup, SIGHUP.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

if "MUTANT_UNDER_TEST" in os.environ:  # scripts/mutation: a mutant exists only in mutmut's own process

    def skip_python(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and sys.executable in map(str, arguments[1]):
            pytest.skip("another process does not run the mutant")

    sys.addaudithook(skip_python)

# make(rows, features, classes, seed) -> X (rows, features) float64, y (rows,) uint8
MakeData = Callable[..., tuple[np.ndarray, np.ndarray]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="cuda or cuda:<index>: run the tests marked cuda on that GPU")
    kernels = "what the stand-in for CuPy runs: NumPy's functions, or, at a hundredth of the speed, compiled kernels"
    parser.addoption("--kernels", default="numpy", choices=("numpy", "ptx"), help=kernels)


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist's workers share what one of them has compiled."""
    if "PYTEST_XDIST_WORKER" not in os.environ and "PTX_CACHE" not in os.environ:
        os.environ["PTX_CACHE"] = folder = tempfile.mkdtemp(prefix="ptx-")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        config.add_cleanup(lambda: os.environ.pop("PTX_CACHE", None))


class BlasThreads:
    """How many threads BLAS has for itself in this process: as many as it began with, and one while held."""

    def __init__(self) -> None:
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._before = [library.num_threads for library in self._libraries]

    def hold(self) -> None:
        for library in self._libraries:
            library.set_num_threads(1)

    def release(self) -> None:
        for library, number in zip(self._libraries, self._before, strict=True):
            library.set_num_threads(number)


@pytest.fixture(scope="session", autouse=True)
def blas_of_worker() -> BlasThreads | None:
    """Hold BLAS to one thread where workers share the cores: its threads spin while those of others have them."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return None
    threads = BlasThreads()
    threads.hold()
    return threads


@pytest.fixture(scope="session")
def gpu(pytestconfig: pytest.Config) -> Any:
    """Return the backend of the GPU chosen with --device or -m cuda; skip if none was chosen, or none is usable."""
    from fmnist_xp.backend import get_backend
    from fmnist_xp.errors import DeviceError

    device = pytestconfig.getoption("--device")
    if device == "cpu" and pytestconfig.getoption("-m") == "cuda":
        device = "cuda"
    if not device.startswith("cuda"):
        pytest.skip("no CUDA device asked for: pytest --device cuda")
    try:
        return get_backend(device)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def real_cupy() -> Any:
    """The real CuPy, which needs no GPU to be imported."""
    return pytest.importorskip("cupy", reason="CuPy (cupy-cuda12x), which fuses the formulas, is not installed")


@pytest.fixture(scope="session")
def nvrtc(real_cupy: Any) -> None:
    """Skip where the compiler or CUDA's headers are missing."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError):
        pytest.skip("NVRTC (nvidia-cuda-nvrtc-cu12), which compiles the kernels, is not installed")
    try:
        real_cupy._core.core.assemble_cupy_compiler_options(())
    except RuntimeError:
        pytest.skip("CUDA's headers (nvidia-cuda-runtime-cu12), which the kernels include, are not installed")


@pytest.fixture(scope="session")
def synthetic_rows() -> MakeData:
    """Return a function for synthetic data that can be learned: rows in (-1, 1) around one centre per class."""

    def make(rows: int, features: int = 20, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, classes, rows, dtype="uint8")
        centres = generator.standard_normal((classes, features))
        return np.tanh(centres[labels] + generator.standard_normal((rows, features))), labels

    return make


@pytest.fixture(scope="session")
def numeric_gradient() -> Callable[[Callable[[], Any], np.ndarray], np.ndarray]:
    """Return a function that computes the gradient of `loss()` by each element of `array`, by central differences."""

    def compute(loss: Callable[[], Any], array: np.ndarray, step: float = 1e-5) -> np.ndarray:
        gradient = np.empty_like(array)
        for index in np.ndindex(array.shape):
            held = array[index]
            array[index] = held + step
            above = float(loss())
            array[index] = held - step
            below = float(loss())
            array[index] = held
            gradient[index] = (above - below) / (2 * step)
        return gradient

    return compute


@pytest.fixture(scope="session")
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch, the oracle of this test, is not installed")


@pytest.fixture(scope="session")
def downloads() -> None:
    """Skip if packages that only downloads need are missing: training works without them."""
    for name in ("pooch", "requests"):
        pytest.importorskip(name, reason=f"{name}, which only downloads need, is not installed")


class TorchReference:
    """A Dense/ReLU network with copies of a network's parameters, computed and differentiated by PyTorch."""

    def __init__(self, torch: Any, network: Any) -> None:
        self.torch = torch
        self.penalties = [sum(layer.penalty_strengths().values(), ()) for layer in network.dense]
        self.parameters = [
            torch.tensor(values.astype("float64"), requires_grad=True)
            for layer in network.dense
            for values in (layer.weights, layer.biases)
        ]

    def loss(self, X: np.ndarray, y: np.ndarray) -> Any:
        torch = self.torch
        values = torch.tensor(X)
        penalty = torch.tensor(0.0, dtype=torch.float64)
        last = len(self.penalties) - 1
        for number, (l1_w, l2_w, l1_b, l2_b) in enumerate(self.penalties):
            weights, biases = self.parameters[2 * number : 2 * number + 2]
            values = values @ weights + biases
            values = values if number == last else torch.relu(values)
            penalty = penalty + l1_w * weights.abs().sum() + l2_w * (weights**2).sum()
            penalty = penalty + l1_b * biases.abs().sum() + l2_b * (biases**2).sum()
        return torch.nn.functional.cross_entropy(values, torch.tensor(y.astype("int64"))) + penalty

    def gradients(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the gradient of all parameters as one vector, and leave it in their `grad`."""
        for parameter in self.parameters:
            parameter.grad = None
        self.loss(X, y).backward()
        return np.concatenate([parameter.grad.numpy().ravel() for parameter in self.parameters])

    def vector(self) -> np.ndarray:
        """Return all parameters as one vector."""
        return np.concatenate([parameter.detach().numpy().ravel() for parameter in self.parameters])


@pytest.fixture(scope="session")
def torch_reference(torch: Any) -> Callable[[Any], TorchReference]:
    return lambda network: TorchReference(torch, network)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright, which drives Chromium, is missing")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("Chromium, in which pages are opened, is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture
def sigint() -> Iterator[None]:
    """Give SIGINT Python's own handler, and restore afterwards what the command took of the signals.

    A process that is forked, as joblib does, can miss a SIGTERM that Python handles, and its parent waits for ever.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def small_data() -> tuple[Any, Any]:
    """(train, test): 400 and 200 synthetic garments."""
    from fmnist_xp.data import make_synthetic

    return make_synthetic(400, 200)


@pytest.fixture(scope="session")
def idx_folder(tmp_path_factory: pytest.TempPathFactory, small_data: tuple[Any, Any]) -> Path:
    """The four IDX files of `small_data`."""
    from fmnist_xp.data import export

    folder = tmp_path_factory.mktemp("data") / "idx"
    export(*small_data, folder, "idx")
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, idx_folder: Path) -> Path:
    """The folder of a finished run of `adam` on `idx_folder`; do not write to it."""
    from fmnist_xp.backend import CpuBackend
    from fmnist_xp.data import formats
    from fmnist_xp.experiments import EXPERIMENTS
    from fmnist_xp.runs import Settings, train_run

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMNIST_XP_CACHE", str(tmp_path_factory.mktemp("cache")))
        train, test = formats.read(idx_folder)
    folder = tmp_path_factory.mktemp("runs") / "finished"
    settings = Settings(replace(EXPERIMENTS["adam"], epochs=40), seed=1)
    train_run(settings, train, test, CpuBackend(2), folder, source=str(idx_folder), verbose=False)
    return folder


@pytest.fixture
def run_folder(tmp_path: Path, finished_run: Path) -> Path:
    """A copy of `finished_run`, to write to."""
    return Path(shutil.copytree(finished_run, tmp_path / "a-run"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with a separate data cache, and small pictures."""
    place = tmp_path / "workplace"
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("FMNIST_XP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FMNIST_XP_DATA", raising=False)
    monkeypatch.delenv("FMNIST_XP_URL", raising=False)
    monkeypatch.setattr("fmnist_xp.report.plots.DPI", 50)
    return place


@pytest.fixture
def small_synthetic(monkeypatch: pytest.MonkeyPatch, small_data: tuple[Any, Any]) -> tuple[Any, Any]:
    """Replace the source "synthetic" by `small_data`."""
    monkeypatch.setattr("fmnist_xp.data.fashion_mnist.make_synthetic", lambda: small_data)
    return small_data
