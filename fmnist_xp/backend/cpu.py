"""NumPy on the CPU."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import numpy as np

from fmnist_xp.arguments import whole_number
from fmnist_xp.backend.base import Array, Backend, Call, Product
from fmnist_xp.blas import blas_name, keep_blas_single_threaded_here, older_kernels, single_threaded_blas
from fmnist_xp.errors import DeviceError
from fmnist_xp.machine import cpu_name, peak_resident_bytes, reset_peak_resident_bytes, usable_cores


class CpuBackend(Backend):
    """NumPy, with blocks of rows on `threads` threads and BLAS held to one thread in each."""

    name = "cpu"
    xp = np
    stages_blocks = True

    def __init__(self, threads: int | None = None) -> None:
        """Use `threads` threads, by default all cores the process may use."""
        super().__init__()
        self.threads = usable_cores() if threads is None else whole_number("threads", threads, 1)
        self.threads_given = threads is not None
        self.device_name = cpu_name()
        self._pools: dict[int, ThreadPoolExecutor] = {}  # by process

    def manner(self, threads: int | None = None) -> str:
        """Return the threads and BLAS; and what it costs, where an older processor's was asked for."""
        return "; ".join(filter(None, (f"{super().manner(threads)}, {blas_name()}", older_kernels())))

    @property
    def arithmetic(self) -> str:
        """The processor, and BLAS with its kernels."""
        return f"{self.name} ({self.device_name}, {blas_name()})"

    def asarray(self, array: Any, dtype: Any = None) -> Array:
        """Return `array` as a C-contiguous NumPy array; one of CuPy, which NumPy refuses, is copied to the host."""
        return super().asarray(_from_gpu(array), dtype)

    def to_host(self, array: Array) -> np.ndarray[Any, Any]:
        """Return `array` itself, or a copy of one of CuPy."""
        return np.asarray(_from_gpu(array))

    def synchronize(self) -> None:
        """Do nothing: NumPy computes at once."""

    def dot_calls(self, product: Product) -> list[Call]:
        """Return one call of BLAS, and one for a scale; `tf32` is for GPUs and has no effect here."""
        a, b, out, scale, _tf32 = product
        calls: list[Call] = [(np.dot, (a, b, out))]
        if scale != 1:
            calls.append((np.multiply, (out, out.dtype.type(scale), out)))
        return calls

    def take_rows(self, xp: Any, values: Array, rows: Array, output: Array) -> None:
        """See `Backend.take_rows`; NumPy writes to `output` only at the end where it has to check the indices."""
        xp.take(values, rows, axis=0, out=output, mode="clip")

    def take_each(
        self, xp: Any, values: Array, sources: Array, chosen: Array, starts: Array, places: Array, output: Array
    ) -> None:
        """See `Backend.take_each`; rows with the same sources together take a third less time than all at once."""
        for way, columns in enumerate(sources):
            rows = xp.flatnonzero(chosen == way)
            output[rows] = xp.take(values[rows], columns, axis=1, mode="clip")

    def block_rows(self, rows: int, row_bytes: int, shared: bool = False) -> int:
        """Fill about the level-2 cache of one core, so that a block's activations stay close by."""
        # Measured on cores with 1 MiB of level-2 cache, 1 to 2 KB a row: flat within 3% from 450 to 1,100 rows, and
        # on rows without their background 2.5% faster at 768 of 2 KB than at 640.
        # Narrower blocks cost the matrix products their rate and Python its time, wider ones the element-wise work
        # its cache. Products are fastest on multiples of what their kernels take at once, which 64 is everywhere.
        return min(rows, max(256, min(1024, 1_700_000 // max(1, row_bytes) // 64 * 64)))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Hold BLAS to one thread: the blocks are the parallelism, and one thread's sums have one order."""
        with single_threaded_blas(), _quiet():
            try:
                yield
            except MemoryError as error:
                raise DeviceError(f"the CPU's memory is full ({error}): use fewer rows or narrower layers") from error

    def mark(self) -> float:
        """Return the clock."""
        return time.perf_counter()

    def seconds_between(self, marks: Sequence[float]) -> list[float]:
        """Return the differences."""
        return [end - start for start, end in itertools.pairwise(marks)]

    def reset_peak_memory(self) -> int | None:
        """Make the peak resident size the present one, which Linux alone can."""
        return reset_peak_resident_bytes()

    def peak_memory(self) -> int | None:
        """Return the process's peak resident size."""
        return peak_resident_bytes()

    def map(self, work: Callable[[int], None], workers: int) -> None:
        """Call `work` on the pool's threads."""
        if self.threads == 1 or workers == 1:
            return super().map(work, workers)

        def quiet(worker: int) -> None:
            with _quiet():  # each thread has its own
                keep_blas_single_threaded_here()
                work(worker)

        pool = self._pool()
        futures = [pool.submit(quiet, worker) for worker in range(workers)]
        try:
            # Every worker must be back before the buffers are touched again, also when one of them failed.
            errors = [future.exception() for future in futures]
        except BaseException:
            wait(futures)
            raise
        for error in errors:
            if error is not None:
                raise error
        return None

    def _pool(self) -> ThreadPoolExecutor:
        """Return the pool of this process: a fork copies the object, but its threads stay in the parent."""
        process = os.getpid()
        pool = self._pools.get(process)
        # Two threads may both make one. It starts its threads when there is work, so the one not kept costs nothing.
        return pool or self._pools.setdefault(process, ThreadPoolExecutor(self.threads, "fmnist-xp"))


def _from_gpu(array: Any) -> Any:
    """Return `array` itself, or a copy on the host where it is one of CuPy."""
    return array.get() if hasattr(array, "__cuda_array_interface__") and hasattr(array, "get") else array


def _quiet() -> np.errstate:
    """Return a context in which NumPy, like CuPy, says nothing of overflow: the trainer tells of divergence, once."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")
