"""The stand-in has nothing that CuPy lacks, and the package uses nothing that the stand-in lacks.

The first half asks the installed CuPy, which imports without a device. Its functions are asked for their signature;
those that are compiled tell it in the first line of their documentation. Its `ufunc` objects tell neither, but share
one `__call__`, whose documentation names its parameters.
"""

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.standin import DeviceArray, StandInCupy, make_nccl
from parity.standin.compiled import CompiledKernel
from parity.standin.cublaslt import DESC_DTYPES, PREFERENCE_DTYPES, NvmathCublasLt
from parity.standin.cuda import (
    COMPUTE_32F,
    COMPUTE_64F,
    COMPUTE_TF32,
    CUDA_TYPES,
    GEMM_DEFAULT,
    Cublas,
    Graph,
    NvmathCublas,
)
from parity.standin.kernels import RawKernel
from parity.standin.nccl import NCCL_FLOAT32, NCCL_FLOAT64, NcclCommunicator
from parity.standin.tables import (
    ARRAY_METHODS,
    CONSTANTS,
    CREATION,
    ELEMENTWISE,
    FUNCTION_METHODS,
    FUNCTIONS,
    OF_DTYPES,
    TYPES,
    UFUNCS,
    parameters,
)

import fmnist_xp
from fmnist_xp.backend.cuda import MEMORY_FULL, import_nccl

TABLES = {**ELEMENTWISE, **CREATION, **FUNCTIONS}


@pytest.fixture(scope="module")
def cupy() -> Any:
    return pytest.importorskip("cupy", reason="CuPy (cupy-cuda12x), the oracle of this test, is not installed")


def names_of(function: Any) -> list[str]:
    """Return the names of a function's parameters, from its signature or the first line of its documentation."""
    try:
        names = list(inspect.signature(function).parameters)
    except ValueError:
        text = re.search(r"\((.*)\)", function.__doc__.splitlines()[0])
        assert text is not None
        names = [part.partition("=")[0].split()[-1].lstrip("*") for part in text[1].split(",")]
    return [name for name in names if name != "self"]


def check_parameters(text: str, real: list[str], gathers: bool) -> None:
    """Compare an entry of a table with the real names; `gathers` tells that `*args` takes those given by position."""
    positional, by_keyword = parameters(text)
    if not gathers:
        assert real[: len(positional)] == [name.lstrip("*") for name in positional]
    assert set(by_keyword) <= set(real)


# The stand-in against CuPy


@pytest.mark.parametrize("name", UFUNCS)
def test_elementwise_function_is_cupys(cupy: Any, name: str) -> None:
    function = getattr(cupy, name)
    assert isinstance(function, cupy.ufunc)
    assert function.nin == getattr(np, name).nin
    for parameter in ("out", "dtype"):
        assert re.search(rf"^ +{parameter}\b.*:", cupy.ufunc.__call__.__doc__, re.MULTILINE)


@pytest.mark.parametrize(("name", "text"), TABLES.items(), ids=TABLES)
def test_function_and_its_parameters_are_cupys(cupy: Any, name: str, text: str) -> None:
    function = getattr(cupy, name)
    assert not isinstance(function, cupy.ufunc)
    check_parameters(text, names_of(function), gathers=names_of(function)[0] == "args")


@pytest.mark.parametrize("name", [*TYPES, *CONSTANTS, *OF_DTYPES])
def test_types_and_constants_are_numpys_in_cupy_too(cupy: Any, name: str) -> None:
    assert getattr(cupy, name) is getattr(np, name)


@pytest.mark.parametrize(("name", "text"), ARRAY_METHODS.items(), ids=ARRAY_METHODS)
def test_method_and_its_parameters_are_cupys(cupy: Any, name: str, text: str) -> None:
    check_parameters(text, names_of(getattr(cupy.ndarray, name)), gathers=False)


@pytest.mark.parametrize("name", FUNCTION_METHODS)
def test_method_has_the_parameters_of_the_function(cupy: Any, name: str) -> None:
    of_array, *others = parameters(FUNCTIONS[name])[0]
    check_parameters(" ".join(others), names_of(getattr(cupy.ndarray, name)), gathers=False)
    assert of_array == "a"
    assert set(parameters(FUNCTIONS[name])[1]) <= set(names_of(getattr(cupy.ndarray, name)))


def test_array_has_no_attribute_that_cupys_lacks(cupy: Any) -> None:
    ours = {name for name in dir(DeviceArray) if not name.startswith("_")}
    assert ours <= set(dir(cupy.ndarray))
    operators = {name for name in vars(DeviceArray) | vars(DeviceArray.__base__) if name.startswith("__")}

    class Plain:
        value: int  # with annotations, as the stand-in has

    assert operators - set(dir(cupy.ndarray)) <= {*vars(Plain), "__getattr__"}
    # Which of the conversions there are decides what is refused.
    for name in ("__index__", "__hash__", "__float__", "__int__", "__complex__", "__bool__", "__iter__", "__array__"):
        assert (getattr(DeviceArray, name, None) is None) == (getattr(cupy.ndarray, name, None) is None), name


def test_flags_and_data_have_cupys_names(cupy: Any) -> None:
    array = StandInCupy().ones(2)
    assert set(vars(array.flags)) <= set(dir(cupy._core.flags.Flags))
    assert set(vars(array.data)) <= set(dir(cupy.cuda.MemoryPointer))


@pytest.fixture(scope="module")
def without_memory(cupy: Any) -> Any:
    """A real CuPy array (4, 6) of float32 at an address where there is no memory; it must not be computed with."""
    memory = cupy.cuda.UnownedMemory(2**20, 96, None, 0)
    return cupy.ndarray((4, 6), dtype="float32", memptr=cupy.cuda.MemoryPointer(memory, 0))


INDICES = [0, (0, 0), (slice(1, 3),), (..., 2), (slice(None), slice(1, 4)), None, (slice(None, None, 2), 1)]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_views_are_cupys(without_memory: Any, index: Any) -> None:
    ours = StandInCupy().ones((4, 6), dtype="float32")
    for turned in (False, True):
        real, view = (array.T[index] if turned else array[index] for array in (without_memory, ours))
        assert (view.shape, view.strides, view.size, view.ndim) == (real.shape, real.strides, real.size, real.ndim)
        assert view.data.ptr - ours.data.ptr == real.data.ptr - without_memory.data.ptr
        assert view.flags.c_contiguous == real.flags.c_contiguous
        assert view.flags.f_contiguous == real.flags.f_contiguous


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        (np.asarray, TypeError),
        (range, TypeError),
        (hash, TypeError),
        (lambda x: x.unknown, AttributeError),
        (lambda x: x.__setitem__(..., np.ones((4, 6), dtype="float32")), ValueError),
        (lambda x: iter(x[0, 0]), TypeError),
        (lambda x: len(x[0, 0]), TypeError),
        (bool, ValueError),
    ],
)
def test_cupy_refuses_as_the_stand_in_does(cupy: Any, without_memory: Any, attempt: Any, error: Any) -> None:
    for array in (without_memory, StandInCupy().ones((4, 6), dtype="float32")):
        with pytest.raises(error):
            attempt(array)


def public(thing: Any) -> Iterator[tuple[str, Any]]:
    """Return the public names of an object of the stand-in, with what they stand for."""
    values = vars(thing) if isinstance(thing, SimpleNamespace) else dict.fromkeys(dir(thing))
    return ((name, value) for name, value in values.items() if not name.startswith("_"))


def test_names_below_cuda_are_cupys(cupy: Any) -> None:
    ours = StandInCupy().cuda
    for name, value in public(ours):
        if name in ("cublas", "nccl"):  # need their libraries: the next tests
            continue
        assert hasattr(cupy.cuda, name), name
        if isinstance(value, SimpleNamespace):
            missing = [inner for inner, _ in public(value) if not hasattr(getattr(cupy.cuda, name), inner)]
            assert missing == [], name
    counters = {"waits", "milliseconds", "device", "captured", "invalid"}  # what only the stand-in has
    for kind in ("Device", "Event", "Stream"):
        thing = getattr(ours, kind)()
        names = {name for name in (*dir(thing), *vars(thing)) if not name.startswith("_")} - counters
        real = (
            cupy.cuda.Stream.null if kind == "Stream" else getattr(cupy.cuda, kind)
        )  # whose `ptr` is not the class's
        assert names <= set(dir(real)), kind
    assert hasattr(cupy.cuda.Device, "__enter__")
    pool = StandInCupy().get_default_memory_pool()
    assert set(vars(pool)) <= set(dir(cupy.cuda.MemoryPool))
    numbers = {cupy.cuda.runtime.CUDA_R_16F: 16, cupy.cuda.runtime.CUDA_R_32F: 32, cupy.cuda.runtime.CUDA_R_64F: 64}
    assert {number: f"float{bits}" for number, bits in numbers.items()} == CUDA_TYPES


def test_full_memory_has_the_names_and_numbers_of_cupy_and_nvmath(cupy: Any) -> None:
    reason = "nvmath-python and the cuda-bindings that it brings, the oracles of this test, are not installed"
    names = ("cuda.bindings.runtime", "cuda.bindings.driver", "nvmath.bindings.cublas")
    runtime, driver, cublas = (pytest.importorskip(name, reason=reason) for name in names)
    out_of_memory = {
        cupy.cuda.runtime.CUDARuntimeError.__name__: runtime.cudaError_t.cudaErrorMemoryAllocation,
        cupy.cuda.driver.CUDADriverError.__name__: driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY,
        cublas.cuBLASError.__name__: cublas.Status.ALLOC_FAILED,
        "CUBLASError": cublas.Status.ALLOC_FAILED,  # of the same library; for its name see below
    }
    assert out_of_memory == MEMORY_FULL


def test_cublas_is_cupys(cupy: Any) -> None:
    try:
        cublas = cupy.cuda.cublas
    except ImportError:
        pytest.skip("cuBLAS (nvidia-cublas-cu12), without which cupy.cuda.cublas does not load, is not installed")
    missing = [name for name, _ in public(Cublas) if not hasattr(cublas, name)]
    assert missing == []
    assert cublas.CUBLASError.__name__ in MEMORY_FULL
    assert names_of(cublas.gemmEx) == names_of(Cublas.gemmEx)
    assert (cublas.CUBLAS_COMPUTE_32F, cublas.CUBLAS_COMPUTE_64F) == (COMPUTE_32F, COMPUTE_64F)
    assert (cublas.CUBLAS_COMPUTE_32F_FAST_TF32, cublas.CUBLAS_GEMM_DEFAULT) == (COMPUTE_TF32, GEMM_DEFAULT)
    assert (cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T) == (Cublas.CUBLAS_OP_N, Cublas.CUBLAS_OP_T)


def test_nccl_is_cupys(cupy: Any) -> None:
    nccl = import_nccl(cupy)
    if not nccl.available:
        pytest.skip("NCCL (nvidia-nccl-cu12), without which cupy.cuda.nccl is empty, is not installed")
    ours = vars(make_nccl(StandInCupy(), None)).keys() - {"communicators"}  # which the stand-in alone has
    assert ours <= set(dir(nccl))
    assert (nccl.NCCL_FLOAT32, nccl.NCCL_FLOAT64) == (NCCL_FLOAT32, NCCL_FLOAT64)
    assert names_of(nccl.NcclCommunicator)[:3] == names_of(NcclCommunicator)[:3] == ["ndev", "commId", "rank"]
    for name, _ in public(NcclCommunicator):
        assert names_of(getattr(nccl.NcclCommunicator, name)) == names_of(getattr(NcclCommunicator, name)), name
    for function in (nccl.get_unique_id, nccl.get_version):
        assert function.__doc__.startswith((f"{function.__name__}()", "Returns"))  # no parameters


def test_streams_and_graphs_are_cupys(cupy: Any) -> None:
    assert {name for name, _ in public(Graph)} <= set(dir(cupy.cuda.Graph))
    assert "stream=None" in cupy.cuda.Graph.launch.__doc__.splitlines()[0]
    assert names_of(cupy.cuda.Stream.__init__)[:2] == ["null", "non_blocking"]
    assert names_of(cupy.cuda.Stream.begin_capture) == names_of(StandInCupy().cuda.Stream().begin_capture) == ["mode"]
    assert names_of(cupy.cuda.Stream.end_capture) == []
    assert names_of(cupy.cuda.using_allocator) == ["allocator"]
    assert cupy.cuda.Stream.null.ptr == StandInCupy().cuda.get_current_stream().ptr == 0
    for thing in (cupy.cuda.Stream, cupy.cuda.using_allocator(None)):
        assert hasattr(thing, "__enter__")


def test_bindings_of_cublas_are_nvmaths(cupy: Any) -> None:
    reason = "nvmath-python, the oracle of this test, is not installed"
    cublas = pytest.importorskip("nvmath.bindings.cublas", reason=reason)
    for name, _ in public(NvmathCublas):
        assert names_of(getattr(cublas, name)) == names_of(getattr(NvmathCublas, name)), name
    # The package passes the numbers of CuPy's constants, in the order of CuPy's function.
    assert len(names_of(cublas.gemm_ex)) == len(names_of(Cublas.gemmEx))
    compute, operation = cublas.ComputeType, cublas.Operation
    assert (compute.COMPUTE_32F, compute.COMPUTE_64F) == (COMPUTE_32F, COMPUTE_64F)
    assert (compute.COMPUTE_32F_FAST_TF32, min(cublas.GemmAlgo)) == (COMPUTE_TF32, GEMM_DEFAULT)
    assert (operation.N, operation.T) == (Cublas.CUBLAS_OP_N, Cublas.CUBLAS_OP_T)
    types = importlib.import_module("nvmath").CudaDataType
    numbers = {types.CUDA_R_16F: "float16", types.CUDA_R_32F: "float32", types.CUDA_R_64F: "float64"}
    assert numbers == CUDA_TYPES


def test_bindings_of_cublaslt_are_nvmaths() -> None:
    reason = "nvmath-python, the oracle of this test, is not installed"
    cublaslt = pytest.importorskip("nvmath.bindings.cublasLt", reason=reason)
    for name, _ in public(NvmathCublasLt):
        ours = getattr(NvmathCublasLt, name)
        if inspect.isfunction(ours):
            assert names_of(getattr(cublaslt, name)) == names_of(ours), name
    for enumeration in (NvmathCublasLt.Epilogue, NvmathCublasLt.MatmulDescAttribute):
        real = getattr(cublaslt, enumeration.__name__)
        assert {member.name: real[member.name].value for member in enumeration} == {
            member.name: member.value for member in enumeration
        }
    for attribute, dtype in DESC_DTYPES.items():
        assert cublaslt.get_matmul_desc_attribute_dtype(attribute) is dtype, attribute
    for attribute, dtype in PREFERENCE_DTYPES.items():
        assert cublaslt.MatmulPreferenceAttribute[attribute.name] == attribute
        assert cublaslt.get_matmul_preference_attribute_dtype(attribute) is dtype, attribute
    assert cublaslt.matmul_heuristic_result_dtype == NvmathCublasLt.matmul_heuristic_result_dtype
    assert issubclass(cublaslt.cuBLASLtError, Exception)


def test_fuse_asnumpy_and_pool_are_cupys(cupy: Any) -> None:
    assert "kernel_name" in cupy.fuse.__doc__
    assert names_of(cupy.asnumpy)[0] == "a"
    assert callable(cupy.get_default_memory_pool)
    assert isinstance(cupy.__version__, str)


def test_raw_kernels_are_cupys(cupy: Any) -> None:
    assert cupy.RawKernel.__doc__.startswith("RawKernel(str code, str name, tuple options=()")
    assert isinstance(cupy.RawKernel("", "").name, str)  # compiled when it is called
    assert inspect.isdatadescriptor(cupy.RawKernel.max_dynamic_shared_size_bytes)
    assert names_of(StandInCupy.RawKernel) == ["code", "name"]
    assert names_of(CompiledKernel.__call__) == names_of(RawKernel.__call__)


# The package against the stand-in

PACKAGE = Path(fmnist_xp.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE) != Path("backend", "cpu.py"))
DEVICE_FREE = [
    *sorted((PACKAGE / "nn").glob("*.py")),
    *sorted((PACKAGE / "optim").glob("*.py")),
    *(PACKAGE / "train" / name for name in ("fullbatch.py", "trainer.py")),
]
# What every module has, and what the stand-in writes out instead of listing it.
BESIDES = {"__name__", "__version__", "asnumpy", "cuda", "fuse", "get_default_memory_pool", "ndarray", "RawKernel"}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_module(node: ast.expr) -> bool:
    """Return whether an expression is the array module: `xp`, or something's `.xp`."""
    return (isinstance(node, ast.Name) and node.id == "xp") or (isinstance(node, ast.Attribute) and node.attr == "xp")


def uses(path: Path) -> Iterator[ast.Attribute]:
    """Return each `xp.<name>` in a file."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Attribute) and is_module(node.value):
            yield node


def test_the_package_is_found() -> None:
    used = {node.attr for path in MODULES for node in uses(path)}
    assert {"add", "exp", "zeros_like", "ascontiguousarray", "fuse", "cuda"} <= used


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_package_uses_what_the_tables_have(path: Path) -> None:
    known = {*UFUNCS, *TABLES, *TYPES, *CONSTANTS, *OF_DTYPES, *BESIDES}
    unknown = [f"xp.{node.attr} in line {node.lineno}" for node in uses(path) if node.attr not in known]
    assert unknown == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_package_calls_with_parameters_that_the_tables_have(path: Path) -> None:
    for call in ast.walk(tree_of(path)):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and is_module(call.func.value)):
            continue
        name = call.func.attr
        if name in BESIDES or name in TYPES:
            continue
        positional, by_keyword = parameters(TABLES.get(name, "x1 x2 out | dtype"))
        where = f"xp.{name} in line {call.lineno}"
        assert {keyword.arg for keyword in call.keywords} <= {*positional, *by_keyword}, where
        assert len(call.args) <= len(positional), where


@pytest.mark.parametrize("path", DEVICE_FREE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_computing_rooms_import_neither_module(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported
    assert not imported & {"numpy", "cupy"}
