"""oneMKL's products: the library itself where it is installed, and how it is found."""

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend, blas_names, mkl
from fmnist_xp.backend.mkl import Mkl, find_mkl
from fmnist_xp.experiments import EXPERIMENTS
from fmnist_xp.train.fullbatch import FullBatch

look_again: Callable[[], Mkl | None] = find_mkl.__wrapped__


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Mkl:
    """Return oneMKL, on any processor that it runs on."""
    monkeypatch.setattr("fmnist_xp.machine.cpu_name", lambda: "Intel")
    found = look_again()
    if found is None:
        pytest.skip("oneMKL is not installed: pip install mkl")
    return found


def whole_numbers(shape: tuple[int, int], dtype: str) -> Any:
    """Return numbers whose products and sums are exact in every dtype."""
    return np.random.default_rng(sum(shape)).integers(-9, 10, shape).astype(dtype)


def stored(matrix: Any, transposed: bool) -> Any:
    return np.ascontiguousarray(matrix.T).T if transposed else matrix


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 7, 3), (1, 640, 128), (640, 10, 1), (97, 784, 64), (784, 97, 10)])
def test_products_are_exact_on_whole_numbers(
    library: Mkl, dtype: str, transposed: tuple[bool, bool], sizes: tuple[int, int, int]
) -> None:
    rows, inner, columns = sizes
    a, b = whole_numbers((rows, inner), dtype), whole_numbers((inner, columns), dtype)
    out = np.full((rows, columns), np.nan, dtype)
    calls = library.dot_calls(stored(a, transposed[0]), stored(b, transposed[1]), out, 0.5)
    assert calls is not None
    for function, arguments in calls:
        function(*arguments)
    assert np.array_equal(out, (a.astype(int) @ b.astype(int)) / 2)


A, B, OUT = np.ones((4, 6), "float32"), np.ones((6, 2), "float32"), np.empty((4, 2), "float32")
READ_ONLY = np.empty((4, 2), "float32")
READ_ONLY.flags.writeable = False
UNALIGNED = np.empty(4 * 6 * 4 + 1, "uint8")[1:].view("float32").reshape(4, 6)


@pytest.mark.parametrize(
    "operands",
    [
        pytest.param((A[:, ::2], B[:3], OUT), id="gaps"),
        pytest.param((A[::-1], B, OUT), id="backwards"),
        pytest.param((A.astype(int), B.astype(int), OUT.astype(int)), id="integers"),
        pytest.param((A.astype("float64"), B, OUT), id="mixed"),
        pytest.param((A.astype(">f4"), B.astype(">f4"), OUT.astype(">f4")), id="other byte order"),
        pytest.param((A, B[:5], OUT), id="inner sizes"),
        pytest.param((A, B, OUT[:3]), id="rows"),
        pytest.param((A, B, np.empty((4, 3), "float32")), id="columns"),
        pytest.param((A, B, np.empty((4, 2), "float32", order="F")), id="result by columns"),
        pytest.param((A, B, READ_ONLY), id="read-only"),
        pytest.param((UNALIGNED, B, OUT), id="unaligned"),
        pytest.param((A[:0], B, OUT[:0]), id="empty"),
        pytest.param((A[0], B, OUT[0]), id="a vector"),
    ],
)
def test_what_it_does_not_multiply_is_left_to_numpy(library: Mkl, operands: tuple[Any, Any, Any]) -> None:
    assert library.dot_calls(*operands, 1.0) is None


def test_the_backend_multiplies_with_it_and_hands_the_rest_to_numpy(library: Mkl) -> None:
    backend = CpuBackend(1)
    backend.mkl = library
    out = np.empty((4, 2), "float32")
    assert backend.dot_calls(A, B, out, 1.0, False) != [(np.dot, (A, B, out))]
    backend.dot(A, B, out, 0.5)
    assert np.array_equal(out, np.full((4, 2), 3.0))
    [(function, _), _scale] = backend.dot_calls(A[:, ::2], B[:3], out, 0.5, False)
    assert function is np.dot
    backend.dot(A[:, ::2], B[:3], out, 0.5)
    assert np.array_equal(out, np.full((4, 2), 1.5))


def test_a_call_keeps_its_arrays(library: Mkl) -> None:
    arrays = [np.ones((4, 4), "float32") for _ in range(3)]
    kept = [weakref.ref(array) for array in arrays]
    calls = library.dot_calls(*arrays, 1.0)
    arrays.clear()
    gc.collect()
    assert all(reference() is not None for reference in kept)
    del calls
    gc.collect()
    assert not any(reference() is not None for reference in kept)


def test_bits_do_not_depend_on_where_a_matrix_begins(library: Mkl) -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.standard_normal(shape, "float32") for shape in ((640, 784), (784, 64)))
    products = set()
    for offset in range(0, 64, 4):
        raw = np.empty(a.nbytes + 128, "uint8")
        start = -raw.ctypes.data % 64 + offset
        moved = raw[start : start + a.nbytes].view("float32").reshape(a.shape)
        moved[...] = a
        out = np.empty((640, 64), "float32")
        for function, arguments in library.dot_calls(moved, b, out, 1.0) or ():
            function(*arguments)
        products.add(out.tobytes())
    assert len(products) == 1


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_gradients_have_the_same_bits_on_any_number_of_threads(library: Mkl, name: str) -> None:
    generator = np.random.default_rng(0)
    X = generator.random((3_000, 784), "float32") - 0.5
    y = generator.integers(0, 10, 3_000, dtype="uint8")
    found = []
    for threads in (1, 2, 4):
        backend = CpuBackend(threads)
        backend.mkl = library
        network = EXPERIMENTS[name].make_network(backend, seed=0)
        with backend.computing():
            FullBatch(network, X, y, block_rows=300).compute_gradients()
        found.append(network.gradients.tobytes())
    assert len(set(found)) == 1


def install(monkeypatch: pytest.MonkeyPatch, files: list[str] | None, folder: Path, cpu: str = "Intel") -> None:
    """Make the package `mkl` seem installed with these files, or not at all, on a processor of this name."""

    def distribution(name: str) -> Any:
        assert name == "mkl"
        if files is None:
            raise mkl.importlib.metadata.PackageNotFoundError(name)
        paths = [
            SimpleNamespace(name=Path(file).name, suffix=Path(file).suffix, locate=lambda file=file: folder / file)
            for file in files
        ]
        return SimpleNamespace(files=paths, version="1.2.3")

    monkeypatch.setattr("fmnist_xp.machine.cpu_name", lambda: cpu)
    monkeypatch.setattr(mkl.importlib.metadata, "distribution", distribution)


@pytest.mark.parametrize(
    ("files", "loaded"),
    [
        (["lib/libmkl_core.so.3", "lib/libmkl_rt.so.3"], "lib/libmkl_rt.so.3"),
        (["Library/lib/mkl_rt.lib", "Library/bin/mkl_rt.3.dll"], "Library/bin/mkl_rt.3.dll"),
    ],
)
def test_the_library_is_the_one_that_the_package_brings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[str], loaded: str
) -> None:
    install(monkeypatch, files, tmp_path)
    monkeypatch.setattr(mkl, "Mkl", lambda path, version: (path, version))
    assert look_again() == (str((tmp_path / loaded).resolve()), "1.2.3")


def test_no_package_and_another_processor_mean_numpy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, None, tmp_path)
    assert look_again() is None
    install(monkeypatch, ["libmkl_rt.so.3"], tmp_path, cpu="AMD EPYC")
    assert look_again() is None
    assert not caplog.records


@pytest.mark.parametrize(
    ("files", "reason"),
    [(["lib/libmkl_core.so.3"], "it has no library mkl_rt"), (["libmkl_rt.so.3"], "libmkl_rt.so.3: ")],
)
def test_a_package_that_cannot_be_used_is_told_once(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    files: list[str],
    reason: str,
) -> None:
    (tmp_path / "libmkl_rt.so.3").write_bytes(b"no library")
    install(monkeypatch, files, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert look_again() is None
    [message] = [record.getMessage() for record in caplog.records]
    assert message.startswith("the package mkl is installed but not usable (")
    assert reason in message
    assert message.endswith("): products stay with NumPy's BLAS")


def test_the_names_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.machine.blas_name", lambda: "openblas 0.3")
    monkeypatch.setattr(mkl, "find_mkl", lambda: None)
    assert blas_names() == "openblas 0.3"
    monkeypatch.setattr(mkl, "find_mkl", lambda: SimpleNamespace(name="oneMKL 1.2.3"))
    assert blas_names() == "oneMKL 1.2.3 for products, openblas 0.3 for the rest"


def test_products_can_be_kept_with_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(name="oneMKL")
    monkeypatch.setattr("fmnist_xp.backend.cpu.find_mkl", lambda: found)
    assert CpuBackend(1).mkl is found
    assert CpuBackend(1, mkl=False).mkl is None
