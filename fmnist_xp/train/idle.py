"""Telling of a training that learned nothing: one class predicted for all rows, or units that are all dead."""

import logging

import numpy as np

from fmnist_xp.backend import Array
from fmnist_xp.data.pixels import Pixels
from fmnist_xp.nn.activations import Activation
from fmnist_xp.nn.network import Network
from fmnist_xp.train.history import History
from fmnist_xp.train.metrics import BatchMetrics

logger = logging.getLogger("fmnist_xp")

SAMPLE = 1000
"""Rows whose hidden activations are looked at."""
EARLY = 50
"""Epochs in which a network may well predict one class alone."""


def tell_of_idle_units(network: Network, inputs: Pixels | Array, metrics: BatchMetrics, history: History) -> None:
    """Warn where the last epoch logged, if not the first, predicted one class for all rows, and of dead units.

    `metrics` are those of that epoch, of the rows `inputs`. A layer is dead where its activations are 0 for all of
    `SAMPLE` rows: no gradient passes it any more.
    """
    if len(history) < 2 or (only := metrics.only_class()) is None:
        return
    backend, dead = network.backend, ""
    places = np.linspace(0, len(inputs) - 1, min(SAMPLE, len(inputs))).astype("int64")
    with backend.current():
        rows = inputs[places] if isinstance(inputs, Pixels) else inputs[backend.asarray(places)]
        values = backend.asarray(rows, network.precision.operands)
        for number, layer in enumerate(network.layers, start=1):
            values = layer.forward(values)
            if isinstance(layer, Activation) and not bool(values.any()):
                dead = f"layer {number} ({type(layer).__name__}) gives 0 for every row, its units are dead"
                break
    if not dead and history.epoch[-1] < EARLY:
        return
    logger.warning(
        "class %d is predicted for every row: %s; a lower learning rate or other first weights may help",
        *(only, dead or "nothing that tells them apart was learned"),
    )
