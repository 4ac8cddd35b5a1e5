"""A network's layers and loss as plain values, and made from these again."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fmnist_xp import nn
from fmnist_xp.backend import PRECISIONS
from fmnist_xp.nn.module import Module
from fmnist_xp.plain_json import check_form, parse_json

CustomObjects = Iterable[type] | Mapping[str, type]

KNOWN: Mapping[str, type] = {
    name: kind
    for name, kind in vars(nn).items()
    if isinstance(kind, type) and issubclass(kind, Module) and kind is not nn.Layer
}
"""The package's own layers and losses."""


def describe(network: nn.Network) -> dict[str, Any]:
    """Return {"layers": [{"type": name of the class, **arguments}, …], "loss": the same, "dtype": precision}.

    The arguments are what a layer's or a loss's `config()` gives; a loss without any is its name alone. Raises
    `ValueError`, naming the layer and what to do, where `build` could not make the network from that again.
    """
    own: dict[str, type] = {}
    for place, module in _places(network):
        kind, name = type(module), type(module).__name__
        if KNOWN.get(name, kind) is not kind:
            raise ValueError(f"{place} is of a class of your own named as the package's: give the class another name")
        if own.setdefault(name, kind) is not kind:
            raise ValueError(f"{place} is of another class {name} than a layer before: give one another name")
    *layers, loss = (_entry(place, module) for place, module in _places(network))
    architecture = {"layers": layers, "loss": loss if len(loss) > 1 else loss["type"], "dtype": network.dtype}
    if own.keys() - KNOWN.keys():
        _try(network, architecture, {name: kind for name, kind in own.items() if name not in KNOWN})
    return architecture
