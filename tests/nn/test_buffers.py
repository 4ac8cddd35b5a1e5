"""What replicas keep in half precision, and which layer adds the biases there."""

from typing import Any

import numpy as np
from parity.standin import StandInCupy

from fmnist_xp.backend import CpuBackend, CudaBackend
from fmnist_xp.nn import (
    Dense,
    Network,
    ReLU,
)

CPU = CpuBackend(1)
ROWS, CLASSES = 5, 3


def buffers(module: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (buffer.shape, str(buffer.dtype)) for name, buffer in module._buffers.items()}


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
