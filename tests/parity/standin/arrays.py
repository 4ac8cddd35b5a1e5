"""Arrays of the stand-in's device."""

import operator
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from parity.standin.tables import (
    ARRAY_METHODS,
    BINARY_OPERATORS,
    COMPARISONS,
    FUNCTION_METHODS,
    UNARY_OPERATORS,
    UNTOUCHING,
    check_arguments,
)

if TYPE_CHECKING:
    from parity.standin.module import StandInCupy

Scalar = bool | int | float | complex | np.generic


class Memory:
    """A block of memory of the device of that number, alive as long as an array of it is."""

    def __init__(self, values: np.ndarray, device: int) -> None:
        self.start, self.end = np.lib.array_utils.byte_bounds(values)
        self.device = device

    def __contains__(self, addresses: tuple[int, int]) -> bool:
        return self.start <= addresses[0] and addresses[1] <= self.end


class Operators:
    """Python's operators as calls of the module's functions."""

    __hash__ = None  # type: ignore[assignment]
    _cupy: "StandInCupy"


def _define_operators() -> None:
    def binary(name: str) -> Callable[[Any, Any], Any]:
        return lambda self, other: getattr(self._cupy, name)(self, other)

    def reflected(name: str) -> Callable[[Any, Any], Any]:
        return lambda self, other: getattr(self._cupy, name)(other, self)

    def in_place(name: str) -> Callable[[Any, Any], Any]:
        return lambda self, other: getattr(self._cupy, name)(self, other, out=self)

    def unary(name: str) -> Callable[[Any], Any]:
        return lambda self: getattr(self._cupy, name)(self)

    for symbol, name in BINARY_OPERATORS.items():
        setattr(Operators, f"__{symbol}__", binary(name))
        setattr(Operators, f"__r{symbol}__", reflected(name))
        setattr(Operators, f"__i{symbol}__", in_place(name))
    for symbol, name in COMPARISONS.items():
        setattr(Operators, f"__{symbol}__", binary(name))
    for symbol, name in UNARY_OPERATORS.items():
        setattr(Operators, f"__{symbol}__", unary(name))


_define_operators()


class DeviceArray(Operators):
    """Stands for `cupy.ndarray`: an array of the device that `cupy` counts for, with its values in a NumPy array."""

    __array_priority__ = 100

    def __init__(self, values: np.ndarray, cupy: "StandInCupy", memory: Memory | None) -> None:
        self._values, self._cupy, self._memory = values, cupy, memory

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the stand-in's array has no {name!r}: where cupy.ndarray has it, add it to the tables")

    # What NumPy asks for when it meets this array.

    def __array__(self, *_args: Any, **_kwargs: Any) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (None,), **kwargs: Any) -> Any:
        function = self._cupy.__dict__.get(ufunc.__name__)
        if function is None or method != "__call__":
            return NotImplemented
        return function(*inputs, out=out[0], **kwargs)

    def __array_function__(self, function: Any, _types: Any, args: Any, kwargs: Any) -> Any:
        ours = self._cupy.__dict__.get(function.__name__)
        return NotImplemented if ours is None else ours(*args, **kwargs)

    # What is known without asking the device.

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self._values.ctypes.data, device_id=self._memory and self._memory.device)

    @property
    def flags(self) -> Any:
        flags = self._values.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=flags.owndata
        )

    @property
    def T(self) -> "DeviceArray":
        return self.transpose()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.data.ptr, False), "version": 3}

    dtype = property(lambda self: self._values.dtype)
    itemsize = property(lambda self: self._values.itemsize)
    nbytes = property(lambda self: self._values.nbytes)
    ndim = property(lambda self: self._values.ndim)
    shape = property(lambda self: self._values.shape)
    size = property(lambda self: self._values.size)
    strides = property(lambda self: self._values.strides)

    def __len__(self) -> int:
        return len(self._values)

    # What waits for the device.

    def get(self, stream: Any = None, order: str = "C", out: np.ndarray | None = None, blocking: bool = True) -> Any:
        if blocking:
            return self._fetched("get()").copy()
        if out is None or (out.shape, out.dtype) != (self.shape, self.dtype):
            raise TypeError("a copy that is not waited for needs an array of the same shape and dtype to go to")
        self._cupy.note(self._cupy.transfers_to_host, "get(blocking=False)")
        out[...] = self._values
        return out

    def item(self) -> Any:
        return self._fetched("item()").item()

    def tolist(self) -> Any:
        return self._fetched("tolist()").tolist()

    def __float__(self) -> float:
        return float(self._fetched("float()", implicit=True))

    def __int__(self) -> int:
        return int(self._fetched("int()", implicit=True))

    def __complex__(self) -> complex:
        return complex(self._fetched("complex()", implicit=True))

    def __bool__(self) -> bool:
        return bool(self._fetched("bool()", implicit=True))

    def __repr__(self) -> str:
        return repr(self._fetched("repr()", implicit=True))

    def __str__(self) -> str:
        return str(self._fetched("str()", implicit=True))

    def __format__(self, specification: str) -> str:
        return format(self._fetched("format()", implicit=True), specification)

    def __iter__(self) -> Iterator["DeviceArray"]:
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        self._cupy.note_wait("iteration", implicit=True)
        return (self[index] for index in range(len(self)))

    def _fetched(self, how: str, implicit: bool = False) -> np.ndarray:
        self._cupy.check_current(self)
        self._cupy.note_wait(how, implicit)
        self._cupy.note(self._cupy.transfers_to_host, how)
        return self._values

    # Elements and views.

    def __getitem__(self, index: Any) -> "DeviceArray":
        parts = self._unwrapped(index)
        # With an ellipsis NumPy, like CuPy, gives a view without dimensions for one element, and no scalar.
        parts = parts if any(part is Ellipsis for part in parts) else (*parts, Ellipsis)
        return self._cupy.wrap(self._values[parts], [self], "indexing")

    def __setitem__(self, index: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        if not isinstance(value, DeviceArray | Scalar | np.ndarray):
            raise TypeError(f"Unsupported type {type(value)}")
        self._cupy.check_current(self, value)
        parts, target, new = self._unwrapped(index), self._values, value
        if isinstance(value, DeviceArray):
            new = self._cupy.unwrap(value)
        self._cupy.submit(lambda: operator.setitem(target, parts, new), self, value)

    def _unwrapped(self, index: Any) -> tuple[Any, ...]:
        """Return an index for NumPy; refuse one that would have to be copied to the device first."""
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(part, DeviceArray) for part in parts):
            self._cupy.check_current(self, *parts)
        for part in parts:
            if isinstance(part, DeviceArray) and part.dtype == bool:
                self._cupy.note_wait("mask", implicit=True)
            elif not isinstance(part, DeviceArray | int | np.integer | slice | type(...) | None):
                raise TypeError(f"an index of the host, {type(part)}, would be copied to the device first")
        return tuple(self._cupy.unwrap(part) if isinstance(part, DeviceArray) else part for part in parts)

    def __matmul__(self, other: Any) -> "DeviceArray":
        return self._cupy.matmul(self, other)

    def fill(self, value: Any) -> None:
        self[...] = value

    def set(self, values: np.ndarray, stream: Any = None) -> None:
        """Copy `values`, an array of the host, of the same shape and dtype, in."""
        if not isinstance(values, np.ndarray) or (values.shape, values.dtype) != (self.shape, self.dtype):
            raise TypeError("only a numpy.ndarray of the same shape and dtype can be set")
        self._cupy.check_current(self)
        self._cupy.note(self._cupy.transfers_to_device, "set()")
        self._values[...] = values


def _define_methods() -> None:
    def from_function(name: str) -> Callable[..., Any]:
        return lambda self, *args, **kwargs: getattr(self._cupy, name)(self, *args, **kwargs)

    def from_numpy(name: str, text: str) -> Callable[..., Any]:
        def method(self: DeviceArray, *args: Any, **kwargs: Any) -> Any:
            check_arguments(f"cupy.ndarray.{name}", text, args, kwargs)
            if name not in UNTOUCHING:
                self._cupy.check_current(self)
            return self._cupy.wrap(getattr(self._values, name)(*args, **kwargs), [self], name)

        return method

    for name in FUNCTION_METHODS:
        setattr(DeviceArray, name, from_function(name))
    for name, text in ARRAY_METHODS.items():
        setattr(DeviceArray, name, from_numpy(name, text))


_define_methods()
