"""Random numbers by place."""

import numpy as np
import pytest

from fmnist_xp.backend import CpuBackend
from fmnist_xp.nn.draws import column_codes, mixed, row_keys, seed_of


@pytest.mark.parametrize(
    ("bits", "expected"),  # MurmurHash3_x86_32 of no bytes is its finalizer of the seed
    [(0, 0), (1, 0x514E28B7), (0xFFFFFFFF, 0x81F16F39)],
)
def test_bits_are_mixed_by_the_finalizer_of_murmurhash(bits: int, expected: int) -> None:
    given = np.array([bits], np.uint32)
    assert mixed(np, given).tolist() == [expected]
    assert given.tolist() == [bits]
    scratch = np.empty(1, np.uint32)
    assert mixed(np, given, scratch) is scratch
    assert scratch.tolist() == [expected]


def test_mixing_is_one_to_one() -> None:
    assert len(np.unique(mixed(np, np.arange(1 << 20, dtype="uint32")))) == 1 << 20


def drawn(numbers: np.ndarray, epoch: int, seed: object, columns: int = 40) -> np.ndarray:
    backend = CpuBackend(1)
    keys = np.empty(len(numbers), np.uint32)
    backend.compute(row_keys, numbers.astype(np.uint32), np.full(1, epoch, np.uint32), seed_of(backend, seed), keys)
    return mixed(np, keys[:, None] ^ column_codes(backend, columns))


def test_draws_depend_on_the_place_alone() -> None:
    everything = drawn(np.arange(1000), 7, "a")
    assert np.array_equal(everything[[900, 3]], drawn(np.array([900, 3]), 7, "a"))
    assert np.array_equal(everything[:, :10], drawn(np.arange(1000), 7, "a", 10))


@pytest.mark.parametrize(("epoch", "seed"), [(8, "a"), (7, "b"), (7, ("a", 1))])
def test_another_epoch_or_seed_draws_anew(epoch: int, seed: object) -> None:
    one, other = (drawn(np.arange(1000), *place) & 1 for place in ((7, "a"), (epoch, seed)))
    assert abs((one == other).mean() - 0.5) < 6 * 0.5 / np.sqrt(one.size)


def test_draws_are_uniform_and_independent_of_each_other() -> None:
    rows, columns = 2000, 50
    draws = np.stack([drawn(np.arange(rows), epoch, 0, columns) for epoch in range(4)]) / 2**32
    counts, _ = np.histogram(draws, bins=64, range=(0, 1))
    # χ² with 63 degrees of freedom exceeds 125 with a probability of 5·10⁻⁶.
    assert ((counts - draws.size / 64) ** 2 / (draws.size / 64)).sum() < 125
    centred = (draws - 0.5) * np.sqrt(12)
    for other in (np.roll(centred, 1, 0), np.roll(centred, 1, 1), np.roll(centred, 1, 2), np.roll(centred, 7, 1)):
        assert abs((centred * other).mean()) < 5 / np.sqrt(draws.size)
