"""A network from PyTorch: from a `torch.nn.Sequential`, its state, or a file of that."""

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend
from fmnist_xp.errors import RunError
from fmnist_xp.export.counterparts import (
    TORCH,
    Linear,
    Step,
    counterpart_of,
    known,
    layer_of,
    network_of,
    norm_of,
)
from fmnist_xp.export.states import read_state
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Activation, LayerNorm, Softmax
from fmnist_xp.nn.module import Counterpart
from fmnist_xp.registry import registered

_NOTHING = ("Flatten", "Identity")
"""Modules that need no layer: rows are flat here."""


def from_torch(source: Any, *, activation: str | None = None, backend: Backend | str = "cpu") -> Sequential:
    """Return a network with the weights of `source`, on `backend`, in float64 if they are, else in float32.

    A softmax at the end becomes a part of the loss, and after a sigmoid the loss is binary cross-entropy; else the
    outputs are taken for logits, as PyTorch's own cross-entropy takes them. Names with numbers go by these, others in
    the order of the state.

    Parameters
    ----------
    source
        A `torch.nn.Sequential` of Linear, ReLU, LayerNorm, …, with Flatten and Identity in between. Or the state of
        one, a mapping of names such as "0.weight" (n_outputs, n_inputs) and "0.bias" (n_outputs,) to tensors or
        arrays. Or the path of a file that holds a state: .safetensors, .npz, .pt, .pth, of which nothing is executed.
    activation
        What stands between the layers of a state, which does not tell it: "relu", "tanh". Where two have numbers that
        follow each other, as "0.weight" and "1.weight", nothing does.

    Raises
    ------
    ValueError
        Where `source` or `activation` is something else; it names what.
    RunError
        For a file that is no such state.
    FmnistXpError
        Where a .pt file needs PyTorch, which is not installed.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        try:
            return network_of(_state_steps(read_state(path), activation), backend)
        except ValueError as error:
            raise RunError(f"{path} is no network that can be taken over: {error!s:.600}") from error
    if isinstance(source, Mapping):
        return network_of(_state_steps(source, activation), backend)
    if activation is not None:
        raise ValueError("activation is for states: a module says itself what stands between its layers")
    return network_of(list(_module_steps(source, "")), backend)


def _module_steps(module: Any, place: str) -> Iterator[Step]:
    """Yield what a module does, and those in it; `place` is its name in the outermost one."""
    name = type(module).__name__
    if not type(module).__module__.startswith("torch.nn.modules."):
        raise ValueError(f"{place or 'source'} is a {name}, not a module of torch.nn, a state or a path")
    if name == "Sequential":
        for number, child in module.named_children():
            yield from _module_steps(child, f"{place}.{number}".lstrip("."))
        return
    kind = known(TORCH).get(name)
    if name == "Linear":
        yield _linear(place, module.weight, module.bias)
    elif name == "LayerNorm":
        if len(module.normalized_shape) != 1 or module.weight is None:
            raise ValueError(f"{place} is a {module}: only one over the columns, with weights, can be taken over")
        yield _norm(place, module.weight, module.bias, module.eps)
    elif kind is Softmax and module.dim not in (1, -1):
        raise ValueError(f"{place} is a Softmax along dim={module.dim}, not along the classes, dim=1")
    elif kind is not None:
        counterpart = counterpart_of(kind, TORCH) or Counterpart(name)
        given = {theirs: getattr(module, theirs) for theirs in (*counterpart.arguments, *counterpart.fixed)}
        try:
            yield layer_of(kind, TORCH, given)
        except ValueError as error:
            raise ValueError(f"{place} is a {module}: {error}") from error
    elif name not in _NOTHING:
        known_ones = ", ".join([*known(TORCH), *_NOTHING])
        raise ValueError(f"{place or 'source'} is a {name}: only {known_ones} can be taken over")


def _state_steps(state: Mapping[Any, Any], activation: str | None) -> list[Step]:
    """Return the layers of a state, LayerNorm where the weights are a row, with what stands between them."""
    layers: dict[str, dict[str, Any]] = {}
    for name, values in state.items():
        layer, _dot, parameter = str(name).rpartition(".")
        if parameter not in ("weight", "bias"):
            raise ValueError(f"{name!r} is neither a weight nor a bias of a Linear layer")
        layers.setdefault(layer, {})[parameter] = values
    names = sorted(layers, key=_numbers)
    for name in names:
        if "weight" not in layers[name]:
            raise ValueError(f"{name}.bias has no {name}.weight beside it")
    between = [not _follows(*pair) for pair in pairwise(names)]
    kinds = registered(Activation)
    if any(between) and activation not in kinds:
        raise ValueError(
            "a state does not tell what stands between its layers, and activation must be one of "
            f"{', '.join(kinds)}, got {activation!r}"
        )
    steps: list[Step] = []
    for name, more in zip(names, [*between, False], strict=False):
        weight, bias = layers[name]["weight"], layers[name].get("bias")
        steps.append(_norm(name, weight, bias) if np.ndim(weight) == 1 else _linear(name, weight, bias))
        if more:
            steps.append(kinds[str(activation)]())
    return steps


def _numbers(name: str) -> list[int]:
    """Return the numbers in a name: "10" comes after "2"."""
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _follows(name: str, after: str) -> bool:
    """Return whether two layers of a Sequential have nothing between them."""
    (of, _dot, number), (of_other, _dot, other) = name.rpartition("."), after.rpartition(".")
    return of == of_other and number.isdecimal() and other.isdecimal() and int(other) == int(number) + 1


def _linear(place: str, weight: Any, bias: Any) -> Linear:
    """Return the parameters of a Linear layer, whose biases may be missing."""
    weights = _array(f"{place}.weight", weight, 2).T
    if bias is None:
        return Linear(weights, np.zeros(weights.shape[1], weights.dtype))
    biases = _array(f"{place}.bias", bias, 1)
    if len(biases) != weights.shape[1]:
        raise ValueError(f"{place}.bias has {len(biases)} numbers for {weights.shape[1]} outputs")
    return Linear(weights, biases)


def _norm(place: str, weight: Any, bias: Any, epsilon: float = 1e-5) -> LayerNorm:
    """Return a LayerNorm, whose biases may be missing, and whose epsilon a state does not tell."""
    gains = _array(f"{place}.weight", weight, 1)
    biases = None if bias is None else _array(f"{place}.bias", bias, 1)
    if biases is not None and biases.shape != gains.shape:
        raise ValueError(f"{place}.bias has {len(biases)} numbers for {len(gains)} columns")
    return norm_of(gains, biases, epsilon)


def _array(name: str, values: Any, ndim: int) -> NDArray[np.floating[Any]]:
    """Return a tensor or an array on the host, in float64 where it is that, else in float32."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values if str(values.dtype) == "torch.float64" else values.float()).numpy()
    array = np.asarray(values)
    if array.dtype.kind != "f" or array.ndim != ndim or not array.size:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}: {ndim} dimensions of floats are needed")
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)
