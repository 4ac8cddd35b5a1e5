"""The stand-in's NCCL, of one of two ranks: what it sends and receives, and what it refuses."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nccl
from parity.standin.nccl import ID_BYTES, NCCL_FLOAT32, NCCL_FLOAT64, NcclError

IDENTIFIER = bytes(range(ID_BYTES))


class Wire:
    """Stands for mpi4py's communicator, where `other` of what is gathered is the other rank's."""

    size, rank = 2, 0

    def __init__(self, other: tuple[Any, ...]) -> None:
        self.other, self.sent, self.comes = other, list[tuple[list[float], int]](), np.array([5.0, 6, 7])

    def allgather(self, value: Any) -> list[Any]:
        return [value, self.other]

    def Send(self, values: np.ndarray, peer: int) -> None:
        self.sent.append((values.tolist(), peer))

    def Recv(self, values: np.ndarray, _peer: int) -> None:
        values[...] = self.comes

    def Bcast(self, values: np.ndarray, root: int) -> None:
        (self.Send if root == self.rank else self.Recv)(values, root)


class Rank:
    """A device, the second, with an array and a communicator on it."""

    def __init__(self, other: tuple[Any, ...] = (2, IDENTIFIER, "0000:00:00.0"), size: int = 2) -> None:
        self.cupy, self.wire = StandInCupy(devices=2), Wire(other)
        self.nccl = make_nccl(self.cupy, self.wire)
        with self.cupy.cuda.Device(1):
            self.array = self.cupy.asarray(np.array([1.0, 2, 3]))
            self.communicator = self.nccl.NcclCommunicator(size, IDENTIFIER, 0)
            self.stream = self.cupy.cuda.Stream(non_blocking=True)
        self.described = self.array.data.ptr, 3, NCCL_FLOAT64


@pytest.fixture
def rank() -> Rank:
    return Rank()


def test_vectors_are_sent_received_and_broadcast_from_addresses(rank: Rank) -> None:
    address = rank.array.data.ptr
    with rank.cupy.cuda.Device(1):
        rank.communicator.send(address + 8, 2, NCCL_FLOAT64, 1, 0)
        rank.communicator.broadcast(address, address, 3, NCCL_FLOAT64, 0, 0)
        rank.communicator.broadcast(address, address + 8, 2, NCCL_FLOAT64, 0, 0)
        assert rank.array.tolist() == [1, 1, 2]
        rank.communicator.recv(*rank.described, 1, 0)
        assert rank.array.tolist() == [5, 6, 7]
        rank.wire.comes = np.array([8.0, 9, 10])
        rank.communicator.broadcast(address, address, 3, NCCL_FLOAT64, 1, 0)
        assert rank.array.tolist() == [8, 9, 10]
    assert rank.wire.sent == [([2, 3], 1), ([1, 2, 3], 0), ([1, 2], 0)]
    assert rank.cupy.messages == ["send", "broadcast", "broadcast", "recv", "broadcast"]


def test_identifiers_are_not_the_same_twice(rank: Rank) -> None:
    identifiers = [rank.nccl.get_unique_id() for _ in range(2)]
    assert [len(identifier) for identifier in identifiers] == [ID_BYTES] * 2
    assert identifiers[0] != identifiers[1]


def test_captured_messages_go_when_the_graph_is_launched(rank: Rank) -> None:
    with rank.cupy.cuda.Device(1), rank.stream:
        rank.stream.begin_capture()
        rank.communicator.send(*rank.described, 1, rank.stream.ptr)
        graph = rank.stream.end_capture()
        assert rank.wire.sent == rank.cupy.messages == []
        rank.array[...] = 4.0
        for _ in range(2):
            graph.launch()
    assert rank.wire.sent == [([4, 4, 4], 1)] * 2
    assert rank.cupy.messages == ["send"] * 2
    with pytest.raises(NcclError, match="waits for graphs"):
        rank.communicator.destroy()
    assert not rank.communicator.destroyed
    del graph
    rank.communicator.destroy()
    assert rank.communicator.destroyed


def test_memory_that_was_freed_is_not_sent_by_a_graph(rank: Rank) -> None:
    with rank.cupy.cuda.Device(1), rank.stream:
        rank.stream.begin_capture()
        rank.communicator.send(*rank.described, 1, rank.stream.ptr)
        graph = rank.stream.end_capture()
        del rank.array
        with pytest.raises(NcclError, match="do not lie in live memory of cuda:1"):
            graph.launch()


REFUSED: dict[str, tuple[Callable[[Rank], Any], str]] = {
    "memory of the host": (
        lambda rank: rank.communicator.send(np.ones(3).ctypes.data, 3, NCCL_FLOAT64, 1, 0),
        "24 bytes at 0x[0-9a-f]+ do not lie in live memory of cuda:1",
    ),
    "more than there is": (
        lambda rank: rank.communicator.recv(rank.array.data.ptr, 4, NCCL_FLOAT64, 1, 0),
        "32 bytes at",
    ),
    "a rank that there is not": (lambda rank: rank.communicator.send(*rank.described, 2, 0), "peer 2 of 2"),
    "itself": (lambda rank: rank.communicator.recv(*rank.described, 0, 0), "rank 0 and peer 0"),
    "another stream": (lambda rank: rank.communicator.send(*rank.described, 1, rank.stream.ptr), "another stream"),
    "a second communicator of one GPU": (
        lambda rank: Rank((2, IDENTIFIER, "0000:01:00.0")),
        "Duplicate GPU detected",
    ),
    "an identifier of its own": (lambda rank: Rank((2, b"other", "0000:00:00.0")), "do not make one communicator"),
    "another size": (lambda rank: Rank((3, IDENTIFIER, "0000:00:00.0"), size=3), "do not make one communicator"),
}


@pytest.mark.parametrize(("attempt", "message"), REFUSED.values(), ids=REFUSED)
def test_what_nccl_cannot_do_is_refused(rank: Rank, attempt: Callable[[Rank], Any], message: str) -> None:
    with rank.cupy.cuda.Device(1), pytest.raises(NcclError, match=message):
        attempt(rank)
    assert rank.wire.sent == rank.cupy.messages == []


def test_other_devices_and_the_end_of_a_communicator_are_refused(rank: Rank) -> None:
    with pytest.raises(NcclError, match="cuda:0 is current, the communicator of cuda:1"):
        rank.communicator.send(*rank.described, 1, 0)
    rank.communicator.destroy()
    with rank.cupy.cuda.Device(1), pytest.raises(NcclError, match="is destroyed"):
        rank.communicator.send(*rank.described, 1, 0)


def test_numbers_are_of_their_type(rank: Rank) -> None:
    with rank.cupy.cuda.Device(1):
        array = rank.cupy.asarray(np.array([1.5, -2], "float32"))
        rank.communicator.send(array.data.ptr, 2, NCCL_FLOAT32, 1, 0)
    assert rank.wire.sent == [([1.5, -2], 1)]


def test_without_its_library_there_is_none() -> None:
    assert StandInCupy().cuda.nccl == SimpleNamespace(available=False)
