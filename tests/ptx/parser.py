"""PTX text to a `Module`: variables, functions, and their instructions with names resolved to what they name.

It knows the grammar, not the instructions: an opcode is text here. What is written between braces has names of its
own, so registers and variables are objects and not names from here on.
"""

import re
from bisect import bisect
from typing import Any

from ptx.errors import PtxError
from ptx.syntax import (
    BITS,
    Address,
    Function,
    Immediate,
    Instruction,
    Module,
    Name,
    Not,
    Pair,
    Register,
    Variable,
    Vector,
)

TOKEN = re.compile(
    r"""(?:\s+|//[^\n]*|/\*(?s:.*?)\*/)*(?:
    (?P<name>\.\w+|[A-Za-z_$%][\w$.]*(?:::\w[\w.]*)*)
    |(?P<mark>[\[\]{}()<>,;:|!@+\-=*])
    |(?P<float>0[fF][0-9a-fA-F]{8}\b|0[dD][0-9a-fA-F]{16}\b|\d+\.\d*(?:[eE][+-]?\d+)?)
    |(?P<int>0[xX][0-9a-fA-F]+U?|0[bB][01]+U?|\d+U?)
    |(?P<string>"[^"]*")
    |(?P<end>\Z))""",
    re.VERBOSE,
)


class SyntaxFault(PtxError):
    """Text that is not PTX, or PTX that the parser does not know."""


class Scope:
    """Names declared between two braces, inside those of the outer scope."""

    def __init__(self, outer: "Scope | None" = None, first: int = 0) -> None:
        self.outer, self.first = outer, first  # the number of its first instruction
        self.labels: dict[str, Name] = {}  # of those between inner braces, what they are called elsewhere
        self.names: dict[str, Any] = {}
        self.ranges: dict[str, tuple[int, int]] = {}  # of `%r<5>`, the prefix: how many, and their width

    def find(self, name: str) -> Any:
        """Return what a name was declared as, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            stem = name.rstrip("0123456789")
            if stem in scope.ranges and stem != name:
                count, bits = scope.ranges[stem]
                if int(name[len(stem) :]) < count:
                    return scope.names.setdefault(name, Register(name, bits))
            scope = scope.outer
        return None


class Parser:
    """Reads a text from its first token to its last."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines = [match.start() for match in re.finditer("\n", text)]
        self.tokens: list[tuple[str, str, int]] = []  # kind, text, place
        place = 0
        for match in TOKEN.finditer(text):
            if match.start() != place:
                break
            kind, place = str(match.lastgroup), match.end()
            self.tokens.append((kind, match[kind], match.start(kind)))
        if place != len(text):
            rest = text[place:].lstrip()
            raise SyntaxFault(f"line {self.line(len(text) - len(rest))}: unexpected {rest[0]!r}")
        self.next = 0
        self.module = Module()
        self.scope = Scope()

    def line(self, place: int) -> int:
        """Return the number of the line, from 1."""
        return bisect(self.lines, place - 1) + 1

    def fault(self, what: str) -> SyntaxFault:
        """Return the error to raise at the next token."""
        _kind, token, place = self.tokens[self.next]
        return SyntaxFault(f"line {self.line(place)}: {what}, found {token!r}")

    @property
    def token(self) -> str:
        """The next token."""
        return self.tokens[self.next][1]

    def take(self, expected: str | None = None) -> str:
        """Return the next token and go on."""
        _kind, token, _place = self.tokens[self.next]
        if expected is not None and token != expected:
            raise self.fault(f"expected {expected!r}")
        self.next += 1
        return token

    def accept(self, token: str) -> bool:
        """Go on if the next token is this one."""
        if self.tokens[self.next][1] == token and self.tokens[self.next][0] != "string":
            self.next += 1
            return True
        return False

    def number(self) -> int:
        """Return the next token as an integer."""
        negative = self.accept("-")
        kind, token, _place = self.tokens[self.next]
        if kind != "int":
            raise self.fault("expected an integer")
        self.next += 1
        return -integer(token) if negative else integer(token)

    def listed(self, end: str, item: Any) -> list[Any]:
        """Return items with commas between them, up to and with the `end`."""
        items: list[Any] = []
        while not self.accept(end):
            if items:
                self.take(",")
            items.append(item())
        return items

    # Declarations

    def parse(self) -> Module:
        """Return the whole module."""
        while self.tokens[self.next][0] != "end":
            word = self.take()
            if word == ".version":
                self.module.version = self.take()
            elif word == ".target":
                self.module.target = self.take()
                while self.accept(","):
                    self.take()
            elif word == ".address_size":
                if self.number() != 64:
                    raise self.fault("expected addresses of 64 bits")
            elif word in (".visible", ".extern", ".weak", ".common"):
                pass
            elif word in (".entry", ".func"):
                extern = self.tokens[self.next - 2][1] == ".extern"
                self.function(word == ".entry", extern)
            elif word in (".global", ".const", ".shared"):
                self.module.variables += self.declaration(word[1:])
                self.take(";")
            elif word in (".file", ".loc"):
                self.skip_line()
            elif word == ".pragma":
                self.skip_to(";")
            else:
                self.next -= 1
                raise self.fault("expected a directive")
        return self.module

    def skip_line(self) -> None:
        """Pass over what stands on the line of the last token."""
        line = self.line(self.tokens[self.next - 1][2])
        while self.tokens[self.next][0] != "end" and self.line(self.tokens[self.next][2]) == line:
            self.next += 1

    def skip_to(self, mark: str) -> None:
        """Pass over everything up to and with a mark."""
        while self.take() != mark:
            if self.tokens[self.next][0] == "end":
                raise self.fault(f"expected {mark!r}")

    def declaration(self, space: str, parameter: bool = False) -> list[Variable]:
        """Return the variables that one directive declares, after its first word."""
        alignment, kind, lanes = 0, "", 1
        while self.token.startswith("."):
            word = self.take()[1:]
            if word == "align":
                alignment = self.number()
            elif word in BITS:
                kind = word
            elif word in ("v2", "v4"):
                lanes = int(word[1])
            elif parameter and word == "ptr":  # `.ptr .global .align 16` says where an address leads
                while self.token in (".global", ".shared", ".const", ".local"):
                    self.take()
                if self.accept(".align"):
                    self.number()
            elif word == "attribute":
                self.skip_to(")")
            else:
                raise SyntaxFault(f"line {self.line(self.tokens[self.next][2])}: unknown attribute .{word}")
        if not kind:
            raise self.fault("expected a type")
        width = BITS[kind] // 8 * lanes
        found = []
        while True:
            name, count = self.take(), 1
            while self.accept("["):
                count *= 0 if self.token == "]" else self.number()
                self.take("]")
            initial = self.initial(BITS[kind], name) if self.accept("=") else b""
            if count == 0 and initial:
                count = len(initial) // width
            variable = Variable(name, space, width * count, alignment or width, initial)
            found.append(variable)
            self.scope.names[name] = variable
            if parameter or not self.accept(","):
                return found

    def initial(self, bits: int, name: str) -> bytes:
        """Return the bytes of what stands after `=`."""
        if self.accept("{"):
            return b"".join(self.listed("}", lambda: self.initial(bits, name)))
        negative = self.accept("-")
        kind, token, _place = self.tokens[self.next]
        if kind not in ("int", "float"):
            raise self.fault(f"the initial value of {name} is not a number")
        self.next += 1
        value = integer(token) if kind == "int" else int(token[2:], 16)
        return ((-value if negative else value) % (1 << bits)).to_bytes(bits // 8, "little")

    def function(self, entry: bool, extern: bool) -> None:
        """Read a function, after `.entry` or `.func`."""
        self.scope = Scope(self.scope)
        results = self.parameters() if self.accept("(") else []
        name = self.take()
        function = Function(name, entry, self.parameters() if self.accept("(") else [], results, extern=extern)
        while self.token.startswith("."):
            word = self.take()[1:]
            if word in ("maxntid", "reqntid", "minnctapersm", "maxnreg"):
                function.limits[word] = [self.number()]
                while self.accept(","):
                    function.limits[word].append(self.number())
            elif word == "pragma":
                self.skip_to(";")
            elif word not in ("noreturn",):
                raise self.fault(f"unknown directive .{word}")
        if self.accept(";"):
            function.extern = True
            self.module.functions.setdefault(name, function)
        else:
            self.take("{")
            self.body(function)
            self.module.functions[name] = function
        self.scope = self.scope.outer or self.scope

    def parameters(self) -> list[Variable]:
        """Return the parameters of a function, or its results, after the opening parenthesis."""

        def one() -> Variable:
            if not self.accept(".param"):
                raise self.fault("expected .param")
            return self.declaration("param", parameter=True)[0]

        return self.listed(")", one)

    # Statements

    def body(self, function: Function) -> None:
        """Read statements up to the closing brace; braces inside open scopes of names."""
        depth = 1
        while depth:
            kind, token, _place = self.tokens[self.next]
            if kind == "end":
                raise self.fault("expected '}'")
            if token == "{":
                self.next += 1
                self.scope, depth = Scope(self.scope, len(function.instructions)), depth + 1
            elif token == "}":
                self.next += 1
                depth -= 1
                if depth:
                    self.leave(function)
            elif token.startswith("."):
                self.directive(function)
            elif self.tokens[self.next + 1][1] == ":":
                self.label(function, inner=depth > 1)
            elif not self.accept(";"):
                function.instructions.append(self.instruction())

    def directive(self, function: Function) -> None:
        """Read a declaration inside a function."""
        word = self.take()[1:]
        if word == "reg":
            kind = self.take()[1:]
            if kind not in BITS:
                raise self.fault(f"unknown type .{kind}")
            while True:
                name = self.take()
                if self.accept("<"):
                    self.scope.ranges[name] = (self.number(), BITS[kind])
                    self.take(">")
                else:
                    self.scope.names[name] = Register(name, BITS[kind])
                if not self.accept(","):
                    break
            self.take(";")
        elif word in ("local", "shared", "param", "global", "const"):
            function.variables += self.declaration(word)
            self.take(";")
        elif word in ("file", "loc"):
            self.skip_line()
        elif word == "pragma":
            self.skip_to(";")
        else:
            raise self.fault(f"unknown directive .{word}")

    def leave(self, function: Function) -> None:
        """Leave a scope: what in it names its labels means these, also where they came later."""
        labels = self.scope.labels
        if labels:
            for instruction in function.instructions[self.scope.first :]:
                instruction.operands = [
                    labels.get(operand.text, operand) if isinstance(operand, Name) else operand
                    for operand in instruction.operands
                ]
        self.scope = self.scope.outer or self.scope

    def label(self, function: Function, inner: bool) -> None:
        """Read a label, with the table of targets if it names one; inner braces hide its name."""
        name = self.take()
        self.take(":")
        if inner and not self.token.startswith("."):
            hidden = f"{name}@{len(function.labels)}"
            self.scope.labels[name] = Name(hidden)
            name = hidden
        if self.accept(".branchtargets"):
            function.tables[name] = self.listed(";", self.take)
        elif self.accept(".callprototype"):
            self.skip_to(";")
        else:
            if name in function.labels:
                raise SyntaxFault(f"label {name} is there twice")
            function.labels[name] = len(function.instructions)

    def instruction(self) -> Instruction:
        """Read one instruction with its operands, up to the semicolon."""
        start = self.tokens[self.next][2]
        guard: Register | Not | None = None
        if self.accept("@"):
            negated = self.accept("!")
            register = self.scope.find(self.take())
            if not isinstance(register, Register):
                raise self.fault("a guard that is not a register")
            guard = Not(register) if negated else register
        opcode = self.take()
        operands = self.listed(";", self.operand)
        text = " ".join(self.text[start : self.tokens[self.next - 1][2]].split())
        return Instruction(tuple(opcode.split(".")), operands, guard, self.line(start), text)

    def operand(self) -> Any:
        """Return the next operand."""
        if self.tokens[self.next][0] == "name":
            return self.named()
        if self.accept("["):
            return self.address()
        if self.accept("{"):
            return Vector(tuple(self.listed("}", self.operand)))
        if self.accept("("):
            return Vector(tuple(self.listed(")", self.operand)))
        if self.accept("!"):
            return Not(self.operand())
        negative = self.accept("-")
        kind, token, _place = self.tokens[self.next]
        self.next += 1
        if kind == "int":
            return Immediate(-integer(token) if negative else integer(token), "int")
        if kind == "float":
            return floating(token, negative)
        self.next -= 1
        raise self.fault("expected an operand")

    def named(self) -> Any:
        """Return the next operand, which begins with a name."""
        token = self.take()
        first = self.scope.find(token) or Name(token)
        if self.accept("|"):
            return Pair(first, self.operand())
        if isinstance(first, Variable) and self.token in ("+", "-"):
            return Address(first, self.offset())
        return first

    def offset(self) -> int:
        """Return what stands after a base: `+4`, `+-4`, `-4`, or nothing."""
        if self.accept("+"):
            return self.number()
        return self.number() if self.token == "-" else 0

    def address(self) -> Address:
        """Return an address, after its opening bracket."""
        token = self.take()
        base, offset = self.scope.find(token) or Name(token), self.offset()
        further: list[Any] = []
        while self.accept(","):
            further.append(self.operand())
        self.take("]")
        return Address(base, offset, tuple(further))


def integer(token: str) -> int:
    """Return the value of a literal: decimal, 0x hexadecimal, 0b binary or 0 octal, perhaps with a U behind."""
    token = token.removesuffix("U")
    if token[:2] in ("0x", "0X", "0b", "0B"):
        return int(token, 0)
    return int(token, 8) if len(token) > 1 and token[0] == "0" else int(token)


def floating(token: str, negative: bool) -> Immediate:
    """Return a literal's bits: `0f` and eight digits of an f32, `0d` and sixteen of an f64."""
    if token[:2] not in ("0f", "0F", "0d", "0D"):
        raise SyntaxFault(f"a number in decimal notation: {token}")
    kind = "f32" if token[1] in "fF" else "f64"
    value = int(token[2:], 16)
    return Immediate(value ^ (1 << (31 if kind == "f32" else 63)) if negative else value, kind)
