"""What ranks do that one of them makes impossible: the same on all, before the first epoch, and who is at fault."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from mpi_helpers import made_once, needs_mpi, run_ranks
from refusals_worker import (
    FAULTY,
    OTHER_NETWORKS,
    OTHER_OPTIONS,
    OTHER_ROWS,
    OTHER_VERSIONS,
    RANKS,
)

pytestmark = needs_mpi

WORKER = Path(__file__).with_name("refusals_worker.py")


@pytest.fixture(scope="module")
def raised(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each rank raises in each case: its kind, its message, and whether all ranks were told."""

    def fill(folder: Path) -> None:
        done = run_ranks(RANKS, "-m", "mpi4py", WORKER, folder / "raised.json")
        assert (done.returncode, done.stderr) == (0, "")

    folder = made_once(tmp_path_factory, "refusals", fill)
    outcomes: dict[str, list[Any]] = json.loads((folder / "raised.json").read_text())
    return outcomes


DIFFER = {
    "option: epochs": "epochs 4, and rank 0 3",
    "option: log_every": "log_every 7, and rank 0 10",
    "option: block_rows": "block_rows 2, and rank 0 None",
    "option: dense": "dense True, and rank 0 None",
    "option: validation_fraction": "validation_fraction 0.25, and rank 0 None",
    "option: validation_seed": "validation_seed 4, and rank 0 0",
    "option: validation_data": "validation_data of 2 arrays, and rank 0 None",
    "option: keep_going": "keep_going True, and rank 0 False",
    "option: checkpoint": "checkpoint True, and rank 0 False",
    "option: learning rate": "the optimizer Adam(learning_rate=0.5) after 0 updates, and rank 0 "
    "Adam(learning_rate=0.02) after 0 updates",
    "option: kind of optimizer": "the optimizer SGD(learning_rate=0.02) after 0 updates, and rank 0 Adam(",
    "option: updates made": "the optimizer Adam(learning_rate=0.02) after 2 updates, and rank 0 Adam(",
    "network: width": "the layers [Dense(5, 5), ReLU(), Dense(5, 3)], ",
    "network: loss": "the layers [Dense(5, 4), ReLU(), Dense(4, 3), Softmax()], CategoricalCrossentropy(), ",
    "network: precision": "the layers [Dense(5, 4), ReLU(), Dense(4, 3)], SoftmaxCategoricalCrossentropy(), float64",
    "network: seed": "weights of the SHA-256 ",
    "network: backend": "a backend of the kind OtherBackend, and rank 0 CpuBackend",
    "version: fmnist-xp": "the version of fmnist-xp 0.0.1, and rank 0 ",
    "version: numpy": "the version of numpy 1.0, and rank 0 ",
    "evaluate: weights": "weights of the SHA-256 ",
}
DIFFER = {name: f"rank {FAULTY} has {message}" for name, message in DIFFER.items()}
# What is asked of all, and rank 0 says for all.
OF_ALL = {
    "rows: bytes": "X is pixels on some ranks and floats on others: all must have the same kind",
    "no rows": "X has no rows on any rank",
    "evaluate: no rows": "X has no rows on any rank",
}
NOT_FINITE = "X has values that are not finite in float32 (NaN or infinity)"
# What is wrong on one rank, whatever the others have.
WRONG = {
    "option: negative epochs": "epochs must be at least 0, got -1",
    "option: unknown optimizer": (
        "optimizer must be one of sgd, adam, adamw, rmsprop, adagrad, lbfgs, or an Optimizer, got 'adams'"
    ),
    "option: patience alone": "patience needs rows held out: ",
    "option: resume alone": "resume needs a folder: checkpoint=…",
    "option: no callback": "callbacks must be functions of the history, ",
    "rows: label out of range": "y must be from 0 to 2, got 0 to 7",
    "rows: labels of text": "y must be class indices (n,) of an integer dtype or one-hot rows (n, 3), ",
    "rows: fewer labels": "X has 12 rows, but y has 11",
    "rows: NaN": NOT_FINITE,
    "rows: other columns": "X must have the shape (n, 5) ",
    "validation: NaN": NOT_FINITE,
    "evaluate: NaN": NOT_FINITE,
}
REFUSED = {name: (0, message) for name, message in (DIFFER | OF_ALL).items()}
REFUSED |= {name: (FAULTY, message) for name, message in WRONG.items()}


@pytest.mark.parametrize(("name", "speaker", "message"), [(name, *said) for name, said in REFUSED.items()])
def test_one_rank_says_what_is_wrong_and_the_others_who_says_it(
    raised: dict[str, list[Any]], name: str, speaker: int, message: str
) -> None:
    """Before anything is trained: the worker looks at the weights."""
    kind, said, told = raised[name][speaker]
    assert (kind, told) == ("ValueError", True)
    assert said.startswith(message)
    assert name not in DIFFER or said.endswith(": all ranks must have the same")
    others = [raised[name][rank] for rank in range(RANKS) if rank != speaker]
    assert others == [["ElsewhereError", f"rank {speaker}: {said}", False]] * (RANKS - 1)


def test_folder_of_another_training_is_refused_on_all(raised: dict[str, list[Any]]) -> None:
    (kind, said, told), *others = raised["another training's checkpoint"]
    assert (kind, told) == ("RunError", True)
    assert re.search(r"others.epoch-000000003\.safetensors is of a training with other rows: start anew", said)
    assert others == [["ElsewhereError", f"rank 0: {said}", False]] * (RANKS - 1)


@pytest.mark.parametrize("name", ["a number", "True", "no communicator", "one between two groups"])
def test_what_is_no_communicator_within_one_group_is_refused(raised: dict[str, list[Any]], name: str) -> None:
    for kind, said, _told in raised[f"comm: {name}"]:
        assert kind == "TypeError"
        assert said.startswith("comm must be an intracommunicator of mpi4py, such as MPI.COMM_WORLD, got ")


def test_ranks_that_agree_train_on_the_communicator_of_all_these(raised: dict[str, list[Any]]) -> None:
    assert raised["nothing"] == [None] * RANKS


def test_every_case_is_looked_at(raised: dict[str, list[Any]]) -> None:
    tables = {"option": OTHER_OPTIONS, "network": OTHER_NETWORKS, "rows": OTHER_ROWS, "version": OTHER_VERSIONS}
    assert {f"{kind}: {name}" for kind, table in tables.items() for name in table} <= REFUSED.keys()
    besides = {name for name in raised if name.startswith("comm: ")} | {"another training's checkpoint", "nothing"}
    assert raised.keys() == REFUSED.keys() | besides


@pytest.mark.parametrize("fault", ["callback", "layer"])
def test_script_of_which_one_rank_raises_in_the_middle_ends_on_all(fault: str) -> None:
    """The first rank in a callback, or the last one in a layer, while the others wait for its sums."""
    done = run_ranks(RANKS, "-m", "mpi4py", WORKER, fault)
    assert done.returncode != 0
    assert "OSError: the disk is gone" in done.stderr
    assert "trained to the end" not in done.stdout
