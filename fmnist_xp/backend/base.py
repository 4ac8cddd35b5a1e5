"""What every device offers: the interface that all code above takes `xp` and everything else from."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from fmnist_xp.errors import DeviceError
from fmnist_xp.registry import warn_renamed

if TYPE_CHECKING:
    from fmnist_xp.backend.channel import Channel

# An array of either module. NumPy's and CuPy's types share no base class, so the checker cannot say more.
Array: TypeAlias = Any


Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its positional arguments."""


class Product(NamedTuple):
    """See `Backend.dot`."""

    a: Array
    b: Array
    out: Array
    scale: float = 1.0
    tf32: bool = False


class RowSum(NamedTuple):
    """See `Backend.sum_rows`."""

    ones: Array
    values: Array
    out: Array
    tf32: bool = False

    @property
    def product(self) -> Product:
        """The same as a product, as a rule the fastest way."""
        return Product(self.ones.T, self.values, self.out, 1.0, self.tf32)


class Formula(NamedTuple):
    """See `Backend.compute`."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


Step: TypeAlias = Product | RowSum | Formula
"""What a backend can be asked to compute, now (`Backend.run`) or again and again (`Backend.calls`)."""


ELEMENTWISE: dict[str, Callable[..., Any]] = {}
"""The element-wise formulas by name."""


def elementwise(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a formula as element-wise: it becomes one kernel on a GPU. It writes its results with `out=`."""
    formula.elementwise = True  # type: ignore[attr-defined]
    ELEMENTWISE[formula.__name__] = formula
    return formula


def is_elementwise(formula: Callable[..., Any]) -> bool:
    """Return whether `formula` is marked so."""
    return getattr(formula, "elementwise", False)


def epilogue(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a formula (values, biases, …) that libraries compute along with the product that wrote `values`.

    `name` is "bias" for values + biases, "relu_bias" for max(values + biases, 0); in place.
    """

    def mark(formula: Callable[..., Any]) -> Callable[..., Any]:
        formula.epilogue = name  # type: ignore[attr-defined]
        return formula

    return mark


class Precision(NamedTuple):
    """How numbers are kept and multiplied.

    `parameters` is the dtype of parameters, gradients and moments, `operands` that of what enters a matrix product
    (inputs, weights, hidden activations). `tf32` lets products round float32 operands to 10 bits of mantissa. `wide`
    keeps what a layer computes in the dtype of the parameters, as a network's last layer does. `fused` says that only
    the fused engine trains in it.
    """

    parameters: str
    operands: str
    tf32: bool = False
    wide: bool = False
    fused: bool = False

    @property
    def outputs(self) -> str:
        """The dtype of a Dense layer's output."""
        return self.parameters if self.wide else self.operands


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "float32": Precision("float32", "float32"),
        "float64": Precision("float64", "float64"),
        "tf32": Precision("float32", "float32", tf32=True),
        "float16": Precision("float32", "float16"),
        # The fused engine's alone, whose operands are no dtype of NumPy's; all else is computed in tf32.
        "bfloat16": Precision("float32", "float32", tf32=True, fused=True),
    }
)


def precision_name(dtype: Any) -> str:
    """Return the name of a precision given as such or as a dtype (`np.float64`, `float`); raise `ValueError`."""
    name = dtype
    if dtype is not None and not isinstance(dtype, str):
        with suppress(TypeError):
            name = np.dtype(dtype).name
    if not isinstance(name, str) or name not in PRECISIONS:
        raise ValueError(f"dtype must be one of {', '.join(PRECISIONS)}, got {dtype!r}")
    return name


class Backend(ABC):
    """What the layers, losses, optimizers and the engine ask of a device.

    `name` is "cpu" or "cuda:<index>", `xp` the array module, `device_name` the hardware in words, `precisions` the
    names of those of `PRECISIONS` that the plain engine computes in, `threads` how many blocks of rows are worked on
    at once, `threads_given` whether that was chosen rather than found,
    `stages_blocks` whether a block's rows are copied to a buffer that stays in a cache before they are worked on,
    `captures` whether `captured` makes one launch of much work, `own_memory` whether arrays lie in memory of the
    device's own, `asynchronous` whether calls return before the device has done the work, and `cuda_index` the number
    of a CUDA device. `multiprocessors` is how many of them run kernels for tensor cores (`kernel`), 0 where there are
    none, and `shared_bytes` how much shared memory a block of threads of such a kernel may have.
    """

    name: str
    xp: ModuleType
    device_name: str
    precisions: tuple[str, ...] = ("float32", "float64")
    threads: int = 1
    threads_given: bool = True
    stages_blocks: bool = False
    captures: bool = False
    own_memory: bool = False
    asynchronous: bool = False
    cuda_index: int | None = None
    multiprocessors: int = 0
    shared_bytes: int = 0

    def __init__(self) -> None:
        """Start with nothing compiled."""
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __repr__(self) -> str:
        """Return the name and the hardware."""
        return f"<{type(self).__name__} {self.name}: {self.device_name}>"

    def __reduce__(self) -> tuple[Callable[[str], "Backend"], tuple[str]]:
        """Be the device of this name in a pickle.

        `get_backend` makes it where that is loaded, with the threads and the graphs that are usual there, or raises
        `DeviceError` where there is none.
        """
        from fmnist_xp.backend import get_backend

        return get_backend, (self.name,)

    def __copy__(self) -> "Backend":
        """Return this backend: a device has no copy."""
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Backend":
        """Return this backend: what computes on it is copied, and the copy computes on it too."""
        return self

    def manner(self, threads: int | None = None) -> str:
        """Return how it works, in words: on how many `threads` with which BLAS, with CUDA graphs or without."""
        threads = threads or self.threads
        return f"{threads} thread{'s' if threads > 1 else ''}"

    @property
    def arithmetic(self) -> str:
        """What the last bits of a sum depend on, besides the versions of the libraries: device and kernels."""
        return f"{self.name} ({self.device_name})"

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """Return `array` (of the host or of this device) as a C-contiguous array of this device."""
        return self.xp.ascontiguousarray(self.xp.asarray(array, dtype=dtype))

    def numbers(self, values: Any, name: str, dtype: Any = None) -> Array:
        """Return `values`, an array or nested lists of real numbers, as `asarray` does.

        Raises `ValueError`, naming the argument, for text, complex numbers and anything else that is no real number.
        """
        kind = getattr(getattr(values, "dtype", None), "kind", None)
        if kind is None:
            values = np.asarray(values)
            kind = values.dtype.kind
        if kind not in "biuf":
            raise ValueError(f"{name} must hold real numbers, got dtype {values.dtype}")
        return self.asarray(values, dtype)

    def check(self, array: Array, name: str) -> Array:
        """Return `array` (a list becomes one), or raise `ValueError` where it does not live on this backend."""
        if isinstance(array, self.xp.ndarray):
            return array
        if isinstance(array, list | tuple):
            return self.asarray(array)
        kind = type(array)
        raise ValueError(
            f"{name} is a {kind.__module__}.{kind.__qualname__}, but this object computes on {self.name} with "
            f"{self.xp.__name__} arrays: pass backend.asarray({name})"
        )

    def has_precision(self, name: str) -> bool:
        """Return whether an engine trains in the precision of this name: the plain one, or the fused one."""
        return name in self.precisions or (name in PRECISIONS and PRECISIONS[name].fused and self.multiprocessors > 0)

    def precision(self, dtype: Any) -> Precision:
        """Return the precision of this name, see `precision_name`.

        Raises `ValueError` where there is no such precision and `DeviceError` where this device lacks it.
        """
        name = precision_name(dtype)
        if not self.has_precision(name):
            raise DeviceError(
                f"{self.name} ({self.device_name}) does not compute in {name}: use {' or '.join(self.precisions)}"
            )
        return PRECISIONS[name]

    def compute(self, formula: Callable[..., Any], *arguments: Any) -> None:
        """Call `formula(xp, *arguments)`, which writes into arrays among its arguments; see `elementwise`.

        The first argument is an array. Python floats reach the formula as scalars of its dtype, so that both modules
        round them alike.
        """
        self.run(Formula(formula, arguments))

    def fuse(self, formula: Callable[..., Any]) -> Callable[..., None]:
        """Return `compute` for one formula, as versions before had it."""
        warn_renamed("backend.fuse(formula)(…)", "backend.compute(formula, …), and the formula marked @elementwise")
        return functools.partial(self.compute, formula)

    def dot(self, a: Array, b: Array, out: Array, scale: float = 1.0, tf32: bool = False) -> None:
        """Write scale · a · b to `out`: a (m, k), b (k, n), out (m, n) C-contiguous.

        `a` and `b` are of one dtype, C-contiguous or the transpose of that; `out` may be of a wider dtype on a GPU.
        Sums are kept in at least float32. `tf32` lets a GPU round float32 operands to 10 bits of mantissa.
        """
        self.run(Product(a, b, out, scale, tf32))

    def sum_rows(self, ones: Array, values: Array, out: Array, tf32: bool = False) -> None:
        """Write the sums of `values` (rows, n) over the rows to `out` (1, n); `ones` (rows, 1) are of its dtype."""
        self.dot(*RowSum(ones, values, out, tf32).product)

    def run(self, *steps: Step) -> None:
        """Compute `steps`, one after another."""
        for function, arguments in self.calls(steps):
            function(*arguments)

    def calls(self, steps: Sequence[Step]) -> list[Call]:
        """Return the calls that compute `steps`, again with each call, from what the same arrays hold then."""
        calls: list[Call] = []
        for step in steps:
            if isinstance(step, Formula):
                calls.append(self._formula_call(step))
            else:
                calls += self.dot_calls(step if isinstance(step, Product) else step.product)
        return calls

    @abstractmethod
    def dot_calls(self, product: Product) -> list[Call]:
        """Return the calls that compute one product."""

    def _formula_call(self, step: Formula) -> Call:
        function, arguments = step
        compiled = self._compiled.get(function)
        if compiled is None:
            compiled = self._compiled[function] = self._compile(function)
        scalar = arguments[0].dtype.type
        return compiled, tuple(scalar(value) if type(value) is float else value for value in arguments)

    def _compile(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """Return `formula` with `xp` bound."""
        return functools.partial(formula, self.xp)

    def kernel(self, source: str, name: str, shared_bytes: int = 0) -> Callable[..., None]:
        """Return the kernel `name` of a source in CUDA C++, which is called with (grid, block, arguments).

        Its blocks have `shared_bytes` of dynamic shared memory. Raises `DeviceError` where there are no such kernels.
        """
        raise DeviceError(f"{self.name} ({self.device_name}) runs no CUDA kernels")

    def row_maxima(self, xp: Any, values: Array, by_class: Array, row: Array) -> None:
        """Write the maximum of each row of `values` (rows, n) to `row` (rows, 1): a formula that devices differ in.

        `by_class` (n, rows) is workspace.
        """
        # Class by class in memory, the maxima of many rows are found at once: on a CPU 5 times faster for 10 classes.
        by_class[...] = values.T
        xp.max(by_class, axis=0, out=row[:, 0])

    def take_rows(self, xp: Any, values: Array, rows: Array, output: Array) -> None:
        """Write the `rows` (k,) of `values` (n, …) to `output` (k, …): a formula that devices differ in."""
        xp.take(values, rows, axis=0, out=output)

    def take_each(
        self, xp: Any, values: Array, sources: Array, chosen: Array, starts: Array, places: Array, output: Array
    ) -> None:
        """Write values[i, sources[chosen[i], j]] to output[i, j]: a formula that devices differ in.

        `values` and `output` are (rows, n), `sources` (ways, n) and `chosen` (rows,) of int64. `starts` (rows, 1) are
        multiples of n, and `places` (rows, n) is workspace, both of int64.
        """
        xp.add(xp.take(sources, chosen, axis=0, out=places), starts, out=places)
        xp.take(values.reshape(-1), places, out=output)

    def scratch(self, make: Callable[[], Array]) -> tuple[Array, ...]:
        """Return an array, made by `make`, for what a formula has on the way to its result; none on a GPU."""
        return (make(),)

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return a function that asks the device again for what `work`, called before, asks of it.

        Where the backend `captures`, that is one launch, with the addresses and numbers that `work` had.
        """
        return work

    def send(self, values: np.ndarray[Any, Any], out: Array) -> None:
        """Write `values` of the host to `out`, of the same shape and dtype, without waiting for the device."""
        out[...] = values

    def fetch(self, array: Array) -> Callable[[], np.ndarray[Any, Any]]:
        """Begin to copy `array` to the host, as it will be once the device has done what it was asked for so far.

        The function returned waits for the copy alone, not for what the device is asked for meanwhile.
        """
        copy = np.array(self.to_host(array))
        return lambda: copy

    def generator(self, seed: int | None) -> np.random.Generator:
        """Return a random generator of the host: both devices start from the same bits."""
        return np.random.default_rng(seed)

    @abstractmethod
    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Return `array` as a NumPy array, waiting for the device where it must."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has done all it was asked to do."""

    @abstractmethod
    def block_rows(self, rows: int, row_bytes: int, shared: bool = False) -> int:
        """Return how many of `rows` rows to compute in one block, where each needs `row_bytes` of buffers.

        `shared` says that there is more than one device for them.
        """

    def channel(self, comm: Any) -> "Channel":
        """Return how vectors get to the devices of the other processes of `comm`, a communicator of mpi4py.

        All of them call this at once, each with a backend of the same kind.
        """
        from fmnist_xp.backend.channel import Channel

        return Channel(self, comm)

    @abstractmethod
    def computing(self) -> Any:
        """Return a context manager to hold while computing: thread limits, current device, out of memory."""

    def current(self) -> Any:
        """Return a context manager that makes the device current: what `computing` does, without limits of threads.

        Arrays are made, and operators and fused formulas run, on the current device. The methods of layers, losses,
        networks and optimizers see to it themselves.
        """
        return nullcontext()

    @abstractmethod
    def mark(self) -> Any:
        """Return a mark in the device's stream of work, without waiting for it."""

    @abstractmethod
    def seconds_between(self, marks: Sequence[Any]) -> list[float]:
        """Return the seconds from each mark to the next, once the device has passed the last one."""

    @abstractmethod
    def reset_peak_memory(self) -> int | None:
        """Make `peak_memory` what is held now and return that; None where it cannot be reset."""

    @abstractmethod
    def peak_memory(self) -> int | None:
        """Return the most memory held so far in bytes: resident on the CPU, the memory pool on a GPU."""

    def map(self, work: Callable[[int], None], workers: int) -> None:
        """Call `work(0)` to `work(workers - 1)`, at once where the device has threads; raise what they raise."""
        for worker in range(workers):
            work(worker)
