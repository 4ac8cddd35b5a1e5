"""Whoever started this process: whether it is one of several, and how all of them end; nothing is imported for it."""

import os
import sys
import time
import traceback

LAUNCHERS = (
    ("PMI_SIZE", "PMI_RANK"),  # MPICH's and Intel's mpiexec, and Slurm's srun --mpi=pmi2
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("SLURM_STEP_NUM_TASKS", "PMIX_RANK"),  # Slurm's srun --mpi=pmix
)
"""Variables that tell a process how many were started with it, and which of them it is."""

PARTING = 0.5
"""Seconds from the last word to the end of all processes: a launcher drops what it has not read by then."""


def launched() -> tuple[int, int]:
    """Return (rank, size) as a launcher such as mpiexec has told this process; (0, 1) where none has."""
    for size, rank in LAUNCHERS:
        if os.environ.get(size, "").isdecimal() and os.environ.get(rank, "").isdecimal():
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def abort(code: int, error: BaseException | None = None) -> None:
    """End all processes started with this one, if MPI knows of any; print the traceback of `error` first."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.size > 1:
        if error is not None:
            traceback.print_exception(error)
            sys.stderr.flush()
        time.sleep(PARTING)
        mpi.COMM_WORLD.Abort(code)
