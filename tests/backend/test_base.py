"""What CPU and GPU have in common: the choice of a device, arrays, fused formulas, products."""

import re
import sys
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nvmath
from parity.standin.cuda import COMPUTE_32F, COMPUTE_TF32

from fmnist_xp.backend import (
    Backend,
    CpuBackend,
    CudaBackend,
    CudaGraphBackend,
    Formula,
    Product,
    RowSum,
    default_backend,
    elementwise,
    epilogue,
    get_backend,
    precision_name,
)
from fmnist_xp.backend.base import ELEMENTWISE
from fmnist_xp.blas import blas_name
from fmnist_xp.errors import DeviceError
from fmnist_xp.nn import ReLU


@pytest.fixture(params=["cpu", "cuda"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return CpuBackend(1) if request.param == "cpu" else request.getfixturevalue("cuda")


@pytest.fixture
def cuda() -> CudaBackend:
    """A device that is not current where nobody sees to it."""
    return CudaBackend(1, cupy=StandInCupy(devices=2))


# get_backend


def test_cpu_by_name() -> None:
    backend = get_backend("cpu", threads=3)
    assert isinstance(backend, CpuBackend)
    assert (backend.name, backend.threads, backend.xp) == ("cpu", 3, np)
    assert backend.device_name
    assert repr(backend) == f"<CpuBackend cpu: {backend.device_name}>"


def with_fake_modules(monkeypatch: pytest.MonkeyPatch, nvmath: bool) -> None:
    """Let what is imported be the stand-ins, of nvmath-python where it is there."""
    cupy = StandInCupy(devices=2)

    def import_nvmath() -> Any:
        if not nvmath:
            raise DeviceError("CUDA graphs were asked for, but nvmath-python is not installed")
        return make_nvmath(cupy)

    monkeypatch.setattr("fmnist_xp.backend.cuda.import_cupy", lambda: cupy)
    monkeypatch.setattr("fmnist_xp.backend.graphs.import_nvmath", import_nvmath)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "auto"])
@pytest.mark.parametrize("nvmath", [True, False])
@pytest.mark.parametrize("graphs", [None, True, False])
def test_graphs_are_there_by_default_and_can_be_refused(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    nvmath: bool,
    graphs: bool | None,
) -> None:
    with_fake_modules(monkeypatch, nvmath)
    caplog.set_level("DEBUG", "fmnist_xp")
    if graphs and not nvmath:
        with pytest.raises(DeviceError, match="nvmath-python is not installed"):
            get_backend(device, graphs=graphs)
        return
    backend = get_backend(device, graphs=graphs)
    expected = nvmath and graphs is not False
    assert type(backend) is (CudaGraphBackend if expected else CudaBackend)
    assert backend.captures is expected
    assert backend.manner() == ("with" if expected else "without") + " CUDA graphs"
    assert backend.name == ("cuda:1" if device == "cuda:1" else "cuda:0")
    reason = "without CUDA graphs: CUDA graphs were asked for, but nvmath-python is not installed"
    assert caplog.messages == ([reason] if graphs is None and not nvmath else [])


def test_graphs_need_a_gpu() -> None:
    message = "^CUDA graphs need a CUDA device, got cpu: leave graphs out, or take cuda$"
    with pytest.raises(ValueError, match=message):
        get_backend("cpu", graphs=True)


def test_manner_of_the_cpu_is_its_threads_its_blas_and_what_slows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_backend("cpu", threads=2, graphs=False).manner().startswith(f"2 threads, {blas_name()}")
    monkeypatch.setattr("fmnist_xp.backend.cpu.blas_name", lambda: "a BLAS")
    monkeypatch.setattr("fmnist_xp.backend.cpu.older_kernels", lambda: None)
    assert CpuBackend(2).manner() == "2 threads, a BLAS"
    monkeypatch.setattr("fmnist_xp.backend.cpu.older_kernels", lambda: "an old one")
    assert CpuBackend(1).manner() == "1 thread, a BLAS; an old one"


def test_backend_is_returned_as_it_is() -> None:
    backend = CpuBackend(1)
    assert get_backend(backend) is backend


@pytest.mark.parametrize(("device", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_cuda_by_name(monkeypatch: pytest.MonkeyPatch, device: str, index: int) -> None:
    monkeypatch.setitem(sys.modules, "cupy", StandInCupy(devices=2))
    backend = get_backend(device)
    assert isinstance(backend, CudaBackend)
    assert backend.name == f"cuda:{index}"


def test_auto_is_cuda_where_it_answers_else_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", StandInCupy())
    assert get_backend("auto").name == get_backend().name == "cuda:0"
    monkeypatch.setitem(sys.modules, "cupy", StandInCupy(devices=0))
    caplog.set_level("DEBUG", "fmnist_xp")
    for threads in (1, 2):
        backend = get_backend("auto", threads=threads, graphs=False)
        assert (backend.name, backend.threads) == ("cpu", threads)
        assert caplog.messages[-1].startswith("auto: a CUDA device was asked for, but the NVIDIA driver (CUDA 12.4) ")


@pytest.mark.parametrize("device", ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:one", "cuda0", "auto:1"])
def test_other_names_are_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"^device must be auto, cpu, cuda or cuda:<index>, got '{device}'$"):
        get_backend(device)


@pytest.mark.parametrize("device", [None, 0, ["cpu"], CpuBackend])
def test_what_is_no_name_is_refused(device: Any) -> None:
    message = rf"^device must be auto, cpu, cuda or cuda:<index>, or a Backend, got {re.escape(repr(device))}$"
    with pytest.raises(ValueError, match=message):
        get_backend(device)


def test_default_backend_is_one_cpu_backend() -> None:
    assert default_backend() is default_backend()
    assert isinstance(default_backend(), CpuBackend)


def test_installed_cupy_without_a_driver_is_refused_and_auto_is_the_cpu() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if cupy.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(DeviceError, match=r"^a CUDA device was asked for, .* use --device cpu$"):
        get_backend("cuda")
    assert get_backend("auto").name == "cpu"


# Arrays


def test_arrays_come_and_go_unchanged(backend: Backend) -> None:
    values = np.arange(6, dtype="float64").reshape(2, 3)
    array = backend.asarray(values.T, dtype="float32")
    assert isinstance(array, backend.xp.ndarray)
    assert array.flags.c_contiguous
    assert array.dtype == np.float32
    back = backend.to_host(array)
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(back, values.T)
    assert backend.asarray(array) is array
    backend.synchronize()


def test_check_takes_arrays_of_the_device_and_lists(cuda: CudaBackend) -> None:
    array = cuda.asarray([1.0])
    assert cuda.check(array, "x") is array
    assert isinstance(cuda.check([1, 2], "x"), cuda.xp.ndarray)
    np.testing.assert_array_equal(CpuBackend(1).check(((1, 2), (3, 4)), "x"), [[1, 2], [3, 4]])


def test_check_refuses_an_array_of_another_device_with_the_cure(cuda: CudaBackend) -> None:
    message = (
        r"^inputs is a numpy\.ndarray, but this object computes on cuda:1 with cupy arrays: "
        r"pass backend\.asarray\(inputs\)$"
    )
    with pytest.raises(ValueError, match=message):
        ReLU(cuda).forward(np.ones((1, 1)))


def test_check_refuses_an_array_of_another_gpu_with_the_cure(cuda: CudaBackend) -> None:
    array = CudaBackend(0, cupy=cuda.xp).asarray([[-1.0, 2.0]])
    message = r"^inputs is an array of cuda:0, but this object computes on cuda:1: pass backend\.asarray\(inputs\)$"
    with pytest.raises(ValueError, match=message):
        ReLU(cuda).forward(array)
    np.testing.assert_array_equal(cuda.to_host(ReLU(cuda).forward(cuda.asarray(array))), [[0, 2]])


def test_generator_is_numpys_on_every_device(cuda: CudaBackend) -> None:
    expected = np.random.default_rng(5).standard_normal(4)
    for backend in (cuda, CpuBackend(1)):
        np.testing.assert_array_equal(backend.generator(5).standard_normal(4), expected)


# Formulas and products


@elementwise
def shift(xp: Any, values: Any, by: float, count: int, output: Any) -> None:
    """Write values + by + count to `output`."""
    assert by.dtype == values.dtype  # type: ignore[attr-defined]
    xp.add(values, by + count, out=output)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_formula_takes_python_floats_in_the_arrays_dtype(backend: Backend, dtype: str) -> None:
    values = backend.asarray([1, 2], dtype=dtype)
    with backend.current():
        output = backend.xp.empty_like(values)
        backend.compute(shift, values, 0.1, 2, output)
    expected = np.array([1, 2], dtype=dtype) + (np.dtype(dtype).type(0.1) + 2)
    np.testing.assert_array_equal(backend.to_host(output), expected)


def plain(xp: Any, values: Any, by: float, output: Any) -> None:
    """Write values + by to `output`; no kernel."""
    assert by.dtype == values.dtype  # type: ignore[attr-defined]
    output[...] = values + by


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_formula_that_is_not_element_wise_is_called_as_it_is(cuda: CudaBackend, dtype: str) -> None:
    for backend in (cuda, CpuBackend(1)):
        values = backend.asarray([1, 2], dtype=dtype)
        with backend.current():
            output = backend.xp.empty_like(values)
            backend.compute(plain, values, 0.1, output)
        expected = np.array([1, 2], dtype=dtype) + np.dtype(dtype).type(0.1)
        np.testing.assert_array_equal(backend.to_host(output), expected)
    assert "plain" not in cuda.xp.fused


def test_fuse_of_the_version_before_computes_with_a_warning(backend: Backend) -> None:
    values = backend.asarray([1.0])
    with pytest.warns(FutureWarning, match=r"^backend\.fuse\(formula\)\(…\) is now backend\.compute"):
        fused = backend.fuse(shift)
    with backend.current():
        fused(values, 0.5, 1, values)
    assert backend.to_host(values).tolist() == [2.5]


def test_steps_are_run_in_their_order(backend: Backend) -> None:
    a, ones, out = (backend.asarray(np.ones(shape)) for shape in ((2, 2), (2, 1), (1, 2)))
    with backend.current():
        backend.run(
            Formula(shift, (a, 1.0, 0, a)), Product(a, a, b := backend.xp.empty_like(a)), RowSum(ones, b, out)
        )
    assert backend.to_host(out).tolist() == [[16, 16]]


def test_formula_is_compiled_once_under_its_name(cuda: CudaBackend) -> None:
    values = cuda.asarray([1.0])
    for _ in range(2):
        with cuda.current():
            cuda.compute(shift, values, 0.5, 1, values)
    assert (cuda.xp.fused, cuda.xp.kernels) == (["shift"], ["shift", "shift"])


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3, 4), (2, 1, 4), (2, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1.0), ("float64", 1.0), ("float64", 0.3), ("float32", 2.0)])
def test_dot_is_the_product(
    backend: Backend, shape: tuple[int, int, int], turned: tuple[bool, bool], dtype: str, scale: float
) -> None:
    generator = np.random.default_rng(0)
    m, k, n = shape
    a, b = (generator.standard_normal(size).astype(dtype) for size in ((m, k), (k, n)))
    operands = [
        backend.asarray(matrix.T).T if turn else backend.asarray(matrix)
        for matrix, turn in zip((a, b), turned, strict=True)
    ]
    with backend.current():
        out = backend.xp.empty((m, n), dtype=dtype)
        backend.dot(*operands, out, scale=scale)
    np.testing.assert_allclose(backend.to_host(out), scale * (a @ b), rtol=1e-5 if dtype == "float32" else 1e-13)


def test_sums_over_rows_are_a_product_with_ones(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    ones, values = backend.asarray(np.ones((4, 1))), backend.asarray(np.arange(12.0).reshape(4, 3))
    out = backend.asarray(np.full((1, 3), np.nan))
    with backend.current():
        Backend.sum_rows(backend, ones, values, out)
    assert backend.to_host(out).tolist() == [[18, 22, 26]]
    asked = []
    monkeypatch.setattr(type(backend), "dot", lambda _self, a, *more: asked.append((a.shape, *more)))
    for tf32 in (), (True,):
        Backend.sum_rows(backend, ones, values, out, *tf32)
    assert [(shape, scale, tf32) for shape, _, _, scale, tf32 in asked] == [((1, 4), 1.0, False), ((1, 4), 1.0, True)]
    assert all(b is values and to is out for _, b, to, _, _ in asked)


def test_values_of_the_host_are_sent_and_may_change_then(backend: Backend) -> None:
    values = np.arange(3.0)
    with backend.computing():
        out = backend.asarray(np.zeros(3))
        backend.send(values, out)
        values += 1
    assert backend.to_host(out).tolist() == [0, 1, 2]


def test_formula_is_marked_as_element_wise_and_with_the_epilogue_that_it_is() -> None:
    def formula(_xp: Any, _values: Any) -> None: ...

    assert epilogue("RELU_BIAS")(formula) is formula
    assert formula.epilogue == "RELU_BIAS"  # type: ignore[attr-defined]
    assert elementwise(formula) is ELEMENTWISE["formula"] is formula
    assert formula.elementwise is True  # type: ignore[attr-defined]


@pytest.mark.parametrize(("tf32", "compute"), [(False, COMPUTE_32F), (True, COMPUTE_TF32)])
def test_sums_over_rows_that_are_repeated_are_the_same_product(cuda: CudaBackend, tf32: bool, compute: int) -> None:
    ones, values = (cuda.asarray(np.ones(shape), dtype="float32") for shape in ((4, 1), (4, 3)))
    out = cuda.asarray(np.full((1, 3), np.nan), dtype="float32")
    with cuda.computing():
        cuda.xp.products.clear()
        cuda.run(RowSum(ones, values, out, tf32))
    assert cuda.to_host(out).tolist() == [[4, 4, 4]]
    assert cuda.xp.products == [compute]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        *(("float32", "float32"), ("tf32", "tf32"), ("float16", "float16")),
        *((np.float64, "float64"), (np.dtype("float32"), "float32"), (np.float16, "float16"), (float, "float64")),
    ],
)
def test_precision_is_named_as_such_or_by_a_dtype(dtype: Any, name: str) -> None:
    assert precision_name(dtype) == name


@pytest.mark.parametrize("dtype", ["int8", "FLOAT32", "f4", None, int, np.int8, 32, object(), ["float32"]])
def test_unknown_precision_is_refused(dtype: Any) -> None:
    message = rf"^dtype must be one of float32, float64, tf32, float16, bfloat16, got {re.escape(repr(dtype))}$"
    for refusing in (precision_name, CpuBackend(1).precision):
        with pytest.raises(ValueError, match=message):
            refusing(dtype)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([[1, 2], [3, 4]], "int64"),
        ([[1.5, 2.0]], "float64"),
        ([True, False], "bool"),
        (np.array([1, 2], dtype="uint8"), "uint8"),
        (np.array([1.5], dtype="float16"), "float16"),
    ],
)
def test_numbers_are_real_ones(backend: Backend, values: Any, dtype: str) -> None:
    array = backend.numbers(values, "X")
    assert array.dtype == dtype
    assert backend.to_host(array).tolist() == np.asarray(values).tolist()
    assert backend.numbers(array, "X") is array
    assert backend.numbers(values, "X", "float32").dtype == "float32"


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["a"], "<U1"),
        ([1j], "complex128"),
        (np.array([1j]), "complex128"),
        (np.array(["2026"], dtype="datetime64"), r"datetime64\[Y\]"),
        ([None], "object"),
    ],
)
def test_what_is_no_real_number_is_refused(backend: Backend, values: Any, dtype: str) -> None:
    with pytest.raises(ValueError, match=rf"^X must hold real numbers, got dtype {dtype}$"):
        backend.numbers(values, "X")


def test_other_errors_pass_through_computing(backend: Backend) -> None:
    with pytest.raises(ArithmeticError, match="mine"), backend.computing():
        raise ArithmeticError("mine")
