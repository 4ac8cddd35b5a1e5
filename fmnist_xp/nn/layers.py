"""Layers: the base class and the fully connected one."""

import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from types import MappingProxyType
from typing import Any, ClassVar

from fmnist_xp.arguments import real_number, whole_number
from fmnist_xp.backend import Array, Backend, Precision, elementwise, epilogue
from fmnist_xp.nn.initializers import NOTEBOOK, checked_initializer, draw_weights
from fmnist_xp.nn.module import Bounded, BoundedBackward, Counterpart, Module
from fmnist_xp.registry import register, warn_renamed


@epilogue("bias")
@elementwise
def add_bias(xp: Any, values: Array, biases: Array) -> None:
    """Add `biases` (1, n) to every row of `values` (rows, n), in place."""
    xp.add(values, biases, out=values)


def copy_values(xp: Any, values: Array, output: Array) -> None:
    """Write `values` to `output`, in its dtype."""
    output[...] = values


@elementwise
def add_penalty_gradient(xp: Any, gradients: Array, values: Array, l1: float, l2: float) -> None:
    """Add the gradient of l1·Σ|v| + l2·Σv² to `gradients`, in place; the slope of |v| at 0 is taken as +1."""
    xp.add(gradients, xp.where(values < 0, -l1, l1) + 2 * l2 * values, out=gradients)


@elementwise
def penalty(xp: Any, values: Array, l1: float, l2: float, output: Array) -> None:
    """Write l1·|v| + l2·v² of each of `values` to `output`."""
    # Not l2 · (v · v): a square that is too large would be no number where the strength is 0.
    xp.add(l1 * xp.abs(values), (l2 * values) * values, out=output)


def penalty_bounds(values: Bounded, l1: float, l2: float) -> tuple[Bounded, Bounded]:
    """Return l1·Σ|v| + l2·Σv² and its gradient, for exact `values`; the slope of |v| at 0 is +1."""
    total = values.moved(abs).sum() * l1 + (values * values).sum() * l2
    return total, values.exactly(1 - 2.0 * (values.value < 0)) * l1 + values * (2 * l2)


class Layer(Module):
    """One step of a network: `forward` sets `output`, `backward` sets `dinputs`.

    A layer of your own defines these two, and keeps the arguments of its constructor under their names, from which
    it is saved (or defines `config`). One with parameters makes them in its constructor, and has their gradients
    under the same names with a d before them:

        class Scale(Layer):
            def __init__(self, n_inputs, *, backend=None):
                super().__init__(backend)
                self.n_inputs = n_inputs
                self.make_parameters(factors=(1, n_inputs))
                self.factors = self.backend.xp.ones((1, n_inputs))

            def forward(self, inputs):
                self.inputs, self.output = inputs, inputs * self.factors
                return self.output

            def backward(self, dvalues):
                self.dfactors = (dvalues * self.inputs).sum(axis=0, keepdims=True)
                self.dinputs = dvalues * self.factors
                return self.dinputs

    Parameters and gradients are views of the vectors `parameters` and `gradients` (`size`,), of which a network makes
    slices of its own; assigning to one of them copies the values in. An optimizer updates them, a network saves them.

    A network passes its rows in blocks and adds up the results: what `backward` writes to a gradient must be a sum
    over the rows it is given. Several threads may work on blocks, each with a copy of the layer that shares the
    parameters. `training` tells whether the output is for a gradient (as dropout must know) or for metrics and
    predictions.

    A pickle or a deep copy has the values of the parameters, as its own; its gradients are zeros. See `Module`.
    """

    inputs: Array
    output: Array
    dinputs: Array
    parameters: Array
    gradients: Array
    is_random = False
    """Whether what it computes for a gradient depends on chance."""
    _shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})

    def make_parameters(self, *, dtype: str = "float32", **shapes: tuple[int, ...]) -> None:
        """Make parameters of these names and shapes beside those there are, and their gradients, all zeros.

        Raises `ValueError` for a name that is taken.
        """
        held = self.tensors()
        everything = {**held, **shapes}
        names = [*everything, *(f"d{name}" for name in everything)]
        for name in (*shapes, *(f"d{name}" for name in shapes)):
            if names.count(name) > 1 or name in held or name in Layer.__annotations__ or hasattr(type(self), name):
                raise ValueError(
                    f"{type(self).__name__} has something called {name} already: name the parameter anew"
                )
        self._shapes = {**self._shapes, **shapes}
        with self.backend.current():
            zeros = self.backend.xp.zeros(self.size, dtype=dtype)
            self.bind_parameters(zeros, self.backend.xp.zeros_like(zeros))
        for name, values in held.items():
            self._copy_in(name, values)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(map(math.prod, self._shapes.values()))

    def tensors(self) -> dict[str, Array]:
        """Return the parameters by name, as views."""
        return {name: getattr(self, name) for name in self._shapes}

    def bind_parameters(self, parameters: Array, gradients: Array) -> None:
        """Make `parameters` and `gradients`, both (size,), the memory of this layer, with the values they hold."""
        self._bind("parameters", "", parameters)
        self.bind_gradients(gradients)

    def bind_gradients(self, gradients: Array) -> None:
        """Make `gradients` (size,) the memory of the gradients."""
        self._bind("gradients", "d", gradients)

    def _bind(self, name: str, prefix: str, vector: Array) -> None:
        values, start = vars(self), 0  # not by assigning, which copies
        values[name] = vector
        for tensor, shape in self._shapes.items():
            end = start + math.prod(shape)
            values[f"{prefix}{tensor}"] = vector[start:end].reshape(shape)
            start = end

    def __setattr__(self, name: str, value: Any) -> None:
        """Copy `value` into a parameter or gradient of this name; else set the attribute."""
        if name in ("parameters", "gradients") and not self._shapes:
            raise TypeError(f"{type(self).__name__} sets {name} itself: make parameters with self.make_parameters")
        if name in ("parameters", "gradients") or name in self._shapes or name.removeprefix("d") in self._shapes:
            self._copy_in(name, value)
        else:
            super().__setattr__(name, value)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes of a pickle or a deep copy, the parameters into memory of this layer's own."""
        super().__setstate__(state)
        if self._shapes:
            with self.backend.current():
                # A copy: the array of a pickle may be read-only, or a file's that joblib has mapped.
                parameters = self.backend.xp.array(self.parameters)
                self.bind_parameters(parameters, self.backend.xp.zeros_like(parameters))

    def _left_out(self) -> set[str]:
        return {*super()._left_out(), "gradients", *self._shapes, *(f"d{name}" for name in self._shapes)}

    def _copy_in(self, name: str, values: Any) -> None:
        view = getattr(self, name)
        array = self.backend.numbers(values, name)
        if array.shape != view.shape:
            raise ValueError(f"{name} must have the shape {view.shape}, got {array.shape}")
        view[...] = array

    def init_parameters(self, generator: Any) -> None:
        """Draw the parameters anew from a NumPy generator; a layer that does not say how keeps its own."""
        if type(self).draw is not Layer.draw:
            warn_renamed(f"{type(self).__name__}.draw", "init_parameters")
            self.draw(generator)

    def draw(self, generator: Any) -> None:
        """Call `init_parameters`, whose name this was."""
        warn_renamed("draw", "init_parameters")
        self.init_parameters(generator)

    def forward(self, inputs: Array) -> Array:
        """Set and return `output`."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def backward(self, dvalues: Array) -> Array:
        """Set `dinputs` and the gradients, given the gradient of the loss in `output`; return `dinputs`."""
        raise TypeError(f"{type(self).__name__} does not define backward")

    def bound_pass(self, inputs: Bounded, parameters: Mapping[str, Bounded]) -> tuple[Bounded, BoundedBackward]:
        """Return the bounds of `output`, and what makes those of the gradients; `parameters` are named as `tensors`.

        Every registered layer has its formulas written out here a second time, for `fmnist_xp.parity`.
        """
        raise TypeError(f"{type(self).__name__} does not define bound_pass")

    def bound_penalties(self, parameters: Mapping[str, Bounded]) -> dict[str, tuple[Bounded, Bounded]]:
        """Return the bounds of each parameter's penalty and of its gradient."""
        strengths = self.penalty_strengths()
        return {name: penalty_bounds(values, *strengths[name]) for name, values in parameters.items()}

    def penalty_strengths(self) -> dict[str, tuple[float, float]]:
        """Return (λ₁, λ₂) of each parameter's penalty λ₁·Σ|v| + λ₂·Σv² by its name, here of none."""
        return dict.fromkeys(self._shapes, (0.0, 0.0))

    def add_penalty_gradients(self) -> None:
        """Add the gradient of `regularization_loss` to `gradients`."""
        for values, gradients, l1, l2 in self._penalized():
            if l1 or l2:
                self.backend.compute(add_penalty_gradient, gradients, values, l1, l2)

    def regularization_loss(self) -> Array:
        """Return λ₁·Σ|v| + λ₂·Σv² over the parameters, as a scalar that stays on the device."""
        penalties = self.backend.xp.empty_like(self.parameters)
        self.write_penalties(penalties)
        return self.backend.xp.sum(penalties)

    def write_penalties(self, penalties: Array) -> None:
        """Write each parameter's part in `regularization_loss` to `penalties`, (size,).

        Also where both strengths are 0: 0 · v is no number where v is none, and so the loss tells of it, whatever the
        layers behind make of it.
        """
        first = 0
        for values, _gradients, l1, l2 in self._penalized():
            self.backend.compute(penalty, values, l1, l2, penalties[first : first + values.size])
            first += values.size

    def _penalized(self) -> Iterator[tuple[Array, Array, float, float]]:
        """Yield (values, gradients, λ₁, λ₂) of the vectors' parts, of neighbours with the same strengths at once."""
        start = 0
        for strengths, names in groupby(self._shapes, self.penalty_strengths().__getitem__):
            part = slice(start, start := start + sum(math.prod(self._shapes[name]) for name in names))
            yield self.parameters[part], self.gradients[part], *strengths

    def _floats(self, values: Any, name: str = "inputs") -> Array:
        """Return `values` as an array of this backend, of a floating-point dtype; `name` is for the error."""
        values = self.backend.check(values, name)
        return values if values.dtype.kind == "f" else self.backend.numbers(values, name, "float64")

    def _gradient(self, dvalues: Any) -> Array:
        """Return `dvalues` as `_floats` does; raise `ValueError` where it is not of the shape of `output`."""
        dvalues = self._floats(dvalues, "dvalues")
        if dvalues.shape != self.output.shape:
            raise ValueError(f"dvalues must have the shape of output, {self.output.shape}, got {dvalues.shape}")
        return dvalues


@register("dense")
class Dense(Layer):
    """A fully connected layer: `output = inputs · weights + biases`.

    `weights` (n_inputs, n_neurons) are drawn, by default as 0.01 × standard normal, `biases` (1, n_neurons) are zero.
    Both are views of the vector `parameters` (n_inputs·n_neurons + n_neurons,), weights first, and `dweights` and
    `dbiases` likewise of `gradients`; inside a network those are slices of the network's vectors. Assigning to
    `weights` or `biases` copies the values in.

    Parameters
    ----------
    n_inputs, n_neurons
        Number of columns of the input and of the output.
    weight_regularizer_l1, weight_regularizer_l2, bias_regularizer_l1, bias_regularizer_l2
        Strengths λ ≥ 0 of the penalties λ₁·Σ|v| and λ₂·Σv² on the weights and on the biases.
    initializer
        How the weights are drawn: "normal" (0.01 × standard normal); "he_normal", "he_uniform", for ReLU;
        "glorot_normal", "glorot_uniform", for tanh and sigmoid; "lecun_normal", "lecun_uniform". Their variances are
        2/n_inputs, 2/(n_inputs + n_neurons) and 1/n_inputs; `nn/initializers.py` names the papers.
    seed
        Seed of the weights; None draws from the system's entropy.
    dtype
        A precision of the backend: "float32" or "float64", on a GPU also "tf32" or "float16".
    backend
        Where to compute; by default the CPU.
    draw
        Whether to draw the weights. False leaves them at zero, for values that are there already.
    """

    not_saved: ClassVar[tuple[str, ...]] = ("seed", "dtype", "backend", "draw")
    onnx_operator = "Gemm"
    torch_class = Counterpart("Linear", {"in_features": "n_inputs", "out_features": "n_neurons"})
    weights: Array
    biases: Array
    dweights: Array
    dbiases: Array

    def __init__(
        self,
        n_inputs: int,
        n_neurons: int,
        weight_regularizer_l1: float = 0.0,
        weight_regularizer_l2: float = 0.0,
        bias_regularizer_l1: float = 0.0,
        bias_regularizer_l2: float = 0.0,
        *,
        initializer: str = NOTEBOOK,
        seed: int | None = None,
        dtype: str = "float32",
        backend: Backend | None = None,
        draw: bool = True,
    ) -> None:
        super().__init__(backend)
        self.n_inputs = whole_number("n_inputs", n_inputs, 1)
        self.n_neurons = whole_number("n_neurons", n_neurons, 1)
        self.weight_regularizer_l1 = real_number("weight_regularizer_l1", weight_regularizer_l1, 0)
        self.weight_regularizer_l2 = real_number("weight_regularizer_l2", weight_regularizer_l2, 0)
        self.bias_regularizer_l1 = real_number("bias_regularizer_l1", bias_regularizer_l1, 0)
        self.bias_regularizer_l2 = real_number("bias_regularizer_l2", bias_regularizer_l2, 0)
        self.initializer = checked_initializer(initializer)
        self.precision: Precision = self.backend.precision(dtype)
        self.make_parameters(
            dtype=self.precision.parameters,
            weights=(self.n_inputs, self.n_neurons),
            biases=(1, self.n_neurons),
        )
        if draw:
            self.init_parameters(self.backend.generator(seed))

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments, without the notebook's initializer, which saved layers never had."""
        config = super().config()
        return {name: value for name, value in config.items() if (name, value) != ("initializer", NOTEBOOK)}

    def init_parameters(self, generator: Any) -> None:
        """Draw the weights from a NumPy generator, as `initializer` says, and set the biases to zero."""
        self.weights = draw_weights(self.initializer, generator, self.n_inputs, self.n_neurons)
        self.biases[...] = 0

    def forward(self, inputs: Array) -> Array:
        """Set and return `output` (rows, n_neurons), given `inputs` (rows, n_inputs)."""
        self.inputs = self._operand(self.checked_inputs(self._floats(inputs)))
        precision = self.precision
        self.output = self.backend.xp.empty((len(inputs), self.n_neurons), precision.outputs)
        self.backend.dot(self.inputs, self._operand(self.weights), self.output, tf32=precision.tf32)
        self.backend.compute(add_bias, self.output, self.biases)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Set `dweights` and `dbiases`, penalties included, and set and return `dinputs` (rows, n_inputs).

        `dvalues` (rows, n_neurons) is the gradient of the loss with respect to `output`.
        """
        dvalues = self._operand(self._gradient(dvalues))
        self.backward_parameters(dvalues)
        self.add_penalty_gradients()
        return self.backward_inputs(dvalues)

    def backward_parameters(self, dvalues: Array) -> None:
        """Set `dweights = inputsᵀ · dvalues` and `dbiases = Σ_rows dvalues`: the data's part alone.

        `dvalues` must be of the dtype of what enters a product.
        """
        tf32 = self.precision.tf32
        ones = self.backend.xp.ones((len(dvalues), 1), dvalues.dtype)
        self.backend.dot(self.inputs.T, dvalues, self.dweights, tf32=tf32)
        self.backend.sum_rows(ones, dvalues, self.dbiases, tf32)

    def backward_inputs(self, dvalues: Array) -> Array:
        """Set and return `dinputs = dvalues · weightsᵀ`, for `dvalues` as in `backward_parameters`."""
        self.dinputs = self.backend.xp.empty((len(dvalues), self.n_inputs), dvalues.dtype)
        self.backend.dot(dvalues, self._operand(self.weights).T, self.dinputs, tf32=self.precision.tf32)
        return self.dinputs

    def bound_pass(self, inputs: Bounded, parameters: Mapping[str, Bounded]) -> tuple[Bounded, BoundedBackward]:
        """See `Layer.bound_pass`; a hidden layer stores its output before and after the bias."""
        weights, biases = parameters["weights"], parameters["biases"]
        values = inputs @ weights

        def backward(dvalues: Bounded) -> tuple[Bounded, dict[str, Bounded]]:
            dinputs = (dvalues @ weights.moved(lambda array: array.T)).stored()
            return dinputs, {"weights": inputs.over_rows(dvalues), "biases": dvalues.sum_rows()}

        return (values + biases if self.precision.wide else (values.stored() + biases).stored()), backward

    def checked_inputs(self, inputs: Array) -> Array:
        """Return `inputs`; raise `ValueError` where they are not (rows, n_inputs)."""
        if inputs.ndim != 2 or inputs.shape[1] != self.n_inputs:
            raise ValueError(f"inputs must have the shape (rows, {self.n_inputs}), got {inputs.shape}")
        return inputs

    def _operand(self, values: Array) -> Array:
        """Return `values` in the dtype in which they enter a product."""
        return values.astype(self.precision.operands, copy=False)

    def penalty_strengths(self) -> dict[str, tuple[float, float]]:
        """See `Layer.penalty_strengths`."""
        weights = self.weight_regularizer_l1, self.weight_regularizer_l2
        biases = self.bias_regularizer_l1, self.bias_regularizer_l2
        return {**super().penalty_strengths(), "weights": weights, "biases": biases}
