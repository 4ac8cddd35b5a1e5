"""Where variables and parameters lie in memory."""

from typing import Any

from ptx.memory import SHARED_BASE
from ptx.syntax import Address, Function, Module, Name, Variable, Vector


def aligned(place: int, alignment: int) -> int:
    """Return the next multiple of an alignment."""
    return -(-place // alignment) * alignment


def callees(module: Module, function: Function) -> list[Function]:
    """Return a function and all that it calls, directly or not."""
    found, waiting = list[Function](), [function]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.append(one)
            for instruction in one.instructions:
                if instruction.opcode[0] == "call":
                    names = [operand.text for operand in instruction.operands if isinstance(operand, Name)]
                    waiting += [module.functions[name] for name in names if name in module.functions]
    return found


def named_variables(operand: Any) -> list[Variable]:
    """Return the variables that an operand names."""
    if isinstance(operand, Variable):
        return [operand]
    if isinstance(operand, Address):
        return named_variables(operand.base)
    if isinstance(operand, Vector):
        return [variable for item in operand.items for variable in named_variables(item)]
    return []


def used_variables(module: Module, kernel: Function) -> list[Variable]:
    """Return the variables of the kernel and of what it calls, and those of the module that their operands name."""
    functions = callees(module, kernel)
    named = {
        id(variable)
        for function in functions
        for instruction in function.instructions
        for operand in instruction.operands
        for variable in named_variables(operand)
    }
    own = [variable for function in functions for variable in function.variables]
    return own + [variable for variable in module.variables if id(variable) in named]


class SharedLayout:
    """Addresses of a kernel's shared variables; `static` bytes, then, from `dynamic` on, those of the launch."""

    def __init__(self, module: Module, kernel: Function) -> None:
        variables = [variable for variable in used_variables(module, kernel) if variable.space == "shared"]
        self.addresses: dict[Variable, int] = {}
        size = 0
        for variable in variables:
            if variable.size:
                size = aligned(size, variable.alignment)
                self.addresses[variable] = SHARED_BASE + size
                size += variable.size
        self.static = self.dynamic = size
        dynamic = [variable for variable in variables if not variable.size]
        if dynamic:
            self.dynamic = aligned(size, max(16, *(variable.alignment for variable in dynamic)))
            self.addresses |= dict.fromkeys(dynamic, SHARED_BASE + self.dynamic)


def parameter_offsets(kernel: Function) -> dict[Variable, int]:
    """Return where each parameter of a kernel lies among their bytes."""
    offsets, size = dict[Variable, int](), 0
    for parameter in kernel.parameters:
        size = aligned(size, parameter.alignment)
        offsets[parameter] = size
        size += parameter.size
    return offsets
