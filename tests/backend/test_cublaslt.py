"""Products with epilogues on the stand-in: what they give, what is refused and held; on a GPU, what they give."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from parity.standin import CUBLASError, DeviceArray, NvmathCublasLt, StandInCupy

from fmnist_xp.backend import Backend
from fmnist_xp.backend.cublaslt import EPILOGUES, Products, Unsupported, mask_shape

# (compute, dtype of the operands, dtype of the result, tolerance)
PRECISIONS = {
    "float32": ("float32", "float32", "float32", 1e-6),
    "tf32": ("tf32", "float32", "float32", 1e-6),
    "float64": ("float64", "float64", "float64", 1e-14),
    "float16": ("float32", "float16", "float16", 1e-3),
    "float16 to float32": ("float32", "float16", "float32", 1e-6),
}
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
    """Operands of one product, what its epilogue takes and, by NumPy in float64, what it must give."""

    def __init__(
        self,
        xp: Any,
        epilogue: str | None,
        shape: tuple[int, int, int],
        operands: str,
        result: str,
        scale: float = 1.0,
    ) -> None:
        m, k, n = shape
        generator = np.random.default_rng(m + k + n)

        def made(*size: int) -> np.ndarray:
            # Eighths, which halves hold without rounding; zeros among the sums, too.
            return generator.integers(-16, 17, size).astype("float64") / 8

        def packed(values: np.ndarray) -> np.ndarray:
            bits = np.zeros((m, 8 * mask_shape(m, n)[1]), dtype=bool)
            bits[:, :n] = values
            return np.packbits(bits, axis=1, bitorder="little")

        a, b, biases, passed = made(m, k), made(k, n), made(1, n), generator.integers(0, 2, (m, n))
        out = scale * a @ b
        self.expected, self.options = {}, {}
        takes = EPILOGUES[epilogue][1]
        if "biases" in takes:
            self.options["biases"] = xp.asarray(biases, dtype=result)
            out = out + biases
        if epilogue == "relu_bias_aux":
            self.options["mask"] = xp.zeros(mask_shape(m, n), dtype="uint8")
            self.expected["mask"] = out > 0
        if epilogue in ("relu_bias", "relu_bias_aux"):
            out = np.where(out > 0, out, 0)
        if epilogue in ("drelu", "drelu_bgrad"):
            self.options["mask"] = xp.asarray(packed(passed))
            out = out * passed
        if "bias_gradient" in takes:
            self.options["bias_gradient"] = xp.full((1, n), np.nan, dtype=result)
            self.expected["bias_gradient"] = (b if epilogue == "bgrad" else out).sum(axis=0, keepdims=True)
        self.expected["out"] = out
        self.out = xp.full((m, n), np.nan, dtype=result)
        self.a, self.b = xp.asarray(a, dtype=operands), xp.asarray(b, dtype=operands)

    def check(self, tolerance: float) -> None:
        for name, expected in self.expected.items():
            found = {**self.options, "out": self.out}[name].get()
            if name == "mask":
                found = np.unpackbits(found, axis=1, bitorder="little", count=expected.shape[1])
            error = np.abs(found.astype("float64") - expected).max()
            assert error <= tolerance * max(1, np.abs(expected).max()), name


# What is computed


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_product_and_epilogue_are_numpys(
    cupy: StandInCupy, products: Products, epilogue: str | None, precision: str, shape: tuple[int, int, int]
) -> None:
    compute, operands, result, tolerance = PRECISIONS[precision]
    trial = Trial(cupy, epilogue, shape, operands, result)
    products.plan(trial.a, trial.b, trial.out, compute=compute, epilogue=epilogue, **trial.options)()
    trial.check(tolerance)
    numbers = {"float32": cupy.cuda.cublas.CUBLAS_COMPUTE_32F, "float64": cupy.cuda.cublas.CUBLAS_COMPUTE_64F}
    assert cupy.products == [numbers.get(compute, cupy.cuda.cublas.CUBLAS_COMPUTE_32F_FAST_TF32)]


@pytest.mark.parametrize("transposed", ["a", "b", "ab"])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_operands_may_be_transposed(
    cupy: StandInCupy, products: Products, epilogue: str | None, transposed: str
) -> None:
    trial = Trial(cupy, epilogue, (5, 3, 4), "float32", "float32")
    operands = [
        cupy.ascontiguousarray(matrix.T).T if name in transposed else matrix
        for name, matrix in (("a", trial.a), ("b", trial.b))
    ]
    products.plan(*operands, trial.out, epilogue=epilogue, **trial.options)()
    trial.check(1e-6)


@pytest.mark.parametrize("compute", ["float32", "float64"])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_scale_is_a_factor_of_the_product_alone(
    cupy: StandInCupy, products: Products, epilogue: str | None, compute: str
) -> None:
    trial = Trial(cupy, epilogue, (5, 3, 4), compute, compute, scale=0.25)
    products.plan(trial.a, trial.b, trial.out, scale=0.25, compute=compute, epilogue=epilogue, **trial.options)()
    trial.check(1e-6)


@pytest.mark.parametrize("shifted", ["a", "b", "out", "biases"])
def test_slices_of_a_vector_need_no_alignment(cupy: StandInCupy, products: Products, shifted: str) -> None:
    trial = Trial(cupy, "bias", (5, 3, 4), "float32", "float32")
    arrays = {"a": trial.a, "b": trial.b, "out": trial.out, "biases": trial.options["biases"]}
    array = arrays[shifted]
    vector = cupy.zeros(array.size + 1, dtype="float32")
    arrays[shifted] = vector[1:].reshape(array.shape)
    arrays[shifted][...] = array
    products.plan(arrays["a"], arrays["b"], arrays["out"], epilogue="bias", biases=arrays["biases"])()
    trial.out = arrays["out"]
    trial.check(1e-6)


def test_mask_has_rows_of_128_bits() -> None:
    assert [mask_shape(7, columns) for columns in (1, 128, 129)] == [(7, 16), (7, 16), (7, 32)]


# How it is called


def test_call_is_one_product_of_what_the_arrays_hold_then(cupy: StandInCupy, products: Products) -> None:
    a, b, out = cupy.ones((2, 3)), cupy.ones((3, 2)), cupy.zeros((2, 2))
    call = products.plan(a, b, out, compute="float64")
    assert cupy.products == []
    assert out.tolist() == [[0, 0], [0, 0]]
    a[...] = 2
    assert cupy.counted(call) == {"products": 1}
    assert out.tolist() == [[6, 6], [6, 6]]


def test_call_runs_in_the_then_current_stream_and_can_be_captured(cupy: StandInCupy, products: Products) -> None:
    trial = Trial(cupy, "drelu_bgrad", (5, 3, 4), "float32", "float32")
    call = products.plan(trial.a, trial.b, trial.out, epilogue="drelu_bgrad", **trial.options)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        assert cupy.counted(call) == {}
        graph = stream.end_capture()
    assert np.isnan(trial.out.get()).all()
    assert cupy.counted(graph.launch) == {"launches": 1, "products": 1}
    trial.check(1e-6)
    trial.out[...] = np.nan
    with stream:
        call()  # the stand-in refuses another stream
    trial.check(1e-6)


def test_arrays_and_descriptors_live_as_long_as_the_call(cupy: StandInCupy, cublaslt: NvmathCublasLt) -> None:
    products = products_of(cupy, cublaslt)
    trial = Trial(cupy, "relu_bias_aux", (5, 3, 4), "float32", "float32")
    arrays = [trial.a, trial.b, trial.out, *trial.options.values()]
    held = [weakref.ref(array._memory) for array in arrays]
    call = products.plan(trial.a, trial.b, trial.out, epilogue="relu_bias_aux", **trial.options)
    del trial, arrays, products
    gc.collect()
    call()
    assert None not in [memory() for memory in held]
    assert cublaslt.live == ["Description", "Layout", "Layout", "Layout", "str"]
    del call
    gc.collect()
    assert [memory() for memory in held] == [None] * 5
    assert cublaslt.live == []


# What cannot be planned


def unsupported(products: Products, trial: Trial, epilogue: str | None, reason: str) -> None:
    with pytest.raises(Unsupported, match=f"^cuBLASLt 130100 {reason}$"):
        products.plan(trial.a, trial.b, trial.out, epilogue=epilogue, **trial.options)


def test_epilogue_that_the_library_refuses(cupy: StandInCupy) -> None:
    cublaslt = NvmathCublasLt(cupy, unsupported=["BGRADA"])
    products = products_of(cupy, cublaslt)
    trial = Trial(cupy, "bgrad", (5, 3, 4), "float32", "float32")
    unsupported(products, trial, "bgrad", r"answers CUBLAS_STATUS_NOT_SUPPORTED \(15\)")
    assert cublaslt.live == ["str"]
    plain = Trial(cupy, None, (5, 3, 4), "float32", "float32")
    products.plan(plain.a, plain.b, plain.out)()
    plain.check(1e-6)


def test_biases_of_another_dtype_than_the_result(cupy: StandInCupy, products: Products) -> None:
    trial = Trial(cupy, "bias", (5, 3, 4), "float16", "float16")
    trial.options["biases"] = cupy.zeros((1, 4), dtype="float32")
    unsupported(products, trial, "bias", r"answers CUBLAS_STATUS_NOT_SUPPORTED \(15\)")


@pytest.mark.parametrize(("column", "value"), [("count", 0), ("state", 15)])
def test_search_that_finds_nothing(
    cupy: StandInCupy, monkeypatch: pytest.MonkeyPatch, column: str, value: int
) -> None:
    search = NvmathCublasLt.matmul_algo_get_heuristic

    def find_nothing(self: NvmathCublasLt, *arguments: int) -> None:
        search(self, *arguments)
        results, count = arguments[-2:]
        if column == "count":
            self._array(count, np.dtype("int32"), 1)[0] = value
        else:
            self._array(results, self.matmul_heuristic_result_dtype, 1)["state"] = value

    monkeypatch.setattr(NvmathCublasLt, "matmul_algo_get_heuristic", find_nothing)
    cublaslt = NvmathCublasLt(cupy)
    trial = Trial(cupy, "drelu", (5, 3, 4), "float16", "float32")
    reason = r"has no algorithm for \(5, 3\) · \(3, 4\) of float16 to float32 in float32 with epilogue drelu"
    unsupported(products_of(cupy, cublaslt), trial, "drelu", reason)
    gc.collect()
    assert cublaslt.live == []


def refused(cupy: StandInCupy) -> dict[str, tuple[dict[str, Any], str]]:
    """Return changes to the product (5, 3) · (3, 4) with "drelu_bgrad", each with what it is refused for."""

    def zeros(*shape: int, dtype: str = "float32") -> DeviceArray:
        return cupy.zeros(shape, dtype=dtype)

    return {
        "no mask": (
            {"mask": None},
            r"epilogue drelu_bgrad takes \['bias_gradient', 'mask'\], not \['bias_gradient'\]",
        ),
        "biases too": ({"biases": zeros(1, 4)}, r"not \['bias_gradient', 'biases', 'mask'\]"),
        "a too long": ({"a": zeros(5, 2)}, r"\(5, 2\) · \(3, 4\) is not of shape \(5, 4\)"),
        "a too high": ({"a": zeros(6, 3)}, r"\(6, 3\) · \(3, 4\) is not of shape \(5, 4\)"),
        "b too wide": ({"b": zeros(3, 5)}, r"\(5, 3\) · \(3, 5\) is not of shape \(5, 4\)"),
        "a with gaps": ({"a": zeros(5, 6)[:, ::2]}, "an operand is neither C-contiguous nor the transpose of that"),
        "b with gaps": ({"b": zeros(3, 8)[:, ::2]}, "an operand is neither C-contiguous nor the transpose of that"),
        "out transposed": ({"out": zeros(4, 5).T}, "what a product writes to and its biases must be C-contiguous"),
        "sums with gaps": ({"bias_gradient": zeros(1, 8)[:, ::2]}, "its biases must be C-contiguous"),
        "short sums": ({"bias_gradient": zeros(1, 3)}, "bias_gradient must have 4 values, not 3"),
        "narrow mask": (
            {"mask": zeros(5, 8, dtype="uint8")},
            r"the mask must be uint8 of shape \(5, 16\), not uint8 of \(5, 8\)",
        ),
        "mask of floats": ({"mask": zeros(5, 16)}, r"the mask must be uint8 of shape \(5, 16\), not float32 of"),
    }


@pytest.mark.parametrize("change", refused(StandInCupy()))
def test_what_cublaslt_could_not_address_is_refused(
    cupy: StandInCupy, cublaslt: NvmathCublasLt, products: Products, change: str
) -> None:
    changes, message = refused(cupy)[change]
    trial = Trial(cupy, "drelu_bgrad", (5, 3, 4), "float32", "float32")
    arguments = {"a": trial.a, "b": trial.b, "out": trial.out, **trial.options, **changes}
    with pytest.raises(ValueError, match=message):
        products.plan(epilogue="drelu_bgrad", **arguments)
    assert cublaslt.live == ["str"]


def test_fault_while_planning_releases_what_was_made(
    cupy: StandInCupy, cublaslt: NvmathCublasLt, products: Products
) -> None:
    a, out = cupy.ones((2, 2), dtype="float32"), cupy.zeros((2, 2), dtype="float32")
    with pytest.raises(KeyError):
        products.plan(a, cupy.ones((2, 2), dtype="int32"), out)
    assert cublaslt.live == ["str"]


def test_fault_of_a_product_is_the_librarys(cupy: StandInCupy, products: Products) -> None:
    ones = cupy.ones((2, 2))
    call = products.plan(ones, ones, cupy.zeros((2, 2)), compute="float64")
    cupy.failure = CUBLASError("CUBLAS_STATUS_EXECUTION_FAILED")
    with pytest.raises(CUBLASError, match="EXECUTION_FAILED"):
        call()


# On a GPU


@pytest.mark.cuda
@pytest.mark.parametrize("shape", [(600, 784, 64), (600, 64, 10), (64, 600, 130)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_product_and_epilogue_on_a_gpu_are_numpys(
    gpu: Backend, epilogue: str | None, precision: str, shape: tuple[int, int, int]
) -> None:
    reason = "nvmath-python, with whose cuBLASLt products are planned, is not installed"
    cublaslt = pytest.importorskip("nvmath.bindings.cublasLt", reason=reason)
    if precision.split()[0] not in gpu.precisions:
        pytest.skip(f"{gpu.device_name} does not compute in {precision}")
    compute, operands, result, tolerance = PRECISIONS[precision]
    with gpu.computing():
        products = Products(gpu.xp, cublaslt, gpu.xp.empty(2**25, dtype="uint8"))
        trial = Trial(gpu.xp, epilogue, shape, operands, result, scale=0.25)
        options = {"scale": 0.25, "compute": compute, "epilogue": epilogue, **trial.options}
        try:
            call = products.plan(trial.a, trial.b, trial.out, **options)
        except Unsupported as error:
            pytest.skip(str(error))
        for _ in range(2):
            trial.out.fill(np.nan)
            call()
            trial.check(tolerance)
