"""The stand-in's fused functions: NumPy's results, and what a GPU's kernel could not do is refused."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy


@pytest.fixture
def cupy() -> StandInCupy:
    return StandInCupy()


def halve(xp: Any, values: Any, output: Any) -> None:
    xp.multiply(values, 0.5, out=output)


def test_fused_function_is_numpys_and_allocates_nothing(cupy: StandInCupy) -> None:
    def formula(xp: Any, x: Any, by: Any, output: Any) -> None:
        y = xp.where((x > by) & (x != 3), -x, 2 * x)
        xp.exp(xp.maximum(y, by) - 0.5 * y.astype("float32") ** 2, out=output)

    x = np.linspace(-3, 3, 7, dtype="float32")
    expected = np.empty_like(x)
    formula(np, x, np.float32(0.3), expected)
    device, output = cupy.asarray(x), cupy.empty(7, dtype="float32")
    fused = cupy.fuse(kernel_name="mine")(lambda *arguments: formula(cupy, *arguments))
    work = cupy.counted(lambda: fused(device, np.float32(0.3), output))
    assert work == {"kernels": 1}
    assert (cupy.kernels, cupy.fused) == (["mine"], ["mine"])
    np.testing.assert_array_equal(output.get(), expected)


def test_fused_function_returns_new_arrays(cupy: StandInCupy) -> None:
    @cupy.fuse
    def twice(x: Any, y: Any) -> Any:
        return x + y, x - y

    arrays = [cupy.asarray([3.0, 4.0]), cupy.asarray(1.0)]
    assert cupy.counted(lambda: twice(*arrays)) == {"kernels": 1, "allocations": 2}
    assert [result.tolist() for result in twice(*arrays)] == [[4.0, 5.0], [2.0, 3.0]]
    assert cupy.fused == ["twice"]


def test_fused_function_may_call_another_and_write_with_dots(cupy: StandInCupy) -> None:
    @cupy.fuse
    def square(x: Any) -> Any:
        return x * x

    @cupy.fuse
    def both(x: Any, nothing: None, output: Any) -> None:
        assert nothing is None
        output[:] = square(x).copy()
        output[...] = 1.5

    array, output = cupy.asarray([3.0]), cupy.zeros(1)
    both(array, None, output)
    assert output.tolist() == [1.5]
    assert cupy.kernels == ["both"]


def test_fused_function_of_numbers_alone_is_a_function(cupy: StandInCupy) -> None:
    assert cupy.fuse(lambda x: x + 1, kernel_name="add")(2) == 3
    assert cupy.kernels == []


FUSED: dict[str, tuple[Callable[[Any, Any, Any], Any], type[Exception], str]] = {
    "branching": (lambda cp, x, y: x if x > 0 else y, TypeError, "Can't cast to bool"),
    "branching on a scalar": (lambda cp, x, y: y if cp.maximum(1.0, 2.0) else x, TypeError, "Can't cast to bool"),
    "reduction": (lambda cp, x, y: cp.sum(x), TypeError, "cupy.sum is not element-wise"),
    "product": (lambda cp, x, y: cp.dot(x, x), TypeError, "cupy.dot is not element-wise"),
    "new array": (lambda cp, x, y: cp.zeros(3), TypeError, "cupy.zeros is not element-wise"),
    "copy of the host": (lambda cp, x, y: cp.asarray([1.0]), TypeError, "cupy.asarray is not element-wise"),
    "array from outside": (lambda cp, x, y: x + OUTSIDE, TypeError, "Unsupported type"),
    "shape": (lambda cp, x, y: x.shape, AttributeError, "no 'shape'"),
    "index": (lambda cp, x, y: x[0], TypeError, "not subscriptable"),
    "assignment of a part": (lambda cp, x, y: operator.setitem(x, 0, 1), ValueError, "supports"),
    "conversion": (lambda cp, x, y: float(x), TypeError, "float"),
    "NumPy's function": (lambda cp, x, y: np.exp(x), TypeError, "does not support ufuncs"),
    "asarray": (lambda cp, x, y: np.asarray(x), TypeError, "Implicit conversion"),
    "parameter": (lambda cp, x, y: cp.exp(x, dtype="float32"), TypeError, "Wrong arguments"),
    "out that is no array": (lambda cp, x, y: cp.exp(x, out=1.0), TypeError, "must be of ArrayType"),
    "out that is a scalar": (lambda cp, x, y: cp.exp(1.0, out=cp.exp(2.0)), TypeError, "must be of ArrayType"),
    "narrow out": (lambda cp, x, y: cp.negative(y, out=y), ValueError, "each element would be written many times"),
    "narrow assignment": (lambda cp, x, y: operator.setitem(y, ..., 0), ValueError, "written many times"),
    "narrowing out": (lambda cp, x, y: cp.exp(1j * x, out=x), TypeError, "same_kind"),
    "result": (lambda cp, x, y: "x", TypeError, "can't return"),
}
OUTSIDE = StandInCupy().ones(3)


@pytest.mark.parametrize(("formula", "error", "message"), FUSED.values(), ids=FUSED)
def test_refused_in_a_fused_function(
    cupy: StandInCupy, formula: Callable[[Any, Any, Any], Any], error: type[Exception], message: str
) -> None:
    wide, narrow = cupy.ones((2, 3)), cupy.ones((2, 1))
    with pytest.raises(error, match=message):
        cupy.fuse(lambda x, y: formula(cupy, x, y))(wide, narrow)
    cupy.ones(1)  # the kernel is left also where it fails


def test_fused_function_refuses_arguments_of_the_host(cupy: StandInCupy) -> None:
    fused = cupy.fuse(lambda x, y: x + y)
    for argument in (np.ones((2, 3)), [1.0], "1"):
        with pytest.raises(TypeError, match="Invalid argument type"):
            fused(cupy.ones((2, 3)), argument)
    with pytest.raises(ValueError, match="another stand-in"):
        fused(cupy.ones(3), OUTSIDE)


def test_fused_function_may_write_in_place_but_not_to_what_overlaps(cupy: StandInCupy) -> None:
    fused = cupy.fuse(lambda x, y: halve(cupy, x, y), kernel_name="halve")
    array = cupy.asarray([1.0, 2.0, 3.0])
    fused(array, array)
    assert array.tolist() == [0.5, 1.0, 1.5]
    with pytest.raises(ValueError, match="halve reads and writes arrays that overlap"):
        fused(array[1:], array[:-1])
    with pytest.raises(ValueError, match="halve reads and writes arrays that overlap"):
        fused(array[:1], array)
