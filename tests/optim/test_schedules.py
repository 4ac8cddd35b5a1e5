"""Schedules: pure functions of the number of the update, by hand and as PyTorch has them."""

import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fmnist_xp as fx
from fmnist_xp.optim import Optimizer, Schedule, make_schedule
from fmnist_xp.registry import registered

EXAMPLES: dict[str, Schedule] = {
    "constant": fx.Constant(0.3),
    "inverse_time": fx.InverseTime(1.0, 0.01),
    "step": fx.Step(0.8, 0.5, 3),
    "exponential": fx.Exponential(0.5, 0.9),
    "cosine": fx.Cosine(0.4, 12, warmup=3, final=0.1),
}
EACH = pytest.mark.parametrize("schedule", EXAMPLES.values(), ids=EXAMPLES)


def test_examples_are_all_that_is_registered() -> None:
    found = registered(Schedule)  # type: ignore[type-abstract]
    assert {name: type(schedule) for name, schedule in EXAMPLES.items()} == found


def test_rates_by_hand() -> None:
    def rates(schedule: Schedule, updates: int) -> list[float]:
        return [schedule(update) for update in range(updates)]

    assert rates(fx.Constant(0.3), 3) == [0.3] * 3
    assert rates(fx.InverseTime(1.0, 0.5), 4) == pytest.approx([1, 1 / 1.5, 1 / 2, 1 / 2.5], rel=1e-15)
    assert rates(fx.Step(0.8, 0.5, 2), 5) == [0.8, 0.8, 0.4, 0.4, 0.2]
    assert rates(fx.Exponential(8.0, 0.5), 4) == [8, 4, 2, 1]
    # Thirds up to 0.9, then from 0.9 to 0.1 by the cosines of 0, 60, 120 and 180 degrees, where it stays.
    cosine = fx.Cosine(0.9, 5, warmup=2, final=0.1)
    assert rates(cosine, 7) == pytest.approx([0.3, 0.6, 0.9, 0.7, 0.3, 0.1, 0.1], rel=1e-14)


def pytorchs(torch: Any, schedule: Schedule, optimizer: Any) -> Any:
    kinds = torch.optim.lr_scheduler
    match schedule:
        case fx.Step():
            return kinds.StepLR(optimizer, schedule.every, schedule.factor)
        case fx.Exponential():
            return kinds.ExponentialLR(optimizer, schedule.factor)
        case fx.Cosine():
            return kinds.CosineAnnealingLR(optimizer, schedule.updates, schedule.final)
    return kinds.LambdaLR(optimizer, lambda _update: 1.0)


@pytest.mark.parametrize(
    "schedule",
    [fx.Constant(0.2), fx.Step(0.3, 0.7, 4), fx.Exponential(0.2, 0.93), fx.Cosine(0.5, 20, final=0.01)],
    ids=repr,
)
def test_rates_are_pytorchs(schedule: Any, torch: Any) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=schedule.learning_rate)
    scheduler = pytorchs(torch, schedule, optimizer)
    for update in range(20):
        assert schedule(update) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 500), st.floats(0, 1, exclude_max=True), st.floats(1e-4, 10), st.floats(0, 1e-4))
def test_cosine_rises_to_its_rate_and_falls_to_the_final_one(
    updates: int, share: float, rate: float, final: float
) -> None:
    warmup = int(share * updates)
    rates = [fx.Cosine(rate, updates, warmup, final)(update) for update in range(updates + 2)]
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert max(rates) == pytest.approx(rates[warmup], rel=1e-12)
    assert rates[warmup] == pytest.approx(rate, rel=1e-12)
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[updates:] == pytest.approx([final, final], abs=1e-12)


@EACH
def test_config_is_json_that_makes_it_again(schedule: Schedule) -> None:
    config = json.loads(json.dumps(schedule.config()))
    assert config["type"] in EXAMPLES
    assert make_schedule(config) == schedule
    assert eval(repr(schedule), vars(fx)) == schedule
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@EACH
@pytest.mark.parametrize("kind", [fx.SGD, fx.Adam, fx.AdamW, fx.RMSProp, fx.AdaGrad])
def test_optimizer_takes_it_and_its_config(schedule: Schedule, kind: Callable[..., Optimizer]) -> None:
    optimizer = kind(schedule)
    config = json.loads(json.dumps(optimizer.config()))
    again = kind(**config)
    assert config["learning_rate"] == schedule.config()
    assert again.config() == config
    for each in (optimizer, again):
        assert each.current_learning_rate == schedule(0)
        each.iterations = 7
        each.pre_update_params()
        assert each.current_learning_rate == schedule(7)
    assert repr(optimizer) == f"{type(optimizer).__name__}(learning_rate={schedule!r})"


def test_rate_with_decay_is_inverse_time_to_the_bit() -> None:
    number, schedule = fx.SGD(0.7, decay=0.013), fx.SGD(fx.InverseTime(0.7, 0.013))
    assert [number.rate(update) for update in range(50)] == [schedule.rate(update) for update in range(50)]
    assert number.rate(10) == 0.7 / (1 + 0.013 * 10)


class Own(Schedule):
    """A schedule of the user's own."""

    def __call__(self, update: int) -> float:
        return 1.0 if update % 2 else 0.5


def test_schedule_of_the_users_own() -> None:
    optimizer = fx.SGD(Own())
    assert [optimizer.rate(update) for update in range(4)] == [0.5, 1.0, 0.5, 1.0]
    assert optimizer.config()["learning_rate"] == {"type": "Own"}


def test_whole_numbers_and_numpys_become_plain_ones() -> None:
    import numpy as np

    schedule = fx.Cosine(np.float32(0.5), np.int64(10), np.int32(2))  # type: ignore[arg-type]
    assert schedule.config() == {"type": "cosine", "learning_rate": 0.5, "updates": 10, "warmup": 2, "final": 0.0}
    assert [type(value) for value in vars(schedule).values()] == [float, int, int, float]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fx.Constant(0), "learning_rate must be above 0 and finite, got 0"),
        (lambda: fx.InverseTime(1.0, -1), "decay must be at least 0 and finite, got -1"),
        (lambda: fx.Step(1.0, 1.0, 2), "factor must be above 0 and below 1, got 1.0"),
        (lambda: fx.Step(1.0, 0.5, 0), "every must be at least 1, got 0"),
        (lambda: fx.Exponential(math.nan, 0.5), "learning_rate must be above 0 and finite, got nan"),
        (lambda: fx.Exponential(1.0, 0.0), "factor must be above 0 and below 1, got 0.0"),
        (lambda: fx.Cosine(1.0, 0), "updates must be at least 1, got 0"),
        (lambda: fx.Cosine(1.0, 10, warmup=10), "warmup must be below the 10 updates, got 10"),
        (lambda: fx.Cosine(1.0, 10, final=-0.1), "final must be at least 0 and finite, got -0.1"),
        (lambda: fx.SGD(fx.Constant(1.0), decay=0.1), r"decay is for a learning_rate that is a number, got Constant"),
        (lambda: fx.SGD({"type": "linear"}), "the type of a schedule must be one of constant, .*, got 'linear'"),
        (lambda: fx.SGD({"learning_rate": 1.0}), "the type of a schedule must be one of constant, .*, got None"),
        (lambda: fx.SGD({"type": "constant", "rate": 1.0}), "schedule constant: got an unexpected keyword .*'rate'"),
        (lambda: fx.SGD({"type": "step", "learning_rate": 1.0}), "schedule step: missing 2 required .*'factor'"),
        (lambda: fx.LBFGS(fx.Constant(1.0)), "learning_rate must be a number, got Constant"),  # type: ignore[arg-type]
    ],
)
def test_argument_that_does_not_fit_is_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make()
