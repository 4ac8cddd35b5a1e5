"""What all optimizers have: a learning rate, the vectors that they keep, clipping, and an average of the weights.

An optimizer updates anything with `parameters`, `gradients` (vectors of one length) and a `backend`: a whole
network, or a single Dense layer by hand, as in the notebook:

    optimizer.pre_update_params()
    optimizer.update_params(dense1)
    optimizer.update_params(dense2)
    optimizer.post_update_params()

Networks, layers and optimizers can be pickled and copied (`copy.deepcopy`). Together, in one pickle or copy,
`(network, optimizer)`, they go on as the originals would, to the same bits.
"""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from fmnist_xp.arguments import real_number
from fmnist_xp.backend import Array, Backend, elementwise
from fmnist_xp.optim.schedules import Schedule, inverse_time, make_schedule
from fmnist_xp.registry import call_text, configuration


class Trainable(Protocol):
    """What an optimizer updates."""

    backend: Backend
    parameters: Array
    gradients: Array


class Key:
    """Stands for a network or layer in the optimizers that update it: it has the key, and they hold that weakly.

    In a pickle or a copy of both it is one object again; in one of the optimizer alone nothing else holds it.
    """


class Moments(NamedTuple):
    """The vectors that an optimizer keeps for one of parameters."""

    backend: Backend
    vectors: list[Array]


@elementwise
def clip(xp: Any, gradients: Array, squared_norm: Array, clip_norm: float) -> None:
    """g ← g · c / max(‖g‖, c), which is g · min(1, c / ‖g‖)."""
    xp.multiply(gradients, clip_norm / xp.maximum(xp.sqrt(squared_norm), clip_norm), out=gradients)


@elementwise
def average(xp: Any, averages: Array, parameters: Array, weight: float) -> None:
    """a ← a + w · (θ − a)."""
    xp.add(averages, weight * (parameters - averages), out=averages)


ADDED: Mapping[str, Any] = {"nesterov": False, "clip_norm": None, "ema": None}
"""Arguments that versions before did not have: named where they change something, so that older files still fit."""


class Optimizer(ABC):
    """The learning rate of each update, and the moments of what is updated.

    `iterations` is t, the number of updates made; `current_learning_rate` that of the last update, or lr₀ before
    the first.

    A pickle or a deep copy has all of this, and the moments of the networks and layers that are pickled or copied
    with it. Of one that is pickled or copied alone the moments, though the pickle has them, belong to nothing that is
    there: whatever it updates, it begins with zeros, at the same point of its schedule. For a network that comes
    another way, take them from `state` and give them to `load_state`. A shallow copy (`copy.copy`) goes on with the
    same network, with moments of its own.

    Parameters
    ----------
    learning_rate
        A number above 0, a `Schedule`, or the `config()` of one.
    decay
        Of a number: the rate of update t is lr₀ / (1 + decay · t), as of `InverseTime`. At least 0.
    clip_norm
        The largest norm of the gradient, above 0: a longer one is scaled down to it, in place, before the update
        (Pascanu, Mikolov & Bengio, *On the difficulty of training recurrent neural networks*, ICML 2013). The norm is
        that of all of `gradients`: a network's, or, by hand, a layer's.
    ema
        The decay d, from 0 to below 1, of an exponential moving average of the weights, with which `fit` ends:
        aₜ = (1 − d) · Σₖ dᵗ⁻ᵏ · θₖ / (1 − dᵗ) over the weights θ₁ … θₜ after each update (Polyak & Juditsky,
        *Acceleration of stochastic approximation by averaging*, SIAM J. Control Optim. 30, 1992, averaged all alike;
        the correction 1 − dᵗ is Adam's). Rows held out are measured with it; the loss that is logged, and what a
        callback sees, are the weights' own. Another `fit` goes on from the average, one that resumes from a
        checkpoint from the weights themselves.

    Raises
    ------
    ValueError
        For what is out of these ranges.
    """

    moments: int
    """Number of vectors that the rule keeps for each vector of parameters."""
    needs_loss = False
    """Whether `step` needs the loss that the gradient is of."""
    stopped = ""
    """Why there is nothing left to do, once there is not."""
    clip_norm: float | None = None
    ema: float | None = None

    def __init__(
        self,
        learning_rate: float | Schedule | Mapping[str, Any],
        decay: float = 0.0,
        clip_norm: float | None = None,
        ema: float | None = None,
    ) -> None:
        self.learning_rate: Any = learning_rate
        if isinstance(learning_rate, Mapping):
            self.learning_rate = make_schedule(learning_rate)
        elif not isinstance(learning_rate, Schedule):
            self.learning_rate = real_number("learning_rate", learning_rate, 0, open_low=True)
        self.decay = real_number("decay", decay, 0)
        if self.decay and isinstance(self.learning_rate, Schedule):
            raise ValueError(f"decay is for a learning_rate that is a number, got {self.learning_rate!r}")
        self.clip_norm = None if clip_norm is None else real_number("clip_norm", clip_norm, 0, open_low=True)
        self.ema = None if ema is None else real_number("ema", ema, 0, 1)
        self.iterations = 0
        self.current_learning_rate = self.rate(0)
        self._moments: WeakKeyDictionary[Key, Moments] = WeakKeyDictionary()

    @reprlib.recursive_repr("…")
    def __repr__(self) -> str:
        """Return the call that makes one like it, without what is at its default."""
        return call_text(self, lambda: configuration(self))

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, with all moments, on the host, and the keys that they belong to."""
        moments = [
            (key, backend, list(map(backend.to_host, vectors))) for key, (backend, vectors) in self._moments.items()
        ]
        return {**vars(self), "_moments": moments}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes of a pickle or a copy."""
        vars(self).update(state)
        self._moments = WeakKeyDictionary()
        for key, backend, arrays in state["_moments"]:
            with backend.current():
                self._moments[key] = Moments(backend, [backend.xp.array(array) for array in arrays])

    def rate(self, update: int) -> float:
        """Return the learning rate of an update by its number, from 0 on."""
        if isinstance(self.learning_rate, Schedule):
            return self.learning_rate(update)
        return inverse_time(self.learning_rate, self.decay, update)

    def pre_update_params(self) -> None:
        """Set the learning rate of the coming update."""
        self.current_learning_rate = self.rate(self.iterations)

    def coefficients(self) -> tuple[float, ...]:
        """Return the numbers of the coming update that change from one update to the next.

        The learning rate and, with `ema`, the weight of the new parameters in the average, (1 − d) / (1 − dᵗ⁺¹).
        """
        if self.ema is None:
            return (self.current_learning_rate,)
        return self.current_learning_rate, (1 - self.ema) / (1 - self.ema ** (self.iterations + 1))

    def next_coefficients(self) -> tuple[float, ...]:
        """Return the numbers of the coming update, and count it as made."""
        self.pre_update_params()
        coefficients = self.coefficients()
        self.post_update_params()
        return coefficients

    def update_params(self, target: Trainable, coefficients: Sequence[Any] | None = None) -> None:
        """Update the parameters of `target`, a network or a Dense layer, from its gradients.

        `coefficients` takes the place of `coefficients()`: numbers, or arrays (1,) of the device and of the dtype of
        the parameters, which may hold others when the same update is made again.
        """
        coefficients = self.coefficients() if coefficients is None else coefficients
        backend, parameters, gradients = target.backend, target.parameters, target.gradients
        with backend.current():
            moments = self._moments_of(target)
            if self.clip_norm is not None:
                *moments, squared_norm = moments
                backend.dot(gradients.reshape(1, -1), gradients.reshape(-1, 1), squared_norm.reshape(1, 1))
                backend.compute(clip, gradients, squared_norm, self.clip_norm)
            self.compute_update(backend, (parameters, gradients, *moments), coefficients)

    def compute_update(self, backend: Any, vectors: Sequence[Any], coefficients: Sequence[Any]) -> None:
        """Ask `backend` to compute the update, and the average, of `vectors` in place.

        These are the parameters, their gradients, clipped, and what `vectors_of` has but for the squared norm.
        """
        if self.ema is None:
            self._update(backend, tuple(vectors), coefficients)
            return
        (*vectors, averages), (*coefficients, weight) = vectors, coefficients
        self._update(backend, tuple(vectors), coefficients)
        backend.compute(average, averages, vectors[0], weight)

    def vectors_of(self, target: Trainable) -> list[Array]:
        """Return what is kept of `target` from one update to the next, in place: moments, and with `ema` the average.

        With `clip_norm` there is room for the squared norm of its gradients, too, (1,).
        """
        with target.backend.current():
            return self._moments_of(target)

    def post_update_params(self) -> None:
        """Count the update."""
        self.iterations += 1

    def step(self, target: Trainable, loss: float | None = None) -> None:
        """Make one whole update of `target`; `loss` is what the gradient is of, for an optimizer that needs it."""
        self.pre_update_params()
        self.update_params(target, [loss] if self.needs_loss and loss is not None else None)
        self.post_update_params()

    def trying(self, target: Trainable) -> bool:
        """Return whether the parameters of `target` are a trial that may turn out to be a bad one."""
        return False

    def result(self, target: Trainable) -> Array | None:
        """Return the parameters to end with, a vector, where these are others than those of `target`.

        That is, with `ema`, the average, of which the device is current.
        """
        if self.ema is None or not self.iterations:
            return None
        return self._moments_of(target)[self.moments]

    @contextmanager
    def result_in(self, target: Trainable) -> Iterator[None]:
        """Let `target` have the parameters to end with for the time of a block: the values in the same array."""
        with target.backend.current():
            result = self.result(target)
            if result is None:
                yield
                return
            own = target.parameters.copy()
            target.parameters[...] = result
            try:
                yield
            finally:
                target.parameters[...] = own

    def finish(self, target: Trainable) -> None:
        """Let `target` have the parameters to end with, from which it may train on."""
        with target.backend.current():
            result = self.result(target)
            if result is not None:
                target.parameters[...] = result

    def state(self, target: Trainable) -> list[Any]:
        """Return copies of the moments of `target`, in order, as NumPy arrays; zeros where it has none yet.

        With `ema` the average comes after the rule's own.
        """
        with target.backend.current():
            return [target.backend.to_host(vector).copy() for vector in self._kept(target)]

    def load_state(self, target: Trainable, arrays: Iterable[Any]) -> None:
        """Make `arrays`, as `state` has them, the moments of `target`.

        Raises `ValueError`, and changes nothing, where their number or the shape of one differs.
        """
        given = list(arrays)
        with target.backend.current():
            kept = self._kept(target)
            if len(given) != len(kept):
                raise ValueError(f"{self!r} keeps {len(kept)} moments, got {len(given)}")
            names = [f"moment {number}" for number in range(1, len(given) + 1)]
            numbers = [target.backend.numbers(*pair) for pair in zip(given, names, strict=True)]
            for name, values, vector in zip(names, numbers, kept, strict=True):
                if values.shape != vector.shape:
                    raise ValueError(f"{name} must have the shape {vector.shape}, got {values.shape}")
            for vector, values in zip(kept, numbers, strict=True):
                vector[...] = values  # in place: a CUDA graph has its address

    def _kept(self, target: Trainable) -> list[Array]:
        """Return those of the vectors of `target` that the next update depends on."""
        moments = self._moments_of(target)
        return moments if self.clip_norm is None else moments[:-1]

    def _moments_of(self, target: Trainable) -> list[Array]:
        """Return the vectors of `target`, of which the device is current: as they are at first, if there are none."""
        key = vars(target).setdefault("_moments_key", Key())  # not by assigning, which a layer looks at
        moments = self._moments.get(key)
        if moments is None:
            moments = self._moments[key] = Moments(target.backend, self._first_moments(target))
        return moments.vectors

    def _first_moments(self, target: Trainable) -> list[Array]:
        """Return new vectors: zeros for the rule's, the parameters for their average, room for the squared norm."""
        xp, parameters = target.backend.xp, target.parameters
        moments = [xp.zeros_like(parameters) for _ in range(self.moments)]
        if self.ema is not None:
            moments.append(parameters.copy())
        if self.clip_norm is not None:
            moments.append(xp.zeros(1, dtype=parameters.dtype))
        return moments

    @abstractmethod
    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        """Make the update of one vector, in place; `vectors` are the parameters, their gradients and moments."""

    def bound_updates(self, parameters: Any, gradients: Iterable[Any]) -> Iterator[Any]:
        """Yield the parameters after each update from the first on, all of them `fmnist_xp.parity.bounds.Bounded`.

        Every registered optimizer has its formulas written out here a second time, for `fmnist_xp.parity`.
        """
        raise TypeError(f"{type(self).__name__} does not define bound_updates")

    def bound_gradients(self, gradients: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Yield the number of each update and its gradient, clipped: what `bound_updates` begins with."""
        for number, gradient in enumerate(gradients):
            if self.clip_norm is None:
                yield number, gradient
            else:
                norm = (gradient * gradient).sum(keepdims=True).sqrt().maximum(self.clip_norm)
                yield number, gradient * self.clip_norm / norm

    def bound_average(self, start: Any, parameters: Iterable[Any]) -> Any:
        """Return, with `ema`, the average after updates from `start` to each of `parameters`, all `Bounded`."""
        averages, decay = start, self.ema or 0.0
        for number, vector in enumerate(parameters, start=1):
            averages = averages + (vector - averages) * ((1 - decay) / (1 - decay**number))
        return averages

    def config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values: the attributes of the same names.

        A schedule is what its own `config` returns. Those of `ADDED` are left out where they change nothing.
        """
        given = configuration(self)
        plain = {name: value.config() if isinstance(value, Schedule) else value for name, value in given.items()}
        return {name: value for name, value in plain.items() if name not in ADDED or value != ADDED[name]}
