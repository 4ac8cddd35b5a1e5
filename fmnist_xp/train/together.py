"""What the ranks of a training see to before it begins: that they train the same, from the same."""

import logging
import math
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.checkpoint import State

logger = logging.getLogger("fmnist_xp")


def check_alike(ranks: Ranks, network: Network, optimizer: Optimizer | None = None, **arguments: Any) -> None:
    """Raise `ValueError` where network, optimizer or arguments differ between ranks; see `Ranks.compare`.

    Warns of different processors or BLAS kernels: which rank has which rows then decides the last bits.
    """
    if ranks.size == 1:
        return
    backend = network.backend
    terms: dict[str, Any] = {f"the version of {name}": _version(name) for name in ("fmnist-xp", "numpy")}
    terms |= {
        "the layers": f"{network.layers}, {network.loss}, {network.dtype}",
        "a backend of the kind": type(backend).__name__,
        "weights of the SHA-256": _digest(backend.to_host(network.parameters)),
    }
    if optimizer is not None:
        terms["the optimizer"] = f"{optimizer!r} after {optimizer.iterations} updates"
        terms["moments of the SHA-256"] = _digest(*optimizer.state(network))
    ranks.compare(terms | arguments)
    kinds = ranks.gather(backend.arithmetic.partition(" ")[2])
    for rank, kind in enumerate(kinds):
        if kind != kinds[0]:
            logger.warning("rank %d computes on %s, and rank 0 on %s: the last bits may differ", rank, kind, kinds[0])
            break


def spread(state: State | None, network: Network, optimizer: Optimizer, ranks: Ranks) -> State | None:
    """Return on every rank the `state` of the first, with whose weights and moments they all go on."""
    if ranks.size == 1:
        return state
    backend, mine = network.backend, None
    if ranks.is_first and state is not None:
        best = None if state.best is None else backend.to_host(state.best)
        weights, moments = backend.to_host(network.parameters), optimizer.state(network)
        counts = optimizer.iterations, optimizer.current_learning_rate
        mine = state._replace(best=best), weights, moments, counts
    told = ranks.from_first(mine)
    if ranks.is_first or told is None:
        return state
    state, weights, moments, (optimizer.iterations, optimizer.current_learning_rate) = told
    optimizer.load_state(network, moments)
    with backend.current():
        network.parameters[...] = backend.asarray(weights)
        return state if state.best is None else state._replace(best=backend.asarray(state.best))


class Numbers:
    """The numbers of `optimizer`, such as its learning rate, which a callback of the first rank may change."""

    def __init__(self, optimizer: Optimizer, ranks: Ranks) -> None:
        self._optimizer, self._ranks = optimizer, ranks
        numbers = [name for name, value in vars(optimizer).items() if isinstance(value, float)]
        self._names = sorted({*numbers, "learning_rate"})

    def take_over(self) -> None:
        """Let every rank have those of the first, at once."""
        if self._ranks.size > 1:
            values = [getattr(self._optimizer, name) for name in self._names]
            mine = [value if isinstance(value, int | float) else math.nan for value in values]  # of a schedule
            for name, number in zip(self._names, self._ranks.numbers_of_first(mine), strict=True):
                if not math.isnan(number):
                    setattr(self._optimizer, name, number)


def _digest(*arrays: Any) -> str:
    digest = sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none that is installed"
