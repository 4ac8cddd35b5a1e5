"""Random numbers by place: what a row draws in an epoch depends on its number, the epoch and a seed, and on no more.

The generator is counter-based (Salmon, Moraes, Dror & Shaw, *Parallel Random Numbers: As Easy as 1, 2, 3*, SC 2011):
a place goes in, and well-mixed bits come out. They are mixed by the finalizer of MurmurHash3 (Appleby, 2011), in
32-bit integers, which every device computes alike. So blocks, threads, ranks and devices all draw the same, nothing
that was drawn has to be kept, and a resumed training draws what it would have drawn.
"""

import hashlib
from typing import Any, NamedTuple

from fmnist_xp.backend import Array, Backend, elementwise


class Draws(NamedTuple):
    """Who draws, and when: the `numbers` (rows,) of a block's rows among all, and the `epoch` (1,), both uint32."""

    numbers: Array
    epoch: Array


def mixed(xp: Any, bits: Array, out: Array | None = None) -> Array:
    """Return the 32 `bits` of each element mixed, one to one; intermediate results go to `out`, if given."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = xp.bitwise_xor(bits, xp.right_shift(bits, xp.uint32(shift)), out=out)
        bits = xp.multiply(bits, xp.uint32(factor), out=out)
    return xp.bitwise_xor(bits, xp.right_shift(bits, xp.uint32(16)), out=out)


@elementwise
def row_keys(xp: Any, numbers: Array, epoch: Array, seed: Any, keys: Array) -> None:
    """Write what sets each row's draws in this `epoch` (1,) apart to `keys`, of the shape of `numbers`."""
    keys[...] = mixed(xp, xp.bitwise_xor(numbers, mixed(xp, xp.bitwise_xor(epoch, seed))))


def seed_of(backend: Backend, *names: Any) -> Any:
    """Return a 32-bit seed for what `names`, such as a user's seed and a layer's number, stand for."""
    return backend.xp.uint32(int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:4], "little"))


def column_codes(backend: Backend, count: int) -> Array:
    """Return what sets the draws of `count` columns apart, (1, count) of uint32."""
    return mixed(backend.xp, backend.xp.arange(1, count + 1, dtype="uint32"))[None, :]
