"""The first layer on rows whose background was taken off, and that nobody scaled."""

import copy
from typing import Any

from fmnist_xp.backend import Array, elementwise
from fmnist_xp.nn.network import Network


@elementwise
def shift_weights(xp: Any, weights: Array, scale: Array, shifted: Array) -> None:
    """Write scale · weights to `shifted`; `scale` is a column."""
    xp.multiply(weights, scale, out=shifted)


@elementwise
def add_values(xp: Any, values: Array, others: Array, output: Array) -> None:
    """Write values + others to `output`."""
    xp.add(values, others, out=output)


@elementwise
def unshift_gradients(xp: Any, gradients: Array, scale: Array, of_base: Array) -> None:
    """Write scale · gradients + of_base over `gradients`; `scale` is a column."""
    xp.add(xp.multiply(gradients, scale), of_base, out=gradients)


class Shift:
    """The first layer for x′, where x = base + scale · x′ column by column.

    x · W + b = x′ · (scale · W) + (b + base · W), and the gradient of W is scale · (x′ᵀ · dZ) + baseᵀ · ΣdZ, where dZ
    is the gradient of the layer's output and ΣdZ, its sum over the rows, the gradient of b. `parameters` are those
    that `x′` is multiplied with; `base` and `scale` are columns (n_inputs, 1) of the dtype of the parameters.
    """

    def __init__(self, network: Network, base: Array, scale: Array) -> None:
        self._backend, self._layer = network.backend, network.dense[0]
        self._base, self._scale = base, scale
        self._shifted = copy.copy(self._layer)
        self._shifted.bind_parameters(self._backend.xp.empty_like(self._layer.parameters), self._layer.gradients)
        self._of_base = self._backend.xp.empty_like(self._layer.weights)
        self.parameters = self._shifted.parameters

    def update(self) -> None:
        """Compute `parameters` from the layer's present ones."""
        layer, shifted = self._layer, self._shifted
        self._backend.compute(shift_weights, layer.weights, self._scale, shifted.weights)
        self._backend.dot(self._base.T, layer.weights, shifted.biases)
        self._backend.compute(add_values, layer.biases, shifted.biases, shifted.biases)

    def unshift(self) -> None:
        """Turn the layer's gradients for x′, summed over all rows, into those for x."""
        layer = self._layer
        self._backend.dot(self._base, layer.dbiases, self._of_base)
        self._backend.compute(unshift_gradients, layer.dweights, self._scale, self._of_base)
