"""Train a network on synthetic rows in every precision of a device, a smoke test; exits with 1 where one fails.

The fused engine trains it in its own precisions, too, where it takes it.

`python scripts/gpu_fit.py [DEVICE]`, by default cuda. A part of scripts/gpu-check.
"""

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmnist_xp.backend import Backend, get_backend
from fmnist_xp.data.pixels import HALF
from fmnist_xp.errors import DeviceError
from fmnist_xp.experiments import N_INPUTS, NOTEBOOK_EXPERIMENTS
from fmnist_xp.train.fused.batch import unfit
from fmnist_xp.train.fused.source import OPERANDS

ROWS, EPOCHS = 1_000, 30


def make_rows(count: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Return so many rows (count, 784) of ten classes, and their labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 10, count, dtype="uint8")
    centres = generator.standard_normal((10, N_INPUTS))
    return np.tanh(centres[labels] + generator.standard_normal((count, N_INPUTS))).astype("float32"), labels


def fit(backend: Backend, precision: str, engine: str = "plain") -> str:
    """Train in `precision` and return the losses in words; raise `ArithmeticError` where the loss did not halve."""
    rows, labels = make_rows(ROWS)
    network = NOTEBOOK_EXPERIMENTS["adam"].make_network(backend, seed=0, dtype=precision)
    optimizer = NOTEBOOK_EXPERIMENTS["adam"].make_optimizer()
    X: NDArray[Any] = rows if engine == "plain" else np.rint((rows + 1) * HALF).astype("uint8")  # it takes pixels
    started = time.perf_counter()
    history = network.fit(X, labels, epochs=EPOCHS, optimizer=optimizer, verbose=False, engine=engine)
    losses = f"loss {history.loss[0]:.4f}, after {EPOCHS} epochs {history.loss[-1]:.4f}"
    if not history.loss[-1] < history.loss[0] / 2:
        raise ArithmeticError(f"does not learn: {losses}")
    return f"{losses}, {time.perf_counter() - started:.1f} s with the compiling"


def not_taken(backend: Backend, precision: str) -> str:
    """Return why the fused engine does not take the training in `precision`; nothing where it does."""
    experiment = NOTEBOOK_EXPERIMENTS["adam"]
    try:
        network = experiment.make_network(backend, seed=0, dtype=precision)
    except DeviceError as error:
        return str(error)
    return unfit(network, experiment.make_optimizer())


def main(device: str = "cuda") -> int:
    """Print a line for each precision, and each of the fused engine, and return the exit status."""
    backend = get_backend(device)
    failed = 0
    for precision, engine in [
        *((name, "plain") for name in backend.precisions),
        *((name, "fused") for name in OPERANDS),
    ]:
        title = precision if engine == "plain" else f"{precision}, fused engine"
        try:
            why = not_taken(backend, precision) if engine == "fused" else ""
            print(f"{title}: {f'not taken: {why}' if why else fit(backend, precision, engine)}", flush=True)
        except Exception as error:  # the next precision may work
            print(f"{title}: {type(error).__name__}: {error}", flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
