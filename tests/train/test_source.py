"""The rows of all ranks, which threads play, however they are shared out among them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from image_helpers import images, scaled
from parity.standin import StandInCupy
from rank_helpers import in_ranks

from fmnist_xp.backend import Backend, CpuBackend, CudaBackend
from fmnist_xp.data import Pixels
from fmnist_xp.ranks import ALONE, Ranks
from fmnist_xp.train import source as source_module
from fmnist_xp.train.source import Source, as_numbers

ROWS = 20
BYTES = images(ROWS, 4, 4)
FLOATS = scaled(BYTES, "float32")
SHUFFLED = np.random.default_rng(3).permutation(ROWS)
BACKENDS: dict[str, Callable[[], Backend]] = {
    "cpu": lambda: CpuBackend(1),
    "gpu": lambda: CudaBackend(cupy=StandInCupy()),
}

# How many rows each rank hands in.
SPLITS = pytest.mark.parametrize(
    "counts", [(20,), (10, 10), (3, 0, 17), (0, 20), (20, 0), (1, 2, 3, 14), (0, 0, 5, 15, 0)], ids=str
)
KINDS = pytest.mark.parametrize("kind", ["bytes", "shuffled bytes", "floats", "floats on a gpu"])


def whole(kind: str) -> np.ndarray:
    """Return the rows of all ranks as a source has them."""
    if "floats" in kind:
        return FLOATS
    return BYTES[SHUFFLED] if kind == "shuffled bytes" else BYTES


def with_sources(kind: str, counts: tuple[int, ...], work: Callable[[Source, Ranks, Backend], Any]) -> list[Any]:
    """Return what `work` does on each rank with a source, of which this has so many rows."""
    stops = np.cumsum(counts)

    def on_rank(ranks: Ranks) -> Any:
        backend = BACKENDS["gpu" if "gpu" in kind else "cpu"]()
        part = slice(stops[ranks.rank] - counts[ranks.rank], stops[ranks.rank])
        with backend.computing():
            inputs: Any = {
                "bytes": lambda: Pixels(BYTES[part]),
                "shuffled bytes": lambda: Pixels(BYTES, SHUFFLED[part]),
            }.get(kind, lambda: backend.asarray(FLOATS[part]))()
            return work(Source(inputs, backend, ranks), ranks, backend)

    return in_ranks(len(counts), on_rank)


@SPLITS
@KINDS
def test_rows_are_counted(kind: str, counts: tuple[int, ...]) -> None:
    found = with_sources(kind, counts, lambda source, _ranks, _backend: (source.start, source.rows))
    assert found == [(sum(counts[:rank]), ROWS) for rank in range(len(counts))]


@SPLITS
@KINDS
@pytest.mark.parametrize("part", [slice(0, 20), slice(0, 3), slice(5, 12), slice(19, 20), slice(7, 7)], ids=str)
def test_own_rows_of_a_part_are_those_of_this_rank(kind: str, counts: tuple[int, ...], part: slice) -> None:
    found = with_sources(kind, counts, lambda source, _ranks, _backend: source.own(part))
    np.testing.assert_array_equal(np.concatenate(found), whole(kind)[part])
    for rank, rows in enumerate(found):
        start = sum(counts[:rank])
        first, stop = max(start, part.start), min(start + counts[rank], part.stop)
        assert len(rows) == max(0, stop - first)


PLACES = {
    "none": [],
    "one": [11],
    "all": list(range(ROWS)),
    "backwards": list(range(ROWS))[::-1],
    "some, one of them twice": [7, 3, 19, 7, 0, 12],
}


@SPLITS
@KINDS
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_rows_are_brought_from_wherever_they_are(kind: str, counts: tuple[int, ...], dtype: str) -> None:
    """Each rank asks for others."""
    asked = [np.array(places, dtype) for places in PLACES.values()]

    def work(source: Source, ranks: Ranks, _backend: Backend) -> list[np.ndarray]:
        rows = source.bring(asked[ranks.rank])
        return [rows(slice(0, 2)), rows(slice(2, None)), rows(slice(None))]

    for places, (first, rest, every) in zip(asked, with_sources(kind, counts, work), strict=False):
        expected = whole(kind)[places]
        assert every.dtype == expected.dtype
        np.testing.assert_array_equal(every, expected)
        np.testing.assert_array_equal(first, expected[:2])
        np.testing.assert_array_equal(rest, expected[2:])


@SPLITS
@KINDS
@pytest.mark.parametrize("stops", [(4, 8, 12, 16, 20), (20,) * 5, (0, 0, 0, 0, 20), (10, 11, 20, 20, 20)], ids=str)
def test_part_is_of_the_kind_that_was_handed_in(kind: str, counts: tuple[int, ...], stops: tuple[int, ...]) -> None:
    def work(source: Source, ranks: Ranks, backend: Backend) -> np.ndarray:
        start, stop = (0, *stops)[ranks.rank : ranks.rank + 2]
        rows = source.part(start, stop)
        assert isinstance(rows, Pixels if "bytes" in kind else backend.xp.ndarray)
        return rows.bytes(slice(None)) if isinstance(rows, Pixels) else backend.to_host(rows)

    found = with_sources(kind, counts, work)
    np.testing.assert_array_equal(np.concatenate(found), whole(kind)[: stops[len(counts) - 1]])


def test_part_that_every_rank_has_is_not_sent() -> None:
    def work(source: Source, ranks: Ranks, _backend: Backend) -> bool:
        rows: Any = source.part(*((0, 8), (12, 20))[ranks.rank])
        return np.shares_memory(rows.images, BYTES)

    assert with_sources("bytes", (10, 10), work) == [True, True]


@SPLITS
@KINDS
@pytest.mark.parametrize("places", [[0], [0, 7, 14], [18, 19], list(range(ROWS))], ids=str)
def test_sample_is_the_same_on_every_rank(kind: str, counts: tuple[int, ...], places: list[int]) -> None:
    found = with_sources(kind, counts, lambda source, _ranks, _backend: source.sample(np.array(places)))
    for rows in found:
        assert rows.dtype == whole(kind).dtype
        np.testing.assert_array_equal(rows, whole(kind)[places])


def test_sample_of_a_mapped_file_is_taken_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With each row come some MB around it, which are given back."""
    rows, forgotten = images(40, 4, 4), []
    monkeypatch.setattr(source_module, "is_mapped", lambda array: np.shares_memory(array, rows))
    monkeypatch.setattr(source_module, "forget", forgotten.append)
    source = Source(Pixels(rows), CpuBackend(1), ALONE)
    np.testing.assert_array_equal(source.sample(np.arange(40)), rows)
    assert len(forgotten) == 3  # of 16, 16 and 8 rows
    assert all(np.shares_memory(array, rows) for array in forgotten)


@pytest.mark.parametrize("name", BACKENDS)
def test_memory_is_given_back_where_rows_lie_on_the_host(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    forgotten: list[np.ndarray] = []
    monkeypatch.setattr(source_module, "forget", forgotten.append)
    Source(Pixels(BYTES), BACKENDS[name](), ALONE).forget()
    assert len(forgotten) == (name == "cpu")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bytes_stand_for_the_numbers_that_preprocess_makes(dtype: str) -> None:
    numbers = as_numbers(BYTES)
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, FLOATS)
    floats = FLOATS.astype(dtype)
    found = as_numbers(floats)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, floats)
