"""Kernels in CUDA C++: the stand-in knows those that `fmnist_xp.backend.kernels` writes, and no other.

It takes the expression from the source and computes it with NumPy; what else the source says, a GPU has to show.
"""

import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from parity.standin.module import StandInCupy


class RawKernel:
    """Stands for `cupy.RawKernel`, where kernels are NumPy's functions."""

    def __init__(self, cupy: "StandInCupy", code: str, name: str) -> None:
        self._cupy, self.name = cupy, name
        if f"void {name}(" not in code:
            raise ValueError(f"the source has no kernel {name}")
        parameters = re.search(rf"void {name}\((.*?)\)", code)
        value = re.search(r"const (\w+) value = (.*);", code)
        if parameters is None or value is None:
            raise ValueError("the stand-in knows no such kernel")
        self._sums = "partial" in parameters[1]
        self._parameters = [text.split()[-1].removeprefix("in_") for text in parameters[1].split(",")]
        self._wide = {"float": "float32", "double": "float64"}[value[1]]
        self._expression = value[2]

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], *, shared_mem: int = 0
    ) -> None:
        cupy = self._cupy
        cupy.check_current(*args)
        if len(args) != len(self._parameters):
            raise TypeError(f"{self.name} takes {len(self._parameters)} arguments, not {len(args)}")

        def compute() -> None:
            cupy.kernels.append(self.name)
            if self.name.endswith("_total"):
                partial, total = (array._values for array in args)
                total[...] = partial.sum(axis=0)
                return
            *inputs, rows = [getattr(array, "_values", array) for array in args]
            partial = inputs.pop() if self._sums else None
            output = inputs.pop()
            if rows != len(output):
                raise ValueError(f"{self.name} is told of {rows} rows of {len(output)}")
            named = zip(self._parameters, inputs, strict=False)
            values = {name: array.astype(self._wide) for name, array in named}
            functions = {
                "stored": lambda values: values.astype(output.dtype).astype(self._wide),
                "at_least_0": lambda values: np.where(values < 0, np.zeros((), self._wide), values),
            }
            output[...] = eval(self._expression, functions, values)
            if partial is not None:
                partial[...] = 0
                partial[0] = np.dot(np.ones((1, rows), self._wide), output.astype(self._wide))

        cupy.submit(compute, *args)
