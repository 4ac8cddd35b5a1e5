"""Vectors from GPU to GPU by NCCL, on stand-ins for both, and which rank has which device; see test_channel too."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from parity.standin import StandInCupy, make_nccl, make_nvmath

from fmnist_xp.backend import CpuBackend, CudaBackend, CudaGraphBackend, get_backend
from fmnist_xp.backend.channel import Channel, NcclChannel
from fmnist_xp.backend.cuda import import_nccl
from fmnist_xp.machine import host_name

SENT = [1.0, -2.0, 3.0]


class Comm:
    """Stands for mpi4py's communicator, of `rank` among two; the other has `other` of what is gathered."""

    size = 2

    def __init__(self, rank: int = 0, other: Any = None) -> None:
        self.rank, self.other = rank, other
        self.seen: list[tuple[str, np.ndarray, int]] = []

    def allgather(self, value: Any) -> list[Any]:
        other = self.other(value) if callable(self.other) else self.other
        return [value, other] if self.rank == 0 else [other, value]

    def bcast(self, value: Any) -> Any:
        return value or bytes(128)

    def Send(self, values: np.ndarray, to: int) -> None:
        self.seen.append(("send", values, to))

    def Recv(self, values: np.ndarray, source: int) -> None:
        values[...] = SENT
        self.seen.append(("receive", values, source))

    def Bcast(self, values: np.ndarray, root: int) -> None:
        if root != self.rank:
            values[...] = SENT
        self.seen.append(("broadcast", values, root))


def cuda(nccl_of: Callable[[StandInCupy], Any] | None = None, device: int = 1) -> CudaBackend:
    cupy = StandInCupy(devices=4)
    if nccl_of is not None:
        cupy.cuda.nccl = nccl_of(cupy)
    return CudaBackend(device, cupy=cupy)


# Where NCCL is taken


@pytest.mark.parametrize(
    ("rank", "available", "elsewhere", "reason"),
    [
        (0, False, (True, "other"), "rank 0 has no NCCL"),
        (0, True, (False, "other"), "rank 1 has no NCCL"),
        (1, True, (False, "other"), "rank 0 has no NCCL"),
        (0, True, (True, None), "several ranks share a GPU, which NCCL refuses"),
    ],
)
def test_the_host_is_the_way_where_nccl_is_not(
    caplog: pytest.LogCaptureFixture, rank: int, available: bool, elsewhere: tuple[bool, Any], reason: str
) -> None:
    backend = cuda((lambda cupy: make_nccl(cupy, None)) if available else None)
    # The other rank has this device's place, or that of the same number on another host.
    there, host = elsewhere
    comm = Comm(rank, lambda mine: (there, (host or host_name(), mine[1][1])))
    for _ in range(2):
        channel = backend.channel(comm)
        assert type(channel) is Channel
        assert not channel.captures
    assert [record.levelname for record in caplog.records] == (["WARNING"] if rank == 0 else [])  # once
    assert all(f"through the host's memory, since {reason}" in record.getMessage() for record in caplog.records)


# NCCL


@pytest.fixture
def nccl_channel() -> tuple[Any, CudaBackend, Comm]:
    """A channel, its backend, and the wire that only the stand-in's NCCL knows."""
    wire = Comm(0, lambda mine: (*mine[:2], "another GPU"))
    backend = cuda(lambda cupy: make_nccl(cupy, wire))
    return backend.channel(Comm(0, lambda mine: (True, ("other host", mine[1][1])))), backend, wire


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nccl_takes_vectors_from_the_device(nccl_channel: tuple[Any, CudaBackend, Comm], dtype: str) -> None:
    channel, backend, wire = nccl_channel
    sent, came = [("send", 1), ("broadcast", 0)], [("receive", 1), ("broadcast", 1)]
    assert type(channel) is NcclChannel
    assert channel.captures
    with backend.current():
        vector = backend.asarray([0.1, 0.2, 0.3], dtype)
        channel.send(vector, 1)
        channel.broadcast(vector[1:], 0)
        given, wire.seen = wire.seen, []
        received = backend.xp.zeros(3, dtype)
        cost = backend.xp.counted(lambda: channel.receive(received, 1))
        assert cost == {"messages": 1}
        assert backend.to_host(received).tolist() == SENT
        received[...] = 0.0
        channel.broadcast(received, 1)
        assert backend.to_host(received).tolist() == SENT
    values = np.array([0.1, 0.2, 0.3], dtype)
    for (name, found, peer), part, expected in zip(given, (values, values[1:]), sent, strict=True):
        assert (name, found.dtype, peer) == (expected[0], dtype, expected[1])
        np.testing.assert_array_equal(found, part)
    assert [(name, peer) for name, _values, peer in wire.seen] == came


def test_nccl_works_in_the_current_stream_and_device(nccl_channel: tuple[Any, CudaBackend, Comm]) -> None:
    channel, backend, _wire = nccl_channel
    with backend.current(), backend.xp.cuda.Stream(non_blocking=True):
        channel.send(backend.asarray(SENT), 1)  # the stand-in refuses another stream
    (communicator,) = backend.xp.cuda.nccl.communicators
    assert communicator._device == 1
    channel.close()
    assert communicator.destroyed


def test_the_identifier_is_the_first_ranks() -> None:
    identifiers = []
    for rank in (0, 1):
        wire = Comm(rank, lambda mine: (*mine[:2], "another GPU"))
        backend = cuda(lambda cupy, wire=wire: make_nccl(cupy, wire))
        comm = Comm(rank)
        comm.bcast = lambda value: identifiers.append(value) or bytes(128)  # type: ignore[method-assign]
        NcclChannel(backend, comm, backend.xp.cuda.nccl)
    assert [type(identifier) for identifier in identifiers] == [bytes, type(None)]


@pytest.mark.parametrize(
    ("version", "text"), [(22809, "NCCL 2.28.9"), (23007, "NCCL 2.30.7"), (21805, "NCCL 2.18.5")]
)
def test_version_is_written_as_nccl_writes_it(version: int, text: str) -> None:
    wire = Comm(0, lambda mine: (*mine[:2], "another GPU"))
    backend = cuda(lambda cupy: make_nccl(cupy, wire, version))
    assert str(NcclChannel(backend, Comm(), backend.xp.cuda.nccl)) == text


def test_cupys_nccl_is_found_whether_it_was_imported_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy (cupy-cuda12x), whose NCCL this asks for, is not installed")
    monkeypatch.delattr(cupy.cuda, "nccl", raising=False)
    assert isinstance(import_nccl(cupy).available, bool)
    given = SimpleNamespace(available=True)
    monkeypatch.setattr(cupy.cuda, "nccl", given, raising=False)
    assert import_nccl(cupy) is given


# The devices of a host


@pytest.mark.parametrize("device", ["cuda", "auto"])
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize(
    ("hosts", "devices"),
    [
        (["a", "a", "a", "a", "a"], [0, 1, 2, 0, 1]),
        (["a", "b", "a", "b"], [0, 0, 1, 1]),
        (["b", "a", "a"], [0, 0, 1]),
    ],
)
def test_ranks_take_a_hosts_devices_in_turn(
    monkeypatch: pytest.MonkeyPatch, device: str, graphs: bool, hosts: list[str], devices: list[int]
) -> None:
    cupy = StandInCupy(devices=3)
    monkeypatch.setattr("fmnist_xp.backend.import_cupy", lambda: cupy)
    monkeypatch.setattr("fmnist_xp.backend.cuda.import_cupy", lambda: cupy)
    monkeypatch.setattr("fmnist_xp.backend.graphs.import_nvmath", lambda: make_nvmath(cupy))
    found = []
    for rank in range(len(hosts)):
        comm = SimpleNamespace(rank=rank, size=len(hosts), allgather=lambda _host: hosts)
        backend = get_backend(device, graphs=graphs, comm=comm)
        assert type(backend) is (CudaGraphBackend if graphs else CudaBackend)
        found.append(backend.cuda_index)
        assert get_backend("cuda:2", comm=comm).cuda_index == 2  # an index is every rank's
    assert found == devices


def test_ranks_without_a_gpu_compute_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = StandInCupy(devices=0)
    monkeypatch.setattr("fmnist_xp.backend.import_cupy", lambda: cupy)
    monkeypatch.setattr("fmnist_xp.backend.cuda.import_cupy", lambda: cupy)
    comm = SimpleNamespace(rank=1, size=2, allgather=lambda host: [host] * 2)
    for device in ("auto", "cpu"):
        assert isinstance(get_backend(device, comm=comm), CpuBackend)
