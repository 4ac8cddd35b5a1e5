"""Epochs of the fused engine as operations: networks of many widths and rows, and every optimizer that it takes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp import nn
from fmnist_xp.backend import Array, Backend, CpuBackend
from fmnist_xp.data import Pixels
from fmnist_xp.model import Sequential
from fmnist_xp.optim import SGD, Adam, AdamW, Optimizer
from fmnist_xp.parity.bounds import Bounded
from fmnist_xp.parity.operations import OPTIMIZERS
from fmnist_xp.parity.passes import Operation
from fmnist_xp.parity.step import bound_epoch, compute_epoch
from fmnist_xp.parity.tolerances import Roundoff
from fmnist_xp.registry import registered

SHAPES: Mapping[str, tuple[int, tuple[int, ...]]] = {
    "one row": (1, (16, 16, 2)),
    "15 rows": (15, (48, 16, 3)),
    "16 rows": (16, (64, 17, 10)),
    "17 rows, two hidden layers": (17, (80, 31, 33, 10)),
    "129 rows, four hidden layers": (129, (16, 16, 32, 16, 16, 17)),
    "wider than 64": (70, (112, 100, 33)),
    "many rows": (1031, (32, 20, 10)),
    "the widest": (70, (16, 128, 128, 128)),
}
"""Rows, and the widths of inputs and layers: multiples of 16, and what is just beyond them."""


@dataclass(frozen=True, eq=False)
class FusedEpoch(Operation):
    """An epoch on made images: by the fused engine where a device has that, else by the plain one."""

    rows: int
    widths: tuple[int, ...]
    kind: type[Optimizer] = SGD
    arguments: Mapping[str, Any] = field(default_factory=dict)
    penalties: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute on the images' bytes."""
        pixels, labels = self._rows()
        engine = "fused" if backend.multiprocessors else "plain"
        return compute_epoch(self._network(backend, precision), self.kind(**self.arguments), engine, pixels, labels)

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return what the layers, the loss and the optimizer have written out."""
        pixels, labels = self._rows()
        network, optimizer = self._network(CpuBackend(1), "float64"), self.kind(**self.arguments)
        return bound_epoch(network, optimizer, roundoff, (pixels.images / 127.5 - 1), labels)

    def _rows(self) -> tuple[Pixels, NDArray[np.uint8]]:
        generator = np.random.default_rng(self.rows)
        pixels = Pixels(generator.integers(0, 256, (self.rows, self.widths[0]), dtype="uint8"))
        return pixels, generator.integers(0, self.widths[-1], self.rows, dtype="uint8")

    def _network(self, backend: Backend, precision: str) -> Sequential:
        """Return a network whose parameters are the same halves everywhere."""
        generator = np.random.default_rng(len(self.widths))
        layers: list[nn.Layer] = []
        for inputs, outputs in pairwise(self.widths):
            layers += [nn.Dense(inputs, outputs, *self.penalties, draw=False), nn.ReLU()]
        network = Sequential(layers[:-1], backend=backend, dtype=precision)
        state = {}
        for name, array in network.state_dict().items():
            scale = (2 / array.shape[0]) ** 0.5 if name.endswith("weights") else 0.1
            state[name] = (scale * generator.standard_normal(array.shape)).astype("float16").astype(array.dtype)
        network.load_state_dict(state)
        return network


def fused_operations() -> Iterator[Operation]:
    """Yield every case: the same ones in each call."""
    for case, (rows, widths) in SHAPES.items():
        yield FusedEpoch("Fused epoch", case, rows, widths)
    small = 65, (32, 24, 10)
    for penalties in ((1e-3, 0.0, 0.0, 0.0), (0.1, 0.2, 0.3, 0.4)):
        yield FusedEpoch("Fused epoch", f"L1 and L2 {penalties}", *small, penalties=penalties)
    cases: dict[str, tuple[type[Optimizer], Mapping[str, Any]]] = {
        **{kind.__name__: (kind, {}) for kind in registered(Optimizer).values()},  # type: ignore[type-abstract]
        **OPTIMIZERS,
        "Adam, averaged": (Adam, {"ema": 0.75}),
        "AdamW, decayed": (AdamW, {"weight_decay": 0.3}),
    }
    for name, (kind, arguments) in cases.items():
        optimizer = kind(**arguments)
        if not optimizer.needs_loss and optimizer.clip_norm is None:
            yield FusedEpoch(f"Fused epoch, {name}", "65 rows", *small, kind, arguments)
