"""One worker of the training engine: the gradients of blocks of rows, one block after another.

What the layers call for a block is noted once and called again for every block of that size, on the same buffers
with other values in them. In the layers a block costs Python 50 µs, in which no other worker gets its lock; in a list
of calls it costs a third of that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from fmnist_xp.backend import Array, Backend, Formula, Product, RowSum, Step
from fmnist_xp.nn.losses import CategoricalCrossentropy
from fmnist_xp.nn.network import Network


class Recorder:
    """Stands before a backend, hands on whatever is asked of it, and notes the steps that compute."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._steps: list[Step] = []

    def __getattr__(self, name: str) -> Any:
        """Return what the backend has."""
        return getattr(self._backend, name)

    def dot(self, a: Array, b: Array, out: Array, scale: float = 1.0, tf32: bool = False) -> None:
        """See `Backend.dot`."""
        self._take(Product(a, b, out, scale, tf32))

    def sum_rows(self, ones: Array, values: Array, out: Array, tf32: bool = False) -> None:
        """See `Backend.sum_rows`."""
        self._take(RowSum(ones, values, out, tf32))

    def fuse(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """See `Backend.fuse`."""
        return lambda *arguments: self._take(Formula(formula, arguments))

    def apply(self, function: Callable[..., None], *arguments: Any) -> None:
        """See `Backend.apply`."""
        self._take(Formula(function, arguments, fused=False))

    def taken(self) -> list[Step]:
        """Return the steps taken since this was last asked."""
        steps, self._steps = self._steps, []
        return steps

    def _take(self, step: Step) -> None:
        self._steps.append(step)
        for function, arguments in self._backend.calls([step]):
            function(*arguments)


Note: TypeAlias = Callable[[CategoricalCrossentropy, Array, slice], None]
"""What is told of a block before its gradient: the worker's loss, the probabilities and which rows they are of."""


class Tape(NamedTuple):
    """What computes the probabilities of a block again, and what computes its gradient from them."""

    forward: Callable[[], None]
    probabilities: Array
    backward: Callable[[], None]


class Worker:
    """A replica of `network` that computes on blocks of `inputs` and `labels`, of `block_rows` rows at most.

    `gradients` is the vector that `compute_gradients` writes; another may be put in its place.
    """

    def __init__(self, network: Network, inputs: Array, labels: Array, block_rows: int) -> None:
        backend = network.backend
        self._inputs, self._labels = inputs, labels
        self._recorder = Recorder(backend)
        self.replays = network.replayable
        through: Any = self._recorder if self.replays else backend
        self._network = network.replica(through)
        self.loss = self._network.loss
        self.gradients = self._network.gradients
        self._tapes: dict[tuple[int, int], Tape] = {}
        self._buffers: tuple[Array, Array] | None = None
        if self.replays and backend.stages_blocks and labels is not None:
            rows = backend.xp.empty((block_rows, network.n_inputs), dtype=network.precision.operands)
            self._buffers = rows, backend.xp.empty(block_rows, dtype=labels.dtype)

    def forward(self, block: slice) -> Array:
        """Return the class probabilities of the rows of `block`."""
        self._network.training = False
        probabilities = self._network.forward(self._inputs[block])
        self._recorder.taken()
        return probabilities

    def compute_gradients(self, block: slice, note: Note | None) -> None:
        """Write the sum of the gradients of the samples of `block` to `gradients`.

        `note(loss, probabilities, block)` is called before the gradient is written over the probabilities.
        """
        if not self.replays:
            return self._through_layers(block, note)
        inputs, labels = self._inputs[block], self._labels[block]
        # Buffers lie at the same addresses for all blocks of a size; without, each block has its own.
        place = block.start
        if self._buffers is not None:
            given, place = (inputs, labels), len(labels)
            inputs, labels = (buffer[:place] for buffer in self._buffers)
            inputs[...], labels[...] = given
        tape = self._tapes.get((place, id(self.gradients)))
        if tape is None:
            tape = self._tapes[place, id(self.gradients)] = self._record(inputs, labels)
        tape.forward()
        if note is not None:
            note(self.loss, tape.probabilities, block)
        tape.backward()
        return None

    def _through_layers(self, block: slice, note: Note | None) -> None:
        self._network.training = True
        probabilities = self._network.forward(self._inputs[block])
        if note is not None:
            note(self.loss, probabilities, block)
        self._network.attach_gradients(self.gradients)
        self._network.backward(probabilities, self._labels[block], samples=1)

    def _record(self, inputs: Array, labels: Array) -> Tape:
        """Return what the layers call for rows and labels at these addresses."""
        self._recorder.taken()  # what an attempt that failed has left
        self._network.attach_gradients(self.gradients)
        self._network.training = True
        probabilities = self._network.forward(inputs)
        forward = self._recorder.taken()
        self._network.backward(probabilities, labels, samples=1)
        repeatable = self._network.backend.repeatable
        return Tape(repeatable(forward), probabilities, repeatable(self._recorder.taken()))
