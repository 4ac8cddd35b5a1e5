"""Instructions on floats as they are written: which words mean what, in which order operands stand.

What is computed is compared with rational numbers, rounded by the definition (`ptx.rational`).
"""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

from ptx import UnknownInstruction
from ptx.instruction_helpers import run
from ptx.rational import FORMATS, rounded

DTYPES = {"f16": "f2", "bf16": "u2", "f32": "f4", "f64": "f8"}
ROUNDINGS = ("rn", "rz", "rm", "rp")
Exact = Callable[..., Fraction]
OPERATIONS: dict[str, Exact] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "fma": lambda a, b, c: a * b + c,
    "mad": lambda a, b, c: a * b + c,
    "div": lambda a, b: a / b,
    "rcp": lambda a: 1 / a,
}
OPERANDS = {"fma": 3, "mad": 3, "rcp": 1}


@cache
def numbers(kind: str, count: int = 80) -> list[list[float]]:
    """Operands that the format can hold: of similar and of very different size, and subnormal ones."""
    precision, least, _greatest = FORMATS[kind]
    generator = np.random.default_rng(5)
    columns = []
    for _ in range(3):
        exponents = generator.choice([0, 1, -1, precision - 2, least // 2, least + 2, least - 2], count)
        signs = generator.choice([-1, 1], count)
        parts = generator.integers(1, 1 << min(precision, 30), count) / 2.0 ** min(precision, 30)
        exact = [
            Fraction(int(sign)) * Fraction(part) * Fraction(2) ** int(exponent)
            for sign, part, exponent in zip(signs, parts.tolist(), exponents, strict=True)
        ]
        columns.append([rounded(x, kind) or 1.0 for x in exact])
    return columns


def array(values: list[float], kind: str) -> np.ndarray:
    """Numbers of the format as its bits are held."""
    if kind == "bf16":
        return (np.array(values, "f4").view("u4") >> 16).astype("u2")
    return np.array(values, DTYPES[kind])


def floats(values: np.ndarray, kind: str) -> list[float]:
    if kind == "bf16":
        return (values.astype("u4") << 16).view("f4").tolist()
    return values.tolist()


def flushed(x: float, kind: str) -> float:
    return 0.0 if abs(x) < 2.0 ** FORMATS[kind][1] else x


def compare(name: str, modifiers: str, kind: str, rounding: str = "rn", target: str = "sm_80") -> None:
    """Run name.modifiers.kind on numbers and compare."""
    count = OPERANDS.get(name, 2)
    given = numbers(kind)[:count]
    names = ", ".join(f"%{letter}" for letter in "abc"[:count])
    inputs = [array(values, kind) for values in given]
    [found] = run(f"{name}{modifiers}.{kind} %x, {names};", inputs, [DTYPES[kind]], target=target)
    ftz = ".ftz" in modifiers
    for operands, result in zip(zip(*given, strict=True), floats(found, kind), strict=True):
        taken = [Fraction(flushed(x, kind) if ftz else x) for x in operands]
        if name in ("div", "rcp") and taken[-1] == 0:
            continue
        wanted = rounded(OPERATIONS[name](*taken), kind, rounding)
        if ftz:
            wanted = flushed(wanted, kind)
        if ".sat" in modifiers:
            wanted = min(max(wanted, 0.0), 1.0)
        if ".relu" in modifiers:
            wanted = max(wanted, 0.0)
        assert result == wanted, (operands, result, wanted)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma", "mad"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("more", ["", ".ftz", ".sat", ".ftz.sat"])
def test_single_precision(name: str, rounding: str, more: str) -> None:
    compare(name, f".{rounding}{more}", "f32", rounding)


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_rounding_to_nearest_where_none_is_named(name: str, kind: str) -> None:
    compare(name, "", kind)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "fma", "mad", "div", "rcp"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_double_precision(name: str, rounding: str) -> None:
    compare(name, f".{rounding}", "f64", rounding)


@pytest.mark.parametrize("name", ["div", "rcp"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("ftz", ["", ".ftz"])
def test_quotients(name: str, rounding: str, ftz: str) -> None:
    compare(name, f".{rounding}{ftz}", "f32", rounding)


@pytest.mark.parametrize("modifiers", [".rn", "", ".ftz", ".rn.ftz", ".sat", ".rn.ftz.sat"])
@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_half_precision(name: str, modifiers: str) -> None:
    compare(name, modifiers, "f16")


@pytest.mark.parametrize("modifiers", [".rn", ".rn.ftz", ".rn.sat", ".rn.relu", ".rn.ftz.relu"])
def test_half_precision_of_product_and_sum(modifiers: str) -> None:
    compare("fma", modifiers, "f16")


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
def test_bfloat(name: str) -> None:
    compare(name, ".rn", "bf16", target="sm_90")
    with pytest.raises(UnknownInstruction, match="it needs sm_90"):
        compare(name, ".rn", "bf16")


@pytest.mark.parametrize("modifiers", [".rn", ".rn.relu"])
def test_bfloat_of_product_and_sum(modifiers: str) -> None:
    compare("fma", modifiers, "bf16")


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("instruction", ["fma.rn", "add.rn", "sub.rn", "mul.rn", "neg", "abs", "min", "max"])
def test_pairs_are_two_numbers(kind: str, instruction: str) -> None:
    """As the instruction on one number does; the first lies low."""
    count = {"fma.rn": 3, "neg": 1, "abs": 1}.get(instruction, 2)
    halves = [array(values, kind).view("u2") for values in numbers(kind)[:count]]
    names = ", ".join(f"%{letter}" for letter in "abc"[:count])
    [alone] = run(f"{instruction}.{kind} %x, {names};", halves, ["u2"], target="sm_90")
    pairs = [half.view("u4") for half in halves]
    [together] = run(f"{instruction}.{kind}x2 %x, {names};", pairs, ["u4"], target="sm_90")
    assert together.view("u2").tolist() == alone.tolist()


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32", "f64"])
def test_signs(kind: str) -> None:
    given = array([1.5, -2.0, 0.0, -0.0, -math.inf], kind)
    found = run(f"neg.{kind} %x, %a; abs.{kind} %y, %a;", [given], [DTYPES[kind]] * 2)
    wanted = [[-1.5, 2.0, -0.0, 0.0, math.inf], [1.5, 2.0, 0.0, 0.0, math.inf]]
    assert [str(floats(values, kind)) for values in found] == [str(values) for values in wanted]


@pytest.mark.parametrize("name", ["neg", "abs"])
def test_signs_of_subnormals(name: str) -> None:
    tiny = np.float32([1e-40, -1e-40])
    found = run(f"{name}.f32 %x, %a; {name}.ftz.f32 %y, %a;", [tiny], ["f4", "f4"])
    assert found[0].tolist() == (-tiny if name == "neg" else abs(tiny)).tolist()
    assert found[1].tolist() == [0, 0]


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_sign_of_the_first_operand(kind: str) -> None:
    a, b = np.array([1, -1, -0.0, 0.0], DTYPES[kind]), np.array([-3, 4, 5, -6], DTYPES[kind])
    assert run(f"copysign.{kind} %x, %a, %b;", [a, b], [DTYPES[kind]])[0].tolist() == [3, -4, -5, 6]


class TestMinimumAndMaximum:
    @pytest.mark.parametrize("kind", ["f16", "bf16", "f32", "f64"])
    def test_order(self, kind: str) -> None:
        a, b = array([1, 2, -0.0, math.nan, 5, math.nan], kind), array([2, 1, 0.0, 3, math.nan, math.nan], kind)
        smaller, larger = run(f"min.{kind} %x, %a, %b; max.{kind} %y, %a, %b;", [a, b], [DTYPES[kind]] * 2)
        assert str(floats(smaller, kind)) == "[1.0, 1.0, -0.0, 3.0, 5.0, nan]"
        assert str(floats(larger, kind)) == "[2.0, 2.0, 0.0, 3.0, 5.0, nan]"

    @pytest.mark.parametrize("kind", ["f16", "bf16", "f32"])
    def test_nan_and_signs(self, kind: str) -> None:
        a, b = array([1, math.nan, -3, -1], kind), array([2, 1, 2, -2], kind)
        body = f"min.NaN.{kind} %x, %a, %b; max.NaN.xorsign.abs.{kind} %y, %a, %b;"
        found = run(body, [a, b], [DTYPES[kind]] * 2, target="sm_86")
        assert str(floats(found[0], kind)) == "[1.0, nan, -3.0, -2.0]"
        # the larger magnitude, with the exclusive or of the signs
        assert [x for x in floats(found[1], kind) if x == x] == [2.0, -3.0, 2.0]

    def test_subnormals(self) -> None:
        tiny = np.float32([1e-40])
        found = run("min.ftz.f32 %x, %a, %b; min.f32 %y, %a, %b;", [tiny, np.float32([1])], ["f4", "f4"])
        assert [values[0] for values in found] == [0, tiny[0]]


class TestRootsAndApproximations:
    given = np.concatenate([np.float32(2) ** np.arange(-20, 20, dtype="f4") * np.float32(1.37), np.float32([1, 4])])

    def test_exact_roots(self) -> None:
        for rounding in ROUNDINGS:
            [found] = run(f"sqrt.{rounding}.f32 %x, %a;", [self.given], ["f4"])
            [double] = run(f"sqrt.{rounding}.f64 %x, %a;", [self.given.astype("f8")], ["f8"])
            for value, result, precise in zip(self.given.tolist(), found.tolist(), double.tolist(), strict=True):
                for root, kind in ((result, "f32"), (precise, "f64")):
                    # The right one of the numbers beside the exact root, which is irrational or whole here.
                    error = Fraction(root) ** 2 - Fraction(value)
                    unit = Fraction(math.ulp(root)) * (2**29 if kind == "f32" else 1)
                    low, high = {"rn": (-1, 1), "rz": (-2, 0), "rm": (-2, 0), "rp": (0, 2)}[rounding]
                    assert low * unit * Fraction(root) * 1.01 <= error <= high * unit * Fraction(root) * 1.01

    @pytest.mark.parametrize(
        ("instruction", "exact", "error"),
        [  # relative errors as the manual states them, or 2 units of the last of 24 bits
            ("rcp.approx.ftz.f32", lambda a: 1 / a, 2**-22),
            ("rcp.approx.f32", lambda a: 1 / a, 2**-22),
            ("sqrt.approx.f32", math.sqrt, 2**-22),
            ("rsqrt.approx.ftz.f32", lambda a: 1 / math.sqrt(a), 2**-22),
            ("ex2.approx.f32", lambda a: 2.0**a, 2**-21),
            ("tanh.approx.f32", math.tanh, 2**-10.9),
        ],
    )
    def test_within_the_error_of_the_manual(
        self, instruction: str, exact: Callable[[float], float], error: float
    ) -> None:
        given = self.given[self.given < 100]
        [found] = run(f"{instruction} %x, %a;", [given], ["f4"])
        for value, result in zip(given.tolist(), found.tolist(), strict=True):
            assert abs(result - exact(value)) <= error * abs(exact(value))

    def test_logarithm_sine_and_cosine(self) -> None:
        angles = np.linspace(-3, 3, 64).astype("f4")
        sine, cosine = run("sin.approx.f32 %x, %a; cos.approx.ftz.f32 %y, %a;", [angles], ["f4", "f4"])
        assert max(abs(s - math.sin(a)) for s, a in zip(sine.tolist(), angles.tolist(), strict=True)) <= 2**-20
        assert max(abs(c - math.cos(a)) for c, a in zip(cosine.tolist(), angles.tolist(), strict=True)) <= 2**-20
        [found] = run("lg2.approx.ftz.f32 %x, %a;", [self.given], ["f4"])
        errors = [abs(x - math.log2(a)) for x, a in zip(found.tolist(), self.given.tolist(), strict=True)]
        assert max(errors) <= 2**-22 * 20

    @pytest.mark.parametrize("kind", ["approx", "full"])
    def test_approximate_quotients(self, kind: str) -> None:
        a, b = self.given, self.given[::-1].copy()
        [found] = run(f"div.{kind}.ftz.f32 %x, %a, %b;", [a, b], ["f4"])
        assert max(abs(found.astype("f8") / (a.astype("f8") / b) - 1)) <= 2.0**-21

    def test_double_precision(self) -> None:
        given = self.given.astype("f8")
        body = "rcp.approx.ftz.f64 %x, %a; rsqrt.approx.ftz.f64 %y, %a; rsqrt.approx.f64 %z, %a;"
        reciprocal, root, precise = run(body, [given], ["f8"] * 3)
        assert max(abs(reciprocal * given - 1)) <= 2.0**-18
        assert max(abs(root * np.sqrt(given) - 1)) <= 2.0**-18
        assert max(abs(precise * np.sqrt(given) - 1)) <= 2.0**-50

    @pytest.mark.parametrize("kind", ["f16", "bf16"])
    def test_halves(self, kind: str) -> None:
        given = array([-2, -0.5, 0, 0.25, 1, 3], kind)
        ftz = ".ftz" if kind == "bf16" else ""
        body = f"ex2.approx{ftz}.{kind} %x, %a; tanh.approx.{kind} %y, %a;"
        power, tangent = run(body, [given], [DTYPES[kind]] * 2, target="sm_90")
        for value, x, y in zip(floats(given, kind), floats(power, kind), floats(tangent, kind), strict=True):
            assert x == pytest.approx(2.0**value, rel=2.0**-6)
            assert y == pytest.approx(math.tanh(value), abs=2.0**-7)
        pairs = given.view("u4")
        body = f"ex2.approx{ftz}.{kind}x2 %x, %a; tanh.approx.{kind}x2 %y, %a;"
        found = run(body, [pairs], ["u4", "u4"], target="sm_90")
        assert [values.view("u2").tolist() for values in found] == [
            power.view("u2").tolist(),
            tangent.view("u2").tolist(),
        ]


COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b and not (a != a or b != b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "equ": lambda a, b: a == b or a != a or b != b,
    "neu": lambda a, b: a != b,
    "ltu": lambda a, b: not a >= b,
    "leu": lambda a, b: not a > b,
    "gtu": lambda a, b: not a <= b,
    "geu": lambda a, b: not a < b,
    "num": lambda a, b: a == a and b == b,
    "nan": lambda a, b: a != a or b != b,
}


@pytest.mark.parametrize("kind", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(name: str, kind: str) -> None:
    pairs = list(itertools.product([-1.0, 0.0, -0.0, 1.0, math.inf, math.nan], repeat=2))
    a, b = (array(list(values), kind) for values in zip(*pairs, strict=True))
    wanted = [COMPARISONS[name](*pair) for pair in pairs]
    [found] = run(f"setp.{name}.{kind} %p, %a, %b; selp.u32 %x, 1, 0, %p;", [a, b], target="sm_90")
    assert found.tolist() == wanted


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_comparison_that_gives_a_number(kind: str) -> None:
    a, b = np.array([1, 2, math.nan], DTYPES[kind]), np.array([1, 1, 1], DTYPES[kind])
    found = run(f"set.gtu.f32.{kind} %x, %a, %b; set.eq.s32.{kind} %y, %a, %b;", [a, b], ["f4", "i4"])
    assert [values.tolist() for values in found] == [[0, 1, 1], [-1, 0, 0]]


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["lt", "neu"])
def test_comparisons_of_halves_that_give_numbers(kind: str, name: str) -> None:
    """All ones or 1.0; of pairs, each of the elements for itself."""
    pairs = list(itertools.product([-1.0, 0.0, 1.0, math.nan], repeat=2))
    a, b = (array(list(values), kind) for values in zip(*pairs, strict=True))
    wanted = [COMPARISONS[name](*pair) for pair in pairs]
    body = f"set.{name}.u32.{kind} %x, %a, %b; set.{name}.s16.{kind} %y, %a, %b; set.{name}.{kind}.{kind} %z, %a, %b;"
    found = run(body, [a, b], ["u4", "i2", DTYPES[kind]], target="sm_90")
    assert found[0].tolist() == [0xFFFFFFFF * holds for holds in wanted]
    assert found[1].tolist() == [-1 * holds for holds in wanted]
    assert floats(found[2], kind) == wanted
    body = f"""set.{name}.u32.{kind}x2 %x, %a, %b; set.{name}.{kind}x2.{kind}x2 %y, %a, %b;
        setp.{name}.{kind}x2 %p|%q, %a, %b; selp.u32 %z, 1, 0, %p; selp.u32 %w, 1, 0, %q;"""
    found = run(body, [a.view("u4"), b.view("u4")], ["u4"] * 4, target="sm_90")
    assert found[0].view("u2").tolist() == [0xFFFF * holds for holds in wanted]
    assert floats(found[1].view(DTYPES[kind]), kind) == wanted
    assert found[2].tolist() == wanted[::2]
    assert found[3].tolist() == wanted[1::2]


def test_comparisons_flush_where_they_are_told_to() -> None:
    tiny, zero = np.float32([1e-40]), np.float32([0])
    body = "setp.eq.f32 %p, %a, %b; selp.u32 %x, 1, 0, %p; setp.eq.ftz.f32 %p, %a, %b; selp.u32 %y, 1, 0, %p;"
    assert [values[0] for values in run(body, [tiny, zero], ["u4", "u4"])] == [0, 1]
    body = "setp.eq.and.ftz.f32 %p|%q, %a, %b, 1; selp.u32 %x, 1, 0, %p; selp.u32 %y, 1, 0, %q;"
    assert [values[0] for values in run(body, [tiny, zero], ["u4", "u4"])] == [1, 0]


def test_selection_by_a_sign() -> None:
    """The manual, `slct`: -0 counts as 0, and NaN selects the second; with .ftz subnormals are zeros."""
    by = np.float32([1, -1, 0, -0.0, math.nan, -1e-40])
    body = "slct.u32.f32 %x, 7, 8, %a; slct.ftz.u32.f32 %y, 7, 8, %a;"
    found = run(body, [by], ["u4", "u4"])
    assert [values.tolist() for values in found] == [[7, 8, 7, 7, 8, 8], [7, 8, 7, 7, 8, 7]]


def test_kinds_of_numbers() -> None:
    given = np.float32([0, 1, 1e-40, math.inf, -math.inf, math.nan])
    wanted = {
        "finite": [1, 1, 1, 0, 0, 0],
        "infinite": [0, 0, 0, 1, 1, 0],
        "number": [1, 1, 1, 1, 1, 0],
        "notanumber": [0, 0, 0, 0, 0, 1],
        "normal": [1, 1, 0, 0, 0, 0],  # "positive and negative zero are considered normal numbers"
        "subnormal": [0, 0, 1, 0, 0, 0],
    }
    for name, holds in wanted.items():
        [found] = run(f"testp.{name}.f32 %p, %a; selp.u32 %x, 1, 0, %p;", [given])
        assert found.tolist() == holds


CONVERTED = [("f16", "f32"), ("f32", "f64"), ("f16", "f64")]


class TestConversions:
    @pytest.mark.parametrize(
        ("to", "source", "rounding"),
        [
            *((to, source, rounding) for to, source in CONVERTED for rounding in ROUNDINGS),
            ("bf16", "f32", "rn"),
            ("bf16", "f32", "rz"),
        ],
    )
    def test_to_less_precision(self, to: str, source: str, rounding: str) -> None:
        given = numbers(source)[0]
        [found] = run(f"cvt.{rounding}.{to}.{source} %x, %a;", [array(given, source)], [DTYPES[to]])
        assert floats(found, to) == [rounded(Fraction(value), to, rounding) for value in given]

    @pytest.mark.parametrize(("to", "source"), [("f32", "f16"), ("f64", "f32"), ("f32", "bf16"), ("f64", "f16")])
    def test_to_more_precision(self, to: str, source: str) -> None:
        given = [1.5, -2.25, 0.0, math.inf, 2.0 ** (FORMATS[source][1] - 3)]
        [found] = run(f"cvt.{to}.{source} %x, %a;", [array(given, source)], [DTYPES[to]])
        assert floats(found, to) == given

    def test_tf32(self) -> None:
        given = numbers("f32")[0]
        [found] = run("cvt.rna.tf32.f32 %x, %a;", [array(given, "f32")], ["f4"])
        assert found.tolist() == [rounded(Fraction(value), "tf32", "rna") for value in given]

    @pytest.mark.parametrize(("to", "rounding"), list(itertools.product(["f16x2", "bf16x2"], ["rn", "rz"])))
    @pytest.mark.parametrize("relu", ["", ".relu"])
    def test_pair_of_two_numbers(self, to: str, rounding: str, relu: str) -> None:
        """The manual: the first becomes the upper half, the second the lower."""
        upper, lower = numbers("f32")[:2]
        inputs = [array(upper, "f32"), array(lower, "f32")]
        [found] = run(f"cvt.{rounding}{relu}.{to}.f32 %x, %a, %b;", inputs)
        halves = found.view("u2" if to == "bf16x2" else "f2")
        for given, part in ((upper, halves[1::2]), (lower, halves[::2])):
            wanted = [rounded(Fraction(value), to.removesuffix("x2"), rounding) for value in given]
            assert floats(part, to.removesuffix("x2")) == [max(x, 0.0) if relu else x for x in wanted]

    @pytest.mark.parametrize(
        ("rounding", "whole"), [("rni", round), ("rzi", math.trunc), ("rmi", math.floor), ("rpi", math.ceil)]
    )
    @pytest.mark.parametrize("source", ["f16", "f32", "f64"])
    def test_to_integers(self, rounding: str, whole: Callable[[float], int], source: str) -> None:
        given = [0.5, 1.5, 2.5, -0.5, -1.5, 100.75, -100.25, 300.0, -300.0, 3e4, -3e4]
        for to, low, high in (("s32", -(2**31), 2**31 - 1), ("u32", 0, 2**32 - 1), ("s16", -(2**15), 2**15 - 1)):
            dtype = f"{'i' if to[0] == 's' else 'u'}{int(to[1:]) // 8}"
            [found] = run(f"cvt.{rounding}.{to}.{source} %x, %a;", [array(given, source)], [dtype])
            exact = floats(array(given, source), source)
            assert found.tolist() == [min(max(whole(x), low), high) for x in exact]
        [found] = run(f"cvt.{rounding}.{source}.{source} %x, %a;", [array(given, source)], [DTYPES[source]])
        assert floats(found, source) == [float(whole(x)) for x in floats(array(given, source), source)]

    def test_to_integers_narrower_than_the_register(self) -> None:
        """Held to the type's numbers, then extended as the type says."""
        given = np.float32([-1, 200, 1000, -1000])
        found = run("cvt.rzi.u8.f32 %x, %a; cvt.rzi.s8.f32 %y, %a;", [given], ["u4", "i4"])
        assert [values.tolist() for values in found] == [[0, 200, 255, 0], [-1, 127, 127, -128]]

    @pytest.mark.parametrize("rounding", ROUNDINGS)
    @pytest.mark.parametrize("source", ["u32", "s32", "u64", "s64", "u8", "s16"])
    @pytest.mark.parametrize("to", ["f16", "f32", "f64"])
    def test_from_integers(self, to: str, source: str, rounding: str) -> None:
        bits, sign = int(source[1:]), source[0] == "s"
        given = [0, 1, 100, 2**24 + 1, 2**31 - 1, 2**53 + 1, 2**62 + 2**9 + 1, 2**63 - 1]
        given = [value % 2 ** (bits - sign) for value in given] + ([-1, -100, -(2 ** (bits - 1))] if sign else [])
        inputs = np.array(given, f"{'i' if sign else 'u'}{bits // 8}")
        [found] = run(f"cvt.{rounding}.{to}.{source} %x, %a;", [inputs], [DTYPES[to]])
        assert floats(found, to) == [rounded(Fraction(value), to, rounding) for value in given]

    def test_between_integers(self) -> None:
        """The lower bits, extended as the source says; with .sat held to the type's numbers."""
        given = np.array([0, 1, -1, 127, 128, 255, 256, -129, 70000, -70000], "i4")
        body = "cvt.s8.s32 %x, %a; cvt.u8.s32 %y, %a; cvt.sat.u8.s32 %z, %a; cvt.sat.s16.s32 %w, %a;"
        found = run(body, [given], ["i4", "u4", "u4", "i4"])
        values = given.tolist()
        assert found[0].tolist() == [(v + 128) % 256 - 128 for v in values]
        assert found[1].tolist() == [v % 256 for v in values]
        assert found[2].tolist() == [min(max(v, 0), 255) for v in values]
        assert found[3].tolist() == [min(max(v, -(2**15)), 2**15 - 1) for v in values]
        body = "cvt.s64.s32 %x, %a; cvt.u64.u32 %y, %a; cvt.s64.s8 %z, %a; cvt.u32.u16 %w, %a;"
        found = run(body, [given], ["i8", "u8", "i8", "u4"])
        assert found[0].tolist() == values
        assert found[1].tolist() == [v % 2**32 for v in values]
        assert found[2].tolist() == [(v + 128) % 256 - 128 for v in values]
        assert found[3].tolist() == [v % 2**16 for v in values]

    def test_saturation_and_flushing(self) -> None:
        given = np.float32([-1, 0.5, 3, math.nan, 1e-40])
        body = "cvt.sat.f32.f32 %x, %a; cvt.ftz.f32.f32 %y, %a; cvt.rn.sat.f16.f32 %h0, %a; cvt.f32.f16 %z, %h0;"
        found = run(body, [given], ["f4", "f4", "f4"])
        assert found[0].tolist() == [0, 0.5, 1, 0, np.float32(1e-40)]
        assert found[1].tolist()[4] == 0
        assert found[2].tolist() == [0, 0.5, 1, 0, 0]


@pytest.mark.parametrize(
    "instruction",
    [
        "add.rna.f32 %x, %a, %b",
        "add.ftz.f64 %l0, %l1, %l2",
        "fma.f32 %x, %a, %b, %a",
        "fma.rn.relu.f32 %x, %a, %b, %a",
        "div.f32 %x, %a, %b",
        "div.approx.f64 %l0, %l1, %l2",
        "div.rn.f16 %h0, %h1, %h2",
        "mad.rn.f16 %h0, %h1, %h2, %h3",
        "fma.rz.f16 %h0, %h1, %h2, %h3",
        "add.ftz.bf16 %h0, %h1, %h2",
        "rsqrt.rn.f32 %x, %a",
        "sqrt.approx.f64 %l0, %l1",
        "rcp.approx.f64 %l0, %l1",
        "ex2.f32 %x, %a",
        "ex2.approx.ftz.f16 %h0, %h1",
        "ex2.approx.bf16 %h0, %h1",
        "sin.approx.f16 %h0, %h1",
        "min.NaN.f64 %l0, %l1, %l2",
        "min.f32 %x, %a, %b, %a",
        "setp.lo.f32 %p, %a, %b",
        "testp.zero.f32 %p, %a",
        "cvt.f32 %x, %a",
        "cvt.f16.f32 %h0, %a",
        "cvt.rzi.f16.f32 %h0, %a",
        "cvt.rn.s32.f32 %x, %a",
        "cvt.rp.f16x2.f32 %x, %a, %b",
        "cvt.rn.satfinite.e4m3x2.f32 %h0, %a, %b",
        "cvt.rna.f16.f32 %h0, %a",
        "cvt.rn.f32.tf32 %x, %a",
        "cvt.rna.tf32.f16 %x, %h0",
        "add.f32 %x, %a, 1",
        "mov.f16 %h0, %h1",
        "set.eq.f32.f16 %x, %h0, %h1",
        "set.eq.u16.f16x2 %h0, %a, %b",
        "set.eq.f16x2.bf16x2 %x, %a, %b",
        "set.eq.and.u32.f16 %x, %h0, %h1, %p",
        "cvt.u32.f32 %x, %a",
    ],
)
def test_unknown_ones_are_named(instruction: str) -> None:
    values = np.zeros(2, "u4")
    with pytest.raises(UnknownInstruction) as error:
        run(f"{instruction};", [values, values], ["u4"], target="sm_90")
    assert f"({instruction}): unknown instruction {instruction.split()[0]}" in str(error.value)


@pytest.mark.parametrize(
    ("instruction", "architecture"),
    [
        ("setp.eq.bf16 %p, %h0, %h1", 90),
        ("min.xorsign.abs.f32 %x, %a, %b", 86),
        ("ex2.approx.ftz.bf16 %h0, %h1", 90),
        ("tanh.approx.bf16x2 %x, %a", 90),
        ("sub.bf16x2 %x, %a, %b", 90),
        ("cvt.rn.bf16.u32 %h0, %a", 90),
        ("cvt.f64.bf16 %l0, %h0", 90),
        ("cvt.rn.tf32.f32 %x, %a", 90),
    ],
)
def test_some_need_a_newer_architecture(instruction: str, architecture: int) -> None:
    values = np.zeros(2, "u4")
    run(f"{instruction}; mov.b32 %x, 0;", [values, values], target=f"sm_{architecture}")
    with pytest.raises(UnknownInstruction, match=f"it needs sm_{architecture}"):
        run(f"{instruction}; mov.b32 %x, 0;", [values, values], target="sm_80")


def test_numbers_in_the_text() -> None:
    """A double where a single is wanted is rounded to one."""
    found = run(
        "add.f32 %x, 0f3F800000, 0f40000000; mul.f32 %y, %a, 0d3FB999999999999A;", [np.float32([1])], ["f4", "f4"]
    )
    assert [values.tolist() for values in found] == [[3], [np.float32(0.1)]]
