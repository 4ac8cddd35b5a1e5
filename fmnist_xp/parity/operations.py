"""Every operation of the engine as data: made inputs, how a device computes it, and the bound on its error.

All inputs fit into half precision, so every device and every precision starts from the same numbers, and what differs
is the operation's own rounding.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp import nn
from fmnist_xp.nn.target_losses import TargetLoss
from fmnist_xp.optim import SGD, Adam, Cosine, Optimizer
from fmnist_xp.parity.bounds import Floats
from fmnist_xp.parity.passes import ChangedImages, LayerPass, LossPass, Operation, OptimizerPass
from fmnist_xp.registry import registered
from fmnist_xp.train.augmentation import Augmentation

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
OPTIMIZERS: Mapping[str, tuple[type[Optimizer], Mapping[str, Any]]] = {
    "SGD": (SGD, {"learning_rate": 1.0, "decay": 0.01}),
    "SGD with momentum": (SGD, {"learning_rate": 1.0, "decay": 0.01, "momentum": 0.5}),
    "Adam": (Adam, {"learning_rate": 0.02, "decay": 1e-5}),
    "SGD with Nesterov momentum": (SGD, {"learning_rate": 1.0, "momentum": 0.5, "nesterov": True}),
    "SGD, clipped and averaged": (SGD, {"learning_rate": 0.5, "clip_norm": 1.0, "ema": 0.75}),
    "Adam with a schedule": (Adam, {"learning_rate": Cosine(0.02, 4, warmup=1)}),
}


def operations() -> Iterator[Operation]:
    """Yield every operation on every set of inputs: the same ones in each call.

    What is registered is among them: an activation, a loss or an optimizer needs no entry here, another layer does.
    New optimizers draw from generators of their own, so that what is drawn for others stays.
    """
    generator = np.random.default_rng(0)
    yield from _dense(generator)
    yield from _activations(generator)
    yield from _dropout(np.random.default_rng(1))
    yield from _softmax(generator)
    yield from _losses(generator)
    cases = dict(OPTIMIZERS)
    listed = {kind for kind, _arguments in cases.values()}
    for kind in registered(Optimizer).values():  # type: ignore[type-abstract]
        if kind not in listed:
            cases[kind.__name__] = kind, {}
    for name, (kind, arguments) in cases.items():
        own = generator if name in ("SGD", "SGD with momentum", "Adam") else np.random.default_rng([*name.encode()])
        for size in (2, 10_007):
            gradients = (_shrinking if kind.needs_loss else _of_all_sizes)(own, size)
            start = _halves(own, size)
            yield OptimizerPass(name, f"{size:,} parameters", kind, arguments, start, gradients)
    yield from _layer_norm(np.random.default_rng(2))
    images = _halves(np.random.default_rng(3), (131, 49))
    for augmentation, epoch in (
        (Augmentation(mirror=True), 0),
        (Augmentation(shift=3), 7),
        (Augmentation(True, 1), 1),
    ):
        yield ChangedImages("Images changed", repr(augmentation), images, augmentation, epoch)


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


def _dropout(generator: np.random.Generator) -> Iterator[Operation]:
    x = _halves(generator, (131, 77))
    for case, rate in (("rate 0.1", 0.1), ("rate 0.5", 0.5), ("rate 0", 0.0), ("nearly all", 1 - 2.0**-10)):
        yield LayerPass("Dropout", case, nn.Dropout, x, {}, _halves(generator, x.shape), {"rate": rate})


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


def _of_all_sizes(generator: np.random.Generator, size: int) -> tuple[Floats, ...]:
    """Return three gradients of very different elements, some always 0."""
    scales = 2.0 ** generator.integers(-20, 8, size) * (generator.random(size) > 0.1)
    return tuple(scales * _halves(generator, size) for _ in range(3))


def _shrinking(generator: np.random.Generator, size: int) -> tuple[Floats, ...]:
    """Return three gradients, each a half or a quarter of that before: every step along them is good enough."""
    gradients = [generator.choice([-1, 1], size) * generator.integers(1, 1024, size) / 256]
    for _ in range(2):
        gradients.append(gradients[-1] / generator.choice([2, 4], size))
    return tuple(gradients)


def _halves(generator: np.random.Generator, shape: int | tuple[int, ...]) -> Floats:
    """Return normal numbers that fit into half precision."""
    return generator.standard_normal(shape).astype(np.float16).astype(np.float64)
