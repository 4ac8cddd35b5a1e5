"""Programs that train the same network: ours, the notebook's arithmetic, and the frameworks, each in one file."""

from bench.engines.base import Engine, NotHereError, Task
from bench.engines.jax import Jax
from bench.engines.notebook import Notebook
from bench.engines.ours import Ours, OursCudaGraphs, OursWithoutFigures
from bench.engines.pytorch import PyTorch, PyTorchCompiled, PyTorchCudaGraphs
from bench.engines.scikit_learn import ScikitLearn

ENGINES: tuple[type[Engine], ...] = (
    Ours,
    OursWithoutFigures,
    OursCudaGraphs,
    Notebook,
    PyTorch,
    PyTorchCompiled,
    PyTorchCudaGraphs,
    Jax,
    ScikitLearn,
)

__all__ = ["ENGINES", "Engine", "NotHereError", "Notebook", "Ours", "OursCudaGraphs", "OursWithoutFigures", "Task"]
