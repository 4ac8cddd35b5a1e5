import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmnist_xp.errors import RunError
from fmnist_xp.train.history import COLUMNS, History

HEADER = "epoch,accuracy,loss,learning_rate,regularization_loss\n"


def make_history() -> History:
    history = History()
    history.append(0, 0.085, 2.308, 1.0, 0.005059542213208445)
    history.append(10, 0.194, 2.065, 0.9174311926605504, 0.005503636788984646)
    history.append(20, 0.227, 1.926, 0.8403361344537815, 0.03145679680319871)
    return history


def test_append_adds_one_entry_to_every_column() -> None:
    history = make_history()
    assert len(history) == 3
    assert history.epoch == [0, 10, 20]
    assert history.accuracy == [0.085, 0.194, 0.227]
    assert history.loss == [2.308, 2.065, 1.926]
    assert history.learning_rate == [1.0, 0.9174311926605504, 0.8403361344537815]
    assert history.regularization_loss == [0.005059542213208445, 0.005503636788984646, 0.03145679680319871]


def test_histories_share_no_lists() -> None:
    make_history()
    assert len(History()) == 0


@pytest.mark.parametrize(("epoch", "expected"), [(0, [0, 10, 20]), (10, [10, 20]), (11, [20]), (21, [])])
def test_since_is_the_later_part(epoch: int, expected: list[int]) -> None:
    history = make_history()
    part = history.since(epoch)
    assert part.epoch == expected
    assert part.loss == history.loss[len(history) - len(expected) :]
    assert history.epoch == [0, 10, 20]


def test_csv_is_the_notebooks_table() -> None:
    assert make_history().to_csv() == (
        HEADER
        + "0,0.085,2.308,1.0,0.005059542213208445\n"
        + "10,0.194,2.065,0.9174311926605504,0.005503636788984646\n"
        + "20,0.227,1.926,0.8403361344537815,0.03145679680319871\n"
    )


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**15 - 1), *[st.floats(allow_nan=False)] * 4),
        max_size=5,
        unique_by=lambda row: row[0],
    )
)
def test_round_trip_through_a_file_keeps_every_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float, float, float, float]]
) -> None:
    history = History()
    for row in sorted(rows):
        history.append(*row)
    path = tmp_path_factory.mktemp("history") / "history.csv"
    history.save(path)
    loaded = History.load(path)
    for column in COLUMNS:
        assert list(map(repr, getattr(loaded, column))) == list(map(repr, getattr(history, column)))


def test_diverged_loss_is_read_back_as_nan(tmp_path: Path) -> None:
    history = History()
    history.append(0, 0.1, float("nan"), 1.0, float("inf"))
    history.save(tmp_path / "history.csv")
    loaded = History.load(tmp_path / "history.csv")
    assert list(map(repr, loaded.loss + loaded.regularization_loss)) == ["nan", "inf"]


BAD_TABLES = {
    "empty": ("", "its columns are '', not epoch,accuracy,loss,learning_rate,regularization_loss"),
    "other": ("a,b\n1,2\n", "its columns are 'a,b', not epoch,accuracy,loss,learning_rate,regularization_loss"),
    "long header": (",".join("ab" * 99) + "\n", "its columns are 'a,b,"),
    "short": (HEADER + "0,0.1,0.2\n", "line 2 has 3 values, not 5"),
    "long": (HEADER + "0,0.1,0.2,0.3,0.4,0.5\n", "line 2 has 6 values, not 5"),
    "blank": (HEADER + "0,0.1,0.2,0.3,0.4\n\n", "line 3 has 0 values, not 5"),
    "epoch": (HEADER + "0.5,0.1,0.2,0.3,0.4\n", "line 2: epoch must be a whole number above -1, got '0.5'"),
    "epoch below 0": (HEADER + "-1,0.1,0.2,0.3,0.4\n", "epoch must be a whole number above -1, got '-1'"),
    "epoch again": (HEADER + "7,0,0,0,0\n7,0,0,0,0\n", "line 3: epoch must be a whole number above 7, got '7'"),
    "epoch of 16 digits": (HEADER + "1000000000000000,0,0,0,0\n", "got '1000000000000000'"),
    "epoch of 5,000 digits": (HEADER + "9" * 5000 + ",0,0,0,0\n", "epoch must be .* got '9{39}$"),
    "epoch with a line between": (HEADER + "1_0,0,0,0,0\n", "epoch must be a whole number above -1, got '1_0'"),
    "epoch in other digits": (HEADER + "\u0661,0,0,0,0\n", r"got '\\u0661'"),
    "figure": (HEADER + "0,0.1,high,0.3,0.4\n", "line 2: loss must be a number, got 'high'"),
    "figure too large": (
        HEADER + "0,0.1,0.2,0.3,1e400\n",
        "line 2: regularization_loss must be a number, got '1e400'",
    ),
    "figure far too small": (HEADER + "0,-1e999,0.2,0.3,0\n", "accuracy must be a number, got '-1e999'"),
    "NUL": (HEADER + "0,0.1,0.2,0\0,0.4\n", r"learning_rate must be a number, got '0\\x00'"),
    "one long line": ("x" * 200_000, "field larger than field limit"),
    "a quote that never ends": (HEADER + '"' + "1\n" * 100_000, "field larger than field limit"),
    "not text": ("\udcff", "can't decode byte 0xff"),
}


@pytest.mark.parametrize(("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_file_that_is_no_history_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "history.csv"
    path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    with pytest.raises(RunError, match=rf"history\.csv is not a history: .*{message}") as caught:
        History.load(path)
    assert len(str(caught.value)) < len(str(path)) + 200
    assert str(caught.value).isprintable()


def test_largest_epoch_and_figures_are_read(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(HEADER + "0,0,0,0,0\r\n999999999999999,1.7976931348623157e308,-inf,5e-324,nan\r\n", newline="")
    loaded = History.load(path)
    assert loaded.epoch == [0, 999_999_999_999_999]
    assert (loaded.accuracy[1], loaded.loss[1], loaded.learning_rate[1]) == (
        1.7976931348623157e308,
        -math.inf,
        5e-324,
    )
    assert math.isnan(loaded.regularization_loss[1])


def test_what_is_no_file_is_named_and_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    os.mkfifo(path)  # opened, it would be waited for without end
    with pytest.raises(RunError, match=r"cannot read the history .*history\.csv: it is no file, but a named pipe"):
        History.load(path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(RunError, match=r"cannot read the history .*history\.csv: it is no file, but a device"):
        History.load(path)


def test_file_beyond_all_bounds_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.touch()
    os.truncate(path, 200 * 10**9)
    with pytest.raises(
        RunError, match=r"history\.csv: it has 200,000,000,000 bytes, and 67,108,864 are the most read"
    ):
        History.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read the history .*history\.csv: No such file"):
        History.load(tmp_path / "history.csv")
