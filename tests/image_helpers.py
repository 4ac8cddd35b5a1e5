"""Rows of images with background around them, and what the engine computes over all of them."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from fmnist_xp.backend import Backend, CpuBackend
from fmnist_xp.data import Pixels
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, Layer, ReLU
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.rows import Rows

CLASSES = 4
PENALTIES = (1e-4, 1e-3, 2e-4, 2e-3)  # L1 and L2 of the weights, L1 and L2 of the biases


def images(rows: int, height: int = 12, width: int = 12, background: int = 0, seed: int = 0) -> np.ndarray:
    """Return uint8 (rows, height · width): noise in a box of each image, around it the background.

    The outermost pixels of images with more than 4 lines, or columns, are background in all of them.
    """
    generator = np.random.default_rng(seed)
    made = np.full((rows, height, width), background, np.uint8)
    for image in made:
        (top, bottom), (left, right) = (
            np.sort(generator.integers(int(side > 4), side + 1 - int(side > 4), 2)) for side in (height, width)
        )
        image[top:bottom, left:right] = generator.integers(0, 256, (bottom - top, right - left))
    return made.reshape(rows, height * width)


def noise(rows: int, columns: int = 144, seed: int = 0) -> np.ndarray:
    """Return uint8 (rows, columns) without background."""
    return np.random.default_rng(seed).integers(0, 256, (rows, columns), dtype="uint8")


def labels_of(rows: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, CLASSES, rows)


def scaled(pixels: np.ndarray, dtype: str = "float64") -> np.ndarray:
    """Return pixels as `preprocess` scales them."""
    floats: np.ndarray = (pixels.astype(dtype) - 127.5) / 127.5
    return floats


def make_network(
    n_inputs: int,
    backend: Backend | None = None,
    dtype: str = "float64",
    kind: type[Sequential] = Sequential,
    first: type[Dense] = Dense,
) -> Sequential:
    """Return a network with every penalty, whose parameters are none of them 0."""
    layers: list[Layer] = []
    for number, widths in enumerate(pairwise((n_inputs, 7, 5, CLASSES))):
        layers += [(Dense if number else first)(*widths, *PENALTIES), ReLU()]
    network = kind(layers[:-1], backend=backend or CpuBackend(1), dtype=dtype)
    values = 0.3 * np.random.default_rng(1).standard_normal(network.parameters.shape)
    with network.backend.current():
        network.parameters[...] = network.backend.asarray(values, network.parameters.dtype)
    return network


class Pass(NamedTuple):
    """What one pass over all rows gives, on the host."""

    rows: Rows
    gradients: np.ndarray
    totals: np.ndarray
    probabilities: np.ndarray

    def close_to(self, other: "Pass", tolerance: float) -> None:
        """Fail unless the numbers are those of `other`."""
        for name in ("gradients", "totals", "probabilities"):
            found, expected = getattr(self, name), getattr(other, name)
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=name)


def one_pass(network: Sequential, inputs: Any, labels: np.ndarray, **options: Any) -> Pass:
    """Compute gradients, metrics and predictions over all rows of `inputs`, `Pixels` or floats."""
    backend = network.backend
    with backend.computing():
        if not isinstance(inputs, Pixels):
            inputs = backend.asarray(inputs, network.parameters.dtype)
        batch = FullBatch(network, inputs, backend.asarray(labels), **options)
        batch.compute_gradients(log=True)
        given = network.gradients, batch.metrics.totals, batch.compute_probabilities()
        return Pass(batch.rows, *(np.array(backend.to_host(values)) for values in given))
