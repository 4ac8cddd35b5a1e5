import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_helpers import contents

from fmnist_xp import speed
from fmnist_xp.backend import get_backend
from fmnist_xp.blas import blas_name
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
    "arguments",
    [
        *(("--epochs", 0), ("--block-rows", 0), ("--precision", "float8"), ("--device", "tpu")),
        *(("--engine", "fuse"), ("--precision", "bfloat16")),
    ],
)
def test_wrong_usage_is_one_line(command: Command, arguments: tuple[object, ...]) -> None:
    command("bench", *arguments).assert_failed(2, "--help")


def test_table_with_known_speeds(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    known = speed.Speed("sgd", (784, 128, 10), epoch_seconds=12.5, column_share=0.684, flops=2.5e16, gemm_flops=1e17)
    monkeypatch.setattr(speed, "measure_speed", lambda *_arguments, **_more: [known])
    answer = command("bench", "--device", "cpu", "--threads", 1)
    answer.assert_went_well()
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in answer.lines if line[0] in "│┃"]
    assert cells == [
        ["experiment", "network", "ms/epoch", "epochs/s", "columns", "GFLOP/s", "peak"],
        ["sgd", "784-128-10", "12500.00", "0.1", "68%", "25,000,000", "25%"],
    ]
    assert answer.lines[0].startswith("60,000 images an epoch on cpu: ")
    assert answer.lines[0].endswith(", float32")
    assert answer.lines[-1].startswith("columns: the share of each image's that the first layer multiplies;")
    # Numbers stand below each other's last digits.
    header, row = (re.split("[│┃]", line)[1:-1] for line in answer.lines if line[0] in "│┃")
    for text, number in zip(header[2:], row[2:], strict=True):
        assert text.rstrip()[-1:] == text[-2]
        assert number[-2] != " "
    fused = command("bench", "--device", "cpu", "--threads", 1, "--engine", "fused")
    assert fused.lines[0].endswith(", float32, fused engine")
    quiet = command("bench", "--device", "cpu", "--threads", 1, "--quiet")
    quiet.assert_went_well()
    assert quiet.lines == answer.lines[1:-1]


def test_json_has_known_speeds(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = [
        speed.Speed("sgd", (784, 128, 10), epoch_seconds=12.5, column_share=0.684, flops=2.5e20, gemm_flops=1e21),
        speed.Speed("adam", (784, 10), epoch_seconds=0.5, column_share=1.0, flops=2e20, gemm_flops=1e21),
    ]
    monkeypatch.setattr(speed, "measure_speed", lambda *_arguments, **_more: iter(speeds))
    backend = get_backend("cpu", threads=1)
    arguments = ("--device", "cpu", "--threads", 1, "--epochs", 3, "--precision", "float64")
    assert command("bench", *arguments, "--json").document() == {
        "device": "cpu", "device_name": backend.device_name, "threads": 1, "graphs": False, "blas": blas_name(),
        "precision": "float64", "engine": "plain", "rows": 60_000, "epochs": 3,
        "experiments": [
            {
                "experiment": "sgd", "widths": [784, 128, 10], "epoch_seconds": {"median": 12.5},
                "samples_per_second": 4800.0, "column_share": 0.684, "flops_per_second": 2.5e20,
                "gemm_flops_per_second": 1e21,
            },
            {
                "experiment": "adam", "widths": [784, 10], "epoch_seconds": {"median": 0.5},
                "samples_per_second": 120_000.0, "column_share": 1.0, "flops_per_second": 2e20,
                "gemm_flops_per_second": 1e21,
            },
        ],
    }  # fmt: skip
