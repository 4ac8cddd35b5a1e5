"""A network: layers in a row and a loss, with all parameters in one vector. Forward and backward, nothing else."""

import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

from fmnist_xp.backend import Array, Backend, get_backend
from fmnist_xp.nn.activations import ReLU, Softmax
from fmnist_xp.nn.layers import Dense, Layer
from fmnist_xp.nn.losses import CategoricalCrossentropy, SoftmaxCategoricalCrossentropy


class Network:
    """Layers in a row, and a loss.

    `parameters` and `gradients` are vectors over all Dense layers in order, each with its weights and then its
    biases; a layer's `weights`, `biases`, `dweights` and `dbiases` are views of them. An optimizer's step is one
    expression on these vectors.

    Parameters
    ----------
    layers
        The layers from input to output, the first of them Dense. They become part of this network.
    loss
        The loss; by default softmax joined with categorical cross-entropy.
    backend
        A `Backend`, or the name of a device for `get_backend`.
    seed
        Seed from which all weights are drawn anew, layer by layer; None keeps the weights that the layers have.
    dtype
        A precision that the backend has: "float32" or "float64", on a GPU also "tf32" (float32 whose products
        round their operands) or "float16" (half-precision activations and products, summed in float32, with
        float32 parameters).

    Raises `ValueError` where the layers do not fit each other or the loss, `DeviceError` where the backend lacks
    the precision.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        loss: CategoricalCrossentropy | None = None,
        backend: Backend | str = "cpu",
        seed: int | None = None,
        dtype: str = "float32",
    ) -> None:
        self.backend = get_backend(backend)
        self.layers = list(layers)
        self.loss = loss or SoftmaxCategoricalCrossentropy(self.backend)
        self.dtype = str(dtype)
        self.precision = self.backend.precision(self.dtype)
        _check_architecture(self.layers, self.loss)
        self.dense = [layer for layer in self.layers if isinstance(layer, Dense)]
        values = [layer.backend.to_host(layer.parameters) for layer in self.dense]
        for module in (*self.layers, self.loss):
            module.bind(self.backend)
        for layer in self.dense:
            layer.set_precision(self.dtype, wide_output=layer is self.dense[-1])
        self.loss.gradient_dtype = self.backend.xp.dtype(self.precision.operands)
        ends = list(itertools.accumulate(layer.size for layer in self.dense))
        self._parts = [slice(end - layer.size, end) for layer, end in zip(self.dense, ends, strict=True)]
        with self.backend.current():
            self.parameters = self.backend.xp.empty(ends[-1], dtype=self.precision.parameters)
            self.gradients = self.backend.xp.zeros_like(self.parameters)
            for layer, part, held in zip(self.dense, self._parts, values, strict=True):
                self.parameters[part] = self.backend.asarray(held, dtype=self.precision.parameters)
                layer.attach(self.parameters[part], self.gradients[part])
        if seed is not None:
            generator = self.backend.generator(seed)
            for layer in self.dense:
                layer.draw(generator)

    @property
    def n_inputs(self) -> int:
        """Number of columns of the input."""
        return self.dense[0].n_inputs

    @property
    def n_classes(self) -> int:
        """Number of columns of the output."""
        return self.dense[-1].n_neurons

    @property
    def widths(self) -> list[int]:
        """Number of columns of the input and of each Dense layer's output."""
        return [self.n_inputs, *(layer.n_neurons for layer in self.dense)]

    def replica(self, backend: Backend | None = None) -> Self:
        """Return a network that shares the parameters, with gradients and buffers of its own that it makes once.

        `backend`, if given, is one like the network's that its layers and its loss compute through.
        """
        twin = copy.copy(self)
        twin.layers = [layer.replica(backend) for layer in self.layers]
        twin.dense = [layer for layer in twin.layers if isinstance(layer, Dense)]
        twin.loss = self.loss.replica(backend)
        # A Dense layer never needs its own output again, so what follows it may write over that.
        for before, after in zip(twin.layers, [*twin.layers[1:], twin.loss], strict=True):
            after.overwrite_inputs = isinstance(before, Dense)
            if isinstance(before, Dense) and isinstance(after, ReLU):
                before.adds_bias, after.biases = False, before.biases
        with self.backend.current():
            twin.attach_gradients(self.backend.xp.empty_like(self.gradients))
        return twin

    def attach_gradients(self, gradients: Array) -> None:
        """Make `gradients`, a vector like the present one, the memory of this network's gradients."""
        self.gradients = gradients
        for layer, part in zip(self.dense, self._parts, strict=True):
            layer.attach_gradients(gradients[part])

    def forward(self, inputs: Array) -> Array:
        """Return the class probabilities (rows, classes) of `inputs` (rows, n_inputs)."""
        for layer in self.layers:
            inputs = layer.forward(inputs)
        return self.loss.activate(inputs)

    def backward(self, probabilities: Array, labels: Array, samples: int | None = None) -> None:
        """Set `gradients` to those of the data loss alone, after `forward` gave `probabilities`.

        `samples` is the number that the loss is the mean over, by default the rows given; with 1 the gradients are
        sums, and those of blocks of rows add up to the whole. The gradient of the images is not computed.
        """
        dvalues = self.loss.backward(probabilities, labels, samples)
        for layer in reversed(self.layers[1:]):
            if isinstance(layer, Dense):
                layer.backward_parameters(dvalues)
                dvalues = layer.backward_inputs(dvalues)
            else:
                dvalues = layer.backward(dvalues)
        self.dense[0].backward_parameters(dvalues)

    def add_penalty_gradients(self) -> None:
        """Add the gradient of `regularization_loss` to `gradients`."""
        for layer in self.dense:
            layer.add_penalty_gradients()

    def write_penalties(self, penalties: Array) -> None:
        """Write each parameter's part in the regularization loss to `penalties`, a vector like `parameters`."""
        for layer, part in zip(self.dense, self._parts, strict=True):
            layer.write_penalties(penalties[part])

    def regularization_loss(self) -> Array:
        """Return the sum of the layers' regularization losses, as a scalar that stays on the device."""
        return self.loss.regularization_loss(*self.dense)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all weights and biases as NumPy arrays, named dense1.weights, dense1.biases, …"""
        return {name: self.backend.to_host(view).copy() for name, view in self._views().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy in all weights and biases, named and shaped as `state_dict` has them.

        Raises `ValueError`, and changes nothing, where a name is missing or unknown or a shape differs.
        """
        views = self._views()
        if missing := sorted(views.keys() - state.keys()):
            raise ValueError(f"the state lacks {', '.join(missing)}")
        if unknown := sorted(state.keys() - views.keys()):
            raise ValueError(
                f"the state has {', '.join(unknown)}, which this network of {len(self.dense)} Dense lacks"
            )
        arrays = {name: self.backend.asarray(values, dtype=self.parameters.dtype) for name, values in state.items()}
        for name, view in views.items():
            if arrays[name].shape != view.shape:
                raise ValueError(f"{name} must have the shape {view.shape}, got {arrays[name].shape}")
        with self.backend.current():
            for name, view in views.items():
                view[...] = arrays[name]

    def _views(self) -> dict[str, Array]:
        return {
            f"dense{number}.{name}": view
            for number, layer in enumerate(self.dense, start=1)
            for name, view in (("weights", layer.weights), ("biases", layer.biases))
        }


def _check_architecture(layers: Sequence[Layer], loss: CategoricalCrossentropy) -> None:
    """Raise `ValueError` where the layers do not fit each other or the loss."""
    if not layers or not isinstance(layers[0], Dense):
        raise ValueError("the first layer must be Dense")
    if len({id(layer) for layer in layers}) < len(layers):
        raise ValueError("each layer can stand in a network only once")
    dense = [layer for layer in layers if isinstance(layer, Dense)]
    for number, (before, after) in enumerate(itertools.pairwise(dense), start=1):
        if before.n_neurons != after.n_inputs:
            raise ValueError(
                f"dense{number} has {before.n_neurons} neurons, but dense{number + 1} takes {after.n_inputs} inputs"
            )
    joined = isinstance(loss, SoftmaxCategoricalCrossentropy)
    if isinstance(layers[-1], Softmax) is joined:
        raise ValueError(
            "SoftmaxCategoricalCrossentropy brings its own softmax: leave the last Softmax layer out"
            if joined
            else "CategoricalCrossentropy takes probabilities: end the layers with Softmax()"
        )
