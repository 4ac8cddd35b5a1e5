"""One worker of the training engine: probabilities and gradients of blocks of rows, one block after another.

A block is computed by the calls of a plan that was made for the first block of its size, on the same buffers with
other values in them. Through the layers a block costs Python 50 µs, in which no other worker gets its lock; a list of
calls costs a third of that.
"""

from typing import NamedTuple

from fmnist_xp.backend import Array
from fmnist_xp.nn.draws import Draws
from fmnist_xp.nn.network import Network
from fmnist_xp.train.augmentation import Changes
from fmnist_xp.train.metrics import BatchMetrics
from fmnist_xp.train.plan import Calls, Forward, Outcomes, Plan
from fmnist_xp.train.rows import Rows


class Staged(NamedTuple):
    """A block as a plan takes it, its labels, columns, weights and draws None where there are none.

    `place` is the same where all arrays have the same addresses and shapes.
    """

    inputs: Array
    labels: Array
    columns: Array
    weights: Array
    draws: Draws | None
    place: tuple[int, int]


class Worker:
    """Computes on blocks of `rows`; `compute_gradients` writes to the vector `gradients`.

    `draws` are those of all rows, where something draws, and `changes` what changes a block's values in every epoch.
    """

    def __init__(
        self,
        network: Network,
        rows: Rows,
        gradients: Array,
        draws: Draws | None = None,
        changes: Changes | None = None,
    ) -> None:
        xp = network.backend.xp
        self._network, self._rows, self.gradients = network, rows, gradients
        self._draws, self._changes = draws, changes
        self._plan = Plan(network, rows.input_scale, rows.shift and rows.shift.parameters)
        self._forwards: dict[tuple[tuple[int, int], bool], Forward] = {}
        self._outcomes: dict[tuple[tuple[int, int], bool], Outcomes] = {}
        self._backwards: dict[tuple[int, int], Calls] = {}
        self._held = -1  # number of the block in the buffers
        if rows.write is not None:
            most = max(block.stop - block.start for block in rows.blocks)
            self._values = xp.empty(most * network.n_inputs, network.precision.operands)
            self._labels: Array = None if rows.labels is None else xp.empty(most, rows.labels.dtype)
            self._columns: Array = None if rows.columns is None else xp.empty(network.n_inputs, rows.columns[0].dtype)
            self._weights: Array = None if rows.weights is None else xp.empty(most, rows.weights.values.dtype)
            self._numbers: Array = None if draws is None else xp.empty(most, draws.numbers.dtype)

    def forward(self, number: int, metrics: BatchMetrics | None = None) -> Array:
        """Return the class probabilities of the rows of a block, of which `metrics` take note if given."""
        return self._forward(number, self._stage(number), metrics, training=False).probabilities

    def compute_gradients(self, number: int, metrics: BatchMetrics | None = None) -> None:
        """Write the sum of the gradients of the samples of a block to `gradients`.

        `metrics`, if given, take note of the probabilities, before the gradient is written over them.
        """
        staged = self._stage(number)
        forward = self._forward(number, staged, metrics, training=True)
        backward = self._backwards.get(staged.place)
        if backward is None:
            self._backwards[staged.place] = self._plan.backward(
                forward, staged.labels, self.gradients, staged.weights
            )
        else:
            backward()

    def _forward(self, number: int, staged: Staged, metrics: BatchMetrics | None, training: bool) -> Forward:
        key = staged.place, training
        forward = self._forwards.get(key)
        if forward is None:
            forward = self._forwards[key] = self._plan.forward(staged.inputs, training, staged.columns, staged.draws)
        else:
            forward.calls()
        if metrics is not None:
            outcomes = self._outcomes.get(key)
            if outcomes is None:
                outcomes = self._outcomes[key] = self._plan.outcomes(forward.probabilities, staged.labels)
            else:
                outcomes.calls()
            metrics.note(self._rows.blocks[number], outcomes.left, outcomes.predicted)
        return forward

    def _stage(self, number: int) -> Staged:
        """Return a block where it can be worked on."""
        rows = self._rows
        block = rows.blocks[number]
        count = block.stop - block.start
        labels = None if rows.labels is None else rows.labels[block]
        weights = None if rows.weights is None else rows.weights.values[block]
        draws = self._draws and self._draws._replace(numbers=self._draws.numbers[block])
        if rows.write is None:
            values = rows.block(number)
            if self._changes is not None and draws is not None:
                values = self._changes(values, draws)
            return Staged(values, labels, None, weights, draws, (block.start, count))
        columns = None if rows.columns is None else rows.columns[number]
        width = self._network.n_inputs if columns is None else len(columns)
        inputs = self._values[: count * width].reshape(count, width)
        staged = Staged(
            inputs,
            None if labels is None else self._labels[:count],
            None if columns is None else self._columns[:width],
            None if weights is None else self._weights[:count],
            draws and draws._replace(numbers=self._numbers[:count]),
            (count, width),
        )
        if number != self._held or self._changes is not None:
            self._held = -1  # should writing fail, the buffer holds a part of each
            values = rows.block(number)
            if self._changes is not None and draws is not None:
                values = self._changes(values, draws)
            rows.write(inputs, values)
            if labels is not None:
                staged.labels[...] = labels
            if columns is not None:
                staged.columns[...] = columns
            if weights is not None:
                staged.weights[...] = weights
            if staged.draws is not None and draws is not None:
                staged.draws.numbers[...] = draws.numbers
            self._held = number
        return staged
