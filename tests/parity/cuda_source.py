"""The CUDA source that CuPy makes of a formula, without a device.

CuPy fuses arrays that have types but no memory; its `ElementwiseKernel` is held before it would be launched, and
gives its source instead. `cupy.fuse` is public; how the source is had from a kernel is CuPy 14's own business and may
need a change here with another CuPy.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Types = tuple[tuple[np.dtype, int | None, bool], ...]
"""A call of a formula: each argument's dtype, its number of dimensions (None for a scalar), whether contiguous."""


def fused_source(cupy: Any, formula: Callable[..., Any], types: Types, name: str = "") -> tuple[str, str]:
    """Return the CUDA source that CuPy makes of a formula, and of it the operations alone.

    Raises what CuPy raises where the formula cannot be fused.
    """
    core = cupy._core
    launched: list[tuple[Any, Any]] = []
    real_kernel = core._kernel.ElementwiseKernel

    def held(*args: Any, **kwargs: Any) -> Callable[..., None]:
        kernel = real_kernel(*args, **kwargs)
        return lambda *arguments: launched.append((kernel, arguments))

    def give_up(*_args: Any) -> None:
        raise  # what kept the formula from being fused; CuPy would go on to its other fusion, for reductions

    memory = cupy.cuda.MemoryPointer(cupy.cuda.UnownedMemory(2**20, 2**20, None, 0), 0)
    arguments = [
        dtype.type(1) if ndim is None else cupy.ndarray((2, 3)[:ndim], dtype=dtype, memptr=memory)
        for dtype, ndim, _contiguous in types
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core._kernel, "ElementwiseKernel", held)
        patch.setattr(core.new_fusion, "Fusion", give_up)
        cupy.fuse(kernel_name=name or formula.__name__)(functools.partial(formula, cupy))(*arguments)
    [(kernel, given)] = launched
    assert list(map(id, given)) == list(map(id, arguments))
    # What `ElementwiseKernel.__call__` does before it launches: an array is of kind 1, the index 2, a scalar 3.
    info = core._kernel._ArgInfo
    infos = [
        info(3, core._scalar.CScalar, dtype, 0, True, True)
        if ndim is None
        else info(1, cupy.ndarray, dtype, ndim, contiguous, True)
        for dtype, ndim, contiguous in types
    ]
    infos.append(
        info(2, core._carray.Indexer, None, max(ndim for _, ndim, _ in types if ndim is not None), True, True)
    )
    array_types = tuple(None if ndim is None else dtype for dtype, ndim, _ in types)
    *_, type_map = kernel._decide_params_type(array_types, ())
    source = core._kernel._get_elementwise_kernel_code(
        tuple(infos), type_map, kernel.params, kernel.operation, kernel.name, kernel.preamble, **kernel.kwargs
    )
    return source, kernel.operation
