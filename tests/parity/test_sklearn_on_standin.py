"""scikit-learn's estimator on the stand-in for CuPy: trained and asked there, and what it learned is the host's."""

import pickle
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from parity.standin import StandInCupy
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_limits

from fmnist_xp.sklearn import FullBatchMLPClassifier

GENERATOR = np.random.default_rng(0)
Y = GENERATOR.integers(0, 3, 60)
X = GENERATOR.standard_normal((3, 5))[Y] + GENERATOR.standard_normal((60, 5))
WEIGHTS = GENERATOR.integers(0, 3, 60)


@pytest.fixture(autouse=True)
def alike() -> Iterator[None]:
    """Hold BLAS to one thread, as the CPU backend does, and let trainings end early."""
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> StandInCupy:
    """The stand-in, of two devices, where the package looks for CuPy."""
    module = StandInCupy(devices=2)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def model(**parameters: Any) -> FullBatchMLPClassifier:
    return FullBatchMLPClassifier((7, 6), learning_rate_init=0.02, max_iter=12, random_state=1, **parameters)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_same_bits_as_on_the_cpu(cupy: StandInCupy, early_stopping: bool, weights: Any) -> None:
    options = {"early_stopping": early_stopping, "validation_fraction": 0.3}
    expected = model(**options).fit(X, Y, weights)
    assert not cupy.kernels
    found = model(**options, device="cuda:1").fit(X, Y, weights)
    assert cupy.kernels
    assert found.loss_curve_ == expected.loss_curve_
    assert found.validation_scores_ == expected.validation_scores_
    for ours, theirs in zip(
        [*found.coefs_, *found.intercepts_], [*expected.coefs_, *expected.intercepts_], strict=True
    ):
        assert type(ours) is np.ndarray
        np.testing.assert_array_equal(ours, theirs)
    before = len(cupy.kernels)
    np.testing.assert_array_equal(found.predict_proba(X), expected.predict_proba(X))
    assert len(cupy.kernels) > before


@pytest.mark.parametrize("precision", ["float32", "float64", "tf32", "float16"])
def test_every_precision_of_a_gpu(cupy: StandInCupy, precision: str) -> None:
    found = model(device="cuda", precision=precision).fit(X, Y)
    assert found.coefs_[0].dtype == ("float64" if precision == "float64" else "float32")
    np.testing.assert_allclose(found.predict_proba(X), model().fit(X, Y).predict_proba(X), atol=0.02)


def test_search_and_copies(cupy: StandInCupy) -> None:
    grid = {"alpha": [1e-4, 1.0], "device": ["cpu", "cuda"]}
    search = GridSearchCV(model(), grid, cv=2).fit(X, Y)
    scores = search.cv_results_["mean_test_score"].reshape(2, 2)
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    trained = model(device="cuda").fit(X, Y)
    expected = trained.predict_proba(X)
    np.testing.assert_array_equal(clone(trained).fit(X, Y).predict_proba(X), expected)
    sys.modules["cupy"] = None  # type: ignore[assignment] # as on another machine
    elsewhere = pickle.loads(pickle.dumps(trained))
    np.testing.assert_array_equal(elsewhere.set_params(device="cpu").predict_proba(X), expected)
