"""What a network's layers are called elsewhere, and a network made of what came from there."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend
from fmnist_xp.errors import FmnistXpError
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, Layer, Network, Softmax
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


Step: TypeAlias = Linear | type[Layer]
"""A Dense layer by its parameters, or the class of a layer without any."""


def needed(package: str, install: str) -> Any:
    """Return a package that only exports need; raise `FmnistXpError`, with the command, where it is missing."""
    try:
        return import_module(package)
    except ImportError as error:
        raise FmnistXpError(f"{package} is needed and cannot be imported ({error}): pip install {install}") from error


def onnx_package() -> Any:
    """Return the package onnx, as `needed` does."""
    return needed("onnx", '"fmnist-xp[onnx]"')


def counterparts(network: Network, where: str) -> list[tuple[str, Linear | None]]:
    """Return what makes probabilities of `network`'s inputs: the name of each layer in ONNX or TORCH, `where`.

    A Dense layer has its parameters beside it. The last one may be what the loss does, such as a softmax. Raises
    `ValueError`, naming the layer, where one has no counterpart there or numbers that are not finite.
    """
    found: list[tuple[str, Linear | None]] = []
    for number, module in enumerate([*network.layers, network.loss], start=1):
        place = "the loss" if module is network.loss else f"layer {number}"
        name = vars(type(module)).get(where)
        if name is None or (isinstance(module, Layer) and module.size and not isinstance(module, Dense)):
            raise ValueError(
                f"{place} ({type(module).__name__}) has no counterpart in {_WHERE[where]}: if there is one, without "
                f'parameters, let its class say so, {where} = "…"'
            )
        linear = None
        if isinstance(module, Dense):
            linear = Linear(network.backend.to_host(module.weights), network.backend.to_host(module.biases)[0])
            if not all(np.isfinite(values).all() for values in linear):
                raise ValueError(
                    f"{place} ({type(module).__name__}) holds numbers that are not finite: its training diverged; "
                    "train again with a lower learning rate"
                )
        if name:
            found.append((name, linear))
    return found


def known(where: str) -> dict[str, type[Layer]]:
    """Return the registered layers by their names in ONNX or TORCH."""
    named = {vars(kind).get(where): kind for kind in registered(Layer).values()}
    return {name: kind for name, kind in named.items() if name}


def network_of(steps: Sequence[Step], backend: Backend | str) -> Sequential:
    """Return the network of these steps, in float64 where the first weights are, else in float32.

    A softmax at the end becomes a part of the loss, and is added by it where there is none. Raises `ValueError` where
    the steps make no network, such as sizes that do not fit.
    """
    linears = [step for step in steps if isinstance(step, Linear)]
    if not linears:
        raise ValueError("there is no fully connected layer")
    dtype = "float64" if linears[0].weights.dtype == np.float64 else "float32"
    layers: list[Layer] = []
    for step in steps[:-1] if steps[-1] is Softmax else steps:
        if isinstance(step, Linear):
            dense = Dense(*step.weights.shape, dtype=dtype, draw=False)
            dense.weights, dense.biases = step.weights, step.biases[None]
            layers.append(dense)
        else:
            layers.append(step())
    return Sequential(layers, backend=backend, dtype=dtype)
