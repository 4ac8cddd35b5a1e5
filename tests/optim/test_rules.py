"""The rules by hand and as PyTorch has them, clipping, and the average of the weights."""

import copy
import itertools
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from optim_helpers import Target, gradient_sequence

import fmnist_xp as fx
from fmnist_xp.optim import Optimizer, make_optimizer
from fmnist_xp.registry import registered

RATE = fx.Cosine(0.05, 30, warmup=4)
RULES: dict[str, tuple[Callable[[Any], Optimizer], Callable[[Any, Any], Any]]] = {
    "nesterov": (
        lambda rate: fx.SGD(rate, momentum=0.8, nesterov=True),
        lambda torch, p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    ),
    "adamw": (
        lambda rate: fx.AdamW(rate, weight_decay=0.1),
        lambda torch, p: torch.optim.AdamW(p, lr=0.05, eps=1e-7, weight_decay=0.1),
    ),
    "adamw without decay": (
        lambda rate: fx.AdamW(rate, beta_1=0.5, beta_2=0.9, epsilon=1e-3, weight_decay=0),
        lambda torch, p: torch.optim.Adam(p, lr=0.05, betas=(0.5, 0.9), eps=1e-3),
    ),
    "rmsprop": (
        lambda rate: fx.RMSProp(rate, rho=0.95),
        lambda torch, p: torch.optim.RMSprop(p, lr=0.05, alpha=0.95, eps=1e-7),
    ),
    "adagrad": (lambda rate: fx.AdaGrad(rate), lambda torch, p: torch.optim.Adagrad(p, lr=0.05)),
}


@pytest.mark.parametrize(
    ("schedule", "make", "make_oracle"),
    [
        pytest.param(schedule, *made, id=f"{name}, {kind}")
        for name, made in RULES.items()
        for kind, schedule in {"constant": 0.05, "cosine": RATE}.items()
        # PyTorch keeps the rate out of Nesterov's velocity: the same at a constant rate alone.
        if (name, kind) != ("nesterov", "cosine")
    ],
)
def test_twenty_updates_agree_with_pytorch(
    schedule: Any, make: Callable[[Any], Optimizer], make_oracle: Callable[[Any, Any], Any], torch: Any
) -> None:
    start = np.random.default_rng(6).standard_normal(30)
    target, tensor = Target(start), torch.tensor(start, requires_grad=True)
    optimizer, oracle = make(schedule), make_oracle(torch, [tensor])
    for number, gradient in enumerate(gradient_sequence(20)):
        target.step(optimizer, gradient)
        oracle.param_groups[0]["lr"] = optimizer.rate(number)
        tensor.grad = torch.tensor(gradient)
        oracle.step()
        np.testing.assert_allclose(target.parameters, tensor.detach().numpy(), rtol=1e-12, atol=1e-14)
    assert np.abs(target.parameters - start).max() > 0.1


def test_nesterov_under_a_schedule_by_hand() -> None:
    # Rates 0.5, 0.25, μ = 1/2. v = -1, θ = 4 - 1/2 - 1 = 2.5; v = -1/2 - 1 = -1.5, θ = 2.5 - 3/4 - 1 = 0.75.
    target = Target([4.0])
    assert target.step(fx.SGD(fx.Exponential(0.5, 0.5), momentum=0.5, nesterov=True), [2], [4]) == [0.75]


def test_adamw_by_hand() -> None:
    # θ = 10 - 1/2·0.1·10 = 9.5; m̂ = 2, v̂ = 4: θ = 9.5 - 1/2 · 2/(2 + 1).
    target = Target([10.0])
    optimizer = fx.AdamW(0.5, beta_1=0.5, beta_2=0.5, epsilon=1.0, weight_decay=0.1)
    assert target.step(optimizer, [2]) == pytest.approx([9.5 - 1 / 3], rel=1e-14)


def test_rmsprop_and_adagrad_by_hand() -> None:
    # v = 8, then 4 + 32 = 36; v = 16, then 16 + 9 = 25.
    target = Target([1.0])
    assert target.step(fx.RMSProp(0.5, rho=0.5, epsilon=1.0), [4]) == pytest.approx([1 - 2 / (math.sqrt(8) + 1)])
    target = Target([1.0])
    assert target.step(fx.RMSProp(0.5, rho=0.5, epsilon=1.0), [4], [8])[0] == pytest.approx(
        1 - 2 / (math.sqrt(8) + 1) - 4 / 7
    )
    target = Target([1.0])
    assert target.step(fx.AdaGrad(0.5, epsilon=1.0), [4], [3]) == pytest.approx([1 - 2 / 5 - 1.5 / 6])


@pytest.mark.parametrize("kind", [fx.AdamW, fx.RMSProp, fx.AdaGrad])
def test_gradient_that_is_always_0_changes_nothing_but_by_decay(kind: type[Optimizer]) -> None:
    target = Target([3.0, -1.0])
    target.step(kind(0.1), *[[0.0, 0.0]] * 3)  # type: ignore[call-arg]
    factor = (1 - 0.1 * 0.01) ** 3 if kind is fx.AdamW else 1.0
    assert target.parameters.tolist() == pytest.approx([3 * factor, -factor], rel=1e-14)


@pytest.mark.parametrize("name", registered(Optimizer))  # type: ignore[type-abstract]
def test_made_by_name_with_a_config_that_makes_it_again(name: str) -> None:
    optimizer = make_optimizer(name)
    config = json.loads(json.dumps(optimizer.config()))
    again = type(optimizer)(**config)
    assert again.config() == config
    assert repr(again) == repr(optimizer) == f"{type(optimizer).__name__}()"
    assert getattr(fx, type(optimizer).__name__) is type(optimizer)


def test_names_of_all() -> None:
    assert list(registered(Optimizer)) == ["sgd", "adam", "adamw", "rmsprop", "adagrad", "lbfgs"]  # type: ignore[type-abstract]


def test_config_has_what_versions_before_had_unless_more_was_asked_for() -> None:
    assert list(fx.SGD().config()) == ["learning_rate", "decay", "momentum"]
    more = fx.SGD(0.1, momentum=0.5, nesterov=True, clip_norm=2, ema=0.9)
    assert more.config() == {
        "learning_rate": 0.1,
        "decay": 0.0,
        "momentum": 0.5,
        "nesterov": True,
        "clip_norm": 2.0,
        "ema": 0.9,
    }
    assert eval(repr(more), vars(fx)).config() == more.config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fx.SGD(nesterov=True), "nesterov needs a momentum above 0"),
        (lambda: fx.AdamW(weight_decay=-0.1), "weight_decay must be at least 0 and finite, got -0.1"),
        (lambda: fx.RMSProp(rho=1.0), "rho must be at least 0 and below 1, got 1.0"),
        (lambda: fx.RMSProp(epsilon=0), "epsilon must be above 0 and finite, got 0"),
        (lambda: fx.AdaGrad(epsilon=-1), "epsilon must be above 0 and finite, got -1"),
        (lambda: fx.Adam(clip_norm=0), "clip_norm must be above 0 and finite, got 0"),
        (lambda: fx.Adam(ema=1.0), "ema must be at least 0 and below 1, got 1.0"),
        (lambda: fx.Adam(ema="a"), "ema must be a number, got 'a'"),  # type: ignore[arg-type]
    ],
)
def test_argument_out_of_range_is_named(make: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


# Clipping


def test_clipping_by_hand() -> None:
    # ‖(3, 4)‖ = 5 becomes 2; ‖(0.3, 0.4)‖ = 0.5 stays.
    target = Target([0.0, 0.0])
    optimizer = fx.SGD(1.0, clip_norm=2.0)
    assert target.step(optimizer, [3, 4]) == pytest.approx([-1.2, -1.6], rel=1e-14)
    np.testing.assert_allclose(target.gradients, [1.2, 1.6], rtol=1e-14)
    assert target.step(optimizer, [0.3, 0.4]) == pytest.approx([-1.5, -2.0], rel=1e-14)
    assert target.gradients.tolist() == [0.3, 0.4]  # to the bit
    assert target.step(optimizer, [0.0, 0.0]) == pytest.approx([-1.5, -2.0], rel=1e-14)
    assert optimizer.state(target) == []


def test_clipped_updates_agree_with_pytorch(torch: Any) -> None:
    start = np.random.default_rng(6).standard_normal(30)
    target, tensor = Target(start), torch.tensor(start, requires_grad=True)
    optimizer, oracle = fx.AdaGrad(0.1, clip_norm=150.0), torch.optim.Adagrad([tensor], lr=0.1)
    clipped = 0
    for gradient in gradient_sequence(20):
        target.step(optimizer, gradient)
        tensor.grad = torch.tensor(gradient)
        clipped += bool(torch.nn.utils.clip_grad_norm_([tensor], 150.0) > 150.0)
        oracle.step()
        # PyTorch divides by ‖g‖ + 10⁻⁶.
        np.testing.assert_allclose(target.parameters, tensor.detach().numpy(), rtol=1e-5)
    assert 0 < clipped < 20


def test_norm_that_is_not_finite_shows() -> None:
    target = Target([1.0, 1.0])
    target.step(fx.SGD(1.0, clip_norm=1.0), [math.nan, 1.0])
    assert np.isnan(target.parameters).all()


# The average


def test_average_by_hand() -> None:
    # θ is -1, -3, -5. With d = 1/2: a₁ = -1, a₂ = (½·-1 - 3)/(½ + 1), a₃ = (¼·-1 + ½·-3 - 5)/(¼ + ½ + 1).
    target, optimizer = Target([1.0]), fx.SGD(1.0, ema=0.5)
    assert optimizer.result(target) is None
    averages = []
    for _ in range(3):
        target.step(optimizer, [2.0])
        averages += optimizer.result(target).tolist()  # type: ignore[union-attr]
    assert target.parameters.tolist() == [-5.0]
    assert averages == pytest.approx([-1, -3.5 / 1.5, -6.75 / 1.75], rel=1e-14)
    assert optimizer.state(target)[0].tolist() == averages[-1:]


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999])
@pytest.mark.parametrize("kind", [fx.SGD, fx.Adam, fx.AdamW, fx.RMSProp, fx.AdaGrad])
def test_average_is_the_weighted_sum_written_out(kind: Callable[..., Optimizer], decay: float) -> None:
    target, plain = Target(np.ones(30)), Target(np.ones(30))
    optimizer, twin = kind(0.1, ema=decay), kind(0.1)
    every = []
    for gradient in gradient_sequence(12):
        target.step(optimizer, gradient)
        every.append(np.array(plain.step(twin, gradient)))
        weights = [decay ** (len(every) - k) for k in range(1, len(every) + 1)]
        np.testing.assert_allclose(
            optimizer.result(target), np.average(every, axis=0, weights=weights), rtol=1e-12, atol=1e-14
        )
    np.testing.assert_array_equal(target.parameters, plain.parameters)  # the weights themselves go their own way


def test_block_with_the_average_and_ending_with_it() -> None:
    target, optimizer = Target([1.0, 2.0]), fx.SGD(1.0, ema=0.5)
    target.step(optimizer, [2.0, 0.0], [2.0, 1.0])
    array, own, result = target.parameters, target.parameters.copy(), optimizer.result(target).copy()  # type: ignore[union-attr]
    with optimizer.result_in(target):
        assert target.parameters is array
        assert array.tolist() == result.tolist() != own.tolist()
    assert array.tolist() == own.tolist()
    optimizer.finish(target)
    assert target.parameters is array
    assert array.tolist() == result.tolist()


def test_average_of_another_target_begins_with_its_parameters() -> None:
    optimizer = fx.SGD(1.0, ema=0.9)
    Target([0.0]).step(optimizer, *[[1.0]] * 50)
    other = Target([100.0])
    other.step(optimizer, [1.0])
    weight = 0.1 / (1 - 0.9**51)
    assert optimizer.result(other).tolist() == pytest.approx([100 - weight])  # type: ignore[union-attr]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("kind", [fx.SGD, fx.AdamW, fx.RMSProp, fx.AdaGrad])
def test_copies_go_on_to_the_same_bits(kind: Callable[..., Optimizer], again: Callable[[Any], Any]) -> None:
    dense = fx.Dense(4, 3, dtype="float64", seed=1)
    optimizer = kind(fx.Cosine(0.1, 20), clip_norm=3.0, ema=0.8)
    gradients = gradient_sequence(8, 15)
    for gradient in gradients[:4]:
        dense.gradients[...] = gradient
        optimizer.step(dense)
    pairs = [(dense, optimizer), again((dense, optimizer))]
    for (layer, one), gradient in itertools.product(pairs, gradients[4:]):
        layer.gradients[...] = gradient
        one.step(layer)
    np.testing.assert_array_equal(pairs[0][0].parameters, pairs[1][0].parameters)
    for mine, theirs in zip(*(one.state(layer) for layer, one in pairs), strict=True):
        np.testing.assert_array_equal(mine, theirs)
