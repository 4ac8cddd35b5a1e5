"""Which engine makes the epochs: the plain one, which takes everything, or the fused one, for what it is made for."""

import logging
from typing import Any, TypeAlias

from fmnist_xp.backend import PRECISIONS, Array
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.errors import EngineError
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.augmentation import Augmentation
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.fused.batch import FusedBatch, unfit
from fmnist_xp.train.rows import as_bytes

ENGINES = ("plain", "fused")

Batch: TypeAlias = FullBatch | FusedBatch

logger = logging.getLogger("fmnist_xp")


def check_precision(precision: str, engine: str) -> None:
    """Raise `ValueError` for a precision that only the fused engine has, where another is asked for."""
    if PRECISIONS[precision].fused and engine != "fused":
        raise ValueError(f'{precision} is for the fused engine alone, ask for it: engine="fused", or --engine fused')


def make_batch(
    engine: str,
    network: Network,
    optimizer: Optimizer,
    inputs: Pixels | Array,
    labels: Array,
    block_rows: int | None,
    dense: bool | None,
    ranks: Ranks,
    weights: Array | None,
    augmentation: Augmentation | None,
) -> Batch:
    """Return what makes the epochs of `network`: the engine asked for, or the plain one with a warning that says why.

    Raises `ValueError` for a precision that only the fused engine has, where another is asked for, and `EngineError`
    where it cannot be taken.
    """
    check_precision(network.dtype, engine)
    why, pixels = "", None
    if engine == "fused":
        try:
            why = unfit(network, optimizer) or _unfit_rows(block_rows, dense, ranks, weights, augmentation)
        except (AttributeError, TypeError) as error:  # of a user's own formula, that uses what C has not
            why = f"{optimizer!r}: its update cannot be read as C ({error})"
        if not why:
            pixels = as_bytes(network.backend, inputs)
            why = "" if pixels is not None else "rows that are not bytes scaled to [-1, 1]"
        if pixels is not None:
            return FusedBatch(network, optimizer, pixels, labels)
    if network.precision.fused:
        with ranks.together():  # all ranks come here alike
            raise EngineError(f"{network.dtype} is for the fused engine alone, which does not take {why}")
    if why:
        logger.warning("the fused engine does not take %s; the plain one trains", why)
    epoch = optimizer.iterations
    return FullBatch(network, inputs, labels, block_rows, dense, ranks, weights, augmentation, epoch=epoch)


def _unfit_rows(block_rows: int | None, dense: bool | None, ranks: Ranks, weights: Any, augmentation: Any) -> str:
    """Return what of the rows the fused engine does not take, in words, or nothing."""
    for fits, what in (
        (ranks.size == 1, "several ranks"),
        (block_rows is None, "block_rows"),
        (dense is not False, "rows without their background"),
        (weights is None, "weighted rows"),
        (augmentation is None, "augmented rows"),
    ):
        if not fits:
            return what
    return ""
