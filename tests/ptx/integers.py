"""What integer instructions compute: pure functions of NumPy arrays.

An operand is an array of the type that the instruction names (`s32` is int32); bits are unsigned arrays. Results wrap
around as the registers do. The definitions are those of NVIDIA's PTX ISA manual, chapters "Integer Arithmetic",
"Extended-Precision Integer Arithmetic", "Logic and Shift" and "Data Movement" (`prmt`, `shf`).
"""

from collections.abc import Callable
from functools import cache

import numpy as np

Array = np.ndarray

WIDER = {np.dtype(f"{kind}{size}"): np.dtype(f"{kind}{2 * size}") for kind in "iu" for size in (1, 2, 4)}


def width(a: Array) -> int:
    """Return the number of bits of an operand."""
    return a.dtype.itemsize * 8


def unsigned(a: Array) -> Array:
    """Return the same bits as an unsigned integer."""
    return a.view(f"u{a.dtype.itemsize}")


def mul_wide(a: Array, b: Array) -> Array:
    """Return the whole product, in twice the bits."""
    wider = WIDER[a.dtype]
    return np.multiply(a, b, dtype=wider)


def mul_hi(a: Array, b: Array) -> Array:
    """Return the upper half of the product."""
    if a.dtype in WIDER:
        return (mul_wide(a, b) >> width(a)).astype(a.dtype)
    x, y = unsigned(a), unsigned(b)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    cross = (x >> half) * (y & low) + ((x & low) * (y & low) >> half)
    other = (x & low) * (y >> half) + (cross & low)
    high = (x >> half) * (y >> half) + (cross >> half) + (other >> half)
    if a.dtype.kind == "i":  # the product of two's complements: take off what the sign bits added
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return high.view(a.dtype)


def mul24(a: Array, b: Array) -> Array:
    """Return the whole product of the lower 24 bits, sign-extended where the type is signed, as 64 bits."""
    shift = a.dtype.type(8)
    return mul_wide((a << shift) >> shift, (b << shift) >> shift)


def mul24_lo(a: Array, b: Array) -> Array:
    """Return the lower 32 bits of the 48-bit product."""
    return mul24(a, b).astype(a.dtype)


def mul24_hi(a: Array, b: Array) -> Array:
    """Return bits 16 to 47 of the 48-bit product."""
    return (mul24(a, b) >> 16).astype(a.dtype)


def div(a: Array, b: Array) -> Array:
    """Return the quotient, cut off toward zero. No divisor may be zero: the manual leaves that result open."""
    if a.dtype.kind == "u":
        return a // b
    quotient = magnitude(a) // magnitude(b)
    return np.where((a < 0) != (b < 0), (~quotient) + quotient.dtype.type(1), quotient).view(a.dtype)


def rem(a: Array, b: Array) -> Array:
    """Return what `div` leaves, with the sign of the dividend."""
    return a - div(a, b) * b


def magnitude(a: Array) -> Array:
    """Return the absolute value as an unsigned integer, which holds that of the lowest number too."""
    return np.abs(a).view(f"u{a.dtype.itemsize}")


def neg(a: Array) -> Array:
    """Return the two's complement."""
    return np.negative(a)


def sad(a: Array, b: Array, c: Array) -> Array:
    """Return c + |a - b|."""
    return c + np.where(a < b, b - a, a - b)


def add_sat(a: Array, b: Array) -> Array:
    """Return the sum of s32, held between the lowest and the highest number."""
    return np.clip(a.astype(np.int64) + b, -(2**31), 2**31 - 1).astype(np.int32)


def sub_sat(a: Array, b: Array) -> Array:
    """Return the difference of s32, held between the lowest and the highest number."""
    return np.clip(a.astype(np.int64) - b, -(2**31), 2**31 - 1).astype(np.int32)


def mad_hi_sat(a: Array, b: Array, c: Array) -> Array:
    """Return `mul_hi` + c of s32, held between the lowest and the highest number."""
    return add_sat(mul_hi(a, b), c)


def add_carry(a: Array, b: Array, carry: Array | None = None) -> tuple[Array, Array]:
    """Return the sum of unsigned numbers and of the carry in, and the carry out."""
    total = a + b
    out = total < a
    if carry is not None:
        total = total + carry
        out = out | (carry & (total == 0))
    return total, out


def sub_borrow(a: Array, b: Array, borrow: Array | None = None) -> tuple[Array, Array]:
    """Return the difference of unsigned numbers and of the borrow in, and the borrow out."""
    difference = a - b
    out = a < b
    if borrow is not None:
        out = out | (borrow & (difference == 0))
        difference = difference - borrow
    return difference, out


def shl(a: Array, amount: Array) -> Array:
    """Return the bits moved up; an amount above the width (u32) counts as the width."""
    bits = width(a)
    moved = a << np.minimum(amount, bits - 1).astype(a.dtype)
    return np.where(amount >= bits, a.dtype.type(0), moved)


def shr(a: Array, amount: Array) -> Array:
    """Return the bits moved down, with copies of the sign where the type is signed; amounts as for `shl`."""
    bits = width(a)
    moved = a >> np.minimum(amount, bits - 1).astype(a.dtype)
    return moved if a.dtype.kind == "i" else np.where(amount >= bits, a.dtype.type(0), moved)


def funnel(low: Array, high: Array) -> Array:
    """Return two registers as one of 64 bits."""
    return (high.astype(np.uint64) << np.uint64(32)) | low


def shf_l(low: Array, high: Array, amount: Array) -> Array:
    """Return the upper word of two after a shift up by an amount from 0 to 32."""
    return ((funnel(low, high) << amount.astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)


def shf_r(low: Array, high: Array, amount: Array) -> Array:
    """Return the lower word of two after a shift down by an amount from 0 to 32."""
    return (funnel(low, high) >> amount.astype(np.uint64)).astype(np.uint32)


def clamped(amount: Array) -> Array:
    """Return the amount that `shf` takes with `.clamp`."""
    return np.minimum(amount, np.uint32(32))


def wrapped(amount: Array) -> Array:
    """Return the amount that `shf` takes with `.wrap`."""
    return amount & np.uint32(31)


def popc(a: Array) -> Array:
    """Return the number of ones."""
    return np.bitwise_count(a).astype(np.uint32)


def highest(a: Array) -> Array:
    """Return the place of the highest one, and -1 for zero, as int64."""
    upper, lower = (a >> a.dtype.type(width(a) // 2)), a & a.dtype.type(2 ** (width(a) // 2) - 1)
    # Halves of at most 32 bits are exact as float64, whose exponent is the place.
    place = np.where(upper > 0, np.frexp(upper.astype(np.float64))[1] + width(a) // 2, np.frexp(lower * 1.0)[1])
    return place.astype(np.int64) - 1


def clz(a: Array) -> Array:
    """Return the number of zeros above the highest one."""
    return (width(a) - 1 - highest(a)).astype(np.uint32)


def bfind(a: Array) -> Array:
    """Return the place of the highest bit that is not the sign's, and 2**32 - 1 where there is none."""
    if a.dtype.kind == "i":
        a = np.where(a < 0, ~a, a)
    return highest(unsigned(a)).astype(np.uint32)


def bfind_shiftamt(a: Array) -> Array:
    """Return by how much to shift up so that bit comes to the top, and 2**32 - 1 where there is none."""
    place = bfind(a)
    return np.where(place == np.uint32(0xFFFFFFFF), place, np.uint32(width(a) - 1) - place)


def brev(a: Array) -> Array:
    """Return the bits in reverse order."""
    bits = np.unpackbits(np.ascontiguousarray(a).view(np.uint8), bitorder="little").reshape(len(a), -1)
    return np.packbits(bits[:, ::-1], axis=1, bitorder="little").view(a.dtype).reshape(-1)


def ones(count: Array, dtype: np.dtype) -> Array:
    """Return numbers whose lowest `count` bits are set, all of them from the width on."""
    return ~shl(np.full(len(count), ~dtype.type(0)), count)


def bfe(a: Array, position: Array, length: Array) -> Array:
    """Return a field of bits, with copies of its highest one where the type is signed."""
    position, length = position & np.uint32(0xFF), length & np.uint32(0xFF)
    bits, field = width(a), ones(length, unsigned(a).dtype)
    value = shr(unsigned(a), position) & field
    if a.dtype.kind == "u":
        return value
    top = np.minimum(position + length - np.uint32(1), np.uint32(bits - 1))
    sign = (length > 0) & ((shr(unsigned(a), top) & unsigned(a).dtype.type(1)) == 1)
    inside = ones(np.where(position < bits, np.minimum(length, bits - position), np.uint32(0)), field.dtype)
    return np.where(sign, value & inside | ~inside, value & inside).view(a.dtype)


def bfi(a: Array, b: Array, position: Array, length: Array) -> Array:
    """Return b with a field of it replaced by the lowest bits of a."""
    position, length = position & np.uint32(0xFF), length & np.uint32(0xFF)
    field = shl(ones(length, b.dtype), position)
    return (b & ~field) | (shl(a, position) & field)


def bmsk(position: Array, length: Array, wrap: bool) -> Array:
    """Return a field of ones."""
    if wrap:
        position, length = position & np.uint32(31), length & np.uint32(31)
    return shl(ones(length, np.dtype(np.uint32)), position)


def szext(a: Array, bits: Array, wrap: bool) -> Array:
    """Return the lowest bits of a, extended with copies of the highest of them, or with zeros if unsigned."""
    bits = bits & np.uint32(31) if wrap else np.minimum(bits, np.uint32(32))
    inside = ones(bits, np.dtype(np.uint32))
    value = unsigned(a) & inside
    if a.dtype.kind == "u":
        return value
    sign = (bits > 0) & (value >> (np.maximum(bits, np.uint32(1)) - np.uint32(1)) == 1)
    return np.where(sign, value | ~inside, value).view(a.dtype)


TWO = (  # of two operands, by the four bits of their truth table: that of (1, 1) is the highest, of (0, 0) the lowest
    lambda b, c: np.zeros_like(b),
    lambda b, c: ~(b | c),
    lambda b, c: ~b & c,
    lambda b, c: ~b,
    lambda b, c: b & ~c,
    lambda b, c: ~c,
    lambda b, c: b ^ c,
    lambda b, c: ~(b & c),
    lambda b, c: b & c,
    lambda b, c: ~(b ^ c),
    lambda b, c: c,
    lambda b, c: ~b | c,
    lambda b, c: b,
    lambda b, c: b | ~c,
    lambda b, c: b | c,
    lambda b, c: ~np.zeros_like(b),
)


@cache
def lop3(table: int) -> Callable[[Array, Array, Array], Array]:
    """Return the function of three operands that a truth table of eight bits describes."""
    with_a, without = TWO[table >> 4], TWO[table & 15]
    if with_a is without:
        return lambda a, b, c: with_a(b, c)
    if table & 15 == 0:
        return lambda a, b, c: a & with_a(b, c)
    return lambda a, b, c: (a & with_a(b, c)) | (~a & without(b, c))


def prmt(a: Array, b: Array, selector: Array) -> Array:
    """Return bytes picked from two words; with its highest bit, a nibble of the selector takes the sign alone."""
    pair = np.stack((a, b), axis=1).view(np.uint8)
    if (selector == selector[0]).all():
        nibbles = (selector[0] >> np.arange(0, 16, 4, dtype=np.uint32)) & np.uint32(15)
        picked = pair[:, nibbles & 7]
    else:
        nibbles = (selector[:, None] >> np.arange(0, 16, 4, dtype=np.uint32)) & np.uint32(15)
        picked = np.take_along_axis(pair, (nibbles & 7).astype(np.intp), axis=1)
    if (nibbles & 8).any():
        picked = np.where(nibbles & 8, np.where(picked & 0x80, np.uint8(0xFF), np.uint8(0)), picked)
    return np.ascontiguousarray(picked).view(np.uint32).reshape(-1)


PRMT = {  # the selector, by mode and by the lowest two bits of what the instruction is given
    "f4e": (0x3210, 0x4321, 0x5432, 0x6543),
    "b4e": (0x5670, 0x6701, 0x7012, 0x0123),
    "rc8": (0x0000, 0x1111, 0x2222, 0x3333),
    "ecl": (0x3210, 0x3211, 0x3222, 0x3333),
    "ecr": (0x0000, 0x1110, 0x2210, 0x3210),
    "rc16": (0x1010, 0x3232, 0x1010, 0x3232),
}


def prmt_selector(mode: str, given: Array) -> Array:
    """Return the selector that a mode makes of the lowest two bits of an operand."""
    return np.array(PRMT[mode], np.uint32)[given & np.uint32(3)]


def parts(a: Array, size: int, signed: bool) -> Array:
    """Return the bytes (`size` 1) or halves (2) of words, (n, number of parts), as int64."""
    return a.view(f"{'i' if signed else 'u'}{size}").reshape(len(a), -1).astype(np.int64)


def dp4a(a: Array, b: Array, c: Array, signed_a: bool, signed_b: bool) -> Array:
    """Return c plus the products of four bytes."""
    return c + (parts(a, 1, signed_a) * parts(b, 1, signed_b)).sum(axis=1).astype(c.dtype)


def dp2a(a: Array, b: Array, c: Array, signed_a: bool, signed_b: bool, upper: bool) -> Array:
    """Return c plus the products of two halves of a and two bytes of b, the upper or the lower ones."""
    two = parts(b, 1, signed_b)[:, 2:] if upper else parts(b, 1, signed_b)[:, :2]
    return c + (parts(a, 2, signed_a) * two).sum(axis=1).astype(c.dtype)
