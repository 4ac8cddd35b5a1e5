import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_helpers import contents

from fmnist_xp import speed
from fmnist_xp.train.fullbatch import FullBatch

Command = Callable[..., Any]
ROWS, PEAK = 300, 1e12


def test_each_experiment_has_its_speed(command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On few images, against a fixed peak of 1,000 GFLOP/s."""
    monkeypatch.setattr(speed, "gemm_sampler", lambda _backend, _precision: lambda: PEAK)
    monkeypatch.setattr(speed, "measure_speed", functools.partial(speed.measure_speed, rows=ROWS))
    answer = command("bench", "--device", "cpu", "--threads", 2, "--epochs", 3)
    answer.assert_went_well()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in answer.lines if line.startswith("│")]
    assert [row[:2] for row in rows] == [
        ["sgd", "784-128-128-10"], ["momentum", "784-64-64-10"], ["adam", "784-64-64-10"],
    ]  # fmt: skip
    for _name, network, milliseconds, rate, columns, gflops, share in rows:
        widths = [int(width) for width in network.split("-")]
        # Forward, and two products backward but for the first layer, which has one.
        products = [3 * a * b for a, b in itertools.pairwise(widths)]
        flops = 2 * ROWS * (sum(products) - widths[0] * widths[1])
        seconds = float(milliseconds) / 1000
        assert 1 / float(rate) == pytest.approx(seconds, abs=1e-5, rel=0.01)
        assert float(gflops.replace(",", "")) == pytest.approx(flops / seconds / 1e9, abs=1, rel=0.05)
        assert 0.5 < float(columns.rstrip("%")) / 100 <= 1
        assert float(share.rstrip("%")) / 100 == pytest.approx(flops / seconds / PEAK, abs=0.01, rel=0.05)
    assert "2 threads" in answer.lines[0]
    assert contents(workplace) == {}


def test_block_rows_option(command: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = set()
    compute_gradients = FullBatch.compute_gradients

    def noted(batch: FullBatch, log: bool = False) -> None:
        blocks.add(batch.rows.blocks[0].stop)
        compute_gradients(batch, log)

    monkeypatch.setattr(FullBatch, "compute_gradients", noted)
    monkeypatch.setattr(speed, "gemm_sampler", lambda _backend, _precision: lambda: PEAK)
    monkeypatch.setattr(speed, "measure_speed", functools.partial(speed.measure_speed, rows=ROWS))
    command("bench", "--device", "cpu", "--epochs", 1, "--block-rows", 70).assert_went_well()
    assert blocks == {70}


@pytest.mark.parametrize(
    "arguments", [("--epochs", 0), ("--block-rows", 0), ("--precision", "float8"), ("--device", "tpu")]
)
def test_wrong_usage_is_one_line(command: Command, arguments: tuple[object, ...]) -> None:
    command("bench", *arguments).assert_failed(2, "--help")


def test_table_with_known_speeds(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = speed.Speed("sgd", (784, 128, 10), epoch_seconds=12.5, column_share=0.684, flops=2.5e20, gemm_flops=1e21)
    monkeypatch.setattr(speed, "measure_speed", lambda *_arguments, **_more: [known])
    answer = command("bench", "--device", "cpu", "--threads", 1)
    answer.assert_went_well()
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in answer.lines if line[0] in "│┃"]
    assert cells == [
        ["experiment", "network", "ms/epoch", "epochs/s", "columns", "GFLOP/s", "peak"],
        ["sgd", "784-128-10", "12500.00", "0.1", "68%", "250,000,000,000", "25%"],
    ]
    assert answer.lines[0].startswith("60,000 images an epoch on cpu: ")
    assert answer.lines[0].endswith(", float32; peak: large matrix products in the same process")
    assert answer.lines[-1].startswith("columns: the share of each image's that the first layer multiplies;")
