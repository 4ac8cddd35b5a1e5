"""The processes that train one network together, over MPI: who they are, and what they tell each other now and then.

`comm` is a communicator of mpi4py, which is imported where one is given and nowhere else. Vectors of the training go
through a `Channel`.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend
from fmnist_xp.backend.channel import Channel
from fmnist_xp.errors import ElsewhereError, RankError
from fmnist_xp.machine import affinity, cores_among, host_name, place_on_host

logger = logging.getLogger("fmnist_xp")

T = TypeVar("T")


class Ranks:
    """The processes of `comm`, each with its `rank` from 0 to `size` − 1; by default this process alone.

    Every process calls every method, at once with the others, unless it says otherwise; alone it costs nothing. Made
    of a duplicate, so that no message is mistaken for one of the caller's; to be closed, as by `with`. Raises
    `TypeError` where `comm` is no communicator within one group.
    """

    def __init__(self, comm: Any = None) -> None:
        self.rank, self.size, self._comm = 0, 1, None
        self.hosts = [host_name()]
        """The name of each rank's host."""
        if comm is None:
            return
        mpi = import_mpi()
        if not isinstance(comm, mpi.Intracomm) or comm == mpi.COMM_NULL:
            raise TypeError(f"comm must be an intracommunicator of mpi4py, such as MPI.COMM_WORLD, got {comm!r}")
        self._mpi, self._comm = mpi, comm.Dup()
        self.rank, self.size = self._comm.rank, self._comm.size
        self._mine, self._all = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self.hosts = self.gather(host_name())
        of_all = self.gather(affinity())
        here = [cores for cores, host in zip(of_all, self.hosts, strict=True) if host == self.hosts[self.rank]]
        self._cores = cores_among(of_all[self.rank], here)
        self._channels: dict[int, Channel] = {}

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which prints, logs and writes. May be asked at any time."""
        return self.rank == 0

    @property
    def comm(self) -> Any:
        """The duplicate of the communicator, or None. May be asked at any time."""
        return self._comm

    @property
    def place_on_host(self) -> int:
        """How many ranks before this one are on the same host. May be asked at any time."""
        return place_on_host(self.hosts, self.rank)

    def share(self, count: int) -> slice:
        """Return which of `count` rows are this rank's where all have about as many. May be asked at any time."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def on_hosts(self) -> dict[str, int]:
        """Return how many ranks each host has, by its name. May be asked at any time."""
        return dict(Counter(self.hosts))

    def __enter__(self) -> "Ranks":
        """Return this."""
        return self

    def __exit__(self, error: object, *_more: object) -> None:
        """Free the duplicate, unless the others may be waiting in it."""
        if self._comm is not None and error is None:
            for channel in self._channels.values():
                channel.close()
            self._comm.Free()

    def threads(self, backend: Backend) -> int:
        """Return on how many threads of `backend` each rank works. May be asked at any time.

        Unless their number was chosen, the cores of a host are divided among its ranks.
        """
        shared = self.size > 1 and not backend.threads_given
        return min(backend.threads, self._cores) if shared else backend.threads

    def channel(self, backend: Backend) -> Channel:
        """Return how vectors get to the devices of the other ranks, one for each backend."""
        if id(backend) not in self._channels:
            self._channels[id(backend)] = backend.channel(self._comm)
        return self._channels[id(backend)]

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, which is pickled."""
        return [value] if self._comm is None else list(self._comm.allgather(value))

    def from_first(self, value: T) -> T:
        """Return rank 0's value, which is pickled."""
        told: T = value if self._comm is None else self._comm.bcast(value)
        return told

    def by_first(self, function: Callable[[], T]) -> T:
        """Call `function` on rank 0 alone, and return there and everywhere what it returns; see `together`."""
        result: Any = None
        with self.together():
            if self.is_first:
                result = function()
        told: T = self.from_first(result)
        return told

    @contextmanager
    def together(self) -> Iterator[None]:
        """End on all ranks alike a block in which they do not wait for each other.

        Where it raises on some, the first of these raises its error, marked `told_to_all`, and all others
        `ElsewhereError`.
        """
        if self._comm is None:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as raised:
            error = raised
        code = getattr(error, "exit_code", ElsewhereError.exit_code)
        told = self.gather(None if error is None else (str(error) or type(error).__name__, code))
        failed = [(rank, *of_rank) for rank, of_rank in enumerate(told) if of_rank is not None]
        if not failed:
            return
        rank, message, code = failed[0]
        if error is not None and rank == self.rank:
            error.told_to_all = True  # type: ignore[attr-defined]
            raise error
        elsewhere = ElsewhereError(f"rank {rank}: {message}")
        elsewhere.exit_code = code
        raise elsewhere from error

    def in_turn_on_host(self, function: Callable[[], T]) -> T:
        """Return what `function` returns, which the first rank on each host calls before the others; see `together`.

        It may fill a cache for them.
        """
        result: Any = None
        for turn in (True, False):
            with self.together():
                if (self.place_on_host == 0) is turn:
                    result = function()
        return result  # type: ignore[no-any-return]

    def compare(self, terms: Mapping[str, Any]) -> None:
        """Raise `ValueError` where `terms`, by their names, are not the same on all ranks; see `together`."""
        of_all = self.gather(dict(terms))
        with self.together():
            for name, value in of_all[0].items() if self.is_first else ():
                for rank, other in enumerate(of_all):
                    if other[name] != value:
                        raise ValueError(
                            f"rank {rank} has {name} {_short(other[name])}, and rank 0 {_short(value)}: all ranks "
                            "must have the same"
                        )

    def concatenated(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return every rank's `rows`, one rank's after another's, all of one dtype."""
        if self._comm is None:
            return rows
        return self.swapped(np.concatenate([rows] * self.size), np.full(self.size, len(rows)))[0]

    def swapped(self, rows: NDArray[Any], counts: NDArray[np.integer]) -> tuple[NDArray[Any], NDArray[np.integer]]:
        """Send the first `counts[0]` of `rows` to rank 0, the next `counts[1]` to rank 1, and so on.

        Returns what came, in the order of the ranks, and how many from each. All have one dtype.
        """
        if self._comm is None:
            return rows, counts
        counts = np.ascontiguousarray(counts, np.int64)
        coming = np.empty_like(counts)
        self._comm.Alltoall(counts, coming)
        came = np.empty((int(coming.sum()), *rows.shape[1:]), rows.dtype)
        row = self._mpi.BYTE.Create_contiguous(came[:1].nbytes or rows.dtype.itemsize * int(np.prod(rows.shape[1:])))
        row.Commit()
        try:
            self._comm.Alltoallv([np.ascontiguousarray(rows), counts.tolist(), row], [came, coming.tolist(), row])
        finally:
            row.Free()
        return came, coming

    def any_stopped(self, stopped: bool, signal: int) -> tuple[bool, int]:
        """Return whether any rank has `stopped`, and the highest `signal` of any; nothing is pickled."""
        if self._comm is None:
            return stopped, signal
        self._mine[:] = stopped, signal
        self._comm.Allreduce(self._mine, self._all, self._mpi.MAX)
        return bool(self._all[0]), int(self._all[1])

    def numbers_of_first(self, numbers: Sequence[float]) -> list[float]:
        """Return rank 0's `numbers`, as many as on every rank; nothing is pickled."""
        if self._comm is None:
            return list(numbers)
        told = np.array(numbers, np.float64)
        self._comm.Bcast(told, 0)
        return [float(number) for number in told]

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Let the package's logger say nothing on any rank but the first."""
        before = logger.disabled
        logger.disabled = before or not self.is_first
        try:
            yield
        finally:
            logger.disabled = before


ALONE = Ranks()
"""This process, without others."""


def import_mpi() -> Any:
    """Return mpi4py's module MPI, which starts MPI; raise `RankError` where it is missing or does not load."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: there is no MPI library
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("mpi4py")
        fault = "mpi4py is not installed" if missing else f"mpi4py does not load ({' '.join(str(error).split())})"
        raise RankError(f'MPI was asked for, but {fault}: pip install "fmnist-xp[mpi]"') from error
    return MPI


def world() -> Any:
    """Return the communicator of all processes that were started together; raise `RankError` as `import_mpi`."""
    return import_mpi().COMM_WORLD


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
