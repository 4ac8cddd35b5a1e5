"""A sum whose bits do not depend on who was done first."""

import threading
from collections.abc import Iterable

from fmnist_xp.backend import Array, Backend


class OrderedSum:
    """The sum of numbered vectors, added in the order of their numbers whatever order they come in.

    A worker writes its next vector over the last one, which is still in its cache, unless that has to wait for a
    neighbour's; then it goes on in a spare one, and only waits itself when all are taken. Made once, used for one
    sum after another.

    Parameters
    ----------
    backend
        Where the vectors are.
    total
        The vector that becomes the sum. It may be among the vectors added if it is the only one.
    spare
        Vectors like `total` to write to.
    """

    def __init__(self, backend: Backend, total: Array, spare: Iterable[Array]) -> None:
        self._xp = backend.xp
        self._total = total
        self._spare = list(spare)
        self._early: dict[int, Array] = {}
        self._changed = threading.Condition()
        self.start()

    def start(self) -> None:
        """Begin a new sum."""
        self._spare += self._early.values()  # of a sum that was abandoned
        self._early.clear()
        self._due = 0
        self._abandoned = False

    def add(self, number: int, vector: Array) -> Array:
        """Add `vector`, the `number`th from 0 on, when its turn comes; return the vector to write the next one to."""
        with self._changed:
            self._early[number] = vector
            while (ready := self._early.pop(self._due, None)) is not None:
                self._add(ready)
                self._due += 1
                if ready is not vector:
                    self._spare.append(ready)
                    self._changed.notify_all()
            if number < self._due:
                return vector
            self._changed.wait_for(lambda: self._spare or self._abandoned)
            return self._spare.pop() if self._spare else self._early.pop(number)

    def abandon(self) -> None:
        """Let nobody wait any longer: a vector that is due will never come."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def _add(self, vector: Array) -> None:
        if self._due:
            self._xp.add(self._total, vector, out=self._total)
        elif vector is not self._total:
            self._total[...] = vector
