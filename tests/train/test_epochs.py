"""Epochs in a row on a CPU that captures as a GPU does: what was asked for is asked for again, with other numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.nn import Dense, Layer, Network, ReLU
from fmnist_xp.optim import LBFGS, SGD, AdaGrad, Adam, AdamW, Cosine, Optimizer, RMSProp
from fmnist_xp.registry import REGISTRY
from fmnist_xp.train.epochs import Epochs
from fmnist_xp.train.fullbatch import FullBatch
from fmnist_xp.train.trainer import _stretches, train

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.standard_normal((30, 6)).astype("float32"), GENERATOR.integers(0, 4, 30)


class Capturing(CpuBackend):
    """Counts what is captured and launched."""

    captures = True

    def __init__(self) -> None:
        super().__init__(1)
        self.captured_works = self.launches = 0

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        self.captured_works += 1

        def launch() -> None:
            self.launches += 1
            work()

        return launch


def make(backend: CpuBackend, between: Layer | None = None, optimizer: Optimizer | None = None) -> tuple[Any, Any]:
    network = Network([Dense(6, 5, 0.0, 0.01), between or ReLU(), Dense(5, 4)], backend=backend, seed=1)
    return network, Epochs(FullBatch(network, X, Y), optimizer or Adam(0.05, decay=0.1), 4)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: SGD(0.3, decay=0.1),
        lambda: SGD(0.1, 0.1, 0.9),
        lambda: Adam(0.05, 0.1),
        lambda: SGD(0.3, momentum=0.9, nesterov=True, ema=0.9),
        lambda: AdamW(Cosine(0.05, 12, warmup=3), clip_norm=0.1, ema=0.8),
        lambda: RMSProp(0.01, clip_norm=0.1),
        lambda: AdaGrad(0.05, ema=0.5),
    ],
)
def test_stretches_make_the_epochs_that_single_steps_make(optimizer: Callable[[], Optimizer]) -> None:
    expected, step = make(CpuBackend(1))[0], optimizer()
    batch = FullBatch(expected, X, Y)
    backend = Capturing()
    network, epochs = make(backend, optimizer=optimizer())
    for stretch in range(4):
        epochs.run(4, log=True)
        for number in range(4):
            batch.compute_gradients(log=number == 0)
            step.step(expected)
        np.testing.assert_array_equal(epochs._batch.metrics.totals, batch.metrics.totals)
        np.testing.assert_array_equal(network.parameters, expected.parameters)
        for mine, theirs in zip(epochs._optimizer.state(network), step.state(expected), strict=True):
            np.testing.assert_array_equal(mine, theirs)
        assert (backend.captured_works, backend.launches) == (int(stretch > 0), stretch)


def test_kinds_of_stretches_are_captured_apart() -> None:
    backend = Capturing()
    _, epochs = make(backend)
    for count, log in [(1, True), (3, False)] * 3 + [(2, False)]:
        epochs.run(count, log)
    assert (backend.captured_works, backend.launches) == (2, 4)


def test_optimizer_counts_and_has_its_rate_as_after_single_steps() -> None:
    optimizer, expected = SGD(0.5, decay=0.1), SGD(0.5, decay=0.1)
    network, epochs = make(Capturing(), optimizer=optimizer)
    for _ in range(3):
        epochs.run(4, log=False)
    for _ in range(12):
        expected.step(network)
    assert (optimizer.iterations, optimizer.current_learning_rate) == (12, expected.current_learning_rate)


class Identity(Layer):
    """A layer of the user's own."""

    def forward(self, inputs: Any) -> Any:
        return inputs

    def backward(self, dvalues: Any) -> Any:
        return dvalues


class OwnAdam(Adam):
    """An optimizer of the user's own."""


class Odd(Adam):
    """Registered below, with an update of its own."""

    def update_params(self, target: Any, coefficients: Any = None) -> None:
        super().update_params(target, coefficients)


@pytest.mark.parametrize(("between", "optimizer"), [(Identity(), Adam()), (ReLU(), OwnAdam()), (ReLU(), Odd())])
def test_layers_and_optimizers_of_the_users_own_are_asked_every_time(
    between: Layer, optimizer: Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "odd", Odd)
    backend = Capturing()
    _, epochs = make(backend, between, optimizer)
    assert not epochs.captures
    for _ in range(3):
        epochs.run(4, log=True)
    assert backend.captured_works == 0
    assert optimizer.iterations == 12


@pytest.mark.parametrize(
    ("captures", "overlapping", "expected"),
    [
        (False, True, [(epoch, 1) for epoch in range(9)]),
        (True, True, [(0, 4), (4, 4), (8, 1)]),
        (True, False, [(0, 1), (1, 3), (4, 1), (5, 3), (8, 1)]),
    ],
)
def test_stretches_begin_with_logged_epochs(
    captures: bool, overlapping: bool, expected: list[tuple[int, int]]
) -> None:
    assert list(_stretches(0, 9, 4, captures, overlapping)) == expected
    assert list(_stretches(4, 4, 4, captures, overlapping)) == []
    assert list(_stretches(0, 2, 10, captures, True)) == ([(0, 2)] if captures else [(0, 1), (1, 1)])
    # A resumed training goes on to the next logged epoch first.
    resumed = list(_stretches(6, 9, 4, captures, overlapping))
    assert resumed == ([(6, 2), (8, 1)] if captures else [(6, 1), (7, 1), (8, 1)])


def test_optimizer_that_needs_the_loss_is_given_it_in_every_epoch() -> None:
    given: list[float] = []

    class Watched(LBFGS):
        """Notes the losses."""

        def step(self, target: Any, loss: float | None = None) -> None:
            given.append(loss or 0.0)
            super().step(target, loss)

    expected = Network([Dense(6, 5, 0.0, 0.01), ReLU(), Dense(5, 4)], backend=CpuBackend(1), seed=1)
    history = train(expected, X, Y, epochs=9, optimizer=LBFGS(), log_every=1)
    backend = Capturing()
    _, epochs = make(backend, optimizer=Watched())
    assert not epochs.captures
    epochs.run(9, log=False)
    assert given == history.loss
    assert backend.captured_works == 0


def test_what_overlaps_is_told_of_an_epoch_while_the_next_ones_run() -> None:
    seen: dict[str, list[tuple[int, int]]] = {"overlaps": [], "waits": [], "does not say": []}
    for name, overlaps in (("overlaps", True), ("waits", False), ("does not say", None)):
        optimizer = Adam(0.05)

        class Watcher:
            """Notes how many updates were asked for when it is told of an epoch."""

            def __init__(self, name: str, overlaps: bool | None, optimizer: Adam) -> None:
                self.name, self.optimizer = name, optimizer
                if overlaps is not None:
                    self.overlaps = overlaps

            def on_epoch(self, history: Any) -> None:
                seen[self.name].append((history.epoch[-1], self.optimizer.iterations))

        network = Network([Dense(6, 5), ReLU(), Dense(5, 4)], backend=Capturing(), seed=1)
        watcher = Watcher(name, overlaps, optimizer)
        history = train(network, X, Y, epochs=10, optimizer=optimizer, log_every=4, callbacks=[watcher])
        assert history.epoch == [0, 4, 8]
        assert len(history.epoch_seconds) == 10
    alone = [(0, 1), (4, 5), (8, 9)]
    assert seen == {"overlaps": [(0, 8), (4, 10), (8, 10)], "waits": alone, "does not say": alone}


def test_seconds_of_epochs_made_at_once_are_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network([Dense(6, 5), ReLU(), Dense(5, 4)], backend=Capturing(), seed=1)
    monkeypatch.setattr(network.backend, "seconds_between", lambda marks: [2.0, 6.0, 3.0][: len(marks) - 1])
    history = train(network, X, Y, epochs=10, optimizer=SGD(), log_every=4)
    assert history.epoch_seconds == [0.5] * 4 + [1.5] * 4 + [1.5] * 2
