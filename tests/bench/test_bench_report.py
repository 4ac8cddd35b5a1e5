import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.patches import Rectangle
from typer.testing import CliRunner

from bench import peers, pictures, probe, rank_report, report, scaling, throughput
from bench.commands import app
from fmnist_xp.backend import PRECISIONS

MACHINE = {
    "cpu": "Sample CPU", "cores_usable": 2, "memory_bytes": 8 * 2**30, "system": "Linux x86_64", "blas": "openblas 0",
    "python": "3.11", "numpy": "2.0", "cupy": None, "torch": None, "jax": None, "scikit-learn": None, "opencv": "5",
    "gpu": None, "cuda": None, "driver": None,
}  # fmt: skip


def summary(median: float) -> dict[str, Any]:
    return {"median": median, "min": 0.9 * median, "max": 1.2 * median, "iqr": 0.05 * median, "samples": [median]}


def record(benchmark: str, results: dict[str, Any], **settings: Any) -> dict[str, Any]:
    data = {"name": "synthetic", "sha256": "00", "rows": 60_000, "test_rows": 10_000}
    return {
        "benchmark": benchmark,
        "date": "2026-01-02",
        "command": f"python -m bench {benchmark} --device cpu",
        "device": "cpu",
        "precision": "float32",
        "quick": False,
        "machine": MACHINE,
        "settings": {"data": data, **settings},
        "results": results,
    }


def samples() -> dict[str, dict[str, Any]]:
    experiment = {
        "widths": [784, 128, 128, 10], "epoch_seconds": summary(0.2), "epochs_per_second": 5.0,
        "samples_per_second": 3e5, "flops_per_epoch": 30_443_520_000, "flops_per_second": 1.5e11,
        "fraction_of_gemm": 0.8, "fraction_of_best_gemm": 0.75, "bytes_per_epoch": 1, "fraction_of_bandwidth": None,
        "floor_seconds": 0.16, "peak_memory_bytes": 400_000_000, "joules_per_epoch": None,
    }  # fmt: skip
    engines = {
        "fmnist_xp": {**summary(0.2), "note": "", "losses": [2.3]},
        "fmnist_xp, no figures": {**summary(0.19), "note": "none", "losses": []},
        "fmnist_xp, CUDA graphs": {**summary(0.1), "note": "replayed", "losses": [2.3]},
        "PyTorch, eager": {**summary(0.3), "note": "", "losses": [2.3]},
        "notebook": {**summary(1.6), "note": "plain", "losses": [2.3]},
    }
    peers = {
        "widths": [784, 128, 128, 10], "flops_per_epoch": 30_443_520_000, "gemm_flops_per_second": summary(2e11),
        "engines": engines, "seconds_logging_every_10th": 0.191, "left_out": {"JAX, jit": "JAX is not installed"},
        "ratios": {name: {"floor": 0.5, "ours": e["median"] / 0.2, "notebook": 2.0} for name, e in engines.items()},
    }  # fmt: skip
    points = [
        {"sweep": "rows", "experiment": "sgd", "rows": rows, "flops_per_epoch": 5e5 * rows,
         "epoch_seconds": summary(3e-6 * rows), "memory_added_bytes": 9_000_000}
        for rows in (6_000, 20_000, 60_000)
    ]  # fmt: skip
    rows = {"sgd": {"points": points}}
    readers = {"notebook's loop": summary(3.0), "zip, first time": summary(0.5)}
    times = {"notebook's loop": 1.0, "zip, first time": 6.0}
    return {
        "throughput-cpu": record(
            "throughput",
            {
                "gemm_flops_per_second": summary(2e11),
                "copy_bytes_per_second": None,
                "experiments": {"sgd": experiment},
            },
        ),
        "peers-cpu": record("peers", {"sgd": peers}, tolerance=1e-4),
        "scaling-cpu": record("scaling", {"rows": rows, "width": {}, "threads": {}, "left_out": ["too many rows"]}),
        "ranks-cpu": ranks_sample(),
        "loading-cpu": record("loading", {"readers": readers, "times_faster_than_notebook": times}, disk_cache="warm")
        | {"precision": ""},
    }


def ranks_sample() -> dict[str, Any]:
    """Return a record in which two ranks need 0.11 s of one rank's 0.2 s, and 1.1 s of 2 s."""
    points = [
        {"rows": rows, "experiment": "sgd", "ranks": ranks, "epoch_seconds": summary(epoch), "speedup": speedup,
         "efficiency": speedup / ranks, "message_seconds": messages, "message_share": messages / epoch,
         "column_share": 0.69, "weights": "00"}
        for rows, ranks, epoch, speedup, messages in (
            (60_000, 1, 0.2, 1.0, 0.0), (60_000, 2, 0.11, 1.818, 0.0055),
            (600_000, 1, 2.0, 1.0, 0.0), (600_000, 2, 1.1, 1.818, 0.011),
        )
    ]  # fmt: skip
    alone = {
        "widths": [784, 128, 128, 10], "flops_per_row": 507_392, "block_rows": 768, "parameters": 118_282,
        "vector_bytes": 473_128, "replicated_seconds": summary(0.002), "add_seconds": summary(2e-5),
    }  # fmt: skip
    results = {
        "experiments": {"sgd": alone},
        "points": points,
        "link": {"vector_bytes": 473_128, "latency": 2e-6, "bandwidth": 1e10},
        "sums": [{"ranks": 2, "tree": summary(2.2e-4), "allreduce": summary(1.1e-4)}],
    }
    return record("ranks", results, made_rows=600_000, threads=1, mpi="Some MPI 1.2.3, mpi4py 4.5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = tmp_path / "bench" / "results"
    results.mkdir(parents=True)
    for stem, sample in samples().items():
        (results / f"{stem}.json").write_text(json.dumps(sample))
    return results


def test_report_is_the_same_twice_and_names_no_path(folder: Path) -> None:
    path = report.write(folder)
    first = path.read_text()
    assert path == folder.parent / "README.md"
    assert report.write(folder).read_text() == first
    assert str(folder) not in first


def test_report_has_the_tables_the_pictures_and_the_machine(folder: Path) -> None:
    text = report.text(folder)
    for stem in samples():
        assert f"](results/{stem}.png)" in text
    for piece in (
        "| sgd, 784-128-128-10 | 0.200 s | 0.180 – 0.240 | 0.010 | 5 | 300 k | 150 |",
        "| 0.80 | 0.75 | – | 0.80 | 400 | – |",
        "The fastest of the frameworks, PyTorch, eager, takes 1.50× our time",
        "| fmnist_xp, CUDA graphs | 0.100 s | 0.090 – 0.120 | 0.005 | 0.50 |",
        "- fmnist_xp, CUDA graphs: replayed.",
        "every 10th epoch, as `train` logs: 0.191 s an epoch",
        "JAX, jit: left out, JAX is not installed.",
        "Left out: too many rows.",
        "time: sgd ∝ rows^1.00; memory: sgd ∝ rows^0.00.",
        "| zip, first time | 0.500 s |",
        "| CPU | Sample CPU |",
        "| memory | 8 GiB |",
    ):
        assert piece in text


def test_throughput_includes_the_notebook(folder: Path) -> None:
    sample = samples()["throughput-cpu"]
    sample["results"]["notebook"] = {"sgd": summary(1.6) | {"first_epoch": summary(3.0)}}
    (folder / "throughput-cpu.json").write_text(json.dumps(sample))
    text = report.text(folder)
    assert "in processes of its own between the same epochs:\n" in text
    assert "| sgd | 1.600 s | 1.440 – 1.920 | 0.080 | 8.00 | 3.000 s | 15.00 |" in text


def test_devices_without_results_are_not_yet_measured(folder: Path) -> None:
    text = report.text(folder)
    assert text.count(report.NOT_YET) == 11  # on CUDA two in four precisions, scaling and probe; photographs
    for path in folder.glob("*.json"):
        path.unlink()
    assert report.text(folder).count(report.NOT_YET) == 17  # these and the CPU's, loading and the machines


def test_quick_results_are_marked(folder: Path) -> None:
    path = folder / "loading-cpu.json"
    path.write_text(path.read_text().replace('"quick": false', '"quick": true'))
    assert report.text(folder).count("Quick sizes: not a result") == 1


def test_tolerances_of_peers_are_stated(folder: Path) -> None:
    assert "agree with ours to 0.0001 relative.\n" in report.text(folder)
    sample = samples()["peers-cpu"]
    sample["settings"]["drift"] = 0.1
    (folder / "peers-cpu.json").write_text(json.dumps(sample))
    assert "to 0.0001 relative, or to 10% of what the updates made of them.\n" in report.text(folder)


def test_each_precision_of_a_gpu_is_listed_or_not_yet_measured(folder: Path) -> None:
    measured = ("float16", "float32")
    for precision in measured:
        suffix = "" if precision == "float32" else f"-{precision}"
        sample = samples()["peers-cpu"] | {"device": "cuda", "precision": precision}
        (folder / f"peers-cuda{suffix}.json").write_text(json.dumps(sample))
    text = report.text(folder)
    peers = text[text.index("## Peers") : text.index("## Scaling")]
    assert peers.index("#### CUDA, float32") < peers.index("#### CUDA, float16")
    for precision in report.EVERYWHERE["cuda"]:
        assert (f"| cuda, {precision} | not yet measured |" in peers) is (precision not in measured)


def test_precision_of_the_fused_engine_alone_is_not_missed_and_its_records_stand_for_no_others(folder: Path) -> None:
    assert report.EVERYWHERE["cuda"] == ("float32", "float64", "tf32", "float16")
    for stem, precision, engine in (
        ("", "float32", {}),  # as older records are
        ("-float16-fused", "float16", {"engine": "fused"}),
        ("-bfloat16-fused", "bfloat16", {"engine": "fused"}),
        ("-fused", "float32", {"engine": "fused"}),
        ("-tf32", "tf32", {"engine": "plain"}),
    ):
        sample = samples()["throughput-cpu"] | {"device": "cuda", "precision": precision, **engine}
        training = {"epochs": 1100, "seconds": summary(0.5), "accuracy": 0.9, "loss": 0.3}
        sample["results"]["experiments"]["sgd"]["training"] = training
        (folder / f"throughput-cuda{stem}.json").write_text(json.dumps(sample))
    text = report.text(folder)
    cuda = text[text.index("### CUDA") : text.index("## Peers")]
    assert [line for line in cuda.splitlines() if line.startswith("####")] == [
        "#### CUDA, float32",
        "#### CUDA, float32, fused engine",
        "#### CUDA, tf32",
        "#### CUDA, float16, fused engine",
        "#### CUDA, bfloat16, fused engine",
    ]
    assert "| sgd, CUDA, bfloat16, fused engine | 1,100 | 0.500 s |" in cuda
    missing = [precision for precision in PRECISIONS if f"| cuda, {precision} | not yet measured |" in cuda]
    assert missing == ["float64", "float16"]  # of the plain engine


def test_picture_names_the_fused_engine() -> None:
    for engine, words in (("plain", "float32, 2026-01-02"), ("fused", "float32, fused engine, 2026-01-02")):
        sample = samples()["throughput-cpu"] | {"engine": engine}
        sample["results"]["experiments"]["sgd"]["training"] = None
        figure = throughput.draw(sample)
        assert figure.get_suptitle().endswith(f"\nSample CPU, 2 cores, {words}")


def test_whole_training_runs_are_in_one_table(folder: Path) -> None:
    for precision, seconds in (("float32", 0.75), ("tf32", 0.44)):
        sample = samples()["throughput-cpu"] | {"device": "cuda", "precision": precision}
        experiment = sample["results"]["experiments"]["sgd"]
        training = {"epochs": 1100, "seconds": summary(seconds), "accuracy": 0.8766, "loss": None}
        sample["results"]["experiments"] = {"adam": experiment | {"training": training}, "sgd": experiment}
        (folder / f"throughput-cuda-{precision}.json").write_text(json.dumps(sample))
    lines = report.text(folder).splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("| whole training run |"))
    assert lines[place + 2 : place + 5] == [
        "| adam, CUDA, float32 | 1,100 | 0.750 s | 0.675 – 0.900 | 0.038 | 0.877 | – |",
        "| adam, CUDA, tf32 | 1,100 | 0.440 s | 0.396 – 0.528 | 0.022 | 0.877 | – |",
        "",
    ]


def test_share_of_the_gemm_rate_is_in_the_scaling(folder: Path) -> None:
    sample = samples()["scaling-cpu"]
    for point in sample["results"]["rows"]["sgd"]["points"]:
        point["fraction_of_gemm"] = 0.625
    (folder / "scaling-cpu.json").write_text(json.dumps(sample))
    assert "| 60,000 | sgd | 0.180 s | 0.162 – 0.216 | 0.009 | 167 | 0.62 | 9 |" in report.text(folder)


def test_a_second_precision_has_a_part_of_its_own(folder: Path) -> None:
    other = samples()["throughput-cpu"] | {"precision": "float64"}
    (folder / "throughput-cpu-float64.json").write_text(json.dumps(other))
    text = report.text(folder)
    assert text.index("results/throughput-cpu.png") < text.index("results/throughput-cpu-float64.png")


def test_two_machines_stand_one_after_the_other(folder: Path) -> None:
    other = samples()["peers-cpu"] | {"machine": MACHINE | {"cpu": "Other CPU"}}
    (folder / "peers-cpu-other.json").write_text(json.dumps(other))
    text = report.text(folder)
    peers = text[text.index("## Peers") : text.index("## Scaling")]
    heads = [line for line in peers.splitlines() if line.startswith("####")]
    assert heads == ["#### CPU, float32, Sample CPU, 2 cores", "#### CPU, float32, Other CPU, 2 cores"]
    assert peers.index("results/peers-cpu.png") < peers.index("results/peers-cpu-other.png")
    assert "|  | loading-cpu, peers-cpu, ranks-cpu, scaling-cpu, throughput-cpu | peers-cpu-other |" in text


def test_whole_training_runs_name_the_machine_if_there_are_two(folder: Path) -> None:
    for gpu in ("First GPU", "Second GPU"):
        sample = samples()["throughput-cpu"] | {"device": "cuda", "machine": MACHINE | {"gpu": gpu}}
        experiment = sample["results"]["experiments"]["sgd"]
        experiment["training"] = {"epochs": 1100, "seconds": summary(0.5), "accuracy": 0.9, "loss": 0.3}
        (folder / f"throughput-cuda-{gpu[0].lower()}.json").write_text(json.dumps(sample))
    text = report.text(folder)
    assert text.index("| sgd, CUDA, float32, First GPU | 1,100 |") < text.index("| sgd, CUDA, float32, Second GPU |")


def test_several_epochs_a_call_are_compared_with_ours_at_the_same_logging(folder: Path) -> None:
    sample = samples()["peers-cpu"]
    sample["settings"]["late_drift"] = 0.01
    result = sample["results"]["sgd"]
    result["engines"]["JAX, jit of 10 epochs"] = {
        **summary(0.382), "note": "a loop", "losses": [2.3, 1.9], "epochs_a_call": 10,
    }  # fmt: skip
    result["ratios"]["JAX, jit of 10 epochs"] = {"floor": 0.5, "ours": 1.91, "notebook": 2.0}
    (folder / "peers-cpu.json").write_text(json.dumps(sample))
    text = report.text(folder)
    assert "The fastest of the frameworks, PyTorch, eager, takes 1.50× our time.\n" in text
    every_10th = "The fastest of the frameworks with metrics in every 10th epoch, JAX, jit of 10 epochs, takes "
    assert f"{every_10th}2.00× our time.\n" in text  # than ours, 0.191 s with the same logging
    for end in (
        "| JAX, jit of 10 epochs | 0.382 s | 0.344 – 0.458 | 0.019 | 1.91 | 2.00 | 0.50 | every 10th |",
        "| fmnist_xp, no figures | 0.190 s | 0.171 – 0.228 | 0.010 | 0.95 | 2.00 | 0.50 | none |",
        "| PyTorch, eager | 0.300 s | 0.270 – 0.360 | 0.015 | 1.50 | 2.00 | 0.50 | every epoch |",
        "- JAX, jit of 10 epochs: a loop.",
        "their loss after one call does, to 0.01 of what it changed.",
    ):
        assert end in text
    result["engines"]["fmnist_xp, graphs"] = {**summary(0.1), "note": "", "losses": [2.3, 1.9], "epochs_a_call": 10}
    result["ratios"]["fmnist_xp, graphs"] = {"floor": 0.5, "ours": 0.5, "notebook": 2.0}
    (folder / "peers-cpu.json").write_text(json.dumps(sample))
    text = report.text(folder)
    assert f"{every_10th}3.82× our time.\n" in text
    result["engines"]["fmnist_xp, fused engine"] = {
        **summary(0.05), "note": "", "losses": [2.3, 1.9], "epochs_a_call": 10,
    }  # fmt: skip
    result["ratios"]["fmnist_xp, fused engine"] = {"floor": 0.5, "ours": 0.25, "notebook": 2.0}
    (folder / "peers-cpu.json").write_text(json.dumps(sample))
    text = report.text(folder)
    assert f"{every_10th}3.82× our time, and 7.64× that of the fused engine.\n" in text
    # Training runs as that side, not as the mean of the other two.
    assert "fmnist_xp with metrics in every 10th epoch, but without CUDA graphs: 0.191 s an epoch.\n" in text


def test_peer_left_out_of_one_experiment_names_the_experiment(folder: Path) -> None:
    sample = samples()["peers-cpu"]
    both = sample["results"]
    both["adam"] = json.loads(json.dumps(both["sgd"]))
    both["adam"]["left_out"]["scikit-learn"] = "failed"
    (folder / "peers-cpu.json").write_text(json.dumps(sample))
    text = report.text(folder)
    assert "- JAX, jit: left out, JAX is not installed.\n" in text
    assert "- scikit-learn (adam): left out, failed.\n" in text


def graphs_or_not(folder: Path) -> str:
    """Return the page with three more files of a GPU, of which one trained without CUDA graphs."""
    for stem, captures in (("tf32-eager", False), ("tf32", True), ("float16", True)):
        precision = stem.partition("-")[0]
        machine = MACHINE | {"gpu": "Some GPU", "cuda_graphs": captures}
        sample = samples()["throughput-cpu"] | {"device": "cuda", "precision": precision, "machine": machine}
        training = {"epochs": 1100, "seconds": summary(0.5), "accuracy": 0.9, "loss": 0.3}
        sample["results"]["experiments"]["sgd"]["training"] = training
        (folder / f"throughput-cuda-{stem}.json").write_text(json.dumps(sample))
    return report.text(folder)


def test_records_with_and_without_cuda_graphs_have_different_titles(folder: Path) -> None:
    text = graphs_or_not(folder)
    cuda = text[text.index("### CUDA") : text.index("## Peers")]
    heads = [line for line in cuda.splitlines() if line.startswith("####")]
    assert heads == [
        "#### CUDA, tf32, with CUDA graphs",
        "#### CUDA, tf32, without CUDA graphs",
        "#### CUDA, float16, with CUDA graphs",
    ]
    assert cuda.index("(results/throughput-cuda-tf32.png)") < cuda.index("(results/throughput-cuda-tf32-eager.png)")
    assert "| sgd, CUDA, tf32, without CUDA graphs | 1,100 | 0.500 s |" in cuda
    assert "tf32 | not yet" not in cuda


def test_one_machine_is_one_column_with_and_without_graphs(folder: Path) -> None:
    machines = graphs_or_not(folder).partition("## Machines\n")[2]
    assert "| throughput-cuda-float16, throughput-cuda-tf32, throughput-cuda-tf32-eager |" in machines
    assert "| GPU | – | Some GPU |" in machines


def test_cuda_graphs_are_not_mentioned_if_no_record_has_them(folder: Path) -> None:
    for precision in ("float16", "tf32"):
        machine = MACHINE | {"gpu": "Some GPU", "cuda_graphs": False}
        sample = samples()["peers-cpu"] | {"device": "cuda", "precision": precision, "machine": machine}
        (folder / f"peers-cuda-{precision}.json").write_text(json.dumps(sample))
    assert "\n#### CUDA, tf32\n" in report.text(folder)


def call(name: str, device: float, host: float = 2.0) -> dict[str, Any]:
    return {"call": name, "device_us": device, "host_us": host}


CALLS = [
    call("product (9, 7) · (7, 5)", 40), call("biased_relu (9, 5)", 9.55), call("product (9, 5) · (5, 5)", 20),
    call("biased_relu (9, 5)", 8), call("relu_gradient (9, 5)", 10), call("product (5, 9) · (9, 5)", 30),
    call("sum over the rows of (9, 5)", 7),
    call("both: product (9, 7) · (7, 5); biased_relu (9, 5)", 41, 3),
    call("all: relu_gradient (9, 5); product (5, 9) · (9, 5); sum over the rows of (9, 5)", 123, 6),
    call("mean", 1.5), call("optimizer step", 4.5),
]  # fmt: skip


def probed(precision: str = "", **changes: Any) -> dict[str, Any]:
    """Return the record of a probe in two precisions, the second with a single call."""
    ways = {"10 columns: product": call("", 5.5), "10 columns: in two steps": call("", 150.4)}
    tf32 = {
        "gemm_flops_per_second": 4.5e14,
        "epochs": {"adam": {"epoch_us": 250.0, "calls": CALLS}, "sgd": {"epoch_us": 98.96, "calls": CALLS[-2:]}},
        "sums_over_rows": ways,
    }
    float64 = {
        "gemm_flops_per_second": 6e13,
        "epochs": {"sgd": {"epoch_us": 1234.0, "calls": CALLS[-1:]}},
        "sums_over_rows": {"10 columns: product": call("", 12)},
    }
    results = {
        "copy_bytes_per_second": 2.5e12,
        "upload_seconds": {"float32": 0.25, "uint8": 0.0625},
        "precisions": {"tf32": tf32, "float64": float64},
    }
    made = record("probe", results, rows=60_000) | {"device": "cuda", "precision": precision}
    del made["settings"]["data"]
    return made | {"machine": MACHINE | {"gpu": "Some GPU"}} | changes


@pytest.mark.parametrize("precision", ["", "float32"])
def test_probe_is_sums_longest_calls_and_sums_over_the_rows(folder: Path, precision: str) -> None:
    (folder / "probe-cuda.json").write_text(json.dumps(probed(precision)))
    text = report.text(folder)
    part = text[text.index("## Probe") : text.index("## Machines")]
    assert "on Some GPU, 2026-01-02, tf32, float64, synthetic data.\n" in part
    assert ".png" not in part
    assert report.NOT_YET not in part
    lines = part.splitlines()
    # Calls of two and three steps replace the single ones: 41 + 20 + 8 + 123 + 1.5 + 4.5, 3 + 2 + 2 + 6 + 2 + 2.
    place = next(place for place, line in enumerate(lines) if line.startswith("| epoch | as training runs it |"))
    assert lines[place + 2 : place + 6] == [
        "| adam, tf32 | 250 | 198 | 17.0 | 450,000 |",
        "| sgd, tf32 | 99.0 | 6.0 | 4.0 | 450,000 |",
        "| sgd, float64 | 1,234 | 4.5 | 2.0 | 60,000 |",
        "",
    ]
    place = next(place for place, line in enumerate(lines) if line.startswith("| call | epoch |"))
    assert lines[place + 2 : place + 7] == [
        "| all: relu_gradient (9, 5); product (5, 9) · (9, 5); sum over the rows of (9, 5) "
        "| adam, tf32 | 123 | 6.0 | 62% |",
        "| both: product (9, 7) · (7, 5); biased_relu (9, 5) | adam, tf32 | 41.0 | 3.0 | 21% |",
        "| product (9, 5) · (5, 5) | adam, tf32 | 20.0 | 2.0 | 10% |",
        "| biased_relu (9, 5) | adam, tf32 | 8.0 | 2.0 | 4% |",
        "| optimizer step | adam, tf32 | 4.5 | 2.0 | 2% |",
    ]
    assert lines[place + 7].startswith("| optimizer step | sgd, tf32 |")  # no sixth
    place = lines.index("| sum over rows | tf32 | float64 |")
    assert lines[place + 2 : place + 4] == [
        "| 10 columns: product | 5.5 | 12.0 |",
        "| 10 columns: in two steps | 150 | – |",
    ]
    assert "Copy: 2,500 GB/s. The rows go to the device in 0.250 s as float32 and 62.5 ms as uint8." in part


def test_probe_with_no_file_is_not_yet_measured(folder: Path) -> None:
    text = report.text(folder)
    assert "| probe | result |\n| --- | ---: |\n| cuda | not yet measured |\n" in text[text.index("## Probe") :]


def test_each_step_of_an_epoch_is_in_one_call() -> None:
    names = [one["call"] for one in probe.calls_of_epoch(CALLS)]
    steps = [step for name in names for step in name.rpartition(": ")[2].split("; ")]
    assert steps == [one["call"] for one in CALLS if ": " not in one["call"]]
    assert len(names) == 6


def without_background() -> dict[str, dict[str, Any]]:
    """Return records of rows without their background: epochs of half their floor, of 68% of the columns."""
    found = samples()
    found["throughput-cpu"]["results"]["experiments"]["sgd"] |= {
        "column_share": 0.68, "epoch_seconds": summary(0.08), "fraction_of_gemm": 2.0, "training": None,
    }  # fmt: skip
    result = found["peers-cpu"]["results"]["sgd"]
    sides = result["engines"]
    sides["fmnist_xp"] |= {**summary(0.08), "column_share": 0.68}
    sides["fmnist_xp, dense rows"] = {**summary(0.2), "note": "", "losses": [2.3], "column_share": 1.0}
    result["ratios"] = peers.ratios(sides, 0.16)
    points = [
        {
            "sweep": "disk", "experiment": "adam", "rows": rows, "epoch_seconds": summary(2e-6 * rows),
            "seconds_per_row": 2e-6, "first_epoch_seconds": 5e-6 * rows, "column_share": 0.755,
            "peak_memory_bytes": 90_000_000,
        }
        for rows in (60_000, 6_000_000)
    ]  # fmt: skip
    found["scaling-cpu"]["results"]["disk"] = {"adam": {"points": points}}
    return found


def test_share_of_the_columns_and_dense_rows_are_told(folder: Path) -> None:
    for stem, sample in without_background().items():
        (folder / f"{stem}.json").write_text(json.dumps(sample))
    text = report.text(folder)
    for piece in (
        "| GFLOP/s | columns | of the GEMM rate |",
        "| 150 | 68% | 2.00 |",
        "| 2.00 | 400 | – |",  # floor / epoch, MB
        # 0.3 s beside 0.08 s and 0.2 s
        "The fastest of the frameworks, PyTorch, eager, takes 3.75× our time, and 1.50× that with dense rows.\n",
        "The peers multiply every column of every row: none of them knows that the order of rows is free.",
        # 60,000 · 784 bytes
        "| 60,000 | adam | 0.120 s | 0.108 – 0.144 | 0.006 | 2.00 | 76% | 0.300 s | 47 | 90 |",
        "| 6,000,000 | adam | 12.000 s | 10.800 – 14.400 | 0.600 | 2.00 | 76% | 30.000 s | 4,704 | 90 |",
    ):
        assert piece in text
    assert "adam ∝" not in text  # of two sizes


def test_records_that_do_not_know_of_columns_do_not_mention_them(folder: Path) -> None:
    text = report.text(folder)
    assert "| 150 | – | 0.80 |" in text
    assert "The peers multiply every column" not in text
    assert "rows on disk |" not in text


def test_dense_rows_with_metrics_in_every_epoch_stand_beside_several_epochs_a_call(folder: Path) -> None:
    sample = without_background()["peers-cpu"]
    sides = sample["results"]["sgd"]["engines"]
    sides["JAX, jit of 10 epochs"] = {**summary(0.382), "note": "", "losses": [2.3, 1.9], "epochs_a_call": 10}
    sample["results"]["sgd"]["ratios"] = peers.ratios(sides, 0.16)
    (folder / "peers-cpu.json").write_text(json.dumps(sample))
    assert (  # 0.382 s beside 0.191 s and 0.2 s
        "JAX, jit of 10 epochs, takes 2.00× our time, and 1.91× that with dense rows and metrics in every epoch.\n"
    ) in report.text(folder)


@pytest.mark.parametrize(("benchmark", "draw"), [("throughput", throughput.draw), ("peers", peers.draw)])
def test_labels_stand_beyond_the_floor(benchmark: str, draw: Any) -> None:
    """Of epochs of 0.08 s, 0.096 s at most, whose floor is 0.16 s or 0.152 s."""
    found = without_background()[f"{benchmark}-cpu"]
    floor = {"throughput": 0.16, "peers": 30_443_520_000 / 2e11}[benchmark]
    axes = draw(found).axes[0]
    assert axes.get_xlim()[1] > floor
    label = next(text for text in axes.texts if text.get_text().startswith("80 ms"))
    assert label.get_position()[0] > floor


def test_a_much_longer_bar_is_broken_off_and_says_its_length() -> None:
    """The notebook's epoch of 1.6 s beside 0.3 s at most."""
    figure = peers.draw(samples()["peers-cpu"])
    axes = figure.axes[0]
    notebook = list(samples()["peers-cpu"]["results"]["sgd"]["engines"]).index("notebook")
    lengths = [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]
    assert lengths[:notebook] == [0.2, 0.19, 0.1, 0.3]
    assert max(lengths[:notebook]) < lengths[notebook] < 0.4
    assert axes.get_xlim()[1] < 1
    assert axes.texts[notebook].get_text().startswith("1.6 s")
    assert "broken off" in " ".join(text.get_text() for text in figure.legends[0].get_texts())


def test_bars_that_can_be_compared_are_whole_and_whiskers_are_explained() -> None:
    record = samples()["peers-cpu"]
    del record["results"]["sgd"]["engines"]["notebook"]
    figure = peers.draw(record)
    words = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    assert "broken" not in words
    assert "quartiles" in words


@pytest.mark.parametrize(
    ("ends", "longest"),
    [([3.0, 1.0, 2.0], 3.0), ([5.0, 1.0, 2.0], 2.0), ([9.0, 4.0, 1.0, 1.5], 1.5), ([8.0, 1.0], 1.0), ([7.0], 7.0)],
)
def test_bars_are_measured_by_the_longest_within_twice_the_next(ends: list[float], longest: float) -> None:
    assert pictures._longest(ends) == longest


def test_pictures_are_redrawn_from_the_files(folder: Path) -> None:
    found = samples()
    found["throughput-cpu"]["results"]["experiments"]["sgd"]["training"] = None
    for point in found["scaling-cpu"]["results"]["rows"]["sgd"]["points"]:
        point["fraction_of_gemm"] = 0.5
    for stem, sample in found.items():
        (folder / f"{stem}.json").write_text(json.dumps(sample))
    result = CliRunner().invoke(app, ["redraw", "--out", str(folder)])
    assert result.exit_code == 0, result.output
    drawn = {path.with_suffix(".png") for path in folder.glob("*.json")}
    assert {Path(line) for line in result.output.split()} == drawn == set(folder.glob("*.png"))
    assert len(drawn) == 5


def test_picture_of_the_scaling_has_rows_on_disk_below() -> None:
    def labels(record: dict[str, Any]) -> list[str]:
        return [axes.get_ylabel() for axes in scaling.draw(record).axes if axes.axison]

    above = ["seconds per epoch", "of the GEMM rate", "MB added by fit"]
    # Of the sweeps of the sample, two are empty.
    below = ["µs per row", "seconds to the end of the first epoch", "MB of the process at most"]
    samples_before = samples()["scaling-cpu"]
    for found in (samples_before, without_background()["scaling-cpu"]):
        for point in found["results"]["rows"]["sgd"]["points"]:
            point["fraction_of_gemm"] = 0.5
        assert labels(found) == (above + below if "disk" in found["results"] else above)


def test_ranks_have_what_was_measured_the_bars_and_the_cost_of_the_sum(folder: Path) -> None:
    """By the model two ranks, of which one has 40 of 79 blocks, need 0.198 · 40 / 79 + 0.002 s and 0.12 ms more."""
    text = report.text(folder)
    for piece in (
        "Ranks of 1 thread each on one machine, Some MPI 1.2.3, mpi4py 4.5.",
        "| 60,000 | sgd | 1 | 0.200 s | 0.180 – 0.240 | 0.010 | 1.00 | 100% | 0.200 s | – | – | 69% |",
        "| 60,000 | sgd | 2 | 0.110 s | 0.099 – 0.132 | 0.006 | 1.82 | 91% | 0.102 s | 5.500 ms | 5.0% | 69% |",
        "two ranks, in that of one: 1.82× with sgd at 60,000 rows (at least 1.7×: kept), 1.82× with sgd at 600,000 "
        "rows (at least 1.85×: missed).\n",
        "| 2 | 60,000 | sgd | 220 | 198 – 264 | 0.200% | 110 | 99 – 132 | 0.100% | 2.00 |",
        "| 2 | 600,000 | sgd | 220 | 198 – 264 | 0.020% | 110 | 99 – 132 | 0.010% | 2.00 |",
        "The tree takes 0.20% of an epoch at most, of 5% that it may: kept. What every rank does in full takes "
        "2,000 µs with sgd.",
    ):
        assert piece in text


def test_model_of_ranks_goes_up_to_1024_on_each_link(folder: Path) -> None:
    lines = report.text(folder).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("| ranks, sgd |"))
    head, rows = lines[start], [line.strip("| ").split(" | ") for line in lines[start + 2 : start + 13]]
    assert [head.count(link) for link in rank_report.LINKS] == [3, 3, 3]
    assert [row[0] for row in rows] == [f"{2**power:,}" for power in range(11)]
    assert rows[0][1:4] == ["0.2 s, 100%", "2 s, 100%", "–"]
    # 0.2 / (2 · 0.10237), and 2 / (2 · 1.00112): 391 of 782 blocks are one's.
    assert rows[1][1:3] == ["0.102 s, 98%", "1 s, 100%"]
    # Of 79 blocks a rank has one or none: 0.198 / 79 + 0.002 s, and messages of 1.05 ms.
    assert rows[10][1] == "5.56 ms, 4%"


@pytest.mark.parametrize(("seconds", "verdict"), [(0.0054, "kept"), (0.0056, "missed, so that Allreduce should")])
def test_sum_over_ranks_may_take_a_twentieth_of_an_epoch(folder: Path, seconds: float, verdict: str) -> None:
    sample = ranks_sample()
    sample["results"]["sums"][0]["tree"] = summary(seconds)
    (folder / "ranks-cpu.json").write_text(json.dumps(sample))
    assert f"of an epoch at most, of 5% that it may: {verdict}" in report.text(folder)


def test_other_rows_of_ranks_have_no_bars(folder: Path) -> None:
    path = folder / "ranks-cpu.json"
    path.write_text(
        path.read_text().replace('"rows": 60000,', '"rows": 600,').replace('"rows": 600000,', '"rows": 900,')
    )
    text = report.text(folder)
    assert "| 900 | sgd | 2 |" in text
    assert "The speed of two ranks" not in text


def test_picture_of_ranks_has_the_model_beside_what_was_measured() -> None:
    figure = rank_report.draw(ranks_sample())
    time, efficiency, fewest = figure.axes
    for axes, measured in ((time, [0.2, 0.11, 2.0, 1.1]), (efficiency, [1.0, 0.909, 1.0, 0.909])):
        (points,) = (line for line in axes.lines if line.get_marker() == "o")
        assert list(points.get_xdata()) == [1, 2, 1, 2]
        assert list(points.get_ydata()) == pytest.approx(measured)
        models = [line for line in axes.lines if len(line.get_xdata()) == len(rank_report.MODEL_RANKS)]
        assert len(models) == 6  # three links, at two numbers of rows
    assert [len(line.get_xdata()) for line in fewest.lines] == [10, 10, 10]
    assert [axes.get_yscale() for axes in (time, efficiency, fewest)] == ["log", "linear", "log"]
