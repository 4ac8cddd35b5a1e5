"""L-BFGS beside SciPy's and PyTorch's, in networks, and from any evaluation on to the same bits."""

import copy
import itertools
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optim_helpers import CPU, Target
from rank_helpers import in_ranks

import fmnist_xp as fx
from fmnist_xp.backend import CpuBackend
from fmnist_xp.optim import LBFGS
from fmnist_xp.ranks import Ranks

Function = tuple[Callable[[Any], float], Callable[[Any], Any], Any]
"""A function, its gradient, and where to begin."""


@pytest.fixture
def minimize() -> Any:
    """SciPy's."""
    return pytest.importorskip("scipy.optimize", reason="SciPy, the oracle of this test, is not installed").minimize


def rosen(x: Any) -> float:
    """Return Σ 100·(xᵢ₊₁ − xᵢ²)² + (1 − xᵢ)², of Rosenbrock (1960)."""
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def rosen_der(x: Any) -> Any:
    outer = 200 * (x[1:] - x[:-1] ** 2)
    gradient = np.zeros_like(x)
    gradient[1:] += outer
    gradient[:-1] -= 2 * x[:-1] * outer + 2 * (1 - x[:-1])
    return gradient


def quadratic(condition: float, size: int = 50) -> Function:
    curvatures = np.geomspace(1, condition, size)
    start = np.random.default_rng(0).standard_normal(size)
    return lambda x: 0.5 * float(curvatures @ (x * x)), lambda x: curvatures * x, start


FUNCTIONS: dict[str, Function] = {
    "well conditioned": quadratic(10),
    "badly conditioned": quadratic(300),
    **{f"Rosenbrock of {n}": (rosen, rosen_der, np.tile([-1.2, 1.0], n // 2)) for n in (2, 10, 40)},
}
EACH = pytest.mark.parametrize(("function", "gradient", "start"), FUNCTIONS.values(), ids=FUNCTIONS)
GOAL = 1e-10


def minimised(
    function: Any, gradient: Any, start: Any, goal: float = -1.0, dtype: str = "float64", most: int = 999, **more: Any
) -> tuple[Target, LBFGS, list[float]]:
    """Return what was updated, the optimizer, and the loss of each evaluation, up to the first that is the `goal`."""
    target, optimizer, losses = Target(start, dtype), LBFGS(**more), list[float]()
    while len(losses) < most and not optimizer.stopped and not (losses and losses[-1] <= goal):
        losses.append(function(target.parameters))
        target.gradients[...] = gradient(target.parameters)
        optimizer.step(target, losses[-1])
    return target, optimizer, losses


def counted(function: Any) -> tuple[Any, list[float]]:
    losses: list[float] = []

    def noted(x: Any) -> float:
        losses.append(function(x))
        return losses[-1]

    return noted, losses


def evaluations(losses: list[float]) -> int:
    return next(number for number, loss in enumerate(losses, start=1) if loss <= GOAL)


@EACH
def test_as_few_evaluations_as_scipys(function: Any, gradient: Any, start: Any, minimize: Any) -> None:
    noted, losses = counted(function)
    options = {"maxcor": 10, "ftol": 0.0, "gtol": 1e-14, "maxiter": 3000, "maxfun": 3000}
    minimize(noted, start, jac=gradient, method="L-BFGS-B", options=options)
    _target, _optimizer, ours = minimised(function, gradient, start, GOAL)
    assert len(ours) <= 1.15 * evaluations(losses) + 2


@EACH
def test_as_few_evaluations_as_pytorchs(function: Any, gradient: Any, start: Any, torch: Any) -> None:
    tensor, losses = torch.tensor(start, requires_grad=True), []
    options = {"max_iter": 2000, "max_eval": 3000, "history_size": 10, "tolerance_grad": 1e-14, "tolerance_change": 0}

    def closure() -> Any:
        x = tensor.detach().numpy()
        losses.append(function(x))
        tensor.grad = torch.tensor(gradient(x))
        return torch.tensor(losses[-1])

    torch.optim.LBFGS([tensor], line_search_fn="strong_wolfe", **options).step(closure)
    _target, _optimizer, ours = minimised(function, gradient, start, GOAL)
    assert len(ours) <= 1.15 * evaluations(losses) + 2


def test_first_step_is_of_the_rates_length_along_the_gradient() -> None:
    target = Target([1.0, 1.0])
    target.gradients[...] = [3.0, -4.0]
    optimizer = LBFGS(0.5)
    optimizer.step(target, 10.0)
    assert target.parameters.tolist() == pytest.approx([1 - 0.3, 1 + 0.4], rel=1e-14)
    assert (optimizer.iterations, optimizer.current_learning_rate) == (1, pytest.approx(0.1))


@pytest.mark.parametrize("history_size", [1, 3, 10])
def test_direction_is_that_of_the_bfgs_matrix(history_size: int) -> None:
    """H ← (I − ρ·s·yᵀ)·H·(I − ρ·y·sᵀ) + ρ·s·sᵀ from γ·I (Nocedal & Wright, equations 6.17 and 7.20)."""
    curvatures = np.linspace(1, 30, 8)
    target, optimizer, points = Target(np.linspace(-1, 1, 8)), LBFGS(history_size=history_size), []
    for _ in range(7):
        target.gradients[...] = gradient = curvatures * target.parameters
        points.append((target.parameters.copy(), gradient))
        optimizer.step(target, float(0.5 * gradient @ target.parameters))
        origin, _gradient, direction, *_others = optimizer.state(target)
        if not np.array_equal(origin, points[-1][0]):  # not good enough: the direction stays
            points.pop()
            continue
        pairs = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(points)][-history_size:]
        matrix = np.eye(8)
        if pairs:
            s, y = pairs[-1]
            matrix *= (s @ y) / (y @ y)
        for s, y in pairs:
            left = np.eye(8) - np.outer(s, y) / (s @ y)
            matrix = left @ matrix @ left.T + np.outer(s, s) / (s @ y)
        np.testing.assert_allclose(direction, -matrix @ gradient, rtol=1e-10)
    assert len(points) > 4


def test_converged_is_told_and_left_where_it_is() -> None:
    target, optimizer, losses = minimised(*FUNCTIONS["Rosenbrock of 10"])
    assert optimizer.stopped == "converged: no element of the gradient is above 1e-07"
    np.testing.assert_allclose(target.parameters, 1, atol=1e-6)
    assert np.abs(rosen_der(target.parameters)).max() <= 1e-7
    assert losses[-1] == min(losses)
    assert not optimizer.trying(target)
    assert optimizer.result(target) is None


def test_end_of_what_float32_can_tell_is_told() -> None:
    # Of 100 and more, float32 has no digits left below 10⁻⁵.
    def rounded(x: Any) -> float:
        return float(np.float32(rosen(x.astype("float64")) + 100))

    start = FUNCTIONS["Rosenbrock of 10"][2]
    target, optimizer, losses = minimised(rounded, rosen_der, start, dtype="float32", most=400, tolerance_gradient=0)
    assert optimizer.stopped == "no step along the gradient makes the loss lower"
    assert len(losses) < 400
    assert rounded(target.parameters) == min(losses) == pytest.approx(100, abs=2e-5)


def test_gradient_whose_square_is_0_is_the_end() -> None:
    target, optimizer = Target([1.0], "float32"), LBFGS(tolerance_gradient=0)
    target.gradients[...] = 1e-30
    optimizer.step(target, 1.0)
    assert optimizer.stopped == "converged: the gradient is too small to be squared"
    assert target.parameters.tolist() == [1.0]


def test_loss_that_is_not_finite_at_first_is_told() -> None:
    target = Target([1.0])
    target.gradients[...] = 1.0
    optimizer = LBFGS()
    optimizer.step(target, math.nan)
    assert optimizer.stopped.startswith("the loss is nan")
    assert target.parameters.tolist() == [1.0]


def test_step_into_what_is_not_finite_is_made_shorter() -> None:
    def barrier(x: Any) -> float:
        return float(np.sum(x - np.log(x))) if (x > 0).all() else math.inf

    target, optimizer, losses = minimised(
        barrier, lambda x: 1 - 1 / np.where(x > 0, x, math.nan), np.array([0.3, 0.2]), learning_rate=10.0
    )
    assert math.inf in losses
    assert optimizer.stopped.startswith("converged")
    np.testing.assert_allclose(target.parameters, 1, atol=1e-6)


def test_without_the_loss_it_says_what_to_do() -> None:
    target = Target([1.0])
    with pytest.raises(TypeError, match=r"LBFGS decides by the loss: step\(network, loss\)"):
        LBFGS().step(target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"history_size": 0}, "history_size must be at least 1"),
        ({"c1": 0.0}, "c1 must be above 0 and below 1"),
        ({"c1": 0.5, "c2": 0.5}, "c2 must be above 0.5 and below 1"),
        ({"tolerance_gradient": -1}, "tolerance_gradient must be at least 0"),
    ],
)
def test_argument_out_of_range_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LBFGS(**arguments)


# In networks

GENERATOR = np.random.default_rng(1)
X = GENERATOR.standard_normal((60, 6))
Y = GENERATOR.integers(0, 4, 60)


def make(threads: int = 1, dtype: str = "float64") -> fx.Sequential:
    penalties = {"weight_regularizer_l2": 0.002, "bias_regularizer_l2": 0.002}
    layers = [fx.Dense(6, 9, **penalties), fx.Tanh(), fx.Dense(9, 4, **penalties)]
    return fx.Sequential(layers, backend=CpuBackend(threads), seed=1, dtype=dtype)


def fit(network: fx.Sequential, epochs: int, optimizer: Any = None, **more: Any) -> fx.History:
    options = {"log_every": 1, "verbose": 0, "block_rows": 16, **more}
    return network.fit(X, Y, epochs=epochs, optimizer=optimizer or LBFGS(), **options)


def total_loss(network: fx.Sequential) -> float:
    return network.evaluate(X, Y).loss + network.regularization_loss()


def test_network_ends_with_the_best_weights_that_were_found() -> None:
    for epochs in range(1, 30):
        network = make()
        history = fit(network, epochs)
        assert total_loss(network) == pytest.approx(min(history.loss), rel=1e-12)


def test_network_comes_to_where_scipy_comes_to(minimize: Any) -> None:
    network, twin = make(), make()

    def loss_and_gradient(parameters: Any) -> tuple[float, Any]:
        twin.parameters[...] = parameters
        twin.backward(twin.forward(X), Y)
        twin.add_penalty_gradients()
        return total_loss(twin), twin.gradients.copy()

    options = {"maxcor": 10, "ftol": 0.0, "gtol": 1e-12, "maxiter": 60, "maxfun": 60}
    theirs = minimize(loss_and_gradient, twin.parameters.copy(), jac=True, method="L-BFGS-B", options=options)
    ours = fit(network, 60)
    assert min(ours.loss) <= theirs.fun * 1.02
    assert ours.loss[0] > 1.5 * min(ours.loss)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("log_every", [1, 7])
def test_any_number_of_threads_and_any_logging_come_to_the_same_bits(dtype: str, log_every: int) -> None:
    expected = make(1, dtype)
    fit(expected, 40)
    for threads in (2, 3):
        network = make(threads, dtype)
        fit(network, 40, log_every=log_every)
        np.testing.assert_array_equal(network.parameters, expected.parameters)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_ranks_come_to_the_same_bits(size: int) -> None:
    expected = make()
    history = fit(expected, 30, validation_fraction=0.2, keep_best=True)

    def work(ranks: Ranks) -> tuple[Any, str]:
        network, own = make(), ranks.share(len(X))
        options: dict[str, Any] = {"log_every": 1, "verbose": 0, "block_rows": 16, "validation_fraction": 0.2}
        found = network.fit(X[own], Y[own], epochs=30, optimizer=LBFGS(), comm=ranks.comm, keep_best=True, **options)
        return network.parameters.tolist(), found.to_csv()

    for parameters, table in in_ranks(size, work):
        assert parameters == expected.parameters.tolist()
        assert table == history.to_csv()


@pytest.mark.parametrize("stops", [(1,), (2, 3, 4), (5, 9, 17)], ids=str)
def test_stopped_training_goes_on_to_the_same_bits(tmp_path: Path, stops: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"validation_fraction": 0.2, "keep_best": True}
    whole = make()
    expected = fit(whole, 25, **options)
    for epochs in (*stops, 25):
        network = make(threads=1 + epochs % 3)
        found = fit(network, epochs, checkpoint=tmp_path, resume=True, **options)
    np.testing.assert_array_equal(network.parameters, whole.parameters)
    assert found.to_csv() == expected.to_csv()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
@pytest.mark.parametrize("before", range(1, 12))
def test_copies_go_on_in_the_midst_of_a_search(again: Callable[[Any], Any], before: int) -> None:
    function, gradient, start = FUNCTIONS["Rosenbrock of 10"]
    layer, optimizer = fx.Dense(9, 1, dtype="float64", backend=CPU), LBFGS()
    layer.parameters[...] = start

    def steps(layer: Any, optimizer: Any, count: int) -> list[float]:
        losses = []
        for _ in range(count):
            losses.append(function(layer.parameters))
            layer.gradients[...] = gradient(layer.parameters)
            optimizer.step(layer, losses[-1])
        return losses

    steps(layer, optimizer, before)
    twin, other = again((layer, optimizer))
    assert steps(layer, optimizer, 20) == steps(twin, other, 20)
    np.testing.assert_array_equal(twin.parameters, layer.parameters)


def test_training_goes_on_with_what_was_learned_of_the_curvature() -> None:
    network, optimizer = make(), LBFGS()
    fit(network, 20, optimizer)
    before = total_loss(network)
    history = fit(network, 20, optimizer)
    assert history.loss[0] == pytest.approx(before, rel=1e-12)
    assert optimizer.state(network)[-1][0] > 5  # pairs
    assert total_loss(network) < before


def test_rows_held_out_are_measured_with_the_best_weights_found() -> None:
    network = make()
    history = fit(network, 30, validation_data=(X, Y))
    losses = [loss - penalty for loss, penalty in zip(history.loss, history.regularization_loss, strict=True)]
    found = set()
    for epoch, loss in enumerate(history.validation_loss):
        known = [one for one in losses[: epoch + 1] if one == pytest.approx(loss, rel=1e-12)]
        assert known, epoch  # that of a trial that turned out well
        found.add(known[0])
    assert len(found) > 10


def test_training_stops_where_it_has_converged() -> None:
    network = make()
    history = fit(network, 2000, LBFGS(tolerance_gradient=1e-3), log_every=10)
    assert history.stopped == "converged: no element of the gradient is above 0.001"
    assert not history.diverged
    network.backward(network.forward(X), Y)
    network.add_penalty_gradients()
    assert np.abs(network.gradients).max() <= 1.001e-3


class Breaking(fx.Layer):
    """Passes on what it is given, but nothing that is finite where that is large."""

    def forward(self, inputs: Any) -> Any:
        return inputs if np.abs(inputs).max() < 30 else np.full_like(inputs, math.nan)

    def backward(self, dvalues: Any) -> Any:
        return dvalues


def test_step_that_makes_the_loss_nan_is_too_long_and_no_divergence() -> None:
    network = fx.Sequential([fx.Dense(6, 9), fx.Tanh(), fx.Dense(9, 4), Breaking()], backend=CPU, seed=1)
    history = fit(network, 60, LBFGS(learning_rate=1e4))
    assert not np.isfinite(history.loss).all()
    assert (history.diverged, history.stopped) == (False, "")
    assert network.evaluate(X, Y).loss < 0.9 * history.loss[0]


def test_diverged_from_the_first_weights_on() -> None:
    network = make()
    network.parameters[...] = 1e200
    history = fit(network, 10)
    assert history.diverged
    assert len(history.epoch_seconds) <= 2
