import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmnist_xp.data.dataset import CLASS_NAMES
from fmnist_xp.report.tables import averages, class_report, confusion_matrix, markdown_table, reproduce_table
from fmnist_xp.train.history import History

# Three classes: of 4 a's, 3 are recognized and 1 is predicted as b; both b's are recognized; c has no samples and is
# never predicted.
LABELS = [0, 0, 0, 0, 1, 1]
PREDICTIONS = [0, 0, 0, 1, 1, 1]
MATRIX = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])


def test_markdown_exact() -> None:
    table = markdown_table(("name", "value"), [("a", "1"), ("b|c", "2")])
    assert table == "| name | value |\n| --- | --- |\n| a | 1 |\n| b\\|c | 2 |\n"


def test_markdown_rule() -> None:
    assert markdown_table(("a", "b"), [], ("---", "---:")) == "| a | b |\n| --- | ---: |\n"


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
    np.testing.assert_array_equal(confusion_matrix([], [], 10), np.zeros((10, 10)))


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
        confusion_matrix(labels, predictions, 10)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_confusion_counts_each_pair(pairs: list[tuple[int, int]]) -> None:
    matrix = confusion_matrix([label for label, _ in pairs], [prediction for _, prediction in pairs], 10)
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


def test_class_report_refuses_another_number_of_names() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 3\) for 10 class names"):
        class_report(MATRIX, CLASS_NAMES)


@pytest.mark.parametrize("seed", range(5))
def test_scores_and_their_averages_are_scikit_learns(seed: int) -> None:
    """With classes that have no samples, and others that are never predicted."""
    metrics = pytest.importorskip("sklearn.metrics", reason="compared with scikit-learn")
    random = np.random.default_rng(seed)
    labels, predictions = random.integers(0, 9, 60), random.integers(1, 10, 60)
    expected = metrics.classification_report(
        labels, predictions, labels=range(10), target_names=CLASS_NAMES, output_dict=True, zero_division=0
    )
    scores = class_report(confusion_matrix(labels, predictions, 10), CLASS_NAMES)
    for score in (*scores, *averages(scores)):
        found = {"precision": score.precision, "recall": score.recall, "f1-score": score.f1, "support": score.support}
        assert found == pytest.approx(expected[score.name]), score.name


def test_averages_by_hand() -> None:
    """Of the classes a (4 samples, F1 6/7), b (2 samples, F1 0.8) and c (none)."""
    macro, weighted = averages(class_report(MATRIX, ("a", "b", "c")))
    assert macro == ("macro avg", pytest.approx(5 / 9), pytest.approx(1.75 / 3), pytest.approx((6 / 7 + 0.8) / 3), 6)
    f1 = pytest.approx((4 * 6 / 7 + 2 * 0.8) / 6)
    assert weighted == ("weighted avg", pytest.approx(16 / 18), pytest.approx(5 / 6), f1, 6)


def test_averages_without_samples_are_zero() -> None:
    assert averages(class_report(np.zeros((2, 2), np.int64), ("a", "b"))) == (
        ("macro avg", 0.0, 0.0, 0.0, 0),
        ("weighted avg", 0.0, 0.0, 0.0, 0),
    )
    with pytest.raises(ValueError, match=r"^no scores: a mean needs at least one$"):
        averages([])


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


def cells(table: str, start: str) -> list[str]:
    """Return the cells of the line that begins with `start`."""
    (line,) = (line for line in table.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_reproduce_exact() -> None:
    """Quartiles of 4 equally spaced values: a quarter of the range inside its ends."""
    runs = [
        result("sgd", seed, test_accuracy=0.83 + 0.012 * seed, test_loss=0.40 + 0.012 * seed, train_accuracy=accuracy)
        for seed, accuracy in ((3, 0.82), (1, 0.84), (2, 0.85), (0, 0.85))
    ]
    table = reproduce_table(
        {"sgd": runs}, {"sgd": [ended(0.845 + 0.004 * number, 0.44 + 0.02 * number) for number in range(4)]}
    )
    assert table.splitlines() == [
        "| test accuracy | median | quartiles | range | notebook | seeds below it | ended in a dip |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| sgd | 0.848 | 0.839–0.857 | 0.830–0.866 | 0.837 | 1 of 4 | 1 of 4 |",
        "",
        "|  | metric | median | quartiles | range | notebook | seeds below it |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
        "| sgd | test data loss | 0.418 | 0.409–0.427 | 0.400–0.436 | 0.449 | 4 of 4 |",
        "| sgd | training accuracy | 0.851 | 0.848–0.854 | 0.845–0.857 | 0.853 | 2–3 of 4 |",
        "| sgd | training loss | 0.470 | 0.455–0.485 | 0.440–0.500 | 0.455 | 1 of 4 |",
        "",
        "Training metrics are those of the last logged epoch, before its update, as the notebook printed them; test "
        "metrics follow the last update. A run ended in a dip if its accuracy on the training images after the last "
        "update is more than 0.02 below the best that it logged.",
    ]


@pytest.mark.parametrize(
    ("accuracies", "below"),
    [
        ((0.8313, 0.8363), "2 of 2"),
        ((0.8313, 0.8369), "1–2 of 2"),  # as printed by the notebook both are 0.837
        ((0.8366, 0.8374), "0–2 of 2"),
        ((0.8376, 0.8428), "0 of 2"),
        ((0.8313, math.nan), "1 of 2"),
    ],
)
def test_reproduce_compares_at_the_precision_the_notebook_printed(
    accuracies: tuple[float, float], below: str
) -> None:
    runs = [result("sgd", seed, test_accuracy=value) for seed, value in enumerate(accuracies)]
    found = cells(reproduce_table({"sgd": runs}, {"sgd": [ended(0.85, 0.46)] * 2}), "| sgd | 0.8")
    assert found[4:6] == ["0.837", below]


def test_reproduce_with_few_seeds_has_no_quartiles_and_with_one_no_range() -> None:
    three = reproduce_table({"adam": [result("adam", seed) for seed in range(3)]}, {"adam": [ended(0.88, 0.4)] * 3})
    assert cells(three, "| adam | 0.")[:4] == ["adam", "0.840", "—", "0.830–0.850"]
    one = reproduce_table({"adam": [result("adam", 0)]}, {"adam": [ended(0.879, 0.404)]})
    expected = ["adam", "training accuracy", "0.879", "—", "—", "0.879", "0–1 of 1"]
    assert cells(one, "| adam | training accuracy") == expected


def test_reproduce_counts_what_is_not_finite() -> None:
    runs = [result("adam", seed, test_loss=loss) for seed, loss in enumerate((math.nan, 0.5, math.inf, 0.7))]
    table = reproduce_table({"adam": runs}, {"adam": [ended(0.88, 0.4)] * 4})
    expected = ["adam", "test data loss", "0.600 2 not finite", "—", "0.500–0.700", "0.387", "0 of 4"]
    assert cells(table, "| adam | test data loss") == expected
    nothing = reproduce_table({"adam": [result("adam", 0, test_loss=math.nan)]}, {"adam": [ended(0.88, 0.4)]})
    assert cells(nothing, "| adam | test data loss")[2:5] == ["1 not finite", "—", "—"]


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"dataset": SYNTHETIC}, "synthetic data"),
        ({"epochs": 50}, "50 epochs"),
        ({"dataset": {"name": "fashion-mnist", "train_rows": 6000, "test_rows": 10_000}}, "6,000 + 10,000 images"),
        ({"dataset": SYNTHETIC, "epochs": 50}, "synthetic data, 50 epochs"),
    ],
)
def test_reproduce_says_why_runs_are_not_comparable(changes: dict[str, Any], reasons: str) -> None:
    runs = [result("momentum", seed, **changes) for seed in range(2)]
    table = reproduce_table({"momentum": runs}, {"momentum": [ended(0.8, 0.7), ended(0.9, 0.6)]})
    assert f"\nNot comparable with the notebook: {reasons}.\n" in table
    assert cells(table, "| momentum | 0.8")[4:6] == ["—", "—"]
    assert cells(table, "| momentum | training loss")[5:] == ["—", "—"]
    assert ("**Synthetic data.**" in table) == ("synthetic" in reasons)


def test_reproduce_of_an_experiment_the_notebook_lacks() -> None:
    table = reproduce_table({"better": [result("better", 3)]}, {"better": [ended(0.9, 0.3)]})
    assert cells(table, "| better | training loss") == ["better", "training loss", "0.300", "—", "—", "—", "—"]
    assert "Not comparable" not in table


def test_reproduce_needs_a_history_for_each_result() -> None:
    with pytest.raises(ValueError, match="shorter"):
        reproduce_table({"sgd": [result("sgd", 0), result("sgd", 1)]}, {"sgd": [ended(0.8, 0.5)]})
    with pytest.raises(ValueError, match="shorter"):
        reproduce_table({"sgd": [result("sgd", 0)]}, {"adam": [ended(0.8, 0.5)]})
    with pytest.raises(ValueError, match="at least one"):
        reproduce_table({"sgd": []}, {"sgd": []})
    with pytest.raises(ValueError, match="the history of sgd, seed 4, has nothing logged"):
        reproduce_table({"sgd": [result("sgd", 4)]}, {"sgd": [History()]})
