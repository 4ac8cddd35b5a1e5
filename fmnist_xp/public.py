"""What `fmnist_xp` offers by its own name; `fmnist_xp/__init__.py` hands it on when it is first asked for."""

from importlib.metadata import PackageNotFoundError, version

from fmnist_xp.backend import Backend, get_backend
from fmnist_xp.data import CLASS_NAMES, Dataset, Pixels, load_fashion_mnist, pixels, preprocess
from fmnist_xp.errors import DataError, DeviceError, FmnistXpError, RunError
from fmnist_xp.model import Metrics, Sequential, load
from fmnist_xp.nn import (
    GELU,
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Dense,
    Dropout,
    Layer,
    LayerNorm,
    LeakyReLU,
    Loss,
    MeanSquaredError,
    ReLU,
    Sigmoid,
    Softmax,
    SoftmaxCategoricalCrossentropy,
    Tanh,
)
from fmnist_xp.optim import (
    LBFGS,
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    Constant,
    Cosine,
    Exponential,
    InverseTime,
    Optimizer,
    RMSProp,
    Schedule,
    Step,
)
from fmnist_xp.train.augmentation import Augmentation
from fmnist_xp.train.history import History

try:
    __version__ = version("fmnist-xp")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "CLASS_NAMES",
    "GELU",
    "LBFGS",
    "SGD",
    "AdaGrad",
    "Adam",
    "AdamW",
    "Augmentation",
    "Backend",
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Constant",
    "Cosine",
    "DataError",
    "Dataset",
    "Dense",
    "DeviceError",
    "Dropout",
    "Exponential",
    "FmnistXpError",
    "History",
    "InverseTime",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Loss",
    "MeanSquaredError",
    "Metrics",
    "Optimizer",
    "Pixels",
    "RMSProp",
    "ReLU",
    "RunError",
    "Schedule",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "SoftmaxCategoricalCrossentropy",
    "Step",
    "Tanh",
    "__version__",
    "get_backend",
    "load",
    "load_fashion_mnist",
    "pixels",
    "preprocess",
]
