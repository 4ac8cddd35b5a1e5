"""How the weights of a Dense layer begin: drawn on the host in float64, so that all devices start from the same bits.

All but the notebook's own give the weights a variance that goes by the numbers of columns in and out, so that
activations or gradients keep theirs from layer to layer. None is truncated.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from fmnist_xp.backend import Array

NOTEBOOK = "normal"
"""The notebook's: 0.01 × standard normal."""
VARIANCES: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {
        # He et al., "Delving Deep into Rectifiers", ICCV 2015: for ReLU, which takes half of the variance.
        "he": lambda n_inputs, _n_neurons: 2 / n_inputs,
        # Glorot & Bengio, "Understanding the Difficulty of Training Deep Feedforward Neural Networks", AISTATS 2010:
        # between what activations and what gradients ask for.
        "glorot": lambda n_inputs, n_neurons: 2 / (n_inputs + n_neurons),
        # LeCun et al., "Efficient BackProp" (1998), 4.6; Klambauer et al., "Self-Normalizing Neural Networks" (2017).
        "lecun": lambda n_inputs, _n_neurons: 1 / n_inputs,
    }
)
INITIALIZERS = (NOTEBOOK, *(f"{name}_{kind}" for name in VARIANCES for kind in ("normal", "uniform")))
"""The names of all."""


def checked_initializer(name: Any) -> str:
    """Return `name`; raise `ValueError` where it is none of `INITIALIZERS`."""
    if not isinstance(name, str) or name not in INITIALIZERS:
        raise ValueError(f"initializer must be one of {', '.join(INITIALIZERS)}, got {name!r}")
    return name


def draw_weights(initializer: str, generator: Any, n_inputs: int, n_neurons: int) -> Array:
    """Return weights (n_inputs, n_neurons) of float64, drawn from a NumPy generator as `initializer` says."""
    shape = n_inputs, n_neurons
    if initializer == NOTEBOOK:
        return 0.01 * generator.standard_normal(shape)
    name, kind = initializer.split("_")
    deviation = math.sqrt(VARIANCES[name](n_inputs, n_neurons))
    if kind == "normal":
        return deviation * generator.standard_normal(shape)
    limit = math.sqrt(3) * deviation
    return generator.uniform(-limit, limit, shape)
