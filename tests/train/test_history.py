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
@given(st.lists(st.tuples(st.integers(0, 10**6), *[st.floats(allow_nan=False)] * 4), max_size=5))
def test_round_trip_through_a_file_keeps_every_bit(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float, float, float, float]]
) -> None:
    history = History()
    for row in rows:
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not enough values to unpack"),
        ("a,b\n1,2\n", "its columns are a, b, not epoch, accuracy, loss, learning_rate, regularization_loss"),
        (HEADER + "0,0.1,0.2\n", "missing 2 required positional arguments"),
        (HEADER + "0,0.1,0.2,0.3,0.4,0.5\n", "positional argument"),
        (HEADER + "\n", "not enough values to unpack"),
        (HEADER + "0.5,0.1,0.2,0.3,0.4\n", "invalid literal for int"),
        (HEADER + "0,0.1,high,0.3,0.4\n", "could not convert string to float: 'high'"),
        ("x" * 200_000, "field larger than field limit"),
        ("\udcff", "can't decode byte 0xff"),
    ],
    ids=["empty", "other", "short", "long", "blank", "epoch", "figure", "one long line", "not text"],
)
def test_file_that_is_no_history_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "history.csv"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(RunError, match=rf"history\.csv is not a history: .*{message}"):
        History.load(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read the history .*history\.csv: No such file"):
        History.load(tmp_path / "history.csv")
