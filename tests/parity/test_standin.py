"""The stand-in for CuPy: each thing that it must refuse is tried, each count is made, the rest is NumPy's result."""

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity.standin import DeviceArray, StandInCupy
from parity.standin.tables import ARRAY_METHODS, CONSTANTS, CREATION, ELEMENTWISE, FUNCTIONS, TYPES, UFUNCS

HERE = Path(__file__).name


@pytest.fixture
def cupy() -> StandInCupy:
    return StandInCupy()


HOST = np.array([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0]])

# Refused: (what is tried on the module and an array of the device, exception, part of its message)

REFUSED: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    # Conversion that nobody asked for.
    "asarray": (lambda cp, x: np.asarray(x), TypeError, "Implicit conversion to a NumPy array is not allowed"),
    "array of a list": (lambda cp, x: np.array([x, x]), TypeError, "Implicit conversion"),
    "assignment to the host": (lambda cp, x: operator.setitem(HOST.copy(), ..., x), TypeError, "Implicit"),
    "testing": (lambda cp, x: np.testing.assert_array_equal(x, HOST), TypeError, "Implicit conversion"),
    "index of a list": (lambda cp, x: [1, 2][x[0, 0]], TypeError, "must be integers"),
    "range": (lambda cp, x: range(x[0, 0]), TypeError, "cannot be interpreted as an integer"),
    "buffer": (lambda cp, x: memoryview(x), TypeError, "bytes-like"),
    "hash": (lambda cp, x: hash(x), TypeError, "unhashable"),
    "truth of many": (lambda cp, x: bool(x), ValueError, "ambiguous"),
    "iteration over a number": (lambda cp, x: iter(x[0, 0]), TypeError, "0-d array"),
    "length of a number": (lambda cp, x: len(x[0, 0]), TypeError, "unsized"),
    # Host and device mixed.
    "device + host": (lambda cp, x: x + HOST, TypeError, "Unsupported type <class 'numpy.ndarray'>"),
    "host + device": (lambda cp, x: HOST + x, TypeError, "Unsupported type <class 'numpy.ndarray'>"),
    "device += host": (lambda cp, x: operator.iadd(x, HOST), TypeError, "Unsupported type"),
    "host += device": (lambda cp, x: operator.iadd(HOST.copy(), x), TypeError, "Unsupported type"),
    "device == host": (lambda cp, x: x == HOST, TypeError, "Unsupported type"),
    "device @ host": (lambda cp, x: x @ HOST.T, TypeError, "Unsupported type"),
    "host @ device": (lambda cp, x: HOST.T @ x, TypeError, "Unsupported type"),
    "NumPy's function": (lambda cp, x: np.add(x, HOST), TypeError, "Unsupported type"),
    "NumPy's function that CuPy lacks": (lambda cp, x: np.heaviside(x, 0), TypeError, "NotImplemented"),
    "NumPy's method": (lambda cp, x: np.add.reduce(x), TypeError, "NotImplemented"),
    "NumPy's reduction that CuPy lacks": (lambda cp, x: np.nancumsum(x), TypeError, "no implementation"),
    "host argument": (lambda cp, x: cp.maximum(x, HOST), TypeError, "Unsupported type"),
    "host out": (lambda cp, x: cp.exp(x, out=HOST.copy()), TypeError, "Unsupported type"),
    "host out of a reduction": (lambda cp, x: cp.sum(x, axis=0, out=HOST[0].copy()), TypeError, "Unsupported"),
    "host in a list": (lambda cp, x: cp.concatenate([x, HOST]), TypeError, "Unsupported type"),
    "reduction of the host": (lambda cp, x: cp.sum(HOST), TypeError, "Unsupported type"),
    "reduction of a list": (lambda cp, x: cp.sum([1.0, 2.0]), TypeError, "Unsupported type <class 'list'>"),
    "list in arithmetic": (lambda cp, x: x * [1.0, 2.0, 3.0], TypeError, "Unsupported type <class 'list'>"),
    "host for host's sake": (lambda cp, x: cp.exp(HOST), TypeError, "Unsupported type"),
    "host assigned": (lambda cp, x: operator.setitem(x, ..., HOST), ValueError, "non-scalar numpy.ndarray"),
    "host row assigned": (lambda cp, x: operator.setitem(x, 0, HOST[0]), ValueError, "non-scalar numpy.ndarray"),
    "list assigned": (lambda cp, x: operator.setitem(x, 0, [1, 2, 3]), TypeError, "Unsupported type"),
    "host index": (lambda cp, x: x[np.array([0, 1])], TypeError, "an index of the host"),
    "list index": (lambda cp, x: x[[0, 1]], TypeError, "an index of the host"),
    "host mask": (lambda cp, x: x[HOST > 0], TypeError, "an index of the host"),
    "host index to write to": (lambda cp, x: operator.setitem(x, np.array([0]), 1), TypeError, "index of the host"),
    "set of another shape": (lambda cp, x: x.set(HOST[0]), TypeError, "same shape and dtype"),
    "array of another stand-in": (lambda cp, x: x + StandInCupy().ones(3), ValueError, "another stand-in"),
    # What CuPy lacks, or the tables.
    "function": (lambda cp, x: cp.heaviside(x, 0), AttributeError, "no cupy.heaviside"),
    "method": (lambda cp, x: x.newbyteorder(), AttributeError, "no 'newbyteorder'"),
    "parameter": (lambda cp, x: cp.sum(x, where=x > 0), TypeError, r"cupy\.sum takes no where"),
    "parameter of an element-wise function": (lambda cp, x: cp.exp(x, where=x > 0), TypeError, "takes no where"),
    "parameter of a method": (
        lambda cp, x: x.astype("f", casting="safe"),
        TypeError,
        "ndarray.astype takes no casting",
    ),
    "too many arguments of a method": (
        lambda cp, x: x.squeeze(0, 1),
        TypeError,
        "takes 1 positional arguments, got 2",
    ),
    "too many arguments": (lambda cp, x: cp.argmax(x, 0, None), TypeError, "takes 2 positional arguments, got 3"),
    "where for indices": (lambda cp, x: cp.where(x > 0), TypeError, "takes 3 arrays or scalars by position"),
    "narrowing out": (lambda cp, x: cp.exp(x, out=cp.empty((2, 3), dtype="int64")), TypeError, "same_kind"),
}


@pytest.mark.parametrize(("attempt", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(cupy: StandInCupy, attempt: Callable[[Any, Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attempt(cupy, cupy.asarray(HOST))


# Counted

COUNTED: dict[str, tuple[Callable[[Any, Any], Any], dict[str, int]]] = {
    "get": (lambda cp, x: x.get(), {"synchronisations": 1, "transfers_to_host": 1}),
    "asnumpy": (lambda cp, x: cp.asnumpy(x), {"synchronisations": 1, "transfers_to_host": 1}),
    "asnumpy of the host": (lambda cp, x: cp.asnumpy(HOST), {}),
    "tolist": (lambda cp, x: x.tolist(), {"synchronisations": 1, "transfers_to_host": 1}),
    "item": (lambda cp, x: x[0, 0].item(), {"synchronisations": 1, "transfers_to_host": 1}),
    "iteration": (lambda cp, x: list(x), {"synchronisations": 1, "implicit": 1}),
    "mask": (lambda cp, x: x[x > 0], {"synchronisations": 1, "implicit": 1, "allocations": 2}),
    "wait for the device": (lambda cp, x: cp.cuda.Device().synchronize(), {"synchronisations": 1}),
    "wait for an event": (lambda cp, x: cp.cuda.Event().synchronize(), {"synchronisations": 1}),
    "asarray": (lambda cp, x: cp.asarray(HOST), {"transfers_to_device": 1, "allocations": 1}),
    "asarray of a list": (lambda cp, x: cp.asarray([1, 2]), {"transfers_to_device": 1, "allocations": 1}),
    "array": (lambda cp, x: cp.array(HOST), {"transfers_to_device": 1, "allocations": 1}),
    "set": (lambda cp, x: x.set(HOST), {"transfers_to_device": 1}),
    "asarray of the device": (lambda cp, x: cp.asarray(x), {}),
    "asarray of another dtype": (lambda cp, x: cp.asarray(x, dtype="float32"), {"allocations": 1}),
    "copy": (lambda cp, x: cp.array(x), {"allocations": 1}),
    "new array": (lambda cp, x: cp.zeros((2, 3)), {"allocations": 1}),
    "like another": (lambda cp, x: cp.empty_like(x), {"allocations": 1}),
    "operator": (lambda cp, x: x + 1, {"allocations": 1}),
    "two operators": (lambda cp, x: 2 * x + 1, {"allocations": 2}),
    "operator in place": (lambda cp, x: operator.iadd(x, 1), {}),
    "out": (lambda cp, x: cp.exp(x, out=x), {}),
    "out by position": (lambda cp, x: cp.exp(x, x), {}),
    "reduction": (lambda cp, x: x.sum(axis=0), {"allocations": 1}),
    "reduction to a number": (lambda cp, x: x.sum(), {"allocations": 1}),
    "out of a reduction": (lambda cp, x: cp.sum(x, axis=1, out=x[:, 0]), {}),
    "views": (lambda cp, x: (x[0], x[0, 0], x[:, 1:], x.T, x.reshape(-1), x[None], x.view()), {}),
    "turned and flat": (lambda cp, x: x.T.reshape(-1), {"allocations": 1}),
    "contiguous": (lambda cp, x: cp.ascontiguousarray(x), {}),
    "not contiguous": (lambda cp, x: cp.ascontiguousarray(x.T), {"allocations": 1}),
    "indices of the device": (lambda cp, x: x[cp.zeros(2, dtype="int64")], {"allocations": 2}),
    "filling": (lambda cp, x: (operator.setitem(x, ..., 0), x.fill(1.0)), {}),
    "assignment": (lambda cp, x: operator.setitem(x, 0, x[1]), {}),
    "what is known": (lambda cp, x: (x.shape, x.dtype, x.size, len(x), x.flags, x.strides, x.nbytes, x.data), {}),
    "shape, as NumPy asks": (lambda cp, x: np.shape(x), {}),
}


@pytest.mark.parametrize(("work", "expected"), COUNTED.values(), ids=COUNTED)
def test_counted(cupy: StandInCupy, work: Callable[[Any, Any], Any], expected: dict[str, int]) -> None:
    array = cupy.asarray(HOST)
    assert cupy.counted(lambda: work(cupy, array)) == expected


@pytest.mark.parametrize("read", [float, int, complex, bool, str, repr, "{:.1f}".format, lambda x: 1 if x else 0])
def test_reading_a_number_is_an_implicit_synchronisation(cupy: StandInCupy, read: Callable[[Any], Any]) -> None:
    number = cupy.asarray(HOST).max()
    assert cupy.counted(lambda: read(number)) == {"synchronisations": 1, "implicit": 1, "transfers_to_host": 1}
    assert read(number) == read(np.array(5.0))


def test_an_event_tells_its_place(cupy: StandInCupy) -> None:
    float(cupy.ones(()))
    assert cupy.implicit[0].startswith(f"float() at {HERE}:")
    number = int(cupy.implicit[0].rpartition(":")[2])
    assert "float(cupy.ones(()))" in Path(__file__).read_text(encoding="utf-8").splitlines()[number - 1]


def test_counts_belong_to_one_stand_in(cupy: StandInCupy) -> None:
    other = StandInCupy()
    float(other.ones(()))
    assert cupy.synchronisations == cupy.implicit == cupy.allocations == []


# Allowed: NumPy's result


@pytest.mark.parametrize("name", UFUNCS)
def test_elementwise_function_is_numpys(cupy: StandInCupy, name: str) -> None:
    function = getattr(np, name)
    dtype = "int64" if name.startswith("bitwise") or name.endswith("shift") or name == "invert" else "float32"
    arguments = [np.array([1, 2, 3], dtype=dtype), np.array([[3], [2]], dtype=dtype)][: function.nin]
    expected = function(*arguments)
    devices = [cupy.asarray(argument) for argument in arguments]
    result = getattr(cupy, name)(*devices)
    assert isinstance(result, DeviceArray)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result.get(), expected)
    out = cupy.empty(expected.shape, dtype=expected.dtype)
    assert getattr(cupy, name)(*devices, out=out) is out
    np.testing.assert_array_equal(out.get(), expected)
    np.testing.assert_array_equal(function(*devices).get(), expected)  # by NumPy's name, as CuPy has it


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "where": lambda xp, x: xp.where(x > 0, x, 0),
    "clip": lambda xp, x: xp.clip(x, -1, 2),
    "empty": lambda xp, x: xp.empty((2, 0), dtype="float32"),
    "zeros": lambda xp, x: xp.zeros((2, 3), dtype="float32"),
    "ones": lambda xp, x: xp.ones(3),
    "full": lambda xp, x: xp.full((2, 2), 7.0),
    "arange": lambda xp, x: xp.arange(2, 9, 3, dtype="uint8"),
    "array": lambda xp, x: xp.array([[1, 2]], dtype="float16"),
    "asarray": lambda xp, x: xp.asarray(x, dtype="float32"),
    "ascontiguousarray": lambda xp, x: xp.ascontiguousarray(x.T),
    "empty_like": lambda xp, x: xp.empty_like(x[:0]),
    "zeros_like": lambda xp, x: xp.zeros_like(x, dtype="int8"),
    "ones_like": lambda xp, x: xp.ones_like(x),
    "full_like": lambda xp, x: xp.full_like(x, 3),
    "copyto": lambda xp, x: xp.copyto(x, x[0]) or x,
    "reshape": lambda xp, x: xp.reshape(x, (3, 2)),
    "transpose": lambda xp, x: xp.transpose(x),
    "ravel": lambda xp, x: xp.ravel(x.T),
    "broadcast_to": lambda xp, x: xp.broadcast_to(x, (2, 2, 3)),
    "expand_dims": lambda xp, x: xp.expand_dims(x, 1),
    "concatenate": lambda xp, x: xp.concatenate([x, x], axis=1),
    "stack": lambda xp, x: xp.stack((x[0], x[1]), axis=1),
    "shape": lambda xp, x: xp.shape(x),
    "ndim": lambda xp, x: xp.ndim(x),
    "take": lambda xp, x: xp.take(x, xp.asarray([2, 0]), axis=1),
    "sum": lambda xp, x: xp.sum(x, axis=1, keepdims=True, dtype="float32"),
    "prod": lambda xp, x: xp.prod(x),
    "mean": lambda xp, x: xp.mean(x, axis=0),
    "max": lambda xp, x: xp.max(x, axis=1, keepdims=True),
    "min": lambda xp, x: xp.min(x),
    "any": lambda xp, x: xp.any(x > 4, axis=0),
    "all": lambda xp, x: xp.all(x > -9),
    "argmax": lambda xp, x: xp.argmax(x, axis=1),
    "argmin": lambda xp, x: xp.argmin(x),
    "cumsum": lambda xp, x: xp.cumsum(x, axis=1),
    "argsort": lambda xp, x: xp.argsort(x, axis=1),
    "sort": lambda xp, x: xp.sort(x, axis=1),
    "dot": lambda xp, x: xp.dot(x, x.T, out=xp.empty((2, 2))),
    "matmul": lambda xp, x: xp.matmul(x.T, x),
    "outer": lambda xp, x: xp.outer(x[0], x[1]),
    "vdot": lambda xp, x: xp.vdot(x, x),
}
EXPRESSIONS: dict[str, Callable[[Any, Any], Any]] = {
    "arithmetic": lambda xp, x: (2 - x) * x / 3 + x**2 - (-x) // 2 + abs(x) % 2,
    "in place": lambda xp, x: operator.imul(operator.isub(operator.iadd(x.copy(), x), 1), 2),
    "comparison": lambda xp, x: ((x > 0) & (x <= 3) | (x == 5) | (x < -5)) ^ (x >= 4) & ~(x != 4),
    "product": lambda xp, x: x @ x.T,
    "bool is a number": lambda xp, x: x - (x > 0),
    "NumPy's scalar from the left": lambda xp, x: np.float64(2) * x,
    "indexing": lambda xp, x: x[xp.arange(2), xp.asarray([2, 0])],
    "mask": lambda xp, x: x[x > 0],
    "one element": lambda xp, x: x[1, 2],
    "view of one element": lambda xp, x: x[0, 1] + x[..., 1],
    "astype": lambda xp, x: x.astype("float16"),
    "flatten": lambda xp, x: x.T.flatten(),
    "methods": lambda xp, x: x.reshape(3, 2).transpose().ravel().squeeze().swapaxes(0, 0).view(),
    "reductions": lambda xp, x: x.max(axis=0) + x.min(axis=0) + x.sum(axis=0) + x.mean() + x.argmax(axis=0),
    "by NumPy's name": lambda xp, x: np.sum(x, axis=1),
}


def test_every_function_of_the_tables_is_called_here() -> None:
    assert CALLS.keys() == ELEMENTWISE.keys() | CREATION.keys() | FUNCTIONS.keys()


@pytest.mark.parametrize("call", [*CALLS.values(), *EXPRESSIONS.values()], ids=[*CALLS, *EXPRESSIONS])
def test_result_is_numpys(cupy: StandInCupy, call: Callable[[Any, Any], Any]) -> None:
    expected, result = call(np, HOST.copy()), call(cupy, cupy.asarray(HOST))
    if isinstance(expected, np.ndarray | np.generic):
        assert isinstance(result, DeviceArray)
        assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
        result = result.get()
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("other", [2, 2.5, np.float16(2.5), np.float32(2.5), np.float64(2.5), np.int64(2), True])
def test_types_are_promoted_as_by_numpy_2(cupy: StandInCupy, dtype: str, other: Any) -> None:
    host = np.arange(3).astype(dtype)
    expected, result = host * other, cupy.asarray(host) * other
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result.get(), expected)


@pytest.mark.parametrize("name", [*TYPES, *CONSTANTS])
def test_types_and_constants_are_numpys(cupy: StandInCupy, name: str) -> None:
    assert getattr(cupy, name) is getattr(np, name)


@pytest.mark.parametrize("name", ARRAY_METHODS)
def test_writing_to_a_view_writes_to_the_array(cupy: StandInCupy, name: str) -> None:
    arguments = {"astype": ["float64"], "reshape": [3, 2], "swapaxes": [0, 1]}.get(name, [])
    host, device = HOST.copy(), cupy.asarray(HOST)
    for array in (host, device):
        getattr(array, name)(*arguments)[...] = 9
    np.testing.assert_array_equal(device.get(), host)


def test_assignment_is_numpys(cupy: StandInCupy) -> None:
    host, device = HOST.copy(), cupy.asarray(HOST)
    for xp, array in ((np, host), (cupy, device)):
        array[0] = 1.5
        array[1, 0] = np.float32(2)
        array[1, 1] = np.array(3.0)
        array[:, 2] = array[:, 0]
        array[xp.asarray([0])] += 1
    np.testing.assert_array_equal(device.get(), host)


def test_what_is_fetched_is_a_copy_and_what_is_sent_too(cupy: StandInCupy) -> None:
    host = HOST.copy()
    device = cupy.asarray(host)
    host[...] = 0
    device.get()[...] = 0
    np.testing.assert_array_equal(device.get(), HOST)
