"""What the ranks tell each other, alone and played by threads, and how MPI is found."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rank_helpers import FakeMpi, Intracomm, World, in_ranks, outcomes_of

from fmnist_xp.backend import CpuBackend
from fmnist_xp.errors import ElsewhereError, FmnistXpError, RankError
from fmnist_xp.launcher import LAUNCHERS, abort, launched
from fmnist_xp.machine import host_name
from fmnist_xp.ranks import ALONE, Ranks, import_mpi, world

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 5])


def fail() -> None:
    raise OSError("no room")


# One process alone


@pytest.mark.parametrize("ranks", [Ranks(), Ranks(None), ALONE], ids=["made", "of None", "ALONE"])
def test_one_process_is_told_what_it_tells(ranks: Ranks) -> None:
    value = {"a": [1, 2]}
    assert (ranks.rank, ranks.size, ranks.comm, ranks.place_on_host) == (0, 1, None, 0)
    assert ranks.is_first
    assert ranks.hosts == [host_name()]
    assert ranks.on_hosts() == {host_name(): 1}
    assert ranks.share(7) == slice(0, 7)
    assert ranks.gather(value)[0] is value
    assert ranks.from_first(value) is value
    assert ranks.by_first(lambda: value) is value
    assert ranks.in_turn_on_host(lambda: value) is value
    ranks.compare(value)
    assert ranks.numbers_of_first([0.1, 2.0]) == [0.1, 2.0]
    rows, counts = np.arange(6).reshape(3, 2), np.array([3])
    assert ranks.concatenated(rows) is rows
    assert ranks.swapped(rows, counts) == (rows, counts)
    for stopped in ((True, 15), (False, 0)):
        assert ranks.any_stopped(*stopped) == stopped
    with ranks as entered:
        assert entered is ranks


@pytest.mark.parametrize("method", ["by_first", "in_turn_on_host"])
def test_error_of_one_process_stays_as_it_is(method: str) -> None:
    with pytest.raises(OSError, match="no room") as caught:
        getattr(ALONE, method)(fail)
    assert not hasattr(caught.value, "told_to_all")
    with pytest.raises(OSError, match="no room"), ALONE.together():
        fail()


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_one_process_works_on_all_threads_of_the_backend(threads: int | None) -> None:
    backend = CpuBackend(threads)
    assert ALONE.threads(backend) == backend.threads


@pytest.mark.parametrize("comm", ["x", 3, object(), SimpleNamespace(rank=0, size=1), FakeMpi, FakeMpi.COMM_NULL])
def test_what_is_no_communicator_within_a_group_is_refused(monkeypatch: pytest.MonkeyPatch, comm: Any) -> None:
    monkeypatch.setattr("fmnist_xp.ranks.import_mpi", lambda: FakeMpi)
    with pytest.raises(
        TypeError, match=r"comm must be an intracommunicator of mpi4py, such as MPI\.COMM_WORLD, got "
    ):
        Ranks(comm)


# Several


@SIZES
def test_ranks_know_their_place(size: int) -> None:
    def work(ranks: Ranks) -> tuple[Any, ...]:
        return ranks.rank, ranks.size, ranks.is_first, ranks.place_on_host, ranks.hosts, ranks.on_hosts()

    every = in_ranks(size, work)
    assert every == [(rank, size, rank == 0, rank, ["host"] * size, {"host": size}) for rank in range(size)]


def test_places_are_counted_on_each_host() -> None:
    hosts = ("b", "a", "b", "b", "a")
    found = in_ranks(5, lambda ranks: (ranks.place_on_host, ranks.hosts, ranks.on_hosts()), hosts)
    assert [place for place, _hosts, _counts in found] == [0, 0, 1, 2, 1]
    assert all(of_rank == list(hosts) and counts == {"b": 3, "a": 2} for _place, of_rank, counts in found)


@SIZES
@pytest.mark.parametrize("count", [0, 1, 4, 5, 60_000])
def test_shares_are_neighbours_of_about_equal_size(size: int, count: int) -> None:
    shares = in_ranks(size, lambda ranks: ranks.share(count))
    rows = list(range(count))
    assert [row for share in shares for row in rows[share]] == rows
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


@SIZES
def test_values_get_to_all_ranks(size: int) -> None:
    def work(ranks: Ranks) -> tuple[Any, ...]:
        value = {"rank": ranks.rank}
        return ranks.gather(value), ranks.from_first(value), ranks.by_first(lambda: {"called by": ranks.rank})

    assert in_ranks(size, work) == [([{"rank": rank} for rank in range(size)], {"rank": 0}, {"called by": 0})] * size


@SIZES
def test_numbers_of_the_first_get_to_all_ranks_with_their_bits(size: int) -> None:
    for found in in_ranks(size, lambda ranks: ranks.numbers_of_first([0.1 + ranks.rank, -1e-300, np.inf])):
        assert found == [0.1, -1e-300, np.inf]
        assert all(type(number) is float for number in found)


@SIZES
def test_rows_of_all_ranks_are_put_together(size: int) -> None:
    def work(ranks: Ranks) -> np.ndarray:
        return ranks.concatenated(np.full((ranks.rank, 3), ranks.rank, np.float32))  # the first has none

    for found in in_ranks(size, work):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.repeat(np.arange(size), range(size))[:, None].repeat(3, axis=1))


@SIZES
@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("most", [0, 1, 5])
def test_rows_are_swapped(size: int, shape: tuple[int, ...], most: int) -> None:
    generator = np.random.default_rng(size)
    counts = generator.integers(0, most + 1, (size, size))
    given = [generator.integers(0, 256, (counts[rank].sum(), *shape), dtype="uint8") for rank in range(size)]
    found = in_ranks(size, lambda ranks: ranks.swapped(given[ranks.rank], counts[ranks.rank]))
    for rank, (came, coming) in enumerate(found):
        parts = [rows[of[:rank].sum() : of[: rank + 1].sum()] for rows, of in zip(given, counts, strict=True)]
        assert coming.tolist() == counts[:, rank].tolist()
        assert came.dtype == np.uint8
        np.testing.assert_array_equal(came, np.concatenate(parts))


@pytest.mark.parametrize("kind", ["<i8", "<f4"])
def test_rows_that_do_not_lie_evenly_are_swapped(kind: str) -> None:
    given = np.arange(24, dtype=kind).reshape(4, 6)
    found = in_ranks(2, lambda ranks: ranks.swapped(given[:, ::2], np.array([1, 3], np.int32)))
    np.testing.assert_array_equal(found[0][0], given[[0, 0], ::2])
    np.testing.assert_array_equal(found[1][0], given[[1, 2, 3, 1, 2, 3], ::2])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([(False, 0)] * 3, (False, 0)),
        ([(False, 0), (True, 0), (False, 0)], (True, 0)),
        ([(False, 2), (False, 15), (True, 1)], (True, 15)),
    ],
)
def test_one_that_stops_stops_all(given: list[tuple[bool, int]], told: tuple[bool, int]) -> None:
    assert in_ranks(3, lambda ranks: ranks.any_stopped(*given[ranks.rank])) == [told] * 3


def assert_told(outcomes: list[Any], first: int, kind: type[Exception], message: str) -> None:
    """Check that rank `first` raised the error, marked, and all others were told of it."""
    assert type(outcomes[first]) is kind
    assert str(outcomes[first]) == message
    assert outcomes[first].told_to_all
    for rank, outcome in enumerate(outcomes):
        if rank != first:
            assert isinstance(outcome, ElsewhereError)
            assert str(outcome) == f"rank {first}: {message or kind.__name__}"


@pytest.mark.parametrize("failing", [{0}, {2}, {1, 2}, {0, 1, 2}], ids=str)
@pytest.mark.parametrize("message", ["no room", ""])
def test_block_that_fails_somewhere_fails_everywhere(failing: set[int], message: str) -> None:
    ended: list[int] = []

    def work(ranks: Ranks) -> None:
        with ranks.together():
            if ranks.rank in failing:
                raise LookupError(message)
        ended.append(ranks.rank)

    assert_told(outcomes_of(3, work), min(failing), LookupError, message)
    assert ended == []


def test_error_of_a_later_rank_is_the_cause_of_what_it_raises() -> None:
    def work(ranks: Ranks) -> None:
        with ranks.together():
            raise LookupError(f"of {ranks.rank}")

    first, second = outcomes_of(2, work)
    assert str(second) == "rank 0: of 0"
    assert isinstance(second, ElsewhereError)
    assert str(second.__cause__) == "of 1"
    assert isinstance(first, LookupError)


def test_block_that_fails_nowhere_ends_everywhere() -> None:
    def work(ranks: Ranks) -> int:
        with ranks.together():
            return ranks.rank

    assert in_ranks(3, work) == [0, 1, 2]


def test_call_of_the_first_rank_that_fails_fails_everywhere() -> None:
    assert_told(outcomes_of(3, lambda ranks: ranks.by_first(fail)), 0, OSError, "no room")


def test_first_rank_on_each_host_is_before_the_others() -> None:
    calls: list[int] = []

    def work(ranks: Ranks) -> str:
        def called() -> str:
            calls.append(ranks.rank)
            return f"of {ranks.rank}"

        return ranks.in_turn_on_host(called)

    assert in_ranks(5, work, ("a", "b", "a", "b", "b")) == [f"of {rank}" for rank in range(5)]
    assert set(calls[:2]) == {0, 1}
    assert sorted(calls) == [0, 1, 2, 3, 4]


def test_where_the_first_on_a_host_fails_the_others_are_not_called() -> None:
    calls: list[int] = []

    def work(ranks: Ranks) -> None:
        def called() -> None:
            calls.append(ranks.rank)
            fail()

        ranks.in_turn_on_host(called)

    assert_told(outcomes_of(3, work), 0, OSError, "no room")
    assert calls == [0]


TERMS = {"epochs": 3, "loss": "none"}


def test_terms_that_are_the_same_pass() -> None:
    assert in_ranks(3, lambda ranks: ranks.compare(dict(TERMS))) == [None] * 3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"epochs": 4}, "rank 2 has epochs 4, and rank 0 3: all ranks must have the same"),
        ({"loss": "x" * 81}, f"rank 2 has loss {'x' * 77}…, and rank 0 none: all ranks must have the same"),
        ({"loss": "x" * 80}, f"rank 2 has loss {'x' * 80}, and rank 0 none: all ranks must have the same"),
    ],
    ids=["number", "long text", "not so long"],
)
def test_terms_that_differ_are_told(other: dict[str, Any], message: str) -> None:
    outcomes = outcomes_of(4, lambda ranks: ranks.compare(TERMS | (other if ranks.rank == 2 else {})))
    assert_told(outcomes, 0, ValueError, message)


@pytest.mark.parametrize(
    ("hosts", "chosen", "threads"),
    [
        (("a", "a", "a", "a"), None, [2, 2, 2, 2]),
        (("a", "a", "b", "a"), None, [2, 2, 8, 2]),
        (("a", "a", "b", "b"), None, [4, 4, 4, 4]),
        (("a", "a", "a", "a"), 3, [3, 3, 3, 3]),
    ],
    ids=str,
)
def test_cores_of_a_host_are_divided_unless_threads_were_chosen(
    monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...], chosen: int | None, threads: list[int]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)
    monkeypatch.setattr("fmnist_xp.machine.cgroup_cores", lambda: None)
    monkeypatch.setattr("fmnist_xp.machine.thread_limits", dict)
    backend = CpuBackend(chosen)
    assert in_ranks(4, lambda ranks: ranks.threads(backend), hosts) == threads


def test_fewer_threads_of_the_backend_than_cores_are_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)
    monkeypatch.setattr("fmnist_xp.machine.cgroup_cores", lambda: None)
    backend = CpuBackend(None)
    backend.threads = 3
    assert in_ranks(2, lambda ranks: ranks.threads(backend)) == [3, 3]


class NotingChannel:
    """Notes that it was closed."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.closed = comm, False

    def close(self) -> None:
        self.closed = True


class OwnChannels(CpuBackend):
    """A backend that notes its channels."""

    def __init__(self) -> None:
        super().__init__(1)
        self.made: list[NotingChannel] = []

    def channel(self, comm: Any) -> Any:
        self.made.append(NotingChannel(comm))
        return self.made[-1]


def test_channel_is_made_once_for_each_backend_and_closed() -> None:
    def work(ranks: Ranks) -> tuple[list[NotingChannel], Any]:
        backends = OwnChannels(), OwnChannels()
        found = [ranks.channel(backend) for backend in (*backends, *backends)]
        assert found == [backend.made[0] for backend in backends] * 2
        assert all(channel.comm is ranks.comm and not channel.closed for channel in found)
        return found[:2], ranks.comm.world

    for channels, duplicate in in_ranks(2, work):
        assert all(channel.closed for channel in channels)
        assert sorted(duplicate.freed) == [0, 1]


def test_communicator_is_duplicated_and_the_callers_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.ranks.import_mpi", lambda: FakeMpi)
    mine = World(1)
    comm = Intracomm(mine, 0)
    with Ranks(comm) as ranks:
        assert ranks.comm.world is not mine
    assert (mine.freed, ranks.comm.world.freed) == ([], [0])


def test_duplicate_in_which_others_may_wait_is_not_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmnist_xp.ranks.import_mpi", lambda: FakeMpi)
    ranks, backend = Ranks(Intracomm(World(1), 0)), OwnChannels()
    ranks.channel(backend)
    with pytest.raises(OSError, match="no room"), ranks:
        fail()
    assert ranks.comm.world.freed == []
    assert not backend.made[0].closed


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
def test_logger_says_nothing_on_any_rank_but_the_first(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, rank: int, before: bool
) -> None:
    logger, ranks = logging.getLogger("fmnist_xp"), Ranks()
    monkeypatch.setattr(logger, "disabled", before)
    ranks.rank = rank
    with ranks.quiet():
        logger.warning("within")
    with pytest.raises(OSError, match="no room"), ranks.quiet():
        fail()
    assert caplog.messages == (["within"] if rank == 0 and not before else [])
    assert logger.disabled is before


# How MPI is found


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in LAUNCHERS:
        for name in names:
            monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize(
    ("variables", "rank_and_size"),
    [
        ({}, (0, 1)),
        ({"PMI_SIZE": "4", "PMI_RANK": "3"}, (3, 4)),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, (1, 2)),
        ({"MV2_COMM_WORLD_SIZE": "16", "MV2_COMM_WORLD_RANK": "0"}, (0, 16)),
        ({"SLURM_STEP_NUM_TASKS": "8", "PMIX_RANK": "5"}, (5, 8)),
        ({"PMI_SIZE": "4"}, (0, 1)),
        ({"PMIX_RANK": "5"}, (0, 1)),
        ({"SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),  # a batch script, which has started nothing yet
        ({"PMI_SIZE": "", "PMI_RANK": "", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, (1, 2)),
        ({"PMI_SIZE": "many", "PMI_RANK": "0"}, (0, 1)),
        ({"PMI_SIZE": "4", "PMI_RANK": "-1"}, (0, 1)),
        ({"PMI_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}, (0, 1)),
    ],
    ids=str,
)
def test_launchers_tell_rank_and_size(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], rank_and_size: tuple[int, int]
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert launched() == rank_and_size


@pytest.fixture
def mpi4py(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that makes `text` the module MPI of mpi4py."""

    def make(text: str) -> None:
        package = ModuleType("mpi4py")
        package.__path__ = [str(tmp_path)]
        (tmp_path / "MPI.py").write_text(text)
        monkeypatch.setitem(sys.modules, "mpi4py", package)
        monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)  # what is imported is forgotten afterwards
        monkeypatch.delitem(sys.modules, "mpi4py.MPI")

    return make


INSTALL = r'pip install "fmnist-xp\[mpi\]"$'


@pytest.mark.parametrize("find", [import_mpi, world])
def test_missing_mpi4py_is_told(monkeypatch: pytest.MonkeyPatch, find: Callable[[], Any]) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(RankError, match=f"^MPI was asked for, but mpi4py is not installed: {INSTALL}"):
        find()
    assert issubclass(RankError, FmnistXpError)


@pytest.mark.parametrize("find", [import_mpi, world])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (
            "raise ImportError('libmpi.so.12: cannot open\\n  shared object')",
            "libmpi.so.12: cannot open shared object",
        ),
        # As mpi4py 4.1 where there is no MPI library.
        (
            "raise RuntimeError('cannot load MPI library\\nlibmpi.so: gone')",
            "cannot load MPI library libmpi.so: gone",
        ),
        ("raise ModuleNotFoundError('No module named other', name='other')", "No module named other"),
    ],
)
def test_mpi4py_that_does_not_load_is_told(
    mpi4py: Callable[[str], None], find: Callable[[], Any], fault: str, told: str
) -> None:
    mpi4py(fault)
    with pytest.raises(RankError, match=rf"^MPI was asked for, but mpi4py does not load \({told}\): {INSTALL}"):
        find()


def test_world_is_all_that_were_started_together(mpi4py: Callable[[str], None]) -> None:
    mpi4py("COMM_WORLD = 'all of them'")
    assert import_mpi().COMM_WORLD == "all of them"
    assert world() == "all of them"


@pytest.mark.parametrize("error", [None, ValueError("a fault")])
@pytest.mark.parametrize(
    ("initialized", "finalized", "size", "aborts"),
    [(True, False, 4, True), (True, False, 1, False), (False, False, 4, False), (True, True, 4, False)],
)
def test_abort_ends_all_where_there_are_others(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    initialized: bool,
    finalized: bool,
    size: int,
    aborts: bool,
    error: Exception | None,
) -> None:
    codes: list[int] = []
    mpi = SimpleNamespace(
        Is_initialized=lambda: initialized,
        Is_finalized=lambda: finalized,
        COMM_WORLD=SimpleNamespace(size=size, Abort=codes.append),
    )
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", mpi)
    abort(7, error)
    assert codes == ([7] if aborts else [])
    assert ("ValueError: a fault" in capsys.readouterr().err) == (aborts and error is not None)


def test_abort_does_not_start_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    monkeypatch.delitem(sys.modules, "mpi4py.MPI")
    abort(7, ValueError("a fault"))
    assert "mpi4py.MPI" not in sys.modules
