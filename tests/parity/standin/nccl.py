"""What stands for `cupy.cuda.nccl`: vectors go through the communicator of mpi4py that all its ranks share."""

import os
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from parity.standin.cuda import StatusError, values_at

if TYPE_CHECKING:
    from parity.standin.module import StandInCupy

# The numbers of NCCL's header.
NCCL_FLOAT32, NCCL_FLOAT64 = 7, 8
DTYPES = {NCCL_FLOAT32: "float32", NCCL_FLOAT64: "float64"}
ID_BYTES = 128


class NcclError(StatusError):
    """Stands for `cupy.cuda.nccl.NcclError`."""


def make_nccl(cupy: "StandInCupy", wire: Any, version: int = 22809) -> SimpleNamespace:
    """Return what stands for `cupy.cuda.nccl`; `wire` is the communicator of mpi4py, of which nobody else knows.

    `communicators` are those made.
    """
    communicators: list[NcclCommunicator] = []

    def make(ndev: int, commId: bytes, rank: int) -> NcclCommunicator:
        communicators.append(NcclCommunicator(ndev, commId, rank, cupy=cupy, wire=wire))
        return communicators[-1]

    return SimpleNamespace(
        available=True,
        NCCL_FLOAT32=NCCL_FLOAT32,
        NCCL_FLOAT64=NCCL_FLOAT64,
        NcclCommunicator=make,
        NcclError=NcclError,
        get_unique_id=lambda: os.urandom(ID_BYTES),
        get_version=lambda: version,
        communicators=communicators,
    )


class NcclCommunicator:
    """A communicator of the device that is current. All ranks make one at once, with the identifier of the first."""

    def __init__(self, ndev: int, commId: bytes, rank: int, *, cupy: "StandInCupy", wire: Any) -> None:
        self._cupy, self._wire, self._rank, self._device = cupy, wire, rank, cupy.current.device
        self._captured: weakref.WeakSet[Callable[[], None]] = weakref.WeakSet()
        self.destroyed = False
        told = wire.allgather((ndev, commId, cupy.cuda.runtime.deviceGetPCIBusId(self._device)))
        if (ndev, rank) != (wire.size, wire.rank) or len({(size, identifier) for size, identifier, _ in told}) > 1:
            raise NcclError("NCCL_ERROR_INVALID_ARGUMENT: the ranks do not make one communicator")
        if len({place for *_, place in told}) < len(told):
            raise NcclError("NCCL_ERROR_INVALID_USAGE: Duplicate GPU detected")

    def send(self, sendbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        """Send numbers at an address to `peer`."""
        self._check_peer(peer)
        values = self._values(sendbuf, count, datatype)
        self._submit("send", stream, lambda: self._wire.Send(values(), peer))

    def recv(self, recvbuf: int, count: int, datatype: int, peer: int, stream: int) -> None:
        """Write what `peer` sends to an address."""
        self._check_peer(peer)
        values = self._values(recvbuf, count, datatype)
        self._submit("recv", stream, lambda: self._wire.Recv(values(), peer))

    def broadcast(self, sendbuff: int, recvbuff: int, count: int, datatype: int, root: int, stream: int) -> None:
        """Write what the root has at `sendbuff` to the `recvbuff` of every rank."""
        given, written = (self._values(address, count, datatype) for address in (sendbuff, recvbuff))

        def work() -> None:
            values = written()
            if self._rank == root and sendbuff != recvbuff:
                values[...] = given()
            self._wire.Bcast(values, root)

        self._submit("broadcast", stream, work)

    def destroy(self) -> None:
        """End it; where NCCL would wait for a captured graph, for ever, this raises."""
        if self._captured:
            raise NcclError("ncclCommDestroy waits for graphs that were captured with it, and that still live")
        self.destroyed = True

    def _check_peer(self, peer: int) -> None:
        if not 0 <= peer < self._wire.size or peer == self._rank:
            raise NcclError(f"NCCL_ERROR_INVALID_ARGUMENT: rank {self._rank} and peer {peer} of {self._wire.size}")

    def _values(self, address: int, count: int, datatype: int) -> Callable[[], np.ndarray]:
        """Return what returns numbers in the device's memory, which is checked now and then."""
        dtype = np.dtype(DTYPES[datatype])

        def values() -> np.ndarray:
            size = count * dtype.itemsize
            if self._cupy.device_of_memory(address, size) != self._device:
                raise NcclError(f"{size} bytes at {address:#x} do not lie in live memory of cuda:{self._device}")
            return values_at(address, dtype, count)

        values()
        return values

    def _submit(self, name: str, stream: int, work: Callable[[], Any]) -> None:
        cupy = self._cupy
        if self.destroyed:
            raise NcclError("NCCL_ERROR_INVALID_ARGUMENT: the communicator is destroyed")
        if self._device != cupy.current.device:
            raise NcclError(f"cuda:{cupy.current.device} is current, the communicator of cuda:{self._device}")
        if stream != cupy.stream.ptr:
            raise NcclError("the message goes in another stream than what comes before and after it")

        def done() -> None:
            work()
            cupy.messages.append(name)

        if cupy.stream.captured is not None:
            self._captured.add(done)
        cupy.submit(done)
