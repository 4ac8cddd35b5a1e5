"""Arrays that a computation needs on the way."""

from collections.abc import Callable
from typing import Any

from fmnist_xp.backend import Array


class Workspace:
    """Arrays by name, each made once; fewer rows are the head of one."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._arrays: dict[str, Array] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return the array of this name, with whatever it holds."""
        return self.made(name, shape, dtype, lambda: self._xp.empty(shape, dtype))

    def ones(self, count: int, dtype: Any) -> Array:
        """Return a column of ones (count, 1); a product with it is the fastest sum over rows or columns."""
        return self.made(f"ones in {dtype}", (count, 1), dtype, lambda: self._xp.ones((count, 1), dtype))

    def made(self, name: str, shape: tuple[int, ...], dtype: Any, make: Callable[[], Array]) -> Array:
        """Return the head of the array of this name, which `make` makes where there is none that is large enough."""
        held = self._arrays.get(name)
        if held is None or held.dtype != dtype or held.shape[1:] != shape[1:] or len(held) < shape[0]:
            held = self._arrays[name] = make()
        return held if len(held) == shape[0] else held[: shape[0]]
