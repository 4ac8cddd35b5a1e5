"""Ranks with a GPU each, on stand-ins: the bits of one GPU, with NCCL and without, and what an epoch asks for."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mpi_helpers import made_once, needs_mpi, run_ranks
from nccl_worker import CASES, run

pytestmark = needs_mpi

WORKER = Path(__file__).with_name("nccl_worker.py")
SIZES = (3,)  # which share the tree unevenly

Outcome = dict[str, Any]
expected = cache(lambda name: run(CASES[name]))


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"{size} ranks")
def of_ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    """What each of several ranks comes to, in every case."""

    def fill(folder: Path) -> None:
        done = run_ranks(request.param, "-m", "mpi4py", WORKER, folder / "outcomes.json")
        assert (done.returncode, done.stderr) == (0, "")

    folder = made_once(tmp_path_factory, f"nccl-{request.param}", fill)
    outcomes: dict[str, list[Outcome]] = json.loads((folder / "outcomes.json").read_text())
    return outcomes


@pytest.mark.parametrize("name", CASES)
def test_every_rank_comes_to_the_bits_of_one_device(of_ranks: dict[str, list[Outcome]], name: str) -> None:
    whole = expected(name)
    assert whole["columns"][1][-1] < whole["columns"][1][0]  # the loss
    for outcome in of_ranks[name]:
        for part in ("parameters", "columns", "validation", "best"):
            assert outcome[part] == whole[part], part
        assert outcome["metrics"] == pytest.approx(whole["metrics"], rel=1e-5)  # `evaluate` takes blocks of its own


def test_validation_and_best_weights_are_among_what_is_compared() -> None:
    for kind in ("eager", "graphs"):
        outcome = expected(f"{kind}, held out")
        assert outcome["best"].keys() == {"dense1.weights", "dense1.biases", "dense2.weights", "dense2.biases"}
        assert [len(column) for column in outcome["validation"]] == [len(outcome["columns"][0])] * 2


def through_the_host(name: str) -> bool:
    return "alone" in name or "one GPU" in name


@pytest.mark.parametrize("name", CASES)
def test_graphs_are_captured_where_nccl_carries_the_gradients(of_ranks: dict[str, list[Outcome]], name: str) -> None:
    """As many as without ranks: of epochs 4, 4, 1 the second time, and of 1, 3, 1, 3, 1 where a callback looks on."""
    launches = 0 if through_the_host(name) or not CASES[name].graphs else 3 if CASES[name].watched else 1
    assert [outcome["launches"] for outcome in of_ranks[name]] == [launches] * len(of_ranks[name])


def test_callbacks_are_the_first_ranks(of_ranks: dict[str, list[Outcome]]) -> None:
    first, *others = of_ranks["graphs, watched"]
    assert first["seen"] == expected("graphs, watched")["seen"] == first["columns"][1]
    assert [other["seen"] for other in others] == [[]] * len(others)


# How often each rank sends gradients in an epoch, and how often it receives some, before the first's broadcast: of
# four blocks each of four ranks has one, and of three ranks the last has two.
SENT_AND_RECEIVED = {3: [(0, 2), (1, 0), (1, 0)], 4: [(0, 2), (1, 0), (1, 1), (1, 0)]}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.counted])
def test_an_epoch_does_no_more_than_send_one_vector_each(of_ranks: dict[str, list[Outcome]], name: str) -> None:
    """Five epochs more, none of them logged, or with graphs the first: then the losses of the blocks are sent too."""
    graphs, size = CASES[name].graphs, len(of_ranks[name])
    logged = int(graphs)
    for rank, outcome in enumerate(of_ranks[name]):
        first = rank == 0
        sends, receipts = SENT_AND_RECEIVED[size][rank]
        sent = 5 * sends + logged * (0 if first else 1)
        received = 5 * receipts + logged * (size - 1 if first else 0)
        broadcasts = 5 + logged
        if through_the_host(name):
            fetched = sent + (broadcasts if first else 0) + logged  # with what is logged
            expected_cost = {
                "transfers_to_host": fetched,
                "synchronisations": fetched,
                "transfers_to_device": received + (0 if first else broadcasts),
            }
        else:
            once = ("launches", "synchronisations", "transfers_to_device", "transfers_to_host")
            expected_cost = dict.fromkeys(once, 1) if graphs else {}
            expected_cost["messages"] = sent + received + broadcasts
        cost = dict(outcome["cost"])
        assert cost.pop("kernels") > 0
        assert cost.pop("products") > 0
        assert cost == expected_cost  # no allocation either


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("graphs, float32, floats", None),
        ("eager, NCCL on the first rank alone", "rank 1 has no NCCL (pip install nvidia-nccl-cu12, "),
        ("graphs, NCCL on the first rank alone", "rank 1 has no NCCL (pip install nvidia-nccl-cu12, "),
        ("graphs, one GPU for all", "several ranks share a GPU, which NCCL refuses"),
    ],
)
def test_first_rank_says_why_gradients_go_through_the_host(
    of_ranks: dict[str, list[Outcome]], name: str, reason: str | None
) -> None:
    first, *others = (outcome["said"] for outcome in of_ranks[name])
    assert len(first) == (reason is not None)
    assert all(line.startswith(f"gradients go through the host's memory, since {reason}") for line in first)
    assert others == [[]] * len(others)


@pytest.mark.parametrize("name", CASES)
def test_communicators_are_destroyed_once_no_graph_needs_them(of_ranks: dict[str, list[Outcome]], name: str) -> None:
    """One for each `fit` and `evaluate`; the stand-in refuses to destroy those that a graph still needs."""
    made = 0 if through_the_host(name) else 5 if CASES[name].counted else 2
    assert [outcome["destroyed"] for outcome in of_ranks[name]] == [[True] * made] * len(of_ranks[name])
