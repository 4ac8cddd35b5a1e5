"""That ranks, which threads play, train the same from the same."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy
from rank_helpers import in_ranks, outcomes_of

from fmnist_xp import SGD, Adam, Dense, History, ReLU, Sequential, Tanh
from fmnist_xp.backend import Backend, CpuBackend, CudaBackend
from fmnist_xp.errors import ElsewhereError
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.train import together
from fmnist_xp.train.checkpoint import State
from fmnist_xp.train.together import Numbers, check_alike, spread

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.standard_normal((12, 6)), GENERATOR.integers(0, 3, 12)


def make(seed: int = 1, activation: Any = ReLU, dtype: str = "float32", backend: Backend | None = None) -> Sequential:
    layers = [Dense(6, 5), activation(), Dense(5, 3)]
    return Sequential(layers, backend=backend or CpuBackend(1), seed=seed, dtype=dtype)


def after(updates: int, optimizer: Any, network: Sequential) -> Any:
    """Return the optimizer as it is after so many updates of some network of that kind."""
    network.fit(X, Y, epochs=updates, optimizer=optimizer, verbose=0)
    return optimizer


def trained(optimizer: Any, updates: int, weights: Sequential | None = None) -> tuple[Sequential, Any]:
    """Return a network and its optimizer after so many updates; with the parameters of `weights`, if given."""
    network = make()
    after(updates, optimizer, network)
    if weights is not None:
        network.parameters[...] = weights.parameters
    return network, optimizer


# Alike


def test_one_process_is_like_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(together, "sha256")  # nothing is computed for it
    check_alike(ALONE, make(), Adam(), epochs=3)


def test_ranks_that_are_alike_pass() -> None:
    def work(ranks: Ranks) -> None:
        check_alike(ranks, *trained(Adam(0.02), 3), epochs=3, dense=None)
        check_alike(ranks, make())

    assert in_ranks(3, work) == [None] * 3


FIRST = make()
OTHERS: dict[str, tuple[Callable[[], tuple[Any, ...]], str]] = {
    "weights": (lambda: (make(seed=2), Adam(0.02)), r"rank 1 has weights of the SHA-256 [0-9a-f]{64}, and rank 0 "),
    "layers": (lambda: (make(activation=Tanh), Adam(0.02)), r"rank 1 has the layers .*Tanh.*, and rank 0 "),
    "dtype": (lambda: (make(dtype="float64"), Adam(0.02)), "rank 1 has the layers .*, and rank 0 "),
    "learning rate": (lambda: (make(), Adam(0.03)), r"rank 1 has the optimizer .*, and rank 0 .*Adam"),
    "optimizer": (lambda: (make(), SGD(0.02)), r"rank 1 has the optimizer .*SGD.* after 0 updates, and rank 0 "),
    "updates": (lambda: trained(Adam(0.02), 2, FIRST), r"rank 1 has the optimizer .* after 2 updates, and rank 0 "),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_differs_between_ranks_is_told(name: str) -> None:
    other, message = OTHERS[name]

    def work(ranks: Ranks) -> None:
        check_alike(ranks, *((make(), Adam(0.02)) if ranks.is_first else other()))

    first, second = outcomes_of(2, work)
    assert isinstance(first, ValueError)
    with pytest.raises(ValueError, match=message):
        raise first
    assert isinstance(second, ElsewhereError)


def test_moments_that_differ_are_told() -> None:
    def work(ranks: Ranks) -> None:
        network, optimizer = trained(Adam(0.02), 2)
        optimizer.load_state(network, [moment + ranks.rank for moment in optimizer.state(network)])
        check_alike(ranks, network, optimizer)

    first = outcomes_of(2, work)[0]
    assert isinstance(first, ValueError)
    assert "rank 1 has moments of the SHA-256 " in str(first)


@pytest.mark.parametrize(("name", "values"), [("epochs", (3, 4)), ("dense", (None, False)), ("patience", (None, 2))])
def test_arguments_that_differ_are_told(name: str, values: tuple[Any, Any]) -> None:
    first, second = outcomes_of(2, lambda ranks: check_alike(ranks, make(), **{name: values[ranks.rank]}))
    said = f"rank 1 has {name} {values[1]}, and rank 0 {values[0]}: all ranks must have the same"
    assert (type(first), str(first)) == (ValueError, said)
    assert (type(second), str(second)) == (ElsewhereError, f"rank 0: {said}")


def test_backends_of_two_kinds_are_told() -> None:
    def work(ranks: Ranks) -> None:
        check_alike(ranks, make(backend=CpuBackend(1) if ranks.is_first else CudaBackend(cupy=StandInCupy())))

    first = outcomes_of(2, work)[0]
    assert str(first) == (
        "rank 1 has a backend of the kind CudaBackend, and rank 0 CpuBackend: all ranks must have the same"
    )


def test_versions_that_differ_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        return "1" if package == "numpy" or threading.current_thread().name == "0" else "2"

    monkeypatch.setattr(together, "version", version)
    first = outcomes_of(2, lambda ranks: check_alike(ranks, make()))[0]
    assert str(first) == "rank 1 has the version of fmnist-xp 2, and rank 0 1: all ranks must have the same"


def test_package_that_is_not_installed_has_no_version() -> None:
    assert together._version("no-such-package") == "none that is installed"


class OnProcessor(CpuBackend):
    """Says that it is on this processor."""

    def __init__(self, processor: str) -> None:
        super().__init__(1)
        self.processor = processor

    @property
    def arithmetic(self) -> str:
        return f"cpu ({self.processor})"


@pytest.mark.parametrize(
    ("processors", "message"),
    [
        ("aaa", None),
        ("aba", "rank 1 computes on (b), and rank 0 on (a): the last bits may differ"),
        ("aab", "rank 2 computes on (b), and rank 0 on (a): the last bits may differ"),
        ("abc", "rank 1 computes on (b), and rank 0 on (a): the last bits may differ"),
    ],
)
def test_other_processors_are_warned_of_once(
    caplog: pytest.LogCaptureFixture, processors: str, message: str | None
) -> None:
    with caplog.at_level(logging.WARNING, logger="fmnist_xp"):
        in_ranks(3, lambda ranks: check_alike(ranks, make(backend=OnProcessor(processors[ranks.rank]))))
    assert caplog.messages == ([message] * 3 if message else [])  # of each; `fit` lets the first alone speak


# From the same


@pytest.mark.parametrize("state", [None, State(3, History(epoch=[0, 1, 2]))])
def test_state_of_one_process_is_its_own(state: State | None) -> None:
    network, optimizer = trained(Adam(0.02), 2)
    held = network.parameters.copy(), [moment.copy() for moment in optimizer.state(network)], optimizer.iterations
    assert spread(state, network, optimizer, ALONE) is state
    np.testing.assert_array_equal(network.parameters, held[0])
    for moment, before in zip(optimizer.state(network), held[1], strict=True):
        np.testing.assert_array_equal(moment, before)
    assert optimizer.iterations == held[2]


def test_where_there_is_no_state_every_rank_goes_on_from_its_own() -> None:
    def work(ranks: Ranks) -> None:
        network = make(seed=ranks.rank)
        assert spread(None, network, Adam(), ranks) is None
        np.testing.assert_array_equal(network.parameters, make(seed=ranks.rank).parameters)

    assert in_ranks(3, work) == [None] * 3


@pytest.mark.parametrize("has_best", [False, True])
@pytest.mark.parametrize(
    "optimizer", [lambda: Adam(0.02, decay=0.1), lambda: SGD(0.3, momentum=0.5, decay=0.1)], ids=["adam", "momentum"]
)
@pytest.mark.parametrize("gpu", [False, True])
def test_all_ranks_go_on_from_the_state_of_the_first(gpu: bool, optimizer: Callable[[], Any], has_best: bool) -> None:
    def work(ranks: Ranks) -> dict[str, Any]:
        backend: Backend = CudaBackend(1, cupy=StandInCupy(devices=2)) if gpu else CpuBackend(1)
        network, own, state = make(seed=ranks.rank, backend=backend), optimizer(), None
        if ranks.is_first:
            after(3, own, network)
            best = backend.asarray(np.arange(network.parameters.size, dtype="float32")) if has_best else None
            state = State(3, History(epoch=[0, 1, 2], loss=[3.0, 2.0, 1.0]), best)
        found = spread(state, network, own, ranks)
        assert found is not None
        assert ranks.rank or found is state
        assert found.best is None or isinstance(found.best, backend.xp.ndarray)
        return {
            "epoch": found.epoch,
            "history": found.history,
            "best": None if found.best is None else backend.to_host(found.best).tolist(),
            "weights": backend.to_host(network.parameters).tolist(),
            "moments": [backend.to_host(moment).tolist() for moment in own.state(network)],
            "iterations": own.iterations,
            "rate": own.current_learning_rate,
        }

    first, *others = in_ranks(3, work)
    assert others == [first, first]
    assert (first["epoch"], first["iterations"]) == (3, 3)
    assert first["history"] == History(epoch=[0, 1, 2], loss=[3.0, 2.0, 1.0])
    assert (first["best"] is not None) == has_best
    assert np.any(first["moments"][0])
    assert first["rate"] < (0.02 if optimizer().config()["learning_rate"] == 0.02 else 0.3)


# What the first rank's callbacks change


@pytest.mark.parametrize("make_optimizer", [lambda: SGD(0.1, 0.01, 0.9), lambda: Adam(0.02, 0.01)])
def test_numbers_of_the_firsts_optimizer_are_taken_over(make_optimizer: Callable[[], Any]) -> None:
    def work(ranks: Ranks) -> tuple[float, float]:
        optimizer = make_optimizer()
        numbers = Numbers(optimizer, ranks)
        if ranks.is_first:
            optimizer.learning_rate, optimizer.decay = 1, 0.5  # a whole number too
        numbers.take_over()
        return optimizer.learning_rate, optimizer.decay

    assert in_ranks(3, work) == [(1, 0.5)] * 3


def test_rate_that_the_firsts_callback_sets_is_the_next_updates_of_all() -> None:
    def work(ranks: Ranks) -> tuple[list[float], list[float]]:
        network, optimizer = make(), Adam(0.02)

        def halve(_history: History) -> None:
            optimizer.learning_rate /= 2

        options: dict[str, Any] = {"log_every": 2, "callbacks": halve, "verbose": 0, "block_rows": 2}
        history = network.fit(X, Y, epochs=7, optimizer=optimizer, comm=ranks.comm, **options)
        return history.learning_rate, network.parameters.tolist()

    every = in_ranks(2, work)
    assert every[0][0] == [0.02, 0.01, 0.005, 0.0025]
    assert every[0] == every[1]
