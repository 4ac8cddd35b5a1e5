"""A network: layers in a row and a loss, with all parameters in one vector. Forward and backward, nothing else."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from fmnist_xp.backend import Array, Backend, get_backend, precision_name
from fmnist_xp.nn.activations import Softmax
from fmnist_xp.nn.layers import Dense, Layer
from fmnist_xp.nn.loss import Loss, divisor, scale_values, summed_gradient
from fmnist_xp.nn.losses import SoftmaxCategoricalCrossentropy
from fmnist_xp.nn.module import Module
from fmnist_xp.nn.pickling import get_state, set_state, shallow_copy
from fmnist_xp.nn.stepwise import keeps_width
from fmnist_xp.nn.summary import short_text, summary_text
from fmnist_xp.registry import registered


class Network:
    """Layers in a row, and a loss.

    `parameters` and `gradients` are vectors over all layers that have parameters, in order, a Dense layer's weights
    before its biases; a layer's `weights`, `biases`, `dweights` and `dbiases` are views of them. An optimizer's step
    is one expression on these vectors.

    A network can be pickled and copied (`copy.deepcopy`), its layers and loss with it; see `Module`. A copy computes
    on the same backend. A pickle has the backend's name alone: where it is loaded, `get_backend` makes one of that
    name, with the threads of that machine, and raises `DeviceError` where there is no such device. Pickled or copied
    together, as in `copy.deepcopy((network, optimizer))`, network and optimizer go on as the originals would.

    Parameters
    ----------
    layers
        The layers from input to output, the first of them Dense. They become part of this network, and cannot be
        part of another while it lives. For your own layers see `Layer`.
    loss
        The loss, its class or that class's name, as in "categorical_crossentropy"; by default softmax joined with
        categorical cross-entropy. `CategoricalCrossentropy` needs a Softmax at the end, `BinaryCrossentropy` a
        Sigmoid.
    backend
        A `Backend`, or the name of a device for `get_backend`.
    seed
        Seed from which all weights are drawn anew, layer by layer; None keeps the weights that the layers have.
    dtype
        A precision that the backend has: "float32" or "float64" (or as NumPy has them, `np.float64`), on a GPU also
        "tf32" (float32 whose products round their operands) or "float16" (half-precision activations and products,
        summed in float32, with float32 parameters). "bfloat16" is for the fused engine alone, see `Sequential.fit`;
        all but training is in tf32 then.

    Raises
    ------
    ValueError
        Where the layers do not fit each other or the loss.
    DeviceError
        Where the backend lacks the precision.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        loss: Loss | type[Loss] | str | None = None,
        backend: Backend | str = "cpu",
        seed: int | None = None,
        dtype: Any = "float32",
    ) -> None:
        self.backend = get_backend(backend)
        self.layers = _checked_layers(layers)
        self.loss = _make_loss(loss, self.backend)
        self.dtype = precision_name(dtype)
        self.precision = self.backend.precision(self.dtype)
        _check_architecture(self.layers, self.loss)
        self._take_in_modules()
        if seed is not None:
            generator = self.backend.generator(seed)
            for layer in self.layers:
                layer.init_parameters(generator)

    def _take_in_modules(self) -> None:
        """Make the layers and the loss parts of this network, and their parameters slices of its vectors."""
        self.dense = [layer for layer in self.layers if isinstance(layer, Dense)]
        self.trainable = [layer for layer in self.layers if layer.size]
        values = [layer.backend.to_host(layer.parameters) for layer in self.trainable]
        for module in (*self.layers, self.loss):
            module.join(self)
        self.dense[-1].precision = self.precision._replace(wide=True)
        size = sum(layer.size for layer in self.trainable)
        with self.backend.current():
            self.parameters = self.backend.xp.empty(size, dtype=self.precision.parameters)
            self.gradients = self.backend.xp.zeros_like(self.parameters)
            for layer, part in self.parts():
                self.parameters[part] = self.backend.asarray(values.pop(0))
                layer.bind_parameters(self.parameters[part], self.gradients[part])

    def __repr__(self) -> str:
        """Return widths, device, precision, layers, loss and the number of parameters."""
        return short_text(self)

    def summary(self, print_fn: Callable[[str], object] = print) -> None:
        """Print a table of the layers with their parameters and penalties: `print_fn` is given it as one text."""
        print_fn(summary_text(self))

    def __copy__(self) -> Self:
        """Return a network that shares everything with this one."""
        return shallow_copy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes that a pickle or a deep copy has, by name; the layers have their own parameters."""
        return get_state(self, ("parameters", "gradients", "dense", "trainable"))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes of a pickle or a deep copy, and the layers and the loss for this network."""
        set_state(self, state)
        for module in (*self.layers, self.loss):
            if "backend" not in vars(module):  # the pickle began with it, and it waits for this network
                raise TypeError(
                    f"{type(module).__name__} refers to its network: pickle or copy the network, and it goes along"
                )
        self.precision = self.backend.precision(self.dtype)
        self._take_in_modules()

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

    def parts(self) -> Iterator[tuple[Layer, slice]]:
        """Yield each layer that has parameters with its place in the vectors."""
        start = 0
        for layer in self.trainable:
            yield layer, slice(start, start + layer.size)
            start += layer.size

    def bind_gradients(self, gradients: Array) -> None:
        """Make `gradients`, a vector like the present one, the memory of this network's gradients."""
        self.gradients = gradients
        for layer, part in self.parts():
            layer.bind_gradients(gradients[part])

    @property
    def training(self) -> bool:
        """Whether `forward` computes for a gradient, which layers such as dropout must know; at first it does not."""
        return bool(self.loss.training)

    @training.setter
    def training(self, training: bool) -> None:
        for module in (*self.layers, self.loss):
            module.training = training

    def forward(self, inputs: Array) -> Array:
        """Return the predictions (rows, classes) of `inputs` (rows, n_inputs): as a rule class probabilities."""
        for layer in self.layers:
            inputs = layer.forward(inputs)
        return self.loss.activate(inputs)

    def backward(self, probabilities: Array, labels: Array, reduction: str = "mean", *, samples: Any = None) -> None:
        """Set `gradients` to those of the data loss alone, after `forward` gave `probabilities`.

        With the `reduction` "sum" in place of "mean" those of blocks of rows add up to the whole. `samples` is its
        old form: the number to divide by. The gradient of the images is not computed.
        """
        if reduction == "mean" and samples is None:
            dvalues = self.loss.backward(probabilities, labels)
        else:
            dvalues = summed_gradient(self.loss, probabilities, labels)
            if (rows := divisor(len(labels), reduction, samples)) != 1:
                self.backend.compute(scale_values, dvalues, 1 / rows)
        for layer in reversed(self.layers[1:]):
            if isinstance(layer, Dense):
                dvalues = self._operands(dvalues)
                layer.backward_parameters(dvalues)
                dvalues = layer.backward_inputs(dvalues)
            else:
                dvalues = layer.backward(dvalues)
        self.dense[0].backward_parameters(self._operands(dvalues))

    def _operands(self, dvalues: Array) -> Array:
        """Return `dvalues` as they enter a product, which a user's own layer need not leave them as."""
        if dvalues.dtype == self.precision.operands and dvalues.flags.c_contiguous:
            return dvalues
        with self.backend.current():
            return self.backend.xp.ascontiguousarray(dvalues, dtype=self.precision.operands)

    def add_penalty_gradients(self) -> None:
        """Add the gradient of `regularization_loss` to `gradients`."""
        for layer in self.trainable:
            layer.add_penalty_gradients()

    def write_penalties(self, penalties: Array) -> None:
        """Write each parameter's part in the regularization loss to `penalties`, a vector like `parameters`."""
        for layer, part in self.parts():
            layer.write_penalties(penalties[part])

    def regularization_loss(self) -> Array:
        """Return the sum of the layers' regularization losses, as a scalar that stays on the device."""
        return self.loss.regularization_loss(*self.trainable)

    def state_dict(self) -> dict[str, Any]:
        """Return copies of all parameters as NumPy arrays, named dense1.weights, dense1.biases, dense2.weights, …

        The name of a layer is that of its class and its number among those of that name.
        """
        return {name: self.backend.to_host(view).copy() for name, view in self._views().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy in all parameters, named and shaped as `state_dict` has them.

        Raises `ValueError`, and changes nothing, where a name is missing or unknown or a shape differs.
        """
        views = self._views()
        if missing := sorted(views.keys() - state.keys()):
            raise ValueError(f"the state lacks {', '.join(missing)}")
        if unknown := sorted(state.keys() - views.keys()):
            raise ValueError(
                f"the state has {', '.join(unknown)}, which this network of {len(self.dense)} Dense lacks"
            )
        arrays = {name: self.backend.numbers(values, name) for name, values in state.items()}
        for name, view in views.items():
            if arrays[name].shape != view.shape:
                raise ValueError(f"{name} must have the shape {view.shape}, got {arrays[name].shape}")
        with self.backend.current():
            for name, view in views.items():
                view[...] = arrays[name]

    def _views(self) -> dict[str, Array]:
        counts: Counter[str] = Counter()
        views: dict[str, Array] = {}
        for layer in self.trainable:
            kind = type(layer).__name__.lower()
            counts[kind] += 1
            views |= {f"{kind}{counts[kind]}.{name}": view for name, view in layer.tensors().items()}
        return views


def _checked_layers(layers: Sequence[Layer]) -> list[Layer]:
    """Return `layers` as a list; raise `ValueError` for what is no layer, or one of another network."""
    if isinstance(layers, Layer) or not isinstance(layers, Iterable):
        raise ValueError(f"layers must be a list of layers, got {layers!r}")
    checked = list(layers)
    for number, layer in enumerate(checked, start=1):
        if not isinstance(layer, Layer):
            cure = f"make one: {layer.__name__}(…)" if isinstance(layer, type) else "inherit from fmnist_xp.Layer"
            raise ValueError(f"layer {number} is {layer!r}, not a layer: {cure}")
        _check_free(layer, f"layer {number}")
    return checked


def _make_loss(loss: Loss | type[Loss] | str | None, backend: Backend) -> Any:
    """Return the loss that `loss` is, or names; raise `ValueError` for anything else, or one of another network."""
    names = registered(Loss)
    kind: Any = names.get(loss, loss) if isinstance(loss, str) else loss or SoftmaxCategoricalCrossentropy
    if isinstance(kind, type) and issubclass(kind, Loss):
        return kind(backend)
    if not isinstance(loss, Loss):
        raise ValueError(f"loss must be one of {', '.join(names)}, or a Loss, got {loss!r}")
    _check_free(loss, "the loss")
    return loss


def _check_free(module: Module, name: str) -> None:
    if module.network is not None:
        raise ValueError(
            f"{name} ({type(module).__name__}) is part of another network already, which would lose it: make another"
        )


def _check_architecture(layers: Sequence[Layer], loss: Loss) -> None:
    """Raise `ValueError` where the layers do not fit each other or the loss."""
    if not layers or not isinstance(layers[0], Dense):
        raise ValueError("the first layer must be Dense")
    if len({id(layer) for layer in layers}) < len(layers):
        raise ValueError("each layer can stand in a network only once")
    for number, layer in enumerate(layers, start=1):
        # The input's gradient is not always wanted, and penalties are added once, so a network calls these two.
        if isinstance(layer, Dense) and type(layer).backward is not Dense.backward:
            raise ValueError(
                f"layer {number} ({type(layer).__name__}) overrides backward, which a network does not call of a "
                "Dense layer: override backward_parameters and backward_inputs"
            )
    dense, width = 0, None  # of the Dense layer before, where nothing behind it can have changed the width
    for number, layer in enumerate(layers, start=1):
        if isinstance(layer, Dense):
            if width is not None and width != layer.n_inputs:
                raise ValueError(
                    f"dense{dense} has {width} neurons, but dense{dense + 1} takes {layer.n_inputs} inputs"
                )
            dense, width = dense + 1, layer.n_neurons
        elif not keeps_width(layer):
            width = None
        elif None not in (width, layer.n_features) and width != layer.n_features:
            raise ValueError(
                f"dense{dense} has {width} neurons, but layer {number} ({type(layer).__name__}) takes "
                f"{layer.n_features} columns"
            )
    name, end = type(loss).__name__, loss.ends_with
    if isinstance(layers[-1], Softmax) and isinstance(loss, SoftmaxCategoricalCrossentropy):
        raise ValueError(f"{name} brings its own softmax: leave the last Softmax layer out")
    if end is not None and not isinstance(layers[-1], end):
        raise ValueError(f"{name} takes probabilities: end the layers with {end.__name__}()")
