"""Optimizers: rules on flat vectors, schedules of their learning rate, and L-BFGS."""

from fmnist_xp.optim.lbfgs import LBFGS
from fmnist_xp.optim.optimizer import Key, Optimizer, Trainable  # Key by this name is in older pickles
from fmnist_xp.optim.rules import SGD, AdaGrad, Adam, AdamW, RMSProp
from fmnist_xp.optim.schedules import Constant, Cosine, Exponential, InverseTime, Schedule, Step, make_schedule
from fmnist_xp.registry import registered

__all__ = [
    "LBFGS",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Exponential",
    "InverseTime",
    "Key",
    "Optimizer",
    "RMSProp",
    "Schedule",
    "Step",
    "Trainable",
    "make_optimizer",
    "make_schedule",
]


def make_optimizer(optimizer: Optimizer | type[Optimizer] | str | None) -> Optimizer:
    """Return `optimizer`, or one of this class or name with its own defaults; `SGD()` for None.

    Raises `ValueError` for anything else.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    names = registered(Optimizer)  # type: ignore[type-abstract]
    if isinstance(optimizer, str):
        optimizer = names.get(optimizer.lower(), optimizer)
    kind = SGD if optimizer is None else optimizer
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ValueError(f"optimizer must be one of {', '.join(names)}, or an Optimizer, got {optimizer!r}")
    return kind()  # type: ignore[call-arg]
