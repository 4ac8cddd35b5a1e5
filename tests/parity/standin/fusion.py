"""Fused functions of the stand-in."""

from typing import TYPE_CHECKING, Any

import numpy as np
from parity.standin.arrays import DeviceArray, Operators

if TYPE_CHECKING:
    from parity.standin.module import StandInCupy


class FusedVariable(Operators):
    """What a fused function has in hand instead of an array or a scalar: no shape, no elements, no value."""

    def __init__(self, values: Any, kernel: "Kernel", argument: bool = False) -> None:
        self._values, self._kernel, self._argument = values, kernel, argument
        self._cupy = kernel.cupy

    __array_ufunc__ = None
    dtype = property(lambda self: np.asarray(self._values).dtype)
    ndim = property(lambda self: self._values.ndim if isinstance(self._values, np.ndarray) else -1)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"a fused function's variable has no {name!r}")

    def __array__(self, *_args: Any, **_kwargs: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __bool__(self) -> bool:
        raise TypeError("Can't cast to bool: a fused function is traced once for all values")

    def __setitem__(self, index: Any, value: Any) -> None:
        if index is not Ellipsis and index != slice(None):
            raise ValueError("The fusion supports `[...]` or `[:]`.")
        if self._argument:
            self._kernel.check_written(self._values)
        np.copyto(self._values, value._values if isinstance(value, FusedVariable) else value, casting="same_kind")

    def astype(self, dtype: Any) -> "FusedVariable":
        return FusedVariable(np.asarray(self._values).astype(dtype)[()], self._kernel)

    def copy(self) -> "FusedVariable":
        return FusedVariable(np.copy(self._values)[()], self._kernel)


class Kernel:
    """One call of a fused function: the arrays that it was given, and the shape that they have together."""

    def __init__(self, cupy: "StandInCupy", name: str, arrays: list[DeviceArray]) -> None:
        self.cupy, self.name = cupy, name
        self.arrays = [array._values for array in arrays]
        self.shape = np.broadcast_shapes(*(array.shape for array in arrays))

    def check_written(self, values: np.ndarray) -> None:
        """Refuse a written argument that other threads of the kernel write or read elsewhere."""
        if values.shape != self.shape:
            raise ValueError(
                f"{self.name} writes to an array {values.shape} in a kernel over {self.shape}: "
                "each element would be written many times"
            )
        for other in self.arrays:
            same = values.ctypes.data == other.ctypes.data and values.strides == other.strides
            if not (same and values.shape == other.shape) and np.may_share_memory(values, other):
                raise ValueError(f"{self.name} reads and writes arrays that overlap without being the same")
