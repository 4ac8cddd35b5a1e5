"""Train a network on synthetic rows in every precision of a device, a smoke test; exits with 1 where one fails.

`python scripts/gpu_fit.py [DEVICE]`, by default cuda. A part of scripts/gpu-check.
"""

import sys
import time

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend, get_backend
from fmnist_xp.experiments import N_INPUTS, NOTEBOOK_EXPERIMENTS

ROWS, EPOCHS = 1_000, 30


def make_rows(count: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return so many rows (count, 784) of ten classes, and their labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, count, dtype="uint8")
    centres = generator.standard_normal((10, N_INPUTS))
    return np.tanh(centres[labels] + generator.standard_normal((count, N_INPUTS))).astype("float32"), labels


def fit(backend: Backend, precision: str) -> str:
    """Train in `precision` and return the losses in words; raise `ArithmeticError` where the loss did not halve."""
    rows, labels = make_rows(ROWS)
    network = NOTEBOOK_EXPERIMENTS["adam"].make_network(backend, seed=0, dtype=precision)
    optimizer = NOTEBOOK_EXPERIMENTS["adam"].make_optimizer()
    started = time.perf_counter()
    history = network.fit(rows, labels, epochs=EPOCHS, optimizer=optimizer, verbose=False)
    losses = f"loss {history.loss[0]:.4f}, after {EPOCHS} epochs {history.loss[-1]:.4f}"
    if not history.loss[-1] < history.loss[0] / 2:
        raise ArithmeticError(f"does not learn: {losses}")
    return f"{losses}, {time.perf_counter() - started:.1f} s with the compiling"


def main(device: str = "cuda") -> int:
    """Print a line for each precision and return the exit status."""
    backend = get_backend(device)
    failed = 0
    for precision in backend.precisions:
        try:
            print(f"{precision}: {fit(backend, precision)}", flush=True)
        except Exception as error:  # the next precision may work
            print(f"{precision}: {type(error).__name__}: {error}", flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
