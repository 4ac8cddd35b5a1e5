"""Rows as a user hands them in, checked and brought to the backend: inputs, labels and weights."""

import logging
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Array, Backend
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.nn.labels import class_indices, index_dtype
from fmnist_xp.ranks import Ranks

logger = logging.getLogger("fmnist_xp")

UNSCALED = 100
"""Inputs of this size are more likely pixels that nobody has scaled than anything that a network learns from."""


class UserRows(NamedTuple):
    """This rank's inputs and class indices (n,) on the backend, and on the host the weights (n,), or None."""

    inputs: Pixels | Array
    labels: Array
    weights: NDArray[np.float64] | None

    def at(self, rows: NDArray[np.bool_], backend: Backend) -> "UserRows":
        """Return these rows, given as a mask of the host."""
        places = np.flatnonzero(rows)
        there = backend.asarray(places)
        inputs = self.inputs[places if isinstance(self.inputs, Pixels) else there]
        return UserRows(inputs, self.labels[there], None if self.weights is None else self.weights[places])


def rows_of_ranks(network: Any, ranks: Ranks, X: Any, y: Any, sample_weight: Any = None) -> UserRows:
    """Return this rank's rows for a `Sequential`, of the same kind on every rank; all ranks call this at once.

    Raises `ValueError`, naming the argument, for what does not fit the network, or is of another kind on some ranks.
    """
    backend, several = network.backend, ranks.size > 1
    with ranks.together():
        inputs = checked_inputs(network, X, least=0 if several else 1)
        labels = _checked_labels(network, y, len(inputs))
        weights = None if sample_weight is None else _checked_weights(backend, sample_weight, len(inputs))
    kinds = [isinstance(inputs, Pixels)] if len(inputs) else []
    found = [kind for of_rank in ranks.gather(kinds) for kind in of_rank]
    with ranks.together():
        if several and not found:
            raise ValueError("X has no rows on any rank")
        if len({*found}) > 1 and ranks.is_first:
            raise ValueError("X is pixels on some ranks and floats on others: all must have the same kind")
    if not len(inputs):
        shape, dtype = (0, network.n_inputs), network.parameters.dtype
        inputs = Pixels(np.empty(shape, np.uint8)) if found[0] else backend.asarray(np.empty(shape), dtype)
    return UserRows(inputs, labels, weights)


def checked_inputs(network: Any, X: Any, least: int = 1) -> Pixels | Array:
    """Return `X` as `Pixels` where it is bytes, else on the backend in the dtype of the network's parameters.

    Raises `ValueError` for other shapes than (n, n_inputs) with n ≥ `least`, and numbers that are not finite.
    """
    backend = network.backend
    if getattr(X, "dtype", None) == np.uint8 and len(np.shape(X)) >= 2:
        X = Pixels(backend.to_host(X))
    shape = np.shape(X)
    if len(shape) != 2 or shape[1] != network.n_inputs or shape[0] < least:
        raise ValueError(f"X must have the shape (n, {network.n_inputs}) with n ≥ {least}, got {shape}")
    if isinstance(X, Pixels) or not len(X):
        return X
    xp = backend.xp
    with np.errstate(over="ignore"):  # what overflows is refused in the next line
        inputs = backend.numbers(X, "X", network.parameters.dtype)
    # NaN and infinity show in the bounds; two numbers leave the device, and no mask of all rows is made.
    low, high = float(xp.min(inputs)), float(xp.max(inputs))
    if not np.isfinite([low, high]).all():
        raise ValueError(f"X has values that are not finite in {inputs.dtype} (NaN or infinity)")
    if max(-low, high) >= UNSCALED and network.tells_unscaled:
        network.tells_unscaled = False
        logger.warning(
            "X has values from %g to %g: networks learn from values of about -1 to 1; scale pixels as preprocess "
            "does, (X - 127.5) / 127.5",
            low,
            high,
        )
    return inputs


def _checked_labels(network: Any, y: Any, rows: int) -> Array:
    """Return `y` as class indices on the backend, checked on the host."""
    backend = network.backend
    if not rows and not len(y):
        return backend.asarray(np.empty(0), index_dtype(network.n_classes))
    labels = class_indices(backend.to_host(y), network.n_classes, "y")
    if len(labels) != rows:
        raise ValueError(f"X has {rows} rows, but y has {len(labels)}")
    return backend.asarray(labels)


def _checked_weights(backend: Backend, sample_weight: Any, rows: int) -> NDArray[np.float64]:
    """Return `sample_weight` on the host, checked."""
    weights: NDArray[np.float64] = backend.to_host(backend.numbers(sample_weight, "sample_weight", "float64"))
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight must have the shape ({rows},), got {weights.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("sample_weight must be finite and at least 0")
    return weights


def check_weigh(weights: NDArray[np.float64] | None, ranks: Ranks, weighing: str) -> None:
    """Raise `ValueError` where the rows of all ranks weigh nothing; `weighing` is what weighs them, in words."""
    weigh = weights is None or any(ranks.gather(bool(weights.any())))
    with ranks.together():
        if not weigh and ranks.is_first:
            raise ValueError(f"{weighing} is 0 for every row that is trained on, or every one that is held out")
