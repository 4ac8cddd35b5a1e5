"""The parser: what a text says, as the grammar in NVIDIA's PTX ISA manual has it."""

import struct

import pytest

from ptx.parser import Parser, SyntaxFault
from ptx.syntax import Address, Function, Immediate, Instruction, Module, Name, Not, Pair, Register, Variable, Vector

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"


def parse(text: str) -> Module:
    return Parser(HEAD + text).parse()


def function(body: str, before: str = "") -> Function:
    registers = ".reg .b32 %r<9>; .reg .b64 %d<9>; .reg .pred %p<9>; .reg .b16 %h<9>;"
    return parse(f"{before}\n.entry f() {{ {registers} {body} }}").functions["f"]


def instruction(text: str) -> Instruction:
    [one] = function(text).instructions
    return one


def named(operand: object) -> str:
    assert isinstance(operand, Register)
    return operand.name


class TestModule:
    def test_header(self) -> None:
        module = parse("")
        assert (module.version, module.target) == ("8.0", "sm_80")

    def test_further_words_of_the_target(self) -> None:
        assert Parser(".version 8.0 .target sm_90a, debug .address_size 64").parse().target == "sm_90a"

    def test_addresses_of_32_bits_are_refused(self) -> None:
        with pytest.raises(SyntaxFault, match="64 bits"):
            Parser(".version 8.0 .target sm_80 .address_size 32").parse()

    def test_comments(self) -> None:
        module = parse("// .entry no() {\n/* .entry no() {\n } */ .visible .entry f /* here */ ()\n{ ret; // done\n}")
        assert [name for name, one in module.functions.items() if one.entry] == ["f"]

    def test_parameters_of_a_kernel(self) -> None:
        text = """.visible .entry f(
            .param .u64 .ptr .global .align 16 a, .param .f32 b, .param .align 8 .b8 c[24], .param .u8 d
        ) { ret; }"""
        parameters = parse(text).functions["f"].parameters
        assert [(p.name, p.size, p.alignment, p.space) for p in parameters] == [
            ("a", 8, 8, "param"),
            ("b", 4, 4, "param"),
            ("c", 24, 8, "param"),
            ("d", 1, 1, "param"),
        ]

    def test_functions_and_kernels(self) -> None:
        text = """.extern .func (.param .b32 r) outside(.param .b64 x);
            .weak .func (.param .b32 r) inside(.param .b32 x) { ret; }
            .func nothing() { ret; }
            .entry f() { ret; }"""
        functions = parse(text).functions
        assert {name: (one.entry, one.extern) for name, one in functions.items()} == {
            "outside": (False, True),
            "inside": (False, False),
            "nothing": (False, False),
            "f": (True, False),
        }
        assert [variable.size for variable in functions["inside"].results + functions["inside"].parameters] == [4, 4]
        assert functions["nothing"].parameters == functions["nothing"].results == []

    def test_definition_takes_the_place_of_a_declaration(self) -> None:
        module = parse(".func g(.param .b32 x); .func g(.param .b32 x) { ret; } .func g(.param .b32 x);")
        assert not module.functions["g"].extern
        assert len(module.functions["g"].instructions) == 1

    def test_limits_of_a_launch(self) -> None:
        one = parse(".entry f() .maxntid 128, 2, 1 .minnctapersm 2 .reqntid 64 { ret; }").functions["f"]
        assert one.limits == {"maxntid": [128, 2, 1], "minnctapersm": [2], "reqntid": [64]}

    @pytest.mark.parametrize(
        ("declaration", "space", "size", "alignment", "initial"),
        [
            (".global .align 4 .b8 x[5] = {1, 0xFF, 3}", "global", 5, 4, bytes([1, 255, 3])),
            (".const .u32 x = 7", "const", 4, 4, struct.pack("<I", 7)),
            (".global .s16 x[2] = {-1, 2}", "global", 4, 2, struct.pack("<hh", -1, 2)),
            (".global .f32 x = 0f3FC00000", "global", 4, 4, struct.pack("<f", 1.5)),
            (".const .align 8 .f64 x[1] = {0d3FF8000000000000}", "const", 8, 8, struct.pack("<d", 1.5)),
            (".global .u32 x[2][2] = {{1, 2}, {3, 4}}", "global", 16, 4, struct.pack("<4I", 1, 2, 3, 4)),
            (".visible .global .u16 x[] = {1, 2, 3}", "global", 6, 2, struct.pack("<3H", 1, 2, 3)),
            (".global .attribute(.managed) .align 16 .v4 .f32 x", "global", 16, 16, b""),
            (".extern .shared .align 16 .b8 x[]", "shared", 0, 16, b""),
            (".shared .align 4 .b8 x[1024]", "shared", 1024, 4, b""),
        ],
    )
    def test_variables(self, declaration: str, space: str, size: int, alignment: int, initial: bytes) -> None:
        [variable] = parse(f"{declaration};").variables
        assert (variable.space, variable.size, variable.alignment) == (space, size, alignment)
        assert variable.initial == initial

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (".global .u64 x = f;", "line 4: the initial value of x is not a number, found 'f'"),
            (".global .texref x;", "line 4: unknown attribute .texref"),
            (".surprise x;", "line 4: expected a directive, found '.surprise'"),
            ("\n.entry f() .surprise { ret; }", "line 5: unknown directive .surprise"),
            (".entry f(.reg .b32 x) { ret; }", "line 4: expected .param, found '.reg'"),
            (".entry f() { ret;", "line 4: expected '}', found ''"),
            (".entry f() { .surprise x; }", "unknown directive .surprise"),
            (".entry f() { .reg .b24 x; }", "unknown type .b24"),
            (".entry f() { add.u32 x y; }", "expected ',', found 'y'"),
            (".entry f() { a: ret; a: ret; }", "label a is there twice"),
            (".entry f() { @x ret; }", "a guard that is not a register"),
            (".entry f() { mov.f32 x, 1.5; }", "decimal notation: 1.5"),
            ("?", r"line 4: unexpected '\?'"),
        ],
    )
    def test_what_is_not_known_is_an_error(self, text: str, message: str) -> None:
        with pytest.raises(SyntaxFault, match=message):
            parse(text)


class TestInstructions:
    def test_opcode_line_and_text(self) -> None:
        one = function("\n\n  add.sat.s32\n %r1,  %r2, %r3; // no\n").instructions[0]
        assert one.opcode == ("add", "sat", "s32")
        assert (one.line, one.text) == (HEAD.count("\n") + 1 + 3, "add.sat.s32 %r1, %r2, %r3")
        assert [named(operand) for operand in one.operands] == ["%r1", "%r2", "%r3"]

    def test_modifiers_with_colons(self) -> None:
        one = instruction("ld.global.L1::no_allocate.L2::128B.v2.b32 {%r1, %r2}, [%d1];")
        assert one.opcode == ("ld", "global", "L1::no_allocate", "L2::128B", "v2", "b32")

    def test_guards(self) -> None:
        plain, negated, none = function("@%p1 ret; @!%p2 ret; ret;").instructions
        assert named(plain.guard) == "%p1"
        assert isinstance(negated.guard, Not)
        assert named(negated.guard.register) == "%p2"
        assert none.guard is None

    @pytest.mark.parametrize(
        ("text", "value", "kind"),
        [
            ("0", 0, "int"),
            ("-5", -5, "int"),
            ("42U", 42, "int"),
            ("0xfFU", 255, "int"),
            ("017", 15, "int"),
            ("0b101", 5, "int"),
            ("0f3F800000", 0x3F800000, "f32"),
            ("-0f3F800000", 0xBF800000, "f32"),
            ("0d3FF0000000000000", 0x3FF0000000000000, "f64"),
        ],
    )
    def test_numbers(self, text: str, value: int, kind: str) -> None:
        assert instruction(f"mov.b32 %r1, {text};").operands[1] == Immediate(value, kind)

    @pytest.mark.parametrize(
        ("text", "base", "offset"),
        [("%d1", "%d1", 0), ("%d1+8", "%d1", 8), ("%d1+-8", "%d1", -8), ("%d1-4", "%d1", -4), ("x+4", "x", 4)],
    )
    def test_addresses(self, text: str, base: str, offset: int) -> None:
        address = function(f"ld.global.b32 %r1, [{text}];", ".global .b32 x[4];").instructions[0].operands[1]
        assert (address.base.name, address.offset) == (base, offset)

    def test_address_of_part_of_a_variable(self) -> None:
        one = function("mov.u64 %d1, x+4;", ".global .b32 x[4];").instructions[0].operands[1]
        assert isinstance(one, Address)
        assert isinstance(one.base, Variable)
        assert (one.base.name, one.offset) == ("x", 4)

    def test_vectors_pairs_and_negations(self) -> None:
        one = instruction("setp.eq.and.u32 %p1|%p2, %r1, 3, !%p3;")
        first, _, _, last = one.operands
        assert isinstance(first, Pair)
        assert (named(first.first), named(first.second)) == ("%p1", "%p2")
        assert isinstance(last, Not)
        assert named(last.register) == "%p3"
        vector, other = instruction("mov.b32 {%h1, _}, %r1;").operands
        assert isinstance(vector, Vector)
        assert named(vector.items[0]) == "%h1"
        assert vector.items[1] == Name("_")
        assert named(other) == "%r1"

    def test_special_registers_and_labels_are_names(self) -> None:
        move, jump = function("mov.u32 %r1, %ctaid.x; $L__BB0_1: bra.uni $L__BB0_1;").instructions
        assert move.operands[1] == Name("%ctaid.x")
        assert jump.operands == [Name("$L__BB0_1")]

    def test_call(self) -> None:
        one = function("{ .param .b32 a; .param .b32 r; call.uni (r), g, (a); } call h; call i, (2);").instructions
        results, name, parameters = one[0].operands
        assert name == Name("g")
        assert (results.items[0].name, parameters.items[0].name) == ("r", "a")
        assert one[1].operands == [Name("h")]
        assert one[2].operands == [Name("i"), Vector((Immediate(2, "int"),))]

    def test_type_of_a_register_right_behind_its_directive(self) -> None:
        one = function("{.reg.b16 h;.reg.b32 r;mov.b32 r,1;mov.b16 h,2;}").instructions
        assert [named(instruction.operands[0]) for instruction in one] == ["r", "h"]

    def test_several_on_a_line_and_empty_ones(self) -> None:
        assert [one.opcode[0] for one in function("ret; ; exit;trap;").instructions] == ["ret", "exit", "trap"]

    def test_what_concerns_debuggers_and_compilers_is_passed_over(self) -> None:
        body = '\n.loc 1 2 3, function_name $L, inlined_at 1 4 5\n .pragma "nounroll";\n ret;'
        assert [one.opcode for one in function(body, '.file 1 "x.cu"\n').instructions] == [("ret",)]
        assert function("p : .callprototype _ (.param .b32 _); ret;").instructions[0].opcode == ("ret",)


class TestNames:
    def test_labels_are_places(self) -> None:
        one = function("$a: ret; $b: $c: exit; $d:")
        assert one.labels == {"$a": 0, "$b": 1, "$c": 1, "$d": 2}

    def test_tables_of_branch_targets(self) -> None:
        one = function("$t: .branchtargets $a, $b, $a; $a: ret; $b: ret;")
        assert one.tables == {"$t": ["$a", "$b", "$a"]}

    def test_registers_of_a_range_are_the_same_everywhere(self) -> None:
        first, second = function("mov.b32 %r1, %r2; mov.b32 %r2, %r1;").instructions
        assert first.operands[0] is second.operands[1]
        assert first.operands[0] is not first.operands[1]

    def test_range_has_an_end(self) -> None:
        with_range = function(".reg .b32 %x<3>; mov.b32 %x2, %x3;").instructions[0].operands
        assert isinstance(with_range[0], Register)
        assert with_range[1] == Name("%x3")

    @pytest.mark.parametrize(
        ("kind", "bits"),
        [("pred", 1), ("b8", 8), ("f16", 16), ("bf16x2", 32), ("s32", 32), ("f64", 64)],
    )
    def test_widths_of_registers(self, kind: str, bits: int) -> None:
        register = function(f".reg .{kind} x, y; mov.b32 x, y;").instructions[0].operands[1]
        assert (register.name, register.bits) == ("y", bits)

    def test_braces_hide_names(self) -> None:
        body = ".reg .b32 x; mov.b32 x, 1; { .reg .b64 x; mov.b64 x, 2; { mov.b64 x, 3; } } mov.b32 x, 4;"
        a, b, c, d = (one.operands[0] for one in function(body).instructions)
        assert a is d
        assert b is c
        assert (a.bits, b.bits) == (32, 64)

    def test_braces_hide_labels(self) -> None:
        """Inside, a label means that of these braces, before it and behind it; one from outside can be reached."""
        body = "a: { bra a; bra b; a: bra b; b: { b: bra b; bra c; } } { bra a; a: ret; } c: bra a;"
        one = function(body)
        found = [one.labels[operand.text] for jump in one.instructions for operand in jump.operands]
        assert found == [2, 3, 3, 3, 7, 6, 0]

    def test_functions_have_names_of_their_own(self) -> None:
        module = parse(".func g() { .reg .b32 x; mov.b32 x, 1; } .entry f() { .reg .b64 x; mov.b64 x, 1; }")
        bits = [module.functions[name].instructions[0].operands[0].bits for name in "gf"]
        assert bits == [32, 64]

    def test_variables_of_a_function(self) -> None:
        one = function(".local .align 8 .b8 depot[16]; .shared .b32 s[4]; { .param .b32 p; } mov.u64 %d1, depot;")
        assert [(v.name, v.space, v.size) for v in one.variables] == [
            ("depot", "local", 16),
            ("s", "shared", 16),
            ("p", "param", 4),
        ]
        assert one.instructions[0].operands[1] is one.variables[0]
