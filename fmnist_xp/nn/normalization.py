"""Normalization of each row over its columns."""

from collections.abc import Mapping
from typing import Any, ClassVar

from fmnist_xp.arguments import real_number, whole_number
from fmnist_xp.backend import Array, Backend, Formula, Precision, Product, RowSum, Step, elementwise
from fmnist_xp.nn.activations import product
from fmnist_xp.nn.layers import copy_values
from fmnist_xp.nn.module import Bounded, BoundedBackward, Counterpart
from fmnist_xp.nn.stepwise import StepwiseLayer
from fmnist_xp.nn.workspace import Workspace
from fmnist_xp.registry import register


@elementwise
def subtract_rows(xp: Any, values: Array, row_means: Array, output: Array) -> None:
    """Write values − row_means to `output`."""
    xp.subtract(values, row_means, out=output)


@elementwise
def inverse_deviation(xp: Any, variances: Array, epsilon: float, output: Array) -> None:
    """Write 1 / √(variances + epsilon) to `output`."""
    xp.divide(1, xp.sqrt(variances + epsilon), out=output)


@elementwise
def normalize(xp: Any, centred: Array, row_scales: Array, gains: Array, biases: Array, output: Array) -> None:
    """Multiply `centred` by `row_scales`, in place, and write gains · centred + biases to `output`."""
    xp.multiply(centred, row_scales, out=centred)
    xp.add(xp.multiply(centred, gains, out=output), biases, out=output)


@elementwise
def normalize_gradient(
    xp: Any,
    dvalues: Array,
    gains: Array,
    normalized: Array,
    row_means: Array,
    row_products: Array,
    row_scales: Array,
    dinputs: Array,
) -> None:
    """Write row_scales · (gains · dvalues − row_means − normalized · row_products) to `dinputs`."""
    xp.multiply(gains * dvalues - row_means - normalized * row_products, row_scales, out=dinputs)


@register("layer_norm")
class LayerNorm(StepwiseLayer):
    """Each row less its mean, over its standard deviation, then times `gains` plus `biases`, column by column.

    y = gains · (x − mean) / √(variance + epsilon) + biases, with mean and variance (divided by n, not n − 1) over the
    row's n columns. With x̂ the normalized row, g the gradient of y and means over the columns, that of x is
    (gains · g − mean(gains · g) − x̂ · mean(gains · g · x̂)) / √(variance + epsilon).
    Ba, Kiros & Hinton, *Layer Normalization*, arXiv:1607.06450 (2016).

    `gains` (1, n_features) start at one, `biases` (1, n_features) at zero. Rows do not know of each other, so a block
    of them can be worked on alone. Statistics of the batch, which batch normalization takes (Ioffe & Szegedy, ICML
    2015), are those of all rows here: for each such layer all blocks would have to wait for a pass over all of them,
    forward and once more backward, before any could go on to the next layer.

    Parameters
    ----------
    n_features
        Number of columns of the input and of the output.
    epsilon
        What is added to the variance, above 0.
    dtype
        A precision of the backend: "float32" or "float64", on a GPU also "tf32" or "float16". Rows are normalized in
        the dtype of the parameters.
    backend
        Where to compute; by default the CPU.
    """

    not_saved: ClassVar[tuple[str, ...]] = ("dtype", "backend")
    onnx_operator = Counterpart("LayerNormalization", {"epsilon": "epsilon"}, opset=17)
    torch_class = Counterpart("LayerNorm", {"normalized_shape": "n_features", "eps": "epsilon"})
    gains: Array
    biases: Array
    dgains: Array
    dbiases: Array

    def __init__(
        self, n_features: int, epsilon: float = 1e-5, *, dtype: str = "float32", backend: Backend | None = None
    ) -> None:
        super().__init__(backend)
        self.n_features: int = whole_number("n_features", n_features, 1)
        self.epsilon = real_number("epsilon", epsilon, 0, open_low=True)
        self.precision: Precision = self.backend.precision(dtype)
        row = 1, self.n_features
        self.make_parameters(dtype=self.precision.parameters, gains=row, biases=row)
        self.gains[...] = 1

    def init_parameters(self, generator: Any) -> None:
        """Set the gains to one and the biases to zero; nothing is drawn."""
        self.gains[...], self.biases[...] = 1, 0

    def forward_steps(
        self, inputs: Array, output: Array, workspace: Workspace, name: str, biases: Array | None = None
    ) -> list[Step]:
        """See `StepwiseLayer.forward_steps`; the normalized rows and their scales stay in the `workspace`."""
        means, scales, normalized, products = self._arrays(len(inputs), workspace, name)
        ones, share = workspace.ones(self.n_features, normalized.dtype), 1 / self.n_features
        widened, wide = self._wide(inputs, normalized)
        return [
            *widened,
            Product(wide, ones, means, share),
            Formula(subtract_rows, (wide, means, normalized)),
            Formula(product, (normalized, normalized, products)),
            Product(products, ones, scales, share),
            Formula(inverse_deviation, (scales, self.epsilon, scales)),
            Formula(normalize, (normalized, scales, self.gains, self.biases, output)),
        ]

    def backward_steps(
        self, dvalues: Array, inputs: Array, output: Array, dinputs: Array, workspace: Workspace, name: str
    ) -> list[Step]:
        """See `StepwiseLayer.backward_steps`."""
        rows, share, tf32 = len(dvalues), 1 / self.n_features, self.precision.tf32
        means, scales, normalized, products = self._arrays(rows, workspace, name)
        row_products = workspace.empty(f"{name} row products", means.shape, means.dtype)
        ones = workspace.ones(rows, normalized.dtype)
        widened, wide = self._wide(dvalues, workspace.empty(f"{name} wide", normalized.shape, normalized.dtype))
        return [
            *widened,
            Formula(product, (wide, normalized, products)),
            RowSum(ones, products, self.dgains, tf32),
            RowSum(ones, wide, self.dbiases, tf32),
            Product(wide, self.gains.T, means, share),
            Product(products, self.gains.T, row_products, share),
            Formula(normalize_gradient, (wide, self.gains, normalized, means, row_products, scales, dinputs)),
        ]

    def _arrays(self, rows: int, workspace: Workspace, name: str) -> tuple[Array, Array, Array, Array]:
        """Return the rows' means and scales, both (rows, 1), their normalized values, and room for products."""
        dtype, shape = self.precision.parameters, (rows, self.n_features)
        row, whole = ("means", "scales"), ("normalized", "products")
        return (
            *(workspace.empty(f"{name} {what}", (rows, 1), dtype) for what in row),
            *(workspace.empty(f"{name} {what}", shape, dtype) for what in whole),
        )

    def _wide(self, values: Array, room: Array) -> tuple[list[Step], Array]:
        """Return what gives `values` the dtype of the parameters, and where they have it: in `room` if need be."""
        if values.dtype == room.dtype:
            return [], values
        return [Formula(copy_values, (values, room))], room

    def bound_pass(self, inputs: Bounded, parameters: Mapping[str, Bounded]) -> tuple[Bounded, BoundedBackward]:
        """See `Layer.bound_pass`."""
        gains, share = parameters["gains"], 1 / self.n_features
        centred = inputs - inputs.sum(axis=1, keepdims=True) * share
        variances = (centred * centred).sum(axis=1, keepdims=True) * share
        scales = variances.exactly(1.0) / (variances + self.epsilon).sqrt()
        normalized = centred * scales

        def backward(dvalues: Bounded) -> tuple[Bounded, dict[str, Bounded]]:
            products, weighted = dvalues * normalized, gains * dvalues
            means = weighted.sum(axis=1, keepdims=True) * share
            row_products = (products * gains).sum(axis=1, keepdims=True) * share
            dinputs = (weighted - means - normalized * row_products) * scales
            return dinputs.stored(), {"gains": products.sum_rows(), "biases": dvalues.sum_rows()}

        return ((normalized * gains).stored() + parameters["biases"]).stored(), backward
