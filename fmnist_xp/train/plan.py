"""The plan of a network: what it computes for a block of rows, laid out once as a list of calls on buffers.

The package's own layers and losses are taken apart into the formulas that they are made of, in place where nobody
needs a value again and joined where one kernel does both. Any other layer or loss, or a network with a forward or
backward of its own, is called as it is, between copies: it may do with its arrays what it likes.
"""

import copy
from collections.abc import Callable
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

from fmnist_xp import nn
from fmnist_xp.backend import Array, Backend, Call, Formula, Product, RowSum, Step
from fmnist_xp.nn.draws import Draws
from fmnist_xp.nn.layers import add_bias, copy_values
from fmnist_xp.nn.loss import loss_is_taken_apart, summed_gradient, weigh
from fmnist_xp.nn.stepwise import is_taken_apart
from fmnist_xp.nn.workspace import Workspace


def is_planned(network: nn.Network) -> bool:
    """Return whether every layer and the loss are taken apart, so that an epoch is the same calls each time."""
    known = (type(layer) is nn.Dense or is_taken_apart(layer) for layer in network.layers)
    return computes_as_its_layers(network) and loss_is_taken_apart(network.loss) and all(known)


def plans_first_layer(network: nn.Network) -> bool:
    """Return whether a plan of `network` takes its first layer apart, and so can take up a `Shift`."""
    return computes_as_its_layers(network) and type(network.layers[0]) is nn.Dense


def computes_as_its_layers(network: nn.Network) -> bool:
    """Return whether forward and backward are those of every `Network`, one layer after another."""
    return (type(network).forward, type(network).backward) == (nn.Network.forward, nn.Network.backward)


class Calls:
    """A list of calls that is made while what it stands for is computed for the first time."""

    def __init__(self, backend: Backend) -> None:
        self.steps: list[Step] = []
        self._calls: list[Call] = []
        self._backend, self._pending = backend, 0

    def add(self, *steps: Step) -> None:
        """Compute `steps` after what there is."""
        self.steps += steps

    def through(self, function: Callable[[Array], Array], values: Array, keep: Callable[[Array], Array]) -> Array:
        """Call `function`, which may do what it likes, with a copy of `values`; return the array that `keep` made."""
        self.finish()
        result = keep(function(values.copy()))

        def call() -> None:  # into the same array, whatever the workspace holds under its name by then
            result[...] = function(values.copy())

        self.note(call)
        return result

    def note(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Enter a call whose turn has come, and which the caller makes."""
        self._calls.append((function, arguments))

    def finish(self) -> None:
        """Compute the steps that wait for it."""
        made, self._pending = self._backend.calls(self.steps[self._pending :]), len(self.steps)
        for function, arguments in made:
            function(*arguments)
        self._calls += made

    def __call__(self) -> None:
        """Compute it all again, from what the same arrays hold now."""
        for function, arguments in self._calls:
            function(*arguments)


class Forward(NamedTuple):
    """What computes `probabilities`; `kept` is, for each layer, what its gradient is made from."""

    calls: Calls
    probabilities: Array
    kept: list[Any]


class Outcomes(NamedTuple):
    """What computes `left`, a number of each row for its loss, and `predicted`, the class of its highest output."""

    calls: Calls
    left: Array
    predicted: Array


class Plan:
    """Lays out the calls of `network` for one worker, with a workspace of its own.

    `input_scale` is a factor on the inputs, which the first layer's products take up. `first_parameters` are a vector
    that takes the place of the first layer's own.
    """

    def __init__(self, network: nn.Network, input_scale: float = 1.0, first_parameters: Array | None = None) -> None:
        self._network = _copied(network)
        if first_parameters is not None:
            first = self._network.layers[0]
            first.bind_parameters(first_parameters, first.gradients)
        self._backend, self._loss, self._scale = network.backend, self._network.loss, input_scale
        self.workspace = Workspace(network.backend.xp)

    def forward(
        self, inputs: Array, training: bool, columns: Array | None = None, draws: Draws | None = None
    ) -> Forward:
        """Compute the class probabilities (rows, classes) of `inputs` (rows, n_inputs), and return what does.

        With `columns`, indices (k,), `inputs` (rows, k) are these columns, and the others are 0. `draws` are those of
        the rows, where a layer draws.
        """
        calls, network = Calls(self._backend), self._network
        kept: list[Any] = [None] * len(network.layers)
        if not computes_as_its_layers(network):
            return Forward(calls, self._call(calls, network, "forward", inputs, training), kept)
        values, free = inputs, False  # whether nobody needs the values again, so that they may be written over
        biases = None  # of the Dense layer before, for the activation behind it to add
        gated = False  # whether the gradient that the layer before makes is 0 where `values` are
        for number, (layer, following) in enumerate(zip_longest(network.layers, network.layers[1:])):
            if type(layer) is nn.Dense:
                values, free = self._dense(calls, number, values, kept, None if number else columns), True
                biases, gated = layer.biases, False
                if not (is_taken_apart(following) and following.takes_biases):
                    calls.add(Formula(add_bias, (values, biases)))
                    biases = None
            elif is_taken_apart(layer):
                gated &= layer.only_scales
                values, in_place = layer.checked_inputs(values), (free or gated) and not layer.needs_inputs
                output = values if in_place else self.workspace.empty(f"{number} output", values.shape, values.dtype)
                layer.training, layer.gated, layer.draws = training, gated, draws
                calls.add(*layer.forward_steps(values, output, self.workspace, str(number), biases))
                kept[number] = values, output
                values, free, biases = output, not (layer.needs_output or gated), None
                gated |= layer.gates
            else:
                values, free = self._call(calls, layer, "forward", values, training, str(number)), True
                gated = False
        if loss_is_taken_apart(self._loss):
            values, steps = self._loss.activate_steps(values, free, self.workspace)
            calls.add(*steps)
        else:
            values = self._call(calls, self._loss, "activate", values, training)
        calls.finish()
        return Forward(calls, values, kept)

    def backward(self, forward: Forward, labels: Array, gradients: Array, weights: Array | None = None) -> Calls:
        """Write the sum of the samples' gradients to the vector `gradients`, after `forward`; return what does.

        `labels` (rows,) are class indices, `weights` (rows,) factors on the samples' gradients. The probabilities may
        be written over.
        """
        calls, network = Calls(self._backend), self._network
        network.bind_gradients(gradients)
        if not is_planned(network):  # a user's own layer writes to the vector that it is bound to
            calls.note(network.bind_gradients, gradients)
        if not computes_as_its_layers(network):
            calls.note(network.backward, forward.probabilities, labels, "sum")
            network.backward(forward.probabilities, labels, "sum")
            return calls
        dvalues = self._loss_gradient(calls, forward.probabilities, labels)
        if weights is not None:
            calls.add(Formula(weigh, (dvalues, weights[:, None])))
        for number, layer in reversed(list(enumerate(network.layers))):
            if isinstance(layer, nn.Dense):
                dvalues = self._operand(calls, f"{number} dvalues", dvalues, layer)
            if type(layer) is nn.Dense:
                dvalues = self._dense_gradients(calls, number, forward.kept[number], dvalues)
            elif is_taken_apart(layer):
                inputs, output = forward.kept[number]
                calls.add(*layer.backward_steps(dvalues, inputs, output, dvalues, self.workspace, str(number)))
            elif isinstance(layer, nn.Dense):
                backward = partial(_dense_backward, layer, with_inputs=number > 0)
                dvalues = calls.through(backward, dvalues, self._keep(layer, f"{number} dinputs"))
            else:
                dvalues = calls.through(layer.backward, dvalues, self._keep(layer, f"{number} dinputs"))
        calls.finish()
        return calls

    def outcomes(self, probabilities: Array, labels: Array) -> Outcomes:
        """Compute what the metrics need of `probabilities`, and return what does."""
        calls, rows = Calls(self._backend), labels.shape
        left = self.workspace.empty("left", rows, probabilities.dtype)
        predicted = self.workspace.empty("predicted", rows, "int64")
        if loss_is_taken_apart(self._loss):
            calls.add(*self._loss.outcome_steps(probabilities, labels, left, self.workspace))
        else:
            calls.note(self._loss.outcomes, probabilities, labels, left)
            self._loss.outcomes(probabilities, labels, left)
        calls.add(Formula(highest_class, (probabilities, predicted)))
        calls.finish()
        return Outcomes(calls, left, predicted)

    def _call(
        self, calls: Calls, module: Any, method: str, values: Array, training: bool, name: str = "loss"
    ) -> Array:
        """Return where the result of a method of a user's own class will be."""

        def call(given: Array) -> Array:
            module.training = training
            return getattr(module, method)(given)

        return calls.through(call, values, self._keep(module, f"{name} output"))

    def _keep(self, module: Any, name: str) -> Callable[[Array], Array]:
        """Return a function that copies what `module` gave into the workspace and returns it there."""

        def keep(given: Array) -> Array:
            given = self._backend.check(given, f"{name.split()[-1]} of {type(module).__name__}")
            dtype = given.dtype if given.dtype.kind == "f" else "float64"
            kept = self.workspace.empty(name, given.shape, dtype)
            kept[...] = given
            return kept

        return keep

    def _operand(self, calls: Calls, name: str, values: Array, layer: nn.Dense) -> Array:
        """Return `values` in the dtype in which they enter the products of `layer`."""
        if values.dtype == layer.precision.operands:
            return values
        operand = self.workspace.empty(name, values.shape, layer.precision.operands)
        calls.add(Formula(copy_values, (values, operand)))
        return operand

    def _dense(
        self, calls: Calls, number: int, inputs: Array, kept: list[Any], columns: Array | None = None
    ) -> Array:
        """Return where inputs · weights will be."""
        layer: Any = self._network.layers[number]
        if columns is None:
            layer.checked_inputs(inputs)
        inputs = self._operand(calls, f"{number} inputs", inputs, layer)
        weights = self._operand(calls, f"{number} weights", layer.weights, layer)
        if columns is not None:
            picked = self._picked("weights", layer, len(columns), weights.dtype)
            calls.add(Formula(self._backend.take_rows, (weights, columns, picked)))
            weights = picked
        output = self.workspace.empty(f"{number} output", (len(inputs), layer.n_neurons), layer.precision.outputs)
        calls.add(Product(inputs, weights, output, 1.0 if number else self._scale, layer.precision.tf32))
        kept[number] = inputs, weights, columns
        return output

    def _dense_gradients(
        self, calls: Calls, number: int, kept: tuple[Array, Array, Array | None], dvalues: Array
    ) -> Array:
        """Write the gradients of weights and biases; return where that of the inputs will be, but for the first."""
        layer: Any = self._network.layers[number]
        (inputs, weights, columns), tf32 = kept, layer.precision.tf32
        ones = self.workspace.ones(len(dvalues), dvalues.dtype)
        dweights = layer.dweights
        if columns is not None:
            dweights = self._picked("gradients", layer, len(columns), dweights.dtype)
        calls.add(
            Product(inputs.T, dvalues, dweights, 1.0 if number else self._scale, tf32),
            RowSum(ones, dvalues, layer.dbiases, tf32),
        )
        if columns is not None:
            calls.add(Formula(put_rows, (layer.dweights, columns, dweights)))
        if not number:
            return dvalues
        dinputs = self.workspace.empty(f"{number} dinputs", inputs.shape, dvalues.dtype)
        calls.add(Product(dvalues, weights.T, dinputs, 1.0, tf32))
        return dinputs

    def _picked(self, what: str, layer: nn.Dense, columns: int, dtype: Any) -> Array:
        """Return an array for those of a few columns of the inputs, the same for any number of them."""
        picked: Array = self.workspace.empty(f"picked {what}", (layer.n_inputs, layer.n_neurons), dtype)
        return picked[:columns]

    def _loss_gradient(self, calls: Calls, probabilities: Array, labels: Array) -> Array:
        if not loss_is_taken_apart(self._loss):
            keep = self._keep(self._loss, "loss dinputs")
            return calls.through(lambda given: summed_gradient(self._loss, given, labels), probabilities, keep)
        dtype = self._loss.gradient_dtype(probabilities)
        in_place = self._loss.gradient_in_place and dtype == probabilities.dtype
        dinputs = probabilities if in_place else self.workspace.empty("loss dinputs", probabilities.shape, dtype)
        calls.add(*self._loss.gradient_steps(probabilities, labels, dinputs, 1.0, self.workspace))
        return dinputs


def highest_class(_xp: Any, probabilities: Array, predicted: Array) -> None:
    """Write each row's class of the highest of `probabilities`, the first of several, to `predicted`."""
    probabilities.argmax(axis=1, out=predicted)


def put_rows(_xp: Any, values: Array, rows: Array, given: Array) -> None:
    """Write `given` to the `rows` of `values`, and 0 to the others."""
    values[...] = 0
    values[rows] = given


def _copied(network: nn.Network) -> nn.Network:
    """Return a network that shares the parameters, with layers and a loss of its own that a thread has to itself."""
    copied = copy.copy(network)
    copied.layers = [copy.copy(layer) for layer in network.layers]
    copied.dense = [layer for layer in copied.layers if isinstance(layer, nn.Dense)]
    copied.trainable = [layer for layer in copied.layers if layer.size]
    copied.loss = copy.copy(network.loss)
    copied.loss.checks_labels = False
    return copied


def _dense_backward(layer: nn.Dense, dvalues: Array, with_inputs: bool) -> Array:
    layer.backward_parameters(dvalues)
    return layer.backward_inputs(dvalues) if with_inputs else dvalues
