"""f16 and bf16 arithmetic against rational numbers, bit for bit, alone and in pairs."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from ptx import halves
from ptx.rational import FORMATS, rounded

NAN_BITS = 0x7FFF  # the canonical NaN of both formats
INFINITY = {"f16": 0x7C00, "bf16": 0x7F80}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def decoded(bits: int, of: str) -> Fraction:
    """A finite number of the format, by its definition."""
    precision, least, _ = FORMATS[of]
    fraction, exponent = bits & (2 ** (precision - 1) - 1), (bits & 0x7FFF) >> (precision - 1)
    significand = fraction + (2 ** (precision - 1) if exponent else 0)
    value = significand * Fraction(2) ** (max(exponent, 1) - 1 + least - precision + 1)
    return -value if bits >> 15 else value


def encoded(value: float, of: str) -> int:
    """Of a number of the format; -0.0 too."""
    if of == "f16":
        return int(np.array(value, np.float16).view(np.uint16))
    return int(np.array(value, np.float32).view(np.uint32)) >> 16


def array(bits: list[int], of: str) -> np.ndarray:
    x = np.array(bits, np.uint16)
    return x.view(np.float16) if of == "f16" else x


def bits_of(x: np.ndarray) -> list[int]:
    return x.view(np.uint16).tolist()


def hard(of: str, operands: int, count: int = 3000) -> list[list[int]]:
    """Finite numbers, near each other half of the time: ties, cancellations, subnormals, overflows."""
    random = np.random.default_rng(operands)
    precision = FORMATS[of][0]
    greatest = INFINITY[of] >> (precision - 1)
    middle = random.integers(0, greatest, count)
    drawn = []
    for _ in range(operands):
        near = np.where(random.random(count) < 0.6, middle + random.integers(-12, 13, count), greatest // 2)
        exponents = np.clip(near + random.integers(-2, 3, count), 0, greatest - 1)
        fractions = random.choice([0, 1, 2 ** (precision - 1) - 1, 3, 2 ** (precision - 2)], count)
        fractions = np.where(random.random(count) < 0.5, random.integers(0, 2 ** (precision - 1), count), fractions)
        drawn.append((random.integers(0, 2, count) << 15 | exponents << (precision - 1) | fractions).tolist())
    return drawn


def expected_sum(exact: Fraction, first: int, second: int, of: str) -> int:
    """first, second: the sign bits of the terms."""
    if exact:
        return encoded(rounded(exact, of), of)
    return 0x8000 if first and second else 0


@pytest.mark.parametrize("of", ["f16", "bf16"])
class TestOneRounding:
    def test_add_and_sub(self, of: str) -> None:
        a, b = hard(of, 2)
        expected = [
            expected_sum(decoded(x, of) + decoded(y, of), x >> 15, y >> 15, of) for x, y in zip(a, b, strict=True)
        ]
        assert bits_of(halves.operation("add", of)(array(a, of), array(b, of))) == expected
        negative = [y ^ 0x8000 for y in b]
        assert bits_of(halves.operation("sub", of)(array(a, of), array(negative, of))) == expected

    def test_mul(self, of: str) -> None:
        a, b = hard(of, 2)
        expected = []
        for x, y in zip(a, b, strict=True):
            magnitude = encoded(rounded(abs(decoded(x, of) * decoded(y, of)), of), of)
            expected.append(magnitude | ((x ^ y) & 0x8000))
        assert bits_of(halves.operation("mul", of)(array(a, of), array(b, of))) == expected

    def test_fma(self, of: str) -> None:
        a, b, c = hard(of, 3, 6000)
        expected = [
            expected_sum(decoded(x, of) * decoded(y, of) + decoded(z, of), (x ^ y) >> 15, z >> 15, of)
            for x, y, z in zip(a, b, c, strict=True)
        ]
        operands = [array(x, of) for x in (a, b, c)]
        assert bits_of(halves.operation("fma", of)(*operands)) == expected
        relu = [0 if x >> 15 else x for x in expected]
        assert bits_of(halves.operation("fma", of)(*operands, relu=True)) == relu


@pytest.mark.parametrize("of", ["f16", "bf16"])
class TestSpecialValues:
    def test_neg_and_abs(self, of: str) -> None:
        x = array([0, 0x8000, 0x3C00, 0xBC00, INFINITY[of]], of)
        assert bits_of(halves.operation("neg", of)(x)) == [0x8000, 0, 0xBC00, 0x3C00, INFINITY[of] | 0x8000]
        assert bits_of(halves.operation("abs", of)(x)) == [0, 0, 0x3C00, 0x3C00, INFINITY[of]]

    def test_min_and_max(self, of: str) -> None:
        a = array([0x3C00, 0x8000, 0x0000, NAN_BITS, 0x4000, NAN_BITS, 0x0001], of)
        b = array([0x4000, 0x0000, 0x8000, 0x3C00, NAN_BITS, 0xFFFF, 0x0002], of)
        low, high = halves.operation("min", of), halves.operation("max", of)
        assert bits_of(low(a, b)) == [0x3C00, 0x8000, 0x8000, 0x3C00, 0x4000, NAN_BITS, 1]
        assert bits_of(high(a, b)) == [0x4000, 0x0000, 0x0000, 0x3C00, 0x4000, NAN_BITS, 2]
        assert bits_of(low(a, b, nan=True)) == [0x3C00, 0x8000, 0x8000, NAN_BITS, NAN_BITS, NAN_BITS, 1]
        assert bits_of(high(a, b, nan=True)) == [0x4000, 0x0000, 0x0000, NAN_BITS, NAN_BITS, NAN_BITS, 2]

    def test_xorsign_abs(self, of: str) -> None:
        a, b = array([0xBC00, 0x3C00], of), array([0xC000, 0xC000], of)
        assert bits_of(halves.operation("min", of)(a, b, xorsign_abs=True)) == [0x3C00, 0xBC00]
        assert bits_of(halves.operation("max", of)(a, b, xorsign_abs=True)) == [0x4000, 0xC000]

    def test_infinities_and_nan(self, of: str) -> None:
        one = {"f16": 0x3C00, "bf16": 0x3F80}[of]
        infinite = INFINITY[of]
        a = array([infinite, infinite, infinite, NAN_BITS], of)
        b = array([one, one, 0, one], of)
        c = array([one, infinite | 0x8000, one, one], of)
        found = bits_of(halves.operation("fma", of)(a, b, c, relu=True))
        assert found == [infinite, NAN_BITS, NAN_BITS, NAN_BITS]


class TestModifiersOfF16:
    SMALL, LEAST_NORMAL = 0x0200, 0x0400

    def test_flush(self) -> None:
        small, one, half = (array([x], "f16") for x in (self.SMALL, 0x3C00, 0x3800))
        normal, zero = array([self.LEAST_NORMAL], "f16"), array([0], "f16")
        assert bits_of(halves.operation("mul", "f16")(small, one)) == [self.SMALL]
        assert bits_of(halves.operation("mul", "f16")(small, one, ftz=True)) == [0]
        assert bits_of(halves.operation("mul", "f16")(normal, half, ftz=True)) == [0]
        assert bits_of(halves.operation("add", "f16")(small, normal, ftz=True)) == [self.LEAST_NORMAL]
        assert bits_of(halves.operation("sub", "f16")(zero, small, ftz=True)) == [0]
        assert bits_of(halves.operation("fma", "f16")(normal, -half, zero, ftz=True)) == [0x8000]
        assert bits_of(halves.operation("neg", "f16")(small, ftz=True)) == [0x8000]
        assert bits_of(halves.operation("abs", "f16")(-small, ftz=True)) == [0]
        assert bits_of(halves.operation("min", "f16")(small, one, ftz=True)) == [0]

    def test_saturation(self) -> None:
        x = np.array([-1, -0.0, 0.5, 3, np.nan], np.float16)
        zero, one = np.float16(0), np.float16(1)
        expected = [0, 0, 0x3800, 0x3C00, 0]
        assert bits_of(halves.operation("add", "f16")(x, zero, saturate=True)) == expected
        assert bits_of(halves.operation("sub", "f16")(x, zero, saturate=True)) == expected
        assert bits_of(halves.operation("mul", "f16")(x, one, saturate=True)) == expected
        assert bits_of(halves.operation("fma", "f16")(x, one, zero, saturate=True)) == expected


class TestPairs:
    def test_each_half_for_itself(self) -> None:
        one_two, three_four = np.array([0x40003C00], np.uint32), np.array([0x44004200], np.uint32)
        assert halves.operation("add", "f16x2")(one_two, three_four).tolist() == [0x46004400]  # 4, 6
        assert halves.operation("fma", "f16x2")(one_two, one_two, one_two).tolist() == [0x46004000]  # 2, 6
        one_two, three_four = np.array([0x40003F80], np.uint32), np.array([0x40804040], np.uint32)
        assert halves.operation("mul", "bf16x2")(one_two, three_four).tolist() == [0x41004040]  # 3, 8
        assert halves.operation("max", "bf16x2")(one_two, three_four, nan=True).tolist() == [0x40804040]
        assert halves.operation("neg", "bf16x2")(one_two).tolist() == [0xC000BF80]

    def test_one_value_for_all_threads(self) -> None:
        threads = np.array([0x40003C00, 0x3C004000], np.uint32)
        found = halves.operation("mul", "f16x2")(threads, np.uint32(0x40004000))
        assert found.tolist() == [0x44004000, 0x40004400]

    def test_of_approximate_instructions(self) -> None:
        zero = np.array([0], np.uint32)
        assert halves.operation("ex2", "f16x2")(zero).tolist() == [0x3C003C00]
        assert halves.operation("ex2", "bf16x2")(zero).tolist() == [0x3F803F80]
        assert halves.operation("tanh", "f16x2")(zero).tolist() == [0]


def test_an_unknown_operation_is_an_error() -> None:
    with pytest.raises(KeyError):
        halves.operation("div", "f16")
