"""One whole step of an experiment, tensor by tensor: forward, backward, the engine's gradient, the update."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend, CpuBackend
from fmnist_xp.experiments import Experiment
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Layer, Network
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
            for parameter in layer.tensors():
                keep(f"{name}.d{parameter}", getattr(layer, f"d{parameter}"))
        experiment.make_optimizer().step(network)
        for name, array in network.state_dict().items():
            keep(f"{name}{UPDATED}", array)
    return tensors


def bound_step(experiment: Experiment, precision: str, X: NDArray[Any], y: NDArray[Any]) -> dict[str, Bounded]:
    """Return the tensors of `compute_step` by the same names, each with the bound on what its errors add up to."""
    roundoff = ROUNDOFF[precision]
    network = start_network(experiment, CpuBackend(1), "float64")
    optimizer, rows = experiment.make_optimizer(), len(y)
    tensors: dict[str, Bounded] = {}
    values = Bounded.exact(X, roundoff)
    passed = []
    for name, layer in _named(network):
        parameters = {key: Bounded.exact(array, roundoff) for key, array in layer.tensors().items()}
        values, backward = layer.bound_pass(values, parameters)
        tensors[f"{name}.output"] = values
        passed.append((name, parameters, layer.bound_penalties(parameters), backward))
    probabilities, losses, dvalues = network.loss.bound_pass(values, y, samples=1)
    tensors["probabilities"] = probabilities
    tensors["loss"] = tensors["engine.loss"] = losses.sum() / rows
    tensors["engine.accuracy"] = probabilities.argmax_is(y).sum() / rows
    tensors["engine.penalty"] = Bounded.exact(0.0, roundoff)
    dvalues = tensors["loss.dinputs"] = dvalues.stored()
    for name, parameters, penalties, backward in reversed(passed):
        dvalues, sums = backward(dvalues)
        tensors[f"{name}.dinputs"] = dvalues
        for key, total in sums.items():
            penalty, penalty_gradient = penalties[key]
            tensors["engine.penalty"] = tensors["engine.penalty"] + penalty
            gradient = tensors[f"{name}.d{key}"] = total * (1 / rows) + penalty_gradient
            tensors[f"{name}.{key}{UPDATED}"] = next(optimizer.bound_updates(parameters[key], [gradient]))
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
