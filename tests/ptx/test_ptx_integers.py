"""Integer instructions, against what NVIDIA's PTX ISA manual defines them to be, computed with Python's integers."""

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ptx import Undefined, UnknownInstruction
from ptx.instruction_helpers import run

Operation = Callable[..., int]
WIDE = ("u16", "s16", "u32", "s32", "u64", "s64")
WORDS = ("u32", "s32", "u64", "s64")
BITS = ("b16", "b32", "b64")


def bits(kind: str) -> int:
    return int(kind[1:])


def dtype(kind: str) -> np.dtype:
    return np.dtype(f"{'i' if kind[0] == 's' else 'u'}{bits(kind) // 8}")


def wrap(value: int, kind: str) -> int:
    """A number as the type holds it."""
    value %= 1 << bits(kind)
    return value - (1 << bits(kind)) if kind[0] == "s" and value >> bits(kind) - 1 else value


def interesting(kind: str) -> list[int]:
    size, chance = bits(kind), random.Random(kind)
    numbers = [0, 1, 2, 3, 7, 8, 100, 1 << size - 1, (1 << size - 1) - 1, (1 << size - 1) + 1, (1 << size) - 1]
    numbers += [(1 << size) - 2, 1 << size // 2, (1 << size // 2) - 1, 0x5555555555555555, 0xAAAAAAAAAAAAAAAA]
    return [wrap(number, kind) for number in numbers + [chance.getrandbits(size) for _ in range(6)]]


def cases(*kinds: str) -> list[tuple[int, ...]]:
    """Operands of an instruction: all combinations of what is interesting, or as many of them as threads fit."""
    every = list(itertools.product(*map(interesting, kinds)))
    return every if len(every) <= 992 else random.Random(1).sample(every, 992)


def check(
    instruction: str,
    kinds: tuple[str, ...],
    result: str,
    expected: Operation,
    given: list[tuple[int, ...]] | None = None,
    target: str = "sm_80",
) -> None:
    """Run an instruction of operands %a, %b, … and compare each thread's %x."""
    given = cases(*kinds) if given is None else given
    inputs = [np.array([operands[place] for operands in given], dtype(kind)) for place, kind in enumerate(kinds)]
    names = ", ".join(f"%{name}" for name in "abcd"[: len(kinds)])
    [found] = run(f"{instruction} %x, {names};", inputs, [dtype(result)], target=target)
    wanted = [wrap(expected(*operands), result) for operands in given]
    wrong = [(operands, int(f), w) for operands, f, w in zip(given, found, wanted, strict=True) if f != w]
    assert not wrong, f"{instruction}: {wrong[0]} of {len(wrong)}"


def truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return -quotient if (a < 0) != (b < 0) else quotient


SIMPLE: dict[str, tuple[tuple[str, ...], int, Operation]] = {
    "add": (WIDE, 2, lambda a, b: a + b),
    "sub": (WIDE, 2, lambda a, b: a - b),
    "mul.lo": (WIDE, 2, lambda a, b: a * b),
    "min": (WIDE, 2, min),
    "max": (WIDE, 2, max),
    "mad.lo": (WIDE, 3, lambda a, b, c: a * b + c),
    "sad": (WIDE, 3, lambda a, b, c: c + abs(a - b)),
    "neg": (("s16", "s32", "s64"), 1, lambda a: -a),
    "abs": (("s16", "s32", "s64"), 1, abs),
    "and": (BITS, 2, lambda a, b: a & b),
    "or": (BITS, 2, lambda a, b: a | b),
    "xor": (BITS, 2, lambda a, b: a ^ b),
    "not": (BITS, 1, lambda a: ~a),
    "cnot": (BITS, 1, lambda a: int(a == 0)),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, (kinds, _, _) in SIMPLE.items() for kind in kinds])
def test_arithmetic_and_logic(name: str, kind: str) -> None:
    _kinds, operands, expected = SIMPLE[name]
    check(f"{name}.{kind}", (kind,) * operands, kind, expected)


@pytest.mark.parametrize("kind", WIDE)
def test_upper_half_of_a_product(kind: str) -> None:
    check(f"mul.hi.{kind}", (kind, kind), kind, lambda a, b: a * b >> bits(kind))
    check(f"mad.hi.{kind}", (kind, kind, kind), kind, lambda a, b, c: (a * b >> bits(kind)) + c)


@pytest.mark.parametrize("kind", ["u16", "s16", "u32", "s32"])
def test_whole_product(kind: str) -> None:
    wide = f"{kind[0]}{2 * bits(kind)}"
    check(f"mul.wide.{kind}", (kind, kind), wide, lambda a, b: a * b)
    check(f"mad.wide.{kind}", (kind, kind, wide), wide, lambda a, b, c: a * b + c)


def test_saturation() -> None:
    def held(value: int) -> int:
        return max(-(2**31), min(value, 2**31 - 1))

    check("add.sat.s32", ("s32", "s32"), "s32", lambda a, b: held(a + b))
    check("sub.sat.s32", ("s32", "s32"), "s32", lambda a, b: held(a - b))
    check("mad.hi.sat.s32", ("s32", "s32", "s32"), "s32", lambda a, b, c: held((a * b >> 32) + c))


@pytest.mark.parametrize("kind", ["u32", "s32"])
def test_products_of_24_bits(kind: str) -> None:
    def low(a: int) -> int:
        a %= 1 << 24
        return a - (1 << 24) if kind == "s32" and a >> 23 else a

    check(f"mul24.lo.{kind}", (kind, kind), kind, lambda a, b: low(a) * low(b))
    check(f"mul24.hi.{kind}", (kind, kind), kind, lambda a, b: low(a) * low(b) >> 16)
    check(f"mad24.lo.{kind}", (kind, kind, kind), kind, lambda a, b, c: low(a) * low(b) + c)
    check(f"mad24.hi.{kind}", (kind, kind, kind), kind, lambda a, b, c: (low(a) * low(b) >> 16) + c)


@pytest.mark.parametrize("kind", WIDE)
def test_division(kind: str) -> None:
    given = [(a, b) for a, b in cases(kind, kind) if b]
    check(f"div.{kind}", (kind, kind), kind, truncated, given)
    check(f"rem.{kind}", (kind, kind), kind, lambda a, b: a - truncated(a, b) * b, given)


def test_division_by_zero() -> None:
    divisors = np.array([3, 0, 5], "u4")
    with pytest.raises(Undefined, match=r"test, line \d+ \(div\.u32 %x, %a, %b\), thread \(1, 0, 0\) of block"):
        run("div.u32 %x, %a, %b;", [divisors, divisors])
    guarded = "setp.ne.u32 %p, %b, 0; mov.u32 %x, 9; @%p div.u32 %x, %a, %b;"
    assert run(guarded, [divisors, divisors])[0].tolist() == [1, 9, 1]  # whom it does not concern, it does not stop


@pytest.mark.parametrize("size", [32, 64])
def test_carries(size: int) -> None:
    """Two words with carries between them are one of twice the bits."""
    kind, wide = f"u{size}", f"u{size}"
    given = cases(kind, kind, kind, kind)
    low_a, high_a, low_b, high_b = ([operands[place] for operands in given] for place in range(4))
    inputs = [np.array(numbers, dtype(wide)) for numbers in (low_a, high_a, low_b, high_b)]

    def whole(low: list[int], high: list[int]) -> list[int]:
        return [a + (b << size) for a, b in zip(low, high, strict=True)]

    a, b = whole(low_a, high_a), whole(low_b, high_b)
    for sign, body in (
        (1, f"add.cc.u{size} %x, %a, %c; addc.cc.u{size} %y, %b, %d; addc.u{size} %z, 0, 0;"),
        (-1, f"sub.cc.u{size} %x, %a, %c; subc.cc.u{size} %y, %b, %d; subc.u{size} %z, 0, 0;"),
    ):
        found = run(body, inputs, [dtype(kind)] * 3)
        for x, y, z, first, second in zip(*found, a, b, strict=True):
            assert int(x) | int(y) << size | int(z) << 2 * size == (first + sign * second) % (1 << 3 * size)


@pytest.mark.parametrize("size", [32, 64])
def test_products_with_carries(size: int) -> None:
    """A product of one word and two, as compilers make 128 bits of 64: mad.lo.cc, madc.hi and madc.lo."""
    kind = f"u{size}"
    given = cases(kind, kind, kind, kind)
    inputs = [np.array([operands[place] for operands in given], dtype(kind)) for place in range(4)]
    body = f"mad.lo.cc.{kind} %x, %a, %b, %c; madc.hi.{kind} %y, %a, %b, %d;"
    for (a, b, c, d), x, y in zip(given, *run(body, inputs, [dtype(kind)] * 2), strict=True):
        assert int(x) | int(y) << size == (a * b + c + (d << size)) % (1 << 2 * size)
    body = f"add.cc.{kind} %x, %a, %b; madc.lo.cc.{kind} %y, %a, %b, %c; addc.{kind} %z, 0, 0;"
    for (a, b, c, _d), y, z in zip(given, *run(body, inputs, [dtype(kind)] * 3)[1:], strict=True):
        total = a * b % (1 << size) + c + (a + b >> size)
        assert (int(y), int(z)) == (total % (1 << size), total >> size)


SHIFTS = [0, 1, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 2**31, 2**32 - 1]


@pytest.mark.parametrize("kind", [*BITS, *WIDE])
def test_shifts(kind: str) -> None:
    given = list(itertools.product(interesting(kind), SHIFTS))
    check(f"shr.{kind}", (kind, "u32"), kind, lambda a, n: a >> min(n, bits(kind)), given)
    if kind in BITS:
        check(f"shl.{kind}", (kind, "u32"), kind, lambda a, n: a << min(n, bits(kind)), given)


@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_funnel_shifts(mode: str) -> None:
    given = [(a, b, n) for a, b in cases("u32", "u32")[::8] for n in SHIFTS]

    def amount(n: int) -> int:
        return min(n, 32) if mode == "clamp" else n % 32

    check(f"shf.l.{mode}.b32", ("b32",) * 3, "b32", lambda a, b, n: ((b << 32 | a) << amount(n)) >> 32, given)
    check(f"shf.r.{mode}.b32", ("b32",) * 3, "b32", lambda a, b, n: (b << 32 | a) >> amount(n), given)


@pytest.mark.parametrize("table", range(256))
def test_any_function_of_three_bits(table: int) -> None:
    a, b, c = 0xF0, 0xCC, 0xAA  # what the manual computes the table from: the function of these bytes is the table
    inputs = [np.full(32, value, "u4") for value in (a, b, c)]
    assert (run(f"lop3.b32 %x, %a, %b, %c, {table:#x};", inputs)[0] & 0xFF == table).all()


@pytest.mark.parametrize("size", [32, 64])
def test_counts_of_bits(size: int) -> None:
    kind = f"b{size}"
    check(f"popc.{kind}", (kind,), "u32", lambda a: a.bit_count())
    check(f"clz.{kind}", (kind,), "u32", lambda a: size - a.bit_length())
    check(f"brev.{kind}", (kind,), kind, lambda a: int(f"{a:0{size}b}"[::-1], 2))


@pytest.mark.parametrize("kind", WORDS)
def test_highest_bit_that_is_not_the_sign(kind: str) -> None:
    def place(a: int) -> int:
        return (~a if a < 0 else a).bit_length() - 1

    check(f"bfind.{kind}", (kind,), "u32", place)
    check(f"bfind.shiftamt.{kind}", (kind,), "u32", lambda a: bits(kind) - 1 - place(a) if place(a) >= 0 else -1)


PLACES, LENGTHS = [0, 1, 8, 30, 31, 32, 40, 63, 64, 200, 255, 256], [0, 1, 7, 8, 31, 32, 33, 64, 255, 257]
FIELDS = list(itertools.product(PLACES, LENGTHS))


@pytest.mark.parametrize("kind", WORDS)
def test_field_is_extracted(kind: str) -> None:
    """The manual's loop over the bits, see `bfe`."""
    msb = bits(kind) - 1

    def extracted(a: int, position: int, length: int) -> int:
        position, length = position & 0xFF, length & 0xFF
        sign = 0 if kind[0] == "u" or length == 0 else a >> min(position + length - 1, msb) & 1
        found = [a >> position + i & 1 if i < length and position + i <= msb else sign for i in range(msb + 1)]
        return sum(bit << i for i, bit in enumerate(found))

    given = [(a, *field) for a in interesting(kind)[-8:] for field in FIELDS]
    check(f"bfe.{kind}", (kind, "u32", "u32"), kind, extracted, given)


@pytest.mark.parametrize("kind", ["b32", "b64"])
def test_field_is_inserted(kind: str) -> None:
    """The manual's loop over the bits, see `bfi`."""

    def inserted(a: int, b: int, position: int, length: int) -> int:
        position, length = position & 0xFF, length & 0xFF
        for i in range(length):
            if position + i < bits(kind):
                b = b & ~(1 << position + i) | (a >> i & 1) << position + i
        return b

    given = [(a, b, *field) for a, b in cases(kind, kind)[::61] for field in FIELDS]
    check(f"bfi.{kind}", (kind, kind, "u32", "u32"), kind, inserted, given)


@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_mask_of_a_field(mode: str) -> None:
    def masked(position: int, length: int) -> int:
        if mode == "wrap":
            position, length = position % 32, length % 32
        return ((1 << min(length, 32)) - 1) << min(position, 32)

    check(f"bmsk.{mode}.b32", ("u32", "u32"), "b32", masked, FIELDS)


@pytest.mark.parametrize("kind", ["u32", "s32"])
@pytest.mark.parametrize("mode", ["clamp", "wrap"])
def test_extension_of_the_lowest_bits(mode: str, kind: str) -> None:
    def extended(a: int, count: int) -> int:
        count = count % 32 if mode == "wrap" else min(count, 32)
        a &= (1 << count) - 1
        return a - (1 << count) if kind == "s32" and count and a >> count - 1 else a

    given = list(itertools.product(interesting(kind), SHIFTS))
    check(f"szext.{mode}.{kind}", (kind, "u32"), kind, extended, given)


def permuted(a: int, b: int, selectors: list[int]) -> int:
    """The manual's definition of prmt: a selector's low three bits pick a byte, the fourth its sign instead."""
    pool = [*a.to_bytes(4, "little"), *b.to_bytes(4, "little")]
    picked = [(255 * (pool[s & 7] >> 7)) if s & 8 else pool[s & 7] for s in selectors]
    return int.from_bytes(bytes(picked), "little")


def test_bytes_are_permuted() -> None:
    chance = random.Random(2)
    given = [tuple(chance.getrandbits(32) for _ in range(3)) for _ in range(500)]
    check("prmt.b32", ("b32",) * 3, "b32", lambda a, b, c: permuted(a, b, [c >> 4 * i & 15 for i in range(4)]), given)


# The manual's table: bytes 3 to 0 of the result, for each value of the lowest two bits of the third operand.
MODES = {
    "f4e": ["3210", "4321", "5432", "6543"],
    "b4e": ["5670", "6701", "7012", "0123"],
    "rc8": ["0000", "1111", "2222", "3333"],
    "ecl": ["3210", "3211", "3222", "3333"],
    "ecr": ["0000", "1110", "2210", "3210"],
    "rc16": ["1010", "3232", "1010", "3232"],
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_of_permutation(mode: str) -> None:
    given = [(a, b, c) for a, b in cases("b32", "b32")[::50] for c in (0, 1, 2, 3, 4, 7, 2**32 - 2)]

    def expected(a: int, b: int, c: int) -> int:
        return permuted(a, b, [int(digit) for digit in reversed(MODES[mode][c % 4])])

    check(f"prmt.b32.{mode}", ("b32",) * 3, "b32", expected, given)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(("u32", "s32"), repeat=2)))
def test_products_of_bytes(first: str, second: str) -> None:
    chance = random.Random(3)
    given = [tuple(chance.getrandbits(32) for _ in range(3)) for _ in range(200)]
    result = "u32" if first == second == "u32" else "s32"

    def parts(value: int, size: int, kind: str) -> list[int]:
        whole = [value >> size * i & (1 << size) - 1 for i in range(32 // size)]
        return [wrap(part, f"{kind[0]}{size}") for part in whole]

    def four(a: int, b: int, c: int) -> int:
        return c + sum(x * y for x, y in zip(parts(a, 8, first), parts(b, 8, second), strict=True))

    def two(a: int, b: int, c: int, start: int) -> int:
        chosen = parts(b, 8, second)[start : start + 2]
        return c + sum(x * y for x, y in zip(parts(a, 16, first), chosen, strict=True))

    check(f"dp4a.{first}.{second}", ("b32",) * 3, result, four, given)
    check(f"dp2a.lo.{first}.{second}", ("b32",) * 3, result, lambda a, b, c: two(a, b, c, 0), given)
    check(f"dp2a.hi.{first}.{second}", ("b32",) * 3, result, lambda a, b, c: two(a, b, c, 2), given)


ORDERS: dict[str, Operation] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


@pytest.mark.parametrize("kind", [*WIDE, *BITS])
def test_comparisons(kind: str) -> None:
    names = {name: name for name in (("eq", "ne") if kind in BITS else ORDERS)}
    if kind[0] == "u":
        names |= UNSIGNED
    given = cases(kind, kind)
    inputs = [np.array(numbers, dtype(kind)) for numbers in zip(*given, strict=True)]
    for name, meaning in names.items():
        wanted = [ORDERS[meaning](*operands) for operands in given]
        [found] = run(f"setp.{name}.{kind} %p, %a, %b; selp.u32 %x, 1, 0, %p;", inputs)
        assert found.tolist() == wanted
        found = run(f"set.{name}.u32.{kind} %x, %a, %b; set.{name}.f32.{kind} %y, %a, %b;", inputs, ["u4", "f4"])
        assert found[0].tolist() == [0xFFFFFFFF * holds for holds in wanted]
        assert found[1].tolist() == [1.0 * holds for holds in wanted]


@pytest.mark.parametrize("negation", ["", "!"])
@pytest.mark.parametrize(("name", "join"), [("and", "&"), ("or", "|"), ("xor", "^")])
def test_comparison_combined_with_a_predicate_has_two_results(name: str, join: str, negation: str) -> None:
    """The manual: p = (a CmpOp b) BoolOp c; q = !(a CmpOp b) BoolOp c."""
    a, c = np.array([0, 1, 0, 1], "u4"), np.array([0, 0, 1, 1], "u4")
    body = f"""setp.ne.u32 %q, %b, 0;
        setp.eq.{name}.u32 %p|%q, %a, 1, {negation}%q;
        selp.u32 %x, 1, 0, %p; selp.u32 %y, 1, 0, %q;"""
    found = run(body, [a, c], ["u4", "u4"])
    given = [not other for other in c] if negation else c.astype(bool).tolist()
    holds = [int(value) == 1 for value in a]
    assert found[0].tolist() == [eval(f"{x} {join} {y}") for x, y in zip(holds, given, strict=True)]
    assert found[1].tolist() == [eval(f"{not x} {join} {y}") for x, y in zip(holds, given, strict=True)]


def test_two_results_of_a_plain_comparison() -> None:
    body = "setp.lt.s32 %p|%q, %a, 0; selp.u32 %x, 1, 0, %p; selp.u32 %y, 1, 0, %q;"
    found = run(body, [np.array([-1, 0, 1], "i4")], ["u4", "u4"])
    assert [values.tolist() for values in found] == [[1, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize("name", ["and", "or", "xor"])
def test_logic_of_predicates(name: str) -> None:
    expected = {"and": [0, 0, 0, 1], "or": [0, 1, 1, 1], "xor": [0, 1, 1, 0]}[name]
    body = f"""setp.ne.u32 %p, %a, 0; setp.ne.u32 %q, %b, 0;
        {name}.pred %p, %p, %q; selp.u32 %x, 1, 0, %p;
        not.pred %p, %p; mov.pred %q, %p; selp.u32 %y, 1, 0, %q;"""
    found = run(body, [np.array([0, 0, 1, 1], "u4"), np.array([0, 1, 0, 1], "u4")], ["u4", "u4"])
    assert found[0].tolist() == expected
    assert found[1].tolist() == [1 - value for value in expected]


@pytest.mark.parametrize("kind", ["b16", "u32", "s64"])
def test_selection_by_a_sign(kind: str) -> None:
    check(f"slct.{kind}.s32", (kind, kind, "s32"), kind, lambda a, b, c: a if c >= 0 else b)


def test_immediate_operands() -> None:
    a = np.array([10, 20], "u4")
    body = "add.s32 %x, %a, -3; and.b32 %y, 0xF0, %a; shl.b32 %z, 1, %a; sub.u32 %w, 011, %a;"
    found = run(body, [a], ["i4", "u4", "u4", "i4"])
    assert [values.tolist() for values in found] == [[7, 17], [0, 16], [1024, 1 << 20], [-1, -11]]


UNKNOWN: list[Any] = [
    "add.u8 %x, %a, %b",
    "add.sat.u32 %x, %a, %b",
    "add.rn.u32 %x, %a, %b",
    "mul.u32 %x, %a, %b",
    "mul.wide.u64 %l0, %l1, %l2",
    "neg.u32 %x, %a",
    "fma.rn.u32 %x, %a, %b, %a",
    "setp.lt.b32 %p, %a, %b",
    "setp.lo.s32 %p, %a, %b",
    "setp.equ.u32 %p, %a, %b",
    "shl.u32 %x, %a, %b",
    "shf.l.b32 %x, %a, %b, %a",
    "lop3.or.b32 %x|%p, %a, %b, %a, 3, %q",
    "popc.u32 %x, %a",
    "prmt.b32.f5e %x, %a, %b, %a",
    "add.u32 %x, %a",
    "add.u32 %x, %a, %l0",
    "madc.wide.u32 %x, %a, %b, %a",
    "vadd.u32.u32.u32 %x, %a, %b",
    "frobnicate.b32 %x, %a",
]


@pytest.mark.parametrize("instruction", UNKNOWN)
def test_unknown_instruction_is_named(instruction: str) -> None:
    values = np.zeros(2, "u4")
    with pytest.raises(UnknownInstruction) as error:
        run(f"{instruction};", [values, values])
    assert f"({instruction}): unknown instruction {instruction.split()[0]}" in str(error.value)
    assert str(error.value).startswith("test, line ")
