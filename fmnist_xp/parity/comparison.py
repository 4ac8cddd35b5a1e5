"""Two tensors compared: how far they differ, in four units, and the verdict."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.parity.bounds import Floats


@dataclass(frozen=True)
class Comparison:
    """The largest differences between a device's tensor and the reference.

    `absolute`; `relative` to the reference; `ulps`, in units of the last place of the larger of both, in the dtype
    that was computed in; and `used`, as a share of the tolerance of each element. `tolerance` is that of the element
    which uses most of it. Where NaN or infinity is not the same on both sides, the differences are infinite. `loose`
    is the share of the elements whose tolerance is at least the largest value of the tensor: of these, agreement says
    nothing.
    """

    operation: str
    tensor: str
    case: str
    absolute: float
    relative: float
    ulps: float
    tolerance: float
    used: float
    loose: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether no element differs by more than its tolerance."""
        return self.used <= 1

    def record(self) -> dict[str, Any]:
        """Return the figures and the verdict by name."""
        return {**asdict(self), "passed": self.passed}


def compare(
    name: tuple[str, str, str],
    actual: NDArray[Any],
    reference: NDArray[Any],
    tolerance: Floats | float,
    dtype: str = "float64",
) -> Comparison:
    """Compare `actual` with `reference`, both of one shape, which `tolerance` has too or broadcasts to.

    `name` is that of the operation, the tensor and the case, `dtype` that of the computation: figures that are kept
    in a wider one are no finer for it. Another shape is a difference without bound.
    """
    if actual.shape != reference.shape:
        return Comparison(*name, math.inf, math.inf, math.inf, tolerance=0.0, used=math.inf)
    if actual.dtype.kind == "f" and actual.dtype.itemsize < np.dtype(dtype).itemsize:
        dtype = actual.dtype.name
    a, b = actual.astype(np.float64), reference.astype(np.float64)
    allowed = np.broadcast_to(tolerance, a.shape)
    off = difference(a, b)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        spacing = np.spacing(np.maximum(np.abs(a), np.abs(b)).astype(dtype)).astype(np.float64)
        units = off, off / np.abs(b), off / spacing, off / allowed
    figures = [np.where(off == 0, 0.0, np.where(np.isfinite(off), figure, np.inf)) for figure in units]
    absolute, relative, ulps, used = (float(np.max(figure)) for figure in figures)
    worst = int(np.argmax(figures[-1]))
    size = float(np.max(np.abs(b), initial=0.0, where=np.isfinite(b)))
    loose = float(np.mean(allowed >= size)) if size > 0 else 0.0
    return Comparison(*name, absolute, relative, ulps, float(allowed.flat[worst]), used, loose)


def difference(a: Floats, b: Floats) -> Floats:
    """Return |a − b|: 0 for the same NaN or infinity, infinite for one on one side."""
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.nan_to_num(np.abs(a - b), nan=np.inf, posinf=np.inf)
    return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, off)


def worst_cases(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Reduce the comparisons of each operation's tensor to one: the largest of each figure, the worst case's name."""
    kept: dict[tuple[str, str], Comparison] = {}
    for new in comparisons:
        key = new.operation, new.tensor
        old = kept.get(key, new)
        units = ("absolute", "relative", "ulps", "loose")
        largest = {unit: max(getattr(old, unit), getattr(new, unit)) for unit in units}
        kept[key] = replace(max(old, new, key=lambda comparison: comparison.used), **largest)
    return list(kept.values())
