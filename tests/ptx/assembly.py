"""A kernel as the machine runs it: basic blocks of steps, with registers as numbers.

Device functions are expanded where they are called, each time with registers and local variables of their own.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ptx.control import Block, Branch, End, Exit, Jump, Switch
from ptx.errors import PtxError, UnknownInstruction
from ptx.flow import FLOW, branch, members
from ptx.layout import SharedLayout, aligned, parameter_offsets
from ptx.special import SPECIAL
from ptx.syntax import Function, Instruction, Module, Name, Not, Register, Variable

if TYPE_CHECKING:
    from ptx.machine import Launch

Step = Callable[["Launch"], None]


class Frame:
    """Names of one expansion of a function."""

    def __init__(self, function: Function, number: int, addresses: dict[Variable, int]) -> None:
        self.function, self.number = function, number
        self.registers: dict[Register, int] = {}
        self.addresses = addresses  # of local variables, and of parameters of functions


class Assembler:
    """Expands a kernel into blocks.

    `decode` gives the step of an instruction, `members` (by first word) the operand of one for whole warps that names
    the lanes. `globals` are the addresses of the module's variables.
    """

    def __init__(
        self,
        module: Module,
        kernel: Function,
        architecture: str,
        addresses: dict[Variable, int],
        parameter_address: int,
        decode: Callable[["Assembler", Instruction], Step],
        warp_members: dict[str, Callable[[Instruction], Any]],
    ) -> None:
        self.module, self.kernel, self.architecture = module, kernel, architecture
        self.decode, self.warp_members = decode, warp_members
        self.shared = SharedLayout(module, kernel)
        self.parameter_offsets = parameter_offsets(kernel)
        self.addresses = addresses | self.shared.addresses
        self.addresses |= {v: parameter_address + offset for v, offset in self.parameter_offsets.items()}
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

    # Registers and addresses

    def new(self, bits: int) -> int:
        """Return a fresh register."""
        self.bits.append(bits)
        return len(self.bits) - 1

    def register(self, register: Any) -> int:
        """Return the number of a register of the function that is being expanded."""
        if not isinstance(register, Register):
            raise UnknownInstruction(f"{register} is no register")
        known = self.frame.registers
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
        if variable in self.addresses:
            return self.addresses[variable]
        known = self.frame.addresses
        if variable not in known:
            self.local_size = aligned(self.local_size, variable.alignment)
            known[variable] = self.local_size
            self.local_size += variable.size
        return known[variable]

    # Blocks

    @property
    def frame(self) -> Frame:
        """The function that is being expanded."""
        return self.frames[-1]

    @property
    def depth(self) -> int:
        """How many functions are being expanded: one for the kernel itself."""
        return len(self.frames)

    @property
    def end_of_function(self) -> Any:
        """The label behind the function that is being expanded."""
        return (self.frame.number, None)

    @property
    def block(self) -> Block:
        """The block that is being filled."""
        return self.blocks[-1]

    def begin(self) -> None:
        """Begin a block, unless the last one is still empty."""
        if self.block.steps or self.block.sync is not None:
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

    def synchronise(self, lanes: int) -> None:
        """Begin a block for whole warps: of the lanes that a register names, or of all (-1)."""
        self.begin()
        self.block.sync, self.block.sync_site = lanes, self.site

    def label(self, operand: Any) -> Any:
        """Return what marks a label of this function."""
        if not isinstance(operand, Name) or operand.text not in self.frame.function.labels:
            raise UnknownInstruction(f"no label {operand}")
        return (self.frame.number, operand.text)

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
        self.frames.append(Frame(function, self.made, dict(addresses)))
        places: dict[int, list[str]] = {}
        for label, place in function.labels.items():
            places.setdefault(place, []).append(label)
        for place in range(len(function.instructions) + 1):
            for label in places.get(place, ()):
                self.mark((self.frame.number, label))
            if place < len(function.instructions):
                self.site = function.instructions[place]
                self.one(function.instructions[place])
        self.mark(self.end_of_function)
        if self.depth == 1:
            self.close(Exit())
        self.frames.pop()

    def one(self, instruction: Instruction) -> None:
        """Add one instruction."""
        try:
            self.place(instruction, *self.guard(instruction))
        except PtxError as error:
            where = f"{self.kernel.name}, line {instruction.line} ({instruction.text})"
            raise error.locate(where) from None

    def place(self, instruction: Instruction, guard: int | None, negated: bool) -> None:
        """Add one instruction; a guard becomes part of it, or a branch around it where it ends or begins a block."""
        head = instruction.opcode[0]
        if head == "bra":
            branch(self, instruction, guard, negated)
            return
        if head not in FLOW and head not in self.warp_members:
            step = self.decode(self, instruction)
            self.add(step if guard is None else guarded(step, guard, negated))
            return
        behind = object()
        if guard is not None:
            self.close(Branch(guard, not negated, behind))
        if head in FLOW:
            FLOW[head](self, instruction)
        else:
            named = self.warp_members[head](instruction)
            step = self.decode(self, instruction)
            self.synchronise(-1 if named is None else members(self, named))
            self.add(step)
        if guard is not None:
            self.mark(behind)

    def guard(self, instruction: Instruction) -> tuple[int | None, bool]:
        """Return the register of an instruction's guard, and whether it is negated."""
        guard = instruction.guard
        if guard is None:
            return None, False
        if isinstance(guard, Not):
            return self.register(guard.register), True
        return self.register(guard), False


def guarded(step: Step, predicate: int, negated: bool) -> Step:
    """Return a step for the threads alone whose predicate holds."""

    def run(launch: "Launch") -> None:
        chosen, mask = launch.registers[predicate], launch.mask
        if negated:
            chosen = ~chosen
        if mask is not None:
            chosen = chosen & mask
        if chosen.all():
            step(launch)
        elif chosen.any():
            launch.choose(chosen)
            step(launch)
            launch.choose(mask)

    return run
