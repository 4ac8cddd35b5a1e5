import threading
from collections import Counter

import pytest
from batch_helpers import TIMEOUT, NotingFailure, held_to_time
from hypothesis import given, settings
from hypothesis import strategies as st

from fmnist_xp.backend import CpuBackend
from fmnist_xp.train.sharing import share_out


@settings(deadline=None, max_examples=50)
@given(threads=st.integers(1, 4), workers=st.integers(1, 4), count=st.integers(0, 60))
def test_every_number_is_worked_on_once_by_a_worker_that_there_is(threads: int, workers: int, count: int) -> None:
    calls: list[tuple[int, int]] = []
    held_to_time(lambda: share_out(CpuBackend(threads), workers, count, lambda *call: calls.append(call)))
    assert Counter(number for _, number in calls) == Counter(range(count))
    assert {worker for worker, _ in calls} <= set(range(workers))
    for worker in range(workers):  # each in its turn
        numbers = [number for who, number in calls if who == worker]
        assert numbers == sorted(numbers)


def test_worker_alone_takes_the_numbers_in_their_order() -> None:
    calls: list[tuple[int, int]] = []
    share_out(CpuBackend(3), 1, 5, lambda *call: calls.append(call))
    assert calls == [(0, number) for number in range(5)]


def test_workers_work_at_once_and_whoever_is_free_takes_the_next_number() -> None:
    begun, rest_done = threading.Barrier(3), threading.Event()
    calls: list[tuple[int, int]] = []

    def work(worker: int, number: int) -> None:
        calls.append((worker, number))
        if number < 3:
            begun.wait(TIMEOUT)  # no one passes until three are at work
        if number == 0:
            assert rest_done.wait(TIMEOUT)
        if number == 9:
            rest_done.set()

    held_to_time(lambda: share_out(CpuBackend(3), 3, 10, work))
    (slow,) = [worker for worker, number in calls if number == 0]
    assert [number for worker, number in calls if worker == slow] == [0]
    assert sorted(number for _, number in calls) == list(range(10))


@pytest.mark.parametrize("kind", [ArithmeticError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("failing", [0, 1])
def test_no_number_is_begun_after_one_failed_and_the_exception_reaches_the_caller(
    failing: int, kind: type[BaseException]
) -> None:
    backend, both_begun = NotingFailure(2), threading.Barrier(2)
    begun: list[int] = []

    def work(_worker: int, number: int) -> None:
        begun.append(number)
        if number <= 1:
            both_begun.wait(TIMEOUT)
        if number == failing:
            raise kind("piece failed")
        assert backend.failed.wait(TIMEOUT)

    with pytest.raises(kind, match="piece failed"):
        held_to_time(lambda: share_out(backend, 2, 50, work))
    assert sorted(begun) == [0, 1]


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_number_that_fails_is_the_last_of_its_worker_and_the_next_sharing_is_whole(threads: int) -> None:
    backend = CpuBackend(threads)
    calls: list[tuple[int, int]] = []

    def work(worker: int, number: int) -> None:
        calls.append((worker, number))
        if number == 5:
            raise ArithmeticError("piece failed")

    with pytest.raises(ArithmeticError, match="piece failed"):
        held_to_time(lambda: share_out(backend, threads, 200, work))
    (failed,) = [worker for worker, number in calls if number == 5]
    assert [number for worker, number in calls if worker == failed][-1] == 5
    calls.clear()
    held_to_time(lambda: share_out(backend, threads, 5, lambda *call: calls.append(call)))
    assert sorted(number for _, number in calls) == list(range(5))
