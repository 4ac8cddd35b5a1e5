"""Numbers in half precision."""

import math
from typing import Any

import numpy as np

from fmnist_xp.backend import Array
from fmnist_xp.ranks import ALONE, Ranks


def halves(xp: Any, inputs: Array, ranks: Ranks = ALONE) -> tuple[Array, float]:
    """Return `inputs` in half precision and their scale: exactly, where they are pixels scaled to [−1, 1].

    All `ranks` call this at once, each with rows of its own, and have one scale.

    (pixel − 127.5) / 127.5 is (2·pixel − 255) / 255: the odd integer is exact in 11 bits, and the first
    layer's product takes the factor up, as it does a power of two that brings small values to about 1, where
    halves are finest. Raises `ValueError` for values beyond the range of halves.
    """
    scaled = inputs * 255
    integers = xp.rint(scaled)
    # However pixels were scaled, rounding in float32 leaves them this close; and what is only near 0 is none.
    close = xp.abs(scaled - integers) <= 4 * float(np.finfo("float32").eps) * xp.maximum(xp.abs(integers), 255)
    pixels = bool((close & ((integers != 0) | (inputs == 0))).all()) and _largest(xp, integers) <= 2048
    if all(ranks.gather(pixels)):
        return integers.astype("float16"), 1 / 255
    if (largest := max(ranks.gather(_largest(xp, inputs)))) > 65504:
        raise ValueError(f"X has values up to {largest:g}, and float16 ends at 65504: scale X, or use float32")
    scale = min(1.0, 2.0 ** math.floor(math.log2(largest)))  # all zeros were pixels
    return (inputs / inputs.dtype.type(scale)).astype("float16"), scale


def _largest(xp: Any, values: Array) -> float:
    """Return the largest of the absolute values, 0 of none."""
    return float(xp.max(xp.abs(values))) if values.size else 0.0
