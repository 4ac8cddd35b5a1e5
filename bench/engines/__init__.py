"""Programs that train the same network: ours, the notebook's arithmetic, and the frameworks, each in one file."""

from bench.engines.base import LOG_EVERY, Engine, NotHereError, Task
from bench.engines.jax import Jax, JaxLoop
from bench.engines.notebook import Notebook
from bench.engines.ours import Ours, OursCudaGraphs, OursWithoutFigures
from bench.engines.pytorch import PyTorch, PyTorchCompiled, PyTorchCudaGraphs, PyTorchWholeGraph
from bench.engines.scikit_learn import ScikitLearn

ENGINES: tuple[type[Engine], ...] = (
    Ours,
    OursWithoutFigures,
    OursCudaGraphs,
    Notebook,
    PyTorch,
    PyTorchCompiled,
    PyTorchCudaGraphs,
    PyTorchWholeGraph,
    Jax,
    JaxLoop,
    ScikitLearn,
)

__all__ = [
    "ENGINES",
    "LOG_EVERY",
    "Engine",
    "NotHereError",
    "Notebook",
    "Ours",
    "OursCudaGraphs",
    "OursWithoutFigures",
    "Task",
]
