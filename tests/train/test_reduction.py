"""The sum over the ranks, played by threads: the bits of one rank, whoever has which vectors."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_helpers import in_ranks

from fmnist_xp.backend import CpuBackend
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.reduction import Reduction
from fmnist_xp.train.tree import Tree, TreeSum

WIDTH = 16
SIZES = range(1, 9)


def make_vectors(count: int, seed: int = 0) -> np.ndarray:
    """Return vectors (count, WIDTH) whose sums differ in their last bits with the order."""
    generator = np.random.default_rng([count, seed])
    return generator.standard_normal((count, WIDTH)) * 10.0 ** generator.integers(-8, 9, (count, WIDTH))


def summed(tree_sum: TreeSum, numbers: Any, vectors: np.ndarray) -> None:
    """Add the vectors of these numbers as workers do."""
    tree_sum.start()
    for number in numbers:
        vector = tree_sum.vector(number)
        vector[...] = vectors[number]
        tree_sum.add(number, vector)


def of_one_rank(tree: Tree, vectors: np.ndarray) -> np.ndarray:
    total = np.empty(WIDTH)
    summed(TreeSum(CpuBackend(1), total, tree, range(len(vectors))), range(len(vectors)), vectors)
    return total


def reduction_of(ranks: Ranks, tree: Tree) -> Reduction:
    backend = CpuBackend(1)
    return Reduction(backend, ranks.channel(backend), ranks.rank, tree, tree.shares(ranks.size))


def over_ranks(tree: Tree, size: int, rounds: list[np.ndarray]) -> tuple[list[list[np.ndarray]], list[int]]:
    """Return the sums that each rank gets of each round's vectors, and how many vectors each sends in a round."""

    def work(ranks: Ranks) -> tuple[list[np.ndarray], list[int]]:
        own, reduction = tree.shares(size)[ranks.rank], reduction_of(ranks, tree)
        total, totals = np.empty(WIDTH), []
        tree_sum = TreeSum(CpuBackend(1), total, tree, own)
        for number, vectors in enumerate(rounds):
            total[...] = np.nan
            summed(tree_sum, np.random.default_rng([ranks.rank, number]).permutation(own), vectors)
            reduction.add(tree_sum.sums, total)
            totals.append(total.copy())
        sent = [source for source, _to in ranks.comm.world.sent]
        return totals, [sent.count(rank) // len(rounds) for rank in range(size)]

    found = in_ranks(size, work)
    return [totals for totals, _sent in found], found[0][1]


def height(tree: Tree) -> int:
    """Return the most sums that a vector is part of."""

    def of(node: Any) -> int:
        return 1 + max(map(of, tree.halves[node])) if node in tree.halves else 0

    return of(tree.root)


def check(costs: list[int], size: int) -> None:
    tree, rounds = Tree(costs), [make_vectors(len(costs), seed) for seed in range(3)]
    totals, sent = over_ranks(tree, size, rounds)
    for vectors, of_round in zip(rounds, zip(*totals, strict=True), strict=True):
        expected = of_one_rank(tree, vectors)
        np.testing.assert_allclose(expected, vectors.sum(axis=0), rtol=1e-9, atol=1e-7)
        for total in of_round:
            np.testing.assert_array_equal(total, expected)
    assert sent[0] == 0  # it has the first vector, and so the whole sum
    assert max(sent) <= (1 if size & (size - 1) == 0 else height(tree))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "costs",
    [[1], [1] * 2, [1] * 7, [1] * 64, [9, 1, 1, 1, 1, 1], [1, 1, 1, 1, 40], [5, 3, 8, 1, 1, 9, 2, 2, 7, 4, 6, 1, 3]],
    ids=str,
)
def test_any_number_of_ranks_has_the_sum_of_one(costs: list[int], size: int) -> None:
    check(costs, size)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.sampled_from(SIZES))
def test_any_costs_give_the_sum_of_one_rank(costs: list[int], size: int) -> None:
    check(costs, size)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_where_ranks_are_a_power_of_two_each_but_the_first_sends_one_vector(size: int) -> None:
    _totals, sent = over_ranks(Tree([1] * 64), size, [make_vectors(64)])
    assert sent == [0] + [1] * (size - 1)


def test_vectors_go_up_the_tree_by_hand() -> None:
    """Three ranks have (0, 1), (2, 3) and (4, 5), and the sums are (0 + (1 + 2)) + (3 + (4 + 5))."""
    tree = Tree([1] * 6)
    assert tree.shares(3) == [range(2), range(2, 4), range(4, 6)]

    def work(ranks: Ranks) -> list[tuple[int, int]]:
        own, total = tree.shares(3)[ranks.rank], np.empty(WIDTH)
        tree_sum = TreeSum(CpuBackend(1), total, tree, own)
        summed(tree_sum, own, make_vectors(6))
        reduction_of(ranks, tree).add(tree_sum.sums, total)
        return ranks.comm.world.sent

    # 2 to the first rank, 4 + 5 to the second, which adds it to 3, and that to the first.
    assert sorted(in_ranks(3, work)[0]) == [(1, 0), (1, 0), (2, 1)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 2, 3, 6, 17])
def test_rows_of_each_rank_are_collected_on_all(size: int, count: int) -> None:
    tree, rows = Tree([1] * count), np.random.default_rng(count).standard_normal((count, 2))

    def work(ranks: Ranks) -> np.ndarray:
        own, mine = tree.shares(size)[ranks.rank], np.full_like(rows, np.nan)
        mine[own.start : own.stop] = rows[own.start : own.stop]
        reduction_of(ranks, tree).collect(mine)
        return mine

    for found in in_ranks(size, work):
        np.testing.assert_array_equal(found, rows)


def test_time_of_messages_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Callable[[], float] = itertools.accumulate([0.0, 1.0, 10.0, 2.0]).__next__
    monkeypatch.setattr("fmnist_xp.train.reduction.time.perf_counter", clock)

    def work(ranks: Ranks) -> list[float]:
        reduction = reduction_of(ranks, tree := Tree([1]))
        seconds, total = [reduction.seconds], np.ones(WIDTH)
        reduction.add({tree.root: total}, total)
        seconds.append(reduction.seconds)
        reduction.collect(np.ones((1, 2)))
        return [*seconds, reduction.seconds]

    assert in_ranks(1, work) == [[0.0, 1.0, 3.0]]
