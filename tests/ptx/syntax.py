"""What a PTX text consists of, once names are resolved to what they name."""

from dataclasses import dataclass, field
from typing import Any

BITS = {"pred": 1, "b8": 8, "u8": 8, "s8": 8}
BITS |= {f"{kind}{bits}": bits for kind in "bus" for bits in (16, 32, 64)}
BITS |= {"f16": 16, "bf16": 16, "f16x2": 32, "bf16x2": 32, "f32": 32, "f64": 64}
"""The width of each type that a register or a variable may be declared with."""


@dataclass(eq=False, slots=True)
class Register:
    """A register, declared in one place; `bits` is 1 for a predicate."""

    name: str
    bits: int


@dataclass(eq=False, slots=True)
class Variable:
    """A named piece of memory; `space` is global, const, shared, local or param. Dynamic shared memory has size 0."""

    name: str
    space: str
    size: int
    alignment: int
    initial: bytes = b""


@dataclass(frozen=True, slots=True)
class Immediate:
    """A number in the text: `kind` is int, or f32 and f64 for `value` being the bits of one."""

    value: int
    kind: str


@dataclass(frozen=True, slots=True)
class Address:
    """`[base + offset]`; `further` is what a comma inside the brackets divides off."""

    base: Any
    offset: int
    further: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Vector:
    """`{a, b}`, or `(a, b)` of a call."""

    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """`a|b`."""

    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class Not:
    """`!p`."""

    register: Any


@dataclass(frozen=True, slots=True)
class Name:
    """A name that nothing declares: a special register, a label, or a function."""

    text: str


@dataclass(eq=False, slots=True)
class Instruction:
    """One statement of a function: `opcode` with its modifiers, split at the dots."""

    opcode: tuple[str, ...]
    operands: list[Any]
    guard: Register | Not | None
    line: int
    text: str


@dataclass(eq=False)
class Function:
    """A kernel (`entry`) or a device function; one without a body is `extern`."""

    name: str
    entry: bool
    parameters: list[Variable]
    results: list[Variable]
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
    limits: dict[str, list[int]] = field(default_factory=dict)
    extern: bool = False


@dataclass
class Module:
    """What one text declares."""

    version: str = ""
    target: str = ""
    functions: dict[str, Function] = field(default_factory=dict)
    variables: list[Variable] = field(default_factory=list)
