"""How vectors get from the device of one process to that of another: MPI, or NCCL between GPUs.

`comm` is a communicator of mpi4py. Nothing is pickled, and a vector has the same bits where it arrives.
"""

from typing import Any

import numpy as np

from fmnist_xp.backend.base import Array, Backend


class Channel:
    """Vectors through the host's memory: on a CPU from where they lie, on a GPU by way of a copy."""

    captures = False
    """Whether its calls may be part of a captured graph."""

    def __init__(self, backend: Backend, comm: Any) -> None:
        self._backend, self._comm = backend, comm
        self._copies: dict[Any, np.ndarray[Any, Any]] = {}

    def __str__(self) -> str:
        """Return what vectors go through, in words."""
        return "MPI, through the host's memory" if self._backend.own_memory else "MPI"

    def send(self, vector: Array, to: int) -> None:
        """Send `vector` to the process of this rank."""
        self._comm.Send(self._backend.to_host(vector), to)

    def receive(self, vector: Array, source: int) -> None:
        """Write the vector that the process of this rank sends to `vector`."""
        host = self._host(vector)
        self._comm.Recv(host, source)
        self._arrived(host, vector)

    def broadcast(self, vector: Array, root: int) -> None:
        """Write the vector of the process of rank `root` to that of every other; all of them call this."""
        if self._comm.rank == root:
            self._comm.Bcast(self._backend.to_host(vector), root)
            return
        host = self._host(vector)
        self._comm.Bcast(host, root)
        self._arrived(host, vector)

    def close(self) -> None:
        """Release what is not memory."""

    def _host(self, vector: Array) -> np.ndarray[Any, Any]:
        """Return where the host receives `vector`: that itself, or a buffer."""
        if not self._backend.own_memory:
            return np.asarray(vector)
        if (kind := (vector.shape, vector.dtype)) not in self._copies:
            self._copies[kind] = np.empty(*kind)
        return self._copies[kind]

    def _arrived(self, host: np.ndarray[Any, Any], vector: Array) -> None:
        if self._backend.own_memory:
            self._backend.send(host, vector)


class NcclChannel(Channel):
    """Vectors from GPU to GPU in the current stream, without the host.

    `nccl` is `cupy.cuda.nccl`. All processes of `comm` make one at once, each on a device of its own.
    """

    captures = True

    def __init__(self, backend: Backend, comm: Any, nccl: Any) -> None:
        super().__init__(backend, comm)
        self._nccl = nccl
        self._types = {"f": nccl.NCCL_FLOAT32, "d": nccl.NCCL_FLOAT64}
        identifier = comm.bcast(nccl.get_unique_id() if comm.rank == 0 else None)
        with backend.computing():
            self._communicator = nccl.NcclCommunicator(comm.size, identifier, comm.rank)

    def __str__(self) -> str:
        """Return what vectors go through, with the version."""
        version = self._nccl.get_version()  # 22809 is 2.28.9
        return f"NCCL {version // 10000}.{version // 100 % 100}.{version % 100}"

    def send(self, vector: Array, to: int) -> None:
        """See `Channel.send`."""
        self._communicator.send(*self._described(vector), to, self._stream())

    def receive(self, vector: Array, source: int) -> None:
        """See `Channel.receive`."""
        self._communicator.recv(*self._described(vector), source, self._stream())

    def broadcast(self, vector: Array, root: int) -> None:
        """See `Channel.broadcast`."""
        address, count, kind = self._described(vector)
        self._communicator.broadcast(address, address, count, kind, root, self._stream())

    def close(self) -> None:
        """Destroy the communicator."""
        self._communicator.destroy()

    def _described(self, vector: Array) -> tuple[int, int, int]:
        return vector.data.ptr, vector.size, self._types[vector.dtype.char]

    def _stream(self) -> int:
        return int(self._backend.xp.cuda.get_current_stream().ptr)
