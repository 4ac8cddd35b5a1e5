"""JAX: the whole step in one jit, parameters and moments donated."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bench.engines.base import LOSS_SCALE, Engine, NotHereError, Schedule, Task, first_line, imported
from fmnist_xp.machine import usable_cores


class Jax(Engine):
    """Value, gradient and update as one compiled function."""

    name = "JAX, jit"

    def __init__(self, task: Task) -> None:
        """Put all on the device; raise `NotHereError` without JAX or, on a GPU, without its CUDA build."""
        # Both are read when JAX first starts a device: as many threads as the others, and memory as it is needed.
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
            scaled = f"the loss is scaled by {LOSS_SCALE:g}, which the update divides out"
            self.note = f"halves enter the products, float32 comes out; {scaled}"
        moments = 2 if task.experiment.optimizer == "adam" else int(task.experiment.momentum > 0)
        with self.session():
            rows = task.rows(), task.y.astype("int32")
            self._X, self._y, self._parameters = jax.device_put((*rows, task.dense()), device)
            self._moments = tuple(jax.tree.map(jax.numpy.zeros_like, self._parameters) for _ in range(moments))
        self._schedule = Schedule(task.experiment)
        self._step = jax.jit(_step(jax, task), donate_argnums=(0, 1))

    def epoch(self) -> tuple[Any, Any]:
        """Return loss and accuracy as arrays of the device."""
        self._parameters, self._moments, loss, accuracy = self._step(
            self._parameters, self._moments, self._X, self._y, *self._schedule.next()
        )
        return loss, accuracy

    def synchronize(self) -> None:
        """Wait for the last update."""
        self._jax.block_until_ready(self._parameters)

    @contextmanager
    def session(self) -> Iterator[None]:
        """Hold all cores, and 64-bit arrays on where they are computed with, off where not."""
        config = self._jax.config
        before = config.jax_enable_x64
        config.update("jax_enable_x64", self._double)
        try:
            with super().session():
                yield
        finally:
            config.update("jax_enable_x64", before)


def _product(jax: Any, precision: str) -> Callable[[Any, Any], Any]:
    """Return a · b, differentiable, with products in `precision` forward and backward, sums never below float32."""
    if precision != "float16":
        # To be said of every product: by itself JAX rounds float32 operands to TF32 on a GPU that has it.
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

    # JAX's own gradient of `dot` would multiply float32 by halves, which GPUs do as float32.
    halves = jax.custom_vjp(lambda a, b: forward(a, b)[0])
    halves.defvjp(forward, backward)
    return lambda a, b: halves(a.astype("float16"), b)


def _step(jax: Any, task: Task) -> Any:
    """Return the function (parameters, moments, X, y, rate, corrections) → (parameters, moments, loss, accuracy)."""
    experiment, scale, np = task.experiment, task.loss_scale, jax.numpy
    product = _product(jax, task.precision)
    b1, b2 = Schedule.beta_1, Schedule.beta_2

    def figures(parameters: Any, X: Any, y: Any) -> Any:
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
        gradients, (loss, accuracy) = jax.grad(figures, has_aux=True)(parameters, X, y)
        gradients = each(lambda g: g / scale, gradients)
        if experiment.optimizer == "adam":
            m = each(lambda m, g: b1 * m + (1 - b1) * g, moments[0], gradients)
            c = each(lambda c, g: b2 * c + (1 - b2) * g * g, moments[1], gradients)
            updates = each(lambda m, c: -rate * (m / k1) / (np.sqrt(c / k2) + Schedule.epsilon), m, c)
            moments = (m, c)
        elif moments:
            updates = each(lambda v, g: experiment.momentum * v - rate * g, moments[0], gradients)
            moments = (updates,)
        else:
            updates = each(lambda g: -rate * g, gradients)
        return each(np.add, parameters, updates), moments, loss, accuracy

    return step
