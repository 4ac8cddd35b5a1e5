"""Optimizers: one expression each on a vector of parameters, its gradient and its moments.

An optimizer updates anything with `parameters`, `gradients` (vectors of one length) and a `backend`: a whole
network, or a single Dense layer by hand, as in the notebook:

    optimizer.pre_update_params()
    optimizer.update_params(dense1)
    optimizer.update_params(dense2)
    optimizer.post_update_params()
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from fmnist_xp.arguments import real_number
from fmnist_xp.backend import Array, Backend, elementwise
from fmnist_xp.registry import configuration, register, registered


class Trainable(Protocol):
    """What an optimizer updates."""

    backend: Backend
    parameters: Array
    gradients: Array


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
    """

    moments: int
    """Number of vectors kept for each vector of parameters."""

    def __init__(self, learning_rate: float, decay: float) -> None:
        self.learning_rate = real_number("learning_rate", learning_rate, 0, open_low=True)
        self.decay = real_number("decay", decay, 0)
        self.current_learning_rate = self.learning_rate
        self.iterations = 0
        self._moments: WeakKeyDictionary[Trainable, list[Array]] = WeakKeyDictionary()

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
            moments = self._moments.get(target)
            if moments is None:
                zeros = target.backend.xp.zeros_like
                moments = self._moments[target] = [zeros(target.parameters) for _ in range(self.moments)]
            self._update(target.backend, (target.parameters, target.gradients, *moments), coefficients)

    def state(self, target: Trainable) -> list[Any]:
        """Return the moments of `target` as NumPy arrays, zeros where no update was made."""
        moments = self._moments.get(target)
        if moments is None:
            with target.backend.current():
                moments = [target.backend.xp.zeros_like(target.parameters) for _ in range(self.moments)]
        return [target.backend.to_host(values).copy() for values in moments]

    def load_state(self, target: Trainable, arrays: Sequence[Any]) -> None:
        """Make copies of `arrays` the moments of `target`; `ValueError` where they do not fit."""
        shape = target.parameters.shape
        if len(arrays) != self.moments or any(values.shape != shape for values in arrays):
            raise ValueError(f"there must be {self.moments} moments of the shape {shape}")
        dtype = target.parameters.dtype
        self._moments[target] = [target.backend.asarray(values, dtype).copy() for values in arrays]

    def post_update_params(self) -> None:
        """Count the update."""
        self.iterations += 1

    def step(self, target: Trainable) -> None:
        """Make one whole update of `target`."""
        self.pre_update_params()
        self.update_params(target)
        self.post_update_params()

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
