"""Train on several ranks in every precision of a device, to the bits of one process; exits with 1 where one fails.

`python scripts/gpu_ranks.py [DEVICE] [ROWS] [RANKS]`, by default cuda, 60,000, and as many ranks as there are GPUs,
but at least 2, which then share one. A part of scripts/gpu-check. Needs mpi4py and mpiexec.
"""

import json
import os
import subprocess
import sys
from hashlib import sha256
from statistics import median
from typing import Any

from gpu_fit import EPOCHS, make_rows

from bench.ranks import find_mpiexec
from fmnist_xp.backend import get_backend
from fmnist_xp.devices import survey
from fmnist_xp.experiments import NOTEBOOK_EXPERIMENTS
from fmnist_xp.ranks import Ranks

RANK = "--rank"
BLOCKS = 8
"""As many as several GPUs take."""
# Open MPI refuses root, and more ranks than cores, unless it is told.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


def train(device: str, count: int, comm: Any = None) -> dict[str, dict[str, Any]]:
    """Return by precision what training on so many rows of all ranks comes to."""
    backend = get_backend(device, comm=comm)
    found: dict[str, dict[str, Any]] = {}
    with Ranks(comm) as ranks:
        channel = str(ranks.channel(backend)) if ranks.size > 1 else ""
        rows, labels = make_rows(count)
        own = ranks.share(count)
        for precision in backend.precisions:
            network = NOTEBOOK_EXPERIMENTS["adam"].make_network(backend, seed=0, dtype=precision)
            options = {"epochs": EPOCHS, "verbose": False, "block_rows": -(-count // BLOCKS), "comm": comm}
            optimizer = NOTEBOOK_EXPERIMENTS["adam"].make_optimizer()
            history = network.fit(rows[own], labels[own], optimizer=optimizer, **options)
            weights = sha256(backend.to_host(network.parameters).tobytes()).hexdigest()
            found[precision] = {
                "weights": ranks.gather(weights),
                "loss": history.loss,
                "seconds": median(history.epoch_seconds),
                "channel": channel,
            }
    return found


def compare(alone: dict[str, dict[str, Any]], together: dict[str, dict[str, Any]]) -> int:
    """Print a line for each precision and return the exit status."""
    failed = 0
    for precision, one in alone.items():
        many = together[precision]
        same = {*many["weights"]} == {*one["weights"]} and many["loss"] == one["loss"]
        took = " and ".join(f"{1e3 * side['seconds']:.3f}" for side in (one, many))
        bits = "the same bits" if same else "OTHER BITS"
        of_ranks = f"{len(many['weights'])} ranks by {many['channel']}"
        print(f"{precision}: {of_ranks}: {bits}, {took} ms an epoch", flush=True)
        failed |= not same
    return int(failed)


def main(device: str = "cuda", rows: str = "60000", ranks: str = "") -> int:
    """Train on ranks, then alone, and compare."""
    count = ranks or str(max(2, len(survey().gpus)))
    command = [find_mpiexec(), "-n", count, sys.executable, "-m", "mpi4py", __file__, RANK, device, rows]
    done = subprocess.run(command, env=os.environ | OPEN_MPI, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{count} ranks end with exit status {done.returncode}", flush=True)
        return 1
    return compare(train(device, int(rows)), json.loads(done.stdout))


if __name__ == "__main__":
    if sys.argv[1:2] == [RANK]:
        from mpi4py import MPI

        of_ranks = train(sys.argv[2], int(sys.argv[3]), MPI.COMM_WORLD)
        if MPI.COMM_WORLD.rank == 0:
            print(json.dumps(of_ranks))
    else:
        sys.exit(main(*sys.argv[1:]))
