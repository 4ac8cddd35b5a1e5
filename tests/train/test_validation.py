import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmnist_xp import SGD, Adam, Dense, History, ReLU, Sequential
from fmnist_xp.train.validation import held_out_rows

GENERATOR = np.random.default_rng(2)
X = GENERATOR.standard_normal((90, 6))
Y = GENERATOR.integers(0, 3, 90)


def make(dtype: str = "float64") -> Sequential:
    return Sequential([Dense(6, 8, 0.0, 0.01), ReLU(), Dense(8, 3)], seed=1, dtype=dtype)


def metrics_of(network: Sequential, state: Any, inputs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return (accuracy, data loss), written out."""
    hidden = np.maximum(inputs @ state["dense1.weights"] + state["dense1.biases"], 0)
    logits = hidden @ state["dense2.weights"] + state["dense2.biases"]
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = powers / powers.sum(axis=1, keepdims=True)
    return (
        float((probabilities.argmax(axis=1) == labels).mean()),
        float(-np.log(probabilities[np.arange(len(labels)), labels]).mean()),
    )


def test_rows_are_held_out_of_each_class_alike() -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    held = held_out_rows(labels, 0.1, seed=0)
    assert np.bincount(labels[held]).tolist() == [5, 3, 2]
    np.testing.assert_array_equal(held, held_out_rows(labels, 0.1, seed=0))
    assert (held != held_out_rows(labels, 0.1, seed=1)).any()


def test_rests_go_to_the_classes_with_the_largest_ones() -> None:
    # A quarter of 7, 6 and 2 rows: 1.87, 1.6 and 0.53 of the 4 that a quarter of 15 rounds to.
    labels = np.repeat([0, 1, 2], [7, 6, 2])
    assert np.bincount(labels[held_out_rows(labels, 0.25, seed=3)], minlength=3).tolist() == [2, 2, 0]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0, 9))
def test_as_many_rows_as_the_fraction_is_of_all(labels: list[int], fraction: float, seed: int) -> None:
    wanted = round(fraction * len(labels))
    if not 0 < wanted < len(labels):
        with pytest.raises(ValueError, match="holds out"):
            held_out_rows(np.array(labels), fraction, seed)
        return
    held = held_out_rows(np.array(labels), fraction, seed)
    assert held.sum() == wanted
    counts, of_held = np.bincount(labels, minlength=5), np.bincount(np.array(labels)[held], minlength=5)
    assert (np.abs(of_held - counts * wanted / len(labels)) < 1).all()


def test_metrics_are_those_before_the_update_of_rows_that_are_not_trained_on() -> None:
    network, states = make(), [make().state_dict()]
    history = network.fit(
        X, Y, epochs=6, optimizer=SGD(0.5), log_every=1, verbose=0, validation_fraction=0.2, validation_seed=4,
        callbacks=lambda _history, network: states.append(network.state_dict()),
    )  # fmt: skip
    held = held_out_rows(Y, 0.2, seed=4)
    for column, rows in (("validation", held), ("", ~held)):
        accuracies, losses = zip(*(metrics_of(network, state, X[rows], Y[rows]) for state in states[:6]), strict=True)
        if column:
            assert history.validation_accuracy == pytest.approx(accuracies, rel=1e-12)
            assert history.validation_loss == pytest.approx(losses, rel=1e-9)
        else:
            assert history.accuracy == pytest.approx(accuracies, rel=1e-12)


def test_other_rows_may_be_given() -> None:
    network = make()
    first = network.state_dict()
    history = network.fit(X[:60], Y[:60], epochs=1, verbose=0, validation_data=(X[60:], Y[60:]))
    accuracy, loss = metrics_of(network, first, X[60:], Y[60:])
    assert (history.validation_accuracy, history.validation_loss) == ([accuracy], [pytest.approx(loss, rel=1e-9)])


def test_training_is_that_on_the_rows_left() -> None:
    held = held_out_rows(Y, 0.3, seed=0)
    whole, other = make(), make()
    whole.fit(X, Y, epochs=12, optimizer=Adam(0.02), verbose=0, validation_fraction=0.3)
    other.fit(X[~held], Y[~held], epochs=12, optimizer=Adam(0.02), verbose=0)
    np.testing.assert_array_equal(whole.parameters, other.parameters)


@pytest.mark.parametrize("log_every", [1, 3])
def test_weights_of_the_best_epoch_are_kept(log_every: int) -> None:
    network, states = make(), [make().state_dict()]
    every = make()
    every.fit(
        X, Y, epochs=40, optimizer=SGD(2.0), log_every=1, verbose=0, validation_fraction=0.2,
        callbacks=lambda _history, network: states.append(network.state_dict()),
    )  # fmt: skip
    history = network.fit(
        X, Y, epochs=40, optimizer=SGD(2.0), log_every=log_every, verbose=0, validation_fraction=0.2, keep_best=True
    )
    accuracies = history.validation_accuracy
    ties = [place for place, accuracy in enumerate(accuracies) if accuracy == max(accuracies)]
    best = min(ties, key=history.validation_loss.__getitem__)
    assert history.best_epoch == history.epoch[best]
    assert history.best_state is not None
    for name, values in states[history.best_epoch].items():
        np.testing.assert_array_equal(history.best_state[name], values)
    np.testing.assert_array_equal(network.parameters, every.parameters)  # which ends with the last ones


def test_patience_is_in_epochs_since_the_best() -> None:
    history = make().fit(
        X, Y, epochs=3000, optimizer=SGD(0.5), log_every=3, verbose=0, validation_fraction=0.2, patience=10
    )
    assert history.stopped == "no better validation accuracy in 10 epochs"
    assert history.best_epoch is not None
    assert history.epoch[-1] == history.best_epoch + 12  # the first that is logged 10 or more behind
    assert len(history.epoch_seconds) == history.epoch[-1] + 1


def test_best_epoch_by_hand() -> None:
    history = History()
    assert history.best_epoch is None
    rows = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.9, float("nan")), (0.7, 0.8)]
    for epoch, validation in enumerate(rows):
        history.append(10 * epoch, 0.1, 2.0, 1.0, 0.0, validation)
    assert history.best_epoch == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation_fraction": 0.0}, "validation_fraction must be above 0 and below 1, got 0.0"),
        ({"validation_fraction": 1}, "validation_fraction must be above 0 and below 1, got 1"),
        ({"validation_fraction": 0.001}, "a validation fraction of 0.001 of 90 rows holds out 0 of them"),
        ({"validation_fraction": "a"}, "validation_fraction must be a number, got 'a'"),
        ({"validation_fraction": 0.1, "validation_data": (X, Y)}, "both given"),
        ({"validation_data": X}, r"validation_data must be \(X, y\) or .*, got ndarray"),
        ({"validation_data": (X[:, :5], Y)}, r"X must have the shape \(n, 6\)"),
        ({"keep_best": True}, "keep_best needs rows held out"),
        ({"patience": 3}, "patience needs rows held out"),
        ({"patience": 0, "validation_fraction": 0.1}, "patience must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().fit(X, Y, epochs=1, verbose=0, **arguments)


def test_history_with_validation_is_read_again(tmp_path: Any) -> None:
    history = make().fit(X, Y, epochs=5, log_every=2, verbose=0, validation_fraction=0.2)
    history.save(tmp_path / "history.csv")
    again = History.load(tmp_path / "history.csv")
    assert again.to_csv() == history.to_csv()
    assert again.columns[-2:] == ("validation_accuracy", "validation_loss")
    assert list(itertools.chain(again.until(1).epoch, again.since(1).epoch)) == [0, 2, 4]
