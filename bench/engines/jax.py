"""JAX: the whole step in one jit, parameters and moments donated."""

import os
from typing import Any

from bench.engines.base import Engine, NotHereError, Schedule, Task, first_line, imported
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
        self._X, self._y, self._parameters = jax.device_put((task.X, task.y.astype("int32"), task.dense()), device)
        moments = 2 if task.experiment.optimizer == "adam" else int(task.experiment.momentum > 0)
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


def _step(jax: Any, task: Task) -> Any:
    """Return the function (parameters, moments, X, y, rate, corrections) → (parameters, moments, loss, accuracy)."""
    experiment, np = task.experiment, jax.numpy
    b1, b2 = Schedule.beta_1, Schedule.beta_2

    def figures(parameters: Any, X: Any, y: Any) -> Any:
        values = X
        for weights, biases in parameters[:-1]:
            values = jax.nn.relu(values @ weights + biases)
        logits = values @ parameters[-1][0] + parameters[-1][1]
        likelihoods = jax.nn.log_softmax(logits) * jax.nn.one_hot(y, logits.shape[1])
        penalty = experiment.l2 * sum((values**2).sum() for values in parameters[0])
        return penalty - likelihoods.sum() / len(y), (logits.argmax(1) == y).mean()

    def step(parameters: Any, moments: Any, X: Any, y: Any, rate: Any, k1: Any, k2: Any) -> Any:
        (loss, accuracy), gradients = jax.value_and_grad(figures, has_aux=True)(parameters, X, y)
        each = jax.tree.map
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
