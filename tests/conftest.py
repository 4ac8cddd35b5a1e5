"""What several test files share: made data, numeric gradients, and the same network in PyTorch."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

# make(rows, features, classes, seed) -> X (rows, features) float64, y (rows,) uint8
MakeData = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="session")
def made_data() -> MakeData:
    """Return a function that makes rows in (-1, 1) around one centre a class: data that can be learned."""

    def make(rows: int, features: int = 20, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, classes, rows, dtype="uint8")
        centres = generator.standard_normal((classes, features))
        return np.tanh(centres[labels] + generator.standard_normal((rows, features))), labels

    return make


@pytest.fixture(scope="session")
def numeric_gradient() -> Callable[[Callable[[], Any], np.ndarray], np.ndarray]:
    """Return a function for the gradient of `loss()` in each element of `array`, by central differences."""

    def compute(loss: Callable[[], Any], array: np.ndarray, step: float = 1e-5) -> np.ndarray:
        gradient = np.empty_like(array)
        for index in np.ndindex(array.shape):
            held = array[index]
            array[index] = held + step
            above = float(loss())
            array[index] = held - step
            below = float(loss())
            array[index] = held
            gradient[index] = (above - below) / (2 * step)
        return gradient

    return compute


@pytest.fixture(scope="session")
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch, the oracle of this test, is not installed")


class TorchTwin:
    """A Dense/ReLU network with copies of a network's parameters, computed and differentiated by PyTorch."""

    def __init__(self, torch: Any, network: Any) -> None:
        self.torch = torch
        self.penalties = [tuple(layer.regularizers().values()) for layer in network.dense]
        self.parameters = [
            torch.tensor(values.astype("float64"), requires_grad=True)
            for layer in network.dense
            for values in (layer.weights, layer.biases)
        ]

    def loss(self, X: np.ndarray, y: np.ndarray) -> Any:
        torch = self.torch
        values = torch.tensor(X)
        penalty = torch.tensor(0.0, dtype=torch.float64)
        last = len(self.penalties) - 1
        for number, (l1_w, l2_w, l1_b, l2_b) in enumerate(self.penalties):
            weights, biases = self.parameters[2 * number : 2 * number + 2]
            values = values @ weights + biases
            values = values if number == last else torch.relu(values)
            penalty = penalty + l1_w * weights.abs().sum() + l2_w * (weights**2).sum()
            penalty = penalty + l1_b * biases.abs().sum() + l2_b * (biases**2).sum()
        return torch.nn.functional.cross_entropy(values, torch.tensor(y.astype("int64"))) + penalty

    def gradients(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the gradient in all parameters as one vector, and leave it in their `grad`."""
        for parameter in self.parameters:
            parameter.grad = None
        self.loss(X, y).backward()
        return np.concatenate([parameter.grad.numpy().ravel() for parameter in self.parameters])

    def vector(self) -> np.ndarray:
        """Return all parameters as one vector."""
        return np.concatenate([parameter.detach().numpy().ravel() for parameter in self.parameters])


@pytest.fixture(scope="session")
def torch_twin(torch: Any) -> Callable[[Any], TorchTwin]:
    return lambda network: TorchTwin(torch, network)


@pytest.fixture
def sigint() -> Iterator[None]:
    """Give SIGINT Python's own handler, and afterwards the one it had."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
