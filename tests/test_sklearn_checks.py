"""scikit-learn's own checks of an estimator: all of them, on the estimator as it comes."""

import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import estimator_checks_generator

from fmnist_xp.sklearn import FullBatchMLPClassifier

ROOT = Path(__file__).parents[1]
CHECKS = list(estimator_checks_generator(FullBatchMLPClassifier()))  # those that check_estimator makes
ARRAY_API = "check_array_api_input"


def name(check: partial[None]) -> str:
    return " ".join([check.func.__name__, *(f"{key}={value}" for key, value in check.keywords.items())])


@pytest.mark.parametrize(("estimator", "check"), CHECKS, ids=[name(check) for _, check in CHECKS])
def test_scikit_learns_checks(estimator: Any, check: partial[None]) -> None:
    if check.func.__name__ == ARRAY_API:
        in_a_process_where_scipy_takes_such_arrays()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some of the data are noise
        check(estimator)


def in_a_process_where_scipy_takes_such_arrays() -> None:
    """SciPy reads this variable once, when it is imported; without it the check skips itself."""
    code = f"""
from sklearn.utils.estimator_checks import estimator_checks_generator
from fmnist_xp.sklearn import FullBatchMLPClassifier
checks = estimator_checks_generator(FullBatchMLPClassifier())
(found,) = ((estimator, check) for estimator, check in checks if check.func.__name__ == "{ARRAY_API}")
found[1](found[0])
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
