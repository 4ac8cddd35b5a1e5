"""A sum whose bits do not depend on who was done first."""

import threading

from fmnist_xp.backend import Array, Backend


class TreeSum:
    """The sum of `count` numbered vectors, added in pairs of neighbours, then pairs of pairs, and so on.

    Which vectors are added to which depends on `count` alone, so the sum has the same bits whoever computes the
    vectors, and in whatever order. Whoever brings the second of a pair adds it; nobody waits for another. Made once,
    used for one sum after another.

    `total` is the vector that becomes the sum.
    """

    def __init__(self, backend: Backend, total: Array, count: int) -> None:
        self._backend, self._total, self._last = backend, total, count - 1
        self._free: list[Array] = []
        self._waiting: dict[tuple[int, int], Array] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin a new sum."""
        # What waits is left of a sum that was broken off.
        self._free += [vector for vector in self._waiting.values() if vector is not self._total]
        self._waiting.clear()

    def vector(self, number: int) -> Array:
        """Return where to write the `number`th vector."""
        if number == 0:
            return self._total  # a pair's sum is written over its first
        with self._lock:
            return self._free.pop() if self._free else self._backend.xp.empty_like(self._total)

    def add(self, number: int, vector: Array) -> None:
        """Add the `number`th vector, which may be written over from now on."""
        level, place, last = 0, number, self._last
        while last > 0:
            neighbour = place ^ 1
            if neighbour <= last:  # else it is the last one, without a neighbour, and goes up as it is
                with self._lock:
                    other = self._waiting.pop((level, neighbour), None)
                    if other is None:
                        self._waiting[level, place] = vector
                        return
                first, second = (vector, other) if place < neighbour else (other, vector)
                vector = self._backend.xp.add(first, second, out=first)
                with self._lock:
                    self._free.append(second)
            level, place, last = level + 1, place // 2, last // 2
