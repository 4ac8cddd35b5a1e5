"""Decoders of what ends a block of instructions: jumps, calls, barriers, exits."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ptx.control import Barrier, Branch, Exit, Jump, Switch, Trap
from ptx.errors import UnknownInstruction
from ptx.syntax import Immediate, Instruction, Name, Not, Variable, Vector

if TYPE_CHECKING:
    from ptx.assembly import Assembler
    from ptx.machine import Launch


def unknown(instruction: Instruction, why: str = "") -> UnknownInstruction:
    """Return the error for an instruction that is not modelled."""
    return UnknownInstruction(f"unknown instruction {'.'.join(instruction.opcode)}{why and ': ' + why}")


def branch(assembler: "Assembler", instruction: Instruction, guard: int | None, negated: bool) -> None:
    """`bra`, which is the one that has a guard of its own."""
    if instruction.opcode[1:] not in ((), ("uni",)):
        raise unknown(instruction)
    target = assembler.label(instruction.operands[0])
    assembler.close(Jump(target) if guard is None else Branch(guard, negated, target))


def switch(assembler: "Assembler", instruction: Instruction) -> None:
    """`brx.idx`."""
    if instruction.opcode not in (("brx", "idx"), ("brx", "idx", "uni")):
        raise unknown(instruction)
    index, table = instruction.operands
    targets = assembler.frame.function.tables.get(table.text if isinstance(table, Name) else "")
    if targets is None:
        raise unknown(instruction, "no such branch targets")
    assembler.close(Switch(assembler.register(index), [assembler.label(Name(target)) for target in targets]))


def leave(assembler: "Assembler", instruction: Instruction) -> None:
    """`ret` and `exit`."""
    if instruction.opcode[1:] not in ((), ("uni",)):
        raise unknown(instruction)
    inner = assembler.depth > 1 and instruction.opcode[0] == "ret"
    assembler.close(Jump(assembler.end_of_function) if inner else Exit())


def trap(assembler: "Assembler", instruction: Instruction) -> None:
    """`trap`."""
    if instruction.opcode != ("trap",):
        raise unknown(instruction)
    assembler.close(Trap("trap"))


def call(assembler: "Assembler", instruction: Instruction) -> None:
    """`call`: the function's own instructions, with the caller's parameters and results as its own."""
    if instruction.opcode[1:] not in ((), ("uni",)):
        raise unknown(instruction)
    operands = list(instruction.operands)
    results = operands.pop(0).items if isinstance(operands[0], Vector) else ()
    name = operands.pop(0)
    parameters = operands.pop(0).items if operands and isinstance(operands[0], Vector) else ()
    text = name.text if isinstance(name, Name) else ""
    if text == "__assertfail":
        assembler.close(Trap("an assertion failed"))
        return
    function = assembler.module.functions.get(text)
    if operands or function is None or function.extern:
        raise unknown(instruction, "of a function that is not in the text")
    formal, actual = (*function.results, *function.parameters), (*results, *parameters)
    if [variable.size for variable in formal] != [getattr(operand, "size", None) for operand in actual]:
        raise unknown(instruction, "parameters that are not in memory, or of another size")
    assembler.expand(function, dict(zip(formal, map(assembler.variable_address, actual), strict=True)))


def barrier(assembler: "Assembler", instruction: Instruction) -> None:
    """`bar` and `barrier`: `.sync`, `.red` and `.warp.sync`; when aligned, whole warps have to come."""
    head, *modifiers = instruction.opcode
    operands = list(instruction.operands)
    if (head, modifiers) == ("bar", ["warp", "sync"]):
        assembler.synchronise(members(assembler, operands[0]))
        return
    aligned = head == "bar" or "aligned" in modifiers
    rest = [word for word in modifiers if word not in ("cta", "aligned")]
    reduction = None
    if rest[:1] == ["red"]:
        reduction = reduce_predicates(assembler, instruction, rest[1:], operands[0], operands.pop())
        operands.pop(0)
    elif rest != ["sync"]:
        raise unknown(instruction)
    number = operands[0]
    if len(operands) > 2 or not isinstance(number, Immediate) or not 0 <= number.value < 16:
        raise unknown(instruction, "a barrier whose number is not in the text, or above 15")
    count = None
    if len(operands) == 2:
        given = operands[1]
        count = assembler.constant(32, given.value) if isinstance(given, Immediate) else assembler.register(given)
    if aligned:
        assembler.synchronise(-1)
    assembler.close(Barrier(number.value, count))
    if reduction is not None:
        assembler.add(reduction)


def reduce_predicates(
    assembler: "Assembler", instruction: Instruction, words: list[str], result: Any, operand: Any
) -> "Callable[[Launch], None]":
    """Return the step of `bar.red` once all are there: over the block, how many predicates hold, or whether."""
    if words not in (["popc", "u32"], ["and", "pred"], ["or", "pred"]):
        raise unknown(instruction)
    negated = isinstance(operand, Not)
    target, predicate = assembler.register(result), assembler.register(operand.register if negated else operand)
    kind = words[0]

    def step(launch: "Launch") -> None:
        here = launch.alive if launch.mask is None else launch.mask
        holds = (launch.registers[predicate] != negated) & here
        shape = (launch.blocks, launch.lanes_per_block)
        counts = holds.reshape(shape).sum(axis=1)
        if kind != "popc":
            counts = counts == here.reshape(shape).sum(axis=1) if kind == "and" else counts > 0
        dtype = np.uint32 if kind == "popc" else bool
        launch.write(target, np.repeat(counts.astype(dtype), launch.lanes_per_block))

    return step


def members(assembler: "Assembler", operand: Any) -> int:
    """Return what `Block.sync` is to be for a mask of lanes."""
    if isinstance(operand, Immediate):
        value = operand.value % 2**32
        return -1 if value == 2**32 - 1 else assembler.constant(32, value)
    if isinstance(operand, Variable):
        raise UnknownInstruction(f"a mask of lanes that is {operand.name}")
    return assembler.register(operand)


FLOW: "dict[str, Callable[[Assembler, Instruction], None]]" = {
    "ret": leave,
    "exit": leave,
    "trap": trap,
    "brx": switch,
    "call": call,
    "bar": barrier,
    "barrier": barrier,
}
"""What decodes an instruction that ends a block, by its first word."""
