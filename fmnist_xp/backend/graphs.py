"""CUDA graphs: all epochs from one logged to the next become one launch."""

import functools
import gc
import logging
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any, NoReturn

from fmnist_xp.backend.base import Call, Formula, Product, RowSum, Step, is_elementwise
from fmnist_xp.backend.cublaslt import BIAS_ALIGNMENT, Products, Unsupported
from fmnist_xp.backend.cuda import CudaBackend, first_line
from fmnist_xp.backend.kernels import vectorized
from fmnist_xp.errors import DeviceError

logger = logging.getLogger("fmnist_xp")

GRAPHS_INSTALL = "pip install nvmath-python"


class CudaGraphBackend(CudaBackend):
    """CuPy on one CUDA GPU, where work that is asked for again is captured once as a CUDA graph."""

    captures = True

    # What cuBLAS recommends for Hopper and Blackwell, and more than for others. One product runs at a time, in it.
    workspace_bytes = 32 * 2**20

    def __init__(self, index: int = 0, *, cupy: ModuleType | None = None, nvmath: Any = None) -> None:
        """Open device `index`.

        `cupy` and `nvmath` are the modules to compute with, by default the installed CuPy and `nvmath.bindings`:
        CuPy refuses to call cuBLAS while it captures. Raises `DeviceError` as `CudaBackend` does, and where
        nvmath-python is missing or cannot multiply.
        """
        super().__init__(index, cupy=cupy)
        nvmath = nvmath or import_nvmath()
        self._cublas = nvmath.cublas
        with _explained(f"nvmath-python cannot multiply on {self.name}"), self.computing():
            self._stream = self.xp.cuda.Stream(non_blocking=True)
            self._workspace = self.xp.empty(self.workspace_bytes, dtype="uint8")
            self._handle = self._cublas.create()
            self._products = Products(self.xp, nvmath.cublasLt, self._workspace)
            ones = self.xp.ones((2, 2), dtype="float32")
            self.dot(ones, ones, self.xp.empty_like(ones))
            self.synchronize()

    def calls(self, steps: Sequence[Step]) -> list[Call]:
        """Return the calls that take `steps`, of which some are taken together.

        A product takes along the biases and the ReLU that follow it, where cuBLASLt can. What is element-wise becomes
        a kernel of `vectorized` where that knows it, with the sums over the rows of what it writes.
        """
        calls: list[Call] = []
        done: set[int] = set()
        for index, step in enumerate(steps):
            if index in done:
                continue
            joined, last = self._joined(*steps[index : index + 2]), index + 1
            if not joined and isinstance(step, Formula) and is_elementwise(step.function):
                joined, last = self._vectorized(step, steps, index)
            done.update([last] if joined else [])
            calls += joined or super().calls([step])
        return calls

    def _vectorized(self, formula: Formula, steps: Sequence[Step], index: int) -> tuple[list[Call], int]:
        """Return the calls of a formula and of the sums over its result's rows, and which of `steps` these are."""
        output = formula.arguments[-1]
        for later, step in enumerate(steps[index + 1 :], start=index + 1):
            total = step.out if isinstance(step, RowSum) and step.values is output else None
            if total is not None and (calls := vectorized(self.xp, *formula, total)):
                return calls, later
            if not isinstance(step, Product) or step.out is output:  # which reads it, and no more
                break
        return vectorized(self.xp, *formula) or [], index

    def _joined(self, product: Step, formula: Step | None = None) -> list[Call]:
        """Return the calls of a product and of the formula that follows it as one; none where they stay two."""
        if not isinstance(product, Product) or not isinstance(formula, Formula):
            return []
        epilogue = getattr(formula.function, "epilogue", None)
        if epilogue is None:
            return []
        out = product.out
        values, biases, *output = formula.arguments
        if any(array is not out for array in (values, *output)):
            return []
        # Seen on a GPU: in halves cuBLASLt's ReLU makes 0 of NaN, and would hide that a training has diverged; in
        # doubles the product takes longer with it than both take apart.
        if out.dtype != "float32":
            return []
        before: list[Call] = []
        if biases.data.ptr % BIAS_ALIGNMENT:  # cuBLASLt takes no others
            given, biases = biases, self.xp.empty(biases.shape, dtype=biases.dtype)
            before = [(operator.setitem, (biases, ..., given))]
        try:
            plan = self._products.plan(product, epilogue, biases)
        except Unsupported as reason:
            logger.debug("%s", reason)
            return []
        return [*before, (plan, ())]

    def _gemm(self) -> Callable[..., None]:
        return self._multiply_in_current_stream

    def _multiply_in_current_stream(self, *arguments: Any) -> None:
        """Call cublasGemmEx, of nvmath-python, in CuPy's current stream."""
        cublas, workspace = self._cublas, self._workspace
        cublas.set_stream(self._handle, self.xp.cuda.get_current_stream().ptr)
        # With its stream, cuBLAS forgets its workspace, and would allocate one while it is captured.
        cublas.set_workspace(self._handle, workspace.data.ptr, workspace.nbytes)
        cublas.gemm_ex(self._handle, *arguments)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return the launch, in the then current stream, of a graph of what `work`, called before, asks for.

        Raises `DeviceError` where that cannot be captured: it waits for the device, allocates, or needs a library
        that CuPy does not capture.
        """
        with _explained(f"{self.name} ({self.device_name}) cannot capture an epoch as a CUDA graph"):
            return functools.partial(_launch, self._graph_of(work), work)

    def _graph_of(self, work: Callable[[], None]) -> Any:
        """Return the graph of what `work` asks of the device, which does none of it now."""
        with self.computing(), self._stream, self.xp.cuda.using_allocator(_refuse_memory), _without_collection():
            self._stream.begin_capture()
            try:
                work()
            except BaseException:
                with suppress(Exception):  # the stream must be set free; that this failed too is of no interest
                    self._stream.end_capture()
                raise
            return self._stream.end_capture()


@contextmanager
def _without_collection() -> Iterator[None]:
    """Let no cyclic garbage be collected: a cuBLAS handle in it, destroyed, waits for the device and ends a capture."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


@contextmanager
def _explained(failure: str) -> Iterator[None]:
    """Turn an exception into a `DeviceError` that says what failed, why, and that it can be done without."""
    try:
        yield
    except DeviceError:
        raise
    except Exception as error:
        raise DeviceError(f"{failure} ({first_line(error)}): compute without CUDA graphs") from error


def _refuse_memory(size: int) -> NoReturn:
    """Stand in for CuPy's allocator: memory that a graph writes to must not go back to the pool."""
    raise RuntimeError(f"{size} bytes of memory were asked for")


def _launch(graph: Any, _held: Callable[[], None]) -> None:
    """Launch a graph; the work that it was captured from holds its arrays and kernels."""
    graph.launch()


def import_nvmath() -> Any:
    """Return nvmath-python's bindings, cuBLAS and cuBLASLt among them; raise `DeviceError` where they do not load."""
    try:
        from nvmath import bindings
        from nvmath.bindings import cublas, cublasLt  # noqa: F401 (attributes of `bindings` from here on)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError)
        fault = "is not installed" if missing else f"does not load ({first_line(error)})"
        raise DeviceError(f"CUDA graphs were asked for, but nvmath-python {fault}: {GRAPHS_INSTALL}") from error
    return bindings
