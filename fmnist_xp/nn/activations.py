"""Activations: layers without parameters."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from fmnist_xp.backend import Array, Backend, Formula, Product, Step, elementwise, epilogue
from fmnist_xp.nn.layers import Layer
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.registry import register


@elementwise
def relu(xp: Any, inputs: Array, output: Array) -> None:
    """Write max(inputs, 0) to `output`."""
    # NumPy's clip by two numbers is vectorised, its maximum with a number is not: 3 times faster.
    xp.clip(inputs, 0, xp.inf, out=output)


@elementwise
def relu_gradient(xp: Any, dvalues: Array, output: Array, dinputs: Array) -> None:
    """Write `dvalues` where `output` is above 0, and 0 elsewhere, to `dinputs`."""
    xp.multiply(dvalues, output > 0, out=dinputs)


@elementwise
def tanh(xp: Any, inputs: Array, output: Array) -> None:
    """Write tanh(inputs) to `output`."""
    xp.tanh(inputs, out=output)


@elementwise
def tanh_gradient(xp: Any, dvalues: Array, output: Array, dinputs: Array) -> None:
    """Write dvalues · (1 − output²), the derivative of tanh at the inputs that gave `output`, to `dinputs`."""
    xp.multiply(dvalues, 1 - output * output, out=dinputs)


@functools.cache
def biased(activation: Callable[..., None]) -> Callable[..., None]:
    """Return the formula that adds biases (1, n) to its inputs (rows, n) before `activation`, in one kernel."""

    def formula(xp: Any, inputs: Array, biases: Array, output: Array) -> None:
        activation(xp, xp.add(inputs, biases, out=output), output)

    formula.__name__ = f"biased_{activation.__name__}"
    return elementwise(formula)


biased_relu = epilogue("relu_bias")(biased(relu))


class Activation(Layer):
    """An element-wise layer: `formula` gives its output, and `gradient`, which needs that output, its gradient.

    Either may write over its first argument.
    """

    formula: ClassVar[Callable[..., None]]
    """(xp, inputs, output)"""
    gradient: ClassVar[Callable[..., None]]
    """(xp, dvalues, output, dinputs)"""

    def forward(self, inputs: Array) -> Array:
        """Set and return `output`, of the shape and dtype of `inputs`; whole numbers become float64."""
        inputs = self._floats(inputs)
        self.output = self.backend.xp.empty(inputs.shape, inputs.dtype)
        self.backend.compute(self.formula, inputs, self.output)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Set and return `dinputs`, of the shape and dtype of `dvalues`."""
        dvalues = self._gradient(dvalues)
        self.dinputs = self.backend.xp.empty_like(dvalues)
        self.backend.compute(self.gradient, dvalues, self.output, self.dinputs)
        return self.dinputs


@register("relu")
class ReLU(Activation):
    """Rectified linear unit, max(x, 0); its gradient is 0 where the input is ≤ 0.

    Nair & Hinton, *Rectified Linear Units Improve Restricted Boltzmann Machines*, ICML 2010.
    """

    formula, gradient = staticmethod(relu), staticmethod(relu_gradient)


@register("tanh")
class Tanh(Activation):
    """Hyperbolic tangent; its gradient is 1 − tanh². LeCun et al., *Efficient BackProp* (1998), 4.4."""

    formula, gradient = staticmethod(tanh), staticmethod(tanh_gradient)


@elementwise
def shifted_exp(xp: Any, inputs: Array, row_maximum: Array, output: Array) -> None:
    """Write exp(inputs - row_maximum) to `output`."""
    xp.exp(xp.subtract(inputs, row_maximum, out=output), out=output)


@elementwise
def divide_rows(xp: Any, values: Array, row_sum: Array) -> None:
    """Divide every row of `values` by its `row_sum`, in place."""
    xp.divide(values, row_sum, out=values)


@elementwise
def product(xp: Any, a: Array, b: Array, output: Array) -> None:
    """Write a · b, element by element, to `output`."""
    xp.multiply(a, b, out=output)


@elementwise
def softmax_gradient(xp: Any, dvalues: Array, output: Array, row_dot: Array, dinputs: Array) -> None:
    """Write output · (dvalues − row_dot) to `dinputs`."""
    xp.multiply(output, dvalues - row_dot, out=dinputs)


def softmax_steps(backend: Backend, inputs: Array, output: Array, workspace: Workspace, name: str = "") -> list[Step]:
    """Return what writes exp(x − max) over its row sum for each row of `inputs` to `output`, both (rows, classes).

    `name` sets its arrays in the `workspace` apart.
    """
    (rows, classes), dtype = inputs.shape, inputs.dtype
    row = workspace.empty(f"{name} row", (rows, 1), dtype)
    by_class = workspace.empty(f"{name} by class", (inputs.size,), dtype).reshape(classes, rows)
    return [
        Formula(backend.row_maxima, (inputs, by_class, row)),
        Formula(shifted_exp, (inputs, row, output)),
        Product(output, workspace.ones(classes, dtype), row),
        Formula(divide_rows, (output, row)),
    ]


def softmax_gradient_steps(
    dvalues: Array, output: Array, dinputs: Array, workspace: Workspace, name: str = ""
) -> list[Step]:
    """Return what applies each row's Jacobian diag(s) − s·sᵀ to its row of `dvalues`, written to `dinputs`."""
    (rows, classes), dtype = output.shape, output.dtype
    row = workspace.empty(f"{name} row", (rows, 1), dtype)
    products = workspace.empty(f"{name} products", output.shape, dtype)
    return [
        Formula(product, (dvalues, output, products)),
        Product(products, workspace.ones(classes, dtype), row),
        Formula(softmax_gradient, (dvalues, output, row, dinputs)),
    ]


@register("softmax")
class Softmax(Layer):
    """exp(x) over its row sum; the row's maximum is taken off first, so that exp cannot overflow."""

    def forward(self, inputs: Array) -> Array:
        """Set and return `output` (rows, classes), whose rows sum to 1."""
        inputs = self._floats(inputs)
        if inputs.ndim != 2 or not inputs.shape[1]:
            raise ValueError(f"inputs must have the shape (rows, classes), got {inputs.shape}")
        xp = self.backend.xp
        self.output = xp.empty(inputs.shape, inputs.dtype)
        self.backend.run(*softmax_steps(self.backend, inputs, self.output, Workspace(xp)))
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Set and return `dinputs`: each row's Jacobian diag(s) − s·sᵀ applied to its row of `dvalues`."""
        dvalues, xp = self._gradient(dvalues), self.backend.xp
        self.dinputs = xp.empty_like(dvalues)
        self.backend.run(*softmax_gradient_steps(dvalues, self.output, self.dinputs, Workspace(xp)))
        return self.dinputs
