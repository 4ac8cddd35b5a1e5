"""L-BFGS: the optimizer that full batch is made for, one evaluation of loss and gradient at a time.

An update takes the loss and the gradient at the present parameters, a trial, and sets the next trial: along the same
direction, or, once a step is good enough, along a new one. All that it depends on is kept as vectors, so that a
training goes on to the same bits in the midst of a line search.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fmnist_xp.arguments import real_number, whole_number
from fmnist_xp.backend import Array, Backend, elementwise
from fmnist_xp.optim.optimizer import Optimizer, Trainable
from fmnist_xp.optim.rules import sgd
from fmnist_xp.optim.wolfe import ACCEPTED, FAILED, Point, Search, advance, begin
from fmnist_xp.registry import register

START = 0.0
"""The phase of a search that is yet to begin: the next loss and gradient are those of its origin."""
EPS = 2.0**-52


@elementwise
def step_along(xp: Any, parameters: Array, origin: Array, direction: Array, step: float) -> None:
    """θ ← θ₀ + t·d."""
    xp.add(origin, step * direction, out=parameters)


@elementwise
def scale(xp: Any, vector: Array, other: Array, factor: float) -> None:
    """a ← c·b."""
    xp.multiply(other, factor, out=vector)


@register("lbfgs")
class LBFGS(Optimizer):
    """Limited-memory BFGS (Liu & Nocedal, *On the limited memory BFGS method*, Mathematical Programming 45, 1989).

    The direction is −H·g by the two-loop recursion over the last `history_size` changes s of the parameters and y of
    the gradient (Nocedal & Wright, *Numerical Optimization*, 2nd edition, algorithms 7.4 and 7.5), the step along it
    one that fulfils the strong Wolfe conditions (`fmnist_xp.optim.wolfe`). The first step that is tried is
    `learning_rate`, or while there are no changes that length, of the vector. A pair is kept where sᵀy > ε·‖y‖², with
    ε = 2⁻⁵² (Byrd, Lu, Nocedal & Zhu, *A limited memory algorithm for bound constrained optimization*, SIAM J. Sci.
    Comput. 16, 1995, equation 3.9).

    An epoch is one evaluation: the loss that is logged is that of a trial, which may be a bad one, even infinite.
    Rows held out are measured with the best parameters found, with which `fit` ends. Where no step makes the loss
    lower, the changes are forgotten and the gradient itself is followed; where that does not either, as where
    rounding hides what is left to gain, training stops, as it does once no element of the gradient is above
    `tolerance_gradient`.

    Parameters: `learning_rate` > 0, a number; `history_size` ≥ 1, 0 < `c1` < `c2` < 1, `tolerance_gradient` ≥ 0, else
    `ValueError`.
    """

    moments = 6
    needs_loss = True

    def __init__(
        self,
        learning_rate: float = 1.0,
        history_size: int = 10,
        c1: float = 1e-4,
        c2: float = 0.9,
        tolerance_gradient: float = 1e-7,
    ) -> None:
        super().__init__(real_number("learning_rate", learning_rate, 0, open_low=True))
        self.history_size = whole_number("history_size", history_size, 1)
        self.c1 = real_number("c1", c1, 0, 1, open_low=True)
        self.c2 = real_number("c2", c2, self.c1, 1, open_low=True)
        self.tolerance_gradient = real_number("tolerance_gradient", tolerance_gradient, 0)

    def coefficients(self) -> tuple[float, ...]:
        """Raise `TypeError`: an update depends on the loss."""
        raise TypeError("LBFGS decides by the loss: step(network, loss), or update_params(network, [loss])")

    def trying(self, target: Trainable) -> bool:
        """Return whether the parameters of `target` are a trial that may turn out to be a bad one."""
        with target.backend.current():
            return _unpacked(target.backend, self._moments_of(target)[-1])[1].phase != START

    def result(self, target: Trainable) -> Array | None:
        """Return the best parameters found, of which the device is current; None where `target` has them."""
        origin, _gradient, direction, _steps, _changes, numbers = self._moments_of(target)
        _pairs, search = _unpacked(target.backend, numbers)
        if search.phase == START:
            return None
        best = target.backend.xp.empty_like(origin)
        target.backend.compute(step_along, best, origin, direction, search.low.step)
        return best

    def finish(self, target: Trainable) -> None:
        """Let `target` have the best parameters found, from which the next search begins."""
        super().finish(target)
        with target.backend.current():
            numbers = self._moments_of(target)[-1]
            pairs, search = _unpacked(target.backend, numbers)
            _pack(target.backend, numbers, pairs, search._replace(phase=START))

    def _first_moments(self, target: Trainable) -> list[Array]:
        """Return the origin of the search, its gradient and direction; the pairs; and the numbers of the search."""
        xp, parameters = target.backend.xp, target.parameters
        pairs = self.history_size, len(parameters)
        return [
            *(xp.zeros_like(parameters) for _ in range(3)),
            *(xp.zeros(pairs, dtype=parameters.dtype) for _ in range(2)),
            xp.zeros(NUMBERS, dtype="float64"),
        ]

    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        parameters, gradients, origin, gradient, direction, _steps, _changes, numbers = vectors
        loss, self.stopped = float(coefficients[0]), ""
        pairs, search = _unpacked(backend, numbers)
        if search.phase == START:
            origin[...], gradient[...] = parameters, gradients
            pairs, search = self._aimed(backend, vectors, loss, pairs)
        else:
            search = advance(search, loss, _dot(backend, gradients, direction), self.c1, self.c2)
            if search.phase == ACCEPTED:
                pairs = self._keep_pair(backend, vectors, pairs)
                origin[...], gradient[...] = parameters, gradients
                pairs, search = self._aimed(backend, vectors, loss, pairs)
            elif search.phase == FAILED and pairs:
                pairs, search = self._aimed(backend, vectors, search.origin.loss, 0)
            elif search.phase == FAILED:
                self.stopped = "no step along the gradient makes the loss lower"
                search = search._replace(phase=START)
        if search.phase == START:
            parameters[...] = origin
        else:
            backend.compute(step_along, parameters, origin, direction, search.step)
            self.current_learning_rate = search.step
        _pack(backend, numbers, pairs, search)

    def _keep_pair(self, backend: Backend, vectors: tuple[Array, ...], pairs: int) -> int:
        """Keep how parameters and gradient differ from the origin's in place of the oldest; return their number."""
        parameters, gradients, origin, gradient, _direction, steps, changes, _numbers = vectors
        row, step, change = pairs % self.history_size, parameters - origin, gradients - gradient
        if not _dot(backend, step, change) > EPS * _dot(backend, change, change):
            return pairs
        steps[row], changes[row] = step, change
        return pairs + 1

    def _aimed(self, backend: Backend, vectors: tuple[Array, ...], loss: float, pairs: int) -> tuple[int, Search]:
        """Set the direction from the origin, where the loss is `loss`; return the number of pairs, and its search."""
        _parameters, _gradients, _origin, gradient, direction, *_others = vectors
        largest = float(backend.xp.max(backend.xp.abs(gradient)))
        if not (math.isfinite(loss) and math.isfinite(largest)):
            self.stopped = f"the loss is {loss}, the largest element of its gradient {largest}"
        elif largest <= self.tolerance_gradient:
            self.stopped = f"converged: no element of the gradient is above {self.tolerance_gradient:g}"
        self._two_loops(backend, vectors, pairs)
        slope = _dot(backend, gradient, direction)
        if not slope < 0:
            pairs = 0
            backend.compute(scale, direction, gradient, -1.0)
            slope = _dot(backend, gradient, direction)
        if not slope < 0:
            self.stopped = self.stopped or "converged: the gradient is too small to be squared"
        if self.stopped:
            return pairs, Search(START, 0, 0.0, *[Point(0.0, loss, 0.0)] * 3)
        step = self.learning_rate if pairs else self.learning_rate / math.sqrt(-slope)
        return pairs, begin(Point(0.0, loss, slope), step)

    def _two_loops(self, backend: Backend, vectors: tuple[Array, ...], pairs: int) -> None:
        """Write −H·g to the direction, from g at the origin and the pairs that are kept."""
        _parameters, _gradients, _origin, gradient, direction, steps, changes, _numbers = vectors
        kept = [number % self.history_size for number in range(max(0, pairs - self.history_size), pairs)]
        backend.compute(scale, direction, gradient, -1.0)
        curvatures = {row: _dot(backend, steps[row], changes[row]) for row in kept}
        factors = {}
        for row in reversed(kept):
            factors[row] = _dot(backend, steps[row], direction) / curvatures[row]
            backend.compute(sgd, direction, changes[row], factors[row])
        if kept:
            last = kept[-1]
            backend.compute(
                *(scale, direction, direction, curvatures[last] / _dot(backend, changes[last], changes[last]))
            )
        for row in kept:
            factor = _dot(backend, changes[row], direction) / curvatures[row] - factors[row]
            backend.compute(sgd, direction, steps[row], factor)

    def bound_updates(self, parameters: Any, gradients: Iterable[Any]) -> Iterator[Any]:
        """See `Optimizer.bound_updates`; every trial is taken to be good enough."""
        pairs: list[tuple[Any, Any]] = []
        before = step = None
        for gradient in gradients:
            if before is not None:
                pairs = [*pairs, (step, gradient - before)][-self.history_size :]
            direction, before = self._bound_direction(gradient, pairs), gradient
            factor = self.learning_rate
            if not pairs:
                factor = direction.exactly(1.0) * factor / (gradient * gradient).sum(keepdims=True).sqrt()
            origin = parameters.exactly(parameters.value)
            step = (origin + direction * factor) - origin  # what both have of errors, the difference has not
            parameters = parameters + direction * factor
            yield parameters

    def _bound_direction(self, gradient: Any, pairs: Sequence[tuple[Any, Any]]) -> Any:
        """Return −H·g as `_two_loops` does, of `Bounded`."""

        def dot(a: Any, b: Any) -> Any:
            return (a * b).sum(keepdims=True)

        direction, factors = -gradient, []
        for step, change in reversed(pairs):
            factors.append(dot(step, direction) / dot(step, change))
            direction = direction - change * factors[-1]
        if pairs:
            step, change = pairs[-1]
            direction = direction * (dot(step, change) / dot(change, change))
        for (step, change), factor in zip(pairs, reversed(factors), strict=True):
            direction = direction + step * (factor - dot(change, direction) / dot(step, change))
        return direction


NUMBERS = 13
"""How many numbers a search and the count of pairs are."""


def _unpacked(backend: Backend, numbers: Array) -> tuple[int, Search]:
    """Return the number of pairs kept so far, and the search."""
    pairs, phase, tries, step, *points = backend.to_host(numbers).tolist()
    origin, low, high = (Point(*points[place : place + 3]) for place in range(0, 9, 3))
    return int(pairs), Search(phase, tries, step, origin, low, high)


def _pack(backend: Backend, numbers: Array, pairs: int, search: Search) -> None:
    phase, tries, step, *points = search
    numbers[...] = backend.asarray([pairs, phase, tries, step, *(value for point in points for value in point)])


def _dot(backend: Backend, a: Array, b: Array) -> float:
    """Return the product of two vectors, waiting for it."""
    out = backend.xp.empty((1, 1), dtype=a.dtype)
    backend.dot(a.reshape(1, -1), b.reshape(-1, 1), out)
    return float(backend.to_host(out)[0, 0])
