"""What every device offers: the interface that all code above takes `xp` and everything else from."""

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fmnist_xp.errors import DeviceError

# An array of either module. NumPy's and CuPy's types share no base class, so the checker cannot say more.
Array: TypeAlias = Any


Call: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and its positional arguments."""


class Product(NamedTuple):
    """What `Backend.dot` was asked for."""

    a: Array
    b: Array
    out: Array
    scale: float = 1.0
    tf32: bool = False


class RowSum(NamedTuple):
    """What `Backend.sum_rows` was asked for."""

    ones: Array
    values: Array
    out: Array
    tf32: bool = False


class Formula(NamedTuple):
    """A function of `xp` that was asked for with these arguments: fused where it is element-wise, else as it is."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    fused: bool = True


Step: TypeAlias = Product | RowSum | Formula
"""What a layer asks of a backend."""


def follows_product(epilogue: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a formula (values, biases, …) that libraries compute along with the product that wrote `values`.

    `epilogue` names it: "bias" for values + biases, "relu_bias" for max(values + biases, 0); in place.
    """

    def mark(formula: Callable[..., Any]) -> Callable[..., Any]:
        formula.epilogue = epilogue  # type: ignore[attr-defined]
        return formula

    return mark


class Precision(NamedTuple):
    """How numbers are kept and multiplied.

    `parameters` is the dtype of parameters, gradients and moments, `operands` that of what enters a matrix product
    (inputs, weights, hidden activations). `tf32` lets products round float32 operands to 10 bits of mantissa.
    """

    parameters: str
    operands: str
    tf32: bool = False


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "float32": Precision("float32", "float32"),
        "float64": Precision("float64", "float64"),
        "tf32": Precision("float32", "float32", tf32=True),
        "float16": Precision("float32", "float16"),
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
    names of those of `PRECISIONS` that it has, `threads` how many blocks of rows are worked on at once,
    `stages_blocks` whether a block's rows are copied to a buffer that stays in a cache before they are worked on,
    `captures` whether `captured` makes one launch of much work, `own_memory` whether arrays lie in memory of the
    device's own, `asynchronous` whether calls return before the device has done the work, and `cuda_index` the number
    of a CUDA device.
    """

    name: str
    xp: ModuleType
    device_name: str
    precisions: tuple[str, ...] = ("float32", "float64")
    threads: int = 1
    stages_blocks: bool = False
    captures: bool = False
    own_memory: bool = False
    asynchronous: bool = False
    cuda_index: int | None = None

    def __init__(self) -> None:
        """Start with nothing compiled."""
        self._fused: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __repr__(self) -> str:
        """Return the name and the hardware."""
        return f"<{type(self).__name__} {self.name}: {self.device_name}>"

    @property
    def manner(self) -> str:
        """How it works, in words: on how many threads with which BLAS, with CUDA graphs or without."""
        return f"{self.threads} thread{'s' if self.threads > 1 else ''}"

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

    def precision(self, dtype: Any) -> Precision:
        """Return the precision of this name, see `precision_name`.

        Raises `ValueError` where there is no such precision and `DeviceError` where this device lacks it.
        """
        name = precision_name(dtype)
        if name not in self.precisions:
            raise DeviceError(
                f"{self.name} ({self.device_name}) does not compute in {name}: use {' or '.join(self.precisions)}"
            )
        return PRECISIONS[name]

    def dot(self, a: Array, b: Array, out: Array, scale: float = 1.0, tf32: bool = False) -> None:
        """Write scale · a · b to `out`: a (m, k), b (k, n), out (m, n) C-contiguous.

        `a` and `b` are of one dtype, C-contiguous or the transpose of that; `out` may be of a wider dtype on a GPU.
        Sums are kept in at least float32.
        """
        for function, arguments in self.dot_calls(Product(a, b, out, scale, tf32)):
            function(*arguments)

    @abstractmethod
    def dot_calls(self, product: Product) -> list[Call]:
        """Return what `dot` calls: made again, they multiply what the same arrays hold then."""

    def sum_rows(self, ones: Array, values: Array, out: Array, tf32: bool = False) -> None:
        """Write the sums of `values` (rows, n) over the rows to `out` (1, n); `ones` (rows, 1) are of its dtype."""
        self.dot(ones.T, values, out, 1.0, tf32)  # the fastest way, as a rule

    def apply(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function(xp, *arguments)`, which writes into arrays among its arguments and makes no other."""
        function(self.xp, *arguments)

    def row_maxima(self, xp: Any, values: Array, by_class: Array, row: Array) -> None:
        """Write the maximum of each row of `values` (rows, n) to `row` (rows, 1), to be asked for with `apply`.

        `by_class` (n, rows) is for scratch.
        """
        # Class by class in memory, the maxima of many rows are found at once: on a CPU 5 times faster for 10 classes.
        by_class[...] = values.T
        xp.max(by_class, axis=0, out=row[:, 0])

    def calls(self, steps: Sequence[Step]) -> list[Call]:
        """Return the calls that take `steps`."""
        calls: list[Call] = []
        for step in steps:
            if isinstance(step, Product):
                calls += self.dot_calls(step)
            elif isinstance(step, RowSum):
                calls += self.dot_calls(Product(step.ones.T, step.values, step.out, 1.0, step.tf32))
            elif step.fused:
                calls.append((self.fuse(step.function), step.arguments))
            else:
                calls.append((step.function, (self.xp, *step.arguments)))
        return calls

    def repeatable(self, steps: Sequence[Step]) -> Callable[[], None]:
        """Return a function that takes `steps` again, all of which were taken before."""
        calls = self.calls(steps)

        def repeat() -> None:
            for function, arguments in calls:
                function(*arguments)

        return repeat

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

    def fuse(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """Return `formula(xp, *arrays_and_scalars)` with `xp` bound, as one kernel where the device has kernels.

        A formula is element-wise, takes positional arguments, the first of them an array, and writes its results with
        `out=`. Parameters annotated `float` reach it as scalars of the first array's dtype, so that both modules
        round them alike.
        """
        fused = self._fused.get(formula)
        if fused is None:
            fused = self._fused[formula] = self._with_scalars(formula, self._compile(formula))
        return fused

    def _with_scalars(self, formula: Callable[..., Any], compiled: Callable[..., Any]) -> Callable[..., Any]:
        """Return `compiled` with its float arguments in the dtype of its first array; itself where it has none."""
        parameters = list(inspect.signature(formula).parameters.values())[1:]  # without xp
        first = next((i for i, parameter in enumerate(parameters) if parameter.annotation is float), None)
        if first is None:
            return compiled

        @functools.wraps(formula)
        def fused(*arguments: Any) -> Any:
            scalar = arguments[0].dtype.type
            numbers = [scalar(a) if type(a) is float else a for a in arguments[first:]]
            return compiled(*arguments[:first], *numbers)

        return fused

    @abstractmethod
    def _compile(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """Return `formula` with `xp` bound."""

    @abstractmethod
    def block_rows(self, rows: int, row_bytes: int) -> int:
        """Return how many of `rows` rows to compute in one block, where each needs `row_bytes` of buffers."""

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
