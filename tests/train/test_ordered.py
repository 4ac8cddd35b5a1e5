import itertools
import threading

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.train.ordered import OrderedSum

TIMEOUT = 30
# Sums of these differ in their last bits with the order: 1e16 swallows what is added to it one by one.
VECTORS = [np.array([value, -value]) for value in (1e16, 1.0, -1e16, 3.0)]
IN_ORDER = ((VECTORS[0] + VECTORS[1]) + VECTORS[2]) + VECTORS[3]


def make_sum(spare: int) -> tuple[OrderedSum, np.ndarray]:
    total = np.full(2, np.nan)
    return OrderedSum(CpuBackend(1), total, [np.empty(2) for _ in range(spare)]), total


def add_early(ordered: OrderedSum, vector: np.ndarray) -> tuple[threading.Thread, list[np.ndarray]]:
    """Add `vector` as number 1 on a thread of its own; return the thread, and where it puts what it is given."""
    given: list[np.ndarray] = []
    waiter = threading.Thread(target=lambda: given.append(ordered.add(1, vector)))
    waiter.start()
    return waiter, given


def test_order_of_these_vectors_shows_in_their_sum() -> None:
    assert (sum(reversed(VECTORS)) != IN_ORDER).any()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_vectors_that_come_in_any_order_are_added_in_theirs(order: tuple[int, ...]) -> None:
    ordered, total = make_sum(spare=4)
    for _ in range(2):  # one sum after another
        ordered.start()
        for number in order:
            ordered.add(number, VECTORS[number].copy())
        np.testing.assert_array_equal(total, IN_ORDER)


def test_first_sum_needs_no_start() -> None:
    ordered, total = make_sum(spare=0)
    for number, vector in enumerate(VECTORS):
        ordered.add(number, vector.copy())
    np.testing.assert_array_equal(total, IN_ORDER)


def test_vector_that_is_due_is_free_at_once_and_another_is_given_for_an_early_one() -> None:
    ordered, total = make_sum(spare=1)
    ordered.start()
    first, early = VECTORS[0].copy(), VECTORS[1].copy()
    given = ordered.add(1, early)
    assert given is not early
    np.testing.assert_array_equal(early, VECTORS[1])
    assert ordered.add(0, first) is first
    np.testing.assert_array_equal(total, VECTORS[0] + VECTORS[1])
    assert ordered.add(3, given) is early  # the early one is free now


def test_total_itself_may_be_the_only_vector() -> None:
    ordered, total = make_sum(spare=0)
    ordered.start()
    total[...] = 7
    assert ordered.add(0, total) is total
    np.testing.assert_array_equal(total, 7)


def test_worker_without_a_spare_vector_waits_until_one_is_free() -> None:
    ordered, total = make_sum(spare=0)
    ordered.start()
    early = VECTORS[1].copy()
    waiter, given = add_early(ordered, early)
    waiter.join(0.05)
    assert waiter.is_alive()
    ordered.add(0, VECTORS[0].copy())
    waiter.join(TIMEOUT)
    assert given[0] is early
    np.testing.assert_array_equal(total, VECTORS[0] + VECTORS[1])


def test_nobody_waits_for_a_sum_that_is_abandoned_and_the_next_one_is_right() -> None:
    ordered, total = make_sum(spare=0)
    ordered.start()
    early = VECTORS[1].copy()
    waiter, given = add_early(ordered, early)
    ordered.abandon()
    waiter.join(TIMEOUT)
    assert given[0] is early
    ordered.start()
    for number in range(4):
        ordered.add(number, VECTORS[number].copy())
    np.testing.assert_array_equal(total, IN_ORDER)


def test_vectors_kept_by_an_abandoned_sum_serve_the_next_one() -> None:
    ordered, _ = make_sum(spare=1)
    ordered.start()
    early = VECTORS[1].copy()
    ordered.add(1, early)
    ordered.abandon()
    ordered.start()
    assert ordered.add(1, VECTORS[1].copy()) is early
