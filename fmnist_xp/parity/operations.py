"""Every operation of the engine as data: made inputs, how a device computes it, and the bound on its error.

All inputs fit into half precision, so every device and every precision starts from the same numbers, and what differs
is the operation's own rounding.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp import nn
from fmnist_xp.backend import Array, Backend
from fmnist_xp.nn.target_losses import TargetLoss
from fmnist_xp.optim import SGD, Adam, Optimizer
from fmnist_xp.parity.bounds import Bounded, Floats
from fmnist_xp.parity.tolerances import Roundoff
from fmnist_xp.registry import registered


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
class LayerPass(Operation):
    """Forward and backward of one layer, made with `arguments`, and its penalties where it has parameters.

    It computes in the dtype of activations, or where `wide` in that of the parameters, as a network's last layer.
    Inputs of integers are given as they are.
    """

    kind: type[nn.Layer]
    inputs: NDArray[Any]
    parameters: Mapping[str, Floats]
    dvalues: Floats
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wide: bool = False
    strided: bool = False

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute with a layer of its own."""

        def given(values: NDArray[Any], dtype: Any) -> Array:
            return _strided(backend, values, dtype) if self.strided else backend.asarray(values, dtype)

        layer = self.kind(**self.arguments, **({"dtype": precision} if self.parameters else {}), backend=backend)
        for name, values in self.parameters.items():
            setattr(layer, name, values)
        held = backend.precision(precision)
        dtype = held.parameters if self.wide else held.operands
        output = layer.forward(given(self.inputs, dtype if self.inputs.dtype.kind == "f" else None))
        tensors = {"output": output, "dinputs": layer.backward(given(self.dvalues, output.dtype))}
        tensors |= {f"d{name}": getattr(layer, f"d{name}") for name in self.parameters}
        return {**tensors, "penalty": layer.regularization_loss()} if self.parameters else tensors

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return what the layer has written out."""
        layer = self.kind(**self.arguments)
        parameters = {name: Bounded.exact(values, roundoff) for name, values in self.parameters.items()}
        output, backward = layer.bound_pass(Bounded.exact(self.inputs, roundoff), parameters)
        dinputs, gradients = backward(Bounded.exact(self.dvalues, roundoff))
        penalties = layer.bound_penalties(parameters)
        tensors = {"output": output, "dinputs": dinputs}
        tensors |= {f"d{name}": gradient + penalties[name][1] for name, gradient in gradients.items()}
        totals = [total for total, _gradient in penalties.values()]
        return {**tensors, "penalty": reduce(add, totals)} if self.parameters else tensors


@dataclass(frozen=True, eq=False)
class LossPass(Operation):
    """A loss, made with `arguments`, of the output of a network, forward and backward in the parameters' dtype."""

    kind: type[nn.Loss]
    inputs: Floats
    labels: NDArray[Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute with a loss of its own."""
        loss, labels = self.kind(backend, **self.arguments), backend.asarray(self.labels)
        output = loss.activate(backend.asarray(self.inputs, backend.precision(precision).parameters))
        losses, mean = loss.sample_losses(output, labels), loss.calculate(output, labels)
        return self._named(losses, mean, output, loss.backward(output, labels))

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return what the loss has written out."""
        one_hot = self.labels.ndim == 2 and not issubclass(self.kind, TargetLoss)
        labels = self.labels.argmax(axis=1) if one_hot else self.labels
        loss, inputs = self.kind(**self.arguments), Bounded.exact(self.inputs, roundoff)
        output, losses, dinputs = loss.bound_pass(inputs, labels, len(labels))
        return self._named(losses, losses.sum() / len(labels), output, dinputs)

    def _named(self, losses: Any, mean: Any, output: Any, dinputs: Any) -> dict[str, Any]:
        if self.kind.activate is not nn.Loss.activate:
            return {"loss": mean, "output": output, "dinputs": dinputs}
        return {"sample losses": losses, "loss": mean, "dinputs": dinputs}


@dataclass(frozen=True, eq=False)
class OptimizerPass(Operation):
    """Several updates of one vector: the parameters, and what the moments do to them."""

    kind: type[Optimizer]
    arguments: Mapping[str, float]
    start: Floats
    gradients: tuple[Floats, ...]

    def compute(self, backend: Backend, precision: str) -> dict[str, Array]:
        """Compute on the parameters of a Dense layer."""
        layer = nn.Dense(len(self.start) - 1, 1, dtype=precision, backend=backend)
        layer.parameters[...] = backend.asarray(self.start)
        optimizer = self.kind(**self.arguments)
        tensors = {}
        for number, gradients in enumerate(self.gradients, start=1):
            layer.gradients[...] = backend.asarray(gradients)
            optimizer.step(layer)
            tensors[f"after update {number}"] = layer.parameters.copy()
        return tensors

    def bound(self, roundoff: Roundoff) -> dict[str, Bounded]:
        """Return what the optimizer has written out."""
        start, *gradients = (Bounded.exact(array, roundoff) for array in (self.start, *self.gradients))
        updates = enumerate(self.kind(**self.arguments).bound_updates(start, gradients), start=1)
        return {f"after update {number}": parameters for number, parameters in updates}


PENALTIES = [f"{part}_regularizer_{kind}" for part in ("weight", "bias") for kind in ("l1", "l2")]
# (rows, inputs, neurons)
DENSE_SHAPES = {
    "257 × 784 → 128": (257, 784, 128),
    "one row": (1, 784, 10),
    "one neuron": (129, 65, 1),
    "one input": (31, 1, 7),
    "one of each": (1, 1, 1),
    "many rows": (4099, 13, 10),
}
# Among them the smallest half above 0, and the largest.
EDGE = np.array([[0.0, -0.0, 2.0**-24, -(2.0**-24), 1.0, -1.0, 65504.0, -65504.0, np.inf, -np.inf, np.nan]])
SMOOTHED = {"label_smoothing": 0.1}
LOSSES: Mapping[type[nn.Loss], Mapping[str, Mapping[str, float]]] = {
    nn.CategoricalCrossentropy: {"Cross-entropy": {}, "Cross-entropy, smoothed": SMOOTHED},
    nn.SoftmaxCategoricalCrossentropy: {
        "Softmax and cross-entropy": {},
        "Softmax and cross-entropy, smoothed": SMOOTHED,
    },
    nn.BinaryCrossentropy: {"Binary cross-entropy": {}},
    nn.MeanSquaredError: {"Mean squared error": {}},
}
OPTIMIZERS: Mapping[type[Optimizer], Mapping[str, Mapping[str, float]]] = {
    SGD: {
        "SGD": {"learning_rate": 1.0, "decay": 0.01},
        "SGD with momentum": {"learning_rate": 1.0, "decay": 0.01, "momentum": 0.5},
    },
    Adam: {"Adam": {"learning_rate": 0.02, "decay": 1e-5}},
}


def operations() -> Iterator[Operation]:
    """Yield every operation on every set of inputs: the same ones in each call.

    What is registered is among them: an activation, a loss or an optimizer needs no entry here, another layer does.
    """
    generator = np.random.default_rng(0)
    yield from _dense(generator)
    yield from _activations(generator)
    yield from _softmax(generator)
    yield from _losses(generator)
    for kind in registered(Optimizer).values():  # type: ignore[type-abstract]
        for name, arguments in OPTIMIZERS.get(kind, {kind.__name__: {}}).items():
            for size in (2, 10_007):
                scales = 2.0 ** generator.integers(-20, 8, size) * (generator.random(size) > 0.1)
                gradients = tuple(scales * _halves(generator, size) for _ in range(3))
                start = _halves(generator, size)
                yield OptimizerPass(name, f"{size:,} parameters", kind, arguments, start, gradients)
    yield from _layer_norm(np.random.default_rng(1))  # its own: what comes before may be more


def _dense(generator: np.random.Generator) -> Iterator[Operation]:
    def numbers(rows: int, inputs: int, neurons: int) -> dict[str, Any]:
        x, weights = _halves(generator, (rows, inputs)), _halves(generator, (inputs, neurons))
        parameters = {"weights": weights, "biases": _halves(generator, (1, neurons))}
        arguments = {"n_inputs": inputs, "n_neurons": neurons}
        dvalues = _halves(generator, (rows, neurons))
        return {"inputs": x, "dvalues": dvalues, "parameters": parameters, "arguments": arguments}

    for case, sizes in DENSE_SHAPES.items():
        yield LayerPass("Dense", case, nn.Dense, **numbers(*sizes))
    yield LayerPass("Dense", "non-contiguous", nn.Dense, **numbers(67, 33, 9), strided=True)
    zeros = numbers(67, 33, 9)
    zeros["inputs"][...] = zeros["parameters"]["biases"][...] = 0.0
    yield LayerPass("Dense", "zeros", nn.Dense, **zeros)
    given = numbers(67, 33, 9)
    w, b = given["parameters"].values()
    w[::3], w[1::3, ::2], b[:, ::2] = 0.0, -0.0, -0.0
    for penalties in ((1e-3, 0, 0, 0), (0, 5e-4, 0, 0), (0, 0, 1e-3, 0), (0, 0, 0, 5e-4), (0.1, 0.2, 0.3, 0.4)):
        case = "L1 and L2 " + ", ".join(f"{strength:g}" for strength in penalties)
        arguments = {**given["arguments"], **dict(zip(PENALTIES, penalties, strict=True))}
        yield LayerPass("Dense with penalties", case, nn.Dense, **{**given, "arguments": arguments})


def _activations(generator: np.random.Generator) -> Iterator[Operation]:
    x = _halves(generator, (131, 77))
    x[::5, ::3], x[1::5, ::3] = 0.0, -0.0
    dvalues = _halves(generator, x.shape)
    cases = {"the edge, infinity and NaN": (EDGE, np.arange(1.0, EDGE.size + 1)[None]), "131 × 77": (x, dvalues)}
    for kind in registered(nn.Activation).values():
        for case, (inputs, gradient) in cases.items():
            yield LayerPass(kind.__name__, case, kind, inputs, {}, gradient)


def _softmax(generator: np.random.Generator) -> Iterator[Operation]:
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
        yield LayerPass("Softmax", case, nn.Softmax, inputs, {}, _halves(generator, inputs.shape), wide=True)


def _layer_norm(generator: np.random.Generator) -> Iterator[Operation]:
    x = _halves(generator, (131, 77))
    unlike = x.copy()
    unlike[::4] *= 2.0**10  # rows of very different sizes, far from 0, of one number, and of zeros
    unlike[1::4] = np.round(unlike[1::4] * 4) + 100.0
    unlike[2::4], unlike[3::4] = -0.5, 0.0
    cases = {"131 × 77": (x, 1e-5), "rows unlike each other": (unlike, 1e-5), "one row": (x[:1], 1e-5)}
    for case, (inputs, epsilon) in {**cases, "one column": (x[:, :1], 1.0)}.items():
        row = 1, inputs.shape[1]
        parameters = {"gains": _halves(generator, row), "biases": _halves(generator, row)}
        arguments, dvalues = {"n_features": row[1], "epsilon": epsilon}, _halves(generator, inputs.shape)
        yield LayerPass("LayerNorm", case, nn.LayerNorm, inputs, parameters, dvalues, arguments)


def _losses(generator: np.random.Generator) -> Iterator[Operation]:
    rows, classes = 131, 10
    labels = generator.integers(0, classes, rows)
    predictions = generator.dirichlet(np.ones(classes), rows).astype(np.float16).astype(np.float64)
    predictions[::7], predictions[::7, 3], predictions[1::7] = 0.0, 1.0, 1 / 8  # sure, and undecided
    logits = 4 * _halves(generator, (rows, classes))
    logits[::5, 2], logits[1::5, 2] = 60_000.0, -60_000.0
    cases: dict[str, tuple[slice, NDArray[Any]]] = {
        "uint8 labels": (slice(None), labels.astype(np.uint8)),
        "int32 labels": (slice(None), labels.astype(np.int32)),
        "int64 labels": (slice(None), labels),
        "one-hot labels": (slice(None), np.eye(classes)[labels]),
        "one-hot uint8 labels": (slice(None), np.eye(classes, dtype=np.uint8)[labels]),
        "one row": (slice(2, 3), labels[2:3]),
    }
    for case, (part, given) in cases.items():
        for name, kind, arguments in registered_losses():
            inputs = predictions if kind.ends_with else logits
            yield LossPass(name, case, kind, inputs[part], given, arguments)
    for name, kind, arguments in registered_losses():
        if issubclass(kind, TargetLoss):
            inputs = predictions if kind.ends_with else logits
            yield LossPass(name, "targets", kind, inputs, predictions[::-1].copy(), arguments)


def registered_losses() -> Iterator[tuple[str, type[nn.Loss], Mapping[str, float]]]:
    """Yield every registered loss with a name and each set of its arguments."""
    for kind in registered(nn.Loss).values():
        for name, arguments in LOSSES.get(kind, {kind.__name__: {}}).items():
            yield name, kind, arguments


def _halves(generator: np.random.Generator, shape: int | tuple[int, ...]) -> Floats:
    """Return normal numbers that fit into half precision."""
    return generator.standard_normal(shape).astype(np.float16).astype(np.float64)


def _strided(backend: Backend, values: Floats, dtype: str) -> Array:
    """Return `values` on the device as every second column of a wider array."""
    wide = backend.xp.zeros((len(values), 2 * values.shape[1]), dtype=dtype)
    wide[:, ::2] = backend.asarray(values)
    return wide[:, ::2]
