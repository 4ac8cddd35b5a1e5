import itertools
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from rank_helpers import in_ranks

from fmnist_xp.backend import CpuBackend
from fmnist_xp.nn import Dense, Network, ReLU
from fmnist_xp.optim import SGD, Adam
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.history import History
from fmnist_xp.train.trainer import train

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((30, 6)).astype("float32")
Y = GENERATOR.integers(0, 4, 30)


def make_network(threads: int = 1) -> Network:
    return Network([Dense(6, 5, 0.0, 0.01), ReLU(), Dense(5, 4)], backend=CpuBackend(threads), seed=1)


def run(network: Network | None = None, **arguments: Any) -> History:
    return train(network or make_network(), X, Y, **{"optimizer": SGD(0.1), "epochs": 3, "log_every": 1, **arguments})


@pytest.mark.parametrize(
    ("epochs", "log_every", "logged"),
    [(0, 10, []), (1, 10, [0]), (10, 10, [0]), (11, 10, [0, 10]), (25, 10, [0, 10, 20]), (3, 1, [0, 1, 2])],
)
def test_every_nth_epoch_is_logged_and_every_epoch_timed(epochs: int, log_every: int, logged: list[int]) -> None:
    history = run(epochs=epochs, log_every=log_every)
    assert history.epoch == logged
    assert len(history) == len(history.loss) == len(history.accuracy) == len(history.learning_rate) == len(logged)
    assert len(history.epoch_seconds) == epochs
    assert min(history.epoch_seconds, default=0) >= 0
    assert not history.interrupted


def test_every_tenth_epoch_is_logged_unless_told() -> None:
    assert train(make_network(), X, Y, epochs=22, optimizer=SGD(0.1)).epoch == [0, 10, 20]


def test_figures_are_those_before_the_update() -> None:
    network = make_network()
    probabilities = network.forward(X)
    data_loss = -np.log(probabilities[np.arange(30), Y]).mean()
    accuracy = (probabilities.argmax(axis=1) == Y).mean()
    penalty = 0.01 * np.square(network.dense[0].weights).sum()
    history = run(network, epochs=1)
    assert history.loss == pytest.approx([data_loss + penalty], rel=1e-6)
    assert history.accuracy == pytest.approx([accuracy], rel=1e-12)
    assert history.regularization_loss == pytest.approx([penalty], rel=1e-5)


def test_callback_comes_after_the_update() -> None:
    network = make_network()
    seen = [network.parameters.copy()]
    run(network, callbacks=[lambda _history: seen.append(network.parameters.copy())])
    assert len(seen) == 4
    assert all(not np.array_equal(before, after) for before, after in itertools.pairwise(seen))
    np.testing.assert_array_equal(seen[-1], network.parameters)


# The notebook printed these rates for lr 1.0, decay 0.01: at epoch e > 0, 1 / (1 + 0.01·(e - 1)).
def test_logged_rates_are_the_notebooks() -> None:
    history = run(epochs=21, log_every=10, optimizer=SGD(1.0, decay=0.01))
    assert history.learning_rate == pytest.approx([1.0, 0.9174311926605504, 0.8403361344537815], rel=1e-12)


def test_functions_and_objects_are_called_in_order_with_the_history() -> None:
    calls: list[tuple[str, int]] = []

    class Watcher:
        """A callback with a method, and not to be called itself."""

        def on_epoch(self, history: History) -> None:
            calls.append(("object", history.epoch[-1]))

    history = run(callbacks=iter([lambda history: calls.append(("function", history.epoch[-1])), Watcher()]))
    assert calls == [(kind, epoch) for epoch in range(3) for kind in ("function", "object")]
    assert len(history) == 3


def test_no_more_than_the_logged_figures_leave_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network()
    network.parameters *= 20  # else one class is predicted for all rows, of which a sample is looked at in the end
    fetched: list[int] = []
    to_host = network.backend.to_host
    monkeypatch.setattr(network.backend, "to_host", lambda array: fetched.append(array.size) or to_host(array))
    run(
        network, epochs=7, log_every=3, dense=True
    )  # else rows that lie on the device are looked at before the first epoch
    assert fetched == [3, 3, 3]


def test_optimizer_goes_on_where_it_was() -> None:
    halves, whole = make_network(), make_network()
    optimizer = Adam(0.02, decay=0.1)
    first = run(halves, epochs=5, optimizer=optimizer)
    second = run(halves, epochs=5, optimizer=optimizer)
    expected = run(whole, epochs=10, optimizer=Adam(0.02, decay=0.1))
    np.testing.assert_array_equal(halves.parameters, whole.parameters)
    assert first.epoch == second.epoch == [0, 1, 2, 3, 4]
    for column in ("accuracy", "loss", "learning_rate", "regularization_loss"):
        assert getattr(first, column) + getattr(second, column) == getattr(expected, column)


def test_exception_of_a_callback_reaches_the_caller() -> None:
    def fail(_history: History) -> None:
        raise RuntimeError("callback failed")

    with pytest.raises(RuntimeError, match="callback failed"):
        run(callbacks=[fail])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_divergence_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fmnist_xp"):
        history = run(epochs=12, optimizer=SGD(1e30), keep_going=True)
    assert len(history) == 12
    assert np.isfinite(history.loss[0])
    assert not np.isfinite(history.loss[-2:]).any()
    assert history.diverged
    assert not history.stopped
    (record,) = caplog.records
    assert record.message.endswith(": training has diverged; a lower learning rate may help")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("log_every", [1, 5, 100])
def test_divergence_ends_the_training_in_any_epoch(log_every: int, caplog: pytest.LogCaptureFixture) -> None:
    """Whether that epoch is logged or not: the weights of these are finite up to there, as NumPy tells."""
    network, seen = make_network(), []

    def diverging(target: Any) -> None:
        seen.append(np.isfinite(network.parameters).all())
        if len(seen) == 7:
            network.parameters[3] = np.inf

    optimizer = SGD(0.1)
    optimizer.step = diverging  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, logger="fmnist_xp"):
        history = run(network, epochs=50, log_every=log_every, optimizer=optimizer)
    assert seen == [True] * 7
    assert len(history.epoch_seconds) == 7
    assert history.diverged
    assert history.stopped == "the weights are no longer finite after epoch 6"
    assert history.epoch == list(range(0, 7, log_every))
    assert caplog.messages == [f"{history.stopped}: training has diverged; a lower learning rate may help"]


def test_warning_names_the_epoch_that_diverged(caplog: pytest.LogCaptureFixture) -> None:
    network = make_network()

    def spoil(history: History) -> None:
        if history.epoch[-1] == 6:
            network.parameters[...] = np.nan

    with caplog.at_level(logging.WARNING, logger="fmnist_xp"):
        history = run(network, epochs=12, log_every=2, callbacks=[spoil])
    assert [record.message for record in caplog.records] == [
        "the weights are no longer finite after epoch 6: training has diverged; a lower learning rate may help"
    ]
    assert history.epoch == [0, 2, 4, 6]


def test_training_that_goes_well_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="fmnist_xp"):
        run()
    assert caplog.records == []


def interrupt_at(epoch: int) -> Callable[[History], None]:
    def callback(history: History) -> None:
        if history.epoch[-1] == epoch:
            signal.raise_signal(signal.SIGINT)

    return callback


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("threads", [1, 2])
def test_interrupt_ends_after_the_epoch_and_keeps_the_weights(threads: int) -> None:
    interrupted, whole = make_network(threads), make_network()
    history = run(interrupted, epochs=100, callbacks=[interrupt_at(4)])
    assert history.interrupted
    assert history.epoch == [0, 1, 2, 3, 4]
    assert len(history.epoch_seconds) == 5
    run(whole, epochs=5)
    np.testing.assert_array_equal(interrupted.parameters, whole.parameters)


@pytest.mark.usefixtures("sigint")
def test_interrupt_between_logged_epochs_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = SGD(0.1)
    step = optimizer.step

    def step_and_interrupt(target: Any) -> None:
        step(target)
        if optimizer.iterations == 7:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(optimizer, "step", step_and_interrupt)
    history = run(epochs=100, log_every=10, optimizer=optimizer)
    assert history.interrupted
    assert (history.epoch, len(history.epoch_seconds)) == ([0], 7)


@pytest.mark.usefixtures("sigint")
@pytest.mark.parametrize("interrupted", [False, True])
def test_handler_of_before_is_back_after_training(interrupted: bool) -> None:
    def handler(_number: int, _frame: Any) -> None:
        raise AssertionError("the handler of before was called")

    signal.signal(signal.SIGINT, handler)
    run(callbacks=[interrupt_at(0)] if interrupted else [])
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.usefixtures("sigint")
def test_handler_of_before_is_back_after_a_failure() -> None:
    def fail(_history: History) -> None:
        raise RuntimeError("callback failed")

    with pytest.raises(RuntimeError):
        run(callbacks=[fail])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("sigint")
def test_second_interrupt_breaks_off_at_once() -> None:
    seen: list[int] = []

    def interrupt_twice(history: History) -> None:
        signal.raise_signal(signal.SIGINT)
        seen.append(history.epoch[-1])
        signal.raise_signal(signal.SIGINT)
        seen.append(-1)

    with pytest.raises(KeyboardInterrupt):
        run(callbacks=[interrupt_twice])
    assert seen == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("sigint")
def test_training_in_another_thread_works_and_leaves_the_handler_alone() -> None:
    network, expected = make_network(), make_network()
    handlers: list[Any] = []
    callbacks = [lambda _history: handlers.append(signal.getsignal(signal.SIGINT))]
    with ThreadPoolExecutor(1) as pool:
        history = pool.submit(run, network, callbacks=callbacks).result()
    run(expected)
    assert len(history) == 3
    np.testing.assert_array_equal(network.parameters, expected.parameters)
    assert set(handlers) == {signal.default_int_handler}


@pytest.mark.usefixtures("sigint")
def test_ignored_interrupt_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    history = run(callbacks=[interrupt_at(0)])
    assert len(history) == 3
    assert not history.interrupted


@pytest.mark.usefixtures("sigint")
def test_handler_set_outside_python_does_not_break_training(monkeypatch: pytest.MonkeyPatch) -> None:
    # signal.getsignal returns None for one, and signal.signal does not take None.
    monkeypatch.setattr(signal, "getsignal", lambda _number: None)
    assert len(run()) == 3


# Several ranks, which threads play


def of_ranks(size: int, **arguments: Any) -> list[tuple[Network, History]]:
    """Train on the rows shared out among so many ranks, of which the first has the callbacks."""

    def work(ranks: Ranks) -> tuple[Network, History]:
        network, own = make_network(1 + ranks.rank % 2), ranks.share(len(X))
        callbacks = arguments.get("callbacks", []) if ranks.is_first else []
        given = {"optimizer": Adam(0.05), "block_rows": 4, **arguments, "callbacks": callbacks, "ranks": ranks}
        return network, train(network, X[own], Y[own], **given)

    return in_ranks(size, work)


@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_ranks_come_to_the_weights_and_the_history_of_one(size: int) -> None:
    network = make_network()
    expected = run(network, optimizer=Adam(0.05), epochs=12, log_every=5, block_rows=4)
    for found, history in of_ranks(size, epochs=12, log_every=5):
        np.testing.assert_array_equal(found.parameters, network.parameters)
        assert history.to_csv() == expected.to_csv()
        assert len(history.epoch_seconds) == 12
        assert 0 < history.message_seconds < sum(history.epoch_seconds)  # type: ignore[operator]
    assert expected.message_seconds is None


def test_callback_of_the_first_rank_stops_all() -> None:
    def stop(history: History) -> None:
        if history.epoch[-1] == 2:
            history.stop("enough")

    for _network, history in of_ranks(3, epochs=9, log_every=1, callbacks=[stop]):
        assert history.epoch == [0, 1, 2]
        assert len(history.epoch_seconds) == 3
        assert (history.stopped, history.interrupted) == ("enough", False)
