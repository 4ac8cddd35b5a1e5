"""A network's layers and loss as plain values, and made from these again."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fmnist_xp import nn
from fmnist_xp.backend import PRECISIONS
from fmnist_xp.nn.module import Module
from fmnist_xp.plain_json import check_form, parse_json
from fmnist_xp.registry import registered

SHAPES = {"Dense": ("weights", "n_inputs", "n_neurons"), "LayerNorm": ("gains", 1, "n_features")}
"""Of the layers with parameters: a parameter, and its shape in numbers and in arguments of the constructor."""
CURE = "let its config() return the arguments of its constructor that make one like it"


def known() -> dict[str, type[Module]]:
    """Return the registered layers and losses by the names of their classes."""
    return {kind.__name__: kind for kind in registered(Module).values()}


def describe(network: nn.Network) -> dict[str, Any]:
    """Return {"layers": [{"type": name of the class, **arguments}, …], "loss": …, "dtype": precision}, JSON values.

    The arguments are what `config()` gives. A loss without any is its name alone. Raises `ValueError`, naming the
    layer and the cure, where `build` could not make the network from it again.
    """
    custom: dict[str, type[Module]] = {}
    for place, module in _places(network):
        kind, name = type(module), type(module).__name__
        if known().get(name, kind) is not kind:
            raise ValueError(f"{place} cannot be saved: its class is not the package's {name}; give it another name")
        if name not in known() and custom.setdefault(name, kind) is not kind:
            raise ValueError(f"{place} cannot be saved: two classes are called {name}; give one another name")
    *layers, loss = (_entry(place, module) for place, module in _places(network))
    architecture = {"layers": layers, "loss": loss if len(loss) > 1 else loss["type"], "dtype": network.dtype}
    if custom:
        _rehearse(network, architecture, custom.values())
    return architecture


def build(
    architecture: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], custom_objects: Iterable[type] | type = ()
) -> tuple[list[nn.Layer], Any, str]:
    """Return (layers, loss, precision) of an architecture as `describe` gives it, for a state of these `shapes`.

    No weights are drawn, and no Dense or LayerNorm is made before the state is seen to have its parameters. Raises
    `ValueError` where the architecture is none, needs a class that is neither the package's nor one of
    `custom_objects`, or does not fit the shapes; `TypeError` where `custom_objects` are no such classes.
    """
    classes = {**known(), **_named(custom_objects)}
    check_form(architecture, {"layers": [{"type": str}], "dtype": str})
    if architecture["dtype"] not in PRECISIONS:
        raise ValueError(f"its dtype is {architecture['dtype']!r:.40}, not one of {', '.join(PRECISIONS)}")
    given = architecture.get("loss")
    loss: Any = {"type": given} if isinstance(given, str) else given
    check_form(loss, {"type": str}, "loss")
    layers, counts = list[nn.Layer](), Counter[str]()
    for number, entry in enumerate(architecture["layers"], start=1):
        kind = entry["type"]
        counts[kind.lower()] += 1  # as `state_dict` counts
        if kind in SHAPES:
            parameter, *sizes = SHAPES[kind]
            wanted = tuple(entry.get(size, size) for size in sizes)
            if shapes.get(f"{kind.lower()}{counts[kind.lower()]}.{parameter}") != wanted:
                text = " × ".join(f"{size!r:.20}" for size in wanted)
                raise ValueError(f"layer {number} ({kind}) is {text}, not its {parameter}")
        more = {"draw": False} if kind == "Dense" else {}
        layers.append(_made(f"layer {number}", classes, nn.Layer, entry, more))
    return layers, _made("the loss", classes, nn.Loss, loss, {}), architecture["dtype"]


def _places(network: nn.Network) -> Iterator[tuple[str, Module]]:
    """Yield each layer and then the loss with what to call it in a message."""
    for number, layer in enumerate(network.layers, start=1):
        yield f"layer {number} ({type(layer).__name__})", layer
    yield f"the loss ({type(network.loss).__name__})", network.loss


def _entry(place: str, module: Module) -> dict[str, Any]:
    """Return a layer or a loss as a JSON object."""
    try:
        config: Any = module.config()
    except AttributeError as error:
        raise ValueError(
            f"{place} cannot be made again, since its constructor takes what it does not keep ({error}): {CURE}"
        ) from error
    try:
        arguments = parse_json(json.dumps(config))
        check_form(arguments, {})
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{place} cannot be saved: JSON cannot hold its config ({error}); let it return plain values by name"
        ) from error
    if "type" in arguments:
        raise ValueError(f"{place} cannot be saved: its config has a 'type', which is its class here; rename that")
    return {"type": type(module).__name__, **arguments}


def _rehearse(network: nn.Network, architecture: Mapping[str, Any], custom: Iterable[type]) -> None:
    """Raise `ValueError` where a user's own classes, made again from their configuration, are not as they were."""
    shapes = {name: values.shape for name, values in network.state_dict().items()}
    try:
        layers, loss, _dtype = build(architecture, shapes, custom)
    except ValueError as error:
        raise ValueError(f"{error}: it cannot be saved; {CURE}") from error
    for (place, module), again in zip(_places(network), [*layers, loss], strict=True):
        if _entry(place, again) != _entry(place, module) or _shapes(again) != _shapes(module):
            raise ValueError(f"{place} cannot be saved: it would be loaded as another; {CURE}")


def _shapes(module: Any) -> dict[str, tuple[int, ...]]:
    return {name: values.shape for name, values in getattr(module, "tensors", dict)().items()}


def _named(custom_objects: Iterable[type] | type) -> dict[str, type[Module]]:
    """Return the classes by name."""
    classes: list[Any] = list(custom_objects) if isinstance(custom_objects, Iterable) else [custom_objects]
    if not all(isinstance(kind, type) and issubclass(kind, Module) for kind in classes):
        raise TypeError(f"custom_objects must be a list of classes of layers and losses, got {custom_objects!r}")
    named = {kind.__name__: kind for kind in classes}
    if len(named) < len(set(classes)) or any(known().get(name, kind) is not kind for name, kind in named.items()):
        raise TypeError(f"custom_objects must have a name each that is not the package's, got {custom_objects!r}")
    return named


def _made(
    place: str, classes: Mapping[str, type[Module]], base: type, entry: Mapping[str, Any], more: Mapping[str, Any]
) -> Any:
    """Return the layer or loss of `entry`; raise `ValueError` where there is none."""
    name = entry["type"]
    kind = classes.get(name)
    if kind is None:
        raise ValueError(
            f"{place} is of the class {name:.40}, which is not the package's: "
            f"if it is yours, load with custom_objects=[{name:.40}]"
        )
    place = f"{place} ({name})"
    if not issubclass(kind, base):
        raise ValueError(f"{place} is not a {'layer' if base is nn.Layer else 'loss'}")
    try:
        return kind(**{key: value for key, value in entry.items() if key != "type"}, **more)
    except Exception as error:  # whatever a user's own class, or a value of another type, raises
        raise ValueError(f"{place} cannot be made from its arguments ({error!s:.200})") from error
