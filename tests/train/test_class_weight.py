"""Weights of classes: what they are, checked, and what a training with them learns, on any number of ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_helpers import in_ranks, outcomes_of

from fmnist_xp.backend import CpuBackend
from fmnist_xp.errors import ElsewhereError, RunError
from fmnist_xp.model import Sequential
from fmnist_xp.nn import Dense, ReLU
from fmnist_xp.optim import Adam
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.train.class_weight import BALANCED, checked_class_weight, class_weighted
from fmnist_xp.train.history import History

ROWS = 60
GENERATOR = np.random.default_rng(7)
Y = GENERATOR.choice(4, ROWS, p=[0.6, 0.25, 0.1, 0.05])
X = GENERATOR.standard_normal((4, 6))[Y] + GENERATOR.standard_normal((ROWS, 6))
WEIGHTS = GENERATOR.uniform(0, 5, ROWS)
OF_CLASSES = {0: 0.5, 2: 3.0, 3: 7}


@pytest.fixture
def compute_sample_weight() -> Any:
    """Scikit-learn's."""
    utils = pytest.importorskip("sklearn.utils", reason="scikit-learn, the oracle of this test, is not installed")
    return utils.compute_sample_weight


def make(backend: Any = None, kind: Any = Sequential) -> Any:
    network = kind(
        [Dense(6, 9, 1e-3, 2e-3), ReLU(), Dense(9, 4)], backend=backend or CpuBackend(1), seed=1, dtype="float64"
    )
    network.parameters *= 20
    return network


def fit(network: Sequential, rows: Any = X, labels: Any = Y, **options: Any) -> History:
    options = {"epochs": 12, "log_every": 2, "verbose": 0, "block_rows": 7, "optimizer": Adam(0.02), **options}
    return network.fit(rows, labels, **options)


def alike(first: Sequential, second: Sequential, one: History, other: History) -> None:
    np.testing.assert_array_equal(first.parameters, second.parameters)
    for column in ("loss", "accuracy", "validation_loss", "validation_accuracy"):
        assert getattr(one, column) == getattr(other, column)


@pytest.mark.parametrize(
    ("class_weight", "expected"),
    [
        (None, None),
        ("balanced", "balanced"),
        ({}, [1, 1, 1, 1]),
        ({np.int64(2): np.float32(0.5), 0: 3}, [3, 1, 0.5, 1]),
        ([1, 2.5, 0, 4], [1, 2.5, 0, 4]),
        (np.array([1.0, 2, 3, 4]), [1, 2, 3, 4]),
    ],
)
def test_weights_of_all_classes(class_weight: Any, expected: Any) -> None:
    assert checked_class_weight(class_weight, 4) == expected


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ("even", r"^class_weight must be \"balanced\", \{label: weight\} or a weight for each class, got 'even'$"),
        (2.0, r"or a weight for each class, got 2\.0$"),
        ([1, 2, 3], "^class_weight must have a weight for each of 4 classes, got 3$"),
        ({4: 1.0}, "^class_weight has a label 4, and the labels are 0 to 3$"),
        ({-1: 1.0}, "^a label in class_weight must be at least 0, got -1$"),
        ({"3": 1.0}, "^a label in class_weight must be a whole number, got '3'$"),
        ({True: 1.0}, "^a label in class_weight must be a whole number, got True$"),
        ({3: -1}, "^class_weight of class 3 must be at least 0 and finite, got -1$"),
        ({3: np.nan}, "^class_weight of class 3 must be at least 0 and finite, got nan$"),
        ([1, 1, np.inf, 1], "^class_weight of class 2 must be at least 0 and finite, got inf$"),
        ([1, 1, "1", 1], "^class_weight of class 2 must be a number, got '1'$"),
    ],
)
def test_class_weight_that_does_not_fit_is_refused(class_weight: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_class_weight(class_weight, 4)
    with pytest.raises(ValueError, match=message):
        fit(make(), class_weight=class_weight)


@pytest.mark.parametrize("labels", [Y, np.where(Y == 1, 0, Y)], ids=["all classes", "a class that is missing"])
def test_weights_are_scikit_learns(labels: np.ndarray, compute_sample_weight: Any) -> None:
    np.testing.assert_allclose(
        class_weighted(BALANCED, labels, None, ALONE), compute_sample_weight("balanced", labels), rtol=1e-15
    )
    given = [2.0, 0.5, 3.0, 0.0]
    np.testing.assert_allclose(
        class_weighted(given, labels, WEIGHTS, ALONE),
        compute_sample_weight(dict(enumerate(given)), labels) * WEIGHTS,
        rtol=1e-15,
    )


def test_balanced_rows_with_weights_are_so_many_rows(compute_sample_weight: Any) -> None:
    counts = GENERATOR.integers(0, 4, ROWS) * (Y != 2)  # a class whose rows count nothing is as good as absent
    repeated = np.repeat(Y, counts)
    balanced = np.zeros(4)
    balanced[repeated] = compute_sample_weight("balanced", repeated)
    np.testing.assert_allclose(class_weighted(BALANCED, Y, counts * 1.0, ALONE), counts * balanced[Y], rtol=1e-14)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alone", "with sample_weight"])
def test_training_is_that_with_the_rows_weighted(weights: Any) -> None:
    named, expected = make(), make()
    of_rows = np.array([OF_CLASSES.get(label, 1.0) for label in Y])
    one = fit(named, class_weight=OF_CLASSES, sample_weight=weights)
    other = fit(expected, sample_weight=of_rows if weights is None else of_rows * weights)
    alike(named, expected, one, other)
    sequence = make()
    alike(sequence, expected, fit(sequence, class_weight=[0.5, 1, 3, 7], sample_weight=weights), other)
    plain = make()
    fit(plain, sample_weight=weights)
    assert not np.allclose(plain.parameters, named.parameters)


def test_rare_class_counts_as_much_as_the_others() -> None:
    plain, balanced = make(), make()
    for network, class_weight in ((plain, None), (balanced, BALANCED)):
        fit(network, epochs=60, class_weight=class_weight)
    rare = Y >= 2
    assert balanced.evaluate(X[rare], Y[rare]).loss < plain.evaluate(X[rare], Y[rare]).loss


def test_rows_held_out_and_evaluation_are_not_weighted_by_class() -> None:
    weighted, plain = make(), make()
    options: dict[str, Any] = {"validation_data": (X[:20], Y[:20]), "log_every": 1, "epochs": 1}
    history, expected = fit(weighted, class_weight=OF_CLASSES, **options), fit(plain, **options)
    assert history.validation_loss == expected.validation_loss
    assert history.loss != expected.loss
    drawn = fit(make(), class_weight=BALANCED, validation_fraction=0.3, log_every=1, epochs=1)
    assert drawn.validation_loss == fit(make(), validation_fraction=0.3, log_every=1, epochs=1).validation_loss


@pytest.mark.parametrize("class_weight", [BALANCED, OF_CLASSES], ids=["balanced", "by label"])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alone", "with sample_weight"])
def test_threads_and_ranks_come_to_the_same_bits(class_weight: Any, weights: Any) -> None:
    options: dict[str, Any] = {"class_weight": class_weight, "validation_fraction": 0.2}
    expected = make()
    history = fit(expected, sample_weight=weights, **options)

    def work(ranks: Ranks) -> Any:
        own = slice(0, 0) if ranks.rank == 1 else slice(0, 25) if ranks.is_first else slice(25, ROWS)
        network, of_rows = make(CpuBackend(1 + ranks.rank)), None if weights is None else weights[own]
        return network, fit(network, X[own], Y[own], sample_weight=of_rows, comm=ranks.comm, **options)

    threaded = make(CpuBackend(3))
    for network, logged in [(threaded, fit(threaded, sample_weight=weights, **options)), *in_ranks(3, work)]:
        alike(network, expected, logged, history)


def test_other_weights_on_one_rank_are_refused_on_all() -> None:
    def work(ranks: Ranks) -> History:
        return fit(make(), class_weight=[1, 1, 1, 1 + ranks.rank], comm=ranks.comm)

    for rank, outcome in enumerate(outcomes_of(2, work)):
        assert isinstance(outcome, ElsewhereError if rank else ValueError)
        assert "class_weight [1.0, 1.0, 1.0, 2.0]" in str(outcome)


def test_training_goes_on_with_the_same_weights_alone(tmp_path: Path) -> None:
    whole, first, resumed = make(), make(), make()
    fit(whole, epochs=20, class_weight=BALANCED)
    fit(first, epochs=8, class_weight=BALANCED, checkpoint=tmp_path)
    for other in (None, OF_CLASSES):
        with pytest.raises(RunError):
            fit(make(), epochs=20, class_weight=other, checkpoint=tmp_path, resume=True)
    fit(resumed, epochs=20, class_weight=BALANCED, checkpoint=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)


class OwnForward(Sequential):
    """A network that computes otherwise than its layers."""

    def forward(self, inputs: Any) -> Any:
        return super().forward(inputs)


def test_training_that_class_weights_leave_nothing_of_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^class_weight is 0 for every row that is trained on"):
        fit(make(), class_weight=[0, 0, 0, 0])
    with pytest.raises(ValueError, match=r"^class_weight is 0 for every row that is trained on"):
        fit(make(), X[Y == 0], Y[Y == 0], class_weight={0: 0})
    with pytest.raises(ValueError, match=r"^sample_weight times class_weight is too large for a float$"):
        fit(make(), sample_weight=np.full(ROWS, 1e300), class_weight=[1e300] * 4)
    with pytest.raises(ValueError, match=r"^class_weight is for networks that compute as their layers do, and OwnF"):
        fit(make(kind=OwnForward), class_weight=BALANCED)
