"""The stand-in's cuBLASLt: the product from descriptors and addresses, and what it refuses."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.standin import CUBLASError, NvmathCublasLt, StandInCupy

A = np.array([[1.0, 2, 3], [4, 5, 6]])
B = np.array([[1.0, -2, 3, 0], [0, 1, -1, 2], [2, 0, -1, -3]])
BIAS, RELU_BIAS = 4, 6
FLOAT32, FLOAT64, COMPUTE_32F = 0, 1, 68


class Product:
    """(2, 3) · (3, 4) in float32, by the library's own calls; what a test changes, it changes before `find` or `run`.

    The library sees the transposes: (4, 3) · (3, 2), stored by columns.
    """

    def __init__(self, cupy: StandInCupy) -> None:
        self.cupy = cupy
        self.lt = NvmathCublasLt(self.cupy)
        self.a, self.b = (self.cupy.asarray(matrix, dtype="float32") for matrix in (A, B))
        self.out = self.cupy.zeros((2, 4), dtype="float32")
        self.workspace = self.cupy.empty(4096, dtype="uint8")
        self.handle = self.lt.create()
        self.description = self.lt.matmul_desc_create(COMPUTE_32F, FLOAT32)
        self.layouts = SimpleNamespace(
            a=self.lt.matrix_layout_create(FLOAT32, 4, 3, 4),
            b=self.lt.matrix_layout_create(FLOAT32, 3, 2, 3),
            c=self.lt.matrix_layout_create(FLOAT32, 4, 2, 4),
        )
        self.preference = self.lt.matmul_preference_create()
        self.prefer("MAX_WORKSPACE_BYTES", 4096)
        for matrix in "ABCD":
            self.prefer(f"MIN_ALIGNMENT_{matrix}_BYTES", 4)
        self.results = np.zeros(1, dtype=self.lt.matmul_heuristic_result_dtype)
        self.factors = np.array([1, 0], dtype="float32")
        self.stream = 0

    def describe(self, name: str, value: int, dtype: Any = None) -> None:
        attribute = self.lt.MatmulDescAttribute[name]
        buffer = np.array([value], dtype=dtype or self.lt.get_matmul_desc_attribute_dtype(attribute))
        self.lt.matmul_desc_set_attribute(self.description, attribute, buffer.ctypes.data, buffer.nbytes)

    def prefer(self, name: str, value: int) -> None:
        attribute = self.lt.MatmulPreferenceAttribute[name]
        buffer = np.array([value], dtype=self.lt.get_matmul_preference_attribute_dtype(attribute))
        self.lt.matmul_preference_set_attribute(self.preference, attribute, buffer.ctypes.data, buffer.nbytes)

    def find(self) -> None:
        layouts, found = self.layouts, np.zeros(1, dtype="int32")
        self.lt.matmul_algo_get_heuristic(
            *(self.handle, self.description, layouts.a, layouts.b, layouts.c, layouts.c, self.preference),
            *(1, self.results.ctypes.data, found.ctypes.data),
        )
        assert found.tolist() == [1]

    def run(self) -> None:
        layouts, alpha = self.layouts, self.factors.ctypes.data
        self.lt.matmul(
            *(self.handle, self.description, alpha, self.b.data.ptr, layouts.a, self.a.data.ptr, layouts.b),
            *(alpha + 4, self.out.data.ptr, layouts.c, self.out.data.ptr, layouts.c, self.results.ctypes.data),
            *(self.workspace.data.ptr, self.workspace.nbytes, self.stream),
        )


@pytest.fixture
def product() -> Product:
    return Product(StandInCupy())


def test_product_is_numpys(product: Product) -> None:
    product.find()
    assert product.results["workspace_size"].tolist() == [4096]
    product.factors[0] = 2
    assert product.cupy.counted(product.run) == {"products": 1}
    np.testing.assert_array_equal(product.out.get(), 2 * A @ B)


def add_biases(product: Product, biases: Any, epilogue: int = BIAS) -> None:
    product.describe("EPILOGUE", epilogue)
    product.describe("BIAS_POINTER", biases.data.ptr)


# 2 · A · B is [[14, 0, -4, -10], [32, -6, 2, -16]].
@pytest.mark.parametrize(
    ("epilogue", "expected"),
    [(BIAS, [[14, -1, -1, 10], [32, -7, 5, 4]]), (RELU_BIAS, [[14, 0, 0, 10], [32, 0, 5, 4]])],
)
def test_biases_are_added_to_each_row(product: Product, epilogue: int, expected: list[list[float]]) -> None:
    biases = product.cupy.asarray([0, -1, 3, 20], dtype="float32")
    add_biases(product, biases, epilogue)
    product.find()
    product.factors[0] = 2
    product.run()
    assert product.out.tolist() == expected


# What is refused


def mix_types(product: Product) -> None:
    product.layouts.a = product.lt.matrix_layout_create(FLOAT64, 4, 3, 4)


def mismatch(product: Product) -> None:
    product.layouts.a = product.lt.matrix_layout_create(FLOAT32, 4, 2, 4)


def scale_in_double(product: Product) -> None:
    product.description = product.lt.matmul_desc_create(COMPUTE_32F, FLOAT64)


NOT_FOUND: dict[str, tuple[Callable[[Product], None], str]] = {
    "types": (mix_types, "NOT_SUPPORTED"),
    "scale type": (scale_in_double, "NOT_SUPPORTED"),
    "shapes": (mismatch, "the layouts do not match"),
    "no biases": (lambda product: product.describe("EPILOGUE", BIAS), "the epilogue has no bias pointer"),
    "handle": (lambda product: product.lt.destroy(product.handle), "is no live Handle"),
}


@pytest.mark.parametrize(("change", "message"), NOT_FOUND.values(), ids=NOT_FOUND)
def test_no_algorithm_is_found(product: Product, change: Callable[[Product], None], message: str) -> None:
    change(product)
    with pytest.raises(CUBLASError, match=message):
        product.find()


def leave_the_device(product: Product) -> None:
    host = np.zeros((2, 3), dtype="float32")
    product.a = SimpleNamespace(data=SimpleNamespace(ptr=host.ctypes.data), held=host)


def put_factors_on_the_device(product: Product) -> None:
    factors = product.cupy.ones(2, dtype="float32")
    product.factors = SimpleNamespace(ctypes=SimpleNamespace(data=factors.data.ptr), held=factors)


def change_stream(product: Product) -> None:
    product.stream = 1


def shrink_workspace(product: Product) -> None:
    product.workspace = product.cupy.empty(4095, dtype="uint8")


def lose_workspace(product: Product) -> None:
    host = np.empty(4096, dtype="uint8")
    product.workspace = SimpleNamespace(data=SimpleNamespace(ptr=host.ctypes.data), nbytes=4096, held=host)


REFUSED: dict[str, tuple[Callable[[Product], None], str]] = {
    "stream": (change_stream, "runs in another stream"),
    "small workspace": (shrink_workspace, "less than 4096 bytes of workspace"),
    "foreign workspace": (lose_workspace, "the workspace does not lie in live memory"),
    "foreign memory": (leave_the_device, "does not lie in live memory of the device"),
    "factors": (put_factors_on_the_device, "is read on the host"),
    "descriptor changed since": (
        lambda product: product.describe("TRANSA", 0),
        "the algorithm was not found for this product",
    ),
    "no algorithm": (lambda product: product.results.fill(0), "the algorithm was not found for this product"),
    "descriptor": (
        lambda product: product.lt.matmul_desc_destroy(product.description),
        "is no live Description",
    ),
    "layout": (lambda product: product.lt.matrix_layout_destroy(product.layouts.c), "is no live Layout"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_product_is_refused(product: Product, change: Callable[[Product], None], message: str) -> None:
    product.find()
    change(product)
    with pytest.raises(CUBLASError, match=message):
        product.run()
    assert product.cupy.products == []


def test_alignment_that_was_promised_is_asked_for(product: Product) -> None:
    product.prefer("MIN_ALIGNMENT_D_BYTES", 16)
    product.find()
    vector = product.cupy.zeros(9, dtype="float32")
    start = 1 if vector.data.ptr % 16 == 0 else 0
    product.out = vector[start : start + 8].reshape(2, 4)
    with pytest.raises(CUBLASError, match="is not aligned to 16 bytes"):
        product.run()


def test_biases_are_asked_to_be_aligned_and_to_live(product: Product) -> None:
    biases = product.cupy.zeros(8, dtype="float32")
    add_biases(product, biases[1:])
    product.find()
    with pytest.raises(CUBLASError, match="is not aligned to 16 bytes"):
        product.run()
    add_biases(product, biases)
    product.find()
    del biases
    with pytest.raises(CUBLASError, match="does not lie in live memory of the device"):
        product.run()


def test_handle_memory_and_stream_of_another_device_are_refused() -> None:
    product = Product(StandInCupy(devices=2))
    product.find()
    with product.cupy.cuda.Device(1):
        with pytest.raises(CUBLASError, match="the handle is of cuda:0, but cuda:1 is current"):
            product.find()
        with pytest.raises(CUBLASError, match="the handle is of cuda:0, but cuda:1 is current"):
            product.run()
        product.handle = product.lt.create()
        with pytest.raises(CUBLASError, match="does not lie in live memory of the device"):
            product.run()
        a, b, out = product.a, product.b, product.out
        product.a, product.b, product.out = (product.cupy.array(array) for array in (a, b, out))
        with pytest.raises(CUBLASError, match="the workspace does not lie in live memory of the device"):
            product.run()
        product.workspace = product.cupy.array(product.workspace)
        product.run()
        assert product.out.tolist() == (A @ B).tolist()
        with product.cupy.cuda.Device(0), product.cupy.cuda.Stream() as stream:
            product.stream = stream.ptr
        with pytest.raises(CUBLASError, match="runs in another stream"):
            product.run()


def test_addend_is_not_modelled(product: Product) -> None:
    product.find()
    product.factors[1] = 1
    with pytest.raises(NotImplementedError, match="without C"):
        product.run()


def test_nothing_is_released_twice(product: Product) -> None:
    product.lt.matrix_layout_destroy(product.layouts.a)
    with pytest.raises(CUBLASError, match="is no live Layout"):
        product.lt.matrix_layout_destroy(product.layouts.a)


def test_graph_refuses_memory_that_was_freed(product: Product) -> None:
    product.find()
    stream = product.cupy.cuda.Stream()
    product.stream = stream.ptr
    with stream:
        stream.begin_capture()
        product.run()
        graph = stream.end_capture()
    graph.launch()
    np.testing.assert_array_equal(product.out.get(), A @ B)
    del product.a
    with pytest.raises(CUBLASError, match="does not lie in live memory of the device"):
        graph.launch()


def test_attribute_of_another_size(product: Product) -> None:
    with pytest.raises(CUBLASError, match="the attribute takes int32, not 8 bytes"):
        product.describe("TRANSA", 1, dtype="int64")


def test_columns_closer_than_they_are_high(product: Product) -> None:
    with pytest.raises(CUBLASError, match="columns of 4 elements, 3 apart"):
        product.lt.matrix_layout_create(FLOAT32, 4, 3, 3)
