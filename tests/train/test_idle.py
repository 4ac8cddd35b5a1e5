import logging

import numpy as np
import pytest

from fmnist_xp import GELU, SGD, Dense, History, Layer, ReLU, Sequential
from fmnist_xp.train.history import ended_in_dip

GENERATOR = np.random.default_rng(3)
X = GENERATOR.standard_normal((50, 4)).astype("float32")
Y = GENERATOR.integers(0, 3, 50)


def make(activation: type[Layer] = ReLU) -> Sequential:
    return Sequential([Dense(4, 5), activation(), Dense(5, 3)], seed=1)


def warnings_of(network: Sequential, caplog: pytest.LogCaptureFixture, epochs: int, rate: float) -> list[str]:
    with caplog.at_level(logging.WARNING, logger="fmnist_xp"):
        network.fit(X, Y, epochs=epochs, optimizer=SGD(rate), log_every=5, verbose=0)
    return caplog.messages


@pytest.mark.parametrize("activation", [ReLU, GELU])
def test_dead_units_are_told_of_once(caplog: pytest.LogCaptureFixture, activation: type[Layer]) -> None:
    network = make(activation)
    network.dense[0].biases = np.full((1, 5), -1e6)
    network.dense[1].biases = [[0, 9, 0]]
    assert warnings_of(network, caplog, 20, 1e-3) == [
        f"class 1 is predicted for every row: layer 2 ({activation.__name__}) gives 0 for every row, its units are "
        "dead; a lower learning rate or other first weights may help"
    ]


def test_one_class_alone_is_told_of_after_some_epochs(caplog: pytest.LogCaptureFixture) -> None:
    network = make()
    network.dense[1].biases = [[0, 0, 9]]
    assert warnings_of(network, caplog, 20, 1e-9) == []  # so early it may well be
    (message,) = warnings_of(network, caplog, 60, 1e-9)
    assert message.startswith("class 2 is predicted for every row: nothing that tells them apart was learned; ")


def test_training_that_learns_is_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_of(make(), caplog, 300, 0.5) == []


def test_dip_is_more_than_two_hundredths_below_the_best() -> None:
    history = History()
    assert ended_in_dip(history, 0.5) is None
    for epoch, accuracy in ((0, 0.1), (10, 0.892), (20, float("nan")), (30, 0.8)):
        history.append(epoch, accuracy, 1.0, 1.0, 0.0)
    assert ended_in_dip(history, 0.812) == 10
    assert ended_in_dip(history, 0.88) is None
    assert ended_in_dip(history, float("nan")) is None


@pytest.mark.parametrize("told", [False, True])
def test_training_that_diverged_has_no_dip(told: bool) -> None:
    history = History()
    for epoch, loss in ((0, 2.0), (10, 1.0 if told else float("nan"))):
        history.append(epoch, 0.8, loss, 1.0, 0.0)
    history.diverged = told
    assert ended_in_dip(history, 0.0) is None
