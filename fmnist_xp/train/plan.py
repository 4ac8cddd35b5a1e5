"""The plan of a network: what it computes for a block of rows, laid out once as a list of calls on buffers.

The package's own layers and losses are taken apart into the formulas that they are made of, in place where nobody
needs a value again and joined where one kernel does both. Any other layer or loss, or a network with a forward or
backward of its own, is called as it is, between copies: it may do with its arrays what it likes.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from fmnist_xp.backend import Array, Backend, Call, Formula, Product, RowSum, Step
from fmnist_xp.nn import (
    Activation,
    CategoricalCrossentropy,
    Dense,
    Network,
    Softmax,
    SoftmaxCategoricalCrossentropy,
)
from fmnist_xp.nn.activations import biased, softmax_gradient_steps, softmax_steps
from fmnist_xp.nn.layers import add_bias, copy_values
from fmnist_xp.nn.losses import (
    CLIP,
    class_row,
    crossentropy_gradient,
    row_starts,
    softmax_crossentropy_gradient,
    summed_gradient,
    true_probability_steps,
)
from fmnist_xp.registry import is_registered


def is_planned(network: Network) -> bool:
    """Return whether every layer and the loss are taken apart, so that an epoch is the same calls each time."""
    return _computes_as_its_layers(network) and all(map(is_registered, (*network.layers, network.loss)))


def takes_input_scale(network: Network) -> bool:
    """Return whether a plan of `network` has a product that takes a factor on the inputs up."""
    return _computes_as_its_layers(network) and type(network.layers[0]) is Dense


def _computes_as_its_layers(network: Network) -> bool:
    kind = type(network)
    return kind.forward is Network.forward and kind.backward is Network.backward


class Workspace:
    """Arrays by name, each made once; fewer rows are the head of one."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._arrays: dict[str, Array] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return the array of this name, with whatever it holds."""
        return self.made(name, shape, dtype, lambda: self._xp.empty(shape, dtype))

    def ones(self, count: int, dtype: Any) -> Array:
        """Return a column of ones (count, 1); a product with it is the fastest sum over rows or columns."""
        return self.made(f"ones in {dtype}", (count, 1), dtype, lambda: self._xp.ones((count, 1), dtype))

    def made(self, name: str, shape: tuple[int, ...], dtype: Any, make: Callable[[], Array]) -> Array:
        """Return the head of the array of this name, which `make` makes where there is none that is large enough."""
        held = self._arrays.get(name)
        if held is None or held.dtype != dtype or held.shape[1:] != shape[1:] or len(held) < shape[0]:
            held = self._arrays[name] = make()
        return held if len(held) == shape[0] else held[: shape[0]]


class Calls:
    """A list of calls that is made while what it stands for is computed for the first time."""

    def __init__(self, backend: Backend) -> None:
        self.steps: list[Step] = []
        self._calls: list[Call] = []
        self._backend, self._pending = backend, 0

    def add(self, *steps: Step) -> None:
        """Compute `steps` after what there is."""
        self.steps += steps

    def through(self, function: Callable[[Array], Array], values: Array, name: str, workspace: Workspace) -> Array:
        """Compute `function`, which may do what it likes, of a copy of `values`; return where its result is kept."""
        self.finish()
        given = function(values.copy())
        given = self._backend.check(given, name)
        result = workspace.empty(name, given.shape, given.dtype if given.dtype.kind == "f" else "float64")
        result[...] = given
        self.call(_keep_result, function, values, result)
        return result

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Enter a call that was made already."""
        self._calls.append((function, arguments))

    def finish(self) -> None:
        """Compute the steps that wait for it."""
        made = self._backend.calls(self.steps[self._pending :])
        self._pending = len(self.steps)
        for function, arguments in made:
            function(*arguments)
        self._calls += made

    def __call__(self) -> None:
        """Compute it all again, from what the same arrays hold now."""
        for function, arguments in self._calls:
            function(*arguments)


def _keep_result(function: Callable[[Array], Array], values: Array, result: Array) -> None:
    result[...] = function(values.copy())


class Forward(NamedTuple):
    """What computes `probabilities`; `kept` is, for each layer, what its gradient is made from."""

    calls: Calls
    probabilities: Array
    kept: list[Any]


class Plan:
    """Lays out the calls of `network` for one worker, with a workspace of its own.

    `input_scale` is a factor on the inputs, which the first layer's products take up. The rows of a block are summed,
    not averaged: a half divided by many rows would vanish.
    """

    def __init__(self, network: Network, input_scale: float = 1.0) -> None:
        self._network = _twin(network)
        self._backend = network.backend
        self._scale = input_scale
        self.workspace = Workspace(network.backend.xp)
        self.loss: CategoricalCrossentropy = self._network.loss

    def forward(self, inputs: Array, training: bool) -> Forward:
        """Compute the class probabilities (rows, classes) of `inputs` (rows, n_inputs), and return what does."""
        calls, network = Calls(self._backend), self._network
        kept: list[Any] = [None] * len(network.layers)
        if not _computes_as_its_layers(network):
            values = calls.through(partial(_called, network, network.forward, training), inputs, "network", self.workspace)
            return Forward(calls, values, kept)
        values, free = inputs, False  # whether nobody needs the values again, so that they may be written over
        biases = None  # those of the Dense layer before, where they are still to be added
        for number, layer in enumerate(network.layers):
            following = network.layers[number + 1] if number + 1 < len(network.layers) else None
            if type(layer) is Dense:
                values = self._dense(calls, number, layer, values, kept)
                biases, free = layer.biases, True
                if not (isinstance(following, Activation) and is_registered(following)):
                    calls.add(Formula(add_bias, (values, biases)))
                    biases = None
            elif isinstance(layer, Activation) and is_registered(layer):
                output = values if free else self._empty(f"{number} output", values.shape, values.dtype)
                if biases is None:
                    calls.add(Formula(type(layer).formula, (values, output)))
                else:
                    calls.add(Formula(biased(type(layer).formula), (values, biases, output)))
                values, biases, free = output, None, False
                kept[number] = values
            elif type(layer) is Softmax:
                values = kept[number] = self._softmax(calls, f"{number} ", values, free)
                free = False
            else:
                forward = partial(_called, layer, layer.forward, training)
                values, free = calls.through(forward, values, f"{number} output", self.workspace), False
        if type(self.loss) is SoftmaxCategoricalCrossentropy:
            values = self._softmax(calls, "loss ", values, free)
        elif not is_registered(self.loss):
            activate = partial(_called, self.loss, self.loss.activate, training)
            values = calls.through(activate, values, "probabilities", self.workspace)
        calls.finish()
        return Forward(calls, values, kept)

    def backward(self, forward: Forward, labels: Array, gradients: Array) -> Calls:
        """Write the sum of the samples' gradients to the vector `gradients`, after `forward`; return what does.

        `labels` (rows,) are class indices. The probabilities may be written over.
        """
        calls, network = Calls(self._backend), self._network
        network.bind_gradients(gradients)
        if not is_planned(network):  # layers of the user's own write to the gradients that they are bound to
            calls.call(network.bind_gradients, gradients)
        if not _computes_as_its_layers(network):
            network.backward(forward.probabilities, labels, "sum")
            calls.call(network.backward, forward.probabilities, labels, "sum")
            return calls
        dvalues = self._loss_gradient(calls, forward.probabilities, labels)
        for number, layer in reversed(list(enumerate(network.layers))):
            kept = forward.kept[number]
            if type(layer) is Dense:
                dvalues = self._operand(calls, f"{number} dvalues", dvalues, layer)
                dvalues = self._dense_gradients(calls, number, layer, kept, dvalues)
            elif isinstance(layer, Activation) and is_registered(layer):
                calls.add(Formula(type(layer).gradient, (dvalues, kept, dvalues)))
            elif type(layer) is Softmax:
                dvalues = self._softmax_gradient(calls, number, dvalues, kept)
            elif isinstance(layer, Dense):
                dvalues = self._operand(calls, f"{number} dvalues", dvalues, layer)
                backward = partial(_dense_backward, layer, with_inputs=number > 0)
                dvalues = calls.through(backward, dvalues, f"{number} dinputs", self.workspace)
            else:
                dvalues = calls.through(layer.backward, dvalues, f"{number} dinputs", self.workspace)
        calls.finish()
        return calls

    def true_probabilities(self, probabilities: Array, labels: Array, out: Array) -> None:
        """Write the probability that each row gives to its true class to `out` (rows,); nothing is allocated."""
        if not is_registered(self.loss):
            self.loss.true_probabilities(probabilities, labels, out)
            return
        (rows, classes), xp = probabilities.shape, self._backend.xp
        starts = self.workspace.made(f"starts of {classes}", (rows,), "int64", lambda: row_starts(xp, rows, classes))
        places = self.workspace.empty("places", (rows,), "int64")
        self._backend.run(*true_probability_steps(probabilities, labels, out, starts, places))

    def _empty(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.workspace.empty(name, shape, dtype)

    def _operand(self, calls: Calls, name: str, values: Array, layer: Dense) -> Array:
        """Return `values` in the dtype in which they enter the products of `layer`."""
        if values.dtype == layer.precision.operands:
            return values
        operand = self._empty(name, values.shape, layer.precision.operands)
        calls.add(Formula(copy_values, (values, operand)))
        return operand

    def _dense(self, calls: Calls, number: int, layer: Dense, inputs: Array, kept: list[Any]) -> Array:
        """Return where inputs · weights will be."""
        inputs = self._operand(calls, f"{number} inputs", layer.checked_inputs(inputs), layer)
        weights = self._operand(calls, f"{number} weights", layer.weights, layer)
        output = self._empty(f"{number} output", (len(inputs), layer.n_neurons), layer.precision.outputs)
        scale = 1.0 if number else self._scale
        calls.add(Product(inputs, weights, output, scale, layer.precision.tf32))
        kept[number] = inputs, weights
        return output

    def _dense_gradients(self, calls: Calls, number: int, layer: Dense, kept: Any, dvalues: Array) -> Array:
        """Write the gradients of weights and biases, and of the inputs but for the first layer's."""
        (inputs, weights), tf32 = kept, layer.precision.tf32
        ones = self.workspace.ones(len(dvalues), dvalues.dtype)
        calls.add(
            Product(inputs.T, dvalues, layer.dweights, 1.0 if number else self._scale, tf32),
            RowSum(ones, dvalues, layer.dbiases, tf32),
        )
        if not number:
            return dvalues
        dinputs = self._empty(f"{number} dinputs", inputs.shape, dvalues.dtype)
        calls.add(Product(dvalues, weights.T, dinputs, 1.0, tf32))
        return dinputs

    def _softmax(self, calls: Calls, name: str, values: Array, free: bool) -> Array:
        (rows, classes), dtype = values.shape, values.dtype
        output = values if free else self._empty(f"{name}output", values.shape, dtype)
        row, by_class = self._empty(f"{name}row", (rows, 1), dtype), self._empty(f"{name}by class", (rows * classes,), dtype)
        ones = self.workspace.ones(classes, dtype)
        calls.add(*softmax_steps(self._backend, values, output, row, by_class.reshape(classes, rows), ones))
        return output

    def _softmax_gradient(self, calls: Calls, number: int, dvalues: Array, output: Array) -> Array:
        dtype = output.dtype
        dinputs = self._empty(f"{number} dinputs", dvalues.shape, dvalues.dtype)
        row, products = self._empty(f"{number} row", (len(dvalues), 1), dtype), self._empty(f"{number} products", dvalues.shape, dtype)
        ones = self.workspace.ones(dvalues.shape[1], dtype)
        calls.add(*softmax_gradient_steps(dvalues, output, dinputs, row, products, ones))
        return dinputs

    def _loss_gradient(self, calls: Calls, probabilities: Array, labels: Array) -> Array:
        if not is_registered(self.loss):
            backward = partial(summed_gradient, self.loss)
            return calls.through(lambda given: backward(given, labels), probabilities, "loss dinputs", self.workspace)
        xp, classes = self._backend.xp, probabilities.shape[1]
        class_indices = self.workspace.made(
            f"classes for {labels.dtype}", (1, classes), class_row(xp, classes, labels.dtype).dtype, lambda: class_row(xp, classes, labels.dtype)
        )
        dtype = self._network.precision.operands
        joined = type(self.loss) is SoftmaxCategoricalCrossentropy
        in_place = joined and dtype == probabilities.dtype
        dinputs = probabilities if in_place else self._empty("loss dinputs", probabilities.shape, dtype)
        if joined:
            calls.add(Formula(softmax_crossentropy_gradient, (probabilities, class_indices, labels[:, None], dinputs)))
        else:
            given = probabilities, class_indices, labels[:, None], CLIP, 1.0, dinputs
            calls.add(Formula(crossentropy_gradient, given))
        return dinputs


def _twin(network: Network) -> Network:
    """Return a network that shares the parameters, with layers, a loss and gradients of its own."""
    twin = copy.copy(network)
    twin.layers = [copy.copy(layer) for layer in network.layers]
    twin.dense = [layer for layer in twin.layers if isinstance(layer, Dense)]
    twin.trainable = [layer for layer in twin.layers if layer.size]
    twin.loss = copy.copy(network.loss)
    twin.loss.checks_labels = False
    return twin


def _called(module: Any, function: Callable[[Array], Array], training: bool, values: Array) -> Array:
    module.training = training
    return function(values)


def _dense_backward(layer: Dense, dvalues: Array, with_inputs: bool) -> Array:
    layer.backward_parameters(dvalues)
    return layer.backward_inputs(dvalues) if with_inputs else dvalues
