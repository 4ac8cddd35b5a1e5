"""Rules of one update: an expression each on a vector of parameters, its gradient and its moments."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fmnist_xp.arguments import real_number
from fmnist_xp.backend import Array, Backend, elementwise
from fmnist_xp.optim.optimizer import Optimizer
from fmnist_xp.optim.schedules import Schedule
from fmnist_xp.registry import register


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
def sgd_nesterov(
    xp: Any, parameters: Array, gradients: Array, velocity: Array, learning_rate: float, momentum: float
) -> None:
    """v ← μ·v − lr·g, θ ← θ + μ·v − lr·g."""
    step = learning_rate * gradients
    xp.subtract(momentum * velocity, step, out=velocity)
    xp.add(parameters, momentum * velocity - step, out=parameters)


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


@elementwise
def adamw(
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
    weight_decay: float,
) -> None:
    """θ ← θ − lr·λ·θ, then as `adam`."""
    xp.subtract(parameters, learning_rate * weight_decay * parameters, out=parameters)
    constants = one_minus_beta_1, one_minus_beta_2, correction_1, correction_2, learning_rate, epsilon
    adam(xp, parameters, gradients, m, v, *constants)


@elementwise
def rmsprop(
    xp: Any,
    parameters: Array,
    gradients: Array,
    v: Array,
    one_minus_rho: float,
    learning_rate: float,
    epsilon: float,
) -> None:
    """v ← v + (1 − ρ)(g² − v), θ ← θ − lr · g / (√v + ε)."""
    xp.add(v, one_minus_rho * (gradients * gradients - v), out=v)
    xp.subtract(parameters, learning_rate * (gradients / (xp.sqrt(v) + epsilon)), out=parameters)


@elementwise
def adagrad(xp: Any, parameters: Array, gradients: Array, v: Array, learning_rate: float, epsilon: float) -> None:
    """v ← v + g², θ ← θ − lr · g / (√v + ε)."""
    xp.add(v, gradients * gradients, out=v)
    xp.subtract(parameters, learning_rate * (gradients / (xp.sqrt(v) + epsilon)), out=parameters)


Rate = float | Schedule | Mapping[str, Any]


@register("sgd")
class SGD(Optimizer):
    """Gradient descent, with momentum where `momentum` is above 0.

    θ ← θ − lr·g, or v ← μ·v − lr·g and θ ← θ + v with v = 0 at first (Sutskever et al., *On the importance of
    initialization and momentum in deep learning*, ICML 2013, equations 1 and 2). With `nesterov` θ ← θ + μ·v − lr·g,
    their equations 3 and 4 with the parameters kept where the gradient is taken, θ + μ·v (Bengio,
    Boulanger-Lewandowski & Pascanu, *Advances in optimizing recurrent networks*, ICASSP 2013, equation 7).

    Parameters: `learning_rate` > 0, `decay` ≥ 0, 0 ≤ `momentum` < 1 and not 0 with `nesterov`, else `ValueError`;
    `clip_norm` and `ema` as of `Optimizer`.
    """

    nesterov = False  # of a pickle that is older

    def __init__(
        self,
        learning_rate: Rate = 1.0,
        decay: float = 0.0,
        momentum: float = 0.0,
        nesterov: bool = False,
        *,
        clip_norm: float | None = None,
        ema: float | None = None,
    ) -> None:
        super().__init__(learning_rate, decay, clip_norm, ema)
        self.momentum = real_number("momentum", momentum, 0, 1)
        if nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")
        self.nesterov = bool(nesterov)
        self.moments = 1 if self.momentum else 0

    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        if self.momentum:
            backend.compute(sgd_nesterov if self.nesterov else sgd_momentum, *vectors, *coefficients, self.momentum)
        else:
            backend.compute(sgd, *vectors, *coefficients)

    def bound_updates(self, parameters: Any, gradients: Iterable[Any]) -> Iterator[Any]:
        """See `Optimizer.bound_updates`."""
        velocity = parameters.exactly(0 * parameters.value)
        for number, gradient in self.bound_gradients(gradients):
            step = gradient * self.rate(number)
            velocity = velocity * self.momentum - step
            change = velocity * self.momentum - step if self.nesterov else velocity
            parameters = parameters + change if self.momentum else parameters - step
            yield parameters


@register("adam")
class Adam(Optimizer):
    """Adam (Kingma & Ba, *Adam: A Method for Stochastic Optimization*, ICLR 2015, algorithm 1).

    m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − lr · m̂ / (√v̂ + ε), with the corrected m̂ = m / (1 − β₁ᵗ⁺¹)
    and v̂ = v / (1 − β₂ᵗ⁺¹).

    Parameters: `learning_rate` > 0, `decay` ≥ 0, 0 ≤ `beta_1`, `beta_2` < 1 and `epsilon` > 0, else `ValueError`;
    `clip_norm` and `ema` as of `Optimizer`.
    """

    moments = 2

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        *,
        clip_norm: float | None = None,
        ema: float | None = None,
    ) -> None:
        super().__init__(learning_rate, decay, clip_norm, ema)
        self.beta_1 = real_number("beta_1", beta_1, 0, 1)
        self.beta_2 = real_number("beta_2", beta_2, 0, 1)
        self.epsilon = real_number("epsilon", epsilon, 0, open_low=True)

    def coefficients(self) -> tuple[float, ...]:
        """Return the corrections 1 − βᵗ⁺¹ of both moments and what `Optimizer.coefficients` has."""
        updates = self.iterations + 1
        return 1 - self.beta_1**updates, 1 - self.beta_2**updates, *super().coefficients()

    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        backend.compute(adam, *vectors, 1 - self.beta_1, 1 - self.beta_2, *coefficients, self.epsilon)

    def bound_updates(self, parameters: Any, gradients: Iterable[Any]) -> Iterator[Any]:
        """See `Optimizer.bound_updates`."""
        m = v = parameters.exactly(0 * parameters.value)
        for number, gradient in self.bound_gradients(gradients):
            m = m + (gradient - m) * (1 - self.beta_1)
            v = v + (gradient * gradient - v) * (1 - self.beta_2)
            root = (v / (1 - self.beta_2 ** (number + 1))).sqrt()
            step = m / (1 - self.beta_1 ** (number + 1)) / (root + self.epsilon)
            if not number:  # |m̂| ≤ √v̂, so the quotient lies in [−1, 1], however unsure its parts are
                step = step.off_by_at_most(2.0)
            parameters = self._bound_decayed(parameters, number) - step * self.rate(number)
            yield parameters

    def _bound_decayed(self, parameters: Any, number: int) -> Any:
        """Return the parameters that an update's step is subtracted from."""
        return parameters


@register("adamw")
class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov & Hutter, *Decoupled Weight Decay*, ICLR 2019).

    θ ← θ − lr·λ·θ, then Adam's update; λ is `weight_decay`. As of `torch.optim.AdamW`, all parameters decay, biases
    too, and by the rate that the schedule gives.

    Parameters: those of `Adam`, and `weight_decay` ≥ 0, else `ValueError`.
    """

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        weight_decay: float = 0.01,
        *,
        clip_norm: float | None = None,
        ema: float | None = None,
    ) -> None:
        super().__init__(learning_rate, decay, beta_1, beta_2, epsilon, clip_norm=clip_norm, ema=ema)
        self.weight_decay = real_number("weight_decay", weight_decay, 0)

    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        numbers = 1 - self.beta_1, 1 - self.beta_2, *coefficients, self.epsilon, self.weight_decay
        backend.compute(adamw, *vectors, *numbers)

    def _bound_decayed(self, parameters: Any, number: int) -> Any:
        # The rate and λ are rounded apart, and their product is.
        rate = parameters.exactly(1.0) * self.rate(number)
        return parameters - parameters * (rate * self.weight_decay)


@register("rmsprop")
class RMSProp(Optimizer):
    """RMSProp (Hinton, *Neural Networks for Machine Learning*, Coursera 2012, lecture 6e), not centred.

    v ← ρ·v + (1 − ρ)·g² with v = 0 at first, θ ← θ − lr · g / (√v + ε).

    Parameters: `learning_rate` > 0, `decay` ≥ 0, 0 ≤ `rho` < 1 and `epsilon` > 0, else `ValueError`; `clip_norm` and
    `ema` as of `Optimizer`.
    """

    moments = 1

    def __init__(
        self,
        learning_rate: Rate = 0.001,
        decay: float = 0.0,
        rho: float = 0.9,
        epsilon: float = 1e-7,
        *,
        clip_norm: float | None = None,
        ema: float | None = None,
    ) -> None:
        super().__init__(learning_rate, decay, clip_norm, ema)
        self.rho = real_number("rho", rho, 0, 1)
        self.epsilon = real_number("epsilon", epsilon, 0, open_low=True)

    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        backend.compute(rmsprop, *vectors, 1 - self.rho, *coefficients, self.epsilon)

    def bound_updates(self, parameters: Any, gradients: Iterable[Any]) -> Iterator[Any]:
        """See `Optimizer.bound_updates`."""
        v = parameters.exactly(0 * parameters.value)
        for number, gradient in self.bound_gradients(gradients):
            v = v + (gradient * gradient - v) * (1 - self.rho)
            # g² ≤ v / (1 − ρ), so the quotient is at most 1 / √(1 − ρ), however unsure its parts are.
            step = (gradient / (v.sqrt() + self.epsilon)).off_by_at_most(2 * (1 - self.rho) ** -0.5)
            parameters = parameters - step * self.rate(number)
            yield parameters


@register("adagrad")
class AdaGrad(Optimizer):
    """AdaGrad (Duchi, Hazan & Singer, *Adaptive Subgradient Methods*, JMLR 12, 2011), of diagonal matrices.

    v ← v + g² with v = 0 at first, θ ← θ − lr · g / (√v + ε).

    Parameters: `learning_rate` > 0, `decay` ≥ 0 and `epsilon` > 0, else `ValueError`; `clip_norm` and `ema` as of
    `Optimizer`.
    """

    moments = 1

    def __init__(
        self,
        learning_rate: Rate = 0.01,
        decay: float = 0.0,
        epsilon: float = 1e-10,
        *,
        clip_norm: float | None = None,
        ema: float | None = None,
    ) -> None:
        super().__init__(learning_rate, decay, clip_norm, ema)
        self.epsilon = real_number("epsilon", epsilon, 0, open_low=True)

    def _update(self, backend: Backend, vectors: tuple[Array, ...], coefficients: Sequence[Any]) -> None:
        backend.compute(adagrad, *vectors, *coefficients, self.epsilon)

    def bound_updates(self, parameters: Any, gradients: Iterable[Any]) -> Iterator[Any]:
        """See `Optimizer.bound_updates`."""
        v = parameters.exactly(0 * parameters.value)
        for number, gradient in self.bound_gradients(gradients):
            v = v + gradient * gradient
            step = (gradient / (v.sqrt() + self.epsilon)).off_by_at_most(2.0)  # g² ≤ v
            parameters = parameters - step * self.rate(number)
            yield parameters
