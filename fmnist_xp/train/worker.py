"""One worker of the training engine: probabilities and gradients of blocks of rows, one block after another.

A block is computed by the calls of a plan that was made for the first block of its size, on the same buffers with
other values in them. Through the layers a block costs Python 50 µs, in which no other worker gets its lock; a list of
calls costs a third of that.
"""

from fmnist_xp.backend import Array
from fmnist_xp.nn.network import Network
from fmnist_xp.train.metrics import BatchMetrics
from fmnist_xp.train.plan import Calls, Forward, Plan


class Worker:
    """Computes on blocks of `inputs` and `labels` (or None, for probabilities alone), of `block_rows` rows at most.

    `gradients` is the vector that `compute_gradients` writes; another may be put in its place.
    """

    def __init__(
        self, network: Network, inputs: Array, labels: Array, block_rows: int, input_scale: float = 1.0
    ) -> None:
        backend = network.backend
        self._given = inputs, labels
        self._plan = Plan(network, input_scale)
        self._forwards: dict[tuple[int, bool], Forward] = {}
        self._backwards: dict[tuple[int, int], Calls] = {}
        self.gradients = backend.xp.empty_like(network.gradients)
        self._buffers: tuple[Array, Array] | None = None
        if backend.stages_blocks:
            rows = backend.xp.empty((block_rows, network.n_inputs), network.precision.operands)
            self._buffers = rows, None if labels is None else backend.xp.empty(block_rows, labels.dtype)

    def forward(self, block: slice, metrics: BatchMetrics | None = None, training: bool = False) -> Array:
        """Return the class probabilities of the rows of `block`, of which `metrics` take note if given."""
        inputs, place = self._rows_of(0, block)
        forward = self._forwards.get((place, training))
        if forward is None:
            forward = self._forwards[place, training] = self._plan.forward(inputs, training)
        else:
            forward.calls()
        if metrics is not None:
            metrics.note(self._plan, forward.probabilities, block)
        return forward.probabilities

    def compute_gradients(self, block: slice, metrics: BatchMetrics | None = None) -> None:
        """Write the sum of the gradients of the samples of `block` to `gradients`.

        `metrics`, if given, take note of the probabilities, before the gradient is written over them.
        """
        self.forward(block, metrics, training=True)
        labels, place = self._rows_of(1, block)
        backward = self._backwards.get((place, id(self.gradients)))
        if backward is None:
            forward = self._forwards[place, True]
            self._backwards[place, id(self.gradients)] = self._plan.backward(forward, labels, self.gradients)
        else:
            backward()

    def _rows_of(self, which: int, block: slice) -> tuple[Array, int]:
        """Return the inputs (0) or labels (1) of `block`, and a number that is the same where their address is."""
        values = self._given[which][block]
        if self._buffers is None:
            return values, block.start
        buffer = self._buffers[which][: len(values)]
        buffer[...] = values
        return buffer, len(values)
