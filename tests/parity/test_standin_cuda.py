"""The stand-in's cuBLAS, devices and faults."""

import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from parity.standin import CUBLASError, CUDARuntimeError, NvmathCublas, OutOfMemoryError, StandInCupy


@pytest.fixture
def cupy() -> StandInCupy:
    return StandInCupy()


TYPE_NUMBERS = {"float16": 2, "float32": 0, "float64": 1}
FACTORS = {"float16": "float32", "float32": "float32", "float64": "float64"}
COMPUTE = {"float16": 68, "float32": 68, "float64": 70}


def multiply(
    cupy: StandInCupy, left: Any, right: Any, out: Any, scale: float = 1, keep: float = 0, **changes: Any
) -> None:
    """Write left · right to out, all stored by rows: to cuBLAS, rightᵀ · leftᵀ stored by columns."""
    factors = np.array([scale, keep], dtype=FACTORS[out.dtype.name])
    arguments = {
        "handle": cupy.cuda.get_cublas_handle(),
        "transa": 0,
        "transb": 0,
        "m": out.shape[1],
        "n": out.shape[0],
        "k": left.shape[1],
        "alpha": factors.ctypes.data,
        "A": right.data.ptr,
        "Atype": TYPE_NUMBERS[right.dtype.name],
        "lda": right.shape[1],
        "B": left.data.ptr,
        "Btype": TYPE_NUMBERS[left.dtype.name],
        "ldb": left.shape[1],
        "beta": factors.ctypes.data + factors.itemsize,
        "C": out.data.ptr,
        "Ctype": TYPE_NUMBERS[out.dtype.name],
        "ldc": out.shape[1],
        "computeType": COMPUTE[out.dtype.name],
        "algo": -1,
    } | changes
    cupy.cuda.cublas.gemmEx(*arguments.values())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("scale", "keep"), [(1, 0), (0.5, 0), (0.5, 2)])
def test_product_is_carried_out_from_addresses(cupy: StandInCupy, dtype: str, scale: float, keep: float) -> None:
    a, b, c = (np.arange(rows * columns).reshape(rows, columns) for rows, columns in ((2, 4), (4, 3), (2, 3)))
    devices = [cupy.asarray(matrix, dtype=dtype) for matrix in (a, b, c)]
    assert cupy.counted(lambda: multiply(cupy, *devices, scale=scale, keep=keep)) == {"products": 1}
    np.testing.assert_array_equal(devices[2].get(), scale * (a @ b) + keep * c)
    assert cupy.products == [COMPUTE[dtype]]


def test_product_of_turned_and_strided_matrices(cupy: StandInCupy) -> None:
    # aᵀ · bᵀ for a (4, 2), b (3, 4), each the left part of a wider matrix.
    a, b = np.arange(20.0).reshape(4, 5), np.arange(21.0).reshape(3, 7)
    c = cupy.zeros((2, 9))
    turned = {"transa": 1, "transb": 1, "m": 3, "n": 2, "k": 4, "lda": 7, "ldb": 5, "ldc": 9}
    multiply(cupy, cupy.asarray(a), cupy.asarray(b), c, **turned)
    expected = np.zeros((2, 9))
    expected[:, :3] = a[:, :2].T @ b[:, :4].T
    np.testing.assert_array_equal(c.get(), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "k", "n"), [(60, 31, 17), (1, 40, 5), (40, 7, 1)])
def test_product_has_the_bits_of_numpys(cupy: StandInCupy, dtype: str, m: int, k: int, n: int) -> None:
    generator = np.random.default_rng(m)
    a, b = (generator.standard_normal(shape).astype(dtype) for shape in ((m, k), (k, n)))
    c = cupy.empty((m, n), dtype=dtype)
    multiply(cupy, cupy.asarray(a), cupy.asarray(b), c)
    np.testing.assert_array_equal(c.get(), np.dot(a, b))


HOST_MATRIX = np.ones((3, 3), dtype="float32")

WRONG_PRODUCTS: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "matrix of the host": (lambda c: {"A": HOST_MATRIX.ctypes.data}, "does not lie in live memory of the device"),
    "result on the host": (lambda c: {"C": HOST_MATRIX.ctypes.data}, "does not lie in live memory"),
    "beyond the end": (lambda c: {"C": c.data.ptr + 4}, "does not lie in live memory"),
    "wider than it is": (lambda c: {"ldb": 4}, "does not lie in live memory"),
    "stride": (lambda c: {"lda": 2}, "CUBLAS_STATUS_INVALID_VALUE"),
    "factor on the device": (lambda c: {"alpha": c.data.ptr}, "the factor at .* lies in the device's memory"),
    "other factor on the device": (lambda c: {"beta": c.data.ptr}, "the factor at .* lies in the device's memory"),
    "types of operands": (lambda c: {"Atype": 2}, "CUBLAS_STATUS_NOT_SUPPORTED"),
    "narrower result": (lambda c: {"Ctype": 2}, "CUBLAS_STATUS_NOT_SUPPORTED"),
    "compute type": (lambda c: {"computeType": 70}, "CUBLAS_STATUS_NOT_SUPPORTED"),
    "handle": (lambda c: {"handle": 0}, "CUBLAS_STATUS_NOT_INITIALIZED"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG_PRODUCTS.values(), ids=WRONG_PRODUCTS)
def test_wrong_product_is_refused(cupy: StandInCupy, changes: Callable[[Any], dict[str, Any]], message: str) -> None:
    a, b, c = (cupy.ones((3, 3), dtype="float32") for _ in range(3))
    with pytest.raises(CUBLASError, match=message):
        multiply(cupy, a, b, c, **changes(c))
    assert cupy.products == []


def test_freed_memory_is_refused_and_a_views_is_not(cupy: StandInCupy) -> None:
    a, c = cupy.ones((2, 2)), cupy.empty((2, 2))
    row = cupy.ones((3, 2))[1:]
    multiply(cupy, a, row, c)  # the view keeps its memory
    assert c.tolist() == [[2.0, 2.0], [2.0, 2.0]]
    address = row.data.ptr
    del row
    with pytest.raises(CUBLASError, match="does not lie in live memory"):
        multiply(cupy, a, a, c, A=address)


def test_faults_are_those_asked_for() -> None:
    runtime = StandInCupy(driver=12080, devices=2, major=7, name="GPU").cuda.runtime
    assert (runtime.driverGetVersion(), runtime.getDeviceCount()) == (12080, 2)
    assert runtime.getDeviceProperties(1).items() >= {"name": "GPU", "major": 7}.items()
    runtime = StandInCupy(driver=CUDARuntimeError("none"), devices=CUDARuntimeError("neither")).cuda.runtime
    with pytest.raises(runtime.CUDARuntimeError, match="none"):
        runtime.driverGetVersion()
    with pytest.raises(runtime.CUDARuntimeError, match="neither"):
        runtime.getDeviceCount()


def test_failing_products_raise_what_they_are_told(cupy: StandInCupy) -> None:
    ones = cupy.ones((2, 2))
    cupy.failure = OutOfMemoryError("full")
    for attempt in (lambda: cupy.dot(ones, ones), lambda: ones @ ones, lambda: multiply(cupy, ones, ones, ones)):
        with pytest.raises(cupy.cuda.memory.OutOfMemoryError, match="full"):
            attempt()


def test_devices_and_events_note_what_is_done_with_them(cupy: StandInCupy) -> None:
    device = cupy.cuda.Device(0)
    assert (device.id, device.mem_info) == (0, (8 * 2**30, 10 * 2**30))
    device.synchronize()
    assert device.waits == 1
    events = [cupy.cuda.Event() for _ in range(2)]
    for event in events:
        event.record()
    assert cupy.cuda.get_elapsed_time(*events) == 1000
    assert cupy.get_default_memory_pool().total_bytes() >= cupy.get_default_memory_pool().free_bytes()


def test_late_failure_is_told_to_whoever_waits(cupy: StandInCupy) -> None:
    x = cupy.ones((2, 2))
    cupy.late_failure = CUDARuntimeError("cudaErrorIllegalAddress")
    cupy.dot(x + x, x)
    for wait in (x.get, cupy.cuda.Device().synchronize, cupy.cuda.Event().synchronize):
        with pytest.raises(CUDARuntimeError, match="cudaErrorIllegalAddress"):
            wait()


# Several devices


@pytest.fixture
def two() -> StandInCupy:
    return StandInCupy(devices=2, memory=[(1, 2), (3, 4)], pool=[(5, 6), (7, 8)])


def test_device_is_current_where_it_was_entered_and_on_that_thread(two: StandInCupy) -> None:
    def current() -> tuple[int, int]:
        return two.cuda.Device().id, two.ones(1).data.device_id

    first, second = two.cuda.Device(0), two.cuda.Device(1)
    assert current() == (0, 0)
    with second:
        with second, first:
            assert current() == (0, 0)
        assert current() == (1, 1)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(current).result() == (0, 0)
    assert current() == (0, 0)
    with pytest.raises(CUDARuntimeError, match="cudaErrorInvalidDevice"), two.cuda.Device(2):
        pass


def test_each_device_has_its_memory_and_its_pool(two: StandInCupy) -> None:
    pool = two.get_default_memory_pool()
    assert [two.cuda.Device(index).mem_info for index in (0, 1)] == [(1, 2), (3, 4)]
    assert (pool.free_bytes(), pool.total_bytes()) == (5, 6)
    with two.cuda.Device(1):
        assert (pool.free_bytes(), pool.total_bytes()) == (7, 8)


ON_ANOTHER_DEVICE: dict[str, Callable[[Any, Any], Any]] = {
    "operator": lambda cp, x: x + 1,
    "operator with a number on the left": lambda cp, x: 1 + x,
    "operator in place": lambda cp, x: operator.iadd(x, 1),
    "with an array of the current device": lambda cp, x: cp.ones((2, 2)) + x,
    "out": lambda cp, x: cp.add(cp.ones((2, 2)), 1, out=x),
    "where": lambda cp, x: cp.where(cp.ones((2, 2)), x, 0),
    "reduction": lambda cp, x: cp.sum(x),
    "method": lambda cp, x: x.argmax(axis=1),
    "copy": lambda cp, x: x.copy(),
    "astype": lambda cp, x: x.astype("float32"),
    "contiguous": lambda cp, x: cp.ascontiguousarray(x.T),
    "copyto": lambda cp, x: cp.copyto(cp.empty((2, 2)), x),
    "stack": lambda cp, x: cp.stack([x, x]),
    "CuPy's product": lambda cp, x: x @ x,
    "assigned": lambda cp, x: operator.setitem(cp.ones((2, 2)), ..., x),
    "assigned to": lambda cp, x: operator.setitem(x, ..., cp.ones((2, 2))),
    "filled": lambda cp, x: x.fill(0),
    "indexed by the current device": lambda cp, x: x[cp.zeros(2, dtype="int64")],
    "index": lambda cp, x: cp.ones(3)[x],
    "mask": lambda cp, x: x[x > 0],
    "get": lambda cp, x: x.get(),
    "asnumpy": lambda cp, x: cp.asnumpy(x),
    "float": lambda cp, x: float(x[0, 0]),
    "set": lambda cp, x: x.set(np.ones((2, 2))),
    "fused": lambda cp, x: cp.fuse(lambda a, b: cp.add(a, b, out=a))(cp.ones((2, 2)), x),
    "captured kernel": lambda cp, x: captured(cp, lambda: cp.add(x, 1, out=x)),
}


@pytest.mark.parametrize("attempt", ON_ANOTHER_DEVICE.values(), ids=ON_ANOTHER_DEVICE)
def test_arrays_of_another_device_are_refused(two: StandInCupy, attempt: Callable[[Any, Any], Any]) -> None:
    message = r"^The device where the array resides \(1\) is different from the current device \(0\)\."
    with two.cuda.Device(1):
        x = two.ones((2, 2))
    with pytest.raises(ValueError, match=message):
        attempt(two, x)
    with two.cuda.Device(1):
        assert x.tolist() == [[1, 1], [1, 1]]


def test_what_touches_no_element_takes_arrays_of_any_device(two: StandInCupy) -> None:
    with two.cuda.Device(1):
        x = two.ones((2, 3))
    for view in (x.T, x[0], x[None, :, 1:], x.reshape(-1), x.view(), two.broadcast_to(x, (4, 2, 3))):
        assert view.data.device_id == 1
    assert (np.shape(x), len(x), two.zeros_like(x).data.device_id) == ((2, 3), 2, 0)


@pytest.mark.parametrize("copy", ["array", "asarray"])
def test_array_is_copied_to_the_current_device(two: StandInCupy, copy: str) -> None:
    with two.cuda.Device(1):
        x = two.asarray([[1.0, 2.0], [3.0, 4.0]])
    y = getattr(two, copy)(x, dtype="float32")
    assert y.data.device_id == 0
    assert y.dtype == np.float32
    assert y.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(NotImplementedError, match="non-contiguous array between devices"):
        getattr(two, copy)(x[:, 0])


def test_products_of_another_device_are_refused(two: StandInCupy) -> None:
    x = two.ones((2, 2))
    handle = two.cuda.get_cublas_handle()
    with two.cuda.Device(1):
        with pytest.raises(CUBLASError, match="does not lie in live memory of the device"):
            multiply(two, x, x, x)
        x = two.ones((2, 2))
        with pytest.raises(CUBLASError, match="the handle is of cuda:0, but cuda:1 is current"):
            multiply(two, x, x, x, handle=handle)
        assert two.cuda.get_cublas_handle() == two.cuda.get_cublas_handle() != handle
        multiply(two, x, x, out := two.empty((2, 2)))
        assert out.tolist() == [[2, 2], [2, 2]]


def test_events_streams_and_graphs_are_of_the_device_that_was_current(two: StandInCupy) -> None:
    with two.cuda.Device(1):
        x, event, stream = two.zeros((2, 2)), two.cuda.Event(), two.cuda.Stream(non_blocking=True)
        event.record()
        graph = captured(two, lambda: x.fill(1))
        with stream, two.cuda.Device(0):
            assert two.cuda.get_current_stream().ptr == 0
    with pytest.raises(CUDARuntimeError, match="cudaErrorInvalidResourceHandle"):
        event.record()
    other = two.cuda.Event()
    other.record()
    with pytest.raises(CUDARuntimeError, match="cudaErrorInvalidResourceHandle"):
        two.cuda.get_elapsed_time(event, other)
    with pytest.raises(RuntimeError, match=r"the stream is created on \(1\) does not match .* \(0\)"), stream:
        pass
    with pytest.raises(RuntimeError, match="a graph of cuda:1 is launched while cuda:0 is current"):
        graph.launch()
    with two.cuda.Device(1):
        graph.launch()
        assert x.tolist() == [[1, 1], [1, 1]]


# Streams and graphs


def captured(cupy: StandInCupy, work: Callable[[], Any]) -> Any:
    with cupy.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        work()
        return stream.end_capture()


def compiled_double(cupy: StandInCupy) -> Any:
    """Return a fused function that doubles a matrix in place, and has done so once."""

    def double(x: Any) -> None:
        cupy.multiply(x, 2, out=x)

    double = cupy.fuse(double)
    double(cupy.ones((1, 1)))
    return double


def test_captured_work_is_done_and_counted_when_the_graph_is_launched(cupy: StandInCupy) -> None:
    x, total = cupy.asarray(np.arange(6.0).reshape(2, 3)), cupy.zeros(3)
    double = compiled_double(cupy)

    def work() -> None:
        double(x)
        x[:, 0] = x[:, 1]
        cupy.sum(x, 0, None, total)
        cupy.copyto(x[0], total)

    assert cupy.kernels == ["double"]
    graph = captured(cupy, work)
    assert (x.tolist(), total.tolist(), cupy.kernels) == ([[0, 1, 2], [3, 4, 5]], [0, 0, 0], ["double"])
    assert cupy.counted(graph.launch) == {"launches": 1, "kernels": 1}
    assert total.tolist() == [2 + 8, 2 + 8, 4 + 10]
    assert x.tolist() == [[10, 10, 14], [8, 8, 10]]


REFUSED_IN_CAPTURE: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "wait": (lambda cp, x: x.get(), "get"),
    "device": (lambda cp, x: cp.cuda.Device().synchronize(), "synchronize"),
    "stream": (lambda cp, x: cp.cuda.get_current_stream().synchronize(), "synchronize"),
    "truth": (lambda cp, x: bool(x[0, 0]), "bool"),
    "transfer": (lambda cp, x: x.set(np.ones((2, 2))), "set"),
    "array of the host": (lambda cp, x: cp.asarray(np.ones(2)), "asarray"),
    "new array": (lambda cp, x: x + 1, "add"),
    "copy": (lambda cp, x: x.astype("float32"), "astype"),
    "kernel not compiled": (lambda cp, x: cp.fuse(lambda x: None, kernel_name="new")(x), "new is compiled"),
}


@pytest.mark.parametrize(("attempt", "message"), REFUSED_IN_CAPTURE.values(), ids=REFUSED_IN_CAPTURE)
def test_what_a_capture_refuses_makes_it_invalid(
    cupy: StandInCupy, attempt: Callable[[Any, Any], Any], message: str
) -> None:
    x = cupy.ones((2, 2))
    with cupy.cuda.Stream() as stream:
        stream.begin_capture()
        with pytest.raises(CUDARuntimeError, match=rf"cudaErrorStreamCaptureUnsupported: .*{message}"):
            attempt(cupy, x)
        with pytest.raises(CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()
        stream.begin_capture()
        stream.end_capture()


def test_products_of_cupy_are_refused_in_a_capture(cupy: StandInCupy) -> None:
    x = cupy.ones((2, 2))
    for attempt in (lambda: cupy.dot(x, x, out=x), lambda: x @ x, lambda: multiply(cupy, x, x, x)):
        with pytest.raises(NotImplementedError, match="calling cuBLAS API during stream capture"):
            captured(cupy, attempt)
        cupy.streams[-1].captured = None


def test_streams_are_captured_once_at_a_time_and_not_the_default_one(cupy: StandInCupy) -> None:
    with pytest.raises(RuntimeError, match="cannot capture on the default"):
        cupy.cuda.get_current_stream().begin_capture()
    stream = cupy.cuda.Stream()
    with pytest.raises(CUDARuntimeError, match="is not captured"):
        stream.end_capture()
    stream.begin_capture()
    with pytest.raises(CUDARuntimeError, match="is captured already"):
        stream.begin_capture()


def test_graph_holds_no_memory(cupy: StandInCupy) -> None:
    double = compiled_double(cupy)
    for work in (double, lambda x: x.fill(1), lambda x: cupy.exp(x, out=x)):
        x = cupy.ones((2, 2))
        graph = captured(cupy, lambda work=work, x=x: work(x))
        graph.launch()
        del x
        with pytest.raises(RuntimeError, match="memory that was freed"):
            graph.launch()


def test_allocator_is_asked_and_put_back(cupy: StandInCupy) -> None:
    asked: list[int] = []
    with cupy.cuda.using_allocator(asked.append):
        cupy.empty((2, 3))
    cupy.empty(5)
    assert asked == [48]


def multiply_with_nvmath(cupy: StandInCupy, cublas: NvmathCublas, a: Any, out: Any, handle: int) -> None:
    """Write a · a to out, 3 by 3 and equal to their transposes, as `multiply` does."""
    factors = np.array([1, 0], dtype=out.dtype)
    alpha, beta = factors.ctypes.data, factors.ctypes.data + factors.itemsize
    operand = (a.data.ptr, 1, 3)
    cublas.gemm_ex(handle, 0, 0, 3, 3, 3, alpha, *operand, *operand, beta, out.data.ptr, 1, 3, 70, -1)


def test_handle_of_one_library_is_none_of_another(cupy: StandInCupy) -> None:
    a, out, cublas = cupy.ones((3, 3)), cupy.zeros((3, 3)), NvmathCublas(cupy)
    cublas.create()
    for handle in (cupy.cuda.get_cublas_handle(), NvmathCublas(cupy).create()):
        with pytest.raises(CUBLASError, match="NOT_INITIALIZED"):
            multiply_with_nvmath(cupy, cublas, a, out, handle)


def test_products_of_nvmath_are_captured_where_they_have_a_workspace(cupy: StandInCupy) -> None:
    a, out, cublas = cupy.ones((3, 3)), cupy.zeros((3, 3)), NvmathCublas(cupy)
    workspace = cupy.empty(4096, dtype="uint8")
    handle = cublas.create()
    multiply_with_nvmath(cupy, cublas, a, out, handle)
    assert out.tolist() == [[3] * 3] * 3
    a[...] = 2
    with cupy.cuda.Stream() as stream:
        with pytest.raises(CUBLASError, match="another stream"):
            multiply_with_nvmath(cupy, cublas, a, out, handle)
        cublas.set_workspace(handle, workspace.data.ptr, workspace.nbytes)
        cublas.set_stream(handle, stream.ptr)  # which takes the workspace away
        stream.begin_capture()
        with pytest.raises(CUBLASError, match="a workspace would be allocated"):
            multiply_with_nvmath(cupy, cublas, a, out, handle)
        cublas.set_workspace(handle, workspace.data.ptr, workspace.nbytes)
        multiply_with_nvmath(cupy, cublas, a, out, handle)
        graph = stream.end_capture()
    assert out.tolist() == [[3] * 3] * 3
    graph.launch()
    assert out.tolist() == [[12] * 3] * 3
    assert cupy.products == [70, 70]
    del workspace
    with pytest.raises(CUBLASError, match="the workspace does not lie in live memory"):
        graph.launch()
    with pytest.raises(CUBLASError, match="CUBLAS_STATUS_NOT_INITIALIZED"):
        multiply_with_nvmath(cupy, cublas, a, out, 1)


def test_product_of_a_graph_needs_its_matrices(cupy: StandInCupy) -> None:
    a, out, cublas = cupy.ones((3, 3)), cupy.zeros((3, 3)), NvmathCublas(cupy)
    workspace = cupy.empty(4096, dtype="uint8")
    handle = cublas.create()
    with cupy.cuda.Stream() as stream:
        cublas.set_stream(handle, stream.ptr)
        cublas.set_workspace(handle, workspace.data.ptr, workspace.nbytes)
        stream.begin_capture()
        multiply_with_nvmath(cupy, cublas, a, out, handle)
        graph = stream.end_capture()
    del a
    with pytest.raises(CUBLASError, match="does not lie in live memory"):
        graph.launch()
