"""One whole step of an experiment, tensor by tensor: forward, backward, the engine's gradient, the update."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend, CpuBackend
from fmnist_xp.experiments import Experiment
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, Layer, Network
from fmnist_xp.parity import bounds
from fmnist_xp.parity.bounds import Bounded
from fmnist_xp.parity.tolerances import ROUNDOFF
from fmnist_xp.train.fullbatch import FullBatch

ROWS = 1000
"""Images that the step is made with: enough for blocks of several sizes, and few enough for a second."""

UPDATED = " after the update"
"""How the names of parameters end."""


def compute_step(
    experiment: Experiment, backend: Backend, precision: str, X: NDArray[Any], y: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Return every tensor of a step by name, on the host.

    `X` (rows, 784) and `y` (rows,) are of the host. Forward and backward go through the layers one by one, with the
    sums over rows that the engine takes; gradients, figures and the new parameters are the engine's own.
    """
    network = start_network(experiment, backend, precision)
    tensors = {}

    def keep(name: str, array: Any) -> Any:
        tensors[name] = np.array(backend.to_host(array))  # a copy: views change with the next step
        return array

    with backend.computing():
        inputs, labels = backend.asarray(X, dtype=network.precision.operands), backend.asarray(y)
        values = inputs
        for name, layer in _named(network):
            values = keep(f"{name}.output", layer.forward(values))
        probabilities = keep("probabilities", network.loss.activate(values))
        keep("loss", network.loss.calculate(probabilities, labels))
        dvalues = keep("loss.dinputs", network.loss.backward(probabilities, labels, "sum"))
        for name, layer in reversed(list(_named(network))):
            dvalues = keep(f"{name}.dinputs", layer.backward(dvalues))
        batch = FullBatch(network, inputs, labels)
        batch.compute_gradients(log=True)
        totals = backend.to_host(batch.metrics.totals)
        for name, total in zip(("engine.loss", "engine.accuracy", "engine.penalty"), totals, strict=True):
            keep(name, total)
        for name, layer in _named(network):
            if isinstance(layer, Dense):
                keep(f"{name}.dweights", layer.dweights)
                keep(f"{name}.dbiases", layer.dbiases)
        experiment.make_optimizer().step(network)
        for name, array in network.state_dict().items():
            keep(f"{name}{UPDATED}", array)
    return tensors


def bound_step(experiment: Experiment, precision: str, X: NDArray[Any], y: NDArray[Any]) -> dict[str, Bounded]:
    """Return the tensors of `compute_step` by the same names, each with the bound on what its errors add up to."""
    roundoff = ROUNDOFF[precision]
    network = start_network(experiment, CpuBackend(1), "float64")
    parameters = {name: Bounded.exact(array, roundoff) for name, array in network.state_dict().items()}
    labels, one_hot = y.astype(np.int64), np.eye(network.n_classes)[y]
    layers = list(_named(network))
    tensors: dict[str, Bounded] = {}
    inputs: dict[str, Bounded] = {}

    values = Bounded.exact(X, roundoff)
    for name, layer in layers:
        inputs[name] = values
        if isinstance(layer, Dense):
            weights, biases = parameters[f"{name}.weights"], parameters[f"{name}.biases"]
            values = bounds.dense(values, weights, biases, wide_output=layer is network.dense[-1])
        else:
            values = bounds.relu(values)
        tensors[f"{name}.output"] = values
    tensors["probabilities"] = probabilities = bounds.softmax(values)
    losses = bounds.sample_losses(probabilities, labels)
    tensors["loss"] = tensors["engine.loss"] = losses.sum() / len(labels)
    tensors["engine.accuracy"] = bounds.correct(probabilities, labels).sum() / len(labels)
    tensors["engine.penalty"] = Bounded.exact(0.0, roundoff)

    dvalues = tensors["loss.dinputs"] = bounds.softmax_crossentropy_gradient(
        probabilities, one_hot, samples=1
    ).stored()
    optimizer = experiment.make_optimizer().config()
    for name, layer in reversed(layers):
        if isinstance(layer, Dense):
            weights, biases = parameters[f"{name}.weights"], parameters[f"{name}.biases"]
            dvalues, *sums = bounds.dense_gradients(inputs[name], weights, dvalues)
            w_l1, w_l2, b_l1, b_l2 = layer.regularizers().values()
            for part, held, total, l1, l2 in (
                ("weights", weights, sums[0], w_l1, w_l2),
                ("biases", biases, sums[1], b_l1, b_l2),
            ):
                gradient = total * (1 / len(labels)) + bounds.penalty_gradient(held, l1, l2)
                tensors[f"{name}.d{part}"] = gradient
                tensors[f"{name}.{part}{UPDATED}"] = bounds.Update(optimizer, held).step(gradient)
                tensors["engine.penalty"] = tensors["engine.penalty"] + bounds.penalty(held, l1, l2)
        else:
            dvalues = bounds.relu_gradient(dvalues, inputs[name])
        tensors[f"{name}.dinputs"] = dvalues
    return tensors


def start_network(experiment: Experiment, backend: Backend, precision: str) -> Sequential:
    """Return the untrained network of seed 0; its weights are the same float32 numbers in every precision."""
    network = experiment.make_network(backend, seed=0, dtype=precision)
    network.load_state_dict(experiment.make_network(CpuBackend(1), seed=0).state_dict())
    return network


def _named(network: Network) -> Iterator[tuple[str, Layer]]:
    """Yield the layers with names such as dense1, relu1, dense2."""
    counts: dict[str, int] = {}
    for layer in network.layers:
        kind = type(layer).__name__.lower()
        counts[kind] = counts.get(kind, 0) + 1
        yield f"{kind}{counts[kind]}", layer
