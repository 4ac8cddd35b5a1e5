"""Threads that play the ranks of MPI: communicators as mpi4py has them, without MPI."""

import pickle
import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
from batch_helpers import TIMEOUT

from fmnist_xp.ranks import Ranks

T = TypeVar("T")


class GoneError(Exception):
    """Another rank has failed, and does not call what this one does."""


class World:
    """What the communicators of all ranks share; `parent` is that of the communicators that they duplicate."""

    def __init__(self, size: int, parent: "World | None" = None) -> None:
        self.size = size
        self.first: World = parent.first if parent else self
        self.changed = threading.Condition()
        self.broken = False
        self.turns = [0] * size
        self.exchanges: dict[int, dict[int, Any]] = {}
        self.mail: dict[tuple[int, int], list[Any]] = {}
        self.sent: list[tuple[int, int]] = []
        """From which rank to which a vector was sent, one after another."""
        self.freed: list[int] = []
        """Ranks whose communicator was freed."""
        self.duplicates: list[World] = []
        if parent:
            self.first.duplicates.append(self)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait, with `changed` held, until the others have done their part."""
        self.changed.notify_all()
        self.changed.wait_for(lambda: condition() or self.broken, TIMEOUT)
        if not condition():
            raise GoneError

    def give_up(self) -> None:
        """Let no rank wait for a part that is not done yet."""
        for world in (self, *self.duplicates):
            with world.changed:
                world.broken = True
                world.changed.notify_all()


class Intracomm:
    """One rank's communicator; what is sent waits until it is received, as MPI may let it."""

    def __init__(self, world: World, rank: int) -> None:
        self.world, self.rank, self.size = world, rank, world.size

    def exchanged(self, value: Any) -> list[Any]:
        """Return what each rank called this with."""
        world = self.world
        with world.changed:
            turn = world.turns[self.rank]
            world.turns[self.rank] += 1
            values = world.exchanges.setdefault(turn, {})
            values[self.rank] = value
            world.wait_for(lambda: len(values) == world.size)
        return [values[rank] for rank in range(self.size)]

    def Dup(self) -> "Intracomm":
        world = self.exchanged(World(self.size, self.world) if self.rank == 0 else None)[0]
        return Intracomm(world, self.rank)

    def Free(self) -> None:
        self.world.freed.append(self.rank)

    def allgather(self, value: Any) -> list[Any]:
        return [pickle.loads(pickled) for pickled in self.exchanged(pickle.dumps(value))]

    def bcast(self, value: Any, root: int = 0) -> Any:
        return self.allgather(value if self.rank == root else None)[root]

    def Send(self, vector: np.ndarray, to: int) -> None:
        assert vector.flags.c_contiguous
        world = self.world
        with world.changed:
            world.sent.append((self.rank, to))
            box = world.mail.setdefault((self.rank, to), [])
            box.append(vector)
            world.wait_for(lambda: not any(one is vector for one in box))

    def Recv(self, vector: np.ndarray, source: int) -> None:
        world = self.world
        with world.changed:
            box = world.mail.setdefault((source, self.rank), [])
            world.wait_for(lambda: bool(box))
            _write(box.pop(0), vector)
            world.changed.notify_all()

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

    The ranks are on one host, or on `hosts`, one name for each. Those that wait for one that has raised raise
    `GoneError`.
    """
    world, names = World(size), hosts or ("host",) * size
    outcomes: list[Any] = [None] * size

    def play(rank: int) -> None:
        try:
            with Ranks(Intracomm(world, rank)) as ranks:
                outcomes[rank] = work(ranks)
        except Exception as error:
            outcomes[rank] = error
            world.give_up()

    threads = [threading.Thread(target=play, args=(rank,), name=str(rank), daemon=True) for rank in range(size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmnist_xp.ranks.import_mpi", lambda: FakeMpi)
        patch.setattr(Ranks, "quiet", lambda _ranks: nullcontext())  # the logger is one for all threads
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
    for error in sorted(errors, key=lambda one: isinstance(one, GoneError)):
        raise error
    return outcomes  # type: ignore[return-value]
