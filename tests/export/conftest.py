"""Networks that have learned, images, and what runs exported models elsewhere."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fmnist_xp as fx

REAL = os.environ.get("FMNIST_XP_DATA")  # read before a test takes it away


@pytest.fixture(scope="session")
def onnx() -> Any:
    return pytest.importorskip("onnx", reason="onnx, the extra of that name, is not installed")


@pytest.fixture(scope="session")
def onnxruntime() -> Any:
    return pytest.importorskip("onnxruntime", reason="onnxruntime, the oracle of this test, is not installed")


@pytest.fixture(scope="session")
def images(small_data: tuple[Any, Any]) -> np.ndarray:
    """200 synthetic garments, uint8 (200, 28, 28)."""
    return np.asarray(small_data[1].images)


@pytest.fixture(scope="session")
def network(small_data: tuple[Any, Any]) -> fx.Sequential:
    """784-32-16-10 with ReLU and Tanh, float32, trained; do not change it."""
    network = fx.Sequential([fx.Dense(784, 32), fx.ReLU(), fx.Dense(32, 16), fx.Tanh(), fx.Dense(16, 10)], seed=0)
    network.fit(small_data[0].images, small_data[0].labels, epochs=40, optimizer=fx.Adam(0.02), verbose=0)
    return network


@pytest.fixture(scope="session")
def real_data() -> tuple[fx.Dataset, fx.Dataset]:
    """(train, test): Fashion-MNIST."""
    if not REAL or not Path(REAL).is_dir():
        pytest.skip("real Fashion-MNIST not found: set FMNIST_XP_DATA to the folder of the four IDX .gz files")
    return fx.load_fashion_mnist(Path(REAL).resolve())
