"""f32 and f64 arithmetic against rational numbers, bit for bit."""

from collections.abc import Iterator
from fractions import Fraction
from math import inf, isnan, nan

import numpy as np
import pytest

from ptx import floats
from ptx.rational import rounded

MODES = ["rn", "rz", "rm", "rp"]
SIGNIFICANDS = {
    "f32": [1, 1 + 2**-23, 2 - 2**-23, 1.5, 1 + 2**-12, 1.3333333730697632],
    "f64": [1, 1 + 2**-52, 2 - 2**-52, 1.5, 1 + 2**-26, 1 + 2**-27, 1.3333333333333333],
}
DTYPES = {"f32": np.float32, "f64": np.float64}
MIN32, MAX32 = 2.0**-149, float(np.finfo(np.float32).max)
NORMAL32 = 2.0**-126


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def f64(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal bits; any NaN is a NaN."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    unequal = (found != expected) | (np.signbit(found) != np.signbit(expected))
    unequal &= ~(np.isnan(found) & np.isnan(expected))
    at = unequal.nonzero()
    assert not at[0].size, f"{found[at][:5]} instead of {expected[at][:5]}, at {at[0][:5]}"


def hard(of: str, operands: int, count: int, seed: int) -> list[np.ndarray]:
    """Finite operands whose results are likely to be ties, to cancel, to overflow or to be subnormal."""
    random = np.random.default_rng(seed)
    far, near = (120, 30) if of == "f32" else (1000, 60)
    least = -126 if of == "f32" else -1022
    middle = random.choice([0, 0, 0, far, -far, least // 2, least // 2 - 12, far // 2], count)
    drawn = []
    for _ in range(operands):
        exponents = np.clip(middle + random.integers(-near, near + 1, count), least - 30, -least)
        plain = random.integers(0, 1 << (24 if of == "f32" else 53), count) * 2.0 ** (-23 if of == "f32" else -52)
        significands = np.where(random.random(count) < 0.7, random.choice(SIGNIFICANDS[of], count), plain)
        signed = np.ldexp(significands * random.choice([-1, 1], count), exponents)
        values = np.where(random.random(count) < 0.04, 0.0 * signed, signed).astype(DTYPES[of])
        drawn.append(values)
    return drawn


def exactly(values: list[np.ndarray]) -> list[tuple[Fraction, ...]]:
    return [tuple(Fraction(float(x)) for x in row) for row in zip(*values, strict=True)]


def product_sign(a: float, b: float) -> bool:
    return bool(np.signbit(a) != np.signbit(b))


def expected_sum(exact: Fraction, first: bool, second: bool, of: str, mode: str) -> float:
    """A sum, given the signs of its terms for when it is zero (IEEE 754, 6.3)."""
    if exact:
        return rounded(exact, of, mode)
    negative = first if first == second else mode == "rm"
    return -0.0 if negative else 0.0


class TestRounded:
    """The yardstick itself, against numbers rounded by hand and by Python."""

    @pytest.mark.parametrize(
        ("x", "mode", "expected"),
        [
            (Fraction(1) + Fraction(1, 2**24), "rn", 1.0),
            (Fraction(1) + Fraction(3, 2**24), "rn", 1 + 2**-22),
            (Fraction(1) + Fraction(1, 2**24), "rna", 1 + 2**-23),
            (Fraction(1) + Fraction(1, 2**60), "rp", 1 + 2**-23),
            (-Fraction(1) - Fraction(1, 2**60), "rp", -1.0),
            (-Fraction(1) - Fraction(1, 2**60), "rm", -1 - 2**-23),
            (-Fraction(1) - Fraction(1, 2**60), "rz", -1.0),
            (Fraction(2) ** 128 - Fraction(2) ** 103, "rn", inf),
            (Fraction(2) ** 128 - Fraction(2) ** 103 - 1, "rn", MAX32),
            (Fraction(2) ** 200, "rz", MAX32),
            (-(Fraction(2) ** 200), "rp", -MAX32),
            (Fraction(1, 2**150), "rn", 0.0),
            (Fraction(1, 2**150) + Fraction(1, 2**190), "rn", MIN32),
        ],
    )
    def test_f32(self, x: Fraction, mode: str, expected: float) -> None:
        assert rounded(x, "f32", mode) == expected

    def test_f64_is_pythons(self) -> None:
        random = np.random.default_rng(1)
        for bits in random.integers(1, 2**62, 200):
            x = Fraction(int(bits), 3**40) * Fraction(2) ** int(random.integers(-1120, 1000))
            try:
                expected = float(x)
            except OverflowError:
                expected = inf
            assert rounded(x, "f64") == expected


@pytest.mark.parametrize("mode", MODES)
class TestOneRounding:
    def test_add32(self, mode: str) -> None:
        a, b = hard("f32", 2, 2000, 2)
        expected = [
            expected_sum(x + y, np.signbit(p), np.signbit(q), "f32", mode)
            for (x, y), p, q in zip(exactly([a, b]), a, b, strict=True)
        ]
        assert_same(floats.add32(a, b, mode), f32(*expected))
        assert_same(floats.sub32(a, -b, mode), f32(*expected))

    def test_mul32(self, mode: str) -> None:
        a, b = hard("f32", 2, 2000, 3)
        expected = [rounded(x * y, "f32", mode) for x, y in exactly([a, b])]
        assert_same(floats.mul32(a, b, mode), np.copysign(f32(*expected), np.copysign(1, a) * np.copysign(1, b)))

    def test_fma32(self, mode: str) -> None:
        a, b, c = hard("f32", 3, 5000, 4)
        expected = [
            expected_sum(x * y + z, product_sign(p, q), np.signbit(r), "f32", mode)
            for (x, y, z), p, q, r in zip(exactly([a, b, c]), a, b, c, strict=True)
        ]
        assert_same(floats.fma32(a, b, c, mode), f32(*expected))

    def test_div32(self, mode: str) -> None:
        a, b = hard("f32", 2, 2000, 5)
        b[b == 0] = 3
        expected = f32(*(rounded(x / y, "f32", mode) for x, y in exactly([a, b])))
        assert_same(floats.div32(a, b, mode), np.copysign(expected, np.copysign(1, a) * np.copysign(1, b)))
        expected = f32(*(rounded(1 / y, "f32", mode) for _, y in exactly([a, b])))
        assert_same(floats.rcp32(b, mode), expected)

    def test_sqrt(self, mode: str) -> None:
        for of, root in (("f32", floats.sqrt32), ("f64", floats.sqrt64)):
            (a,) = hard(of, 1, 500, 6)
            a = np.abs(a)
            found = root(a, mode)
            up, down = np.nextafter(found, DTYPES[of](inf)), np.nextafter(found, DTYPES[of](-1))
            for (x,), r, above, below in zip(
                *([exactly([a])] + [y.tolist() for y in (found, up, down)]), strict=True
            ):
                value = Fraction(r)
                match mode:
                    case "rn":  # nearer than the middles to both neighbours
                        assert ((value + Fraction(above)) / 2) ** 2 > x
                        assert x == 0 or ((value + Fraction(below)) / 2) ** 2 < x
                    case "rz" | "rm":
                        assert value**2 <= x < Fraction(above) ** 2
                    case "rp":
                        assert value**2 >= x
                        assert x == 0 or Fraction(below) ** 2 < x

    def test_add64(self, mode: str) -> None:
        a, b = hard("f64", 2, 1000, 7)
        expected = [
            expected_sum(x + y, np.signbit(p), np.signbit(q), "f64", mode)
            for (x, y), p, q in zip(exactly([a, b]), a, b, strict=True)
        ]
        assert_same(floats.add64(a, b, mode), f64(*expected))
        assert_same(floats.sub64(a, -b, mode), f64(*expected))

    def test_mul64_and_div64(self, mode: str) -> None:
        a, b = hard("f64", 2, 1000, 8)
        sign = np.copysign(1, a) * np.copysign(1, b)
        expected = f64(*(rounded(x * y, "f64", mode) for x, y in exactly([a, b])))
        assert_same(floats.mul64(a, b, mode), np.copysign(expected, sign))
        b[b == 0] = 3
        sign = np.copysign(1, a) * np.copysign(1, b)
        expected = f64(*(rounded(x / y, "f64", mode) for x, y in exactly([a, b])))
        assert_same(floats.div64(a, b, mode), np.copysign(expected, sign))
        assert_same(floats.rcp64(b, mode), f64(*(rounded(1 / y, "f64", mode) for _, y in exactly([a, b]))))

    def test_fma64(self, mode: str) -> None:
        a, b, c = hard("f64", 3, 3000, 9)
        expected = [
            expected_sum(x * y + z, product_sign(p, q), np.signbit(r), "f64", mode)
            for (x, y, z), p, q, r in zip(exactly([a, b, c]), a, b, c, strict=True)
        ]
        assert_same(floats.fma64(a, b, c, mode), f64(*expected))


class TestFma:
    def test_two_roundings_would_differ(self) -> None:
        # 1 + 2^-23 + 2^-24 (1 - 2^-30): below the tie that float64 makes of it
        a, b, c = f32(2**-12 * (1 + 2**-15)), f32(2**-12 * (1 - 2**-15)), f32(1 + 2**-23)
        assert np.float32(float(a[0]) * float(b[0]) + float(c[0])) == np.float32(1 + 2**-22)
        assert_same(floats.fma32(a, b, c), f32(1 + 2**-23))

    def test_only_the_overflowing_sum_is_infinite(self) -> None:
        a, b, c = f32(2.0**127, 2.0**127), f32(2, 2), f32(-(2.0**127), 0)
        assert_same(floats.fma32(a, b, c), f32(2.0**127, inf))

    def test_of_the_greatest_numbers(self) -> None:
        largest = float(np.finfo(np.float64).max)  # 2^1024 - 2^971
        a, b = (
            f64(2.0**990, 2.0**500, 2.0**500, 2.0**1000, -(2.0**1000)),
            f64(1, 2.0**469, 2.0**470, 2.0**100, 2.0**24),
        )
        assert_same(floats.fma64(a, b, np.float64(largest)), f64(inf, largest, inf, inf, -(2.0**971)))

    def test_of_infinities_and_nan(self) -> None:
        a, b, c = f32(inf, inf, inf, 0, nan, 1), f32(1, 0, 1, 5, 1, 1), f32(1, 1, -inf, -inf, 1, nan)
        expected = [inf, nan, nan, -inf, nan, nan]
        assert_same(floats.fma32(a, b, c), f32(*expected))
        assert_same(floats.fma64(*(x.astype(np.float64) for x in (a, b, c))), f64(*expected))
        for mode in ("rz", "rm", "rp"):
            assert_same(floats.fma32(a, b, c, mode), f32(*expected))
            assert_same(floats.fma64(*(x.astype(np.float64) for x in (a, b, c)), mode), f64(*expected))

    def test_with_one_value_for_all_threads(self) -> None:
        a = f32(1, 2, 3)
        assert_same(floats.fma32(a, np.float32(2), np.float32(1)), f32(3, 5, 7))
        assert_same(floats.fma32(np.float32(2.0**-12), a, np.float32(1)), f32(1 + 2**-12, 1 + 2**-11, 1 + 3 * 2**-12))
        assert_same(floats.fma64(a.astype(np.float64), np.float64(2), np.float64(1)), f64(3, 5, 7))


class TestSpecialValues:
    def test_directed_rounding_keeps_poles_and_infinities(self) -> None:
        for mode in ("rz", "rm", "rp"):
            assert_same(floats.div64(f64(1, -1, inf, 0), f64(0, 0, 2, 0), mode), f64(inf, -inf, inf, nan))
            assert_same(floats.div32(f32(1, -1, inf, 0), f32(0, 0, 2, 0), mode), f32(inf, -inf, inf, nan))
            assert_same(floats.mul32(f32(inf, -inf), f32(2, 2), mode), f32(inf, -inf))
            assert_same(floats.add64(f64(inf, inf), f64(-1, -inf), mode), f64(inf, nan))
            assert_same(floats.sqrt64(f64(inf, -1, -0.0), mode), f64(inf, nan, -0.0))

    def test_roots(self) -> None:
        assert_same(floats.sqrt32(f32(4, -0.0, inf, -1, 2.0**-149)), f32(2, -0.0, inf, nan, 2.0**-74.5))
        assert_same(floats.sqrt32(f32(2.0**-149), ftz=True), f32(0))


class TestFlush:
    SMALL = NORMAL32 / 2

    def test_is_signed_and_leaves_the_rest(self) -> None:
        x = f32(self.SMALL, -self.SMALL, NORMAL32, -NORMAL32, 0.0, -0.0, inf, -inf, nan, 3)
        assert_same(floats.flush(x), f32(0.0, -0.0, NORMAL32, -NORMAL32, 0.0, -0.0, inf, -inf, nan, 3))

    def test_of_inputs(self) -> None:
        small, big = f32(self.SMALL), f32(2.0**30)
        assert_same(floats.mul32(small, big), f32(self.SMALL * 2**30))
        assert_same(floats.mul32(small, big, ftz=True), f32(0))
        assert_same(floats.add32(f32(1.5 * NORMAL32), small, ftz=True), f32(1.5 * NORMAL32))
        assert_same(floats.fma32(small, big, f32(1), ftz=True), f32(1))
        assert_same(floats.fma32(f32(1), f32(NORMAL32), small, ftz=True), f32(NORMAL32))
        assert_same(floats.div32(f32(1), small, ftz=True), f32(inf))
        assert_same(floats.neg32(small, ftz=True), f32(-0.0))
        assert_same(floats.abs32(-small, ftz=True), f32(0.0))
        assert_same(floats.max32(-small, f32(-1), ftz=True), f32(-0.0))
        assert_same(floats.min32(small, f32(1), ftz=True), f32(0))
        assert floats.compare(small, f32(0), "eq", ftz=True).all()
        assert not floats.compare(small, f32(0), "eq").any()

    def test_of_results(self) -> None:
        a, b = f32(NORMAL32), f32(-0.5)
        assert_same(floats.mul32(a, b), f32(-self.SMALL))
        assert_same(floats.mul32(a, b, ftz=True), f32(-0.0))
        assert_same(floats.sub32(f32(1.5 * NORMAL32), a, ftz=True), f32(0.0))
        assert_same(floats.fma32(a, b, f32(0), ftz=True), f32(-0.0))
        assert_same(floats.div32(a, f32(2), ftz=True), f32(0))
        assert_same(floats.rcp32(f32(2.0**127), ftz=True), f32(0))


def test_saturation_clamps_to_zero_and_one() -> None:
    a = f32(0.25, 2, -1, nan, -0.0, inf, -inf)
    expected = f32(0.25, 1, 0, 0, 0, 1, 0)
    assert_same(floats.add32(a, f32(0), saturate=True), expected)
    assert_same(floats.mul32(a, f32(1), saturate=True), expected)
    assert_same(floats.fma32(a, f32(1), f32(-0.0), saturate=True), expected)


class TestMinimumAndMaximum:
    A = (1, 2, -0.0, 0.0, nan, 3, nan, -inf, -2)
    B = (2, 1, 0.0, -0.0, 3, nan, nan, inf, 1)
    MINIMA = (1, 1, -0.0, -0.0, 3, 3, nan, -inf, -2)
    MAXIMA = (2, 2, 0.0, 0.0, 3, 3, nan, inf, 1)

    def test_of_f32(self) -> None:
        assert_same(floats.min32(f32(*self.A), f32(*self.B)), f32(*self.MINIMA))
        assert_same(floats.max32(f32(*self.A), f32(*self.B)), f32(*self.MAXIMA))

    def test_of_f64(self) -> None:
        assert_same(floats.min64(f64(*self.A), f64(*self.B)), f64(*self.MINIMA))
        assert_same(floats.max64(f64(*self.A), f64(*self.B)), f64(*self.MAXIMA))

    def test_nan_propagates_where_asked(self) -> None:
        for function in (floats.min32, floats.max32):
            found = function(f32(1, nan, 3, nan), f32(1, 2, -nan, nan), nan=True)
            assert found.view(np.uint32).tolist() == [0x3F800000, 0x7FFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF]
            assert function(f32(nan), f32(-nan)).view(np.uint32).tolist() == [0x7FFFFFFF]

    def test_xorsign_abs(self) -> None:
        a, b = f32(-3, -3, 2, 0.0, nan), f32(2, -2, -4, -1, -1)
        assert_same(floats.min32(a, b, xorsign_abs=True), f32(-2, 2, -2, -0.0, -1))
        assert_same(floats.max32(a, b, xorsign_abs=True), f32(-3, 3, -4, -1, -1))
        found = floats.min32(a[-1:], b[-1:], nan=True, xorsign_abs=True)
        assert found.view(np.uint32).tolist() == [0x7FFFFFFF]


def test_signs() -> None:
    assert_same(floats.neg32(f32(1, -0.0, inf)), f32(-1, 0.0, -inf))
    assert_same(floats.abs32(f32(-1, -0.0, -inf)), f32(1, 0.0, inf))
    assert_same(floats.neg64(f64(1, -0.0)), f64(-1, 0.0))
    assert_same(floats.abs64(f64(-1, -0.0)), f64(1, 0.0))
    assert_same(floats.copysign(f32(-1, 1, -0.0), f32(2, -3, 4)), f32(-2, 3, -4))


def test_testp() -> None:
    values = (1, 0.0, inf, nan, 2.0**-127)
    expected = {
        "finite": [1, 1, 0, 0, 1],
        "infinite": [0, 0, 1, 0, 0],
        "number": [1, 1, 1, 0, 1],
        "notanumber": [0, 0, 0, 1, 0],
        "normal": [1, 1, 0, 0, 0],
        "subnormal": [0, 0, 0, 0, 1],
    }
    for what, truths in expected.items():
        assert floats.testp(f32(*values), what).tolist() == [bool(x) for x in truths]
    assert floats.testp(f64(2.0**-127, 2.0**-1030), "subnormal").tolist() == [False, True]
    with pytest.raises(ValueError, match="even"):
        floats.testp(f32(1), "even")


def test_comparisons() -> None:
    """The manual's two tables: ordered comparisons are false of a NaN, unordered ones true."""
    pairs = ((1, 2), (2, 1), (1, 1), (nan, 1), (1, nan), (nan, nan), (-0.0, 0.0))
    a, b = f32(*(x for x, _ in pairs)), f32(*(y for _, y in pairs))
    ordered = {"eq": "__eq__", "ne": "__ne__", "lt": "__lt__", "le": "__le__", "gt": "__gt__", "ge": "__ge__"}
    for name, method in ordered.items():
        plain = [getattr(float(x), method)(float(y)) for x, y in pairs]
        unordered = [isnan(x) or isnan(y) for x, y in pairs]
        assert floats.compare(a, b, name).tolist() == [p and not u for p, u in zip(plain, unordered, strict=True)]
        assert floats.compare(a, b, f"{name}u").tolist() == [p or u for p, u in zip(plain, unordered, strict=True)]
    assert floats.compare(a, b, "num").tolist() == [not u for u in unordered]
    assert floats.compare(a, b, "nan").tolist() == unordered
    with pytest.raises(ValueError, match="lo"):
        floats.compare(a, b, "lo")
