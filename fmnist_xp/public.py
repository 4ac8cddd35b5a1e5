"""What `fmnist_xp` offers by its own name; `fmnist_xp/__init__.py` hands it on when it is first asked for."""

from importlib.metadata import PackageNotFoundError, version

from fmnist_xp.backend import Backend, get_backend
from fmnist_xp.data import CLASS_NAMES, Dataset, Pixels, load_fashion_mnist, pixels, preprocess
from fmnist_xp.errors import DataError, DeviceError, FmnistXpError, RunError
from fmnist_xp.model import Metrics, Sequential, load
from fmnist_xp.nn import (
    CategoricalCrossentropy,
    Dense,
    Dropout,
    Layer,
    ReLU,
    Softmax,
    SoftmaxCategoricalCrossentropy,
    Tanh,
)
from fmnist_xp.optim import SGD, Adam
from fmnist_xp.train.augmentation import Augmentation
from fmnist_xp.train.history import History

try:
    __version__ = version("fmnist-xp")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "CLASS_NAMES",
    "SGD",
    "Adam",
    "Augmentation",
    "Backend",
    "CategoricalCrossentropy",
    "DataError",
    "Dataset",
    "Dense",
    "DeviceError",
    "Dropout",
    "FmnistXpError",
    "History",
    "Layer",
    "Metrics",
    "Pixels",
    "ReLU",
    "RunError",
    "Sequential",
    "Softmax",
    "SoftmaxCategoricalCrossentropy",
    "Tanh",
    "__version__",
    "get_backend",
    "load",
    "load_fashion_mnist",
    "pixels",
    "preprocess",
]
