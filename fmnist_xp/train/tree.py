"""A sum whose bits do not depend on who was done first, nor on how many processes it is shared by."""

import threading
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from fmnist_xp.backend import Array, Backend


class Node(NamedTuple):
    """The sum of the numbered vectors from `start` to `stop` − 1."""

    start: int
    stop: int


class Tree:
    """The order in which numbered vectors are added: all of them are two sums of about equal `costs`, and so on.

    `costs` are positive whole numbers, of which the tree depends on nothing but. Sums that cost the same can be left
    to as many processes, which then have one vector each to send.
    """

    def __init__(self, costs: Sequence[int]) -> None:
        self._before = [0, *accumulate(costs)]
        self.root = Node(0, len(costs))
        self.halves: dict[Node, tuple[Node, Node]] = {}
        """The two sums that each sum consists of, the sums that make it up before it."""
        self.above: dict[Node, tuple[Node, Node]] = {}
        """What each sum but the whole is added to, and what comes of it."""
        self._divide(self.root)

    def shares(self, count: int) -> list[range]:
        """Return which vectors each of `count` processes computes: neighbours, of about equal costs."""
        return self._shares(self.root, count)

    def _divide(self, node: Node) -> None:
        if node.stop - node.start > 1:
            middle = self._cut(node, 1, 2)
            halves = first, second = Node(node.start, middle), Node(middle, node.stop)
            self._divide(first)
            self._divide(second)
            self.halves[node] = halves
            self.above[first], self.above[second] = (second, node), (first, node)

    def _cut(self, node: Node, part: int, parts: int) -> int:
        """Return where the first `part` of `parts` equal parts of the costs of `node` end, inside of it."""
        before, (start, stop) = self._before, node
        wanted = parts * before[start] + part * (before[stop] - before[start])
        return min(range(start + 1, stop), key=lambda number: abs(parts * before[number] - wanted))

    def _shares(self, node: Node, count: int) -> list[range]:
        if count == 1 or node not in self.halves:
            return [range(*node)] + [range(node.stop, node.stop)] * (count - 1)
        if count % 2 == 0:
            return [share for half in self.halves[node] for share in self._shares(half, count // 2)]
        cuts = [node.start, *(self._cut(node, part, count) for part in range(1, count)), node.stop]
        return [range(start, stop) for start, stop in pairwise(cuts)]


class TreeSum:
    """The sum of those vectors of a `tree` that are `own`, a range of their numbers: all, or one process's share.

    Whoever brings the second of two sums adds it; nobody waits for another. Made once, for one sum after another.

    `total` is the vector that becomes the sum of the first of them, and so of all, where all are `own`. `sums` holds
    what is left of the others, by their nodes, once all were added.
    """

    def __init__(self, backend: Backend, total: Array, tree: Tree, own: range) -> None:
        self._backend, self._total, self._tree, self._own = backend, total, tree, own
        self._free: list[Array] = []
        self.sums: dict[Node, Array] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin a new sum."""
        # What waits is left of a sum that was broken off, or was a share of a larger one.
        self._free += [vector for vector in self.sums.values() if vector is not self._total]
        self.sums.clear()

    def vector(self, number: int) -> Array:
        """Return where to write the `number`th vector."""
        if number == self._own.start:
            return self._total  # two vectors' sum is written over the first
        with self._lock:
            return self._free.pop() if self._free else self._backend.xp.empty_like(self._total)

    def add(self, number: int, vector: Array) -> None:
        """Add the `number`th vector, which may be written over from now on."""
        node = Node(number, number + 1)
        while True:
            with self._lock:
                other, above = self._tree.above.get(node, (node, node))
                brought = self.sums.pop(other, None)
                if brought is None:
                    self.sums[node] = vector
                    return
            first, second = (vector, brought) if node < other else (brought, vector)
            vector = self._backend.xp.add(first, second, out=first)
            with self._lock:
                self._free.append(second)
            node = above
