"""Measurements in processes of their own: `python -m MODULE JSON`, which prints JSON."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAUSE = 4.0
"""Seconds to let pass after the end of a process. The kernel is at work on the memory that came back, and where
the machine is a virtual one it hands that to its host after two seconds: epochs of 0.1 s then took up to 0.5 s."""


def in_fresh_process(module: str, arguments: Mapping[str, Any]) -> Any:
    """Return what `python -m module` printed, given `arguments`; a `RuntimeError` says how it ended otherwise."""
    root = Path(__file__).parents[1]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode:
        raise RuntimeError(f"python -m {module} {_ending(done)}; it was given {json.dumps(arguments)}")
    return json.loads(done.stdout)


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    """Return how a process ended, with the last line it wrote as an error."""
    code = done.returncode
    how = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"failed with exit code {code}"
    words = done.stderr.strip().splitlines()
    return f"{how}: {words[-1]}" if words else how
