"""Programs that train the same network: ours, the notebook's arithmetic, and the frameworks, one file each."""

from bench.engines.base import LOG_EVERY, Engine, NotHereError, Task
from bench.engines.jax import Jax, JaxLoop
from bench.engines.notebook import Notebook
from bench.engines.ours import Ours, OursCudaGraphs, OursDense, OursFused, OursWithoutMetrics
from bench.engines.pytorch import PyTorch, PyTorchCompiled, PyTorchCudaGraphs, PyTorchWholeGraph
from bench.engines.scikit_learn import ScikitLearn

ENGINES: tuple[type[Engine], ...] = (
    Ours,
    OursDense,
    OursWithoutMetrics,
    OursCudaGraphs,
    OursFused,
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
    "OursDense",
    "OursFused",
    "OursWithoutMetrics",
    "Task",
]
