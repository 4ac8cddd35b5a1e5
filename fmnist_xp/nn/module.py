"""What layers and losses have in common: a backend, and the network that they are a part of."""

import functools
import inspect
import reprlib
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

from fmnist_xp.backend import Backend, Precision, default_backend
from fmnist_xp.nn.pickling import get_state, set_state, shallow_copy
from fmnist_xp.registry import call_text, configuration

Bounded: TypeAlias = Any
"""Exact values and how far computed ones may be off: `fmnist_xp.parity.bounds.Bounded`, not imported here."""
BoundedBackward: TypeAlias = Callable[[Bounded], tuple[Bounded, dict[str, Bounded]]]
"""Makes of `dvalues` the bounds of `dinputs` and, by the parameters' names, of the gradients without penalties."""

_SET_BY = {"inputs": "forward", "output": "forward", "dinputs": "backward"}


class Counterpart(NamedTuple):
    """What a module is called elsewhere, where the name alone does not say it.

    `arguments` are theirs, each with the name of ours that has its value; `fixed` are theirs with their values.
    `opset` is the first of ONNX that has the operator.
    """

    name: str
    arguments: Mapping[str, str] = MappingProxyType({})
    fixed: Mapping[str, Any] = MappingProxyType({})
    opset: int = 13


class Module:
    """A piece of a network that computes on `backend`, by default the CPU.

    A module makes new arrays in every call and leaves its arguments as they were. Every method of a subclass runs
    with the backend's device current; a constructor that makes arrays makes it so itself
    (`with self.backend.current():`).

    A pickle or a deep copy (`copy.deepcopy`) has all attributes but what a pass left: `inputs`, `output`, `dinputs`.
    It is free of the network, and may become part of another. Where an attribute of your own cannot be pickled, such
    as a lock, define `__getstate__` and `__setstate__`: call these of the class above, and see to that attribute.
    """

    training = False
    """Whether `forward` computes for a gradient, and not for metrics or predictions."""
    precision: Precision | None = None
    """That of the network; None where the module is used alone and goes by the dtype of its arguments."""
    not_saved: ClassVar[tuple[str, ...]] = ("backend",)
    """Arguments of the constructor that are not part of `config`."""
    onnx_operator: ClassVar["str | Counterpart"]
    """The ONNX operator (opset 13, default attributes) that computes what `forward` does, or a loss's `activate`.

    Empty for one that leaves its input as it is. Only what the very class says counts: a subclass has formulas of its
    own.
    """
    torch_class: ClassVar["str | Counterpart"]
    """The class of torch.nn that does, likewise."""

    def __init_subclass__(cls) -> None:
        """Run the methods of the class on the backend's device, so that whoever writes one need not think of it."""
        super().__init_subclass__()
        for name, method in list(vars(cls).items()):
            if inspect.isfunction(method) and not name.startswith("__"):
                setattr(cls, name, _on_device(method))

    def __init__(self, backend: Backend | None = None) -> None:
        """Compute on `backend`."""
        self.backend = backend or default_backend()
        self._network: weakref.ref[Any] | None = None

    def __getattr__(self, name: str) -> Any:
        """Say what sets an attribute that is not there yet."""
        kind = type(self).__name__
        if "backend" not in vars(self):
            raise AttributeError(f"{kind} has no {name}: begin its constructor with super().__init__(backend)")
        raise AttributeError(
            f"{kind} has no {name} yet: call {_SET_BY[name]} first" if name in _SET_BY else f"{kind} has no {name}"
        )

    @reprlib.recursive_repr("…")
    def __repr__(self) -> str:
        """Return the call that makes one like it, without what is at its default."""
        return call_text(self, self.config, self.not_saved)

    def __copy__(self) -> Self:
        """Return a module that shares everything with this one."""
        return shallow_copy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes that a pickle or a deep copy has, by name."""
        return get_state(self, self._left_out())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes of a pickle or a deep copy."""
        set_state(self, {**state, "_network": None})

    def _left_out(self) -> set[str]:
        """Return the names of the attributes that a pickle lacks."""
        return {"_network", *_SET_BY}

    def join(self, network: Any) -> None:
        """Become a part of `network`: compute on its backend and in its precision."""
        self.backend, self.precision, self._network = network.backend, network.precision, weakref.ref(network)

    @property
    def network(self) -> Any:
        """The network that this is a part of, or None."""
        return self._network() if self._network is not None else None

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments that make a module like this one: its attributes of the same names."""
        return configuration(self, self.not_saved)


def _on_device(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return `method` of a module, which makes the device of the module's backend current, once it has one."""

    @functools.wraps(method)
    def on_device(self: Module, *args: Any, **kwargs: Any) -> Any:
        with self.backend.current() if "backend" in vars(self) else nullcontext():
            return method(self, *args, **kwargs)

    return on_device
