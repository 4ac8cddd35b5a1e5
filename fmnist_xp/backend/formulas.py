"""Formulas of `xp` as CUDA C++: called with names in the place of arrays, they say what they would write."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fmnist_xp.backend.kernels import Term

HELPERS = """
static __device__ float largest(float a, float b) { return a != a || a > b ? a : b; }  // NaN stays, as in xp.maximum
static __device__ float smallest(float a, float b) { return a != a || a < b ? a : b; }
"""
"""Functions that formulas may call."""


def text(value: Any) -> str:
    """Return a term's text, or a number as the float32 that a backend makes of it."""
    return value.text if isinstance(value, Term) else f"{float(np.float32(value))!r}f"


def _written(pattern: str) -> Callable[..., "Name"]:
    """Return the operator, or function of `xp`, that is `pattern` in C."""

    def function(*operands: Any, out: "Name | None" = None) -> "Name":
        out = Name("") if out is None else out
        out.text = pattern.format(*map(text, operands))
        return out

    return function


class Name(Term):
    """A float32 number in C."""

    __add__, __radd__ = _written("({0} + {1})"), _written("({1} + {0})")
    __sub__, __rsub__ = _written("({0} - {1})"), _written("({1} - {0})")
    __mul__, __rmul__ = _written("({0} * {1})"), _written("({1} * {0})")
    __truediv__, __rtruediv__ = _written("({0} / {1})"), _written("({1} / {0})")
    __gt__, __lt__, __eq__ = _written("({0} > {1})"), _written("({0} < {1})"), _written("({0} == {1})")  # type: ignore[assignment]
    __neg__, __hash__ = _written("(-{0})"), Term.__hash__


class C:
    """Stands for `xp`."""

    inf = np.inf
    add, subtract = staticmethod(Name.__add__), staticmethod(Name.__sub__)
    multiply, divide = staticmethod(Name.__mul__), staticmethod(Name.__truediv__)
    negative, where = staticmethod(Name.__neg__), staticmethod(_written("({} ? {} : {})"))
    maximum, minimum = staticmethod(_written("largest({}, {})")), staticmethod(_written("smallest({}, {})"))
    sqrt, abs = staticmethod(_written("sqrtf({})")), staticmethod(_written("fabsf({})"))
    exp, log = staticmethod(_written("expf({})")), staticmethod(_written("logf({})"))

    @staticmethod
    def clip(values: Any, low: float, high: float, out: Name) -> Name:
        """Return `values` within limits, of which the upper may be infinite."""
        return C.maximum(values, low, out=out) if high == np.inf else C.minimum(C.maximum(values, low), high, out=out)


def function(name: str, formula: Callable[..., None], *arguments: Any, parameters: str = "") -> str:
    """Return a function in C that returns what `formula` writes to the one of `arguments` that it writes to.

    These are numbers, "output", or the names of its parameters; those with a dot are of `parameters`, given in C.
    """
    names = [argument for argument in arguments if isinstance(argument, str)]
    terms = [Name(argument) if isinstance(argument, str) else argument for argument in arguments]
    formula(C, *terms)
    [value] = {term.text for term in terms if isinstance(term, Name)} - set(names)
    own = [f"float {own}" for own in names if "." not in own and own != "output"]
    return f"static __device__ float {name}({', '.join(own + [parameters] * bool(parameters))}) {{ return {value}; }}"


class Statements:
    """Stands for a backend: `lines` are what it was asked to compute on names, in C."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def compute(self, formula: Callable[..., None], *arguments: Any) -> None:
        """Note what `formula` writes to its arguments, all of it made of what they were before."""
        after = [Name(argument.text) if isinstance(argument, Name) else argument for argument in arguments]
        formula(C, *after)
        written = [(old.text, new.text) for old, new in zip(arguments, after, strict=True) if text(old) != text(new)]
        number = len(self.lines)
        self.lines += [f"const float new_{number}_{place} = {value};" for place, (_, value) in enumerate(written)]
        self.lines += [f"{name} = new_{number}_{place};" for place, (name, _) in enumerate(written)]
