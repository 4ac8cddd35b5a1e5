"""What training ends with where an optimizer averages the weights, and what of it is measured and kept."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_helpers import in_ranks
from safetensors import safe_open
from safetensors.numpy import load_file

from fmnist_xp import (
    SGD,
    Adam,
    AdamW,
    Augmentation,
    Constant,
    Cosine,
    Dense,
    Dropout,
    Exponential,
    History,
    ReLU,
    Sequential,
)
from fmnist_xp.backend import CpuBackend
from fmnist_xp.ranks import Ranks
from fmnist_xp.train.together import Numbers

GENERATOR = np.random.default_rng(3)
X = GENERATOR.standard_normal((60, 6))
Y = GENERATOR.integers(0, 4, 60)


def make(threads: int = 1) -> Sequential:
    layers = [Dense(6, 5, weight_regularizer_l2=0.01), ReLU(), Dense(5, 4)]
    return Sequential(layers, backend=CpuBackend(threads), seed=1, dtype="float64")


def fit(network: Sequential, epochs: int, optimizer: Any, **more: Any) -> History:
    return network.fit(X, Y, epochs=epochs, optimizer=optimizer, **{"log_every": 1, "verbose": 0, **more})


def weights_of_each_epoch(epochs: int, optimizer: Any) -> list[Any]:
    """Return the weights before each epoch of a training without an average, and those at its end."""
    network, every = make(), [make().parameters.copy()]
    fit(network, epochs, optimizer, callbacks=lambda _history, network: every.append(network.parameters.copy()))
    return every


def averages(every: list[Any], decay: float) -> list[Any]:
    """Return the weights at first, and the weighted means after each update."""
    found = every[:1]
    for count in range(1, len(every)):
        weights = [decay ** (count - k) for k in range(1, count + 1)]
        found.append(np.average(every[1 : count + 1], axis=0, weights=weights))
    return found


def test_network_ends_with_the_average() -> None:
    network, every = make(), weights_of_each_epoch(15, SGD(0.5, momentum=0.9))
    history = fit(network, 15, SGD(0.5, momentum=0.9, ema=0.8))
    np.testing.assert_allclose(network.parameters, averages(every, 0.8)[-1], rtol=1e-12)
    plain = fit(make(), 15, SGD(0.5, momentum=0.9))
    assert history.to_csv() == plain.to_csv()  # the weights themselves go the same way, and are what is logged


def test_rows_held_out_are_measured_with_the_average_and_the_best_one_is_kept() -> None:
    every = weights_of_each_epoch(12, SGD(0.8, momentum=0.9))
    history = fit(make(), 12, SGD(0.8, momentum=0.9, ema=0.7), validation_data=(X[:20], Y[:20]), keep_best=True)
    twin, metrics = make(), []
    for parameters in averages(every, 0.7)[:-1]:
        twin.parameters[...] = parameters
        metrics.append(twin.evaluate(X[:20], Y[:20]))
    assert history.validation_loss == pytest.approx([one.loss for one in metrics], rel=1e-12)
    assert history.validation_accuracy == [one.accuracy for one in metrics]
    assert history.best_state is not None
    twin.load_state_dict(history.best_state)
    np.testing.assert_allclose(twin.parameters, averages(every, 0.7)[history.best_epoch], rtol=1e-12)  # type: ignore[index]


def test_checkpoint_has_the_weights_themselves_and_the_average(tmp_path: Path) -> None:
    network = make()
    fit(network, 9, Adam(Cosine(0.1, 20), ema=0.9), checkpoint=tmp_path)
    path = tmp_path / "epoch-000000009.safetensors"
    arrays, every = load_file(path), weights_of_each_epoch(9, Adam(Cosine(0.1, 20)))
    np.testing.assert_array_equal(arrays["parameters"], every[-1])
    np.testing.assert_array_equal(arrays["moment3"], network.parameters)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["fmnist-xp checkpoint 1"])
    assert header["optimizer"]["learning_rate"]["type"] == "cosine"
    assert header["optimizer"]["ema"] == 0.9


@pytest.mark.parametrize(
    "optimizer", [SGD(0.3, 0.1), SGD(0.3, 0.1, 0.9), Adam(0.02, 0.1)], ids=["sgd", "momentum", "adam"]
)
def test_checkpoint_says_of_an_older_optimizer_what_it_always_said(tmp_path: Path, optimizer: Any) -> None:
    fit(make(), 2, optimizer, checkpoint=tmp_path)
    with safe_open(tmp_path / "epoch-000000002.safetensors", framework="numpy") as file:
        found = json.loads(file.metadata()["fmnist-xp checkpoint 1"])["optimizer"]
    names = {"SGD": ["momentum"], "Adam": ["beta_1", "beta_2", "epsilon"]}[found["type"]]
    assert list(found) == ["type", "learning_rate", "decay", *names]


@pytest.mark.parametrize("threads", [2, 3])
def test_any_number_of_threads_comes_to_the_same_bits(threads: int) -> None:
    networks = [make(), make(threads)]
    for network in networks:
        fit(network, 20, AdamW(Cosine(0.1, 20, warmup=5), clip_norm=0.2, ema=0.9), block_rows=8)
    np.testing.assert_array_equal(networks[1].parameters, networks[0].parameters)


def test_ranks_come_to_the_same_bits() -> None:
    expected = make()

    def train(network: Sequential, own: slice, comm: Any) -> History:
        optimizer = AdamW(Cosine(0.1, 20, warmup=5), clip_norm=0.2, ema=0.9)
        options: dict[str, Any] = {"epochs": 20, "log_every": 1, "verbose": 0, "block_rows": 8}
        return network.fit(X[own], Y[own], optimizer=optimizer, comm=comm, validation_fraction=0.2, **options)

    history = train(expected, slice(None), None)

    def work(ranks: Ranks) -> tuple[list[float], str]:
        network = make()
        found = train(network, ranks.share(len(X)), ranks.comm)
        return network.parameters.tolist(), found.to_csv()

    assert in_ranks(3, work) == [(expected.parameters.tolist(), history.to_csv())] * 3


def test_history_has_the_schedules_rates() -> None:
    history = fit(make(), 6, SGD(Exponential(0.5, 0.5)))
    assert history.learning_rate == [0.5, 0.5, 0.25, 0.125, 0.0625, 0.03125]  # that of the update before


def test_number_that_a_callback_sets_takes_the_place_of_a_schedule_on_all_ranks() -> None:
    def work(ranks: Ranks) -> tuple[float, float]:
        optimizer = SGD(Constant(0.5))
        numbers = Numbers(optimizer, ranks)
        numbers.take_over()
        before = optimizer.rate(3)
        if ranks.is_first:
            optimizer.learning_rate = 0.125
        numbers.take_over()
        return before, optimizer.rate(3)

    assert in_ranks(3, work) == [(0.5, 0.125)] * 3


@pytest.mark.parametrize(
    ("layers", "augmentation", "named"),
    [
        ([Dropout(0.5)], None, r"Dropout\(0\.5\)"),
        ([], Augmentation(mirror=True), r"Augmentation\(mirror=True\)"),
    ],
)
def test_a_line_search_is_refused_what_changes_by_chance(layers: Any, augmentation: Any, named: str) -> None:
    network = Sequential([Dense(36, 8), ReLU(), *layers, Dense(8, 3)], seed=0)
    with pytest.raises(ValueError, match=f"LBFGS compares losses of one function, and {named} makes another"):
        network.fit(np.zeros((6, 36)), np.arange(6) % 3, epochs=1, optimizer="lbfgs", augmentation=augmentation)
