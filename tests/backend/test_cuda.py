"""CuPy on a GPU, on the stand-in for it: faults, precisions, memory, waiting."""

import builtins
import importlib
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.standin import CUBLASError, CUDADriverError, CUDARuntimeError, OutOfMemoryError, StandInCupy
from parity.standin.cuda import COMPUTE_32F, COMPUTE_64F, COMPUTE_TF32

from fmnist_xp.backend import CpuBackend, CudaBackend, cuda_version, get_backend, import_cupy
from fmnist_xp.errors import DeviceError
from fmnist_xp.model import Sequential, load
from fmnist_xp.nn import Dense, Layer, ReLU, Softmax
from fmnist_xp.optim import SGD
from fmnist_xp.train.halves import halves

GIB = 2**30


@pytest.fixture
def cuda() -> CudaBackend:
    """A device that is not current where nobody sees to it."""
    return CudaBackend(1, cupy=StandInCupy(devices=2))


# What can be wrong with CUDA


def import_failing_with(error: Exception) -> Callable[..., Any]:
    real_import = builtins.__import__

    def failing_import(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "cupy":
            raise error
        return real_import(name, *args, **kwargs)

    return failing_import


def framed(original: ImportError, more: str = "") -> ImportError:
    """Return an import's error as CuPy 14.2 raises it, with its original as the cause."""
    advice = "Failed to import CuPy.\n\nIf you installed CuPy via wheels, make sure that the package matches."
    error = ImportError(f"\n======\n{advice}\n{more}\nOriginal error:\n  ImportError: {original}\n======\n")
    error.__cause__ = original
    return error


LIBRARY = "libcudart"
INSTALL = r'pip install "fmnist-xp\[cuda\]" for CUDA 12, "fmnist-xp\[cuda13\]" for CUDA 13'


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("No module named 'cupy'", name="cupy"), "CuPy is not installed:"),
        (
            ModuleNotFoundError("No module named 'cuda'", name="cuda"),
            r"CuPy does not load \(No module named 'cuda'\):",
        ),
        (framed(ImportError(f"{LIBRARY}: cannot open\nmore")), rf"CuPy does not load \({LIBRARY}: cannot open\):"),
        (
            framed(
                ImportError("DLL load failed"), f"DLL dependencies:\n  a.dll -> C:\\a.dll\n  {LIBRARY} -> not found\n"
            ),
            rf"CuPy does not load \({LIBRARY} -> not found\):",
        ),
        (ImportError("\n=====\nlibcuda: not found\n====="), r"CuPy does not load \(libcuda: not found\):"),
        (ImportError(), r"CuPy does not load \(no reason given\):"),
        (ImportError("X"), r"CuPy does not load \(X\):"),
        (KeyError("CUDA_PATH"), r"CuPy does not load \(KeyError: 'CUDA_PATH'\):"),
        (RuntimeError("CuPy is\nbroken"), r"CuPy does not load \(RuntimeError: CuPy is\):"),
        (OSError("no such file"), r"CuPy does not load \(OSError: no such file\):"),
        (AttributeError(), r"CuPy does not load \(AttributeError: no reason given\):"),
        (UserWarning("old NumPy"), r"CuPy does not load \(UserWarning: old NumPy\):"),  # where warnings are errors
    ],
)
def test_cupy_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    monkeypatch.setattr(builtins, "__import__", import_failing_with(error))
    message = f"^a CUDA device was asked for, but {message} {INSTALL}, or use --device cpu$"
    for attempt in (import_cupy, CudaBackend, lambda: get_backend("cuda")):
        with pytest.raises(DeviceError, match=message) as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert get_backend("auto").name == "cpu"


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder, the first on the path, to find modules and packages in; CuPy is not imported yet."""
    for name in ["cupy", *(name for name in sys.modules if name.startswith("cupy."))]:
        monkeypatch.setitem(sys.modules, name, None)  # notes what to put back, also where there is nothing
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_what_is_no_cupy_is_told_with_its_place(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(elsewhere)])
    (elsewhere / "cupy" / "cuda").mkdir(parents=True)
    place = re.escape(str(elsewhere / "cupy"))
    message = f"^a CUDA device was asked for, but {place} is no CuPy: remove it, then {INSTALL}, or use --device cpu$"
    with pytest.raises(DeviceError, match=message):
        get_backend("cuda")
    assert get_backend("auto").name == "cpu"
    (elsewhere / "cupy").rename(elsewhere / "old")
    (elsewhere / "cupy.py").write_text("print = 1\n")
    del sys.modules["cupy"]
    importlib.invalidate_caches()
    with pytest.raises(DeviceError, match=rf"but {place}\.py is no CuPy: remove it"):
        get_backend("cuda")
    assert get_backend("auto").name == "cpu"


def test_two_cupy_packages_are_told_and_cupy_is_not_asked(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(elsewhere)])
    for name in ("cupy_cuda12x", "cupy_cuda13x"):
        metadata = elsewhere / f"{name}-14.2.0.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 14.2.0\n")
    (elsewhere / "cupy.py").write_text("raise AssertionError\n")
    message = (
        "^a CUDA device was asked for, but cupy-cuda12x and cupy-cuda13x are installed, each a whole CuPy in the "
        f"same folder: pip uninstall cupy-cuda12x cupy-cuda13x, then {INSTALL}, or use --device cpu$"
    )
    with pytest.raises(DeviceError, match=message):
        get_backend("cuda")
    assert get_backend("auto").name == "cpu"


def test_what_cupy_warns_of_while_it_loads_is_not_shown(elsewhere: Path) -> None:
    (elsewhere / "cupy.py").write_text(
        "import warnings\nwarnings.warn('CUDA path could not be detected')\nndarray = object\n"
    )
    with warnings.catch_warnings(record=True, action="always") as shown:
        assert import_cupy().__file__ == str(elsewhere / "cupy.py")
    assert shown == []


def test_what_cupy_warns_of_while_it_is_opened_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = StandInCupy()
    dot = cupy.dot

    def warning(*operands: Any) -> Any:
        warnings.warn("cuBLAS is old", stacklevel=1)
        return dot(*operands)

    monkeypatch.setattr(cupy, "dot", warning)
    with warnings.catch_warnings(record=True, action="always") as shown:
        CudaBackend(cupy=cupy)
    assert shown == []


ANSWERS_NOT = (
    r"^a CUDA device was asked for, and CuPy 14\.2\.0 is installed, but no NVIDIA driver answers: "
    "install the driver of your GPU, or use --device cpu$"
)
FAULTS: dict[str, tuple[int, dict[str, Any], str]] = {
    "no driver": (0, {"driver": 0}, ANSWERS_NOT),
    "driver that fails": (
        0,
        {"driver": CUDARuntimeError("boom")},
        ANSWERS_NOT,
    ),
    "no device": (
        0,
        {"devices": 0},
        r"driver \(CUDA 12\.4\) finds no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES",
    ),
    "devices that fail": (
        0,
        {"devices": CUDARuntimeError("cudaErrorNoDevice: none")},
        r"driver \(CUDA 12\.4\) offers none to CuPy 14\.2\.0 \(cudaErrorNoDevice: none\): check nvidia-smi, "
        "CUDA_VISIBLE_DEVICES and that CuPy's CUDA version is not newer than the driver's, or use --device cpu$",
    ),
    "index, one device": (1, {}, "device cuda:1 was asked for, but there is only 1 CUDA device: use cuda:0$"),
    "index, two devices": (2, {"devices": 2}, "but there are only 2 CUDA devices: use cuda:0 to cuda:1$"),
    "cannot compute": (
        0,
        {"failure": RuntimeError("  no NVRTC\nmore")},
        rf"CuPy 14\.2\.0 found cuda:0 but cannot compute on it \(no NVRTC\): {INSTALL}, or use --device cpu$",
    ),
    "cannot compute once it runs": (
        0,
        {"late_failure": CUDARuntimeError("cudaErrorNoKernelImageForDevice: none")},
        r"cannot compute on it \(cudaErrorNoKernelImageForDevice: none\)",
    ),
    "memory full before the start": (
        0,
        {"failure": OutOfMemoryError("allocating 8 bytes"), "memory": (0, 10 * GIB)},
        r"^cuda:0 \(Stand-in GPU\) is out of memory, 0\.0 of 10\.0 GiB free: ",
    ),
    "cannot compute, no reason": (0, {"failure": KeyError()}, r"cannot compute on it \(KeyError\)"),
}


@pytest.mark.parametrize(("index", "stand_in", "message"), FAULTS.values(), ids=FAULTS)
def test_fault_of_cuda_is_told_in_one_line_with_what_to_do(
    index: int, stand_in: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeviceError, match=message) as caught:
        CudaBackend(index, cupy=StandInCupy(**stand_in))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("number", "version"), [(12040, "12.4"), (13000, "13.0"), (11080, "11.8")])
def test_cuda_version_in_words(number: int, version: str) -> None:
    assert cuda_version(number) == version


def test_full_memory_of_the_gpu_is_told_with_figures() -> None:
    backend = CudaBackend(cupy=StandInCupy(memory=(GIB // 2, 10 * GIB)))
    message = (
        r"^cuda:0 \(Stand-in GPU\) is out of memory, 0\.5 of 10\.0 GiB free: "
        r"use fewer rows, narrower layers or float32 \(allocating 8 bytes\)$"
    )
    with pytest.raises(DeviceError, match=message), backend.computing():
        raise OutOfMemoryError("allocating 8 bytes\nat length")


class cuBLASError(Exception):  # nvmath-python's
    status = 3


FULL: list[Exception] = [
    OutOfMemoryError("allocating 8 bytes"),
    CUBLASError("CUBLAS_STATUS_ALLOC_FAILED", 3),
    cuBLASError("ALLOC_FAILED (3)"),
    CUDARuntimeError("cudaErrorMemoryAllocation: out of memory", 2),
    CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory", 2),
]
OTHER: list[Exception] = [
    CUBLASError("CUBLAS_STATUS_EXECUTION_FAILED", 13),
    CUDARuntimeError("cudaErrorInitializationError", 3),
    CUDADriverError("CUDA_ERROR_NOT_INITIALIZED", 3),
    MemoryError("the host's"),
    ValueError("no memory"),
    type("cuBLASError", (Exception,), {})("without a status"),
]


@pytest.mark.parametrize("error", FULL, ids=repr)
def test_full_memory_is_one_message_whoever_tells_it(cuda: CudaBackend, error: Exception) -> None:
    message = rf"^cuda:1 \(Stand-in GPU\) is out of memory, 8\.0 of 10\.0 GiB free: .* \({re.escape(str(error))}\)$"
    for held in (cuda.computing, cuda.current):
        with pytest.raises(DeviceError, match=message) as caught, held():
            raise error
        assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_other_errors_of_the_device_stay_what_they_are(cuda: CudaBackend, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, cuda.computing():
        raise error
    assert caught.value is error


def test_full_memory_is_told_also_where_the_device_does_not_say_how_full() -> None:
    backend = CudaBackend(cupy=StandInCupy(memory=CUDARuntimeError("cudaErrorIllegalAddress")))
    message = r"^cuda:0 \(Stand-in GPU\) is out of memory: use fewer rows, narrower layers or float32 \(allocating\)$"
    with pytest.raises(DeviceError, match=message), backend.computing():
        raise OutOfMemoryError("allocating")


def test_memory_that_runs_out_in_making_arrays_is_told(cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*_args: Any, **_kwargs: Any) -> Any:
        raise OutOfMemoryError("allocating 8 bytes")

    dense = Dense(6, 4, seed=1)
    for name in ("empty", "zeros", "asarray", "asnumpy"):
        monkeypatch.setattr(cuda.xp, name, empty)
    attempts: list[Callable[[], Any]] = [
        lambda: Dense(6, 4, backend=cuda),
        lambda: Sequential([dense], backend=cuda),
        lambda: cuda.asarray([1.0]),
        lambda: cuda.to_host(None),
    ]
    for attempt in attempts:
        with pytest.raises(DeviceError, match=r"^cuda:1 \(Stand-in GPU\) is out of memory"):
            attempt()


def test_memory_that_runs_out_in_training_is_told(cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Sequential([Dense(6, 4)], backend=cuda, seed=1)
    monkeypatch.setattr(cuda.xp, "failure", OutOfMemoryError("allocating 8 bytes"))
    with pytest.raises(DeviceError, match=r"out of memory, 8\.0 of 10\.0 GiB free"):
        model.fit(np.ones((5, 6)), np.zeros(5, dtype=int), epochs=1, verbose=False)


# Products and precisions


def test_halves_are_summed_in_float32(cuda: CudaBackend) -> None:
    # In half precision 2048 + 1 is 2048.
    ones = cuda.asarray(np.ones((1, 3000)), dtype="float16")
    with cuda.current():
        out = cuda.xp.empty((1, 1), dtype="float32")
        cuda.dot(ones, ones.T, out)
    np.testing.assert_array_equal(cuda.to_host(out), [[3000]])


@pytest.mark.parametrize(
    ("dtype", "tf32", "compute"),
    [
        ("float32", False, COMPUTE_32F),
        ("float32", True, COMPUTE_TF32),
        ("float64", False, COMPUTE_64F),
        ("float64", True, COMPUTE_64F),
    ],
)
def test_tf32_is_used_only_where_asked_for(cuda: CudaBackend, dtype: str, tf32: bool, compute: int) -> None:
    ones = cuda.asarray(np.ones((2, 2)), dtype=dtype)
    with cuda.current():
        cuda.dot(ones, ones, cuda.xp.empty_like(ones), tf32=tf32)
    assert cuda.xp.products == [compute]


@pytest.mark.parametrize("dtype", ["float32", "tf32"])
def test_model_multiplies_in_its_precision(cuda: CudaBackend, dtype: str) -> None:
    model = Sequential([Dense(6, 5), ReLU(), Dense(5, 4)], backend=cuda, seed=1, dtype=dtype)
    model.predict_proba(np.ones((3, 6)))
    assert model.parameters.dtype == np.float32
    assert (COMPUTE_TF32 in cuda.xp.products) == (dtype == "tf32")


@pytest.mark.parametrize(
    ("major", "lacking"),
    [(6, ["tf32", "float16", "bfloat16"]), (7, ["tf32", "bfloat16"]), (8, [])],
    ids=["Pascal", "Volta", "Ampere"],
)
def test_precisions_are_those_of_the_gpu(major: int, lacking: list[str]) -> None:
    backend = CudaBackend(cupy=StandInCupy(major=major))
    fused = () if lacking else ("bfloat16",)  # in which the plain engine does not train
    assert {"float32", "float64", "tf32", "float16"} - set(backend.precisions) == {*lacking} - {"bfloat16"}
    assert "bfloat16" not in backend.precisions
    assert not backend.has_precision("float8")
    for name in (*backend.precisions, *fused):
        assert backend.precision(name).parameters == ("float64" if name == "float64" else "float32")
        assert backend.has_precision(name)
        assert backend.precision(name).fused is (name == "bfloat16")
    for name in lacking:
        assert not backend.has_precision(name)
        with pytest.raises(
            DeviceError, match=rf"^cuda:0 \(Stand-in GPU\) does not compute in {name}: use float32 or"
        ):
            backend.precision(name)


def make_half(cuda: CudaBackend, dtype: str = "float16") -> Sequential:
    layers: list[Layer] = [Dense(20, 16, 0.0, 1e-4), ReLU(), Dense(16, 8), ReLU(), Dense(8, 4)]
    model = Sequential(layers, backend=cuda, dtype=dtype)
    with cuda.current():
        model.parameters[...] = cuda.asarray(0.3 * np.random.default_rng(0).standard_normal(model.parameters.shape))
    return model


def make_rows(pixels: bool) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    values = generator.integers(0, 256, (200, 20)) if pixels else generator.uniform(0, 255, (200, 20))
    rows = ((values - 127.5) / 127.5).astype("float32")
    return rows, rows[:, :4].argmax(axis=1)


@pytest.mark.parametrize("pixels", [True, False], ids=["pixels", "other rows"])
def test_training_in_half_precision_follows_float32(cuda: CudaBackend, pixels: bool) -> None:
    X, y = make_rows(pixels)
    half, single = make_half(cuda), make_half(cuda, "float32")
    losses = [m.fit(X, y, epochs=21, optimizer=SGD(0.3), verbose=False).loss for m in (half, single)]
    np.testing.assert_allclose(*losses, rtol=5e-3)
    assert losses[0][-1] < 0.9 * losses[0][0]
    assert losses[0] != losses[1]
    np.testing.assert_allclose(half.predict_proba(X), single.predict_proba(X), atol=0.01)


def test_pixels_are_exact_in_half_precision(cuda: CudaBackend) -> None:
    # One Dense whose weights are exact in half precision: with exact inputs only float32's own rounding is left.
    X, _ = make_rows(pixels=True)
    models = [Sequential([Dense(20, 4)], backend=cuda, dtype=dtype) for dtype in ("float16", "float32")]
    for model in models:
        weights = np.random.default_rng(0).integers(-8, 9, model.parameters.shape) / 16
        with cuda.current():
            model.parameters[...] = cuda.asarray(weights)
    half, single = (model.predict_proba(X) for model in models)
    np.testing.assert_allclose(half, single, rtol=1e-5)


PIXELS = np.arange(256, dtype="float32").reshape(32, 8)
SCALINGS = {
    "preprocess": (PIXELS - 127.5) / np.float32(127.5),
    "minus one": PIXELS / np.float32(127.5) - 1,
    "0 to 1": PIXELS / np.float32(255),
    "times a number": PIXELS * np.float32(1 / 255),
    "up to 2048": np.arange(1793, 2049, dtype="float32").reshape(32, 8) / np.float32(255),
}


@pytest.mark.parametrize("rows", SCALINGS.values(), ids=SCALINGS)
def test_pixels_are_known_however_they_were_scaled(cuda: CudaBackend, rows: np.ndarray) -> None:
    with cuda.computing():
        found, scale = halves(cuda.xp, cuda.asarray(rows))
    found = cuda.to_host(found)
    assert (found.dtype, scale) == (np.float16, 1 / 255)
    np.testing.assert_array_equal(found, np.rint(255 * rows.astype("float64")))


def moved(value: float) -> np.ndarray:
    rows = SCALINGS["0 to 1"].copy()
    rows[3, 4] += np.float32(value)
    return rows


NO_PIXELS = {
    "one value beside its pixel": moved(6e-7),  # by a little more than float32 rounds
    "tiny values": np.full((32, 8), 4e-6, "float32") * np.linspace(0.1, 1, 8, dtype="float32"),
    "one tiny value": np.where(np.arange(8) == 3, 1e-12, SCALINGS["0 to 1"]).astype("float32"),
    "beyond what halves count": np.arange(1794, 2050, dtype="float32").reshape(32, 8) / np.float32(255),
    "large": 300 * SCALINGS["preprocess"] + np.float32(0.001),
}


@pytest.mark.parametrize("rows", NO_PIXELS.values(), ids=NO_PIXELS)
def test_other_rows_are_rounded_to_halves_near_one(cuda: CudaBackend, rows: np.ndarray) -> None:
    with cuda.computing():
        found, scale = halves(cuda.xp, cuda.asarray(rows))
    assert found.dtype == np.float16
    seen = cuda.to_host(found).astype("float64") * scale
    largest = np.abs(rows).max()
    # To 11 bits of themselves, but no finer than halves of the largest are: subnormal ones have a step of 2⁻²⁴.
    np.testing.assert_allclose(seen, rows, rtol=2**-11, atol=min(1.0, 2 * float(largest)) * 2**-25)
    assert scale == (1 if largest >= 1 else 2 ** np.floor(np.log2(largest)))


@pytest.mark.parametrize(
    ("pixel", "steps", "known"),
    # 4 units of 2⁻²³ beside a pixel are 7.97 steps of the numbers from 128 to 256, of 2⁻¹⁶, and 4 of those above.
    [(200, 7, True), (200, 8, False), (256, 4, True), (256, 5, False)],
)
def test_pixels_are_known_within_four_roundings(cuda: CudaBackend, pixel: int, steps: int, known: bool) -> None:
    wanted = np.float32(pixel) + steps * np.spacing(np.float32(pixel))
    near = np.float32(wanted / 255) * (1 + np.arange(-4, 5, dtype="float32") * np.finfo("float32").eps)
    beside = next(value for value in near.astype("float32") if value * np.float32(255) == wanted)
    rows = SCALINGS["0 to 1"].copy()
    rows[3, 4] = beside
    with cuda.computing():
        _, scale = halves(cuda.xp, cuda.asarray(rows))
    assert (scale == 1 / 255) is known


def test_values_up_to_the_largest_half_are_taken(cuda: CudaBackend) -> None:
    rows = np.full((2, 8), 0.3, dtype="float32")
    rows[1, 2] = -65504.0
    with cuda.computing():
        found, scale = halves(cuda.xp, cuda.asarray(rows))
        assert (found[1, 2], scale) == (-65504.0, 1.0)
        rows[1, 2] = 65504.5
        with pytest.raises(ValueError, match=r"^X has values up to 65504\.5, and float16 ends at 65504: scale X"):
            halves(cuda.xp, cuda.asarray(rows))


def test_tiny_inputs_train_in_half_precision_as_in_single(cuda: CudaBackend) -> None:
    X, y = make_rows(pixels=False)
    tiny = (4e-6 * X).astype("float32")
    gains = []
    for dtype in ("float16", "float32"):
        model = Sequential([Dense(20, 4)], backend=cuda, dtype=dtype)
        with cuda.current():
            model.parameters[...] = cuda.asarray(
                1e4 * np.random.default_rng(0).standard_normal(model.parameters.shape)
            )
            model.dense[0].biases[...] = 0
        gains.append(model.evaluate(tiny, y).loss - np.log(4))
    assert gains[0] == pytest.approx(gains[1], rel=0.01)
    assert abs(gains[1]) > 1e-3


class Shifted(Dense):
    """Takes its inputs as they are: in half precision nothing may stand for them."""

    def forward(self, inputs: Any) -> Any:
        return super().forward(inputs + inputs.dtype.type(1))


def test_first_layer_that_inherits_from_dense_sees_the_rows(cuda: CudaBackend) -> None:
    X, _ = make_rows(pixels=True)
    models = [Sequential([Shifted(20, 4, seed=1)], backend=cuda, dtype=dtype) for dtype in ("float16", "float32")]
    half, single = (model.predict_proba(X) for model in models)
    np.testing.assert_allclose(half, single, atol=1e-3)


def test_layers_by_hand_see_the_rows_as_they_are_after_a_prediction(cuda: CudaBackend) -> None:
    X, _ = make_rows(pixels=True)
    model = make_half(cuda)
    predicted = model.predict_proba(X)
    np.testing.assert_allclose(cuda.to_host(model.forward(cuda.asarray(X))), predicted, atol=0.01)


@pytest.mark.parametrize("dtype", ["tf32", "float16"])
def test_model_trained_in_a_gpus_precision_is_loaded_on_the_cpu(
    cuda: CudaBackend, dtype: str, tmp_path: Path
) -> None:
    model = make_half(cuda, dtype)
    model.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors", backend=CpuBackend(1))
    np.testing.assert_array_equal(loaded.parameters, cuda.to_host(model.parameters))


def test_softmax_alone_computes_on_the_stand_in(cuda: CudaBackend) -> None:
    softmax = Softmax(cuda)
    output = softmax.forward(cuda.asarray(np.log([[1.0, 3.0]])))
    assert isinstance(output, cuda.xp.ndarray)
    np.testing.assert_allclose(cuda.to_host(output), [[0.25, 0.75]])


# The device


@pytest.mark.parametrize("name", [b"Stand-in GPU", "Stand-in GPU"])
def test_cuda_names_its_hardware(name: str | bytes) -> None:
    backend = CudaBackend(1, cupy=StandInCupy(devices=2, name=name))
    assert repr(backend) == "<CudaBackend cuda:1: Stand-in GPU>"
    assert backend.threads == 1


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"),
    [
        (1000, 1024, 1000),  # 0.7 · (8 + 2) GiB hold them all
        (1000, 7 * 2**20, 1000),  # 7000 MiB just do
        (1000, 15 * 2**19, 500),  # 7500 MiB of 7168: two blocks
        (1000, 10 * 2**20, 500),
        (1001, 10 * 2**20, 501),
        (10, 100 * GIB, 1),
        (0, 1024, 1),
    ],
)
def test_cuda_takes_all_rows_or_as_few_equal_blocks_as_fit(
    cuda: CudaBackend, rows: int, row_bytes: int, expected: int
) -> None:
    assert cuda.block_rows(rows, row_bytes) == expected


@pytest.mark.parametrize(
    ("rows", "row_bytes", "expected"),
    [
        (60_000, 1104, 7500),  # at least 8 blocks
        (262_144, 1104, 32_768),  # of 32,768 rows at most
        (262_145, 1104, 16_385),  # 16 blocks, a power of two
        (1_000_000, 1104, 31_250),
        (1000, 10 * 2**20, 125),  # two blocks would fit
        (10_000, 7 * 2**20, 625),  # ten would fit: 16
        (10, 100 * GIB, 1),
        (5, 1024, 1),
        (0, 1024, 1),
    ],
)
def test_rows_that_devices_share_are_a_power_of_two_of_blocks(
    cuda: CudaBackend, rows: int, row_bytes: int, expected: int
) -> None:
    assert cuda.block_rows(rows, row_bytes, shared=True) == expected


@pytest.mark.parametrize("held", ["computing", "current"])
def test_device_is_current_while_computing(cuda: CudaBackend, held: str) -> None:
    current = cuda.xp.cuda.Device
    assert current().id == 0
    with getattr(cuda, held)():
        assert current().id == 1
    assert current().id == 0


def test_arrays_are_sent_to_the_device_and_fetched_from_it(cuda: CudaBackend) -> None:
    array = cuda.asarray([[1.0, 2.0]])
    assert array.data.device_id == 1
    np.testing.assert_array_equal(cuda.to_host(array), [[1, 2]])


def test_what_is_sent_goes_in_the_current_stream(cuda: CudaBackend) -> None:
    sent = []
    out = SimpleNamespace(set=lambda values, stream: sent.append((values, stream)))
    values = np.ones(3)
    with cuda.computing(), cuda.xp.cuda.Stream() as stream:
        cuda.send(values, out)
    assert sent == [(values, stream)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_what_is_fetched_is_the_array(cuda: CudaBackend, dtype: str, shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)
    array = cuda.asarray(values.reshape(-1)).reshape(shape)
    with cuda.computing():
        fetched = cuda.fetch(array)()
    assert (fetched.dtype, fetched.shape) == (dtype, shape)
    np.testing.assert_array_equal(fetched, values)


@pytest.mark.parametrize(("classes", "kernels"), [(1, []), (2, ["largest"]), (32, ["largest"]), (33, [])])
def test_maxima_of_few_classes_are_a_kernels(cuda: CudaBackend, classes: int, kernels: list[str]) -> None:
    values = np.random.default_rng(0).standard_normal((5, classes))
    with cuda.computing():
        given, by_class, row = cuda.asarray(values), cuda.xp.empty((classes, 5)), cuda.xp.empty((5, 1))
        cuda.xp.kernels.clear()
        cuda.compute(cuda.row_maxima, given, by_class, row)
    np.testing.assert_array_equal(cuda.to_host(row), values.max(axis=1, keepdims=True))
    assert [name for name in cuda.xp.kernels if name == "largest"] == kernels


def test_operands_with_gaps_are_copied_first(cuda: CudaBackend) -> None:
    wide = np.arange(24.0).reshape(4, 6)
    with cuda.computing():
        a, out = cuda.asarray(wide)[:, ::2], cuda.xp.empty((4, 4))
        cuda.dot(a, a.T, out)
    np.testing.assert_array_equal(cuda.to_host(out), wide[:, ::2] @ wide[:, ::2].T)


def test_blocks_are_for_the_memory_and_the_pool_of_the_device() -> None:
    cupy = StandInCupy(devices=2, memory=[(0, GIB), (8 * GIB, 10 * GIB)], pool=[(0, 0), (2 * GIB, 3 * GIB)])
    first, second = (CudaBackend(index, cupy=cupy) for index in (0, 1))
    # 0.7 · (8 + 2) GiB are 7168 MiB.
    assert [backend.block_rows(7168, 2**20) for backend in (first, second)] == [1, 7168]
    assert [backend.peak_memory() for backend in (first, second)] == [0, 3 * GIB]
    # 70% of 2 bytes are one: a row of a byte.
    assert CudaBackend(cupy=StandInCupy(memory=(2, GIB), pool=(0, 0))).block_rows(10, 1) == 1


def test_waiting_is_for_the_device(cuda: CudaBackend) -> None:
    before = cuda._device.waits
    cuda.synchronize()
    assert cuda._device.waits == before + 1


def test_cuda_marks_are_events_and_only_the_last_is_waited_for(cuda: CudaBackend) -> None:
    marks = [cuda.mark() for _ in range(3)]
    assert cuda.seconds_between(marks) == [1.0, 1.0]
    assert [mark.waits for mark in marks] == [0, 0, 1]
    assert [mark.device for mark in marks] == [1, 1, 1]
    assert cuda.seconds_between(marks[:1]) == []
    assert cuda.seconds_between([]) == []


def test_peak_memory_of_the_gpu_is_its_pools(cuda: CudaBackend) -> None:
    assert cuda.peak_memory() == 3 * GIB


def test_cuda_has_one_worker_after_another(cuda: CudaBackend) -> None:
    called: list[int] = []
    cuda.map(called.append, 3)
    assert called == [0, 1, 2]
