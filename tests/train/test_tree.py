import itertools
import math
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmnist_xp.backend import CpuBackend
from fmnist_xp.train.tree import Node, Tree, TreeSum

TIMEOUT = 30
COUNTS = [*range(1, 21), 64, 128, 129]
WIDTH = 32


def halved(values: list[Any]) -> Any:
    """Return the sum of `values`: that of the first half, of which there may be one less, and that of the second."""
    middle = len(values) // 2
    return halved(values[:middle]) + halved(values[middle:]) if middle else values[0]


def make_vectors(count: int) -> list[np.ndarray]:
    """Return vectors whose sums differ in their last bits with the order and the pairs."""
    generator = np.random.default_rng(count)
    return list(generator.standard_normal((count, WIDTH)) * 10.0 ** generator.integers(-8, 9, (count, WIDTH)))


def make_sum(count: int, dtype: Any = float) -> tuple[TreeSum, np.ndarray]:
    total = np.full(1 if dtype is object else WIDTH, None if dtype is object else np.nan, dtype)
    return TreeSum(CpuBackend(1), total, Tree([1] * count), range(count)), total


def add(tree: TreeSum, number: int, value: Any) -> np.ndarray:
    """Add a number's vector as a worker does, and return it."""
    vector = tree.vector(number)
    vector[...] = value
    tree.add(number, vector)
    return vector


class Term:
    """A value that notes what was added to what."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __add__(self, other: "Term") -> "Term":
        return Term(f"({self.text} + {other.text})")


# The tree


COSTS = st.lists(st.integers(1, 1000), min_size=1, max_size=60)


@given(COSTS)
def test_every_sum_is_of_two_neighbouring_ones(costs: list[int]) -> None:
    tree = Tree(costs)
    assert tree.root == Node(0, len(costs))
    inner = list(tree.halves)
    assert len(inner) == len(costs) - 1
    for node, (first, second) in tree.halves.items():
        assert (first.start, first.stop, second.stop) == (node.start, second.start, node.stop)
        assert node.start < first.stop < node.stop
        assert tree.above[first] == (second, node)
        assert tree.above[second] == (first, node)
        for half in (first, second):  # are there before what is made of them
            assert half.stop - half.start == 1 or inner.index(half) < inner.index(node)
    assert len(tree.above) == 2 * len(inner)


@given(COSTS)
def test_no_other_place_would_divide_the_costs_more_evenly(costs: list[int]) -> None:
    for node, (first, _second) in Tree(costs).halves.items():

        def difference(middle: int, node: Node = node) -> int:
            return abs(sum(costs[node.start : middle]) - sum(costs[middle : node.stop]))

        differences = [difference(middle) for middle in range(node.start + 1, node.stop)]
        assert first.stop - node.start - 1 == differences.index(min(differences))  # the first of several


@pytest.mark.parametrize(
    ("costs", "halves"),
    [
        ([1, 1, 1, 1], [(0, 1, 2), (2, 3, 4), (0, 2, 4)]),
        ([3, 1, 1, 1], [(2, 3, 4), (1, 2, 4), (0, 1, 4)]),
        ([1, 1, 1, 3], [(1, 2, 3), (0, 1, 3), (0, 3, 4)]),
        ([1, 100, 1], [(1, 2, 3), (0, 1, 3)]),
        ([2, 2, 1, 1, 1, 1], [(0, 1, 2), (2, 3, 4), (4, 5, 6), (2, 4, 6), (0, 2, 6)]),
    ],
    ids=str,
)
def test_costs_are_halved_by_hand(costs: list[int], halves: list[tuple[int, int, int]]) -> None:
    expected = [((start, stop), ((start, middle), (middle, stop))) for start, middle, stop in halves]
    assert list(Tree(costs).halves.items()) == expected


@given(COSTS, st.integers(1, 70))
def test_shares_are_neighbours_that_cover_all(costs: list[int], count: int) -> None:
    shares = Tree(costs).shares(count)
    assert len(shares) == count
    assert [number for share in shares for number in share] == list(range(len(costs)))
    places = [place for share in shares for place in (share.start, share.stop)]
    assert places == sorted(places)
    assert sum(map(bool, shares)) <= len(costs)  # some have none where there are more processes than vectors


@given(COSTS, st.integers(0, 6))
def test_shares_of_a_power_of_two_are_sums_of_the_tree(costs: list[int], power: int) -> None:
    tree = Tree(costs)
    nodes = {tree.root, *tree.above}
    assert all(Node(share.start, share.stop) in nodes for share in tree.shares(2**power) if share)


@pytest.mark.parametrize(
    ("costs", "count", "shares"),
    [
        ([1] * 8, 1, [8]),
        ([1] * 8, 4, [2, 4, 6, 8]),
        ([1] * 8, 3, [3, 5, 8]),
        ([1] * 12, 6, [2, 4, 6, 8, 10, 12]),
        ([6, 1, 1, 1, 1, 1, 1], 2, [1, 7]),
        ([6, 1, 1, 1, 1, 1, 1], 4, [1, 1, 4, 7]),  # what one vector costs cannot be divided
        ([1], 3, [1, 1, 1]),
        ([1, 1], 5, [1, 1, 1, 1, 2]),
        ([9, 1, 1, 1, 9], 3, [1, 4, 5]),
    ],
    ids=str,
)
def test_shares_by_hand(costs: list[int], count: int, shares: list[int]) -> None:
    assert [share.stop for share in Tree(costs).shares(count)] == shares


@given(st.integers(1, 16), st.integers(16, 64))
def test_equal_costs_are_shared_evenly(count: int, vectors: int) -> None:
    sizes = [len(share) for share in Tree([1] * vectors).shares(count)]
    assert max(sizes) - min(sizes) <= 1 + math.log2(count)


# The sum


def test_order_and_pairs_of_these_vectors_show_in_their_sum() -> None:
    for count in (5, 64, 129):
        vectors = make_vectors(count)
        assert (sum(reversed(vectors)) != halved(vectors)).any()
        assert (sum(vectors) != halved(vectors)).any()


def added(count: int, order: list[int]) -> str:
    """Return what is added to what where the vectors come in this order."""
    tree, total = make_sum(count, object)
    for number in order:
        add(tree, number, Term(str(number)))
    term: Term = total[0]
    return term.text


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("count", "sums"),
    [
        (1, "0"),
        (2, "(0 + 1)"),
        (3, "(0 + (1 + 2))"),
        (5, "((0 + 1) + (2 + (3 + 4)))"),
        (6, "((0 + (1 + 2)) + (3 + (4 + 5)))"),
        (7, "((0 + (1 + 2)) + ((3 + 4) + (5 + 6)))"),
    ],
)
def test_sum_is_that_of_two_halves_and_so_on(count: int, sums: str, backwards: bool) -> None:
    assert added(count, sorted(range(count), reverse=backwards)) == sums


@pytest.mark.parametrize("count", COUNTS)
def test_what_is_added_to_what_depends_on_the_count_alone(count: int) -> None:
    expected = halved([Term(str(number)) for number in range(count)]).text
    generator = np.random.default_rng(0)
    for order in (range(count), range(count)[::-1], *(generator.permutation(count) for _ in range(5))):
        assert added(count, list(order)) == expected


@pytest.mark.parametrize("order", list(itertools.permutations(range(5))))
def test_vectors_that_come_in_any_order_have_a_sum_of_the_same_bits(order: tuple[int, ...]) -> None:
    vectors = make_vectors(5)
    tree, total = make_sum(5)
    for _ in range(2):  # one sum after another
        tree.start()
        for number in order:
            add(tree, number, vectors[number])
        np.testing.assert_array_equal(total, halved(vectors))


@settings(deadline=None)
@given(st.sampled_from(COUNTS).flatmap(lambda count: st.permutations(range(count))))
def test_bits_do_not_depend_on_the_order_of_arrival(order: list[int]) -> None:
    vectors = make_vectors(len(order))
    tree, total = make_sum(len(order))
    for number in order:
        add(tree, number, vectors[number])
    np.testing.assert_array_equal(total, halved(vectors))


def test_first_sum_needs_no_start() -> None:
    vectors = make_vectors(4)
    tree, total = make_sum(4)
    for number, vector in enumerate(vectors):
        add(tree, number, vector)
    np.testing.assert_array_equal(total, halved(vectors))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_total_is_the_callers_vector_and_the_place_of_the_first_alone(count: int) -> None:
    tree, total = make_sum(count)
    for _ in range(2):
        tree.start()
        given = [add(tree, number, float(number)) for number in range(count)[::-1]]
        assert given.pop() is total
        assert not any(np.shares_memory(total, vector) for vector in given)
        np.testing.assert_array_equal(total, sum(range(count)))


def test_total_itself_may_be_the_only_vector() -> None:
    tree, total = make_sum(1)
    tree.start()
    assert tree.vector(0) is total
    total[...] = 7
    tree.add(0, total)
    np.testing.assert_array_equal(total, 7)


def test_vector_that_waits_for_its_neighbour_is_left_alone_until_that_comes() -> None:
    vectors = make_vectors(4)
    tree, total = make_sum(4)
    early = add(tree, 1, vectors[1])
    other = add(tree, 2, vectors[2])
    assert other is not early
    np.testing.assert_array_equal(early, vectors[1])
    np.testing.assert_array_equal(other, vectors[2])
    add(tree, 0, vectors[0])
    np.testing.assert_array_equal(total, vectors[0] + vectors[1])
    assert tree.vector(3) is early  # it is free now


def rounds_of(workers: int, count: int) -> Iterator[list[int]]:
    """Yield the numbers that so many workers take at once, in the order in which they are done."""
    generator = np.random.default_rng(workers)
    for start in range(0, count, workers):
        yield list(generator.permutation(range(start, min(start + workers, count))))


@pytest.mark.parametrize("workers", [1, 2, 4, 7])
@pytest.mark.parametrize("count", COUNTS)
def test_vectors_are_few_where_numbers_come_about_in_order(count: int, workers: int) -> None:
    vectors = make_vectors(count)
    tree, total = make_sum(count)
    used: dict[int, np.ndarray] = {}
    for _ in range(3):
        tree.start()
        for taken in rounds_of(workers, count):
            given = {number: tree.vector(number) for number in taken}
            assert len({id(vector) for vector in given.values()}) == len(given)
            used |= {id(vector): vector for vector in given.values()}
            for number, vector in given.items():
                vector[...] = vectors[number]
                tree.add(number, vector)
        np.testing.assert_array_equal(total, halved(vectors))
    # What is done is at most one vector for each height of the tree.
    assert len(used) <= min(count, workers + math.ceil(math.log2(count)))


@pytest.mark.parametrize("done", range(6))
def test_sum_that_was_broken_off_leaves_nothing_behind(done: int) -> None:
    vectors = make_vectors(6)
    tree, total = make_sum(6)
    for order in itertools.permutations(range(6), done):
        tree.start()
        for number in order:
            add(tree, number, np.nan)
        tree.start()
        # Whoever comes first now has to wait: nothing of the sum before is taken for its neighbour.
        for number in (1, 0, 3, 2, 5, 4):
            add(tree, number, vectors[number])
        np.testing.assert_array_equal(total, halved(vectors))


def test_vectors_of_a_sum_that_was_broken_off_serve_the_next_one() -> None:
    tree, total = make_sum(4)
    early = add(tree, 1, 1.0)
    add(tree, 0, 0.0)  # the sum of these two waits in the total
    other = add(tree, 2, 2.0)
    tree.start()
    given = [tree.vector(number) for number in (1, 2, 3)]
    assert {id(early), id(other)} <= {id(vector) for vector in given}
    assert len({id(vector) for vector in given}) == 3
    assert not any(vector is total for vector in given)


@settings(deadline=None)
@given(st.data(), COSTS.filter(lambda costs: len(costs) > 1))
def test_share_leaves_the_sums_that_others_are_needed_for(data: st.DataObject, costs: list[int]) -> None:
    first = data.draw(st.integers(0, len(costs) - 1))
    own = range(first, data.draw(st.integers(first + 1, len(costs))))
    tree, vectors, total = Tree(costs), make_vectors(len(costs)), np.empty(WIDTH)
    tree_sum = TreeSum(CpuBackend(1), total, tree, own)

    def sum_of(node: Node) -> np.ndarray:
        halves = tree.halves.get(node)
        return vectors[node.start] if halves is None else sum_of(halves[0]) + sum_of(halves[1])

    def within(node: Node) -> bool:
        return own.start <= node.start and node.stop <= own.stop

    expected = {
        node
        for node in (tree.root, *tree.above)
        if within(node) and not (node != tree.root and within(tree.above[node][1]))
    }
    for _ in range(2):  # one sum after another
        tree_sum.start()
        for number in data.draw(st.permutations(own)):
            add(tree_sum, number, vectors[number])
        assert tree_sum.sums.keys() == expected
        for node, vector in tree_sum.sums.items():
            np.testing.assert_array_equal(vector, sum_of(node))
            assert (vector is total) == (node.start == own.start)


def test_vectors_of_a_share_serve_its_next_sum() -> None:
    tree_sum = TreeSum(CpuBackend(1), np.empty(WIDTH), Tree([1] * 8), range(1, 7))  # 1, 2 + 3, 4 + 5 and 6 are left
    used = []
    for _ in range(3):
        tree_sum.start()
        used.append({id(add(tree_sum, number, 1.0)) for number in range(1, 7)})
        assert set(tree_sum.sums) == {(1, 2), (2, 4), (4, 6), (6, 7)}
    assert used[0] == used[1] == used[2]


@pytest.mark.parametrize("count", [2, 5, 64, 129])
def test_threads_that_add_at_once_lose_nothing(count: int) -> None:
    workers, rounds = 4, 60
    vectors = make_vectors(count)
    expected = halved(vectors)
    tree, total = make_sum(count)
    sums: list[np.ndarray] = []
    failures: list[BaseException] = []
    numbers: list[int] = []

    def begin() -> None:
        sums.append(total.copy())  # of the round before
        total[...] = np.nan
        tree.start()
        numbers.clear()
        numbers.extend(range(count)[::-1])

    together = threading.Barrier(workers, begin)

    def work() -> None:
        try:
            for _ in range(rounds):
                together.wait(TIMEOUT)
                while numbers:
                    try:
                        number = numbers.pop()
                    except IndexError:  # another thread has just taken the last one
                        break
                    add(tree, number, vectors[number])
            together.wait(TIMEOUT)
        except BaseException as error:
            failures.append(error)
            together.abort()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert len(sums) == rounds + 1
    for each in sums[1:]:
        np.testing.assert_array_equal(each, expected)
