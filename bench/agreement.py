"""Whether programs compute the same: their losses on the same weights, and after a few updates."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bench.engines import LOG_EVERY, Engine, Ours, OursWithoutMetrics, Task
from bench.measure import rounded

TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "tf32": 1e-4, "float16": 1e-4}
"""Relative difference of two losses beyond which two programs do not compute the same, by precision.

Seen after two updates: 1e-15 in float64, 2e-6 in float32. The first loss tells in every precision whether a program
leaves out the penalty, which is 1e-3 of it.
"""
DRIFTS = {"float64": 0.0, "float32": 0.0, "tf32": 0.1, "float16": 0.1}
"""Difference allowed beyond that after an update, as a share of how far the loss has moved from the first one.

TF32 and float16 keep 11 bits of each operand, and Adam, which divides small gradients by their size, amplifies that
rounding: seen up to 4% of the way.
"""
LATE_DRIFTS = {"float64": 1e-6, "float32": 0.01, "tf32": 0.25, "float16": 0.25}
"""The same for a program that makes `LOG_EVERY` updates before the next loss, over which differences grow.

Seen: 1e-15 in float64, and with Adam on 6,000 rows 4e-5 in float32 and 9% in float16 (on 60,000 2e-5 and 0.4%).
"""


class DisagreementError(Exception):
    """A program computes something else than ours; the message says after how many updates, and both losses."""


def references(task: Task, kinds: Iterable[type[Engine]]) -> dict[bool, list[float]]:
    """Return our losses before each of the first updates, with and without L2 as the `kinds` need them."""
    experiment = task.experiment
    return {
        l2: _losses(Ours(replace(task, experiment=experiment if l2 else replace(experiment, l2=0.0))), LOG_EVERY + 1)
        for l2 in {kind.l2 for kind in kinds}
    }


def check(task: Task, engine: Engine, expected: Mapping[bool, Sequence[float]]) -> list[float]:
    """Return the losses of `engine` on the task's weights and after 1 and 2 updates, or after those of one call.

    Raises `DisagreementError` where one differs from ours by more than the precision allows; engines without L2 are
    compared with ours without it. Our engine is checked by the others, above all by the notebook's float64.
    """
    late = engine.epochs_a_call > 1
    updates = range(0, engine.epochs_a_call + 1, engine.epochs_a_call) if late else range(3)
    losses = _losses(engine, len(updates))
    if isinstance(engine, OursWithoutMetrics):
        return []  # has no losses, but must have trained as long as the others
    first, *_ = ours = expected[engine.l2]
    granted = (LATE_DRIFTS if late else DRIFTS)[task.precision]
    for update, loss in zip(updates, losses, strict=True):
        drift = granted * abs(ours[update] - first)
        if not math.isclose(loss, ours[update], rel_tol=TOLERANCES[task.precision], abs_tol=drift):
            raise DisagreementError(
                f"it does not compute what fmnist_xp computes: {task.experiment.name} after {update} updates has the "
                f"loss {loss:.7g}, not {ours[update]:.7g}"
            )
    return [rounded(loss) for loss in losses]


def _losses(engine: Engine, calls: int) -> list[float]:
    with engine.session():
        losses = [engine.epoch()[0] for _ in range(calls)]
        engine.synchronize()
        return [float(loss) for loss in losses if loss is not None]
