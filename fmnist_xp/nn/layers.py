"""Layers: the base class and the fully connected one."""

from collections.abc import Mapping
from typing import Any, Self

from fmnist_xp.backend import Array, Backend, follows_product
from fmnist_xp.nn.module import Module


@follows_product("bias")
def add_bias(xp: Any, values: Array, biases: Array) -> None:
    """Add `biases` (1, n) to every row of `values` (rows, n), in place."""
    xp.add(values, biases, out=values)


def copy_values(xp: Any, values: Array, output: Array) -> None:
    """Write `values` to `output`, in its dtype."""
    output[...] = values


def add_penalty_gradient(xp: Any, gradients: Array, values: Array, l1: float, l2: float) -> None:
    """Add the gradient of l1·Σ|v| + l2·Σv² to `gradients`, in place; the slope of |v| at 0 is taken as +1."""
    xp.add(gradients, xp.where(values < 0, -l1, l1) + 2 * l2 * values, out=gradients)


def penalty(xp: Any, values: Array, l1: float, l2: float, output: Array) -> None:
    """Write l1·|v| + l2·v² of each of `values` to `output`."""
    # Not l2 · (v · v): a square that is too large would be no number where the strength is 0.
    xp.add(l1 * xp.abs(values), (l2 * values) * values, out=output)


class Layer(Module):
    """One step of a network: `forward` sets `output`, `backward` sets `dinputs`."""

    inputs: Array
    output: Array
    dinputs: Array

    def forward(self, inputs: Array) -> Array:
        """Set and return `output`."""
        raise TypeError(f"{type(self).__name__} does not define forward")

    def backward(self, dvalues: Array) -> Array:
        """Set and return `dinputs`, given the gradient of the loss with respect to `output`."""
        raise TypeError(f"{type(self).__name__} does not define backward")

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments that make a layer like this one."""
        return {}


class Dense(Layer):
    """A fully connected layer: `output = inputs · weights + biases`.

    `weights` (n_inputs, n_neurons) are drawn as 0.01 × standard normal, `biases` (1, n_neurons) start at zero.
    Both are views of the vector `parameters` (n_inputs·n_neurons + n_neurons,), weights first, and `dweights` and
    `dbiases` likewise of `gradients`; inside a network those are slices of the network's vectors. Assigning to
    `weights` or `biases` copies the values in.

    Parameters
    ----------
    n_inputs, n_neurons
        Number of columns of the input and of the output.
    weight_regularizer_l1, weight_regularizer_l2, bias_regularizer_l1, bias_regularizer_l2
        Strengths λ ≥ 0 of the penalties λ₁·Σ|v| and λ₂·Σv² on the weights and on the biases.
    seed
        Seed of the weights; None draws from the system's entropy.
    dtype
        A precision of the backend: "float32" or "float64", on a GPU also "tf32" or "float16".
    backend
        Where to compute; by default the CPU.
    """

    replayable = True

    def __init__(
        self,
        n_inputs: int,
        n_neurons: int,
        weight_regularizer_l1: float = 0.0,
        weight_regularizer_l2: float = 0.0,
        bias_regularizer_l1: float = 0.0,
        bias_regularizer_l2: float = 0.0,
        *,
        seed: int | None = None,
        dtype: str = "float32",
        backend: Backend | None = None,
    ) -> None:
        super().__init__(backend)
        self.adds_bias = True  # else what follows adds `biases` to the output
        for name, size in (("n_inputs", n_inputs), ("n_neurons", n_neurons)):
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        self.n_inputs = int(n_inputs)
        self.n_neurons = int(n_neurons)
        self.weight_regularizer_l1 = float(weight_regularizer_l1)
        self.weight_regularizer_l2 = float(weight_regularizer_l2)
        self.bias_regularizer_l1 = float(bias_regularizer_l1)
        self.bias_regularizer_l2 = float(bias_regularizer_l2)
        for name, strength in self.regularizers().items():
            if not 0 <= strength < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, got {strength}")
        self.set_precision(dtype)
        with self.backend.current():
            zeros = self.backend.xp.zeros(self.size, dtype=self.precision.parameters)
            self.attach(zeros, self.backend.xp.zeros_like(zeros))
        self.draw(self.backend.generator(seed))

    def set_precision(self, dtype: str, *, wide_output: bool = False) -> None:
        """Compute in the precision `dtype`; `wide_output` keeps `output` in the parameters' dtype.

        `input_scale`, a factor on the inputs that their product with the weights takes up, is set back to 1.
        """
        self.precision = self.backend.precision(dtype)
        self.operand_dtype = self.backend.xp.dtype(self.precision.operands)
        self.output_dtype = self.backend.xp.dtype(self.precision.parameters) if wide_output else self.operand_dtype
        self.input_scale = 1.0

    @property
    def size(self) -> int:
        """Number of parameters: weights and biases."""
        return (self.n_inputs + 1) * self.n_neurons

    @property
    def weights(self) -> Array:
        """Weights of shape (n_inputs, n_neurons)."""
        return self._weights

    @weights.setter
    def weights(self, values: Any) -> None:
        self._assign(self._weights, values, "weights")

    @property
    def biases(self) -> Array:
        """Biases of shape (1, n_neurons)."""
        return self._biases

    @biases.setter
    def biases(self, values: Any) -> None:
        self._assign(self._biases, values, "biases")

    def _assign(self, view: Array, values: Any, name: str) -> None:
        array = self.backend.asarray(values, dtype=view.dtype)
        if array.shape != view.shape:
            raise ValueError(f"{name} must have the shape {view.shape}, got {array.shape}")
        view[...] = array

    def attach(self, parameters: Array, gradients: Array) -> None:
        """Make `parameters` and `gradients`, both (size,), the memory of this layer, with the values they hold."""
        split = self.n_inputs * self.n_neurons
        self.parameters = parameters
        self._weights = parameters[:split].reshape(self.n_inputs, self.n_neurons)
        self._biases = parameters[split:].reshape(1, self.n_neurons)
        self.attach_gradients(gradients)

    def attach_gradients(self, gradients: Array) -> None:
        """Make `gradients` (size,) the memory of `dweights` and `dbiases`."""
        split = self.n_inputs * self.n_neurons
        self.gradients = gradients
        self.dweights = gradients[:split].reshape(self.n_inputs, self.n_neurons)
        self.dbiases = gradients[split:].reshape(1, self.n_neurons)

    def draw(self, generator: Any) -> None:
        """Draw the weights as 0.01 × standard normal from a NumPy generator and set the biases to zero."""
        self.weights = 0.01 * generator.standard_normal((self.n_inputs, self.n_neurons))
        self._biases[...] = 0

    def replica(self, backend: Backend | None = None) -> Self:
        """Return a copy that shares the parameters, with gradients and buffers of its own."""
        twin = super().replica(backend)
        twin.attach_gradients(self.backend.xp.empty_like(self.gradients))
        return twin

    def forward(self, inputs: Array) -> Array:
        """Set and return `output` (rows, n_neurons), given `inputs` (rows, n_inputs)."""
        inputs = self.backend.check(inputs, "inputs")
        if inputs.ndim != 2 or inputs.shape[1] != self.n_inputs:
            raise ValueError(f"inputs must have the shape (rows, {self.n_inputs}), got {inputs.shape}")
        if inputs.dtype != self.operand_dtype:
            given, inputs = inputs, self._buffer("inputs", inputs.shape, self.operand_dtype)
            self.backend.apply(copy_values, given, inputs)
        self.inputs = inputs
        self._operand = self._weights
        if self._weights.dtype != self.operand_dtype:
            self._operand = self._buffer("weights", self._weights.shape, self.operand_dtype)
            self.backend.apply(copy_values, self._weights, self._operand)
        self.output = self._buffer("output", (len(inputs), self.n_neurons), self.output_dtype)
        self.backend.dot(inputs, self._operand, self.output, self.input_scale, self.precision.tf32)
        if self.adds_bias:
            self.backend.fuse(add_bias)(self.output, self._biases)
        return self.output

    def backward(self, dvalues: Array) -> Array:
        """Set `dweights` and `dbiases`, penalties included, and set and return `dinputs` (rows, n_inputs).

        `dvalues` (rows, n_neurons) is the gradient of the loss with respect to `output`.
        """
        dvalues = self.backend.check(dvalues, "dvalues")
        if dvalues.shape != self.output.shape:
            raise ValueError(f"dvalues must have the shape of output, {self.output.shape}, got {dvalues.shape}")
        dvalues = dvalues.astype(self.operand_dtype, copy=False)
        self.backward_parameters(dvalues)
        self.add_penalty_gradients()
        return self.backward_inputs(dvalues)

    def backward_parameters(self, dvalues: Array) -> None:
        """Set `dweights = inputsᵀ · dvalues` and `dbiases = Σ_rows dvalues`: the data's part alone.

        `dvalues` must be of the dtype of what enters a product.
        """
        tf32 = self.precision.tf32
        self.backend.dot(self.inputs.T, dvalues, self.dweights, self.input_scale, tf32)
        self.backend.sum_rows(self._ones(len(dvalues), dvalues.dtype), dvalues, self.dbiases, tf32)

    def backward_inputs(self, dvalues: Array) -> Array:
        """Set and return `dinputs = dvalues · weightsᵀ`, for `dvalues` as in `backward_parameters`."""
        self.dinputs = self._buffer("dinputs", (len(dvalues), self.n_inputs), dvalues.dtype)
        self.backend.dot(dvalues, self._operand.T, self.dinputs, 1.0, self.precision.tf32)
        return self.dinputs

    def add_penalty_gradients(self) -> None:
        """Add the gradient of `regularization_loss` to `dweights` and `dbiases`."""
        add = self.backend.fuse(add_penalty_gradient)
        for values, gradients, l1, l2 in self._parts():
            if l1 or l2:
                add(gradients, values, l1, l2)

    def regularization_loss(self) -> Array:
        """Return λ₁·Σ|v| + λ₂·Σv² over weights and biases, as a scalar that stays on the device."""
        penalties = self.backend.xp.empty_like(self.parameters)
        self.write_penalties(penalties)
        return self.backend.xp.sum(penalties)

    def write_penalties(self, penalties: Array) -> None:
        """Write each parameter's part in `regularization_loss` to `penalties`, (size,).

        Also where both strengths are 0: 0 · v is no number where v is none, and so the loss tells of it, whatever the
        layers behind make of it.
        """
        write = self.backend.fuse(penalty)
        first = 0
        for values, _gradients, l1, l2 in self._parts():
            write(values, l1, l2, penalties[first : first + values.size])
            first += values.size

    def _parts(self) -> list[tuple[Array, Array, float, float]]:
        """Return (values, gradients, l1, l2) of the weights and of the biases, or of both where these are alike."""
        split = self._weights.size
        weights = slice(None, split), self.weight_regularizer_l1, self.weight_regularizer_l2
        biases = slice(split, None), self.bias_regularizer_l1, self.bias_regularizer_l2
        parts = [(slice(None), *weights[1:])] if weights[1:] == biases[1:] else [weights, biases]
        return [(self.parameters[part], self.gradients[part], l1, l2) for part, l1, l2 in parts]

    def regularizers(self) -> Mapping[str, float]:
        """Return the four strengths by the names of the constructor's arguments."""
        return {
            "weight_regularizer_l1": self.weight_regularizer_l1,
            "weight_regularizer_l2": self.weight_regularizer_l2,
            "bias_regularizer_l1": self.bias_regularizer_l1,
            "bias_regularizer_l2": self.bias_regularizer_l2,
        }

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments that make a layer like this one."""
        return {"n_inputs": self.n_inputs, "n_neurons": self.n_neurons, **self.regularizers()}
