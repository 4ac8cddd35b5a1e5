"""What is taken over from the archive of a GPU round, and what is refused."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_collect
import pytest
from run_helpers import read_json
from script_helpers import BASH, ROOT

from bench import report
from fmnist_xp.report.parity import parity_markdown

PICTURE = (ROOT / "docs" / "parity" / "cpu" / "curves-float32.png").read_bytes()


def benchmark(name: str, precision: str, **changes: Any) -> bytes:
    """Return a committed result as if it were of a GPU."""
    record = read_json(ROOT / "bench" / "results" / f"{name}-cpu.json")
    return json.dumps(record | {"device": "cuda", "precision": precision, "date": "2026-05-04"} | changes).encode()


def parity(precision: str, **changes: Any) -> bytes:
    """Return the committed record as if it were of a GPU."""
    record = read_json(ROOT / "docs" / "parity" / "cpu" / "parity.json")
    pair = record["pairs"][0] | {"device": f"cuda:0 {precision}", "precision": precision}
    return json.dumps(record | {"pairs": [pair], "threads": []} | changes).encode()


def round_record(quick: bool = False, **statuses: str) -> bytes:
    parts = [{"name": name, "status": status} for name, status in statuses.items()]
    return json.dumps({"quick": quick, "parts": parts}).encode()


def probe() -> bytes:
    """Return a probe of the smallest size."""
    calls = [{"call": "mean", "device_us": 3.0, "host_us": 2.0}]
    found = {
        "gemm_flops_per_second": 5e13,
        "epochs": {"adam": {"epoch_us": 321.0, "calls": calls}},
        "sums_over_rows": {"10 columns: one way": calls[0]},
    }
    results = {"copy_bytes_per_second": 2e12, "upload_seconds": {"uint8": 0.2}, "precisions": {"tf32": found}}
    return benchmark("throughput", "", benchmark="probe", settings={"rows": 60_000}, results=results)


RESULTS = {
    "round.json": round_record(devices="ok", scaling="cut", report="skipped"),
    "summary.txt": b"all of it",
    "logs/devices.log": b"a GPU",
    "bench/results/throughput-cuda-tf32.json": benchmark("throughput", "tf32"),
    "bench/results/throughput-cuda-tf32.png": PICTURE,
    "bench/results/throughput-cuda-tf32-eager.json": benchmark("throughput", "tf32"),
    "bench/results/throughput-cuda-bfloat16-fused.json": benchmark("throughput", "bfloat16", engine="fused"),
    "bench/results/probe-cuda.json": probe(),
    "bench/README.md": b"not this one",
    "parity/tf32/parity.json": parity("tf32"),
    "parity/tf32/parity.md": b"not this one",
    "parity/tf32/curves-tf32.png": PICTURE,
    "parity/float32/parity.json": parity("float32"),
    "parity/float32/curves-float32.png": PICTURE,
    "parity/tf32-eager/parity.json": parity("tf32"),
    "parity/tf32-eager/curves-tf32.png": PICTURE,
    "parity/bfloat16-fused/parity.json": parity("bfloat16"),
    "parity/bfloat16-fused/curves-bfloat16.png": PICTURE,
    "runs/adam-tf32/result.json": b"{}",
}
TAKEN = {
    "bench/results/throughput-cuda-tf32.json": "bench/results/throughput-cuda-tf32.json",
    "bench/results/throughput-cuda-tf32.png": "bench/results/throughput-cuda-tf32.png",
    "bench/results/throughput-cuda-tf32-eager.json": "bench/results/throughput-cuda-tf32-eager.json",
    "bench/results/throughput-cuda-bfloat16-fused.json": "bench/results/throughput-cuda-bfloat16-fused.json",
    "bench/results/probe-cuda.json": "bench/results/probe-cuda.json",
    "docs/parity/cuda-tf32/parity.json": "parity/tf32/parity.json",
    "docs/parity/cuda-tf32/curves-tf32.png": "parity/tf32/curves-tf32.png",
    "docs/parity/cuda-float32/parity.json": "parity/float32/parity.json",
    "docs/parity/cuda-float32/curves-float32.png": "parity/float32/curves-float32.png",
    "docs/parity/cuda-tf32-eager/parity.json": "parity/tf32-eager/parity.json",
    "docs/parity/cuda-tf32-eager/curves-tf32.png": "parity/tf32-eager/curves-tf32.png",
    "docs/parity/cuda-bfloat16-fused/parity.json": "parity/bfloat16-fused/parity.json",
    "docs/parity/cuda-bfloat16-fused/curves-bfloat16.png": "parity/bfloat16-fused/curves-bfloat16.png",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what is written to."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "docs" / "parity" / "cpu", folder / "docs" / "parity" / "cpu")
    shutil.copy(ROOT / "docs" / "parity.md", folder / "docs")
    shutil.copytree(ROOT / "bench" / "results", folder / "bench" / "results")
    shutil.copy(ROOT / "bench" / "README.md", folder / "bench")
    for path in [*folder.rglob("*cuda*")]:  # results of earlier rounds
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


Collect = Callable[..., list[str]]


@pytest.fixture
def collect(tmp_path: Path, project: Path) -> Collect:
    """Return a function that takes over an archive of the files given, and returns what it says."""

    def run(files: dict[str, bytes]) -> list[str]:
        archive = tmp_path / "gpu-check.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(f"gpu-check/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return list(gpu_collect.collect(archive, project))

    return run


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_go_to_their_places_and_all_else_stays(collect: Collect, project: Path) -> None:
    before = files_below(project)
    lines = collect(RESULTS)
    after = files_below(project)
    assert after.keys() == before.keys() | TAKEN.keys()
    assert {name: after[name] for name in TAKEN} == {name: RESULTS[there] for name, there in TAKEN.items()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"bench/README.md", "docs/parity.md"}
    assert sorted(lines[:-1]) == sorted(f"wrote {name}" for name in TAKEN.keys() | changed)
    assert lines[-1] == "not all came to a good end: scaling (cut), report (skipped)"


def test_pages_show_what_was_taken_over(collect: Collect, project: Path) -> None:
    page_before = (project / "docs" / "parity.md").read_text(encoding="utf-8")
    collect(RESULTS)
    results = project / "bench" / "results"
    assert (project / "bench" / "README.md").read_text(encoding="utf-8") == report.text(results)
    for piece in (
        *("throughput-cuda-tf32.png", "throughput-cuda-tf32-eager.png", "| adam, tf32 | 321 | 3.0 | 2.0 | "),
        "#### CUDA, bfloat16, fused engine\n",
    ):
        assert piece in report.text(results)

    page = (project / "docs" / "parity.md").read_text(encoding="utf-8")
    places = []
    for folder, precision, on, begin in (
        ("cuda-float32", "float32", "the GPU", ""),
        ("cuda-tf32", "tf32", "the GPU", ""),
        ("cuda-tf32-eager", "tf32", "the GPU without CUDA graphs", "With --no-graphs: "),
        ("cuda-bfloat16-fused", "bfloat16", "the GPU's fused engine", "With --engine fused: "),
    ):
        record = read_json(project / "docs" / "parity" / folder / "parity.json")
        assert f"\n{begin}{parity_markdown(record).strip()}\n" in page
        picture = f"](parity/{folder}/curves-{precision}.png)\n"
        places.append(page.index(f"{precision} on the CPU and on {on}, and their differences{picture}"))
    start, end = page.index("\n## Last measured: GPU\n"), page.index("\n## Last measured: CPU\n")
    assert [start, *places, end] == sorted([start, *places, end])
    assert page[:start] == page_before[: page_before.index("\n## Last measured: GPU\n")]
    assert page[end:] == page_before[page_before.index("\n## Last measured: CPU\n") :]


def test_repeating_changes_nothing_and_a_later_round_reports_what_it_replaced(
    collect: Collect, project: Path
) -> None:
    collect(RESULTS)
    before = files_below(project)
    lines = collect(RESULTS)
    assert files_below(project) == before
    assert [line.split()[0] for line in lines].count("unchanged") == len(TAKEN)

    name = "bench/results/throughput-cuda-tf32.json"
    later = {"round.json": round_record(), name: benchmark("throughput", "tf32", date="2026-06-07")}
    later["parity/tf32/parity.json"] = parity("tf32", epochs=10)
    lines = collect(later)
    assert f"replaced the one of 2026-05-04: {name}" in lines
    assert "replaced docs/parity/cuda-tf32/parity.json" in lines
    assert (project / name).read_bytes() == later[name]
    # Of the precisions that the later one lacks, the records stay on the page.
    assert "cuda-float32" in (project / "docs" / "parity.md").read_text(encoding="utf-8")


def test_without_a_parity_record_its_page_stays_as_it_is(collect: Collect, project: Path) -> None:
    before = files_below(project)
    name = "bench/results/throughput-cuda-tf32.json"
    lines = collect({"round.json": round_record(devices="ok"), name: RESULTS[name]})
    assert lines == [f"wrote {name}", "wrote bench/README.md"]
    assert files_below(project)["docs/parity.md"] == before["docs/parity.md"]


SYNTHETIC = {"data": {"name": "synthetic", "rows": 60_000}}
THROUGHPUT = read_json(ROOT / "bench" / "results" / "throughput-cpu.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"round.json": round_record(quick=True)}, "the round was --quick"),
        (
            {"parity/tf32/parity.json": parity("tf32", dataset={"name": "synthetic", "rows": 60_000})},
            "parity/tf32/parity.json is of synthetic images: repeat the round with FMNIST_XP_DATA",
        ),
        (
            {"bench/results/x.json": benchmark("throughput", "tf32", settings=THROUGHPUT["settings"] | SYNTHETIC)},
            "bench/results/x.json is of synthetic images",
        ),
    ],
    ids=["quick", "parity of synthetic images", "throughput of synthetic images"],
)
def test_invalid_results_are_refused_before_anything_is_written(
    collect: Collect, project: Path, changes: dict[str, bytes], message: str
) -> None:
    before = files_below(project)
    with pytest.raises(gpu_collect.CollectError, match=message):
        collect(RESULTS | changes)
    assert files_below(project) == before


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": b"something else"}, "is not the archive of a round of scripts/gpu-check"),
        ({"round.json": round_record(devices="ok")}, "holds no results: none of its parts came to an end"),
        ({"round.json": round_record(), "bench/results/../../x.json": b'{"settings": {}}'}, "holds no results"),
    ],
)
def test_archive_without_results_is_refused(
    collect: Collect, project: Path, files: dict[str, bytes], message: str
) -> None:
    before = files_below(project)
    with pytest.raises(gpu_collect.CollectError, match=message):
        collect(files)
    assert files_below(project) == before


@pytest.fixture
def script(project: Path) -> Path:
    """The script, in the copy of the project."""
    if sys.platform == "win32" or BASH is None:
        pytest.skip("the scripts need bash")
    shutil.copytree(ROOT / "scripts", project / "scripts")
    return project / "scripts" / "gpu-check"


def test_the_script_takes_over_an_archive_of_the_callers_folder(
    collect: Collect, script: Path, project: Path, tmp_path: Path
) -> None:
    with pytest.raises(gpu_collect.CollectError):
        collect({"notes.txt": b""})
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    command = [BASH, str(script), "--collect", "gpu-check.tar.gz"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gpu-check: ")
    assert done.stderr.endswith("is not the archive of a round of scripts/gpu-check\n")

    collect_lines = collect(RESULTS)
    for name in TAKEN:
        (project / name).unlink()
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == collect_lines
    assert TAKEN.keys() <= files_below(project).keys()


@pytest.mark.parametrize("text", [b"", b"not an archive", PICTURE])
def test_file_that_is_no_archive_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "gpu-check.tar.gz").write_bytes(text)
    with pytest.raises(gpu_collect.CollectError, match="cannot be read"):
        gpu_collect.read(tmp_path / "gpu-check.tar.gz")
