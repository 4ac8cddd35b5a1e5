"""A model of the time of an epoch on P ranks: what they share out, what each does in full, and their messages.

A message of n bytes takes α + n/B, with a latency α and a bandwidth B (R. W. Hockney, "The communication challenge
for MPP: Intel Paragon and Meiko CS-2", Parallel Computing 20, 1994). What collective operations make of it is from
R. Thakur, R. Rabenseifner and W. Gropp, "Optimization of Collective Communication Operations in MPICH", International
Journal of High Performance Computing Applications 19, 2005.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from fmnist_xp.train.rows import GROUPS

LOG_EVERY = 10
"""Epochs from one with metrics to the next, as `train` logs by default."""
SCATTERED_FROM = 8
"""Ranks from which on MPICH scatters a broadcast of 12,288 bytes or more and gathers it everywhere; fewer hand on the
whole (MPIR_CVAR_BCAST_MIN_PROCS and MPIR_CVAR_BCAST_SHORT_MSG_SIZE). All below 524,288 bytes, as our vector."""


class Link(NamedTuple):
    """What messages between two ranks take.

    `ring` is the latency of each rank beyond the second in a broadcast that goes through all of them one after
    another, in pieces, as NCCL's; None where MPICH broadcasts.
    """

    latency: float
    bandwidth: float
    ring: float | None = None


class Processor(NamedTuple):
    """What a rank computes with.

    `row_seconds` are the operations of a row through the rate of them. `replicated` are the seconds that each rank
    needs in full, however few rows it has, and `add` those of adding a vector to another. `blocks(rows)` says into
    how many equal blocks rows are divided, of which a rank has whole ones.
    """

    row_seconds: float
    replicated: float
    add: float
    blocks: Callable[[int], int]


STATED_LINKS = {
    # The line rate. An adapter delivers within 0.6 µs (product brief of NVIDIA's ConnectX-5), of which there are two
    # on the way, with switches and MPI between them.
    "100 Gbit/s": Link(latency=2e-6, bandwidth=100e9 / 8),
    # Of 900 GB/s in both directions (data sheet of NVIDIA's H100), half in each. What NCCL itself reckons with for a
    # ring over NVLink (src/graph/tuning.cc, protocol Simple): 8.4 µs for a call and 3.4 µs for each hop.
    "NVLink": Link(latency=(8.4 + 3.4) * 1e-6, bandwidth=450e9, ring=3.4e-6),
}
"""Stated, not measured."""


def gpu(flops_per_row: float) -> Processor:
    """Return an H100 in float32 as stated for NVLink, with figures that were measured on one, alone.

    The rate is that of an epoch of 784-128-128-10 (results/throughput-cuda.json). Mean, penalty gradients and update
    take about 3 µs each, as does a sum of two vectors (results/probe-cuda.json).
    """
    return Processor(flops_per_row / 33.6e12, replicated=9e-6, add=3e-6, blocks=gpu_blocks)


def gpu_blocks(rows: int) -> int:
    """Return how many blocks several GPUs share: a power of two, at least 8, each of 32,768 rows at most."""
    return max(8, 1 << (-(-rows // 32_768) - 1).bit_length())


def rounds(ranks: int) -> int:
    """Return ⌈log₂ P⌉, how often pairs of ranks have to meet until all have heard of all."""
    return (ranks - 1).bit_length()


@dataclass(frozen=True)
class Model:
    """The time of an epoch on P ranks, each a `processor`, that send vectors of `vector_bytes` over `link`."""

    processor: Processor
    link: Link
    vector_bytes: int

    def largest_share(self, rows: int, ranks: int) -> float:
        """Return the share of the rows that the busiest rank has: of P, 1/P where they have as many blocks each.

        b blocks are shared out in g = ⌈b/s⌉ groups of s = ⌈b/1024⌉, of which it has ⌈g/P⌉: beyond g ranks, all others
        have none.
        """
        blocks = self.processor.blocks(rows)
        size = -(-blocks // GROUPS)
        groups = -(-blocks // size)
        return min(blocks, size * -(-groups // ranks)) / blocks

    def sum_seconds(self, ranks: int) -> float:
        """Return ⌈log₂ P⌉ · (α + n/B + add): pairs of sums are added up the tree, half of the ranks sending at first.

        Thakur, Rabenseifner and Gropp give it for the binomial tree of a reduction.
        """
        return rounds(ranks) * (self.link.latency + self.vector_bytes / self.link.bandwidth + self.processor.add)

    def broadcast_seconds(self, ranks: int) -> float:
        """Return the time until the sum is on all ranks.

        MPICH's, after Thakur, Rabenseifner and Gropp: ⌈log₂ P⌉ · (α + n/B) down a binomial tree for fewer than 8
        ranks; for more, a scatter and an allgather by recursive doubling, 2 ⌈log₂ P⌉ · α + 2 (P−1)/P · n/B. On a
        ring α + (P−2) · hop + n/B: pieces follow one another through all ranks.
        """
        latency, bandwidth, ring = self.link
        transfer = self.vector_bytes / bandwidth
        if ranks == 1:
            return 0.0
        if ring is not None:
            return latency + (ranks - 2) * ring + transfer
        if ranks < SCATTERED_FROM:
            return rounds(ranks) * (latency + transfer)
        return 2 * rounds(ranks) * latency + 2 * (ranks - 1) / ranks * transfer

    def message_seconds(self, ranks: int) -> float:
        """Return the time of an epoch's messages: sum, broadcast, and the short ones, of which α alone counts.

        These tell in ⌈log₂ P⌉ rounds whether a rank was stopped and, every tenth epoch, rank 0 the metrics of P − 1
        others one by one, which it broadcasts.
        """
        short = rounds(ranks) + (ranks - 1 + rounds(ranks)) / LOG_EVERY
        return self.sum_seconds(ranks) + self.broadcast_seconds(ranks) + short * self.link.latency

    def seconds(self, rows: int, ranks: int) -> float:
        """Return T(P) = largest share of the rows · operations / rate + what every rank does in full + messages."""
        work = rows * self.processor.row_seconds * self.largest_share(rows, ranks)
        return work + self.processor.replicated + self.message_seconds(ranks)

    def efficiency(self, rows: int, ranks: int) -> float:
        """Return T(1) / (P · T(P))."""
        return self.seconds(rows, 1) / (ranks * self.seconds(rows, ranks))

    def rows_for(self, efficiency: float, ranks: int, step: int) -> int:
        """Return the fewest rows at which P ranks reach an `efficiency` below 1, of the multiples of P · `step`."""
        if not efficiency < 1:
            raise ValueError(f"efficiency must be below 1, got {efficiency}")
        return next(rows for rows in count(ranks * step, ranks * step) if self.efficiency(rows, ranks) >= efficiency)
