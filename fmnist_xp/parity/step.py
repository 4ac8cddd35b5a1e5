"""One whole step of an experiment, tensor by tensor: forward, backward, the engine's gradient, the update."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend, CpuBackend
from fmnist_xp.data import Pixels
from fmnist_xp.experiments import Experiment
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Layer, Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.parity.bounds import Bounded
from fmnist_xp.parity.tolerances import ROUNDOFF, Roundoff
from fmnist_xp.ranks import ALONE
from fmnist_xp.train.background import find_base, sample_places
from fmnist_xp.train.engines import make_batch
from fmnist_xp.train.epochs import Epochs
from fmnist_xp.train.fullbatch import FullBatch

Parameters: TypeAlias = Mapping[str, Mapping[str, Bounded]]
"""Of each layer by its name, by their own."""

ROWS = 1000
"""Images that the step is made with: enough for blocks of several sizes, and few enough for a second."""

SORTED_ROWS = 64
"""Rows in a block where these are sorted: some columns are then background in all of one, on any device."""

METRICS = "loss", "accuracy", "penalty"

UPDATED = " after the update"
"""How the names of parameters end."""


def compute_step(
    experiment: Experiment, backend: Backend, precision: str, X: NDArray[Any], y: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Return every tensor of a step by name, on the host.

    `X` (rows, 784) and `y` (rows,) are of the host. Forward and backward go through the layers one by one, with the
    sums over rows that the engine takes; gradients, metrics and the new parameters are the engine's own, gradients
    and metrics once more of rows sorted by their background.
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
        for engine, batch in (
            ("sorted", FullBatch(network, inputs, labels, SORTED_ROWS, dense=False)),
            ("engine", FullBatch(network, inputs, labels, dense=True)),
        ):
            batch.compute_gradients(log=True)
            totals = backend.to_host(batch.metrics.totals)
            for name, total in zip(METRICS, totals, strict=True):
                keep(f"{engine}.{name}", total)
            prefix = "sorted." if engine == "sorted" else ""
            for name, layer in _named(network):
                for parameter in layer.tensors():
                    keep(f"{prefix}{name}.d{parameter}", getattr(layer, f"d{parameter}"))
        experiment.make_optimizer().step(network, float(totals[0] + totals[2]))
        for name, array in network.state_dict().items():
            keep(f"{name}{UPDATED}", array)
    return tensors


def compute_epoch(
    network: Sequential, optimizer: Optimizer, engine: str, X: Pixels | NDArray[Any], y: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """Return what an epoch by an engine gives, on the host, with the names of `compute_step`."""
    backend = network.backend
    with backend.computing():
        inputs = X if isinstance(X, Pixels) else backend.asarray(X, dtype=network.precision.parameters)
        rows = inputs, backend.asarray(y), None, None, ALONE, None, None
        batch = make_batch(engine, network, optimizer, *rows)
        Epochs(batch, optimizer, 1).run(1, log=True)
        totals = backend.to_host(batch.metrics.totals)
        tensors = {f"engine.{name}": total for name, total in zip(METRICS, totals, strict=True)}
        for name, layer in _named(network):
            for key in layer.tensors():
                tensors[f"{name}.d{key}"] = np.array(backend.to_host(getattr(layer, f"d{key}")))
    return tensors | {f"{name}{UPDATED}": array for name, array in network.state_dict().items()}


def bound_step(experiment: Experiment, precision: str, X: NDArray[Any], y: NDArray[Any]) -> dict[str, Bounded]:
    """Return the tensors of `compute_step` by the same names, each with the bound on what its errors add up to."""
    network = start_network(experiment, CpuBackend(1), "float64")
    tensors = bound_epoch(network, experiment.make_optimizer(), ROUNDOFF[precision], X, y)
    exact = partial(Bounded.exact, roundoff=ROUNDOFF[precision])
    base = exact(find_base(X[sample_places(len(y))])[None, :])
    _tensors, metrics, gradients = _bound_pass(network, exact(X), _exact_parameters(network, exact), y, base)
    return tensors | {f"sorted.{name}": bounded for name, bounded in (metrics | gradients).items()}


def bound_epoch(
    network: Network, optimizer: Optimizer, roundoff: Roundoff, X: NDArray[Any], y: NDArray[Any]
) -> dict[str, Bounded]:
    """Return the bounds of all that passes through `network`, of its gradients and metrics, and of its update."""
    exact = partial(Bounded.exact, roundoff=roundoff)
    parameters = _exact_parameters(network, exact)
    tensors, metrics, gradients = _bound_pass(network, exact(X), parameters, y)
    tensors |= {f"engine.{name}": bounded for name, bounded in metrics.items()} | gradients
    tensors["loss"] = metrics["loss"]
    named = {(name, key): values for name, of_layer in parameters.items() for key, values in of_layer.items()}
    gradient = Bounded.joined([gradients[f"{name}.d{key}"] for name, key in named])
    updated = next(optimizer.bound_updates(Bounded.joined(list(named.values())), [gradient]))
    start = 0
    for (name, key), values in named.items():
        place = slice(start, start + values.value.size)
        tensors[f"{name}.{key}{UPDATED}"] = updated.moved(partial(_placed, place=place, shape=values.value.shape))
        start = place.stop
    return tensors


def _exact_parameters(network: Network, exact: Callable[[Any], Bounded]) -> Parameters:
    return {name: {key: exact(array) for key, array in layer.tensors().items()} for name, layer in _named(network)}


def _bound_pass(
    network: Network, values: Bounded, parameters: Parameters, y: NDArray[Any], base: Bounded | None = None
) -> tuple[dict[str, Bounded], dict[str, Bounded], dict[str, Bounded]]:
    """Return what passes through the layers, the metrics, and the gradients with penalties, each by name.

    With a `base` (1, columns) it passes as the engine has it of rows without that: see `train.shift.Shift`.
    """
    tensors: dict[str, Bounded] = {}
    passed: list[Any] = []
    for name, layer in _named(network):
        of_layer = parameters[name]
        if base is not None and not passed:
            values = values - base
            of_layer = {**of_layer, "biases": of_layer["biases"] + base @ of_layer["weights"]}
        values, backward = layer.bound_pass(values, of_layer)
        tensors[f"{name}.output"] = values
        passed.append((name, layer.bound_penalties(parameters[name]), backward))
    probabilities, losses, dvalues = network.loss.bound_pass(values, y, samples=1)
    tensors["probabilities"] = probabilities
    metrics = {
        "loss": losses.sum() / len(y),
        "accuracy": probabilities.argmax_is(y).sum() / len(y),
        "penalty": values.exact(0.0, values.roundoff),
    }
    gradients: dict[str, Bounded] = {}
    dvalues = tensors["loss.dinputs"] = dvalues.stored()
    for name, penalties, backward in reversed(passed):
        dvalues, sums = backward(dvalues)
        tensors[f"{name}.dinputs"] = dvalues
        if base is not None and name == passed[0][0]:
            sums["weights"] = sums["weights"] + base.moved(np.transpose) @ sums["biases"]
        for key, total in sums.items():
            penalty, penalty_gradient = penalties[key]
            metrics["penalty"] = metrics["penalty"] + penalty
            gradients[f"{name}.d{key}"] = total * (1 / len(y)) + penalty_gradient
    return tensors, metrics, gradients


def _placed(vector: NDArray[Any], place: slice, shape: tuple[int, ...]) -> NDArray[Any]:
    return vector[place].reshape(shape)


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
