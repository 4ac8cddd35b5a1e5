"""The environment variables by which somebody has chosen OpenBLAS's kernels and the blocks that these work on.

What is measured with them is not what a user gets, whose OpenBLAS looks at the processor.
"""

import os
import sys

VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
unset: dict[str, str] = {}
"""Those that `leave_to_blas` has unset, with their values."""


def leave_to_blas() -> None:
    """Unset the variables for this process and those that it starts, and say so; to be called before NumPy is loaded.

    Writes a line to stderr where one of them is set.
    """
    unset.update({name: os.environ.pop(name) for name in VARIABLES if name in os.environ})
    if unset:
        found = " and ".join(f"{name}={value}" for name, value in unset.items())
        print(f"{found} unset for the measurements: OpenBLAS chooses its kernels itself", file=sys.stderr)
