"""Trainings by any number of ranks: the bits of one process, rank 0 alone speaks, and few messages."""

import json
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import rank_cases
from mpi_helpers import made_once, needs_mpi, run_ranks
from rank_cases import CASES, LAYOUTS, Outcome, run_cases

from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS

pytestmark = needs_mpi

EVERY_NUMBER = pytest.mark.parametrize("ranks", [1, 2, 3, 8])
Outcomes = Callable[[int], list[dict[str, Outcome]]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process comes to without MPI, on two threads."""

    def fill(folder: Path) -> None:
        (folder / "found.json").write_text(json.dumps(run_cases(None, tmp_path_factory.mktemp("cases"))))

    return json.loads((made_once(tmp_path_factory, "alone", fill) / "found.json").read_text())


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """A function of the number of ranks that returns what each rank comes to, with one thread each."""

    def fill(folder: Path, ranks: int) -> None:
        done = run_ranks(ranks, "-m", "mpi4py", rank_cases.__file__, folder)
        assert done.returncode == 0, done.stdout + done.stderr

    @cache
    def of(ranks: int) -> list[dict[str, Outcome]]:
        folder = made_once(tmp_path_factory, f"ranks-{ranks}", partial(fill, ranks=ranks))
        return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]

    return of


@EVERY_NUMBER
@pytest.mark.parametrize("case", CASES)
def test_every_rank_comes_to_the_bits_of_one_process(alone: Any, outcomes: Outcomes, case: str, ranks: int) -> None:
    for found in outcomes(ranks):
        assert found[case] == alone[case]


def test_cases_are_what_their_names_say(alone: Any) -> None:
    for name in NOTEBOOK_EXPERIMENTS:
        for layout in LAYOUTS:
            assert (alone[f"{name}, {layout}"]["column_share"] < 1) == (not layout.startswith("dense")), layout
    assert alone["kept"]["stopped"] == "no better validation accuracy in 4 epochs"
    assert alone["kept"]["best"]
    assert alone["diverged"]["diverged"]
    assert (alone["diverged"]["epochs"], alone["diverged, going on"]["epochs"]) == (2, 4)
    for way in ("begun by one", "ended by halves"):
        assert alone[way] == alone["never stopped"]


def test_sums_in_another_order_have_other_bits(alone: Any) -> None:
    """Or else the comparisons would say little."""
    found = {alone[case]["parameters"] for case in ("shares equal", "other blocks", "one block")}
    assert len(found) == 3


@EVERY_NUMBER
def test_rank_0_alone_calls_back_prints_and_logs(alone: Any, outcomes: Outcomes, ranks: int) -> None:
    expected = alone["called"]
    assert (expected["calls"], expected["stopped"], expected["epochs"]) == ([0, 2, 4], "seen enough", 5)
    assert expected["printed"]
    assert "X has values from -200 to 200" in expected["logged"]
    first, *others = (found["called"] for found in outcomes(ranks))
    assert first == expected
    for found in others:
        assert found == expected | {"calls": [], "printed": "", "logged": ""}


# Messages


def up_the_tree(rank: int, ranks: int) -> dict[str, float]:
    """Return the calls of an epoch where the ranks are a power of two, each with one vector of the tree.

    Rank 6 of 8, 110 in binary, adds what rank 7 has, and sends the sum to rank 4, which sends to rank 0.
    """
    received = next(bit for bit in range(8) if rank >> bit & 1 or 1 << bit == ranks)
    calls = {"Recv of parameters": received, "Send of parameters": int(rank > 0)}
    return {name: count for name, count in calls.items() if count} | {"Bcast of parameters": 1, "Allreduce": 1}


@pytest.mark.parametrize("ranks", [2, 8])
def test_ranks_of_a_power_of_two_send_one_vector_up_and_get_one_back(outcomes: Outcomes, ranks: int) -> None:
    for rank, found in enumerate(outcomes(ranks)):
        expected = up_the_tree(rank, ranks)
        assert found["messages"]["not logged"] == expected
        sums = {"Send": 1} if rank else {"Recv": ranks - 1}
        assert found["messages"]["logged"] == expected | sums | {"Bcast": 1}


def test_other_numbers_of_ranks_send_more_and_pickle_nothing(outcomes: Outcomes) -> None:
    calls: Counter[str] = Counter()
    for found in outcomes(3):
        calls.update(found["messages"]["not logged"])
    assert set(calls) == {"Send of parameters", "Recv of parameters", "Bcast of parameters", "Allreduce"}
    assert calls["Send of parameters"] == calls["Recv of parameters"] >= 2
    assert (calls["Bcast of parameters"], calls["Allreduce"]) == (3, 3)


@EVERY_NUMBER
def test_seconds_of_messages_are_part_of_those_of_the_epochs(outcomes: Outcomes, ranks: int) -> None:
    for found in outcomes(ranks):
        seconds = found["messages"]["seconds"]
        if ranks == 1:
            assert seconds is None
        else:
            assert 0 < seconds < found["messages"]["all seconds"]
