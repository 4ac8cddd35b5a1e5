"""Every operation of the engine as data: made inputs, how a device computes it, and the bound on its error.

All inputs fit into half precision, so every device and every precision starts from the same numbers, and what differs
is the operation's own rounding.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Array, Backend
from fmnist_xp.nn import CategoricalCrossentropy, Dense, ReLU, Softmax, SoftmaxCategoricalCrossentropy
from fmnist_xp.optim import SGD, Adam, Optimizer
from fmnist_xp.parity import bounds
from fmnist_xp.parity.bounds import Bounded, Floats
from fmnist_xp.parity.tolerances import Roundoff


@dataclass(frozen=True, eq=False)
class Operation(ABC):
    """One operation on one set of inputs."""

    name: str
    case: str

    def __str__(self) -> str:
        """Return the name and the case."""
        return f"{self.name}, {self.case}"

    @abstractmethod
    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Return the tensors, by name, as `backend` computes them in `precision`."""

    @abstractmethod
    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return the exact tensors, by the same names, with the bounds on their errors."""


@dataclass(frozen=True, eq=False)
class DensePass(Operation):
    """Forward and backward of one Dense layer, with its penalties."""

    inputs: Floats
    weights: Floats
    biases: Floats
    dvalues: Floats
    penalties: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    strided: bool = False

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute with a layer of its own."""
        dtype = backend.precision(precision).operands
        n_inputs, n_neurons = self.weights.shape
        layer = Dense(n_inputs, n_neurons, *self.penalties, dtype=precision, backend=backend)
        layer.weights, layer.biases = self.weights, self.biases
        inputs, dvalues = (
            _strided(backend, array, dtype) if self.strided else backend.asarray(array, dtype)
            for array in (self.inputs, self.dvalues)
        )
        layer.forward(inputs)
        layer.backward(dvalues)
        tensors = {name: getattr(layer, name) for name in ("output", "dinputs", "dweights", "dbiases")}
        return {**tensors, "penalty": layer.regularization_loss()}

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return the bounds of sums over inputs, rows and neurons."""
        x, w, b, d = (Bounded.exact(a, roundoff) for a in (self.inputs, self.weights, self.biases, self.dvalues))
        w_l1, w_l2, b_l1, b_l2 = self.penalties
        dinputs, dweights, dbiases = bounds.dense_gradients(x, w, d)
        return {
            "output": bounds.dense(x, w, b),
            "dinputs": dinputs,
            "dweights": dweights + bounds.penalty_gradient(w, w_l1, w_l2),
            "dbiases": dbiases + bounds.penalty_gradient(b, b_l1, b_l2),
            "penalty": bounds.penalty(w, w_l1, w_l2) + bounds.penalty(b, b_l1, b_l2),
        }


@dataclass(frozen=True, eq=False)
class ReluPass(Operation):
    """Forward and backward of ReLU: nothing is rounded, so nothing may differ."""

    inputs: Floats
    dvalues: Floats

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute in the dtype of activations."""
        dtype = backend.precision(precision).operands
        layer = ReLU(backend)
        output = layer.forward(backend.asarray(self.inputs, dtype))
        return {"output": output, "dinputs": layer.backward(backend.asarray(self.dvalues, dtype))}

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return the values with bounds of 0."""
        x, d = Bounded.exact(self.inputs, roundoff), Bounded.exact(self.dvalues, roundoff)
        return {"output": bounds.relu(x), "dinputs": bounds.relu_gradient(d, x)}


@dataclass(frozen=True, eq=False)
class SoftmaxPass(Operation):
    """Forward and backward of softmax; `inputs` of integers are given as they are."""

    inputs: NDArray[Any]
    dvalues: Floats

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute in the dtype of the parameters, as a network's last layer."""
        dtype = backend.precision(precision).parameters
        layer = Softmax(backend)
        output = layer.forward(backend.asarray(self.inputs, dtype if self.inputs.dtype.kind == "f" else None))
        return {"output": output, "dinputs": layer.backward(backend.asarray(self.dvalues, output.dtype))}

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return bounds that grow with the distance from the row's maximum: exp magnifies its rounding."""
        output = bounds.softmax(Bounded.exact(self.inputs, roundoff))
        return {
            "output": output,
            "dinputs": bounds.softmax_gradient(Bounded.exact(self.dvalues, roundoff), output),
        }


@dataclass(frozen=True, eq=False)
class LossPass(Operation):
    """Cross-entropy of probabilities, forward and backward."""

    predictions: Floats
    labels: NDArray[Any]

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute in the dtype of the parameters."""
        loss = CategoricalCrossentropy(backend)
        predictions = backend.asarray(self.predictions, backend.precision(precision).parameters)
        labels = backend.asarray(self.labels)
        return {
            "sample losses": loss.forward(predictions, labels),
            "loss": loss.calculate(predictions, labels),
            "dinputs": loss.backward(predictions, labels),
        }

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return the bounds of a logarithm, a mean and a quotient."""
        predictions = Bounded.exact(self.predictions, roundoff)
        labels, one_hot = _both_labels(self.labels, self.predictions.shape[1])
        losses = bounds.sample_losses(predictions, labels)
        return {
            "sample losses": losses,
            "loss": losses.sum() / len(labels),
            "dinputs": bounds.crossentropy_gradient(predictions, one_hot, len(labels)),
        }


@dataclass(frozen=True, eq=False)
class JoinedLossPass(Operation):
    """Softmax joined with cross-entropy, forward and backward."""

    logits: Floats
    labels: NDArray[Any]

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute in the dtype of the parameters."""
        joined = SoftmaxCategoricalCrossentropy(backend)
        labels = backend.asarray(self.labels)
        loss = joined.forward(backend.asarray(self.logits, backend.precision(precision).parameters), labels)
        output = joined.output
        return {"loss": loss, "output": output, "dinputs": joined.backward(output, labels)}

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return the bounds of softmax and of what is made from it."""
        labels, one_hot = _both_labels(self.labels, self.logits.shape[1])
        output = bounds.softmax(Bounded.exact(self.logits, roundoff))
        return {
            "loss": bounds.sample_losses(output, labels).sum() / len(labels),
            "output": output,
            "dinputs": bounds.softmax_crossentropy_gradient(output, one_hot, len(labels)),
        }


@dataclass(frozen=True, eq=False)
class OptimizerPass(Operation):
    """Several updates of one vector: the parameters, and what the moments do to them."""

    optimizer: type[Optimizer]
    arguments: Mapping[str, float]
    start: Floats
    gradients: tuple[Floats, ...]

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute on the parameters of a Dense layer."""
        layer = Dense(len(self.start) - 1, 1, dtype=precision, backend=backend)
        layer.parameters[...] = backend.asarray(self.start)
        optimizer = self.optimizer(**self.arguments)
        tensors = {}
        for number, gradients in enumerate(self.gradients, start=1):
            layer.gradients[...] = backend.asarray(gradients)
            optimizer.step(layer)
            tensors[f"after update {number}"] = layer.parameters.copy()
        return tensors

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return the bounds of the written-out updates."""
        update = bounds.Update(self.optimizer(**self.arguments).config(), Bounded.exact(self.start, roundoff))
        return {
            f"after update {number}": update.step(Bounded.exact(gradients, roundoff))
            for number, gradients in enumerate(self.gradients, start=1)
        }


# (rows, inputs, neurons)
DENSE_SHAPES = {
    "257 × 784 → 128": (257, 784, 128),
    "one row": (1, 784, 10),
    "one neuron": (129, 65, 1),
    "one input": (31, 1, 7),
    "one of each": (1, 1, 1),
    "many rows": (4099, 13, 10),
}
OPTIMIZERS: Mapping[str, tuple[type[Optimizer], Mapping[str, float]]] = {
    "SGD": (SGD, {"learning_rate": 1.0, "decay": 0.01}),
    "SGD with momentum": (SGD, {"learning_rate": 1.0, "decay": 0.01, "momentum": 0.5}),
    "Adam": (Adam, {"learning_rate": 0.02, "decay": 1e-5}),
}


def operations() -> Iterator[Operation]:
    """Yield every operation on every set of inputs: the same ones in each call."""
    generator = np.random.default_rng(0)
    yield from _dense(generator)
    yield from _activations(generator)
    yield from _losses(generator)
    for name, (kind, arguments) in OPTIMIZERS.items():
        for size in (2, 10_007):
            scales = 2.0 ** generator.integers(-20, 8, size) * (generator.random(size) > 0.1)
            gradients = tuple(scales * _halves(generator, size) for _ in range(3))
            start = _halves(generator, size)
            yield OptimizerPass(name, f"{size:,} parameters", kind, arguments, start, gradients)


def _dense(generator: np.random.Generator) -> Iterator[Operation]:
    def numbers(rows: int, inputs: int, neurons: int) -> tuple[Floats, Floats, Floats, Floats]:
        x, w = _halves(generator, (rows, inputs)), _halves(generator, (inputs, neurons))
        return x, w, _halves(generator, (1, neurons)), _halves(generator, (rows, neurons))

    for case, shape in DENSE_SHAPES.items():
        yield DensePass("Dense", case, *numbers(*shape))
    yield DensePass("Dense", "non-contiguous", *numbers(67, 33, 9), strided=True)
    x, w, b, d = numbers(67, 33, 9)
    yield DensePass("Dense", "zeros", np.zeros_like(x), w, np.zeros_like(b), d)
    x, w, b, d = numbers(67, 33, 9)
    w[::3], w[1::3, ::2], b[:, ::2] = 0.0, -0.0, -0.0
    for penalties in ((1e-3, 0, 0, 0), (0, 5e-4, 0, 0), (0, 0, 1e-3, 0), (0, 0, 0, 5e-4), (0.1, 0.2, 0.3, 0.4)):
        case = "L1 and L2 " + ", ".join(f"{strength:g}" for strength in penalties)
        yield DensePass("Dense with penalties", case, x, w, b, d, penalties)


def _activations(generator: np.random.Generator) -> Iterator[Operation]:
    tiny = 2.0**-24  # the smallest half above 0
    edge = np.array([[0.0, -0.0, tiny, -tiny, 1.0, -1.0, 65504.0, -65504.0, np.inf, -np.inf, np.nan]])
    yield ReluPass("ReLU", "the edge, infinity and NaN", edge, np.arange(1.0, edge.size + 1)[None])
    x = _halves(generator, (131, 77))
    x[::5, ::3], x[1::5, ::3] = 0.0, -0.0
    yield ReluPass("ReLU", "131 × 77", x, _halves(generator, x.shape))

    logits = _halves(generator, (131, 10))
    extreme = logits.copy()
    extreme[::3, 4], extreme[1::3, 7] = 60_000.0, -60_000.0
    cases: dict[str, NDArray[Any]] = {
        "131 × 10": logits,
        "one row": logits[:1],
        "one class": logits[:, :1],
        "extreme logits": extreme,
        "equal logits": np.full((3, 10), -7.0),
        "integers": generator.integers(-9, 9, (17, 10)),
    }
    for case, inputs in cases.items():
        yield SoftmaxPass("Softmax", case, inputs, _halves(generator, inputs.shape))


def _losses(generator: np.random.Generator) -> Iterator[Operation]:
    rows, classes = 131, 10
    labels = generator.integers(0, classes, rows)
    predictions = generator.dirichlet(np.ones(classes), rows).astype(np.float16).astype(np.float64)
    predictions[::7], predictions[::7, 3], predictions[1::7] = 0.0, 1.0, 1 / 8  # sure, and undecided
    logits = 4 * _halves(generator, (rows, classes))
    logits[::5, 2], logits[1::5, 2] = 60_000.0, -60_000.0
    kinds: dict[str, NDArray[Any]] = {
        "uint8 labels": labels.astype(np.uint8),
        "int32 labels": labels.astype(np.int32),
        "int64 labels": labels,
        "one-hot labels": np.eye(classes)[labels],
        "one-hot uint8 labels": np.eye(classes, dtype=np.uint8)[labels],
    }
    for case, kind in kinds.items():
        yield LossPass("Cross-entropy", case, predictions, kind)
        yield JoinedLossPass("Softmax and cross-entropy", case, logits, kind)
    yield LossPass("Cross-entropy", "one row", predictions[2:3], labels[2:3])
    yield JoinedLossPass("Softmax and cross-entropy", "one row", logits[2:3], labels[2:3])


def _halves(generator: np.random.Generator, shape: int | tuple[int, ...]) -> Floats:
    """Return normal numbers that fit into half precision."""
    return generator.standard_normal(shape).astype(np.float16).astype(np.float64)


def _strided(backend: Backend, values: Floats, dtype: str) -> Array:
    """Return `values` on the device as every second column of a wider array."""
    wide = backend.xp.zeros((len(values), 2 * values.shape[1]), dtype=dtype)
    wide[:, ::2] = backend.asarray(values)
    return wide[:, ::2]


def _both_labels(labels: NDArray[Any], classes: int) -> tuple[bounds.Labels, Floats]:
    """Return labels as class indices and as one-hot rows."""
    indices = labels.argmax(axis=1) if labels.ndim == 2 else labels.astype(np.int64)
    return indices, np.eye(classes)[indices]
