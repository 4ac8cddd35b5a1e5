"""Training curves of a device beside those of the reference, and how soon the reference parts from itself.

A learning rate at the edge of stability makes of every rounding a larger difference in the next epoch. How fast is a
property of the experiment, not of a device; so it is measured, on the CPU alone: *twins* of a curve start from
parameters that are each disturbed by one rounding, and a device may drift from the reference no further than twins
drift from their original, but for a factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend
from fmnist_xp.experiments import Experiment
from fmnist_xp.parity.bounds import Floats
from fmnist_xp.parity.comparison import difference
from fmnist_xp.parity.step import start_network
from fmnist_xp.parity.tolerances import DRIFT, PARTED, ROUNDOFF, Roundoff, sum_error
from fmnist_xp.train.history import History

TWINS = 2


@dataclass(frozen=True)
class Curves:
    """The losses and accuracies of one experiment, epoch by epoch, on the reference and on a device.

    `drift` is, for each epoch, how far the twins had parted from their original by then.
    """

    experiment: str
    epoch: Sequence[int]
    reference: History
    device: History
    drift: Floats
    tolerance: Floats

    @cached_property
    def difference(self) -> Floats:
        """The absolute differences of the losses."""
        return loss_difference(self.device, self.reference)

    @property
    def used(self) -> Floats:
        """The differences as shares of their tolerances, 0 where anything goes."""
        with np.errstate(invalid="ignore"):
            shares: Floats = self.difference / self.tolerance
        shares[np.isinf(self.tolerance)] = 0.0
        return shares

    @property
    def passed(self) -> bool:
        """Whether no epoch differs by more than its tolerance."""
        return bool(np.all(self.used <= 1))

    @property
    def exceeds(self) -> int | None:
        """The first epoch that differs by more than its tolerance."""
        return self._first(self.used > 1)

    @property
    def parts(self) -> int | None:
        """The first epoch in which the curves differ by more than `PARTED` of the loss."""
        return self._first(self.difference > PARTED * np.abs(self.reference.loss))

    @property
    def twins_part(self) -> int | None:
        """The first epoch in which the reference has differed from its twins by more than that."""
        return self._first(self.drift > PARTED * np.abs(self.reference.loss))

    @property
    def loose_from(self) -> int | None:
        """The first epoch whose tolerance is wider than that: from there on, agreement says little."""
        return self._first(self.tolerance > PARTED * np.abs(self.reference.loss))

    def _first(self, where: NDArray[np.bool_]) -> int | None:
        return self.epoch[int(np.argmax(where))] if where.any() else None

    def record(self) -> dict[str, Any]:
        """Return everything by name, as lists and numbers."""
        return {
            "experiment": self.experiment,
            "epoch": list(self.epoch),
            "reference": {"loss": self.reference.loss, "accuracy": self.reference.accuracy},
            "device": {"loss": self.device.loss, "accuracy": self.device.accuracy},
            "difference": self.difference.tolist(),
            "twins": self.drift.tolist(),
            "tolerance": self.tolerance.tolist(),
            "used": self.used.tolist(),
            **{name: getattr(self, name) for name in ("exceeds", "parts", "twins_part", "loose_from", "passed")},
        }


def train_curve(
    experiment: Experiment,
    backend: Backend,
    precision: str,
    X: NDArray[np.float32],
    y: NDArray[Any],
    epochs: int,
    *,
    disturbance: float = 0.0,
    twin: int = 0,
    engine: str = "plain",
) -> History:
    """Train on `X` (rows, 784) and `y` (rows,) and return the history of every epoch.

    Each parameter starts from the same number on every device. With a `disturbance`, weights are off by up to that
    share of them, and biases, which shift their outputs for all images alike, by up to that share of 1, drawn anew
    for each `twin`. Raises `KeyboardInterrupt` where training was interrupted.
    """
    network = start_network(experiment, backend, precision)
    if disturbance:
        generator = np.random.default_rng(twin)
        start = network.state_dict()
        for name, array in start.items():
            size = 1 if name.endswith("biases") else np.abs(array)
            array += generator.uniform(-disturbance, disturbance, array.shape) * size
        network.load_state_dict(start)
    optimizer = experiment.make_optimizer()
    history = network.fit(X, y, epochs=epochs, optimizer=optimizer, log_every=1, verbose=False, engine=engine)
    if history.interrupted:
        raise KeyboardInterrupt
    return history


def loss_difference(one: History, other: History) -> Floats:
    """Return the absolute differences of the losses, infinite where one alone is not finite."""
    return difference(np.array(one.loss), np.array(other.loss))


def drift_of_twins(original: History, twins: Sequence[History]) -> Floats:
    """Return, for each epoch, the largest difference of a twin's loss in any epoch so far."""
    differences = [loss_difference(twin, original) for twin in twins]
    return np.maximum.accumulate(np.max(differences, axis=0))


def compare_curves(
    experiment: str,
    reference: History,
    device: History,
    drift: Floats,
    roundoffs: tuple[Roundoff, Roundoff],
    rows: int,
) -> Curves:
    """Compare two histories of the same epochs over `rows`; `roundoffs` are those of reference and device.

    The tolerance of an epoch is that of one loss, computed on each side, and `DRIFT` times the drift of the twins.
    That is infinite where a twin has diverged and its original has not: anything goes.
    """
    mean = sum_error(rows, ROUNDOFF["float64"].addition)
    rounding = sum(roundoff.loss + mean for roundoff in roundoffs)
    losses = np.nan_to_num(np.abs(reference.loss), posinf=0.0)  # one that diverged is to be followed exactly
    tolerance = rounding * (1 + losses) + DRIFT * drift
    return Curves(experiment, reference.epoch, reference, device, drift, tolerance)
