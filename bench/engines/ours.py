"""This package's engine."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from bench.engines.base import Engine, NotHereError, Task
from fmnist_xp.backend import Array, CudaGraphBackend
from fmnist_xp.data import Pixels
from fmnist_xp.errors import DeviceError
from fmnist_xp.train.epochs import Epochs
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.fused.batch import FusedBatch, unfit
from fmnist_xp.train.rows import as_bytes


class Ours(Engine):
    """`FullBatch` and the optimizer on the rows' bytes, as training runs, with loss and accuracy in every epoch."""

    name = "fmnist_xp"
    logs = True
    dense: bool | None = None

    def __init__(self, task: Task) -> None:
        """Make the network with a copy of the weights."""
        self._backend = task.backend
        self._network = task.experiment.make_network(task.backend, seed=0, dtype=task.precision)
        self._network.load_state_dict(task.state)
        self._optimizer = task.experiment.make_optimizer()
        with self.session():
            self._batch = self._make_batch(task)
        self.column_share = self._batch.column_share
        if self.column_share < 1:
            columns = f"{self.column_share:.1%} of the columns, of rows that it has sorted"
            self.note = "; ".join(filter(None, [self.note, columns]))

    def _make_batch(self, task: Task) -> Any:
        y = task.backend.asarray(task.y)
        return FullBatch(self._network, self._inputs(task), y, dense=self.dense)

    def _inputs(self, task: Task) -> Pixels | Array:
        return task.pixels

    def epoch(self) -> tuple[Any, Any]:
        """Return the loss with its penalty, and the accuracy, still on the device."""
        self._batch.compute_gradients(log=self.logs)
        self._optimizer.step(self._network)
        totals = self._batch.metrics.totals
        # Copies: the next epoch writes its metrics to the same place.
        return (totals[0] + totals[2], totals[1] + 0) if self.logs else (None, None)

    def synchronize(self) -> None:
        """Wait for the backend."""
        self._backend.synchronize()

    def session(self) -> AbstractContextManager[Any]:
        """Return the context of training: on the CPU, BLAS held to one thread in each of the engine's own."""
        context: AbstractContextManager[Any] = self._backend.computing()
        return context


class OursDense(Ours):
    """Rows as numbers, in the order given, of which every column is multiplied, as by the frameworks."""

    name = "fmnist_xp, dense rows"
    note = "100% of the columns, of the same numbers in the same order as the frameworks"
    dense = True

    def __init__(self, task: Task) -> None:
        """Raise `NotHereError` on a GPU, where nothing is left out of any row."""
        if task.on_gpu:
            raise NotHereError("a GPU multiplies every column by default")
        super().__init__(task)

    def _inputs(self, task: Task) -> Pixels | Array:
        return task.backend.asarray(task.rows())


class OursWithoutMetrics(Ours):
    """The epochs between two logged ones."""

    name = "fmnist_xp, no figures"
    note = "neither loss nor accuracy is computed, as between two logged epochs"
    logs = False


class OursCudaGraphs(Ours):
    """Ten epochs as one CUDA graph, as in training from one logged epoch to the next."""

    name = "fmnist_xp, CUDA graphs"
    note = "10 epochs in one launch, figures in the first of them, as training logs"
    epochs_a_call = 10

    def __init__(self, task: Task) -> None:
        """Raise `NotHereError` on a CPU, without nvmath-python, or where the graphs cannot be captured."""
        if not task.on_gpu:
            raise NotHereError("CUDA graphs need a GPU")
        try:
            super().__init__(replace(task, backend=CudaGraphBackend(task.device_index)))
            with self.session():
                self._epochs = Epochs(self._batch, self._optimizer, self.epochs_a_call)
        except DeviceError as error:
            raise NotHereError(str(error)) from error

    def epoch(self) -> tuple[Any, Any]:
        """Return loss and accuracy of the first of ten epochs."""
        self._epochs.run(self.epochs_a_call, log=True)
        totals = self._batch.metrics.totals
        return totals[0] + totals[2], totals[1] + 0  # copies: the next call writes there


class OursFused(OursCudaGraphs):
    """The same ten epochs by the fused engine."""

    name = "fmnist_xp, fused engine"
    note = "10 epochs of three kernels each in one launch, figures in the first of them, as training logs"

    def __init__(self, task: Task) -> None:
        """Raise `NotHereError` for what the kernels cannot compute, and as `OursCudaGraphs` does."""
        network = task.experiment.make_network(task.backend, seed=0, dtype=task.precision)
        if why := unfit(network, task.experiment.make_optimizer()):
            raise NotHereError(f"the fused engine does not take {why}")
        super().__init__(task)

    def _make_batch(self, task: Task) -> Any:
        y = task.backend.asarray(task.y)
        return FusedBatch(self._network, self._optimizer, as_bytes(task.backend, task.pixels), y)
