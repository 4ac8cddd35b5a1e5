"""What memory the replica of each module keeps: its buffers by name, shape and dtype, and no others."""

from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy

from fmnist_xp.backend import CpuBackend, CudaBackend
from fmnist_xp.nn import (
    CategoricalCrossentropy,
    Dense,
    Network,
    ReLU,
    Softmax,
    SoftmaxCategoricalCrossentropy,
)

CPU = CpuBackend(1)
ROWS, CLASSES = 5, 3


def buffers(module: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (buffer.shape, str(buffer.dtype)) for name, buffer in module._buffers.items()}


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).random((ROWS, CLASSES), dtype="float32")


LABELS = np.array([0, 1, 2, 1, 0], dtype="uint8")
EACH, ROW = ((ROWS, CLASSES), "float32"), ((ROWS, 1), "float32")


def test_buffers_of_relu(values: np.ndarray) -> None:
    layer = ReLU(CPU).replica()
    layer.forward(values)
    layer.backward(values)
    assert buffers(layer).items() >= {"output": EACH}.items()
    assert buffers(layer).keys() <= {"output", "dinputs", "mask"}
    layer.overwrite_inputs = True
    assert layer.forward(values) is values


def test_buffers_of_softmax(values: np.ndarray) -> None:
    layer = Softmax(CPU).replica()
    layer.forward(values)
    scratch = {"row": ROW, "by_class": ((ROWS * CLASSES,), "float32"), "ones": ((CLASSES, 1), "float32")}
    assert buffers(layer) == {"output": EACH, **scratch}
    layer.backward(values)
    assert buffers(layer) == {"output": EACH, **scratch, "dinputs": EACH, "products": EACH}


@pytest.mark.parametrize(
    ("kind", "dtype", "kept"),
    [
        (CategoricalCrossentropy, None, {"dinputs": EACH}),
        (CategoricalCrossentropy, "float16", {"dinputs": ((ROWS, CLASSES), "float16")}),
        (SoftmaxCategoricalCrossentropy, None, {}),  # written over the probabilities
        (SoftmaxCategoricalCrossentropy, "float16", {"dinputs": ((ROWS, CLASSES), "float16")}),
    ],
)
def test_buffers_of_the_losses(kind: Any, dtype: str | None, kept: dict[str, Any], values: np.ndarray) -> None:
    loss = kind(CPU).replica()
    loss.gradient_dtype = dtype and np.dtype(dtype)
    loss.calculate(values, LABELS)
    places = {f"starts of {CLASSES}": ((ROWS,), "int64"), "places": ((ROWS,), "int64")}
    assert buffers(loss) == places
    loss.backward(values, LABELS)
    assert buffers(loss) == {**places, **kept}


def test_buffers_of_dense() -> None:
    layer = Dense(4, CLASSES, backend=CPU, dtype="float32").replica()
    layer.forward(np.ones((ROWS, 4), dtype="float32"))
    layer.backward(np.ones((ROWS, CLASSES), dtype="float32"))
    assert buffers(layer) == {"output": EACH, "ones": ROW, "dinputs": ((ROWS, 4), "float32")}


def test_buffers_of_dense_in_half_precision() -> None:
    backend = CudaBackend(0, cupy=StandInCupy())
    network = Network([Dense(4, CLASSES), ReLU(), Dense(CLASSES, 2)], backend=backend, seed=0, dtype="float16")
    twin = network.replica()
    with backend.computing():
        twin.forward(backend.asarray(np.ones((ROWS, 4)), "float32"))
    first, _, last = twin.layers
    assert buffers(first).items() >= {
        ("inputs", ((ROWS, 4), "float16")),
        ("weights", ((4, CLASSES), "float16")),
        ("output", ((ROWS, CLASSES), "float16")),
    }
    assert buffers(last).items() >= {("weights", ((CLASSES, 2), "float16")), ("output", ((ROWS, 2), "float32"))}


def test_relu_behind_a_dense_layer_adds_its_biases_in_a_replica() -> None:
    network = Network([Dense(4, CLASSES), ReLU(), Dense(CLASSES, 2)], backend=CPU, seed=0)
    first, relu, last = network.replica().layers
    assert (first.adds_bias, last.adds_bias) == (False, True)
    assert relu.biases is first.biases
    assert [layer.adds_bias for layer in network.dense] == [True, True]
