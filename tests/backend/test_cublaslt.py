"""Products with epilogues on the stand-in: what they give, what is refused and held; on a GPU, what they give."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parity.standin import CUBLASError, DeviceArray, NvmathCublasLt, StandInCupy
from parity.standin.cuda import COMPUTE_32F, COMPUTE_TF32, values_at

from fmnist_xp.backend import Backend, Product
from fmnist_xp.backend.cublaslt import EPILOGUES, Products, Unsupported

PRECISIONS = {"float32": "float32", "tf32": "float32", "float16": "float16"}
"""The dtype of the operands; results are in float32."""
SHAPES = [(5, 3, 4), (1, 1, 1), (7, 2, 130), (33, 17, 128)]
"""(m, k, n)."""


@pytest.fixture
def cupy() -> StandInCupy:
    return StandInCupy()


@pytest.fixture
def cublaslt(cupy: StandInCupy) -> NvmathCublasLt:
    return NvmathCublasLt(cupy)


def products_of(cupy: StandInCupy, cublaslt: NvmathCublasLt) -> Products:
    return Products(cupy, cublaslt, cupy.empty(2**16, dtype="uint8"))


@pytest.fixture
def products(cupy: StandInCupy, cublaslt: NvmathCublasLt) -> Products:
    return products_of(cupy, cublaslt)


class Trial:
    """Operands of one product, the biases that its epilogue adds, and what NumPy makes of them in float64."""

    def __init__(
        self,
        xp: Any,
        epilogue: str,
        shape: tuple[int, int, int] = (5, 3, 4),
        precision: str = "float32",
        scale: float = 1.0,
    ) -> None:
        self.epilogue, self.scale, self.tf32 = epilogue, scale, precision == "tf32"
        m, k, n = shape
        generator = np.random.default_rng(m + k + n)

        def made(*size: int) -> np.ndarray:
            # Eighths, which halves hold without rounding; zeros among the sums, too.
            return generator.integers(-16, 17, size).astype("float64") / 8

        a, b, biases = made(m, k), made(k, n), made(1, n)
        self.expected = scale * a @ b + biases
        if epilogue == "relu_bias":
            self.expected[self.expected < 0] = 0
        self.arrays = {
            "a": xp.asarray(a, dtype=PRECISIONS[precision]),
            "b": xp.asarray(b, dtype=PRECISIONS[precision]),
            "out": xp.full((m, n), np.nan, dtype="float32"),
            "biases": xp.asarray(biases, dtype="float32"),
        }

    def plan(self, products: Products) -> Callable[[], None]:
        a, b, out, biases = self.arrays.values()
        return products.plan(Product(a, b, out, self.scale, self.tf32), self.epilogue, biases)

    def check(self) -> None:
        error = np.abs(self.arrays["out"].get().astype("float64") - self.expected).max()
        assert error <= 1e-6 * max(1, np.abs(self.expected).max())


# What is computed


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_product_and_epilogue_are_numpys(
    cupy: StandInCupy, products: Products, epilogue: str, precision: str, shape: tuple[int, int, int]
) -> None:
    trial = Trial(cupy, epilogue, shape, precision, scale=0.25)
    trial.plan(products)()
    trial.check()
    assert cupy.products == [COMPUTE_TF32 if precision == "tf32" else COMPUTE_32F]


@pytest.mark.parametrize("transposed", ["a", "b", "ab"])
def test_operands_may_be_transposed(cupy: StandInCupy, products: Products, transposed: str) -> None:
    trial = Trial(cupy, "relu_bias")
    for name in transposed:
        trial.arrays[name] = cupy.ascontiguousarray(trial.arrays[name].T).T
    trial.plan(products)()
    trial.check()


def shift(xp: Any, array: Any) -> Any:
    """Return a copy of an array as it lies in a vector, from its second element on."""
    shifted = xp.zeros(array.size + 1, dtype=array.dtype)[1:].reshape(array.shape)
    shifted[...] = array
    return shifted


@pytest.mark.parametrize("shifted", ["a", "b", "out"])
def test_matrices_in_a_vector_need_no_alignment(cupy: StandInCupy, products: Products, shifted: str) -> None:
    trial = Trial(cupy, "bias")
    trial.arrays[shifted] = shift(cupy, trial.arrays[shifted])
    trial.plan(products)()
    trial.check()


# How it is called


def test_call_is_one_product_of_what_the_arrays_hold_then(cupy: StandInCupy, products: Products) -> None:
    a, b, out, biases = (cupy.ones(shape, dtype="float32") for shape in ((2, 3), (3, 2), (2, 2), (1, 2)))
    call = products.plan(Product(a, b, out), "bias", biases)
    assert cupy.products == []
    assert out.tolist() == [[1, 1], [1, 1]]
    a[...], biases[...] = 2, 3
    assert cupy.counted(call) == {"products": 1}
    assert out.tolist() == [[9, 9], [9, 9]]


def test_call_runs_in_the_then_current_stream_and_can_be_captured(cupy: StandInCupy, products: Products) -> None:
    trial = Trial(cupy, "relu_bias")
    out = trial.arrays["out"]
    call = trial.plan(products)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert cupy.counted(call) == {}
        graph = stream.end_capture()
    assert np.isnan(out.get()).all()
    assert cupy.counted(graph.launch) == {"launches": 1, "products": 1}
    trial.check()
    out[...] = np.nan
    with stream:
        call()  # the stand-in refuses another stream
    trial.check()


def test_arrays_and_descriptors_live_as_long_as_the_call(cupy: StandInCupy, cublaslt: NvmathCublasLt) -> None:
    products = products_of(cupy, cublaslt)
    trial = Trial(cupy, "relu_bias")
    held = [weakref.ref(array._memory) for array in trial.arrays.values()]
    call = trial.plan(products)
    del trial, products
    gc.collect()
    call()
    assert None not in [memory() for memory in held]
    assert cublaslt.live == ["Description", "Handle", "Layout", "Layout", "Layout"]
    del call
    gc.collect()
    assert [memory() for memory in held] == [None] * 4
    assert cublaslt.live == []


# What cannot be planned


def test_epilogue_that_the_library_refuses(cupy: StandInCupy) -> None:
    cublaslt = NvmathCublasLt(cupy, unsupported=["RELU_BIAS"])
    products = products_of(cupy, cublaslt)
    with pytest.raises(Unsupported, match=r"^cuBLASLt 130100 answers CUBLAS_STATUS_NOT_SUPPORTED \(15\)$"):
        Trial(cupy, "relu_bias").plan(products)
    assert cublaslt.live == ["Handle"]
    trial = Trial(cupy, "bias")
    trial.plan(products)()
    trial.check()


def test_biases_of_another_dtype_than_the_result(cupy: StandInCupy, products: Products) -> None:
    trial = Trial(cupy, "bias")
    trial.arrays["biases"] = trial.arrays["biases"].astype("float64")
    with pytest.raises(Unsupported, match=r"^cuBLASLt adds no float64 biases to float32$"):
        trial.plan(products)


@pytest.mark.parametrize(("column", "value"), [("count", 0), ("state", 15)])
def test_search_that_finds_nothing(
    cupy: StandInCupy, monkeypatch: pytest.MonkeyPatch, column: str, value: int
) -> None:
    search = NvmathCublasLt.matmul_algo_get_heuristic

    def find_nothing(self: NvmathCublasLt, *arguments: int) -> None:
        search(self, *arguments)
        wanted, results, count = arguments[-3:]
        assert wanted == 1  # as many as there is room for
        if column == "count":
            values_at(count, "int32")[0] = value
        else:
            values_at(results, self.matmul_heuristic_result_dtype)["state"] = value

    monkeypatch.setattr(NvmathCublasLt, "matmul_algo_get_heuristic", find_nothing)
    cublaslt = NvmathCublasLt(cupy)
    products = products_of(cupy, cublaslt)
    with pytest.raises(Unsupported, match=r"^cuBLASLt 130100 has no algorithm$"):
        Trial(cupy, "bias").plan(products)
    assert cublaslt.live == ["Handle"]


def refused(cupy: StandInCupy) -> dict[str, tuple[dict[str, Any], str]]:
    """Return changes to the product (5, 3) · (3, 4) with "bias", each with what it is refused for."""

    def zeros(*shape: int) -> DeviceArray:
        return cupy.zeros(shape, dtype="float32")

    contiguous = "what a product writes to and its biases must be C-contiguous"
    return {
        "a too long": ({"a": zeros(5, 2)}, r"\(5, 2\) · \(3, 4\) is not of shape \(5, 4\)"),
        "a too high": ({"a": zeros(6, 3)}, r"\(6, 3\) · \(3, 4\) is not of shape \(5, 4\)"),
        "b too wide": ({"b": zeros(3, 5)}, r"\(5, 3\) · \(3, 5\) is not of shape \(5, 4\)"),
        "a with gaps": ({"a": zeros(5, 6)[:, ::2]}, "an operand is neither C-contiguous nor the transpose of that"),
        "b with gaps": ({"b": zeros(3, 8)[:, ::2]}, "an operand is neither C-contiguous nor the transpose of that"),
        "out transposed": ({"out": zeros(4, 5).T}, contiguous),
        "biases with gaps": ({"biases": zeros(1, 8)[:, ::2]}, contiguous),
        "few biases": ({"biases": zeros(1, 3)}, "there must be 4 biases, not 3"),
    }


@pytest.mark.parametrize("change", refused(StandInCupy()))
def test_what_cublaslt_could_not_address_is_refused(cupy: StandInCupy, products: Products, change: str) -> None:
    changes, message = refused(cupy)[change]
    trial = Trial(cupy, "bias")
    trial.arrays |= changes
    with pytest.raises(ValueError, match=f"^{message}$"):
        trial.plan(products)


def test_nothing_is_released_as_python_ends(
    cupy: StandInCupy, cublaslt: NvmathCublasLt, monkeypatch: pytest.MonkeyPatch
) -> None:
    # CUDA may have ended before, and takes no calls then.
    made = []
    real = weakref.finalize

    def finalize(*arguments: Any) -> Any:
        made.append(real(*arguments))
        return made[-1]

    monkeypatch.setattr(weakref, "finalize", finalize)
    products = products_of(cupy, cublaslt)
    call = Trial(cupy, "bias").plan(products)
    assert [one.atexit for one in made] == [False, False]
    del call, products


def test_fault_while_planning_releases_what_was_made(
    cupy: StandInCupy, cublaslt: NvmathCublasLt, products: Products
) -> None:
    trial = Trial(cupy, "bias")
    trial.arrays["b"] = trial.arrays["b"].astype("int32")
    with pytest.raises(KeyError):
        trial.plan(products)
    assert cublaslt.live == ["Handle"]


def test_fault_of_a_product_is_the_librarys(cupy: StandInCupy, products: Products) -> None:
    call = Trial(cupy, "bias").plan(products)
    cupy.failure = CUBLASError("CUBLAS_STATUS_EXECUTION_FAILED")
    with pytest.raises(CUBLASError, match="EXECUTION_FAILED"):
        call()


# On a GPU


@pytest.fixture
def products_on_gpu(gpu: Backend) -> Products:
    reason = "nvmath-python, with whose cuBLASLt products are planned, is not installed"
    cublaslt = pytest.importorskip("nvmath.bindings.cublasLt", reason=reason)
    with gpu.computing():
        return Products(gpu.xp, cublaslt, gpu.xp.empty(2**25, dtype="uint8"))


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(600, 784, 64), (600, 64, 10), (64, 600, 130)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_product_and_epilogue_on_a_gpu_are_numpys(
    gpu: Backend, products_on_gpu: Products, epilogue: str, precision: str, shape: tuple[int, int, int]
) -> None:
    if precision not in gpu.precisions:
        pytest.skip(f"{gpu.device_name} does not compute in {precision}")
    with gpu.computing():
        trial = Trial(gpu.xp, epilogue, shape, precision, scale=0.25)
        aligned = trial.arrays["b"]
        for trial.arrays["b"] in (aligned, shift(gpu.xp, aligned)):
            call = trial.plan(products_on_gpu)
            for _ in range(2):
                trial.arrays["out"].fill(np.nan)
                call()
                trial.check()


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(600, 64, 10), (600, 64, 64), (600, 784, 128)])
def test_relu_on_a_gpu_passes_nan_on(gpu: Backend, products_on_gpu: Products, shape: tuple[int, int, int]) -> None:
    """In float32; in tf32 some algorithms make 0 of it, and in float16 all that were seen."""
    with gpu.computing():
        trial = Trial(gpu.xp, "relu_bias", shape)
        trial.arrays["a"][3].fill(np.nan)
        trial.plan(products_on_gpu)()
        out = trial.arrays["out"].get()
        assert np.isnan(out).sum(axis=1).tolist() == [out.shape[1] if row == 3 else 0 for row in range(len(out))]
