"""scikit-learn's MLPClassifier, made to train on one full batch an epoch."""

import warnings
from typing import Any

import numpy as np

from bench.engines.base import Engine, NotHereError, Schedule, Task, imported


class ScikitLearn(Engine):
    """`partial_fit` with a batch of all rows; its optimizer's rate is set by hand before each."""

    name = "scikit-learn"
    note = (
        "MLPClassifier.partial_fit, batch_size = all rows, on the CPU: no L2 on one layer alone, so none; "
        "no accuracy; rows and labels are validated anew in every epoch"
    )
    l2 = False
    gpu = False

    def __init__(self, task: Task) -> None:
        """Replace the weights that it has drawn; raise `NotHereError` without scikit-learn, or on a GPU."""
        if task.on_gpu:
            raise NotHereError("scikit-learn's MLPClassifier has no GPU")
        module = imported("sklearn.neural_network", "scikit-learn")
        experiment = task.experiment
        self._X, self._y = task.rows(), task.y
        self._adam = experiment.optimizer == "adam"
        self._schedule = Schedule(experiment)
        self._model = module.MLPClassifier(
            experiment.hidden,
            solver="adam" if self._adam else "sgd",
            alpha=0.0,
            batch_size=len(task.X),
            shuffle=False,
            momentum=experiment.momentum,
            nesterovs_momentum=False,
            n_iter_no_change=10**9,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the batch is larger than these few rows
            self._model.partial_fit(self._X[:10], task.y[:10], classes=np.arange(10, dtype=task.y.dtype))
        for number, (weights, biases) in enumerate(task.dense()):
            self._model.coefs_[number][...] = weights
            self._model.intercepts_[number][...] = biases
        for values in self._moments():
            values[...] = 0
        self._model._optimizer.t = 0

    def epoch(self) -> tuple[Any, Any]:
        """Return the loss as a float, and no accuracy."""
        rate, _, correction_2 = self._schedule.next()
        optimizer = self._model._optimizer
        # SGD reads the first, Adam derives its rate from the second and adds ε to an uncorrected root.
        optimizer.learning_rate = optimizer.learning_rate_init = rate
        optimizer.epsilon = Schedule.epsilon * np.sqrt(correction_2)
        self._model.partial_fit(self._X, self._y)
        return self._model.loss_, None

    def _moments(self) -> list[Any]:
        optimizer = self._model._optimizer
        return [*optimizer.ms, *optimizer.vs] if self._adam else list(optimizer.velocities)
