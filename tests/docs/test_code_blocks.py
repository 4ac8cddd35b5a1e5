"""Every block of code in README and docs: its Python runs, bash reads its scripts, and none is without a test."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from block_helpers import NOT_RUN, Block, blocks
from script_helpers import BASH, ROOT

PAGES = [
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), ROOT / "bench" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
]
# What a block may be, and what becomes of it.
LANGUAGES = {
    "python": "runs here",
    "bash": "is read by bash here, its commands by test_documented_commands.py",
    "": "commands, for test_documented_commands.py",
    "console": "commands and what they print, for test_documented_commands.py",
    "toml": "experiments, for test_documented_commands.py",
    "text": "no code, or what the Python before it prints, which test_tutorial.py compares",
}
REASONS = {"needs several machines"}
ELSEWHERE = {"docs/tutorial.md", "docs/porting.md"}  # test_tutorial.py runs these, and compares what they print
NEEDS = {
    "docs/export.md": ("onnx", "onnxruntime", "torch"),
    "docs/ranks.md": ("mpi4py",),
    "docs/scikit-learn.md": ("sklearn",),
}
# What a page has from its commands, or from its reader.
BEFORE = {
    "docs/export.md": """
import json
import fmnist_xp as fx
network = fx.Sequential([fx.Dense(784, 64), fx.ReLU(), fx.Dense(64, 64), fx.ReLU(), fx.Dense(64, 10)], seed=0)
for suffix in ("onnx", "safetensors", "npz", "pt"):
    fx.export.save(network, f"model.{suffix}", facts={"classes": json.dumps(fx.CLASS_NAMES)})
""",
    "docs/parity.md": "from fmnist_xp.backend import CpuBackend as MyBackend",
}


def blocks_of(name: str) -> list[Block]:
    return blocks((ROOT / name).read_text(encoding="utf-8"))


def python_of(name: str) -> list[Block]:
    return [block for block in blocks_of(name) if block.runs]


@pytest.fixture(scope="module")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The IDX files of so few images that a page's trainings are short."""
    from fmnist_xp.data import export, make_synthetic

    folder = tmp_path_factory.mktemp("few") / "idx"
    export(*make_synthetic(120, 60), folder, "idx")
    return folder


@pytest.mark.parametrize("name", [name for name in PAGES if name not in ELSEWHERE and python_of(name)])
def test_python_of_a_page_runs(name: str, tmp_path: Path, few_images: Path) -> None:
    """As a reader runs it: all of a page as one program, in an empty folder."""
    for package in NEEDS.get(name, ()):
        if find_spec(package) is None:
            pytest.skip(f"{package}, which {name} needs, is not installed")
    lines = [f"exec({BEFORE.get(name, '')!r})"]
    for block in python_of(name):
        lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()  # the page's lines in a traceback
    program = tmp_path / f"{Path(name).stem}.py"
    program.write_text("\n".join(lines) + "\n", encoding="utf-8")
    own = {
        "FMNIST_XP_DATA": str(few_images),
        "FMNIST_XP_CACHE": str(tmp_path / "cache"),
        "JOBLIB_MULTIPROCESSING": "0",  # a search's processes take longer to begin than to compute
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    ran = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", program.name],
        cwd=tmp_path,
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_of_a_known_kind_and_right_in_itself(name: str) -> None:
    for block in blocks_of(name):
        place = f"{name}, line {block.line}"
        assert block.language in LANGUAGES, f"{place}: nobody knows what becomes of a block of {block.language}"
        if left_out := NOT_RUN.match(block.above):
            assert left_out[1] in REASONS, f"{place}: {left_out[1]!r} is no reason that is known here"
        if block.language == "python":
            tree = ast.parse(block.code, place)
            if left_out:
                for module, attribute in imported(tree):
                    pytest.importorskip(module, reason=f"{module}, which {place} imports, is not installed")
                    assert hasattr(importlib.import_module(module), attribute), f"{place}: {module}.{attribute}"
        if block.language == "bash" and BASH:
            read = subprocess.run([BASH, "-n"], input=block.code, capture_output=True, text=True, check=False)
            assert (read.returncode, read.stderr) == (0, ""), place


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield what is imported from modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, name.name) for name in node.names)


def test_no_reason_is_kept_that_no_block_has() -> None:
    found: set[Any] = {
        match[1] for name in PAGES for block in blocks_of(name) if (match := NOT_RUN.match(block.above))
    }
    assert found == REASONS
    assert {*BEFORE, *NEEDS, *ELSEWHERE} <= {*PAGES}
