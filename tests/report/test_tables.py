import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmnist_xp.report.tables import (
    class_report,
    confusion_matrix,
    markdown_table,
    mean_and_spread,
    reproduce_table,
)
from fmnist_xp.train.history import History

# Three classes: of 4 a's, 3 are recognized and 1 is predicted as b; both b's are recognized; c has no samples and is
# never predicted.
LABELS = [0, 0, 0, 0, 1, 1]
PREDICTIONS = [0, 0, 0, 1, 1, 1]
MATRIX = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])


def test_markdown_exact() -> None:
    table = markdown_table(("name", "value"), [("a", "1"), ("b|c", "2")])
    assert table == "| name | value |\n| --- | --- |\n| a | 1 |\n| b\\|c | 2 |\n"


def test_markdown_row_of_wrong_length() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells and the header 2"):
        markdown_table(("name", "value"), [("a",)])


def test_confusion_by_hand() -> None:
    matrix = confusion_matrix(LABELS, PREDICTIONS, classes=3)
    np.testing.assert_array_equal(matrix, MATRIX)
    assert matrix.dtype == np.int64


def test_confusion_of_bytes_does_not_overflow() -> None:
    # 30 * 40 + 39 does not fit a uint8.
    matrix = confusion_matrix(np.array([30], np.uint8), np.array([39], np.uint8), classes=40)
    assert matrix[30, 39] == matrix.sum() == 1


def test_confusion_of_nothing_is_zeros() -> None:
    np.testing.assert_array_equal(confusion_matrix([], []), np.zeros((10, 10)))


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0], r"labels of shape \(2,\) and predictions of shape \(1,\)"),
        ([[0]], [[0]], r"labels of shape \(1, 1\)"),
        ([10], [0], "a label is 10: classes are 0 to 9"),
        ([9.7], [0], "labels of dtype float64: classes are integers"),
        ([1], ["1"], "predictions of dtype <U1: classes are integers"),
        ([0], [-1], "a prediction is -1: classes are 0 to 9"),
    ],
)
def test_confusion_refuses(labels: Any, predictions: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(labels, predictions)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_confusion_counts_each_pair(pairs: list[tuple[int, int]]) -> None:
    matrix = confusion_matrix([label for label, _ in pairs], [prediction for _, prediction in pairs])
    expected = [[pairs.count((row, column)) for column in range(10)] for row in range(10)]
    np.testing.assert_array_equal(matrix, expected)


def test_class_report_by_hand() -> None:
    a, b, c = class_report(MATRIX, ("a", "b", "c"))
    assert a == ("a", 1.0, 0.75, pytest.approx(6 / 7), 4)
    assert b == ("b", pytest.approx(2 / 3), 1.0, pytest.approx(0.8), 2)
    assert c == ("c", 0.0, 0.0, 0.0, 0)


def test_class_never_predicted_correctly_scores_zero() -> None:
    scores = class_report(np.array([[0, 2], [3, 0]]), ("a", "b"))
    assert scores == [("a", 0.0, 0.0, 0.0, 2), ("b", 0.0, 0.0, 0.0, 3)]


def test_class_report_takes_the_ten_names_and_refuses_another_size() -> None:
    assert class_report(np.eye(10, dtype=np.int64))[9] == ("Ankle boot", 1.0, 1.0, 1.0, 1)
    with pytest.raises(ValueError, match=r"shape \(3, 3\) for 10 class names"):
        class_report(MATRIX)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.85], "0.850"),
        ([0.84, 0.86], "0.850 ± 0.014 (0.840–0.860)"),  # 0.02 / √2
        ([1.0, 2.0, 3.0], "2.000 ± 1.000 (1.000–3.000)"),
        ([1.0, math.inf], "inf ± nan (1.000–inf)"),
    ],
)
def test_mean_and_spread(values: list[float], text: str) -> None:
    assert mean_and_spread(values) == text


def test_mean_of_nothing() -> None:
    with pytest.raises(ValueError, match=r"^no values: a mean needs at least one$"):
        mean_and_spread([])


def result(experiment: str, seed: int, **changes: Any) -> dict[str, Any]:
    return {
        "experiment": experiment,
        "seed": seed,
        "dataset": {"name": "fashion-mnist", "train_rows": 60_000, "test_rows": 10_000},
        "epochs": 1100,
        "test_accuracy": 0.83 + 0.01 * seed,
        "test_loss": 0.40 + 0.01 * seed,
        "train_accuracy": 0.99,  # after the last update: must not appear
        "train_loss": 0.01,
    } | changes


def ended(accuracy: float, loss: float) -> History:
    return History([0, 10, 1090], [0.1, 0.2, accuracy], [2.3, 2.2, loss], [1.0, 0.9, 0.1], [0.0] * 3)


SYNTHETIC = {"name": "synthetic", "train_rows": 500, "test_rows": 100}


def test_reproduce_exact() -> None:
    table = reproduce_table(
        {"sgd": [result("sgd", 1), result("sgd", 0)]}, {"sgd": [ended(0.853, 0.50), ended(0.851, 0.46)]}
    )
    lines = table.splitlines()
    assert lines[:6] == [
        "| experiment | data | seeds | figure | ours | notebook | notebook inside our range |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| sgd | fashion-mnist | 0, 1 | test accuracy | 0.835 ± 0.007 (0.830–0.840) | 0.837 | yes |",
        "| sgd | fashion-mnist | 0, 1 | test data loss | 0.405 ± 0.007 (0.400–0.410) | 0.449 | no |",
        "| sgd | fashion-mnist | 0, 1 | training accuracy | 0.852 ± 0.001 (0.851–0.853) | 0.853 | yes |",
        "| sgd | fashion-mnist | 0, 1 | training loss | 0.480 ± 0.028 (0.460–0.500) | 0.455 | no |",
    ]
    assert "synthetic" not in table.lower()


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ((0.8313, 0.8369), "0.834 ± 0.004 (0.831–0.837) | 0.837 | yes"),
        ((0.8372, 0.8428), "0.840 ± 0.004 (0.837–0.843) | 0.837 | yes"),  # at the lower end
        ((0.8313, 0.8364), "0.834 ± 0.004 (0.831–0.836) | 0.837 | no"),
        ((0.8376, 0.8428), "0.840 ± 0.004 (0.838–0.843) | 0.837 | no"),
    ],
)
def test_reproduce_compares_at_the_precision_the_notebook_printed(
    accuracies: tuple[float, float], verdict: str
) -> None:
    runs = [result("sgd", seed, test_accuracy=value) for seed, value in enumerate(accuracies)]
    table = reproduce_table({"sgd": runs}, {"sgd": [ended(0.85, 0.46)] * 2})
    assert f"{verdict} |" in table


def test_reproduce_with_one_seed_has_no_range() -> None:
    table = reproduce_table({"adam": [result("adam", 0)]}, {"adam": [ended(0.879, 0.404)]})
    assert "| adam | fashion-mnist | 0 | training accuracy | 0.879 | 0.879 | one seed: no range |" in table


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dataset": SYNTHETIC}, "synthetic data"),
        ({"epochs": 50}, "50 epochs"),
        (
            {"dataset": {"name": "fashion-mnist", "train_rows": 6000, "test_rows": 10_000}},
            "6,000 + 10,000 images",
        ),
        ({"dataset": SYNTHETIC, "epochs": 50}, "50 epochs, synthetic data"),
    ],
)
def test_reproduce_says_why_runs_are_not_comparable(changes: dict[str, Any], reason: str) -> None:
    runs = [result("momentum", seed, **changes) for seed in range(2)]
    table = reproduce_table({"momentum": runs}, {"momentum": [ended(0.8, 0.7), ended(0.9, 0.6)]})
    assert table.count(f"| not comparable: {reason} |\n") == 4
    assert ("| momentum | synthetic |" in table) == ("**Synthetic data.**" in table) == ("synthetic" in reason)


def test_reproduce_of_an_experiment_the_notebook_lacks() -> None:
    table = reproduce_table({"better": [result("better", 3)]}, {"better": [ended(0.9, 0.3)]})
    assert "| better | fashion-mnist | 3 | training loss | 0.300 | — | — |" in table


def test_reproduce_needs_a_history_for_each_result() -> None:
    with pytest.raises(ValueError, match="shorter"):
        reproduce_table({"sgd": [result("sgd", 0), result("sgd", 1)]}, {"sgd": [ended(0.8, 0.5)]})
    with pytest.raises(ValueError, match="shorter"):
        reproduce_table({"sgd": [result("sgd", 0)]}, {"adam": [ended(0.8, 0.5)]})
    with pytest.raises(ValueError, match="at least one"):
        reproduce_table({"sgd": []}, {"sgd": []})
    with pytest.raises(ValueError, match="the history of sgd, seed 4, has nothing logged"):
        reproduce_table({"sgd": [result("sgd", 4)]}, {"sgd": [History()]})
