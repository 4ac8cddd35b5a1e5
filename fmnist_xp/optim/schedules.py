"""Learning rates as pure functions of the number of the update, from 0 on.

Each is plain data: an optimizer that is given one needs nothing but its count of updates to go on where it was.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fmnist_xp.arguments import real_number, whole_number
from fmnist_xp.registry import REGISTRY, call_text, configuration, register, registered


def inverse_time(learning_rate: float, decay: float, update: int) -> float:
    """Return lr₀ / (1 + decay · t)."""
    return learning_rate / (1 + decay * update)


class Schedule(ABC):
    """A learning rate for each update: `schedule(0)` is that of the first."""

    def __repr__(self) -> str:
        """Return the call that makes one like it, without what is at its default."""
        return call_text(self, lambda: configuration(self))

    @abstractmethod
    def __call__(self, update: int) -> float:
        """Return the learning rate of an update by its number, from 0 on."""

    def config(self) -> dict[str, Any]:
        """Return the name that it is registered by, or that of its class, as "type", and its arguments."""
        kind = type(self)
        name = next((name for name, other in REGISTRY.items() if other is kind), kind.__name__)
        return {"type": name, **configuration(self)}

    def _check(self, name: str, low: float, high: float = math.inf, *, open_low: bool = False) -> None:
        """Make the attribute `name` a float within these limits, or raise `ValueError`."""
        object.__setattr__(self, name, real_number(name, getattr(self, name), low, high, open_low=open_low))

    def _check_whole(self, name: str, least: int) -> None:
        """Make the attribute `name` an int of at least `least`, or raise `ValueError`."""
        object.__setattr__(self, name, whole_number(name, getattr(self, name), least))


@register("constant")
@dataclass(frozen=True, repr=False)
class Constant(Schedule):
    """`learning_rate`, which is above 0, for every update."""

    learning_rate: float

    def __post_init__(self) -> None:
        """Check the argument."""
        self._check("learning_rate", 0, open_low=True)

    def __call__(self, update: int) -> float:
        """Return the learning rate of an update."""
        return self.learning_rate


@register("inverse_time")
@dataclass(frozen=True, repr=False)
class InverseTime(Schedule):
    """lr₀ / (1 + decay · t), as in the notebook.

    Parameters: `learning_rate` lr₀ > 0 and `decay` ≥ 0, else `ValueError`.
    """

    learning_rate: float
    decay: float

    def __post_init__(self) -> None:
        """Check the arguments."""
        self._check("learning_rate", 0, open_low=True)
        self._check("decay", 0)

    def __call__(self, update: int) -> float:
        """Return the learning rate of an update."""
        return inverse_time(self.learning_rate, self.decay, update)


@register("step")
@dataclass(frozen=True, repr=False)
class Step(Schedule):
    """lr₀ · factor^⌊t / every⌋: the rate times `factor` after each `every` updates.

    Parameters: `learning_rate` lr₀ > 0, 0 < `factor` < 1 and `every` ≥ 1, else `ValueError`.
    """

    learning_rate: float
    factor: float
    every: int

    def __post_init__(self) -> None:
        """Check the arguments."""
        self._check("learning_rate", 0, open_low=True)
        self._check("factor", 0, 1, open_low=True)
        self._check_whole("every", 1)

    def __call__(self, update: int) -> float:
        """Return the learning rate of an update."""
        return self.learning_rate * self.factor ** (update // self.every)


@register("exponential")
@dataclass(frozen=True, repr=False)
class Exponential(Schedule):
    """lr₀ · factorᵗ: the rate times `factor` after each update.

    Parameters: `learning_rate` lr₀ > 0 and 0 < `factor` < 1, else `ValueError`.
    """

    learning_rate: float
    factor: float

    def __post_init__(self) -> None:
        """Check the arguments."""
        self._check("learning_rate", 0, open_low=True)
        self._check("factor", 0, 1, open_low=True)

    def __call__(self, update: int) -> float:
        """Return the learning rate of an update."""
        return self.learning_rate * self.factor**update


@register("cosine")
@dataclass(frozen=True, repr=False)
class Cosine(Schedule):
    """Half a cosine from `learning_rate` down to `final`, after a linear warm-up.

    With lr the rate, f the final one, T the updates and w those of the warm-up: lr · (t + 1) / (w + 1) for t < w,
    f + (lr − f) · (1 + cos(π · (t − w) / (T − w))) / 2 from there to T, and f from T on (Loshchilov & Hutter, *SGDR:
    Stochastic Gradient Descent with Warm Restarts*, ICLR 2017, equation 5, without restarts).

    `warmup` is w, or, a float below 1, the share of the updates that it is, rounded.

    Parameters: `learning_rate` > 0, `updates` ≥ 1, 0 ≤ w < `updates` and `final` ≥ 0, else `ValueError`.
    """

    learning_rate: float
    updates: int
    warmup: float = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        self._check("learning_rate", 0, open_low=True)
        self._check_whole("updates", 1)
        if isinstance(self.warmup, float) and self.warmup < 1:
            self._check("warmup", 0)
        else:
            self._check_whole("warmup", 0)
        self._check("final", 0)
        if self.warm_updates >= self.updates:
            raise ValueError(f"warmup must be below the {self.updates} updates, got {self.warmup}")

    @property
    def warm_updates(self) -> int:
        """The number of updates of the warm-up."""
        return round(self.warmup * self.updates) if self.warmup < 1 else int(self.warmup)

    def __call__(self, update: int) -> float:
        """Return the learning rate of an update."""
        warmup = self.warm_updates
        if update < warmup:
            return self.learning_rate * (update + 1) / (warmup + 1)
        part = min(1.0, (update - warmup) / (self.updates - warmup))
        return self.final + (self.learning_rate - self.final) * (1 + math.cos(math.pi * part)) / 2


def make_schedule(config: Mapping[str, Any]) -> Schedule:
    """Return the registered schedule that `config` describes: "type", its name, and its arguments.

    Raises `ValueError` for another name or other arguments.
    """
    names, arguments = registered(Schedule), dict(config)  # type: ignore[type-abstract]
    name = arguments.pop("type", None)
    if not isinstance(name, str) or name not in names:
        raise ValueError(f"the type of a schedule must be one of {', '.join(names)}, got {name!r}")
    try:
        return names[name](**arguments)
    except TypeError as error:
        raise ValueError(f"schedule {name}: {str(error).partition('() ')[2] or error}") from error
