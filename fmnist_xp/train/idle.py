"""Telling of a training that learned nothing: one class predicted for all rows, or units that are all dead."""

import logging

import numpy as np

from fmnist_xp.nn.activations import Activation
from fmnist_xp.nn.network import Network
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.fused.batch import Figures
from fmnist_xp.train.history import History
from fmnist_xp.train.metrics import BatchMetrics
from fmnist_xp.train.source import Source, as_numbers

logger = logging.getLogger("fmnist_xp")

SAMPLE = 1000
"""Rows whose hidden activations are looked at."""
EARLY = 50
"""Epochs in which a network may well predict one class alone."""


def tell_of_idle_units(
    network: Network, source: Source, metrics: BatchMetrics | Figures, history: History, ranks: Ranks
) -> None:
    """Warn where the last epoch logged, if not the first, predicted one class for all rows, and of dead units.

    `metrics` are those of that epoch, of the rows of `source`. A layer is dead where its activations are 0 for all of
    `SAMPLE` rows: no gradient passes it any more. All ranks call this at once.
    """
    if len(history) < 2:
        return
    classes = {one for lowest_and_highest in ranks.gather(metrics.classes()) for one in lowest_and_highest}
    only = classes - {-1, network.n_classes}  # of ranks without rows
    if len(only) > 1:
        return
    backend, dead = network.backend, ""
    sample = source.sample(np.linspace(0, source.rows - 1, min(SAMPLE, source.rows)).astype("int64"))
    with backend.current():
        values = backend.asarray(as_numbers(sample), network.precision.operands)
        for number, layer in enumerate(network.layers, start=1):
            values = layer.forward(values)
            if isinstance(layer, Activation) and not bool(values.any()):
                dead = f"layer {number} ({type(layer).__name__}) gives 0 for every row, its units are dead"
                break
    if not dead and history.epoch[-1] < EARLY:
        return
    logger.warning(
        "class %d is predicted for every row: %s; a lower learning rate or other first weights may help",
        *(only.pop(), dead or "nothing that tells them apart was learned"),
    )
