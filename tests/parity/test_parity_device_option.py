"""How pytest itself is asked for a GPU: what needs one is skipped with the reason, and never passes without."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("-k", "cuda"), "no CUDA device asked for: pytest --device cuda"),
        (("-m", "cuda"), "a CUDA device was asked for"),
        (("-k", "cuda", "--device", "cuda"), "a CUDA device was asked for"),
        (("-k", "cuda", "--device", "cuda:1"), "a CUDA device was asked for"),
    ],
    ids=" ".join,
)
def test_without_a_gpu_its_tests_are_skipped_with_the_reason(arguments: tuple[str, ...], reason: str) -> None:
    """Also on a machine that has a GPU, which is hidden here."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *arguments]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "parity" / "test_parity_step.py")],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"^48 skipped, \d+ deselected", done.stdout, re.MULTILINE), done.stdout
    assert re.search(rf"^SKIPPED \[24\] .*{reason}", done.stdout, re.MULTILINE)
