"""What the tests of the scripts share."""

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
BASH = shutil.which("bash")


def program(path: Path, text: str) -> None:
    """Write a shell program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
