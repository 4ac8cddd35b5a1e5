"""Activations: layers without parameters."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from fmnist_xp.arguments import real_number
from fmnist_xp.backend import Array, Backend, Formula, Product, Step, elementwise, epilogue
from fmnist_xp.nn.module import Bounded, BoundedBackward, Counterpart
from fmnist_xp.nn.stepwise import StepwiseLayer
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


def relu_bound(inputs: Bounded) -> Bounded:
    """Return max(inputs, 0), which rounds nothing."""
    return inputs.maximum(0)


def relu_gradient_bound(dvalues: Bounded, inputs: Bounded, _output: Bounded) -> Bounded:
    """Return `dvalues` where `inputs` are above 0, and 0 elsewhere."""
    return dvalues.where_positive(inputs)


@elementwise
def hyperbolic_tangent(xp: Any, inputs: Array, output: Array) -> None:  # a kernel tanh would be CUDA's function again
    """Write tanh(inputs) to `output`."""
    xp.tanh(inputs, out=output)


@elementwise
def tanh_gradient(xp: Any, dvalues: Array, output: Array, dinputs: Array) -> None:
    """Write dvalues · (1 − output²), the derivative of tanh at the inputs that gave `output`, to `dinputs`."""
    xp.multiply(dvalues, 1 - output * output, out=dinputs)


def tanh_bound(inputs: Bounded) -> Bounded:
    """Return tanh(inputs)."""
    return inputs.tanh().stored()


def tanh_gradient_bound(dvalues: Bounded, _inputs: Bounded, output: Bounded) -> Bounded:
    """Return dvalues · (1 − output²), where each of three results is stored."""
    slope = output.exactly(1.0) - (output * output).stored()
    return (dvalues * slope.stored()).stored()


@elementwise
def leaky_relu(xp: Any, inputs: Array, slope: float, output: Array) -> None:
    """Write `inputs` where they are above 0, and slope · inputs elsewhere, to `output`, for a slope below 1."""
    xp.maximum(inputs, slope * inputs, out=output)


@elementwise
def leaky_relu_gradient(xp: Any, dvalues: Array, output: Array, slope: float, dinputs: Array) -> None:
    """Write `dvalues` where `output` is above 0, and slope · dvalues elsewhere, to `dinputs`."""
    xp.multiply(dvalues, xp.maximum(output > 0, slope), out=dinputs)


def leaky_relu_bound(inputs: Bounded, slope: float) -> Bounded:
    """Return `inputs` where they are above 0, else slope · inputs; the slope is stored too."""
    return inputs.where_positive(inputs, (inputs * slope).stored().stored())


def leaky_relu_gradient_bound(dvalues: Bounded, inputs: Bounded, _output: Bounded, slope: float) -> Bounded:
    """Return `dvalues` where `inputs` are above 0, else slope · dvalues."""
    return dvalues.where_positive(inputs, (dvalues * slope).stored().stored())


@functools.cache
def biased(activation: Callable[..., None]) -> Callable[..., None]:
    """Return the formula that adds biases (1, n) to its inputs (rows, n) before `activation`, in one kernel."""

    def formula(xp: Any, inputs: Array, biases: Array, output: Array) -> None:
        activation(xp, xp.add(inputs, biases, out=output), output)

    formula.__name__ = f"biased_{activation.__name__}"
    return elementwise(formula)


biased_relu = epilogue("relu_bias")(biased(relu))


class Activation(StepwiseLayer):
    """An element-wise layer: `formula` gives its output, and `gradient` its gradient.

    `gradient` is made from the output, or, where the class `needs_inputs`, from the inputs. `arguments`, numbers that
    a layer was made with, follow the arrays that a formula reads. Either formula may write over its first argument.
    `bound` and `gradient_bound` are the same two for values with bounds on their errors, written out a second time;
    what these round they return `stored()`.
    """

    formula: ClassVar[Callable[..., None]]
    """(xp, inputs, *arguments, output)"""
    gradient: ClassVar[Callable[..., None]]
    """(xp, dvalues, output or inputs, *arguments, dinputs)"""
    bound: ClassVar[Callable[..., Bounded]]
    """(inputs, *arguments)"""
    gradient_bound: ClassVar[Callable[..., Bounded]]
    """(dvalues, inputs, output, *arguments)"""
    needs_output = takes_biases = True

    def arguments(self) -> tuple[float, ...]:
        """Return the numbers that the formulas take besides arrays, here none."""
        return ()

    def forward_steps(
        self, inputs: Array, output: Array, workspace: Workspace, name: str, biases: Array | None = None
    ) -> list[Step]:
        """See `StepwiseLayer.forward_steps`."""
        if biases is not None:
            return [Formula(biased(self.formula), (inputs, biases, output))]
        return [Formula(self.formula, (inputs, *self.arguments(), output))]

    def backward_steps(
        self, dvalues: Array, inputs: Array, output: Array, dinputs: Array, workspace: Workspace, name: str
    ) -> list[Step]:
        """See `StepwiseLayer.backward_steps`."""
        made_from = inputs if self.needs_inputs else output
        return [Formula(self.gradient, (dvalues, made_from, *self.arguments(), dinputs))]

    def bound_pass(self, inputs: Bounded, parameters: Mapping[str, Bounded]) -> tuple[Bounded, BoundedBackward]:
        """See `Layer.bound_pass`."""
        output = self.bound(inputs, *self.arguments())
        return output, lambda dvalues: (self.gradient_bound(dvalues, inputs, output, *self.arguments()), {})


@register("relu")
class ReLU(Activation):
    """Rectified linear unit, max(x, 0); its gradient is 0 where the input is ≤ 0.

    Nair & Hinton, *Rectified Linear Units Improve Restricted Boltzmann Machines*, ICML 2010.
    """

    gates = True
    formula, gradient = staticmethod(relu), staticmethod(relu_gradient)
    bound, gradient_bound = staticmethod(relu_bound), staticmethod(relu_gradient_bound)
    onnx_operator, torch_class = "Relu", "ReLU"


@register("leaky_relu")
class LeakyReLU(Activation):
    """x where it is above 0, and slope · x elsewhere, for a slope above 0 and below 1.

    Maas, Hannun & Ng, *Rectifier Nonlinearities Improve Neural Network Acoustic Models*, ICML 2013.
    """

    takes_biases = False
    onnx_operator = Counterpart("LeakyRelu", {"alpha": "slope"})
    torch_class = Counterpart("LeakyReLU", {"negative_slope": "slope"})
    formula, gradient = staticmethod(leaky_relu), staticmethod(leaky_relu_gradient)
    bound, gradient_bound = staticmethod(leaky_relu_bound), staticmethod(leaky_relu_gradient_bound)

    def __init__(self, slope: float = 0.01, *, backend: Backend | None = None) -> None:
        """Keep `slope`; raise `ValueError` where it is not between 0 and 1."""
        super().__init__(backend)
        self.slope = real_number("slope", slope, 0, 1, open_low=True)

    def arguments(self) -> tuple[float, ...]:
        """Return the slope."""
        return (self.slope,)


@register("tanh")
class Tanh(Activation):
    """Hyperbolic tangent; its gradient is 1 − tanh². LeCun et al., *Efficient BackProp* (1998), 4.4."""

    formula, gradient = staticmethod(hyperbolic_tangent), staticmethod(tanh_gradient)
    bound, gradient_bound = staticmethod(tanh_bound), staticmethod(tanh_gradient_bound)
    onnx_operator, torch_class = "Tanh", "Tanh"


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


def softmax_bound(inputs: Bounded) -> Bounded:
    """Return exp(x − max) over its row sum; a probability is never off by more than 1."""
    powers = (inputs - inputs.moved(lambda rows: rows.max(axis=1, keepdims=True))).exp()
    return (powers / powers.sum(axis=1, keepdims=True)).off_by_at_most(1.0)


@register("softmax")
class Softmax(StepwiseLayer):
    """exp(x) over its row sum; the row's maximum is taken off first, so that exp cannot overflow."""

    needs_output = True
    onnx_operator, torch_class = "Softmax", "Softmax"

    def checked_inputs(self, inputs: Array) -> Array:
        """Return `inputs`; raise `ValueError` where they are not (rows, classes)."""
        if inputs.ndim != 2 or not inputs.shape[1]:
            raise ValueError(f"inputs must have the shape (rows, classes), got {inputs.shape}")
        return inputs

    def forward_steps(
        self, inputs: Array, output: Array, workspace: Workspace, name: str, biases: Array | None = None
    ) -> list[Step]:
        """See `StepwiseLayer.forward_steps`; the rows of the output sum to 1."""
        return softmax_steps(self.backend, inputs, output, workspace, name)

    def backward_steps(
        self, dvalues: Array, inputs: Array, output: Array, dinputs: Array, workspace: Workspace, name: str
    ) -> list[Step]:
        """Return what applies each row's Jacobian diag(s) − s·sᵀ to its row of `dvalues`."""
        (rows, classes), dtype = output.shape, output.dtype
        row = workspace.empty(f"{name} row", (rows, 1), dtype)
        products = workspace.empty(f"{name} products", output.shape, dtype)
        return [
            Formula(product, (dvalues, output, products)),
            Product(products, workspace.ones(classes, dtype), row),
            Formula(softmax_gradient, (dvalues, output, row, dinputs)),
        ]

    def bound_pass(self, inputs: Bounded, parameters: Mapping[str, Bounded]) -> tuple[Bounded, BoundedBackward]:
        """See `Layer.bound_pass`; the output is of the dtype of the parameters, as that of a network's last layer."""
        output = softmax_bound(inputs)

        def backward(dvalues: Bounded) -> tuple[Bounded, dict[str, Bounded]]:
            dinputs = output * (dvalues - (dvalues * output).sum(axis=1, keepdims=True))
            return (dinputs.stored() if self.precision else dinputs), {}

        return output, backward
