"""From an instruction to its step: a table by first word, and how its entries read modifiers and operands."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx.errors import UnknownInstruction
from ptx.memory import LOCAL_WINDOW, SHARED_WINDOW
from ptx.syntax import Address, Immediate, Instruction, Name, Not, Pair, Register, Variable, Vector

if TYPE_CHECKING:
    from ptx.assembly import Assembler
    from ptx.machine import Launch

Array = np.ndarray
Step = Callable[["Launch"], None]

INTEGERS = {f"u{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)}
INTEGERS |= {f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)}
WIDTHS = {**{f"b{bits}": np.dtype(f"u{bits // 8}") for bits in (8, 16, 32, 64)}, "pred": np.dtype(bool)}
FLOATS = {"f32": np.dtype(np.float32), "f64": np.dtype(np.float64), "f16": np.dtype(np.float16)}
FLOATS |= {"bf16": np.dtype(np.uint16), "tf32": np.dtype(np.uint32)}
FLOATS |= {"f16x2": np.dtype(np.uint32), "bf16x2": np.dtype(np.uint32)}
DTYPES = INTEGERS | WIDTHS | FLOATS
"""What functions take an operand of each type as."""


def bits_of(kind: str) -> int:
    """Return the width of a type's register."""
    return 1 if kind == "pred" else DTYPES[kind].itemsize * 8


class Decoding:
    """One instruction while it is decoded: modifiers are taken off one by one, and none may be left over."""

    def __init__(self, assembler: "Assembler", instruction: Instruction) -> None:
        self.assembler, self.instruction = assembler, instruction
        self.head, *self.modifiers = instruction.opcode
        self.operands = instruction.operands
        self.architecture = assembler.architecture

    def unknown(self, why: str = "") -> UnknownInstruction:
        """Return the error that names the instruction."""
        return UnknownInstruction(f"unknown instruction {'.'.join(self.instruction.opcode)}{why and ': ' + why}")

    def needs(self, architecture: int) -> None:
        """Raise if the instruction is not there before an architecture."""
        if int(self.architecture) < architecture:
            raise self.unknown(f"it needs sm_{architecture}")

    # Modifiers

    def flag(self, word: str) -> bool:
        """Take a modifier off, if it is there."""
        if word in self.modifiers:
            self.modifiers.remove(word)
            return True
        return False

    def option(self, *words: str) -> str | None:
        """Take off whichever of the modifiers is there."""
        for word in self.modifiers:
            if word in words:
                self.modifiers.remove(word)
                return word
        return None

    def needed(self, *words: str) -> str:
        """Take off whichever of the modifiers is there; one has to be."""
        word = self.option(*words)
        if word is None:
            raise self.unknown(f"none of {', '.join(words)}")
        return word

    def type(self, *allowed: str) -> str:
        """Take the last modifier off: the type."""
        if not self.modifiers or self.modifiers[-1] not in (allowed or DTYPES):
            raise self.unknown("its type")
        return self.modifiers.pop()

    def done(self, *counts: int) -> None:
        """Raise if a modifier is left, or if there is another number of operands."""
        if self.modifiers:
            raise self.unknown(f"modifier {', '.join(self.modifiers)}")
        if len(self.operands) not in counts:
            raise self.unknown(f"{len(self.operands)} operands")

    # Operands

    def source(self, operand: Any, bits: int, wider: bool = False) -> int:
        """Return the register of an operand to read; with `wider`, it may have more bits than are used."""
        assembler = self.assembler
        if isinstance(operand, Register):
            if operand.bits != bits and not (wider and operand.bits > bits):
                raise self.unknown(f"{operand.name} has {operand.bits} bits and not {bits}")
            return assembler.register(operand)
        if isinstance(operand, Immediate):
            value = operand.value
            if (operand.kind, bits) == ("f64", 32):
                with np.errstate(all="ignore"):
                    value = int(np.array(value, np.uint64).view(np.float64).astype(np.float32).view(np.uint32))
            elif operand.kind != "int" and bits != int(operand.kind[1:]):
                raise self.unknown(f"a number of type {operand.kind}")
            return assembler.constant(bits, value)
        if isinstance(operand, Name):
            return self.of_width(assembler.special(operand.text), 32, bits)
        if isinstance(operand, Variable):
            return assembler.constant(bits, assembler.variable_address(operand))
        if isinstance(operand, Address) and isinstance(operand.base, Variable):
            return assembler.constant(bits, assembler.variable_address(operand.base) + operand.offset)
        raise self.unknown(f"operand {operand}")

    def of_width(self, register: int, has: int, bits: int) -> int:
        """Return a register, which must have as many bits as are asked for."""
        if has != bits:
            raise self.unknown(f"an operand of {has} bits and not {bits}")
        return register

    def read(self, place: int, kind: str, wider: bool = False) -> int:
        """Return the register of the operand at a place."""
        operand = self.operands[place]
        if isinstance(operand, Immediate) and kind in (FLOATS if operand.kind == "int" else INTEGERS):
            raise self.unknown(f"a number of type {operand.kind}")
        return self.source(operand, bits_of(kind), wider)

    def target(self, operand: Any, bits: int, wider: bool = False) -> int:
        """Return the register of an operand to write; `_` is one that nobody reads."""
        if isinstance(operand, Name) and operand.text == "_":
            return self.assembler.new(bits)
        if not isinstance(operand, Register):
            raise self.unknown(f"result {operand}")
        if operand.bits != bits and not (wider and operand.bits > bits):
            raise self.unknown(f"{operand.name} has {operand.bits} bits and not {bits}")
        return self.assembler.register(operand)

    def result(self, kind: str, wider: bool = False) -> int:
        """Return the register of the first operand."""
        return self.target(self.operands[0], bits_of(kind), wider)

    def predicate(self, operand: Any) -> tuple[int, bool]:
        """Return the register of a predicate, and whether it is negated."""
        if isinstance(operand, Not):
            return self.source(operand.register, 1), True
        return self.source(operand, 1), False

    def items(self, operand: Any) -> list[Any]:
        """Return the elements of a vector operand, or the operand alone."""
        return list(operand.items) if isinstance(operand, Vector) else [operand]

    def pair(self, operand: Any) -> tuple[Any, Any]:
        """Return the two parts of `a|b`, or the operand and None."""
        return (operand.first, operand.second) if isinstance(operand, Pair) else (operand, None)

    # Whole instructions

    def compute(self, function: Callable[..., Array], result: str, *sources: str) -> Step:
        """Return the step that writes a function of operands of these types."""
        target = self.result(result)
        self.done(len(sources) + 1)
        return computed(function, target, [(self.read(i + 1, k), DTYPES[k]) for i, k in enumerate(sources)])

    def address(self, operand: Any, space: str) -> tuple[Callable[["Launch"], Array], str]:
        """Return what gives the addresses of the threads that take part, as int64, and the space they are in."""
        if not isinstance(operand, Address):
            raise self.unknown(f"operand {operand} is no address")
        base, offset = operand.base, operand.offset
        if isinstance(base, Variable):
            spaces = {space, "generic", "param" if space.startswith("param") else space}
            if base.space not in spaces:
                raise self.unknown(f"{base.name} is in {base.space} memory")
            place = self.assembler.variable_address(base) + offset
            if space == "generic":
                place += {"shared": SHARED_WINDOW, "local": LOCAL_WINDOW}.get(base.space, 0)
            if space.startswith("param") and base not in self.assembler.parameter_offsets:
                space = "local"  # where parameters of functions are kept
            return addresses(self.assembler.constant(64, place), 64, 0), space
        if isinstance(base, Register) and base.bits in (32, 64):
            return addresses(self.assembler.register(base), base.bits, offset), space
        raise self.unknown(f"address {operand}")


def addresses(register: int, bits: int, offset: int) -> Callable[["Launch"], Array]:
    """Return what gives register + offset for the threads that take part."""

    def get(launch: "Launch") -> Array:
        base, threads = launch.registers[register], launch.threads
        if threads is not None:
            base = base[threads]
        place = base.view(np.int64) if bits == 64 else base.astype(np.int64)
        return place + offset if offset else place

    return get


def computed(function: Callable[..., Array], target: int, sources: list[tuple[int, np.dtype]]) -> Step:
    """Return the step that writes a function of registers, each seen as a type."""
    if len(sources) == 1:
        [(a, type_a)] = sources

        def one(launch: "Launch") -> None:
            launch.write(target, function(launch.registers[a].view(type_a)))

        return one
    if len(sources) == 2:
        (a, type_a), (b, type_b) = sources

        def two(launch: "Launch") -> None:
            registers = launch.registers
            launch.write(target, function(registers[a].view(type_a), registers[b].view(type_b)))

        return two

    def many(launch: "Launch") -> None:
        registers = launch.registers
        launch.write(target, function(*[registers[number].view(dtype) for number, dtype in sources]))

    return many


DECODERS: dict[str, Callable[[Decoding], Step]] = {}
"""What decodes an instruction, by its first word."""


def instruction(*heads: str) -> Callable[[Callable[[Decoding], Step]], Callable[[Decoding], Step]]:
    """Enter a decoder into the table."""

    def enter(decoder: Callable[[Decoding], Step]) -> Callable[[Decoding], Step]:
        for head in heads:
            DECODERS[head] = decoder
        return decoder

    return enter


def decode(assembler: "Assembler", instruction: Instruction) -> Step:
    """Return the step of an instruction."""
    decoding = Decoding(assembler, instruction)
    decoder = DECODERS.get(decoding.head)
    if decoder is None:
        raise decoding.unknown()
    return decoder(decoding)
