"""Decoders of what a thread computes from registers: integers, bits, comparisons and selections."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx import floats, integers
from ptx.decode import DTYPES, INTEGERS, Decoding, Step, instruction
from ptx.errors import Undefined
from ptx.floating import arithmetic as floating
from ptx.rounding import flush, widen

if TYPE_CHECKING:
    from ptx.machine import Launch

Array = np.ndarray
WIDE = ("u16", "s16", "u32", "s32", "u64", "s64")
BITS = ("b16", "b32", "b64")


@instruction("add", "sub", "mul", "min", "max", "neg", "abs", "div", "fma", "mad")
def arithmetic(at: Decoding) -> Step:
    """Of floats in `ptx.floating`; of integers here."""
    if not set(at.modifiers[-1:]) & INTEGERS.keys():
        return floating(at)
    if at.head in ("mul", "mad"):
        return multiply(at)
    if at.head in ("add", "sub") and at.flag("cc"):
        return carry(at, False)
    kind = at.type(*WIDE)
    if at.head in ("add", "sub") and at.flag("sat"):
        if kind != "s32":
            raise at.unknown()
        return at.compute(integers.add_sat if at.head == "add" else integers.sub_sat, kind, kind, kind)
    if at.head in ("neg", "abs"):
        if kind[0] != "s":
            raise at.unknown()
        return at.compute(integers.neg if at.head == "neg" else np.abs, kind, kind)
    if at.head == "div":
        return divide(at, integers.div, kind)
    functions = {"add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum}
    if at.head not in functions:
        raise at.unknown()
    return at.compute(functions[at.head], kind, kind, kind)


def multiply(at: Decoding) -> Step:
    """`mul` and `mad`, `.lo`, `.hi` and `.wide`."""
    kind = at.type(*WIDE)
    part = at.needed("lo", "hi", "wide")
    if at.head == "mad" and at.flag("cc"):
        return multiply_carry(at, part, kind, False)
    saturate = at.flag("sat")
    if saturate and (part, kind, at.head) != ("hi", "s32", "mad"):
        raise at.unknown()
    function = {"lo": np.multiply, "hi": integers.mul_hi, "wide": integers.mul_wide}[part]
    result = kind
    if part == "wide":
        if kind.endswith("64"):
            raise at.unknown()
        result = kind[0] + str(2 * int(kind[1:]))
    if at.head == "mul":
        return at.compute(function, result, kind, kind)
    if saturate:
        return at.compute(integers.mad_hi_sat, kind, kind, kind, kind)
    return at.compute(lambda a, b, c: function(a, b) + c, result, kind, kind, result)


@instruction("rem")
def remainder(at: Decoding) -> Step:
    """`rem`."""
    return divide(at, integers.rem, at.type(*WIDE))


def divide(at: Decoding, function: Callable[[Array, Array], Array], kind: str) -> Step:
    """Return a step that divides; by zero is an error, as the manual leaves the result open."""
    target, a, b = at.result(kind), at.read(1, kind), at.read(2, kind)
    at.done(3)
    dtype = DTYPES[kind]

    def step(launch: "Launch") -> None:
        dividend, divisor = launch.registers[a].view(dtype), launch.registers[b].view(dtype)
        zero = divisor == 0
        if zero.any():
            wrong = zero if launch.mask is None else zero & launch.mask
            if wrong.any():
                raise Undefined("divides an integer by zero", int(wrong.argmax()))
            divisor = np.where(zero, dtype.type(1), divisor)
        launch.write(target, function(dividend, divisor))

    return step


@instruction("mul24", "mad24")
def multiply_24(at: Decoding) -> Step:
    """`mul24` and `mad24`."""
    kind, part = at.type("u32", "s32"), at.needed("lo", "hi")
    function = integers.mul24_lo if part == "lo" else integers.mul24_hi
    if at.head == "mul24":
        return at.compute(function, kind, kind, kind)
    return at.compute(lambda a, b, c: function(a, b) + c, kind, kind, kind, kind)


@instruction("sad")
def sad(at: Decoding) -> Step:
    """`sad`."""
    kind = at.type(*WIDE)
    return at.compute(integers.sad, kind, kind, kind, kind)


@instruction("addc", "subc", "madc")
def with_carry(at: Decoding) -> Step:
    """Instructions that take the carry flag."""
    if at.head == "madc":
        kind, part = at.type("u32", "s32", "u64", "s64"), at.needed("lo", "hi")
        at.modifiers += ["cc"] if at.flag("cc") else []
        return multiply_carry(at, part, kind, True)
    return carry(at, True)


CARRY = 0
"""The register of the carry flag."""


def carry(at: Decoding, takes: bool) -> Step:
    """Return the step of a sum or difference with a carry in, out, or both."""
    kind = at.type("u32", "s32", "u64", "s64")
    gives = at.flag("cc") or not takes
    function = integers.add_carry if at.head.startswith("add") else integers.sub_borrow
    word = "b" + kind[1:]
    target, a, b = at.result(word), at.read(1, word), at.read(2, word)
    at.done(3)

    def step(launch: "Launch") -> None:
        registers = launch.registers
        result, out = function(registers[a], registers[b], registers[CARRY] if takes else None)
        launch.write(target, result)
        if gives:
            launch.write(CARRY, out)

    return step


def multiply_carry(at: Decoding, part: str, kind: str, takes: bool) -> Step:
    """Return the step of a product and a sum, with a carry in, out, or both."""
    gives = at.flag("cc") or not takes
    if kind not in ("u32", "s32", "u64", "s64") or part == "wide":
        raise at.unknown()
    function = np.multiply if part == "lo" else integers.mul_hi
    word, dtype = "b" + kind[1:], DTYPES[kind]
    target, a, b, c = at.result(word), at.read(1, word), at.read(2, word), at.read(3, word)
    at.done(4)

    def step(launch: "Launch") -> None:
        registers = launch.registers
        product = function(registers[a].view(dtype), registers[b].view(dtype)).view(registers[c].dtype)
        result, out = integers.add_carry(product, registers[c], registers[CARRY] if takes else None)
        launch.write(target, result)
        if gives:
            launch.write(CARRY, out)

    return step


# Bits


@instruction("and", "or", "xor", "not", "cnot")
def logic(at: Decoding) -> Step:
    """Bit by bit; `cnot` is 1 for zero and else 0."""
    kind = at.type("pred", *BITS) if at.head != "cnot" else at.type(*BITS)
    if at.head == "not":
        return at.compute(np.invert, kind, kind)
    if at.head == "cnot":
        return at.compute(lambda a: (a == 0).astype(a.dtype), kind, kind)
    return at.compute({"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[at.head], kind, kind, kind)


@instruction("shl")
def shift_left(at: Decoding) -> Step:
    """`shl`."""
    kind = at.type(*BITS)
    return at.compute(integers.shl, kind, kind, "u32")


@instruction("shr")
def shift_right(at: Decoding) -> Step:
    """`shr`."""
    kind = at.type(*BITS, *WIDE)
    return at.compute(integers.shr, kind, kind, "u32")


@instruction("shf")
def funnel_shift(at: Decoding) -> Step:
    """`shf`."""
    at.type("b32")
    way, mode = at.needed("l", "r"), at.needed("wrap", "clamp")
    shift = integers.shf_l if way == "l" else integers.shf_r
    amount = integers.wrapped if mode == "wrap" else integers.clamped
    return at.compute(lambda a, b, c: shift(a, b, amount(c)), "b32", "b32", "b32", "u32")


@instruction("lop3")
def lop3(at: Decoding) -> Step:
    """`lop3`, without a predicate."""
    at.type("b32")
    table = at.operands[4].value
    at.operands = at.operands[:4]
    return at.compute(integers.lop3(table), "b32", "b32", "b32", "b32")


@instruction("popc", "clz", "bfind", "brev")
def counts(at: Decoding) -> Step:
    """`popc`, `clz`, `bfind`, `brev`."""
    if at.head == "bfind":
        kind = at.type("u32", "s32", "u64", "s64")
        return at.compute(integers.bfind_shiftamt if at.flag("shiftamt") else integers.bfind, "u32", kind)
    kind = at.type("b32", "b64")
    return at.compute(getattr(integers, at.head), kind if at.head == "brev" else "u32", kind)


@instruction("bfe")
def bfe(at: Decoding) -> Step:
    """`bfe`."""
    kind = at.type("u32", "s32", "u64", "s64")
    return at.compute(integers.bfe, kind, kind, "u32", "u32")


@instruction("bfi")
def bfi(at: Decoding) -> Step:
    """`bfi`."""
    kind = at.type("b32", "b64")
    return at.compute(integers.bfi, kind, kind, kind, "u32", "u32")


@instruction("bmsk")
def bmsk(at: Decoding) -> Step:
    """`bmsk`."""
    at.type("b32")
    wrap = at.needed("clamp", "wrap") == "wrap"
    return at.compute(lambda a, b: integers.bmsk(a, b, wrap), "b32", "u32", "u32")


@instruction("szext")
def szext(at: Decoding) -> Step:
    """`szext`."""
    kind = at.type("u32", "s32")
    wrap = at.needed("clamp", "wrap") == "wrap"
    return at.compute(lambda a, b: integers.szext(a, b, wrap), kind, kind, "u32")


@instruction("prmt")
def prmt(at: Decoding) -> Step:
    """`prmt`, in all its modes."""
    mode = at.option(*integers.PRMT)
    at.type("b32")
    function = integers.prmt
    if mode is not None:
        name = mode

        def function(a: Array, b: Array, given: Array) -> Array:
            return integers.prmt(a, b, integers.prmt_selector(name, given))

    return at.compute(function, "b32", "b32", "b32", "b32")


@instruction("dp4a", "dp2a")
def dot_product(at: Decoding) -> Step:
    """`dp4a` and `dp2a`."""
    types = at.modifiers[-2:]
    del at.modifiers[-2:]
    if len(types) != 2 or not set(types) <= {"u32", "s32"}:
        raise at.unknown()
    result = "u32" if types == ["u32", "u32"] else "s32"
    signed = [kind == "s32" for kind in types]
    if at.head == "dp4a":
        return at.compute(lambda a, b, c: integers.dp4a(a, b, c, *signed), result, "b32", "b32", result)
    upper = at.needed("lo", "hi") == "hi"
    return at.compute(lambda a, b, c: integers.dp2a(a, b, c, *signed, upper), result, "b32", "b32", result)


# Comparisons and selections

UNSIGNED = {"lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
ORDERED = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal}
ORDERED |= {"gt": np.greater, "ge": np.greater_equal}
UNORDERED = ("equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan")
COMBINED = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def comparison(at: Decoding, kind: str) -> Callable[[Array, Array], Array]:
    """Return the function that a comparison of this type is."""
    if kind in INTEGERS or kind in BITS:
        names: Any = ORDERED | UNSIGNED
        if kind in BITS:
            names = {"eq": np.equal, "ne": np.not_equal}
        elif kind[0] == "s":
            names = ORDERED
        return names[at.needed(*names)]
    name = at.needed(*ORDERED, *UNORDERED)
    ftz = kind in ("f32", "f16", "f16x2") and at.flag("ftz")
    if kind in ("f16", "bf16"):
        at.needs(90 if kind == "bf16" else 53)

        def half(a: Array, b: Array) -> Array:
            if ftz:
                a, b = flush(a), flush(b)
            return floats.compare(widen(a, kind), widen(b, kind), name)

        return half
    return lambda a, b: floats.compare(a, b, name, ftz)


@instruction("setp")
def setp(at: Decoding) -> Step:
    """`setp`, with one result or two, alone or combined with a predicate."""
    kind = at.type(*BITS, *WIDE, "f16", "bf16", "f32", "f64")
    compare = comparison(at, kind)
    combine = at.option(*COMBINED)
    at.done(3 if combine is None else 4)
    first, second = at.pair(at.operands[0])
    target = at.target(first, 1)
    other = None if second is None else at.target(second, 1)
    a, b, dtype = at.read(1, kind), at.read(2, kind), DTYPES[kind]
    if combine is None and other is None:
        return at_once(compare, target, a, b, dtype)
    with_predicate = None if combine is None else (COMBINED[combine], *at.predicate(at.operands[3]))

    def step(launch: "Launch") -> None:
        registers = launch.registers
        holds = compare(registers[a].view(dtype), registers[b].view(dtype))
        fails = ~holds
        if with_predicate is not None:
            join, number, negated = with_predicate
            predicate = ~registers[number] if negated else registers[number]
            holds, fails = join(holds, predicate), join(fails, predicate)
        launch.write(target, holds)
        if other is not None:
            launch.write(other, fails)

    return step


def at_once(compare: Callable[[Array, Array], Array], target: int, a: int, b: int, dtype: np.dtype) -> Step:
    """Return the step of a plain comparison."""

    def step(launch: "Launch") -> None:
        registers = launch.registers
        launch.write(target, compare(registers[a].view(dtype), registers[b].view(dtype)))

    return step


@instruction("set")
def set_(at: Decoding) -> Step:
    """`set`: all ones, or 1.0, where a comparison holds."""
    kind = at.type(*BITS, *WIDE, "f32", "f64")
    result = at.type("u32", "s32", "f32")
    compare = comparison(at, kind)
    one = np.uint32(0x3F800000 if result == "f32" else 0xFFFFFFFF)
    return at.compute(lambda a, b: np.where(compare(a, b), one, np.uint32(0)), "b32", kind, kind)


@instruction("selp")
def selp(at: Decoding) -> Step:
    """`selp`."""
    kind = at.type(*BITS, *WIDE, "f32", "f64")
    target, a, b = at.result(kind), at.read(1, kind), at.read(2, kind)
    predicate, negated = at.predicate(at.operands[3])
    at.done(4)
    if negated:
        a, b = b, a

    def step(launch: "Launch") -> None:
        registers = launch.registers
        launch.write(target, np.where(registers[predicate], registers[a], registers[b]))

    return step


@instruction("slct")
def slct(at: Decoding) -> Step:
    """`slct`."""
    by = at.type("s32", "f32")
    kind = at.type(*BITS, *WIDE, "f32", "f64")
    ftz = by == "f32" and at.flag("ftz")

    def function(a: Array, b: Array, c: Array) -> Array:
        return np.where((floats.flush(c) if ftz else c) >= 0, a, b)

    return at.compute(function, kind, kind, kind, by)
