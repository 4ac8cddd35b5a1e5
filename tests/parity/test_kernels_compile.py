"""Every element-wise formula, with all types that reach it, as a CUDA kernel: fused by CuPy, compiled, and run.

None of it needs a device. The types come from trainings and lessons on the stand-in; what NVRTC makes of the source
that CuPy would load is run by an interpreter.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parity.cuda_source import Types, fused_source
from parity.standin import DeviceArray, StandInCupy, make_nvmath
from parity.standin.compiled import run_fused
from ptx import compile_ptx

from fmnist_xp import optim
from fmnist_xp.backend import CudaBackend, CudaGraphBackend
from fmnist_xp.backend.base import ELEMENTWISE
from fmnist_xp.backend.kernels import expression, kernel_source, vectorized
from fmnist_xp.model import Sequential
from fmnist_xp.nn import (
    Activation,
    CategoricalCrossentropy,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    Loss,
    ReLU,
    Softmax,
    SoftmaxCategoricalCrossentropy,
)
from fmnist_xp.nn.activations import biased
from fmnist_xp.parity.operations import registered_losses
from fmnist_xp.registry import registered
from fmnist_xp.train.augmentation import Augmentation

Formula = Callable[..., None]

ACTIVATIONS = list(registered(Activation).values())
for activation in ACTIVATIONS:
    if activation.takes_biases:
        biased(activation.formula)  # of which one is made where a plan first needs it
FORMULAS = {name: formula for name, formula in ELEMENTWISE.items() if formula.__module__.startswith("fmnist_xp.")}
OWN = {name: formula for name, formula in FORMULAS.items() if expression(formula)}
"""What kernels of our own compute."""
OWN_KERNELS = pytest.mark.parametrize(
    ("name", "sums", "columns"),
    [
        *((name, sums, 64) for name in OWN for sums in (False, True)),
        # What training has of them, in widths that threads share out otherwise.
        *(
            (*used, columns)
            for used in (("relu_gradient", True), ("biased_relu", False))
            for columns in (16, 128, 512)
        ),
    ],
)


def type_of(argument: Any) -> tuple[np.dtype, int | None, bool]:
    if isinstance(argument, DeviceArray):
        return argument.dtype, argument.ndim, True
    return np.dtype(type(argument)), None, True


class Recording(StandInCupy):
    """A stand-in that notes the types that each fused formula is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, set[Types]] = {}

    def fuse(self, function: Any = None, *, kernel_name: str | None = None) -> Any:
        if function is None:
            return functools.partial(self.fuse, kernel_name=kernel_name)
        kernel = super().fuse(function, kernel_name=kernel_name)

        def recorded(*arguments: Any) -> Any:
            self.types.setdefault(kernel_name or function.__name__, set()).add(tuple(map(type_of, arguments)))
            return kernel(*arguments)

        return recorded


class OwnDense(Dense):
    """A layer of the user's own: what it is given are numbers as they are, in every precision."""


def train(backend: CudaBackend, dtype: str, labels: Any) -> None:
    X = np.random.default_rng(0).standard_normal((8, 6))
    penalties = (1e-3,) * 4
    networks: list[tuple[list[Layer], Loss]] = []
    for kind in ACTIVATIONS:
        networks += [
            ([Dense(6, 5, *penalties), kind(), Dense(5, 4)], SoftmaxCategoricalCrossentropy()),
            ([Dense(6, 5), kind(), Dense(5, 4, *penalties), kind(), Softmax()], CategoricalCrossentropy()),
        ]
    dropping: list[Layer] = [Dense(6, 5), ReLU(), Dropout(0.5), Softmax(), Dropout(0.5), Dense(5, 4)]
    networks.append((dropping, SoftmaxCategoricalCrossentropy()))
    networks.append(([Dense(6, 5), LayerNorm(5), Dense(5, 4)], SoftmaxCategoricalCrossentropy()))
    for _name, kind, arguments in registered_losses():
        networks.append(([Dense(6, 4), *([kind.ends_with()] if kind.ends_with else [])], kind(**arguments)))
    nesterov = optim.SGD(0.1, momentum=0.9, nesterov=True, clip_norm=1.0, ema=0.9)
    every = (nesterov, *(kind() for kind in registered(optim.Optimizer).values()))
    for number, (layers, loss) in enumerate(networks):  # what an optimizer computes is the same after any layers
        model = Sequential(layers, loss=loss, backend=backend, seed=1, dtype=dtype)
        for optimizer in (optim.SGD(0.1, momentum=0.9), *(() if number else every)):
            model.fit(X, labels, epochs=2, optimizer=optimizer, log_every=2, verbose=False, block_rows=5)
        model.evaluate(X, labels)


def train_on_images(backend: CudaBackend, dtype: str, labels: Any) -> None:
    """Train on bytes and on floats that have background and that have none, with every column and with some."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 36), dtype="uint8")
    images = np.where(np.arange(36) // 6 % 5 > 0, noise, 0).astype("uint8")  # nothing in the first line and the last
    for rows in (noise, images, images / 127.5 - 1):
        for dense in (True, False):
            for first in (Dense(36, 5), OwnDense(36, 5)):
                model = Sequential([first, ReLU(), Dense(5, 4)], backend=backend, seed=1, dtype=dtype)
                options = {"log_every": 2, "verbose": False, "block_rows": 5, "dense": dense}
                weights = np.arange(1.0, 9.0) if dense else None
                changed = Augmentation(mirror=True, shift=1) if dense else None
                options |= {"sample_weight": weights, "augmentation": changed}
                model.fit(rows, labels, epochs=2, optimizer="sgd", **options)


def take_lesson(backend: CudaBackend, dtype: str, labels: Any) -> None:
    """Use each piece alone, by hand."""
    X, y = backend.asarray(np.ones((8, 6)), dtype=dtype), backend.asarray(labels)
    dense, softmax = Dense(6, 4, 1e-3, 1e-3, dtype=dtype, backend=backend), Softmax(backend)
    crossentropy, joined = CategoricalCrossentropy(backend), SoftmaxCategoricalCrossentropy(backend)
    for _name, kind, arguments in registered_losses():
        loss = kind(backend, **arguments)
        predictions = loss.activate(softmax.forward(dense.forward(X)))
        loss.forward(predictions, y)
        loss.backward(predictions, y)
    for kind in ACTIVATIONS:
        activation = kind(backend=backend)
        probabilities = softmax.forward(activation.forward(dense.forward(X)))
        crossentropy.forward(probabilities, y)
        dense.backward(activation.backward(softmax.backward(crossentropy.backward(probabilities, y))))
    norm = LayerNorm(4, dtype=dtype, backend=backend)
    norm.backward(norm.forward(dense.output))
    joined.forward(dense.output, y)
    joined.backward(joined.output, y)
    optim.Adam().step(dense)


@pytest.fixture(scope="module")
def types() -> dict[str, set[Types]]:
    """Return the types that each formula was called with, in every precision and with labels of two dtypes."""
    cupy = Recording()
    for backend in (CudaBackend(cupy=cupy), CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy))):
        for labels in (np.arange(8) % 4, (np.arange(8) % 4).astype("uint8")):
            for dtype in ("float32", "float64", "tf32", "float16"):
                train(backend, dtype, labels)
            for dtype in ("float32", "float64"):
                take_lesson(backend, dtype, labels)
        for dtype in ("float32", "float64", "tf32", "float16"):
            train_on_images(backend, dtype, labels)
    return cupy.types


@pytest.fixture(scope="module")
def cupy(real_cupy: Any) -> Any:
    return real_cupy


def test_every_formula_is_reached(types: dict[str, set[Types]]) -> None:
    assert FORMULAS.keys() == types.keys()
    assert {"sgd", "adam", "relu_gradient", "biased_hyperbolic_tangent", "largest", "matches"} <= FORMULAS.keys()
    assert {"relu", "biased_relu", "relu_gradient"} <= OWN.keys() < FORMULAS.keys()


@pytest.mark.parametrize("name", FORMULAS)
def test_formula_computes_in_no_wider_type_than_its_arrays_have(
    cupy: Any, types: dict[str, set[Types]], name: str
) -> None:
    for kinds in types[name]:
        _source, operation = fused_source(cupy, FORMULAS[name], kinds)
        if not any(dtype == "float64" for dtype, *_ in kinds):
            # Doubles are slow on most GPUs, and round in other places than NumPy. Constants are converted at once.
            assert not re.search(r"(?<!const )double", operation), kinds


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy: what is infinite here is so there
def test_formula_runs_as_it_is_compiled(types: dict[str, set[Types]], name: str) -> None:
    device, generator = StandInCupy(kernels="ptx", architecture="80"), np.random.default_rng(0)
    for kinds in sorted(types[name], key=str):
        given: list[Any] = []
        for dtype, ndim, _contiguous in kinds:
            numbers = (
                generator.integers(0, 4, (5, 7)) if dtype.kind in "iub" else generator.uniform(0.125, 1.5, (5, 7))
            )
            given.append(dtype.type(0.75) if ndim is None else numbers[0][0:7] if ndim == 1 else numbers)
            given[-1] = np.asarray(given[-1], dtype)[()]
        copies = [device.asarray(values) if isinstance(values, np.ndarray) else values for values in given]
        run_fused(device, name, functools.partial(FORMULAS[name], device), tuple(copies), report=True)
        FORMULAS[name](np, *given)
        eps = max((float(np.finfo(dtype).eps) for dtype, *_ in kinds if dtype.kind == "f"), default=0.0)
        for expected, actual in zip(given, copies, strict=True):
            if isinstance(expected, np.ndarray):
                np.testing.assert_allclose(actual.get(), expected, rtol=16 * eps, atol=4 * eps)


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@OWN_KERNELS
def test_kernel_of_our_own_runs_as_it_is_compiled(name: str, sums: bool, dtype: str, columns: int) -> None:
    formula, device = OWN[name], StandInCupy(kernels="ptx", architecture="90" if sums else "80")
    names, _ = expression(formula) or pytest.fail(name)
    generator, wide = np.random.default_rng(0), np.promote_types(dtype, "float32")
    given = [
        generator.standard_normal((1 if parameter == "biases" else 67, columns)).astype(
            wide if parameter == "biases" else dtype
        )
        for parameter in names
    ]
    copies = [device.asarray(values) for values in given]
    total = device.empty((1, columns), dtype=wide) if sums else None
    for function, arguments in vectorized(device, formula, tuple(copies), total) or pytest.fail("no kernel"):
        function(*arguments)
    numbers = [values.astype(wide) for values in given]
    formula(np, *numbers)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(copies[-1].get(), numbers[-1], rtol=4 * eps, atol=4 * eps)
    if total is not None:  # of what was computed, before it was stored
        sizes = np.abs(numbers[-1]).sum(axis=0)
        assert np.all(np.abs(total.get()[0] - numbers[-1].sum(axis=0)) <= 4 * eps * sizes + eps)


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize("architecture", ["80", "90"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@OWN_KERNELS
def test_kernel_of_our_own_is_compiled(name: str, sums: bool, dtype: str, columns: int, architecture: str) -> None:
    formula, letter = OWN[name], np.dtype(dtype).char
    names, _ = expression(formula) or pytest.fail(name)
    kinds = [("d" if letter == "d" else "f") + "r" if parameter == "biases" else letter for parameter in names]
    source = kernel_source(formula, tuple(kinds), columns, sums)
    assert source is not None
    made = compile_ptx(source, architecture, headers=True).usage  # of machine code
    assert made.keys() == {name, *([f"{name}_total"] if sums else [])}


def test_formula_that_cannot_be_fused_is_found(cupy: Any) -> None:
    def branching(xp: Any, values: Any, output: Any) -> None:
        xp.add(values, 1 if values > 0 else 2, out=output)

    float32 = np.dtype("float32")
    with pytest.raises(Exception, match="bool"):
        fused_source(cupy, branching, ((float32, 1, True), (float32, 1, True)))


@pytest.mark.usefixtures("nvrtc")
def test_kernel_that_cannot_be_compiled_is_found(cupy: Any) -> None:
    with pytest.raises(cupy.cuda.compiler.CompileException, match="undefined"):
        compile_ptx('extern "C" __global__ void wrong() { unknown(); }', report=False)
