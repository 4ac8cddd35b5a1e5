"""What tests of optimizers share: vectors to update, and gradients."""

from typing import Any

import numpy as np

from fmnist_xp.backend import CpuBackend
from fmnist_xp.optim import Optimizer

CPU = CpuBackend(1)


class Target:
    """A vector of parameters with its gradients: all that an optimizer needs."""

    def __init__(self, parameters: Any, dtype: str = "float64") -> None:
        self.backend = CPU
        self.parameters = np.array(parameters, dtype=dtype)
        self.gradients = np.zeros_like(self.parameters)

    def step(self, optimizer: Optimizer, *gradients: Any) -> list[float]:
        """Make one update with each of `gradients` and return the parameters."""
        for gradient in gradients:
            self.gradients[...] = gradient
            optimizer.step(self)
        return self.parameters.tolist()


def gradient_sequence(steps: int, size: int = 30) -> list[np.ndarray]:
    """Return gradients of very different sizes, some elements always 0."""
    generator = np.random.default_rng(5)
    scale = 10.0 ** generator.integers(-6, 3, size) * (generator.random(size) > 0.1)
    return [scale * generator.standard_normal(size) for _ in range(steps)]
