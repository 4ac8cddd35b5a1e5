"""How vectors get from rank to rank, which threads play, through the host; see test_nccl too."""

from types import SimpleNamespace

import numpy as np
import pytest
from parity.standin import StandInCupy
from rank_helpers import in_ranks

from fmnist_xp.backend import Backend, CpuBackend, CudaBackend
from fmnist_xp.backend.channel import Channel
from fmnist_xp.ranks import Ranks

# NaN with a payload, both zeros, the smallest and the largest numbers: whose bits may not change.
BITS = np.array([0x7FF8DEADBEEF0001, 0x8000000000000000, 0, 1, 0x7FEFFFFFFFFFFFFF], np.uint64)
KINDS = pytest.mark.parametrize("kind", ["cpu", "gpu"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def make_backend(kind: str) -> Backend:
    return CpuBackend(1) if kind == "cpu" else CudaBackend(1, cupy=StandInCupy(devices=2))


def vector(dtype: str, rank: int) -> np.ndarray:
    """Return a vector that only this rank has."""
    return np.append(BITS.view(dtype), np.array([rank], dtype))


def assert_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


@KINDS
@DTYPES
def test_vector_arrives_with_its_bits(kind: str, dtype: str) -> None:
    """Each rank sends to the next, and the last to the first."""

    def work(ranks: Ranks) -> np.ndarray:
        backend, before = make_backend(kind), (ranks.rank - 1) % ranks.size
        channel = Channel(backend, ranks.comm)
        with backend.computing():
            mine, other = backend.asarray(vector(dtype, ranks.rank)), backend.asarray(np.zeros_like(vector(dtype, 0)))
            steps = [
                lambda: channel.send(mine, (ranks.rank + 1) % ranks.size),
                lambda: channel.receive(other, before),
            ]
            for step in steps if ranks.rank else steps[::-1]:  # the first receives first, else all would wait
                step()
            assert_bits(backend.to_host(mine), vector(dtype, ranks.rank))
            return backend.to_host(other)

    for rank, found in enumerate(in_ranks(3, work)):
        assert_bits(found, vector(dtype, (rank - 1) % 3))


@KINDS
@DTYPES
@pytest.mark.parametrize("root", [0, 2])
def test_vector_of_one_rank_gets_to_all(kind: str, dtype: str, root: int) -> None:
    def work(ranks: Ranks) -> list[np.ndarray]:
        backend = make_backend(kind)
        channel = Channel(backend, ranks.comm)
        with backend.computing():
            found = []
            for factor in (1, 2):
                mine = backend.asarray(factor * vector(dtype, ranks.rank)[-1:])
                channel.broadcast(mine, root)
                found.append(backend.to_host(mine))
            return found

    for first, second in in_ranks(3, work):
        assert_bits(first, vector(dtype, root)[-1:])
        assert_bits(second, 2 * vector(dtype, root)[-1:])


@KINDS
def test_part_of_an_array_is_received_where_it_lies(kind: str) -> None:
    def work(ranks: Ranks) -> np.ndarray:
        backend = make_backend(kind)
        channel = Channel(backend, ranks.comm)
        with backend.computing():
            rows = backend.asarray(np.full((4, 2), float(ranks.rank)))
            if ranks.is_first:
                channel.receive(rows[1:3], 1)
            else:
                channel.send(rows[1:3], 0)
            return backend.to_host(rows)

    assert in_ranks(2, work)[0].tolist() == [[0, 0], [1, 1], [1, 1], [0, 0]]


def test_host_receives_into_one_buffer_for_each_shape() -> None:
    received: list[int] = []

    class Comm:
        rank = 1

        def Recv(self, buffer: np.ndarray, _source: int) -> None:
            received.append(buffer.ctypes.data)
            buffer[...] = len(received)

        Bcast = Recv

    backend = make_backend("gpu")
    channel = Channel(backend, Comm())
    with backend.computing():
        vectors = [backend.xp.empty(size) for size in (3, 3, 4, 3)]
        for number, each in enumerate(vectors):
            (channel.broadcast if number == 3 else channel.receive)(each, 0)
        assert [backend.to_host(each).tolist() for each in vectors] == [[1] * 3, [2] * 3, [3] * 4, [4] * 3]
    assert received[0] == received[1] == received[3] != received[2]


def test_cpu_sends_and_receives_in_place() -> None:
    seen: list[np.ndarray] = []
    comm = SimpleNamespace(
        rank=0,
        Send=lambda array, _to: seen.append(array),
        Recv=lambda array, _source: seen.append(array),
        Bcast=lambda array, _root: seen.append(array),
    )
    channel, mine = Channel(CpuBackend(1), comm), np.zeros(3)
    channel.send(mine, 1)
    channel.receive(mine, 1)
    channel.broadcast(mine, 0)
    channel.broadcast(mine, 1)
    assert all(np.shares_memory(array, mine) for array in seen)
    assert len(seen) == 4
    channel.close()


@pytest.mark.parametrize(("kind", "words"), [("cpu", "MPI"), ("gpu", "MPI, through the host's memory")])
def test_channel_says_what_vectors_go_through(kind: str, words: str) -> None:
    channel = Channel(make_backend(kind), None)
    assert str(channel) == words
    assert not channel.captures


def test_cpu_takes_mpi() -> None:
    channel = CpuBackend(1).channel(None)
    assert type(channel) is Channel
