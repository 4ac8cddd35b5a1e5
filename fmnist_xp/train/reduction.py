"""The sum over the ranks: what each has of a tree's sums becomes the whole, which all of them get.

Two sums are added by the rank that has the first, in the order that the tree gives, so that the bits are those of one
rank. Where the ranks are a power of two, each has one sum of the tree: it sends one vector and gets one back. Else it
sends up to as many as the tree is high.
"""

import time
from collections.abc import Iterator
from typing import Any

from fmnist_xp.backend import Array, Backend
from fmnist_xp.train.tree import Node, Tree


class Reduction:
    """Adds up over the ranks by `channel`; `of_ranks` are the numbers of the vectors of `tree` that each has."""

    def __init__(self, backend: Backend, channel: Any, rank: int, tree: Tree, of_ranks: list[range]) -> None:
        self._backend, self._channel, self._rank, self._tree = backend, channel, rank, tree
        self._of_ranks = of_ranks
        owners = [rank for rank, numbers in enumerate(of_ranks) for _number in numbers]
        self._root = owners[0]
        # Of each sum that is not one rank's alone: the sums it is made of, and the ranks that have these by then.
        self._steps = [
            (first, second, owners[first.start], owners[second.start], node)
            for node, (first, second) in self._shared(tree.root, owners)
        ]
        self._received: Array | None = None
        self.seconds = 0.0
        """How long messages took, and waiting for other ranks, where the backend's calls wait for the device."""

    def _shared(self, node: Node, owners: list[int]) -> Iterator[tuple[Node, tuple[Node, Node]]]:
        """Yield the sums within `node` that are not one rank's alone, those first that others are made of."""
        if owners[node.start] != owners[node.stop - 1]:
            for half in self._tree.halves[node]:
                yield from self._shared(half, owners)
            yield node, self._tree.halves[node]

    def add(self, sums: dict[Node, Array], total: Array) -> None:
        """Make `total` the whole sum on every rank; `sums` are this rank's, as a `TreeSum` leaves them."""
        begun = time.perf_counter()
        there = dict(sums)
        for first, second, adds, sends, node in self._steps:
            if adds == self._rank:
                vector, other = there.pop(first), there.pop(second, None)
                if other is None:
                    other = self._buffer(total)
                    self._channel.receive(other, sends)
                there[node] = self._backend.xp.add(vector, other, out=vector)
            elif sends == self._rank:
                self._channel.send(there.pop(second), adds)
        self._channel.broadcast(total, self._root)
        self.seconds += time.perf_counter() - begun

    def collect(self, rows: Array) -> None:
        """Write those rows of an array (vectors, n) that each rank has, by its vectors' numbers, to all others'."""
        begun = time.perf_counter()
        for rank, numbers in enumerate(self._of_ranks):
            part = rows[numbers.start : numbers.stop]
            if not len(numbers) or rank == self._root:
                continue
            if self._rank == self._root:
                self._channel.receive(part, rank)
            elif self._rank == rank:
                self._channel.send(part, self._root)
        self._channel.broadcast(rows, self._root)
        self.seconds += time.perf_counter() - begun

    def _buffer(self, like: Array) -> Array:
        """Return where a vector is received, which is added at once."""
        if self._received is None:
            self._received = self._backend.xp.empty_like(like)
        return self._received
