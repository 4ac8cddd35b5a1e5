import pytest

from bench.rank_model import STATED_LINKS, Link, Model, Processor, gpu, gpu_blocks, rounds
from fmnist_xp.train.rows import GROUPS
from fmnist_xp.train.tree import Tree

# A block is 10 rows, and takes 1 s; a message of a vector 1 s and 2 s for its bytes.
PROCESSOR = Processor(row_seconds=0.1, replicated=1.0, add=0.5, blocks=lambda rows: -(-rows // 10))
MODEL = Model(PROCESSOR, Link(latency=1.0, bandwidth=10.0), vector_bytes=20)
RING = Model(PROCESSOR, Link(latency=1.0, bandwidth=10.0, ring=0.25), vector_bytes=20)


@pytest.mark.parametrize(("ranks", "expected"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (1024, 10)])
def test_rounds_are_the_logarithm_rounded_up(ranks: int, expected: int) -> None:
    assert rounds(ranks) == expected


@pytest.mark.parametrize(("ranks", "expected"), [(1, 0), (2, 3.5), (4, 7), (8, 10.5)])
def test_sum_is_a_message_and_an_addition_a_round(ranks: int, expected: float) -> None:
    assert MODEL.sum_seconds(ranks) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("model", "ranks", "expected"),
    [
        (MODEL, 1, 0),
        (MODEL, 2, 3),
        (MODEL, 4, 6),
        (MODEL, 8, 6 + 3.5),  # an eighth to each in 3 rounds, and 7/8 of the vector in 3 more
        (RING, 1, 0),
        (RING, 2, 3),
        (RING, 4, 3.5),
        (RING, 8, 4.5),
    ],
)
def test_broadcast_is_that_of_mpich_or_a_ring(model: Model, ranks: int, expected: float) -> None:
    assert model.broadcast_seconds(ranks) == pytest.approx(expected)


def test_messages_have_the_short_ones_too() -> None:
    assert MODEL.message_seconds(1) == 0
    assert MODEL.message_seconds(2) == pytest.approx(3.5 + 3 + 1 + 0.2)
    assert MODEL.message_seconds(4) == pytest.approx(7 + 6 + 2 + 0.5)


@pytest.mark.parametrize(
    ("rows", "ranks", "blocks"),
    [(100, 1, 10), (100, 2, 5), (100, 4, 3), (100, 16, 1), (95, 2, 5), (20_500, 512, 6), (20_500, 1024, 3)],
)
def test_largest_share_is_of_whole_blocks_and_groups(rows: int, ranks: int, blocks: int) -> None:
    """Of 2,050 blocks, 3 are a group: there are 1,024 groups at most."""
    assert MODEL.largest_share(rows, ranks) == blocks / -(-rows // 10)


@pytest.mark.parametrize("blocks", [1, 7, 79, 782, 1024, 1025, 2050])
@pytest.mark.parametrize("ranks", [1, 2, 8, 64, 1024])
def test_largest_share_is_that_of_training(blocks: int, ranks: int) -> None:
    """It counts all groups as full, and the last may have up to `size` − 1 blocks fewer."""
    size = -(-blocks // GROUPS)
    costs = [min(size, blocks - start) for start in range(0, blocks, size)]
    of_ranks = [sum(costs[number] for number in numbers) for numbers in Tree(costs).shares(ranks)]
    assert 0 <= round(MODEL.largest_share(10 * blocks, ranks) * blocks) - max(of_ranks) < size


def test_time_is_the_largest_share_what_all_do_and_messages() -> None:
    assert MODEL.seconds(100, 1) == pytest.approx(10 + 1)
    assert MODEL.seconds(100, 2) == pytest.approx(5 + 1 + 7.7)
    assert MODEL.seconds(100, 4) == pytest.approx(3 + 1 + 15.5)
    assert MODEL.efficiency(100, 1) == 1
    assert MODEL.efficiency(100, 2) == pytest.approx(11 / (2 * 13.7))


def test_rows_for_an_efficiency_are_the_fewest() -> None:
    """With w seconds of work, (w + 1) / (2 · (w / 2 + 1 + 7.7)) is ½ at w = 15.4: 154 rows, of 20 at a time 160."""
    assert MODEL.rows_for(0.5, 2, step=10) == 160
    assert MODEL.efficiency(140, 2) < 0.5 <= MODEL.efficiency(160, 2)
    assert MODEL.rows_for(0.9, 1, step=10) == 10
    with pytest.raises(ValueError, match=r"must be below 1, got 1\.0"):
        MODEL.rows_for(1.0, 2, step=10)


@pytest.mark.parametrize(
    ("rows", "blocks"), [(60_000, 8), (262_144, 8), (262_145, 16), (600_000, 32), (32_768 * 1024, 1024)]
)
def test_gpus_share_a_power_of_two_of_blocks(rows: int, blocks: int) -> None:
    assert gpu_blocks(rows) == blocks
    assert gpu(1.0).blocks(rows) == blocks


def test_stated_figures() -> None:
    """12.5 GB/s are 100 Gbit/s; an H100 computes the 30 GFLOP of an epoch of 60,000 rows in 0.9 ms."""
    assert STATED_LINKS["100 Gbit/s"].bandwidth == 12.5e9
    assert STATED_LINKS["NVLink"].latency == pytest.approx(11.8e-6)
    assert 60_000 * gpu(507_392).row_seconds == pytest.approx(0.906e-3, rel=1e-3)
