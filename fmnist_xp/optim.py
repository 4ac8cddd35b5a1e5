"""Optimizers: one expression each on a vector of parameters, its gradient and its moments.

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
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from fmnist_xp.arguments import real_number
from fmnist_xp.backend import Array, Backend, elementwise
from fmnist_xp.registry import call_text, configuration, register, registered


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
def sgd(xp: Any, parameters: Array, gradients: Array, learning_rate: float) -> None:
    """θ ← θ − lr·g."""
    xp.subtract(parameters, learning_rate * gradients, out=parameters)


@elementwise
def sgd_momentum(
    xp: Any, parameters: Array, gradients: Array, velocity: Array, learning_rate: float, momentum: float
) -> None:
    """v ← μ·v − lr·g, θ ← θ + v."""
    xp.subtract(momentum * velocity, learning_rate * gradients, out=velocity)
    xp.add(parameters, velocity, out=parameters)


@elementwise
def adam(
    xp: Any,
    parameters: Array,
    gradients: Array,
    m: Array,
    v: Array,
    one_minus_beta_1: float,
    one_minus_beta_2: float,
    correction_1: float,
    correction_2: float,
    learning_rate: float,
    epsilon: float,
) -> None:
    """m ← m + (1 − β₁)(g − m), v ← v + (1 − β₂)(g² − v), θ ← θ − lr · m̂ / (√v̂ + ε); x̂ᵢ = xᵢ / correctionᵢ."""
    # 1 − β comes in ready-made: in float32, 1 − 0.999 would be off by 5e-5.
    xp.add(m, one_minus_beta_1 * (gradients - m), out=m)
    xp.add(v, one_minus_beta_2 * (gradients * gradients - v), out=v)
    step = (m / correction_1) / (xp.sqrt(v / correction_2) + epsilon)
    xp.subtract(parameters, learning_rate * step, out=parameters)


class Optimizer(ABC):
    """The learning rate's schedule, lr₀ / (1 + decay · t), and the moments of what is updated.

    `iterations` is t, the number of updates made; `current_learning_rate` that of the last update, or lr₀ before
    the first.

    A pickle or a deep copy has all of this, and the moments of the networks and layers that are pickled or copied
    with it. Of one that is pickled or copied alone the moments, though the pickle has them, belong to nothing that is
    there: whatever it updates, it begins with zeros, at the same point of its schedule. For a network that comes
    another way, take them from `state` and give them to `load_state`. A shallow copy (`copy.copy`) goes on with the
    same network, with moments of its own.
    """

    moments: int
    """Number of vectors kept for each vector of parameters."""

    def __init__(self, learning_rate: float, decay: float) -> None:
        self.learning_rate = real_number("learning_rate", learning_rate, 0, open_low=True)
        self.decay = real_number("decay", decay, 0)
        self.current_learning_rate = self.learning_rate
        self.iterations = 0
        self._moments: WeakKeyDictionary[Key, Moments] = WeakKeyDictionary()

    @reprlib.recursive_repr("…")
    def __repr__(self) -> str:
        """Return the call that makes one like it, without what is at its default."""
        return call_text(self, self.config)

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

    def pre_update_params(self) -> None:
        """Set the learning rate of the coming update."""
        self.current_learning_rate = self.learning_rate / (1 + self.decay * self.iterations)

    def coefficients(self) -> tuple[float, ...]:
        """Return the numbers of the coming update that change from one update to the next."""
        return (self.current_learning_rate,)

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
        with target.backend.current():
            moments = self._moments_of(target)
            self._update(target.backend, (target.parameters, target.gradients, *moments), coefficients)

    def post_update_params(self) -> None:
        """Count the update."""
        self.iterations += 1

    def step(self, target: Trainable) -> None:
        """Make one whole update of `target`."""
        self.pre_update_params()
        self.update_params(target)
        self.post_update_params()

    def state(self, target: Trainable) -> list[Any]:
        """Return copies of the moments of `target`, in order, as NumPy arrays; zeros where it has none yet."""
        with target.backend.current():
            return [target.backend.to_host(vector).copy() for vector in self._moments_of(target)]

    def load_state(self, target: Trainable, arrays: Iterable[Any]) -> None:
        """Make `arrays`, as `state` has them, the moments of `target`.

        Raises `ValueError`, and changes nothing, where their number or the shape of one differs.
        """
        given = list(arrays)
        if len(given) != self.moments:
            raise ValueError(f"{self!r} keeps {self.moments} moments, got {len(given)}")
        with target.backend.current():
            names = [f"moment {number}" for number in range(1, len(given) + 1)]
            numbers = [target.backend.numbers(*pair) for pair in zip(given, names, strict=True)]
            for name, values in zip(names, numbers, strict=True):
                if values.shape != target.parameters.shape:
                    raise ValueError(f"{name} must have the shape {target.parameters.shape}, got {values.shape}")
            for vector, values in zip(self._moments_of(target), numbers, strict=True):
                vector[...] = values  # in place: a CUDA graph has its address

    def _moments_of(self, target: Trainable) -> list[Array]:
        """Return the moments of `target`, of which the device is current: zeros at first."""
        key = vars(target).setdefault("_moments_key", Key())  # not by assigning, which a layer looks at
        moments = self._moments.get(key)
        if moments is None:
            zeros = [target.backend.xp.zeros_like(target.parameters) for _ in range(self.moments)]
            moments = self._moments[key] = Moments(target.backend, zeros)
        return moments.vectors

    @abstractmethod
    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        """Make the update of one vector, in place; `vectors` are the parameters, their gradients and moments."""

    def bound_updates(self, parameters: Any, gradients: Iterable[Any]) -> Iterator[Any]:
        """Yield the parameters after each update from the first on, all of them `fmnist_xp.parity.bounds.Bounded`.

        Every registered optimizer has its formulas written out here a second time, for `fmnist_xp.parity`.
        """
        raise TypeError(f"{type(self).__name__} does not define bound_updates")

    def config(self) -> dict[str, float]:
        """Return the constructor's arguments: the attributes of the same names."""
        return configuration(self)


@register("sgd")
class SGD(Optimizer):
    """Gradient descent, with momentum where `momentum` is above 0.

    θ ← θ − lr·g, or v ← μ·v − lr·g and θ ← θ + v with v = 0 at first (Sutskever et al., *On the importance of
    initialization and momentum in deep learning*, ICML 2013, equations 1 and 2).

    Parameters: `learning_rate` > 0, `decay` ≥ 0 and 0 ≤ `momentum` < 1, else `ValueError`.
    """

    def __init__(self, learning_rate: float = 1.0, decay: float = 0.0, momentum: float = 0.0) -> None:
        super().__init__(learning_rate, decay)
        self.momentum = real_number("momentum", momentum, 0, 1)
        self.moments = 1 if self.momentum else 0

    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        if self.momentum:
            backend.compute(sgd_momentum, *vectors, *coefficients, self.momentum)
        else:
            backend.compute(sgd, *vectors, *coefficients)

    def bound_updates(self, parameters: Any, gradients: Iterable[Any]) -> Iterator[Any]:
        """See `Optimizer.bound_updates`."""
        velocity = parameters.exactly(0 * parameters.value)
        for number, gradient in enumerate(gradients):
            step = gradient * (self.learning_rate / (1 + self.decay * number))
            velocity = velocity * self.momentum - step
            parameters = parameters + velocity if self.momentum else parameters - step
            yield parameters


@register("adam")
class Adam(Optimizer):
    """Adam (Kingma & Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015, algorithm 1).

    m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − lr · m̂ / (√v̂ + ε), with the corrected m̂ = m / (1 − β₁ᵗ⁺¹)
    and v̂ = v / (1 − β₂ᵗ⁺¹).

    Parameters: `learning_rate` > 0, `decay` ≥ 0, 0 ≤ `beta_1`, `beta_2` < 1 and `epsilon` > 0, else `ValueError`.
    """

    moments = 2

    def __init__(
        self,
        learning_rate: float = 0.001,
        decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
    ) -> None:
        super().__init__(learning_rate, decay)
        self.beta_1 = real_number("beta_1", beta_1, 0, 1)
        self.beta_2 = real_number("beta_2", beta_2, 0, 1)
        self.epsilon = real_number("epsilon", epsilon, 0, open_low=True)

    def coefficients(self) -> tuple[float, ...]:
        """Return the corrections 1 − βᵗ⁺¹ of both moments and the learning rate."""
        updates = self.iterations + 1
        return 1 - self.beta_1**updates, 1 - self.beta_2**updates, self.current_learning_rate

    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        backend.compute(adam, *vectors, 1 - self.beta_1, 1 - self.beta_2, *coefficients, self.epsilon)

    def bound_updates(self, parameters: Any, gradients: Iterable[Any]) -> Iterator[Any]:
        """See `Optimizer.bound_updates`."""
        m = v = parameters.exactly(0 * parameters.value)
        for number, gradient in enumerate(gradients):
            m = m + (gradient - m) * (1 - self.beta_1)
            v = v + (gradient * gradient - v) * (1 - self.beta_2)
            root = (v / (1 - self.beta_2 ** (number + 1))).sqrt()
            step = m / (1 - self.beta_1 ** (number + 1)) / (root + self.epsilon)
            if not number:  # |m̂| ≤ √v̂, so the quotient lies in [−1, 1], however unsure its parts are
                step = step.off_by_at_most(2.0)
            parameters = parameters - step * (self.learning_rate / (1 + self.decay * number))
            yield parameters


def make_optimizer(optimizer: Optimizer | type[Optimizer] | str | None) -> Optimizer:
    """Return `optimizer`, or one of this class or name with its own defaults; `SGD()` for None.

    Raises `ValueError` for anything else.
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    names = registered(Optimizer)  # type: ignore[type-abstract]
    if isinstance(optimizer, str):
        optimizer = names.get(optimizer.lower(), optimizer)
    kind = SGD if optimizer is None else optimizer
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        raise ValueError(f"optimizer must be one of {', '.join(names)}, or an Optimizer, got {optimizer!r}")
    return kind()  # type: ignore[call-arg]
