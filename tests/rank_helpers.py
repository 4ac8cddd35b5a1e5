"""Threads that play the ranks of MPI: communicators as mpi4py has them, without MPI."""

import pickle
import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from batch_helpers import TIMEOUT

from fmnist_xp.ranks import Ranks

T = TypeVar("T")


class World:
    """What the communicators of all ranks share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.slots: list[Any] = [None] * size
        self.mail: dict[tuple[int, int], queue.Queue[Any]] = {
            (source, to): queue.Queue() for source in range(size) for to in range(size)
        }
        self.sent: list[tuple[int, int]] = []
        """From which rank to which a vector was sent, one after another."""
        self.freed: list[int] = []
        """Ranks whose communicator was freed."""


class Intracomm:
    """One rank's communicator; what is sent waits until it is received, as MPI may let it."""

    def __init__(self, world: World, rank: int) -> None:
        self.world, self.rank, self.size = world, rank, world.size

    def exchanged(self, value: Any) -> list[Any]:
        """Return what each rank called this with."""
        world = self.world
        world.slots[self.rank] = value
        world.barrier.wait(TIMEOUT)
        values = list(world.slots)
        world.barrier.wait(TIMEOUT)
        return values

    def Dup(self) -> "Intracomm":
        world = self.exchanged(World(self.size) if self.rank == 0 else None)[0]
        return Intracomm(world, self.rank)

    def Free(self) -> None:
        self.world.freed.append(self.rank)

    def allgather(self, value: Any) -> list[Any]:
        return [pickle.loads(pickled) for pickled in self.exchanged(pickle.dumps(value))]

    def bcast(self, value: Any, root: int = 0) -> Any:
        return self.allgather(value if self.rank == root else None)[root]

    def Send(self, vector: np.ndarray, to: int) -> None:
        assert vector.flags.c_contiguous
        received = threading.Event()
        self.world.sent.append((self.rank, to))
        self.world.mail[self.rank, to].put((vector, received))
        assert received.wait(TIMEOUT), f"rank {to} does not receive what rank {self.rank} sends"

    def Recv(self, vector: np.ndarray, source: int) -> None:
        came, received = self.world.mail[source, self.rank].get(timeout=TIMEOUT)
        _write(came, vector)
        received.set()

    def Bcast(self, vector: np.ndarray, root: int) -> None:
        come = self.exchanged(vector.copy() if self.rank == root else None)
        if self.rank != root:
            _write(come[root], vector)

    def Alltoall(self, counts: np.ndarray, coming: np.ndarray) -> None:
        _write(np.array([of_rank[self.rank] for of_rank in self.exchanged(counts.copy())]), coming)

    def Alltoallv(self, given: list[Any], taken: list[Any]) -> None:
        (rows, counts, kind), (came, coming, kind_too) = given, taken
        assert kind is kind_too
        assert kind.committed
        assert not kind.freed
        parts = []
        for others, counts_of, size in self.exchanged((rows.copy(), counts, kind.bytes)):
            assert size == kind.bytes == (others[:1].nbytes or size)
            assert sum(counts_of) == len(others)
            start = sum(counts_of[: self.rank])
            parts.append(others[start : start + counts_of[self.rank]])
        assert [len(part) for part in parts] == coming
        _write(np.concatenate(parts), came)

    def Allreduce(self, mine: np.ndarray, every: np.ndarray, operation: str) -> None:
        assert operation == FakeMpi.MAX
        _write(np.max(self.exchanged(mine.copy()), axis=0), every)


class Datatype:
    """So many bytes; to be committed before it is used, and freed."""

    def __init__(self, size: int) -> None:
        self.bytes, self.committed, self.freed = size, False, False

    def Commit(self) -> None:
        self.committed = True

    def Free(self) -> None:
        self.freed = True


def _write(came: np.ndarray, vector: np.ndarray) -> None:
    """Write what came to a buffer, where it has that many numbers of that kind, one after another."""
    assert vector.flags.c_contiguous
    assert (came.shape, came.dtype) == (vector.shape, vector.dtype)
    vector[...] = came


class FakeMpi:
    """What stands for the module `mpi4py.MPI`."""

    Intracomm = Intracomm
    COMM_NULL = Intracomm(World(1), 0)
    BYTE = SimpleNamespace(Create_contiguous=Datatype)
    MAX = "MAX"


def outcomes_of(size: int, work: Callable[[Ranks], T], hosts: tuple[str, ...] = ()) -> list[T | Exception]:
    """Call `work` with the `Ranks` of each of `size` ranks at once; return what each returns, or raises.

    The ranks are on one host, or on `hosts`, one name for each. Where a rank raises what not all of them do, the
    others are not waited for.
    """
    world, names = World(size), hosts or ("host",) * size
    outcomes: list[Any] = [None] * size
    worlds: list[World] = [world]

    def play(rank: int) -> None:
        try:
            with Ranks(Intracomm(world, rank)) as ranks:
                worlds.append(ranks.comm.world)
                outcomes[rank] = work(ranks)
        except Exception as error:
            outcomes[rank] = error
            if not (getattr(error, "told_to_all", False) or type(error).__name__ == "ElsewhereError"):
                for each in worlds:
                    each.barrier.abort()

    threads = [threading.Thread(target=play, args=(rank,), name=str(rank), daemon=True) for rank in range(size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmnist_xp.ranks.import_mpi", lambda: FakeMpi)
        patch.setattr("fmnist_xp.ranks.host_name", lambda: names[int(threading.current_thread().name)])
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads), "ranks hang"
    return outcomes


def in_ranks(size: int, work: Callable[[Ranks], T], hosts: tuple[str, ...] = ()) -> list[T]:
    """Return what `outcomes_of` does; raise what any of the ranks raises."""
    outcomes = outcomes_of(size, work, hosts)
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    for error in sorted(errors, key=lambda one: isinstance(one, threading.BrokenBarrierError)):
        raise error
    return outcomes  # type: ignore[return-value]
