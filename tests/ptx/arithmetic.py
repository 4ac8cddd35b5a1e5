"""Decoders of what a thread computes from registers: integers, bits, comparisons and selections."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ptx import integers
from ptx.decode import DTYPES, INTEGERS, Decoding, Step, instruction
from ptx.errors import Undefined
from ptx.floating import arithmetic as floating

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
