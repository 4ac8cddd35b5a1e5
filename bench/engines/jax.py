"""JAX: the whole step in one jit, or ten of them, parameters and moments donated."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench.engines.base import LOG_EVERY, SCALED, Engine, NotHereError, Schedule, Task, first_line, imported
from fmnist_xp.machine import usable_cores


class Jax(Engine):
    """Value, gradient and update as one compiled function."""

    name = "JAX, jit"

    def __init__(self, task: Task) -> None:
        """Put all on the device; raise `NotHereError` without JAX or, on a GPU, without its CUDA build."""
        # Both are read when JAX first starts a device: as many threads as the others, and no memory in advance.
        os.environ.setdefault("PJRT_NPROC", str(usable_cores()))
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        self._jax = jax = imported("jax", "JAX")
        try:
            devices = jax.devices("cuda" if task.on_gpu else "cpu")
            device = devices[task.device_index]
        except (RuntimeError, IndexError) as error:
            raise NotHereError(f"the installed JAX finds no such device: {first_line(error)}") from error
        self._double = task.precision == "float64"
        if task.half:
            self.note = f"halves enter the products, float32 comes out; {SCALED}"
        moments = 2 if task.experiment.optimizer == "adam" else int(task.experiment.momentum > 0)
        with self.session():
            rows = task.rows(), task.y.astype("int32")
            self._X, self._y, self._parameters = jax.device_put((*rows, task.dense()), device)
            self._moments = tuple(jax.tree.map(jax.numpy.zeros_like, self._parameters) for _ in range(moments))
        self._schedule = Schedule(task.experiment)
        self._step = jax.jit(self._calls(_step(jax, task)), donate_argnums=(0, 1))

    def epoch(self) -> tuple[Any, Any]:
        """Return loss and accuracy as arrays of the device."""
        self._parameters, self._moments, loss, accuracy = self._step(
            self._parameters, self._moments, self._X, self._y, *self._scalars()
        )
        return loss, accuracy

    def _calls(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return what a call computes, as a function of what `step` takes and returns."""
        return step

    def _scalars(self) -> Iterable[Any]:
        """Return the learning rate and the corrections of a call."""
        return self._schedule.next()

    def synchronize(self) -> None:
        """Wait for the last update."""
        self._jax.block_until_ready(self._parameters)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Use all cores, and enable 64-bit arrays for float64 alone."""
        config = self._jax.config
        before = config.jax_enable_x64
        config.update("jax_enable_x64", self._double)
        try:
            with super().session():
                yield
        finally:
            config.update("jax_enable_x64", before)


class JaxLoop(Jax):
    """Ten epochs as one compiled function, with the loop on the device."""

    name = f"JAX, jit of {LOG_EVERY} epochs"
    epochs_a_call = LOG_EVERY

    def __init__(self, task: Task) -> None:
        """Note also how often loss and accuracy are computed."""
        super().__init__(task)
        loop = f"lax.fori_loop over {LOG_EVERY} epochs in one jit, with the figures of the first"
        self.note = "; ".join(filter(None, [loop, self.note]))

    def _calls(self, step: Callable[..., Any]) -> Callable[..., Any]:
        # The compiler knows the count: otherwise the host of a GPU would have to check after each epoch.
        def epochs(parameters: Any, moments: Any, X: Any, y: Any, *scalars: Any) -> Any:
            def epoch(number: Any, parameters: Any, moments: Any) -> Any:
                return step(parameters, moments, X, y, *(values[number] for values in scalars))

            parameters, moments, loss, accuracy = epoch(0, parameters, moments)
            # Nothing uses the metrics of the other epochs, so the compiler drops them.
            state = self._jax.lax.fori_loop(1, LOG_EVERY, lambda i, s: epoch(i, *s)[:2], (parameters, moments))
            return *state, loss, accuracy

        return epochs

    def _scalars(self) -> Iterable[Any]:
        dtype = self._parameters[0][0].dtype
        return np.array([self._schedule.next() for _ in range(LOG_EVERY)], dtype).T


def _product(jax: Any, precision: str) -> Callable[[Any, Any], Any]:
    """Return a · b, differentiable, with products in `precision` forward and backward, sums never below float32."""
    if precision != "float16":
        # Set for every product: by default JAX rounds float32 operands to TF32 on a GPU that has it.
        kind = "tensorfloat32" if precision == "tf32" else "highest"
        return lambda a, b: jax.numpy.matmul(a, b, precision=kind)

    def dot(a: Any, b: Any) -> Any:
        return jax.numpy.matmul(a, b, preferred_element_type="float32")

    def forward(a: Any, b: Any) -> tuple[Any, Any]:
        b = b.astype("float16")
        return dot(a, b), (a, b)

    def backward(operands: Any, gradient: Any) -> tuple[Any, Any]:
        a, b = operands
        gradient = gradient.astype("float16")
        return dot(gradient, b.T).astype("float16"), dot(a.T, gradient)

    # JAX's own gradient of `dot` would multiply float32 by float16, which GPUs do as float32.
    halves = jax.custom_vjp(lambda a, b: forward(a, b)[0])
    halves.defvjp(forward, backward)
    return lambda a, b: halves(a.astype("float16"), b)


def _step(jax: Any, task: Task) -> Any:
    """Return the function (parameters, moments, X, y, rate, corrections) → (parameters, moments, loss, accuracy)."""
    experiment, scale, jnp = task.experiment, task.loss_scale, jax.numpy
    product = _product(jax, task.precision)
    b1, b2 = Schedule.beta_1, Schedule.beta_2

    def objective(parameters: Any, X: Any, y: Any) -> Any:
        values = X
        for weights, biases in parameters[:-1]:
            values = jax.nn.relu(product(values, weights) + biases)
        logits = product(values, parameters[-1][0]) + parameters[-1][1]
        likelihoods = jax.nn.log_softmax(logits) * jax.nn.one_hot(y, logits.shape[1])
        penalty = experiment.l2 * sum((values**2).sum() for values in parameters[0])
        loss = penalty - likelihoods.sum() / len(y)
        return scale * loss, (loss, (logits.argmax(1) == y).mean())

    def step(parameters: Any, moments: Any, X: Any, y: Any, rate: Any, k1: Any, k2: Any) -> Any:
        each = jax.tree.map
        gradients, (loss, accuracy) = jax.grad(objective, has_aux=True)(parameters, X, y)
        gradients = each(lambda g: g / scale, gradients)
        if experiment.optimizer == "adam":
            m = each(lambda m, g: b1 * m + (1 - b1) * g, moments[0], gradients)
            c = each(lambda c, g: b2 * c + (1 - b2) * g * g, moments[1], gradients)
            updates = each(lambda m, c: -rate * (m / k1) / (jnp.sqrt(c / k2) + Schedule.epsilon), m, c)
            moments = (m, c)
        elif moments:
            updates = each(lambda v, g: experiment.momentum * v - rate * g, moments[0], gradients)
            moments = (updates,)
        else:
            updates = each(lambda g: -rate * g, gradients)
        return each(jnp.add, parameters, updates), moments, loss, accuracy

    return step
