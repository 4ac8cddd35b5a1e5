"""Functions that are called in processes of their own: `python -m bench.processes MODULE FUNCTION ARGUMENTS`.

ARGUMENTS is a JSON object of keyword arguments; what the function returns is printed as JSON, unless it is None. Such
a process imports the standard library and what MODULE imports.
"""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PAUSE = 4.0
"""Seconds to let pass after the end of a process. The kernel is at work on the memory that came back, and where
the machine is a virtual one it hands that to its host after two seconds: epochs of 0.1 s then took up to 0.5 s."""


def in_fresh_process(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    pause: float = 0.0,
    python: Sequence[str] = (sys.executable,),
) -> Any:
    """Return `function(**arguments)`, computed in a new process after whose end `pause` seconds pass.

    The function stands at the top of its module. `python` may start several processes, in all but one of which it
    returns None. A `RuntimeError` says how the process ended where it failed.
    """
    command = ["-m", "bench.processes", function.__module__, function.__name__]
    given = json.dumps(arguments)
    root = Path(__file__).parents[1]
    paths = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*python, *command, given],
        stdin=subprocess.DEVNULL,  # mpiexec would read the terminal's for rank 0
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    if done.returncode:
        raise RuntimeError(f"python {' '.join(command)} {_ending(done)}; it was given {given}")
    time.sleep(pause)
    return json.loads(done.stdout)


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    """Return how a process ended, with the last error it wrote, or else the last line."""
    code = done.returncode
    how = f"was ended by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"failed with exit code {code}"
    lines = done.stderr.strip().splitlines()
    errors = [line for line in lines if re.match(r"[\w.]+Error: ", line)]  # behind it, mpiexec writes that it aborts
    return ": ".join([how, *(errors or lines)[-1:]])


if __name__ == "__main__":
    module, name, given = sys.argv[1:]
    returned = getattr(importlib.import_module(module), name)(**json.loads(given))
    if returned is not None:
        print(json.dumps(returned))
