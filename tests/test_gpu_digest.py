"""What the GPU round's summary says of each part."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpu_digest import digest

from fmnist_xp.cli import measure
from fmnist_xp.devices import Gpu, survey

ROOT = Path(__file__).parents[1]


def measured(benchmark: str, folder: Path) -> tuple[dict[str, Any], str]:
    """Return a committed result, copied to `folder`, and the log of a part that would have written it."""
    path = folder / f"{benchmark}.json"
    path.write_text((ROOT / "bench" / "results" / f"{benchmark}-cpu.json").read_text(encoding="utf-8"), "utf-8")
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["results"]
    return results, f"{path}\n{path.with_suffix('.png')}\n"


def test_throughput_shows_epochs_and_their_floor(tmp_path: Path) -> None:
    results, log = measured("throughput", tmp_path)
    lines = digest("throughput-tf32", log, failed=False)
    assert len(lines) == len(results["experiments"]) == 3
    for line, (name, found) in zip(lines, results["experiments"].items(), strict=True):
        epoch, floor = (1e6 * seconds for seconds in (found["epoch_seconds"]["median"], found["floor_seconds"]))
        assert line == f"{name}: {epoch:,.0f} µs an epoch, floor {floor:,.0f} µs"


def test_whole_training_run_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "throughput.json"
    training = {"epochs": 1100, "seconds": {"median": 0.25}}
    adam = {"epoch_seconds": {"median": 2e-4}, "floor_seconds": 1e-4, "training": training}
    path.write_text(json.dumps({"results": {"experiments": {"adam": adam}}}))
    assert digest("throughput-eager-tf32", f"{path}\n", failed=False) == [
        "adam: 200 µs an epoch, floor 100 µs; 1,100 epochs in 0.250 s"
    ]


def test_throughput_of_the_fused_engine_is_shown_alike(tmp_path: Path) -> None:
    _results, log = measured("throughput", tmp_path)
    assert digest("fused-bfloat16", log, failed=False) == digest("throughput-tf32", log, failed=False)


def test_fit_shows_every_precision_of_both_engines() -> None:
    lines = [f"{name}: loss" for name in ("float32", "float64", "float16", "tf32")]
    lines += [f"{name}, fused engine: loss" for name in ("float16", "bfloat16", "float32")]
    assert digest("fit", "\n".join(["a warning", *lines]), failed=False) == lines


def test_peers_are_sorted_by_speed(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    engines = {"fmnist_xp": {"median": 3e-4}, "JAX, jit": {"median": 2.5e-4}}
    adam = {"engines": engines, "left_out": {"PyTorch, eager": "PyTorch is not installed"}}
    path.write_text(json.dumps({"results": {"adam": adam}}))
    assert digest("peers-tf32", f"{path}\n", failed=False) == [
        "adam, µs: JAX, jit 250 · fmnist_xp 300",
        "adam: PyTorch, eager left out, PyTorch is not installed",
    ]
    results, log = measured("peers", tmp_path)
    assert len(digest("peers-float32", log, failed=False)) >= len(results)


def test_probe_shows_the_sum_of_its_calls(tmp_path: Path) -> None:
    path = tmp_path / "probe.json"
    times = {"a": (40.0, 5.0), "b": (60.0, 7.0), "taken together: a; b": (70.0, 6.0)}  # the last is no step
    calls = [{"call": name, "device_us": device, "host_us": host} for name, (device, host) in times.items()]
    epochs = {"adam": {"epoch_us": 80.0, "calls": calls}, "sgd": {"epoch_us": 35.0, "calls": calls[:1]}}
    precisions = {"tf32": {"gemm_flops_per_second": 4e14, "epochs": epochs}}
    path.write_text(json.dumps({"results": {"copy_bytes_per_second": 2.5e12, "precisions": precisions}}))
    assert digest("probe", f"tf32\n{path}\n", failed=False) == [
        "copy 2,500 GB/s",
        "tf32: 400 TFLOP/s; adam: 80 µs an epoch; 2 steps one by one, device 100 µs, host 12 µs; "
        "sgd: 35 µs an epoch; 1 steps one by one, device 40 µs, host 5 µs",
    ]


def test_devices_shows_the_lines_about_the_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = Gpu("cuda:0", "NVIDIA H100", 80 * 2**30, "9.0")
    found = replace(survey(), cupy=None, gpus=[gpu], cuda_missing=None, graphs_missing=None)
    monkeypatch.setattr("fmnist_xp.devices.survey", lambda: found)
    measure.devices()
    shown = digest("devices", capsys.readouterr().out, failed=False)
    assert shown == ["cuda:0 NVIDIA H100, 80 GiB, compute 9.0", "CUDA ready", "CUDA graphs ready"]


def test_tests_shows_the_failures_and_the_count() -> None:
    failures = [f"FAILED tests/test_a.py::test_{number} - AssertionError" for number in range(9)]
    log = "\n".join(["....F", *failures, "9 failed, 158 passed in 20.1s"])
    assert digest("tests", log, failed=False) == [
        *failures[:6], "and 3 more", "9 failed, 158 passed in 20.1s",
    ]  # fmt: skip
    assert digest("tests", "....\n167 passed in 20.1s\n\n", failed=False) == ["167 passed in 20.1s"]


def test_other_parts_show_the_last_line_and_more_of_a_failure() -> None:
    log = "\n".join(f"line {number}" for number in range(20))
    assert digest("train-adam-tf32", log, failed=False) == ["line 19"]
    assert digest("train-adam-tf32", log, failed=True) == [f"line {number}" for number in range(14, 20)]
    assert digest("train-adam-tf32", "", failed=True) == []


@pytest.mark.parametrize("text", ["{", "{}", '{"results": null}', '{"results": {"experiments": {"adam": {}}}}'])
def test_unreadable_results_are_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "throughput.json").write_text(text)
    for path in tmp_path / "throughput.json", tmp_path / "none.json":
        (line,) = digest("throughput-tf32", f"{path}\n", failed=False)
        assert line.startswith("its figures cannot be read: ")


def test_long_lines_are_cut() -> None:
    assert [len(line) for line in digest("report", "x" * 1000, failed=False)] == [250]
