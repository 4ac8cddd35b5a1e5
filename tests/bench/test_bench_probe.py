"""The probe under the stand-in: what it lists, in which order, and what it refuses."""

import json
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from parity.standin import StandInCupy, make_nvmath
from typer.testing import CliRunner

from bench import probe, report
from bench.commands import app
from bench.results import Options, load
from fmnist_xp.backend import CudaBackend, CudaGraphBackend
from fmnist_xp.measure import copy_rate, gemm_sampler, time_epochs

# A step that is repeated on its own results overflows, unlike in training.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero):RuntimeWarning")

ROWS = 240
PRECISIONS = ("float32", "float64", "float16", "tf32")
HIDDEN = {"adam": 64, "sgd": 128}


def steps(h: int) -> list[str]:
    """Return the steps of an epoch of 784-h-h-10, without the copies of the weights for float16."""
    n = ROWS
    return [
        f"product ({n}, 784) · (784, {h})", f"biased_relu ({n}, {h}) (1, {h}) ({n}, {h})",
        f"product ({n}, {h}) · ({h}, {h})", f"biased_relu ({n}, {h}) (1, {h}) ({n}, {h})",
        f"product ({n}, {h}) · ({h}, 10)", f"add_bias ({n}, 10) (1, 10)",
        f"row_maxima ({n}, 10) (10, {n}) ({n}, 1)", f"shifted_exp ({n}, 10) ({n}, 1) ({n}, 10)",
        f"product ({n}, 10) · (10, 1)", f"divide_rows ({n}, 10) ({n}, 1)",
        f"softmax_crossentropy_gradient ({n}, 10) (1, 10) ({n}, 1) ({n}, 10)",
        f"product ({h}, {n}) · ({n}, 10)", f"sum over the rows of ({n}, 10)", f"product ({n}, 10) · (10, {h})",
        f"relu_gradient ({n}, {h}) ({n}, {h}) ({n}, {h})",
        f"product ({h}, {n}) · ({n}, {h})", f"sum over the rows of ({n}, {h})", f"product ({n}, {h}) · ({h}, {h})",
        f"relu_gradient ({n}, {h}) ({n}, {h}) ({n}, {h})",
        f"product (784, {n}) · ({n}, {h})", f"sum over the rows of ({n}, {h})",
    ]  # fmt: skip


AFTER = ["mean", "penalty gradients", "optimizer step"]
LAST_PAIR = slice(4, 6)
TOGETHER = (slice(0, 2), slice(2, 4), LAST_PAIR, slice(14, 17), slice(18, 21))
"""Which steps are taken together: a product with biases and ReLU, and ReLU's gradient with the sums of its rows."""


def stand_in(graphs: bool) -> CudaBackend:
    cupy = StandInCupy()
    return CudaGraphBackend(cupy=cupy, nvmath=make_nvmath(cupy)) if graphs else CudaBackend(cupy=cupy)


@pytest.fixture(scope="module", params=[True, False], ids=["graphs", "eager"])
def record(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command writes, for few rows, epochs and samples."""
    folder, timer = tmp_path_factory.mktemp("probe"), probe._Timer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Options, "backend", lambda _self: stand_in(request.param))
        patch.setattr(probe, "ROWS", 10 * ROWS)  # a quick run has a tenth of it
        patch.setattr(probe, "_Timer", lambda backend, *_sizes: timer(backend, 1, 1, 8))
        patch.setattr(probe, "copy_rate", partial(copy_rate, megabytes=1))
        patch.setattr(probe, "gemm_sampler", lambda *given, **_sizes: gemm_sampler(*given, size=8, repeats=1))
        patch.setattr(probe, "time_epochs", lambda *given: time_epochs(*given[:-1], 3))
        result = CliRunner().invoke(app, ["probe", "--quick", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    path = folder / "probe-cuda.json"
    assert result.output.splitlines() == [*PRECISIONS, str(path)]
    assert [*folder.iterdir()] == [path]
    return load(path)


def is_copy(name: str) -> bool:
    return name.startswith("copy_values ")


def test_every_call_of_an_epoch_is_listed_in_order(record: dict[str, Any]) -> None:
    found, graphs = record["results"]["precisions"], record["machine"]["cuda_graphs"]
    assert tuple(found) == PRECISIONS
    for precision, of_precision in found.items():
        assert {*of_precision["epochs"]} == {*HIDDEN}
        for name, epoch in of_precision["epochs"].items():
            names = [call["call"] for call in epoch["calls"]]
            single = steps(HIDDEN[name])
            assert [name for name in names if ": " not in name and not is_copy(name)] == single + AFTER
            assert names[-3:] == AFTER
            assert any(map(is_copy, names)) is (precision == "float16")
            together = [name.partition(": ")[2] for name in names if name.startswith("taken together: ")]
            # cuBLASLt adds biases and takes the ReLU in float32 alone, which the last layer's results are in float16.
            several = TOGETHER[{"float16": 2, "float64": 3}.get(precision, 0) :]
            assert together == (["; ".join(single[which]) for which in several] if graphs else [])
            assert len(names) == len(single) + len(AFTER) + len(together) + sum(map(is_copy, names))


def positive(values: Sequence[Any]) -> bool:
    return all(isinstance(value, float) and math.isfinite(value) and value > 0 for value in values)


def test_times_are_positive_and_complete(record: dict[str, Any]) -> None:
    results = record["results"]
    assert (record["device"], record["precision"], record["settings"]["rows"]) == ("cuda", "", ROWS)
    assert record["command"] == "python -m bench probe --device cuda --quick"
    assert (record["machine"]["gpu"], record["machine"]["cuda"]) == ("Stand-in GPU", "12.8")
    assert {*results["upload_seconds"]} == {"float32", "uint8"}
    assert positive([results["copy_bytes_per_second"], *results["upload_seconds"].values()])
    for found in results["precisions"].values():
        calls = [call for epoch in found["epochs"].values() for call in epoch["calls"]]
        ways = found["sums_over_rows"]
        assert [*ways] == [
            f"{width} columns: {way}"
            for width in (10, 64, 128)
            for way in ("product with 1 x ones", "product with 8 x ones", "sums of groups of rows, and of these")
        ]
        for times in (*calls, *ways.values()):
            assert positive([times["device_us"], times["host_us"]])
        assert positive([found["gemm_flops_per_second"], *(epoch["epoch_us"] for epoch in found["epochs"].values())])


def test_page_has_each_step_of_the_probe_once(record: dict[str, Any], tmp_path: Path) -> None:
    for name, epoch in record["results"]["precisions"]["tf32"]["epochs"].items():
        made = [call["call"].rpartition(": ")[2].split("; ") for call in probe.calls_of_epoch(epoch["calls"])]
        assert [step for several in made for step in several] == steps(HIDDEN[name]) + AFTER
        assert sum(len(several) > 1 for several in made) == (len(TOGETHER) if record["machine"]["cuda_graphs"] else 0)
    (tmp_path / "probe-cuda.json").write_text(json.dumps(record), encoding="utf-8")
    assert " | adam, tf32 | " in report.text(tmp_path)


def test_device_is_timed_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's clock advances by a second from event to event, the host's by three from read to read."""
    made = []
    clock = iter(range(0, 300, 3))
    monkeypatch.setattr(probe.time, "perf_counter", lambda: float(next(clock)))
    times = probe._Timer(stand_in(graphs=False), 20, 3, 4)(lambda: made.append(1))
    assert times == {"device_us": 1e6 / 20, "host_us": 3e6 / 20}
    assert len(made) == 1 + 3 * 20  # the first compiles


def test_cpu_is_a_one_line_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["probe", "--device", "cpu", "--out", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: the probe times single calls of a GPU, and --device is cpu: name cuda\n"
    assert not list(tmp_path.iterdir())
