"""Activations: layers without parameters."""

from typing import Any

from fmnist_xp.backend import Array, follows_product
from fmnist_xp.nn.layers import Layer


def relu(xp: Any, inputs: Array, output: Array) -> None:
    """Write max(inputs, 0) to `output`."""
    # NumPy's clip by two numbers is vectorised, its maximum with a number is not: 3 times faster.
    xp.clip(inputs, 0, xp.inf, out=output)


@follows_product("relu_bias")
def biased_relu(xp: Any, inputs: Array, biases: Array, output: Array) -> None:
    """Write max(inputs + biases, 0) to `output`."""
    relu(xp, xp.add(inputs, biases, out=output), output)


def relu_gradient(xp: Any, dvalues: Array, output: Array, dinputs: Array) -> None:
    """Write `dvalues` where `output` is above 0, and 0 elsewhere, to `dinputs`."""
    xp.multiply(dvalues, output > 0, out=dinputs)


def shifted_exp(xp: Any, inputs: Array, row_maximum: Array, output: Array) -> None:
    """Write exp(inputs - row_maximum) to `output`."""
    xp.exp(xp.subtract(inputs, row_maximum, out=output), out=output)


def divide_rows(xp: Any, values: Array, row_sum: Array) -> None:
    """Divide every row of `values` by its `row_sum`, in place."""
    xp.divide(values, row_sum, out=values)


def softmax_gradient(xp: Any, dvalues: Array, output: Array, row_dot: Array, dinputs: Array) -> None:
    """Write output · (dvalues − row_dot) to `dinputs`."""
    xp.multiply(output, dvalues - row_dot, out=dinputs)


def product(xp: Any, a: Array, b: Array, output: Array) -> None:
    """Write a · b, element by element, to `output`."""
    xp.multiply(a, b, out=output)


class ReLU(Layer):
    """Rectified linear unit, max(x, 0); its gradient is 0 where the input is ≤ 0.

    `biases` (1, n), where set, are added to the inputs first: one kernel then does what is left of a Dense layer too.
    """

    replayable = True
    biases: Array | None = None

    def forward(self, inputs: Array) -> Array:
        """Set and return `output`, of the shape and dtype of `inputs`; whole numbers become float64."""
        inputs = self._floats(inputs)
        self.output = inputs if self.overwrite_inputs else self._buffer("output", inputs.shape, inputs.dtype)
        if self.biases is None:
            self.backend.fuse(relu)(inputs, self.output)
        else:
            self.backend.fuse(biased_relu)(inputs, self.biases, self.output)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Set and return `dinputs`; the output tells where the input was above 0."""
        dvalues = self._gradient(dvalues)
        self.dinputs = dvalues if self.reuse_buffers else self.backend.xp.empty_like(dvalues)
        self.backend.fuse(relu_gradient)(dvalues, self.output, self.dinputs)
        return self.dinputs


class Softmax(Layer):
    """exp(x) over its row sum; the row's maximum is taken off first, so that exp cannot overflow."""

    replayable = True

    def forward(self, inputs: Array) -> Array:
        """Set and return `output` (rows, classes), whose rows sum to 1."""
        inputs = self._floats(inputs)
        if inputs.ndim != 2 or not inputs.shape[1]:
            raise ValueError(f"inputs must have the shape (rows, classes), got {inputs.shape}")
        self.output = inputs if self.overwrite_inputs else self._buffer("output", inputs.shape, inputs.dtype)
        row = self._buffer("row", (len(inputs), 1), inputs.dtype)
        by_class = self._buffer("by_class", (inputs.size,), inputs.dtype).reshape(inputs.shape[::-1])
        self.backend.apply(self.backend.row_maxima, inputs, by_class, row)
        self.backend.fuse(shifted_exp)(inputs, row, self.output)
        self.backend.dot(self.output, self._ones(self.output.shape[1], row.dtype), row)
        self.backend.fuse(divide_rows)(self.output, row)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Set and return `dinputs`: each row's Jacobian diag(s) − s·sᵀ applied to its row of `dvalues`."""
        dvalues = self._gradient(dvalues)
        self.dinputs = self._buffer("dinputs", dvalues.shape, dvalues.dtype)
        products = self._buffer("products", dvalues.shape, self.output.dtype)
        row_dot = self._buffer("row", (len(dvalues), 1), products.dtype)
        self.backend.fuse(product)(dvalues, self.output, products)
        self.backend.dot(products, self._ones(products.shape[1], products.dtype), row_dot)
        self.backend.fuse(softmax_gradient)(dvalues, self.output, row_dot, self.dinputs)
        return self.dinputs
