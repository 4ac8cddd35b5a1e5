"""Searches over several processes, threads and machines: the same results, and no more threads than cores."""

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from joblib import Parallel, delayed, parallel_config
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fmnist_xp.machine import THREAD_VARIABLES, usable_cores
from fmnist_xp.sklearn import FullBatchMLPClassifier

ROOT = Path(__file__).parents[1]
GENERATOR = np.random.default_rng(0)
CENTRES = GENERATOR.standard_normal((3, 30))
Y = GENERATOR.integers(0, 3, 2400)
X = CENTRES[Y] + 2 * GENERATOR.standard_normal((len(Y), 30))
NAMES = np.array(["coat", "bag", "shirt"])
GRID = {"fullbatchmlpclassifier__alpha": [1e-4, 10.0], "fullbatchmlpclassifier__hidden_layer_sizes": [(8,), (8, 4)]}


@pytest.fixture(autouse=True)
def no_variables_that_limit_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask's cluster sets some in the process that starts it, too: they are unset again."""
    for name in THREAD_VARIABLES:
        monkeypatch.setenv(name, "1")
        monkeypatch.delenv(name)


def search(**options: Any) -> GridSearchCV:
    model = FullBatchMLPClassifier(learning_rate_init=0.02, max_iter=8, tol=0.5, n_iter_no_change=6, random_state=0)
    return GridSearchCV(make_pipeline(StandardScaler(), model), GRID, cv=2, **options)


@pytest.fixture(scope="module")
def alone() -> GridSearchCV:
    """The search by this process alone, which has a pool of threads from it."""
    return search().fit(X, NAMES[Y])


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_search_has_the_same_result_in_processes_and_threads(backend: str, alone: GridSearchCV) -> None:
    with parallel_config(backend=backend, n_jobs=2), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork with threads, by Python 3.12 and newer
        found = search().fit(X, NAMES[Y])
    np.testing.assert_array_equal(found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(found.predict_proba(X), alone.predict_proba(X))
    assert found.best_params_ == alone.best_params_


def threads() -> tuple[int, int]:
    """Return how many threads a fit takes here, and the process."""
    return FullBatchMLPClassifier()._backend().threads, os.getpid()


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_two_jobs_take_no_more_threads_than_there_are_cores(backend: str) -> None:
    with parallel_config(backend=backend, n_jobs=2), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = Parallel()(delayed(threads)() for _ in range(4))
    assert {process == os.getpid() for _, process in found} == {backend == "threading"}
    assert all(2 * one <= max(2, os.cpu_count() or 1) for one, _ in found)


def test_main_thread_takes_all_cores_or_what_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert threads()[0] == usable_cores()
    assert FullBatchMLPClassifier(threads=3)._backend().threads == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as joblib tells its processes
    assert threads()[0] == 1


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Dask cluster of two workers, processes of this machine."""
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True}
    with distributed.LocalCluster(**options, host="127.0.0.1", dashboard_address="127.0.0.1:0") as local:
        yield local


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_pages_examples_run_and_dasks_workers_share_a_search(
    cluster: Any, alone: GridSearchCV, idx_folder: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FMNIST_XP_DATA", str(idx_folder))
    page = (ROOT / "docs" / "scikit-learn.md").read_text(encoding="utf-8")
    shorter = {
        "(100,), random_state": "(100,), max_iter=60, random_state",
        "max_iter=300": "max_iter=10",
        "tcp://scheduler:8786": cluster.scheduler_address,
    }
    for old, new in shorter.items():
        assert old in page
        page = page.replace(old, new)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert names["model"].score(names["X_test"], names["y_test"]) > 0.5
    assert names["search"].best_params_.keys() == names["grid"].keys()

    def score_and_place(model: Any, X: Any, y: Any) -> dict[str, float]:
        from fmnist_xp.sklearn import FullBatchMLPClassifier

        threads = FullBatchMLPClassifier()._backend().threads
        return {"accuracy": model.score(X, y), "process": os.getpid(), "threads": threads}

    with names["client"] as client, parallel_config(backend="dask"):
        workers = set(client.run(os.getpid).values())
        found = search(scoring=score_and_place, refit="accuracy").fit(X, NAMES[Y])
    results = found.cv_results_
    np.testing.assert_array_equal(results["mean_test_accuracy"], alone.cv_results_["mean_test_score"])
    np.testing.assert_array_equal(found.predict_proba(X), alone.predict_proba(X))
    assert len(workers) == 2
    assert {*results["split0_test_process"], *results["split1_test_process"]} == workers
    assert set(results["mean_test_threads"]) == {1}
