"""A kernel as the machine runs it: basic blocks of steps, with registers as numbers.

Device functions are expanded where they are called, each time with registers and local variables of their own.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ptx.control import Barrier, Block, Branch, End, Exit, Jump, Switch, Trap
from ptx.errors import UnknownInstruction
from ptx.memory import SHARED_BASE
from ptx.warps import MEMBERS
from ptx.parser import Address, Function, Immediate, Instruction, Module, Name, Not, Register, Variable, Vector

if TYPE_CHECKING:
    from ptx.machine import Launch

Step = Callable[["Launch"], None]

SPECIAL = {f"%{name}.{axis}" for name in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"}
SPECIAL |= {"%laneid", "%warpid", "%nwarpid", "%dynamic_smem_size", "%total_smem_size"}
SPECIAL |= {f"%lanemask_{which}" for which in ("eq", "le", "lt", "ge", "gt")}
"""Special registers that a launch can fill, all of them 32 bits."""


def callees(module: Module, function: Function) -> list[Function]:
    """Return a function and all that it calls, directly or not."""
    found, waiting = list[Function](), [function]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.append(one)
            for instruction in one.instructions:
                if instruction.opcode[0] == "call":
                    names = [o.text for o in instruction.operands if isinstance(o, Name)]
                    waiting += [module.functions[name] for name in names if name in module.functions]
    return found


def used_variables(module: Module, function: Function) -> list[Variable]:
    """Return the variables of the functions, and those of the module that their operands name."""
    functions = callees(module, function)
    named: set[int] = set()

    def look(operand: Any) -> None:
        if isinstance(operand, Variable):
            named.add(id(operand))
        elif isinstance(operand, Address):
            look(operand.base)
        elif isinstance(operand, Vector):
            for item in operand.items:
                look(item)

    for one in functions:
        for instruction in one.instructions:
            for operand in instruction.operands:
                look(operand)
    own = [variable for one in functions for variable in one.variables]
    return own + [variable for variable in module.variables if id(variable) in named]


def aligned(place: int, alignment: int) -> int:
    """Return the next multiple of an alignment."""
    return -(-place // alignment) * alignment


def place_shared(module: Module, function: Function) -> tuple[dict[Variable, int], int]:
    """Return the addresses of a kernel's shared variables, and how many bytes the static ones need."""
    variables = [variable for variable in used_variables(module, function) if variable.space == "shared"]
    addresses, size = dict[Variable, int](), 0
    for variable in variables:
        if variable.size:
            size = aligned(size, variable.alignment)
            addresses[variable] = SHARED_BASE + size
            size += variable.size
    for variable in variables:
        if not variable.size:  # dynamic: all of them begin where the static ones end
            addresses[variable] = SHARED_BASE + aligned(size, max(16, variable.alignment))
    return addresses, size


class Frame:
    """Names of one expansion of a function."""

    def __init__(self, function: Function, number: int) -> None:
        self.function, self.number = function, number
        self.registers: dict[Register, int] = {}
        self.addresses: dict[Variable, int] = {}  # of local variables and of parameters of functions


class Assembler:
    """Expands a kernel into blocks; `decode` gives the step of an instruction."""

    def __init__(
        self,
        module: Module,
        kernel: Function,
        architecture: str,
        global_addresses: dict[Variable, int],
        parameter_address: int,
        decode: Callable[["Assembler", Instruction], Any],
    ) -> None:
        self.module, self.kernel, self.architecture, self.decode = module, kernel, architecture, decode
        self.global_addresses, self.parameter_address = global_addresses, parameter_address
        self.shared_addresses, self.static_shared = place_shared(module, kernel)
        self.parameter_offsets = place_parameters(kernel)
        self.bits: list[int] = [1]  # of each register; the first is the carry flag
        self.constants: dict[tuple[int, int], int] = {}  # (bits, value): register
        self.specials: dict[str, int] = {}
        self.parameters: dict[tuple[int, int], int] = {}  # (offset, size): register
        self.local_size = 0
        self.blocks: list[Block] = [Block()]
        self.labels: dict[Any, int] = {}
        self.frames: list[Frame] = []
        self.made = 0
        self.site: Instruction | None = None
        self.expand(kernel, {})
        self.finish()

    # Registers

    def new(self, bits: int) -> int:
        """Return a fresh register."""
        self.bits.append(bits)
        return len(self.bits) - 1

    def register(self, register: Register) -> int:
        """Return the number of a register of the function that is being expanded."""
        known = self.frames[-1].registers
        if register not in known:
            known[register] = self.new(register.bits)
        return known[register]

    def constant(self, bits: int, value: int) -> int:
        """Return a register that always holds a number."""
        key = (bits, value % (1 << bits))
        if key not in self.constants:
            self.constants[key] = self.new(bits)
        return self.constants[key]

    def special(self, name: str) -> int:
        """Return the register for a special one."""
        if name == "WARP_SZ":
            return self.constant(32, 32)
        if name not in SPECIAL:
            raise UnknownInstruction(f"unknown special register {name}")
        if name not in self.specials:
            self.specials[name] = self.new(32)
        return self.specials[name]

    def parameter(self, offset: int, size: int) -> int:
        """Return a register with bytes of the kernel's parameters."""
        if (offset, size) not in self.parameters:
            self.parameters[offset, size] = self.new(8 * size)
        return self.parameters[offset, size]

    def variable_address(self, variable: Variable) -> int:
        """Return the address of a variable in its space."""
        if variable in self.shared_addresses:
            return self.shared_addresses[variable]
        if variable in self.global_addresses:
            return self.global_addresses[variable]
        if variable in self.parameter_offsets:
            return self.parameter_address + self.parameter_offsets[variable]
        known = self.frames[-1].addresses
        if variable not in known:
            self.local_size = aligned(self.local_size, variable.alignment)
            known[variable] = self.local_size
            self.local_size += variable.size
        return known[variable]

    # Blocks

    @property
    def block(self) -> Block:
        """The block that is being filled."""
        return self.blocks[-1]

    def begin(self) -> None:
        """Begin a block, unless the last one is still empty."""
        if self.block.steps or self.block.end or self.block.sync is not None:
            if self.block.end is None:
                self.block.end = Jump()
            self.blocks.append(Block())

    def mark(self, label: Any) -> None:
        """Put a label here."""
        self.begin()
        self.labels[label] = len(self.blocks) - 1

    def close(self, end: End) -> None:
        """End the block."""
        self.block.end, self.block.end_site = end, self.site
        self.blocks.append(Block())

    def add(self, step: Step) -> None:
        """Put a step into the block."""
        self.block.steps.append(step)
        self.block.sites.append(self.site)

    def synchronise(self, members: int) -> None:
        """Begin a block for whole warps: of the lanes that a register names, or of all (-1)."""
        self.begin()
        self.block.sync = members

    def finish(self) -> None:
        """Put the numbers of blocks in the places of labels."""
        if self.block.end is None:
            self.block.end = Exit()
        for block in self.blocks:
            end = block.end
            if isinstance(end, Jump | Branch) and end.target is not None:
                end.target = self.labels[end.target]
            elif isinstance(end, Switch):
                end.targets = [self.labels[target] for target in end.targets]

    # Instructions

    def expand(self, function: Function, addresses: dict[Variable, int]) -> None:
        """Add the blocks of a function; `addresses` are those of its parameters and results."""
        if any(frame.function is function for frame in self.frames):
            raise UnknownInstruction(f"recursion of {function.name}")
        self.made += 1
        frame = Frame(function, self.made)
        frame.addresses.update(addresses)
        self.frames.append(frame)
        places: dict[int, list[str]] = {}
        for label, place in function.labels.items():
            places.setdefault(place, []).append(label)
        for place, instruction in enumerate(function.instructions):
            for label in places.get(place, ()):
                self.mark((frame.number, label))
            self.site = instruction
            self.one(instruction)
        for label in places.get(len(function.instructions), ()):
            self.mark((frame.number, label))
        if len(self.frames) == 1:
            self.close(Exit())
        else:
            self.mark((frame.number, None))
        self.frames.pop()

    def one(self, instruction: Instruction) -> None:
        """Add one instruction."""
        head, frame = instruction.opcode[0], self.frames[-1]
        guard, negated = self.guard(instruction)
        if head == "bra" and instruction.opcode[1:] in ((), ("uni",)):
            target = (frame.number, self.label(instruction, instruction.operands[0]))
            self.close(Jump(target) if guard is None else Branch(guard, negated, target))
        elif head in CONTROL:
            after = ("after", frame.number, len(self.blocks), len(self.block.steps), id(instruction))
            if guard is not None:
                self.close(Branch(guard, not negated, after))
            CONTROL[head](self, instruction)
            if guard is not None:
                self.mark(after)
        elif head in MEMBERS:
            after = ("after", frame.number, len(self.blocks), len(self.block.steps), id(instruction))
            if guard is not None:
                self.close(Branch(guard, not negated, after))
            named = MEMBERS[head](instruction)
            step = self.decode(self, instruction)
            self.synchronise(-1 if named is None else members(self, named))
            self.add(step)
            if guard is not None:
                self.mark(after)
        else:
            step = self.decode(self, instruction)
            if guard is None:
                if step is not None:
                    self.add(step)
            else:
                self.add(guarded(step, guard, negated))

    def guard(self, instruction: Instruction) -> tuple[int | None, bool]:
        """Return the register of an instruction's guard, and whether it is negated."""
        guard = instruction.guard
        if guard is None:
            return None, False
        if isinstance(guard, Not):
            return self.register(guard.register), True
        return self.register(guard), False

    def label(self, instruction: Instruction, operand: Any) -> str:
        """Return the name of a label of this function."""
        if not isinstance(operand, Name) or operand.text not in self.frames[-1].function.labels:
            raise UnknownInstruction(f"no label {operand}")
        return operand.text


def place_parameters(kernel: Function) -> dict[Variable, int]:
    """Return where each parameter of a kernel lies among their bytes."""
    offsets, size = dict[Variable, int](), 0
    for parameter in kernel.parameters:
        size = aligned(size, parameter.alignment)
        offsets[parameter] = size
        size += parameter.size
    return offsets


def guarded(step: Step, predicate: int, negated: bool) -> Step:
    """Return a step for the threads alone whose predicate holds."""

    def run(launch: "Launch") -> None:
        chosen, mask = launch.registers[predicate], launch.mask
        if negated:
            chosen = ~chosen
        if mask is not None:
            chosen = chosen & mask
        count = int(chosen.sum())
        if count == launch.lanes:
            step(launch)
        elif count:
            threads = launch._threads
            launch.mask, launch._threads = chosen, None
            step(launch)
            launch.mask, launch._threads = mask, threads

    return run


# Instructions that end a block, by their first word.


def unknown(instruction: Instruction) -> UnknownInstruction:
    """Return the error for an instruction that is not modelled."""
    return UnknownInstruction(f"unknown instruction {'.'.join(instruction.opcode)}")


def leave(assembler: Assembler, instruction: Instruction) -> None:
    """`ret`, `exit`."""
    if instruction.opcode[1:] not in ((), ("uni",)):
        raise unknown(instruction)
    frame = assembler.frames[-1]
    inner = len(assembler.frames) > 1 and instruction.opcode[0] == "ret"
    assembler.close(Jump((frame.number, None)) if inner else Exit())


def trap(assembler: Assembler, instruction: Instruction) -> None:
    """`trap`."""
    if instruction.opcode != ("trap",):
        raise unknown(instruction)
    assembler.close(Trap("trap"))


def switch(assembler: Assembler, instruction: Instruction) -> None:
    """`brx.idx`."""
    if instruction.opcode not in (("brx", "idx"), ("brx", "idx", "uni")):
        raise unknown(instruction)
    frame, (index, table) = assembler.frames[-1], instruction.operands
    targets = frame.function.tables.get(table.text)
    if targets is None:
        raise UnknownInstruction(f"no branch targets {table.text}")
    assembler.close(Switch(assembler.register(index), [(frame.number, target) for target in targets]))


def call(assembler: Assembler, instruction: Instruction) -> None:
    """`call`: the function's own instructions, with the caller's parameters and results as its own."""
    if instruction.opcode[1:] not in ((), ("uni",)):
        raise unknown(instruction)
    operands = list(instruction.operands)
    results = operands.pop(0).items if isinstance(operands[0], Vector) else ()
    name = operands.pop(0)
    parameters = operands.pop(0).items if operands else ()
    function = assembler.module.functions.get(name.text) if isinstance(name, Name) else None
    if isinstance(name, Name) and name.text == "__assertfail":
        assembler.close(Trap("an assertion failed"))
        return
    if operands or function is None or function.extern:
        raise UnknownInstruction(f"unknown function {name.text if isinstance(name, Name) else name}")
    addresses = {}
    for formal, actual in zip(
        (*function.results, *function.parameters), (*results, *parameters), strict=True
    ):
        if not isinstance(actual, Variable) or actual.size != formal.size:
            raise UnknownInstruction(f"a parameter of {function.name} that is not in memory")
        addresses[formal] = assembler.variable_address(actual)
    assembler.expand(function, addresses)


def barrier(assembler: Assembler, instruction: Instruction) -> None:
    """`bar.sync`, `barrier.sync`, with or without a number of threads; of all threads of a warp when aligned."""
    head, *modifiers = instruction.opcode
    aligned_only = head == "bar" or "aligned" in modifiers
    rest = [word for word in modifiers if word not in ("cta", "aligned")]
    operands = instruction.operands
    if rest == ["warp", "sync"] and head == "bar":
        assembler.synchronise(members(assembler, operands[0]))
        return
    if rest == ["arrive"] or rest != ["sync"] or len(operands) not in (1, 2):
        raise unknown(instruction)
    if not isinstance(operands[0], Immediate):
        raise UnknownInstruction("a barrier whose number is in a register")
    count = None
    if len(operands) == 2:
        number = operands[1]
        count = (
            assembler.constant(32, number.value) if isinstance(number, Immediate) else assembler.register(number)
        )
    if aligned_only:
        assembler.synchronise(-1)
    assembler.close(Barrier(operands[0].value, count))


def members(assembler: Assembler, operand: Any) -> int:
    """Return what `Block.sync` is to be for a mask of lanes."""
    if isinstance(operand, Immediate):
        value = operand.value % 2**32
        return -1 if value == 2**32 - 1 else assembler.constant(32, value)
    return assembler.register(operand)


CONTROL: dict[str, Callable[[Assembler, Instruction], None]] = {
    "ret": leave,
    "exit": leave,
    "trap": trap,
    "brx": switch,
    "call": call,
    "bar": barrier,
    "barrier": barrier,
}
