from typing import Any

import gpu_ranks
import pytest
from mpi_helpers import needs_mpi

from fmnist_xp.backend import CpuBackend


@needs_mpi
def test_ranks_have_the_bits_of_one_process_in_every_precision(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert gpu_ranks.main("cpu", "600", "3") == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.partition(", ")[0] for line in lines] == [
        f"{precision}: 3 ranks by MPI: the same bits" for precision in CpuBackend.precisions
    ]


@needs_mpi
def test_ranks_that_fail_are_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    assert gpu_ranks.main("tpu", "600", "2") == 1
    assert "2 ranks end with exit status" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("together", "said"),
    [
        ({"weights": ["a", "a"]}, "2 ranks by MPI: the same bits, 1.000 and 2.000 ms an epoch"),
        ({"weights": ["a", "b"]}, "2 ranks by MPI: OTHER BITS, 1.000 and 2.000 ms an epoch"),
        ({"weights": ["b", "b"]}, "2 ranks by MPI: OTHER BITS, 1.000 and 2.000 ms an epoch"),
        ({"weights": ["a", "a"], "loss": [1.0, 0.6]}, "2 ranks by MPI: OTHER BITS, 1.000 and 2.000 ms an epoch"),
    ],
)
def test_every_rank_must_have_the_weights_and_losses_of_one_process(
    capsys: pytest.CaptureFixture[str], together: dict[str, Any], said: str
) -> None:
    one = {"weights": ["a"], "loss": [1.0, 0.5], "seconds": 0.001, "channel": ""}
    many = {"loss": [1.0, 0.5], "seconds": 0.002, "channel": "MPI", **together}
    assert gpu_ranks.compare({"tf32": one}, {"tf32": many}) == int("the same" not in said)
    assert capsys.readouterr().out == f"tf32: {said}\n"
