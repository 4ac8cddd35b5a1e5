"""cvt, against rational numbers and against what the PTX ISA manual says of NaN, clamping and saturation."""

from collections.abc import Iterator
from fractions import Fraction
from math import ceil, floor, inf, nan, trunc

import numpy as np
import pytest

from ptx import floats
from ptx.rational import FORMATS, rounded

MODES = ["rn", "rz", "rm", "rp"]
DTYPES = {"f16": np.float16, "f32": np.float32, "f64": np.float64}
INTEGERS = [f"{kind}{bits}" for kind in "us" for bits in (8, 16, 32, 64)]
TO_WHOLE = {"rni": round, "rzi": trunc, "rmi": floor, "rpi": ceil}  # of a Fraction; round() takes ties to even


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def limits(of: str) -> tuple[int, int]:
    bits = int(of[1:])
    return (0, 2**bits - 1) if of[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def integers(of: str, *values: int) -> np.ndarray:
    return np.array(values, f"{'uint' if of[0] == 'u' else 'int'}{of[1:]}")


def held(of: str, values: list[float]) -> np.ndarray:
    """Numbers of the format as `ptx` holds them, by what the formats are."""
    if of in DTYPES:
        return np.array(values, DTYPES[of])
    bits = np.array(values, np.float32).view(np.uint32)
    assert not (bits & (0xFFFF if of == "bf16" else 0x1FFF)).any()
    return (bits >> 16).astype(np.uint16) if of == "bf16" else bits


def numbers(of: str, count: int, seed: int) -> list[float]:
    """Numbers of the format, of all magnitudes, with both zeros and with the least and the greatest."""
    random = np.random.default_rng(seed)
    precision, least, greatest = FORMATS[of]
    significands = random.integers(0, 2**precision, count) * 2.0 ** (1 - precision)
    near = random.random(count) < 0.5
    exponents = np.where(near, random.integers(-12, 13, count), random.integers(least, greatest + 1, count))
    drawn = np.ldexp(significands * random.choice([-1, 1], count), exponents)
    drawn = [rounded(Fraction(x), of, "rz") for x in drawn.tolist()]
    largest = (2 - 2.0 ** (1 - precision)) * 2.0**greatest
    return [
        *drawn,
        0.0,
        -0.0,
        largest,
        -largest,
        2.0 ** (least - precision + 1),
        0.5,
        1.5,
        2.5,
        -0.5,
        -2.5,
        0.125,
        -7,
    ]


def representable(of: str, values: list[float]) -> list[float]:
    return [x for x in values if rounded(Fraction(x), of, "rz") == x]


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype
    bits = f"u{found.dtype.itemsize}"
    unequal = found.view(bits) != expected.view(bits)
    if found.dtype.kind == "f":
        unequal &= ~(np.isnan(found) & np.isnan(expected))
    at = unequal.nonzero()
    assert not at[0].size, f"{found[at][:5]} instead of {expected[at][:5]}, at {at[0][:5]}"


class TestIntegers:
    @pytest.mark.parametrize("to", INTEGERS)
    @pytest.mark.parametrize("from_", INTEGERS)
    def test_wrap_or_saturate(self, to: str, from_: str) -> None:
        (low, high), (least, greatest) = limits(from_), limits(to)
        edges = [0, 1, 100, 127, 128, 255, 256, -1, -128, -129, low, high, least, greatest, least - 1, greatest + 1]
        values = [x for x in edges if low <= x <= high]
        x = integers(from_, *values)
        wrapped = [(v - least) % 2 ** int(to[1:]) + least for v in values]
        assert_same(floats.convert(x, to, from_), integers(to, *wrapped))
        clamped = [min(max(v, least), greatest) for v in values]
        assert_same(floats.convert(x, to, from_, saturate=True), integers(to, *clamped))

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("to", ["f16", "bf16", "f32", "f64"])
    @pytest.mark.parametrize("from_", INTEGERS)
    def test_to_floats(self, from_: str, to: str, mode: str) -> None:
        low, high = limits(from_)
        random = np.random.default_rng(1)
        shifts = random.integers(0, int(from_[1:]), 60).tolist()
        drawn = [
            int(x) >> s
            for x, s in zip(
                random.integers(low, high, 60, endpoint=True, dtype=integers(from_).dtype), shifts, strict=True
            )
        ]
        ties = [
            s * (2**n + 2**m + d)
            for n in range(8, 63)
            for m in (n - 24, n - 53)
            if m > 0
            for d in (-1, 0, 1)
            for s in (1, -1)
        ]
        values = [*(x for x in ties if low <= x <= high), *drawn, low, high, 0, 1]
        expected = [rounded(Fraction(x), to, mode) for x in values]
        assert_same(floats.convert(integers(from_, *values), to, from_, mode), held(to, expected))

    def test_saturated_floats(self) -> None:
        found = floats.convert(integers("s32", -3, 0, 1, 9), "f32", "s32", "rn", saturate=True)
        assert_same(found, held("f32", [0, 0, 1, 1]))


class TestToIntegers:
    @pytest.mark.parametrize("mode", TO_WHOLE)
    @pytest.mark.parametrize("to", INTEGERS)
    @pytest.mark.parametrize("from_", ["f16", "bf16", "f32", "f64"])
    def test_round_and_clamp(self, from_: str, to: str, mode: str) -> None:
        least, greatest = limits(to)
        edges = [float(x) for e in limits(to) for x in (e, e + 1, e - 1, e + 0.5, e - 0.5, e / 2)]
        values = [*numbers(from_, 60, 2), *representable(from_, edges)]
        expected = [min(max(TO_WHOLE[mode](Fraction(x)), least), greatest) for x in values]
        assert_same(floats.convert(held(from_, values), to, from_, mode), integers(to, *expected))
        found = floats.convert(held(from_, [inf, -inf]), to, from_, mode)
        assert_same(found, integers(to, greatest, least))

    @pytest.mark.parametrize(
        ("from_", "to", "expected"),
        [
            *((from_, to, 0) for from_ in ("f16", "bf16", "f32") for to in ("u8", "s8", "u16", "s16", "u32", "s32")),
            ("f32", "s64", -(2**63)),
            ("f32", "u64", 2**63),
            ("f16", "u64", 2**63),
            ("f64", "s64", -(2**63)),
            ("f64", "u64", 2**63),
            ("f64", "s32", -(2**31)),
            ("f64", "u32", 2**31),
            ("f64", "s16", -(2**15)),
            ("f64", "u8", 2**7),
        ],
    )
    def test_nan(self, from_: str, to: str, expected: int) -> None:
        x = np.array([0x7FC0], np.uint16) if from_ == "bf16" else np.array([nan], DTYPES[from_])
        assert_same(floats.convert(x, to, from_, "rni"), integers(to, expected))

    def test_flushed(self) -> None:
        tiny = held("f32", [2.0**-130, -(2.0**-130)])
        assert_same(floats.convert(tiny, "s32", "f32", "rpi"), integers("s32", 1, 0))
        assert_same(floats.convert(tiny, "s32", "f32", "rpi", ftz=True), integers("s32", 0, 0))
        assert_same(floats.convert(tiny, "s32", "f32", "rmi", ftz=True), integers("s32", 0, 0))


class TestFloats:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize(
        ("from_", "to"),
        [
            ("f32", "f16"),
            ("f32", "bf16"),
            ("f64", "f32"),
            ("f64", "f16"),
            ("f64", "bf16"),
            ("f16", "bf16"),
            ("bf16", "f16"),
            ("f32", "tf32"),
        ],
    )
    def test_narrower(self, from_: str, to: str, mode: str) -> None:
        precision, least, greatest = FORMATS[to]
        values = numbers(from_, 800, 3)
        grid = numbers(to, 100, 4)  # and ties, and neighbours of ties, of the format
        ulp, small = 2.0 ** (1 - precision), 2.0 ** (1 - FORMATS[from_][0])
        near = [x * (1 + d + e) for x in grid for d in (ulp / 2, -ulp / 2) for e in (0, small, -small)]
        top = 2.0 ** (greatest + 1) * (1 - ulp / 4)
        tiny = 2.0 ** (least - precision + 1)
        below = [
            (n + 0.5) * tiny * (1 + e) for n in range(4) for e in (0, 2.0**-20, -(2.0**-20), 2.0**-40, -(2.0**-40))
        ]
        values += representable(from_, [*grid, *near, *below, top, -top, 3 * top, -3 * top])
        expected = [np.copysign(rounded(Fraction(x), to, mode), x) for x in values]
        assert_same(floats.convert(held(from_, values), to, from_, mode), held(to, expected))
        for x, y in zip(values[800:], expected[800:], strict=True):  # alone too
            assert_same(floats.convert(held(from_, [x]), to, from_, mode), held(to, [y]))
        found = floats.convert(held(from_, [inf, -inf]), to, from_, mode)
        assert_same(found, held(to, [inf, -inf]))

    def test_tf32_ties_go_away_from_zero(self) -> None:
        ulp = 2.0**-10
        values = [1 + ulp / 2, 1 + 1.5 * ulp, -1 - ulp / 2, 1 + ulp / 2 - 2.0**-23, 2.0**-149, 2.0**-137, 3.4e38]
        expected = [rounded(Fraction(float(np.float32(x))), "tf32", "rna") for x in values]
        assert expected[:3] == [1 + ulp, 1 + 2 * ulp, -1 - ulp]
        assert expected[4:6] == [0, 2.0**-136]
        assert_same(floats.convert(held("f32", values), "tf32", "f32", "rna"), held("tf32", expected))

    @pytest.mark.parametrize(
        ("from_", "to"),
        [("f16", "f32"), ("bf16", "f32"), ("f16", "f64"), ("bf16", "f64"), ("f32", "f64")],
    )
    def test_wider(self, from_: str, to: str) -> None:
        values = [*numbers(from_, 500, 5), inf, -inf]
        assert_same(floats.convert(held(from_, values), to, from_), held(to, values))

    def test_nan_is_canonical(self) -> None:
        x = np.array([nan, -nan], np.float32)
        assert floats.convert(x, "bf16", "f32", "rn").tolist() == [0x7FFF, 0x7FFF]
        assert floats.convert(x, "tf32", "f32", "rna").tolist() == [0x7FFFFFFF, 0x7FFFFFFF]
        assert np.isnan(floats.convert(x, "f16", "f32", "rn")).all()
        assert np.isnan(floats.convert(np.array([0x7FC1], np.uint16), "f32", "bf16")).all()

    @pytest.mark.parametrize("mode", TO_WHOLE)
    @pytest.mark.parametrize("of", ["f16", "bf16", "f32", "f64"])
    def test_to_whole_numbers(self, of: str, mode: str) -> None:
        values = numbers(of, 300, 6)
        expected = [np.copysign(float(TO_WHOLE[mode](Fraction(x))), x) for x in values]
        assert_same(floats.convert(held(of, values), of, of, mode), held(of, expected))

    def test_flush(self) -> None:
        tiny = 2.0**-130
        assert_same(
            floats.convert(held("f32", [tiny, -tiny, 1]), "f32", "f32", ftz=True), held("f32", [0.0, -0.0, 1])
        )
        assert_same(
            floats.convert(held("f64", [tiny, -tiny]), "f32", "f64", "rn", ftz=True), held("f32", [0.0, -0.0])
        )
        assert_same(floats.convert(held("f32", [-tiny]), "f64", "f32", ftz=True), held("f64", [-0.0]))
        assert_same(floats.convert(held("bf16", [2.0**-130]), "f32", "bf16", ftz=True), held("f32", [0]))

    def test_saturation(self) -> None:
        x = held("f32", [-1, -0.0, 0.5, 7, nan])
        assert_same(floats.convert(x, "f32", "f32", saturate=True), held("f32", [0, 0, 0.5, 1, 0]))
        assert_same(floats.convert(x, "f16", "f32", "rn", saturate=True), held("f16", [0, 0, 0.5, 1, 0]))
        with pytest.raises(ValueError, match=r"cvt\.sat"):
            floats.convert(x, "bf16", "f32", "rn", saturate=True)

    def test_relu(self) -> None:
        assert_same(floats.convert(held("f32", [-0.0]), "f16", "f32", "rn", relu=True), held("f16", [0.0]))
        x = held("f32", [-1, 0.5, -inf, inf, nan])
        assert_same(floats.convert(x, "f16", "f32", "rn", relu=True), held("f16", [0, 0.5, 0, inf, nan]))
        assert floats.convert(x, "f16", "f32", "rn", relu=True).view(np.uint16)[-1] == 0x7FFF
        assert floats.convert(x, "bf16", "f32", "rn", relu=True).tolist() == [0, 0x3F00, 0, 0x7F80, 0x7FFF]
        assert floats.convert(x, "tf32", "f32", "rn", relu=True).tolist() == [
            0,
            0x3F000000,
            0,
            0x7F800000,
            0x7FFFFFFF,
        ]
        with pytest.raises(ValueError, match=r"cvt\.relu"):
            floats.convert(x, "f32", "f32", relu=True)

    def test_pairs_have_the_first_source_above(self) -> None:
        a, b = held("f32", [1, -1]), held("f32", [2, 2**-30])
        assert floats.convert_pair(a, b, "f16x2", "rn").tolist() == [0x3C004000, 0xBC000000]
        assert floats.convert_pair(a, b, "bf16x2", "rn").tolist() == [0x3F804000, 0xBF803080]
        assert floats.convert_pair(a, b, "bf16x2", "rn", relu=True).tolist() == [0x3F804000, 0x00003080]
        one = np.float32(1)
        assert floats.convert_pair(one, b, "f16x2", "rz").tolist() == [0x3C004000, 0x3C000000]


@pytest.mark.parametrize(
    ("to", "from_", "rounding"),
    [
        ("s32", "f32", None),
        ("s32", "f32", "rn"),
        ("f32", "s32", None),
        ("f32", "s32", "rzi"),
        ("f16", "f32", None),
        ("f16", "bf16", None),
        ("bf16", "f32", "rna"),
        ("f16", "f32", "rni"),
    ],
)
def test_an_impossible_rounding_is_an_error(to: str, from_: str, rounding: str | None) -> None:
    x = integers(from_, 1) if from_ in INTEGERS else held(from_, [1])
    with pytest.raises(ValueError, match=r"cvt\."):
        floats.convert(x, to, from_, rounding)


def test_the_source_is_not_the_result() -> None:
    x = held("f32", [1, 2])
    assert not np.shares_memory(floats.convert(x, "f32", "f32"), x)
