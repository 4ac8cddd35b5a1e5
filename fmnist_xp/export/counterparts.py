"""What a network's layers are called elsewhere, and a network made of what came from there."""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend
from fmnist_xp.errors import FmnistXpError
from fmnist_xp.model import Sequential
from fmnist_xp.nn import BinaryCrossentropy, Dense, Layer, LayerNorm, Network, Sigmoid, Softmax
from fmnist_xp.nn.module import Counterpart, Module
from fmnist_xp.registry import registered

ONNX, TORCH = "onnx_operator", "torch_class"
"""The attributes in which a layer's class says what it is called."""
_WHERE = {ONNX: "ONNX", TORCH: "PyTorch"}
MAX_BYTES = 2**31 - 1
"""Of a model's file, exported or read: what ONNX can hold, 500 million parameters in float32."""


class Linear(NamedTuple):
    """The parameters of a Dense layer, on the host: weights (n_inputs, n_neurons) and biases (n_neurons,)."""

    weights: NDArray[np.floating[Any]]
    biases: NDArray[np.floating[Any]]


Step: TypeAlias = Linear | Layer
"""A Dense layer by its parameters, or another layer."""


class Piece(NamedTuple):
    """What computes elsewhere what a layer or a loss does: its `name`, and its `arguments` by their names there.

    `parameters` are on the host, by names such as "dense1.weights" (n_inputs, n_neurons), "dense1.biases"
    (n_neurons,). `opset` is the first of ONNX's that has it.
    """

    name: str
    arguments: Mapping[str, Any]
    parameters: Mapping[str, NDArray[np.floating[Any]]]
    opset: int


def needed(package: str, install: str) -> Any:
    """Return a package that only exports need; raise `FmnistXpError`, with the command, where it is missing."""
    try:
        return import_module(package)
    except ImportError as error:
        raise FmnistXpError(f"{package} is needed and cannot be imported ({error}): pip install {install}") from error


def onnx_package() -> Any:
    """Return the package onnx, as `needed` does."""
    return needed("onnx", '"fmnist-xp[onnx]"')


def counterpart_of(kind: type[Module], where: str) -> Counterpart | None:
    """Return what the very class says that it is called in ONNX or TORCH, `where`; None where it says nothing."""
    said = vars(kind).get(where)
    return Counterpart(said) if isinstance(said, str) else said


def counterparts(network: Network, where: str) -> list[Piece]:
    """Return what makes probabilities of `network`'s inputs, piece by piece, in ONNX or TORCH, `where`.

    The last one may be what the loss does, such as a softmax. Raises `ValueError`, naming the layer, where one has no
    counterpart there or numbers that are not finite.
    """
    found, counts = list[Piece](), Counter[str]()
    for number, module in enumerate([*network.layers, network.loss], start=1):
        place = "the loss" if module is network.loss else f"layer {number}"
        counterpart = counterpart_of(type(module), where)
        kind = next((base.__name__.lower() for base in (Dense, LayerNorm) if isinstance(module, base)), "")
        if counterpart is None or (isinstance(module, Layer) and module.size and not kind):
            raise ValueError(
                f"{place} ({type(module).__name__}) has no counterpart in {_WHERE[where]}: if there is one, without "
                f'parameters, let its class say so, {where} = "…"'
            )
        counts[kind] += 1
        parameters = {
            f"{kind}{counts[kind]}.{name}": values if name == "weights" else values[0]
            for name, values in (_on_host(module) if isinstance(module, Dense | LayerNorm) else {}).items()
        }
        if not all(np.isfinite(values).all() for values in parameters.values()):
            raise ValueError(
                f"{place} ({type(module).__name__}) holds numbers that are not finite: its training diverged; "
                "train again with a lower learning rate"
            )
        if counterpart.name:
            arguments = {theirs: getattr(module, ours) for theirs, ours in counterpart.arguments.items()}
            arguments |= counterpart.fixed
            found.append(Piece(counterpart.name, arguments, parameters, counterpart.opset))
    return found


def _on_host(layer: Layer) -> dict[str, NDArray[Any]]:
    return {name: layer.backend.to_host(values) for name, values in layer.tensors().items()}


def known(where: str) -> dict[str, type[Layer]]:
    """Return the registered layers by their names in ONNX or TORCH."""
    said = ((counterpart_of(kind, where), kind) for kind in registered(Layer).values())
    return {counterpart.name: kind for counterpart, kind in said if counterpart and counterpart.name}


def layer_of(kind: type[Layer], where: str, given: Mapping[str, Any]) -> Layer:
    """Return the layer of a class with the arguments `given`, by their names in ONNX or TORCH, `where`.

    Raises `ValueError` where a fixed one has another value.
    """
    counterpart = counterpart_of(kind, where) or Counterpart("")
    for name, value in counterpart.fixed.items():
        if given[name] != value:
            raise ValueError(f"has {name}={given[name]!r}, and {kind.__name__} here has {name}={value!r} alone")
    arguments: dict[str, Any] = {ours: given[theirs] for theirs, ours in counterpart.arguments.items()}
    return kind(**arguments)


def norm_of(gains: NDArray[np.floating[Any]], biases: NDArray[np.floating[Any]] | None, epsilon: float) -> LayerNorm:
    """Return a LayerNorm with `gains` (columns,) and `biases` (columns,), by default zeros."""
    norm = LayerNorm(len(gains), epsilon, dtype=gains.dtype.name)
    norm.gains = gains[None]
    if biases is not None:
        norm.biases = biases[None]
    return norm


def network_of(steps: Sequence[Step], backend: Backend | str) -> Sequential:
    """Return the network of these steps, in float64 where the first weights are, else in float32.

    A softmax at the end becomes a part of the loss, and is added by it where there is none. After a sigmoid the loss
    is binary cross-entropy. Raises `ValueError` where the steps make no network, such as sizes that do not fit.
    """
    linears = [step for step in steps if isinstance(step, Linear)]
    if not linears:
        raise ValueError("there is no fully connected layer")
    dtype = "float64" if linears[0].weights.dtype == np.float64 else "float32"
    layers: list[Layer] = []
    for step in steps[:-1] if isinstance(steps[-1], Softmax) else steps:
        if isinstance(step, Linear):
            dense = Dense(*step.weights.shape, dtype=dtype, draw=False)
            dense.weights, dense.biases = step.weights, step.biases[None]
            layers.append(dense)
        else:
            layers.append(step)
    loss = BinaryCrossentropy if isinstance(layers[-1], Sigmoid) else None
    return Sequential(layers, loss, backend=backend, dtype=dtype)
