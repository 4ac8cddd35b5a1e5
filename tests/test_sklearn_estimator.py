"""The estimator beside scikit-learn's `MLPClassifier`, trained full batch, and what it makes of all kinds of data."""

import io
import math
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

import joblib
from scipy import sparse
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from fmnist_xp.backend import CpuBackend
from fmnist_xp.errors import DeviceError
from fmnist_xp.optim import Step
from fmnist_xp.sklearn import FullBatchMLPClassifier, Watch

ROOT = Path(__file__).parents[1]
GENERATOR = np.random.default_rng(0)
X, Y = make_blobs(90, 6, centers=3, cluster_std=4.0, random_state=0)
X /= 10
WEIGHTS = GENERATOR.uniform(0.2, 3, len(X))
# What makes MLPClassifier train as this package does. Its ε stands under a root that is not yet corrected.
FULL_BATCH = {
    "batch_size": len(X),
    "shuffle": False,
    "random_state": 3,
    "epsilon": 1e-14,
}
OWN = {"random_state": 3, "epsilon": 1e-14}


@pytest.fixture(autouse=True)
def short_trainings() -> Iterator[None]:
    """Let trainings end before they have converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def small(**parameters: Any) -> FullBatchMLPClassifier:
    defaults = {"hidden_layer_sizes": (8,), "learning_rate_init": 0.01, "max_iter": 30, "random_state": 3}
    return FullBatchMLPClassifier(**{**defaults, **parameters})


# Beside MLPClassifier

SOLVERS: dict[str, dict[str, Any]] = {
    "adam": {"solver": "adam", "learning_rate_init": 0.02, "beta_1": 0.8, "beta_2": 0.99},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.1, "momentum": 0.0},
    "momentum": {"solver": "sgd", "learning_rate_init": 0.02, "momentum": 0.9, "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.02, "momentum": 0.8},
}


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize(
    ("activation", "hidden"),
    [("relu", ()), ("relu", 8), ("relu", (7, 5)), *((name, (7, 5)) for name in ("tanh", "identity", "logistic"))],
    ids=str,
)
@pytest.mark.parametrize("solver", SOLVERS)
def test_training_is_that_of_mlpclassifier(solver: str, hidden: Any, activation: str, weights: Any) -> None:
    same = {"hidden_layer_sizes": hidden, "activation": activation, "alpha": 0.3, "max_iter": 25, **SOLVERS[solver]}
    reference = MLPClassifier(**same, **FULL_BATCH).fit(X, Y, weights)
    found = FullBatchMLPClassifier(**same, **OWN).fit(X, Y, weights)
    np.testing.assert_allclose(found.loss_curve_, reference.loss_curve_, rtol=1e-9)
    for name in ("coefs_", "intercepts_"):
        for ours, theirs in zip(getattr(found, name), getattr(reference, name), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)
    for name in ("n_iter_", "n_layers_", "n_outputs_", "n_features_in_", "out_activation_"):
        assert getattr(found, name) == getattr(reference, name), name
    for name in ("loss_", "best_loss_"):
        assert getattr(found, name) == pytest.approx(getattr(reference, name))
    assert (found.validation_scores_, found.best_validation_score_) == (None, None)
    np.testing.assert_array_equal(found.classes_, reference.classes_)
    np.testing.assert_allclose(found.predict_proba(X), reference.predict_proba(X), rtol=1e-6)
    np.testing.assert_allclose(found.predict_log_proba(X), reference.predict_log_proba(X), rtol=1e-6)
    np.testing.assert_array_equal(found.predict(X), reference.predict(X))
    assert found.score(X, Y, weights) == pytest.approx(reference.score(X, Y, weights))


@pytest.mark.parametrize("learning_rate", ["constant", "adaptive"])
@pytest.mark.parametrize("patience", [1, 4, np.inf])
@pytest.mark.parametrize("tol", [1e-2, 0.0])
def test_training_ends_with_that_of_mlpclassifier(tol: float, patience: float, learning_rate: str) -> None:
    """SGD at a rate that makes the loss rise and fall, so that it is no better now and then."""
    same = {"hidden_layer_sizes": (8,), "solver": "sgd", "learning_rate_init": 1.5, "tol": tol, "max_iter": 70}
    same |= {"learning_rate": learning_rate, "n_iter_no_change": patience, "nesterovs_momentum": False}
    reference, found = MLPClassifier(**same, **FULL_BATCH).fit(X, Y), FullBatchMLPClassifier(**same, **OWN).fit(X, Y)
    assert found.n_iter_ == reference.n_iter_ == len(found.loss_curve_)
    assert found.best_loss_ == pytest.approx(reference.best_loss_)
    np.testing.assert_allclose(found.coefs_[0], reference.coefs_[0], rtol=1e-6)
    if learning_rate == "constant":
        assert (found.n_iter_ < 70) is (patience < np.inf)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize(
    ("activation", "hidden"), [("relu", ()), ("logistic", 5), ("tanh", 5), ("identity", (7, 5))], ids=str
)
def test_lbfgs_finds_the_minimum_that_mlpclassifier_finds(activation: str, hidden: Any, weights: Any) -> None:
    same = {"hidden_layer_sizes": hidden, "activation": activation, "alpha": 1.0, "solver": "lbfgs", "tol": 1e-6}
    same |= {"max_iter": 1000, "random_state": 3}
    reference, found = MLPClassifier(**same).fit(X, Y, weights), FullBatchMLPClassifier(**same).fit(X, Y, weights)
    assert found.loss_ == found.best_loss_ == pytest.approx(reference.loss_, rel=1e-6)
    np.testing.assert_allclose(found.predict_proba(X), reference.predict_proba(X), atol=1e-3)
    assert reference.n_iter_ < found.n_iter_ == len(found.loss_curve_) < 1000  # evaluations


@pytest.mark.parametrize("evaluations", [1, 2, 3, 11])
def test_lbfgs_ends_with_the_best_weights_that_it_found(evaluations: int) -> None:
    with pytest.warns(ConvergenceWarning, match=f"in {evaluations} iterations"):
        found = small(solver="lbfgs", alpha=0.3, max_iter=evaluations, learning_rate_init=5).fit(X, Y)
    squares = sum(float(np.square(coef).sum()) for coef in found.coefs_)
    expected = log_loss(Y, found.predict_proba(X)) + 0.15 * squares / len(X)
    assert found.loss_ == min(found.loss_curve_) == pytest.approx(expected)
    assert found.n_iter_ == evaluations


NOISY = np.where(GENERATOR.random(len(Y)) < 0.3, 0, Y)


def drawn_rows(labels: Any) -> tuple[Any, Any]:
    """Return the rows to train on and those held out that MLPClassifier would draw for random state 3.

    That is, once the weights of `small` are drawn, were it to stratify.
    """
    state = np.random.RandomState(3)
    for shape in ((6, 8), 8, (8, 3), 3):
        state.uniform(size=shape)
    places = np.arange(len(X))
    train, held = train_test_split(places, test_size=0.3, random_state=state, stratify=labels)
    return train, held


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
def test_early_stopping_keeps_the_weights_that_do_best_on_rows_held_out(weights: Any) -> None:
    """Each class has its share among the rows that are neither trained on nor forgotten."""
    options = {"solver": "sgd", "learning_rate_init": 0.3, "momentum": 0.0, "alpha": 0.3}
    found = small(**options, early_stopping=True, validation_fraction=0.3, n_iter_no_change=5, max_iter=60)
    found.fit(X, NOISY, weights)
    train, held = drawn_rows(NOISY)
    reference = MLPClassifier(
        **{**FULL_BATCH, "batch_size": len(train)}, **options, hidden_layer_sizes=(8,), warm_start=True, max_iter=1
    )
    parts = [None if weights is None else weights[part] for part in (train, held)]
    scores, kept = [], []
    for _ in range(found.n_iter_):
        reference.fit(X[train], NOISY[train], parts[0])
        scores.append(reference.score(X[held], NOISY[held], parts[1]))
        kept.append([coef.copy() for coef in reference.coefs_])
    np.testing.assert_allclose(found.loss_curve_, reference.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(found.validation_scores_, scores, rtol=1e-12)
    best = int(np.argmax(scores))
    assert found.n_iter_ == best + 1 + 6 < 60  # no score is better by a little alone
    assert found.best_validation_score_ == pytest.approx(scores[best])
    assert found.best_loss_ is None
    for ours, theirs in zip(found.coefs_, kept[best], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "lbfgs", "solver_options": {"learning_rate": 20.0}},
        {"solver": "sgd", "solver_options": {"ema": 0.8}, "learning_rate_init": 2.0},
        {"activation": "gelu", "label_smoothing": 0.2},
    ],
    ids=["lbfgs", "ema", "smoothing"],
)
def test_scores_on_rows_held_out_are_those_of_weights_to_end_with(options: dict[str, Any]) -> None:
    """Neither of a trial of the line search nor of the weights before they are averaged."""
    found = small(**options, early_stopping=True, validation_fraction=0.3, n_iter_no_change=np.inf, max_iter=12)
    found.fit(X, NOISY)
    train, held = drawn_rows(NOISY)
    shorter = [small(**options, max_iter=updates).fit(X[train], NOISY[train]) for updates in range(1, 13)]
    assert found.validation_scores_ == [model.score(X[held], NOISY[held]) for model in shorter]
    assert found.best_validation_score_ == found.score(X[held], NOISY[held])


def test_warm_start_goes_on_from_the_weights() -> None:
    same = {"hidden_layer_sizes": (8,), "solver": "sgd", "learning_rate_init": 0.1, "warm_start": True, "max_iter": 7}
    reference, found = MLPClassifier(**same, **FULL_BATCH), FullBatchMLPClassifier(**same, **OWN)
    for number in (1, 2):
        reference.fit(X, Y)
        found.fit(X, Y)
        np.testing.assert_allclose(found.loss_curve_, reference.loss_curve_, rtol=1e-9)
        assert (found.n_iter_, len(found.loss_curve_)) == (7, 7 * number)
    with pytest.raises(ValueError, match=r"warm_start needs the classes of the fit before, \[0 1 2\]: y has \[0 1\]"):
        found.fit(X[Y < 2], Y[Y < 2])
    with pytest.raises(ValueError, match=r"warm_start needs the layers .* \[\(6, 8\), \(8, 3\)\]: .* \[\(6, 9\)"):
        found.set_params(hidden_layer_sizes=(9,)).fit(X, Y)
    with pytest.raises(ValueError, match="X has 5 features, but FullBatchMLPClassifier is expecting 6"):
        found.fit(X[:, :5], Y)
    assert len(found.set_params(warm_start=False).fit(X, Y).loss_curve_) == 7


def test_decay_lowers_the_learning_rate() -> None:
    options = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.2}
    decayed = small(**options, decay=1.0, max_iter=2).fit(X, Y)
    by_hand = small(**options, max_iter=1).fit(X, Y)
    by_hand.set_params(warm_start=True, learning_rate_init=0.1).fit(X, Y)  # 0.2 / (1 + 1)
    np.testing.assert_allclose(decayed.coefs_[0], by_hand.coefs_[0], rtol=1e-12)


# Beside PyTorch


@pytest.mark.parametrize(
    ("options", "activation", "optimizer", "arguments"),
    [
        (
            {"solver": "adamw", "activation": "gelu", "solver_options": {"weight_decay": 0.3}},
            "GELU",
            "AdamW",
            {"weight_decay": 0.3},
        ),
        (
            {"solver": "rmsprop", "activation": "leaky_relu", "solver_options": {"rho": 0.7}},
            "LeakyReLU",
            "RMSprop",
            {"alpha": 0.7},
        ),
        ({"solver": "adagrad", "activation": "sigmoid"}, "Sigmoid", "Adagrad", {}),
    ],
    ids=["adamw", "rmsprop", "adagrad"],
)
def test_other_solvers_activations_and_smoothing_are_those_of_pytorch(
    options: dict[str, Any], activation: str, optimizer: str, arguments: dict[str, Any]
) -> None:
    """From the first weights that `MLPClassifier` has; its logistic activation has weights of its own."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    shared = {"alpha": 0.0, "label_smoothing": 0.1, "learning_rate": "cosine", "max_iter": 12, "epsilon": 1e-6}
    found = small(**options, **shared).fit(X, Y)
    name = "logistic" if activation == "Sigmoid" else "relu"
    first = MLPClassifier((8,), name, solver="sgd", learning_rate_init=1e-30, max_iter=1, random_state=3).fit(X, Y)
    made = getattr(torch.nn, activation)(**({"approximate": "tanh"} if activation == "GELU" else {}))
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), made, torch.nn.Linear(8, 3)).double()
    with torch.no_grad():
        for layer, coef, intercept in zip(network[::2], first.coefs_, first.intercepts_, strict=True):
            layer.weight[:] = torch.tensor(coef.T)
            layer.bias[:] = torch.tensor(intercept)
    descent = getattr(torch.optim, optimizer)(network.parameters(), eps=1e-6, **arguments)
    losses = []
    for update in range(12):
        descent.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * update / 12)) / 2
        descent.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(torch.tensor(X)), torch.tensor(Y), label_smoothing=0.1)
        loss.backward()
        descent.step()
        losses.append(loss.item())
    np.testing.assert_allclose(found.loss_curve_, losses, rtol=1e-9)
    np.testing.assert_allclose(found.coefs_[0], network[0].weight.detach().numpy().T, rtol=1e-6, atol=1e-9)


def test_schedule_has_a_learning_rate_of_its_own() -> None:
    options = {"solver": "sgd", "momentum": 0.0}
    found = small(**options, learning_rate=Step(0.2, factor=0.5, every=1), max_iter=2).fit(X, Y)
    by_hand = small(**options, learning_rate_init=0.2, max_iter=1).fit(X, Y)
    by_hand.set_params(warm_start=True, learning_rate_init=0.1).fit(X, Y)
    np.testing.assert_allclose(found.coefs_[0], by_hand.coefs_[0], rtol=1e-12)
    np.testing.assert_array_equal(clone(found).fit(X, Y).coefs_[0], found.coefs_[0])


def test_dropout_is_drawn_from_the_random_state_and_for_training_alone() -> None:
    options = {"activation": "identity", "early_stopping": True, "validation_fraction": 0.3, "max_iter": 60}
    plain, dropped = (small(**options, dropout=rate).fit(X, NOISY) for rate in (0.0, 0.5))
    assert dropped.loss_ > plain.loss_
    hidden = X @ dropped.coefs_[0] + dropped.intercepts_[0]
    outputs = hidden @ dropped.coefs_[1] + dropped.intercepts_[1]
    np.testing.assert_allclose(dropped.predict_proba(X), softmax(outputs, axis=1))
    _train, held = drawn_rows(NOISY)
    assert dropped.best_validation_score_ == np.mean(outputs[held].argmax(axis=1) == NOISY[held])
    np.testing.assert_array_equal(clone(dropped).fit(X, NOISY).coefs_[0], dropped.coefs_[0])
    # A generator goes on: from the same weights, other units are left out.
    generator = np.random.RandomState(3)
    other = small(dropout=0.5, warm_start=True, random_state=generator, max_iter=1)
    losses = {other.set_params(learning_rate_init=1e-30).fit(X, Y).loss_ for _ in range(3)}
    assert len(losses) == 3


# Weights of rows and classes


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 2: 0.5}, {0: 0.0}], ids=str)
def test_class_weights_multiply_those_of_the_rows(class_weight: Any) -> None:
    found = small(class_weight=class_weight).fit(X, Y).coefs_
    expected = small().fit(X, Y, compute_sample_weight(class_weight, Y)).coefs_
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    counts = GENERATOR.integers(0, 4, len(X))
    weighted = small(class_weight=class_weight).fit(X, Y, counts).coefs_
    repeated = small(class_weight=class_weight).fit(X.repeat(counts, axis=0), Y.repeat(counts)).coefs_
    np.testing.assert_allclose(weighted[0], repeated[0], rtol=1e-9)
    assert not np.allclose(weighted[0], small().fit(X, Y, counts).coefs_[0])


def test_rows_of_weight_zero_are_not_there() -> None:
    weights = np.where(np.arange(len(X)) % 3 == 1, 0.0, WEIGHTS)
    there = weights > 0
    found, expected = small().fit(X, Y, weights), small().fit(X[there], Y[there], weights[there])
    for ours, theirs in zip(found.coefs_, expected.coefs_, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    early = small(early_stopping=True).fit(X, Y, weights)
    np.testing.assert_array_equal(
        early.coefs_[0], small(early_stopping=True).fit(X[there], Y[there], weights[there]).coefs_[0]
    )


def test_class_whose_rows_all_weigh_nothing_is_a_class_still() -> None:
    model = small(class_weight="balanced").fit(X, Y, np.where(Y == 1, 0.0, 1.0))
    np.testing.assert_array_equal(model.classes_, [0, 1, 2])
    assert model.predict_proba(X).shape == (len(X), 3)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.where(np.arange(len(X)) == 4, -0.5, 1.0), "at least 0, and not all of them 0: they are -0.5 to 1"),
        (np.zeros(len(X)), "(?i)weights .*must .*(0|zero)"),  # scikit-learn's own words, or before 1.9 ours
        (np.where(np.arange(len(X)) == 4, np.nan, 1.0), "sample_weight contains NaN"),
        (WEIGHTS[:-1], r"sample_weight.shape == \(89,\), expected \(90,\)"),
    ],
    ids=["negative", "nothing", "NaN", "short"],
)
def test_weights_that_are_none_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().fit(X, Y, weights)


# Classes of every kind

NAMES = np.array(["coat", "bag", "shirt"])
LABELS: dict[str, Callable[[], Any]] = {
    "integers": lambda: np.array([7, -1, 300])[Y],
    "whole floats": lambda: np.array([2.0, -1.0, 0.0])[Y],
    "text": lambda: NAMES[Y],
    "objects": lambda: NAMES.astype(object)[Y],
    "list": lambda: NAMES[Y].tolist(),
    "booleans": lambda: Y == 1,
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_any_type(kind: str) -> None:
    labels = LABELS[kind]()
    model = small().fit(X, labels)
    classes, indices = np.unique(np.asarray(labels), return_inverse=True)
    np.testing.assert_array_equal(model.classes_, classes)
    plain = small().fit(X, indices)
    np.testing.assert_array_equal(model.predict_proba(X), plain.predict_proba(X))
    predicted = model.predict(X)
    np.testing.assert_array_equal(predicted, classes[plain.predict(X)])
    assert predicted.dtype == classes.dtype
    assert model.score(X, labels) == plain.score(X, indices)


def test_pandas_in_and_its_names_kept() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(X, columns=[f"feature {number}" for number in range(X.shape[1])])
    plain = small(class_weight={"bag": 2.0}).fit(X, NAMES[Y], WEIGHTS)
    for dtype in ("category", "string", object):
        labels = pandas.Series(NAMES[Y]).astype(dtype)
        model = small(class_weight={"bag": 2.0}).fit(frame, labels, pandas.Series(WEIGHTS))
        np.testing.assert_array_equal(model.predict_proba(frame), plain.predict_proba(X))
        np.testing.assert_array_equal(model.predict(frame), plain.predict(X))
    assert model.feature_names_in_.tolist() == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[frame.columns[::-1]])
    counts = pandas.Series(Y, dtype="Int64")
    np.testing.assert_array_equal(small().fit(frame, counts).predict(frame), small().fit(X, Y).predict(X))


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
def test_sparse_rows_are_as_good_as_dense_ones(form: Any) -> None:
    thinned = np.where(np.abs(X) < 0.3, 0, X)
    dense, model = small(early_stopping=True).fit(thinned, Y, WEIGHTS), small(early_stopping=True)
    model.fit(form(thinned), Y, WEIGHTS)
    np.testing.assert_array_equal(model.predict_proba(form(thinned)), dense.predict_proba(thinned))


def test_one_class() -> None:
    model = small().fit(X, np.full(len(X), "bag"))
    assert model.classes_.tolist() == ["bag"]
    np.testing.assert_array_equal(model.predict_proba(X), np.ones((len(X), 1)))
    assert set(model.predict(X)) == {"bag"}


def test_three_hundred_classes() -> None:
    centres = np.random.default_rng(1).standard_normal((300, 40))
    labels = np.arange(600) % 300
    model = small(hidden_layer_sizes=(64,), max_iter=150).fit(centres[labels], labels)
    assert model.score(centres, np.arange(300)) > 0.99
    assert model.predict_proba(centres).shape == (300, 300)


def test_two_columns_of_labels_and_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"y should be a 1d array, got an array of shape \(90, 2\)"):
        small().fit(X, np.stack([Y, Y], axis=1))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        small().fit(X, X[:, 0])


# Numbers


@pytest.mark.parametrize(
    ("given", "precision", "dtype"),
    [
        ("float32", "auto", "float32"),
        ("float64", "auto", "float64"),
        ("float16", "auto", "float64"),
        ("int32", "auto", "float64"),
        ("float64", "float32", "float32"),
        ("float32", "float64", "float64"),
    ],
)
def test_dtype_of_the_weights(given: str, precision: str, dtype: str) -> None:
    rows = (X * 3).astype(given)
    model = small(precision=precision).fit(rows, Y)
    assert {array.dtype.name for array in (*model.coefs_, *model.intercepts_)} == {dtype}
    assert model.predict_proba(rows).dtype == dtype
    plain = small().fit(rows.astype("float64"), Y)
    np.testing.assert_allclose(model.predict_proba(rows), plain.predict_proba(rows), atol=1e-3)
    assert np.array_equal(model.coefs_[0], plain.coefs_[0]) is (dtype == "float64")


def test_bytes_are_numbers_here_and_not_pixels() -> None:
    rows = np.random.default_rng(2).integers(0, 9, (60, 5), dtype="uint8")
    labels = (rows[:, 0] > 4).astype(int)
    model, plain = small().fit(rows, labels), small().fit(rows.astype("float64"), labels)
    np.testing.assert_array_equal(model.predict_proba(rows), plain.predict_proba(rows.astype("float64")))


def test_a_seed_a_generator_and_none_are_the_same_draw() -> None:
    weights = [small(random_state=state).fit(X, Y).coefs_[0] for state in (5, 5, np.random.RandomState(5))]
    np.random.seed(5)  # noqa: NPY002 (what None stands for in scikit-learn)
    weights.append(small(random_state=None).fit(X, Y).coefs_[0])
    for one in weights[1:]:
        np.testing.assert_array_equal(one, weights[0])
    assert not np.array_equal(weights[0], small(random_state=6).fit(X, Y).coefs_[0])


def test_number_of_threads_does_not_change_a_bit() -> None:
    generator = np.random.default_rng(4)
    rows, labels = generator.standard_normal((3000, 20)), generator.integers(0, 4, 3000)
    models = [small(threads=threads, max_iter=5).fit(rows, labels) for threads in (1, 2, 3)]
    assert CpuBackend(2).block_rows(3000, 8 * 60) < 3000
    for model in models[1:]:
        np.testing.assert_array_equal(model.coefs_[0], models[0].coefs_[0])
        np.testing.assert_array_equal(model.predict_proba(rows), models[0].predict_proba(rows))


# Copies


def test_pipeline_clone_pickle_and_joblib(tmp_path: Path) -> None:
    pipeline = make_pipeline(StandardScaler(), small(class_weight="balanced")).fit(X, NAMES[Y])
    expected = pipeline.predict_proba(X)
    joblib.dump(pipeline, tmp_path / "model.joblib")
    for copied in (
        pickle.loads(pickle.dumps(pipeline)),
        joblib.load(tmp_path / "model.joblib"),
        joblib.load(tmp_path / "model.joblib", mmap_mode="r"),
        clone(pipeline).fit(X, NAMES[Y]),
    ):
        np.testing.assert_array_equal(copied.predict_proba(X), expected)
        again = copied.set_params(fullbatchmlpclassifier__warm_start=True).fit(X, NAMES[Y])
        assert not np.array_equal(again.predict_proba(X), expected)
    assert not hasattr(clone(pipeline)[-1], "coefs_")


def test_pickle_names_neither_a_device_nor_this_package_beyond_the_estimator() -> None:
    found = set()

    class Noting(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found.add((module.partition(".")[0], name))
            return super().find_class(module, name)

    Noting(io.BytesIO(pickle.dumps(small().fit(X, Y)))).load()
    assert {name for package, name in found if package == "fmnist_xp"} == {"FullBatchMLPClassifier"}


def test_estimator_of_a_gpu_predicts_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    model = small().fit(X, Y).set_params(device="cuda")
    loaded = pickle.loads(pickle.dumps(model))
    with pytest.raises(DeviceError, match="CuPy"):
        loaded.predict(X)
    for device in ("auto", "cpu"):
        np.testing.assert_array_equal(loaded.set_params(device=device).predict(X), small().fit(X, Y).predict(X))


# What users read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_layer_sizes", (8, 0)),
        ("hidden_layer_sizes", 2.5),
        ("activation", "step"),
        ("solver", "newton"),
        ("solver_options", {"rho": 0.9}),
        ("solver_options", "rho"),
        ("dropout", 1.0),
        ("label_smoothing", -0.1),
        ("learning_rate", "invscaling"),
        ("alpha", -1),
        ("learning_rate_init", 0),
        ("decay", -1),
        ("max_iter", 0),
        ("tol", -1),
        ("n_iter_no_change", 0),
        ("momentum", 1.0),
        ("beta_1", 1.0),
        ("beta_2", -0.1),
        ("epsilon", 0),
        ("validation_fraction", 1.0),
        ("precision", "float8"),
        ("precision", "bfloat16"),  # of the fused engine alone
        ("device", "tpu"),
        ("threads", 0),
        ("verbose", 3),
        ("class_weight", "heavy"),
    ],
)
def test_parameter_that_is_none_is_named(name: str, value: Any) -> None:
    options = {"early_stopping": True, "solver": "sgd" if name == "momentum" else "adam", name: value}
    with pytest.raises(ValueError, match=name):
        small(**options).fit(X, Y)


def test_lbfgs_refuses_dropout() -> None:
    with pytest.raises(ValueError, match="LBFGS compares losses of one function, and Dropout"):
        small(solver="lbfgs", dropout=0.1).fit(X, Y)


def test_training_that_did_not_converge_is_warned_of() -> None:
    with pytest.warns(ConvergenceWarning, match="has not converged in 5 iterations"):
        small(max_iter=5).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        assert small(max_iter=5, tol=10, n_iter_no_change=2).fit(X, Y).n_iter_ == 4


def test_training_that_diverges_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        ValueError, match="training has diverged, loss or weights are not finite: lower learning_rate_init"
    ):
        small(solver="sgd", learning_rate_init=1e300, momentum=0.0).fit(X, Y)
    assert "training has diverged" in caplog.text
    with pytest.raises(ValueError, match="training has diverged, loss or weights are not finite"):
        small(solver="lbfgs").fit(np.full((90, 6), 3e38, "float32"), Y)  # which keeps its first weights


def test_unscaled_rows_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    model = small(early_stopping=True).fit(X * 1000, Y)
    model.predict(X * 1000)
    assert caplog.text.count("X has values from") == 1


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_ends_training_and_keeps_what_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    on_epoch = Watch.on_epoch

    def interrupt(watch: Watch, history: Any, network: Any) -> None:
        on_epoch(watch, history, network)
        if len(history) == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Watch, "on_epoch", interrupt)
    with pytest.warns(UserWarning, match="training was interrupted after 4 iterations"):
        model = small().fit(X, Y)
    monkeypatch.undo()
    np.testing.assert_array_equal(model.coefs_[0], small(max_iter=4).fit(X, Y).coefs_[0])


def test_iterations_are_printed_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    small(max_iter=3).fit(X, Y)
    assert capsys.readouterr().out == ""
    small(max_iter=3, verbose=True).fit(X, Y)
    assert capsys.readouterr().out.count("epoch: ") == 3


def test_without_scikit_learn_the_import_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sklearn.py").write_text("raise ModuleNotFoundError(\"No module named 'sklearn'\", name='sklearn')\n")
    code = """
import fmnist_xp
for attempt in (lambda: __import__("fmnist_xp.sklearn"), lambda: fmnist_xp.sklearn):
    try:
        attempt()
    except ImportError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    assert first == second
    assert first.startswith("fmnist_xp.sklearn needs scikit-learn (No module named 'sklearn'")
    assert first.endswith('pip install "fmnist-xp[sklearn]"')
