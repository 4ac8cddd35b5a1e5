"""Asks a GPU for the three kernels of an epoch, in the place of `FullBatch` and `Optimizer.update_params`."""

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import Any

import numpy as np

from fmnist_xp.backend import Array
from fmnist_xp.nn import Dense, ReLU, SoftmaxCategoricalCrossentropy
from fmnist_xp.nn.network import Network
from fmnist_xp.optim import Optimizer
from fmnist_xp.registry import is_registered
from fmnist_xp.train.fused.source import FIGURES, OPERANDS, UPDATE_THREADS, WARPS, make_source
from fmnist_xp.train.plan import computes_as_its_layers


def unfit(network: Network, optimizer: Optimizer) -> str:
    """Return what of them the kernels cannot compute, in words, or nothing."""
    backend, widths, loss = network.backend, network.widths, network.loss
    usual = type(loss) is SoftmaxCategoricalCrossentropy and not loss.label_smoothing
    chain = [type(layer) for layer in network.layers] == [Dense, *[ReLU, Dense] * (len(widths) - 2)]
    one_formula = is_registered(optimizer) and not optimizer.needs_loss and optimizer.clip_norm is None
    one_formula &= type(optimizer).update_params is Optimizer.update_params
    for fits, what in (
        (backend.multiprocessors, f"{backend.name} ({backend.device_name}): it needs compute capability 8.0"),
        (network.dtype in OPERANDS, f"{network.dtype}: it has {', '.join(OPERANDS)}"),
        (chain and len(widths) > 2 and computes_as_its_layers(network), "layers other than Dense, ReLU, …, Dense"),
        (usual, f"{loss!r}: it has softmax with categorical cross-entropy, without smoothing"),
        (all(16 <= width <= 128 for width in widths[1:-1]), f"hidden layers of {widths[1:-1]}: it has 16 to 128"),
        (widths[-1] <= 128, f"{widths[-1]} classes: it has 128 at most"),
        (widths[0] % 16 == 0, f"{widths[0]} inputs: it has multiples of 16"),
        (one_formula, f"{optimizer!r}: it has optimizers that are a formula for each parameter alone"),
    ):
        if not fits:
            return what
    needed, there = make_source(network, optimizer).shared_bytes, backend.shared_bytes
    return "" if needed <= there else f"{widths} in {network.dtype}: {needed} bytes of shared memory, of {there}"


class Figures:
    """The metrics of the last epoch that was logged, as `BatchMetrics` has them."""

    def __init__(self, xp: Any) -> None:
        self._figures = xp.zeros(FIGURES, dtype="float64")
        self.totals = self._figures[:3]

    def classes(self) -> tuple[int, int]:
        """Return the lowest and the highest class predicted; waits for them."""
        return int(self._figures[3]), int(self._figures[4])


class FusedBatch:
    """Epochs of `network` under `optimizer`, to which `unfit` has no objection.

    `pixels` (rows, n_inputs) of uint8 and `labels` (rows,) are of the network's backend. Parts of sums are made by
    multiprocessor and added in a fixed order: the same bits on the same kind of device.
    """

    needs_table, column_share, reduction = True, 1.0, None

    def __init__(self, network: Network, optimizer: Optimizer, pixels: Array, labels: Array) -> None:
        backend, source = network.backend, make_source(network, optimizer)
        xp, rows, size, self.network = backend.xp, len(pixels), network.parameters.size, network
        self.captures, self.metrics = backend.captures, Figures(xp)
        first = network.n_inputs * network.widths[1]
        blocks = min(2 * backend.multiprocessors, ceil(rows / source.rows))
        splits = min(max(1, backend.multiprocessors // (source.slices * source.columns)), ceil(rows / 16))
        groups = ceil(rows / source.rows) * source.rows // 16
        operands = xp.zeros(source.operand_bytes, dtype="uint8")  # what stands for no weight is 0
        gradients = xp.empty(source.terms * groups * source.pieces[1] * 512, dtype="uint8")
        sums = xp.empty((blocks, size - first), dtype="float32")
        first_sums = xp.empty((splits, first), dtype="float32")
        figures = xp.empty((blocks, FIGURES), dtype="float64")
        counts = np.int32(rows), np.int32(groups)
        parameters, labels = network.parameters, labels.astype("uint8", copy=False)

        def kernel(name: str, grid: tuple[int, ...], threads: int, shared_bytes: int = 0) -> Callable[..., None]:
            return partial(backend.kernel(source.text, name, shared_bytes), grid, (threads,))

        through = kernel("pass", (blocks,), WARPS * 32, source.shared_bytes)
        weights = kernel("weights", (source.slices, splits, source.columns), source.slice_warps * 32)
        self._passes = (
            partial(through, (pixels, labels, parameters, operands, gradients, sums, figures, *counts)),
            partial(weights, (pixels, gradients, first_sums, *counts)),
        )
        self._update = kernel("update", (ceil(size / UPDATE_THREADS),), UPDATE_THREADS)
        self._parts = sums, first_sums, figures, parameters, network.gradients
        self._results = operands, self.metrics._figures, np.int32(blocks), np.int32(splits), np.int32(rows)
        self._moments = optimizer.vectors_of(network)
        self.take_over()

    def take_over(self) -> None:
        """Take the network's parameters as they are now, which something else may have changed."""
        self._launch_update(self.network.parameters, kept=True, log=False)

    def epoch(self, _optimizer: Optimizer, coefficients: Any, log: bool) -> None:
        """Update the network; `coefficients` are neighbours in memory. With `log`, `metrics` are of before that."""
        for launch in self._passes:
            launch()
        self._launch_update(coefficients[0], kept=False, log=log)

    def _launch_update(self, coefficients: Array, kept: bool, log: bool) -> None:
        flags = np.int32(kept), np.int32(log)
        self._update((*self._parts, coefficients, *self._results, *flags, *self._moments))
