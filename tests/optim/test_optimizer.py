import gc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_helpers import CPU, Target, gradient_sequence
from parity.standin import StandInCupy

from fmnist_xp.backend import CudaBackend
from fmnist_xp.nn import Dense, Network, ReLU
from fmnist_xp.optim import SGD, Adam, Optimizer


def test_sgd_by_hand() -> None:
    # Rates 0.5 and 0.5 / 1.25 = 0.4.
    target = Target([1.0, -2.0])
    assert target.step(SGD(0.5, decay=0.25), [2, 4], [10, -5]) == pytest.approx([1 - 1 - 4, -2 - 2 + 2])


def test_momentum_by_hand_keeps_the_rate_within_the_velocity() -> None:
    # v1 = -0.5·2 = -1, θ1 = 0; v2 = 0.5·(-1) - 0.4·10 = -4.5, θ2 = -4.5; v3 = -2.25, θ3 = -6.75.
    target = Target([1.0])
    optimizer = SGD(0.5, decay=0.25, momentum=0.5)
    assert target.step(optimizer, [2]) == pytest.approx([0])
    assert target.step(optimizer, [10]) == pytest.approx([-4.5])
    assert target.step(optimizer, [0]) == pytest.approx([-6.75])


def test_adam_by_hand() -> None:
    # β₁ = β₂ = 1/2, ε = 1, lr 1 then 1/2.
    # t=0, g=2: m = 1, c = 2, m̂ = 2, ĉ = 4: θ = 10 - 2/(2+1).
    # t=1, g=4: m = 2.5, c = 9, m̂ = 2.5/0.75, ĉ = 12: θ = θ - 1/2 · (10/3)/(√12+1).
    target = Target([10.0])
    optimizer = Adam(1.0, decay=1.0, beta_1=0.5, beta_2=0.5, epsilon=1.0)
    assert target.step(optimizer, [2]) == pytest.approx([10 - 2 / 3], rel=1e-14)
    assert target.step(optimizer, [4]) == pytest.approx([10 - 2 / 3 - (5 / 3) / (math.sqrt(12) + 1)], rel=1e-14)


def test_first_adam_step_is_the_rate_against_the_gradients_sign() -> None:
    target = Target(np.zeros(3))
    assert target.step(Adam(0.02), [1e3, -1.0, 0.0]) == pytest.approx([-0.02, 0.02, 0.0], rel=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.05])
@pytest.mark.parametrize(
    ("make", "make_oracle"),
    [
        (lambda decay: SGD(0.3, decay), lambda torch, p: torch.optim.SGD(p, lr=0.3)),
        (lambda decay: Adam(0.02, decay), lambda torch, p: torch.optim.Adam(p, lr=0.02, eps=1e-7)),
        (
            lambda decay: Adam(0.02, decay, beta_1=0.5, beta_2=0.9, epsilon=1e-3),
            lambda torch, p: torch.optim.Adam(p, lr=0.02, betas=(0.5, 0.9), eps=1e-3),
        ),
    ],
    ids=["sgd", "adam", "adam with other arguments"],
)
def test_fifty_steps_agree_with_pytorch(
    make: Callable[[float], Optimizer], make_oracle: Callable[..., Any], decay: float, torch: Any
) -> None:
    start = np.random.default_rng(6).standard_normal(30)
    target, tensor = Target(start), torch.tensor(start, requires_grad=True)
    optimizer, oracle = make(decay), make_oracle(torch, [tensor])
    rate = optimizer.learning_rate
    for step, gradient in enumerate(gradient_sequence(50)):
        target.step(optimizer, gradient)
        oracle.param_groups[0]["lr"] = rate / (1 + decay * step)
        tensor.grad = torch.tensor(gradient)
        oracle.step()
        np.testing.assert_allclose(target.parameters, tensor.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_momentum_at_a_constant_rate_agrees_with_pytorch(torch: Any) -> None:
    target, tensor = Target(np.ones(30)), torch.ones(30, dtype=torch.float64, requires_grad=True)
    optimizer, oracle = SGD(0.3, momentum=0.8), torch.optim.SGD([tensor], lr=0.3, momentum=0.8)
    for gradient in gradient_sequence(50):
        target.step(optimizer, gradient)
        tensor.grad = torch.tensor(gradient)
        oracle.step()
        np.testing.assert_allclose(target.parameters, tensor.detach().numpy(), rtol=1e-12, atol=1e-14)


@settings(deadline=None, max_examples=20)
@given(
    gradients=st.lists(st.floats(-10, 10), min_size=1, max_size=8),
    decay=st.floats(0, 1),
    momentum=st.floats(0.1, 0.9),
)
def test_momentum_under_decay_is_the_written_out_sum(gradients: list[float], decay: float, momentum: float) -> None:
    # θ_n = -Σ_k lr_k g_k (1 + μ + … + μ^(n-1-k))
    n = len(gradients)
    expected = -sum(g / (1 + decay * k) * sum(momentum**j for j in range(n - k)) for k, g in enumerate(gradients))
    target = Target([0.0])
    optimizer = SGD(1.0, decay, momentum)
    assert target.step(optimizer, *([g] for g in gradients)) == pytest.approx([expected], rel=1e-10, abs=1e-12)


def test_adam_in_float32_follows_float64() -> None:
    # 1 - 0.999 taken in float32 would put the second moment off by 5e-5.
    start = np.linspace(-1, 1, 30)
    single, double = Target(start, "float32"), Target(start)
    optimizers = Adam(0.02), Adam(0.02)
    for gradient in gradient_sequence(50):
        single.step(optimizers[0], gradient.astype("float32"))
        double.step(optimizers[1], gradient.astype("float32"))
    assert single.parameters.dtype == np.float32
    np.testing.assert_allclose(single.parameters, double.parameters, atol=2e-6)
    assert np.abs(double.parameters - start).max() > 0.05


def test_adam_moments_in_float32_use_the_exact_weights() -> None:
    target = Target([0.0], "float32")
    optimizer = Adam()
    target.step(optimizer, [1.0])
    mean, square = optimizer.state(target)
    assert float(mean[0]) == pytest.approx(0.1, rel=1e-7)
    assert float(square[0]) == pytest.approx(0.001, rel=1e-7)


# The notebook printed these rates for lr 1.0, decay 0.01.
@pytest.mark.parametrize(("epoch", "printed"), [(0, 1.0), (10, 0.9174311926605504), (20, 0.8403361344537815)])
def test_logged_rate_is_that_of_the_update_before(epoch: int, printed: float) -> None:
    optimizer, target = SGD(1.0, decay=0.01), Target([0.0])
    target.step(optimizer, *[[0.0]] * epoch)
    assert optimizer.current_learning_rate == pytest.approx(printed, rel=1e-12)
    assert optimizer.iterations == epoch


@settings(deadline=None, max_examples=25)
@given(st.floats(1e-6, 10), st.floats(0, 10), st.integers(0, 100_000))
def test_rate_of_an_update_is_the_closed_form(rate: float, decay: float, updates: int) -> None:
    optimizer = Adam(rate, decay)
    optimizer.iterations = updates
    optimizer.pre_update_params()
    assert optimizer.current_learning_rate == pytest.approx(rate / (1 + decay * updates), rel=1e-14)


@pytest.mark.parametrize(
    "make",
    [lambda: SGD(0.5, 0.1), lambda: SGD(0.5, 0.1, 0.5), lambda: Adam(0.02, 0.1)],
    ids=["sgd", "momentum", "adam"],
)
def test_layers_by_hand_equal_the_whole_networks_step(make: Callable[[], Optimizer]) -> None:
    networks = [
        Network([Dense(5, 4, 0.0, 0.1), ReLU(), Dense(4, 3)], backend=CPU, seed=1, dtype="float64") for _ in range(2)
    ]
    generator = np.random.default_rng(2)
    X, y = generator.standard_normal((9, 5)), generator.integers(0, 3, 9)
    whole, by_hand = make(), make()
    for _ in range(3):
        for network in networks:
            network.backward(network.forward(X), y)
            network.add_penalty_gradients()
        whole.step(networks[0])
        by_hand.pre_update_params()
        for layer in networks[1].dense:
            by_hand.update_params(layer)
        by_hand.post_update_params()
    np.testing.assert_array_equal(networks[0].parameters, networks[1].parameters)
    assert whole.iterations == by_hand.iterations == 3


def test_moments_belong_to_what_is_updated_and_go_with_it() -> None:
    optimizer = SGD(1.0, momentum=0.5)
    first, second = Target([0.0]), Target([0.0])
    first.step(optimizer, [1.0], [0.0])
    assert second.step(optimizer, [1.0]) == [-1.0]
    assert len(optimizer._moments) == 2
    del second
    gc.collect()
    assert len(optimizer._moments) == 1


@pytest.mark.parametrize(
    ("make", "moments"), [(SGD, 0), (lambda: SGD(momentum=0.5), 1), (Adam, 2)], ids=["sgd", "momentum", "adam"]
)
def test_number_of_moments(make: Callable[[], Optimizer], moments: int) -> None:
    optimizer, target = make(), Target([1.0, 2.0])
    target.step(optimizer, [1.0, 1.0])
    assert optimizer.moments == len(optimizer.state(target)) == moments


def test_update_is_made_in_place() -> None:
    target = Target([1.0, 2.0])
    held = target.parameters
    target.step(Adam(), [1.0, 1.0])
    assert target.parameters is held
    np.testing.assert_array_equal(target.gradients, [1.0, 1.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(0), "learning_rate must be above 0 and finite, got 0"),
        (lambda: SGD(-1.0), "learning_rate must be above 0 and finite, got -1.0"),
        (lambda: Adam(math.nan), "learning_rate must be above 0 and finite, got nan"),
        (lambda: Adam(math.inf), "learning_rate must be above 0 and finite, got inf"),
        (lambda: SGD(decay=-0.1), "decay must be at least 0 and finite, got -0.1"),
        (lambda: Adam(decay=math.inf), "decay must be at least 0 and finite, got inf"),
        (lambda: SGD(momentum=1.0), "momentum must be at least 0 and below 1, got 1.0"),
        (lambda: SGD(momentum=-0.5), "momentum must be at least 0 and below 1, got -0.5"),
        (lambda: Adam(beta_1=1), "beta_1 must be at least 0 and below 1, got 1"),
        (lambda: Adam(beta_2=-0.1), "beta_2 must be at least 0 and below 1, got -0.1"),
        (lambda: Adam(epsilon=0.0), "epsilon must be above 0 and finite, got 0.0"),
    ],
)
def test_argument_out_of_range_is_named(make: Callable[[], Optimizer], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (SGD, {"learning_rate": 0.5, "decay": 0.1, "momentum": 0.9}),
        (Adam, {"learning_rate": 0.5, "decay": 0.1, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-5}),
    ],
)
def test_config_is_the_arguments(kind: Callable[..., Optimizer], arguments: dict[str, float]) -> None:
    assert kind(**arguments).config() == arguments


def test_defaults_are_the_notebooks() -> None:
    assert SGD().config() == {"learning_rate": 1.0, "decay": 0.0, "momentum": 0.0}
    assert Adam().config() == {
        "learning_rate": 0.001,
        "decay": 0.0,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-7,
    }


def test_next_coefficients_are_those_of_the_coming_update_which_they_count() -> None:
    optimizer = Adam(0.1, decay=1.0)
    assert optimizer.next_coefficients() == (1 - 0.9, 1 - 0.999, 0.1)
    assert optimizer.next_coefficients() == (1 - 0.9**2, 1 - 0.999**2, 0.1 / 2)
    assert optimizer.iterations == 2


def test_coefficients_given_take_the_place_of_its_own() -> None:
    layer = Dense(1, 1, dtype="float64", seed=0)
    layer.weights, layer.dweights = [[1.0]], [[2.0]]
    SGD(1.0).update_params(layer, [0.25])
    assert layer.weights == 1 - 0.25 * 2


# Moments, taken out and put back

MOMENTS = {
    "sgd": (lambda: SGD(0.5, decay=0.1), 0),
    "momentum": (lambda: SGD(0.5, decay=0.1, momentum=0.5), 1),
    "adam": (lambda: Adam(0.1, decay=0.1), 2),
}
EACH = pytest.mark.parametrize(("make", "count"), MOMENTS.values(), ids=MOMENTS)


def test_state_is_the_moments_by_hand() -> None:
    # v = -0.5·[2, 4], then 0.5·v - 0.4·[10, 5]; m = 0.1·g and 0.001·g².
    target, optimizer = Target([1.0, 1.0]), SGD(0.5, decay=0.25, momentum=0.5)
    target.step(optimizer, [2, 4], [10, 5])
    (velocity,) = optimizer.state(target)
    assert velocity.tolist() == pytest.approx([-0.5 - 4, -1 - 2])
    target, adam = Target([1.0, 1.0]), Adam()
    target.step(adam, [2, 4])
    mean, square = adam.state(target)
    assert (mean.tolist(), square.tolist()) == (pytest.approx([0.2, 0.4]), pytest.approx([0.004, 0.016]))


@EACH
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_state_is_zeros_before_the_first_update(make: Callable[[], Optimizer], count: int, dtype: str) -> None:
    optimizer, target = make(), Target([1.0, 2.0], dtype)
    state = optimizer.state(target)
    assert len(state) == count
    for moment in state:
        np.testing.assert_array_equal(moment, np.zeros(2, dtype), strict=True)


@EACH
def test_state_is_a_copy(make: Callable[[], Optimizer], count: int) -> None:
    optimizer, target, twin, other = make(), Target([1.0, 2.0]), Target([1.0, 2.0]), make()
    for each, by in ((target, optimizer), (twin, other)):
        each.step(by, [1.0, 2.0])
    for moment in optimizer.state(target):
        moment[...] = 100
    given = [np.full(2, 0.5) for _ in range(count)]
    for each, by in ((target, optimizer), (twin, other)):
        by.load_state(each, given)
    for moment in given:
        moment[...] = 100
    assert target.step(optimizer, [1.0, 2.0]) == twin.step(other, [1.0, 2.0])
    assert np.abs(target.parameters).max() < 10


@EACH
@settings(deadline=None, max_examples=20)
@given(dtype=st.sampled_from(["float32", "float64"]), before=st.integers(0, 4), after=st.integers(1, 4))
def test_moments_put_back_go_on_to_the_same_bits(
    make: Callable[[], Optimizer], count: int, dtype: str, before: int, after: int
) -> None:
    gradients = gradient_sequence(before + after)
    whole, half, optimizer, other = Target(np.ones(30), dtype), Target(np.ones(30), dtype), make(), make()
    expected = whole.step(make(), *gradients)
    half.step(optimizer, *gradients[:before])
    target = Target(half.parameters, dtype)
    other.load_state(target, optimizer.state(half))
    other.iterations = optimizer.iterations
    assert target.step(other, *gradients[before:]) == expected
    assert len(other.state(target)) == count


def test_lists_and_other_dtypes_are_taken() -> None:
    target, optimizer = Target([1.0, 2.0], "float32"), Adam()
    optimizer.load_state(target, iter([[1, 2], np.array([0.25, 4.0])]))
    for moment, expected in zip(optimizer.state(target), ([1, 2], [0.25, 4]), strict=True):
        np.testing.assert_array_equal(moment, np.array(expected, "float32"), strict=True)


@pytest.mark.parametrize(
    ("make", "arrays", "message"),
    [
        (Adam, [], r"Adam\(\) keeps 2 moments, got 0"),
        (lambda: Adam(0.5), [np.ones(2)], r"Adam\(learning_rate=0.5\) keeps 2 moments, got 1"),
        (SGD, [np.ones(2)], r"SGD\(\) keeps 0 moments, got 1"),
        (Adam, [np.ones(2), np.ones(3)], r"moment 2 must have the shape \(2,\), got \(3,\)"),
        (Adam, [np.ones((2, 1)), np.ones(2)], r"moment 1 must have the shape \(2,\), got \(2, 1\)"),
        (Adam, [np.ones(2), 1.0], r"moment 2 must have the shape \(2,\), got \(1,\)"),
        (Adam, [np.ones(2), ["a", "b"]], "moment 2 must hold real numbers, got dtype <U1"),
    ],
)
def test_moments_that_do_not_fit_are_refused_whole(make: Callable[[], Optimizer], arrays: Any, message: str) -> None:
    optimizer, target = make(), Target([1.0, 2.0])
    target.step(optimizer, [1.0, 2.0])
    before = optimizer.state(target)
    with pytest.raises(ValueError, match=f"^{message}$"):
        optimizer.load_state(target, arrays)
    np.testing.assert_array_equal(optimizer.state(target), before)


def test_moments_are_put_back_into_the_memory_that_there_is() -> None:
    # A CUDA graph has its address.
    optimizer, target = SGD(momentum=0.5), Target([1.0, 2.0])
    (held,) = optimizer._moments_of(target)
    optimizer.load_state(target, [[3.0, 4.0]])
    assert held.tolist() == [3, 4]


def test_moments_of_a_gpu_come_and_go_as_numpy_arrays() -> None:
    backend = CudaBackend(1, cupy=StandInCupy(devices=2))
    networks = [Network([Dense(3, 2)], backend=each, seed=1) for each in (backend, CPU)]
    optimizer = Adam(0.1)
    for network in networks:
        optimizer.load_state(network, [np.full(8, 0.5), np.full(8, 0.25)])
        with network.backend.current():
            network.gradients[...] = 0.5
        optimizer.update_params(network)
    on_gpu, on_cpu = map(optimizer.state, networks)
    assert {type(moment) for moment in on_gpu} == {np.ndarray}
    np.testing.assert_array_equal(on_gpu, on_cpu)
    np.testing.assert_array_equal(backend.to_host(networks[0].parameters), networks[1].parameters)
